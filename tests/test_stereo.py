"""Two eyes: geometry by hand, and pictures of a scene whose parallax is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rendering.base import RasterSettings
from rendering.reference import ReferenceRasterizer
from splat.camera import Camera, CameraModel
from splat.errors import CameraError
from splat.gaussians import Gaussians
from splat.stereo import StereoRig
from tests.scenes import orbit_camera

IPD = 0.065


def ahead() -> Camera:
    """At the origin, looking along +z, y down."""
    return Camera.look_at((0, 0, 0), (0, 0, 1), (0, -1, 0), fov_y_rad=1.0, width=160, height=96)


def point(depth: float, x: float = 0.0) -> Gaussians:
    """One small, opaque, white Gaussian."""
    arrays = ([[x, 0.0, depth]], [[1.0, 0, 0, 0]], [[depth * 0.01] * 3], [1.0], [[[1.0, 1, 1]]])
    return Gaussians(*(np.array(array, np.float32) for array in arrays))


def seen_at(camera: Camera, gaussians: Gaussians) -> float:
    """Column of the centre of what is seen, pixels."""
    rasterizer = ReferenceRasterizer()
    alpha = rasterizer.render(rasterizer.prepare(gaussians), camera, RasterSettings()).alpha
    columns = np.arange(camera.width) + 0.5
    return float((alpha.sum(axis=0) * columns).sum() / alpha.sum())


@pytest.mark.parametrize("convergence", [math.inf, 2.0])
@pytest.mark.parametrize("depth", [0.8, 2.0, 10.0])
def test_parallax_is_what_the_distance_of_the_eyes_makes(depth: float, convergence: float) -> None:
    rig, middle = StereoRig(IPD, convergence), ahead()
    left, right = rig.eyes(middle)
    seen = seen_at(left, point(depth)) - seen_at(right, point(depth))
    expected = float(middle.K[0, 0]) * IPD * (1 / depth - 1 / convergence)
    assert seen == pytest.approx(expected, abs=0.02)
    assert rig.disparity_px(middle, depth) == pytest.approx(expected)


def test_the_left_eye_is_the_left_one() -> None:
    left, right = StereoRig(IPD).eyes(ahead())
    np.testing.assert_allclose(right.position - left.position, [IPD, 0, 0], atol=1e-12)
    # What is near lies further to the right for the left eye.
    assert seen_at(left, point(0.5)) > seen_at(right, point(0.5)) + 5


def test_eyes_look_the_same_way_and_agree_on_every_depth() -> None:
    middle = orbit_camera(CameraModel.PINHOLE, 64, 48)
    left, right = StereoRig(IPD, 3.0).eyes(middle)
    for eye in (left, right):
        assert np.array_equal(eye.viewmat[:3, :3], middle.viewmat[:3, :3])
        assert np.array_equal(eye.viewmat[2], middle.viewmat[2])
    np.testing.assert_allclose((left.position + right.position) / 2, middle.position, atol=1e-12)
    np.testing.assert_allclose(
        right.position - left.position, IPD * middle.viewmat[0, :3], atol=1e-12
    )
    shift = float(middle.K[0, 0]) * IPD / 3.0
    assert left.K[0, 2] - right.K[0, 2] == pytest.approx(-shift)


@pytest.mark.parametrize(("ipd", "convergence"), [(0, 1), (-1, 1), (math.inf, 1), (1, 0), (1, -2)])
def test_impossible_eyes_are_refused(ipd: float, convergence: float) -> None:
    with pytest.raises(CameraError, match="must be positive"):
        StereoRig(ipd, convergence)


def test_models_without_parallax_or_frustum_are_refused() -> None:
    with pytest.raises(CameraError, match="no parallax"):
        StereoRig(IPD).eyes(orbit_camera(CameraModel.ORTHO, 64, 48))
    fisheye = orbit_camera(CameraModel.FISHEYE, 64, 48)
    assert len(StereoRig(IPD).eyes(fisheye)) == 2
    with pytest.raises(CameraError, match="cannot converge"):
        StereoRig(IPD, 2.0).eyes(fisheye)
