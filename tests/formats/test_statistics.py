"""Statistics of scenes whose numbers are known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_store.scene import SceneMeta
from scene_store.statistics import likely_up, scene_statistics, shape_up
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.formats.samples import random_gaussians

META = SceneMeta(path=Path("a.ply"), format_name="3DGS PLY", count=1, sh_degree=0)


def grid(count: int = 1001) -> Gaussians:
    """Centres at 0…1 along x, all else equal."""
    gaussians = random_gaussians(count, 0)
    gaussians.means[:] = 0.0
    gaussians.means[:, 0] = np.linspace(0, 1, count)
    gaussians.scales[:] = 0.5
    gaussians.opacities[:] = 0.75
    return gaussians


def test_percentiles_and_bounds_of_an_even_row() -> None:
    statistics = scene_statistics(grid())
    assert statistics.count == 1001
    assert statistics.bounds == ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    np.testing.assert_allclose(statistics.robust_bounds, ((0.01, 0, 0), (0.99, 0, 0)), atol=1e-6)
    expected = [percent / 100 for percent in statistics.percents]
    np.testing.assert_allclose(statistics.position_percentiles[0], expected, atol=1e-6)
    assert statistics.scale_percentiles == (0.5,) * len(statistics.percents)
    assert statistics.opacity_percentiles == (0.75,) * len(statistics.percents)
    np.testing.assert_array_equal(statistics.opacity_histogram, np.eye(10)[7])
    assert statistics.memory_bytes == 1001 * 4 * (3 + 4 + 3 + 1 + 3)


def test_outliers_move_the_bounds_but_not_the_robust_ones() -> None:
    gaussians = grid()
    gaussians.means[500] = (1e6, -1e6, 0)
    statistics = scene_statistics(gaussians)
    assert statistics.bounds == ((0.0, -1e6, 0.0), (1e6, 0.0, 0.0))
    np.testing.assert_allclose(statistics.robust_bounds, ((0.01, 0, 0), (0.99, 0, 0)), atol=2e-3)


def test_suspicious_scales_are_counted_by_kind() -> None:
    gaussians = grid()
    gaussians.scales[:] = 0.01
    gaussians.scales[:3] = (0.3, 0.3, 0.3)  # a third of the scene
    gaussians.scales[3:5] = (0.05, 1e-6, 1e-6)
    gaussians.scales[5] = (1e-9, 1e-9, 1e-9)
    suspicious = scene_statistics(gaussians).suspicious
    assert (suspicious.huge, suspicious.needles, suspicious.vanishing) == (3, 2, 1)


def test_invisible_gaussians_are_counted() -> None:
    gaussians = grid()
    gaussians.opacities[:7] = 0.003
    assert scene_statistics(gaussians).invisible == 7


def test_glaring_gaussians_are_counted() -> None:
    gaussians = random_gaussians(20, 2)
    gaussians.sh[:] = 13.0  # as the brightest of real scenes
    gaussians.sh[3, 7, 1] = -40.0
    gaussians.sh[5, 0, 2] = 31.0
    assert scene_statistics(gaussians).glaring == 2


def test_a_single_gaussian_has_statistics() -> None:
    statistics = scene_statistics(random_gaussians(1, 3))
    assert statistics.bounds[0] == statistics.bounds[1]
    assert statistics.sh_degree == 3


def test_nothing_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="no Gaussians"):
        scene_statistics(Gaussians.empty())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_shape_of_a_landscape_tells_up(axis: int, sign: float) -> None:
    """A wide plain with most on the ground and some trees above it."""
    rng = np.random.default_rng(0)
    means = rng.uniform(-50, 50, (5000, 3))
    means[:, axis] = sign * rng.exponential(2.0, 5000)
    expected = [0.0, 0.0, 0.0]
    expected[axis] = sign
    assert shape_up(means.astype(np.float32)) == tuple(expected)


def test_likely_up_prefers_cameras_then_convention_then_shape() -> None:
    gaussians = grid()
    up = np.array([0.1, -0.9, 0.2]) / np.linalg.norm([0.1, -0.9, 0.2])
    cameras = tuple(
        Camera.look_at((5 * np.cos(a), 0, 5 * np.sin(a)), (0, 0, 0), up, fov_y_rad=1.0,
                       width=64, height=48)
        for a in np.linspace(0, 2 * np.pi, 12, endpoint=False)
    )  # fmt: skip
    meta = SceneMeta(META.path, "3DGS PLY", 1, 0, up=(0, -1, 0), cameras=cameras)
    np.testing.assert_allclose(likely_up(meta, gaussians), up, atol=0.15)
    assert np.linalg.norm(likely_up(meta, gaussians)) == pytest.approx(1.0)
    assert likely_up(SceneMeta(META.path, "x", 1, 0, up=(0, -1, 0)), gaussians) == (0, -1, 0)
    assert likely_up(META, gaussians) == shape_up(gaussians.means)


def test_cameras_rolled_all_ways_are_not_believed() -> None:
    cameras = tuple(
        Camera.look_at((0, 0, -5), (0, 0, 0), up, fov_y_rad=1.0, width=64, height=48)
        for up in ((0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))
    )
    meta = SceneMeta(META.path, "x", 1, 0, up=(0, -1, 0), cameras=cameras)
    assert likely_up(meta, grid()) == (0, -1, 0)


@pytest.mark.parametrize("assumed", [False, True])
def test_a_landscape_on_its_head_is_turned_where_the_format_does_not_know(assumed: bool) -> None:
    rng = np.random.default_rng(0)
    means = rng.uniform(-5, 5, (5000, 3))
    means[:, 1] = rng.exponential(1.0, 5000)  # the ground at y = 0, trees along +y
    gaussians = replace(random_gaussians(5000, 0), means=means.astype(np.float32))
    right = SceneMeta(META.path, "SPZ v3", 5000, 0, up=(0, 1, 0), up_assumed=assumed)
    wrong = replace(right, up=(0, -1, 0))
    assert likely_up(right, gaussians) == (0, 1, 0)
    assert likely_up(wrong, gaussians) == ((0, 1, 0) if assumed else (0, -1, 0))


def test_an_object_is_believed_to_stand_as_the_format_says() -> None:
    means = np.random.default_rng(1).normal(size=(len(grid()), 3)).astype(np.float32)
    ball = replace(grid(), means=means)
    meta = SceneMeta(META.path, "SPZ v3", 1, 0, up=(0, 1, 0), up_assumed=True)
    assert likely_up(meta, ball) == (0, 1, 0)
