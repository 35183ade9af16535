"""The benchmarks measure what they say: names, cameras, ratios, records. Nothing is timed."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress
from rich.table import Table

from benchmarks import __main__ as runner
from benchmarks import frame, machine, raster, report, scenes
from benchmarks.options import Options, parse_options
from benchmarks.subject import Sampling
from rendering.base import RasterSettings
from scene_store.town import TOWN_UP, TOWN_VIEWS
from splat.cores import usable_cores
from splat.errors import BackendUnavailable, OutputError, SceneNotFoundError, SettingsError
from tests.conftest import require_or_skip
from tests.scenes import random_scene
from tests.steady_rasterizer import SIZE, SteadyRasterizer, ball, drawn_by

try:
    from benchmarks.workbench import Workbench
except BackendUnavailable as error:
    NO_ENGINE: str | None = str(error)
else:
    NO_ENGINE = None


@pytest.fixture
def scene() -> scenes.BenchmarkScene:
    return ball()


# Scenes and cameras


@pytest.mark.parametrize(
    ("name", "count"),
    [("town-150K", 150_000), ("town-1.5M", 1_500_000), ("TOWN-2m", 2_000_000), ("town-2000", 2000)],
)
def test_a_town_is_named_by_its_size(name: str, count: int) -> None:
    assert scenes.town_count(name) == count


@pytest.mark.parametrize("name", ["park", "towns/old.ply", "town.ply"])
def test_other_names_are_no_towns(name: str) -> None:
    assert scenes.town_count(name) is None


@pytest.mark.parametrize("name", ["town-", "town-K", "town-12Q", "town--3"])
def test_a_town_without_a_size_is_an_error(name: str) -> None:
    with pytest.raises(SettingsError, match=r"town-150K"):
        scenes.town_count(name)


def test_a_town_too_small_is_an_error() -> None:
    with pytest.raises(SettingsError, match="town-3"):
        scenes.open_scene("town-3")


PLACES = {
    "town": (scenes.town_paths, TOWN_UP, TOWN_VIEWS.aerial.center),
    "park": (scenes.park_paths, scenes.PARK_UP, scenes.PARK_TARGET),
}


@pytest.mark.parametrize("place", PLACES)
def test_paths_are_the_same_every_time(place: str) -> None:
    paths_of = PLACES[place][0]
    for first, again in zip(paths_of(), paths_of(), strict=True):
        assert first.name == again.name and len(first.cameras) == scenes.PATH_FRAMES
        for a, b in zip(first.cameras, again.cameras, strict=True):
            assert np.array_equal(a.viewmat, b.viewmat) and np.array_equal(a.K, b.K)
            assert (a.width, a.height) == scenes.SIZE


@pytest.mark.parametrize("place", PLACES)
def test_the_aerial_path_circles_around_its_target(place: str) -> None:
    paths_of, up, target = PLACES[place]
    cameras = paths_of()[0].cameras
    arms = np.array([camera.position for camera in cameras]) - target
    heights = arms @ np.asarray(up, float)
    assert np.allclose(heights, heights[0]) and heights[0] > 0
    assert np.allclose(np.linalg.norm(arms, axis=1), np.linalg.norm(arms[0]))
    for camera, arm in zip(cameras, arms, strict=True):
        assert np.allclose(camera.forward, -arm / np.linalg.norm(arm))
        assert camera.viewmat[1, :3] @ np.asarray(up, float) < 0  # not upside down
    steps = np.linalg.norm(np.diff(arms, axis=0, append=arms[:1]), axis=1)
    assert np.allclose(steps, steps[0])  # all around, evenly


@pytest.mark.parametrize("place", PLACES)
def test_the_walk_goes_where_it_looks(place: str) -> None:
    cameras = PLACES[place][0]()[1].cameras
    places = np.array([camera.position for camera in cameras])
    steps = np.diff(places, axis=0)
    assert np.allclose(steps, steps[0])
    for camera in cameras:
        assert np.allclose(camera.forward, steps[0] / np.linalg.norm(steps[0]))


def test_the_parks_first_view_is_the_documented_one() -> None:
    camera = scenes.park_paths()[0].cameras[0]
    assert np.allclose(camera.position, (24, -14, 16))
    assert 2 * math.atan(0.5 * camera.width / camera.K[0, 0]) == pytest.approx(math.radians(70))


def test_a_scene_of_a_file_is_seen_from_its_start_view(tmp_path: Path) -> None:
    from scene_store.formats import write_ply

    gaussians = random_scene(1, 200)
    write_ply(tmp_path / "ball.ply", [gaussians], len(gaussians), gaussians.sh_degree)
    scene = scenes.open_scene(str(tmp_path / "ball.ply"), SIZE)
    assert scene.name == "ball.ply" and len(scene.gaussians) == 200
    assert [path.name for path in scene.paths] == list(scenes.PATH_NAMES)
    first = scene.path("aerial").cameras[0]
    assert np.allclose(first.viewmat, scene.view.camera().viewmat)
    start, end = (scene.path("walk").cameras[i].position for i in (0, -1))
    assert np.allclose(start, scene.view.position)
    halfway = 0.5 * (np.array(scene.view.position) + scene.view.target)
    assert np.allclose(end, halfway)


@pytest.mark.parametrize(("wanted", "got"), [(4, [0, 2, 4, 6]), (3, [0, 2, 5]), (99, range(8))])
def test_a_spread_of_cameras(scene: scenes.BenchmarkScene, wanted: int, got: Sequence[int]) -> None:
    path = scene.paths[0]
    assert path.spread(wanted) == tuple(path.cameras[i] for i in got)


# Ratios


def test_percentiles() -> None:
    summary = report.Summary.of([float(i) for i in range(101)])
    assert (summary.p50, summary.p95, summary.low, summary.high) == (50, 95, 0, 100)
    assert report.Summary.of([1.0, 2.0]).p50 == 1.5


def test_raster_sets_the_best_frame_against_the_best_window(scene: scenes.BenchmarkScene) -> None:
    row = raster.run(drawn_by(SteadyRasterizer(), scene), Sampling(cameras=4, repeats=3))
    pairs = 10 * SIZE[0] * SIZE[1]
    assert row["pairs_per_frame"] == pairs
    assert row["pairs_per_tile_pair"] == pytest.approx(pairs / 50)
    assert row["gpairs_per_s"] == pytest.approx(1e-9 * pairs / 2e-3)
    assert row["limit_gpairs_per_s"] == pytest.approx(5e-3)
    for name in ("ratio_p50", "ratio_min", "ratio_max"):
        assert row[name] == pytest.approx(pairs / 2e-3 / 5e6)
    assert row["composite_ms_p50"] == 3.0
    assert row["cameras"] == 4 and row["passed"]


@pytest.mark.parametrize(("limit", "passed"), [(38.3e6, True), (38.5e6, False)])
def test_the_raster_bar(scene: scenes.BenchmarkScene, limit: float, passed: bool) -> None:
    rasterizer = SteadyRasterizer(limits=(limit,))
    row = raster.run(drawn_by(rasterizer, scene), Sampling(cameras=1, repeats=3))
    assert row["ratio_p50"] == pytest.approx(11.52e6 / limit)
    assert row["passed"] == passed


def test_a_window_lasts_as_long_as_compositing() -> None:
    class Slow(SteadyRasterizer):
        def pairs_per_second_limit(self, *, threads: int = 0, repeats: int = 1) -> float:
            seen.append(repeats)
            return 1.0

    seen: list[int] = []
    repeats = raster._window_repeats(Slow(), 0, window_ms=1e9)
    assert repeats == raster.MAX_REPEATS and set(seen) == {raster.TRIAL_REPEATS}
    assert raster._window_repeats(Slow(), 0, window_ms=0.0) == raster.TRIAL_REPEATS


@pytest.mark.parametrize(("frame_ms", "passed"), [(12.1, True), (11.9, False)])
def test_the_frame_bar(
    scene: scenes.BenchmarkScene,
    frame_ms: float,
    passed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def timed_frame(*words: object) -> frame.TimedFrame:
        drawn.append(words)
        stages = {"project": 1.0, "sort": 2.0, "bin": 3.0, "composite": 4.0}
        return frame.TimedFrame(frame_ms, stages)

    monkeypatch.setattr(frame, "timed_frame", timed_frame)
    row = frame.run(drawn_by(SteadyRasterizer(), scene), Sampling(cameras=4, repeats=2))
    assert row["share_p50"] == row["share_max"] == 6.0 / frame_ms
    assert row["frame_ms_p50"] == row["frame_ms_p95"] == frame_ms
    assert row["frames_per_s"] == pytest.approx(1e3 / frame_ms)
    assert row["sort_ms"] == 2.0 and row["rest_ms"] == frame_ms - 10.0
    assert row["passed"] == passed
    assert len(drawn) == 4 * (1 + 2)  # one pass to warm up


def test_a_frame_is_timed_from_the_outside(scene: scenes.BenchmarkScene) -> None:
    rasterizer = SteadyRasterizer(composite_ms=(7.0,))
    timed = frame.timed_frame(rasterizer, 200, scene.view.camera(), RasterSettings())
    assert timed.stage_ms["composite"] == 7.0 and rasterizer.rendered == 1
    assert timed.frame_ms > 0
    assert frame.TimedFrame(8.0, timed.stage_ms).preparing_share == 6.0 / 8.0


# The runner


@pytest.fixture
def _native_engine() -> None:
    require_or_skip(NO_ENGINE is None, str(NO_ENGINE))


@pytest.mark.usefixtures("_native_engine")
def test_a_run_from_the_command_line_to_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "records.jsonl"
    words = ["--only", "raster", "frame", "--scene", "town-20K", "--size", "64x36"]
    words += ["--cameras", "2", "--repeats", "1", "--threads", "1", "--json", str(target)]
    assert runner.main(words) == 0
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert records[0]["benchmark"] == "machine" and records[0]["cores"] == usable_cores()
    cases = [(row["benchmark"], row["scene"], row["path"]) for row in records[1:]]
    paths = ("aerial", "walk")
    assert cases == [(name, "town-20K", path) for name in ("raster", "frame") for path in paths]
    for row in records[1:]:
        assert (row["width"], row["height"], row["cameras"], row["repeats"]) == (64, 36, 2, 1)
        assert row["gaussians"] == 20_000 and row["threads"] == 1
        assert isinstance(row["passed"], bool)
    for row in records[1:3]:
        assert 0 < row["ratio_min"] <= row["ratio_p50"] <= row["ratio_max"]
        assert row["pairs_per_frame"] > 0
    for row in records[3:]:
        assert 0 < row["share_p50"] <= row["share_max"] < 1
        assert row["frame_ms_p50"] <= row["frame_ms_p95"]
    shown = capsys.readouterr().out
    assert records[0]["cpu"] in shown and "limit G pairs/s" in shown and "frames/s" in shown
    assert '"benchmark"' not in shown


def fake_benchmark(monkeypatch: pytest.MonkeyPatch, rows: list[report.Row]) -> None:
    """Only ``frame`` is left, and it measured these rows."""

    def table_of(rows: Sequence[report.Row]) -> Table:
        table = report.new_table("frame: a title", ["scene"], ["share", "bar"])
        for row in rows:
            table.add_row(row["scene"], f"{row['share']:.1f}", report.verdict(row))
        return table

    benchmark = runner.Benchmark(lambda options, bench, progress: rows, table_of)
    monkeypatch.setattr(runner, "BENCHMARKS", {"frame": benchmark})


MEASURED = {"benchmark": "frame", "scene": "a", "path": "walk", "share": 0.25, "passed": True}
MISSED = {**MEASURED, "scene": "b", "share": 0.75, "passed": False}


@pytest.mark.usefixtures("_native_engine")
def test_records_follow_the_tables_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_benchmark(monkeypatch, [MEASURED, MISSED])
    assert runner.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines[-2:]] == [MEASURED, MISSED]
    assert any("reached" in line for line in lines) and any("MISSED" in line for line in lines)


@pytest.mark.usefixtures("_native_engine")
def test_markdown_is_ready_for_the_documentation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [MEASURED, report.skipped("frame", "c", "aerial", "no such file")]
    fake_benchmark(monkeypatch, rows)
    assert runner.main(["--only", "frame", "--markdown"]) == 0
    shown = capsys.readouterr().out
    table = "### frame: a title\n\n| scene | share | bar |\n| --- | ---: | ---: |\n"
    assert table + "| a | 0.2 | reached |\n" in shown
    assert shown.startswith("Command: `belvedere bench --markdown --only frame`\n\nMachine: ")
    assert "frame c aerial not measured: no such file" in shown
    assert "{" not in shown


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--only", "raster", "peer", "--scene", "park", "a scene.ply"],
        ["--path", "walk", "--size", "640x360", "--cameras", "3", "--repeats", "1"],
        ["--threads", "1"],
    ],
)
def test_the_command_shown_measures_the_same(words: list[str]) -> None:
    names = tuple(runner.BENCHMARKS)
    options = parse_options([*words, "--json", "records.json"], names)
    shown = shlex.split(options.command())
    assert shown[:3] == ["belvedere", "bench", "--markdown"]
    assert parse_options(shown[2:], names) == replace(options, json=None, markdown=True)


@pytest.mark.usefixtures("_native_engine")
@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([MEASURED], 0),
        ([MEASURED, MISSED], 1),
        ([report.skipped("frame", "c", "walk", "absent")], 0),
    ],
)
def test_only_a_strict_run_fails_where_a_bar_is_missed(
    rows: list[report.Row], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_benchmark(monkeypatch, rows)
    assert runner.main(["--strict"]) == status
    assert runner.main([]) == 0


@pytest.mark.usefixtures("_native_engine")
def test_a_usual_scene_may_be_missing_but_not_one_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELVEDERE_DATA", str(tmp_path / "none"))

    def measure(options: Options) -> list[report.Row]:
        bench = Workbench(SIZE)
        return bench.on_every_path(
            "frame",
            lambda subject, advance: frame.run(subject, options.sampling, advance),
            options,
            Progress(),
            steps=1,
            scenes=("park",),
        )

    rows = measure(Options())
    assert [row["passed"] for row in rows] == [None, None]
    assert all("BELVEDERE_DATA" in row["skipped"] for row in rows)
    with pytest.raises(SceneNotFoundError):
        measure(Options(scenes=("park",)))


@pytest.mark.usefixtures("_native_engine")
def test_formats_compares_the_scenes_that_have_siblings(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--only", "formats", "--scene", "minimal", "town-20K", "--pictures", str(tmp_path)]
    assert runner.main([*words, "--strict", "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert "| fixtures/minimal.splat | splat | 4 |" in shown
    assert "formats town-20K not measured: compared are only: coast, biker," in shown
    assert "cameras a path" not in shown, "no words about pictures that were not drawn"
    assert (tmp_path / "fixtures-minimal.splat.png").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "speed"],
        ["--size", "12"],
        ["--size", "0x12"],
        ["--cameras", "0"],
        ["--threads", "-1"],
        ["--device", "cuda:0"],
    ],
)
def test_nonsense_is_one_line(words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        runner.main(words)
    assert words[0] in str(error.value) and "\n" not in str(error.value)


def test_records_that_cannot_be_written_are_an_error_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputError, match="no/records"):
        runner.main(["--json", str(tmp_path / "no" / "records.json")])


def test_the_machine_is_named() -> None:
    here = machine.this_machine("avx2")
    line = here.describe()
    assert "\n" not in line and here.cpu in line and "avx2" in line and here.python in line
    assert here.cores >= 1 and here.memory_gb > 0
    assert json.loads(json.dumps(here.to_json()))["benchmark"] == "machine"
