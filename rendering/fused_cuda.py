"""The GPU engine of our own: Triton kernels that read the paged scene where it lies.

A frame is three launches and two sorts: project by chunk and keep what is seen, sort that by depth,
write a pair for each tile that a splat touches, sort pairs by tile (stable, so that they stay in
the order of depth), and composite each tile. Its pictures are those of the image model
(``rendering.base``). Triton comes with torch's CUDA build; nothing is compiled but these kernels,
at their first use.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import (
    DILATION_PX2,
    CancelFlag,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from rendering.cancel import EventCancelFlag, raise_if_cancelled
from rendering.fused_pages import (
    DevicePage,
    DeviceScene,
    page_words,
    rest_rows,
    upload,
)
from splat.bounds import JACOBIAN_MARGIN, MAX_SIGMAS
from splat.camera import Camera, CameraModel
from splat.errors import BackendUnavailable, BudgetError
from splat.gaussians import MAX_SH_DEGREE, Gaussians

try:
    import triton

    from rendering.fused_kernels.bin import pair_kernel
    from rendering.fused_kernels.composite import matrix_kernel, stream_kernel
    from rendering.fused_kernels.project import SPLAT_COLUMNS, project_kernel
except ImportError as error:
    raise BackendUnavailable(
        f"the fused GPU engine needs Triton, which comes with torch for CUDA ({error}); "
        "the CPU engine is used instead"
    ) from error

TILE = 16
PAIRS_A_PROGRAM = 256
MODELS = {CameraModel.PINHOLE: 0, CameraModel.ORTHO: 1, CameraModel.FISHEYE: 2}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_ONE_AT_A_TIME = threading.Lock()  # for the interpreter, which keeps its place in globals

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What only speed depends on.

    Attributes:
        block: Gaussians that a program projects, a power of 2.
        stride: Splats that a tile takes between two looks at its transmittance, a power of 2.
        matrix: Composite by matrix products instead of splat by splat.
        warps: Of a program that composites a tile.
    """

    block: int = 128
    stride: int = 16
    matrix: bool = False
    warps: int = 4


