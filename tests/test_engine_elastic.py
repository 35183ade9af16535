"""The engine uses as many devices as hold a frame rate, on a clock that only drawing advances."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from rendering.base import CancelFlag, RasterImage, RasterSettings, RasterStats
from rendering.device import cpu_devices
from rendering.elastic import ElasticPolicy
from rendering.engine import RenderEngine
from rendering.frame import FrameRequest
from rendering.schedule import Schedule, Shares, Split, SplitBy
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.fake_rasterizer import PaintingRasterizer

WAIT_S = 10.0
MOST = 6
TILE_ROWS = 60  # whole shares of tile rows for any number of devices up to MOST
CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 2, 32 * TILE_ROWS)
EQUAL_BANDS = Schedule("equal bands", split=(Split(SplitBy.BAND),), shares=Shares.EQUAL)
POLICY = ElasticPolicy(target_fps=30, most=MOST)


class TimedRasterizer(PaintingRasterizer):
    """Takes a time for every row of pixels on its clock, bands at once.

    Attributes:
        full_s: What all rows take.
        frame_s: When the present frame was begun.
        now_s: The time.
    """

    name = "timed"

    def __init__(self, full_s: float) -> None:
        self.full_s = full_s
        self.frame_s = self.now_s = 0.0
        self._lock = threading.Lock()

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        first, end = settings.rows_of(camera)
        with self._lock:
            took_s = self.full_s * (end - first) / camera.height
            self.now_s = max(self.now_s, self.frame_s + took_s)
        band = Camera(camera.viewmat, camera.K, camera.width, end - first)
        stats = RasterStats(1, 1, 1, {"composite": 1e3 * took_s})
        return self.painted(band, settings.outputs, (0.5, 0.5, 0.5), count=1, stats=stats)


def devices_in_use(engine: RenderEngine) -> int:
    return sum(device.in_use for device in engine.devices)


def test_another_schedule_is_judged_by_its_own_frames() -> None:
    timed = TimedRasterizer(0.1)
    with RenderEngine(
        timed,
        Gaussians.empty(),
        devices=cpu_devices(2, 2),
        schedule=EQUAL_BANDS,
        clock=lambda: timed.now_s,
    ) as engine:
        for sequence, schedule, wanted in ((0, EQUAL_BANDS, 1.5), (1, Schedule("single"), 3.0)):
            engine.set_schedule(schedule)
            assert engine.load.wanted == 0, "nothing is known"
            timed.frame_s = timed.now_s
            engine.submit(FrameRequest("a", sequence, (CAMERA,))).result(WAIT_S)
            assert engine.load.wanted == pytest.approx(wanted)


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize(("full_s", "needed"), [(0.03, 1), (0.06, 2), (0.095, 3), (0.13, 4)])
def test_no_more_devices_join_than_hold_the_rate(full_s: float, needed: int, clients: int) -> None:
    """What one device took is not held against two, nor is it a reason for a third."""
    timed = TimedRasterizer(full_s)
    used = []
    with RenderEngine(
        timed,
        Gaussians.empty(),
        devices=cpu_devices(MOST, MOST),
        schedule=EQUAL_BANDS,
        elastic=POLICY,
        clock=lambda: timed.now_s,
    ) as engine:
        for sequence in range(POLICY.shrink_after):
            for client in range(clients):
                timed.frame_s = timed.now_s
                request = FrameRequest(
                    str(client), sequence, (CAMERA,), rate_hz=POLICY.target_fps / clients
                )
                engine.submit(request).result(WAIT_S)
            used.append(devices_in_use(engine))
        assert engine.decision is not None and not engine.decision.overloaded
    assert max(used) == used[-1] == needed
