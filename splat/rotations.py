"""Rotations: unit quaternions (wxyz) and matrices, many at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def rotations_of(quats: NDArray[np.floating]) -> Float64Array:
    """[N, 3, 3] matrices of unit quaternions [N, 4]."""
    w, x, y, z = np.asarray(quats, np.float64).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrices: Float64Array = np.moveaxis(np.array(rows), 2, 0)
    return matrices


def quats_of(rotations: NDArray[np.floating]) -> Float64Array:
    """[N, 4] unit quaternions of rotation matrices [N, 3, 3], determinant +1.

    The component that is largest is taken from the diagonal, the others from it (Shepperd 1978):
    nothing is divided by what is nearly zero.
    """
    r = np.asarray(rotations, np.float64)
    trace = np.trace(r, axis1=1, axis2=2)
    diagonal = np.diagonal(r, axis1=1, axis2=2)
    squares = np.concatenate([trace[:, None], diagonal], axis=1)
    largest = squares.argmax(axis=1)
    # Four times the products of components, [i, j] of the i-th and the j-th.
    products = np.empty((len(r), 4, 4))
    products[:, 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        products[:, 1 + i, 1 + i] = 1 + 2 * diagonal[:, i] - trace
        products[:, 0, 1 + i] = products[:, 1 + i, 0] = r[:, k, j] - r[:, j, k]
        products[:, 1 + i, 1 + j] = products[:, 1 + j, 1 + i] = r[:, i, j] + r[:, j, i]
    chosen = products[np.arange(len(r)), largest]
    quats: Float64Array = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    return quats
