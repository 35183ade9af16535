"""The folder on devices: what it says, what it changes, and the picture of the last frames."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import viser

from render_cache.byte_cache import CacheStats
from rendering.demand import Load
from rendering.device import Device, cpu_devices
from rendering.elastic import Decision
from rendering.engine import DeviceStatus, RenderEngine
from rendering.frame import FrameRequest, PartStats
from rendering.recorder import FrameRecord, Recorder, Recording
from rendering.scene_holder import MemoryStatus
from rendering.schedule import DeviceChoice, Pick, Schedule, Split, SplitBy
from splat.camera import Camera
from splat.errors import SettingsError
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS, SINGLE
from tests.fake_rasterizer import FakeRasterizer
from tests.trace_rules import broken_rules
from viewer import device_panel
from viewer.device_panel import PAGE, DevicePanel
from viewer.device_view import (
    SHOWN_FRAMES,
    Role,
    cache_rows,
    devices_html,
    drawable_schedules,
    roles,
    timeline_svg,
)
from viewer.traces import trace_text

SVG = "{http://www.w3.org/2000/svg}"
MIB = 1 << 20
NOTHING = CacheStats(budget_bytes=128 * MIB)
WAIT_S = 10.0


def status(name: str, **more: Any) -> DeviceStatus:
    good = DeviceStatus(Device(name, 1), 1.0, 0, ready=True, retired=False, in_use=True)
    return replace(good, **more)


FOUR = (
    status("cpu:0"),
    status("cpu:1", weight=0.625, faults=1),
    status("cpu:2", ready=False, faults=3),
    status("cpu:3", ready=False, retired=True, faults=5),
)


def test_devices_are_told_with_speed_state_and_faults() -> None:
    text = devices_html(BANDS, FOUR, None, NOTHING)
    rows = re.findall("<tr.*?</tr>", text)[:4]
    said = [re.sub("<[^>]*>", " ", row).split() for row in rows]
    assert said == [
        ["cpu:0", "1.00", "draws"],
        ["cpu:1", "0.62", "draws", "·", "failed", "once"],
        ["cpu:2", "1.00", "starts", "anew", "·", "failed", "3", "times"],
        ["cpu:3", "1.00", "retired", "·", "failed", "5", "times"],
    ]
    assert Role.RETIRED.meaning in rows[3] and "opacity:0.55" in rows[3]
    assert "opacity:0.55" not in rows[0]


def test_what_is_in_each_memory_is_told_where_there_are_several() -> None:
    memories = (
        MemoryStatus("cpu:0", ("cpu:0",), 12 * MIB, 64 * MIB),
        MemoryStatus("cpu:1", ("cpu:1",), 3 * MIB, 0),
    )
    text = devices_html(BANDS, FOUR, None, NOTHING, memories=memories)
    rows = re.findall("<tr.*?</tr>", text)[4:6]
    assert [re.sub("<[^>]*>", " ", row).split() for row in rows] == [
        ["In", "cpu:0", "12", "MiB", "of", "64", "MiB"],
        ["In", "cpu:1", "3", "MiB"],
    ]
    assert "the memory of cpu:1" in rows[1]
    assert "In cpu:0" not in devices_html(BANDS, FOUR, None, NOTHING, memories=memories[:1])


def test_what_a_device_is_at_follows_from_the_schedule() -> None:
    idle = tuple(status(f"cpu:{i}") for i in range(3))
    assert list(roles(SINGLE, idle).values()) == [Role.DRAWING, Role.SPARE, Role.SPARE]
    assert set(roles(BANDS, idle).values()) == {Role.DRAWING}
    pipelined = drawable_schedules([s.device for s in idle], SINGLE)["pipelined"]
    assert sorted(role.name for role in roles(pipelined, idle).values()) == [
        "DRAWING", "DRAWING", "HELPING",
    ]  # fmt: skip
    elastic = (status("cpu:0"), status("cpu:1", in_use=False))
    assert roles(BANDS, elastic) == {"cpu:0": Role.DRAWING, "cpu:1": Role.RELEASED}
    named = Schedule("named", devices=DeviceChoice(Pick.NAMED, names=("cpu:1",)))
    lost = (status("cpu:0"), status("cpu:1", ready=False))
    assert roles(named, lost) == {"cpu:0": Role.DRAWING, "cpu:1": Role.RESTARTING}
    assert roles(BANDS, (status("cpu:0", ready=False),)) == {"cpu:0": Role.RESTARTING}


def test_the_schedule_is_told_in_a_line_and_what_comes_from_elsewhere_is_harmless() -> None:
    text = devices_html(replace(BANDS, about="In <b>ands"), FOUR, None, NOTHING, note="<i>no")
    assert "In &lt;b&gt;ands." in text and "&lt;i&gt;no" in text
    assert "bands: each picture in bands" in devices_html(BANDS, FOUR, None, NOTHING)
    assert "One device draws all pictures." in devices_html(SINGLE, FOUR[:1], None, NOTHING)


def test_why_so_many_devices_are_in_use_is_told() -> None:
    held = Decision(2, "30 fps are held")
    assert ">30 fps are held.<" in devices_html(BANDS, FOUR, held, NOTHING)


def test_that_there_is_too_much_to_draw_is_told() -> None:
    busy = devices_html(BANDS, FOUR, None, NOTHING, Load(3.5, 2, overloaded=True))
    assert ">Busy: views in motion want 1.8 times what there is.<" in busy
    for load in (Load(1.5, 2, overloaded=False), None):
        assert "Busy" not in devices_html(BANDS, FOUR, None, NOTHING, load)


def test_what_is_kept_of_pictures_is_told() -> None:
    stats = CacheStats(
        hits=41, misses=59, entries=1200, held_bytes=34 * MIB + 5, budget_bytes=64 * MIB
    )
    assert [(name, text) for name, text, _ in cache_rows(stats)] == [
        ("Kept pictures", "1,200 · 34 MiB of 64 MiB"),
        ("Used again", "41% of 100 asked for"),
    ]
    assert cache_rows(NOTHING)[1][1] == "none yet"
    assert [text for _, text, _ in cache_rows(CacheStats())] == ["none"]
    text = devices_html(SINGLE, FOUR[:1], None, stats)
    assert all(html in text for html in ("34 MiB of 64 MiB", "41% of 100", "title="))


def test_only_what_can_be_drawn_is_offered() -> None:
    several = drawable_schedules(cpu_devices(3, 3), BANDS)
    assert {"single", "eye-parallel", "alternate-frame", "tile-split", "pipelined"} <= set(several)
    assert several["bands"] is BANDS
    for schedule in several.values():
        engine = RenderEngine(FakeRasterizer(), Gaussians.empty(), devices=cpu_devices(3, 3))
        with engine:
            engine.set_schedule(schedule)
    assert list(drawable_schedules(cpu_devices(1), SINGLE)) == ["single"]


def frames(count: int) -> Recording:
    """Every frame on two devices, sent to two pages in turn, with a chunk read beside it."""
    recorder = Recorder()
    for number in range(count):
        at_s, client = 0.1 * number, f"browser-{number % 2}"
        parts = tuple(
            PartStats(
                f"cpu:{i}", at_s + 0.01, at_s + 0.05, (("project", 10.0), ("composite", 30.0))
            )
            for i in range(2)
        )
        recorder.did("reading:0", "fetch", at_s, at_s + 0.02)
        recorder.did("reading:1", "fetch", at_s + 0.01, at_s + 0.03)
        recorder.did(client, "encode", at_s + 0.05, at_s + 0.06, client, number)
        recorder.frame(
            FrameRecord(
                number, client, number, at_s, at_s + 0.01, at_s + 0.05, parts, 0, True, NOTHING
            )
        )
    return recorder.recording()


def lanes_in(svg: str) -> dict[str, list[str]]:
    """What each lane's bars say of themselves, by the name beside it."""
    root = ET.fromstring(svg)
    names = [t for t in root.iter(f"{SVG}text") if t.get("text-anchor") == "end"]
    rows = {
        text.text or "": float(text.get("y") or 0)
        for text in names
        if not (text.text or "")[0].isdigit()
    }
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    found: dict[str, list[str]] = {name: [] for name in rows}
    for bar in bars:
        middle = float(bar.get("y") or 0) + float(bar.get("height") or 0) / 2
        name = min(rows, key=lambda name: abs(rows[name] - 4 - middle))
        found[name].append(bar.find(f"{SVG}title").text or "")  # type: ignore[union-attr]
    return found


