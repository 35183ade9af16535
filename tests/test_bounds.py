"""Visibility of boxes: never a hole, and of some use."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rendering.base import FISHEYE_MAX_THETA_RAD
from rendering.reference import ReferenceRasterizer
from rendering.reference_project import project
from splat.bounds import FISHEYE_MAX_THETA_RAD as BOUNDS_MAX_THETA_RAD
from splat.bounds import MAX_MERGED_OPACITY, BoxesInView, ViewVolume
from splat.camera import Camera, CameraModel, look_at_viewmat
from splat.gaussians import Gaussians
from tests import scenes

MODELS = tuple(CameraModel)


def random_gaussians(seed: int, groups: int, size: int) -> Gaussians:
    """``groups`` clusters of ``size``, of all sizes, all around the origin; merged ones too."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, 1, 3)) * 10 ** random.uniform(-1, 2, (groups, 1, 1))
    spread = 10 ** random.uniform(-4, 1, (groups, 1, 1))
    means = (centres + spread * random.normal(size=(groups, size, 3))).reshape(-1, 3)
    count = len(means)
    quats = random.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    reach = np.linalg.norm(means, axis=1, keepdims=True)
    return Gaussians(
        means=means.astype(np.float32),
        quats=quats.astype(np.float32),
        scales=(reach * 10 ** random.uniform(-4, 0.5, (count, 3))).astype(np.float32),
        opacities=random.uniform(0, MAX_MERGED_OPACITY, count).astype(np.float32),
        sh=np.zeros((count, 1, 3), np.float32),
    )


def random_camera(seed: int, model: CameraModel) -> Camera:
    """Somewhere near the origin, any direction, field of view, aspect and principal point."""
    random = np.random.default_rng(seed)
    eye = random.normal(size=3) * 10 ** random.uniform(-2, 1)
    width, height = (int(side) for side in random.integers(1, 200, 2))
    focal = 10 ** random.uniform(-1.2, 0.7, 2) * max(width, height)
    near = float(10 ** random.uniform(-3, 0))
    return Camera(
        viewmat=look_at_viewmat(eye, eye + random.normal(size=3), random.normal(size=3)),
        K=np.array(
            [
                [focal[0], 0, width * random.uniform(-1, 2)],
                [0, focal[1], height * random.uniform(-1, 2)],
                [0, 0, 1],
            ]
        ),
        width=width,
        height=height,
        near=near,
        far=near * float(10 ** random.uniform(1, 4)) if random.random() < 0.5 else math.inf,
        model=model,
    )


def boxes_of(
    gaussians: Gaussians, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(lo, hi, max_scale) of successive groups of ``size``, as a tree holds them."""
    means = gaussians.means.reshape(-1, size, 3)
    growth = np.sqrt(np.log(255 * np.maximum(gaussians.opacities, 1)) / np.log(255))
    scale = (gaussians.scales.max(axis=1) * growth).reshape(-1, size).max(axis=1)
    scale = np.nextafter(scale.astype(np.float32), np.float32(np.inf))
    return means.min(axis=1), means.max(axis=1), scale


def drawn_groups(gaussians: Gaussians, camera: Camera, size: int) -> NDArray[np.bool_]:
    """Groups of which the reference keeps a Gaussian: those that may touch a pixel."""
    index = project(ReferenceRasterizer().prepare(gaussians), camera).index.numpy()
    drawn = np.zeros(len(gaussians) // size, np.bool_)
    drawn[index // size] = True
    return drawn


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 4, 30]))
@example(seed=0, size=1)
def test_what_the_reference_draws_is_never_culled(model: CameraModel, seed: int, size: int) -> None:
    gaussians = random_gaussians(seed, 60, size)
    camera = random_camera(seed + 1, model)
    drawn = drawn_groups(gaussians, camera, size)
    seen = ViewVolume.of(camera).may_see(*boxes_of(gaussians, size))
    assert not (drawn & ~seen).any()


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), log_scale=st.floats(-6, -0.5))
def test_corners_of_boxes_are_never_culled(model: CameraModel, seed: int, log_scale: float) -> None:
    """Boxes of all aspects with a Gaussian at each corner, where bounds are tight."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(200, 1, 3)) * 10 ** random.uniform(-1, 1, (200, 1, 1))
    half = 10 ** random.uniform(-2, 0.5, (200, 1, 3))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, 8).T
    means = (centres + signs * half).reshape(-1, 3)
    quats = random.normal(size=(len(means), 4))
    gaussians = scenes.gaussians(means, scales=10**log_scale, opacities=1.0, quats=quats)
    camera = random_camera(seed + 1, model)
    drawn = drawn_groups(gaussians, camera, 8)
    seen = ViewVolume.of(camera).may_see(*boxes_of(gaussians, 8))
    assert not (drawn & ~seen).any()


