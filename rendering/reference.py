"""The truth that every rasterizer is held to: float64, slow, written to be read.

It follows the image model of ``rendering.base`` step by step and shares no code with the
engines that are tested against it: steps 1 and 2 are ``rendering.reference_project``, 3 and 4
``rendering.reference_blend``. What it does for speed is only what a reader can see: pixels are
taken in square tiles, and a tile looks only at Gaussians whose bounding box touches it, a few
hundred at a time, so that memory stays bounded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import (
    ALPHA_CUT,
    CancelFlag,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from rendering.cancel import EventCancelFlag, raise_if_cancelled
from rendering.reference_blend import Canvas, composite, layers_of, tiles_of
from rendering.reference_pair import project_second
from rendering.reference_project import ProjectedReference, ReferenceScene, project
from splat.camera import Camera
from splat.gaussians import Gaussians


@dataclass(frozen=True, slots=True, eq=False)
class EdgeMasks:
    """Pixels where a rounding error may flip a decision of the image model; [H, W] bool.

    Attributes:
        cut: Some Gaussian's alpha is very near ALPHA_CUT.
        stop: The transmittance before some Gaussian is very near the stop.
        half: The transmittance behind some Gaussian is very near 0.5, where the median
            depth jumps.
    """

    cut: NDArray[np.bool_]
    stop: NDArray[np.bool_]
    half: NDArray[np.bool_]


class ReferencePagePool:
    """Pages in host memory; see ``rendering.base.PagePool``."""

    def __init__(self, rasterizer: ReferenceRasterizer, page_gaussians: int, sh_degree: int):
        self._rasterizer = rasterizer
        self._page_gaussians = page_gaussians
        self.page_bytes = page_gaussians * 8 * (11 + 3 * (sh_degree + 1) ** 2)

    def pack(self, gaussians: Gaussians) -> ReferenceScene:
        """Gaussians in a page of their own."""
        if len(gaussians) > self._page_gaussians:
            raise ValueError("more Gaussians than fit a page")
        return self._rasterizer.prepare(gaussians)

    def pack_many(
        self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1
    ) -> list[ReferenceScene]:
        """Rows of Gaussians in pages of their own."""
        return [self.pack(gaussians[first : first + count]) for first, count in rows.tolist()]

    def keep_free(self, pages: int) -> None:
        """Nothing is held."""


class ReferenceRasterizer:
    """A ``Rasterizer`` in float64 torch on the CPU. It ignores ``RasterSettings.threads``."""

    name = "reference"

    def prepare(self, gaussians: Gaussians) -> ReferenceScene:
        """Copy the scene to float64."""
        return ReferenceScene(
            *(
                torch.from_numpy(array.astype(np.float64))
                for array in (
                    gaussians.means,
                    gaussians.quats,
                    gaussians.scales,
                    gaussians.opacities,
                    gaussians.sh,
                )
            )
        )

    def new_pool(self, page_gaussians: int, sh_degree: int) -> ReferencePagePool:
        """Memory for the parts of a scene; see ``PagingRasterizer``."""
        return ReferencePagePool(self, page_gaussians, sh_degree)

    def compose(self, parts: Sequence[ScenePart]) -> ReferenceScene:
        """Parts to draw together; see ``PagingRasterizer``. Tints are not drawn."""
        if not parts:
            return self.prepare(Gaussians.empty())
        bases = max(part.scene.sh.shape[1] for part in parts)
        scenes = [_weighted(part.scene, part.weight, bases) for part in parts]
        return ReferenceScene(
            *(torch.cat([getattr(s, f.name) for s in scenes]) for f in fields(ReferenceScene))
        )

    def new_cancel_flag(self) -> EventCancelFlag:
        """A flag for one call of ``render``."""
        return EventCancelFlag()

    def render(
        self,
        scene: ReferenceScene,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``Rasterizer.render``."""
        start_s = time.perf_counter()
        raise_if_cancelled(cancel)
        projected = project(scene, camera, settings)
        return _drawn(projected, len(scene), camera, settings, cancel, start_s)

    def render_pair(
        self,
        scene: ReferenceScene,
        left: Camera,
        right: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> tuple[RasterImage, RasterImage]:
        """Draw ``scene`` for two eyes; see ``PairRasterizer.render_pair``."""
        start_s = time.perf_counter()
        raise_if_cancelled(cancel)
        projected = project_second(scene, left, right, settings)
        second = _drawn(projected, len(scene), right, settings, cancel, start_s)
        return self.render(scene, left, settings, cancel), second


def _drawn(
    projected: ProjectedReference,
    gaussians: int,
    camera: Camera,
    settings: RasterSettings,
    cancel: CancelFlag | None,
    start_s: float,
) -> RasterImage:
    """The image of what was projected, of so many Gaussians, since ``start_s``."""
    rows = settings.rows_of(camera)
    projected_s = time.perf_counter()
    canvas = Canvas(camera.height, camera.width)
    pairs = 0
    for tile in tiles_of(camera, projected):
        raise_if_cancelled(cancel)
        pairs += len(tile.gaussians)
        composite(tile, settings, canvas)
    raise_if_cancelled(cancel)
    end_s = time.perf_counter()
    stats = RasterStats(
        gaussians=gaussians,
        visible=len(projected),
        tile_pairs=pairs,
        stage_ms={
            "project": 1e3 * (projected_s - start_s),
            "composite": 1e3 * (end_s - projected_s),
        },
    )
    return canvas.image(settings.outputs, stats).rows(*rows)


def edge_masks(
    scene: ReferenceScene,
    camera: Camera,
    settings: RasterSettings = RasterSettings(),
    *,
    projected: ProjectedReference | None = None,
    alpha_band: float = 1e-3,
    transmittance_band: float = 1e-2,
) -> EdgeMasks:
    """Where a float32 rasterizer may rightly differ from this one.

    Alpha jumps from 1/255 to 0 at the rim of a Gaussian; there the last bit of a float32
    decides. The bands are relative: 1e-3 of alpha is 1e-4 px at the steepest rim, which is
    what float32 holds of a coordinate of a thousand pixels; the transmittance is a product
    of many factors, hence its wider band. What is ``projected`` otherwise than by ``project``, as
    for a second eye, may be given.
    """
    if projected is None:
        projected = project(scene, camera, settings)
    cut, stop, half = (torch.zeros(camera.height, camera.width, dtype=torch.bool) for _ in range(3))
    least = settings.transmittance_stop
    for tile in tiles_of(camera, projected):
        for layer in layers_of(tile, least):
            # A pixel that is past the stop by more than the band takes nothing any more.
            live = layer.before > least * (1 - transmittance_band)
            live &= layer.alpha >= ALPHA_CUT * (1 - alpha_band)
            near_cut = live & _near(layer.alpha, ALPHA_CUT, alpha_band)
            near_stop = live & _near(layer.before, least, transmittance_band)
            near_half = live & _near(layer.after, 0.5, transmittance_band)
            for mask, near in ((cut, near_cut), (stop, near_stop), (half, near_half)):
                mask[tile.rows, tile.columns] |= near.any(dim=0).reshape(tile.shape)
    return EdgeMasks(cut.numpy(), stop.numpy(), half.numpy())


def edge_mask(
    scene: ReferenceScene, camera: Camera, settings: RasterSettings = RasterSettings()
) -> NDArray[np.bool_]:
    """[H, W] bool: the pixels of ``edge_masks`` that matter to colour, alpha and count."""
    masks = edge_masks(scene, camera, settings)
    return masks.cut | masks.stop


def _near(values: Tensor, target: float, band: float) -> Tensor:
    return (values / target - 1).abs() < band


def _weighted(scene: ReferenceScene, weight: float, bases: int) -> ReferenceScene:
    """The scene with all opacities multiplied, and zeros for the harmonics it lacks."""
    sh = torch.zeros(len(scene), bases, 3, dtype=torch.float64)
    sh[:, : scene.sh.shape[1]] = scene.sh
    return ReferenceScene(scene.means, scene.quats, scene.scales, scene.opacities * weight, sh)
