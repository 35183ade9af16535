"""Streamed scenes drawn by the engine: the same picture in the end, and no hole on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rendering.base import RasterImage, RasterSettings
from rendering.drawable import SceneClosed
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest, StreamStats
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import ACTIVE_S, StreamedScene, StreamPolicy
from rendering.tint import Tint
from scene_store.build import BuildOptions, build_store
from scene_store.chunks import EncodedChunk, never_cancelled
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets, ChunkState
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import BudgetError, ChunkReadError, RenderCancelled
from splat.gaussians import Gaussians
from tests import scenes

WAIT_S = 20.0
AMPLE = Budgets(64 << 20, 64 << 20)
AT_ONCE = StreamPolicy(fade_s=0.0)
SETTINGS = RasterSettings(threads=1)
WIDTH, HEIGHT = 131, 75


class SlowStore:
    """A store whose reads take a while, wait at a gate, or fail.

    Attributes:
        gate: Cleared to hold all reads of leaves.
        delay_s: Of every read.
        damaged: Chunks whose bytes are not theirs.
        closed: Whether it was closed.
    """

    def __init__(self, path: Path) -> None:
        self.store = open_store(path)
        self.gate = threading.Event()
        self.gate.set()
        self.delay_s = 0.0
        self.damaged: set[int] = set()
        self.closed = False
        self.meta, self.tree = self.store.meta, self.store.tree
        self.sh_degree, self.page_gaussians = self.store.sh_degree, self.store.page_gaussians

    def encoded_bytes(self, chunk: int) -> int:
        return self.store.encoded_bytes(chunk)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        time.sleep(self.delay_s)
        while self.tree.child_count[chunk] == 0 and not self.gate.wait(0.01):
            if cancelled():
                return None
        return self.store.read(chunk, cancelled)

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        if chunk in self.damaged:
            raise ChunkReadError("slow.bvs", chunk, "is damaged")
        return self.store.decode(chunk, encoded)

    def close(self) -> None:
        self.closed = True
        self.store.close()


@pytest.fixture(scope="module")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 Gaussians in pages of 1,024, every bit of them."""
    folder = tmp_path_factory.mktemp("ball")
    ball = scenes.random_scene(5, 20_000, 1)
    write_ply(folder / "ball.ply", [ball], len(ball), 1)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "ball.ply"], folder / "ball.bvs", options)
    return folder / "ball.bvs"


@pytest.fixture
def source(ball_store: Path) -> Iterator[SlowStore]:
    source = SlowStore(ball_store)
    yield source
    source.gate.set()
    source.close()


@pytest.fixture
def rasterizer() -> NativeRasterizer:
    return NativeRasterizer()


@contextmanager
def drawing(
    source: SlowStore,
    rasterizer: NativeRasterizer,
    budgets: Budgets = AMPLE,
    policy: StreamPolicy = AT_ONCE,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[RenderEngine, StreamedScene]]:
    scene = StreamedScene(source, rasterizer, budgets, policy, clock=clock)
    with RenderEngine(rasterizer, scene) as engine:
        yield engine, scene
        source.gate.set()


