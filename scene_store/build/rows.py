"""Gaussians as rows of float32: what is moved about and written to bucket files."""

from __future__ import annotations

import numpy as np

from scene_store.loading import SMALLEST_SCALE, usable_gaussians
from splat.gaussians import SH_COUNT_OF_DEGREE, Float32Array, Gaussians

# Of the harmonics: a pixel is as bright as can be even by 1/255 of it, which is the faintest that
# is drawn. Quantized beside anything larger, the colours of a whole chunk would be lost.
_BRIGHTEST = np.float32(1 << 14)
_GEOMETRY = 11  # mean 3, quaternion 4, scales 3, opacity 1


def row_width(sh_degree: int) -> int:
    """Values of a row."""
    return _GEOMETRY + 3 * SH_COUNT_OF_DEGREE[sh_degree]


def row_bytes(sh_degree: int) -> int:
    """Bytes of a row."""
    return 4 * row_width(sh_degree)


def usable_rows(gaussians: Gaussians, sh_degree: int) -> Float32Array:
    """Those that can be drawn, cleaned as ``loading.load_scene`` does, as rows [M, width].

    Harmonics above ``sh_degree`` are left out, missing ones are zero; what is brighter than any
    pixel can show is as bright as that.
    """
    usable = usable_gaussians(gaussians)
    kept = gaussians if usable is None else gaussians[usable]
    rows = to_rows(kept, sh_degree)
    np.maximum(rows[:, 7:10], SMALLEST_SCALE, out=rows[:, 7:10])
    np.clip(rows[:, 10], 0.0, 1.0, out=rows[:, 10])
    harmonics = rows[:, _GEOMETRY:]
    if harmonics.max(initial=0.0) > _BRIGHTEST or harmonics.min(initial=0.0) < -_BRIGHTEST:
        np.clip(harmonics, -_BRIGHTEST, _BRIGHTEST, out=harmonics)
    return rows


def to_rows(gaussians: Gaussians, sh_degree: int) -> Float32Array:
    """[N, width] float32."""
    rows = np.empty((len(gaussians), row_width(sh_degree)), np.float32)
    rows[:, 0:3] = gaussians.means
    rows[:, 3:7] = gaussians.quats
    rows[:, 7:10] = gaussians.scales
    rows[:, 10] = gaussians.opacities
    values = 3 * min(gaussians.sh.shape[1], SH_COUNT_OF_DEGREE[sh_degree])
    rows[:, _GEOMETRY : _GEOMETRY + values] = _flat(gaussians.sh)[:, :values]
    rows[:, _GEOMETRY + values :] = 0.0
    return rows


def from_rows(rows: Float32Array) -> Gaussians:
    """The Gaussians of rows [N, width], in arrays of their own."""
    return Gaussians(
        rows[:, 0:3].copy(),
        rows[:, 3:7].copy(),
        rows[:, 7:10].copy(),
        rows[:, 10].copy(),
        rows[:, _GEOMETRY:].reshape(len(rows), (rows.shape[1] - _GEOMETRY) // 3, 3),
    )


def means_and_opacities(rows: Float32Array) -> Float32Array:
    """[N, 4] of rows [N, width]."""
    return rows[:, [0, 1, 2, 10]]


def _flat(sh: Float32Array) -> Float32Array:
    return sh.reshape(len(sh), 3 * sh.shape[1])
