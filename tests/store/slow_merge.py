"""Merging as in ``scene_store/native/src`` (cluster.cpp, merge.cpp), in plain float64 numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from splat.gaussians import Gaussians

Float64Array = NDArray[np.float64]

WEIGHT_FOOTPRINT, SHAPE_FOOTPRINT = 1.0, 0.03
ORIGINAL_OPACITY_FOOTPRINT, MERGED_OPACITY_FOOTPRINT = 0.12, 0.02
MIN_OPACITY, MAX_OPACITY = 1e-6, 8.0
MAX_GROWTH, EVEN_KURTOSIS, PEAKED_KURTOSIS, TRANSLUCENT, OPAQUE = 3.0, 0.75, 0.97, 3.0, 6.0
FLATNESS, COLOR_WEIGHT, COLOR_OF_SH0 = 0.02, 5.0, 0.28209479


class Footprints(NamedTuple):
    """What Gaussians are thought to be widened by, world units²."""

    weight: float
    opacity: float
    shape: float


def rotation_matrices(quats: NDArray[np.floating]) -> Float64Array:
    """[N, 3, 3] of unit quaternions wxyz."""
    w, x, y, z = quats.T.astype(np.float64)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrices: Float64Array = np.moveaxis(np.array(rows), 2, 0)
    return matrices


def covariances(gaussians: Gaussians) -> Float64Array:
    """[N, 3, 3]."""
    axes = rotation_matrices(gaussians.quats) * gaussians.scales[:, None, :].astype(np.float64)
    matrices: Float64Array = np.einsum("nij,nkj->nik", axes, axes)
    return matrices


def areas(matrices: Float64Array, footprint: float) -> Float64Array:
    """[N] root of the mean square of the projected area over all directions."""
    widened = matrices + footprint * np.eye(3)
    traces = np.trace(widened, axis1=1, axis2=2)
    squares = np.einsum("nij,nji->n", widened, widened)
    means: Float64Array = 2 * np.pi * np.sqrt((traces**2 - squares) / 2 / 3)
    return means


def footprints(gaussians: Gaussians, target: int, *, original: bool = True) -> Footprints:
    """For weights, for opacity mass, and for the cost of a pair."""
    masses = np.sort(gaussians.opacities * areas(covariances(gaussians), 0.0))
    count = len(gaussians)
    squared_spacing = masses[count // 2] * count / target / (2 * np.pi)
    opacity = ORIGINAL_OPACITY_FOOTPRINT if original else MERGED_OPACITY_FOOTPRINT
    shares = (WEIGHT_FOOTPRINT, opacity, SHAPE_FOOTPRINT)
    return Footprints(*(share * squared_spacing for share in shares))


def weights(gaussians: Gaussians, footprint: float) -> Float64Array:
    """[N] opacity · area."""
    opacities = np.maximum(gaussians.opacities.astype(np.float64), MIN_OPACITY)
    return opacities * areas(covariances(gaussians), footprint)


def fourth_moments(d: Float64Array, sigma: Float64Array) -> Float64Array:
    """[3, 3, 3, 3] E x⊗x⊗x⊗x of x ~ N(d, Σ) (Isserlis, 1918)."""
    both = np.outer(d, d) + sigma
    pairs = (
        np.einsum("ij,kl->ijkl", both, both)
        + np.einsum("ik,jl->ijkl", both, both)
        + np.einsum("il,jk->ijkl", both, both)
    )
    moments: Float64Array = pairs - 2 * np.einsum("i,j,k,l->ijkl", d, d, d, d)
    return moments


def kurtosis(share: Float64Array, d: Float64Array, sigma: Float64Array) -> float:
    """Mardia's, of a mixture about its mean, relative to a Gaussian's of the same moments."""
    matrix = np.einsum("n,nij->ij", share, sigma + np.einsum("ni,nj->nij", d, d))
    inverse = np.linalg.inv(matrix + 1e-4 * np.trace(matrix) * np.eye(3))
    mixture = sum(a * fourth_moments(m, s) for a, m, s in zip(share, d, sigma, strict=True))
    values = [
        np.einsum("ijkl,ij,kl->", moments, inverse, inverse)
        for moments in (mixture, fourth_moments(np.zeros(3), matrix))
    ]
    return float(values[0] / values[1])


def growth(relative_kurtosis: float, opacity: float) -> float:
    """Of the covariance of a merged Gaussian that would have ``opacity`` without."""
    even = np.interp(relative_kurtosis, [EVEN_KURTOSIS, PEAKED_KURTOSIS], [1.0, 0.0])
    translucent = np.interp(opacity, [TRANSLUCENT, OPAQUE], [1.0, 0.0])
    return float(1 + (MAX_GROWTH - 1) * even * translucent)


def merged(
    gaussians: Gaussians, labels: NDArray[np.uint32], target: int, *, original: bool = True
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Means [T, 3], covariances [T, 3, 3], opacities [T] and harmonics [T, K, 3]."""
    footprint = footprints(gaussians, target, original=original)
    w, masses = weights(gaussians, footprint.weight), weights(gaussians, footprint.opacity)
    sigma = covariances(gaussians)
    means, matrices, opacities, sh = [], [], [], []
    for label in range(target):
        members = np.flatnonzero(labels == label)
        share = w[members] / w[members].sum()
        mean = share @ gaussians.means[members].astype(np.float64)
        d = gaussians.means[members] - mean
        spread = sigma[members] + np.einsum("ni,nj->nij", d, d)
        matrix = np.einsum("n,nij->ij", share, spread)
        mass = masses[members].sum()
        alone = mass / areas(matrix[None], footprint.opacity)[0]
        matrix = matrix * growth(kurtosis(share, d, sigma[members]), alone)
        area = areas(matrix[None], footprint.opacity)[0]
        means.append(mean)
        matrices.append(matrix)
        opacities.append(np.clip(mass / area, MIN_OPACITY, MAX_OPACITY))
        sh.append(np.einsum("n,nkc->kc", share, gaussians.sh[members].astype(np.float64)))
    return np.array(means), np.array(matrices), np.array(opacities), np.array(sh)


