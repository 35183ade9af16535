"""Chunks of a store, many at a time: as each by itself, and none at another's cost."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scene_store.chunks import Buffer, EncodedChunk, in_batches, never_cancelled
from scene_store.ledger import ChunkCosts
from scene_store.manifest import Profile
from scene_store.range_reader import FolderReader, RangeReadError
from scene_store.store import Store, open_store
from splat.errors import ChunkReadError
from splat.gaussians import Gaussians
from tests import scenes
from tests.store.small_stores import sample_chunks, write_store

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def get(store: Store, chunk: int) -> Gaussians:
    encoded = store.read(chunk)
    assert encoded is not None
    return store.decode(chunk, encoded)


class RangesReader(FolderReader):
    """Far away, or as if; notes what was asked for, and fails as told."""

    def __init__(self, folder: Path, *, is_far: bool = True) -> None:
        super().__init__(folder)
        self.is_far = is_far
        self.asked: list[tuple[str, tuple[tuple[int, int], ...]]] = []
        self.failing: list[RangeReadError] = []

    def read_ranges(
        self, name: str, ranges: Sequence[tuple[int, int]], cancelled: Callable[[], bool]
    ) -> list[Buffer] | None:
        self.asked.append((name, tuple(ranges)))
        if self.failing:
            raise self.failing.pop(0)
        return super().read_ranges(name, ranges, cancelled)


def wanted(chunk: int) -> bool:
    """For reads that nobody gives up."""
    return False


def read_all(store: Store, chunks: list[int]) -> list[EncodedChunk]:
    outcomes = store.read_many(chunks, wanted)
    assert all(isinstance(outcome, EncodedChunk) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, EncodedChunk)]


@pytest.mark.parametrize("sh_degree", [0, 1])
@pytest.mark.parametrize("is_far", [False, True])
def test_a_batch_brings_what_single_reads_bring(
    tmp_path: Path, is_far: bool, sh_degree: int
) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(sh_degree, leaves=6))
    reader = RangesReader(path, is_far=is_far)
    with Store(reader, path) as store:
        chunks = [5, 0, 1, 6, 3, 2]
        together = read_all(store, chunks)
        for chunk, encoded in zip(chunks, together, strict=True):
            alone = store.read(chunk)
            assert alone is not None
            assert [bytes(part) for part in encoded.parts] == [bytes(p) for p in alone.parts]
        decoded = store.decode_many(chunks, together)
        assert decoded.errors == {}
        for chunk, (first, count) in zip(chunks, decoded.rows.tolist(), strict=True):
            expected = get(store, chunk)
            for name in FIELDS:
                rows = getattr(decoded.contents, name)[first : first + count]
                assert rows.tobytes() == getattr(expected, name).tobytes()
    files = {name for name, _ in reader.asked}
    assert len(files) == (2 if sh_degree == 0 else 4)
    # Leaves 1 to 3 lie together, and 5 and 6 do.
    assert len(reader.asked) == 3 * (1 + sh_degree)


def test_from_afar_a_batch_is_what_lies_together(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(leaves=6))
    with Store(RangesReader(path), path) as store:
        assert store.read_batches([5, 0, 1, 6, 3, 2], 1 << 20) == [[5, 6], [0], [1, 2, 3]]
    with Store(RangesReader(path, is_far=False), path) as store:
        assert store.read_batches([5, 0, 1, 6, 3, 2], 1 << 20) == [[5, 0, 1, 6, 3, 2]]
        least = store.encoded_bytes(5) + store.encoded_bytes(0)
        assert store.read_batches([5, 0, 1, 6], least)[0] == [5, 0]


def test_a_damaged_chunk_of_a_batch_is_named_and_the_others_are_well(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(leaves=6))
    with open_store(path) as store:
        encoded = read_all(store, [1, 2, 3, 4])
        expected = [get(store, chunk) for chunk in (1, 2, 3, 4)]
        for place, stream in ((1, 0), (2, 1)):
            parts = [bytearray(part) for part in encoded[place].parts]
            parts[stream][-3] ^= 1
            encoded[place] = EncodedChunk(tuple(parts))
        decoded = store.decode_many([1, 2, 3, 4], encoded)
    assert sorted(decoded.errors) == [1, 2]
    assert "geometry-00.bin: chunk 2: is damaged: the checksum" in str(decoded.errors[1])
    assert "sh-00.bin: chunk 3: is damaged: the checksum" in str(decoded.errors[2])
    for place in (0, 3):
        first, count = decoded.rows[place].tolist()
        for name in FIELDS:
            rows = getattr(decoded.contents, name)[first : first + count]
            assert rows.tobytes() == getattr(expected[place], name).tobytes()


def test_only_what_lies_beyond_the_end_of_a_file_cannot_be_read(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(leaves=6))
    reader = RangesReader(path)
    with Store(reader, path) as store:
        file = path / "geometry-00.bin"
        os.truncate(file, file.stat().st_size - 10)
        outcomes = store.read_many([3, 4, 5, 6], wanted)
    assert [isinstance(outcome, EncodedChunk) for outcome in outcomes] == [True, True, True, False]
    assert isinstance(outcomes[3], ChunkReadError)
    assert "chunk 6: ends at byte" in str(outcomes[3])


def test_a_passing_fault_fails_all_that_were_read_together(tmp_path: Path) -> None:
    """They are tried again later, not one by one at once."""
    path = write_store(tmp_path / "scene.bvs", sample_chunks(leaves=6))
    reader = RangesReader(path)
    with Store(reader, path) as store:
        reader.failing = [RangeReadError("there", "the line is down", transient=True)]
        outcomes = store.read_many([1, 2, 3], wanted)
        assert [str(o) for o in outcomes] == [
            f"there: chunk {chunk}: the line is down" for chunk in (1, 2, 3)
        ]
        assert all(isinstance(o, ChunkReadError) and o.transient for o in outcomes)
        assert len(reader.asked) == 1
        read_all(store, [1, 2, 3])


def test_what_is_not_wanted_is_not_read(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(0, leaves=6))
    reader = RangesReader(path)
    with Store(reader, path) as store:
        outcomes = store.read_many([1, 2, 3, 4], {1, 4}.__contains__)
        assert [outcome is None for outcome in outcomes] == [True, False, False, True]
        ((_, ranges),) = reader.asked
        assert len(ranges) == 2
        assert store.read_many([5, 6], lambda chunk: True) == [None, None]


def test_a_wrapper_that_passes_attributes_on_reads_its_own_way(tmp_path: Path) -> None:
    class Wrapper:
        def __init__(self, store: Store) -> None:
            self.store = store
            self.read_chunks: list[int] = []

        def __getattr__(self, name: str) -> object:
            return getattr(self.store, name)

        def read(self, chunk: int, cancelled: Callable[[], bool] = never_cancelled) -> object:
            self.read_chunks.append(chunk)
            if chunk == 2:
                raise ChunkReadError("wrapped", 2, "is not to be had")
            return self.store.read(chunk, cancelled)

    with open_store(write_store(tmp_path / "scene.bvs")) as store:
        assert in_batches(store) is store
        wrapper = Wrapper(store)
        source = in_batches(wrapper)  # type: ignore[arg-type]
        assert source.read_batches([3, 1], 1 << 20) == [[3], [1]]
        first, second = source.read_many([1, 2], wanted)
        assert isinstance(first, EncodedChunk)
        assert str(second) == "wrapped: chunk 2: is not to be had"
        assert wrapper.read_chunks == [1, 2]
        decoded = source.decode_many([1, 2], [first, EncodedChunk((b"", b""))])
        assert list(decoded.errors) == [1]
        assert decoded.rows.tolist() == [[0, 300], [300, 0]]


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_decoding_takes_no_more_memory_than_is_counted(
    tmp_path: Path, profile: Profile, sh_degree: int
) -> None:
    """A chunk by itself: then every byte is Python's, and can be watched."""
    chunks = [scenes.random_scene(seed, 1000, sh_degree) for seed in range(3)]
    with open_store(write_store(tmp_path / "scene.bvs", chunks, profile=profile)) as store:
        (encoded,) = read_all(store, [1])
        store.decode(1, encoded)  # what is made once
        tracemalloc.start()
        try:
            store.decode(1, encoded)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        counted = int(ChunkCosts.of(store, 1).decoded[1])
        assert peak < counted + 8192  # of objects, whatever the chunk's size
        assert peak > 0.6 * counted
