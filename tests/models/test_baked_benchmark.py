"""``python -m benchmarks.baked`` on scenes of a test's size."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.baked import Taken, main, views_of
from scene_store.formats import write_ply
from tests.models.test_voxel_grid import ball
from tests.scenes import random_scene
from viewer.option_groups import TOWN_GAUSSIANS
from viewer.scenes import SceneChoice


def test_both_are_drawn_from_the_same_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    field, plain = ball(tmp_path / "ball.npz"), tmp_path / "plain.ply"
    write_ply(plain, [random_scene(0, 40, 0)], 40, 0)
    main([str(field), str(plain), "--views", "2", "--size", "64", "--threads", "1"])
    told = capsys.readouterr().out
    assert "2 views of 64×48 pixels" in told
    rows = re.findall(r"([\d.]+) │ +([\d.]+) │ +([\d.]+) │", told)
    (field_ms, _, one), (plain_ms, longest, times) = (map(float, row) for row in rows)
    assert one == 1.0 and plain_ms <= longest
    assert times == pytest.approx(field_ms / plain_ms, rel=0.2)


def test_views_are_around_the_scene(tmp_path: Path) -> None:
    choice = SceneChoice.of(str(ball(tmp_path / "ball.npz")), TOWN_GAUSSIANS)
    views = views_of(choice, 6, 64)
    places = np.array([view.position for view in views])
    assert len(np.unique(places, axis=0)) == 6
    assert (np.linalg.norm(places, axis=1) > 1).all()
    assert {(view.width, view.height) for view in views} == {(64, 48)}


def test_the_median_is_that_of_all() -> None:
    assert Taken((5.0, 1.0, 3.0)).median_ms == 3.0
