"""Chrome trace events: of the simulator and of the real engine, by the rules of the format."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from rendering.arrivals import Viewer, steady
from rendering.base import RasterSettings
from rendering.chrome_trace import COUNTERS, FRAMES, VIEWERS, chrome_trace, chrome_trace_text
from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.frame_spans import PICTURES, QUESTIONS, timeline_of
from rendering.native.cpu import NativeRasterizer
from rendering.simulator import simulate
from rendering.streamed_scene import StreamedScene, StreamPolicy
from rendering.timeline import (
    GIVEN_UP,
    STAGE_NAMES,
    WAITING,
    Passage,
    Sample,
    Span,
    Timeline,
    waiting,
)
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import RenderCancelled
from tests import scenes
from tests.engine_devices import BANDS, EYES_IN_BANDS, SINGLE
from tests.engine_devices import FRAMES as TURNS
from tests.schedules import COSTS, HEADSET, WALKER, machine, shipped
from tests.trace_rules import broken_rules

WAIT_S = 20.0
HELD_MS = 5.0
BALL = scenes.random_scene(7, 1500, 1)
TIMELINE = Timeline(
    ("cpu:0", "idle"),
    (
        Span("cpu:1", "composite", 2.0, 6.0, 0, "a"),
        Span("cpu:0", "project", 1.0, 2.0, 0, "a"),
        Span("link", "join", 6.0, 6.5, 0, "a"),
        Span("a", "send", 6.5, 9.0, 0, "a"),
        Span("reading:3", "fetch", 0.0, 4.0, -1),
    ),
    (Passage(0, "a", 0.5, 1.0, 6.5, reused=1), Passage(1, "b", 0.5, 7.0, 8.0, complete=False)),
    (Sample("kept pictures", 6.5, (("bytes", 12),)),),
)


def view(x: float = 0.0) -> Camera:
    return Camera.look_at((x, 0, -4), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=96, height=128)


def test_a_lane_is_a_thread_and_a_device_a_process() -> None:
    trace = chrome_trace(TIMELINE, about={"schedule": "x"})
    events = json.loads(chrome_trace_text(trace))["traceEvents"]
    assert events == trace["traceEvents"] and trace["otherData"] == {"schedule": "x"}
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {e["args"]["name"]: processes[e["pid"]] for e in events if e["name"] == "thread_name"}
    assert threads == {
        "cpu:0": "cpu:0", "idle": "idle", "a": VIEWERS, "cpu:1": "cpu", "link": "link",
        "reading:3": "reading",
    }  # fmt: skip
    assert [*processes.values()][:1] == [FRAMES] and [*processes.values()][-1:] == [COUNTERS]
    (project,) = (e for e in events if e["name"] == "project")
    assert {key: project[key] for key in ("ph", "ts", "dur", "args")} == {
        "ph": "X", "ts": 1000.0, "dur": 1000.0, "args": {"frame": 0, "client": "a"},
    }  # fmt: skip
    assert broken_rules(trace) == []


def test_frames_and_counters_are_events_of_their_own() -> None:
    events = chrome_trace(TIMELINE)["traceEvents"]
    ways = [(e["ph"], e["id"], e["name"], e["ts"]) for e in events if e["ph"] in "be"]
    assert ways == [
        ("b", 0, "a", 500.0), ("b", 1, "b", 500.0), ("e", 0, "a", 6500.0), ("e", 1, "b", 8000.0),
    ]  # fmt: skip
    begun = next(e for e in events if e["ph"] == "b")
    assert begun["args"] == {"frame": 0, "waited_ms": 0.5, "reused": 1, "complete": True}
    counts = [(e["name"], e["ts"], e["args"]) for e in events if e["ph"] == "C"]
    assert counts == [
        (WAITING, 500.0, {"frames": 2}),
        (WAITING, 1000.0, {"frames": 1}),
        ("kept pictures", 6500.0, {"bytes": 12}),
        (WAITING, 7000.0, {"frames": 0}),
    ]


def test_of_what_comes_and_goes_at_once_nothing_waits() -> None:
    assert list(waiting([Passage(0, "a", 1.0, 1.0, 2.0)])) == []


def test_an_empty_trace_is_one_too() -> None:
    trace = json.loads(chrome_trace_text(chrome_trace(Timeline(()))))
    assert {event["ph"] for event in trace["traceEvents"]} == {"M"}
    assert broken_rules(trace) == []


def spoiled(change: Callable[[list[dict[str, Any]]], object]) -> dict[str, Any]:
    trace = deepcopy(chrome_trace(TIMELINE))
    change(trace["traceEvents"])
    return trace


SPOILED: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "ph": (lambda events: events[-1].update(ph="Q"), "unknown ph"),
    "ts": (lambda events: events[-1].update(ts=float("nan")), "ts is no time"),
    "dur": (lambda events: _first(events, "X").update(dur=-1.0), "dur is no time"),
    "pid": (lambda events: events[-1].update(pid="1"), "pid is no integer"),
    "order": (lambda events: _first(events, "X").update(ts=1e9), "not sorted"),
    "balance": (lambda events: events.remove(_first(events, "e")), "does not end"),
    "begin": (lambda events: events.remove(_first(events, "b")), "did not begin"),
    "counter": (lambda events: _first(events, "C")["args"].update(frames="2"), "counts numbers"),
    "name": (lambda events: events.remove(events[0]), "has no name"),
    "twice": (lambda events: events.insert(0, events[0]), "named twice"),
}


def _first(events: list[dict[str, Any]], ph: str) -> dict[str, Any]:
    return next(event for event in events if event["ph"] == ph)


@pytest.mark.parametrize(("change", "said"), SPOILED.values(), ids=SPOILED.keys())
def test_a_broken_rule_is_found(
    change: Callable[[list[dict[str, Any]]], object], said: str
) -> None:
    assert any(said in line for line in broken_rules(spoiled(change)))


def test_two_things_at_a_time_are_found() -> None:
    spans = (Span("cpu:0", "sort", 0.0, 2.0, 0), Span("cpu:0", "sort", 1.0, 3.0, 0))
    assert "two things" in broken_rules(chrome_trace(Timeline(("cpu:0",), spans)))[0]


def simulated(name: str) -> dict[str, Any]:
    requests = steady([HEADSET, WALKER, Viewer("c", 1, Urgency.STILL, 2.0)], 3.0)
    on = machine(1.0, 0.6, host_lanes=1)
    return chrome_trace(simulate(shipped()[name], on, COSTS, requests).timeline)


@pytest.mark.parametrize("name", shipped())
def test_traces_of_the_simulator_keep_the_rules(name: str) -> None:
    trace = simulated(name)
    assert broken_rules(trace) == []
    assert {e["name"] for e in trace["traceEvents"] if e["ph"] == "X"} <= set(STAGE_NAMES)


def recorded(engine: RenderEngine, schedule_devices: int) -> dict[str, Any]:
    names = [f"cpu:{i}" for i in range(schedule_devices)]
    return chrome_trace(timeline_of(engine.recorder.recording(), names))


@pytest.mark.parametrize("schedule", [SINGLE, BANDS, EYES_IN_BANDS, TURNS], ids=lambda s: s.name)
def test_traces_of_the_engine_keep_the_rules(schedule: Any) -> None:
    with RenderEngine(
        NativeRasterizer(),
        BALL,
        picture_bytes=1 << 20,
        devices=cpu_devices(2, 2),
        schedule=schedule,
    ) as engine:
        futures: list[Future[Frame]] = [
            engine.submit(
                FrameRequest(client, sequence, (view(), view(0.1 * (sequence % 3))), replaces=False)
            )
            for sequence in range(6)
            for client in ("a", "b")
        ]
        for future in futures:
            future.result(WAIT_S)
        trace = recorded(engine, 2)
    assert broken_rules(trace) == []
    events = trace["traceEvents"]
    assert sum(e["ph"] == "b" for e in events) == 12
    assert {e["id"] for e in events if e["ph"] == "b"} == set(range(12))
    assert {PICTURES, QUESTIONS} <= {e["name"] for e in events if e["ph"] == "C"}


def test_the_simulator_and_the_engine_speak_alike(tmp_path: Path) -> None:
    """The same kinds of events, with the same names of stages and the same facts."""
    write_ply(tmp_path / "ball.ply", [BALL], len(BALL), 1)
    build_store(
        [tmp_path / "ball.ply"], tmp_path / "b.bvs", BuildOptions(page_gaussians=1024, threads=1)
    )
    rasterizer, source = NativeRasterizer(), open_store(tmp_path / "b.bvs")
    scene = StreamedScene(source, rasterizer, Budgets(64 << 20, 64 << 20), StreamPolicy(fade_s=0))
    with RenderEngine(rasterizer, scene, devices=cpu_devices(2, 2), schedule=BANDS) as engine:
        scene.set_on_work(engine.recorder.did)
        for sequence in range(2):
            engine.submit(FrameRequest("a", sequence, (view(),))).result(WAIT_S)
            assert scene.wait_until_settled(WAIT_S)
        real = recorded(engine, 2)
    ideal = simulated("tile-split")
    assert broken_rules(real) == []

    def kinds(trace: dict[str, Any]) -> dict[str, frozenset[str]]:
        return {
            event["ph"]: frozenset(event) | frozenset(event["args"])
            for event in trace["traceEvents"]
            if event["ph"] in "Xbe"
        }

    def stages(trace: dict[str, Any]) -> set[str]:
        return {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}

    assert kinds(real) == kinds(ideal)
    drawing = {"select", "project", "sort", "composite", "join"}
    assert drawing | {"decode"} <= stages(real) <= set(STAGE_NAMES)
    assert drawing | {"encode"} <= stages(ideal) <= set(STAGE_NAMES)


def test_frames_that_were_given_up_are_told_apart() -> None:
    held, gate = threading.Event(), threading.Event()

    class Held(NativeRasterizer):
        def render(self, *args: Any, **more: Any) -> Any:
            held.set()
            gate.wait(WAIT_S)
            time.sleep(1e-3 * HELD_MS)
            return super().render(*args, **more)

    with RenderEngine(Held(), BALL) as engine:
        first = engine.submit(
            FrameRequest("a", 0, (view(),), RasterSettings(threads=1), preemptible=True)
        )
        assert held.wait(WAIT_S)
        second = engine.submit(FrameRequest("a", 1, (view(),), RasterSettings(threads=1)))
        gate.set()
        with pytest.raises(RenderCancelled):
            first.result(WAIT_S)
        second.result(WAIT_S)
        trace = recorded(engine, 1)
    complete = [e["args"]["complete"] for e in trace["traceEvents"] if e["ph"] == "b"]
    assert complete == [False, True] and broken_rules(trace) == []
    in_vain = [e for e in trace["traceEvents"] if e["name"] == GIVEN_UP]
    assert [e["args"]["frame"] for e in in_vain] == [0], "the device was not idle then"
    assert in_vain[0]["dur"] >= HELD_MS * 1e3
