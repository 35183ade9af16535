"""Devices with less memory than their budgets say: scenes are content with what there is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.base import CancelFlag, RasterImage, RasterSettings
from rendering.device import Device
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.native.cpu import NativePagePool, NativeRasterizer
from rendering.shortage import FIRST_PAUSE_S, LONGEST_PAUSE_S, Shortage
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from tests import scenes

WAIT_S = 20.0
MIB = 2**20
HOST_BYTES = 64 * MIB
ALL_PAGES = 64
GPU = Device("card:0", 1, "card:0")


class Card(NativeRasterizer):
    """An engine with a memory of so many pages, and room for frames of so many Gaussians.

    Attributes:
        pages: That there are; may change.
        frame_gaussians: That can be drawn beside them.
        fails_at: The page that is packed then finds no memory, whatever there is, nor do those that
            are packed next.
        refused: Pages for which there was no memory.
    """

    def __init__(self, pages: int = ALL_PAGES, frame_gaussians: int = 1 << 40) -> None:
        super().__init__()
        self.pages, self.frame_gaussians = pages, frame_gaussians
        self.fails_at, self.packed, self.refused = -1, 0, 0
        self.failures_left = 3
        self.pools: list[CardPool] = []

    def new_pool(self, page_gaussians: int, sh_degree: int) -> Any:
        self.pools.append(CardPool(self, page_gaussians, sh_degree))
        return self.pools[-1]

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        if scene.count > self.frame_gaussians:
            raise BudgetError("card:0 has no memory for a frame")
        return super().render(scene, camera, settings, cancel)

    @property
    def in_use(self) -> int:
        return sum(pool.pages_in_use for pool in self.pools)


class CardPool(NativePagePool):
    def __init__(self, card: Card, page_gaussians: int, sh_degree: int) -> None:
        super().__init__(page_gaussians, sh_degree)
        self._card, self._lock = card, threading.Lock()
        self.kept_free: int | None = None

    def pack_many(self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1) -> Any:
        card = self._card
        with self._lock:
            card.packed += len(rows)
            unlucky = 0 <= card.fails_at < card.packed and card.failures_left > 0
            card.failures_left -= unlucky
            if unlucky or card.in_use + len(rows) > card.pages:
                card.refused += len(rows)
                raise BudgetError("card:0 has no memory for more Gaussians")
            return super().pack_many(gaussians, rows)

    def keep_free(self, pages: int) -> None:
        self.kept_free = pages
        super().keep_free(pages)


@pytest.fixture(scope="module")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 30 pages of 1,024."""
    folder = tmp_path_factory.mktemp("ball")
    ball = scenes.random_scene(5, 20_000, 0)
    write_ply(folder / "ball.ply", [ball], len(ball), 0)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "ball.ply"], folder / "ball.bvs", options)
    return folder / "ball.bvs"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The warnings so far."""
    with caplog.at_level(logging.WARNING):
        yield lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


AMPLE = Budgets(HOST_BYTES, ALL_PAGES * NativePagePool(1024, 0).page_bytes)


def open_scene(store: Path, card: Card, memory: str = "") -> StreamedScene:
    """With room for all of it, so its budgets say."""
    policy = StreamPolicy(fade_s=0.0)
    return StreamedScene(open_store(store), {memory: card} if memory else card, AMPLE, policy)


def view(angle: float = 0.4) -> Camera:
    eye = 6.0 * np.array([np.sin(angle), -0.3, -np.cos(angle)])
    return Camera.look_at(eye, (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=131, height=75)


def draw(engine: RenderEngine, sequence: int, angle: float = 0.4) -> Frame:
    request = FrameRequest("a", sequence, (view(angle),), RasterSettings(threads=1))
    return engine.submit(request).result(WAIT_S)


def draw_until(engine: RenderEngine, done: Callable[[Frame], bool], angle: float = 0.4) -> Frame:
    deadline_s, sequence = time.monotonic() + WAIT_S, int(1000 * angle)
    while not done(frame := draw(engine, sequence, angle)):
        assert time.monotonic() < deadline_s, "it never came about"
        sequence += 1
        time.sleep(0.005)
    return frame


def is_complete(frame: Frame) -> bool:
    assert frame.stats.stream is not None
    return frame.stats.stream.complete


def assert_books_are_right(scene: StreamedScene, card: Card) -> None:
    """What the ledger says is there is there, and nothing else."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        stats = scene.stats()
        page_bytes = card.pools[-1].page_bytes
        if stats.device_bytes == card.in_use * page_bytes <= scene.budgets.device_bytes:
            return
        assert time.monotonic() < deadline_s, (stats, card.in_use * page_bytes, scene.budgets)
        time.sleep(0.01)