def test_the_picture_has_a_lane_for_each_device_and_for_this_page() -> None:
    svg = timeline_svg(frames(20), ["cpu:0", "cpu:1", "cpu:2"], "browser-1", {"browser-1": PAGE})
    lanes = lanes_in(svg)
    assert list(lanes) == ["cpu:0", "cpu:1", "cpu:2", "reading", PAGE]
    assert len(lanes["cpu:0"]) == len(lanes["cpu:1"]) == 2 * SHOWN_FRAMES
    assert lanes["cpu:2"] == [], "it did nothing, which is to be seen"
    assert {text.split(",")[1].strip() for text in lanes["cpu:0"]} == {"project", "composite"}
    assert len(lanes[PAGE]) == SHOWN_FRAMES / 2 and all("browser-1" in t for t in lanes[PAGE])
    assert len(lanes["reading"]) == SHOWN_FRAMES, "threads that read are one lane"
    assert "browser-0" not in lanes
    numbers = {int(text.split()[1].rstrip(",")) for text in lanes["cpu:0"]}
    assert numbers == set(range(20 - SHOWN_FRAMES, 20))


def test_before_the_first_frame_there_is_no_picture() -> None:
    assert timeline_svg(Recording(), ["cpu:0"], "browser-0") == ""


@dataclass
class Downloads:
    """Counts how often the button was pressed."""

    count: int = 0

    def download_trace(self) -> None:
        self.count += 1


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def engine() -> Iterator[RenderEngine]:
    with RenderEngine(
        FakeRasterizer(),
        Gaussians.empty(),
        picture_bytes=MIB,
        devices=cpu_devices(2, 2),
        schedule=BANDS,
    ) as engine:
        yield engine


