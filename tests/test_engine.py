"""The engine's threads: every future is resolved, whatever happens to its frame."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.scheduler import MOST_WAITING
from splat.camera import Camera
from splat.errors import BudgetError, RenderCancelled, RenderError
from splat.gaussians import Gaussians
from tests.engine_devices import FRAMES, Killed
from tests.fake_rasterizer import WAIT_S, FakeRasterizer


def camera_at(x: float = 0.0) -> Camera:
    return Camera.look_at((x, 0, -1), (x, 0, 0), (0, -1, 0), fov_y_rad=1.0, width=9, height=5)


def ask(
    client: str = "a", sequence: int = 0, x: float = 0.0, *, preemptible: bool = False
) -> FrameRequest:
    return FrameRequest(client, sequence, (camera_at(x),), preemptible=preemptible)


def red(future: Future[Frame]) -> float:
    color = future.result(WAIT_S).images[0].color
    assert color is not None
    return float(color[0, 0, 0])


@pytest.fixture
def rasterizer() -> FakeRasterizer:
    return FakeRasterizer()


@pytest.fixture
def engine(rasterizer: FakeRasterizer) -> Iterator[RenderEngine]:
    with RenderEngine(rasterizer, Gaussians.empty()) as engine:
        yield engine
        rasterizer.gate.set()


def hold_one_frame(
    engine: RenderEngine, rasterizer: FakeRasterizer, *, preemptible: bool = False
) -> Future[Frame]:
    """Start a frame that runs until the gate opens."""
    rasterizer.gate.clear()
    future = engine.submit(ask(preemptible=preemptible))
    rasterizer.wait_started()
    return future


def test_a_frame_carries_its_request_images_and_costs(engine: RenderEngine) -> None:
    request = ask(x=0.25)
    frame = engine.submit(request).result(WAIT_S)
    assert frame.request is request
    assert frame.images[0].alpha.shape == (5, 9)
    assert frame.stats.queue_ms >= 0
    assert frame.stats.render_ms >= 0
    assert frame.stats.raster[0].stage_ms == {"project": 1.0, "composite": 2.0}


def test_two_cameras_give_two_images_in_order(engine: RenderEngine) -> None:
    request = FrameRequest("a", 0, (camera_at(0.25), camera_at(0.75)))
    left, right = engine.submit(request).result(WAIT_S).images
    assert left.color is not None and right.color is not None
    assert (left.color[0, 0, 0], right.color[0, 0, 0]) == (0.25, 0.75)


def test_the_latest_of_the_waiting_requests_wins(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    running = hold_one_frame(engine, rasterizer)
    waiting = [engine.submit(ask(sequence=n, x=n / 8)) for n in (1, 2, 3)]
    for replaced in waiting[:-1]:
        with pytest.raises(RenderCancelled):
            replaced.result(WAIT_S)
    rasterizer.gate.set()
    assert red(running) == 0.0
    assert red(waiting[-1]) == 3 / 8
    assert len(rasterizer.views) == 2


def test_a_running_preemptible_frame_gives_way(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    refining = hold_one_frame(engine, rasterizer, preemptible=True)
    moving = engine.submit(ask(sequence=1, x=0.5))
    with pytest.raises(RenderCancelled):
        refining.result(WAIT_S)
    rasterizer.gate.set()
    assert red(moving) == 0.5


def test_a_late_request_is_refused_not_drawn(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    rasterizer.gate.clear()
    newest = engine.submit(ask(sequence=5))
    with pytest.raises(RenderCancelled):
        engine.submit(ask(sequence=4)).result(WAIT_S)
    rasterizer.gate.set()
    newest.result(WAIT_S)


def test_no_client_starves(engine: RenderEngine, rasterizer: FakeRasterizer) -> None:
    """While one client floods the engine, another is served after one frame at most."""
    hold_one_frame(engine, rasterizer)
    flood = engine.submit(ask("a", 1, x=0.1))
    patient = engine.submit(ask("b", 0, x=0.9))
    for n in range(2, 50):
        flood = engine.submit(ask("a", n, x=0.1))
    rasterizer.gate.set()
    red(patient), red(flood)
    order = [round(float(view.position[0]), 3) for view in rasterizer.views]
    assert order.index(0.9) <= 2
    assert len(order) == 3


def test_who_waits_past_a_deadline_hears_so_at_once(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    running = hold_one_frame(engine, rasterizer)
    now_s = time.monotonic()
    late = [
        engine.submit(replace(ask(client, x=0.5), deadline_s=now_s + wait_s))
        for client, wait_s in (("b", 0.15), ("c", 0.05), ("d", 0.1), ("e", -1.0))
    ]
    patient = engine.submit(replace(ask("f", x=0.75), deadline_s=now_s + WAIT_S))
    for future in late:
        with pytest.raises(RenderCancelled, match="too busy to draw this frame in time"):
            future.result(WAIT_S)
    assert not running.done() and not patient.done(), "the device is still at its frame"
    rasterizer.gate.set()
    assert red(patient) == 0.75
    assert len(rasterizer.views) == 2, "nothing was drawn in vain"


def test_a_callback_that_would_end_its_thread_keeps_no_answer_from_others(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    def end(_: Future[Frame]) -> None:
        raise Killed

    hold_one_frame(engine, rasterizer)
    for turn in range(2):
        deadline_s = time.monotonic() + 0.5
        late = [
            engine.submit(replace(ask(name, sequence=turn), deadline_s=deadline_s))
            for name in (f"{turn}b", f"{turn}c", f"{turn}d")
        ]
        for future in late:
            future.add_done_callback(end)
        for future in late:
            with pytest.raises(RenderCancelled, match="too busy"):
                future.result(WAIT_S)


def test_what_was_begun_in_time_is_drawn_to_its_end(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    rasterizer.gate.clear()
    future = engine.submit(replace(ask(x=0.5), deadline_s=time.monotonic() + 0.2))
    rasterizer.wait_started()
    with pytest.raises(RenderCancelled):
        engine.submit(replace(ask("b"), deadline_s=time.monotonic() + 0.25)).result(WAIT_S)
    rasterizer.gate.set()
    assert red(future) == 0.5


def test_a_replaced_request_takes_its_deadline_with_it(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    hold_one_frame(engine, rasterizer)
    older = engine.submit(replace(ask("b", 1), deadline_s=time.monotonic() + 0.02))
    newer = engine.submit(ask("b", 2, x=0.5))
    with pytest.raises(RenderCancelled, match="a newer request"):
        older.result(WAIT_S)
    time.sleep(0.04)
    rasterizer.gate.set()
    assert red(newer) == 0.5


def test_frames_that_are_all_wanted_have_no_deadline() -> None:
    with pytest.raises(ValueError, match="has no deadline"):
        replace(ask(), replaces=False, deadline_s=1.0)


def test_a_client_that_wants_every_frame_may_only_have_so_many_wait(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    hold_one_frame(engine, rasterizer)
    wanted = [replace(ask("export", i), replaces=False) for i in range(MOST_WAITING + 1)]
    futures = [engine.submit(request) for request in wanted[:-1]]
    with pytest.raises(RenderError, match="128 frames of export wait to be drawn; take some"):
        engine.submit(wanted[-1])
    other = engine.submit(ask("b", x=0.5))
    rasterizer.gate.set()
    assert red(other) == 0.5
    futures[0].result(WAIT_S)
    futures.append(engine.submit(wanted[-1]))
    assert [future.result(WAIT_S).request.sequence for future in futures] == list(
        range(MOST_WAITING + 1)
    )


def test_an_impatient_client_has_one_frame_a_group_under_way_and_one_waiting() -> None:
    rasterizer, count = FakeRasterizer(), 2
    rasterizer.gate.clear()
    with RenderEngine(
        rasterizer, Gaussians.empty(), devices=cpu_devices(count, count), schedule=FRAMES
    ) as engine:
        futures = []
        for sequence in range(10):
            futures.append(engine.submit(ask(sequence=sequence)))
            if sequence < count:
                rasterizer.wait_started()
        waiting = [future for future in futures if not future.done() and not future.running()]
        assert sum(future.running() for future in futures) == count and waiting == futures[-1:]
        rasterizer.gate.set()
        futures[-1].result(WAIT_S)


def test_a_failing_frame_hurts_nobody_else(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("bad tile")

    rasterizer.failure = fail
    with pytest.raises(RenderError) as info:
        engine.submit(ask(sequence=7)).result(WAIT_S)
    # The same words for every frame, so that they need to be said only once.
    assert str(info.value) == "drawing failed: ZeroDivisionError: bad tile"
    assert not isinstance(info.value, RenderCancelled)
    rasterizer.failure = lambda: None
    assert red(engine.submit(ask(sequence=8, x=0.5))) == 0.5


def test_running_out_of_memory_is_a_failed_frame(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    def fail() -> None:
        raise MemoryError

    rasterizer.failure = fail
    with pytest.raises(RenderError):
        engine.submit(ask()).result(WAIT_S)


def test_a_level_of_detail_below_the_finest_is_refused() -> None:
    with pytest.raises(ValueError, match="detail must be 0 or more, got -1"):
        replace(ask(), detail=-1)


def test_an_error_on_purpose_passes_as_it_is(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    refusal = BudgetError("too large")

    def fail() -> None:
        raise refusal

    rasterizer.failure = fail
    assert engine.submit(ask()).exception(WAIT_S) is refusal
    rasterizer.failure = lambda: None
    assert red(engine.submit(ask(sequence=8, x=0.5))) == 0.5


def test_a_future_cancelled_by_its_owner_is_not_drawn(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    hold_one_frame(engine, rasterizer)
    regretted = engine.submit(ask("b"))
    assert regretted.cancel()
    rasterizer.gate.set()
    engine.submit(ask("c")).result(WAIT_S)
    assert len(rasterizer.views) == 2


def test_nobody_waits_for_a_client_that_is_gone(
    engine: RenderEngine, rasterizer: FakeRasterizer
) -> None:
    hold_one_frame(engine, rasterizer)
    moving = engine.submit(ask("moving"))
    left = [engine.submit(replace(ask(name), urgency=Urgency.STILL)) for name in "bcd"]
    assert engine.share_of("moving") < 1
    left[0].cancel()  # as a session does whose browser is gone
    for name in "bcd":
        engine.forget(name)
    assert engine.share_of("moving") == 1
    for future in left[1:]:
        with pytest.raises(RenderCancelled, match="gone"):
            future.result(WAIT_S)
    rasterizer.gate.set()
    moving.result(WAIT_S)
    assert len(rasterizer.views) == 2


def test_a_new_scene_is_drawn_from_the_next_frame_on(engine: RenderEngine) -> None:
    assert engine.submit(ask(sequence=0)).result(WAIT_S).stats.raster[0].gaussians == 0
    engine.replace_scene(some(1))
    assert engine.submit(ask(sequence=1)).result(WAIT_S).stats.raster[0].gaussians == 1


def some(count: int) -> Gaussians:
    shapes = ((count, 3), (count, 4), (count, 3), (count,), (count, 1, 3))
    return Gaussians(*(np.ones(shape, np.float32) for shape in shapes))


def test_a_request_chooses_its_level_of_detail(rasterizer: FakeRasterizer) -> None:
    with RenderEngine(rasterizer, some(8)) as engine:
        engine.add_coarser(some(2))
        assert engine.detail_counts == (8, 2)
        drawn = [
            engine.submit(replace(ask(sequence=detail), detail=detail)).result(WAIT_S)
            for detail in (0, 1, 7)
        ]
    assert [frame.stats.raster[0].gaussians for frame in drawn] == [8, 2, 2]


class SlowlyPreparing(FakeRasterizer):
    """Takes its time over scenes of two Gaussians."""

    def __init__(self) -> None:
        super().__init__()
        self.preparing, self.proceed = threading.Event(), threading.Event()

    def prepare(self, gaussians: Gaussians) -> int:
        if len(gaussians) == 2:
            self.preparing.set()
            assert self.proceed.wait(WAIT_S)
        return super().prepare(gaussians)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_level_of_a_replaced_scene_is_not_added_to_the_new_one(replaced: bool) -> None:
    rasterizer = SlowlyPreparing()
    with RenderEngine(rasterizer, some(8)) as engine, ThreadPoolExecutor(1) as pool:
        added = pool.submit(engine.add_coarser, some(2))
        assert rasterizer.preparing.wait(WAIT_S)
        if replaced:
            engine.replace_scene(some(5))
        else:
            assert engine.add_coarser(some(4))
        rasterizer.proceed.set()
        assert added.result(WAIT_S) is not replaced
        assert engine.detail_counts == ((5,) if replaced else (8, 4, 2))


class Prepared:
    """A scene in an engine's memory."""


