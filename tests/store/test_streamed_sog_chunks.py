"""A streamed SOG by its own chunks, from a folder and from a server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scene_store.chunk_sources import can_stream, open_chunks
from scene_store.chunks import ChunkSource, EncodedChunk, gaussians_of
from scene_store.formats.sog import SogTextures
from scene_store.formats.streamed_sog import StreamedSogSource
from scene_store.ledger import Budgets, ChunkCosts
from scene_store.lod import LodLimits, select_lod
from scene_store.remade_chunks import RemadeChunks
from scene_store.remote.options import CacheOptions, RemoteOptions
from scene_store.residency import Residency
from scene_store.sog_units import SogUnit, SogUnits
from scene_store.store import Store
from scene_store.streamed_sog_chunks import (
    StreamedSogChunks,
    estimated_error,
    open_streamed_sog,
)
from scene_store.tree import LodTree
from splat.camera import Camera
from splat.errors import ChunkReadError, SceneError, SceneFormatError, SceneNotFoundError
from splat.gaussians import Gaussians
from tests.formats import encoders
from tests.formats.samples import random_gaussians, read_all
from tests.store import http_server
from tests.store.http_server import RangeServer, answers
from tests.store.small_stores import write_store

NONE = Gaussians.empty()
NO_CACHE = RemoteOptions(stall_s=1.0, cache=None)
FIELDS = ("means", "quats", "scales", "opacities", "sh")


@pytest.fixture(params=[0, 2], ids=["degree 0", "degree 2"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Leaf 0 has levels 0, 1 and 3; leaf 1 only 1 and 2; leaf 2 only 0; and a backdrop."""
    a, b = random_gaussians(90, request.param, seed=1), random_gaussians(60, request.param, seed=2)
    c, sky = random_gaussians(30, request.param, seed=4), random_gaussians(7, 0, seed=3)
    levels = [[a, NONE, c], [a[:40], b, NONE], [NONE, b[:20], NONE], [a[:10], NONE, NONE]]
    (tmp_path / "www").mkdir()
    return encoders.streamed_sog(tmp_path / "www", levels, sky)


def get(source: ChunkSource, chunk: int) -> Gaussians:
    encoded = source.read(chunk)
    assert encoded is not None
    assert encoded.nbytes == source.encoded_bytes(chunk)
    return gaussians_of(source.decode(chunk, encoded))


def same_rows(a: Gaussians, b: Gaussians) -> None:
    """The same Gaussians, to the bit, in whatever order."""
    rows = [np.concatenate([getattr(g, f).reshape(len(g), -1) for f in FIELDS], 1) for g in (a, b)]
    ordered = [r[np.lexsort(r.T)] for r in rows]
    np.testing.assert_array_equal(ordered[0], ordered[1])


def cut(tree: LodTree, level: int) -> list[int]:
    """The node of each chain that is nearest to a level, the finer of two."""
    chosen = []
    for root in tree.roots:
        chain = [int(root)]
        while tree.child_count[chain[-1]]:
            chain += tree.children(chain[-1])
        chosen.append(min(chain, key=lambda n: (abs(tree.level[n] - level), tree.level[n])))
    return chosen


def test_levels_of_a_leaf_are_a_chain(path: Path) -> None:
    with open_streamed_sog(path) as source:
        tree = source.tree
        assert len(tree.roots) == 4
        assert tree.count[tree.roots].tolist() == [10, 20, 30, 7]
        assert tree.level[tree.roots].tolist() == [3, 2, 0, 0]
        assert tree.child_count.tolist() == [1, 1, 0, 0, 1, 0, 0]
        assert tree.count.tolist() == [10, 20, 30, 7, 40, 60, 90]
        assert (tree.error[tree.is_leaf] == 0).all()
        inner = ~tree.is_leaf
        assert (tree.error[inner] > tree.error[tree.first_child[inner]]).all()
        assert source.meta.count == 187
        assert source.meta.lod_counts == (187, 137, 97, 67)
        assert (source.meta.path, source.meta.up) == (path.parent, (0.0, -1.0, 0.0))


@pytest.mark.parametrize("level", range(4))
def test_a_cut_is_what_the_reader_of_one_level_gives(path: Path, level: int) -> None:
    with open_streamed_sog(path.parent) as source, StreamedSogSource(path, level) as reader:
        chunks = [get(source, chunk) for chunk in cut(source.tree, level)]
        assert source.sh_degree == reader.meta.sh_degree
        same_rows(Gaussians.concatenate(chunks), read_all(reader))


