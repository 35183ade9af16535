"""What is remembered of the last frames, and how it becomes a timeline."""

from __future__ import annotations

import threading

import pytest

from render_cache.byte_cache import CacheStats
from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import FrameRequest, PartStats
from rendering.frame_spans import PICTURES, QUESTIONS, timeline_of
from rendering.native.cpu import NativeRasterizer
from rendering.recorder import ERRANDS_A_FRAME, FrameRecord, Recorder, Recording
from rendering.timeline import NO_FRAME, Span
from splat.camera import Camera
from tests import scenes
from tests.engine_devices import BANDS

WAIT_S = 20.0


def record(number: int, at_s: float = 0.0, client: str = "a") -> FrameRecord:
    """Of a frame of 30 ms: asked for, begun 10 ms later, drawn for 10 ms, complete."""
    part = PartStats("cpu:0", at_s + 0.01, at_s + 0.02, (("project", 4.0), ("composite", 6.0)))
    cache = CacheStats(hits=2, misses=3, entries=1, held_bytes=64, budget_bytes=128)
    return FrameRecord(
        number, client, 100 + number, at_s, at_s + 0.01, at_s + 0.03, (part,), 1, True, cache
    )


def test_only_the_newest_are_kept() -> None:
    recorder = Recorder(3)
    for number in range(5):
        recorder.frame(record(number))
    for number in range(50):
        recorder.did("a", "encode", number, number + 1)
    recording = recorder.recording()
    assert [frame.number for frame in recording.frames] == [2, 3, 4]
    assert (recording.forgotten, recorder.told) == (2, 55)
    assert len(recording.errands) == 3 * ERRANDS_A_FRAME
    assert recording.errands[-1].start_s == 49


def test_more_can_be_kept_from_any_moment_on() -> None:
    recorder = Recorder(2)
    for number in range(3):
        recorder.frame(record(number))
    recorder.keep(4)
    for number in range(3, 6):
        recorder.frame(record(number))
    assert [frame.number for frame in recorder.recording().frames] == [2, 3, 4, 5]
    recorder.keep(1)
    assert [frame.number for frame in recorder.recording().frames] == [5]
    assert recorder.recording().forgotten == 5


def test_a_recording_is_a_copy() -> None:
    recorder = Recorder()
    recorder.frame(record(0))
    before = recorder.recording()
    recorder.frame(record(1))
    assert len(before.frames) == 1 and len(recorder.recording().frames) == 2


def test_the_end_of_a_recording_has_what_was_done_for_its_frames() -> None:
    recorder = Recorder()
    for number in range(4):
        recorder.did("a", "send", number - 0.5, number + 0.02, "a", 100 + number)
        recorder.frame(record(number, at_s=number))
    last = recorder.recording().last(2)
    assert [frame.number for frame in last.frames] == [2, 3] and last.forgotten == 2
    assert [errand.sequence for errand in last.errands] == [102, 103]
    assert recorder.recording().last(99) == recorder.recording()
    nothing = recorder.recording().last(0)
    assert nothing.frames == () == nothing.errands and nothing.forgotten == 4


def test_threads_may_tell_at_once() -> None:
    recorder = Recorder(1000)

    def tell(first: int) -> None:
        for number in range(first, first + 200):
            recorder.frame(record(number))
            recorder.did("a", "encode", 0, 1)
            recorder.recording()

    threads = [threading.Thread(target=tell, args=(200 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames = recorder.recording().frames
    assert sorted(frame.number for frame in frames) == list(range(800))


def test_a_recording_as_a_timeline() -> None:
    recorder = Recorder()
    recorder.frame(record(7, at_s=50.0))
    recorder.did("a", "encode", 50.03, 50.04, "a", 107)
    recorder.did("reading:0", "fetch", 49.98, 50.0)
    timeline = timeline_of(recorder.recording(), ["cpu:0", "cpu:1"])
    assert timeline.devices == ("cpu:0", "cpu:1")
    rounded = [
        Span(s.lane, s.stage, round(s.start_ms, 6), round(s.end_ms, 6), s.frame, s.client)
        for s in timeline.spans
    ]
    assert rounded == [
        Span("cpu:0", "project", 30.0, 34.0, 7, "a"),
        Span("cpu:0", "composite", 34.0, 40.0, 7, "a"),
        Span("a", "encode", 50.0, 60.0, 7, "a"),
        Span("reading:0", "fetch", 0.0, 20.0, NO_FRAME),
    ]
    (passage,) = timeline.passages
    assert (passage.frame, passage.client, passage.reused) == (7, "a", 1)
    assert [passage.asked_ms, passage.begun_ms, passage.ended_ms] == pytest.approx([20, 30, 50])
    assert [(s.counter, s.values) for s in timeline.samples] == [
        (PICTURES, (("bytes", 64),)),
        (QUESTIONS, (("hits", 2), ("misses", 3))),
    ]


def test_nothing_is_a_timeline_too() -> None:
    timeline = timeline_of(Recording(), ["cpu:0"])
    assert (timeline.spans, timeline.passages, timeline.samples) == ((), (), ())


def test_the_engine_remembers_its_frames() -> None:
    camera = Camera.look_at((0, 0, -4), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=96, height=128)
    ball = scenes.random_scene(7, 1500, 1)
    with RenderEngine(
        NativeRasterizer(), ball, picture_bytes=1 << 20, devices=cpu_devices(2, 2), schedule=BANDS
    ) as engine:
        frames = [
            engine.submit(FrameRequest("a", n, (camera,), urgency=Urgency.STILL)).result(WAIT_S)
            for n in range(2)
        ]
        recording = engine.recorder.recording()
        held = engine.pictures
    assert [record.number for record in recording.frames] == [0, 1]
    assert [record.parts for record in recording.frames] == [f.stats.parts for f in frames]
    assert [record.reused for record in recording.frames] == [0, 1]
    assert all(record.complete for record in recording.frames)
    assert recording.frames[-1].pictures == held and held.hits == 1
    for frame in recording.frames:
        assert frame.asked_s <= frame.begun_s <= frame.ended_s
    lanes = {span.lane for span in timeline_of(recording, ["cpu:0", "cpu:1"]).spans}
    assert lanes == {"cpu:0", "cpu:1"}
