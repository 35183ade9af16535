"""Rays of pixels: through the points that these pixels show, with depths as engines have them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rendering.models.rays import box_span, ndc_rays, pixels_of, rays_of
from scene_store.placement import Placement, quaternion_of_euler
from splat.camera import Camera, CameraModel

VIEW = Camera.look_at((2, -1, -3), (0, 0, 0), (0, -1, 0), fov_y_rad=0.8, width=37, height=23)

MODELS = list(CameraModel)


def camera(model: CameraModel) -> Camera:
    """Odd sizes, focal lengths that differ, an axis beside the middle."""
    base = replace(VIEW, near=0.5, far=9.0)
    focal = 0.6 * base.K[0, 0] if model is not CameraModel.ORTHO else 5.0
    K = np.array([[focal, 0, 17.25], [0, 1.2 * focal, 12.5], [0, 0, 1]])
    return replace(base, K=K, model=model)


def pixel_of(view: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [M, 2] and depths [M] of points [3, M], by the equations of docs/conventions.md."""
    x, y, z = view.viewmat[:3, :3] @ points + view.viewmat[:3, 3:]
    if view.model is CameraModel.ORTHO:
        u, v, depth = x, y, z
    elif view.model is CameraModel.PINHOLE:
        u, v, depth = x / z, y / z, z
    else:
        r = np.hypot(x, y)
        theta = np.arctan2(r, z)
        u, v, depth = theta * x / r, theta * y / r, np.sqrt(x * x + y * y + z * z)
    K = view.K
    return np.stack([K[0, 0] * u + K[0, 2], K[1, 1] * v + K[1, 2]], axis=1), depth


