"""``belvedere export --trace``: the same picture, and what it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from tests import scenes
from tests.trace_rules import broken_rules
from viewer.cli import main

LOOK = ["--position", "4", "-2", "-5", "--look-at", "0", "0", "0", "--near", "0.01"]
SIZE = ["--width", "161", "--height", "90"]


@pytest.fixture(scope="module")
def ball_ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    ball = scenes.random_scene(5, 5000, 1)
    write_ply(path, [ball], len(ball), 1)
    return path


@pytest.fixture(scope="module")
def ball_store(ball_ply: Path) -> Path:
    store = ball_ply.with_suffix(".bvs")
    build_store([ball_ply], store, BuildOptions(page_gaussians=1024, threads=1))
    return store


def traced(scene: Path, folder: Path, *words: str) -> dict[str, Any]:
    """The trace of an export whose picture is the one without it."""
    plain, image, trace = (folder / name for name in ("plain.png", "a.png", "trace.json"))
    assert main(["export", str(scene), "-o", str(plain), *LOOK, *SIZE, *words]) == 0
    also = ["--trace", str(trace)]
    assert main(["export", str(scene), "-o", str(image), *LOOK, *SIZE, *words, *also]) == 0
    assert image.read_bytes() == plain.read_bytes()
    found: dict[str, Any] = json.loads(trace.read_text("utf-8"))
    assert broken_rules(found) == []
    return found


def stages(trace: dict[str, Any]) -> set[str]:
    return {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}


def processes(trace: dict[str, Any]) -> set[str]:
    return {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}


@pytest.mark.parametrize("devices", ["1", "3"])
def test_what_a_picture_took_is_told(ball_ply: Path, tmp_path: Path, devices: str) -> None:
    trace = traced(ball_ply, tmp_path, "--devices", devices)
    assert stages(trace) == {"select", "project", "sort", "composite", "join", "encode"}
    assert {f"cpu:{i}" for i in range(int(devices))} | {"writing"} <= processes(trace)
    assert trace["otherData"]["scene"] == "ball.ply" and trace["otherData"]["frames"] == 1


def test_of_a_store_reading_and_decoding_are_told_too(ball_store: Path, tmp_path: Path) -> None:
    trace = traced(ball_store, tmp_path, "--devices", "2", "--schedule", "eye-parallel")
    assert {"fetch", "decode", "select", "composite", "encode"} <= stages(trace)
    assert {"reading", "decoding", "cpu:0", "cpu:1", "writing"} <= processes(trace)


def test_every_view_of_a_panorama_is_a_frame(ball_ply: Path, tmp_path: Path) -> None:
    image, trace = tmp_path / "a.png", tmp_path / "trace.json"
    words = ["--panorama", "ods", "--height", "32", "--position", "0.5", "0", "0.2"]
    words += ["--devices", "2", "--trace", str(trace)]
    assert main(["export", str(ball_ply), "-o", str(image), *words]) == 0
    found = json.loads(trace.read_text("utf-8"))
    assert broken_rules(found) == []
    frames = [e for e in found["traceEvents"] if e["ph"] == "b"]
    assert len(frames) == found["otherData"]["frames"] > 1
    assert np.all(np.diff(sorted(e["id"] for e in frames)) == 1)


def test_a_trace_does_not_replace_the_scene(
    ball_ply: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alias = tmp_path / "alias.ply"
    alias.symlink_to(ball_ply)
    words = ["-o", str(tmp_path / "a.png"), "--trace", str(alias)]
    assert main(["export", str(ball_ply), *words]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "would replace the scene" in line


@pytest.mark.parametrize(
    ("target", "said"),
    [("none/trace.json", "cannot write"), ("a.png", "--trace cannot be the same file")],
)
def test_a_trace_that_cannot_be_written_is_refused_before_the_scene_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, said: str
) -> None:
    words = ["-o", str(tmp_path / "a.png"), "--trace", str(tmp_path / target)]
    assert main(["export", "no_such.ply", *words]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and said in line and target in line
