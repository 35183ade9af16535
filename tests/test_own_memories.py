"""Scenes in memory on devices with memories of their own: each draws its own form of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from rendering.base import CancelFlag, Outputs, RasterSettings
from rendering.device import HOST_MEMORY, cpu_devices, parse_devices
from rendering.device_health import FaultPolicy
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.layers import LAYERED
from rendering.native.cpu import NativeRasterizer
from rendering.schedule import Schedule
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS, EYES, FRAMES, SINGLE, WAIT_S, Chaos, bytes_of
from tests.own_memories import OwnDevices
from tests.scenes import random_scene
from tests.schedules import shipped
from tests.test_engine_faults import PATIENT, QUICK, wait_until
from tests.test_engine_shards import assert_near

BALL = random_scene(3, 300, 1)
ALL = RasterSettings(outputs=Outputs.ALL, threads=1)


def view(x: float = 0.0) -> Camera:
    eye = (x, -0.5, -6.0)
    return Camera.look_at(eye, (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=75, height=131)


def ask(sequence: int, *cameras: Camera, **wishes: Any) -> FrameRequest:
    return replace(FrameRequest("a", sequence, cameras or (view(), view(0.2)), ALL), **wishes)


def draw(engine: RenderEngine, request: FrameRequest) -> Frame:
    return engine.submit(request).result(WAIT_S)


@contextmanager
def drawing(
    own: OwnDevices, schedule: Schedule, faults: FaultPolicy = PATIENT, scene: Gaussians = BALL
) -> Iterator[RenderEngine]:
    with RenderEngine(
        own.first,
        scene,
        devices=own.devices,
        schedule=schedule,
        new_rasterizer=own.new,
        faults=faults,
    ) as engine:
        yield engine


def plain(request: FrameRequest, scene: Gaussians = BALL) -> Frame:
    with RenderEngine(NativeRasterizer(), scene) as engine:
        return draw(engine, request)


def assert_right(schedule: str, frame: Frame, expected: Frame) -> None:
    if schedule == "shard":
        assert_near(frame.images, expected.images)
    else:
        assert bytes_of(frame.images) == bytes_of(expected.images)


def test_devices_share_the_hosts_memory_unless_they_are_told_otherwise() -> None:
    assert {device.memory for device in cpu_devices(3, 3)} == {HOST_MEMORY}
    own = parse_devices("3", 4, own_memories=True)
    assert [device.memory for device in own] == ["cpu:0", "cpu:1", "cpu:2"]
    assert [device.threads for device in own] == [2, 1, 1]
    assert parse_devices("1", own_memories=True) == cpu_devices(1)


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("count", [2, 3])
def test_every_schedule_draws_what_one_device_draws(name: str, count: int) -> None:
    request = ask(1, settings=replace(ALL, outputs=LAYERED))
    expected = plain(request)
    with drawing(OwnDevices(count), shipped()[name]) as engine:
        frames = [draw(engine, replace(request, sequence=number)) for number in range(3)]
    for frame in frames:
        assert_right(name, frame, expected)


def test_the_scene_is_in_each_memory_and_what_it_takes_there_is_told() -> None:
    own = OwnDevices(2)
    with RenderEngine(NativeRasterizer(), BALL, devices=own.devices) as engine:
        first, second = engine.memories
        assert (first.memory, first.devices) == ("cpu:0", ("cpu:0",))
        assert first.held_bytes == second.held_bytes > 300 * 40
        assert engine.add_coarser(BALL[::3])
        assert engine.memories[1].held_bytes > second.held_bytes
        engine.replace_scene(BALL[::2])
        assert engine.memories[1].held_bytes < second.held_bytes
    with RenderEngine(NativeRasterizer(), BALL, devices=cpu_devices(3, 3)) as engine:
        (shared,) = engine.memories
        assert shared.devices == ("cpu:0", "cpu:1", "cpu:2") and shared.memory == HOST_MEMORY


@pytest.mark.parametrize("schedule", [SINGLE, BANDS, EYES, FRAMES])
def test_a_device_that_starts_anew_has_the_scene_and_all_its_levels_again(
    schedule: Schedule,
) -> None:
    own = OwnDevices(2)
    coarse = random_scene(5, 100, 1)
    with drawing(own, schedule) as engine:
        draw(engine, ask(0))
        engine.add_coarser(coarse)
        for name in ("cpu:0", "cpu:1"):
            engine.restart_device(name)
            wait_until(lambda: all(device.ready for device in engine.devices))
        for sequence in (1, 2):
            fine = draw(engine, ask(sequence))
            assert bytes_of(fine.images) == bytes_of(plain(ask(1)).images)
        for sequence in (3, 4):
            rough = draw(engine, ask(sequence, detail=1))
            assert bytes_of(rough.images) == bytes_of(plain(ask(1), coarse).images)
        assert {len(made) for made in own.made.values()} == {2}


@pytest.mark.parametrize("schedule", [SINGLE, BANDS, EYES, FRAMES])
def test_a_device_that_is_lost_amid_a_picture_costs_no_frame(schedule: Schedule) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def hold(cancel: CancelFlag | None) -> None:
        started.release()
        assert gate.wait(WAIT_S)

    with drawing(OwnDevices(2, hold), schedule) as engine:
        future = engine.submit(ask(1))
        assert started.acquire(timeout=WAIT_S)
        engine.restart_device("cpu:0")
        gate.set()
        assert bytes_of(future.result(WAIT_S).images) == bytes_of(plain(ask(1)).images)


def test_one_device_with_a_memory_of_its_own_starts_anew() -> None:
    own = OwnDevices(2)
    own.devices = own.devices[1:]
    with RenderEngine(
        own.new(own.devices[0]), BALL, devices=own.devices, new_rasterizer=own.new
    ) as engine:
        draw(engine, ask(1))
        engine.restart_device("cpu:1")
        assert bytes_of(draw(engine, ask(2)).images) == bytes_of(plain(ask(1)).images)
    assert len(own.made["cpu:1"]) == 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", shipped())
def test_pictures_in_the_midst_of_trouble_are_the_right_ones(name: str, seed: int) -> None:
    chaos = Chaos(seed, share=0.12, hang_s=0.12)
    request = ask(1, settings=replace(ALL, outputs=LAYERED))
    expected, drawn = plain(request), 0
    with drawing(OwnDevices(3, chaos), shipped()[name], QUICK) as engine:
        for sequence in range(30):
            future = engine.submit(replace(request, sequence=sequence))
            if future.exception(WAIT_S) is None:
                drawn += 1
                assert_right(name, future.result(), expected)
        chaos.over = True
    assert drawn > 12 and len(chaos.happened) > 4