@pytest.mark.parametrize("pages", [12, 25])
def test_a_scene_is_content_with_the_memory_there_is(
    ball_store: Path, pages: int, told: Callable[[], list[str]]
) -> None:
    card = Card(pages)
    scene = open_scene(ball_store, card)
    with RenderEngine(card, scene) as engine:
        for angle in (0.4, 2.0, 4.0):
            frame = draw_until(engine, is_complete, angle)
            assert frame.stats.stream is not None and frame.stats.stream.gaussians_by_level
        assert_books_are_right(scene, card)
        page_bytes = card.pools[-1].page_bytes
        assert scene.least_budgets.device_bytes <= scene.budgets.device_bytes < pages * page_bytes
        assert scene.budgets.host_bytes == HOST_BYTES
        assert card.pools[-1].kept_free == 0
        refused = card.refused
        draw_until(engine, is_complete, 5.0)
        assert card.refused <= refused + 2, "the lowered budget fits"
    assert len(told()) == 1, told()
    assert "memory ran out" in told()[0] and "--device-budget" in told()[0]


@pytest.mark.parametrize("page", [0, 1, 5, 17])
def test_some_pages_that_find_no_memory(
    ball_store: Path, page: int, told: Callable[[], list[str]]
) -> None:
    """Somebody else had it for a moment: the chunk is tried again, within what was to be had."""
    card = Card()
    card.fails_at = page
    scene = open_scene(ball_store, card)
    with RenderEngine(card, scene) as engine:
        draw_until(engine, lambda _: scene.budgets != AMPLE)
        assert scene.least_budgets.device_bytes <= scene.budgets.device_bytes < AMPLE.device_bytes
        draw_until(engine, is_complete, 2.0)
        assert_books_are_right(scene, card)
        card.failures_left = 0
        scene.set_budgets(AMPLE)
        finest = draw_until(engine, lambda frame: is_complete(frame) and error_of(frame) == 0)
        assert finest.stats.stream is not None
    assert len(told()) == 1


def error_of(frame: Frame) -> float:
    assert frame.stats.stream is not None
    return frame.stats.stream.error_px


def test_less_than_the_least_is_tried_again_until_it_is_there(ball_store: Path) -> None:
    card = Card(pages=0)
    scene = open_scene(ball_store, card)
    with RenderEngine(card, scene) as engine:
        while card.refused < 3:
            frame = draw(engine, 3 * card.refused)
            assert frame.images[0].alpha.max() == 0
            time.sleep(0.01)
        assert scene.budgets.device_bytes == scene.least_budgets.device_bytes
        card.pages = ALL_PAGES
        frame = draw_until(engine, is_complete, 2.0)
        assert frame.images[0].alpha.max() > 0.5


def test_a_frame_without_memory_is_drawn_of_less(
    ball_store: Path, told: Callable[[], list[str]]
) -> None:
    """On a device with a memory of its own: chunks give way to what frames need."""
    card = Card()
    scene = open_scene(ball_store, card, memory=GPU.memory)
    with RenderEngine(card, scene, devices=(GPU,), new_rasterizer=lambda _: card) as engine:
        whole = draw_until(engine, is_complete)
        card.frame_gaussians = whole.stats.raster[0].gaussians // 2
        frame = draw(engine, 10_000)
        assert 0 < frame.stats.raster[0].gaussians <= card.frame_gaussians
        assert scene.budgets.device_bytes < AMPLE.device_bytes
        assert_books_are_right(scene, card)
    assert len(told()) == 1


def test_a_frame_that_never_fits_is_an_error_and_the_engine_lives(ball_store: Path) -> None:
    card = Card()
    scene = open_scene(ball_store, card, memory=GPU.memory)
    with RenderEngine(card, scene, devices=(GPU,), new_rasterizer=lambda _: card) as engine:
        draw_until(engine, is_complete)
        card.frame_gaussians = 0
        with pytest.raises(BudgetError, match="no memory for a frame"):
            draw(engine, 10_000)
        assert scene.budgets.device_bytes == scene.least_budgets.device_bytes
        card.frame_gaussians = 1 << 40
        assert draw(engine, 10_001).images[0].alpha.max() > 0.5


