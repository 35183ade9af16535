"""Stores that are kept, and which of them go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from viewer.store_cache import StoreCache, cache_folder


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
    assert cache_folder() == tmp_path / "belvedere" / "stores"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-3:] == (".cache", "belvedere", "stores")


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
    middle = make_store(cache, "middle.bvs.partial", 100, 2)
    new = make_store(cache, "new.bvs", 100, 3)
    cache.make_room(new)
    assert [path.exists() for path in (old, middle, new)] == [False, True, True]
    with cache.using(middle):
        cache.make_room(new)
    assert middle.exists(), "there is room for both"


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
