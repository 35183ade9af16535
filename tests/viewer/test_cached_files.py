"""``belvedere cache``: what is kept is told, and gone when it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from configs.settings import RemoteSettings, Settings
from scene_store.build import BuildOptions, build_store
from scene_store.build.journal import Journal
from scene_store.remote.options import CacheOptions
from scene_store.remote.range_cache import RangeCache, RangeKey
from tests.store.http_server import RangeServer
from viewer.cached_files import caches, clear
from viewer.cli import main
from viewer.store_cache import StoreCache
from viewer.text import byte_size

TIME_S = 1_700_000_000.0


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def store() -> Path:
    """A finished one, of a town."""
    cache = StoreCache(1 << 30)
    cache.folder.mkdir(parents=True)
    path = cache.path_of("town:3000")
    build_store(["town:3000"], path, BuildOptions(sh_degree=0, threads=1))
    os.utime(path, (TIME_S, TIME_S))
    return path


@pytest.fixture
def unfinished(store: Path) -> Path:
    """What is left of one."""
    path = store.with_name("1234.bvs.partial")
    (path / "scratch").mkdir(parents=True)
    Journal(path / "scratch", {"scenes": ["/data/big.ply"]})._write()
    journal_bytes = (path / "scratch" / "journal.json").stat().st_size
    (path / "geometry-00.bin").write_bytes(bytes(1_500_000 - journal_bytes))
    return path


def keep_range() -> RangeCache:
    ranges = RangeCache.of(CacheOptions())
    ranges.put(RangeKey("https://example.org/a.bin", "1", 0, 5000), bytes(5000))
    return ranges


def test_an_empty_cache_is_said_to_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    stores, remote = capsys.readouterr().out.splitlines()
    assert stores.endswith("belvedere/stores: 0 bytes")
    assert remote.endswith("belvedere/ranges: 0 bytes")
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == "Removed 0 bytes\n"


def test_all_is_listed_with_its_size(
    store: Path, unfinished: Path, wall_ply: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_range()
    with RangeServer(wall_ply.parent) as server:
        assert main(["info", "--json", f"{server.url}/wall.ply"]) == 0
    capsys.readouterr()
    assert main(["cache"]) == 0
    stores, town, big, remote, wall, parts = capsys.readouterr().out.splitlines()
    size = sum(file.stat().st_size for file in store.iterdir())
    assert town.split() == [f"{size / 1e3:.3g}", "kB", "town:3000", "2023-11-14", "22:13"]
    assert big.split()[:4] == ["1.5", "MB", "/data/big.ply", "(unfinished)"]
    assert stores.endswith(f": {byte_size(size + 1_500_000)}")
    assert wall.split()[2] == "wall.ply" and "ranges: " in remote
    assert parts.split() == ["8.19", "kB", "parts", "of", "scenes"]  # blocks of the disk


def test_clearing_leaves_nothing_but_what_is_in_use(
    store: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = keep_range()
    with StoreCache(1).using(store):
        assert main(["cache", "--clear"]) == 0
        removed, heading, town = capsys.readouterr().out.splitlines()
        assert removed == "Removed 1.51 MB"  # with 8 kB of ranges
        assert "Stores of large scenes" in heading and "town:3000" in town
    assert store.exists() and not unfinished.exists() and ranges.size_bytes() == 0
    assert [cache.size_bytes for cache in clear(Settings())] == [0, 0]
    assert not store.exists() and not list(store.parent.iterdir()), "no locks are left"
    ranges.put(RangeKey("https://example.org/a.bin", "1", 0, 5000), bytes(5000))
    assert ranges.size_bytes() > 0, "it can be filled again"


def test_another_folder_is_looked_at_and_nothing_foreign_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    settings = Settings(remote=RemoteSettings(cache_folder=str(folder)))
    RangeCache(folder, 1 << 20).put(RangeKey("f", "1", 0, 9), bytes(9))
    (folder / "photo.jpg").write_bytes(b"precious")
    assert caches(settings)[1].size_bytes > 0
    assert clear(settings)[1].size_bytes == 0
    assert (folder / "photo.jpg").read_bytes() == b"precious"
