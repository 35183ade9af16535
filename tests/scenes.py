"""Small synthetic scenes and cameras that tests share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from splat.camera import Camera, CameraModel
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians
from splat.harmonics import rgb_to_sh0

ODD_SIZES = ((33, 17), (1, 1), (7, 129), (129, 7), (64, 64), (65, 31))  # width, height


def gaussians(
    means: ArrayLike,
    *,
    scales: ArrayLike = 0.1,
    quats: ArrayLike = (1.0, 0.0, 0.0, 0.0),
    opacities: ArrayLike = 0.8,
    rgb: ArrayLike = (0.7, 0.4, 0.1),
) -> Gaussians:
    """Gaussians of constant colour; everything is broadcast to the number of means."""
    centres = np.atleast_2d(np.asarray(means, np.float32))
    count = len(centres)
    colors = np.broadcast_to(np.asarray(rgb, np.float64), (count, 3))
    rotations = np.broadcast_to(np.asarray(quats, np.float64), (count, 4))
    return Gaussians(
        means=centres,
        quats=(rotations / np.linalg.norm(rotations, axis=1, keepdims=True)).astype(np.float32),
        scales=np.broadcast_to(np.asarray(scales, np.float32), (count, 3)),
        opacities=np.broadcast_to(np.asarray(opacities, np.float32), (count,)),
        sh=rgb_to_sh0(colors)[:, None, :].astype(np.float32),
    )


def random_scene(seed: int, count: int, sh_degree: int = 3) -> Gaussians:
    """Gaussians of all shapes in a ball of radius 3 around the origin.

    Sizes spread over two decades, opacities over all of [0, 1]; some are needles, some
    flakes, some coincide in position with others.
    """
    random = np.random.default_rng(seed)
    means = random.normal(size=(count, 3))
    means *= 3 * random.random((count, 1)) ** (1 / 3) / np.linalg.norm(means, axis=1, keepdims=True)
    twins = random.random(count) < 0.05
    means[twins] = means[random.integers(0, count, twins.sum())]
    quats = random.normal(size=(count, 4))
    sh = random.normal(scale=0.2, size=(count, SH_COUNT_OF_DEGREE[sh_degree], 3))
    sh[:, 0] = rgb_to_sh0(random.random((count, 3)))
    return Gaussians(
        means=means.astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        scales=(10 ** random.uniform(-2.5, -0.3, size=(count, 3))).astype(np.float32),
        opacities=random.random(count, np.float32),
        sh=sh.astype(np.float32),
    )


def camera(
    model: CameraModel = CameraModel.PINHOLE,
    *,
    width: int = 33,
    height: int = 17,
    focal: float | tuple[float, float] = 40.0,
    centre: tuple[float, float] | None = None,
    viewmat: ArrayLike | None = None,
    near: float = 0.01,
    far: float = math.inf,
) -> Camera:
    """A camera at the origin looking along +z, principal point in the middle."""
    fx, fy = focal if isinstance(focal, tuple) else (focal, focal)
    cx, cy = (0.5 * width, 0.5 * height) if centre is None else centre
    return Camera(
        viewmat=np.eye(4) if viewmat is None else np.asarray(viewmat),
        K=np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]),
        width=width,
        height=height,
        near=near,
        far=far,
        model=model,
    )


def orbit_camera(model: CameraModel, width: int, height: int, angle_rad: float = 0.6) -> Camera:
    """A tilted view of ``random_scene`` from five units away, with nothing symmetric:
    fx differs from fy, and the principal point lies off the centre."""
    eye = 5 * np.array([math.sin(angle_rad), -0.4, -math.cos(angle_rad)])
    base = Camera.look_at(eye, (0.1, -0.2, 0.3), (0.1, -1, 0.2), fov_y_rad=1, width=8, height=8)
    side = math.hypot(width, height)
    scale = {CameraModel.PINHOLE: 0.8, CameraModel.ORTHO: 0.17, CameraModel.FISHEYE: 0.6}[model]
    return camera(
        model,
        width=width,
        height=height,
        focal=(scale * side, 0.9 * scale * side),
        centre=(0.47 * width, 0.55 * height),
        viewmat=base.viewmat,
    )
