"""``belvedere build``: what it says while it works, and when it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scene_store.build import BuildProgress, Stage, build_store
from scene_store.store_folder import partial_folder
from tests.models.test_voxel_grid import ball
from viewer import build as module
from viewer.cli import main

INTERRUPTED = 130


def when_at(stage: Stage, do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets something happen whenever a build tells that it is at a stage."""

    def building(scenes: Any, path: Any, options: Any, progress: BuildProgress) -> Any:
        def heard(now: Stage, done: int, total: int) -> None:
            progress(now, done, total)
            if now is stage:
                do()

        return build_store(scenes, path, options, heard)

    monkeypatch.setattr(module, "build_store", building)


def ctrl_c() -> None:
    raise KeyboardInterrupt


def test_an_interruption_says_what_is_kept(
    wall_ply: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "wall.bvs"
    words = ["build", str(wall_ply), "-o", str(path)]
    with monkeypatch.context() as patched:
        when_at(Stage.BUILD, ctrl_c, patched)
        assert main(words) == INTERRUPTED
    said = capsys.readouterr().err
    kept = partial_folder(path)
    assert said == (
        f"belvedere: interrupted; the same command continues the build from what is kept in "
        f"{kept}\n"
    )
    assert kept.is_dir()
    assert main(words) == 0
    assert capsys.readouterr().out.endswith(", continued\n")


def test_an_interruption_says_that_nothing_is_kept(
    wall_ply: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "wall.bvs"
    with monkeypatch.context() as patched:
        when_at(Stage.READ, ctrl_c, patched)  # what fits is in memory until it was read
        assert main(["build", str(wall_ply), "-o", str(path)]) == INTERRUPTED
    assert capsys.readouterr().err == (
        "belvedere: interrupted; nothing was kept, the same command begins anew\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_told_of_the_stages(
    wall_ply: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("viewer.status_line.FIRST_S", 0.0)
    monkeypatch.setattr("viewer.status_line.EVERY_S", 0.001)
    when_at(Stage.READ, lambda: time.sleep(0.1), monkeypatch)
    assert main(["build", str(wall_ply), "-o", str(tmp_path / "wall.bvs")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("belvedere: Reading") for line in said)
    assert all(line.startswith("belvedere: ") for line in said)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("scene", "name", "remedy"),
    [
        ("WALL", "wall.ply", "name it wall.bvs"),
        ("WALL", "Wall.SPLAT", "name it Wall.bvs"),
        ("town:2000", "t.ply", "name it t.bvs; belvedere town writes the town as a .ply file"),
        ("town:2000", "t.sog", "name it t.bvs"),
        ("GRID", "g.ply", "name it g.bvs; belvedere bake writes a .ply file of Gaussians"),
        ("GRID", "g.spz", "name it g.bvs"),
    ],
)
def test_a_store_has_no_name_of_a_scene_file(
    scene: str,
    name: str,
    remedy: str,
    dry: list[str],
    wall_ply: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    neural = ball(tmp_path / "grid.npz")
    named = {"WALL": str(wall_ply), "GRID": str(neural)}.get(scene, scene)
    path = tmp_path / name
    assert main(["build", named, "-o", str(path), *dry]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(f"; {remedy}\n"), said
    assert f"{path}: build writes a store" in said
    assert list(tmp_path.iterdir()) == [neural]
