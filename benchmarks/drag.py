"""One drag of the mouse, and where it takes the camera: the same motion for every visitor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.scenes import Size
from splat.camera import look_at_viewmat

Vector = NDArray[np.float64]

# The mouse goes around an ellipse: to and fro for a turn, up and down for a change of height.
DRAG_RADII = (0.10, 0.03)  # shares of the picture's width and height
DRAG_PERIOD_S = 6.0


def drag_offset(at_s: float, size: Size) -> tuple[float, float]:
    """Pixels (right, down) that the mouse is from where it was pressed, ``at_s`` later."""
    angle = math.tau * at_s / DRAG_PERIOD_S
    width, height = size
    return (
        DRAG_RADII[0] * width * math.sin(angle),
        DRAG_RADII[1] * height * (1.0 - math.cos(angle)),
    )


def orbit(
    position: ArrayLike, look_at: ArrayLike, up: ArrayLike, offset: tuple[float, float], height: int
) -> Vector:
    """Where the page's camera goes for a drag: a whole turn for the height of the picture.

    Args:
        position, look_at, up: [3] of the camera when the mouse was pressed.
        offset: (right, down) in pixels.
        height: Of the picture, pixels.

    Returns:
        [3] the new position, as far from ``look_at`` and at most upright above it.
    """
    axis = np.asarray(up, np.float64) / np.linalg.norm(up)
    arm = np.asarray(position, np.float64) - np.asarray(look_at, np.float64)
    radius = float(np.linalg.norm(arm))
    flat = arm - (arm @ axis) * axis
    outward = flat / np.linalg.norm(flat)
    sideways = np.cross(axis, outward)
    turn = -math.tau * offset[0] / height
    polar = math.acos(max(-1.0, min(1.0, float(arm @ axis) / radius)))
    polar = min(max(polar - math.tau * offset[1] / height, 1e-3), math.pi - 1e-3)
    heading = math.cos(turn) * outward + math.sin(turn) * sideways
    moved: Vector = np.asarray(look_at, np.float64) + radius * (
        math.sin(polar) * heading + math.cos(polar) * axis
    )
    return moved


def camera_quaternion(position: ArrayLike, look_at: ArrayLike, up: ArrayLike) -> Vector:
    """[4] wxyz, camera → world of an OpenCV camera (x right, y down, z ahead)."""
    return quaternion_of(look_at_viewmat(position, look_at, up)[:3, :3].T)


def quaternion_of(rotation: ArrayLike) -> Vector:
    """[4] wxyz of a rotation matrix [3, 3] (the largest component first: Shepperd 1978)."""
    R = np.asarray(rotation, np.float64)
    diagonal = [np.trace(R), R[0, 0], R[1, 1], R[2, 2]]
    squares = np.array([1 + diagonal[0], *(1 - diagonal[0] + 2 * d for d in diagonal[1:])]) / 4
    largest = int(np.argmax(squares))
    w = np.array([4 * squares[0], R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    x = np.array([w[1], 4 * squares[1], R[0, 1] + R[1, 0], R[0, 2] + R[2, 0]])
    y = np.array([w[2], x[2], 4 * squares[2], R[1, 2] + R[2, 1]])
    z = np.array([w[3], x[3], y[3], 4 * squares[3]])
    quaternion: Vector = (w, x, y, z)[largest] / (4 * math.sqrt(squares[largest]))
    return quaternion
