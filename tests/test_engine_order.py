"""The engine begins frames in the order that the simulator says."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rendering.arrivals import Request
from rendering.cost_model import Costs, StageCost
from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.frame import FrameRequest
from rendering.schedule import Schedule
from rendering.scheduler import urgency_of
from rendering.simulator import simulate
from rendering.stages import Stage
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS, FRAMES, SINGLE, WAIT_S
from tests.fake_rasterizer import FakeRasterizer
from tests.schedules import machine

CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, 6)
COSTS = Costs({Stage.COMPOSITE: StageCost(1.0)}, width=8, height=6)


def ask(client: str, sequence: int = 0, eyes: int = 1, **wishes: Any) -> FrameRequest:
    return replace(FrameRequest(client, sequence, (CAMERA,) * eyes), **wishes)


WAITING = (
    ask("export", 0, replaces=False),
    ask("still", preemptible=True),
    ask("export", 1, replaces=False),
    ask("walker"),
    ask("walker", 1),
    ask("other walker"),
    ask("headset", eyes=2),
    ask("export", 2, replaces=False),
)


def simulated(request: FrameRequest, arrival_ms: float) -> Request:
    return Request(
        request.client,
        request.sequence,
        arrival_ms,
        len(request.cameras),
        urgency_of(request),
        replaces=request.replaces,
        preemptible=request.preemptible,
    )


@pytest.mark.parametrize(("schedule", "count"), [(SINGLE, 1), (BANDS, 2), (FRAMES, 2)])
def test_the_simulator_and_the_engine_agree_on_order(schedule: Schedule, count: int) -> None:
    first = [ask(f"first {i}") for i in range(count if schedule is FRAMES else 1)]
    trace = [simulated(request, 0.0) for request in first]
    trace += [simulated(request, 0.1 + 0.01 * i) for i, request in enumerate(WAITING)]
    simulation = simulate(schedule, machine(*[1.0] * count), COSTS, trace)
    expected = [(f.request.client, f.request.sequence) for f in simulation.frames]

    rasterizer = FakeRasterizer()
    rasterizer.gate.clear()
    rasterizer.failure = lambda: time.sleep(0.001)
    devices = cpu_devices(count, count)
    with RenderEngine(rasterizer, Gaussians.empty(), devices=devices, schedule=schedule) as engine:
        futures = []
        for request in first:
            futures.append(engine.submit(request))
            rasterizer.wait_started()
        futures += [engine.submit(request) for request in WAITING]
        rasterizer.gate.set()
        drawn = [f.result(WAIT_S) for f in futures if f.exception(WAIT_S) is None]
    drawn.sort(key=lambda frame: 1e3 * frame.request.submitted_s + frame.stats.queue_ms)
    assert [(frame.request.client, frame.request.sequence) for frame in drawn] == expected
