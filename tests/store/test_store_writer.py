"""Writing a store: whole or absent, continued after a kill, safe on a full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scene_store import store_writer
from scene_store.manifest import MAX_TEXT, Profile, SourceFile, StoreInfo, parse_manifest
from scene_store.node_table import ChunkRef
from scene_store.page_codec import encode_chunk
from scene_store.store import is_store, open_store
from scene_store.store_folder import partial_folder
from scene_store.store_writer import StoreWriter, WriterState
from scene_store.tree import NO_PARENT, LodTree
from splat.errors import OutputError
from tests.store.small_stores import (
    INFO,
    PAGE_GAUSSIANS,
    append_all,
    sample_chunks,
    sample_tree,
    write_store,
)

ROOT = Path(__file__).resolve().parents[2]
CHUNKS = sample_chunks()


def new_writer(path: Path, **options: bool) -> StoreWriter:
    return StoreWriter(
        path, sh_degree=1, profile=Profile.LOSSLESS, page_gaussians=PAGE_GAUSSIANS, **options
    )


def append(writer: StoreWriter, node: int) -> ChunkRef:
    chunk = CHUNKS[node]
    return writer.append(
        0 if node else 1, len(chunk), encode_chunk(chunk, profile=Profile.LOSSLESS)
    )


def appended(writer: StoreWriter) -> list[ChunkRef]:
    return [ref for ref in append_all(writer, CHUNKS) if ref is not None]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the store that all these builds should end with."""
    return contents(write_store(tmp_path_factory.mktemp("expected") / "scene.bvs", CHUNKS))


def test_a_store_appears_only_when_it_is_finished(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path) as writer:
        refs = [ref for ref in append_all(writer, CHUNKS) if ref is not None]
        assert not path.exists()
        assert not is_store(partial_folder(path))
        writer.finish(sample_tree(CHUNKS), refs, INFO)
    assert contents(path) == expected
    assert list(tmp_path.iterdir()) == [path]


def test_an_abandoned_build_leaves_nothing_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path) as writer:
        append(writer, 1)
    assert not path.exists()
    assert not is_store(partial_folder(path))


def test_a_killed_build_continues_with_the_same_bytes(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path) as writer:
        (writer.scratch / "journal").write_text("one")
        first = append(writer, 1)
        state = writer.checkpoint()
        append(writer, 3)  # after the checkpoint: the order was another then
        append(writer, 0)
    with new_writer(path) as writer:
        assert (writer.scratch / "journal").read_text() == "one"
        writer.resume(state)
        refs = [ref for ref in append_all(writer, CHUNKS, first=2) if ref is not None]
        writer.finish(sample_tree(CHUNKS), [refs[0], first, *refs[1:]], INFO)
    assert contents(path) == expected


