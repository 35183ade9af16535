"""The benchmarks ``stereo``, ``serve`` and ``soak``: what their figures mean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serve, soak, stereo
from benchmarks.__main__ import main


def run(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The records of a run, without the machine's."""
    out = folder / "records.jsonl"
    options = ["--scene", "town-20K", "--size", "96x64", "--json", str(out)]
    assert main(["--work", str(folder), *options, *arguments]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()][1:]


STEREO = stereo.StereoFigures(0.7, 1.4, 14, 20, 10, True)
CROWDS = tuple(serve.Crowd(n, 1e6, 0.9, 50, 1000) for n in serve.VIEWERS)
SERVE = serve.ServeFigures(CROWDS, kept=0.95, fairness=0.8, residency=1.0)


@pytest.mark.parametrize(
    ("change", "passed"), [({}, True), ({"of_two": 0.76}, False), ({"same_bytes": False}, False)]
)
def test_the_stereo_bars(change: dict[str, Any], passed: bool) -> None:
    assert replace(STEREO, **change).passed is passed


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
    (row,) = run(tmp_path, *options)
    assert row["same_bytes"] is True
    assert row["of_one"] == pytest.approx(row["binocular_ms_p50"] / row["one_ms_p50"], rel=0.5)
    assert stereo.table_of([row]).row_count == 1


def test_serve_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SECONDS", 0.4)
    (row,) = run(tmp_path, "--only", "serve", "--path", "walk")
    assert [crowd["viewers"] for crowd in row["crowds"]] == [1, 4, 16]
    assert row["residency"] == pytest.approx(1.0, abs=0.1)
    assert all(crowd["pixels_per_s"] > 0 for crowd in row["crowds"])
    assert serve.table_of([row]).row_count == len(serve.VIEWERS)
