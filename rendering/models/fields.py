"""Radiance fields drawn behind the contract of engines: NeRFs of every kind, in blocks.

*What is drawn.* The field's own picture, as its paper's evaluation draws it: samples where its
sampler puts them, whatever the size of the picture. A sample counts if its depth lies in the
camera's near to far; alpha is one minus the final transmittance, a depth that of the sample, and
the background is the settings'. A pixel takes samples while its transmittance is above
``transmittance_stop``, as it does Gaussians; one above ``TRANSMITTANCE_STOP`` asks for a quick
picture, and samplers that are free to choose take half as many samples then. A part's weight
multiplies densities, so that a block that comes is thin at first.

*Nothing depends on how it is drawn*: bands, waves, threads and what else is in memory leave every
byte as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import (
    CancelFlag,
    Outputs,
    PagingRasterizer,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from rendering.cancel import EventCancelFlag, ShareDone, raise_if_cancelled
from rendering.models.components import Components, Variant, components_for
from rendering.models.field_scene import FieldPool, FieldScene, as_scene, rows_of
from rendering.models.field_waves import WaveImage, WaveStats, draw_wave
from rendering.models.fragments import Fragments
from rendering.models.rays import pixels_of, rays_of
from rendering.models.task_threads import TaskThreads
from scene_store.models.field_bytes import rows_in_block
from splat.camera import Camera
from splat.fields import FieldModel, PagedFieldModel
from splat.gaussians import Gaussians
from splat.rows import Rows

WAVE_RAYS = 4096
WAVE_SAMPLES = 1 << 20  # known beforehand at once; what bounds a wave's memory


class FieldRasterizer:
    """Draws blocks of fields; see the module.

    Args:
        model: What the fields share.
        engine: Of the device: its threads and its memory are used.
        variant: Of the components; None for the fastest that the device has.
        skips_empty: Whether empty space is passed over. Without, all that a sampler looks at is
            evaluated; for measurements.
        wave_rays: Drawn at once by a thread.

    Attributes:
        name: The engine's, of whose pictures these may take the place.
        model: As given.
    """

    def __init__(
        self,
        model: FieldModel,
        engine: PagingRasterizer,
        *,
        variant: Variant | None = None,
        skips_empty: bool = True,
        wave_rays: int = WAVE_RAYS,
    ) -> None:
        self.name = engine.name
        self._tables = model.tables if isinstance(model, PagedFieldModel) else None
        self.model = model
        self._skips_empty = skips_empty
        self._wave_rays = wave_rays
        self._components: Components = components_for(
            str(getattr(engine, "torch_device", "cpu")), variant, threads=1
        )
        self._threads = TaskThreads("field-wave")

    def prepare(self, gaussians: Rows | Gaussians) -> FieldScene:
        """The scene of blocks that are there as a whole.

        Args:
            gaussians: Their rows, one block after the other.
        """
        contents = rows_of(gaussians)
        pool = self.new_pool(max(1, len(contents)), 0)
        parts = []
        first = 0
        while first < len(contents):
            page = pool.pack(contents[first : first + rows_in_block(contents.data[first])])
            parts.append(ScenePart(page))
            first += page.block.rows
        return self.compose(parts)

    def new_pool(self, page_gaussians: int, sh_degree: int) -> FieldPool:
        """Pages of so many rows; see ``rendering.base.PagingRasterizer``."""
        return FieldPool(
            page_gaussians, self._components, skips_empty=self._skips_empty, tables=self._tables
        )

    def compose(self, parts: Sequence[ScenePart]) -> FieldScene:
        """The blocks of some pages as one scene; a block is drawn once, whichever of its pages are
        there."""
        return FieldScene(parts)

    def new_cancel_flag(self) -> EventCancelFlag:
        """A flag for one call of ``render``, looked at between rounds of samples; it hears of
        each wave of rays."""
        return EventCancelFlag()

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``rendering.base.Rasterizer``.

        Of the statistics, ``visible`` are the rays that pass a block, ``tile_pairs`` the samples
        whose colours were evaluated; ``stage_ms`` adds up threads and divides by their number.
        """
        return self.render_among(scene, camera, settings, cancel, None)

    def render_among(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings,
        cancel: CancelFlag | None,
        fragments: Fragments | None,
    ) -> RasterImage:
        """As ``render``, with surfaces that others have drawn in its place of the picture.

        Args:
            fragments: By the pixel's index (row · width + column) in the whole picture.
        """
        if cancel is not None and not callable(getattr(cancel, "is_set", None)):
            raise TypeError(f"a {type(cancel).__name__} cannot be watched")
        fields = as_scene(scene)
        raise_if_cancelled(cancel)
        first, end = settings.rows_of(camera)
        pixels = pixels_of(camera.width, (first, end))
        waves = [
            pixels[at : at + self._rays_at_once(fields)]
            for at in range(0, len(pixels), self._rays_at_once(fields))
        ]
        canvas = _Canvas(camera.width, first, end - first)
        each = [WaveStats() for _ in waves]
        share = ShareDone(cancel, len(waves))

        def draw(number: int) -> int:
            wave = waves[number]
            image, each[number] = draw_wave(
                fields.blocks,
                rays_of(camera, wave),
                None if fragments is None else fragments.of_pixels(wave),
                settings,
                self._components,
                cancel,
            )
            canvas.put(wave, image)  # no other wave has its pixels
            share.one_more()
            return 1

        self._threads.run(len(waves), settings.threads, draw, cancel)
        threads = self._threads.threads_for(len(waves), settings.threads)
        stats = WaveStats()
        for did in each:
            stats.add(did)
        return canvas.image(settings.outputs, _stats_of(fields, stats, threads, len(waves)))

    def _rays_at_once(self, fields: FieldScene) -> int:
        most = max((each.ready.most_samples for each in fields.blocks), default=0)
        return max(64, min(self._wave_rays, WAVE_SAMPLES // max(1, most)))


def _stats_of(fields: FieldScene, stats: WaveStats, threads: int, waves: int) -> RasterStats:
    stage_ms = {stage: 1e3 * s / threads for stage, s in stats.seconds.items()}
    return RasterStats(fields.rows, stats.hit, stats.samples, stage_ms, waves, is_marched=True)


class _Canvas:
    """The images of a band, filled wave by wave."""

    def __init__(self, width: int, first: int, rows: int) -> None:
        self._offset, self._shape = first * width, (rows, width)
        size = rows * width
        self._alpha = np.zeros(size, np.float32)
        self._color = np.zeros((size, 3), np.float32)
        self._depth, self._median = np.zeros_like(self._alpha), np.zeros_like(self._alpha)
        self._count = np.zeros(size, np.int32)

    def put(self, pixels: NDArray[np.int64], image: WaveImage) -> None:
        at = pixels - self._offset
        self._alpha[at] = image.alpha
        self._color[at] = image.color.T
        self._depth[at] = image.depth
        self._median[at] = image.median_depth
        self._count[at] = image.count

    def image(self, outputs: Outputs, stats: RasterStats) -> RasterImage:
        shape = self._shape
        return RasterImage(
            self._alpha.reshape(shape),
            self._color.reshape(*shape, 3) if outputs & Outputs.COLOR else None,
            self._depth.reshape(shape) if outputs & Outputs.DEPTH else None,
            self._median.reshape(shape) if outputs & Outputs.MEDIAN_DEPTH else None,
            self._count.reshape(shape) if outputs & Outputs.COUNT else None,
            stats,
        )
