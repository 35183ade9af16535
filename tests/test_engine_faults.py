"""Devices that fail at any moment: no frame, no lease and no byte is lost by it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rendering.base import CancelFlag, RasterSettings
from rendering.device import Device, DeviceLost, cpu_devices
from rendering.device_health import FaultPolicy
from rendering.drawable import DrawableScene
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.native.cpu import NativeRasterizer
from rendering.schedule import Schedule
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import BelvedereError, BudgetError, RenderCancelled, RenderError
from splat.gaussians import Gaussians
from tests.engine_devices import (
    BANDS,
    EYES,
    FRAMES,
    FRAMES_IN_BANDS,
    SINGLE,
    WAIT_S,
    Chaos,
    Killed,
    Troubled,
    bytes_of,
    hang_until,
)
from tests.scenes import random_scene

BALL = random_scene(3, 300, 0)
QUICK = FaultPolicy(
    first_pause_s=0.001, last_pause_s=0.01, faults=1_000_000, patience_s=0.08, closing_s=0.5
)
PATIENT = replace(QUICK, patience_s=WAIT_S)


def view(x: float = 0.0) -> Camera:
    return Camera.look_at(
        (x, -0.5, -6.0), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=41, height=131
    )


def ask(sequence: int, *xs: float, client: str = "a", **wishes: Any) -> FrameRequest:
    cameras = tuple(view(x) for x in xs or (0.0,))
    return replace(FrameRequest(client, sequence, cameras, RasterSettings(threads=1)), **wishes)


def plain(request: FrameRequest) -> list[bytes]:
    """What it looks like without trouble."""
    rasterizer = NativeRasterizer()
    scene = rasterizer.prepare(BALL)
    return bytes_of([rasterizer.render(scene, c, request.settings) for c in request.cameras])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came about"
        time.sleep(0.002)


@contextmanager
def devices(
    *troubles: Callable[[CancelFlag | None], None],
    schedule: Schedule = BANDS,
    policy: FaultPolicy = PATIENT,
    scene: Gaussians | DrawableScene = BALL,
) -> Iterator[RenderEngine]:
    """An engine with a device for each trouble, which it keeps when it starts anew."""
    made = {f"cpu:{i}": trouble for i, trouble in enumerate(troubles)}

    def new_rasterizer(device: Device) -> Troubled:
        return Troubled(made[device.name])

    with RenderEngine(
        Troubled(troubles[0]),
        scene,
        devices=cpu_devices(len(troubles), len(troubles)),
        schedule=schedule,
        new_rasterizer=new_rasterizer,
        faults=policy,
    ) as engine:
        yield engine


def fine(cancel: CancelFlag | None) -> None:
    """No trouble."""


Fault = Callable[[], BaseException]
BAD_TILE: Fault = lambda: ZeroDivisionError("bad tile")  # noqa: E731
GONE: Fault = lambda: DeviceLost("gone")  # noqa: E731


def failing(error: Fault, times: int = 1_000_000) -> Callable[[CancelFlag | None], None]:
    left = [times]

    def fail(cancel: CancelFlag | None) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error()

    return fail


@pytest.mark.parametrize(
    "error", [BAD_TILE, GONE, Killed, MemoryError], ids=["error", "lost", "killed", "memory"]
)
@pytest.mark.parametrize("schedule", [SINGLE, BANDS, EYES, FRAMES])
def test_what_a_device_fails_at_another_one_draws(error: Fault, schedule: Schedule) -> None:
    with devices(failing(error), fine, schedule=schedule) as engine:
        request = ask(1, 0.0, 0.2)
        frame = engine.submit(request).result(WAIT_S)
        assert bytes_of(frame.images) == plain(request)
        assert {part.device for part in frame.stats.parts if part.eyes} == {"cpu:1"}
        assert max(part.attempts for part in frame.stats.parts) == 2
        assert engine.devices[0].faults == 1 and engine.devices[1].faults == 0
        wait_until(lambda: all(device.ready for device in engine.devices))


def test_a_device_that_failed_once_draws_again_with_a_new_rasterizer() -> None:
    made: list[Device] = []

    def new_rasterizer(device: Device) -> Troubled:
        made.append(device)
        return Troubled()

    with RenderEngine(
        Troubled(failing(GONE)),
        BALL,
        devices=cpu_devices(2, 2),
        schedule=BANDS,
        new_rasterizer=new_rasterizer,
        faults=PATIENT,
    ) as engine:
        engine.submit(ask(1)).result(WAIT_S)
        wait_until(lambda: engine.devices[0].ready)
        frame = engine.submit(ask(2)).result(WAIT_S)
        assert {part.device for part in frame.stats.parts if part.eyes} == {"cpu:0", "cpu:1"}
    assert [device.name for device in made] == ["cpu:1", "cpu:0"]


def test_a_request_that_fails_everywhere_is_at_fault_itself() -> None:
    with devices(*(failing(BAD_TILE, 2) for _ in range(2)), schedule=SINGLE) as engine:
        with pytest.raises(RenderError) as info:
            engine.submit(ask(1)).result(WAIT_S)
        assert str(info.value) == "drawing failed: ZeroDivisionError: bad tile"
        assert [device.faults for device in engine.devices] == [0, 0]


@pytest.mark.parametrize("schedule", [SINGLE, BANDS, EYES])
def test_an_error_on_purpose_is_the_requests_and_nobody_else_tries(schedule: Schedule) -> None:
    refusal = BudgetError("too large")
    with devices(failing(lambda: refusal), fine, schedule=schedule) as engine:
        assert engine.submit(ask(1, 0.0, 0.2)).exception(WAIT_S) is refusal
        assert [device.faults for device in engine.devices] == [0, 0]


def test_a_fault_in_the_books_costs_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost_count(images: object) -> None:
        raise ZeroDivisionError("no time at all")

    monkeypatch.setattr("rendering.frame_jobs.work_of", lost_count)
    with devices(fine, fine) as engine:
        for sequence in range(3):
            frame = engine.submit(ask(sequence)).result(WAIT_S)
            assert bytes_of(frame.images) == plain(ask(sequence))


def test_one_device_alone_is_not_blamed() -> None:
    with devices(failing(BAD_TILE, 1)) as engine:
        with pytest.raises(RenderError, match="bad tile"):
            engine.submit(ask(1)).result(WAIT_S)
        assert engine.devices[0].faults == 0 and engine.devices[0].ready
        assert bytes_of(engine.submit(ask(2)).result(WAIT_S).images) == plain(ask(2))


def test_one_device_alone_starts_anew() -> None:
    with devices(failing(Killed, 1)) as engine:
        with pytest.raises(RenderError, match="drawing failed: Killed"):
            engine.submit(ask(1)).result(WAIT_S)
        assert bytes_of(engine.submit(ask(2)).result(WAIT_S).images) == plain(ask(2))


@pytest.mark.parametrize("schedule", [SINGLE, BANDS, EYES])
def test_one_device_alone_that_is_lost_draws_the_frame_when_it_is_back(schedule: Schedule) -> None:
    with devices(failing(GONE, 3), schedule=schedule) as engine:
        request = ask(1, 0.0, 0.2)
        assert bytes_of(engine.submit(request).result(WAIT_S).images) == plain(request)
        assert engine.devices[0].faults == 3


def test_a_frame_over_which_the_only_device_is_always_lost_is_given_up() -> None:
    with devices(failing(GONE, 4)) as engine:
        with pytest.raises(RenderError, match="drawing failed: DeviceLost: gone"):
            engine.submit(ask(1)).result(WAIT_S)
        assert engine.devices[0].faults == 4
        assert bytes_of(engine.submit(ask(2)).result(WAIT_S).images) == plain(ask(2))


def test_a_device_that_hangs_is_taken_for_lost() -> None:
    release = threading.Event()

    def hang(cancel: CancelFlag | None) -> None:
        assert release.wait(WAIT_S)

    with devices(hang, fine, policy=QUICK) as engine:
        request = ask(1, 0.0, 0.2)
        assert bytes_of(engine.submit(request).result(WAIT_S).images) == plain(request)
        assert engine.devices[0].faults == 1
        release.set()  # what it brings now counts for nothing
        wait_until(lambda: engine.devices[0].ready)
        assert bytes_of(engine.submit(ask(2)).result(WAIT_S).images) == plain(ask(2))


def test_a_request_over_which_every_device_hangs_is_given_up() -> None:
    release = threading.Event()

    def hang(cancel: CancelFlag | None) -> None:
        assert release.wait(WAIT_S)

    with devices(hang, hang, policy=QUICK) as engine:
        with pytest.raises(RenderError, match=r"it was at one part for 0.08 s"):
            engine.submit(ask(1)).result(WAIT_S)
        release.set()
        assert bytes_of(engine.submit(ask(2)).result(WAIT_S).images) == plain(ask(2))


def test_a_device_retires_and_that_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = replace(PATIENT, faults=3)
    with (
        caplog.at_level(logging.WARNING),
        devices(failing(Killed), fine, policy=policy) as engine,
    ):
        for sequence in range(30):
            request = ask(sequence)
            assert bytes_of(engine.submit(request).result(WAIT_S).images) == plain(request)
            wait_until(lambda: engine.devices[0].ready or engine.devices[0].retired)
        assert engine.devices[0].retired and engine.devices[0].faults == 3
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "cpu:0 failed: Killed; others do its work, and it starts anew"),
        ("ERROR", "cpu:0 failed again and again, the last time of Killed; it is no longer used"),
    ]


def test_a_device_that_cannot_start_anew_is_tried_again_until_it_retires() -> None:
    def new_rasterizer(device: Device) -> Troubled:
        if device.name == "cpu:0":
            raise OSError("no driver")
        return Troubled()

    with RenderEngine(
        Troubled(failing(GONE)),
        BALL,
        devices=cpu_devices(2, 2),
        schedule=BANDS,
        new_rasterizer=new_rasterizer,
        faults=replace(PATIENT, faults=4),
    ) as engine:
        assert bytes_of(engine.submit(ask(1)).result(WAIT_S).images) == plain(ask(1))
        wait_until(lambda: engine.devices[0].retired)
        assert bytes_of(engine.submit(ask(2)).result(WAIT_S).images) == plain(ask(2))


def test_a_device_that_hangs_as_it_starts_anew_holds_up_no_request() -> None:
    release = threading.Event()

    def new_rasterizer(device: Device) -> Troubled:
        if device.name == "cpu:0":
            assert release.wait(WAIT_S)
        return Troubled(failing(BAD_TILE))

    with RenderEngine(
        Troubled(),
        BALL,
        devices=cpu_devices(2, 2),
        new_rasterizer=new_rasterizer,
        faults=replace(QUICK, faults=2),
    ) as engine:
        engine.restart_device("cpu:0")
        with pytest.raises(RenderError, match="drawing failed on every device"):
            engine.submit(ask(1)).result(WAIT_S)
        assert engine.devices[0].retired
        release.set()


def test_a_callback_that_hangs_holds_up_nobody_for_long() -> None:
    release, arrived = threading.Event(), threading.Event()
    with devices(fine, fine, policy=QUICK) as engine:
        slow = engine.submit(ask(1, replaces=False))
        slow.add_done_callback(lambda _: release.wait(WAIT_S))
        next_one = engine.submit(ask(2, replaces=False))
        next_one.add_done_callback(lambda _: arrived.set())
        assert arrived.wait(WAIT_S)
        release.set()
        assert [device.faults for device in engine.devices] == [0, 0]


def test_a_device_is_restarted_without_blame_and_no_frame_is_lost() -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def hold(cancel: CancelFlag | None) -> None:
        started.release()
        hang_until(cancel, 0 if gate.is_set() else WAIT_S)

    with devices(hold) as engine:
        future = engine.submit(ask(1))
        assert started.acquire(timeout=WAIT_S)
        gate.set()
        engine.restart_device("cpu:0")
        assert bytes_of(future.result(WAIT_S).images) == plain(ask(1))
        assert engine.devices[0].faults == 0
        engine.restart_device("cpu:7")  # there is none


def test_closing_leaves_a_device_alone_that_does_not_stop() -> None:
    release, started = threading.Event(), threading.Semaphore(0)

    def hang(cancel: CancelFlag | None) -> None:
        started.release()
        assert release.wait(WAIT_S)

    with devices(hang, hang, policy=replace(QUICK, patience_s=WAIT_S)) as engine:
        futures = [engine.submit(ask(1)), engine.submit(ask(1, client="b"))]
        assert started.acquire(timeout=WAIT_S)
        engine.close()
        for future in futures:
            with pytest.raises(RenderCancelled):
                future.result(0)
        release.set()


def test_an_engine_may_be_closed_by_a_callback() -> None:
    engine_box: list[RenderEngine] = []
    closed = threading.Event()

    def close(_: Future[Frame]) -> None:
        engine_box[0].close()
        closed.set()

    with devices(fine, fine) as engine:
        engine_box.append(engine)
        futures = [engine.submit(ask(sequence, client=c)) for sequence in (1, 2) for c in "abc"]
        futures[0].add_done_callback(close)
        assert closed.wait(WAIT_S)
        assert all(future.done() for future in futures)


def test_a_callback_that_kills_its_thread_holds_up_nobody() -> None:
    def kill(_: Future[Frame]) -> None:
        raise Killed

    with devices(fine, fine) as engine:
        future = engine.submit(ask(1))
        future.add_done_callback(kill)
        future.result(WAIT_S)
        assert bytes_of(engine.submit(ask(2)).result(WAIT_S).images) == plain(ask(2))


class Brittle:
    """A scene that cannot always be had."""

    def __init__(self, scene: DrawableScene, trouble: Callable[[], None]) -> None:
        self._scene, self._trouble = scene, trouble

    @property
    def detail_counts(self) -> tuple[int, ...]:
        return self._scene.detail_counts

    @contextmanager
    def acquire(self, request: FrameRequest) -> Iterator[Any]:
        self._trouble()
        with self._scene.acquire(request) as drawable:
            self._trouble()
            yield drawable

    def forget(self, client: str) -> None:
        self._scene.forget(client)

    def close(self) -> None:
        self._scene.close()


@pytest.fixture(scope="module")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    ball = random_scene(5, 4_000, 0)
    write_ply(folder / "ball.ply", [ball], len(ball), 0)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "ball.ply"], folder / "ball.bvs", options)
    return folder / "ball.bvs"


@contextmanager
def stream(store: Path) -> Iterator[StreamedScene]:
    budgets = Budgets(16 << 20, 16 << 20)
    scene = StreamedScene(open_store(store), NativeRasterizer(), budgets, StreamPolicy(fade_s=0.0))
    yield scene
    scene.close()


@pytest.mark.parametrize("schedule", [BANDS, EYES])
def test_a_scene_that_fails_fails_the_frame_and_nobody_is_blamed(
    ball_store: Path, schedule: Schedule
) -> None:
    left = [1]

    def fail_once() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise ZeroDivisionError("no cut")

    with (
        stream(ball_store) as scene,
        devices(fine, fine, schedule=schedule, scene=Brittle(scene, fail_once)) as engine,
    ):
        with pytest.raises(RenderError, match="drawing failed: ZeroDivisionError: no cut"):
            engine.submit(ask(1)).result(WAIT_S)
        assert engine.submit(ask(2)).result(WAIT_S).images
        assert [device.faults for device in engine.devices] == [0, 0]
        assert scene.stats().leased == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("schedule", [SINGLE, BANDS, EYES, FRAMES, FRAMES_IN_BANDS])
def test_whatever_happens_every_client_is_answered(
    ball_store: Path, schedule: Schedule, seed: int
) -> None:
    """Devices raise, vanish, die, hang and are restarted, at random moments."""
    chaos = Chaos(seed, share=0.2, hang_s=0.15)
    answers: list[tuple[FrameRequest, Future[Frame]]] = []
    arrived: dict[str, list[int]] = {}
    over = threading.Event()

    def look(engine: RenderEngine, client: str) -> None:
        for sequence in range(12):
            request = ask(sequence, *((0.0, 0.2) if client == "headset" else (0.1,)), client=client)
            request = replace(request, preemptible=sequence % 3 == 0, replaces=client != "export")
            future = engine.submit(request)
            future.add_done_callback(note)
            answers.append((request, future))
            if sequence % 2:
                with_error = future.exception(WAIT_S) if not future.cancelled() else None
                assert with_error is None or isinstance(with_error, BelvedereError)

    def note(future: Future[Frame]) -> None:
        if future.exception() is None:
            request = future.result().request
            arrived.setdefault(request.client, []).append(request.sequence)

    def meddle(engine: RenderEngine) -> None:
        turn = seed
        while not over.wait(0.03):
            turn += 1
            engine.restart_device(f"cpu:{turn % 3}")

    with (
        stream(ball_store) as scene,
        devices(*[chaos] * 3, schedule=schedule, policy=QUICK, scene=scene) as engine,
    ):
        clients = [
            threading.Thread(target=look, args=(engine, name))
            for name in ("headset", "walker", "export")
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
        assert {"error", "lost", "killed", "hangs", "stalls"} & set(chaos.happened)
        wait_until(lambda: all(device.ready for device in engine.devices))
        assert scene.wait_until_settled(WAIT_S)
        last = engine.submit(ask(99, 0.0, 0.2)).result(WAIT_S)
        assert len(last.images) == 2
        # A frame in vain is answered at once, and holds its chunks until its devices stop.
        wait_until(lambda: scene.stats().leased == 0)
        residency = scene.stats()
        assert residency.device_bytes <= residency.budgets.device_bytes
    assert len(answers) == 36
    for _, error in outcomes:
        assert error is None or isinstance(error, RenderError)
    for request, future in answers:
        if future.exception() is None:
            images = future.result().images
            assert len(images) == len(request.cameras)
            assert all(image.alpha.shape == (131, 41) for image in images)
    for sequences in arrived.values():
        assert sequences == sorted(sequences)


def test_pictures_in_the_midst_of_trouble_are_the_right_ones() -> None:
    chaos = Chaos(7, share=0.15, hang_s=0.1)
    with devices(*[chaos] * 3, schedule=BANDS, policy=QUICK) as engine:
        drawn = 0
        for sequence in range(60):
            request = ask(sequence, sequence / 60)
            future = engine.submit(request)
            if future.exception(WAIT_S) is None:
                drawn += 1
                assert bytes_of(future.result().images) == plain(request)
        assert drawn > 30 and len(chaos.happened) > 10
