"""Borders of slabs that stay where they are as long as they will do.

Where each slab's chunks are in a memory of their own, a border that moves has chunks loaded on one
side of it. So a border is a point of the world, straight ahead of the camera, and keeps its place
while the shares on both sides are about what they should be: of a camera that goes ahead, or looks
about a little, nothing but what comes into view has to be loaded. In the end it moves in one go.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from rendering.depth_slabs import DepthMasses, Slab, slabs_between
from splat.camera import Camera, CameraModel, Float64Array

SLACK = 0.1  # of all Gaussians: how far from its share a border may be
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
        masses: DepthMasses,
        ends: Sequence[float],
    ) -> tuple[Slab | None, ...]:
        """The slabs of a view, near to far; None for one in which nothing is left.

        Args:
            masses: What the camera sees when everything is there.
            ends: Where borders should be: shares of the Gaussians that are nearer, ascending.
        """
        if not len(masses.depths):
            return (Slab(camera.near, camera.far), *[None] * len(ends))
        with self._lock:
            before = self._points.pop((client, eye), [])
        depths = [depth_of(camera, point) for point in before]
        if not will_do(depths, masses, ends):
            depths = [float(masses.depth_at(end)) for end in ends]
        with self._lock:
            self._points[client, eye] = [point_at(camera, depth) for depth in depths]
            while len(self._points) > MOST_VIEWS:
                del self._points[next(iter(self._points))]
        borders = [np.float32(depth) for depth in depths]
        shares = [masses.share_below(border) for border in borders]
        return slabs_between(camera, borders, [0.0, *shares, 1.0])


def will_do(depths: Sequence[float], masses: DepthMasses, ends: Sequence[float]) -> bool:
    """Whether borders at these depths are about where they should be."""
    if len(depths) != len(ends) or list(depths) != sorted(depths):
        return False
    return all(
        abs(masses.share_below(depth) - end) <= SLACK
        for depth, end in zip(depths, ends, strict=True)
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
