"""Reading a store: what opening costs, what chunks hold, and what damage does."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scene_store.chunks import ChunkSource, EncodedChunk, gaussians_of
from scene_store.manifest import Profile, parse_manifest
from scene_store.node_table import table_bytes
from scene_store.range_reader import FolderReader, RangeReadError
from scene_store.store import Store, is_store, open_store
from splat.errors import ChunkReadError, SceneError, SceneFormatError, SceneNotFoundError
from splat.gaussians import Gaussians
from tests.store.format_decoder import read_chunk
from tests.store.small_stores import (
    INFO,
    edit_manifest,
    edit_node,
    sample_chunks,
    sample_tree,
    write_store,
)

FIELDS = ("means", "quats", "scales", "opacities", "sh")


class CountingReader(FolderReader):
    """Notes what was read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bytes_by_name: dict[str, int] = {}

    def read(
        self, name: str, offset: int, size: int, cancelled: Callable[[], bool]
    ) -> bytes | None:
        self.bytes_by_name[name] = self.bytes_by_name.get(name, 0) + size
        return super().read(name, offset, size, cancelled)


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return write_store(tmp_path / "scene.bvs")


def get(source: ChunkSource, chunk: int) -> Gaussians:
    encoded = source.read(chunk)
    assert encoded is not None
    assert encoded.nbytes == source.encoded_bytes(chunk)
    return gaussians_of(source.decode(chunk, encoded))


def assert_same(a: Gaussians, b: Gaussians) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_chunks_and_tree_come_back(tmp_path: Path, sh_degree: int) -> None:
    chunks = sample_chunks(sh_degree)
    with open_store(write_store(tmp_path / "scene.bvs", chunks)) as store:
        tree = sample_tree(chunks)
        for name in ("lo", "hi", "max_scale", "error", "count", "parent", "level"):
            np.testing.assert_array_equal(getattr(store.tree, name), getattr(tree, name))
        for node in (2, 0, 1, 3):
            assert_same(get(store, node), chunks[node])


@pytest.mark.parametrize("profile", list(Profile))
def test_the_reader_written_from_the_specification_reads_it(
    tmp_path: Path, profile: Profile
) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(2), profile=profile)
    with open_store(path) as store:
        for node in range(4):
            decoded, expected = get(store, node), read_chunk(path, node)
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(decoded, name), expected[name])


def test_meta_says_what_the_store_holds(store_path: Path) -> None:
    with open_store(store_path / "manifest.json") as store:
        meta = store.meta
        assert (meta.path, meta.sh_degree, meta.up) == (store_path, 1, (0.0, -1.0, 0.0))
        assert (meta.count, meta.lod_counts) == (930, (930, 200))
        assert meta.notes == ("a note",)
        assert store.manifest.info == INFO
        assert store.page_gaussians == 1024
        np.testing.assert_array_equal(store.manifest.lo, store.tree.lo[0])


def test_opening_reads_the_manifest_and_the_table_only(store_path: Path) -> None:
    reader = CountingReader(store_path)
    with Store(reader, store_path) as store:
        manifest_bytes = (store_path / "manifest.json").stat().st_size
        assert reader.bytes_by_name == {
            "manifest.json": manifest_bytes,
            "nodes.bin": table_bytes(4),
        }
        store.read(2)
        read = reader.bytes_by_name
        assert read["geometry-00.bin"] + read["sh-00.bin"] == store.encoded_bytes(2)
        assert "geometry-01.bin" not in read


