"""The folder of a store: nothing that somebody else wrote is ever lost."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from scene_store.store import is_store, open_store
from scene_store.store_folder import partial_folder
from scene_store.store_writer import StoreWriter
from splat.errors import OutputError
from tests.store.small_stores import INFO, sample_chunks, sample_tree, write_store
from tests.store.test_store_writer import CHUNKS, append, appended, contents, new_writer


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path, partial = tmp_path / "scene.bvs", tmp_path / "scene.bvs.partial"
    (partial / "thesis").mkdir(parents=True)
    (partial / "b.txt").write_text("precious")
    home = tmp_path / "home"
    home.mkdir()
    (home / "lock").write_text("")
    refused = r"scene\.bvs\.partial: exists and is not an unfinished store; move it elsewhere"
    with pytest.raises(OutputError, match=refused):
        new_writer(path)
    assert (partial / "b.txt").read_text() == "precious" and (partial / "thesis").is_dir()
    # What we left is ours only as long as nothing else is with it.
    shutil.rmtree(partial)
    new_writer(path).close()
    (partial / "b.txt").write_text("precious")
    with pytest.raises(OutputError, match=refused):
        new_writer(path)
    shutil.rmtree(partial)
    partial.symlink_to(home)
    with pytest.raises(OutputError, match=refused):
        new_writer(path)
    assert [entry.name for entry in home.iterdir()] == ["lock"]
    partial.unlink()
    new_writer(path).close()
    (partial / "scratch").rmdir()
    (partial / "scratch").symlink_to(home)
    with pytest.raises(OutputError, match=refused):
        new_writer(path)


def test_what_others_put_there_meanwhile_stays(tmp_path: Path) -> None:
    path, partial = tmp_path / "scene.bvs", tmp_path / "scene.bvs.partial"
    with new_writer(path) as writer:
        append(writer, 1)
        (partial / "b.txt").write_text("precious")
        writer.discard()
    assert [entry.name for entry in partial.iterdir()] == ["b.txt"]


def test_giving_up_does_not_take_what_the_next_build_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scene.bvs"
    first = new_writer(path)
    append(first, 1)
    close = os.close
    taken: list[StoreWriter] = []

    def closing(handle: int) -> None:
        close(handle)
        if not partial_folder(path).exists() and not taken:  # the lock has just been given back
            monkeypatch.undo()
            taken.append(new_writer(path))
            append(taken[0], 2)

    monkeypatch.setattr("os.close", closing)
    first.discard()
    first.close()
    assert taken, "the lock is held until nothing is left"
    with taken[0] as second:
        assert (partial_folder(path) / "geometry-00.bin").stat().st_size > 0
        with pytest.raises(OutputError, match="another build"):
            new_writer(path)
        second.discard()


@pytest.mark.parametrize(
    "text",
    ['{"name": "my web app"}', "{}", "no JSON", '{"format": "belvedere-store", "version": 99}'],
)
def test_a_folder_with_some_manifest_is_not_a_store(tmp_path: Path, text: str) -> None:
    path = tmp_path / "app"
    path.mkdir()
    (path / "manifest.json").write_text(text)
    (path / "own.txt").write_text("precious")
    with pytest.raises(
        OutputError, match=r"app: exists and is not a store .*; choose another name"
    ):
        new_writer(path, replace=True)
    assert (path / "own.txt").read_text() == "precious"


def test_a_store_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    with new_writer(path, replace=True) as writer:
        (path / "notes.txt").write_text("precious")
        refs = appended(writer)
        with pytest.raises(OutputError, match=r"holds 'notes\.txt', which is no part of a store"):
            writer.finish(sample_tree(CHUNKS), refs, INFO)
    with pytest.raises(OutputError, match=r"holds 'notes\.txt', which is no part of a store"):
        new_writer(path, replace=True)
    assert (path / "notes.txt").read_text() == "precious"


def test_what_may_not_be_read_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    lstat = os.lstat

    def denied(name: Path) -> os.stat_result:
        if Path(name).parent == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return lstat(name)

    monkeypatch.setattr("os.lstat", denied)
    with pytest.raises(OutputError, match=r"exists and cannot be read \(Permission denied\)"):
        new_writer(path)


def test_a_store_that_may_not_be_removed_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    monkeypatch.setattr("os.access", lambda *args, **options: False)
    with pytest.raises(OutputError, match=r"cannot be replaced.*permission"):
        new_writer(path, replace=True)


def no_renameat2(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("scene_store.store_folder._renameat2", missing)


@pytest.mark.parametrize("by_exchange", [True, False])
def test_a_link_to_a_store_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_exchange: bool
) -> None:
    if not by_exchange:
        no_renameat2(monkeypatch)
    (tmp_path / "disk").mkdir()
    real = write_store(tmp_path / "disk" / "real.bvs", CHUNKS)
    link = tmp_path / "scene.bvs"
    link.symlink_to(real)
    write_store(link, sample_chunks(leaves=2), replace=True)
    assert link.is_symlink()
    with open_store(real) as store:
        assert len(store.tree) == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["disk", "scene.bvs"]
    assert [entry.name for entry in (tmp_path / "disk").iterdir()] == ["real.bvs"]


@pytest.mark.parametrize("by_exchange", [True, False])
def test_there_is_always_a_store_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_exchange: bool
) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    if not by_exchange:
        no_renameat2(monkeypatch)
    before, rename = contents(path), os.rename

    def failing(source: Path, target: Path) -> None:
        assert is_store(path) or not by_exchange
        if target == path and "partial" in str(source):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    with new_writer(path, replace=True) as writer:
        refs = appended(writer)
        monkeypatch.setattr("os.rename", failing)
        if by_exchange:
            writer.finish(sample_tree(CHUNKS), refs, INFO)
        else:
            with pytest.raises(OutputError, match="Input/output error"):
                writer.finish(sample_tree(CHUNKS), refs, INFO)
            assert not is_store(partial_folder(path))
    assert {name: data for name, data in contents(path).items() if name != "lock"} == before


def test_what_cannot_be_removed_of_the_old_store_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    rmdir = os.rmdir

    def failing(folder: Path, **options: int) -> None:
        if folder == partial_folder(path):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rmdir(folder, **options)

    with new_writer(path, replace=True) as writer:
        refs = appended(writer)
        monkeypatch.setattr("os.rmdir", failing)
        writer.finish(sample_tree(CHUNKS), refs, INFO)
        monkeypatch.setattr("os.rmdir", rmdir)
    assert "replaced store could not be removed (Permission denied)" in caplog.text
    write_store(path, CHUNKS, replace=True)  # what was left is known as ours
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_left_of_a_kill_after_the_end_is_removed(tmp_path: Path) -> None:
    path = write_store(tmp_path / "scene.bvs", CHUNKS)
    before = contents(path)
    (path / "scratch" / "buckets-0").mkdir(parents=True)
    (path / "lock").touch()
    with pytest.raises(OutputError, match="exists already"):
        new_writer(path)
    assert contents(path) == before


@pytest.mark.parametrize("name", ["", ".", "/", "..", "a/.."])
def test_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="is no name for a store; choose one such as"):
        new_writer(Path(name))
    with pytest.raises(OutputError, match="not a folder's name"):
        new_writer(Path("a\0b"))