def test_boxes_and_scales_hold_for_what_is_decoded(path: Path) -> None:
    with open_streamed_sog(path) as source:
        tree = source.tree
        for chunk in range(len(tree)):
            gaussians = get(source, chunk)
            assert (gaussians.means >= tree.lo[chunk]).all()
            assert (gaussians.means <= tree.hi[chunk]).all()
            assert gaussians.scales.max() <= tree.max_scale[chunk]


def test_bounds_of_leaves_are_used_where_they_are_given(path: Path) -> None:
    fields = json.loads(path.read_text())
    fields["tree"]["children"][0]["bound"] = {"min": [-50, -51, -52], "max": [50, 51, 52]}
    path.write_text(json.dumps(fields))
    with open_streamed_sog(path) as source:
        assert source.tree.lo[0].tolist() == [-50, -51, -52]
        assert source.tree.hi[4].tolist() == [50, 51, 52]
    fields["tree"]["children"][0]["bound"] = {"min": [1, 1, 1], "max": [0, 0, 0]}
    path.write_text(json.dumps(fields))
    with pytest.raises(SceneFormatError, match="inverted box"):
        open_streamed_sog(path)


def test_errors_grow_with_what_is_missing() -> None:
    lo, hi = np.zeros(3, np.float32), np.array([4, 0, 3], np.float32)
    assert estimated_error(lo, hi, 3, 12) == pytest.approx(0.5 * np.sqrt(12 / 3 * 0.75))
    assert estimated_error(lo, hi, 12, 12) == pytest.approx(5e-6)
    errors = [estimated_error(lo, hi, count, 1000) for count in (900, 500, 100, 10)]
    assert errors == sorted(errors)


def test_selection_and_residency_take_it_as_it_is(path: Path) -> None:
    """Everything wanted at once arrives, and the finest cut covers each leaf once."""
    with open_streamed_sog(path, page_gaussians=1024) as source:
        tree = source.tree
        costs = ChunkCosts.of(source, page_bytes=1 << 16)
        residency = Residency(tree, costs, Budgets(1 << 20, 1 << 20))
        camera = Camera.look_at(
            (0, 0, -20), (0, 0, 0), (0, 1, 0), fov_y_rad=1.6, width=64, height=48
        )
        limits = LodLimits(error_px=0.0, page_gaussians=1024)
        loaded: dict[int, EncodedChunk] = {}
        for _ in range(20):
            seen = select_lod(tree, [camera], residency.resident, limits)
            actions = residency.update(seen.want, seen.touched, None, 0.0)
            for chunk in actions.promote:
                source.decode(chunk, loaded.pop(chunk))
                residency.promoted(chunk)
            for chunk in actions.start_loads:
                encoded = source.read(chunk)
                assert encoded is not None
                loaded[chunk] = encoded
                assert residency.loaded(chunk, encoded.nbytes, 0.0)
        seen = select_lod(tree, [camera], residency.resident, limits)
        assert seen.complete
        assert set(seen.draw) <= set(np.flatnonzero(tree.is_leaf))
        assert seen.drawn_gaussians == source.meta.count


def test_a_unit_is_decoded_once_for_its_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = SogUnits._load

    def noted(self: SogUnits, unit: SogUnit, cancelled: Callable[[], bool]) -> SogTextures | None:
        loads.append(unit.name)
        return load(self, unit, cancelled)

    monkeypatch.setattr(SogUnits, "_load", noted)
    with open_streamed_sog(path) as source, ThreadPoolExecutor(4) as pool:
        assert source.overhead_bytes > 96 << 20
        assert loads == []  # opening reads no textures
        list(pool.map(source.read, 2 * list(range(len(source.tree)))))
        assert sorted(loads) == sorted({unit.name for unit in source._unit_of})
    loads.clear()
    with open_streamed_sog(path, keep_bytes=0) as source:
        for _ in range(2):
            get(source, 0)
        assert len(loads) == 2
        assert source._units._kept_bytes == 0


def test_what_is_kept_stays_within_its_bound(path: Path) -> None:
    with open_streamed_sog(path) as source:
        everything = [get(source, chunk) for chunk in range(len(source.tree))]
        bound = source._units._kept_bytes // 2
    with open_streamed_sog(path, keep_bytes=bound) as source:
        for chunk, expected in enumerate(everything):
            same_rows(get(source, chunk), expected)
            assert source._units._kept_bytes <= bound
            kept = sum(textures.nbytes for textures in source._units._kept.values())
            assert kept == source._units._kept_bytes