@pytest.mark.parametrize("model", MODELS)
def test_points_of_a_ray_land_on_its_pixel_at_its_depth(model: CameraModel) -> None:
    view = camera(model)
    pixels = pixels_of(view.width, (0, view.height))
    rays = rays_of(view, pixels)
    np.testing.assert_allclose(np.linalg.norm(rays.directions, axis=0), 1.0, atol=1e-12)
    for distance in (0.7, 3.0):
        at, depth = pixel_of(view, rays.origins + distance * rays.directions)
        v, u = np.divmod(pixels, view.width)
        np.testing.assert_allclose(at, np.stack([u + 0.5, v + 0.5], axis=1), atol=1e-9)
        np.testing.assert_allclose(depth, distance * rays.axial, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_near_and_far_are_depths(model: CameraModel) -> None:
    view = camera(model)
    rays = rays_of(view, pixels_of(view.width, (0, view.height)))
    seen = rays.near < rays.far
    np.testing.assert_allclose((rays.near * rays.axial)[seen], view.near)
    np.testing.assert_allclose((rays.far * rays.axial)[seen], view.far)


def test_a_fisheye_sees_nothing_beyond_its_limit() -> None:
    view = camera(CameraModel.FISHEYE)
    wide = replace(view, K=np.array([[5.0, 0, 18], [0, 5.0, 11], [0, 0, 1]]))
    pixels = pixels_of(wide.width, (0, wide.height))
    rays = rays_of(wide, pixels)
    v, u = np.divmod(pixels, wide.width)
    theta = np.hypot(u + 0.5 - 18, v + 0.5 - 11) / 5.0
    np.testing.assert_array_equal(rays.near < rays.far, theta <= math.radians(145))


@pytest.mark.parametrize(("width", "rows"), [(37, (0, 23)), (37, (32, 64)), (5, (0, 3))])
def test_a_band_has_each_of_its_pixels_once(width: int, rows: tuple[int, int]) -> None:
    pixels = pixels_of(width, rows)
    np.testing.assert_array_equal(np.sort(pixels), np.arange(rows[0] * width, rows[1] * width))


@pytest.mark.parametrize("model", MODELS)
def test_a_ray_is_the_same_in_any_company(model: CameraModel) -> None:
    view = camera(model)
    pixels = pixels_of(view.width, (0, view.height))
    together = rays_of(view, pixels)
    for some in (slice(0, 1), slice(3, 20), slice(101, 334)):
        alone = rays_of(view, pixels[some])
        assert (
            alone.directions.tobytes()
            == np.ascontiguousarray(together.directions[:, some]).tobytes()
        )
        assert alone.origins.tobytes() == np.ascontiguousarray(together.origins[:, some]).tobytes()


def test_rays_in_a_placed_scene_meet_its_points_where_it_is() -> None:
    placement = Placement((1.0, -2.0, 0.5), quaternion_of_euler((20, -40, 70)), 2.5)
    rays = rays_of(camera(CameraModel.PINHOLE), np.arange(50))
    inside = rays.inside(placement)
    distance = np.linspace(1, 5, 50)
    there = inside.origins + distance * inside.directions
    np.testing.assert_allclose(
        placement.points(there.T).T, rays.origins + 2.5 * distance * rays.directions, atol=1e-12
    )
    np.testing.assert_allclose(inside.axial * distance, rays.axial * 2.5 * distance)
    np.testing.assert_allclose(inside.near * 2.5, rays.near)


def test_device_coordinates_are_those_of_the_projection() -> None:
    """A point p is at (−f/(W/2) px/pz, −f/(H/2) py/pz, 1 + 2/pz) (NeRF, appendix C)."""
    looking = Camera.look_at(
        (0.3, 0.2, 0.1), (0, 0, -5), (0, 1, 0), fov_y_rad=0.8, width=20, height=16
    )
    rays = rays_of(looking, np.arange(320))
    ndc = ndc_rays(rays, (20.0, 16.0, 18.0))
    for t in (0.0, 0.25, 0.9):
        distance = ndc.start + ndc.slope * t / (1 - t)
        x, y, z = rays.origins + distance * rays.directions
        expected = np.stack([-18 / 10 * x / z, -18 / 8 * y / z, 1 + 2 / z])
        np.testing.assert_allclose(ndc.origins + t * ndc.directions, expected, atol=1e-9)
    np.testing.assert_allclose(ndc.origins[2], -1.0)


def test_a_ray_away_from_the_scene_has_no_device_coordinates() -> None:
    back = Camera.look_at((0, 0, 0), (0, 0, 5), (0, 1, 0), fov_y_rad=0.8, width=4, height=4)
    assert (ndc_rays(rays_of(back, np.arange(16)), (4.0, 4.0, 4.0)).slope <= 0).all()


def test_boxes_are_entered_and_left_at_their_faces() -> None:
    rays = rays_of(camera(CameraModel.PINHOLE), np.arange(37 * 23))
    lo, hi = np.array([-0.7, -0.2, -0.5]), np.array([0.4, 0.6, 0.9])
    enter, leave = box_span(rays, lo, hi)
    through = enter < leave
    assert 0 < through.sum() < len(rays)
    for distance in (enter, leave):
        at = (rays.origins + distance * rays.directions)[:, through].T
        on_face = np.isclose(at, lo, atol=1e-9) | np.isclose(at, hi, atol=1e-9)
        inside = (at > lo - 1e-9) & (at < hi + 1e-9)
        assert on_face.any(axis=1).all() and inside.all()
    steps = np.linspace(0, 12, 400)
    at = rays.origins.T[~through, None] + steps[:, None] * rays.directions.T[~through, None]
    assert not ((at > lo) & (at < hi)).all(axis=2).any()


def test_rays_along_a_face_and_boxes_without_end() -> None:
    ortho = replace(
        camera(CameraModel.ORTHO),
        viewmat=np.eye(4),
        K=np.array([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]]),
        width=3,
        height=1,
    )
    rays = rays_of(ortho, np.arange(3))  # at x = 0, 1, 2, along z
    enter, leave = box_span(rays, np.array([0.0, -1, 2]), np.array([1.0, 1, 3]))
    np.testing.assert_array_equal(enter < leave, [True, False, False])  # a face is one block's
    assert (enter[0], leave[0]) == (2.0, 3.0)
    endless = np.full(3, np.inf)
    enter, leave = box_span(rays, -endless, endless)
    assert (enter == -np.inf).all() and (leave == np.inf).all()
