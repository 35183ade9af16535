"""Several loaders of one source: chunks are read and decoded once, and they get what is right."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from scene_store.chunks import DecodedChunks, EncodedChunk, ReadOutcome, gaussians_of, in_batches
from scene_store.ledger import ChunkCosts
from scene_store.shared_chunks import DECODED, HELD_CHUNKS, KEPT_S, SharedChunks, held_bytes_of
from splat.errors import ChunkReadError
from tests.store.fake_source import BatchedFakeSource
from tests.store.forests import random_forest

WAIT_S = 20.0
AMPLE = 64 << 20


@dataclass(eq=False)
class CountingSource(BatchedFakeSource):
    """Counts, and holds decodings back until a gate opens."""

    decodings: Counter[int] = field(default_factory=Counter)
    gate: threading.Event = field(default_factory=threading.Event)
    at_it: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    counting: threading.Lock = field(default_factory=threading.Lock)

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        assert chunks, "nothing to decode is not asked for"
        with self.counting:
            self.decodings.update(chunks)
        self.at_it.release()
        assert self.gate.wait(WAIT_S)
        return super().decode_many(chunks, encoded)


@pytest.fixture
def source() -> CountingSource:
    source = CountingSource(random_forest(3, roots=2, branching=5))
    source.gate.set()
    return source


def never(chunk: int) -> bool:
    return False


def fetched(shared: SharedChunks, chunks: Sequence[int]) -> list[EncodedChunk]:
    outcomes = shared.read_many(chunks, never)
    assert all(isinstance(outcome, EncodedChunk) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, EncodedChunk)]


def assert_right(source: CountingSource, chunks: Sequence[int], decoded: DecodedChunks) -> None:
    assert not decoded.errors
    for chunk, (first, count) in zip(chunks, decoded.rows.tolist(), strict=True):
        raw = EncodedChunk((np.full(source.tree.count[chunk], chunk, np.int32).tobytes(),))
        expected = gaussians_of(source.decode(chunk, raw))
        part = gaussians_of(decoded.contents)[first : first + count]
        for mine, other in zip(part.arrays, expected.arrays, strict=True):
            assert np.array_equal(mine, other)


def test_it_is_a_source_of_batches(source: CountingSource) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    assert in_batches(shared) is shared
    assert shared.read_batches([5, 0, 4], 1 << 20) == source.read_batches([5, 0, 4], 1 << 20)
    assert shared.encoded_bytes(3) == source.encoded_bytes(3)


def test_what_another_memory_has_decoded_is_neither_read_nor_decoded_again(
    source: CountingSource,
) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    chunks = list(range(8))
    for _ in range(3):
        encoded = fetched(shared, chunks)
        assert_right(source, chunks, shared.decode_many(chunks, encoded))
    assert encoded == [DECODED] * 8
    assert Counter(source.reads) == source.decodings == Counter(chunks)


def test_what_was_read_and_not_decoded_is_not_read_again(source: CountingSource) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    first = fetched(shared, [1, 2])
    second = fetched(shared, [2, 3])
    assert second[0] is first[1]
    assert Counter(source.reads) == Counter([1, 2, 3])


def test_what_all_memories_have_got_is_not_kept(source: CountingSource) -> None:
    shared = SharedChunks(source, 2, AMPLE)
    for held in (True, False):
        encoded = fetched(shared, [1, 2])
        assert_right(source, [1, 2], shared.decode_many([1, 2], encoded))
        assert bool(shared.held_bytes) == held
    assert source.decodings == Counter([1, 2])


def test_what_nobody_comes_for_makes_room_after_a_while(source: CountingSource) -> None:
    now_s = [0.0]
    source.tree.count.flags.writeable = True
    source.tree.count[:] = 50
    one = len(source.decode(1, source.read(1) or DECODED)) * 4 * (11 + 3)
    shared = SharedChunks(source, 2, 2 * one, clock=lambda: now_s[0])
    shared.decode_many([1, 2, 3], fetched(shared, [1, 2, 3]))
    assert fetched(shared, [1, 2]) == [DECODED] * 2 and fetched(shared, [3]) != [DECODED]
    now_s[0] += KEPT_S
    shared.decode_many([4], fetched(shared, [4]))
    assert fetched(shared, [2, 4]) == [DECODED] * 2 and fetched(shared, [1]) != [DECODED]


def test_batches_that_overlap_wait_for_each_other_and_nobody_for_ever(
    source: CountingSource,
) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    batches = [[1, 2, 3], [2, 3, 4], [4, 1], [3, 4, 5]]
    encoded = [fetched(shared, batch) for batch in batches]
    source.gate.clear()
    with ThreadPoolExecutor(4) as threads:
        futures = [
            threads.submit(shared.decode_many, batch, each)
            for batch, each in zip(batches, encoded, strict=True)
        ]
        assert source.at_it.acquire(timeout=WAIT_S)
        source.gate.set()
        for batch, future in zip(batches, futures, strict=True):
            assert_right(source, batch, future.result(WAIT_S))
    assert source.decodings == Counter([1, 2, 3, 4, 5])


def test_a_read_that_somebody_else_is_at_is_waited_for(source: CountingSource) -> None:
    source.stalled.add(4)
    shared = SharedChunks(source, 4, AMPLE)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(shared.read_many, [4], never)
        while not source.reads:
            pass
        second = threads.submit(shared.read_many, [4], never)
        given_up = shared.read_many([4, 5], lambda chunk: chunk == 4)
        assert given_up[0] is None, "who does not want it any more does not wait"
        source.resume()
        assert first.result(WAIT_S)[0] is second.result(WAIT_S)[0]
    assert source.reads.count(4) == 1


def test_a_read_that_failed_or_was_given_up_is_done_again_by_who_waits(
    source: CountingSource,
) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    source.read_errors[3] = [ChunkReadError("fake.bvs", 3, "lost", transient=True)]
    (failed,) = shared.read_many([3], never)
    assert isinstance(failed, ChunkReadError)
    assert shared.read_many([2], lambda _: True) == [None]
    assert len(fetched(shared, [2, 3])) == 2
    source.read_errors[6] = [ChunkReadError("fake.bvs", 6, "gone")]
    with pytest.raises(ChunkReadError, match="gone"):
        shared.read(6)


def test_a_damaged_chunk_is_told_to_everybody_and_spoils_no_other(source: CountingSource) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    source.damaged.add(2)
    for _ in range(2):
        decoded = shared.decode_many([1, 2, 3], fetched(shared, [1, 2, 3]))
        assert list(decoded.errors) == [1] and "checksum" in str(decoded.errors[1])
        assert decoded.rows[[0, 2], 1].tolist() == source.tree.count[[1, 3]].tolist()
    with pytest.raises(ChunkReadError, match="checksum"):
        shared.decode(2, shared.read(2) or DECODED)
    encoded = shared.read(3)
    assert encoded is not None and len(shared.decode(3, encoded)) == source.tree.count[3]


def test_what_is_gone_from_memory_is_read_once_more(source: CountingSource) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    shared.decode_many([1, 2], fetched(shared, [1, 2]))
    promised = fetched(shared, [1, 2])
    assert promised == [DECODED, DECODED]
    shared.set_held_bytes(0)
    assert_right(source, [1, 2], shared.decode_many([1, 2], promised))
    source.read_errors[1] = [ChunkReadError("fake.bvs", 1, "unplugged", transient=True)]
    decoded = shared.decode_many([1, 2], promised)
    assert list(decoded.errors) == [0] and "unplugged" in str(decoded.errors[0])


@pytest.mark.parametrize("held", [0, 3_000, 40_000, AMPLE])
def test_many_threads_get_what_is_right_in_a_bound_that_holds(
    source: CountingSource, held: int
) -> None:
    shared = SharedChunks(source, 4, held)
    most: list[int] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(25):
            chunks = random.choice(len(source.tree), 6, replace=False).tolist()
            outcomes: list[ReadOutcome] = shared.read_many(chunks, never)
            encoded = [each for each in outcomes if isinstance(each, EncodedChunk)]
            assert_right(source, chunks, shared.decode_many(chunks, encoded))
            most.append(shared.held_bytes)

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(work, seed) for seed in range(4)]:
            future.result(WAIT_S)
    assert max(most) <= held
    shared.close()
    assert shared.held_bytes == 0


def test_what_is_kept_is_a_few_chunks_and_leaves_every_memory_what_it_needs() -> None:
    source = BatchedFakeSource(random_forest(3))
    costs = ChunkCosts.of(source, 1 << 16)
    least = int(costs.encoded.max() + costs.decoded.max())
    assert held_bytes_of(costs, 2 * least, 2, least) == 0
    assert held_bytes_of(costs, 4 * least, 2, least) == least
    assert held_bytes_of(costs, 1 << 40, 2, least) == HELD_CHUNKS * costs.decoded.max()


def test_gaussians_that_are_kept_are_copies(source: CountingSource) -> None:
    shared = SharedChunks(source, 4, AMPLE)
    decoded = shared.decode_many([1], fetched(shared, [1]))
    kept = gaussians_of(shared.decode_many([1], [DECODED]).contents)
    gaussians_of(decoded.contents).means[:] = 7.0  # as the source does with the next batch
    assert not (kept.means == 7.0).any()
    assert_right(source, [1], shared.decode_many([1], [DECODED]))
