"""A rasterizer whose figures are known beforehand, for tests of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import scenes
from benchmarks.subject import Subject
from rendering.base import CancelFlag, Outputs, RasterImage, RasterSettings, RasterStats
from splat.camera import Camera
from tests.fake_rasterizer import PaintingRasterizer
from tests.scenes import random_scene

SIZE = (64, 36)


@dataclass
class SteadyRasterizer(PaintingRasterizer):
    """Blends a known number of Gaussians into each pixel in a known time."""

    pairs_per_pixel: int = 10
    composite_ms: tuple[float, ...] = (4.0, 2.0, 3.0)
    limits: tuple[float, ...] = (1e6, 5e6, 2e6)
    name: str = "steady"
    instruction_set: str = "none"
    rendered: int = 0
    calibrated: int = 0

    def render(
        self,
        scene: int,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        counted = Outputs.COUNT in settings.outputs
        # A frame that counts is slow: whoever times it gets a wrong figure.
        composite = 1e6 if counted else self.composite_ms[self.rendered % len(self.composite_ms)]
        self.rendered += not counted
        stages = {"project": 1.0, "sort": 2.0, "bin": 3.0, "composite": composite}
        stats = RasterStats(scene, scene, 50, stages)
        return self.painted(
            camera, settings.outputs, (0.5, 0.5, 0.5), count=self.pairs_per_pixel, stats=stats
        )

    def pairs_per_second_limit(self, *, threads: int = 0, repeats: int = 1) -> float:
        limit = self.limits[self.calibrated % len(self.limits)]
        self.calibrated += 1
        return limit


def ball() -> scenes.BenchmarkScene:
    """200 Gaussians and an orbit of eight cameras."""
    view = scenes.View((0, -1, -5), (0, 0, 0), (0, -1, 0), scenes.Lens(1.0, 0.1, SIZE))
    path = scenes.orbit(view, frames=8)
    return scenes.BenchmarkScene("ball", random_scene(1, 200), view, (path,))


def drawn_by(
    rasterizer: SteadyRasterizer, scene: scenes.BenchmarkScene
) -> Subject[SteadyRasterizer]:
    """The scene's first path for ``rasterizer``."""
    return Subject(scene, scene.paths[0], rasterizer, rasterizer.prepare(scene.gaussians))