def color_variances(
    gaussians: Gaussians, before: NDArray[np.floating], labels: NDArray[np.uint32], target: int
) -> Float64Array:
    """[T] weighted mean square of the difference to the merged colour, over all channels, and
    of what the merged ones differed ``before``."""
    w = weights(gaussians, footprints(gaussians, target).weight)
    colors = gaussians.sh[:, 0].astype(np.float64) * COLOR_OF_SH0
    out = []
    for label in range(target):
        members = np.flatnonzero(labels == label)
        share = w[members] / w[members].sum()
        squares = ((colors[members] - share @ colors[members]) ** 2).sum(axis=1)
        out.append(share @ (squares + before[members]))
    return np.array(out)


def pair_cost(gaussians: Gaussians, w: Float64Array, footprint: float, i: int, j: int) -> float:
    """Runnalls' bound of widened covariances of limited flatness, and the spread of colours."""
    pair = np.array([i, j])
    sigma, means = covariances(gaussians[pair]), gaussians.means[pair].astype(np.float64)
    colors = gaussians.sh[pair, 0].astype(np.float64) * COLOR_OF_SH0
    a = w[pair] / w[pair].sum()
    d, dc = means[1] - means[0], colors[1] - colors[0]
    both = a[0] * sigma[0] + a[1] * sigma[1] + a[0] * a[1] * np.outer(d, d)
    flat = (FLATNESS * np.trace(both) + footprint) * np.eye(3)
    logs = [np.linalg.slogdet(matrix + flat)[1] for matrix in (both, *sigma)]
    shape = 0.5 * (w[i] * (logs[0] - logs[1]) + w[j] * (logs[0] - logs[2]))
    return float(shape + COLOR_WEIGHT * w[pair].sum() * a[0] * a[1] * (dc @ dc))
