"""Several browsers in motion on devices that are too slow for all: quality gives way, not rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rendering.base import CancelFlag, RasterImage, RasterSettings, RasterStats
from rendering.device import cpu_devices
from rendering.elastic import ElasticPolicy
from rendering.engine import RenderEngine
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS
from tests.fake_rasterizer import PaintingRasterizer
from viewer.images import UInt8Array
from viewer.pacing import PacingPolicy
from viewer.pose import Pose
from viewer.session import Session, ViewOptions

WAIT_S = 10.0
CANVAS = (512, 256)
NEARLY_FULL = 0.85 * CANVAS[0]  # what else the machine does costs a little
LOOKING = np.array([0.0, 1.0, 0.0, 0.0])
POLICY = PacingPolicy(target_fps=20, refine_delay_s=0.3, max_side=512, min_scale=0.25)


class PacedRasterizer(PaintingRasterizer):
    """Takes a time for every pixel, and none of the processor.

    Attributes:
        full_s: What a picture of the whole canvas takes.
    """

    name = "paced"

    def __init__(self, full_s: float) -> None:
        self.full_s = full_s

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        first, end = settings.rows_of(camera)
        pixels = camera.width * (end - first)
        time.sleep(self.full_s * pixels / (CANVAS[0] * CANVAS[1]))
        stats = RasterStats(1, 1, pixels, {"composite": 1.0})
        image = self.painted(camera, settings.outputs, (0.5, 0.5, 0.5), count=1, stats=stats)
        if (first, end) == (0, camera.height):
            return image
        cut = {
            name: None if value is None else value[first:end]
            for name in ("color", "depth", "count")
            for value in [getattr(image, name)]
        }
        return RasterImage(image.alpha[first:end], stats=stats, **cut)


class Screen:
    """Counts what it is shown."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def show(self, rgb: UInt8Array, jpeg_quality: int) -> None:
        self.widths.append(rgb.shape[1])

    def acknowledge(self, on_done: Any) -> None:
        on_done()


class Crowd:
    """Browsers that look at one engine."""

    def __init__(self, engine: RenderEngine, count: int) -> None:
        self.screens = [Screen() for _ in range(count)]
        self.sessions = [
            Session(f"browser {i}", engine, screen, POLICY, ViewOptions(near=0.1))
            for i, screen in enumerate(self.screens)
        ]
        for session in self.sessions:
            session.start()

    def move(self, seconds: float, moving: Sequence[Session]) -> list[list[int]]:
        """The widths of the pictures that each screen was shown meanwhile."""
        before = [len(screen.widths) for screen in self.screens]
        end_s, step = time.monotonic() + seconds, 0
        while time.monotonic() < end_s:
            step += 1
            for session in moving:
                session.look(Pose(LOOKING, np.array([step / 1e3, 0.0, 1.0]), 1.0, CANVAS))
            time.sleep(0.01)
        return [s.widths[n:] for s, n in zip(self.screens, before, strict=True)]

    def move_until(self, is_so: Callable[[], bool], moving: Sequence[Session]) -> None:
        """For so long: what else the machine does takes its time from them, for a while."""
        deadline_s = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < deadline_s
            self.move(0.2, moving)

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        for session in self.sessions:
            assert session.join(WAIT_S)


def test_pictures_get_smaller_when_others_come_and_large_again_when_they_leave() -> None:
    """Full pictures would come at 20 a second and more to one, and at 5.5 to each of five."""
    with RenderEngine(PacedRasterizer(0.036), Gaussians.empty()) as engine:
        crowd = Crowd(engine, 5)
        first, seen = crowd.sessions[:1], crowd.screens[0].widths

        def is_full() -> bool:
            return seen[-1] >= NEARLY_FULL and engine.load.wanted <= 1

        try:
            crowd.move(2.0, first)
            crowd.move_until(is_full, first)
            crowd.move(1.5, crowd.sessions)
            load = engine.load
            assert load.overloaded and load.wanted > 1.5 * load.capacity
            assert 0.15 < engine.share_of("browser 0") < 0.35
            together = crowd.move(2.0, crowd.sessions)
            for widths in together:
                assert len(widths) >= 2.0 * 12, "of 20 a second; full ones would be 5.5"
                assert 0.3 * CANVAS[0] <= np.median(widths) <= 0.65 * CANVAS[0]
            crowd.move(1.5, first)  # the others sharpen, and rest
            crowd.move_until(is_full, first)
            assert len(crowd.move(1.0, first)[0]) >= 10
        finally:
            crowd.close()


def test_quality_has_a_floor() -> None:
    with RenderEngine(PacedRasterizer(2.0), Gaussians.empty()) as engine:
        crowd = Crowd(engine, 2)
        try:
            shown = crowd.move(4.0, crowd.sessions)
        finally:
            crowd.close()
    for widths in shown:
        assert widths, "nobody is dropped"
        assert 1.0 <= widths[-1] / (POLICY.min_scale * CANVAS[0]) < 1.2, "as small as is of use"


def test_devices_join_before_quality_gives_way() -> None:
    """A picture that takes one device 90 ms is drawn by two or more, in full, 20 times a second;
    when it takes a third of that, they leave."""
    policy = ElasticPolicy(target_fps=20, most=6, grow_after=4, shrink_after=12)
    rasterizer = PacedRasterizer(0.09)
    with RenderEngine(
        rasterizer, Gaussians.empty(), devices=cpu_devices(6, 6), schedule=BANDS, elastic=policy
    ) as engine:
        crowd = Crowd(engine, 1)
        try:
            crowd.move(3.0, crowd.sessions)
            used = sum(device.in_use for device in engine.devices)
            assert 2 <= used <= 4
            widths = crowd.move(1.0, crowd.sessions)[0]
            assert np.median(widths) >= 0.9 * CANVAS[0]
            assert engine.decision is not None and not engine.decision.overloaded
            rasterizer.full_s = 0.02
            crowd.move(3.0, crowd.sessions)
            assert [device.in_use for device in engine.devices] == [True] + 5 * [False]
        finally:
            crowd.close()