def view(angle: float = 0.4, distance: float = 7.0) -> Camera:
    eye = distance * np.array([np.sin(angle), -0.3, -np.cos(angle)])
    return Camera.look_at(eye, (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=WIDTH, height=HEIGHT)


def draw(engine: RenderEngine, camera: Camera, client: str = "a", **more: object) -> Frame:
    draw.sequence += 1  # type: ignore[attr-defined]
    request = FrameRequest(client, draw.sequence, (camera,), SETTINGS, **more)  # type: ignore[attr-defined,arg-type]
    return engine.submit(request).result(WAIT_S)


draw.sequence = 0  # type: ignore[attr-defined]


def stream(frame: Frame) -> StreamStats:
    assert frame.stats.stream is not None
    return frame.stats.stream


def draw_complete(engine: RenderEngine, camera: Camera, client: str = "a") -> Frame:
    deadline = time.monotonic() + WAIT_S
    while True:
        frame = draw(engine, camera, client)
        if stream(frame).complete and not stream(frame).fading:
            return frame
        assert time.monotonic() < deadline, "it never was complete"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def originals(ball_store: Path) -> Gaussians:
    """All leaves, in the tree's order."""
    chunks = []
    with open_store(ball_store) as store:
        for leaf in np.flatnonzero(store.tree.is_leaf).tolist():
            encoded = store.read(leaf)
            assert encoded is not None
            chunks.append(store.decode(leaf, encoded))
    return Gaussians.concatenate(chunks)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def plain(rasterizer: NativeRasterizer, gaussians: Gaussians, camera: Camera) -> RasterImage:
    return rasterizer.render(rasterizer.prepare(gaussians), camera, SETTINGS)


def assert_same(frame: Frame, image: RasterImage) -> None:
    drawn = frame.images[0]
    assert drawn.color is not None and image.color is not None
    assert drawn.color.tobytes() == image.color.tobytes()
    assert drawn.alpha.tobytes() == image.alpha.tobytes()


@pytest.mark.parametrize("policy", [AT_ONCE, StreamPolicy(fade_s=0.05)])
def test_the_complete_picture_is_that_of_all_originals_to_the_bit(
    source: SlowStore, rasterizer: NativeRasterizer, originals: Gaussians, policy: StreamPolicy
) -> None:
    with drawing(source, rasterizer, policy=policy) as (engine, _):
        for angle in (0.4, 2.0, 0.4):
            frame = draw_complete(engine, view(angle))
            assert_same(frame, plain(rasterizer, originals, view(angle)))
    assert stream(frame).gaussians_by_level[0] == sum(stream(frame).gaussians_by_level)
    assert stream(frame).error_px == 0


def test_the_picture_is_the_same_however_it_came_about(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    tight = Budgets(AMPLE.host_bytes, 12 * 200_000)  # some of the chunks only
    with drawing(source, rasterizer, tight) as (engine, _):
        first = draw_complete(engine, view(0.4))
        draw_complete(engine, view(1.9))
        again = draw_complete(engine, view(0.4))
    assert stream(first).error_px > 0, "this budget should not hold all"
    assert_same(again, first.images[0])


def test_two_eyes_see_the_same_chunks(
    source: SlowStore, rasterizer: NativeRasterizer, originals: Gaussians
) -> None:
    eyes = (view(0.40), view(0.41))
    with drawing(source, rasterizer) as (engine, scene):
        for sequence in range(1000):
            frame = engine.submit(FrameRequest("a", sequence, eyes, SETTINGS)).result(WAIT_S)
            if stream(frame).complete:
                break
            scene.wait_until_settled(1.0)
    for image, eye in zip(frame.images, eyes, strict=True):
        expected = plain(rasterizer, originals, eye)
        assert expected.color is not None and image.color is not None
        assert image.color.tobytes() == expected.color.tobytes()


def test_coarse_chunks_stand_in_until_fine_ones_come(
    source: SlowStore, rasterizer: NativeRasterizer, originals: Gaussians
) -> None:
    source.gate.clear()
    with drawing(source, rasterizer) as (engine, scene):
        while not draw(engine, view()).images[0].alpha.any():
            time.sleep(0.005)
        # All but the originals.
        deadline = time.monotonic() + WAIT_S
        while scene.stats().chunks[ChunkState.DEVICE] < int((~source.tree.is_leaf).sum()):
            assert time.monotonic() < deadline
            draw(engine, view())
            time.sleep(0.005)
        coarse = draw(engine, view())
        assert not stream(coarse).complete and stream(coarse).missing > 0
        assert stream(coarse).gaussians_by_level[0] == 0
        source.gate.set()
        fine = draw_complete(engine, view())
    covered = plain(rasterizer, originals, view()).alpha > 0.9
    assert covered.mean() > 0.1
    assert coarse.images[0].alpha[covered].min() > 0.5
    assert stream(fine).missing == 0


def test_arrivals_are_told(source: SlowStore, rasterizer: NativeRasterizer) -> None:
    arrivals = threading.Semaphore(0)
    source.gate.clear()
    with drawing(source, rasterizer) as (engine, scene):
        scene.set_on_arrival(arrivals.release)
        draw(engine, view())
        while arrivals.acquire(timeout=0.1):  # the rest of the coarse ones
            draw(engine, view())
        source.gate.set()
        assert arrivals.acquire(timeout=WAIT_S)
        scene.set_on_arrival(None)


def test_a_damaged_chunk_is_drawn_coarsely_and_named(
    source: SlowStore, rasterizer: NativeRasterizer, originals: Gaussians
) -> None:
    leaf = int(np.flatnonzero(source.tree.is_leaf)[3])
    source.damaged.add(leaf)
    with drawing(source, rasterizer) as (engine, scene):
        frame = draw_complete(engine, view())
        (failure,) = scene.stats().failures
    assert stream(frame).lost == 1
    assert failure.chunk == leaf and failure.permanent and "damaged" in failure.text
    parent = int(source.tree.parent[leaf])
    assert sum(stream(frame).gaussians_by_level[1:]) == source.tree.count[parent]
    covered = plain(rasterizer, originals, view()).alpha > 0.9
    assert frame.images[0].alpha[covered].min() > 0.5


def test_what_is_lost_elsewhere_is_not_missed_in_a_picture(
    source: SlowStore, rasterizer: NativeRasterizer, originals: Gaussians
) -> None:
    leaves = np.flatnonzero(source.tree.is_leaf)
    centers = 0.5 * (source.tree.lo[leaves] + source.tree.hi[leaves])
    farthest = int(np.linalg.norm(centers, axis=1).argmax())
    source.damaged.add(int(leaves[farthest]))
    away = Camera.look_at(
        (0, 0, 0), -centers[farthest], (0, -1, 0), fov_y_rad=0.2, width=64, height=64
    )
    with drawing(source, rasterizer) as (engine, scene):
        assert stream(draw_complete(engine, view())).lost == 1
        frame = draw_complete(engine, away, "other")
        assert len(scene.stats().failures) == 1
    assert stream(frame).lost == 0 and stream(frame).complete
    assert_same(frame, plain(rasterizer, originals, away))


def test_a_scene_whose_coarsest_form_is_damaged_draws_nothing_and_goes_on(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    source.damaged.add(0)
    with drawing(source, rasterizer) as (engine, scene):
        frame = draw_complete(engine, view())
        assert not frame.images[0].alpha.any()
        assert scene.stats().failures[0].chunk == 0


@pytest.mark.parametrize("known", [True, False])
def test_the_next_view_of_a_known_path_is_there_when_its_turn_comes(
    source: SlowStore, rasterizer: NativeRasterizer, known: bool
) -> None:
    """However far it is from this one; without being told nobody can know."""

    def from_the_middle(x: float) -> Camera:
        to = (x, 0.0, 0.0)
        return Camera.look_at((0, 0, 0), to, (0, -1, 0), fov_y_rad=0.2, width=64, height=64)

    here, there = from_the_middle(5.0), from_the_middle(-5.0)
    with drawing(source, rasterizer) as (engine, scene):
        page = scene.least_budgets.device_bytes
        scene.set_budgets(Budgets(AMPLE.host_bytes, len(source.tree) * page))
        coming = (there,) if known else ()
        deadline = time.monotonic() + WAIT_S
        while not stream(draw(engine, here, coming=coming)).complete or busy(scene):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert stream(draw(engine, there)).complete == known


def busy(scene: StreamedScene) -> bool:
    """Whether chunks are on their way, for whatever reason."""
    chunks = scene.stats().chunks
    idle = {ChunkState.ABSENT, ChunkState.DEVICE}
    return any(count for state, count in chunks.items() if state not in idle)


def test_many_clients_share_the_memory_and_all_get_a_picture(
    source: SlowStore, rasterizer: NativeRasterizer, originals: Gaussians
) -> None:
    budgets = Budgets(AMPLE.host_bytes, 4 << 20)
    views = {f"client-{index}": view(1.3 * index) for index in range(4)}
    with drawing(source, rasterizer, budgets) as (engine, scene):
        most = 0
        deadline = time.monotonic() + WAIT_S
        waiting = set(views)
        while waiting:
            assert time.monotonic() < deadline, f"{waiting} never were complete"
            for client, camera in views.items():
                if stream(draw(engine, camera, client)).complete:
                    waiting.discard(client)
                most = max(most, scene.stats().device_bytes)
        assert most <= budgets.device_bytes
        for client in views:
            assert scene.drawn_chunks(client)
            engine.forget(client)
            assert scene.drawn_chunks(client) == ()
        alone = draw_complete(engine, view(), "alone")
    assert_same(alone, plain(rasterizer, originals, view()))


def test_who_rests_leaves_the_memory_to_others(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    now = [100.0]
    page = rasterizer.new_pool(source.page_gaussians, source.sh_degree).page_bytes
    budgets = Budgets(AMPLE.host_bytes, (int((~source.tree.is_leaf).sum()) + 8) * page)
    with drawing(source, rasterizer, budgets, clock=lambda: now[0]) as (engine, _):
        first = draw_complete(engine, view(0.4), "first")
        beside = draw(engine, view(2.8), "second")
        now[0] += ACTIVE_S + 1
        after = draw_complete(engine, view(2.8), "second")
    assert stream(first).error_px > 0, "this budget should not hold all"
    assert sum(stream(after).gaussians_by_level) > sum(stream(beside).gaussians_by_level)
    assert stream(after).gaussians_by_level[0] > 0


def test_budgets_lowered_while_it_runs_are_kept(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    with drawing(source, rasterizer) as (engine, scene):
        full = draw_complete(engine, view())
        lower = Budgets(scene.least_budgets.host_bytes + (1 << 20), 3 << 19)
        assert scene.stats().device_bytes > lower.device_bytes
        scene.set_budgets(lower)
        assert scene.stats().device_bytes <= lower.device_bytes
        assert scene.budgets == lower
        coarse = draw_complete(engine, view())
        assert stream(coarse).error_px > 0
        assert coarse.images[0].alpha.max() > 0.9
        scene.set_budgets(AMPLE)
        assert_same(draw_complete(engine, view()), full.images[0])


def test_budgets_too_small_are_refused_and_the_old_ones_stay(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    with drawing(source, rasterizer) as (engine, scene):
        least = scene.least_budgets
        for small in (
            Budgets(least.host_bytes - 1, AMPLE.device_bytes),
            Budgets(AMPLE.host_bytes, least.device_bytes - 1),
        ):
            with pytest.raises(BudgetError, match="too small for this scene"):
                scene.set_budgets(small)
        assert scene.budgets == AMPLE == scene.stats().budgets
        scene.set_budgets(least)
        assert stream(draw_complete(engine, view())).complete


def test_no_frame_draws_more_than_it_may(source: SlowStore, rasterizer: NativeRasterizer) -> None:
    with drawing(source, rasterizer) as (engine, scene):
        draw_complete(engine, view())
        assert scene.detail_counts == (20_000,)
        scene.policy = StreamPolicy(max_gaussians=5_000, fade_s=0)
        assert scene.detail_counts == (5_000,)
        assert sum(stream(draw_complete(engine, view())).gaussians_by_level) <= 5_000


def test_an_error_that_does_not_show_saves_gaussians(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    with drawing(source, rasterizer) as (engine, _):
        draw_complete(engine, view())
        rough = draw(engine, view(), max_error_px=3.0)
    assert stream(rough).complete and 0 < stream(rough).error_px <= 3.0
    assert stream(rough).wanted_gaussians == sum(stream(rough).gaussians_by_level) < 20_000


def test_a_frozen_view_chooses_for_another(source: SlowStore, rasterizer: NativeRasterizer) -> None:
    away = Camera.look_at(
        (0, 0, -90), (0, 0, -99), (0, -1, 0), fov_y_rad=0.9, width=WIDTH, height=HEIGHT
    )
    with drawing(source, rasterizer) as (engine, scene):
        draw_complete(engine, view())
        chosen = scene.drawn_chunks("a")
        frozen = draw(engine, view(2.0), frozen=(view(),))
        assert scene.drawn_chunks("a") == chosen
        assert frozen.images[0].alpha.max() > 0.9
        assert not draw(engine, view(2.0), frozen=(away,)).images[0].alpha.any()


def test_a_settled_view_is_drawn_once(source: SlowStore, rasterizer: NativeRasterizer) -> None:
    scene = StreamedScene(source, rasterizer, AMPLE, AT_ONCE)
    with RenderEngine(rasterizer, scene, picture_bytes=1 << 20) as engine:

        def asked(sequence: int, **wishes: object) -> Frame:
            request = FrameRequest("a", sequence, (view(),), SETTINGS, urgency=Urgency.STILL)
            return engine.submit(replace(request, **wishes)).result(WAIT_S)  # type: ignore[arg-type]

        asked(1, tint=Tint.LEVELS)  # of what happens to be there, kept as a picture of no other
        assert scene.wait_until_settled(WAIT_S)
        complete, again = asked(2), asked(3)
        assert (complete.stats.reused, again.stats.reused) == (0, 1)
        assert again.images[0].alpha.tobytes() == complete.images[0].alpha.tobytes()
        assert again.stats.stream is not None and again.stats.stream.complete
        assert asked(4, tint=Tint.LEVELS).stats.reused == 0
        assert asked(5, max_error_px=1e6).stats.reused == 0  # other chunks
        assert asked(6).stats.reused == 1


def test_levels_are_tinted(source: SlowStore, rasterizer: NativeRasterizer) -> None:
    with drawing(source, rasterizer) as (engine, _):
        natural = draw_complete(engine, view()).images[0]
        tinted = draw(engine, view(), tint=Tint.LEVELS).images[0]
    assert natural.color is not None and tinted.color is not None
    assert np.array_equal(natural.alpha, tinted.alpha)
    opaque = natural.alpha > 0.9
    # Originals are blue.
    assert tinted.color[opaque, 2].mean() > natural.color[opaque, 2].mean() + 0.1


def test_closing_while_a_frame_is_drawn_lets_it_end(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    scene = StreamedScene(source, rasterizer, AMPLE, AT_ONCE)
    request = FrameRequest("a", 0, (view(),), SETTINGS)
    deadline = time.monotonic() + WAIT_S
    complete = False
    while not complete:
        assert time.monotonic() < deadline
        with scene.acquire(request) as drawable:
            assert drawable.stream is not None
            complete = drawable.stream.complete
            if complete:
                scene.close()
                assert source.closed
                image = rasterizer.render(drawable.scene, view(), SETTINGS)
    assert image.alpha.max() > 0.9
    with pytest.raises(SceneClosed), scene.acquire(request):
        pass
    scene.forget("a")
    scene.close()


def test_closing_the_engine_abandons_a_waiting_frame(
    source: SlowStore, rasterizer: NativeRasterizer
) -> None:
    source.gate.clear()
    with drawing(source, rasterizer) as (engine, _):
        futures = [
            engine.submit(FrameRequest("a", index, (view(),), SETTINGS)) for index in range(4)
        ]
    for future in futures:
        with suppress(RenderCancelled):
            assert future.result(WAIT_S).images
    assert source.closed


def test_a_resident_scene_is_replaced_by_a_streamed_one_and_back(
    source: SlowStore, rasterizer: NativeRasterizer, originals: Gaussians
) -> None:
    resident = scenes.random_scene(9, 500, 1)
    with RenderEngine(rasterizer, resident) as engine:
        before = draw(engine, view())
        assert before.stats.stream is None
        scene = StreamedScene(source, rasterizer, AMPLE, AT_ONCE)
        stopped = threading.Event()
        frames: list[Frame] = []

        def look_on() -> None:
            sequence = 0
            while not stopped.is_set():
                sequence += 1
                request = FrameRequest("other", sequence, (view(),), SETTINGS)
                frames.append(engine.submit(request).result(WAIT_S))

        watcher = threading.Thread(target=look_on)
        watcher.start()
        wait_until(lambda: bool(frames))
        engine.replace_scene(scene)
        assert not engine.add_coarser(resident[::2])
        assert_same(draw_complete(engine, view()), plain(rasterizer, originals, view()))
        wait_until(lambda: frames[-1].stats.stream is not None)
        engine.replace_scene(resident)
        after = draw(engine, view())
        stopped.set()
        watcher.join(WAIT_S)
        assert source.closed
    assert_same(after, before.images[0])
