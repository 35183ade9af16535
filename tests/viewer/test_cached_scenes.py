"""``export`` and ``info`` of a large file of which ``view`` has made a store already."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from configs.settings import RenderSettings, Settings, StreamSettings
from rendering.base import RasterImage
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from splat.errors import CameraError, SceneFormatError
from tests.viewer.conftest import checkered_wall
from viewer.camera_choice import CameraChoice
from viewer.cli import main
from viewer.export import export
from viewer.export_targets import Targets
from viewer.eyes import draw_seen
from viewer.opening import cached_store
from viewer.scenes import SceneChoice, open_scene
from viewer.start_view import StartView
from viewer.store_cache import StoreCache

RENDER = RenderSettings(threads=1)
CAMERA = CameraChoice(position=(0.3, -0.2, -2.0), look_at=(0.0, 0.0, 0.0), width=161, height=90)
LARGE = StreamSettings(store_from=1000, host_budget=64 << 20, device_budget=64 << 20)
# What a store may change of a picture, of 255.
FAITHFUL = 3.0


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("stream: {store_from: 1000, device_budget: 64MiB, host_budget: 64MiB}\n")
    return path


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    """A training run of the wall, with one camera, and its store in the cache."""
    ply = tmp_path / "run" / "point_cloud" / "iteration_7" / "point_cloud.ply"
    ply.parent.mkdir(parents=True)
    gaussians = checkered_wall()
    write_ply(ply, [gaussians], len(gaussians), 0)
    camera = {
        "id": 0,
        "img_name": "0.jpg",
        "width": 64,
        "height": 48,
        "position": [0.0, 0.0, -2.0],
        "rotation": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "fx": 60.0,
        "fy": 60.0,
    }
    (tmp_path / "run" / "cameras.json").write_text(json.dumps([camera]))
    return tmp_path / "run"


def cached(scene: Path) -> Path:
    path = StoreCache(1 << 30).path_of(str(scene.resolve()))
    path.parent.mkdir(parents=True, exist_ok=True)
    build_store([str(scene)], path, BuildOptions(page_gaussians=1024, threads=1))
    return path


def drawn(
    scene: Path, target: Path, camera: CameraChoice = CAMERA, stream: StreamSettings = LARGE
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], list[str]]:
    """The picture, and the notes about it."""
    notes: list[str] = []
    choice = SceneChoice(scene, 1)
    export(choice, camera, Targets(target), RENDER, stream=stream, on_note=notes.append)
    picture = cv2.imread(str(target))
    assert picture is not None
    return picture.astype(np.uint8), notes


def difference(a: object, b: object) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def test_a_large_file_is_drawn_from_its_store(wall: Path, tmp_path: Path) -> None:
    whole, notes = drawn(wall, tmp_path / "whole.png")
    assert notes == [], "there is no store yet"
    store = cached(wall)
    streamed, (note,) = drawn(wall, tmp_path / "streamed.png")
    assert note == (
        f"{wall}: taken from the store that view made of it, {store}; --no-store reads the "
        f"scene itself"
    )
    assert np.ptp(streamed) > 200
    assert 0 < difference(whole, streamed) <= FAITHFUL


@pytest.mark.parametrize("stream", [StreamSettings(), StreamSettings(store_from=1000, store=False)])
def test_a_file_that_fits_is_drawn_as_it_is(
    wall: Path, tmp_path: Path, stream: StreamSettings
) -> None:
    whole, _ = drawn(wall, tmp_path / "whole.png", stream=stream)
    cached(wall)
    again, notes = drawn(wall, tmp_path / "again.png", stream=stream)
    assert notes == [] and np.array_equal(whole, again)


def test_a_file_that_has_changed_is_read_anew(wall: Path, tmp_path: Path) -> None:
    cached(wall)
    ply = wall / "point_cloud" / "iteration_7" / "point_cloud.ply"
    gaussians = checkered_wall(60)
    write_ply(ply, [gaussians], len(gaussians), 0)
    _, notes = drawn(wall, tmp_path / "changed.png")
    assert notes == []


def test_training_cameras_are_those_of_the_scene(wall: Path, tmp_path: Path) -> None:
    camera = CameraChoice(training_camera=0)
    whole, _ = drawn(wall, tmp_path / "whole.png", camera)
    usual, _ = drawn(wall, tmp_path / "usual.png", CameraChoice(width=160))
    cached(wall)
    streamed, notes = drawn(wall, tmp_path / "streamed.png", camera)
    assert len(notes) == 1 and streamed.shape == (48, 64, 3)
    assert difference(whole, streamed) <= FAITHFUL
    again, _ = drawn(wall, tmp_path / "usual.png", CameraChoice(width=160))
    assert difference(usual, again) <= FAITHFUL, "the first of them is where one starts"
    with pytest.raises(CameraError, match="no training camera 1"):
        drawn(wall, tmp_path / "none.png", CameraChoice(training_camera=1))


def begins(scene: Path) -> tuple[StartView, StartView]:
    """Where the store of a file in the cache begins, and where the file itself does."""
    choice = SceneChoice(scene, 1)
    with contextlib.ExitStack() as kept:
        opened = cached_store(choice, Settings(stream=LARGE), kept)
        assert opened is not None
        opened.source.close()
        whole = open_scene(choice, lambda share, what: None)
        assert len(opened.meta.cameras) == len(whole.meta.cameras)
        return opened.start, whole.start


def test_a_store_begins_where_the_cameras_are_now(wall: Path) -> None:
    (from_folder,) = wall.glob("**/point_cloud.ply")
    ply = wall / "wall.ply"
    from_folder.rename(ply)
    file = wall / "cameras.json"
    (camera,) = json.loads(file.read_text())
    store = cached(ply)
    turned = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    for change in ({}, {"position": [3.0, 1.0, -4.0]}, {"rotation": turned}, None, {}):
        if change is None:
            file.unlink()
        else:
            file.write_text(json.dumps([{**camera, **change}]))
        assert StoreCache(1 << 30).path_of(str(ply.resolve())) == store
        start, expected = begins(ply)
        assert start.up == pytest.approx(expected.up), "cameras are upright"
        away = np.linalg.norm(start.position - expected.position)
        assert away <= (0.0 if change is not None else 0.2 * expected.radius)


def test_a_store_of_a_file_without_cameras_learns_of_them(wall: Path) -> None:
    (from_folder,) = wall.glob("**/point_cloud.ply")
    ply, file = wall / "wall.ply", wall / "cameras.json"
    from_folder.rename(ply)
    cameras = file.read_text()
    file.unlink()
    cached(ply)
    for text in (None, cameras):
        if text is not None:
            file.write_text(text)
        start, expected = begins(ply)
        assert np.array_equal(start.position, expected.position)
        assert np.array_equal(start.up, expected.up)


def test_an_error_of_the_scene_does_not_cost_its_store(
    wall: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cached(wall)

    def damaged(*_: object) -> None:
        raise SceneFormatError(wall, "is damaged")

    monkeypatch.setattr("scene_store.formats.open_scene", damaged)
    with contextlib.ExitStack() as kept, pytest.raises(SceneFormatError):
        cached_store(SceneChoice(wall, 1), Settings(stream=LARGE), kept)
    assert store.is_dir()


def test_a_store_in_use_is_not_removed(
    wall: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cached(wall)

    def removing(*args: Any) -> RasterImage:
        StoreCache(0).make_room(store.with_name("another.bvs"))
        return draw_seen(*args)

    monkeypatch.setattr("viewer.export.draw_seen", removing)
    drawn(wall, tmp_path / "streamed.png")
    assert store.is_dir()


def test_the_commands_say_so_in_one_line(
    wall: Path, config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = cached(wall)
    picture = tmp_path / "w.png"
    for words in (["export", str(wall), "-o", str(picture), "--width", "64"], ["info", str(wall)]):
        assert main([*words, "--config", str(config)]) == 0
        (said,) = caplog.messages
        assert said.endswith(f"made of it, {store}; --no-store reads the scene itself")
        assert main([*words, "--config", str(config), "--no-store"]) == 0
        assert len(caplog.messages) == 1
        caplog.clear()


def test_info_tells_of_the_store_to_people_and_of_the_scene_to_programs(
    wall: Path,
    config: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cached(wall)
    assert main(["info", str(wall), "--config", str(config)]) == 0
    table = capfd.readouterr().out
    assert table.startswith("run") and "Belvedere store (compact)" in table
    assert "1,600" in table and "Level of detail" in table
    assert main(["info", str(wall), "--config", str(config), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["format"] == "3DGS PLY training folder"
    assert len(caplog.messages) == 1


def test_info_of_a_damaged_store_of_the_cache_reads_the_scene(
    wall: Path, config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (cached(wall) / "nodes.bin").write_bytes(b"damaged")
    assert main(["info", str(wall), "--config", str(config)]) == 0
    assert "3DGS PLY" in capfd.readouterr().out


def test_a_budget_that_a_picture_does_not_keep_is_told_before_the_scene_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_by_then: list[int] = []

    def opening(*args: Any) -> Any:
        said_by_then.append(len(caplog.messages))
        return open_scene(*args)

    monkeypatch.setattr("viewer.export.open_scene", opening)
    picture = str(tmp_path / "t.png")
    words = ["export", "town:30000", "-o", picture, "--width", "64", "--device-budget", "1MiB"]
    for more in ([], ["--no-store"]):
        assert main([*words, *more]) == 0
        (said,) = caplog.messages
        assert said.startswith("Town: --device-budget 1 MiB: not kept")
        caplog.clear()
    assert said_by_then == [1, 1]
    store = StoreCache(1 << 30).path_of("town:30000")
    store.parent.mkdir(parents=True, exist_ok=True)
    build_store(["town:30000"], store, BuildOptions(page_gaussians=1024, threads=1))
    assert main(words) == 0
    assert "taken from the store that view made of it" in caplog.messages[0]
    assert not any("not kept" in line for line in caplog.messages)
    assert said_by_then == [1, 1], "the scene itself is not read"
