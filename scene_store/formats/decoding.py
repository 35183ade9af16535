"""Arithmetic that several formats share, on whole arrays.

Everything returns float32 and lets non-finite numbers through: what is drawn and what is
dropped is decided once, in ``scene_store.loading``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splat.gaussians import SH_COUNT_OF_DEGREE, Float32Array

SQRT_HALF = np.float32(0.70710678118654752)


def sigmoid(logits: NDArray[np.floating]) -> Float32Array:
    """1 / (1 + e^−x); an infinite logit gives exactly 0 or 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        out: Float32Array = np.exp(-logits, dtype=np.float32)
    out += 1.0
    return np.reciprocal(out, out=out)


def exponential(values: NDArray[np.floating]) -> Float32Array:
    """e^x; overflows to infinity without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        out: Float32Array = np.exp(values, dtype=np.float32)
    return out


def normalized(quats: Float32Array) -> Float32Array:
    """[N, 4] quaternions divided by their length, in place; a zero one becomes NaN."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        length = np.sqrt(np.einsum("ij,ij->i", quats, quats))
        # Squares of very large or very small components leave float32's range.
        odd = ~((length > 1e-15) & (length < 1e15))
        if odd.any():
            wide = quats[odd].astype(np.float64)
            quats[odd] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
            length[odd] = 1.0
        quats /= length[:, None]
    return quats


def quats_from_three(largest: NDArray[np.integer], three: Float32Array) -> Float32Array:
    """Quaternions from their three smaller components (in order) and a unit length.

    Args:
        largest: [N] position (0 to 3) of the component left out, which is positive.
        three: [N, 3] the others, in order.

    Returns:
        [N, 4] unit quaternions, components in the order that the positions refer to.
    """
    squares = np.einsum("ij,ij->i", three, three)
    rest = np.sqrt(np.maximum(np.float32(1.0) - squares, 0.0))
    out = np.empty((len(three), 4), np.float32)
    # Component c is the rest where c == largest, else three[c] or, past it, three[c - 1].
    for c in range(4):
        column = out[:, c]
        if c < 3:
            column[...] = three[:, c]
        if c > 0:
            np.copyto(column, three[:, c - 1], where=largest < c)
        np.copyto(column, rest, where=largest == c)
    # Encoders may store three components that are already longer than one.
    too_long = squares > 1.0
    if too_long.any():
        out[too_long] /= np.sqrt(squares[too_long])[:, None]
    return out


def sh_degree_of_rest(coefficients: int) -> int | None:
    """Degree of a set with this many coefficients above degree 0; None if there is none."""
    bases = coefficients + 1
    return SH_COUNT_OF_DEGREE.index(bases) if bases in SH_COUNT_OF_DEGREE else None
