"""``belvedere bake``: what it writes and says, and what it refuses before it begins."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rendering.models.bake import BakeReport
from scene_store.formats import open_scene
from scene_store.loading import load_scene
from scene_store.neural_store import build_neural_store
from scene_store.store import open_store
from splat.errors import OutputError
from tests.models.neural_source import SmallAnchors
from viewer import bake as module
from viewer.bake_report import quality_line, report_line
from viewer.cli import main

QUICK = ["--views", "8", "--size", "64", "--rounds", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def anchors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small neural scene as a store."""
    folder = tmp_path_factory.mktemp("neural")
    (folder / "origin").write_text("anchors")
    path = folder / "grid.bvs"
    build_neural_store(SmallAnchors(), path, folder / "origin")
    return path


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err
    assert line.startswith("belvedere: error: ") and line.count("\n") == 1, line
    return line


def test_a_file_is_written_and_measured(
    anchors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "plain.ply"
    assert main(["bake", str(anchors), "-o", str(path), "--sh-degree", "1", *QUICK]) == 0
    written, quality = capsys.readouterr().out.splitlines()
    scene = load_scene(path)
    assert scene.gaussians.sh_degree == 1
    found = re.fullmatch(rf"{path}: ([\d,]+) Gaussians, [\d.]+ s, .*2 rounds.*", written)
    assert found and int(found[1].replace(",", "")) == len(scene.gaussians) > 20
    figures = re.search(r"4 views around it held out: mean ([\d.]+) dB, worst ([\d.]+) dB", quality)
    assert figures and 20 < float(figures[2]) <= float(figures[1])
    assert re.search(r"; before fitting [\d.]+ dB$", quality) and "converting" in written
    assert "view it with --up 0 0 1" in caplog.text  # the anchors' up is z


def test_a_store_is_written_whole_or_not_at_all(
    anchors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "plain.bvs"
    words = ["bake", str(anchors), "-o", str(path), *QUICK]

    def full(*_: Any, **__: Any) -> Any:
        raise OutputError(f"{path}: cannot write: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(module, "build_store", full)
        assert main(words) == 2
    assert "no space left" in said(capsys)
    assert list(tmp_path.iterdir()) == []

    assert main(words) == 0
    with open_store(path) as store:
        assert store.meta.unit == "Gaussians" and store.meta.count > 20
        assert [source.path for source in store.manifest.info.sources] == [str(anchors)]
    capsys.readouterr()
    assert main(words) == 2
    assert "--overwrite" in said(capsys)
    assert main([*words, "--overwrite"]) == 0


def test_a_poor_result_is_said_to_be(
    anchors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    poor = BakeReport(1, 2.0, 0.0, 0.5, None, 19.94, 15.0, 4, 1, trained=True)
    gaussians = SmallAnchors().overview()
    monkeypatch.setattr(module, "bake", lambda *_, **__: (gaussians, poor))
    with caplog.at_level(logging.WARNING):
        assert main(["bake", str(anchors), "-o", str(tmp_path / "a.ply"), *QUICK]) == 0
    assert "19.9 dB is poor" in caplog.text and "--views" in caplog.text
    written = "1 Gaussian, 3.0 s, of which pictures took 0.5 s and 1 round of fitting 1.5 s"
    assert report_line(Path("a.ply"), poor, 3.0) == f"a.ply: {written}"
    assert quality_line(poor).endswith("4 training cameras held out: mean 19.9 dB, worst 15.0 dB")


def test_ctrl_c_leaves_nothing(
    anchors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_ply", interrupted)
    for name in ("a.ply", "a.bvs"):
        assert main(["bake", str(anchors), "-o", str(tmp_path / name), *QUICK]) == 130
    assert list(tmp_path.iterdir()) == []
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("missing/a.ply", "does not exist; create it"),
        ("a.splat", "cannot write '.splat'; use .ply for a file or .bvs for a store"),
        ("a", "cannot write no ending"),
        ("missing/a.bvs", "does not exist; create it"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_scene_is_read(
    output: str,
    part: str,
    anchors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("viewer.bake_levels.open_stream", lambda *_: pytest.fail("was read"))
    assert main(["bake", str(anchors), "-o", str(tmp_path / output), *QUICK]) == 2
    assert part in said(capsys)


def test_a_full_disk_is_seen_before_the_scene_is_read(
    anchors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda path: 1 << 20)
    words = ["bake", str(anchors), "-o", str(tmp_path / "a.ply"), "--gaussians", "1M"]
    assert main(words) == 2
    assert "1,000,000 Gaussians may take" in said(capsys)


@pytest.mark.parametrize(
    ("scene", "part"),
    [
        ("WALL", "is no neural scene, so there is nothing to bake; belvedere build"),
        ("town:5000", "the town is made of Gaussians already"),
        ("nowhere.ckpt", "nowhere.ckpt: no such file or folder"),
        ("https://example.org/a.bvs", "bake reads local scenes; download it first"),
    ],
)
def test_what_is_no_neural_scene(
    scene: str, part: str, wall_ply: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(wall_ply) if scene == "WALL" else scene
    assert main(["bake", name, "-o", str(tmp_path / "a.ply")]) == 2
    assert part in said(capsys)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--views", "3"], "--views: expected 4 to 2000, got 3"),
        (["--size", "8"], "--size: expected 32 to 2048, got 8"),
        (["--sh-degree", "4"], "--sh-degree: expected 0 to 3, got 4"),
        (["--gaussians", "5"], "--gaussians: expected 100 to 2e+07, got 5"),
        (["--gaussians", "many"], "--gaussians: 'many' is not a whole number, such as 50k"),
        (["--gaussians", "nan"], "--gaussians: 'nan' is not a whole number, such as 50k"),
        (["--seed", "-1"], "--seed: expected 0"),
        (["--up", "0", "0", "0"], "--up: 0 0 0 is no direction"),
    ],
)
def test_impossible_options(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bake", "nowhere.ckpt", *words]) == 2
    assert part in said(capsys)


def test_without_a_scene(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bake"]) == 2
    assert "bake: name a neural scene, such as fox.msgpack" in capsys.readouterr().err


def test_without_a_name_the_file_has_the_scenes(
    anchors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bake", str(anchors), *QUICK]) == 0
    with open_scene(tmp_path / "grid.ply") as source:
        assert source.meta.count > 20 and source.meta.sh_degree == 2