def camera_vector(camera: Camera) -> Doubles:
    """[CAMERA_COLUMNS] of ``project_kernel``."""
    R, t, K = camera.viewmat[:3, :3], camera.viewmat[:3, 3], camera.K
    sides = np.array([camera.width, camera.height], np.float64)
    focal, centre = K[[0, 1], [0, 1]], K[:2, 2]
    position = -R.T @ t
    position_hi = position.astype(np.float32).astype(np.float64)
    margin = JACOBIAN_MARGIN * 0.5 * sides / focal
    rim_px = MAX_SIGMAS * math.sqrt(DILATION_PX2) + 1.0
    # Right and bottom, left and top.
    limits = np.stack([(sides - centre) / focal + margin, centre / focal + margin], axis=1)
    reaches = np.stack([(sides - centre + rim_px) / focal, (centre + rim_px) / focal], axis=1)
    stretch = np.hypot(1.0, reaches.max(axis=1) + margin)
    if camera.model is CameraModel.ORTHO:
        stretch = np.ones(2)
    slack = 1e-5 * np.abs(position).sum()
    numbers = (
        R.ravel(),
        t[2],
        position,
        position_hi,
        position - position_hi,
        focal,
        centre,
        limits.ravel(),
        (camera.near, camera.far),
        sides,
        reaches.ravel(),
        MAX_SIGMAS * stretch,
        slack,
    )
    return np.concatenate([np.atleast_1d(part) for part in numbers]).astype(np.float64)


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

    def __init__(self, device: str = "cuda:0", tuning: Tuning = Tuning()) -> None:
        self._device = torch.device(device)
        self._tuning = tuning
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable(
                "there is no CUDA device, or no driver for it; the CPU engine is used instead"
            )
        if self._device.type != "cuda" and not INTERPRETED:
            raise BackendUnavailable("the fused GPU engine draws on CUDA devices")

    def prepare(self, gaussians: Gaussians) -> DeviceScene:
        """The scene in pages on the device.

        Raises:
            BudgetError: If the device has no memory for it.
        """
        return DeviceScene(upload(gaussians, self._device))

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
        scene: DeviceScene | DrawList,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``rendering.base.Rasterizer``.

        Raises:
            BudgetError: If the device has no memory for what lies between the stages.
        """
        draws = scene if isinstance(scene, DrawList) else DrawList.of([ScenePart(scene)])
        alone: AbstractContextManager[object] = _ONE_AT_A_TIME if INTERPRETED else nullcontext()
        try:
            with alone:
                return _Frame(self._device, self._tuning, draws, camera, settings, cancel).draw()
        except torch.OutOfMemoryError as error:
            raise BudgetError(
                f"{self._device} has no memory for a frame of {draws.count:,} Gaussians; draw "
                "fewer, or leave it more by a smaller device budget"
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class DrawList:
    """Pages to draw together, in this order.

    Attributes:
        pages: Kept for as long as the list is.
        chunks: [n, 4] int32: Gaussians, index of the first, rows of harmonics, room of the page.
        looks: [n, 5] float32: log2 of the weight, tint, its share.
        count: Gaussians.
    """

    pages: tuple[DevicePage, ...]
    chunks: NDArray[np.int32]
    looks: NDArray[np.float32]
    count: int

    @classmethod
    def of(cls, parts: Sequence[ScenePart]) -> DrawList:
        """Of pages and whole scenes."""
        pages: list[DevicePage] = []
        chunks: list[tuple[int, int, int, int]] = []
        looks: list[tuple[float, ...]] = []
        count = 0
        for part in parts:
            look = (math.log2(part.weight), *part.tint, part.tint_share)
            for page in part.scene.pages if isinstance(part.scene, DeviceScene) else (part.scene,):
                pages.append(page)
                chunks.append((page.count, count, rest_rows(page.sh_degree), page.room))
                looks.append(look)
                count += page.count
        return cls(
            tuple(pages),
            np.array(chunks, np.int32).reshape(-1, 4),
            np.array(looks, np.float32).reshape(-1, 5),
            count,
        )


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


class _Frame:
    """A frame in the making."""

    def __init__(
        self,
        device: torch.device,
        tuning: Tuning,
        draws: DrawList,
        camera: Camera,
        settings: RasterSettings,
        cancel: CancelFlag | None,
    ) -> None:
        self._device, self._tuning, self._draws = device, tuning, draws
        self._camera, self._settings, self._cancel = camera, settings, cancel
        self._rows = settings.rows_of(camera)
        self._columns = -(-camera.width // TILE)
        self._first_tile_row = self._rows[0] // TILE
        self._tile_rows = -(-self._rows[1] // TILE) - self._first_tile_row
        self._watch = _Stopwatch(device)

    def draw(self) -> RasterImage:
        """All stages."""
        self._pause("begin")
        splats, keys, counts, visible = self._project()
        self._pause("project")
        pair_splats, ends, pairs = self._bin(splats, keys, counts, visible)
        self._pause("sort")
        targets = self._composite(splats, pair_splats, ends)
        self._watch.mark("composite")
        images = [target.cpu().numpy() for target in targets]  # waits for the device
        raise_if_cancelled(self._cancel)
        stats = RasterStats(self._draws.count, visible, pairs, self._watch.stage_ms())
        return self._image(images, stats)

    def _pause(self, stage: str) -> None:
        """A stage ends."""
        raise_if_cancelled(self._cancel)
        self._watch.mark(stage)

    def _empty(self, shape: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _send(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _project(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """Splats, their keys by depth, their tiles, and how many there are."""
        draws, settings = self._draws, self._settings
        capacity = max(1, draws.count)
        splats = self._empty((capacity, int(SPLAT_COLUMNS.value)), torch.float32)
        keys = self._empty(capacity, torch.int64)
        counts = self._empty(capacity, torch.int32)
        if not draws.count:
            return splats, keys, counts, 0
        counter = torch.zeros(1, dtype=torch.int32, device=self._device)
        most = MAX_SH_DEGREE if settings.sh_degree is None else settings.sh_degree
        kept_px2, block = settings.kept_dilation_px2, self._tuning.block
        project_kernel[(len(draws.pages), triton.cdiv(int(draws.chunks[:, 0].max()), block))](
            self._send(np.array([page.address for page in draws.pages], np.int64)),
            self._send(draws.chunks),
            self._send(draws.looks),
            self._send(camera_vector(self._camera)),
            kept_px2,
            float(self._rows[0]),
            float(self._rows[1] - 1),
            splats,
            keys,
            counts,
            counter,
            DEGREE=min(most, max(page.sh_degree for page in draws.pages)),
            MODEL=MODELS[self._camera.model],
            COMPENSATE=kept_px2 < DILATION_PX2,
            BLOCK=block,
            TILE=TILE,
        )
        return splats, keys, counts, int(counter.item())

    def _bin(
        self, splats: Tensor, keys: Tensor, counts: Tensor, visible: int
    ) -> tuple[Tensor, Tensor, int]:
        """Splats by tile, front to back; where each tile's end; and how many pairs there are."""
        tiles = self._columns * self._tile_rows
        if not visible:
            ends = torch.zeros(tiles, dtype=torch.int64, device=self._device)
            return self._empty(1, torch.int32), ends, 0
        order = torch.sort(keys[:visible]).indices
        pair_ends = counts[:visible].to(torch.int64)[order].cumsum(0)
        pairs = int(pair_ends[-1])
        raise_if_cancelled(self._cancel)
        pair_tiles, pair_splats = (self._empty(pairs, torch.int32) for _ in range(2))
        pair_kernel[(triton.cdiv(pairs, PAIRS_A_PROGRAM),)](
            splats,
            order,
            pair_ends,
            pairs,
            visible,
            pair_tiles,
            pair_splats,
            self._columns,
            self._first_tile_row,
            STEPS=visible.bit_length(),
            BLOCK=PAIRS_A_PROGRAM,
            TILE=TILE,
        )
        by_tile = torch.sort(pair_tiles, stable=True)
        every = torch.arange(tiles, dtype=torch.int32, device=self._device)
        ends = torch.searchsorted(by_tile.values, every, right=True)
        return pair_splats[by_tile.indices], ends, pairs

    def _composite(self, splats: Tensor, pair_splats: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
        """Colour, alpha, depth, median depth, count; one word where not wanted."""
        outputs, size = self._settings.outputs, (self._rows[1] - self._rows[0], self._camera.width)
        both = bool(outputs & (Outputs.MEDIAN_DEPTH | Outputs.COUNT))
        targets = (
            self._empty((*size, 3) if Outputs.COLOR in outputs else 1, torch.float32),
            self._empty(size, torch.float32),
            self._empty(size if Outputs.DEPTH in outputs else 1, torch.float32),
            self._empty(size if both else 1, torch.float32),
            self._empty(size if both else 1, torch.int32),
        )
        kernel = matrix_kernel if self._tuning.matrix else stream_kernel
        kernel[(self._columns * self._tile_rows,)](
            splats,
            pair_splats,
            ends,
            *targets,
            self._send(np.array(self._settings.background, np.float32)),
            self._camera.width,
            self._rows[0],
            self._rows[1],
            self._columns,
            self._settings.transmittance_stop,
            WITH_COLOR=Outputs.COLOR in outputs,
            WITH_DEPTH=Outputs.DEPTH in outputs,
            WITH_ALL=both,
            STRIDE=self._tuning.stride,
            TILE=TILE,
            num_warps=self._tuning.warps,
        )
        return targets

    def _image(self, images: Sequence[NDArray[np.generic]], stats: RasterStats) -> RasterImage:
        color, alpha, depth, median, count = images
        outputs = self._settings.outputs
        return RasterImage(
            alpha=alpha,  # type: ignore[arg-type]
            color=color if Outputs.COLOR in outputs else None,  # type: ignore[arg-type]
            depth=depth if Outputs.DEPTH in outputs else None,  # type: ignore[arg-type]
            median_depth=median if Outputs.MEDIAN_DEPTH in outputs else None,  # type: ignore[arg-type]
            count=count if Outputs.COUNT in outputs else None,  # type: ignore[arg-type]
            stats=stats,
        )
