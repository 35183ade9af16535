"""Small scenes made on the spot, and how to compare what is read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scene_store.scene import SceneSource
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians
from splat.harmonics import rgb_to_sh0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest differences that a format's quantization allows.

    ``means`` in world units, ``log_scales`` natural, ``angle`` in degrees.
    """

    means: float = 1e-6
    log_scales: float = 1e-5
    opacities: float = 1e-6
    sh0: float = 1e-6
    rest: float = 1e-6
    angle: float = 0.1


def random_gaussians(count: int, sh_degree: int, seed: int = 0) -> Gaussians:
    """Plausible Gaussians: a few metres of scene with displayable base colours."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    sh = np.zeros((count, SH_COUNT_OF_DEGREE[sh_degree], 3))
    sh[:, 0] = rgb_to_sh0(rng.uniform(0.02, 0.98, (count, 3)))
    sh[:, 1:] = rng.uniform(-0.4, 0.4, sh[:, 1:].shape)
    return Gaussians(
        rng.uniform(-4.0, 4.0, (count, 3)).astype(np.float32),
        (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        np.exp(rng.uniform(-7.0, -1.0, (count, 3))).astype(np.float32),
        rng.uniform(0.02, 0.98, count).astype(np.float32),
        sh.astype(np.float32),
    )


def read_all(source: SceneSource, max_count: int = 1 << 16) -> Gaussians:
    """All of a source in one piece."""
    return Gaussians.concatenate(list(source.batches(max_count)))


def copy_of(g: Gaussians) -> Gaussians:
    """The same values in arrays of their own."""
    arrays = (g.means, g.quats, g.scales, g.opacities, g.sh)
    means, quats, scales, opacities, sh = (array.copy() for array in arrays)
    return Gaussians(means, quats, scales, opacities, sh)


def angles_deg(a: Gaussians, b: Gaussians) -> np.ndarray:
    """[N] angle between the rotations, degrees; q and −q are the same rotation."""
    dots = np.abs(np.einsum("ij,ij->i", a.quats.astype(np.float64), b.quats.astype(np.float64)))
    out: np.ndarray = np.degrees(2 * np.arccos(np.minimum(dots, 1.0)))
    return out


def assert_close(actual: Gaussians, expected: Gaussians, tolerance: Tolerance) -> None:
    """Compares Gaussian by Gaussian; harmonics up to the lower of the degrees."""
    assert len(actual) == len(expected)
    bases = min(actual.sh.shape[1], expected.sh.shape[1])
    differences = {
        "means": np.abs(actual.means - expected.means).max(),
        "log_scales": np.abs(np.log(actual.scales) - np.log(expected.scales)).max(),
        "opacities": np.abs(actual.opacities - expected.opacities).max(),
        "sh0": np.abs(actual.sh[:, 0] - expected.sh[:, 0]).max(),
        "rest": np.abs(actual.sh[:, 1:bases] - expected.sh[:, 1:bases]).max(initial=0.0),
        "angle": angles_deg(actual, expected).max(),
    }
    beyond = {
        name: float(value)
        for name, value in differences.items()
        if not value <= getattr(tolerance, name)
    }
    assert not beyond, f"beyond {tolerance}: {beyond}"


def assert_identical(actual: Gaussians, expected: Gaussians) -> None:
    """Bit for bit."""
    for name in ("means", "quats", "scales", "opacities", "sh"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), name)


def turned_about_x(gaussians: Gaussians) -> Gaussians:
    """The scene turned by 180° about x: y and z change sign, up becomes down.

    A basis function changes sign with each odd power of y and z in it together.
    """
    sign = np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)
    return Gaussians(
        gaussians.means * np.array([1, -1, -1], np.float32),
        # q ↦ x q x⁻¹; the Gaussian itself is symmetric under the turn.
        gaussians.quats * np.array([1, 1, -1, -1], np.float32),
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh * sign[: gaussians.sh.shape[1], None],
    )


def nearest_rows(actual: Gaussians, expected: Gaussians) -> np.ndarray:
    """For each actual Gaussian the index of the expected one most like it."""

    def features(g: Gaussians) -> np.ndarray:
        return np.concatenate([g.means * 20, g.sh[:, 0], g.opacities[:, None]], axis=1)

    wanted = features(expected)
    squares = np.einsum("ij,ij->i", wanted, wanted)
    found = [
        np.argmin(squares - 2 * (block @ wanted.T), axis=1)
        for block in np.array_split(features(actual).astype(np.float64), len(actual) // 256 + 1)
    ]
    return np.concatenate(found)
