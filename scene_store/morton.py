"""Morton (Z-curve) order: neighbours in memory become neighbours in space.

Source: G. M. Morton, "A Computer Oriented Geodetic Data Base" (1966); bit spreading as in
"Bit Twiddling Hacks", 64 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splat.gaussians import Float32Array

Order = NDArray[np.uint32]

MAX_BITS_PER_AXIS = 21

# (shift, mask) that move bit i of 21 to bit 3i.
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)

_SAMPLES = 1 << 16
_OUTLIERS = 0.002  # on each side; they share the outermost cells
_BLOCK = 1 << 15  # points whose intermediate values stay in the cache


def morton_order(means: Float32Array) -> Order:
    """Indices [N] uint32 that sort finite points [N, 3] along the Z-curve.

    Cells are cubes over the robust extent of the points. Points of the same cell keep their
    order, so the result depends on nothing but the input.
    """
    count = len(means)
    if count == 0:
        return np.zeros(0, np.uint32)
    # Code and index share a word: sorting plain words is several times faster than
    # sorting indices by code, and makes every key unique.
    index_bits = np.uint64(max(1, (count - 1).bit_length()))
    bits = min(MAX_BITS_PER_AXIS, (64 - int(index_bits)) // 3)
    low, cells_per_unit = _grid(means, bits)
    keys = np.arange(count, dtype=np.uint64)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        keys[block] |= _codes(means[block], low, cells_per_unit, bits) << index_bits
    keys.sort()
    keys &= (np.uint64(1) << index_bits) - np.uint64(1)
    return keys.astype(np.uint32)


def _grid(means: Float32Array, bits: int) -> tuple[NDArray[np.float64], float]:
    """Corner of the first cell [3], and cells per world unit."""
    sample = means[:: max(1, len(means) // _SAMPLES)].astype(np.float64)
    low, high = np.quantile(sample, (_OUTLIERS, 1 - _OUTLIERS), axis=0)
    # Twice the extent leaves room for what the quantiles cut off.
    extent = 2 * float((high - low).max())
    corner = (low + high) / 2 - extent / 2
    return corner, (1 << bits) / extent if extent > 0 else 0.0


def _codes(
    points: Float32Array, low: NDArray[np.float64], cells_per_unit: float, bits: int
) -> NDArray[np.uint64]:
    cells = (points - low) * cells_per_unit
    np.clip(cells, 0, (1 << bits) - 1, out=cells)
    code = np.zeros(len(points), np.uint64)
    for axis in range(3):
        spread = cells[:, axis].astype(np.uint64)
        for shift, mask in _SPREAD:
            spread = (spread | spread << np.uint64(shift)) & np.uint64(mask)
        code |= spread << np.uint64(axis)
    return code