def panel_of(
    server: viser.ViserServer, engine: RenderEngine, clock: Clock, actions: Downloads | None = None
) -> DevicePanel:
    return DevicePanel(
        server.gui, engine, "browser-0", actions or Downloads(), order=1, clock=clock
    )


def draw(engine: RenderEngine, sequence: int) -> None:
    camera = Camera(np.eye(4), np.diag([80.0, 80.0, 1.0]), 64, 96)
    engine.submit(FrameRequest("browser-0", sequence, (camera,))).result(WAIT_S)


def used(control: Any, value: object = None) -> None:
    """As a person uses it."""
    control._impl.value = value
    for callback in control._impl.update_cb:
        callback(viser.GuiEvent(client_id=0, client=None, target=control))


def test_a_schedule_is_changed_and_followed_by_other_browsers(
    viser_server: viser.ViserServer, engine: RenderEngine
) -> None:
    mine, other = (panel_of(viser_server, engine, Clock()) for _ in range(2))
    assert mine._schedule.value == "bands"
    used(mine._schedule, "eye-parallel")
    assert engine.schedule.name == "eye-parallel" and engine.schedule.has(SplitBy.EYE)
    other.show()
    assert other._schedule.value == "eye-parallel" and engine.schedule.name == "eye-parallel"
    assert "Each eye on a device of its own." in other._numbers.content


def test_a_schedule_from_elsewhere_is_offered_from_then_on(
    viser_server: viser.ViserServer, engine: RenderEngine
) -> None:
    panel = panel_of(viser_server, engine, Clock())
    engine.set_schedule(Schedule("found", split=(Split(SplitBy.FRAME),)))
    panel.show()
    assert panel._schedule.value == "found" and "found" in panel._schedule.options
    used(panel._schedule, "bands")
    used(panel._schedule, "found")
    assert engine.schedule.name == "found"


