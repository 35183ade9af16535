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
        assert main(["info", "--json", f"{server.url}/lame.bvs"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("sh-00.bin: ")


def test_a_remote_store_is_viewed(served: RangeServer) -> None:
    with viewing(f"{served.url}/ball.bvs", "--port", 0) as process:
        assert "5,000 Gaussians" in line_with(process, "Ready")


@pytest.mark.parametrize("command", ["view", "export", "info"])
@pytest.mark.parametrize("name", ["meta.json", "site.YAML"])
def test_a_remote_scene_of_several_files_is_refused_with_a_remedy(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-o", str(tmp_path / "x.png")] if command == "export" else []
    assert main([command, f"https://example.org/a/{name}?{SECRET}", *words]) == 2
    line = complaint(capsys)
    assert f"https://example.org/a/{name}: of remote scenes, stores" in line
    assert "download this one" in line and "hush" not in line


def test_a_remote_file_is_downloaded_once(
    served: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, before = f"{served.url}/ball.ply?{SECRET}", served.requests["ball.ply"]
    target = tmp_path / "ball.png"
    assert main(["export", address, "-o", str(target), "--width", "161"]) == 0
    assert np.ptp(cv2.imread(str(target))) > 100  # type: ignore[arg-type]
    once = served.requests["ball.ply"] - before
    capsys.readouterr()
    assert main(["info", "--json", address]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["count"] == 5_000 and "hush" not in text
    assert served.requests["ball.ply"] - before == once + 1, "it was asked for its version"
    with viewing(address, "--port", 0) as process:
        assert "5,000 Gaussians" in line_with(process, "Ready")


def test_a_remote_file_beyond_the_budget_is_refused_with_a_remedy(
    served: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(f"remote: {{cache_budget: 1MiB, cache_folder: {tmp_path}}}\n")
    big = served.folder / "big.spz"
    big.write_bytes(bytes(2 << 20))
    assert main(["info", f"{served.url}/big.spz", "--config", str(config)]) == 2
    line = complaint(capsys)
    assert f"{served.url}/big.spz: has 2,097,152 bytes, and the cache may keep" in line
    assert "raise --cache-budget" in line


def test_the_cache_is_where_the_user_wants_it(served: RangeServer, tmp_path: Path) -> None:
    words = ["--cache-folder", str(tmp_path / "mine"), "--stall-timeout", "5"]
    assert main(["info", f"{served.url}/ball.ply", *words]) == 0
    assert [p.name for p in (tmp_path / "mine").rglob("*.ply")] == ["ball.ply"]


@pytest.mark.parametrize("words", [["--stall-timeout", "0"], ["--cache-budget", "5"]])
def test_impossible_options_for_servers_are_named(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "https://example.org/a.ply", *words]) == 2
    assert words[0] in complaint(capsys)


def test_a_remote_streamed_sog_is_told_of(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RangeServer(data_dir) as server:
        assert main(["info", "--json", f"{server.url}/park/lod-meta.json?{SECRET}"]) == 0
        text = capsys.readouterr().out
        report = json.loads(text)
        assert report["count"] == 4_249_286 and "hush" not in text
        assert len(report["lod_counts"]) == 5 and sum(report["chunks"]) == 32 * 5
        assert main(["info", f"{server.url}/park/lod-meta.json"]) == 0
    text = capsys.readouterr().out
    assert "streamed SOG" in text and "4,249,286" in text


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
        ("https://example.org/a/biker.SPZ?token=1", "biker.SPZ"),
    ],
)
def test_an_address_has_a_title(address: str, title: str) -> None:
    choice = SceneChoice.of(address, 1)
    assert (choice.path, choice.address, choice.title) == (None, address, title)
    assert choice.is_download == title.endswith("SPZ") and choice.is_streamed != choice.is_download
    assert "pass" not in repr(choice)
