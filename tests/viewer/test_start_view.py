"""The first view: whole objects, landscapes from above, any up direction, any scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from splat.camera import Camera
from splat.errors import CameraError
from splat.gaussians import Gaussians
from viewer.start_view import (
    StartView,
    choose_start_view,
    fitting_distance,
)

FOV = math.radians(60)
UPS = [(0, -1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (0.2, -0.9, 0.1)]


def cloud(points: NDArray[np.float64], opacity: float | NDArray[np.float64] = 0.9) -> Gaussians:
    count = len(points)
    return Gaussians(
        means=points.astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        scales=np.full((count, 3), 0.01, np.float32),
        opacities=np.broadcast_to(np.float32(opacity), (count,)),
        sh=np.zeros((count, 1, 3), np.float32),
    )


def box(
    size: tuple[float, float, float], center: tuple[float, float, float] = (0, 0, 0)
) -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    unit = rng.uniform(-0.5, 0.5, (5000, 3))
    return np.add(center, np.multiply(size, unit), dtype=np.float64)


def pixels(view: StartView, points: NDArray[np.float64], width: int = 1600) -> NDArray[np.float64]:
    """Positions of points in a picture of height 900, in shares of its size; NaN if behind."""
    camera = view.camera(width, 900, 1e-6)
    local = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    projected = local @ camera.K.T
    with np.errstate(invalid="ignore", divide="ignore"):
        out: NDArray[np.float64] = projected[:, :2] / projected[:, 2:] / (width, 900)
    out[local[:, 2] <= 0] = np.nan
    return out


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_an_object_is_seen_whole_and_large(up: tuple[float, ...], scale: float) -> None:
    points = scale * box((1, 1, 1), center=(7, -3, 2))
    view = choose_start_view(cloud(points), up=up, fov_y_rad=FOV)
    seen = pixels(view, points)
    assert ((seen > -0.02) & (seen < 1.02)).all(axis=1).mean() > 0.97
    assert np.ptp(seen[:, 1]) > 0.6


@pytest.mark.parametrize("up", UPS)
def test_up_is_up_in_the_picture(up: tuple[float, float, float]) -> None:
    view = choose_start_view(cloud(box((1, 1, 1))), up=up)
    low, high = pixels(view, np.array([view.look_at, view.look_at + 0.1 * view.up]))
    assert high[1] < low[1]
    assert high[0] == pytest.approx(low[0], abs=1e-6)
    assert view.up == pytest.approx(np.array(up) / np.linalg.norm(up))


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.4, 3.0])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 1, 2), (100, 5, 60)])
def test_a_picture_of_another_shape_holds_the_scene_too(
    size: tuple[float, float, float], aspect: float
) -> None:
    points = box(size)
    view = choose_start_view(cloud(points), up=(0, -1, 0), fov_y_rad=FOV)
    fitted = view.fitted(aspect)
    seen = pixels(fitted, points, round(900 * aspect))
    assert ((seen > -0.08) & (seen < 1.08)).all(axis=1).mean() > 0.97
    assert np.ptp(seen, axis=0).max() > 0.5, "and fills it one way or the other"
    assert fitted.look_at is view.look_at and fitted.radius == view.radius
    assert view.fitted(16 / 9).position == pytest.approx(view.position)


def test_a_chosen_place_is_kept_whatever_the_shape_of_the_picture() -> None:
    camera = Camera.look_at((3, 0, 0), (0, 0, 0), (0, -1, 0), fov_y_rad=1, width=64, height=48)
    trained = choose_start_view(cloud(box((1, 1, 1))), up=(0, -1, 0), cameras=[camera])
    moved = choose_start_view(cloud(box((1, 1, 1))), up=(0, -1, 0)).changed(position=(5, 6, 7))
    for view in (trained, moved):
        assert view.fitted(0.4).position is view.position
    free = choose_start_view(cloud(box((1, 1, 1))), up=(0, -1, 0))
    for nonsense in (0.0, -1.0, math.nan, math.inf):
        assert free.fitted(nonsense).position is free.position


def test_a_landscape_is_looked_down_on() -> None:
    flat = choose_start_view(cloud(box((100, 5, 60))), up=(0, -1, 0))
    tall = choose_start_view(cloud(box((1, 3, 1))), up=(0, -1, 0))

    def elevation_deg(view: StartView) -> float:
        toward = (view.position - view.look_at) / np.linalg.norm(view.position - view.look_at)
        return math.degrees(math.asin(toward @ view.up))

    assert elevation_deg(flat) > elevation_deg(tall) > 5


@pytest.mark.parametrize("turn_deg", [0, 30, 77, 120])
def test_a_long_landscape_spans_the_width(turn_deg: float) -> None:
    turn = math.radians(turn_deg)
    along, across, height = box((100, 1, 20)).T[[0, 2, 1]]
    x, z = (
        np.cos(turn) * along - np.sin(turn) * across,
        np.sin(turn) * along + np.cos(turn) * across,
    )
    points = np.stack([x, height, z], axis=1)
    view = choose_start_view(cloud(points), up=(0, -1, 0), fov_y_rad=FOV)
    seen = pixels(view, points)
    width = np.ptp(np.percentile(seen[:, 0], (5, 95)))
    assert 0.5 < width < 1.3
    assert np.abs(np.median(seen, axis=0) - 0.5).max() < 0.15


def test_floaters_do_not_matter() -> None:
    points = box((2, 2, 2))
    rng = np.random.default_rng(2)
    far = rng.uniform(-1e4, 1e4, (50, 3))
    clean = choose_start_view(cloud(points), up=(0, -1, 0))
    dirty = choose_start_view(cloud(np.concatenate([points, far])), up=(0, -1, 0))
    assert dirty.radius == pytest.approx(clean.radius, rel=0.1)
    assert dirty.position == pytest.approx(clean.position, abs=0.2 * clean.radius)


def test_faint_gaussians_weigh_little() -> None:
    points = np.concatenate([box((2, 2, 2)), box((2, 2, 2), center=(500, 0, 0))])
    opacities = np.repeat([0.9, 0.001], 5000)
    view = choose_start_view(cloud(points, opacities), up=(0, -1, 0))
    assert view.center == pytest.approx((0, 0, 0), abs=0.2)


def test_a_capture_from_within_is_framed_by_its_core() -> None:
    rng = np.random.default_rng(3)
    around = rng.normal(size=(5000, 3))
    around *= (rng.pareto(0.7, 5000) / np.linalg.norm(around, axis=1))[:, None]
    view = choose_start_view(cloud(around), up=(0, -1, 0))
    assert view.radius < 0.2 * np.percentile(np.linalg.norm(around, axis=1), 96)


def test_the_first_training_camera_is_the_view() -> None:
    camera = Camera.look_at((3, 0, 0), (0, 0, 0), (0, -1, 0), fov_y_rad=1, width=64, height=48)
    view = choose_start_view(cloud(box((1, 1, 1))), up=(0, -1, 0), cameras=[camera])
    assert view.position == pytest.approx((3, 0, 0))
    assert view.camera(64, 48, 0.1).forward == pytest.approx(camera.forward)
    assert view.look_at == pytest.approx((0, 0, 0), abs=0.5)


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.ones((1, 3)), np.full((9, 3), 4e6)])
def test_degenerate_scenes_still_have_a_view(points: NDArray[np.float64]) -> None:
    view = choose_start_view(cloud(points), up=(0, -1, 0))
    assert view.radius > 0
    view.camera(64, 48, 1e-4 * view.radius)


@pytest.mark.parametrize("up", [(0, 0, 0), (math.nan, 0, 1), (math.inf, 0, 0)])
def test_an_impossible_up_is_refused(up: tuple[float, float, float]) -> None:
    with pytest.raises(CameraError, match="up direction"):
        choose_start_view(cloud(box((1, 1, 1))), up=up)


def test_flags_change_the_view_but_not_into_nonsense() -> None:
    view = choose_start_view(cloud(box((1, 1, 1))), up=(0, -1, 0))
    moved = view.changed(position=(5, 6, 7))
    assert moved.position == pytest.approx((5, 6, 7))
    assert moved.look_at is view.look_at
    with pytest.raises(CameraError, match="same"):
        view.changed(position=(1, 2, 3), look_at=(1, 2, 3))


def test_a_box_touches_the_picture_exactly() -> None:
    """Seen from the front, a cube of side 2 fills 90° at distance 1 from its face."""
    distance = fitting_distance(
        np.array([2.0, 2.0, 2.0]), np.array([0.0, 1.0, 0.0]), math.radians(90)
    )
    assert distance == pytest.approx(2.0)


def test_a_scene_turned_about_x_begins_with_the_same_picture() -> None:
    """As the same scene does in two formats: RDF and RUB axes."""
    points = box((2.0, 3.0, 1.0), (0.5, -1.0, 0.2))
    turned = points * (1, -1, -1)
    first = choose_start_view(cloud(points), up=(0, -1, 0), fov_y_rad=FOV)
    second = choose_start_view(cloud(turned), up=(0, 1, 0), fov_y_rad=FOV)
    np.testing.assert_allclose(pixels(first, points), pixels(second, turned), atol=1e-3)
