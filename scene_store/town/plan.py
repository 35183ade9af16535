"""The town's plan: which cells it has, what stands in each, and how many Gaussians each gets.

Plan coordinates are metres, x to the right and z forward, on a grid of streets that runs
along both axes. ``bend`` carries the plan into the world, where streets curve gently; the
world is y down with the ground at y = 0, as in a 3DGS PLY.

A cell is the ground between the centre lines of four streets, so it owns half of each.
Cells fill up from the market square outwards. Everything in the plan depends on the seed
and the number of Gaussians alone, and takes milliseconds; a second at 200 million.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from scene_store.town.recipe import load_recipe
from splat.gaussians import Float32Array

PITCH_X, PITCH_Z = 64.0, 62.0
STREET_HALF, AVENUE_HALF = 6.0, 9.0
RIVER_ROW = -1
PROMENADE = 5.0
BASE_COUNT = 2_000_000
MIN_COUNT = 2_000
# Its edge is in the hills, 3.3 km out; a larger town would meet the sky (``backdrop``).
MAX_COUNT = 1_000_000_000
SKY_RADIUS = 5000.0


class Kind(str, Enum):
    """What stands in a cell."""

    BLOCK = "block"
    VILLAS = "villas"
    PARK = "park"
    SQUARE = "square"
    CHURCH = "church"
    RIVER = "river"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the grid, in plan coordinates.

    Attributes:
        i, j: Its place in the grid; the market square is (0, 0).
        x0, x1, z0, z1: The centre lines of the streets around it.
        west, east, south, north: Half widths of those streets (at x0, x1, z0, z1).
        detail: Spacing of its Gaussians relative to the recipe's.
    """

    i: int
    j: int
    kind: Kind
    x0: float
    x1: float
    z0: float
    z1: float
    west: float
    east: float
    south: float
    north: float
    detail: float

    @property
    def area(self) -> float:
        """Square metres, to the streets' centre lines."""
        return (self.x1 - self.x0) * (self.z1 - self.z0)

    @property
    def lot(self) -> tuple[float, float, float, float]:
        """(x0, x1, z0, z1) inside the pavements."""
        return (
            self.x0 + self.west,
            self.x1 - self.east,
            self.z0 + self.south,
            self.z1 - self.north,
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """A cell and the number of Gaussians that it is made of."""

    cell: Cell
    count: int


@dataclass(frozen=True, slots=True)
class TownPlan:
    """How ``count`` Gaussians become a town.

    Attributes:
        backdrop: Gaussians of the sky, the hills and the countryside.
        quotas: The town's cells from the centre outwards; their counts and ``backdrop``
            add up to ``count``.
        detail: Spacing relative to the recipe's that the whole town aims at.
        cells: Places in the grid that the town covers.
    """

    count: int
    seed: int
    backdrop: int
    quotas: tuple[Quota, ...]
    detail: float
    cells: frozenset[tuple[int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cells = frozenset((q.cell.i, q.cell.j) for q in self.quotas)
        object.__setattr__(self, "cells", cells)

    @property
    def radius(self) -> float:
        """Metres from the centre to the farthest cell's centre, in plan coordinates."""
        return max(_distance(q.cell) for q in self.quotas)


def plan_town(count: int, seed: int = 7) -> TownPlan:
    """The plan of a town of exactly ``count`` Gaussians.

    Up to ``BASE_COUNT`` the town keeps its extent and gets finer; beyond, it mostly grows:
    ten times the Gaussians are about seven times the area at 0.83 of the spacing.

    Raises:
        ValueError: If ``count`` is not ``MIN_COUNT`` to ``MAX_COUNT``.
    """
    check_count(count)
    finer = max(1.0, count / BASE_COUNT) ** (-1.0 / 12.0)
    backdrop = min(round(0.08 * count), 160_000 + round(0.001 * count))
    cells, expected = _cells(max(count, BASE_COUNT), finer, seed)
    shares = expected / expected.sum() * (count - backdrop)
    counts = np.floor(shares).astype(np.int64)
    missing = count - backdrop - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    quotas = tuple(Quota(c, int(n)) for c, n in zip(cells, counts, strict=True))
    coarser = math.sqrt(max(1.0, BASE_COUNT / count))
    return TownPlan(count, seed, backdrop, quotas, finer * coarser)


def check_count(count: int) -> None:
    """Sees whether there is a plan for so many Gaussians, without making it.

    Raises:
        ValueError: If ``count`` is not ``MIN_COUNT`` to ``MAX_COUNT``.
    """
    if not MIN_COUNT <= count <= MAX_COUNT:
        raise ValueError(
            f"a town has at least {MIN_COUNT:,} and at most {MAX_COUNT:,} Gaussians, "
            f"{count:,} were asked for"
        )


def cell_at(i: int, j: int, seed: int) -> Cell:
    """The cell at a place of the endless grid, whether or not a town reaches it."""
    x0, x1 = _line(i, PITCH_X, seed), _line(i + 1, PITCH_X, seed)
    z0, z1 = _line(j, PITCH_Z, seed + 1), _line(j + 1, PITCH_Z, seed + 1)
    distance = math.hypot((x0 + x1) / 2, (z0 + z1) / 2)
    return Cell(
        i=i,
        j=j,
        kind=_kind(i, j, distance, seed),
        x0=x0,
        x1=x1,
        z0=z0,
        z1=z1,
        west=_half_width(i),
        east=_half_width(i + 1),
        south=_half_width(j, avenue=3),
        north=_half_width(j + 1, avenue=3),
        detail=min(max(1.1 + (distance - 50.0) / 90.0, 1.1), 2.2),
    )


def bend(x: Float32Array, z: Float32Array) -> tuple[Float32Array, Float32Array]:
    """World (x, z) of plan (x, z); float32 arrays of one shape."""
    east = x + (np.sin(z * _BEND[0] + _BEND[1]) * _BEND[2] + np.sin(z * _BEND[3]) * _BEND[4])
    forward = z + (np.sin(x * _BEND[5] + _BEND[6]) * _BEND[7] + np.sin(x * _BEND[8]) * _BEND[9])
    return east, forward


def bend_slopes(x: Float32Array, z: Float32Array) -> tuple[Float32Array, Float32Array]:
    """(∂x_world/∂z_plan, ∂z_world/∂x_plan) at plan (x, z)."""
    east = np.cos(z * _BEND[0] + _BEND[1]) * (_BEND[0] * _BEND[2])
    east = east + np.cos(z * _BEND[3]) * (_BEND[3] * _BEND[4])
    forward = np.cos(x * _BEND[5] + _BEND[6]) * (_BEND[5] * _BEND[7])
    forward = forward + np.cos(x * _BEND[8]) * (_BEND[8] * _BEND[9])
    return east, forward


def mix(*values: int) -> int:
    """A well-mixed 32-bit hash of integers, for choices that need no generator."""
    h = 0x9E3779B9
    for value in values:
        h ^= (value & 0xFFFFFFFF) + 0x7F4A7C15 + ((h << 6) & 0xFFFFFFFF) + (h >> 2)
        h = (h ^ (h >> 16)) * 0x45D9F3B & 0xFFFFFFFF
        h = (h ^ (h >> 15)) * 0x2C1B3C6D & 0xFFFFFFFF
    return h ^ (h >> 16)


def unit(*values: int) -> float:
    """The hash of ``mix`` as a number in [0, 1)."""
    return mix(*values) / 4294967296.0


# sin terms of the bend: (frequency, phase, amplitude) and (frequency, amplitude), x then z.
_BEND = np.array(
    [1 / 95.0, 0.9, 9.0, 1 / 41.0, 2.2, 1 / 110.0, 2.1, 9.0, 1 / 47.0, 2.0], dtype=np.float32
)


def _line(index: int, pitch: float, seed: int) -> float:
    jitter = 0.0 if -1 <= index <= 2 else 14.0 * (unit(seed, index, 17) - 0.5)
    return pitch * (index - 0.5) + jitter


def _half_width(index: int, avenue: int = 2) -> float:
    return AVENUE_HALF if index % 4 == avenue else STREET_HALF


def _kind(i: int, j: int, distance: float, seed: int) -> Kind:
    if j == RIVER_ROW:
        return Kind.RIVER
    if (i, j) == (0, 0):
        return Kind.SQUARE
    if (i, j) == (0, 1):
        return Kind.CHURCH
    if (i, j) == (1, 1) or unit(seed, i, j, 3) < (0.0 if distance < 130.0 else 0.07):
        return Kind.PARK
    if distance > 260.0 and mix(seed, i, j, 4) % 41 == 0:
        return Kind.CHURCH
    suburban = 0.6 * min(max((distance - 100.0) / 120.0, 0.0), 1.0)
    return Kind.VILLAS if unit(seed, i, j, 5) < suburban else Kind.BLOCK


def _distance(cell: Cell) -> float:
    return math.hypot((cell.x0 + cell.x1) / 2, (cell.z0 + cell.z1) / 2)


def _rank(cell: Cell, seed: int) -> float:
    """When a cell joins the town: by distance, raggedly, for that looks grown. A reach of the
    river joins with the first of its two banks."""
    rows = (RIVER_ROW + 1, RIVER_ROW - 1) if cell.kind is Kind.RIVER else (cell.j,)
    ranks = [
        _distance(cell_at(cell.i, j, seed)) * (0.93 + 0.14 * unit(seed, cell.i, j, 9)) for j in rows
    ]
    return min(ranks) - 0.01 * (cell.kind is Kind.RIVER)


def _cells(count: int, finer: float, seed: int) -> tuple[list[Cell], Float32Array]:
    """The innermost cells whose expected Gaussians reach ``count``, with those numbers."""
    density = load_recipe().density
    reach = 3 + math.ceil(math.sqrt(count / (6.0 * PITCH_X * PITCH_Z)))
    cells = [
        cell_at(i, j, seed) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)
    ]
    cells.sort(key=lambda c: (_rank(c, seed), c.i, c.j))
    expected = np.array([density[c.kind.value] * c.area / (c.detail * finer) ** 2 for c in cells])
    used = int(np.searchsorted(np.cumsum(expected), count)) + 1
    return cells[:used], expected[:used].astype(np.float32)
