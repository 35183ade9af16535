"""The benchmarks ``stereo``, ``cache``, ``serve`` and ``soak``: what their figures mean."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cache, serve, soak, stereo
from benchmarks.__main__ import main
from benchmarks.scenes import town_paths
from tests.scenes import random_scene


def run(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The records of a run, without the machine's."""
    out = folder / "records.jsonl"
    options = ["--scene", "town-20K", "--size", "96x64", "--json", str(out)]
    assert main(["--work", str(folder), *options, *arguments]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()][1:]


STEREO = stereo.StereoFigures("moving", 0.7, 1.4, 14, 20, 10, True, 60)
CACHE = cache.CacheFigures(1.6, 30, 16, 10, 0.5, 50, True, 0.4, 1.7, 0, 0.9, 0.1)
CROWDS = tuple(serve.Crowd(n, 1e6, 0.9, 50, 1000) for n in serve.VIEWERS)
SERVE = serve.ServeFigures(CROWDS, kept=0.95, fairness=0.8, residency=1.0)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"of_two": 0.76}, False),
        ({"same_bytes": False}, False),
        ({"psnr_db": 44.0}, False),
    ],
)
def test_the_stereo_bars(change: dict[str, Any], passed: bool) -> None:
    assert replace(STEREO, **change).passed is passed


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"speedup": 1.4}, False),
        ({"psnr_db": 44.0}, False),
        ({"same_bytes": False}, False),
    ],
)
def test_the_cache_bars(change: dict[str, Any], passed: bool) -> None:
    assert replace(CACHE, **change).passed is passed


@pytest.mark.parametrize(
    ("change", "passed"),
    [({}, True), ({"kept": 0.89}, False), ({"fairness": 0.69}, False), ({"residency": 16}, False)],
)
def test_the_serve_bars(change: dict[str, Any], passed: bool) -> None:
    assert replace(SERVE, **change).passed is passed


SOAK = soak.SoakFigures(600, 500, 510, 550, (9, 9, 9), (2, 2, 1), ())


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"rss_mb_end": 533.0}, False),
        ({"rss_mb_end": float("nan")}, False),
        ({"late_pictures": (2, 0, 1)}, False),
        ({"complaints": ("belvedere: a picture failed",)}, False),
    ],
)
def test_the_soak_bars(change: dict[str, Any], passed: bool) -> None:
    assert replace(SOAK, **change).passed is passed


def test_memory_counts_once_it_has_settled() -> None:
    samples = [(t, 900.0 if t < 30 else 500.0 + t / 10) for t in range(0, 101, 2)]
    figures = soak._memory(samples, 100.0)
    assert figures["rss_mb_peak"] == 900.0
    assert 503 < figures["rss_mb_settled"] < 506 < figures["rss_mb_end"] < 510


def test_eyes_are_as_far_apart_as_a_persons() -> None:
    assert stereo.eye_distance("town-1M") == stereo.IPD_M
    assert stereo.eye_distance("park") * stereo.PARK_UNIT_M == pytest.approx(stereo.IPD_M)


def test_stereo_from_the_command_line(tmp_path: Path) -> None:
    options = ("--only", "stereo", "--path", "walk", "--cameras", "2", "--repeats", "1")
    exact, moving = run(tmp_path, *options)
    assert (exact["manner"], moving["manner"]) == stereo.MANNERS
    for row in (exact, moving):
        assert row["same_bytes"] is True
        assert row["of_one"] == pytest.approx(row["binocular_ms_p50"] / row["one_ms_p50"], rel=0.5)
    assert exact["psnr_db"] >= stereo.EQUAL_DB > moving["psnr_db"] >= stereo.MIN_PSNR_DB
    assert stereo.table_of([exact, moving]).row_count == 2


def test_a_head_stays_within_its_reach() -> None:
    middle = town_paths((96, 64))[0].cameras[0]
    poses = cache.head_trace(middle, 2.0)
    assert len(poses) == cache.RATE_HZ
    forward = middle.viewmat[2, :3]
    for pose in poses:
        assert np.linalg.norm(pose.position - middle.position) <= 2.0 * cache.REACH_M + 1e-9
        turned = np.arccos(np.clip(pose.viewmat[2, :3] @ forward, -1, 1))
        assert turned <= math.sqrt(1.25) * cache.REACH_RAD
    steps = [np.linalg.norm(b.viewmat - a.viewmat) for a, b in pairwise(poses)]
    assert max(steps) < 4 * np.median(steps)  # smooth


def test_boxes_hold_their_chunks() -> None:
    scene = random_scene(1, 2500)
    boxes = cache.chunk_boxes(scene)
    assert len(boxes) == 3
    for i in range(3):
        run = slice(i * cache.CHUNK_GAUSSIANS, (i + 1) * cache.CHUNK_GAUSSIANS)
        np.testing.assert_array_equal(boxes.lo[i], scene.means[run].min(axis=0))
        np.testing.assert_array_equal(boxes.hi[i], scene.means[run].max(axis=0))
        assert boxes.max_scale[i] == scene.scales[run].max()


def test_cache_from_the_command_line(tmp_path: Path) -> None:
    (row,) = run(tmp_path, "--only", "cache", "--path", "walk")
    assert row["same_bytes"] is True
    assert row["psnr_db"] >= stereo.EQUAL_DB  # nothing is reused that would show
    assert row["again"] > 1
    assert row["exact"] + row["reproject"] + row["miss"] == pytest.approx(1)
    assert cache.table_of([row]).row_count == 1


def test_serve_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SECONDS", 0.4)
    (row,) = run(tmp_path, "--only", "serve", "--path", "walk")
    assert [crowd["viewers"] for crowd in row["crowds"]] == [1, 4, 16]
    assert 0.5 < row["residency"] < serve.MAX_RESIDENCY
    assert all(crowd["pixels_per_s"] > 0 for crowd in row["crowds"])
    assert serve.table_of([row]).row_count == len(serve.VIEWERS)
