"""A view cut into slabs of depth: every Gaussian is in exactly one. Pure.

A Gaussian has one depth, a float32 (``rendering.base``), whatever its size. Cutting [near, far]
into intervals that touch and do not overlap thus divides the scene, and the pictures of the slabs,
composited front to back, are the picture of the whole (``rendering.layers``): sort-last rendering
(Molnar et al. 1994) without any Gaussian being drawn twice or in the wrong order.

Where to cut is measured (``rendering.part_costs``). Slabs of equally many Gaussians do not take
equally long: near ones cover more pixels, and what would be hidden in the whole picture is drawn in
a slab behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rendering.part_costs import PartCosts
from splat.camera import Camera, Float64Array

ROUNDING = 1e-12  # of sums of shares


@dataclass(frozen=True, slots=True)
class Slab:
    """An interval of depth, both ends in it.

    Attributes:
        near, far: World units; as ``Camera.near`` and ``far`` they are rounded to float32.
        masses: Shares of the Gaussians that are nearer than the slab, and than its far end.
    """

    near: float
    far: float
    masses: tuple[float, float] = (0.0, 1.0)

    def seen_by(self, camera: Camera) -> Camera:
        """The camera that sees this slab alone."""
        return replace(camera, near=self.near, far=self.far)


@dataclass(frozen=True, slots=True, eq=False)
class DepthMasses:
    """How much there is to draw, by depth.

    Attributes:
        depths: [M] float64, ascending.
        below: [M] float64 in (0, 1], the share of all that is not further than each.
    """

    depths: Float64Array
    below: Float64Array

    @classmethod
    def of(cls, depths: Float64Array, masses: Float64Array) -> DepthMasses:
        """Of points [M] in any order, with their masses [M], not all 0; perhaps none."""
        order = np.argsort(depths, kind="stable")
        below = np.cumsum(masses[order])
        return cls(depths[order], below / below[-1] if len(below) else below)

    def depth_at(self, mass: float) -> np.float32:
        """The depth of a point such that about such a share is nearer."""
        at = int(np.searchsorted(self.below, mass - ROUNDING)) + 1
        depth: np.float32 = self.depths[min(at, len(self.depths) - 1)].astype(np.float32)
        return depth

    def share_below(self, depth: float | np.float32) -> float:
        """The share that is nearer than a depth."""
        nearer = int(np.searchsorted(self.depths, depth))
        return float(self.below[nearer - 1]) if nearer else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class DepthNeeds:
    """How much a memory must have for a slab: all parts of which anything is in it. A part that a
    border cuts is thus needed on both sides.

    Attributes:
        nears, fars: [P] float64, each ascending: where parts begin, and where they end.
        begun, ended: [P] float64 in (0, 1], shares of all that begin, and that end, no further.
    """

    nears: Float64Array
    begun: Float64Array
    fars: Float64Array
    ended: Float64Array

    @classmethod
    def of(cls, low: Float64Array, high: Float64Array, masses: Float64Array) -> DepthNeeds:
        """Of parts from ``low`` to ``high`` [P] in any order, with their masses [P], not all 0;
        perhaps none."""
        starts, stops = DepthMasses.of(low, masses), DepthMasses.of(high, masses)
        return cls(starts.depths, starts.below, stops.depths, stops.below)

    def between(self, near: float, far: float) -> float:
        """The share that is needed from a depth, included, to another one, not included."""
        first, last = int(np.searchsorted(self.fars, near)), int(np.searchsorted(self.nears, far))
        begun = self.begun[last - 1] if last else 0.0
        return float(begun - (self.ended[first - 1] if first else 0.0))

    def furthest(self, near: float, most: float) -> float:
        """How far a slab from this depth may go for it to need no more than such a share; a
        float32."""
        first = int(np.searchsorted(self.fars, near))
        over = most + (self.ended[first - 1] if first else 0.0)
        at = int(np.searchsorted(self.begun, over + ROUNDING, side="right"))
        return _rounded(self.nears[at], -math.inf) if at < len(self.nears) else math.inf

    def nearest(self, far: float, most: float) -> float:
        """How near a slab up to this depth may begin for it to need no more than such a share; a
        float32."""
        last = int(np.searchsorted(self.nears, far))
        over = (self.begun[last - 1] if last else 0.0) - most
        at = int(np.searchsorted(self.ended, over - ROUNDING))
        if over <= ROUNDING:
            return -math.inf
        return _rounded(math.nextafter(float(self.fars[at]), math.inf), math.inf)


def cut_in_slabs(
    camera: Camera, masses: DepthMasses, costs: PartCosts, shares: Sequence[float]
) -> tuple[Slab | None, ...]:
    """The slabs of a view, near to far; None for one in which no depth is left.

    Args:
        masses: What the camera sees.
        shares: Ends of the slabs but the last, ascending: shares of the cost.
    """
    if not len(masses.depths):
        return (Slab(camera.near, camera.far), *[None] * len(shares))
    ends = costs.cuts(shares)
    borders = [masses.depth_at(end) for end in ends]
    return slabs_between(camera, borders, [0.0, *ends, 1.0])


def slabs_between(
    camera: Camera, borders: Sequence[np.float32], masses: Sequence[float]
) -> tuple[Slab | None, ...]:
    """Slabs from border to border; a Gaussian exactly on one belongs to the further slab.

    Args:
        borders: Ascending float32; outside of the camera's range they leave slabs empty.
        masses: One more than there are slabs.
    """
    near, far = np.float32(camera.near), np.float32(camera.far)
    firsts = [near, *(max(border, near) for border in borders)]
    lasts = [*(min(np.nextafter(b, np.float32(-np.inf)), far) for b in borders), far]
    return tuple(
        _slab(camera, first, last, (masses[i], masses[i + 1]))
        for i, (first, last) in enumerate(zip(firsts, lasts, strict=True))
    )


def _slab(
    camera: Camera, first: np.float32, last: np.float32, masses: tuple[float, float]
) -> Slab | None:
    """From a float32 to another one, both included, as numbers that a camera takes."""
    if first > last:
        return None
    # The camera's own numbers where they are meant: they need not be float32.
    near = camera.near if first == np.float32(camera.near) else float(first)
    far = camera.far if last == np.float32(camera.far) else float(last)
    # A slab of a single float32 has a far end that is rounded to its near one.
    return Slab(near, far if far > near else math.nextafter(near, math.inf), masses)


def _rounded(depth: float, towards: float) -> float:
    """To a float32, in a direction."""
    nearest = np.float32(depth)
    beyond = float(nearest) > depth if towards < 0 else float(nearest) < depth
    return float(np.nextafter(nearest, np.float32(towards)) if beyond else nearest)


def spread(low: Float64Array, high: Float64Array, masses: Float64Array) -> DepthMasses:
    """Masses that are spread evenly over intervals of depth [M], as points."""
    at = np.array([0.125, 0.375, 0.625, 0.875])
    points = low[:, None] + (high - low)[:, None] * at
    weights: NDArray[np.float64] = np.repeat(masses / len(at), len(at))
    return DepthMasses.of(points.ravel(), weights)
