"""Real spherical harmonics up to degree 3, in the order and signs that 3DGS uses.

Basis (Sloan, "Stupid Spherical Harmonics Tricks", 2008, with the Condon–Shortley
phase as in the INRIA code): degree l holds 2l+1 functions, m = −l … l.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SH_C0 = 0.28209479177387814  # sqrt(1 / 4π)
SH_C1 = 0.4886025119029199  # sqrt(3 / 4π)
SH_C2 = (
    1.0925484305920792,  # sqrt(15 / 4π)
    -1.0925484305920792,
    0.31539156525252005,  # sqrt(5 / 16π)
    -1.0925484305920792,
    0.5462742152960396,  # sqrt(15 / 16π)
)
SH_C3 = (
    -0.5900435899266435,  # sqrt(35 / 32π)
    2.890611442640554,  # sqrt(105 / 4π)
    -0.4570457994644658,  # sqrt(21 / 32π)
    0.3731763325901154,  # sqrt(7 / 16π)
    -0.4570457994644658,
    1.445305721320277,  # sqrt(105 / 16π)
    -0.5900435899266435,
)


def sh_basis(directions: NDArray[np.floating], degree: int) -> NDArray[np.float64]:
    """Values of the (degree + 1)² basis functions for unit directions.

    Args:
        directions: [..., 3] unit vectors.
        degree: 0 to 3.

    Returns:
        [..., (degree + 1)²] float64.
    """
    d = np.asarray(directions, dtype=np.float64)
    x, y, z = d[..., 0], d[..., 1], d[..., 2]
    basis = [np.full(x.shape, SH_C0)]
    if degree >= 1:
        basis += [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    if degree >= 2:
        basis += [
            SH_C2[0] * x * y,
            SH_C2[1] * y * z,
            SH_C2[2] * (2 * z * z - x * x - y * y),
            SH_C2[3] * x * z,
            SH_C2[4] * (x * x - y * y),
        ]
    if degree >= 3:
        basis += [
            SH_C3[0] * y * (3 * x * x - y * y),
            SH_C3[1] * x * y * z,
            SH_C3[2] * y * (4 * z * z - x * x - y * y),
            SH_C3[3] * z * (2 * z * z - 3 * x * x - 3 * y * y),
            SH_C3[4] * x * (4 * z * z - x * x - y * y),
            SH_C3[5] * z * (x * x - y * y),
            SH_C3[6] * x * (x * x - 3 * y * y),
        ]
    return np.stack(basis, axis=-1)


def rgb_to_sh0(rgb: NDArray[np.floating]) -> NDArray[np.floating]:
    """Degree-0 coefficient whose constant colour is ``rgb`` (both [..., 3])."""
    return (rgb - 0.5) / SH_C0


def sh0_to_rgb(sh0: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colour of a degree-0 coefficient (both [..., 3]), not clamped."""
    return sh0 * SH_C0 + 0.5
