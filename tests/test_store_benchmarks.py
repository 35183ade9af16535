"""The benchmarks of stores measure what they say. Nothing is timed."""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import time
import urllib.parse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from benchmarks import __main__ as runner
from benchmarks import build, lod, moving, peer, scale, stores, stream
from benchmarks.options import parse_options
from benchmarks.slow_server import Line, SlowServer
from scene_store.build import BuildOptions, build_store
from scene_store.formats import write_ply
from scene_store.store import is_store, open_store
from scene_store.tree import LodTree
from splat.camera import Camera
from splat.errors import BackendUnavailable, SceneNotFoundError, SettingsError
from tests.conftest import require_or_skip
from tests.scenes import random_scene
from tests.store.small_stores import sample_chunks, sample_tree, write_store

try:
    from benchmarks.workbench import Workbench
except BackendUnavailable as error:
    NO_ENGINE: str | None = str(error)
else:
    NO_ENGINE = None

SIZE = (64, 36)
INSTANT = Line(latency_s=0.0, bytes_per_s=1e12)
NAMES = tuple(runner.BENCHMARKS)


@pytest.fixture
def _native_engine() -> None:
    require_or_skip(NO_ENGINE is None, str(NO_ENGINE))


# Stores


def test_stores_that_nobody_asked_to_keep_are_removed() -> None:
    with stores.StoreShelf(None) as shelf:
        store = shelf.store("town-20K")
        assert is_store(store) and open_store(store).meta.count == 20_000
    assert not store.exists() and not shelf.folder.exists()


def test_a_store_in_the_work_folder_is_used_again(tmp_path: Path) -> None:
    for _ in range(2):
        with stores.StoreShelf(tmp_path / "work") as shelf:
            store = shelf.store("town-20K")
            stamp = (store / "manifest.json").stat().st_mtime_ns
    assert store.parent == tmp_path / "work"
    assert stamp == (store / "manifest.json").stat().st_mtime_ns


def test_a_store_is_its_own_store(tmp_path: Path) -> None:
    store = write_store(tmp_path / "mine.bvs")
    with stores.StoreShelf(tmp_path / "work") as shelf:
        assert shelf.store(str(store)) == store


@pytest.mark.usefixtures("data_dir")
def test_levels_that_sources_bring() -> None:
    source = stores.source_of("park")
    assert Path(source).is_file()
    assert lod.own_level_counts("park")[0] > lod.own_level_counts("park")[-1]
    assert lod.own_level_counts("town-20K") == ()


def test_a_missing_scene_is_an_error() -> None:
    with pytest.raises(SceneNotFoundError, match=r"nowhere\.ply"):
        stores.source_of("nowhere.ply")


def test_the_bytes_of_a_store_are_those_of_its_files(tmp_path: Path) -> None:
    store = write_store(tmp_path / "mine.bvs")
    sizes = [len(file.read_bytes()) for file in store.iterdir()]
    assert stores.store_bytes(store) == sum(sizes)
    stores.drop_from_cache(store / "nodes.bin")  # changes nothing
    assert stores.store_bytes(store) == sum(sizes)


# Options


@pytest.mark.parametrize(
    ("words", "sizes"),
    [([], (2_000_000, 20_000_000)), (["2e6", "200M", "150K"], (2_000_000, 200_000_000, 150_000))],
)
def test_sizes(words: list[str], sizes: tuple[int, ...]) -> None:
    argv = ["--only", "scale", *(["--sizes", *words] if words else [])]
    options = parse_options([*argv, "--work", "stores"], NAMES)
    assert options.sizes == sizes and options.work == Path("stores")
    again = parse_options(options.command().split()[2:], NAMES)
    assert again.sizes == sizes


@pytest.mark.parametrize("word", ["many", "-5", "0", "1e"])
def test_sizes_that_are_none(word: str) -> None:
    with pytest.raises(SettingsError, match="size"):
        parse_options(["--sizes", word], NAMES)


# lod


def level(gain: float) -> lod.OwnLevelFigures:
    return lod.OwnLevelFigures(1, 0.5, 100.0, 90.0, 30.0, 30.0 + gain, gain, gain - 1)


