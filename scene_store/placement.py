"""Gaussians moved, turned and scaled, harmonics included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splat.gaussians import MAX_SH_DEGREE, Float32Array, Gaussians
from splat.harmonics import sh_basis

Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Float64Array = NDArray[np.float64]

IDENTITY: Quaternion = (1.0, 0.0, 0.0, 0.0)
_UNIT_TOLERANCE = 1e-6
_DIRECTIONS = 64  # far more than the 7 unknowns of degree 3: least squares is then exact


@dataclass(frozen=True, slots=True)
class Placement:
    """A similarity: ``p ↦ translation + scale · R p``.

    Attributes:
        translation: World units.
        rotation: Unit quaternion wxyz of R.
        scale: Above 0; mirroring is no similarity that keeps quaternions.
    """

    translation: Vector3 = (0.0, 0.0, 0.0)
    rotation: Quaternion = IDENTITY
    scale: float = 1.0

    def after(self, inner: Placement) -> Placement:
        """The placement that applies ``inner`` first, then this one."""
        return Placement(
            _vector(self.points(np.array([inner.translation]))[0]),
            _quaternion(_products(self.rotation, np.array([inner.rotation]))[0]),
            self.scale * inner.scale,
        )

    def points(self, points: NDArray[np.floating]) -> Float64Array:
        """Points [N, 3] in float64."""
        turned = points.astype(np.float64) @ rotation_matrix(self.rotation).T
        placed: Float64Array = turned * self.scale + np.asarray(self.translation)
        return placed

    def turned(self, direction: Vector3) -> Vector3:
        """A direction, of the same length; rounded, so that right angles are just that."""
        x, y, z = np.round(rotation_matrix(self.rotation) @ np.asarray(direction), 9).tolist()
        return x + 0.0, y + 0.0, z + 0.0  # no -0

    def of(self, gaussians: Gaussians) -> Gaussians:
        """The Gaussians, placed."""
        if self == Placement():
            return gaussians
        turned = self.rotation != IDENTITY
        return Gaussians(
            self.points(gaussians.means).astype(np.float32),
            _products(self.rotation, gaussians.quats).astype(np.float32)
            if turned
            else gaussians.quats,
            gaussians.scales * np.float32(self.scale),
            gaussians.opacities,
            rotate_harmonics(gaussians.sh, self.rotation) if turned else gaussians.sh,
        )


def rotation_matrix(quaternion: Quaternion) -> Float64Array:
    """[3, 3] of a unit quaternion wxyz."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of_euler(degrees: Vector3) -> Quaternion:
    """Turns about the world's x axis, then its y axis, then its z axis, in degrees."""
    half = [math.radians(angle) / 2 for angle in degrees]
    total = np.array([IDENTITY])
    for axis, angle in enumerate(half):
        turn = [math.cos(angle), 0.0, 0.0, 0.0]
        turn[1 + axis] = math.sin(angle)
        total = _products((turn[0], turn[1], turn[2], turn[3]), total)
    return _quaternion(total[0])


def harmonics_rotation(quaternion: Quaternion, degree: int) -> list[Float64Array]:
    """For each degree l from 1 on, the matrix [2l+1, 2l+1] that turns its coefficients.

    A turned Gaussian shows in direction d the colour that it showed in Rᵀ d:
    ``Σ Y(d) c' = Σ Y(Rᵀ d) c``. Functions of one degree are turned into each other, so the
    matrices (real Wigner D) follow from the basis itself, at some directions, whatever its
    order and signs.
    """
    directions = _sphere(_DIRECTIONS)
    before = sh_basis(directions @ rotation_matrix(quaternion), degree)
    after = sh_basis(directions, degree)
    bands = [slice(band * band, (band + 1) ** 2) for band in range(1, degree + 1)]
    solved = (np.linalg.lstsq(after[:, b], before[:, b], rcond=None)[0] for b in bands)
    return [np.asarray(matrix, np.float64) for matrix in solved]


def rotate_harmonics(sh: Float32Array, quaternion: Quaternion) -> Float32Array:
    """Coefficients [N, K, 3] of Gaussians that are turned."""
    out: Float32Array = sh.copy()
    degree = math.isqrt(sh.shape[1]) - 1
    assert 0 <= degree <= MAX_SH_DEGREE
    for band, matrix in enumerate(harmonics_rotation(quaternion, degree), start=1):
        rows = slice(band * band, (band + 1) ** 2)
        np.einsum("ij,njc->nic", matrix.astype(np.float32), sh[:, rows], out=out[:, rows])
    return out


def _sphere(count: int) -> Float64Array:
    """Directions [count, 3] all around (Fibonacci lattice)."""
    at = np.arange(count) + 0.5
    z = 1 - 2 * at / count
    angle = np.pi * (1 + 5**0.5) * at
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def _products(left: Quaternion, right: NDArray[np.floating]) -> NDArray[np.floating]:
    """Hamilton products ``left · right`` [N, 4], in right's precision."""
    w, x, y, z = left
    matrix = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    products: NDArray[np.floating] = right @ matrix.T.astype(right.dtype)
    return products


def unit_vector(vector: Vector3) -> Vector3 | None:
    """The vector at length 1, the same one if it has that already; None for 0 0 0."""
    largest = max(map(abs, vector))
    if largest == 0:
        return None
    scaled = [value / largest for value in vector]  # so that no length is too large
    length = math.hypot(*scaled)
    if abs(largest * length - 1.0) <= _UNIT_TOLERANCE:
        return vector
    x, y, z = (value / length for value in scaled)
    return x, y, z


def _vector(values: Float64Array) -> Vector3:
    x, y, z = values.tolist()
    return x, y, z


def _quaternion(values: NDArray[np.floating]) -> Quaternion:
    w, x, y, z = (values / np.linalg.norm(values)).tolist()
    return w, x, y, z
