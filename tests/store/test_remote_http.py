"""Stores on a web server: what works, and what each misbehaviour of a server becomes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scene_store.chunk_sources import open_chunks
from scene_store.range_reader import RangeReadError, insist
from scene_store.remote.address import Address
from scene_store.remote.http_reader import HttpReader
from scene_store.remote.options import RemoteOptions
from scene_store.store import Store, is_store, open_store
from splat.errors import (
    ChunkReadError,
    SceneFormatError,
    SceneNotFoundError,
    SceneUnreachableError,
)
from splat.gaussians import Gaussians
from tests.store import http_server
from tests.store.http_server import Fault, RangeServer, answers
from tests.store.small_stores import sample_chunks, write_store
from tests.store.test_store import assert_same, get

NO_CACHE = RemoteOptions(connect_s=10.0, stall_s=10.0, cache=None)
IMPATIENT = RemoteOptions(stall_s=1.0, cache=None)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    write_store(tmp_path / "scene.bvs")
    with RangeServer(tmp_path) as running:
        yield running


def open_remote(server: RangeServer, suffix: str = "/scene.bvs") -> Store:
    return open_store(server.url + suffix, remote=NO_CACHE)


def never() -> bool:
    return False


@pytest.mark.parametrize(
    "suffix", ["/scene.bvs", "/scene.bvs/", "/scene.bvs/manifest.json", "/scene.bvs#here"]
)
def test_a_remote_store_is_the_local_one(server: RangeServer, suffix: str) -> None:
    with open_remote(server, suffix) as store:
        assert store.meta.path == f"{server.url}/scene.bvs"
        assert set(server.requests) == {"scene.bvs/manifest.json", "scene.bvs/nodes.bin"}
        for node, chunk in enumerate(sample_chunks()):
            assert_same(get(store, node), chunk)
    assert server.connections == 1  # one after the other, on a connection that is kept


def test_the_query_goes_with_every_request_and_is_never_shown(server: RangeServer) -> None:
    secret = "sig=a%2Fb%2Bc&token=s3cret"
    with open_remote(server, f"/scene.bvs/manifest.json?{secret}") as store:
        store.read(1)
        assert set(server.queries) == {secret}
        assert "s3cret" not in str(store.meta.path)
        server.faults["scene.bvs/geometry-00.bin"] = [answers(403)]
        with pytest.raises(ChunkReadError, match=r"refuses access \(403") as caught:
            store.read(1)
        assert "s3cret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    address = Address.of("https://me:secret@example.org/a/?key=k#part")
    assert address.shown("f.bin") == "https://example.org/a/f.bin"
    assert address.file("f.bin") == "https://me:secret@example.org/a/f.bin?key=k"


@pytest.mark.parametrize("text", ["http://", "http://host:port/", "http:///path"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SceneNotFoundError):
        open_store(text, remote=NO_CACHE)


def test_redirects_are_followed_with_the_range(server: RangeServer) -> None:
    target = {"Location": f"{server.url}/scene.bvs/geometry-00.bin?moved"}
    with open_remote(server) as store:
        server.faults["scene.bvs/geometry-00.bin"] = [answers(302, target)]
        assert_same(get(store, 2), sample_chunks()[2])
        assert server.queries.count("moved") == 1
        server.faults["*"] = 20 * [answers(302, target)]
        with pytest.raises(ChunkReadError, match="redirects in circles"):
            store.read(1)


def test_names_in_folders_with_spaces_and_accents(tmp_path: Path) -> None:
    (tmp_path / "été 1").mkdir()
    write_store(tmp_path / "été 1" / "scene.bvs")
    with RangeServer(tmp_path) as server:
        for suffix in ("/été 1/scene.bvs", "/%C3%A9t%C3%A9%201/scene.bvs"):
            with open_remote(server, suffix) as store:
                assert_same(get(store, 1), sample_chunks()[1])


# ---- Opening -------------------------------------------------------------------------------


def test_what_is_not_there_is_said_when_it_is_opened(server: RangeServer) -> None:
    with pytest.raises(SceneNotFoundError, match="missing on the server"):
        open_remote(server, "/other.bvs")
    assert not is_store(f"{server.url}/scene.bvs")  # nobody is asked
    assert server.requests.total() == 1


def test_a_server_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        url = server.url
    with pytest.raises(SceneNotFoundError, match="cannot be reached") as caught:
        open_store(f"{url}/scene.bvs", remote=NO_CACHE)
    assert "\n" not in str(caught.value)


def test_opening_survives_a_server_that_is_busy_for_a_while(server: RangeServer) -> None:
    server.faults["scene.bvs/manifest.json"] = [answers(503), answers(429)]
    server.faults["scene.bvs/nodes.bin"] = [http_server.resets]
    with open_remote(server) as store:
        assert server.requests["scene.bvs/manifest.json"] == 3
        assert_same(get(store, 0), sample_chunks()[0])


def test_a_server_without_ranges_is_refused_when_it_is_opened(server: RangeServer) -> None:
    server.ranges = False
    with pytest.raises(SceneFormatError, match=r"ignores ranges.*nginx") as caught:
        open_remote(server)
    assert "build it again" not in str(caught.value)


# ---- Misbehaviour while chunks are read ----------------------------------------------------

PASSING: dict[str, tuple[Fault, str]] = {
    "stall": (http_server.stalls, "sent nothing for 1 s"),
    "reset": (http_server.resets, r"connection (broke|ended after)"),
    "truncated": (http_server.truncates, r"the connection ended after [\d,]+ of [\d,]+ bytes"),
    "500": (answers(500), "answered 500"),
    "503": (answers(503), "answered 503"),
    "429": (answers(429), "answered 429"),
    "408": (answers(408), "answered 408"),
}
LASTING: dict[str, tuple[Fault, str]] = {
    "200": (http_server.whole_file, r"ignores ranges: asked for bytes .* the whole file of"),
    "other range": (http_server.other_range, r"sent bytes [\d,]+ to [\d,]+ where"),
    "no Content-Range": (http_server.no_content_range, "without saying which bytes"),
    "wrong length": (http_server.wrong_length, r"announced [\d,]+ bytes for a range of"),
    "gzip": (http_server.gzipped, r"compressed \(gzip\).*switch compression off"),
    "401": (answers(401), "refuses access"),
    "410": (answers(410), "missing on the server"),
    "416": (answers(416, {"Content-Range": "bytes */7"}), "ends at byte 7, before byte"),
    "418": (answers(418), "answered 418"),
    "501": (answers(501), "answered 501"),
}


@pytest.mark.parametrize(("fault", "problem"), PASSING.values(), ids=PASSING)
def test_passing_faults_may_be_tried_again(server: RangeServer, fault: Fault, problem: str) -> None:
    with open_store(f"{server.url}/scene.bvs", remote=IMPATIENT) as store:
        server.faults["scene.bvs/geometry-00.bin"] = [fault, fault]
        for _ in range(2):
            with pytest.raises(ChunkReadError, match=problem) as caught:
                store.read(2)
            assert caught.value.transient
            assert caught.value.chunk == 2
            assert "geometry-00.bin" in str(caught.value)
        assert_same(get(store, 2), sample_chunks()[2])


@pytest.mark.parametrize(("fault", "problem"), LASTING.values(), ids=LASTING)
def test_lasting_faults_say_what_the_server_did(
    server: RangeServer, fault: Fault, problem: str
) -> None:
    with open_remote(server) as store:
        server.faults["scene.bvs/geometry-00.bin"] = [fault]
        with pytest.raises(ChunkReadError, match=problem) as caught:
            store.read(2)
        assert not caught.value.transient
        assert "\n" not in str(caught.value)
        assert_same(get(store, 1), sample_chunks()[1])


def test_a_whole_file_for_a_range_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(64 << 20))
    with RangeServer(tmp_path, ranges=False) as server:
        reader = HttpReader(Address.of(server.url), NO_CACHE)
        with pytest.raises(RangeReadError, match="ignores ranges"):
            reader.read("large.bin", 1000, 1000, never)
        reader.close()
        time.sleep(0.1)
        assert server.sent < 16 << 20  # what the system's buffers hold


def test_a_file_that_changes_is_one_clear_error(server: RangeServer) -> None:
    with open_remote(server) as store:
        store.read(1)
        server.etag = '"2"'
        for chunk in (1, 2):
            with pytest.raises(ChunkReadError, match="was changed on the server") as caught:
                store.read(chunk)
            assert not caught.value.transient


def test_a_file_cut_short_on_the_server_is_an_error_of_what_lay_beyond(
    server: RangeServer,
) -> None:
    file = server.folder / "scene.bvs" / "geometry-00.bin"
    with open_remote(server) as store:
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ChunkReadError, match=r"ends at byte [\d,]+, before byte"):
            store.read(3)
        assert_same(get(store, 1), sample_chunks()[1])


def test_whole_files_need_no_ranges_but_a_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "empty").write_bytes(b"")
    with RangeServer(tmp_path, ranges=False) as server:
        reader = HttpReader(Address.of(server.url), NO_CACHE)
        assert reader.read_file("file", 5, never) == b"12345"
        assert reader.read_file("empty", 5, never) == b""
        assert reader.read_file("file", 5, lambda: True) is None
        with pytest.raises(RangeReadError, match="larger than 4 bytes"):
            reader.read_file("file", 4, never)
        reader.close()
        with pytest.raises(RangeReadError, match="was closed"):
            reader.read_file("file", 5, never)


# ---- Time ----------------------------------------------------------------------------------


IN_A_HURRY = RemoteOptions(connect_s=0.5, stall_s=0.5, cache=None)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (http_server.drips, r"the server sent only \d+ bytes in \d+ s"),
        (http_server.drips_headers, "no answer within 1 s"),
    ],
)
def test_a_server_that_drips_is_given_up(server: RangeServer, fault: Fault, problem: str) -> None:
    with open_store(f"{server.url}/scene.bvs", remote=IN_A_HURRY) as store:
        server.faults["scene.bvs/geometry-00.bin"] = [fault]
        start = time.monotonic()
        with pytest.raises(ChunkReadError, match=problem) as caught:
            store.read(2, lambda: time.monotonic() - start > 10)
        assert caught.value.transient
        assert_same(get(store, 2), sample_chunks()[2])


def test_opening_is_given_up_where_a_server_drips(server: RangeServer) -> None:
    server.faults["*"] = [http_server.drips for _ in range(8)]
    with pytest.raises(SceneUnreachableError, match="sent only"):
        open_store(f"{server.url}/scene.bvs", remote=IN_A_HURRY)


def test_a_server_without_an_answer_is_asked_for_one_file_only(server: RangeServer) -> None:
    server.faults["*"] = 20 * [answers(503)]
    with pytest.raises(SceneUnreachableError, match="answered 503"):
        open_chunks(f"{server.url}/scene.bvs", remote=IN_A_HURRY)
    assert server.requests == {"scene.bvs/manifest.json": 4}
    server.faults.clear()
    with pytest.raises(SceneNotFoundError, match="manifest"):
        open_chunks(f"{server.url}/other.bvs", remote=IN_A_HURRY)
    assert server.requests["other.bvs/lod-meta.json"] == 1


def test_what_fails_for_long_is_not_tried_as_often() -> None:
    """Four times in a row; but where each takes long, for a quarter of a minute."""
    for takes_s, attempts in ((0.1, 4), (10.0, 3), (20.0, 2)):
        now, tries = [0.0], [0]

        def read(takes_s: float = takes_s, now: list[float] = now, tries: list[int] = tries) -> int:
            tries[0] += 1
            now[0] += takes_s
            raise RangeReadError("there", "nothing came", transient=True)

        with pytest.raises(RangeReadError, match="nothing came"):
            insist(read, sleep=lambda _: None, clock=lambda now=now: now[0])  # type: ignore[misc]
        assert tries[0] == attempts


def test_a_stalled_read_ends_soon_after_it_is_cancelled(server: RangeServer) -> None:
    patient = RemoteOptions(stall_s=30.0, cache=None)
    with open_store(f"{server.url}/scene.bvs", remote=patient) as store:
        server.faults["scene.bvs/geometry-00.bin"] = [http_server.stalls]
        flag = threading.Event()
        threading.Timer(0.2, flag.set).start()
        start = time.monotonic()
        assert store.read(1, flag.is_set) is None
        assert time.monotonic() - start < 15
        assert_same(get(store, 1), sample_chunks()[1])


def test_closing_ends_reads_that_are_under_way(server: RangeServer) -> None:
    patient = RemoteOptions(stall_s=30.0, cache=None)
    store = open_store(f"{server.url}/scene.bvs", remote=patient)
    server.faults["scene.bvs/geometry-00.bin"] = [http_server.stalls]
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read, 1)
        time.sleep(0.2)
        store.close()
        with pytest.raises(ChunkReadError, match="closed"):
            reading.result(timeout=15)


def test_threads_read_side_by_side(server: RangeServer) -> None:
    """Eight reads of two requests each, on four threads, take as long as two reads."""
    with open_remote(server) as store:
        server.latency_s = 0.2
        start = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            encoded = list(pool.map(store.read, 2 * [0, 1, 2, 3]))
        assert time.monotonic() - start < 2.5  # 3.2 s one after the other
        assert server.most_at_once == 4
        assert server.connections <= 5
        for node, part in zip(2 * [0, 1, 2, 3], encoded, strict=True):
            assert part is not None
            decoded: Gaussians = store.decode(node, part)
            assert_same(decoded, sample_chunks()[node])


def test_nothing_is_logged_by_the_way(
    server: RangeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), open_remote(server) as store:
        server.faults["scene.bvs/geometry-00.bin"] = [http_server.stalls]
        store.read(1, lambda: server.requests["scene.bvs/geometry-00.bin"] > 0)
    assert caplog.records == []


def test_a_body_is_held_once(server: RangeServer) -> None:
    """Not in parts and put together."""
    size = 16 << 20

    class Response:
        content: Response

        async def iter_any(self) -> AsyncIterator[bytes]:
            for start in range(0, size, 1 << 16):
                yield bytes([start >> 16]) * (1 << 16)

    response = Response()
    response.content = response
    with open_remote(server) as store:
        reader = store._reader
        assert isinstance(reader, HttpReader)

        async def peak_bytes() -> int:
            tracemalloc.start()
            try:
                body = await reader._body(response, "x", size)  # type: ignore[arg-type]
                assert len(body) == size and body[-1] == 255
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        assert asyncio.run(peak_bytes()) < 1.3 * size
