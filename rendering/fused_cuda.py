"""The GPU engine of our own: Triton kernels that read the paged scene where it lies.

A frame is five launches and two sorts: cull chunks, project the others and keep what is seen, list
that and sort it by depth, write a pair for each tile that a splat touches, sort pairs by tile
(stable, so that they stay in the order of depth), and composite each tile
(``rendering.fused_frame``). Two eyes are as many:
what looks the same to both is projected, coloured and sorted once. Its pictures are those of the
image model (``rendering.base``). Triton comes with torch's CUDA build; nothing is compiled but
these kernels, at their first use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch

from rendering.base import CancelFlag, RasterImage, RasterSettings, ScenePart, require_pair
from rendering.cancel import EventCancelFlag
from rendering.compile_ahead import CompileAhead, Kind
from rendering.cuda_faults import faults_of
from rendering.fused_draws import DrawList
from rendering.fused_pages import DevicePage, FusedPagePool, PageMemory
from rendering.gpu_trial import sample_eyes, sample_gaussian
from rendering.memory_cuda import ScratchMeter, free_cached_blocks, on_device, wait_for_device
from rendering.stopwatch_cuda import Stopwatch
from rendering.tight_memory import Rows, TightMemory
from splat.camera import Camera
from splat.errors import BackendUnavailable
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


class FusedRasterizer:
    """See the module's text.

    Args:
        device: A CUDA device; ``cpu`` under Triton's interpreter, for tests.
        tuning: Of speed.
        ahead: Have kernels compiled before they are needed (``rendering.compile_ahead``).

    Attributes:
        memory: What scenes have of the device.

    Raises:
        BackendUnavailable: If there is no such device.
    """

    name = "fused"

    def __init__(
        self, device: str = "cuda:0", tuning: Tuning = DEFAULT_TUNING, *, ahead: bool = False
    ) -> None:
        self._device = torch.device(device)
        self._tuning = tuning
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable(
                "there is no CUDA device, or no driver for it; the CPU engine is used instead"
            )
        if self._device.type != "cuda" and not INTERPRETED:
            raise BackendUnavailable("the fused GPU engine draws on CUDA devices")
        self.memory = PageMemory(self._device)
        self._scratch = ScratchMeter(self._device, lambda: self.memory.held_bytes)
        self._tight = TightMemory(self._relieve)
        is_compiled = ahead and self._device.type == "cuda"
        self._ahead = CompileAhead(self._draw_sample) if is_compiled else None

    @property
    def torch_device(self) -> str:
        """Torch's name of the device: models are evaluated there, too."""
        return str(self._device)

    @property
    def held_bytes(self) -> int:
        """What scenes take of the device's memory."""
        return self.memory.held_bytes

    @property
    def scratch_bytes(self) -> int:
        """The most that frames were seen to take beside that; 0 before the first."""
        return self._scratch.peak_bytes

    def prepare(self, gaussians: Gaussians) -> DrawList:
        """The scene in pages on the device.

        Raises:
            BudgetError: If the device has no memory for it.
        """
        return DrawList.plain(self.memory.upload(gaussians))

    def new_pool(self, page_gaussians: int, sh_degree: int) -> FusedPagePool:
        """Memory for the parts of a scene; see ``rendering.base.PagingRasterizer``."""
        return self.memory.new_pool(page_gaussians, sh_degree)

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

    @contextmanager
    def launching(self, doing: str) -> Iterator[Stopwatch]:
        """In the block kernels of others are launched, which write pages of this engine; at its end
        they are done. One that draws these pages may come from any thread.

        Yields what may take the times of them.

        Args:
            doing: What, for messages.

        Raises:
            BudgetError: If the device has no memory for it.
            DeviceLost: If it fails.
        """
        alone: AbstractContextManager[object] = _ONE_AT_A_TIME if INTERPRETED else nullcontext()
        with alone, on_device(self._device), faults_of(self._device, doing, in_use=True):
            watch = Stopwatch(self._device)
            try:
                yield watch
                watch.wait()
            except BaseException:
                wait_for_device(self._device)
                raise

    def _draw(
        self,
        scene: DevicePage | DrawList,
        eyes: Sequence[Camera],
        settings: RasterSettings,
        cancel: CancelFlag | None,
    ) -> tuple[RasterImage, ...]:
        draws = scene if isinstance(scene, DrawList) else DrawList.plain([scene])
        alone: AbstractContextManager[object] = _ONE_AT_A_TIME if INTERPRETED else nullcontext()
        doing = f"a frame of {draws.count:,} Gaussians"

        def band(rows: Rows) -> tuple[RasterImage, ...]:
            watch, how = Stopwatch(self._device), replace(settings, rows=rows)
            with faults_of(self._device, doing, in_use=True):
                return FusedFrame(
                    self._device, self._tuning, draws, eyes, how, cancel, watch
                ).draw()

        with alone, on_device(self._device):
            with faults_of(self._device, doing, in_use=True):
                self.memory.frame_begins(draws.pages)
            try:
                images = self._tight.draw(settings.rows_of(eyes[0]), band)
            except BaseException:
                # Kernels under way read pages that are let go of with the frame.
                wait_for_device(self._device)
                raise
        self._scratch.frame_drawn()
        if self._ahead is not None and draws.count > 1:  # else it is a trial
            self._ahead.begin(draws.sh_degree)
        return images

    def _draw_sample(self, kind: Kind, sh_degree: int) -> None:
        scene = DrawList.plain(self.memory.upload(sample_gaussian(sh_degree)))
        self._draw(scene, sample_eyes()[: kind.eyes], kind.settings, None)

    def _relieve(self) -> None:
        self.memory.trim()
        free_cached_blocks(self._device)
