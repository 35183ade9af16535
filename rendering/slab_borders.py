"""Borders of slabs that stay where they are as long as they will do.

Where each slab's chunks are in a memory of their own, a border that moves has chunks loaded on one
side of it. So a border is a point of the world, straight ahead of the camera, and keeps its place
while the shares on both sides are about what they should be: of a camera that goes ahead, or looks
about a little, nothing but what comes into view has to be loaded. In the end it moves in one go.

Where it should be is where devices end together, unless a memory has no room for as much: then it
is where all has room.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rendering.depth_slabs import DepthMasses, Slab, slabs_between
from rendering.drawable import Outlook
from splat.camera import Camera, CameraModel, Float64Array

SLACK = 0.1  # of all Gaussians: how far from its share a border may be
USABLE = 0.9  # of a memory's room: chunks that a border cuts are on both sides
MOST_VIEWS = 64  # the ones not drawn for longest are forgotten

_View = tuple[str, int]


class SlabBorders:
    """The borders of each client's pictures, each eye's by themselves. Safe to call from several
    threads at once."""

    def __init__(self) -> None:
        self._points: dict[_View, list[Float64Array]] = {}  # the last drawn view last
        self._lock = threading.Lock()

    def slabs(
        self,
        client: str,
        eye: int,
        camera: Camera,
        outlook: Outlook,
        ends: Sequence[float],
    ) -> tuple[Slab | None, ...]:
        """The slabs of a view, near to far; None for one in which nothing is left.

        Args:
            outlook: What will be drawn.
            ends: Where borders should be: shares of the Gaussians that are nearer, ascending.
        """
        masses, most = outlook.parts.masses(camera), USABLE * outlook.share
        # Where there is too little memory for all of it anyway, no slab is too much.
        limit = outlook.share if most * (len(ends) + 1) > 1.0 else 1.0
        if not len(masses.depths):
            return (Slab(camera.near, camera.far), *[None] * len(ends))
        with self._lock:
            before = self._points.pop((client, eye), [])
        depths, ends = [depth_of(camera, point) for point in before], within(ends, most)
        if not will_do(depths, masses, ends, limit):
            depths = [float(masses.depth_at(end)) for end in ends]
        with self._lock:
            self._points[client, eye] = [point_at(camera, depth) for depth in depths]
            while len(self._points) > MOST_VIEWS:
                del self._points[next(iter(self._points))]
        borders = [np.float32(depth) for depth in depths]
        shares = [masses.share_below(border) for border in borders]
        return slabs_between(camera, borders, [0.0, *shares, 1.0])


def within(ends: Sequence[float], most: float) -> list[float]:
    """Borders as near to these as leaves no slab more than such a share; even ones, if that cannot
    be."""
    slabs = len(ends) + 1
    if most * slabs <= 1.0:
        return [(place + 1) / slabs for place in range(len(ends))]
    out = list(ends)
    for place in range(len(out)):
        out[place] = min(out[place], (out[place - 1] if place else 0.0) + most)
    for place in reversed(range(len(out))):
        out[place] = max(out[place], (out[place + 1] if place + 1 < len(out) else 1.0) - most)
    return out


def will_do(
    depths: Sequence[float], masses: DepthMasses, ends: Sequence[float], most: float
) -> bool:
    """Whether borders at these depths are about where they should be, and no slab is too much.

    Args:
        most: The share that a slab may be.
    """
    if len(depths) != len(ends) or list(depths) != sorted(depths):
        return False
    shares = [masses.share_below(depth) for depth in depths]
    largest = max(high - low for low, high in pairwise([0.0, *shares, 1.0]))
    return largest <= most and all(
        abs(share - end) <= SLACK for share, end in zip(shares, ends, strict=True)
    )


def depth_of(camera: Camera, point: Float64Array) -> float:
    """A point's depth, as of a Gaussian."""
    offset = point - camera.position
    if camera.model is CameraModel.FISHEYE:
        return math.hypot(*offset.tolist())
    return float(offset @ camera.forward)


def point_at(camera: Camera, depth: float) -> Float64Array:
    """The point straight ahead at a depth."""
    point: Float64Array = camera.position + depth * camera.forward
    return point
