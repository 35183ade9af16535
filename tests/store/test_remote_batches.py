"""Batches from a server: one request for what lies together, and a cache of single chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scene_store.chunks import EncodedChunk, gaussians_of
from scene_store.remote.options import CacheOptions, RemoteOptions
from scene_store.remote.range_cache import RangeCache
from scene_store.store import Store, open_store
from splat.errors import ChunkReadError
from tests.store import http_server
from tests.store.http_server import RangeServer, answers
from tests.store.small_stores import sample_chunks, write_store
from tests.store.test_disk_cache import bytes_on_disk, data, key
from tests.store.test_store import assert_same

LEAVES = 6
GEOMETRY, HARMONICS = "scene.bvs/geometry-00.bin", "scene.bvs/sh-00.bin"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "www").mkdir()
    write_store(tmp_path / "www" / "scene.bvs", sample_chunks(leaves=LEAVES))
    with RangeServer(tmp_path / "www") as running:
        yield running


@pytest.fixture(params=["http", "fsspec"])
def store(server: RangeServer, request: pytest.FixtureRequest) -> Iterator[Store]:
    """Over HTTP, and by a file system that fsspec knows."""
    folder = server.folder / "scene.bvs"
    address = f"{server.url}/scene.bvs" if request.param == "http" else f"local://{folder}"
    with open_store(address, remote=RemoteOptions(cache=None)) as opened:
        yield opened


def wanted(chunk: int) -> bool:
    return False


def check(store: Store, chunks: list[int]) -> None:
    """Reads a batch and compares it with what was written."""
    outcomes = store.read_many(chunks, wanted)
    encoded = [outcome for outcome in outcomes if isinstance(outcome, EncodedChunk)]
    assert len(encoded) == len(chunks)
    decoded = store.decode_many(chunks, encoded)
    assert not decoded.errors
    contents = gaussians_of(decoded.contents)
    for chunk, (first, count) in zip(chunks, decoded.rows.tolist(), strict=True):
        assert_same(contents[first : first + count], sample_chunks(leaves=LEAVES)[chunk])


def test_a_remote_batch_is_what_was_written(store: Store) -> None:
    assert store.read_batches([4, 0, 2, 1], 1 << 20) == [[4], [0], [1, 2]]
    for batch in ([4], [0], [1, 2], [1, 2, 3, 4, 5, 6]):
        check(store, batch)
    assert store.read_many([1, 2], lambda chunk: True) == [None, None]


def test_what_lies_together_is_one_request_for_each_stream(server: RangeServer) -> None:
    with open_store(f"{server.url}/scene.bvs", remote=RemoteOptions(cache=None)) as store:
        check(store, [2, 3, 4, 5])
        assert (server.requests[GEOMETRY], server.requests[HARMONICS]) == (1, 1)


@pytest.mark.parametrize("fault", ["resets", "truncates"])
def test_a_broken_connection_fails_its_batch_for_now(server: RangeServer, fault: str) -> None:
    with open_store(f"{server.url}/scene.bvs", remote=RemoteOptions(cache=None)) as store:
        server.faults[GEOMETRY] = 5 * [getattr(http_server, fault)]  # the client may insist
        outcomes = store.read_many([2, 3, 4], wanted)
        assert all(isinstance(o, ChunkReadError) and o.transient for o in outcomes)
        server.faults.clear()
        check(store, [2, 3, 4])


def test_what_a_server_will_never_give_is_asked_for_one_by_one(server: RangeServer) -> None:
    with open_store(f"{server.url}/scene.bvs", remote=RemoteOptions(cache=None)) as store:
        server.faults[GEOMETRY] = [answers(403), answers(403)]
        outcomes = store.read_many([2, 3, 4], wanted)
        assert isinstance(outcomes[0], ChunkReadError)
        assert "refuses access" in str(outcomes[0])
        assert [isinstance(outcome, EncodedChunk) for outcome in outcomes] == [False, True, True]


# ---- With the cache on disk -----------------------------------------------------------------


@pytest.fixture
def options(tmp_path: Path) -> RemoteOptions:
    return RemoteOptions(cache=CacheOptions(folder=tmp_path / "cache", budget_bytes=1 << 20))


def test_chunks_of_a_batch_are_kept_one_by_one(server: RangeServer, options: RemoteOptions) -> None:
    """The next session may read others together."""
    address = f"{server.url}/scene.bvs"
    with open_store(address, remote=options) as store:
        check(store, [2, 3])
        check(store, [5])
    with open_store(address, remote=options) as store:
        check(store, [2])  # each file's version is asked for
        before, sent = server.requests.copy(), server.sent
        check(store, [3])
        assert server.requests == before
        check(store, [1, 2, 3, 4, 5, 6])
        # 1, then 4, then 6: what lies between them is here.
        assert server.requests[GEOMETRY] - before[GEOMETRY] == 3
        missing = sum(store.encoded_bytes(chunk) for chunk in (1, 4, 6))
        # A file's version, a byte, may be counted late on a busy machine.
        assert missing <= server.sent - sent <= missing + 2
        before = server.requests.copy()
        check(store, [1, 2, 3, 4, 5, 6])
        assert server.requests == before


def test_a_garbled_chunk_of_a_batch_is_fetched_again_alone(
    server: RangeServer, options: RemoteOptions
) -> None:
    with open_store(f"{server.url}/scene.bvs", remote=options) as store:
        check(store, [1])
        server.faults[GEOMETRY] = [http_server.garbled]
        outcomes = store.read_many([2, 3, 4], wanted)
        encoded = [outcome for outcome in outcomes if isinstance(outcome, EncodedChunk)]
        decoded = store.decode_many([2, 3, 4], encoded)
        assert decoded.errors
        for error in decoded.errors.values():
            assert isinstance(error, ChunkReadError)
            assert error.transient
        bad, before = sorted(decoded.errors), server.requests[GEOMETRY]
        check(store, [2, 3, 4])
        assert server.requests[GEOMETRY] - before == (1 if bad != [0, 2] else 2)


def test_ranges_put_together_keep_the_budget(tmp_path: Path) -> None:
    budget_bytes = 16 * 4096  # of which folders and notes take at most nine for six files
    cache = RangeCache(tmp_path, budget_bytes)
    cache.put_many({key(index): data(index) for index in range(6)})
    assert all(cache.get(key(index)) == data(index) for index in range(6))
    assert 6 * 4096 < bytes_on_disk(tmp_path) <= budget_bytes
    more = {key(index, 3000): data(index, 3000) for index in range(20, 50)}
    too_large = {key(60, 80_000): data(60, 80_000)}
    cache.put_many({**too_large, **more})
    assert bytes_on_disk(tmp_path) <= budget_bytes
    assert cache.get(key(49, 3000)) == data(49, 3000)
    assert cache.get(key(60, 80_000)) is None
    cache.put_many({})
