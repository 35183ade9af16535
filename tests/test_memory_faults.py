"""Devices that are lost with their memories: no frame, no lease and no byte is lost by it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from rendering.base import CancelFlag
from rendering.catching_up import CATCH_UP_S
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.schedule import Schedule, Shares
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.ledger import Budgets
from splat.errors import BelvedereError, RenderError
from tests.engine_devices import (
    BANDS,
    EYES,
    EYES_IN_BANDS,
    FRAMES,
    FRAMES_IN_BANDS,
    SINGLE,
    WAIT_S,
    Chaos,
    bytes_of,
)
from tests.own_memories import OwnDevices
from tests.schedules import shipped
from tests.test_engine_faults import QUICK, wait_until
from tests.test_engine_shards import EYES_IN_SHARDS, FRAMES_IN_SHARDS, SHARD
from tests.test_streamed_memories import (
    AMPLE,
    Asking,
    CountedStore,
    assert_right,
    drawing,
    drew,
    expected,
    scene_bytes,
    stream,
    street_store,
    view,
)

__all__ = ["expected", "street_store"]  # fixtures

ALL = (SINGLE, BANDS, EYES, EYES_IN_BANDS, FRAMES, FRAMES_IN_BANDS, SHARD, EYES_IN_SHARDS)


def lose(engine: RenderEngine, name: str) -> None:
    engine.restart_device(name)


def all_ready(engine: RenderEngine) -> bool:
    return all(device.ready for device in engine.devices)


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: schedule.name)
def test_a_device_that_is_lost_amid_a_picture_costs_no_frame(
    street_store: Path, expected: Frame, schedule: Schedule
) -> None:
    """What others have in memory they draw; otherwise the frame is begun again."""
    gate, started = threading.Event(), threading.Semaphore(0)
    gate.set()

    def hold(cancel: CancelFlag | None) -> None:
        started.release()
        assert gate.wait(WAIT_S)

    own = OwnDevices(3, hold)
    with drawing(street_store, own, schedule) as (engine, scene):
        client = Asking(engine)
        client.complete()
        for name in ("cpu:0", "cpu:1", "cpu:2"):
            gate.clear()
            while started.acquire(blocking=False):
                pass
            future = engine.submit(client.request())
            assert started.acquire(timeout=WAIT_S)
            lose(engine, name)
            assert scene.held_bytes(name)[0] <= scene.least_budgets.device_bytes
            gate.set()
            frame = future.result(WAIT_S)
            assert len(frame.images) == 2
            if stream(frame).complete:
                assert_right(schedule, frame, expected)
            assert frame.images[0].alpha[expected.images[0].alpha > 0.9].min() > 0.5
            wait_until(lambda: all_ready(engine))
            assert_right(schedule, client.complete(), expected)


IN_TURN = replace(FRAMES, shares=Shares.EQUAL)


@pytest.mark.parametrize("schedule", [BANDS, EYES, IN_TURN], ids=lambda schedule: schedule.name)
def test_a_device_that_starts_anew_makes_no_picture_coarser(
    street_store: Path, expected: Frame, schedule: Schedule
) -> None:
    """It loads what the others draw, and draws when it has that."""
    source, own = CountedStore(street_store), OwnDevices(2)
    with drawing(source, own, schedule) as (engine, scene):
        client = Asking(engine)
        client.complete()
        source.gate.clear()
        lose(engine, "cpu:1")
        wait_until(lambda: all_ready(engine))
        for _ in range(6):
            frame = client.draw()
            assert drew(frame) == {"cpu:0"}
            assert bytes_of(frame.images) == bytes_of(expected.images)
        assert scene.behind == {"cpu:1"}
        source.gate.set()
        drawn: set[str] = set()
        deadline_s = time.monotonic() + WAIT_S
        while "cpu:1" not in drawn and time.monotonic() < deadline_s:
            frame = client.draw()
            drawn |= drew(frame)
            assert bytes_of(frame.images) == bytes_of(expected.images)
        assert drawn == {"cpu:0", "cpu:1"} and not scene.behind
        assert len(own.made["cpu:1"]) == 2 and own.made["cpu:1"][1].meter.packed > 100


def test_a_device_that_cannot_catch_up_draws_after_a_while(street_store: Path) -> None:
    now_s = [0.0]
    source, own = CountedStore(street_store), OwnDevices(2)
    scene = StreamedScene(
        source, own.rasterizers, AMPLE, StreamPolicy(fade_s=0.0), clock=lambda: now_s[0]
    )
    with RenderEngine(
        own.first, scene, devices=own.devices, schedule=BANDS, new_rasterizer=own.new
    ) as engine:
        client = Asking(engine)
        client.complete()
        source.gate.clear()
        lose(engine, "cpu:1")
        wait_until(lambda: all_ready(engine))
        assert drew(client.draw()) == {"cpu:0"}
        now_s[0] += CATCH_UP_S + 0.1
        client.draw()
        frame = client.draw()
        assert drew(frame) == {"cpu:0", "cpu:1"} and not stream(frame).complete
        source.gate.set()


def test_with_nobody_else_left_an_empty_memory_is_drawn_from(
    street_store: Path, expected: Frame
) -> None:
    own = OwnDevices(2)
    with drawing(street_store, own, BANDS) as (engine, _):
        client = Asking(engine)
        client.complete()
        for _ in range(3):
            for name in ("cpu:0", "cpu:1"):
                lose(engine, name)
            frame = client.draw()
            covered = expected.images[0].alpha > 0.9
            assert frame.images[0].alpha[covered].min() > 0.5, "coarse, but no hole"
        assert_right(BANDS, client.complete(), expected)


def test_slabs_are_divided_among_those_that_are_left(street_store: Path, expected: Frame) -> None:
    """With less memory the picture is coarser; and as fine as before when it is there again."""
    tight = Budgets(AMPLE.host_bytes, int(0.9 * scene_bytes(street_store)))
    own = OwnDevices(2)
    hang = threading.Event()
    new = own.new

    def slow(device: object) -> object:
        assert hang.wait(WAIT_S)
        return new(device)  # type: ignore[arg-type]

    with drawing(street_store, own, SHARD, tight) as (engine, scene):
        client = Asking(engine)
        assert stream(client.complete()).error_px == 0
        engine._make = slow  # type: ignore[assignment]
        lose(engine, "cpu:1")
        alone = client.complete()
        assert drew(alone) == {"cpu:0"} and stream(alone).error_px > 0
        assert scene.held_bytes("cpu:1") == (0, tight.device_bytes)
        hang.set()
        wait_until(lambda: drew(client.draw()) == {"cpu:0", "cpu:1"})
        together = client.complete()
        assert stream(together).error_px == 0
        assert_right(SHARD, together, expected)


def test_a_device_that_retires_gives_its_memory_back(street_store: Path, expected: Frame) -> None:
    own = OwnDevices(2)
    with drawing(street_store, own, BANDS, faults=replace(QUICK, faults=1, patience_s=9)) as (
        engine,
        scene,
    ):
        client = Asking(engine)
        client.complete()

        def fail(cancel: CancelFlag | None) -> None:
            raise ZeroDivisionError("bad tile")

        own.made["cpu:1"][0].trouble = fail
        assert_right(BANDS, client.draw(), expected)
        wait_until(lambda: engine.devices[1].retired)
        assert scene.held_bytes("cpu:1")[0] == 0
        assert scene.present == {"cpu:0"}
        assert [m.held_bytes > 0 for m in engine.memories] == [True, False]
        assert_right(BANDS, client.complete(), expected)


def test_a_request_that_fails_everywhere_is_at_fault_itself(street_store: Path) -> None:
    def fail(cancel: CancelFlag | None) -> None:
        raise ZeroDivisionError("bad tile")

    own = OwnDevices(2)
    for schedule in (SINGLE, SHARD):
        own = OwnDevices(2)
        with drawing(street_store, own, schedule) as (engine, _):
            client = Asking(engine)
            client.complete()
            for made in own.made.values():
                made[0].trouble = fail
            with pytest.raises(RenderError, match="bad tile"):
                client.draw()
            assert [device.faults for device in engine.devices] == [0, 0]


class Watch:
    """Looks at the memories of a scene again and again."""

    def __init__(self, scene: StreamedScene) -> None:
        self._scene, self._over = scene, threading.Event()
        self.looks, self.most = 0, 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.001):
            for memory in self._scene.memories:
                held, most = self._scene.held_bytes(memory)
                assert held <= most
                self.most = max(self.most, held)
            stats = self._scene.stats()
            assert stats.host_bytes <= stats.budgets.host_bytes
            self.looks += 1

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        assert self.looks > 10 and self.most > 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "schedule", [*shipped().values(), FRAMES_IN_SHARDS], ids=lambda schedule: schedule.name
)
def test_whatever_happens_every_client_is_answered_and_no_budget_exceeded(
    street_store: Path, schedule: Schedule, seed: int
) -> None:
    """Devices raise, vanish, die, hang and are restarted at random moments, with their memories."""
    chaos = Chaos(seed, share=0.08, hang_s=0.25)
    faults = replace(QUICK, patience_s=0.2)
    tight = Budgets(2 << 20, int(0.5 * scene_bytes(street_store)))
    answers: list[tuple[FrameRequest, Future[Frame]]] = []
    over = threading.Event()

    def look(engine: RenderEngine, name: str, eyes: int) -> None:
        client = Asking(engine, name, replaces=name != "export")
        for sequence in range(12):
            z = -7.0 + sequence
            request = client.request(*(view(z, 0.1 * eye) for eye in range(eyes)))
            future = engine.submit(replace(request, preemptible=sequence % 3 == 0))
            answers.append((request, future))
            if sequence % 2:
                error = future.exception(WAIT_S) if not future.cancelled() else None
                assert error is None or isinstance(error, BelvedereError)

    def meddle(engine: RenderEngine) -> None:
        turn = seed
        while not over.wait(0.05):
            turn += 1
            engine.restart_device(f"cpu:{turn % 3}")

    own = OwnDevices(3, chaos)
    with drawing(street_store, own, schedule, tight, faults=faults) as (engine, scene):
        watch = Watch(scene)
        clients = [
            threading.Thread(target=look, args=(engine, name, eyes))
            for name, eyes in (("headset", 2), ("walker", 1), ("export", 1))
        ]
        meddler = threading.Thread(target=meddle, args=(engine,))
        for thread in (*clients, meddler):
            thread.start()
        for thread in clients:
            thread.join(4 * WAIT_S)
        over.set()
        meddler.join()
        outcomes = [(request, future.exception(WAIT_S)) for request, future in answers]
        chaos.over = True
        wait_until(lambda: all_ready(engine))
        last = Asking(engine, "last").complete()
        watch.end()
    assert len(last.images) == 2 and len(answers) == 36
    assert chaos.happened and sum(len(made) for made in own.made.values()) > 6
    for _, error in outcomes:
        assert error is None or isinstance(error, RenderError), error
    frames = [(request, future.result()) for request, future in answers if not future.exception()]
    assert len(frames) > 8
    for request, frame in frames:
        assert len(frame.images) == len(request.cameras)
