"""The cells of the Z-curve along which a whole scene is sorted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.loading import LARGEST_LENGTH
from scene_store.morton import MAX_BITS_PER_AXIS
from scene_store.native import _store
from splat.gaussians import Float32Array

Codes = NDArray[np.uint64]

_OUTLIERS = 0.002  # on each side; they share the outermost cells


@dataclass(frozen=True, slots=True)
class MortonGrid:
    """2²¹ cubic cells along each axis.

    Attributes:
        corner: Of the first cell, world coordinates.
        cells_per_unit: 0 where everything is in one place.
    """

    corner: tuple[float, float, float]
    cells_per_unit: float

    @classmethod
    def around(cls, means: Float32Array) -> MortonGrid:
        """A grid over twice the robust extent of some means [N, 3]; unusable ones are ignored."""
        with np.errstate(invalid="ignore"):
            usable = (np.abs(means) <= LARGEST_LENGTH).all(axis=1)
        points = means[usable].astype(np.float64)
        if len(points) == 0:
            return cls((0.0, 0.0, 0.0), 0.0)
        low, high = np.quantile(points, (_OUTLIERS, 1 - _OUTLIERS), axis=0)
        extent = 2 * float((high - low).max())
        x, y, z = ((low + high) / 2 - extent / 2).tolist()
        scale = (1 << MAX_BITS_PER_AXIS) / extent if extent > 0 else 0.0
        return cls((x, y, z), scale if np.isfinite(scale) else 0.0)

    def codes(self, means: Float32Array) -> Codes:
        """[N] uint64 keys along the Z-curve; means outside share the outermost cells."""
        out = np.empty(len(means), np.uint64)
        _store.morton_codes(
            np.ascontiguousarray(means, np.float32), self.corner, self.cells_per_unit, out
        )
        return out


def sort_order(codes: Codes) -> NDArray[np.uint32]:
    """Indices that sort the codes; equal ones keep their order."""
    order = np.empty(len(codes), np.uint32)
    _store.sort_by_code(codes, order)
    return order