def test_a_scene_of_200_million_opens_within_4_mb() -> None:
    leaves = -(-200_000_000 // 16_384)
    assert table_bytes(2 * leaves) < 4_000_000  # a binary tree has the most inner nodes


def test_harmonics_can_be_left_out(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(2))
    for file in path.glob("sh-*.bin"):
        file.unlink()
    with open_store(path, harmonics=False) as store:
        assert store.sh_degree == store.meta.sh_degree == 0
        decoded = get(store, 1)
        assert decoded.sh.shape == (300, 1, 3)
        np.testing.assert_array_equal(decoded.sh, sample_chunks(2)[1].sh[:, :1])


def test_decoding_into_arrays_of_the_caller(store_path: Path) -> None:
    with open_store(store_path) as store:
        encoded = store.read(1)
        assert encoded is not None
        pool = Gaussians.concatenate([sample_chunks()[3], sample_chunks()[3]])
        store.decode_into(1, encoded, pool[5:305])
        assert_same(pool[5:305], sample_chunks()[1])
        assert_same(pool[305:], Gaussians.concatenate(2 * [sample_chunks()[3]])[305:])


def test_threads_may_read_and_decode_at_once(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", sample_chunks(2), profile=Profile.COMPACT)
    with open_store(path) as store, ThreadPoolExecutor(4) as pool:
        expected = [get(store, node) for node in range(4)]
        nodes = [at % 4 for at in range(64)]
        for node, decoded in zip(nodes, pool.map(lambda n: get(store, n), nodes), strict=True):
            assert_same(decoded, expected[node])


def test_a_cancelled_read_gives_nothing(store_path: Path) -> None:
    with open_store(store_path) as store:
        assert store.read(1, lambda: True) is None
        answers = iter([False, True])
        assert store.read(1, lambda: next(answers)) is None


def test_reading_after_close_is_an_error_of_the_chunk(store_path: Path) -> None:
    store = open_store(store_path)
    store.close()
    with pytest.raises(ChunkReadError, match="closed"):
        store.read(0)


# ---- Bad input -----------------------------------------------------------------------------


def test_a_flipped_byte_costs_its_chunk_only(store_path: Path) -> None:
    with open_store(store_path) as store:
        for name in ("geometry-00.bin", "sh-00.bin"):
            file = store_path / name
            whole = file.read_bytes()
            damaged = bytearray(whole)
            damaged[len(whole) // 2] ^= 1  # in the second of three leaves
            file.write_bytes(damaged)
            with pytest.raises(ChunkReadError, match=rf"{name}: chunk 2: is damaged") as caught:
                get(store, 2)
            assert caught.value.chunk == 2
            assert not caught.value.transient
            assert_same(get(store, 1), sample_chunks()[1])
            file.write_bytes(whole)
        assert_same(get(store, 2), sample_chunks()[2])


@pytest.fixture(scope="module")
def open_chunk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, EncodedChunk]]:
    """A store, and its chunk 1 as it was read."""
    with open_store(write_store(tmp_path_factory.mktemp("shared") / "scene.bvs")) as store:
        encoded = store.read(1)
        assert encoded is not None
        yield store, encoded


@given(data=st.data())
def test_any_flipped_bits_of_a_chunk_are_found(
    open_chunk: tuple[Store, EncodedChunk], data: st.DataObject
) -> None:
    store, encoded = open_chunk
    parts = [bytearray(part) for part in encoded.parts]
    part = data.draw(st.sampled_from(parts))
    part[data.draw(st.integers(0, len(part) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ChunkReadError, match="chunk 1: is damaged"):
        store.decode(1, EncodedChunk((bytes(parts[0]), bytes(parts[1]))))


def test_a_short_page_file_costs_the_chunks_beyond_its_end(store_path: Path) -> None:
    file = store_path / "geometry-00.bin"
    with open_store(store_path) as store:
        with open(file, "r+b") as handle:
            handle.truncate(file.stat().st_size - 1)
        assert_same(get(store, 2), sample_chunks()[2])
        with pytest.raises(ChunkReadError, match=r"geometry-00.bin: chunk 3: ends at byte"):
            store.read(3)


def test_a_missing_page_file_costs_its_level(store_path: Path) -> None:
    (store_path / "sh-00.bin").unlink()
    with open_store(store_path) as store:
        assert_same(get(store, 0), sample_chunks()[0])
        with pytest.raises(ChunkReadError, match=r"sh-00.bin: chunk 1: is missing"):
            store.read(1)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(store_path) as store:
        monkeypatch.setattr("os.pread", lambda *_: b"")
        with pytest.raises(ChunkReadError, match="became shorter"):
            store.read(1)


def test_a_disk_that_fails_is_an_error_of_the_chunk(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    with open_store(store_path) as store:
        monkeypatch.setattr("os.pread", fail)
        with pytest.raises(ChunkReadError, match="chunk 1: cannot be read: Input/output error"):
            store.read(1)


def test_what_is_no_store_says_so(tmp_path: Path, store_path: Path) -> None:
    assert is_store(store_path)
    assert not is_store(tmp_path)
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(SceneNotFoundError, match=r"manifest\.json: is missing"):
            open_store(path)
    (tmp_path / "folder.bvs" / "manifest.json").mkdir(parents=True)
    with pytest.raises(SceneFormatError, match="cannot be read"):
        open_store(tmp_path / "folder.bvs")


def test_a_newer_version_names_what_is_needed(store_path: Path) -> None:
    edit_manifest(store_path, version=4)
    with pytest.raises(
        SceneFormatError, match=r"version 4; this release reads up to version 3; install a newer"
    ):
        open_store(store_path)


def test_the_first_version_is_read_without_losses(store_path: Path) -> None:
    with open_store(store_path) as store:
        tree = store.tree
    table = bytearray((store_path / "nodes.bin").read_bytes())
    for node in range(len(tree)):
        fields = (tree.child_count[node], tree.level[node])
        struct.pack_into("<II", table, 16 + 80 * node + 40, *fields)
    (store_path / "nodes.bin").write_bytes(table)
    edit_manifest(store_path, version=1, nodes__crc32=f"{zlib.crc32(table):08x}")
    with open_store(store_path) as store:
        assert_same(get(store, 1), sample_chunks()[1])
        assert store.tree.level.tolist() == tree.level.tolist()
        assert store.tree.child_count.tolist() == tree.child_count.tolist()
        assert store.tree.loss.tolist() == (tree.count * tree.error**2).tolist()


def test_unknown_fields_are_ignored(store_path: Path) -> None:
    edit_manifest(store_path, colour_space="sRGB", nodes__extra=[1], levels__0__extra=None)
    with open_store(store_path) as store:
        assert_same(get(store, 1), sample_chunks()[1])


def test_every_flipped_byte_of_the_manifest_is_found_or_harmless(store_path: Path) -> None:
    path = store_path / "manifest.json"
    text = path.read_bytes()
    manifest = parse_manifest(path, text)
    found = 0
    for at in range(len(text)):
        damaged = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        try:
            assert parse_manifest(path, damaged) == manifest
        except SceneError:
            found += 1
    assert found > 0.95 * len(text)


def test_a_damaged_or_short_table_is_refused(store_path: Path) -> None:
    file = store_path / "nodes.bin"
    table = file.read_bytes()
    for at in (0, 8, 12, 16, 100, len(table) - 1):
        file.write_bytes(table[:at] + bytes([table[at] ^ 255]) + table[at + 1 :])
        with pytest.raises(SceneFormatError, match=r"nodes\.bin: the checksum differs"):
            open_store(store_path)
    file.write_bytes(table[:-1])
    with pytest.raises(SceneFormatError, match=r"nodes\.bin: ends at byte 335"):
        open_store(store_path)
    file.unlink()
    with pytest.raises(SceneFormatError, match=r"nodes\.bin: is missing"):
        open_store(store_path)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".hidden", "C:x", "n" * 129, "a\n"],
)
@pytest.mark.parametrize(
    "field", ["nodes__file", "levels__0__geometry__file", "levels__1__sh__file"]
)
def test_files_outside_of_the_folder_cannot_be_named(
    store_path: Path, field: str, name: str
) -> None:
    edit_manifest(store_path, **{field: name})
    with pytest.raises(SceneFormatError, match="plain name"):
        open_store(store_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": "other"}, "not the manifest"),
        ({"version": 0}, "whole number"),
        ({"profile": "tiny"}, "only compact and lossless"),
        ({"sh_degree": 4}, "degrees 0 to 3"),
        ({"page_gaussians": 1000}, "at least 1024"),
        ({"page_gaussians": 1025}, "multiple of 1,024"),
        ({"page_gaussians": 1 << 40}, "multiple of 1,024"),
        ({"gaussians": 1}, "another number"),
        ({"levels": []}, "1 to 64 levels"),
        ({"levels": 65 * [{}]}, "1 to 64 levels"),
        ({"levels__0__sh": None}, "object"),
        ({"levels__0__chunks": 0}, "at least 1"),
        ({"levels__0__gaussians": 1 << 50}, "more Gaussians than its chunks"),
        ({"levels__0__gaussians": 931, "gaussians": 931}, "counts level 0 differently"),
        ({"levels__1__geometry__bytes": 3}, "outside of its file"),
        ({"levels__1__sh__file": "sh-00.bin"}, "same file twice"),
        ({"nodes__count": 10**12}, "more than 4,194,304"),
        ({"nodes__count": 5}, "another number of chunks"),
        ({"nodes__bytes": 10**15}, "needs 336 bytes"),
        ({"nodes__crc32": "12"}, "eight hexadecimal"),
        ({"bounds__lo": [0, 0]}, "3 numbers"),
        ({"up": [0, "y", 0]}, "needs a number"),
        ({"notes": ["n" * 5000]}, "more than 4,096 characters"),
        ({"sources": [{"path": 1}]}, "text"),
        ({"settings": {"a": 1}}, "text"),
    ],
)
def test_manifests_that_make_no_sense_are_refused(
    store_path: Path, changes: dict[str, Any], problem: str
) -> None:
    edit_manifest(store_path, **changes)
    with pytest.raises(SceneFormatError, match=problem) as caught:
        open_store(store_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1e999", b"null"])
def test_what_is_not_json_is_refused(store_path: Path, text: bytes) -> None:
    (store_path / "manifest.json").write_bytes(text)
    with pytest.raises(SceneFormatError):
        open_store(store_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 2000}, "more than 1,024 Gaussians"),
        ({"count": (1 << 32) - 1}, "makes no sense"),
        ({"count": 301}, "counts level 0 differently"),
        ({"level": 1}, "not below its parent's"),
        ({"level": 9}, "not below its parent's"),
        ({"child_count": (1 << 16) - 1}, "more children than it has nodes"),
        ({"child_count": 2}, "breadth-first|more children"),
        ({"error": 1e9}, "larger error"),
        ({"geometry_offset": (1 << 64) - 1}, "outside of its file"),
        ({"geometry_offset": 1 << 40}, "outside of its file"),
        ({"sh_bytes": (1 << 32) - 1}, "too many bytes"),
        ({"max_scale": float("nan")}, "not finite"),
        ({"loss": float("inf")}, "not finite"),
        ({"loss": -1.0}, "negative"),
    ],
)
def test_tables_that_make_no_sense_are_refused(
    store_path: Path, changes: dict[str, Any], problem: str
) -> None:
    edit_node(store_path, 1, **changes)
    with pytest.raises(SceneFormatError, match=problem):
        open_store(store_path)


