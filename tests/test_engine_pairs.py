"""Binocular frames of the engine: two eyes that share what looks the same to both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from render_cache.reuse import ReuseLimits
from rendering.base import TRANSMITTANCE_STOP, CancelFlag, Outputs, RasterImage, RasterSettings
from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.native.cpu import NativeRasterizer
from rendering.schedule import Schedule
from splat.camera import Camera
from splat.stereo import StereoRig
from tests.engine_devices import BANDS, EYES, SHARDS, SINGLE, WAIT_S, Killed, bytes_of
from tests.scenes import random_scene

BALL = random_scene(3, 300, 1)
CLOSE = RasterSettings(
    outputs=Outputs.ALL, threads=1, reuse=ReuseLimits(0.5, math.radians(1)), transmittance_stop=0.02
)
MIDDLE = Camera.look_at((0, -0.5, -6), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=150, height=90)
LEFT, RIGHT = StereoRig(0.06).eyes(MIDDLE)


class Counting(NativeRasterizer):
    """Counts calls, and fails some.

    Attributes:
        singles, pairs: Pictures and pairs that were begun.
        failures: How many of the next pairs end the thread that draws them.
    """

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.singles = self.pairs = 0
        self.failures = failures

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        self.singles += 1
        return super().render(scene, camera, settings, cancel)

    def render_pair(
        self,
        scene: Any,
        left: Camera,
        right: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> tuple[RasterImage, RasterImage]:
        self.pairs += 1
        if self.failures:
            self.failures -= 1
            raise Killed
        return super().render_pair(scene, left, right, settings, cancel)


@pytest.fixture
def rasterizer() -> Counting:
    return Counting()


@pytest.fixture
def expected() -> tuple[RasterImage, RasterImage]:
    """Both pictures as the rasterizer draws them."""
    native = NativeRasterizer()
    return native.render_pair(native.prepare(BALL), LEFT, RIGHT, CLOSE)


def ask(engine: RenderEngine, sequence: int, *cameras: Camera, settings: RasterSettings) -> Frame:
    request = FrameRequest("a", sequence, cameras, settings, urgency=Urgency.STILL)
    return engine.submit(request).result(WAIT_S)


def test_eyes_are_drawn_at_once(
    rasterizer: Counting, expected: tuple[RasterImage, RasterImage]
) -> None:
    with RenderEngine(rasterizer, BALL) as engine:
        frame = ask(engine, 1, LEFT, RIGHT, settings=CLOSE)
    assert bytes_of(frame.images) == bytes_of(expected)
    assert (rasterizer.singles, rasterizer.pairs) == (0, 1)
    assert len(frame.stats.raster) == 2


@pytest.mark.parametrize(
    ("cameras", "settings"),
    [
        ((LEFT, RIGHT), replace(CLOSE, reuse=ReuseLimits(0, 0))),
        ((LEFT, LEFT.resized(75, 45)), CLOSE),
        ((LEFT,), CLOSE),
    ],
    ids=["exact", "no pair", "one eye"],
)
def test_others_are_drawn_alone(
    rasterizer: Counting, cameras: tuple[Camera, ...], settings: RasterSettings
) -> None:
    with RenderEngine(rasterizer, BALL) as engine:
        frame = ask(engine, 1, *cameras, settings=settings)
    native = NativeRasterizer()
    scene = native.prepare(BALL)
    alone = [native.render(scene, camera, settings) for camera in cameras]
    assert bytes_of(frame.images) == bytes_of(alone)
    assert (rasterizer.singles, rasterizer.pairs) == (len(cameras), 0)


@pytest.mark.parametrize(("schedule", "pairs"), [(BANDS, 3), (SINGLE, 1)])
def test_devices_draw_pairs_of_bands(
    schedule: Schedule, pairs: int, expected: tuple[RasterImage, RasterImage]
) -> None:
    rasterizer = Counting()
    with RenderEngine(rasterizer, BALL, devices=cpu_devices(3, 3), schedule=schedule) as engine:
        frame = ask(engine, 1, LEFT, RIGHT, settings=CLOSE)
    assert bytes_of(frame.images) == bytes_of(expected)
    assert (rasterizer.singles, rasterizer.pairs) == (0, pairs)


@pytest.mark.parametrize("schedule", [EYES, replace(SINGLE, shared=())])
def test_devices_with_an_eye_each_share_nothing(schedule: Schedule) -> None:
    rasterizer = Counting()
    with RenderEngine(rasterizer, BALL, devices=cpu_devices(2, 2), schedule=schedule) as engine:
        frame = ask(engine, 1, LEFT, RIGHT, settings=CLOSE)
    native = NativeRasterizer()
    scene = native.prepare(BALL)
    alone = [native.render(scene, camera, CLOSE) for camera in (LEFT, RIGHT)]
    assert bytes_of(frame.images) == bytes_of(alone)
    assert (rasterizer.singles, rasterizer.pairs) == (2, 0)


def test_layers_are_of_one_eye_each() -> None:
    rasterizer = Counting()
    wanted = replace(CLOSE, outputs=Outputs.COLOR, transmittance_stop=TRANSMITTANCE_STOP)
    with RenderEngine(rasterizer, BALL, devices=cpu_devices(2, 2), schedule=SHARDS) as engine:
        frame = ask(engine, 1, LEFT, RIGHT, settings=wanted)
    native = NativeRasterizer()
    scene = native.prepare(BALL)
    for eye, image in zip((LEFT, RIGHT), frame.images, strict=True):
        alone = native.render(scene, eye, wanted)
        assert image.color is not None
        assert alone.color is not None
        np.testing.assert_allclose(image.color, alone.color, atol=4 * TRANSMITTANCE_STOP)
    assert (rasterizer.singles, rasterizer.pairs) == (4, 0)


def test_a_picture_that_took_something_over_is_not_kept(rasterizer: Counting) -> None:
    with RenderEngine(rasterizer, BALL, picture_bytes=1 << 30) as engine:
        ask(engine, 1, LEFT, RIGHT, settings=CLOSE)
        assert engine.pictures.entries == 0
        alone = ask(engine, 2, RIGHT, settings=replace(CLOSE, reuse=ReuseLimits(0, 0)))
        assert engine.pictures.entries == 1
        again = ask(engine, 3, LEFT, RIGHT, settings=CLOSE)
    # The exact picture is there by now, and better than what was asked for.
    assert again.stats.reused == 1
    assert bytes_of(again.images[1:]) == bytes_of(alone.images)


def test_a_device_that_dies_amid_a_pair_loses_neither_eye(
    expected: tuple[RasterImage, RasterImage],
) -> None:
    rasterizer = Counting(failures=2)
    with RenderEngine(rasterizer, BALL, devices=cpu_devices(2, 2), schedule=BANDS) as engine:
        frame = ask(engine, 1, LEFT, RIGHT, settings=CLOSE)
    assert bytes_of(frame.images) == bytes_of(expected)
    assert rasterizer.pairs == 4
