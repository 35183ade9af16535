"""From what a browser says to a camera."""

from __future__ import annotations

import math

import numpy as np
import pytest

from splat.errors import CameraError
from viewer.pacing import full_size
from viewer.pose import PAGE_RADIUS, PageSpace, Pose, rotation_from_quaternion


def test_page_space_goes_there_and_back() -> None:
    space = PageSpace.for_scene((500_000.0, 3.0, -2.0), 250.0, speed=2.0)
    points = np.random.default_rng(0).normal(size=(7, 3)) * 100 + 500_000
    assert space.to_world(space.to_page(points)) == pytest.approx(points)


def test_the_page_sees_a_scene_of_standard_size() -> None:
    space = PageSpace.for_scene((10.0, 0.0, 0.0), 250.0)
    assert space.to_page((260.0, 0.0, 0.0)) == pytest.approx((PAGE_RADIUS, 0, 0))


def test_twice_the_speed_is_half_the_world() -> None:
    slow, quick = (PageSpace.for_scene((0, 0, 0), 8.0, speed) for speed in (1.0, 2.0))
    step = np.array([1.0, 0.0, 0.0])
    assert quick.to_world(step) == pytest.approx(2 * slow.to_world(step))


@pytest.mark.parametrize(
    ("wxyz", "turned"),
    [
        ((1, 0, 0, 0), (1, 0, 0)),
        ((math.sqrt(0.5), 0, 0, math.sqrt(0.5)), (0, 1, 0)),
        ((0, 0, 2, 0), (-1, 0, 0)),
    ],
)
def test_quaternions_turn_the_x_axis(wxyz: tuple[float, ...], turned: tuple[float, ...]) -> None:
    assert rotation_from_quaternion(wxyz) @ (1, 0, 0) == pytest.approx(turned, abs=1e-12)


def pose(canvas: tuple[int, int] = (801, 600)) -> Pose:
    half = math.radians(45)
    wxyz = np.array([math.cos(half), 0.0, math.sin(half), 0.0])  # +z of the camera is +x
    return Pose(wxyz, np.array([1.0, 2.0, 3.0]), math.radians(50), canvas)


def test_a_pose_becomes_a_camera() -> None:
    camera = pose().camera(801, 600, near=0.5)
    assert camera.position == pytest.approx((1, 2, 3))
    assert camera.forward == pytest.approx((1, 0, 0))
    assert camera.fov_y_rad == pytest.approx(math.radians(50))
    assert camera.near == 0.5


def test_a_smaller_picture_shows_the_same_view() -> None:
    """Corners of the canvas stay corners of the picture, whatever its rounded size."""
    full, small = pose().camera(801, 600, 0.1), pose().camera(400, 304, 0.1)
    for u, v in ((0, 0), (1, 1), (0.25, 0.75)):
        rays = [
            np.linalg.solve(camera.K, (u * camera.width, v * camera.height, 1.0))
            for camera in (full, small)
        ]
        assert rays[0] == pytest.approx(rays[1])


def test_a_canvas_larger_than_any_picture_is_seen_whole() -> None:
    """Three 8K screens side by side: the picture is smaller, the view is the same."""
    canvas = (23_040, 4_320)
    size = full_size(canvas, max_side=1920)
    camera = pose(canvas).camera(*size, 0.1)
    assert (camera.width, camera.height) == size == (1920, 360)
    assert camera.fov_y_rad == pytest.approx(math.radians(50))
    edge = np.linalg.solve(camera.K, (1920.0, 180.0, 1.0))
    assert edge[0] / edge[2] == pytest.approx(math.tan(math.radians(25)) * canvas[0] / canvas[1])


@pytest.mark.parametrize("wxyz", [(0, 0, 0, 0), (math.nan, 0, 0, 1), (1, 0, 0)])
def test_nonsense_is_refused(wxyz: tuple[float, ...]) -> None:
    with pytest.raises(CameraError):
        rotation_from_quaternion(wxyz)


def test_a_fov_of_half_a_turn_is_refused() -> None:
    broken = Pose(np.array([1.0, 0, 0, 0]), np.zeros(3), math.pi, (64, 48))
    with pytest.raises(CameraError):
        broken.camera(64, 48, 0.1)
