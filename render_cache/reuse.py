"""What of a chunk's projection is still true for another camera: a pure rule with a proven bound.

Projecting a Gaussian gives its mean and depth, which are cheap, and its conic and colour, which
are not. For a chunk whose box is known, the rule says how far the cheap part alone would be off
if conic and colour were kept:

*Outline.* The outline at k standard deviations of a Gaussian with the screen covariance
``Σ = M Σ₃ Mᵀ + d I`` (M = J W, Zwicker et al. 2001) has the support function
``h(n) = k ‖(Σ₃^½ Mᵀ n, √d n)‖``. By the triangle inequality another camera's M′ moves it, in
any direction, by at most ``k ‖M′ − M‖ σ``, σ the largest deviation of any Gaussian. With the row
``M₀ = fx/z (r₀ − a r₂)``, a = x/z clamped as J is, and the other camera's axes in terms of the
first one's, ``r′ᵢ = Σⱼ Tᵢⱼ rⱼ``,

    ‖M₀′ − M₀‖ ≤ |fx′/z′ − fx/z| √(1 + a²)
               + fx′/z′ ‖(T₀₀ − 1 − a′ T₂₀, T₀₁ − a′ T₂₁, T₀₂ − (a′ − a) + a′ (1 − T₂₂))‖,
    a′ − a = (x′ − x)/z′ − a (z′ − z)/z′,

likewise M₁. Over a box, quotients of what is linear in the point are extreme at corners; their
sums and products are bounded as intervals. An orthographic M depends on the rotation alone.

*Colour.* Harmonics are evaluated towards the mean. Two cameras see a point from directions that
differ by at most ``asin(‖c′ − c‖ / distance)`` (law of sines).

Means and depths are recomputed, so nothing is ever in the wrong place or order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from splat.bounds import JACOBIAN_MARGIN, MAX_SIGMAS
from splat.camera import Camera, CameraModel

Float64Array = NDArray[np.float64]


class Reuse(IntEnum):
    """What a cache answers for a chunk.

    EXACT: The view is the same: all of it holds.
    REPROJECT: Conics and colours hold within the limits; means, depths and what follows from
        them are computed anew.
    MISS: Nothing holds.
    """

    EXACT = 0
    REPROJECT = 1
    MISS = 2


@dataclass(frozen=True, slots=True)
class ReuseLimits:
    """How much may be off before a chunk is projected anew.

    Attributes:
        drift_px: Of outlines, pixels; 0 for exact pictures.
        angle_rad: Of the directions that colours are seen from.

    Raises:
        ValueError: If one is negative or not a number.
    """

    drift_px: float = 0.25
    angle_rad: float = math.radians(0.5)

    def __post_init__(self) -> None:
        if not (self.drift_px >= 0 and self.angle_rad >= 0):
            raise ValueError(f"limits must be 0 or more, got {self.drift_px}, {self.angle_rad}")


NO_REUSE = ReuseLimits(0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBoxes:
    """What is known of N chunks.

    Attributes:
        lo, hi: [N, 3] of their means, world units.
        max_scale: [N] largest deviation of any of their Gaussians, world units, larger where an
            opacity is above 1 (``LodTree.max_scale``).
    """

    lo: NDArray[np.floating]
    hi: NDArray[np.floating]
    max_scale: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.max_scale)

    @property
    def corners(self) -> Float64Array:
        """[N, 8, 3]."""
        which = np.array(list(np.ndindex(2, 2, 2)), bool)
        lo, hi = (np.asarray(side, np.float64)[:, None, :] for side in (self.lo, self.hi))
        corners: Float64Array = np.where(which[None], hi, lo)
        return corners


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """How far off the projection of N chunks by one camera is for another.

    Attributes:
        outline_px: [N] at most, pixels; infinite where nothing can be said.
        angle_rad: [N] at most.
    """

    outline_px: Float64Array
    angle_rad: Float64Array


def reuse(
    before: Camera, now: Camera, boxes: ChunkBoxes, limits: ReuseLimits = ReuseLimits()
) -> NDArray[np.int8]:
    """[N] ``Reuse`` of what ``before`` projected, for ``now``."""
    if _same_view(before, now):
        return np.full(len(boxes), Reuse.EXACT, np.int8)
    if limits.drift_px == 0:
        return np.full(len(boxes), Reuse.MISS, np.int8)
    drift = drift_of(before, now, boxes)
    holds = (drift.outline_px <= limits.drift_px) & (drift.angle_rad <= limits.angle_rad)
    return np.where(holds, Reuse.REPROJECT, Reuse.MISS).astype(np.int8)


def drift_of(before: Camera, now: Camera, boxes: ChunkBoxes) -> Drift:
    """Upper bounds for every Gaussian of each chunk (module's text)."""
    angle = _angles(before, now, boxes)
    if before.model is not now.model or now.model is CameraModel.FISHEYE:
        return Drift(np.full(len(boxes), np.inf), angle)
    old, new = (_Seen.of(camera, boxes.corners) for camera in (before, now))
    rows = [_row_change(old, new, axis) for axis in (0, 1)]
    reach = MAX_SIGMAS * np.asarray(boxes.max_scale, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        outline = reach * np.hypot(*rows)
    in_front = (old.nearest > 0) & (new.nearest > 0)
    if now.model is CameraModel.ORTHO:
        in_front[:] = True
    return Drift(np.where(in_front & np.isfinite(outline), outline, np.inf), angle)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """The corners of N boxes in a camera.

    Attributes:
        camera: Which.
        points: [N, 8, 3] in its frame.
        nearest: [N] least depth.
    """

    camera: Camera
    points: Float64Array
    nearest: Float64Array

    @classmethod
    def of(cls, camera: Camera, corners: Float64Array) -> _Seen:
        points = corners @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        return cls(camera, points, points[..., 2].min(axis=1))

    def focal(self, axis: int) -> float:
        return float(self.camera.K[axis, axis])

    def clamps(self, axis: int) -> tuple[float, float]:
        """Between which J is linearized: least and greatest x/z or y/z."""
        size = (self.camera.width, self.camera.height)[axis]
        focal, centre = self.focal(axis), float(self.camera.K[axis, 2])
        margin = JACOBIAN_MARGIN * 0.5 * size / focal
        return -(centre / focal + margin), (size - centre) / focal + margin

    def slopes(self, axis: int) -> _Range:
        """Of x/z or y/z, over each box, before clamping."""
        return _Range.of(self.points[..., axis] / self.points[..., 2])


@dataclass(frozen=True, slots=True, eq=False)
class _Range:
    """N intervals."""

    least: Float64Array
    most: Float64Array

    @classmethod
    def of(cls, at_corners: Float64Array) -> _Range:
        """Of what is extreme at corners, [N, 8]."""
        return cls(at_corners.min(axis=1), at_corners.max(axis=1))

    @property
    def size(self) -> Float64Array:
        """[N] largest absolute value."""
        return np.maximum(np.abs(self.least), np.abs(self.most))

    def clamped(self, least: float, most: float) -> _Range:
        return _Range(np.clip(self.least, least, most), np.clip(self.most, least, most))

    def with_zero(self, where: NDArray[np.bool_]) -> _Range:
        least, most = np.minimum(self.least, 0.0), np.maximum(self.most, 0.0)
        return _Range(np.where(where, least, self.least), np.where(where, most, self.most))

    def __add__(self, other: _Range | float) -> _Range:
        if isinstance(other, _Range):
            return _Range(self.least + other.least, self.most + other.most)
        return _Range(self.least + other, self.most + other)

    def __mul__(self, other: _Range | float) -> _Range:
        factors = (other.least, other.most) if isinstance(other, _Range) else (other, other)
        products = [end * factor for end in (self.least, self.most) for factor in factors]
        return _Range(np.minimum.reduce(products), np.maximum.reduce(products))


def _row_change(old: _Seen, new: _Seen, axis: int) -> Float64Array:
    """[N] bound of ‖M′ − M‖ in the row of x (0) or y (1)."""
    turn = new.camera.viewmat[:3, :3] @ old.camera.viewmat[:3, :3].T
    focal, focal_before = new.focal(axis), old.focal(axis)
    own, across = axis, 1 - axis
    if new.camera.model is CameraModel.ORTHO:
        change = focal * turn[own] - focal_before * np.eye(3)[own]
        return np.full(len(old.nearest), np.linalg.norm(change))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        moved, ahead = new.points - old.points, new.points[..., 2]
        nearing = _Range.of(moved[..., 2] / ahead)
        before, now = old.slopes(axis), new.slopes(axis)
        slid = _Range.of(moved[..., axis] / ahead) + before * nearing * -1.0
        slope, clamps, clamps_before = (
            now.clamped(*new.clamps(axis)),
            new.clamps(axis),
            old.clamps(axis),
        )
        # Clamping brings a and a′ nearer to each other, but for what the clamps differ by.
        bent = (slope.least > now.least) | (slope.most < now.most)
        steep = before.clamped(*clamps_before)
        bent |= (steep.least > before.least) | (steep.most < before.most)
        shift = max(abs(a - b) for a, b in zip(clamps, clamps_before, strict=True))
        slid = slid.with_zero(bent) + _Range(
            np.where(bent, -shift, 0.0), np.where(bent, shift, 0.0)
        )
        parts = (
            slope * -turn[2, own] + (turn[own, own] - 1.0),
            slope * -turn[2, across] + turn[own, across],
            slid * -1.0 + slope * (1.0 - turn[2, 2]) + turn[own, 2],
        )
        turned = np.sqrt(sum(part.size**2 for part in parts))
        scaled = (focal * nearing.size + abs(focal - focal_before)) / old.nearest
        change_rows: Float64Array = (
            scaled * np.sqrt(1 + steep.size**2) + focal / new.nearest * turned
        )
    return change_rows


def _angles(before: Camera, now: Camera, boxes: ChunkBoxes) -> Float64Array:
    """[N] at most, between the directions to any point of a box."""
    apart = float(np.linalg.norm(now.position - before.position))
    if apart == 0:
        return np.zeros(len(boxes))
    gaps = [
        np.maximum(np.maximum(boxes.lo - eye, eye - boxes.hi), 0.0)
        for eye in (before.position, now.position)
    ]
    distance = np.maximum(*(np.linalg.norm(gap, axis=1) for gap in gaps))
    with np.errstate(divide="ignore"):
        sine = apart / distance
    angles: Float64Array = np.where(sine < 1, np.arcsin(np.minimum(sine, 1.0)), math.pi)
    return angles


def _same_view(a: Camera, b: Camera) -> bool:
    """Whether both project every point to the same bits (near and far only leave some out)."""
    return (
        a.model is b.model
        and (a.width, a.height) == (b.width, b.height)
        and np.array_equal(a.viewmat, b.viewmat)
        and np.array_equal(a.K, b.K)
    )
