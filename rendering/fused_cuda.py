"""The GPU engine of our own: Triton kernels that read the paged scene where it lies.

A frame is three launches and two sorts: project by chunk and keep what is seen, sort that by depth,
write a pair for each tile that a splat touches, sort pairs by tile (stable, so that they stay in
the order of depth), and composite each tile (``rendering.fused_frame``). Two eyes are as many:
what looks the same to both is projected, coloured and sorted once. Its pictures are those of the
image model (``rendering.base``). Triton comes with torch's CUDA build; nothing is compiled but
these kernels, at their first use.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from rendering.base import CancelFlag, RasterImage, RasterSettings, ScenePart, require_pair
from rendering.cancel import EventCancelFlag
from rendering.fused_draws import DrawList
from rendering.fused_pages import DevicePage, page_words, upload
from splat.camera import Camera
from splat.errors import BackendUnavailable, BudgetError
from splat.gaussians import Gaussians

try:
    from rendering.fused_frame import FusedFrame, Tuning
except ImportError as error:
    raise BackendUnavailable(
        f"the fused GPU engine needs Triton, which comes with torch for CUDA ({error}); "
        "the CPU engine is used instead"
    ) from error

__all__ = ["DrawList", "FusedPagePool", "FusedRasterizer", "Tuning"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEFAULT_TUNING = Tuning()
_ONE_AT_A_TIME = threading.Lock()  # for the interpreter, which keeps its place in globals


class FusedPagePool:
    """Pages in a device's memory; see ``rendering.base.PagePool``."""

    def __init__(self, device: torch.device, page_gaussians: int, sh_degree: int) -> None:
        self._device, self._room = device, page_gaussians + page_gaussians % 2
        self._page_gaussians, self._sh_degree = page_gaussians, sh_degree

    @property
    def page_bytes(self) -> int:
        """Memory that one page takes."""
        return 4 * page_words(self._sh_degree, self._room)

    def pack(self, gaussians: Gaussians) -> DevicePage:
        """Gaussians in a page of their own; see ``rendering.base.PagePool``."""
        if len(gaussians) > self._page_gaussians:
            raise ValueError("more Gaussians than fit a page")
        pages = upload(gaussians, self._device, self._room)
        return pages[0] if pages else self._empty()

    def pack_many(self, gaussians: Gaussians, rows: NDArray[np.int64]) -> Sequence[DevicePage]:
        """Rows of Gaussians in pages of their own; see ``rendering.base.PagePool``."""
        if (rows[:, 1] > self._page_gaussians).any():
            raise ValueError("more Gaussians than fit a page")
        return [self.pack(gaussians[slice(first, first + count)]) for first, count in rows.tolist()]

    def keep_free(self, pages: int) -> None:
        """Torch's allocator keeps what was freed for the next pages."""

    def _empty(self) -> DevicePage:
        return DevicePage(torch.zeros(self._room, device=self._device), 0, self._room, 0)


class FusedRasterizer:
    """See the module's text.

    Args:
        device: A CUDA device; ``cpu`` under Triton's interpreter, for tests.
        tuning: Of speed.

    Raises:
        BackendUnavailable: If there is no such device.
    """

    name = "fused"

    def __init__(self, device: str = "cuda:0", tuning: Tuning = DEFAULT_TUNING) -> None:
        self._device = torch.device(device)
        self._tuning = tuning
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable(
                "there is no CUDA device, or no driver for it; the CPU engine is used instead"
            )
        if self._device.type != "cuda" and not INTERPRETED:
            raise BackendUnavailable("the fused GPU engine draws on CUDA devices")

    def prepare(self, gaussians: Gaussians) -> DrawList:
        """The scene in pages on the device.

        Raises:
            BudgetError: If the device has no memory for it.
        """
        return DrawList.plain(upload(gaussians, self._device))

    def new_pool(self, page_gaussians: int, sh_degree: int) -> FusedPagePool:
        """Memory for the parts of a scene; see ``rendering.base.PagingRasterizer``."""
        return FusedPagePool(self._device, page_gaussians, sh_degree)

    def compose(self, parts: Sequence[ScenePart]) -> DrawList:
        """Parts to draw together; see ``rendering.base.PagingRasterizer``."""
        return DrawList.of(parts)

    def new_cancel_flag(self) -> EventCancelFlag:
        """A flag for one call of ``render``; it is looked at between launches."""
        return EventCancelFlag()

    def render(
        self,
        scene: DevicePage | DrawList,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``rendering.base.Rasterizer``.

        Raises:
            BudgetError: If the device has no memory for what lies between the stages.
        """
        return self._draw(scene, (camera,), settings, cancel)[0]

    def render_pair(
        self,
        scene: DevicePage | DrawList,
        left: Camera,
        right: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> tuple[RasterImage, RasterImage]:
        """Draw ``scene`` for two eyes; see ``rendering.base.PairRasterizer``.

        Raises:
            BudgetError: As ``render``.
        """
        require_pair(left, right, settings)
        first, second = self._draw(scene, (left, right), settings, cancel)
        return first, second

    def _draw(
        self,
        scene: DevicePage | DrawList,
        eyes: Sequence[Camera],
        settings: RasterSettings,
        cancel: CancelFlag | None,
    ) -> tuple[RasterImage, ...]:
        draws = scene if isinstance(scene, DrawList) else DrawList.plain([scene])
        alone: AbstractContextManager[object] = _ONE_AT_A_TIME if INTERPRETED else nullcontext()
        frame = FusedFrame(
            self._device, self._tuning, draws, eyes, settings, cancel, _Stopwatch(self._device)
        )
        try:
            with alone:
                return frame.draw()
        except torch.OutOfMemoryError as error:
            raise BudgetError(
                f"{self._device} has no memory for a frame of {draws.count:,} Gaussians; draw "
                "fewer, or leave it more by a smaller device budget"
            ) from error


@dataclass(slots=True, eq=False)
class _Stopwatch:
    """Milliseconds of stages, on the device's own clock."""

    device: torch.device
    marks: list[tuple[str, object]] = field(default_factory=list)

    def mark(self, stage: str) -> None:
        """A stage ends here."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((stage, event))
        else:
            self.marks.append((stage, time.perf_counter()))

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            event.synchronize()

    def stage_ms(self) -> dict[str, float]:
        """By stage, of all but the first mark."""
        times: dict[str, float] = {}
        for (_, before), (stage, after) in zip(self.marks, self.marks[1:], strict=False):
            if isinstance(before, float) and isinstance(after, float):
                took = 1e3 * (after - before)
            else:
                took = before.elapsed_time(after)  # type: ignore[attr-defined]
            times[stage] = times.get(stage, 0.0) + took
        return times
