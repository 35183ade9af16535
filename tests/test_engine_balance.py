"""Bands of a balanced schedule end together, wherever in the picture the work is."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rendering.base import CancelFlag, RasterImage, RasterSettings, RasterStats
from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.schedule import Schedule, Shares
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS, EYES_IN_BANDS, WAIT_S
from tests.fake_rasterizer import PaintingRasterizer

HEIGHT = 1280
CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, HEIGHT)
BALANCED = replace(BANDS, shares=Shares.BALANCED)
PICTURE_S = 0.06


class SkyAndStreet(PaintingRasterizer):
    """The upper half of the picture costs next to nothing; every part repeats a little."""

    name = "sky and street"

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        first, end = settings.rows_of(camera)
        street = max(0, end - max(first, HEIGHT // 2)) / (HEIGHT / 2)
        seconds = PICTURE_S * (0.05 + 0.05 * (end - first) / HEIGHT + 0.9 * street)
        time.sleep(seconds)
        # As much work as time: devices are equally fast.
        stats = RasterStats(1, 1, round(1e6 * seconds), {"composite": 1e3 * seconds})
        image = self.painted(camera, settings.outputs, (0.5, 0.5, 0.5), count=1, stats=stats)
        assert image.color is not None
        return RasterImage(image.alpha[first:end], image.color[first:end], stats=stats)


def drawn(schedule: Schedule, devices: int, cameras: int, frames: int) -> list[Frame]:
    with RenderEngine(
        SkyAndStreet(), Gaussians.empty(), devices=cpu_devices(devices, devices), schedule=schedule
    ) as engine:
        return [
            engine.submit(FrameRequest("a", i, (CAMERA,) * cameras)).result(WAIT_S)
            for i in range(frames)
        ]


def times_ms(frame: Frame) -> list[float]:
    """What each device took to draw."""
    return [sum(ms for _, ms in part.stages) for part in frame.stats.parts if part.eyes]


@pytest.mark.parametrize(
    ("schedule", "devices", "cameras"),
    [
        (BALANCED, 2, 1),
        (BALANCED, 3, 2),
        (replace(EYES_IN_BANDS, shares=Shares.BALANCED), 4, 2),
    ],
)
def test_balanced_bands_end_together(schedule: Schedule, devices: int, cameras: int) -> None:
    frames = drawn(schedule, devices, cameras, 14)
    first, last = times_ms(frames[0]), times_ms(frames[-1])
    assert len(last) == devices
    assert max(first) > 2.5 * min(first)
    assert max(last) < 1.4 * min(last)
    assert max(last) < 0.8 * max(first)


def test_measured_bands_are_as_tall_as_their_devices_are_fast_wherever_the_work_is() -> None:
    times = times_ms(drawn(BANDS, 2, 1, 14)[-1])
    assert max(times) > 2.5 * min(times)


def test_each_client_has_its_own_balance() -> None:
    with RenderEngine(
        SkyAndStreet(), Gaussians.empty(), devices=cpu_devices(2, 2), schedule=BALANCED
    ) as engine:
        frames = [engine.submit(FrameRequest("a", i, (CAMERA,))).result(WAIT_S) for i in range(8)]
        frames.append(engine.submit(FrameRequest("b", 0, (CAMERA,))).result(WAIT_S))
    borders = [min(part.rows[0][1] for part in frame.stats.parts if part.eyes) for frame in frames]
    assert borders[-2] > 0.65 * HEIGHT
    # Devices are about equally fast, as far as other programs let them.
    assert borders[-1] == pytest.approx(0.5 * HEIGHT, abs=0.05 * HEIGHT)
