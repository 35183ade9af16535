"""The engine begins frames in the order that the simulator says, whatever their urgency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rendering.arrivals import Request
from rendering.cost_model import Costs, StageCost
from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from rendering.schedule import Schedule
from rendering.simulator import simulate
from rendering.stages import Stage
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS, FRAMES, SHARDS, SINGLE, WAIT_S
from tests.fake_rasterizer import FakeRasterizer
from tests.schedules import machine

CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, 6)
DRAW_S = 0.001
COSTS = Costs({Stage.COMPOSITE: StageCost(1e3 * DRAW_S)}, width=8, height=6)
EXPORT: dict[str, Any] = {"urgency": Urgency.EXPORT, "replaces": False}
STILL: dict[str, Any] = {"urgency": Urgency.STILL, "preemptible": True}


def ask(client: str, sequence: int = 0, eyes: int = 1, **wishes: Any) -> FrameRequest:
    return replace(FrameRequest(client, sequence, (CAMERA,) * eyes), **wishes)


WAITING = (
    ask("export", 0, **EXPORT),
    ask("still", **STILL),
    ask("export", 1, **EXPORT),
    ask("walker"),
    ask("walker", 1),
    ask("other walker"),
    ask("headset", eyes=2, urgency=Urgency.VR),
    ask("export", 2, **EXPORT),
)


def simulated_order(
    schedule: Schedule, count: int, first: Sequence[FrameRequest], waiting: Sequence[FrameRequest]
) -> list[tuple[str, int]]:
    """Clients and sequences in the order in which the simulator begins them."""

    def simulated(request: FrameRequest, arrival_ms: float) -> Request:
        return Request(
            request.client,
            request.sequence,
            arrival_ms,
            len(request.cameras),
            request.urgency,
            replaces=request.replaces,
            preemptible=request.preemptible,
        )

    trace = [simulated(request, 1e-3 * i) for i, request in enumerate(first)]
    trace += [simulated(request, 0.1 + 0.01 * i) for i, request in enumerate(waiting)]
    simulation = simulate(schedule, machine(*[1.0] * count), COSTS, trace)
    return [(frame.request.client, frame.request.sequence) for frame in simulation.frames]


def drawn_order(
    schedule: Schedule, count: int, first: Sequence[FrameRequest], waiting: Sequence[FrameRequest]
) -> list[tuple[str, int]]:
    """The same of the engine: ``first`` occupy all devices while ``waiting`` are asked for."""
    rasterizer = FakeRasterizer()
    rasterizer.gate.clear()
    rasterizer.failure = lambda: time.sleep(DRAW_S)
    devices = cpu_devices(count, count)
    with RenderEngine(rasterizer, Gaussians.empty(), devices=devices, schedule=schedule) as engine:
        futures = []
        for request in first:
            futures.append(engine.submit(request))
            rasterizer.wait_started()
        futures += [engine.submit(request) for request in waiting]
        rasterizer.gate.set()
        drawn = [f.result(WAIT_S) for f in futures if f.exception(WAIT_S) is None]
    drawn.sort(key=lambda frame: 1e3 * frame.request.submitted_s + frame.stats.queue_ms)
    return [(frame.request.client, frame.request.sequence) for frame in drawn]


@pytest.mark.parametrize(("schedule", "count"), [(SINGLE, 1), (BANDS, 2), (FRAMES, 2), (SHARDS, 2)])
def test_the_simulator_and_the_engine_agree_on_order(schedule: Schedule, count: int) -> None:
    first = [ask(f"first {i}") for i in range(count if schedule is FRAMES else 1)]
    expected = simulated_order(schedule, count, first, WAITING)
    assert drawn_order(schedule, count, first, WAITING) == expected
    assert [client for client, _ in expected[len(first) :]][:4] == [
        "headset",
        "walker",
        "other walker",
        "still",
    ]


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from(Urgency), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_they_agree_whoever_asks_for_what(wishes: list[tuple[str, Urgency, bool]]) -> None:
    """Until somebody's balance is used up, which measured times decide: one turn a client."""
    first = [ask("first")]
    waiting = [
        ask(client, sequence, urgency=urgency, preemptible=urgency is Urgency.STILL)
        for sequence, (client, urgency, _) in enumerate(wishes)
    ]
    # Clients that want every frame come once: their second turn depends on what the first cost.
    waiting += [
        ask(f"export {client}", 0, **EXPORT)
        for client in sorted({client for client, _, is_export in wishes if is_export})
    ]
    expected = simulated_order(SINGLE, 1, first, waiting)
    assert drawn_order(SINGLE, 1, first, waiting) == expected
    order = {request.client: request.urgency for request in [*first, *waiting]}
    urgencies = [order[client] for client, _ in expected[1:]]
    assert urgencies == sorted(urgencies)
