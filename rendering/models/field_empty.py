"""Where a field is surely next to empty: a grid that spares its network most evaluations.

Instant-NGP brings such a grid; other fields get theirs when they are prepared, for as long as they
are on the device. The network is evaluated on a lattice, coarse first and finer only around what
was found, and a cell is empty if all lattice points in it and around it are. Beyond the grid
nothing is called empty.

*Error.* A skipped sample's density was below a limit at the 27 lattice points around it. Where it
is below that all over these cells, a ray loses at most ``LOST_DEPTH`` of optical depth to them, so
alpha and colour are off by 0.002 at most. Between lattice points a density may be higher; what that
comes to is measured (``benchmarks nerf``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rendering.models.components import Evaluator
from rendering.models.field_rays import SpaceRays
from scene_store.models.field_memory import EMPTY_SIDE
from splat.fields import Contraction, Field, FieldSpace

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

FIRST_SIDE = 48
LOST_DEPTH = 2e-3
BATCH = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class EmptySpace:
    """A grid over a box.

    Attributes:
        may_be: [S, S, S] bool (z, y, x): cells that may hold something.
        lo, hi: [3] float64, corners of the box; of contracted coordinates if there is a
            contraction, else of field coordinates.
        contraction: Of the space.
    """

    may_be: BoolArray
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    contraction: Contraction

    @classmethod
    def of(cls, evaluator: Evaluator, field: Field, space: FieldSpace) -> EmptySpace:
        """Of a network, evaluated some hundred thousand times."""
        lo, hi = _box(field, space)
        limit = _limit(field, space, lo, hi)
        side, found = FIRST_SIDE, np.ones((FIRST_SIDE,) * 3, np.bool_)
        while True:
            values = _lattice(evaluator, space.contraction, lo, hi, found)
            found = _grown(values > limit)
            if side == EMPTY_SIDE:
                return cls(found, lo, hi, space.contraction)
            factor, side = EMPTY_SIDE // side, EMPTY_SIDE
            for axis in range(3):
                found = np.repeat(found, factor, axis=axis)

    def may_hold(self, rays: SpaceRays, ray: NDArray[np.int32], t: Float32Array) -> BoolArray:
        """[N] whether samples at t [N] of some rays [N] may have a density."""
        y = rays.origins[:, ray] + t * rays.directions[:, ray]
        u = contracted(y, self.contraction)
        side = len(self.may_be)
        scale = (side / (self.hi - self.lo)).astype(np.float32)
        low = self.lo.astype(np.float32)
        beyond = np.zeros(len(t), np.bool_)
        cell = np.zeros(len(t), np.int64)
        for axis in reversed(range(3)):
            at = (u[axis] - low[axis]) * scale[axis]
            beyond |= ~((at >= 0) & (at < side))
            with np.errstate(invalid="ignore"):
                index = np.clip(np.nan_to_num(at), 0, side - 1).astype(np.int64)
            cell = cell * side + index
        return beyond | self.may_be.reshape(-1)[cell]

    @property
    def nbytes(self) -> int:
        """Memory of the grid."""
        return self.may_be.nbytes

    @property
    def share(self) -> float:
        """Of the box, what may hold something."""
        return float(self.may_be.mean())


def contracted(y: Float32Array, contraction: Contraction) -> Float32Array:
    """Points [3, N] of field coordinates in the unit cube, if there is a contraction (Barron et al.
    2022, equation 10); else as they are."""
    if contraction is Contraction.NONE:
        return y
    if contraction is Contraction.L2:
        norm = np.sqrt(y[0] * y[0] + y[1] * y[1] + y[2] * y[2])
    else:
        norm = np.abs(y).max(axis=0)
    far = np.maximum(norm, np.float32(1.0))
    ball = y * ((np.float32(2.0) - np.float32(1.0) / far) / far)
    unit: Float32Array = (ball + np.float32(2.0)) * np.float32(0.25)
    return unit


def spread(u: Float32Array, contraction: Contraction) -> Float32Array:
    """The inverse of ``contracted``; what is on the rim of space or beyond is far away."""
    if contraction is Contraction.NONE:
        return u
    z = u * np.float32(4.0) - np.float32(2.0)
    norm = np.sqrt((z * z).sum(axis=0))
    if contraction is Contraction.LINF:
        norm = np.abs(z).max(axis=0)
    left = np.maximum(np.float32(2.0) - norm, np.float32(1e-3))
    outside = z / (np.maximum(norm, np.float32(1.0)) * left)
    y: Float32Array = np.where(norm <= 1.0, z, outside)
    return y


def _box(field: Field, space: FieldSpace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where to look: all of a space that has bounds, else about as far as samples reach from a
    camera that looks at the origin."""
    if space.contraction is not Contraction.NONE:
        return np.zeros(3), np.ones(3)
    if np.isfinite(space.lo).all() and np.isfinite(space.hi).all():
        corners = np.array(np.meshgrid(*zip(space.lo, space.hi, strict=True))).reshape(3, -1)
        of_field = space.world_to_field[:, :3] @ corners + space.world_to_field[:, 3:]
        return of_field.min(axis=1), of_field.max(axis=1)
    if field.ndc is not None:
        return np.array([-1.5, -1.5, -1.0]), np.array([1.5, 1.5, 1.0])
    half = 0.5 * (field.far - field.near)
    middle = space.world_to_field[:, 3]
    reach = half * np.sqrt((space.world_to_field[:, :3] ** 2).sum(axis=1))
    return middle - reach, middle + reach


def _limit(
    field: Field, space: FieldSpace, lo: NDArray[np.float64], hi: NDArray[np.float64]
) -> float:
    """The density below which nothing is lost along the longest way through the box."""
    if field.ndc is not None:
        way = 2.0
    elif space.contraction is not Contraction.NONE:
        # Cells far out are large: of their length, what a sample may stand for.
        way = field.far
    else:
        scale = np.sqrt((space.world_to_field[:, :3] ** 2).sum(axis=1))
        way = float(np.linalg.norm((hi - lo) / scale))
    return LOST_DEPTH / (way * space.density_scale)


def _lattice(
    evaluator: Evaluator,
    contraction: Contraction,
    lo: NDArray[np.float64],
    hi: NDArray[np.float64],
    where: BoolArray,
) -> Float32Array:
    """[S, S, S] densities in the middles of cells; 0 of cells that are not asked for."""
    side = len(where)
    out = np.zeros(where.size, np.float32)
    wanted = np.flatnonzero(where)
    step = (hi - lo) / side
    for first in range(0, len(wanted), BATCH):
        cells = wanted[first : first + BATCH]
        z, rest = np.divmod(cells, side * side)
        y, x = np.divmod(rest, side)
        at = lo[:, None] + (np.stack([x, y, z]) + 0.5) * step[:, None]
        points = spread(at.astype(np.float32), contraction)
        out[cells] = evaluator.densities(np.ascontiguousarray(points))
    return out.reshape(where.shape)


def _grown(found: BoolArray) -> BoolArray:
    """With all 26 neighbours."""
    for axis in range(3):
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(0, -1), slice(1, None)
        grown = found.copy()
        grown[tuple(after)] |= found[tuple(before)]
        grown[tuple(before)] |= found[tuple(after)]
        found = grown
    return found
