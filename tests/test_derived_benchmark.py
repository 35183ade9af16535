"""The benchmark of reused anchors measures what it says. Nothing is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import derived
from benchmarks.report import record
from benchmarks.scenes import town_paths
from benchmarks.subject import Sampling
from splat.errors import SettingsError
from tests.models.anchors_torch import ARCHITECTURES, random_net, write_folder

FIGURES = derived.DerivedFigures(
    5.0, 1.2, 50.0, 10.0, 150.0, 110.0, 20.0, 45.0, True, 0.9, 5e6, 7e4
)


def test_the_walk_has_the_pace_of_somebody_who_walks() -> None:
    path = town_paths((64, 36))[1]
    walk = derived.at_walking_pace(path)
    places = np.array([camera.position for camera in walk.cameras])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    np.testing.assert_allclose(steps * derived.RATE_HZ, derived.PACE_MPS)
    np.testing.assert_allclose(places[0], path.cameras[0].position)
    way = path.cameras[-1].position - places[0]
    np.testing.assert_allclose(np.cross(way, places[-1] - places[0]), 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "passed"),
    [({}, True), ({"decode_speedup": 3.9}, False), ({"psnr_db": 37.0}, False),
     ({"same_bytes": False}, False)],
)  # fmt: skip
def test_all_bars_count(change: dict[str, Any], passed: bool) -> None:
    assert replace(FIGURES, **change).passed is passed


def test_a_folder_of_anchors_is_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []

    def of_set_times(work: Callable[[], Any], repeats: int) -> float:
        decoded.append(work())
        return 0.5 if len(decoded) == 1 else 2.0

    monkeypatch.setattr(derived, "_best_s", of_set_times)
    write_folder(random_net(ARCHITECTURES["scaffold"], 300), tmp_path / "anchors")
    row = derived.run_scene(
        str(tmp_path / "anchors"), tmp_path, (48, 32), Sampling(threads=1), lambda: None
    )
    assert row["same_bytes"] and row["hits"] > 0.5 and row["model"] == "Scaffold-GS"
    native, reference = decoded
    assert native == len(reference.gaussians()) > 0  # both decoded the same anchors
    assert row["anchors_per_s"] == 4 * row["reference_anchors_per_s"] > 0
    assert derived.table_of([row]).row_count == 1


def test_other_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none of neural anchors"):
        derived.run_scene(str(tmp_path), tmp_path, (48, 32), Sampling(), lambda: None)


def test_the_table_shows_a_missed_bar() -> None:
    missed = replace(FIGURES, decode_speedup=2.0)
    row = record("derived", missed, {"scene": "a", "model": "b"}, asdict(Sampling()))
    cells = [list(column.cells) for column in derived.table_of([row]).columns]
    assert cells[-1] == ["MISSED"]