@pytest.mark.parametrize(("gains", "passed"), [((), None), ((1.0, 2.0), True), ((3.0, 0.9), False)])
def test_each_level_must_be_beaten(gains: tuple[float, ...], passed: bool | None) -> None:
    figures = lod.LodFigures((), tuple(level(gain) for gain in gains))
    assert figures.passed is passed


@pytest.mark.usefixtures("_native_engine")
def test_lod_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = run(tmp_path, "lod", "--scene", "town-20K", "--cameras", "2")
    assert [row["path"] for row in records] == ["aerial", "walk"]
    for row in records:
        assert row["passed"] is None and row["own_levels"] == []
        whole, *rest = row["shares"]
        assert [share["share"] for share in (whole, *rest)] == list(lod.SHARES)
        assert whole["psnr_db_min"] > 35, "the store's encoding"
        for finer, coarser in itertools.pairwise(row["shares"]):
            # Of a scene as small as this, the shares are one to three chunks: by how they lie
            # to a camera, fewer may look a little better.
            assert finer["psnr_db"] >= coarser["psnr_db"] - 2
            assert finer["gaussians"] >= coarser["gaussians"]
            assert finer["error_px"] <= coarser["error_px"]
        assert rest[0]["gaussians"] <= 2_000 and rest[0]["psnr_db"] < whole["psnr_db"] - 10
    assert "10 % of the scene" in capsys.readouterr().out


# moving


def test_the_walks_clock_goes_by_the_walk_and_never_back() -> None:
    clock = moving.WalkClock()
    before = clock()
    clock.step()
    first = clock()
    clock.step()
    assert clock() == pytest.approx(first + 1 / moving.WALK_FPS)
    walked = clock()
    clock.stop()
    assert before <= first and walked <= clock() < walked + 5


MOVING = moving.MovingFigures(8.5, 80, 9, 12, 28, 25, 1e5, 0.5, 0.4, True)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"speedup": 7.9}, False),
        ({"psnr_db": 26.9}, False),
        ({"stop_s": 1.1}, False),
        ({"same_bytes": False}, False),
    ],
)
def test_the_moving_bars(change: dict[str, Any], passed: bool) -> None:
    assert replace(MOVING, **change).passed is passed


@pytest.mark.usefixtures("_native_engine")
def test_moving_from_the_command_line(tmp_path: Path) -> None:
    (row,) = run(tmp_path, "moving", "--scene", "town-20K", "--path", "walk")
    assert row["same_bytes"] is True
    assert row["psnr_db_min"] <= row["psnr_db"] and 0 < row["scale"] <= 1
    assert 0 < row["drawn_gaussians"] <= 20_000


def test_pictures_are_stretched_smoothly() -> None:
    small = np.array([[[0.0] * 3, [1.0] * 3]], np.float32)
    large = moving._stretched(small, np.zeros((1, 4, 3), np.float32))
    assert np.allclose(large[0, :, 0], [0, 0.25, 0.75, 1])


# scale


@pytest.mark.usefixtures("_native_engine")
def test_scale_from_the_command_line(tmp_path: Path) -> None:
    require_or_skip(Path("/proc/self/status").is_file(), scale.NO_FIGURES)
    work = str(tmp_path / "work")
    rows = run(tmp_path, "scale", "--sizes", "40K", "20K", "--work", work)
    assert [row["scene"] for row in rows] == ["town-20000", "town-40000"]
    assert rows[0]["growth"] == 1.0
    for row in rows:
        store = tmp_path / "work" / f"{row['scene']}.bvs"
        opened = [(store / name).stat().st_size for name in ("manifest.json", "nodes.bin")]
        assert row["open_bytes"] == sum(opened)
        assert 0 < row["idle_bytes"] <= row["peak_bytes"]
        assert row["gaussians"] == int(row["scene"].removeprefix("town-"))


# build


def test_a_process_is_measured() -> None:
    hundred_mb = "x = bytearray(100_000_000); print(len(x))"
    done = build.run_process([sys.executable, "-c", hundred_mb], 60)
    assert done.ended and done.peak_bytes > 100e6


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(BackendUnavailable, match="no such luck"):
        build.run_process([sys.executable, "-c", "raise SystemExit('no such luck')"], 60)
    with pytest.raises(BackendUnavailable, match="does not run"):
        build.run_process(["/nowhere/program"], 60)


