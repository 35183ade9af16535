"""Stores as scenes of ``view``, ``export`` and ``info``: opened at once, drawn complete."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from configs.settings import RenderSettings, StreamSettings
from rendering.base import RasterSettings
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.manifest import Profile
from scene_store.store import Store, open_store
from scene_store.town import TOWN_START_VIEW
from splat.errors import BudgetError, SceneError
from tests import scenes
from tests.conftest import require_or_skip
from viewer.camera_choice import CameraChoice, choose_camera
from viewer.cli import main
from viewer.complete_picture import draw_complete
from viewer.engines import create_rasterizer
from viewer.export import export
from viewer.export_targets import Targets
from viewer.scenes import SceneChoice, open_scene
from viewer.start_view import StartView
from viewer.streams import OpenedStream, open_stream, overview, stream_start, streamed

RENDER = RenderSettings(threads=1)
CAMERA = CameraChoice(width=161, height=90)
SMALL = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
MEMORY = StreamSettings(host_budget=64 << 20, device_budget=64 << 20)


def choice(path: Path) -> SceneChoice:
    return SceneChoice(path, gaussians=1)


@pytest.fixture(scope="module")
def ball_ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    write_ply(path, [scenes.random_scene(3, 20_000, 1)], 20_000, 1)
    return path


@pytest.fixture(scope="module")
def ball_store(ball_ply: Path) -> Path:
    path = ball_ply.with_suffix(".bvs")
    build_store([ball_ply], path, SMALL)
    return path


def test_an_exported_store_is_the_exported_scene(
    ball_ply: Path, ball_store: Path, tmp_path: Path
) -> None:
    camera = replace(CAMERA, position=(4.0, -2.0, -5.0), look_at=(0.0, 0.0, 0.0))
    problems: list[str] = []
    from_store, from_file = Targets(tmp_path / "store.png"), Targets(tmp_path / "file.png")
    # The near plane follows the scene's size, which is only about the same in both.
    render = replace(RENDER, near=0.01)
    drawn = export(
        choice(ball_store), camera, from_store, render, stream=MEMORY, on_problem=problems.append
    )
    expected = export(choice(ball_ply), camera, from_file, render)
    assert not problems
    assert drawn.color is not None and expected.color is not None
    assert np.abs(drawn.color - expected.color).max() < 1e-5
    assert np.ptp(drawn.color) > 0.5
    a, b = cv2.imread(str(tmp_path / "store.png")), cv2.imread(str(tmp_path / "file.png"))
    assert a is not None and b is not None and np.abs(a.astype(int) - b).max() <= 1


def test_the_start_view_is_that_of_the_whole_scene(ball_ply: Path, ball_store: Path) -> None:
    opened = open_stream(choice(ball_store))
    whole = open_scene(choice(ball_ply))
    opened.source.close()
    assert opened.title == "ball.bvs"
    assert "20,000 Gaussians · SH 1" in opened.facts
    assert_same_start(opened.start, whole.start)


def assert_same_start(one: StartView, other: StartView) -> None:
    """But for the sample of a very large scene."""
    tolerance = 0.01 * other.radius
    for name in ("position", "look_at", "center"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=tolerance), name
    assert one.up == pytest.approx(other.up, abs=1e-6)
    assert one.radius == pytest.approx(other.radius, rel=0.01)
    assert one.fov_y_rad == other.fov_y_rad


def start_of(path: Path, **more: Any) -> StartView:
    """Of a file, a composition or a store."""
    asked = replace(choice(path), **more)
    if not asked.is_store:
        return open_scene(asked).start
    opened = open_stream(asked)
    opened.source.close()
    return opened.start


@pytest.mark.parametrize("more", [{}, {"fov_deg": 25.0}])
def test_a_composition_and_its_store_begin_with_the_same_view(
    ball_ply: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    composition = tmp_path / "row.yaml"
    composition.write_text(
        f"""
        scenes:
          - path: {ball_ply}
            grid: {{counts: [5, 1, 2], pitch: [9, 0, 14]}}
          - path: {ball_ply}
            transform: {{translation: [3, 2, -9], rotation: [0, 40, 90], scale: 2.5}}
        """
    )
    store = tmp_path / "row.bvs"
    build_store([composition], store, SMALL)
    assert_same_start(start_of(store, **more), start_of(composition, **more))


@pytest.mark.parametrize("name", ["biker.spz", "playbot", "coast_near", "encodings/coast.ply"])
def test_real_scenes_and_their_stores_begin_with_the_same_view(
    name: str, data_dir: Path, tmp_path: Path
) -> None:
    source, store = data_dir / name, tmp_path / "scene.bvs"
    require_or_skip(source.exists(), f"no {source}")
    build_store([source], store, BuildOptions(sh_degree=0, threads=1))
    assert_same_start(start_of(store), start_of(source))


def test_a_store_begins_where_the_first_training_camera_was(tmp_path: Path) -> None:
    scene = tmp_path / "training"
    (scene / "point_cloud" / "iteration_7").mkdir(parents=True)
    ply = scene / "point_cloud" / "iteration_7" / "point_cloud.ply"
    write_ply(ply, [scenes.random_scene(3, 500, 0)], 500, 0)
    turned = [[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]]
    camera = {
        "id": 0, "img_name": "a", "width": 64, "height": 48, "position": [1.0, -2.0, -4.0],
        "rotation": turned, "fx": 60.0, "fy": 60.0,
    }  # fmt: skip
    (scene / "cameras.json").write_text(json.dumps([camera]))
    store = tmp_path / "training.bvs"
    build_store([scene], store, SMALL)
    start = start_of(store)
    assert start.position == pytest.approx((1.0, -2.0, -4.0))
    assert_same_start(start, start_of(scene))


def test_whoever_knows_better_what_is_up_is_believed(ball_ply: Path, ball_store: Path) -> None:
    start = start_of(ball_store, up=(0.0, 0.0, 2.0))
    whole = start_of(ball_ply, up=(0.0, 0.0, 2.0))
    assert start.up == pytest.approx((0, 0, 1))
    assert np.linalg.norm(start.position - whole.position) < 0.2 * whole.radius


class CountingStore:
    """A store that counts its reads, of which some fail."""

    def __init__(self, store: Store) -> None:
        self.store, self.reads = store, 0
        self.meta = store.meta

    def __getattr__(self, name: str) -> object:
        if name == "read":
            self.reads += 1
        return getattr(self.store, name)


def test_opening_reads_a_few_coarse_chunks_at_most(ball_store: Path) -> None:
    with open_store(ball_store) as store:
        counting = CountingStore(store)
        stream_start(choice(ball_store), counting)  # type: ignore[arg-type]
        assert counting.reads == 0, "its outline is remembered"
        counting.meta = replace(store.meta, outline=None)  # as in stores of earlier versions
        start = stream_start(choice(ball_store), counting)  # type: ignore[arg-type]
        assert 1 <= counting.reads <= 8 < len(store.tree)
        remembered = stream_start(choice(ball_store), store)
        assert np.linalg.norm(start.position - remembered.position) < 0.2 * start.radius


def test_boxes_show_where_a_scene_is_that_cannot_be_read(
    ball_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.bvs"
    broken.mkdir()
    for file in ball_store.iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(
            data if file.suffix != ".bin" or "nodes" in file.name else bytes(len(data))
        )
    with caplog.at_level(logging.INFO), open_store(broken) as store:
        shown = overview(store)
        assert len(shown) == int(store.tree.is_leaf.sum())
        assert shown.means.min() > -4 and shown.means.max() < 4
        assert stream_start(choice(broken), store).radius == pytest.approx(4.5, rel=0.5)
    assert "damaged" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_store_of_the_town_starts_in_the_town(tmp_path: Path) -> None:
    build_store(["town:20000"], tmp_path / "t.bvs", replace(SMALL, sh_degree=0))
    opened = open_stream(choice(tmp_path / "t.bvs"))
    opened.source.close()
    assert np.array_equal(opened.start.position, TOWN_START_VIEW.position)


def test_the_manifest_names_its_store(ball_store: Path) -> None:
    by_file = choice(ball_store / "manifest.json")
    assert by_file.is_store and by_file.store_folder == ball_store
    assert by_file.title == "ball.bvs"
    assert not choice(ball_store.parent).is_store


def test_a_level_cannot_be_chosen(ball_store: Path) -> None:
    with pytest.raises(SceneError, match="leave out --lod"):
        open_stream(replace(choice(ball_store), lod=1))


@pytest.mark.parametrize("memory", [{"host_budget": 1000}, {"device_budget": 1000}])
def test_a_budget_too_small_is_refused(ball_store: Path, memory: dict[str, int]) -> None:
    opened = open_stream(choice(ball_store))
    with pytest.raises(BudgetError, match=f"raise --{next(iter(memory)).split('_')[0]}-budget"):
        streamed(opened, create_rasterizer("native"), replace(MEMORY, **memory))  # type: ignore[arg-type]


def export_words(store: Path, target: Path) -> list[str]:
    return ["export", str(store), "-o", str(target), "--width", "161"]


def test_a_damaged_chunk_is_named_and_the_picture_written(
    damaged_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "d.png"
    assert main(export_words(damaged_store, target)) == 1
    image = cv2.imread(str(target))
    assert image is not None and np.ptp(image) > 100
    warning = caplog.messages[-1]
    assert "d.png: coarser than it should be" in warning
    assert "geometry-00.bin: chunk " in warning and "checksum" in warning


@pytest.mark.parametrize("level", [1, 2])
def test_a_damaged_coarse_chunk_costs_a_warning_and_no_detail(
    ball_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    damaged = Path(shutil.copytree(ball_store, tmp_path / "coarse.bvs"))
    geometry = damaged / f"geometry-0{level}.bin"
    data = bytearray(geometry.read_bytes())
    data[len(data) // 2] ^= 1
    geometry.write_bytes(data)
    expected, found = tmp_path / "e.png", tmp_path / "f.png"
    assert main(export_words(ball_store, expected)) == 0
    with caplog.at_level(logging.WARNING):
        assert main(export_words(damaged, found)) == 0
    (warning,) = caplog.messages
    assert f"geometry-0{level}.bin: chunk " in warning and "until then it is remade" in warning
    a, b = cv2.imread(str(expected)), cv2.imread(str(found))
    assert a is not None and b is not None and np.ptp(a) > 100
    assert np.array_equal(a, b)


def test_a_healthy_store_exports_with_status_zero(ball_store: Path, tmp_path: Path) -> None:
    assert main(export_words(ball_store, tmp_path / "h.png")) == 0


def test_a_picture_limited_by_memory_says_so(
    ball_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The least there is: a million bytes are some pages of a thousand Gaussians.
    words = [*export_words(ball_store, tmp_path / "m.png"), "--device-budget", "1MiB"]
    with caplog.at_level(logging.WARNING):
        assert main(words) == 0
    assert "as memory allows; raise --device-budget" in caplog.text


def test_silence_ends_the_wait(ball_store: Path) -> None:
    """A server that never answers must not hang an export for ever."""

    class Silent:
        def __init__(self, store: Store) -> None:
            self.store, self.leaves = store, set(np.flatnonzero(store.tree.is_leaf).tolist())

        def __getattr__(self, name: str) -> object:
            return getattr(self.store, name)

        def read(self, chunk: int, cancelled: object = None) -> object:
            if chunk in self.leaves:
                raise OSError("no answer")  # hoped to pass
            return self.store.read(chunk)

    store = open_store(ball_store)
    start = stream_start(choice(ball_store), store)
    opened = OpenedStream("silent", Silent(store), start)  # type: ignore[arg-type]
    rasterizer = create_rasterizer("native")
    scene = streamed(opened, rasterizer, replace(MEMORY, fade_ms=0.0))
    camera = choose_camera(CAMERA, opened, RENDER)
    drawn = draw_complete(scene, rasterizer, [camera], _settings(), give_up_s=0.2)
    scene.close()
    assert not drawn.stream.complete
    assert "no answer" in drawn.problems[0]
    assert drawn.images[0].alpha.max() > 0.9


def _settings() -> RasterSettings:
    return RasterSettings(threads=1)


def test_info_tells_of_levels_and_bytes(
    ball_store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # paths of any length in one line
    assert main(["info", str(ball_store)]) == 0
    text = capsys.readouterr().out
    for part in (
        "Belvedere store (lossless)",
        "20,000",
        "the originals",
        "by the store",
        "ball.ply",
    ):
        assert part in text
    assert "!" not in text
    for once in ("lossless", "sh degree", "1,024"):
        assert text.lower().count(once) == 1
    labels = [line[1:].split("  ")[0] for line in text.splitlines()]
    assert labels.count("Levels") == 1  # the table of levels has the word as its title


def test_info_of_one_level_is_refused(ball_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(ball_store), "--lod", "1"]) == 2
    assert "leave out --lod" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "view", "export"])
@pytest.mark.parametrize("name", ["park.bvs", "park.bvs.partial"])
def test_an_unfinished_build_is_told_of(
    tmp_path: Path, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "park.bvs.partial"
    (partial / "scratch").mkdir(parents=True)
    (partial / "lock").touch()
    words = [command, str(tmp_path / name)]
    if command == "export":
        words += ["-o", str(tmp_path / "picture.png")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{name}: its build is unfinished; the same belvedere build command" in said


def test_a_single_damaged_chunk_is_counted_as_one(
    damaged_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--check", str(damaged_store)]) == 1
    assert "chunks: 1 is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["geometry-01.bin", "sh-00.bin", "nodes.bin"])
def test_info_of_a_store_without_one_of_its_files_is_an_error(
    damaged_store: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (damaged_store / name).unlink()
    assert main(["info", str(damaged_store)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and name in said[0]


def test_info_as_json_finds_files_that_are_short_or_missing(
    damaged_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (damaged_store / "geometry-00.bin").open("r+b") as file:
        file.truncate(100)
    (damaged_store / "sh-00.bin").unlink()
    assert main(["info", "--json", str(damaged_store)]) == 2
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    error = "damaged.bvs: geometry-00.bin has 100 bytes instead of"
    assert error in printed.err and "(and 1 more such)" in printed.err
    assert report["count"] == report["levels"][0]["gaussians"] == 20_000
    assert report["bytes"] > 20_000 and report["sh_degree"] == 1
    short, missing = report["problems"]
    assert "geometry-00.bin has 100 bytes" in short
    assert "sh-00.bin is missing" in missing
