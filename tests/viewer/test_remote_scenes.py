"""Scenes named by an address: what is read, what is refused, what is never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from tests import scenes
from tests.store.http_server import RangeServer
from tests.viewer.test_serving import line_with, viewing
from viewer.cli import main
from viewer.scenes import SceneChoice

SECRET = "token=hush"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    folder = tmp_path_factory.mktemp("served")
    write_ply(folder / "ball.ply", [scenes.random_scene(3, 5_000, 1)], 5_000, 1)
    options = BuildOptions(page_gaussians=1024, threads=1)
    build_store([folder / "ball.ply"], folder / "ball.bvs", options)
    with RangeServer(folder) as server:
        yield server


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err
    assert line.startswith("belvedere: error: ") and line.count("\n") == 1
    return line


def test_a_remote_store_is_exported_as_the_local_one(served: RangeServer, tmp_path: Path) -> None:
    pictures = []
    for name, scene in (
        ("remote", f"{served.url}/ball.bvs/?{SECRET}"),
        ("local", str(served.folder / "ball.bvs")),
    ):
        target = tmp_path / f"{name}.png"
        assert main(["export", scene, "-o", str(target), "--width", "161"]) == 0
        picture = cv2.imread(str(target))
        assert picture is not None and np.ptp(picture) > 100
        pictures.append(picture)
    assert np.array_equal(pictures[0], pictures[1])


def test_a_remote_store_is_told_of_without_its_secrets(
    served: RangeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--json", f"{served.url}/ball.bvs?{SECRET}"]) == 0
    text = capsys.readouterr().out
    report = json.loads(text)
    assert report["path"] == f"{served.url}/ball.bvs" and "hush" not in text
    assert report["count"] == 5_000 and report["problems"] == []


def test_files_that_a_server_lacks_are_found(
    served: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "lame.bvs"
    store.mkdir()
    for file in (served.folder / "ball.bvs").iterdir():
        (store / file.name).write_bytes(file.read_bytes())
    (store / "sh-00.bin").unlink()
    with RangeServer(tmp_path) as server:
        assert main(["info", "--json", f"{server.url}/lame.bvs"]) == 0
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("sh-00.bin: ")


def test_a_remote_store_is_viewed(served: RangeServer) -> None:
    with viewing(f"{served.url}/ball.bvs", "--port", 0) as process:
        assert "5,000 Gaussians" in line_with(process, "Ready")


@pytest.mark.parametrize("command", ["view", "export", "info"])
def test_a_remote_file_is_refused_with_a_remedy(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-o", str(tmp_path / "x.png")] if command == "export" else []
    assert main([command, f"https://example.org/a/garden.PLY?{SECRET}", *words]) == 2
    line = complaint(capsys)
    assert "https://example.org/a/garden.PLY: of remote scenes, stores" in line
    assert "download this one" in line and "hush" not in line


def test_a_store_is_built_of_local_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", f"https://example.org/garden.ply?{SECRET}"]) == 2
    line = complaint(capsys)
    assert "https://example.org/garden.ply: build reads local scenes" in line
    assert "hush" not in line


def test_nothing_there_is_one_line(served: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", f"{served.url}/no_such.bvs?{SECRET}"]) == 2
    line = complaint(capsys)
    assert f"{served.url}/no_such.bvs/manifest.json" in line and "hush" not in line


@pytest.mark.parametrize(
    ("address", "title"),
    [
        ("https://example.org/a%20b/town.bvs/", "town.bvs"),
        ("s3://bucket/park%20one/lod-meta.json?x=1", "park one"),
        ("https://name:pass@example.org/?token=1", "https://example.org"),
    ],
)
def test_an_address_has_a_title(address: str, title: str) -> None:
    choice = SceneChoice.of(address, 1)
    assert (choice.path, choice.address, choice.title) == (None, address, title)
    assert choice.is_streamed and "pass" not in repr(choice)
