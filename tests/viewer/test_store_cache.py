"""Stores that are kept, and which of them go."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import IO

import pytest

from scene_store.build.journal import Journal
from viewer.store_cache import UNFINISHED_DAYS, StoreCache

NOW_S = float(int(time.time()) - 3600)


def make_unfinished(cache: StoreCache, name: str, size: int, written_s: float) -> Path:
    """What a build leaves that can be continued; at least a journal's size."""
    path = cache.folder / name
    scratch = path / "scratch"
    scratch.mkdir(parents=True)
    Journal(scratch, {"scenes": ["/data/big.ply"]})._write()
    journal_bytes = (scratch / "journal.json").stat().st_size
    (path / "geometry-00.bin").write_bytes(bytes(max(0, size - journal_bytes)))
    for file in (path / "geometry-00.bin", scratch / "journal.json", scratch):
        os.utime(file, (written_s, written_s))
    return path


def make_store(cache: StoreCache, name: str, size: int, used_s: float) -> Path:
    path = cache.folder / name
    path.mkdir(parents=True)
    (path / "manifest.json").write_bytes(b"{}" + bytes(size - 2))
    os.utime(path, (used_s, used_s))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> StoreCache:
    return StoreCache(250, tmp_path / "stores")


def test_it_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert StoreCache(1).folder == tmp_path / "belvedere" / "stores"


def test_a_user_without_a_home_has_a_cache_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by its specification
    monkeypatch.setattr(Path, "home", homeless)
    folder = StoreCache(1).folder
    assert folder.parts[-2:] == (f"belvedere-{os.getuid()}", "stores")
    assert folder.is_absolute()


def test_a_changed_file_has_another_store(cache: StoreCache, tmp_path: Path) -> None:
    scene, other = tmp_path / "a.ply", tmp_path / "b.ply"
    for path in (scene, other):
        path.write_bytes(b"one")
        os.utime(path, (1, 1))
    first = cache.path_of(str(scene))
    assert cache.path_of(str(tmp_path / "a.ply")) == first
    assert cache.path_of(str(other)) != first
    os.utime(scene, (2, 2))
    assert cache.path_of(str(scene)) != first
    assert not cache.has(first)


def test_the_least_recently_used_go_first(cache: StoreCache) -> None:
    old = make_store(cache, "old.bvs", 100, 1)
    middle = make_unfinished(cache, "middle.bvs.partial", 100, 2 + NOW_S)
    new = make_store(cache, "new.bvs", 100, 3 + NOW_S)
    cache.make_room(new)
    assert [path.exists() for path in (old, middle, new)] == [False, True, True]
    cache.make_room(new)
    assert middle.exists(), "there is room for both"
    newer = make_store(cache, "newer.bvs", 100, 4 + NOW_S)
    cache.make_room(newer)
    assert [path.exists() for path in (middle, new, newer)] == [False, True, True]


def test_what_nobody_goes_on_with_is_removed(cache: StoreCache) -> None:
    month_s = 86_400 * UNFINISHED_DAYS
    old = make_unfinished(cache, "old.bvs.partial", 20, NOW_S - month_s - 60)
    recent = make_unfinished(cache, "recent.bvs.partial", 20, NOW_S - month_s + 7200)
    useless = make_store(cache, "useless.bvs.partial", 20, NOW_S)
    built = make_store(cache, "built.bvs.partial", 20, NOW_S)
    finished = make_store(cache, "finished.bvs", 20, 1)
    with cache.building(cache.folder / "built.bvs"):
        assert not old.exists() and not useless.exists(), "as soon as another is built"
        StoreCache(250, cache.folder).make_room(cache.folder / "another.bvs")
        assert built.exists(), "somebody is at work on it"
    assert recent.exists() and finished.exists()


def test_what_is_left_of_a_build_is_told_or_removed(cache: StoreCache) -> None:
    path = cache.folder / "a.bvs"
    assert cache.unfinished(path) is None
    make_unfinished(cache, "a.bvs.partial", 100, NOW_S)
    found = cache.unfinished(path)
    assert found is not None and found.scenes() == ("/data/big.ply",)
    assert (found.path.name, found.is_finished, found.used_ns) == (
        "a.bvs.partial",
        False,
        int(NOW_S * 1e9),
    )
    assert found.size_bytes >= 100
    (found.path / "scratch" / "journal.json").unlink()
    with cache.building(path):
        assert cache.unfinished(path) is None and found.path.exists()
    assert cache.unfinished(path) is None and not found.path.exists()


