"""The engine over several devices: the same bytes, by whichever schedule, and frames in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schedules import shipped_texts
from rendering.base import Outputs, RasterSettings
from rendering.device import Device, cpu_devices
from rendering.device_speed import FEWEST
from rendering.elastic import ElasticPolicy
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.frame_spans import frame_spans
from rendering.native.cpu import NativeRasterizer
from rendering.schedule import Order, Schedule, Shares, Split, SplitBy
from rendering.schedule_file import parse_schedule
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import RenderCancelled, SettingsError
from splat.gaussians import Gaussians
from tests.engine_devices import (
    BANDS,
    EYES,
    EYES_IN_BANDS,
    FRAMES,
    SCHEDULES,
    WAIT_S,
    Troubled,
    bytes_of,
    hang_until,
)
from tests.fake_rasterizer import FakeRasterizer
from tests.scenes import random_scene

BALL = random_scene(3, 300, 1)
ALL = RasterSettings(outputs=Outputs.ALL, threads=1)


def view(width: int, height: int, x: float = 0.0) -> Camera:
    eye = (x, -0.5, -6.0)
    return Camera.look_at(eye, (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=width, height=height)


def ask(sequence: int, *cameras: Camera, client: str = "a", **wishes: Any) -> FrameRequest:
    return replace(FrameRequest(client, sequence, cameras, ALL), **wishes)


def draw(engine: RenderEngine, request: FrameRequest) -> Frame:
    return engine.submit(request).result(WAIT_S)


@pytest.fixture(scope="module")
def alone() -> Iterator[RenderEngine]:
    with RenderEngine(NativeRasterizer(), BALL) as engine:
        yield engine


sizes = st.tuples(st.integers(1, 90), st.integers(1, 150))


@settings(max_examples=30)
@given(
    sizes,
    st.integers(1, 5),
    st.sampled_from(SCHEDULES),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.sampled_from([1.0, 0.5, 0.1]), min_size=5, max_size=5),
)
def test_joined_pictures_are_those_of_one_device(
    alone: RenderEngine,
    size: tuple[int, int],
    count: int,
    schedule: Schedule,
    eyes: int,
    is_antialiased: bool,
    speeds: list[float],
) -> None:
    cameras = tuple(view(*size, x=eye / 4) for eye in range(eyes))
    request = ask(int(time.monotonic_ns()), *cameras)
    request = replace(request, settings=replace(ALL, antialiased=is_antialiased))
    expected = draw(alone, request)
    devices = cpu_devices(count, count)
    with RenderEngine(NativeRasterizer(), BALL, devices=devices, schedule=schedule) as engine:
        for device, speed in zip(devices, speeds, strict=False):
            for _ in range(FEWEST):
                engine._line.roster.speeds.drew(device.name, speed, 1.0, time.monotonic())
        frame = draw(engine, request)
    assert bytes_of(frame.images) == bytes_of(expected.images)
    assert [image.stats.tile_pairs for image in frame.images] == [
        image.stats.tile_pairs for image in expected.images
    ]


def test_eyes_of_different_sizes_are_drawn_in_bands(alone: RenderEngine) -> None:
    request = ask(int(time.monotonic_ns()), view(40, 130), view(50, 70))
    expected = bytes_of(draw(alone, request).images)
    for schedule in (BANDS, EYES_IN_BANDS):
        with RenderEngine(
            NativeRasterizer(), BALL, devices=cpu_devices(4, 4), schedule=schedule
        ) as engine:
            assert bytes_of(draw(engine, request).images) == expected


def test_a_band_that_is_asked_for_is_divided_again(alone: RenderEngine) -> None:
    request = ask(int(time.monotonic_ns()), view(40, 150))
    request = replace(request, settings=replace(ALL, rows=(32, 150)))
    expected = bytes_of(draw(alone, request).images)
    with RenderEngine(
        NativeRasterizer(), BALL, devices=cpu_devices(3, 3), schedule=BANDS
    ) as engine:
        frame = draw(engine, request)
    assert bytes_of(frame.images) == expected
    drawing = [part for part in frame.stats.parts if part.eyes]
    assert sorted(rows for part in drawing for rows in part.rows) == [
        (32, 64),
        (64, 128),
        (128, 150),
    ]


@pytest.fixture(scope="module")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    ball = random_scene(5, 6_000, 1)
    write_ply(folder / "ball.ply", [ball], len(ball), 1)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "ball.ply"], folder / "ball.bvs", options)
    return folder / "ball.bvs"


@contextmanager
def streaming(store: Path, count: int, schedule: Schedule) -> Iterator[RenderEngine]:
    rasterizer, budgets = NativeRasterizer(), Budgets(64 << 20, 64 << 20)
    scene = StreamedScene(open_store(store), rasterizer, budgets, StreamPolicy(fade_s=0.0))
    devices = cpu_devices(count, count)
    with RenderEngine(rasterizer, scene, devices=devices, schedule=schedule) as engine:
        yield engine
        assert scene.stats().leased == 0


def complete(engine: RenderEngine, *cameras: Camera) -> Frame:
    deadline_s = time.monotonic() + WAIT_S
    for sequence in range(10_000):
        frame = draw(engine, ask(sequence, *cameras))
        if frame.stats.stream is not None and frame.stats.stream.complete:
            return frame
        assert time.monotonic() < deadline_s, "it never was complete"
        time.sleep(0.002)
    raise AssertionError("it never was complete")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_streamed_pictures_are_those_of_one_device(ball_store: Path, count: int) -> None:
    cameras = view(75, 131), view(75, 131, 0.2)
    with streaming(ball_store, 1, SCHEDULES[0]) as engine:
        expected = bytes_of(complete(engine, *cameras).images)
    for schedule in (BANDS, EYES, EYES_IN_BANDS, FRAMES):
        with streaming(ball_store, count, schedule) as engine:
            frame = complete(engine, *cameras)
        assert bytes_of(frame.images) == expected
        drew = {part.device for part in frame.stats.parts if part.eyes}
        most = {BANDS: count, EYES: 2, EYES_IN_BANDS: count, FRAMES: 1}[schedule]
        assert min(2, most) <= len(drew) <= most


def test_parts_tell_who_drew_what_and_when(alone: RenderEngine) -> None:
    before_s = time.monotonic()
    with RenderEngine(
        NativeRasterizer(), BALL, devices=cpu_devices(2, 2), schedule=BANDS
    ) as engine:
        frame = draw(engine, ask(1, view(40, 128), view(40, 128, 0.3)))
    after_s = time.monotonic()
    parts = frame.stats.parts
    assert [name for part in (parts[0], parts[-1]) for name, _ in part.stages] == ["select", "join"]
    drawing = sorted(parts[1:-1], key=lambda part: part.device)
    assert [(part.device, part.eyes, part.rows) for part in drawing] == [
        ("cpu:0", (0, 1), ((0, 64), (0, 64))),
        ("cpu:1", (0, 1), ((64, 128), (64, 128))),
    ]
    assert [name for name, _ in drawing[0].stages] == ["project", "sort", "bin", "composite"] * 2
    assert all(part.attempts == 1 for part in parts)
    for part in parts:
        assert before_s <= part.start_s <= part.end_s <= after_s
    spans = frame_spans(frame, 7, before_s)
    drawn = [span.stage for span in spans if span.lane == "cpu:1" and span.stage != "join"]
    assert drawn == ["project", "sort", "composite"] * 2
    assert all(0 <= span.start_ms <= span.end_ms <= 1e3 * (after_s - before_s) for span in spans)
    assert {(span.frame, span.client) for span in spans} == {(7, "a")}
    assert {span.stage for span in spans} == {"select", "project", "sort", "composite", "join"}


def test_pictures_are_kept_whole_and_an_eye_that_is_kept_is_not_drawn(alone: RenderEngine) -> None:
    left, right = view(40, 128), view(40, 128, 0.3)
    rasterizer = Troubled()
    with RenderEngine(
        rasterizer, BALL, picture_bytes=1 << 20, devices=cpu_devices(2, 2), schedule=EYES_IN_BANDS
    ) as engine:
        asked = enumerate([(left,), (left, right), (right, left)])
        _, both, again = (
            draw(engine, ask(number, *cameras, urgency=Urgency.STILL)) for number, cameras in asked
        )
    assert [frame.stats.reused for frame in (both, again)] == [1, 2]
    assert {part.eyes for part in both.stats.parts} == {(), (1,)}
    assert rasterizer.drawn == 4  # each eye in two bands, once
    expected = bytes_of(draw(alone, ask(int(time.monotonic_ns()), left, right)).images)
    assert bytes_of(both.images) == expected
    assert bytes_of(again.images[::-1]) == expected


class Wait:
    """Trouble that holds every picture until it is let go."""

    def __init__(self) -> None:
        self.started, self.gate = threading.Semaphore(0), threading.Event()

    def __call__(self, cancel: object) -> None:
        self.started.release()
        assert self.gate.wait(WAIT_S)


@contextmanager
def two_held() -> Iterator[tuple[RenderEngine, Wait, Wait]]:
    """An engine of two devices that alternate, and what holds each of them."""
    holds = Wait(), Wait()
    second = Troubled(holds[1])
    with RenderEngine(
        Troubled(holds[0]),
        BALL,
        devices=cpu_devices(2, 2),
        schedule=FRAMES,
        new_rasterizer=lambda _: second,
    ) as engine:
        yield engine, *holds
        for hold in holds:
            hold.gate.set()


def test_frames_alternate_and_arrive_in_order_where_all_are_wanted() -> None:
    with two_held() as (engine, first, second):
        arrived: list[int] = []
        futures = []
        for sequence in range(4):
            future = engine.submit(ask(sequence, view(33, 17), replaces=False))
            future.add_done_callback(lambda f: arrived.append(f.result().request.sequence))
            futures.append(future)
        assert first.started.acquire(timeout=WAIT_S) and second.started.acquire(timeout=WAIT_S)
        second.gate.set()
        time.sleep(0.05)  # for the second device to draw all it can
        assert arrived == []
        first.gate.set()
        drew = [future.result(WAIT_S).stats.parts[1].device for future in futures]
    assert arrived == [0, 1, 2, 3]
    assert set(drew) == {"cpu:0", "cpu:1"}


def test_an_older_frame_never_comes_after_a_newer_one() -> None:
    with two_held() as (engine, first, second):
        older = engine.submit(ask(1, view(33, 17)))
        assert first.started.acquire(timeout=WAIT_S)
        newer = engine.submit(ask(2, view(33, 17)))
        second.gate.set()
        assert newer.result(WAIT_S).request.sequence == 2
        assert older.done()
        with pytest.raises(RenderCancelled, match="a newer frame was ready"):
            older.result(0)


def test_all_running_refinements_give_way() -> None:
    gate = threading.Event()
    started = threading.Semaphore(0)

    def hold(cancel: Any) -> None:
        started.release()
        hang_until(cancel, 0 if gate.is_set() else WAIT_S)

    with RenderEngine(Troubled(hold), BALL, devices=cpu_devices(2, 2), schedule=BANDS) as engine:
        refining = engine.submit(ask(1, view(33, 70), preemptible=True))
        assert started.acquire(timeout=WAIT_S) and started.acquire(timeout=WAIT_S)
        gate.set()
        moving = engine.submit(ask(2, view(33, 70)))
        with pytest.raises(RenderCancelled):
            refining.result(WAIT_S)
        moving.result(WAIT_S)


def test_a_slow_device_gets_less_to_draw() -> None:
    def new_rasterizer(device: Device) -> Troubled:
        return Troubled(lambda _: time.sleep(0.005))

    with RenderEngine(
        NativeRasterizer(),
        BALL,
        devices=cpu_devices(2, 2),
        schedule=BANDS,
        new_rasterizer=new_rasterizer,
    ) as engine:
        shares = []
        for sequence in range(12):
            frame = draw(engine, ask(sequence, view(33, 640)))
            rows = {p.device: p.rows[0][1] - p.rows[0][0] for p in frame.stats.parts if p.eyes}
            shares.append(rows.get("cpu:1", 0) / 640)
        assert shares[0] == 0.5 and max(shares[-3:]) < 0.4
        assert engine.devices[1].weight < 0.7


def test_devices_join_when_frames_are_late() -> None:
    policy = ElasticPolicy(target_fps=200, most=2, grow_after=3, shrink_after=4)
    with RenderEngine(
        Troubled(lambda _: time.sleep(0.01)),
        BALL,
        devices=cpu_devices(2, 2),
        schedule=BANDS,
        elastic=policy,
    ) as engine:
        assert [device.in_use for device in engine.devices] == [True, False]
        frames = [draw(engine, ask(sequence, view(33, 70), rate_hz=200)) for sequence in range(8)]
        assert [device.in_use for device in engine.devices] == [True, True]
        assert engine.decision is not None and engine.decision.overloaded
    drew = [{part.device for part in frame.stats.parts if part.eyes} for frame in frames]
    assert drew[0] == {"cpu:0"} and drew[-1] == {"cpu:0", "cpu:1"}


def test_another_schedule_counts_from_the_next_frame_on() -> None:
    with RenderEngine(NativeRasterizer(), BALL, devices=cpu_devices(2, 2)) as engine:
        assert len(draw(engine, ask(1, view(33, 70))).stats.parts) == 3
        engine.set_schedule(BANDS)
        assert engine.schedule is BANDS
        assert len(draw(engine, ask(2, view(33, 70))).stats.parts) == 4
        with pytest.raises(SettingsError, match="deals out chunks"):
            engine.set_schedule(Schedule("mine", split=(Split(SplitBy.SHARD, order=Order.DEALT),)))
        assert len(draw(engine, ask(3, view(33, 70))).stats.parts) == 4


def test_helpers_draw_nothing() -> None:
    shipped = parse_schedule(shipped_texts()["pipelined"], "pipelined")
    with RenderEngine(
        NativeRasterizer(), BALL, devices=cpu_devices(3, 3), schedule=shipped
    ) as engine:
        frame = draw(engine, ask(1, view(33, 140)))
    assert {part.device for part in frame.stats.parts} == {"cpu:0", "cpu:1"}


def test_a_scene_that_is_not_made_for_the_memories_of_the_devices_is_refused(
    ball_store: Path,
) -> None:
    devices = (Device("cpu:0"), Device("cuda:0", memory="GPU 0"), Device("cpu:1"))
    with streaming(ball_store, 1, SCHEDULES[0]) as engine:
        scene = engine._line.scenes._scene
        with pytest.raises(SettingsError) as info:
            RenderEngine(NativeRasterizer(), scene, devices=devices)
    assert str(info.value) == (
        "devices: they have memories of their own (host, GPU 0), and the scene was made for host;"
        " make it for those of the devices"
    )


def test_several_clients_share_several_devices() -> None:
    """Each gets all of its newest views, and nobody's picture is another's."""
    with RenderEngine(
        FakeRasterizer(),
        Gaussians.empty(),
        devices=cpu_devices(3, 3),
        schedule=Schedule("f", split=FRAMES.split, shares=Shares.EQUAL),
        new_rasterizer=lambda _: FakeRasterizer(),
    ) as engine:

        def look(number: int) -> None:
            for sequence in range(40):
                x = number + sequence / 64
                frame = draw(engine, ask(sequence, view(9, 5, x), client=f"client {number}"))
                color = frame.images[0].color
                assert color is not None
                seen[number] += float(color[0, 0, 0]) == np.float32(x)

        seen = [0] * 4
        threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert seen == [40] * 4
