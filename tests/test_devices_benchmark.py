"""The benchmark of schedules measures what it says. Nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as runner
from benchmarks import devices
from benchmarks.stage_costs import two_bands
from rendering.cost_file import read_costs
from rendering.schedule_search import Objective, improvement, search
from rendering.stages import STAGES, Stage
from splat.camera import Camera
from splat.errors import BackendUnavailable
from tests.conftest import require_or_skip
from tests.schedules import COSTS

try:
    import benchmarks.workbench  # noqa: F401
except BackendUnavailable as error:
    NO_ENGINE: str | None = str(error)
else:
    NO_ENGINE = None


@pytest.mark.parametrize("workload", devices.WORKLOADS, ids=lambda w: w.name)
def test_devices_are_busy_for_half_of_the_time(workload: devices.Workload) -> None:
    work_ms_per_s = sum(
        viewer.fps * viewer.work * sum(COSTS.whole_ms(s, viewer.eyes, shared=True) for s in STAGES)
        for viewer in workload.paced(COSTS)
    )
    assert work_ms_per_s / 1e3 == pytest.approx(devices.LOAD * sum(workload.weights))
    problem = workload.problem(COSTS)
    assert len(problem.requests) == pytest.approx(devices.REQUESTS, abs=len(workload.viewers))
    assert len({viewer.work for viewer in workload.viewers}) <= 2
    assert workload.is_mixed == (len({v.eyes + v.work for v in workload.viewers}) > 1)


def test_figures_hold_the_best_against_the_best_shipped() -> None:
    workload = devices.WORKLOADS[0]
    result = search(workload.problem(COSTS), devices.shipped_schedules())
    figures = devices.figures_of(workload, result)
    assert result.best_fixed is not None
    assert figures.gain == improvement(result.best, result.best_fixed, Objective.LATENCY)
    assert figures.fixed == "tile-split" and figures.considered == result.considered
    assert figures.passed and figures.bar == 1.0


def test_the_bar_of_mixed_workloads_is_for_the_best_of_them() -> None:
    def figures(workload: devices.Workload, gain: float) -> devices.DeviceFigures:
        return devices.DeviceFigures(workload.name, gain, "a", "1 ms", "b", "2 ms", 1, 1)

    gains = [5.0 if not w.is_mixed else 1.1 for w in devices.WORKLOADS]
    entries = [figures(w, gain) for w, gain in zip(devices.WORKLOADS, gains, strict=True)]
    best = devices.best_mixed(entries)
    assert best.gain == 1.1 and best.bar == devices.MIN_GAIN and not best.passed
    assert best.workload.startswith("best mixed: ")
    assert devices.best_mixed([*entries[:-1], figures(devices.WORKLOADS[-1], 1.4)]).passed
    assert not figures(devices.WORKLOADS[0], 0.99).passed


@pytest.mark.parametrize("height", [720, 719, 64, 33, 20])
def test_bands_are_the_rows_of_the_whole(height: int) -> None:
    K = np.array([[500.0, 0.0, 320.0], [0.0, 510.0, height / 2], [0.0, 0.0, 1.0]])
    view = Camera(np.eye(4), K, 640, height)
    upper, lower = two_bands(view)
    assert upper.height + lower.height == height and upper.height > 0 and lower.height > 0
    assert upper.height % 32 == 0 or height < 32
    assert upper.K[1, 2] == K[1, 2] and lower.K[1, 2] == K[1, 2] - upper.height
    assert (upper.width, lower.width) == (640, 640)
    assert view.K[1, 2] == height / 2, "the view itself is as it was"


def test_a_run_leaves_records_and_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_or_skip(NO_ENGINE is None, str(NO_ENGINE))
    records, work = tmp_path / "records.jsonl", tmp_path / "work"
    words = ["--only", "devices", "--scene", "town-20K", "--size", "128x96", "--path", "walk"]
    words += ["--cameras", "2", "--repeats", "1", "--work", str(work), "--json", str(records)]
    assert runner.main(words) == 0
    rows = [json.loads(line) for line in records.read_text("utf-8").splitlines()][1:]
    assert [row["workload"] for row in rows[:-1]] == [w.name for w in devices.WORKLOADS]
    assert all(row["gain"] >= 1.0 and row["passed"] for row in rows[:-1])
    costs = read_costs(work / devices.COSTS_FILE).costs
    assert (costs.width, costs.height, costs.gaussians) == (128, 96, 20_000)
    assert set(costs.stages) == set(STAGES) - {Stage.FETCH, Stage.DECODE}
    assert all(cost.ms > 0 for cost in costs.stages.values())
    assert all(0 <= row["band_repeats"]["project"] <= 1 for row in rows)
    assert "One eye on one thread: select" in capsys.readouterr().out