def test_a_process_that_takes_too_long_is_ended() -> None:
    done = build.run_process([sys.executable, "-c", "import time; time.sleep(600)"], 0.2)
    assert not done.ended and done.seconds < 60


def peer_of(tmp_path: Path, script: str) -> peer.Peer:
    node = tmp_path / "node"
    node.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/words\n{script}\n', encoding="utf-8")
    node.chmod(0o755)
    return peer.Peer(node, tmp_path / "cli.mjs", tmp_path / "driver", "0.0")


def test_the_peer_makes_each_level_from_the_last_and_then_their_scene(tmp_path: Path) -> None:
    file = tmp_path / "scene.ply"
    done = build.peer_build(peer_of(tmp_path, "exit 0"), file, 2)
    assert done.ended and 0 < done.decimate_s < done.seconds
    lines = [line.split()[4:] for line in (tmp_path / "words").read_text().splitlines()]
    levels = [str(tmp_path / f"level{n}.ply") for n in (1, 2)]
    assert lines[0][-4:] == [str(file), "--decimate", "25%", levels[0]]
    assert lines[1][-4:] == [levels[0], "--decimate", "25%", levels[1]]
    tagged = [str(file), "--tag-lod", "0", levels[0], "--tag-lod", "1", levels[1], "--tag-lod", "2"]
    assert lines[2][-10:] == [*tagged, str(tmp_path / "lod" / "lod-meta.json")]


def test_a_slow_peer_is_as_slow_as_it_was_let(tmp_path: Path) -> None:
    done = build.peer_build(peer_of(tmp_path, "sleep 600"), tmp_path / "scene.ply", 2, 0.2)
    assert not done.ended and 0.2 <= done.seconds < 60


def test_build_without_the_peer_has_no_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "PACKAGES", tmp_path)
    row = build.run("town-20K")
    assert row["passed"] is None and "npm ci" in row["peer"]
    assert row["bytes_each"] < row["file_bytes_each"] and row["levels"] >= 1
    assert row["m_per_s"] == pytest.approx(0.02 / row["seconds"])
    assert build.table_of([row]).row_count == 1


# stream


def test_coverage_counts_what_is_missing_and_not_what_is_more() -> None:
    wanted = np.array([[1.0, 0.5], [0.0, 0.5]], np.float32)
    assert stream.coverage_of(wanted, wanted) == 1
    assert stream.coverage_of(np.array([[0.0, 1.0], [1.0, 0.5]], np.float32), wanted) == 0.5
    assert stream.coverage_of(wanted, np.zeros_like(wanted)) == 1


def test_a_leaf_without_a_chunk_is_a_hole() -> None:
    tree: LodTree = sample_tree(sample_chunks(leaves=3))
    camera = Camera.look_at((0, 0, -20), (0, 0, 0), (0, -1, 0), fov_y_rad=1, width=64, height=36)
    away = Camera.look_at((0, 0, -20), (0, 0, -40), (0, -1, 0), fov_y_rad=0.5, width=64, height=36)
    assert stream.uncovered_leaves(tree, camera, [0]) == 0, "the root stands in for all"
    assert stream.uncovered_leaves(tree, camera, [1, 2, 3]) == 0
    assert stream.uncovered_leaves(tree, camera, [1, 3]) == 1
    assert stream.uncovered_leaves(tree, camera, []) == 3
    assert stream.uncovered_leaves(tree, away, []) == 0


@pytest.mark.usefixtures("_native_engine")
def test_stream_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WALK_FPS", 1e3)
    monkeypatch.setattr(stream, "LINE", INSTANT)
    scene = tmp_path / "ball.ply"
    gaussians = random_scene(1, 6_000)
    write_ply(scene, [gaussians], len(gaussians), gaussians.sh_degree)
    work = tmp_path / "work"
    options = BuildOptions(page_gaussians=1024)
    work.mkdir()
    build_store([scene], work / "ball.bvs", options)
    rows = run(tmp_path, "stream", "--scene", str(scene), "--work", str(work))
    cases = [(row["path"], row["place"]) for row in rows]
    assert cases == [(path, place) for path in stream.JOURNEYS for place in stream.PLACES]
    for row in rows:
        assert row["uncovered"] == 0 and row["coverage_min"] > 0.9
        assert row["read_mb"] >= row["drawn_mb"] > 0
        assert row["read_ratio"] == pytest.approx(row["read_mb"] / row["drawn_mb"])
        assert row["foreseen"] is None or 0 <= row["foreseen"] <= 1
    assert {row["judges_foresight"] for row in rows if row["path"] == "teleports"} == {False}