def test_a_schedule_that_is_refused_is_told_and_undone(
    viser_server: viser.ViserServer, engine: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    panel = panel_of(viser_server, engine, clock)

    def refuse(schedule: Schedule) -> None:
        raise SettingsError("cpu:9 is not there")

    monkeypatch.setattr(engine, "set_schedule", refuse)
    used(panel._schedule, "single")
    panel.show()
    assert "cpu:9 is not there" in panel._numbers.content and panel._schedule.value == "bands"
    clock.now_s = device_panel.NOTE_S
    panel.show()
    assert "cpu:9" not in panel._numbers.content


def test_the_picture_is_made_when_something_was_done_and_not_too_often(
    viser_server: viser.ViserServer, engine: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Recording] = []

    def make(recording: Recording, *args: object) -> str:
        made.append(recording)
        return f"<svg>{len(made)}</svg>"

    monkeypatch.setattr(device_panel, "timeline_svg", make)
    clock = Clock()
    panel = panel_of(viser_server, engine, clock)
    for expected, wait_s, frames in (
        (1, 0.0, 1),
        (1, 0.25, 1),
        (2, 0.25, 0),
        (2, 9.0, 0),
        (3, 0.0, 1),
    ):
        clock.now_s += wait_s
        for _ in range(frames):
            draw(engine, int(1e6 * clock.now_s) + len(made))
        panel.show()
        assert len(made) == expected, (wait_s, frames)
    assert "<svg>3</svg>" in panel._picture.content
    used(panel._wanted, False)
    assert panel._picture.content == ""
    draw(engine, 10**9)
    clock.now_s += 9
    panel.show()
    assert len(made) == 3, "nobody asked for it"
    used(panel._wanted, True)
    panel.show()
    assert len(made) == 4 and "<svg>4</svg>" in panel._picture.content


def test_one_device_has_a_folded_folder_without_a_choice(viser_server: viser.ViserServer) -> None:
    with RenderEngine(FakeRasterizer(), Gaussians.empty()) as engine:
        panel = panel_of(viser_server, engine, Clock())
        assert not panel._folder.expand_by_default and not panel._schedule.visible
        assert not panel._wanted.value
        panel.show()
        assert "One device draws all pictures." in panel._numbers.content
    with RenderEngine(FakeRasterizer(), Gaussians.empty(), devices=cpu_devices(2, 2)) as engine:
        panel = panel_of(viser_server, engine, Clock())
        assert panel._folder.expand_by_default and panel._schedule.visible and panel._wanted.value


def test_nothing_is_sent_while_nothing_changes(
    viser_server: viser.ViserServer, engine: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(engine, 0)
    clock = Clock()
    panel = panel_of(viser_server, engine, clock)
    panel.show()
    sent: list[object] = []
    monkeypatch.setattr(
        viser_server.gui._websock_interface, "queue_message", lambda message: sent.append(message)
    )
    for _ in range(5):
        clock.now_s += 1
        panel.show()
    assert sent == []
    draw(engine, 1)
    clock.now_s += 1
    panel.show()
    assert sent, "a frame does change it"


def test_the_button_asks_for_the_trace(
    viser_server: viser.ViserServer, engine: RenderEngine
) -> None:
    actions = Downloads()
    panel = panel_of(viser_server, engine, Clock(), actions)
    used(panel._download)
    assert actions.count == 1


def test_the_trace_tells_what_it_is_of(engine: RenderEngine) -> None:
    for sequence in range(3):
        draw(engine, sequence)
    trace = json.loads(trace_text(engine, "a town"))
    assert broken_rules(trace) == []
    weights = trace["otherData"].pop("weights")  # as measured
    assert weights.keys() == {"cpu:0", "cpu:1"} and max(weights.values()) == 1.0
    assert trace["otherData"] == {
        "scene": "a town",
        "schedule": "bands",
        "frames": 3,
        "earlier frames, not recorded": 0,
    }
    names = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert {"cpu:0", "cpu:1"} <= names
