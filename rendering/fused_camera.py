"""What the GPU kernels know of a camera: a vector of doubles (``fused_kernels/layout.py``)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rendering.base import DILATION_PX2
from splat.bounds import JACOBIAN_MARGIN, MAX_SIGMAS
from splat.camera import Camera, CameraModel

MODELS = {CameraModel.PINHOLE: 0, CameraModel.ORTHO: 1, CameraModel.FISHEYE: 2}


def camera_vector(camera: Camera) -> NDArray[np.float64]:
    """[CAMERA_COLUMNS] numbers for ``project_kernel``, and the same in single precision behind
    them, two in the place of one."""
    R, t, K = camera.viewmat[:3, :3], camera.viewmat[:3, 3], camera.K
    sides = np.array([camera.width, camera.height], np.float64)
    focal, centre = K[[0, 1], [0, 1]], K[:2, 2]
    position = -R.T @ t
    position_hi = position.astype(np.float32).astype(np.float64)
    margin = JACOBIAN_MARGIN * 0.5 * sides / focal
    rim_px = MAX_SIGMAS * math.sqrt(DILATION_PX2) + 1.0
    # Right and bottom, left and top.
    limits = np.stack([(sides - centre) / focal + margin, centre / focal + margin], axis=1)
    reaches = np.stack([(sides - centre + rim_px) / focal, (centre + rim_px) / focal], axis=1)
    stretch = np.hypot(1.0, reaches.max(axis=1) + margin)
    if camera.model is CameraModel.ORTHO:
        stretch = np.ones(2)
    slack = 1e-5 * np.abs(position).sum()
    numbers = (
        R.ravel(),
        t[2],
        position,
        position_hi,
        position - position_hi,
        focal,
        centre,
        limits.ravel(),
        (camera.near, camera.far),
        sides,
        reaches.ravel(),
        MAX_SIGMAS * stretch,
        slack,
    )
    doubles = np.concatenate([np.atleast_1d(part) for part in numbers]).astype(np.float64)
    return np.concatenate([doubles, doubles.astype(np.float32).view(np.float64)])
