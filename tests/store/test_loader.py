"""The loader's threads: everything arrives, nothing hangs, and the books stay right."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_store.chunks import DecodedChunks, EncodedChunk
from scene_store.demands import Demand
from scene_store.failures import RetryPolicy
from scene_store.ledger import Budgets, ChunkCosts, ChunkState
from scene_store.loader import Loader
from scene_store.lod import LodCut, LodLimits, select_lod
from scene_store.residency import Residency
from scene_store.tree import LodTree
from splat.errors import BudgetError, ChunkReadError
from splat.gaussians import Gaussians
from tests.store.fake_source import BatchedFakeSource, FakeSource
from tests.store.forests import overview, random_forest, random_view

PAGE_GAUSSIANS, PAGE_BYTES = 25, 1000
PATIENCE_S = 20.0
TREE = random_forest(11, depth=3, branching=4, leaf_share=0)


class FakePool:
    """Pages by number only. It fails if residency let more in than fits."""

    def __init__(self, costs: ChunkCosts, capacity: int) -> None:
        self.costs = costs
        self.capacity = capacity
        self.chunks: dict[int, int] = {}
        self.most_bytes = 0
        self.broken: set[int] = set()
        self._lock = threading.Lock()

    def upload(self, chunks: Sequence[int], gaussians: Gaussians, rows: NDArray[np.int64]) -> None:
        with self._lock:
            if not self.broken.isdisjoint(chunks):
                raise MemoryError
            assert self.chunks.keys().isdisjoint(chunks)
            self.chunks.update(zip(chunks, rows[:, 1].tolist(), strict=True))
            self.most_bytes = max(self.most_bytes, self.nbytes)
            assert self.nbytes <= self.capacity

    def free(self, chunk: int) -> None:
        with self._lock:
            del self.chunks[chunk]

    @property
    def nbytes(self) -> int:
        return int(self.costs.device[list(self.chunks)].sum())


class Stage:
    """A loader with everything around it."""

    def __init__(self, source: FakeSource, device_share: float = 1.0) -> None:
        costs = ChunkCosts.of(source, PAGE_BYTES)
        roots = int(costs.device[source.tree.roots].sum())
        device = int(roots + device_share * (costs.device.sum() - roots))
        host = int(2 * (costs.encoded.max() + costs.decoded.max()))
        retry = RetryPolicy(first_s=0.02, longest_s=0.1)
        self.source = source
        self.arrivals = threading.Semaphore(0)
        self.pool = FakePool(costs, device)
        self.residency = Residency(source.tree, costs, Budgets(host, device), retry=retry)
        self.loader = Loader(source, self.pool, self.residency, on_arrival=self.arrivals.release)
        pages = device // PAGE_BYTES
        self.limits = LodLimits(error_px=0.0, max_pages=pages, page_gaussians=PAGE_GAUSSIANS)
        self.cut: LodCut | None = None

    def look(self, *, seed: int | None = None, client: object = None) -> LodCut:
        """A frame that is drawn in no time."""
        camera = overview(self.source.tree) if seed is None else random_view(seed)

        def choose(resident: NDArray[np.bool_], lost: NDArray[np.bool_]) -> Demand:
            cut = select_lod(self.source.tree, [camera], resident, self.limits, lost=lost)
            self.cut = cut
            return Demand(cut.draw, cut.want, cut.touched)

        with self.loader.frame(choose, client=client) as lease:
            assert set(lease.chunks) <= set(self.pool.chunks)
        assert self.cut is not None
        return self.cut

    def look_until_settled(self, *, seed: int | None = None) -> LodCut:
        """Until there is nothing more to come."""
        self.look(seed=seed)
        assert self.loader.wait_until_settled(PATIENCE_S)
        return self.look(seed=seed)


Staged = Callable[..., Stage]


@pytest.fixture(params=[FakeSource, BatchedFakeSource])
def kind(request: pytest.FixtureRequest) -> type[FakeSource]:
    """Sources of single chunks, and of batches: the same must hold of both."""
    source: type[FakeSource] = request.param
    return source


@pytest.fixture
def stage(kind: type[FakeSource]) -> Generator[Staged, None, None]:
    """Makes stages, and closes their loaders."""
    made: list[Stage] = []

    def make(source: FakeSource | None = None, device_share: float = 1.0) -> Stage:
        made.append(Stage(source or kind(TREE, PAGE_GAUSSIANS), device_share))
        return made[-1]

    yield make
    for each in made:
        each.source.resume()
        each.loader.close()


def test_everything_wanted_arrives(stage: Staged) -> None:
    it = stage()
    cut = it.look_until_settled()
    assert cut.complete
    assert set(cut.draw.tolist()) == set(np.flatnonzero(TREE.is_leaf).tolist())
    assert it.pool.chunks == {node: int(TREE.count[node]) for node in cut.touched.tolist()}
    assert sorted(it.source.reads) == list(range(len(TREE)))
    assert it.arrivals.acquire(timeout=PATIENCE_S)
    assert 0 < it.loader.latency_s < PATIENCE_S


def test_chunks_are_read_coarse_first(stage: Staged, kind: type[FakeSource]) -> None:
    it = stage(kind(TREE, PAGE_GAUSSIANS, delay_s=0.002))
    it.look_until_settled()
    places = {chunk: place for place, chunk in enumerate(it.source.reads)}
    # Reads start in order, but threads that start them may overtake each other by one turn.
    in_flight = it.residency.max_loads
    for chunk in range(1, len(TREE)):
        assert places[int(TREE.parent[chunk])] < places[chunk] + in_flight


def test_many_views_within_small_budgets(stage: Staged) -> None:
    it = stage(device_share=0.3)
    first = it.look_until_settled()
    assert first.complete
    for seed in range(20):
        it.look(seed=seed)
        time.sleep(0.001)
    for leaf in np.flatnonzero(TREE.is_leaf).tolist():  # more than fits at a time
        it.loader.frame(partial(only, leaf)).release()
        assert it.loader.wait_until_settled(PATIENCE_S)
        assert leaf in it.pool.chunks
    again = it.look_until_settled()
    assert again.draw.tolist() == first.draw.tolist()
    assert 0 < it.pool.most_bytes <= it.pool.capacity
    stats = it.loader.stats()
    assert stats.device_bytes == it.pool.nbytes
    assert stats.tally.evicted > 0


def only(chunk: int, resident: NDArray[np.bool_], lost: NDArray[np.bool_]) -> Demand:
    """A frame that draws nothing and wants one chunk."""
    return Demand(draw=[], want=[chunk], touched=[chunk])


def test_flaky_reads_are_retried(stage: Staged, kind: type[FakeSource]) -> None:
    source = kind(TREE, PAGE_GAUSSIANS)
    for chunk in range(0, len(TREE), 3):
        source.read_errors[chunk] = [
            ChunkReadError("fake", chunk, "stalled", transient=True),
            OSError("connection reset"),
        ]
    it = stage(source)
    assert it.look_until_settled().complete
    assert len(it.pool.chunks) == len(TREE)
    assert it.loader.stats().failures == ()


def test_damage_is_reported_and_its_parent_stands_in(stage: Staged, kind: type[FakeSource]) -> None:
    leaf = int(np.flatnonzero(TREE.is_leaf)[0])
    it = stage(kind(TREE, PAGE_GAUSSIANS, damaged={leaf}))
    cut = it.look_until_settled()
    assert cut.complete
    assert int(TREE.parent[leaf]) in cut.draw
    (failure,) = it.loader.stats().failures
    assert (failure.chunk, failure.permanent) == (leaf, True)
    assert failure.text == f"fake.bvs: chunk {leaf}: checksum differs"


class Panic(BaseException):
    """What native libraries raise."""


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), MemoryError(), Panic("panicked")])
def test_no_exception_ends_a_thread(
    stage: Staged, kind: type[FakeSource], error: BaseException
) -> None:
    source = kind(TREE, PAGE_GAUSSIANS)
    source.read_errors = {chunk: [error] for chunk in range(len(TREE))}
    it = stage(source)
    assert it.look_until_settled().complete


def test_a_failed_upload_leaves_nothing_and_is_tried_again(stage: Staged) -> None:
    it = stage()
    chunk = int(np.flatnonzero(TREE.is_leaf)[0])
    it.pool.broken.add(chunk)
    it.look()
    while not it.loader.stats().failures:
        time.sleep(0.001)
    assert chunk not in it.pool.chunks
    it.pool.broken.clear()
    assert it.look_until_settled().complete


class Lost(Exception):
    """A device that hangs says so late."""


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (Lost(), 1),
        (RuntimeError("CUDA error"), 1),
        (BudgetError("full"), 4),
        (ValueError("bad"), 4),
    ],
)
def test_only_what_may_be_of_one_chunk_is_tried_one_by_one(
    stage: Staged, error: Exception, calls: int
) -> None:
    it, asked = stage(), list[list[int]]()

    def fail(chunks: Sequence[int], gaussians: Gaussians, rows: NDArray[np.int64]) -> None:
        asked.append(list(chunks))
        raise error

    it.loader.close()
    it.pool.upload = fail  # type: ignore[method-assign]
    decoded = DecodedChunks(Gaussians.empty(), np.zeros((3, 2), np.int64), {})
    assert it.loader._upload([4, 5, 6], decoded, [0, 1, 2]) == dict.fromkeys([4, 5, 6], error)
    assert asked == [[4, 5, 6], [4], [5], [6]][:calls]


def test_reads_that_nobody_wants_any_more_are_cancelled(stage: Staged) -> None:
    it = stage()
    it.look_until_settled(seed=1)
    it.source.delay_s = PATIENCE_S
    it.look()
    while it.loader.stats().chunks[ChunkState.LOADING] == 0:
        time.sleep(0.001)
    it.loader.forget(None)
    it.source.delay_s = 0.0
    while it.loader.stats().chunks[ChunkState.LOADING] > 0:
        time.sleep(0.001)
    assert it.loader.stats().tally.cancelled > 0
    assert it.look_until_settled().complete


def test_a_stalled_read_delays_neither_the_others_nor_the_end(stage: Staged) -> None:
    leaf = int(np.flatnonzero(TREE.is_leaf)[0])
    it = stage(FakeSource(TREE, PAGE_GAUSSIANS, stalled={leaf}))
    it.look()
    assert not it.loader.wait_until_settled(0.5)
    assert len(it.pool.chunks) == len(TREE) - 1
    assert int(TREE.parent[leaf]) in it.look().draw
    start = time.monotonic()
    it.loader.close()
    assert time.monotonic() - start < 1.0
    held = dict(it.pool.chunks)
    it.source.resume()
    time.sleep(0.05)
    assert it.pool.chunks == held


def test_closing_stops_all_threads_and_is_final(stage: Staged, kind: type[FakeSource]) -> None:
    it = stage(kind(TREE, PAGE_GAUSSIANS, delay_s=PATIENCE_S))
    it.look()
    it.loader.close()
    it.loader.close()
    assert not [thread for thread in it.loader.threads if thread.is_alive()]
    assert not it.loader.wait_until_settled(PATIENCE_S)
    with pytest.raises(RuntimeError, match="closed"):
        it.look()


def test_a_lease_outlives_the_budget_that_shrank(stage: Staged) -> None:
    it = stage()
    drawn = it.look_until_settled().draw.tolist()
    lease = it.loader.frame(lambda resident, lost: Demand(drawn, [], drawn))
    roots = int(it.pool.costs.device[TREE.roots].sum())
    it.loader.set_budgets(Budgets(10**6, roots))
    assert set(drawn) <= set(it.pool.chunks)
    lease.release()
    lease.release()
    assert list(it.pool.chunks) == TREE.roots.tolist()
    with pytest.raises(BudgetError):
        it.loader.set_budgets(Budgets(10**6, 0))


def test_a_listener_s_error_is_logged_and_harmless(
    stage: Staged, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    it = stage()
    it.loader.close()
    loader = Loader(
        it.source,
        FakePool(it.pool.costs, it.pool.capacity),
        Residency(TREE, it.pool.costs, it.residency.budgets),
        on_arrival=fail,
    )
    with loader:
        assert loader.wait_until_settled(PATIENCE_S)
    assert "a listener to arriving chunks failed" in caplog.text


def test_a_bad_chunk_does_not_fail_its_batch(stage: Staged) -> None:
    """Damaged, unreadable, or without room on the device: each alone is lost or late."""
    leaves = np.flatnonzero(TREE.is_leaf).tolist()
    damaged, unreadable, homeless = leaves[1], leaves[4], leaves[9]
    source = BatchedFakeSource(TREE, PAGE_GAUSSIANS, damaged={damaged})
    source.read_errors[unreadable] = [ChunkReadError("fake", unreadable, "is missing")]
    it = stage(source)
    it.pool.broken.add(homeless)
    it.look()
    while len(it.pool.chunks) < len(TREE) - 3:
        time.sleep(0.001)
    assert set(it.pool.chunks) == set(range(len(TREE))) - {damaged, unreadable, homeless}
    it.pool.broken.clear()
    assert it.look_until_settled().complete
    failures = it.loader.stats().failures
    assert [failure.chunk for failure in failures] == sorted([damaged, unreadable])
    assert all(failure.permanent for failure in failures)


def test_a_source_that_breaks_fails_its_batch_and_is_tried_again(stage: Staged) -> None:
    class Breaking(BatchedFakeSource):
        broken = 5

        def decode_many(
            self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]
        ) -> DecodedChunks:
            self.broken -= 1
            if self.broken >= 0:
                raise Panic("panicked")
            return super().decode_many(chunks, encoded)

    assert stage(Breaking(TREE, PAGE_GAUSSIANS)).look_until_settled().complete


def test_batches_are_read_decoded_and_told_of_together(stage: Staged) -> None:
    source = BatchedFakeSource(TREE, PAGE_GAUSSIANS)
    it = stage(source)
    it.loader.frame(lambda resident, lost: Demand([], range(len(TREE)), range(len(TREE))))
    assert it.loader.wait_until_settled(PATIENCE_S)
    assert sorted(chunk for batch in source.batches for chunk in batch) == list(range(len(TREE)))
    assert len(source.batches) < 0.5 * len(TREE)
    assert len(source.decoded_together) < len(TREE)
    told = 0
    while it.arrivals.acquire(timeout=0.1):
        told += 1
    assert told <= len(source.decoded_together)


def test_what_is_not_wanted_is_left_out_of_its_batch(stage: Staged) -> None:
    """The rest of the batch comes."""
    leaves = np.flatnonzero(TREE.is_leaf).tolist()
    batch = [leaf for leaf in leaves if leaf // 4 == leaves[5] // 4]
    source = BatchedFakeSource(TREE, PAGE_GAUSSIANS)
    it = stage(source)
    parents = sorted({int(TREE.parent[leaf]) for leaf in batch})
    ways = sorted({up for leaf in batch for up in TREE.ancestors(leaf)})
    it.loader.frame(lambda resident, lost: Demand([], ways, ways)).release()
    assert it.loader.wait_until_settled(PATIENCE_S)
    source.delay_s = 0.3
    it.loader.frame(lambda resident, lost: Demand([], batch, [*ways, *batch])).release()
    it.loader.frame(lambda resident, lost: Demand([], batch[:1], [*ways, *batch[:1]])).release()
    assert it.loader.wait_until_settled(PATIENCE_S)
    while it.loader.stats().chunks[ChunkState.LOADING] > 0:
        time.sleep(0.001)
    assert batch[0] in it.pool.chunks
    assert set(it.pool.chunks) >= set(parents)
    assert it.loader.stats().tally.cancelled == len(batch) - 1


def test_costs_come_from_the_source() -> None:
    tree: LodTree = TREE
    costs = ChunkCosts.of(FakeSource(tree, PAGE_GAUSSIANS, sh_degree=1), PAGE_BYTES)
    count = tree.count.astype(int)
    assert costs.encoded.tolist() == (4 * count).tolist()
    assert costs.decoded.tolist() == (4 * (11 + 12 + 14) * count).tolist()
    assert costs.device.tolist() == (PAGE_BYTES * np.ceil(count / PAGE_GAUSSIANS)).tolist()