def test_pictures_too_large_for_the_host_take_nothing_from_the_scene(ball_store: Path) -> None:
    card = Card()
    scene = open_scene(ball_store, card)
    with RenderEngine(card, scene) as engine:
        draw_until(engine, is_complete)
        card.frame_gaussians = 0
        with pytest.raises(BudgetError):
            draw(engine, 10_000)
        assert scene.budgets == AMPLE


def test_new_budgets_are_told_of_again(told: Callable[[], list[str]]) -> None:
    shortage, least = Shortage(), Budgets(1, 5 * MIB)
    budgets = Budgets(7, 100 * MIB)
    first = shortage.lowered("card:0", 50 * MIB, budgets, least, 0.0)
    assert first == Budgets(7, 45 * MIB)
    assert shortage.lowered("card:0", 20 * MIB, first, least, 0.0) == Budgets(7, 18 * MIB)
    assert shortage.lowered("card:0", 0, first, least, 0.0) == Budgets(7, 5 * MIB)
    assert shortage.lowered("card:0", 500 * MIB, first, least, 0.0) == first
    assert len(told()) == 1
    shortage.forget()
    assert shortage.revised(first, 0, least, 1e9) == first, "what somebody chose is not raised"
    shortage.lowered("card:0", 50 * MIB, budgets, least, 0.0)
    assert len(told()) == 2


def test_more_is_tried_after_a_while_and_less_and_less_often() -> None:
    """As the memory that somebody else had for a moment may be there again."""
    shortage, least, wish = Shortage(), Budgets(1, MIB), Budgets(7, 100 * MIB)
    budgets, now_s, pauses = wish, 0.0, list[float]()
    for _ in range(8):  # there are 60 MiB for good
        budgets = shortage.lowered("card:0", 60 * MIB, budgets, least, now_s)
        begun_s = now_s
        while budgets.device_bytes <= 60 * MIB:
            now_s += 1.0
            budgets = shortage.revised(budgets, 0, least, now_s)
        pauses.append(now_s - begun_s)
    assert pauses[0] == FIRST_PAUSE_S
    assert sorted(pauses) == pauses and pauses[-1] == LONGEST_PAUSE_S
    for _ in range(3):  # and now all of it
        now_s += LONGEST_PAUSE_S
        budgets = shortage.revised(budgets, 0, least, now_s)
    assert budgets == wish


def test_what_frames_take_is_never_asked_for() -> None:
    shortage, least = Shortage(reach_bytes=100 * MIB), Budgets(1, 5 * MIB)
    budgets = Budgets(7, 90 * MIB)
    assert shortage.revised(budgets, 0, least, 0.0) == budgets, "nothing was measured"
    assert shortage.revised(budgets, 10 * MIB, least, 0.0) == budgets
    assert shortage.revised(budgets, 30 * MIB, least, 0.0) == Budgets(7, 70 * MIB)
    assert shortage.revised(budgets, 400 * MIB, least, 0.0) == Budgets(7, 5 * MIB)
    lowered = shortage.lowered("card:0", 50 * MIB, budgets, least, 0.0)
    now_s = 0.0
    for _ in range(20):
        now_s += LONGEST_PAUSE_S
        lowered = shortage.revised(lowered, 30 * MIB, least, now_s)
    assert lowered == Budgets(7, 70 * MIB)


def test_a_scene_leaves_frames_what_they_were_seen_to_take(ball_store: Path) -> None:
    class Measuring(Card):
        scratch_bytes = 0

    card, reach = Measuring(), AMPLE.device_bytes + MIB
    scene = StreamedScene(
        open_store(ball_store), card, AMPLE, StreamPolicy(fade_s=0.0), reach_bytes=reach
    )
    with RenderEngine(card, scene) as engine:
        draw_until(engine, is_complete)
        card.scratch_bytes = MIB
        draw(engine, 10_000)
        assert scene.budgets == AMPLE
        card.scratch_bytes = reach - AMPLE.device_bytes // 4
        draw_until(engine, lambda frame: is_complete(frame) and error_of(frame) > 0)
        assert scene.budgets.device_bytes == AMPLE.device_bytes // 4
        assert_books_are_right(scene, card)


def test_lower_budgets_give_memory_back(ball_store: Path) -> None:
    card = Card()
    scene = open_scene(ball_store, card)
    with RenderEngine(card, scene) as engine:
        draw_until(engine, is_complete)
        assert card.pools[-1].kept_free is None
        scene.set_budgets(Budgets(HOST_BYTES, AMPLE.device_bytes // 4))
        assert card.pools[-1].kept_free == 0
