"""Stores on other file systems that fsspec knows, S3's stand-ins among them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from scene_store.remote.options import CacheOptions, RemoteOptions
from scene_store.store import open_store
from splat.errors import (
    BackendUnavailable,
    ChunkReadError,
    SceneNotFoundError,
    SceneUnreachableError,
)
from tests.store.small_stores import sample_chunks, write_store
from tests.store.test_store import assert_same, get

NO_CACHE = RemoteOptions(cache=None)
IMPATIENT = RemoteOptions(connect_s=0.5, stall_s=0.5, cache=None)


class SlowObjects(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A service of objects that answers from a folder, as slow and unwilling as a test likes."""

    protocol = "slowobjects"
    root = Path()
    delay_s = 0.0
    error: BaseException | None = None
    short = 0

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        await self._wait()
        file = self.root / path.lstrip("/")
        if not file.is_file():
            raise FileNotFoundError(path)
        return {"name": path, "size": file.stat().st_size, "type": "file", "ETag": '"1"'}

    async def _cat_file(
        self,
        path: str,
        version_id: str | None = None,  # as S3's, before the range
        start: int | None = None,
        end: int | None = None,
    ) -> bytes:
        await self._wait()
        content = (self.root / path.lstrip("/")).read_bytes()[start:end]
        return content[: len(content) - self.short]

    async def _wait(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[SlowObjects]:
    write_store(tmp_path / "scene.bvs")
    fsspec.register_implementation("slowobjects", SlowObjects, clobber=True)
    monkeypatch.setattr(SlowObjects, "root", tmp_path)
    for name in ("delay_s", "error", "short"):
        monkeypatch.setattr(SlowObjects, name, getattr(SlowObjects, name))
    return SlowObjects


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[str]:
    files = MemoryFileSystem()
    store = write_store(tmp_path / "scene.bvs")
    files.put(str(store), "/bucket/scene.bvs", recursive=True)
    yield "memory://bucket/scene.bvs"
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("suffix", ["", "/", "/manifest.json"])
def test_a_store_in_memory_is_the_local_one(in_memory: str, suffix: str) -> None:
    with open_store(in_memory + suffix, remote=NO_CACHE) as store:
        assert store.meta.path == in_memory
        for node, chunk in enumerate(sample_chunks()):
            assert_same(get(store, node), chunk)


def test_what_is_missing_or_short_is_said(in_memory: str) -> None:
    with pytest.raises(SceneNotFoundError, match="is missing"):
        open_store("memory://bucket/other.bvs", remote=NO_CACHE)
    files = MemoryFileSystem()
    with open_store(in_memory, remote=NO_CACHE) as store:
        content = files.cat("/bucket/scene.bvs/geometry-00.bin")
        files.pipe("/bucket/scene.bvs/geometry-00.bin", content[:-1])
        with pytest.raises(ChunkReadError, match=r"ends at byte [\d,]+, before byte"):
            store.read(3)
    with pytest.raises(ChunkReadError, match="closed"):
        store.read(1)


def test_a_service_of_objects_is_read_and_cached(
    objects: type[SlowObjects], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RemoteOptions(cache=CacheOptions(folder=tmp_path / "cache", budget_bytes=1 << 20))
    with open_store("slowobjects://scene.bvs", remote=options) as store:
        for node, chunk in enumerate(sample_chunks()):
            assert_same(get(store, node), chunk)
        monkeypatch.setattr(objects, "error", OSError("gone"))
        assert_same(get(store, 2), sample_chunks()[2])


@pytest.mark.parametrize(
    ("error", "problem", "transient"),
    [
        (ConnectionResetError("reset by peer"), "reset by peer", True),
        (OSError(16, "SlowDown: reduce your request rate"), "SlowDown", True),
        (asyncio.TimeoutError(), "cannot be read: TimeoutError", True),
        (PermissionError("Access Denied"), "access is refused; check the credentials", False),
        (FileNotFoundError("gone"), "is missing", False),
        (RuntimeError("no credentials"), "no credentials", False),
    ],
)
def test_errors_of_a_service_become_errors_of_a_chunk(
    objects: type[SlowObjects],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    problem: str,
    transient: bool,
) -> None:
    with open_store("slowobjects://scene.bvs", remote=NO_CACHE) as store:
        monkeypatch.setattr(objects, "error", error)
        with pytest.raises(ChunkReadError, match=problem) as caught:
            store.read(1)
        assert caught.value.transient is transient
        monkeypatch.setattr(objects, "error", None)
        assert_same(get(store, 1), sample_chunks()[1])


def test_fewer_bytes_than_asked_for_are_an_error(
    objects: type[SlowObjects], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store("slowobjects://scene.bvs", remote=NO_CACHE) as store:
        monkeypatch.setattr(objects, "short", 1)
        with pytest.raises(ChunkReadError, match=r"gave [\d,]+ bytes where [\d,]+ were") as caught:
            store.read(1)
        assert caught.value.transient


def test_a_service_that_is_silent_is_left_in_time(
    objects: type[SlowObjects], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store("slowobjects://scene.bvs", remote=IMPATIENT) as store:
        monkeypatch.setattr(objects, "delay_s", 60.0)
        start = time.monotonic()
        with pytest.raises(ChunkReadError, match=r"no answer within 1 s") as caught:
            store.read(1)
        assert caught.value.transient
        flag = threading.Event()
        threading.Timer(0.05, flag.set).start()
        assert store.read(1, flag.is_set) is None
        assert time.monotonic() - start < 30.0


class OneLine(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """As FTP: it connects when it is made, blocks, and has a single connection."""

    protocol = "oneline"
    root = Path()
    refused: Exception | None = None
    delay_s = 0.0
    at_once = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        time.sleep(self.delay_s)
        if self.refused is not None:
            raise self.refused

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": (self.root / path).stat().st_size, "type": "file"}

    def cat_file(self, path: str, start: int = 0, end: int | None = None, **_: Any) -> bytes:
        kind = type(self)
        kind.at_once += 1
        try:
            assert kind.at_once == 1, "two at once on one connection"
            time.sleep(kind.delay_s + 0.001)
            return (self.root / path).read_bytes()[start:end]
        finally:
            kind.at_once -= 1


@pytest.fixture
def one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[OneLine]:
    write_store(tmp_path / "scene.bvs")
    fsspec.register_implementation("oneline", OneLine, clobber=True)
    monkeypatch.setattr(OneLine, "root", tmp_path)
    for name in ("refused", "delay_s"):
        monkeypatch.setattr(OneLine, name, getattr(OneLine, name))
    return OneLine


@pytest.mark.parametrize(
    ("refusal", "problem"),
    [
        (
            ConnectionRefusedError(111, "Connection refused"),
            "cannot be reached: Connection refused$",
        ),
        (EOFError(), "cannot be reached: EOFError"),
        (PermissionError("530 Login incorrect"), "access is refused; check the credentials"),
    ],
)
def test_a_server_that_refuses_is_said_in_one_line(
    one_line: type[OneLine], monkeypatch: pytest.MonkeyPatch, refusal: Exception, problem: str
) -> None:
    monkeypatch.setattr(one_line, "refused", refusal)
    with pytest.raises(SceneUnreachableError, match=rf"oneline://scene.bvs: {problem}"):
        open_store("oneline://scene.bvs", remote=NO_CACHE)


def test_a_blocking_file_system_is_asked_for_one_thing_at_a_time(one_line: type[OneLine]) -> None:
    with (
        open_store("oneline://scene.bvs", remote=NO_CACHE) as store,
        ThreadPoolExecutor(4) as pool,
    ):
        for node, decoded in enumerate(pool.map(lambda node: get(store, node), range(4))):
            assert_same(decoded, sample_chunks()[node])


def test_a_blocking_file_system_that_is_silent_is_left_in_time(
    one_line: type[OneLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store("oneline://scene.bvs", remote=IMPATIENT) as store:
        monkeypatch.setattr(one_line, "delay_s", 3.0)
        start = time.monotonic()
        flag = threading.Event()
        threading.Timer(0.05, flag.set).start()
        assert store.read(1, flag.is_set) is None
        with pytest.raises(ChunkReadError, match=r"no answer within 1 s") as caught:
            store.read(1)
        assert caught.value.transient
        assert time.monotonic() - start < 2.5
    start = time.monotonic()
    with pytest.raises(SceneUnreachableError, match="no answer within 1 s"):
        open_store("oneline://scene.bvs", remote=IMPATIENT)
    assert time.monotonic() - start < 2.5


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> type:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(BackendUnavailable, match=r"s3://bucket/s.bvs: .*pip install s3fs"):
        open_store("s3://bucket/s.bvs", remote=NO_CACHE)


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(SceneNotFoundError, match="begin with gopher:// are not known"):
        open_store("gopher://host/scene.bvs", remote=NO_CACHE)
