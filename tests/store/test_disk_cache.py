"""The cache of remote ranges: its budget, its faults, several processes."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scene_store.remote.options import CacheOptions, RemoteOptions
from scene_store.remote.range_cache import RangeCache, RangeKey, default_budget
from scene_store.store import open_store
from splat.errors import ChunkReadError
from tests.conftest import REPOSITORY
from tests.store import http_server
from tests.store.http_server import RangeServer
from tests.store.small_stores import sample_chunks, write_store
from tests.store.test_store import assert_same, get

KIB = 1024
EMPTY_BYTES = 2 * 4096  # of a folder in which nothing fits: itself, and the count


def key(index: int, size: int = 100) -> RangeKey:
    return RangeKey("http://host/file", '"v1"', index, size)


def data(index: int, size: int = 100) -> bytes:
    return bytes([index % 256]) * size


def bytes_on_disk(folder: Path) -> int:
    """Of all that is there, finished or not, and of the folders, in whole blocks."""
    blocks = [-(-file.stat().st_size // 4096) for file in folder.rglob("*") if file.is_file()]
    folders = [path for path in (folder, *folder.rglob("*")) if path.is_dir()]
    return 4096 * (sum(blocks) + len(folders))


def room_for(files: int) -> int:
    """A budget for so many small files, each in a folder of its own."""
    return 4096 * (2 * files + 3)


def range_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.range"))


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    RangeCache(tmp_path / "c", 1 << 20).put(key(1), data(1))
    cache = RangeCache(tmp_path / "c", 1 << 20)
    assert cache.get(key(1)) == data(1)
    for other in (
        key(2),
        key(1, 99),
        RangeKey("http://host/file", '"v2"', 1, 100),
        RangeKey("http://host/other", '"v1"', 1, 100),
    ):
        assert cache.get(other) is None
    assert oct((tmp_path / "c").stat().st_mode & 0o777) == "0o700"
    assert cache.discard(key(1))
    assert cache.get(key(1)) is None
    assert not cache.discard(key(1))


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty", "header"])
def test_a_damaged_file_is_noticed_and_forgotten(tmp_path: Path, damage: str) -> None:
    cache = RangeCache(tmp_path, 1 << 20)
    cache.put(key(1), data(1))
    (file,) = range_files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[50] ^= 1
    elif damage == "header":
        content[9] ^= 1
    damaged: dict[str, bytes] = {
        "cut": bytes(content[:-1]),
        "grow": bytes(content) + b"x",
        "empty": b"",
    }
    file.write_bytes(damaged.get(damage, bytes(content)))
    assert cache.get(key(1)) is None
    assert range_files(tmp_path) == []
    cache.put(key(1), data(1))
    assert cache.get(key(1)) == data(1)


@settings(max_examples=20)
@given(
    budget=st.integers(0, 100 * KIB),
    actions=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9 * KIB)), max_size=30),
)
def test_the_budget_is_never_exceeded(
    tmp_path_factory: pytest.TempPathFactory, budget: int, actions: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    caches = [RangeCache(folder, budget), RangeCache(folder, budget)]
    for turn, (index, size) in enumerate(actions):
        caches[turn % 2].put(key(index, size), data(index, size))
        assert bytes_on_disk(folder) <= max(budget, EMPTY_BYTES)
        assert caches[0].get(key(index, size)) in (None, data(index, size))


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, room_for(10))
    for index in range(10):
        cache.put(key(index), data(index))
        file = max(range_files(tmp_path), key=lambda path: path.stat().st_ctime_ns)
        os.utime(file, ns=(index, index))  # the disk's clock is too coarse for a test
    assert cache.get(key(0)) == data(0)
    cache.put(key(10), data(10))
    assert cache.get(key(0)) == data(0)
    assert cache.get(key(10)) == data(10)
    assert cache.get(key(1)) is None
    assert cache.get(key(9)) == data(9)


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, room_for(3))
    cache.put(key(1), data(1))
    cache.put(key(2, 30 * KIB), data(2, 30 * KIB))
    assert cache.get(key(2, 30 * KIB)) is None
    assert cache.get(key(1)) == data(1)


def test_a_smaller_budget_holds_from_the_next_write_on(tmp_path: Path) -> None:
    for index in range(20):
        RangeCache(tmp_path, 1 << 20).put(key(index), data(index))
    RangeCache(tmp_path, room_for(2)).put(key(99), data(99))
    assert bytes_on_disk(tmp_path) <= room_for(2)
    assert RangeCache(tmp_path, 1).get(key(99)) == data(99)


def test_leftovers_of_killed_processes_are_cleared_and_counted(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 1 << 20)
    cache.put(key(1), data(1))
    (tmp_path / "ab").mkdir(exist_ok=True)
    (tmp_path / "ab" / "killed.partial").write_bytes(bytes(10_000))
    for garbage in (b"", b"-5", b"many", b"\xff"):
        (tmp_path / "used").write_bytes(garbage)
        RangeCache(tmp_path, 1 << 20).put(key(2), data(2))
        assert int((tmp_path / "used").read_bytes()) <= room_for(3)
    assert not (tmp_path / "ab" / "killed.partial").exists()
    assert cache.get(key(1)) == data(1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    cache = RangeCache(tmp_path, 1 << 20)
    cache.put(key(1), data(1))

    def full(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", full)
    with caplog.at_level(logging.WARNING):
        for index in range(2, 5):
            cache.put(key(index), data(index))
    (record,) = caplog.records
    assert "no longer cached on disk" in record.getMessage()
    assert cache.get(key(1)) == data(1)
    assert len(range_files(tmp_path)) == 1
    assert not list(tmp_path.glob("??/*.partial"))


def test_a_folder_that_cannot_be_made_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = RangeCache(tmp_path / "file" / "cache", 1 << 20)
    cache.put(key(1), data(1))
    cache.put(key(1), data(1))
    assert cache.get(key(1)) is None
    assert len(caplog.records) == 1


def test_a_folder_where_no_file_can_be_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    folder = Path("/proc/nope")
    if not folder.parent.is_dir():
        pytest.skip("there is no /proc")
    cache = RangeCache.of(CacheOptions(folder=folder))
    cache.put(key(1), data(1))
    cache.put(key(2), data(2))
    (record,) = caplog.records
    assert "/proc/nope: remote data is no longer cached on disk" in record.getMessage()


FILL = """
import sys
from pathlib import Path
from tests.store.test_disk_cache import fill
fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""
HOLD_LOCK = """
import sys
from pathlib import Path
from scene_store.remote.range_cache import RangeCache
with RangeCache(Path(sys.argv[1]), 1 << 20)._locked() as held:
    print(held, flush=True)
    sys.stdin.readline()
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process; not a fork, as other tests leave threads behind."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def fill(folder: Path, budget: int, seed: int) -> None:
    """Writes and reads for a while."""
    cache = RangeCache(folder, budget)
    for turn in range(150):
        index = (turn * 7 + seed * 3) % 40
        cache.put(key(index, 3000), data(index, 3000))
        found = cache.get(key((index + 1) % 40, 3000))
        assert found in (None, data((index + 1) % 40, 3000))


def test_processes_share_it_and_its_budget(tmp_path: Path) -> None:
    """One of them is killed in the middle."""
    budget = room_for(10)
    workers = [start(FILL, tmp_path, budget, seed) for seed in range(3)]
    while any(worker.poll() is None for worker in workers):
        taken = bytes_on_disk_meanwhile(tmp_path)
        assert taken <= budget
        if taken > budget // 2:
            workers[0].kill()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers[1:]] == [0, 0]
    cache = RangeCache(tmp_path, budget)
    cache.put(key(50), data(50))
    assert cache.get(key(50)) == data(50)
    assert bytes_on_disk(tmp_path) <= budget


def bytes_on_disk_meanwhile(folder: Path) -> int:
    """As ``bytes_on_disk``, under the writers' lock, as a listing takes its time."""
    with RangeCache(folder, 0)._locked() as held:
        return bytes_on_disk(folder) if held else 0