def test_what_cannot_be_drawn_becomes_invisible(tmp_path: Path) -> None:
    path = encoders.streamed_sog(tmp_path, [[random_gaussians(50, 0, seed=1)]], None)
    unit = tmp_path / "0_0" / "meta.json"
    fields = json.loads(unit.read_text())
    fields["scales"]["codebook"] = 128 * [-3.0] + 128 * [500.0]  # e^500 is infinite
    unit.write_text(json.dumps(fields))
    with open_streamed_sog(path) as source:
        gaussians = get(source, 0)
        assert len(gaussians) == 50
        assert all(np.isfinite(getattr(gaussians, field)).all() for field in FIELDS)
        hidden = gaussians.opacities == 0
        assert 0 < hidden.sum() < 50


# ---- Bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("lodLevels", 0, "at least 1"),
        ("lodLevels", 10_000, "more than 64 levels"),
        ("tree", {}, "has no Gaussians"),
        ("filenames", [], "points to file"),
        ("filenames", ["../x/meta.json"] * 4, "not inside its folder"),
        ("filenames", ["a.sog"] * 4, "bundled|missing"),
        ("environment", 5, "needs a file name"),
        ("environment", "/etc/meta.json", "not inside its folder"),
    ],
)
def test_a_broken_description_is_refused(
    path: Path, field: str, value: object, problem: str
) -> None:
    fields = json.loads(path.read_text())
    fields[field] = value
    if field == "tree":
        fields["environment"] = None
    path.write_text(json.dumps(fields))
    with pytest.raises(SceneError, match=problem) as caught:
        open_streamed_sog(path)
    assert "\n" not in str(caught.value)


def test_a_leaf_beyond_its_unit_is_refused(path: Path) -> None:
    fields = json.loads(path.read_text())
    fields["tree"]["children"][0]["lods"]["0"]["count"] += 1000
    path.write_text(json.dumps(fields))
    with pytest.raises(SceneFormatError, match="beyond its"):
        open_streamed_sog(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "is missing"), (b"", "WebP"), (b"RIFF", "WebP"), (bytes(200), "WebP")],
)
def test_a_broken_texture_costs_its_unit_only(
    path: Path, content: bytes | None, problem: str
) -> None:
    texture = next((path.parent / "3_0").glob("quats*"))
    if content is None:
        texture.unlink()
    else:
        texture.write_bytes(content)
    with open_streamed_sog(path) as source:
        with pytest.raises(ChunkReadError, match=problem) as caught:
            source.read(0)
        assert (caught.value.chunk, caught.value.transient) == (0, False)
        assert texture.name in str(caught.value)
        assert len(get(source, 1)) == 20


def test_a_coarse_level_that_is_missing_is_made_of_the_finer_one(path: Path) -> None:
    for texture in path.parent.glob("[23]_0/*.webp"):
        texture.unlink()
    with RemadeChunks(open_streamed_sog(path)) as source:
        tree = source.tree
        for chunk in range(len(tree)):
            found = get(source.source, chunk) if tree.level[chunk] < 2 else mended(source, chunk)
            assert len(found) == tree.count[chunk]
            assert (found.means >= tree.lo[chunk]).all()
            assert (found.means <= tree.hi[chunk]).all()
            assert all(np.isfinite(getattr(found, name)).all() for name in FIELDS)
        assert len(source.remade) == 2
        assert all(line.endswith("remade from the 1 below it") for line in source.remade)


def mended(source: RemadeChunks, chunk: int) -> Gaussians:
    encoded = source.read(chunk)
    assert encoded is not None and encoded.nbytes == 0
    return gaussians_of(source.decode(chunk, encoded))


def test_bytes_of_another_chunk_are_refused(path: Path) -> None:
    with open_streamed_sog(path) as source:
        encoded = source.read(1)
        assert encoded is not None
        with pytest.raises(ChunkReadError, match="are needed"):
            source.decode(0, encoded)


def test_a_missing_scene_is_said(tmp_path: Path) -> None:
    with pytest.raises(SceneNotFoundError, match=r"lod-meta\.json: is missing"):
        open_streamed_sog(tmp_path / "nothing")


# ---- From a server --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def options(tmp_path: Path) -> RemoteOptions:
    cache = CacheOptions(folder=tmp_path / "cache", budget_bytes=1 << 20)
    return RemoteOptions(stall_s=1.0, cache=cache)


