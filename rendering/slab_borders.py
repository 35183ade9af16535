"""Borders of slabs that stay where they are as long as they will do.

Where each slab's chunks are in a memory of their own, a border that moves has chunks loaded on one
side of it. So a border is a point of the world, straight ahead of the camera, and keeps its place
while the shares on both sides are about what they should be: of a camera that goes ahead, or looks
about a little, nothing but what comes into view has to be loaded. In the end it moves in one go.

Where it should be is where devices end together, unless a memory has no room for as much: then it
is where all has room. Chunks that a border cuts are needed on both sides, so what a slab needs is
counted from the chunks, not from its share of the Gaussians.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from rendering.depth_slabs import ROUNDING, DepthMasses, DepthNeeds, Slab, slabs_between
from rendering.drawable import Outlook
from splat.camera import Camera, CameraModel, Float64Array

SLACK = 0.1  # of all Gaussians: how far from its share a border may be
# Of a memory's room: what a border that is set leaves free, for the camera to go on a while before
# the border has to be set again.
USABLE = 0.92
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
        masses = outlook.parts.masses(camera)
        if not len(masses.depths):
            return (Slab(camera.near, camera.far), *[None] * len(ends))
        with self._lock:
            before = self._points.pop((client, eye), [])
        depths = [depth_of(camera, point) for point in before]
        wanted, fits = _where(camera, masses, outlook, ends)
        shares = [masses.share_below(depth) for depth in wanted]
        if not (will_do(depths, masses, shares) and fits(depths)):
            depths = wanted
        with self._lock:
            self._points[client, eye] = [point_at(camera, depth) for depth in depths]
            while len(self._points) > MOST_VIEWS:
                del self._points[next(iter(self._points))]
        borders = [np.float32(depth) for depth in depths]
        shares = [masses.share_below(border) for border in borders]
        return slabs_between(camera, borders, [0.0, *shares, 1.0])


def _where(
    camera: Camera, masses: DepthMasses, outlook: Outlook, ends: Sequence[float]
) -> tuple[list[float], Callable[[Sequence[float]], bool]]:
    """Where borders should be, and whether memories have room for what others would leave them."""
    wanted = [float(masses.depth_at(end)) for end in ends]
    if outlook.share >= 1.0:  # one memory has room for all slabs together
        return wanted, lambda _: True
    needs = outlook.needed.needs(camera)
    room = with_room(wanted, needs, USABLE * outlook.share)
    if room is None:
        slabs = len(ends) + 1
        return [float(masses.depth_at((i + 1) / slabs)) for i in range(len(ends))], lambda _: True
    return room, lambda depths: _largest(depths, needs) <= outlook.share


def with_room(wanted: Sequence[float], needs: DepthNeeds, most: float) -> list[float] | None:
    """Borders as near to these depths as leaves no slab in need of more than such a share; None if
    that cannot be."""
    out: list[float] = []
    for depth in wanted:
        out.append(min(float(depth), needs.furthest(out[-1] if out else -math.inf, most)))
    after = math.inf
    for place in reversed(range(len(out))):
        after = out[place] = max(out[place], needs.nearest(after, most))
    return out if _largest(out, needs) <= most + ROUNDING else None


def _largest(depths: Sequence[float], needs: DepthNeeds) -> float:
    """What the slab needs that needs most."""
    return max(needs.between(*ends) for ends in pairwise([-math.inf, *depths, math.inf]))


def will_do(depths: Sequence[float], masses: DepthMasses, ends: Sequence[float]) -> bool:
    """Whether borders at these depths are about where they should be."""
    if len(depths) != len(ends) or list(depths) != sorted(depths):
        return False
    shares = [masses.share_below(depth) for depth in depths]
    return all(abs(share - end) <= SLACK for share, end in zip(shares, ends, strict=True))


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