def test_a_level_that_the_manifest_lacks_is_refused(store_path: Path) -> None:
    edit_node(store_path, 0, level=9)
    with pytest.raises(SceneFormatError, match="level that the manifest lacks"):
        open_store(store_path)


def test_absurd_sizes_allocate_nothing(store_path: Path) -> None:
    most = 1 << 22
    edit_manifest(
        store_path,
        nodes__count=most,
        nodes__bytes=table_bytes(most),
        levels__0__chunks=most - 1,
        levels__0__gaussians=(most - 1) * 1024,
        gaussians=(most - 1) * 1024,
    )
    tracemalloc.start()
    try:
        with pytest.raises(SceneFormatError, match=r"nodes\.bin: ends at byte 336"):
            open_store(store_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_chunk_of_another_count_is_refused_when_it_is_decoded(store_path: Path) -> None:
    """Two chunks exchanged, with checksums that fit."""
    with open_store(store_path) as store:
        other = store.read(2)
    assert other is not None
    data = bytes(other.parts[0])
    file = store_path / "geometry-00.bin"
    file.write_bytes(data + file.read_bytes()[len(data) :])
    edit_node(store_path, 1, geometry_bytes=len(data), geometry_crc=zlib.crc32(data))
    with (
        open_store(store_path) as store,
        pytest.raises(ChunkReadError, match="chunk 1: its geometry holds 310 Gaussians"),
    ):
        get(store, 1)


def test_a_local_reader_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    reader = FolderReader(tmp_path)
    assert reader.read("file", 1, 3, lambda: False) == b"234"
    assert reader.read("file", 5, 0, lambda: False) == b""
    assert reader.read_file("file", 5, lambda: False) == b"12345"
    assert reader.read_file("file", 5, lambda: True) is None
    with pytest.raises(RangeReadError, match="larger than 4 bytes"):
        reader.read_file("file", 4, lambda: False)
    with pytest.raises(RangeReadError, match="is missing") as caught:
        reader.read("other", 0, 1, lambda: False)
    assert caught.value.missing
    with pytest.raises(RangeReadError, match="ends at byte 5, before byte 6"):
        reader.read("file", 0, 6, lambda: False)
    reader.close()


@pytest.mark.parametrize("way", ["another folder", "other files", "removed"])
def test_a_store_that_was_replaced_is_not_called_damaged(
    tmp_path: Path, store_path: Path, way: str
) -> None:
    with open_store(store_path) as store:
        assert_same(get(store, 1), sample_chunks()[1])
        if way == "another folder":
            write_store(store_path, sample_chunks()[::-1], replace=True)
        elif way == "removed":
            shutil.rmtree(store_path)
        else:
            other = write_store(tmp_path / "other.bvs", sample_chunks()[::-1])
            for file in other.iterdir():  # as cp does, in place
                (store_path / file.name).write_bytes(file.read_bytes())
        problem = "was removed" if way == "removed" else "was replaced"
        with pytest.raises(
            ChunkReadError, match=rf"chunk 0: {problem} while it was open; open the scene again"
        ) as caught:
            get(store, 0)
        assert not caught.value.transient
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "page").mkdir()
    else:
        os.mkfifo(tmp_path / "page")
    with pytest.raises(RangeReadError, match="not a regular file") as caught:
        FolderReader(tmp_path).read("page", 0, 1, lambda: False)
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("number", "passes"),
    [(errno.EMFILE, True), (errno.EIO, True), (errno.ESTALE, True), (errno.EACCES, False)],
)
def test_only_lasting_faults_of_a_disk_are_final(
    tmp_path: Path, number: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page").write_bytes(b"12345")
    reader = FolderReader(tmp_path)

    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(RangeReadError, match=os.strerror(number)) as caught:
            reader.read("page", 0, 5, lambda: False)
    assert caught.value.transient is passes
    assert reader.read("page", 0, 5, lambda: False) == b"12345"