@pytest.mark.parametrize("suffix", ["", "/", "/lod-meta.json", "/lod-meta.json?token=1"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_remote_one_is_the_local_one(
    path: Path, options: RemoteOptions, suffix: str, ranges: bool
) -> None:
    """Whole files are read, so that any server will do."""
    with RangeServer(path.parent, ranges=ranges) as server, open_streamed_sog(path) as local:
        source = open_chunks(server.url + suffix, remote=options)
        assert isinstance(source, StreamedSogChunks)
        for chunk in range(len(local.tree)):
            same_rows(get(source, chunk), get(local, chunk))
        source.close()


def test_passing_faults_of_a_server_are_errors_of_a_chunk(path: Path) -> None:
    with RangeServer(path.parent) as server:
        server.faults["0_0/meta.json"] = [answers(503), http_server.truncates]
        with open_streamed_sog(server.url, remote=NO_CACHE) as source:
            for fault in (http_server.stalls, http_server.resets, answers(500)):
                server.faults["3_0/quats.webp"] = [fault]
                with pytest.raises(ChunkReadError) as caught:
                    source.read(0)
                assert caught.value.transient
            assert len(get(source, 0)) == 10
        with open_streamed_sog(server.url, keep_bytes=0, remote=NO_CACHE) as source:
            source.read(0)
            server.etag = '"2"'
            with pytest.raises(ChunkReadError, match="changed on the server"):
                source.read(0)


def test_a_second_session_reads_no_texture_from_the_server(
    path: Path, options: RemoteOptions
) -> None:
    with RangeServer(path.parent) as server:
        for _ in range(2):
            sent = server.sent
            with open_streamed_sog(server.url, remote=options) as source:
                for chunk in range(len(source.tree)):
                    get(source, chunk)
        descriptions = sum(file.stat().st_size for file in path.parent.rglob("*.json"))
        textures = len(list(path.parent.rglob("*.webp")))
        assert server.sent - sent == descriptions + textures  # one byte for each version


def test_a_read_that_waits_for_another_one_can_be_cancelled(
    path: Path, options: RemoteOptions
) -> None:
    patient = RemoteOptions(stall_s=20.0, cache=None)
    with (
        RangeServer(path.parent) as server,
        ThreadPoolExecutor(2) as pool,
        open_streamed_sog(server.url, remote=patient) as source,
    ):
        server.faults["0_0/quats.webp"] = [http_server.stalls]
        flags = threading.Event(), threading.Event()
        first = pool.submit(source.read, 2, flags[0].is_set)
        time.sleep(0.2)
        second = pool.submit(source.read, 6, flags[1].is_set)
        flags[1].set()
        assert second.result(timeout=15) is None
        flags[0].set()
        assert first.result(timeout=15) is None
        assert len(get(source, 2)) == 30


def test_what_is_at_an_address_is_found_out(
    path: Path, options: RemoteOptions, tmp_path: Path
) -> None:
    write_store(path.parent / "scene.bvs")
    with RangeServer(path.parent) as server:
        store = open_chunks(f"{server.url}/scene.bvs", remote=options)
        assert isinstance(store, Store)
        store.close()
        with pytest.raises(SceneNotFoundError, match=r"other/manifest\.json: is missing"):
            open_chunks(f"{server.url}/other", remote=options)
        assert can_stream(server.url)
    for local in (path, path.parent, path.parent / "scene.bvs"):
        assert can_stream(local)
        source = open_chunks(local)
        assert len(get(source, 0)) > 0
        source.close()
    assert not can_stream(tmp_path)
    with pytest.raises(SceneFormatError, match="neither a store nor a streamed SOG"):
        open_chunks(tmp_path)
    with pytest.raises(SceneNotFoundError, match="no such file"):
        open_chunks(tmp_path / "nothing")


# ---- Real scenes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "roots"), [("park", 4_249_286, 32), ("playbot", 500_000, 2)]
)
def test_real_scenes_stream(data_dir: Path, name: str, count: int, roots: int) -> None:
    with open_streamed_sog(data_dir / name) as source:
        tree = source.tree
        assert source.meta.count == int(tree.count[tree.is_leaf].sum()) == count
        assert len(tree.roots) == roots
        coarse = Gaussians.concatenate([get(source, int(root)) for root in tree.roots])
        with StreamedSogSource(data_dir / name / "lod-meta.json", int(tree.level.max())) as reader:
            same_rows(coarse, read_all(reader))
        for chunk in (0, len(tree) - 1):
            gaussians = get(source, chunk)
            assert (gaussians.means > tree.lo[chunk]).all()
            assert (gaussians.means < tree.hi[chunk]).all()