@pytest.mark.parametrize("model", MODELS)
def test_zoomed_out_is_a_shorter_lens(model: CameraModel) -> None:
    for seed in range(20):
        camera = random_camera(seed, model)
        lens = camera.K.copy()
        lens[[0, 1], [0, 1]] *= 0.8
        wide, short = ViewVolume.of(camera, 0.8), ViewVolume.of(replace(camera, K=lens))
        for found, expected in ((wide.planes, short.planes), (wide.rect, short.rect)):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert (wide.near, wide.far) == (short.near, short.far)
        np.testing.assert_array_equal(wide.position, short.position)
        assert ViewVolume.of(camera) is ViewVolume.of(camera, 1.0) is not wide


@pytest.mark.parametrize("model", MODELS)
def test_on_the_near_and_far_planes(model: CameraModel) -> None:
    """Planes compare in float32: what lies on them after rounding is drawn."""
    plane = np.array([0.1, 1000.0], np.float32)
    near, far = float(plane[0]) * (1 + 1e-9), float(plane[1]) * (1 - 1e-9)
    camera = scenes.camera(model, near=near, far=far)
    points = np.zeros((2, 3), np.float32)
    points[:, 2] = plane
    gaussians = scenes.gaussians(points)
    assert drawn_groups(gaussians, camera, 1).all()
    assert ViewVolume.of(camera).may_see(*boxes_of(gaussians, 1)).all()


@pytest.mark.parametrize("model", MODELS)
def test_most_of_what_is_out_of_sight_is_culled(model: CameraModel) -> None:
    """Small Gaussians in small boxes on all sides: nearly the exact answer."""
    random = np.random.default_rng(7)
    size, groups = 8, 4000
    centres = random.normal(size=(groups, 1, 3))
    centres *= 20 / np.linalg.norm(centres, axis=-1, keepdims=True)
    means = (centres + random.uniform(-0.4, 0.4, (groups, size, 3))).reshape(-1, 3)
    gaussians = scenes.gaussians(means, scales=0.01)
    camera = scenes.orbit_camera(model, 320, 200)
    drawn = drawn_groups(gaussians, camera, size)
    seen = ViewVolume.of(camera).may_see(*boxes_of(gaussians, size))
    assert seen[drawn].all()
    assert 15 < drawn.sum() <= seen.sum() < 1.3 * drawn.sum()


def test_a_fisheye_sees_behind_itself_up_to_its_cone() -> None:
    angles = np.radians([0, 90, 140, 144, 146, 150, 180])
    points = 10 * np.stack([np.sin(angles), np.zeros(7), np.cos(angles)], axis=1)
    camera = scenes.camera(CameraModel.FISHEYE, width=400, height=400, focal=60.0)
    lo = points.astype(np.float32)
    seen = ViewVolume.of(camera).may_see(lo, lo, np.full(7, 1e-3, np.float32))
    assert seen.tolist() == [True, True, True, True, False, False, False]


def test_the_cone_is_the_image_model_s() -> None:
    assert BOUNDS_MAX_THETA_RAD == FISHEYE_MAX_THETA_RAD


def test_distances_of_boxes() -> None:
    lo = np.array([[1, 1, 1], [-1, -1, -1], [3, -1, -1]], np.float32)
    hi = np.array([[2, 2, 2], [1, 1, 1], [5, 1, 1]], np.float32)
    boxes = BoxesInView.of(np.zeros(3), lo, hi)
    assert boxes.distance() == pytest.approx([math.sqrt(3), 0, 3])
    assert boxes.farthest() == pytest.approx([math.sqrt(12), math.sqrt(3), math.sqrt(27)])
