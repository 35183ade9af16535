"""A frame in the making on a GPU: the launches of its kernels, for one eye or for two at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import (
    DILATION_PX2,
    TILE_PX,
    TRANSMITTANCE_STOP,
    CancelFlag,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
)
from rendering.cancel import raise_if_cancelled
from rendering.fused_camera import MODELS, camera_vector
from rendering.fused_draws import DrawList
from rendering.fused_kernels.bin import gather_kernel, pair_kernel
from rendering.fused_kernels.chunk_box import cull_kernel
from rendering.fused_kernels.composite import matrix_kernel, stream_kernel
from rendering.fused_kernels.layout import SPLAT_COLUMNS
from rendering.fused_kernels.project import project_kernel
from rendering.fused_kernels.project_pair import project_pair_kernel
from rendering.stopwatch_cuda import Stopwatch
from splat.camera import Camera
from splat.errors import BudgetError
from splat.gaussians import MAX_SH_DEGREE

PAIRS_A_PROGRAM = 256
CHUNKS_A_PROGRAM = 128
MOST_INT16 = 32767
MOST_PAIRS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Tuning:
    """What only speed depends on, and the last bits of colours.

    Attributes:
        block: Gaussians that a program projects, a power of 2.
        project_warps: Of such a program.
        tile: Pixels of a side of a tile, a power of 2 that divides ``TILE_PX``.
        stride: Splats that a tile takes between two looks at its transmittance, a power of 2.
        matrix: Composite by matrix products instead of splat by splat.
        warps: Of a program that composites a tile. One has the whole tile to itself: what its
            threads read of a splat they read once for all of their pixels, and no thread waits
            for another.
        half_colors: Keep colours of approximate pictures (``RasterSettings.transmittance_stop``)
            in half precision, 1/2048 of them at most: a splat is half as long to read.

    Raises:
        ValueError: If the side of a tile is none.
    """

    block: int = 128
    project_warps: int = 4
    tile: int = 16
    stride: int = 16
    matrix: bool = False
    warps: int = 1
    half_colors: bool = True

    def __post_init__(self) -> None:
        if self.tile not in (8, 16, TILE_PX):
            raise ValueError(f"a tile has 8, 16 or {TILE_PX} pixels a side, not {self.tile}")


@dataclass(frozen=True, slots=True, eq=False)
class _Projected:
    """The splats of a frame.

    Attributes:
        splats: [capacity, SPLAT_COLUMNS], with gaps.
        tiles: [capacity] that each touches, of all eyes.
        depths: [n] bits of the depths of those that are there, in the order of the Gaussians.
        places: [n] where they are.
    """

    splats: Tensor
    tiles: Tensor
    depths: Tensor
    places: Tensor

    @property
    def count(self) -> int:
        """Splats that are there."""
        return len(self.places)


class FusedFrame:
    """One request's pictures.

    Args:
        device: Where.
        tuning: Of speed.
        draws: What.
        eyes: From where: one camera, or two that are a pair (``splat.stereo.is_pair``).
        settings: How.
        cancel: Looked at between launches.
        watch: Takes the times.
    """

    def __init__(
        self,
        device: torch.device,
        tuning: Tuning,
        draws: DrawList,
        eyes: Sequence[Camera],
        settings: RasterSettings,
        cancel: CancelFlag | None,
        watch: Stopwatch,
    ) -> None:
        self._device, self._tuning, self._draws = device, tuning, draws
        self._eyes, self._settings = tuple(eyes), settings
        self._cancel, self._watch = cancel, watch
        self._first, self._end = settings.rows_of(eyes[0])
        self._width, self._tile = eyes[0].width, tuning.tile
        self._columns = -(-self._width // self._tile)
        self._first_tile_row = self._first // self._tile
        tile_rows = -(-self._end // self._tile) - self._first_tile_row
        self._tiles = self._columns * tile_rows
        self._half = tuning.half_colors and settings.transmittance_stop > TRANSMITTANCE_STOP

    def draw(self) -> tuple[RasterImage, ...]:
        """A picture an eye.

        Raises:
            RenderCancelled: If the flag was set.
        """
        self._pause("begin")
        projected = self._project()
        self._pause("project")
        pair_splats, ends, pairs = self._bin(projected)
        self._pause("sort")
        targets = self._composite(projected.splats, pair_splats, ends)
        self._watch.mark("composite")
        self._watch.wait()
        raise_if_cancelled(self._cancel)
        images = {name: _to_host(target) for name, target in targets.items()}
        raise_if_cancelled(self._cancel)
        return self._images(images, self._stats(projected.count, pairs))

    def _pause(self, stage: str) -> None:
        """A stage ends."""
        raise_if_cancelled(self._cancel)
        self._watch.mark(stage)

    def _empty(self, shape: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _send(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _project(self) -> _Projected:
        draws, settings, tuning = self._draws, self._settings, self._tuning
        capacity = max(1, len(self._eyes) * draws.count)
        splats = self._empty((capacity, int(SPLAT_COLUMNS.value)), torch.float32)
        depths, tiles = (self._empty(capacity, torch.int32) for _ in range(2))
        if not draws.count:
            return _Projected(splats, tiles, depths[:0], depths[:0])
        grid = (len(draws.pages), triton.cdiv(draws.largest, tuning.block))
        written = torch.zeros(grid, dtype=torch.int32, device=self._device)
        most = MAX_SH_DEGREE if settings.sh_degree is None else settings.sh_degree
        degree, kept_px2 = min(most, draws.sh_degree), settings.kept_dilation_px2
        cameras = [self._send(camera_vector(eye)) for eye in self._eyes]
        arguments = (
            *draws.on(self._device),
            self._seen(cameras),
            cameras[0],
            kept_px2,
            float(self._first),
            float(self._end - 1),
            splats,
            depths,
            tiles,
            written,
        )
        options = {
            "DEGREE": degree,
            "COMPENSATE": kept_px2 < DILATION_PX2,
            "HALF": self._half,
            "BLOCK": tuning.block,
            "TILE": tuning.tile,
            "num_warps": tuning.project_warps,
            "enable_fp_fusion": False,
        }
        if len(self._eyes) == 1:
            project_kernel[grid](*arguments, MODEL=MODELS[self._eyes[0].model], **options)
        else:
            drift_px, nearest = self._limits(degree)
            project_pair_kernel[grid](*arguments, cameras[1], drift_px, nearest, **options)
        return _Projected(splats, tiles, *self._listed(depths, written))

    def _seen(self, cameras: Sequence[Tensor]) -> Tensor:
        """Which chunks an eye may see any of."""
        count = len(self._draws.pages)
        seen = self._empty(count, torch.int32)
        cull_kernel[(triton.cdiv(count, CHUNKS_A_PROGRAM),)](
            self._draws.on(self._device)[0],
            count,
            cameras[0],
            cameras[-1],
            seen,
            MODEL=MODELS[self._eyes[0].model],
            EYES=len(cameras),
            BLOCK=CHUNKS_A_PROGRAM,
        )
        return seen

    def _listed(self, depths: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Depths and places of what programs wrote, without gaps."""
        ends = written.view(-1).cumsum(0)
        visible = int(ends[-1])
        list_depths, list_places = (self._empty(visible, torch.int32) for _ in range(2))
        gather_kernel[tuple(written.shape)](
            self._draws.on(self._device)[1],
            depths,
            written,
            ends,
            list_depths,
            list_places,
            EYES=len(self._eyes),
            BLOCK=self._tuning.block,
        )
        return list_depths, list_places

    def _limits(self, degree: int) -> tuple[float, float]:
        """How far outlines of what eyes share may be off, and how near it may be to them."""
        left, right = self._eyes
        apart = abs(float(left.viewmat[0, 3] - right.viewmat[0, 3]))
        sine = math.sin(min(self._settings.reuse.angle_rad, 0.5 * math.pi))
        return self._settings.reuse.drift_px, apart / sine if degree else 0.0

    def _bin(self, projected: _Projected) -> tuple[Tensor, Tensor, int]:
        """Splats by tile, front to back; where each tile's end; and how many pairs there are."""
        tiles, visible = len(self._eyes) * self._tiles, projected.count
        if not visible:
            ends = torch.zeros(tiles, dtype=torch.int64, device=self._device)
            return self._empty(1, torch.int32), ends, 0
        # Stable, so that equal depths stay in the order of the Gaussians.
        order = projected.places[torch.sort(projected.depths, stable=True).indices]
        pair_ends = projected.tiles[order].cumsum(0)
        pairs = int(pair_ends[-1])
        if pairs > MOST_PAIRS:
            raise BudgetError(
                f"{pairs:,} pairs of splats and tiles are more than are sorted at once; draw a "
                "smaller picture, or less detail"
            )
        raise_if_cancelled(self._cancel)
        # The sort goes by bytes: two of them, where that is enough.
        word = torch.int16 if tiles <= MOST_INT16 else torch.int32
        pair_tiles, pair_splats = self._empty(pairs, word), self._empty(pairs, torch.int32)
        pair_kernel[(triton.cdiv(pairs, PAIRS_A_PROGRAM),)](
            projected.splats,
            order,
            pair_ends,
            pairs,
            visible,
            visible.bit_length(),
            pair_tiles,
            pair_splats,
            self._columns,
            self._first_tile_row,
            self._tiles,
            EYES=len(self._eyes),
            BLOCK=PAIRS_A_PROGRAM,
            TILE=self._tile,
            enable_fp_fusion=False,  # it finds the tiles that were counted when projecting
        )
        by_tile = torch.sort(pair_tiles, stable=True)
        every = torch.arange(tiles, dtype=word, device=self._device)
        ends = torch.searchsorted(by_tile.values, every, right=True)
        return pair_splats[by_tile.indices], ends, pairs

    def _composite(self, splats: Tensor, pair_splats: Tensor, ends: Tensor) -> dict[str, Tensor]:
        """The images that are wanted, of all eyes."""
        outputs = self._settings.outputs
        size = (len(self._eyes), self._end - self._first, self._width)
        both = bool(outputs & (Outputs.MEDIAN_DEPTH | Outputs.COUNT))
        wanted = {
            "color": (Outputs.COLOR in outputs, (*size, 3), torch.float32),
            "alpha": (True, size, torch.float32),
            "depth": (Outputs.DEPTH in outputs, size, torch.float32),
            "median_depth": (both, size, torch.float32),
            "count": (both, size, torch.int32),
        }
        targets = {
            name: self._empty(shape if drawn else 1, dtype)
            for name, (drawn, shape, dtype) in wanted.items()
        }
        kernel = matrix_kernel if self._tuning.matrix else stream_kernel
        kernel[(len(self._eyes) * self._tiles,)](
            splats,
            pair_splats,
            ends,
            *targets.values(),
            *map(float, self._settings.background),
            self._width,
            self._first,
            self._end,
            self._columns,
            self._tiles,
            self._settings.transmittance_stop,
            WITH_COLOR=Outputs.COLOR in outputs,
            WITH_DEPTH=Outputs.DEPTH in outputs,
            WITH_ALL=both,
            HALF=self._half,
            EYES=len(self._eyes),
            STRIDE=self._tuning.stride,
            TILE=self._tile,
            ROWS_A_PASS=max(1, min(self._tile, 32 * self._tuning.warps // self._tile)),
            num_warps=self._tuning.warps,
            enable_fp_fusion=self._tuning.matrix,
        )
        asked = {"median_depth": Outputs.MEDIAN_DEPTH, "count": Outputs.COUNT}
        return {
            name: target
            for name, target in targets.items()
            if wanted[name][0] and (name not in asked or asked[name] in outputs)
        }

    def _stats(self, visible: int, pairs: int) -> RasterStats:
        """Of each eye: times and pairs add up to those of all."""
        eyes = len(self._eyes)
        stage_ms = {stage: ms / eyes for stage, ms in self._watch.stage_ms().items()}
        return RasterStats(self._draws.count, visible, pairs // eyes, stage_ms)

    def _images(
        self, images: dict[str, NDArray[np.generic]], stats: RasterStats
    ) -> tuple[RasterImage, ...]:
        eyes: list[RasterImage] = []
        for eye in range(len(self._eyes)):
            arrays = {name: image[eye] for name, image in images.items()}
            eyes.append(RasterImage(**arrays, stats=replace(stats)))
        return tuple(eyes)


def _to_host(image: Tensor) -> NDArray[np.generic]:
    """A picture in host memory. Of a GPU it is pinned memory, so that it comes at the pace of the
    bus; torch keeps it for the next picture. The copy is waited for, and so leaves no event behind
    that could fail when the memory goes after the device was lost."""
    if image.device.type == "cpu":
        return image.numpy()
    there = torch.empty(image.shape, dtype=image.dtype, pin_memory=True)
    there.copy_(image)
    return there.numpy()
