"""Surfaces that others have drawn, for rays to pass through (``rendering.models.mixed``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def runs(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of runs, one after the other: of each its first index and their number."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    places: NDArray[np.int64] = np.arange(total) + np.repeat(first - (ends - counts), counts)
    return places


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """What covers pixels at a depth, as samples of their rays.

    Attributes:
        ray: [N] int32, ascending: index of the pixel, or of the ray in a wave.
        depth: [N] float32, ascending in each ray.
        alpha: [N] float32, in (0, 1].
        color: [3, N] float32, not premultiplied.
    """

    ray: NDArray[np.int32]
    depth: Float32Array
    alpha: Float32Array
    color: Float32Array

    def __len__(self) -> int:
        return len(self.ray)

    def of_pixels(self, pixels: NDArray[np.int64]) -> Fragments:
        """Those of some pixels [R], by their place in that list."""
        first = np.searchsorted(self.ray, pixels, side="left")
        counts = np.searchsorted(self.ray, pixels, side="right") - first
        places = runs(first, counts)
        ray = np.repeat(np.arange(len(pixels), dtype=np.int32), counts)
        color = np.ascontiguousarray(self.color[:, places])
        return Fragments(ray, self.depth[places], self.alpha[places], color)
