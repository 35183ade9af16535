"""The bound on what a kept projection is off by, against the float64 reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from render_cache.reuse import ChunkBoxes, Reuse, ReuseLimits, drift_of, reuse
from rendering.base import DILATION_PX2
from rendering.camera_models import to_screen
from splat.bounds import MAX_SIGMAS
from splat.camera import Camera, CameraModel
from splat.gaussians import Gaussians
from tests.scenes import orbit_camera, random_scene
from tests.store.slow_merge import rotation_matrices

CHUNKS, EACH = 12, 40
Float64Array = NDArray[np.float64]


def chunked(seed: int) -> tuple[Gaussians, ChunkBoxes]:
    """Gaussians in small chunks, and the boxes of these."""
    gaussians = random_scene(seed, CHUNKS * EACH)
    order = np.lexsort(np.round(gaussians.means * 0.7).T)
    gaussians = gaussians[order]
    means = gaussians.means.reshape(CHUNKS, EACH, 3)
    scales = gaussians.scales.reshape(CHUNKS, -1).max(axis=1)
    return gaussians, ChunkBoxes(means.min(axis=1), means.max(axis=1), scales)


def turned(camera: Camera, angles: Float64Array, shift: Float64Array) -> Camera:
    """The camera turned about its own axes, radians, and moved along them."""
    a, b, c = angles
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = about_z @ about_y @ about_x, shift
    return replace(camera, viewmat=motion @ camera.viewmat)


def outlines(camera: Camera, gaussians: Gaussians) -> tuple[Float64Array, NDArray[np.bool_]]:
    """[N, 64] how far each outline reaches in 64 directions, pixels; and what is in front."""
    view = camera.viewmat
    in_camera = gaussians.means @ view[:3, :3].T + view[:3, 3]
    _, jacobians = to_screen(torch.from_numpy(in_camera), camera)
    axes = rotation_matrices(gaussians.quats) * gaussians.scales[:, None, :]
    m = jacobians.numpy() @ view[:3, :3] @ axes
    covariance = m @ m.transpose(0, 2, 1) + DILATION_PX2 * np.eye(2)
    at = np.linspace(0, np.pi, 64, endpoint=False)
    normals = np.stack([np.cos(at), np.sin(at)], axis=1)
    squares = np.einsum("ki,nij,kj->nk", normals, covariance, normals)
    in_front = in_camera[:, 2] > 0
    if camera.model is CameraModel.ORTHO:
        in_front[:] = True
    return MAX_SIGMAS * np.sqrt(squares), in_front


def by_chunk(values: NDArray[np.floating]) -> Float64Array:
    largest: Float64Array = np.asarray(values, np.float64).reshape(CHUNKS, -1).max(axis=1)
    return largest


motions = st.tuples(
    st.integers(0, 30),
    st.floats(0, 6.28),
    st.tuples(*[st.floats(-0.2, 0.2)] * 3),
    st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    st.floats(-3, 0),
    st.floats(0.8, 1.25),
    st.floats(-40, 40),
)


@pytest.mark.parametrize("model", [CameraModel.PINHOLE, CameraModel.ORTHO])
@settings(max_examples=60, deadline=None)
@given(motions)
def test_no_gaussian_is_off_by_more_than_the_bound(
    model: CameraModel,
    motion: tuple[int, float, tuple[float, ...], tuple[float, ...], float, float, float],
) -> None:
    seed, angle, angles, shift, exponent, zoom, slide = motion
    gaussians, boxes = chunked(seed)
    before = orbit_camera(model, 200, 150, angle)
    size = 10.0**exponent
    now = turned(before, size * np.array(angles), size * np.array(shift))
    intrinsics = now.K.copy()
    intrinsics[:2, :2] *= zoom
    intrinsics[0, 2] += size * slide
    now = replace(now, K=intrinsics)
    drift = drift_of(before, now, boxes)
    (old, in_front), (new, still) = (outlines(camera, gaussians) for camera in (before, now))
    shown = in_front & still
    moved = np.where(shown, np.abs(new - old).max(axis=1), 0.0)
    assert (by_chunk(moved) <= drift.outline_px * (1 + 1e-9) + 1e-9).all()
    rays = [gaussians.means - camera.position for camera in (before, now)]
    unit = [ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in rays]
    between = 2 * np.arcsin(np.minimum(np.linalg.norm(unit[0] - unit[1], axis=1) / 2, 1.0))
    assert (by_chunk(between) <= drift.angle_rad + 1e-7).all()


def test_the_bound_is_of_use() -> None:
    """Not so cautious that nothing would ever be kept: near the truth where boxes are small."""
    gaussians, _ = chunked(3)
    alone = ChunkBoxes(gaussians.means, gaussians.means, gaussians.scales.max(axis=1))
    before = orbit_camera(CameraModel.PINHOLE, 200, 150)
    now = turned(before, np.array([0.004, -0.003, 0.002]), np.array([0.01, -0.004, 0.006]))
    bound = drift_of(before, now, alone).outline_px
    old, new = (outlines(camera, gaussians)[0] for camera in (before, now))
    moved = np.abs(new - old).max(axis=1)
    assert np.isfinite(bound).all()
    assert np.median(bound / moved) < 3


def test_a_turn_alone_keeps_every_colour_and_a_slide_of_the_lens_every_conic() -> None:
    _, boxes = chunked(4)
    before = orbit_camera(CameraModel.PINHOLE, 200, 150)
    about = turned(before, np.array([0.0, 0.1, 0.0]), np.zeros(3))
    # Of a turned camera, whose position is the same but for rounding.
    np.testing.assert_allclose(drift_of(before, about, boxes).angle_rad, 0, atol=1e-12)
    shifted = before.K.copy()
    shifted[1, 2] += 3.0
    slid = replace(before, K=shifted)
    bound = drift_of(before, slid, boxes)
    # Only where J is linearized outside of the picture does a lens that slides change a conic.
    assert (bound.angle_rad == 0).all() and np.isfinite(bound.outline_px).all()


def test_the_rule() -> None:
    _, boxes = chunked(5)
    before = orbit_camera(CameraModel.PINHOLE, 200, 150)
    near_by = turned(before, np.array([1e-5, 0, 0]), np.array([1e-5, 0, 0]))
    far_off = turned(before, np.array([0.5, 0, 0]), np.array([1.0, 0, 0]))
    assert (reuse(before, replace(before, near=0.5), boxes) == Reuse.EXACT).all()
    assert (reuse(before, near_by, boxes) == Reuse.REPROJECT).all()
    assert (reuse(before, far_off, boxes) == Reuse.MISS).all()
    assert (reuse(before, near_by, boxes, ReuseLimits(drift_px=0)) == Reuse.MISS).all()
    for other in (
        replace(before, model=CameraModel.FISHEYE), replace(before, width=201),
    ):  # fmt: skip
        assert (reuse(before, other, boxes) != Reuse.EXACT).all()


def test_behind_the_camera_nothing_can_be_said() -> None:
    before = Camera.look_at((0, 0, 0), (0, 0, 1), (0, -1, 0), fov_y_rad=1.0, width=64, height=64)
    boxes = ChunkBoxes(np.array([[-1.0, -1, -1]]), np.array([[1.0, 1, 1]]), np.array([0.1]))
    now = turned(before, np.array([1e-6, 0, 0]), np.zeros(3))
    assert drift_of(before, now, boxes).outline_px[0] == np.inf
    assert reuse(before, now, boxes)[0] == Reuse.MISS


@pytest.mark.parametrize("limits", [(-1.0, 0.1), (0.1, -1.0), (math.nan, 0.1)])
def test_limits_below_nothing_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        ReuseLimits(*limits)
