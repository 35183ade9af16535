"""The CPU engine: the contract of ``rendering/base.py`` over the native kernels.

Everything that costs time happens in C++ without the interpreter lock; any number of
threads may render at once, of the same or of different scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rendering.base import (
    CancelFlag,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from splat.camera import Camera, CameraModel
from splat.errors import BackendUnavailable, BudgetError, RenderCancelled
from splat.gaussians import MAX_SH_DEGREE, Gaussians

try:
    from rendering.native import _native
except ImportError as error:  # not built, or built for another Python
    raise BackendUnavailable(
        f"the native engine is not built for this Python ({error}); run: make setup"
    ) from error

DEFAULT_RECORD_BUDGET_BYTES = 384 << 20  # enough for four million visible splats
MAX_THREADS: int = _native.MAX_THREADS

_MODEL_CODES = {CameraModel.PINHOLE: 0, CameraModel.ORTHO: 1, CameraModel.FISHEYE: 2}

Scalar = TypeVar("Scalar", np.float32, np.int32)
_Array = NDArray[np.float32]
_Images = tuple[_Array, _Array | None, _Array | None, _Array | None, NDArray[np.int32] | None]
_FiveArrays = tuple[_Array, _Array, _Array, _Array, _Array]


@dataclass(frozen=True, slots=True, eq=False)
class ProjectedGaussians:
    """The M Gaussians that survive projection, in scene order.

    Attributes:
        index: [M] uint32, position in the scene.
        means2d: [M, 2] pixels.
        depths: [M] sort keys: view depth z (distance to the camera for FISHEYE).
        conics: [M, 3] inverse screen covariance (xx, xy, yy), pixels⁻².
        colors: [M, 3] shaded, not below 0.
        opacities: [M] after antialiasing compensation.
        extents: [M, 2] half size of the box in which alpha reaches the cut, pixels.
    """

    index: NDArray[np.uint32]
    means2d: NDArray[np.float32]
    depths: NDArray[np.float32]
    conics: NDArray[np.float32]
    colors: NDArray[np.float32]
    opacities: NDArray[np.float32]
    extents: NDArray[np.float32]


class NativePagePool:
    """Pages in host memory; see ``rendering.base.PagePool``."""

    def __init__(self, page_gaussians: int, sh_degree: int) -> None:
        self._pool = _native.PagePool(page_gaussians, sh_degree)

    @property
    def page_bytes(self) -> int:
        """Memory that one page takes."""
        return self._pool.page_bytes

    @property
    def pages_in_use(self) -> int:
        """Pages that hold Gaussians."""
        return self._pool.pages_in_use

    def keep_free(self, pages: int) -> None:
        """Hold at most so many unused pages."""
        self._pool.keep_free(pages)

    def pack(self, gaussians: Gaussians) -> _native.PackedPage:
        """Gaussians in a page of their own; see ``rendering.base.PagePool``.

        On one thread: loaders pack while frames are drawn.
        """
        try:
            return self._pool.pack(*_arrays(gaussians), 1)
        except MemoryError as error:
            raise BudgetError("not enough memory for another page of Gaussians") from error

    def pack_many(
        self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1
    ) -> Sequence[_native.PackedPage]:
        """Rows of Gaussians in pages of their own; see ``rendering.base.PagePool``."""
        try:
            return self._pool.pack_many(*gaussians.arrays, rows, threads)
        except MemoryError as error:
            raise BudgetError("not enough memory for another page of Gaussians") from error


class NativeRasterizer:
    """SIMD rasterizer; see ``rendering/native/src/composite.h`` for how it works.

    Args:
        instruction_set: One of ``instruction_sets()``; None for the best there is.
        record_budget_bytes: Memory that one frame may use to sort splats into tiles, all
            threads together. A frame that needs more is drawn in parts: same picture, more
            time. It is exceeded where the records of a single tile alone are more, and if it
            is below 2 MiB and 24 bytes a tile and thread.

    Raises:
        BackendUnavailable: If this processor lacks the instruction set.
    """

    name = "native"

    def __init__(
        self,
        instruction_set: str | None = None,
        *,
        record_budget_bytes: int = DEFAULT_RECORD_BUDGET_BYTES,
    ) -> None:
        available = instruction_sets()
        if instruction_set is not None and instruction_set not in available:
            raise BackendUnavailable(
                f"this processor does not run '{instruction_set}' kernels; "
                f"available: {', '.join(available)}"
            )
        self.instruction_set = instruction_set or available[0]
        self.record_budget_bytes = record_budget_bytes

    def prepare(self, gaussians: Gaussians) -> _native.PackedScene:
        """The scene in the engine's packed layout, SH beyond degree 0 in 16 bits.

        Raises:
            BudgetError: If the memory for it is not to be had.
        """
        try:
            return _native.pack_scene(*_arrays(gaussians), 0)
        except MemoryError as error:
            raise BudgetError(
                f"not enough memory to prepare {len(gaussians):,} Gaussians for drawing; "
                "use a smaller scene"
            ) from error

    def new_pool(self, page_gaussians: int, sh_degree: int) -> NativePagePool:
        """Memory for the parts of a scene; see ``rendering.base.PagingRasterizer``."""
        return NativePagePool(page_gaussians, sh_degree)

    def compose(self, parts: Sequence[ScenePart]) -> _native.DrawList:
        """Parts to draw together; see ``rendering.base.PagingRasterizer``."""
        return _native.DrawList([(p.scene, p.weight, p.tint, p.tint_share) for p in parts])

    def new_cancel_flag(self) -> _native.CancelFlag:
        """A flag for one call of ``render``; setting it stops between tiles."""
        return _native.CancelFlag()

    def render(
        self,
        scene: _native.PackedGaussians | _native.DrawList,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``rendering.base.Rasterizer``.

        Raises:
            BudgetError: If the memory for the picture, or for the records of one of its
                tiles, is not to be had.
            TypeError: If ``cancel`` is not from ``new_cancel_flag``: native code could not
                see it being set.
        """
        try:
            return self._render(_listed(scene), camera, settings, _own_flag(cancel))[0]
        except MemoryError as error:
            raise BudgetError(
                "not enough memory to draw a picture of this size; draw a smaller one"
            ) from error

    def render_pair(
        self,
        scene: _native.PackedGaussians | _native.DrawList,
        left: Camera,
        right: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> tuple[RasterImage, RasterImage]:
        """Draw ``scene`` for two eyes; see ``rendering.base.PairRasterizer``.

        Raises:
            BudgetError, TypeError: As ``render``.
        """
        try:
            first, second = self._render(_listed(scene), left, settings, _own_flag(cancel), right)
        except MemoryError as error:
            raise BudgetError(
                "not enough memory to draw two pictures of this size; draw smaller ones"
            ) from error
        return first, second

    def _render(
        self,
        scene: _native.DrawList,
        camera: Camera,
        settings: RasterSettings,
        cancel: _native.CancelFlag,
        other: Camera | None = None,
    ) -> tuple[RasterImage, ...]:
        rows = settings.rows_of(camera)
        eyes = [_empty(eye, settings.outputs) for eye in (camera, other) if eye is not None]
        second = None
        if other is not None:
            angle = math.sin(min(settings.reuse.angle_rad, 0.5 * math.pi))
            second = (camera_params(other), settings.reuse.drift_px, angle, _images(eyes[1]))
        stats = _native.render(
            scene,
            camera_params(camera),
            cancel,
            self.instruction_set,
            background=settings.background,
            transmittance_stop=settings.transmittance_stop,
            kept_dilation_px2=settings.kept_dilation_px2,
            sh_degree=_degree(settings),
            threads=settings.threads,
            record_budget_bytes=self.record_budget_bytes,
            rows=rows,
            images=_images(eyes[0]),
            second=second,
        )
        if stats is None:
            raise RenderCancelled("a newer request replaced this frame")
        stage_ms = {
            "project": stats.project_ms,
            "sort": stats.sort_ms,
            "bin": stats.bin_ms,
            "composite": stats.composite_ms,
        }
        raster_stats = RasterStats(
            scene.count,
            stats.visible,
            stats.tile_pairs // len(eyes),
            {stage: ms / len(eyes) for stage, ms in stage_ms.items()},
            stats.parts,
            stats.record_bytes,
        )
        # Rows that were not drawn were not touched, and so take no memory.
        return tuple(replace(eye, stats=raster_stats).rows(*rows) for eye in eyes)

    def project(
        self,
        scene: _native.PackedGaussians | _native.DrawList,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
    ) -> ProjectedGaussians:
        """The first stage alone, for tests and tools."""
        return ProjectedGaussians(
            *_native.project(
                _listed(scene),
                camera_params(camera),
                self.instruction_set,
                kept_dilation_px2=settings.kept_dilation_px2,
                sh_degree=_degree(settings),
            )
        )

    def pairs_per_second_limit(self, *, threads: int = 0, repeats: int = 20_000) -> float:
        """(pixel, Gaussian) pairs a second that the blending arithmetic alone allows.

        Measured on splats that stay in L1 and cover their block of pixels entirely, with
        the very loop that draws frames, on all threads: the machine's own limit.
        """
        return _native.pairs_per_second_limit(self.instruction_set, threads, repeats)


def instruction_sets() -> tuple[str, ...]:
    """Names of the kernels that this processor runs, best first."""
    return tuple(_native.instruction_sets())


def _empty(camera: Camera, outputs: Outputs) -> RasterImage:
    """Images to draw into, those that are wanted."""
    shape = (camera.height, camera.width)

    def empty(wanted: Outputs, dtype: type[Scalar], *channels: int) -> NDArray[Scalar] | None:
        return np.empty(shape + channels, dtype) if wanted & outputs else None

    return RasterImage(
        np.empty(shape, np.float32),
        empty(Outputs.COLOR, np.float32, 3),
        empty(Outputs.DEPTH, np.float32),
        empty(Outputs.MEDIAN_DEPTH, np.float32),
        empty(Outputs.COUNT, np.int32),
    )


def _images(image: RasterImage) -> _Images:
    return image.alpha, image.color, image.depth, image.median_depth, image.count


def _arrays(gaussians: Gaussians) -> _FiveArrays:
    return (
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh,
    )


def _listed(scene: _native.PackedGaussians | _native.DrawList) -> _native.DrawList:
    if isinstance(scene, _native.DrawList):
        return scene
    return _native.DrawList([(scene, 1.0, (0.0, 0.0, 0.0), 0.0)])


def camera_params(camera: Camera) -> _native.CameraParams:
    """A camera as native code takes it."""
    return _native.camera_params(
        camera.viewmat,
        camera.K,
        camera.width,
        camera.height,
        camera.near,
        camera.far,
        _MODEL_CODES[camera.model],
    )


def _own_flag(cancel: CancelFlag | None) -> _native.CancelFlag:
    if cancel is None:
        return _native.CancelFlag()
    if not isinstance(cancel, _native.CancelFlag):
        raise TypeError(
            f"the native engine cannot watch a {type(cancel).__name__}; "
            "use a flag of NativeRasterizer.new_cancel_flag()"
        )
    return cancel


def _degree(settings: RasterSettings) -> int:
    return MAX_SH_DEGREE if settings.sh_degree is None else settings.sh_degree
