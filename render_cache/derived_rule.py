"""How far frames may reuse what was decoded for others: the limits, the policy and the rule.

Neural anchors give other Gaussians from every point that they are seen from. From nearby points
they give nearly the same ones, so that a page of them may be drawn again for a few frames (Lu et
al., "GS-Cache", 2025: anchor-derived Gaussians and their *cache depth*). The rule is pure:

*Depth.* A decoded page is drawn again in at most D frames of a client. Of D + 1 frames each has
its share of pages that fall due, so that no frame decodes all of them. Where devices have caches
of their own, the frame's number and the pages' turns are given to them: all draw the same.

*Direction and distance.* From c to c′, t apart, the direction of the middle m of a page turns by
an angle whose sine is ``t sin(β) / |m − c′|``, β between the ray from c and the way from c to c′,
and its distance changes by t at most. A page of radius r (root mean square, about its middle) is
looked at as from r away at least: around a camera that is nearer, r is how far off its anchors
are. Pages are decoded again where the angle is more than ε, or the distance may have changed by
more than a share of itself. Of a page that is small for its distance, the angle is that of all its
anchors.

*At rest* D is 0, and D = 0 takes nothing but what was decoded for the very same point: the same
bytes as without a cache.

How much is reused follows from how much the frame rate falls short: ``reuse_for``.
``render_cache.derived`` keeps what is reused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

_LEAST = 1e-100  # of squared distances, so that 0 is none
_ANY_RATIO = 1e50  # no more tells anything, and its square is a number


@dataclass(frozen=True, slots=True)
class DerivedLimits:
    """How far reuse may go at most: a user's settings.

    Attributes:
        depth: Frames that a page may be drawn again in; 0 for exact pictures alone.
        angle_rad: By which the direction to a page may have turned.
        distance_ratio: By which its distance may have changed, as a share of it.
        budget_bytes: Of all that is kept.

    Raises:
        ValueError: If one is negative or not a number.
    """

    depth: int = 8
    angle_rad: float = math.radians(4.0)
    distance_ratio: float = 0.15
    budget_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if self.depth < 0 or self.budget_bytes < 0:
            raise ValueError(f"limits must be 0 or more, got {self.depth}, {self.budget_bytes}")
        if not (self.angle_rad >= 0 and self.distance_ratio >= 0):
            raise ValueError(
                f"limits must be 0 or more, got {self.angle_rad}, {self.distance_ratio}"
            )


DEFAULT_LIMITS = DerivedLimits()


@dataclass(frozen=True, slots=True)
class DerivedReuse:
    """How far reuse goes in a frame; attributes as of ``DerivedLimits``."""

    depth: int = 0
    angle_rad: float = 0.0
    distance_ratio: float = 0.0


EXACT = DerivedReuse()


@dataclass(frozen=True, slots=True)
class FrameCosts:
    """What a frame takes.

    Attributes:
        decode_ms: Decoding all that is seen.
        draw_ms: The rest of it.
    """

    decode_ms: float
    draw_ms: float

    def blended(self, newer: FrameCosts, share: float = 0.25) -> FrameCosts:
        """These costs and newer ones, which have a share: what is measured jumps about."""
        return FrameCosts(
            self.decode_ms + share * (newer.decode_ms - self.decode_ms),
            self.draw_ms + share * (newer.draw_ms - self.draw_ms),
        )


def reuse_for(
    limits: DerivedLimits, costs: FrameCosts | None, rate_hz: float, *, moving: bool
) -> DerivedReuse:
    """The least reuse that holds a frame rate, or all that may be if none does.

    With depth D a frame decodes one of D + 1 parts. The least D is taken with
    ``draw + decode / (D + 1) ≤ 1 / rate``; angle and distance have the share of their limits that
    D has of its own.

    Args:
        costs: As measured; None before the first frame, which is exact.
        rate_hz: Wanted frames a second.
        moving: Whether the camera moves; at rest pictures are exact.
    """
    if not moving or costs is None or limits.depth == 0:
        return EXACT
    left_ms = 1e3 / rate_hz - costs.draw_ms
    if costs.decode_ms <= left_ms:
        return EXACT
    depth = limits.depth
    if left_ms > 0:
        depth = min(depth, math.ceil(costs.decode_ms / left_ms) - 1)
    share = depth / limits.depth
    return DerivedReuse(depth, share * limits.angle_rad, share * limits.distance_ratio)


@dataclass(frozen=True, slots=True, eq=False)
class PageSpheres:
    """N pages that a frame draws.

    Attributes:
        page: [N] int64, numbers: a page has the same one as long as it is there.
        middle: [N, 3] float64, of their anchors, world units.
        radius: [N] float64, how far from it these are, root mean square.
        turn: [N] int64, numbers by which pages take turns; None for ``page``.
    """

    page: NDArray[np.int64]
    middle: Float64Array
    radius: Float64Array
    turn: NDArray[np.int64] | None = None

    @property
    def turns(self) -> NDArray[np.int64]:
        """[N] numbers by which they take turns."""
        return self.page if self.turn is None else self.turn

    def __len__(self) -> int:
        return len(self.page)

    def __getitem__(self, index: NDArray[np.generic]) -> PageSpheres:
        """Some of them."""
        turn = None if self.turn is None else self.turn[index]
        return PageSpheres(self.page[index], self.middle[index], self.radius[index], turn)


def _dot(a: Float64Array, b: Float64Array) -> Float64Array:
    """[N] of two [N, 3]."""
    return np.asarray(np.vecdot(a, b))


def still_holds(
    before: Float64Array,
    now: Float64Array,
    pages: PageSpheres,
    reuse: DerivedReuse,
) -> NDArray[np.bool_]:
    """[N] whether pages look alike from two points, within limits (module's text).

    Args:
        before: [N, 3] where each was decoded for, world units.
        now: [3] where it is to be drawn for.
        pages: N pages.
    """
    way, ray, ray_now = now - before, pages.middle - before, pages.middle - now
    # Squares throughout. Rounding loses 1e-8 of |ray| |way| in |ray × way|, far below any limit.
    radius, apart = np.square(pages.radius), _dot(way, way)
    distance = np.maximum(_dot(ray, ray), _LEAST)
    distance_now = np.maximum(_dot(ray_now, ray_now), radius)
    across = distance * apart - np.square(_dot(ray, way))
    # Around the camera, or beyond the page: as if across.
    within = (distance <= radius) | (apart >= distance)
    across = np.where(within, distance * apart, across)
    sine = math.sin(min(reuse.angle_rad, 0.5 * math.pi))
    ratio = min(reuse.distance_ratio, _ANY_RATIO)
    near = across <= sine**2 * distance * distance_now
    near &= apart <= ratio**2 * np.maximum(np.minimum(distance, distance_now), radius)
    holds: NDArray[np.bool_] = near | (apart == 0)
    return holds


def falls_due(
    turn: NDArray[np.int64], age: NDArray[np.int64], frame: int, depth: int, passed: int = 1
) -> NDArray[np.bool_]:
    """[N] whether pages are to be decoded again.

    Every page has a turn in each run of D + 1 frames, by its number; it waits for the next one no
    longer than that, wherever it began.

    Args:
        turn: [N] numbers of pages.
        age: [N] frames since each was decoded.
        frame: Number of the frame.
        depth: D.
        passed: Frames since the last one here: the turns of those drawn elsewhere are made up for.
    """
    has_turn = (frame + turn) % (depth + 1) < passed
    due: NDArray[np.bool_] = (age > depth) | ((age > 0) & has_turn)
    return due