class Preparing(FakeRasterizer):
    """Remembers its scenes weakly."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[weakref.ref[Prepared]] = []

    def prepare(self, gaussians: Gaussians) -> Prepared:  # type: ignore[override]
        scene = Prepared()
        self.prepared.append(weakref.ref(scene))
        return scene


def test_a_closed_engine_gives_its_scene_back_though_others_hold_the_engine() -> None:
    """Threads of a server that are still there at exit would keep all of it otherwise."""
    rasterizer = Preparing()
    engine = RenderEngine(rasterizer, some(8))
    engine.add_coarser(some(2))
    assert [scene() is not None for scene in rasterizer.prepared] == [True, True]
    engine.close()
    assert [scene() for scene in rasterizer.prepared] == [None, None]
    assert engine.detail_counts == (8, 2)


def test_a_scene_that_comes_after_the_end_is_given_back() -> None:
    rasterizer = Preparing()
    engine = RenderEngine(rasterizer, some(8))
    engine.close()
    engine.replace_scene(some(3))
    assert [scene() for scene in rasterizer.prepared] == [None, None]


def test_an_idle_engine_keeps_no_picture(engine: RenderEngine) -> None:
    picture = weakref.ref(engine.submit(ask()).result(WAIT_S).images[0].alpha)
    deadline_s = time.monotonic() + WAIT_S
    while picture() is not None and time.monotonic() < deadline_s:
        time.sleep(0.001)  # until the worker is back to waiting
    assert picture() is None


def test_close_resolves_every_future(rasterizer: FakeRasterizer) -> None:
    engine = RenderEngine(rasterizer, Gaussians.empty())
    running = hold_one_frame(engine, rasterizer)
    waiting = [engine.submit(ask(client)) for client in "bcd"]
    engine.close()
    for future in (running, *waiting):
        with pytest.raises(RenderCancelled):
            future.result(0)
    with pytest.raises(RenderError, match="closed"):
        engine.submit(ask())


def test_close_may_be_called_twice_and_ends_the_thread(rasterizer: FakeRasterizer) -> None:
    before = set(threading.enumerate())
    engine = RenderEngine(rasterizer, Gaussians.empty())
    assert len(set(threading.enumerate()) - before) == 1
    engine.close()
    engine.close()
    assert not set(threading.enumerate()) - before
