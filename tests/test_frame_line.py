"""The line of frames, asked for work by devices that are there in name only."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rendering.device import cpu_devices
from rendering.device_roster import DeviceRoster
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.frame_jobs import Begin
from rendering.frame_line import FrameLine
from rendering.picture_cache import PictureCache
from rendering.scene_holder import SceneHolder
from rendering.schedule import Schedule, Shares, Split, SplitBy
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.fake_rasterizer import WAIT_S, FakeRasterizer

CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, 6)


def line_of(devices: int, shares: Shares) -> FrameLine:
    """Whole frames in turn, on devices that are all idle."""
    there = cpu_devices(devices, devices)
    rasterizer = FakeRasterizer()
    scenes = SceneHolder({there[0].memory: rasterizer}, Gaussians.empty(), there)
    schedule = Schedule("frames", split=(Split(SplitBy.FRAME),), shares=shares)
    line = FrameLine(scenes, PictureCache(0), DeviceRoster(there, schedule), lambda: 0.0)
    names = frozenset(device.name for device in there)
    line.crew = cast(Any, SimpleNamespace(lock=threading.Condition(), ready=names, idle=names))
    return line


@pytest.mark.parametrize("shares", [Shares.EQUAL, Shares.MEASURED])
def test_a_request_that_was_taken_back_costs_the_next_one_nothing(shares: Shares) -> None:
    """The other device asked in vain, as it was not its turn, and sleeps."""
    line = line_of(2, shares)
    futures: list[Future[Frame]] = [Future(), Future()]
    for client, future in zip("ab", futures, strict=True):
        line.admit(FrameRequest(client, 0, (CAMERA,)), future)
    futures[0].cancel()
    with line.crew.lock:
        assert line.find("cpu:1") is None
        job = line.find("cpu:0")
    assert isinstance(job, Begin) and job.frame.request.client == "b"


def test_an_error_in_the_books_keeps_no_answer_from_anybody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(record: object) -> None:
        raise ArithmeticError("no such number")

    with RenderEngine(FakeRasterizer(), Gaussians.empty()) as engine:
        engine.recorder.frame = fail  # type: ignore[method-assign]
        for sequence, client in enumerate(("a", "b", "a")):
            frame = engine.submit(FrameRequest(client, sequence, (CAMERA,))).result(WAIT_S)
            assert frame.request.client == client
    assert "no such number" in caplog.text