def test_nobody_waits_long_for_a_process_that_hangs(tmp_path: Path) -> None:
    holder = start(HOLD_LOCK, tmp_path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        cache = RangeCache(tmp_path, 1 << 20)
        begun = time.monotonic()
        cache.put(key(1), data(1))
        assert time.monotonic() - begun < 10
        assert cache.get(key(1)) is None
    finally:
        holder.communicate("\n")
    cache.put(key(1), data(1))
    assert cache.get(key(1)) == data(1)


def test_nobody_waits_long_for_a_thread_that_looks_through_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = RangeCache(tmp_path, 1 << 20)
    looking, enough = threading.Event(), threading.Event()
    used = cache._used

    def slow() -> int:
        looking.set()
        enough.wait(20)
        return used()

    monkeypatch.setattr(cache, "_used", slow)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(cache.put, key(1), data(1))
        assert looking.wait(20)
        begun = time.monotonic()
        cache.put(key(2), data(2))
        assert time.monotonic() - begun < 10
        enough.set()
        writing.result(20)
    assert cache.get(key(1)) == data(1)
    assert cache.get(key(2)) is None


def test_defaults_follow_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert RangeCache.of(CacheOptions()).folder == tmp_path / "belvedere" / "ranges"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RangeCache.of(CacheOptions()).folder == tmp_path / ".cache" / "belvedere" / "ranges"
    for free, budget in ((50 << 30, 5 << 30), (1 << 50, 10 << 30), (0, 0)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
        assert default_budget(tmp_path / "not" / "there") == budget
    with pytest.raises(ValueError, match="negative"):
        CacheOptions(budget_bytes=-1)


# ---- With a server --------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteOptions:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return RemoteOptions(
        stall_s=10.0, cache=CacheOptions(folder=tmp_path / "cache", budget_bytes=1 << 20)
    )


def served_store(tmp_path: Path) -> RangeServer:
    (tmp_path / "www").mkdir()
    write_store(tmp_path / "www" / "scene.bvs")
    return RangeServer(tmp_path / "www")


def test_a_second_session_reads_no_chunk_from_the_server(
    tmp_path: Path, options: RemoteOptions
) -> None:
    with served_store(tmp_path) as server:
        for session in range(2):
            sent = server.sent
            # Tokens change from day to day, and are no part of what a file is.
            with open_store(f"{server.url}/scene.bvs?day={session}", remote=options) as store:
                for node, chunk in enumerate(sample_chunks()):
                    assert_same(get(store, node), chunk)
                whole = sum(store.encoded_bytes(node) for node in range(4))
        manifest = (server.folder / "scene.bvs" / "manifest.json").stat().st_size
        assert server.sent - sent < manifest + 100 < whole  # and a byte for each file's version


@pytest.mark.parametrize("etag", ['"2"', ""])
def test_a_new_version_is_never_mixed_with_the_old(
    tmp_path: Path, options: RemoteOptions, etag: str
) -> None:
    """Without any mark of the version, nothing is kept."""
    with served_store(tmp_path) as server:
        server.etag = etag and '"1"'
        with open_store(f"{server.url}/scene.bvs", remote=options) as store:
            get(store, 1)
        assert bool(range_files(tmp_path / "cache")) == bool(etag)
        changed = sample_chunks()[::-1]
        write_store(server.folder / "scene.bvs", changed, replace=True)
        server.etag = etag
        with open_store(f"{server.url}/scene.bvs", remote=options) as store:
            for node, chunk in enumerate(changed):
                assert_same(get(store, node), chunk)


def test_bytes_that_were_garbled_on_the_way_are_read_again(
    tmp_path: Path, options: RemoteOptions
) -> None:
    with served_store(tmp_path) as server:
        with open_store(f"{server.url}/scene.bvs", remote=options) as store:
            store.read(2)  # the version is known from now on
            server.faults["scene.bvs/geometry-00.bin"] = [http_server.garbled]
            with pytest.raises(ChunkReadError, match="checksum") as caught:
                get(store, 1)
            assert caught.value.transient
            assert_same(get(store, 1), sample_chunks()[1])
        with open_store(f"{server.url}/scene.bvs", remote=options) as store:
            assert_same(get(store, 1), sample_chunks()[1])


def test_damage_on_the_server_is_found_in_two_reads(tmp_path: Path, options: RemoteOptions) -> None:
    with served_store(tmp_path) as server:
        file = server.folder / "scene.bvs" / "geometry-01.bin"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with open_store(f"{server.url}/scene.bvs", remote=options) as store:
            for again in (True, False, False):
                with pytest.raises(ChunkReadError, match="checksum") as caught:
                    get(store, 0)
                assert caught.value.transient is again
