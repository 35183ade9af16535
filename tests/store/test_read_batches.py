"""What is read together: plans without files, and how much one read asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scene_store.range_reader import MOST_GAP_BYTES, cut, extent, runs
from scene_store.read_batches import Place, in_order, side_by_side
from scene_store.read_pace import ReadPace

KIB = 1 << 10


@st.composite
def shuffled_places(draw: st.DrawFn) -> tuple[list[int], list[Place]]:
    """Chunks that lie one after the other in two files; some of them, in any order."""
    sizes = draw(st.lists(st.integers(1, 3 * MOST_GAP_BYTES), min_size=1, max_size=40))
    places: list[Place] = []
    ends = [0, 0]
    for size in sizes:
        level = draw(st.integers(0, 1))
        places.append((level, ends[level], size))
        ends[level] += size
    chunks = draw(st.permutations(range(len(sizes))))
    chunks = chunks[: draw(st.integers(1, len(chunks)))]
    return list(chunks), [places[chunk] for chunk in chunks]


@given(shuffled_places(), st.integers(1, 30 * KIB))
def test_batches_are_all_chunks_once_within_their_bytes_and_gaps(
    given_places: tuple[list[int], list[Place]], most_bytes: int
) -> None:
    chunks, places = given_places
    at = dict(zip(chunks, places, strict=True))
    batches = side_by_side(chunks, places, most_bytes=most_bytes)
    assert sorted(chunk for batch in batches for chunk in batch) == sorted(chunks)
    for batch in batches:
        levels, offsets, sizes = zip(*(at[chunk] for chunk in batch), strict=True)
        assert len(set(levels)) == 1
        assert list(offsets) == sorted(offsets)
        gaps = [
            b - a - size for a, size, b in zip(offsets[:-1], sizes[:-1], offsets[1:], strict=True)
        ]
        assert all(0 <= gap <= MOST_GAP_BYTES for gap in gaps)
        if len(batch) > 1:
            assert offsets[-1] + sizes[-1] - offsets[0] <= most_bytes
    urgency = [min(chunks.index(chunk) for chunk in batch) for batch in batches]
    assert urgency == sorted(urgency)


def test_neighbours_are_one_batch_wherever_they_stand_in_the_queue() -> None:
    places: list[Place] = [(0, 1000 * chunk, 1000) for chunk in range(10)]
    chunks = [7, 2, 6, 0, 3]
    # What lies between them may be read in vain.
    assert side_by_side(chunks, [places[c] for c in chunks]) == [[0, 2, 3, 6, 7]]
    far: list[Place] = [(0, 10_000 * chunk, 10_000) for chunk in range(10)]
    assert side_by_side(chunks, [far[c] for c in chunks]) == [[6, 7], [2, 3], [0]]
    assert side_by_side(chunks, [far[c] for c in chunks], most_bytes=19_999) == [
        [7],
        [2],
        [6],
        [0],
        [3],
    ]


def test_harmonics_count_for_a_batch() -> None:
    places: list[Place] = [(0, 10 * chunk, 10) for chunk in range(6)]
    assert side_by_side(range(6), places, [50] * 6, 100) == [[0, 1], [2, 3], [4, 5]]


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 150))
def test_batches_in_order_keep_the_order(sizes: list[int], most_bytes: int) -> None:
    batches = in_order(range(len(sizes)), sizes, most_bytes)
    assert [chunk for batch in batches for chunk in batch] == list(range(len(sizes)))
    totals = [sum(sizes[chunk] for chunk in batch) for batch in batches]
    assert all(
        total <= most_bytes or len(batch) == 1 for total, batch in zip(totals, batches, strict=True)
    )
    # None could have taken the first chunk of the next one.
    for total, after in zip(totals, batches[1:], strict=False):
        assert total + sizes[after[0]] > most_bytes


def test_ranges_are_cut_from_what_lies_between_their_ends() -> None:
    data = bytes(range(256))
    ranges = [(20, 5), (25, 0), (25, 10), (40, 3)]
    first, size = extent(ranges)
    assert (first, size) == (20, 23)
    parts = cut(data[first : first + size], ranges)
    assert parts == [data[offset : offset + size] for offset, size in ranges]


def test_runs_end_where_too_much_would_be_read_in_vain() -> None:
    ranges = [(0, 10), (10, 10), (25, 5), (31, 4)]
    assert runs(ranges, 0) == [[(0, 10), (10, 10)], [(25, 5)], [(31, 4)]]
    assert runs(ranges, 1) == [[(0, 10), (10, 10)], [(25, 5), (31, 4)]]
    assert runs([]) == []


def test_reads_grow_with_what_the_source_gives() -> None:
    slow, fast = ReadPace(), ReadPace()
    assert slow.batch_bytes == 64 * KIB
    for _ in range(20):
        slow.observe(50 * KIB, 0.04)  # 20 ms away, at 100 Mbit/s shared by eight
        fast.observe(64 * KIB, 0.0001)
    assert slow.batch_bytes == 64 * KIB
    assert fast.batch_bytes == 512 * KIB
    for _ in range(60):
        fast.observe(512 * KIB, 0.02)  # 26 MB/s: the disk's cache is used up
    assert 100 * KIB < fast.batch_bytes < 150 * KIB