@pytest.fixture
def server(tmp_path: Path) -> Any:
    (tmp_path / "data.bin").write_bytes(bytes(range(256)) * 300)
    with SlowServer(tmp_path, INSTANT) as server:
        yield server


def get(server: SlowServer, name: str, ranges: str | None = None) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=20)
    connection.request("GET", f"/{name}", headers={"Range": ranges} if ranges else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers["Content-Range"]


def test_the_slow_server_serves_files_and_ranges(server: SlowServer) -> None:
    whole = bytes(range(256)) * 300
    assert get(server, "data.bin")[:2] == (200, whole)
    assert get(server, "data.bin", "bytes=10-13") == (206, whole[10:14], "bytes 10-13/76800")
    assert get(server, "data.bin", "bytes=76790-99999")[1] == whole[76790:]
    assert get(server, "data.bin", "bytes=76800-")[0] == 416
    assert get(server, "none.bin")[0] == 404
    assert server.bytes_sent == len(whole) + 4 + 10


def test_the_line_takes_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    with SlowServer(tmp_path, Line(0.02, 1000.0)) as server:
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        monkeypatch.setattr(time, "sleep", sleep)
        server.wait_for_line(500)
        server.wait_for_line(250)
        monkeypatch.undo()
    assert slept == pytest.approx([0.5, 0.25])


STREAM = {
    "first_s": 0.1,
    "frame_ms_p50": 20,
    "frame_ms_p95": 30,
    "resident_ms_p95": 28,
    "slowdown_p95": 1.1,
    "wait_ms_p95": 3,
    "wait_ms_max": 8,
    "resident_wait_ms_p95": 2,
    "coverage_min": 0.99,
    "coverage_p50": 1.0,
    "uncovered": 0,
    "complete_share": 0.7,
    "read_mb": 12,
    "drawn_mb": 10,
    "read_ratio": 1.2,
    "came_into_view": 100,
    "foreseen": 0.9,
    "judges_foresight": True,
}


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"wait_ms_p95": 12.5}, False),
        ({"wait_ms_p95": 12.5, "resident_wait_ms_p95": 4}, True),
        ({"coverage_min": 0.94}, False),
        ({"uncovered": 1}, False),
        ({"read_ratio": 1.6}, False),
        ({"foreseen": 0.7}, False),
        ({"foreseen": 0.7, "judges_foresight": False}, True),
        ({"foreseen": None}, True),
    ],
)
def test_the_stream_bars(change: dict[str, Any], passed: bool) -> None:
    assert stream.StreamFigures(**{**STREAM, **change}).passed is passed


# The runner


def run(tmp_path: Path, name: str, *words: str) -> list[dict[str, Any]]:
    """The records of a benchmark, as the command line makes them, without the machine's."""
    target = tmp_path / "records.jsonl"
    size = "{}x{}".format(*SIZE)
    argv = ["--only", name, "--size", size, "--threads", "1", "--json", str(target), *words]
    assert runner.main(argv) == 0
    lines = target.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    assert all(row["benchmark"] == name for row in rows)
    return rows


@pytest.mark.usefixtures("_native_engine")
@pytest.mark.parametrize("name", ["moving", "stream"])
def test_without_real_scenes_the_benchmarks_say_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELVEDERE_DATA", str(tmp_path / "none"))
    options = parse_options(["--only", name, "--size", "64x36"], NAMES)
    with Workbench(SIZE, None) as bench:
        rows = runner.BENCHMARKS[name].run(options, bench, Progress())
    assert rows and all("BELVEDERE_DATA" in row["skipped"] for row in rows)
