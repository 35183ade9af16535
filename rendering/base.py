"""What a rasterizer takes and gives: the contract that every engine keeps.

The image model (``docs/conventions.md``) is the same for all of them, so any two may
be compared pixel by pixel:

1. A Gaussian is drawn if ``near <= depth <= far`` (``Camera``) and its opacity is at
   least ``ALPHA_CUT``. Depth is the view depth z of its mean; for a fisheye camera, which
   also sees sideways, it is the distance of the mean, and means further than
   ``FISHEYE_MAX_THETA_RAD`` from the axis are not drawn. Everything below that says depth
   means this number, computed in float64 and rounded once to float32.
2. Its screen covariance is ``J W Σ Wᵀ Jᵀ + DILATION_PX2 · I`` (EWA, Zwicker et al. 2001).
   For a pinhole camera J is linearized at most 0.3 · tan(fov / 2) beyond the image's edge,
   as in gsplat: further out the linearization would blow Gaussians up.
   With ``antialiased`` its opacity is scaled by ``sqrt(det before / det after)`` (Mip-
   Splatting), which compensates the dilation. In a picture of lower ``resolution`` r, whose
   pixels are larger, a dilation by ``r² · DILATION_PX2`` is as large as in the full picture;
   the rest is compensated in the same way, so that both are equally bright.
3. At a pixel centre ``alpha = min(ALPHA_MAX, opacity · exp(−½ dᵀ Σ⁻¹ d))``; contributions
   with ``alpha < ALPHA_CUT`` are skipped.
4. Front to back by depth (ties by index), a pixel takes a Gaussian only while its
   transmittance is still above ``TRANSMITTANCE_STOP``. Asked to stop earlier, a pixel that does
   counts as opaque: its colour is divided by its alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from render_cache.reuse import NO_REUSE, ReuseLimits
from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.stereo import is_pair

DILATION_PX2 = 0.3
ALPHA_CUT = 1.0 / 255.0
ALPHA_MAX = 0.999
TRANSMITTANCE_STOP = 1e-4
TILE_PX = 32  # parts of an image that are drawn on their own begin at multiples of this
FISHEYE_MAX_THETA_RAD = math.radians(145.0)  # from the optical axis, as in Fisheye-GS


class Outputs(Flag):
    """The images one pass may produce beside alpha, which is always there."""

    COLOR = auto()
    DEPTH = auto()
    MEDIAN_DEPTH = auto()
    COUNT = auto()
    ALL = COLOR | DEPTH | MEDIAN_DEPTH | COUNT


@dataclass(frozen=True, slots=True)
class RasterSettings:
    """How to draw, apart from where from.

    Attributes:
        background: Linear blend target behind everything, RGB in [0, 1].
        antialiased: Compensate the opacity for the dilation (image model, step 2).
        resolution: In (0, 1]: pixels per side, of those of the full picture that this one
            stands for.
        sh_degree: Highest SH degree evaluated; None for all the scene holds.
        outputs: Which images are wanted.
        transmittance_stop: In [``TRANSMITTANCE_STOP``, 0.5): pixels at or below it take no more
            (image model, step 4). No pixel is further than that, times the range of the
            colours, from the exact one; mostly it is a hundredth of it.
        reuse: How far off what a second eye takes over from the first may be
            (``PairRasterizer``); 0 for exact pictures.
        threads: Threads to use; 0 for one a core.
        rows: First and end of the rows of pixels to draw, multiples of ``TILE_PX`` (the end may
            be the image's): bands of one picture may be drawn by several devices, and are
            the same bytes as in the whole. The images have these rows alone. None for all.

    Raises:
        ValueError: If the resolution or the stop is out of range, or the rows are none.
    """

    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    antialiased: bool = False
    resolution: float = 1.0
    sh_degree: int | None = None
    outputs: Outputs = Outputs.COLOR
    transmittance_stop: float = TRANSMITTANCE_STOP
    reuse: ReuseLimits = NO_REUSE
    threads: int = 0
    rows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.rows is not None:
            first, end = self.rows
            if first % TILE_PX or not 0 <= first < end:
                raise ValueError(f"rows must begin at a multiple of {TILE_PX}, got {self.rows}")
        if not 0 < self.resolution <= 1:
            raise ValueError(f"resolution must be above 0 and at most 1, got {self.resolution}")
        if not TRANSMITTANCE_STOP <= self.transmittance_stop < 0.5:
            raise ValueError(
                f"the stop must be {TRANSMITTANCE_STOP} to 0.5, got {self.transmittance_stop}"
            )

    def rows_of(self, camera: Camera) -> tuple[int, int]:
        """First and end of the rows to draw of a camera's image.

        Raises:
            ValueError: If the image has no such rows, or they end amid tiles.
        """
        first, end = self.rows or (0, camera.height)
        if end > camera.height or (end % TILE_PX and end != camera.height):
            raise ValueError(f"rows {first} to {end} are no band of {camera.height} rows")
        return first, end

    @property
    def kept_dilation_px2(self) -> float:
        """Of the dilation, what opacities are not compensated for, square pixels."""
        return 0.0 if self.antialiased else DILATION_PX2 * self.resolution**2


@dataclass(frozen=True, slots=True)
class RasterStats:
    """What one render cost and did.

    Attributes:
        gaussians: Gaussians in the scene.
        visible: Gaussians that survived projection.
        tile_pairs: (Gaussian, tile) pairs after exact tile tests.
        stage_ms: Wall-clock milliseconds by stage: project, sort, bin, composite.
        parts: Parts that the image was drawn in, one after the other; more than one where
            memory is tight.
        record_bytes: Most memory taken at once for (Gaussian, tile) pairs; 0 if not counted.
        is_marched: Whether rays were marched, and no Gaussians drawn: ``visible`` are the rays that
            met something, ``tile_pairs`` the samples whose colours were evaluated.
    """

    gaussians: int = 0
    visible: int = 0
    tile_pairs: int = 0
    stage_ms: dict[str, float] = field(default_factory=dict)
    parts: int = 1
    record_bytes: int = 0
    is_marched: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RasterImage:
    """The images of one view; those not asked for are None.

    Attributes:
        alpha: [H, W] float32, one minus the final transmittance.
        color: [H, W, 3] float32, composited over the background, not clamped above 1.
        depth: [H, W] float32, expected depth ``Σ w z / Σ w``; 0 where alpha is 0.
        median_depth: [H, W] float32, depth of the first Gaussian at which the
            transmittance falls to 0.5 or below; 0 where it never does.
        count: [H, W] int32, Gaussians blended into the pixel.
        stats: What it cost.
    """

    alpha: NDArray[np.float32]
    color: NDArray[np.float32] | None = None
    depth: NDArray[np.float32] | None = None
    median_depth: NDArray[np.float32] | None = None
    count: NDArray[np.int32] | None = None
    stats: RasterStats = field(default_factory=RasterStats)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The images that are there."""
        return tuple(array for array in self._images().values() if array is not None)

    def rows(self, first: int, end: int) -> RasterImage:
        """Some rows of it, as views."""
        parts: dict[str, Any] = {
            name: None if array is None else array[first:end]
            for name, array in self._images().items()
        }
        return replace(self, **parts)

    @staticmethod
    def stack(bands: Sequence[RasterImage], stats: RasterStats) -> RasterImage:
        """One image of bands of its rows, top to bottom, all of the same images."""
        parts = [band._images() for band in bands]
        whole: dict[str, Any] = {
            name: None if first is None else np.concatenate([part[name] for part in parts])
            for name, first in parts[0].items()
        }
        return RasterImage(**whole, stats=stats)

    def _images(self) -> dict[str, Any]:
        names = ("alpha", "color", "depth", "median_depth", "count")
        return {name: getattr(self, name) for name in names}


class CancelFlag(Protocol):
    """Set from any thread to abandon a render in progress."""

    def set(self) -> None:
        """Ask the render that holds this flag to stop; it raises RenderCancelled."""

    def is_set(self) -> bool:
        """Whether somebody asked."""


class Rasterizer(Protocol):
    """Draws Gaussians. Safe to call from several threads at once."""

    name: str

    def prepare(self, gaussians: Gaussians) -> Any:
        """Bring a scene into the form this engine draws from (opaque to the caller).

        The prepared scene keeps no reference to ``gaussians``.
        """

    def new_cancel_flag(self) -> CancelFlag:
        """A flag for one call of ``render``, of the kind that this engine can watch."""

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene`` as prepared by this rasterizer.

        Raises:
            RenderCancelled: If ``cancel`` was set before the image was complete.
            BudgetError: If there is not enough memory; the rasterizer can go on.
            TypeError: If ``cancel`` is of a kind that this engine cannot watch; a flag is
                never ignored.
        """


@runtime_checkable
class PairRasterizer(Rasterizer, Protocol):
    """An engine that draws two eyes at once for less than each alone."""

    def render_pair(
        self,
        scene: Any,
        left: Camera,
        right: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> tuple[RasterImage, RasterImage]:
        """Draw ``scene`` for two eyes of a ``StereoRig`` (``is_pair``).

        The left picture is that of ``render``, to the byte. In the right one a Gaussian whose
        outline and direction differ between the eyes by no more than ``settings.reuse`` has the
        left one's conic, colour and opacity; its mean and depth are its own. The statistics of
        both are the same; times and tile pairs are halved, so that they add up.

        Raises:
            RenderCancelled, BudgetError, TypeError: As ``render``.
            ValueError: If the cameras are no pair, or nothing may be reused.
        """


def require_pair(left: Camera, right: Camera, settings: RasterSettings) -> None:
    """What ``PairRasterizer.render_pair`` asks of its arguments.

    Raises:
        ValueError: If the cameras are no pair, or nothing may be reused.
    """
    if not is_pair(left, right):
        raise ValueError("only two pinhole cameras side by side are drawn as a pair")
    if not settings.reuse.drift_px > 0 < settings.reuse.angle_rad:
        raise ValueError("a pair needs limits above 0 for what its eyes share")


@dataclass(frozen=True, slots=True, eq=False)
class ScenePart:
    """Prepared Gaussians as one frame draws them beside others.

    Attributes:
        scene: From ``prepare`` or ``PagePool.pack`` of the engine that draws.
        weight: In (0, 1]; multiplies every opacity. Below 1 while a part fades in or out.
        tint: RGB that takes the place of the colours by ``tint_share``, to tell parts apart.
        tint_share: In [0, 1].
    """

    scene: Any
    weight: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tint_share: float = 0.0


class PagePool(Protocol):
    """Device memory for Gaussians that come and go: pages of one size, so none is lost to gaps.

    Safe to call from several threads at once.
    """

    @property
    def page_bytes(self) -> int:
        """Memory that one page takes, however full it is."""

    def pack(self, contents: Any, /) -> Any:
        """Gaussians, or what else the engine draws, in a page of their own, fit for
        ``ScenePart.scene``.

        The page returns to the pool when the last reference to the result is gone; a frame
        that draws it holds one.

        Raises:
            BudgetError: If the memory is not to be had.
            ValueError: If they are more than a page holds.
        """

    def pack_many(
        self, contents: Any, rows: NDArray[np.int64], /, threads: int = 1
    ) -> Sequence[Any]:
        """As ``pack``, for many pages at once: all of them, or none.

        Args:
            contents: Those of all pages.
            rows: [P, 2] first row and number of rows of each page.
            threads: That may write them; one, as loaders do while frames are drawn.
        """

    def keep_free(self, pages: int) -> None:
        """Hold at most so many unused pages; the others' memory goes back to the system."""


class PagingRasterizer(Rasterizer, Protocol):
    """An engine that draws scenes of which only parts are in its memory."""

    def new_pool(self, page_gaussians: int, sh_degree: int) -> PagePool:
        """A pool of pages for ``page_gaussians`` of up to ``sh_degree`` each."""

    def compose(self, parts: Sequence[ScenePart]) -> Any:
        """The parts as one scene for ``render``: the picture is that of all their Gaussians
        together, equal depths drawn in the order of the list."""