def test_what_is_used_and_what_was_just_built_stay(cache: StoreCache) -> None:
    used = make_store(cache, "used.bvs", 200, 1)
    built = make_store(cache, "built.bvs", 200, 2)
    idle = make_store(cache, "idle.bvs", 10, 3)
    with cache.using(used):
        cache.make_room(built)
        assert used.exists() and built.exists() and not idle.exists()
    os.utime(used, (1, 1))
    cache.make_room(built)
    assert not used.exists() and built.exists()


def test_using_a_store_makes_it_recent(cache: StoreCache) -> None:
    path = make_store(cache, "a.bvs", 10, 1)
    with cache.using(path):
        pass
    assert path.stat().st_mtime > 1e9


def test_only_one_builds_a_store(cache: StoreCache) -> None:
    path = cache.folder / "a.bvs"
    with cache.building(path) as mine:
        assert mine
        with cache.building(path) as others:
            assert not others
    with cache.building(path) as again:
        assert again


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / "stores"
    with pytest.raises(NotADirectoryError), StoreCache(1, folder).building(folder / "a.bvs"):
        pass


def test_what_others_removed_meanwhile_needs_no_room(
    cache: StoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = make_store(cache, "gone.bvs", 200, 1)
    old = make_store(cache, "old.bvs", 200, 2)
    new = make_store(cache, "new.bvs", 100, 3)
    look = Path.stat

    def removed_then(path: Path, **options: bool) -> os.stat_result:
        status = look(path, **options)
        if path == gone:
            shutil.rmtree(gone)
        return status

    monkeypatch.setattr(Path, "stat", removed_then)
    cache.make_room(new)
    monkeypatch.undo()
    assert [path.exists() for path in (gone, old, new)] == [False, False, True]


def test_a_store_in_use_is_not_removed(cache: StoreCache) -> None:
    path = make_store(cache, "a.bvs", 10, 1)
    with cache.using(path) as held:
        assert held
        assert not cache.remove(path) and path.exists()
        with cache.using(path) as by_another:
            assert by_another
    assert cache.remove(path) and not path.exists()


def test_a_store_that_is_being_removed_is_not_used(cache: StoreCache) -> None:
    path = make_store(cache, "a.bvs", 10, 1)
    with (
        path.with_name("a.bvs.lock").open("a") as lock,
        cache.using(path) as before,
    ):
        assert before
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.with_name("a.bvs.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with cache.using(path) as held:
            assert not held


def test_locks_go_with_their_stores_and_those_in_use_stay(cache: StoreCache) -> None:
    kept = make_store(cache, "kept.bvs", 10, 1)
    with cache.using(kept):
        pass
    with cache.building(cache.folder / "gone.bvs"):
        pass
    building = cache.folder / "new.bvs"
    with cache.building(building) as alone:
        assert alone
        cache.remove_locks()
        with cache.building(building) as another:
            assert not another, "its lock is still there"
    cache.remove_locks()
    assert sorted(path.name for path in cache.folder.iterdir()) == ["kept.bvs", "kept.bvs.lock"]


def test_a_lock_that_is_removed_before_it_is_held_is_made_again(
    cache: StoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache.folder / "a.bvs"
    lock = path.with_name("a.bvs.partial.lock")
    flock, tries = fcntl.flock, []

    def late(file: IO[str], kind: int) -> None:
        tries.append(kind)
        if len(tries) == 1:
            lock.unlink()
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with cache.building(path) as alone, cache.building(path) as another:
        assert alone and not another and lock.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_store_is_used_where_no_lock_can_be_written(
    cache: StoreCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = make_store(cache, "a.bvs", 10, 1)

    def failing(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", failing)
    with cache.using(path) as held:
        assert held
    assert not cache.remove(path) and path.exists()


def test_a_folder_that_goes_while_it_is_measured_hides_nothing(
    cache: StoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_unfinished(cache, "a.bvs.partial", 200, NOW_S)
    split = path / "scratch" / "037.split"
    split.mkdir()
    scan = os.scandir

    def vanishing(folder: Path | str) -> object:
        if Path(folder) == split:
            split.rmdir()
        return scan(folder)

    monkeypatch.setattr(os, "scandir", vanishing)
    (entry,) = cache.entries()
    assert not split.exists() and (entry.path, entry.size_bytes) == (path, 200)