def test_a_build_continues_after_a_kill_of_its_process(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "scene.bvs"
    program = f"""
import dataclasses, json, os, signal
from pathlib import Path
from tests.store.test_store_writer import append, new_writer
writer = new_writer(Path({str(path)!r}))
first = append(writer, 1)
print(json.dumps([first, dataclasses.asdict(writer.checkpoint())]), flush=True)
append(writer, 3)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = json.loads(done.stdout)
    first, state = ChunkRef(*journal[0]), WriterState(*map(tuple, journal[1].values()))
    with new_writer(path) as writer:  # the lock went with the process
        writer.resume(state)
        refs = [ref for ref in append_all(writer, CHUNKS, first=2) if ref is not None]
        writer.finish(sample_tree(CHUNKS), [refs[0], first, *refs[1:]], INFO)
    assert contents(path) == expected


def test_a_state_that_the_files_no_longer_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path) as writer:
        append(writer, 1)
        state = writer.checkpoint()
    file = partial_folder(path) / "geometry-00.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with (
        new_writer(path) as writer,
        pytest.raises(OutputError, match=r"geometry-00\.bin: holds .* build again"),
    ):
        writer.resume(state)


def test_clear_begins_anew(tmp_path: Path, expected: dict[str, bytes]) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path) as writer:
        for node in (3, 2, 0):
            append(writer, node)
        (writer.scratch / "runs").mkdir()
        writer.clear()
        assert list(writer.scratch.iterdir()) == []
        refs = [ref for ref in append_all(writer, CHUNKS) if ref is not None]
        writer.finish(sample_tree(CHUNKS), refs, INFO)
    assert contents(path) == expected


def test_files_of_an_earlier_build_do_not_end_up_in_the_store(tmp_path: Path) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path) as writer:
        append(writer, 1)
        (partial_folder(path) / "sh-07.bin").write_bytes(b"old")
        (writer.scratch / "runs").mkdir()
        writer.clear()
    write_store(path, sample_chunks(sh_degree=0))
    assert sorted(contents(path)) == [
        "geometry-00.bin",
        "geometry-01.bin",
        "manifest.json",
        "nodes.bin",
    ]


def test_a_full_disk_is_one_line_and_the_build_can_go_on(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scene.bvs"
    pwrite, room = os.pwrite, 5_000

    def limited(fd: int, data: memoryview, offset: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size = min(len(data), room)
        room -= size
        return pwrite(fd, data[:size], offset)

    with new_writer(path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", limited)
            with pytest.raises(OutputError, match="No space left on device; free some") as caught:
                append(writer, 1)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert partial_folder(path).is_dir()
        refs = [ref for ref in append_all(writer, CHUNKS) if ref is not None]
        writer.finish(sample_tree(CHUNKS), refs, INFO)
    assert contents(path) == expected


def test_a_disk_that_fills_up_at_the_end_leaves_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scene.bvs"

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with new_writer(path) as writer:
        refs = [ref for ref in append_all(writer, CHUNKS) if ref is not None]
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            writer.finish(sample_tree(CHUNKS), refs, INFO)
    assert not path.exists()


@pytest.mark.parametrize("fails_at", ["nodes.bin", "manifest.json"])
def test_a_disk_that_fills_up_at_the_end_leaves_what_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes], fails_at: str
) -> None:
    path, write = tmp_path / "scene.bvs", store_writer._write_flushed

    def full(file: Path, data: bytes) -> None:
        if file.name == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data)

    with new_writer(path) as writer:
        (writer.scratch / "journal.json").write_text("how far it is")
        refs = appended(writer)
        state = writer.checkpoint()
        monkeypatch.setattr(store_writer, "_write_flushed", full)
        with pytest.raises(OutputError, match="No space left"):
            writer.finish(sample_tree(CHUNKS), refs, INFO)
        monkeypatch.undo()
    assert not path.exists() and not is_store(partial_folder(path))
    with new_writer(path) as writer:
        assert (writer.scratch / "journal.json").read_text() == "how far it is"
        writer.resume(state)
        writer.finish(sample_tree(CHUNKS), refs, INFO)
    assert contents(path) == expected


@pytest.mark.parametrize("replace", [True, False])
def test_a_name_that_is_taken_meanwhile(
    tmp_path: Path, expected: dict[str, bytes], replace: bool
) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path, replace=replace) as writer:
        refs = appended(writer)
        path.mkdir()
        with pytest.raises(OutputError, match="exists and is not a store"):
            writer.finish(sample_tree(CHUNKS), refs, INFO)
        assert not is_store(partial_folder(path))
        path.rmdir()
        writer.finish(sample_tree(CHUNKS), refs, INFO)
    assert contents(path) == expected


def test_two_builds_do_not_write_one_store(tmp_path: Path) -> None:
    path = tmp_path / "scene.bvs"
    with new_writer(path), pytest.raises(OutputError, match="another build is writing it"):
        new_writer(path)
    new_writer(path).close()


def test_what_is_there_is_not_lost(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    before = contents(path)
    with pytest.raises(OutputError, match="exists already; remove it"):
        new_writer(path)
    with new_writer(path, replace=True) as writer:
        append(writer, 1)
    assert contents(path) == before  # the new one was not finished
    other = tmp_path / "folder"
    other.mkdir()
    (tmp_path / "file").write_text("precious")
    for taken in (other, tmp_path / "file"):
        with pytest.raises(OutputError, match="is not a store"):
            new_writer(taken, replace=True)
    with pytest.raises(OutputError, match="does not exist; create it"):
        new_writer(tmp_path / "missing" / "scene.bvs")


def test_a_store_is_replaced_by_the_finished_one(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    with open_store(path) as old:
        encoded = old.read(0)
        write_store(path, sample_chunks(leaves=2), replace=True)
        assert encoded == old.read(0)  # what was open goes on
        with open_store(path) as new:
            assert (len(old.tree), len(new.tree)) == (4, 3)
    assert [entry.name for entry in tmp_path.iterdir() if "partial" not in entry.name] == [
        "scene.bvs"
    ]


def test_refs_and_tree_must_belong_together(tmp_path: Path) -> None:
    with new_writer(tmp_path / "scene.bvs") as writer:
        refs = [ref for ref in append_all(writer, CHUNKS) if ref is not None]
        for wrong, problem in (
            (refs[:-1], "3 chunks"),
            ([refs[1], refs[0], *refs[2:]], "differ in count"),
        ):
            with pytest.raises(ValueError, match=problem):
                writer.finish(sample_tree(CHUNKS), wrong, INFO)
        for level, count in ((64, 1), (-1, 1), (0, 0), (0, PAGE_GAUSSIANS + 1)):
            with pytest.raises(ValueError, match="does not fit"):
                writer.append(level, count, encode_chunk(CHUNKS[0], Profile.LOSSLESS))


def test_what_a_store_remembers_comes_back(tmp_path: Path) -> None:
    info = StoreInfo(
        up=(0.0, 0.6, -0.8),
        sources=(SourceFile("scéne \ud800.ply", 123, 1_763_712_000_123_456_789),),
        settings=(("rebuild_lod", "False"), ("profile", "lossless")),
        notes=("ünï", 'a "quoted" note', '"crc32": "12345678"}'),
    )
    path = write_store(tmp_path / "scene.bvs", CHUNKS, info=info)
    with open_store(path) as store:
        assert store.manifest.info == info
        assert store.manifest.generator.startswith("belvedere")
    text = (path / "manifest.json").read_bytes()
    assert parse_manifest(path, text) == store.manifest


def test_what_a_manifest_cannot_hold_is_refused_before_a_build() -> None:
    with pytest.raises(ValueError, match="4,096 characters"):
        StoreInfo(notes=("n" * (MAX_TEXT + 1),))
    with pytest.raises(ValueError, match="1,000 notes"):
        StoreInfo(notes=1001 * ("note",))


def test_a_tree_of_one_chunk(tmp_path: Path) -> None:
    tree = LodTree(
        lo=CHUNKS[1].means.min(axis=0)[None],
        hi=CHUNKS[1].means.max(axis=0)[None],
        max_scale=CHUNKS[1].scales.max(keepdims=True)[0],
        error=np.zeros(1, np.float32),
        count=np.array([len(CHUNKS[1])], np.int32),
        parent=np.array([NO_PARENT], np.int32),
        first_child=np.zeros(1, np.int32),
        child_count=np.zeros(1, np.int32),
        level=np.zeros(1, np.int32),
    )
    with new_writer(tmp_path / "one.bvs") as writer:
        writer.finish(tree, [append(writer, 1)], StoreInfo())
    with open_store(tmp_path / "one.bvs") as store:
        assert store.meta.lod_counts == (300,)
        assert store.meta.up is None
