"""Budgets that shrink: the memory of the chunks of a scene goes back to its device."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed", allow_module_level=True)

import torch

from rendering.chunk_memory import ChunkMemory
from rendering.fused_pages import DevicePage, FusedPagePool
from rendering.page_packing import HEADER_WORDS
from scene_store.demands import Demand
from scene_store.ledger import Budgets, ChunkCosts
from scene_store.lod import LodLimits, select_lod
from scene_store.transfer import HostCopier, Transfer
from tests.late_copier import Device, StreamCopier
from tests.store.fake_source import BatchedFakeSource
from tests.store.forests import overview, random_forest, random_view

PAGE_GAUSSIANS = 32
SLAB_PAGES = 12
PATIENCE_S = 10.0
TREE = random_forest(3, roots=2, depth=5, branching=5, leaf_share=0.1)


class Engine:
    """Has pages on a device, and draws nothing."""

    name = "pages"

    def __init__(self, copier: Any) -> None:
        self._transfer = Transfer(copier)

    def new_pool(self, page_gaussians: int, sh_degree: int) -> FusedPagePool:
        self.pool = FusedPagePool(
            self._transfer, torch.device("cpu"), page_gaussians, sh_degree, SLAB_PAGES
        )
        return self.pool


class Stage:
    """A memory with all of a scene in it."""

    def __init__(self, copier: Any) -> None:
        source = BatchedFakeSource(TREE, PAGE_GAUSSIANS)
        self.source, self.engine = source, Engine(copier)
        page_bytes = self.engine.new_pool(PAGE_GAUSSIANS, 0).page_bytes
        costs = ChunkCosts.of(source, page_bytes)
        self.all_bytes = int(costs.device.sum())
        self.roots = int(costs.device[TREE.roots].sum())
        self.host_bytes = int(8 * (costs.encoded.max() + costs.decoded.max()))
        self.memory = ChunkMemory(
            0,
            1,
            self.engine,  # type: ignore[arg-type]
            source,
            costs,
            Budgets(self.host_bytes, self.all_bytes),
            on_arrival=lambda: None,
            on_short=lambda held: False,
            on_work=lambda lane, stage, start_s, end_s: None,
            clock=time.monotonic,
        )
        self._choose_from(self.all_bytes)

    def _choose_from(self, device_bytes: int) -> None:
        pages = device_bytes // self.pool.page_bytes
        self.limits = LodLimits(error_px=0.0, max_pages=pages, page_gaussians=PAGE_GAUSSIANS)

    def set_budget(self, device_bytes: int) -> None:
        self.memory.set_budgets(Budgets(self.host_bytes, device_bytes))
        self._choose_from(device_bytes)

    @property
    def pool(self) -> FusedPagePool:
        return self.engine.pool

    @contextmanager
    def frame(self, seed: int | None = None) -> Iterator[dict[int, list[DevicePage]]]:
        """What it draws, by chunk, for as long as it does."""

        def choose(resident: NDArray[np.bool_], lost: NDArray[np.bool_]) -> Demand:
            camera = overview(TREE) if seed is None else random_view(seed)
            cut = select_lod(TREE, [camera], resident, self.limits, lost=lost)
            return Demand(cut.draw, cut.want, cut.touched)

        with self.memory.loader.frame(choose) as lease:
            self.memory.tidy()
            parts = {chunk: self.memory.parts(chunk, 1.0) for chunk in lease.chunks}
            drawn = {chunk: [part.scene for part in each] for chunk, each in parts.items()}
            del parts
            yield drawn
            drawn.clear()

    def look(self, seed: int | None = None) -> None:
        for _ in range(2):
            with self.frame(seed):
                pass
            assert self.memory.loader.wait_until_settled(PATIENCE_S)

    def assert_right(self, drawn: dict[int, list[DevicePage]]) -> None:
        """Each page holds what was packed, wherever it is."""
        for chunk, pages in drawn.items():
            expected = self.source.decode(chunk, self.source.read(chunk)).means  # type: ignore[arg-type]
            found = [
                np.asarray(page.words)[HEADER_WORDS : HEADER_WORDS + 3 * page.room]
                .reshape(3, page.room)[:, : page.count]
                .T
                for page in pages
            ]
            np.testing.assert_array_equal(np.concatenate(found), expected)


@pytest.fixture
def stage() -> Iterator[Callable[[Any], Stage]]:
    made: list[Stage] = []

    def make(copier: Any) -> Stage:
        made.append(Stage(copier))
        made[-1].look()
        return made[-1]

    yield make
    for each in made:
        each.memory.close()


@pytest.mark.parametrize("percent", [10, 30, 50, 70])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_lower_budget_gives_memory_back(
    stage: Callable[[Any], Stage], percent: int, seed: int
) -> None:
    """Whatever is evicted: all but a slab beyond the budget."""
    it = stage(HostCopier())
    for view in range(seed, seed + 3):  # what was looked at last goes last
        it.look(view)
    before = it.pool.held_bytes
    assert before >= 0.9 * it.all_bytes > 40 * SLAB_PAGES * it.pool.page_bytes
    budget = max(it.roots, int((100 - percent) / 100 * it.all_bytes))
    it.set_budget(budget)
    slab = SLAB_PAGES * it.pool.page_bytes
    assert it.pool.held_bytes <= budget + slab
    for view in range(20, 26):
        for look in (view, None):
            with it.frame(look) as drawn:
                assert drawn or look is not None
                it.assert_right(drawn)
        assert it.memory.loader.wait_until_settled(PATIENCE_S)
        assert it.pool.held_bytes <= budget + slab
    it.set_budget(it.all_bytes)
    it.look()
    with it.frame() as drawn:
        it.assert_right(drawn)
    assert it.memory.loader.stats().device_bytes == it.all_bytes


def test_what_is_being_drawn_follows(
    stage: Callable[[Any], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    it, told = stage(HostCopier()), list[int]()
    monkeypatch.setattr(
        "rendering.fused_pages.free_cached_blocks", lambda _: told.append(it.pool.held_bytes)
    )
    before, budget = it.pool.held_bytes, it.all_bytes // 3
    with it.frame() as drawn:
        it.set_budget(budget)
        it.assert_right(drawn)
        assert it.pool.held_bytes > budget + SLAB_PAGES * it.pool.page_bytes
        del drawn
    with it.frame() as drawn:
        it.assert_right(drawn)
        del drawn
    while it.memory.tidy():
        pass
    assert told[-1] == it.pool.held_bytes, "the driver has all of it again"
    assert it.pool.held_bytes <= budget + SLAB_PAGES * it.pool.page_bytes < before


def test_frames_and_loaders_go_on_while_pages_move(stage: Callable[[Any], Stage]) -> None:
    """Copies are late: a page moves that may still be on its way."""
    copier = StreamCopier(1 << 26)
    with Device(copier):
        it = stage(copier)
        for step in range(9):
            share = (0.3, 0.9, 0.5)[step % 3]
            budget = max(it.roots, int(share * it.all_bytes))
            it.set_budget(budget)
            with it.frame() as drawn:
                marks = {page.copied for pages in drawn.values() for page in pages}
                while not all(mark.is_over() for mark in marks):
                    time.sleep(0.0005)
                it.assert_right(drawn)
        it.look()
        assert it.pool.held_bytes <= budget + SLAB_PAGES * it.pool.page_bytes
