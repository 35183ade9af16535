"""What stands in a cell, as plain volumes: houses and trees, before any of their detail.

A site is cheap, so a cell can ask for its neighbours' sites to know what shades it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import pairwise

import numpy as np

from scene_store.town.plan import PROMENADE, Cell, Kind, cell_at

Box = tuple[float, float, float, float]  # x0, x1, z0, z1


class Roof(str, Enum):
    """The shape of a roof."""

    GABLE = "gable"
    HIP = "hip"
    FLAT = "flat"
    SPIRE = "spire"


class Side(str, Enum):
    """What a house's wall faces, which decides how it is dressed."""

    STREET = "street"
    COURT = "court"
    PARTY = "party"


@dataclass(frozen=True, slots=True)
class House:
    """One building.

    Attributes:
        box: Its footprint.
        sides: What its west, east, south and north walls face, by "w", "e", "s", "n".
        floors: Storeys under the eaves.
        eaves, ridge: Heights in metres; equal for a flat roof.
        ridge_along: "x" or "z".
        shops: Whether the ground floor has shop fronts on its streets.
        church: Drawn as a church, not as a house.
        seed: Decides its style.
    """

    box: Box
    sides: dict[str, Side]
    floors: int
    eaves: float
    ridge: float
    roof: Roof
    ridge_along: str
    seed: int
    shops: bool = False
    church: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree at plan (x, z): crown radius and total height in metres."""

    x: float
    z: float
    height: float
    crown: float
    seed: int


@dataclass(frozen=True, slots=True)
class Site:
    """A cell with its volumes."""

    cell: Cell
    houses: tuple[House, ...]
    trees: tuple[Tree, ...]


GROUND_FLOOR, FLOOR = 3.8, 3.15
_DEPTH = 11.5


@lru_cache(maxsize=512)
def site_at(i: int, j: int, seed: int) -> Site:
    """The site of the cell (i, j) of the endless grid."""
    cell = cell_at(i, j, seed)
    rng = np.random.default_rng([seed & 0x7FFFFFFF, i & 0xFFFFFFFF, j & 0xFFFFFFFF, 1])
    houses, trees = _BUILDERS[cell.kind](cell, rng)
    return Site(cell, tuple(houses), tuple(trees))


def _block(cell: Cell, rng: np.random.Generator) -> tuple[list[House], list[Tree]]:
    """Houses wall to wall around a courtyard."""
    x0, x1, z0, z1 = cell.lot
    height = 3.6 if abs(cell.i) + abs(cell.j) <= 3 else 3.0
    houses: list[House] = []
    for side, low, high in (("s", x0, x1), ("n", x0, x1), ("w", z0, z1), ("e", z0, z1)):
        along_x = side in "sn"
        if not along_x:
            low, high = low + _DEPTH, high - _DEPTH
        cuts = _cuts(low, high, rng)
        for k, (a, b) in enumerate(pairwise(cuts)):
            ends = (k == 0, k == len(cuts) - 2)
            houses.append(_row_house(side, (a, b), ends, cell.lot, height, rng))
    court = (x0 + _DEPTH + 2.5, x1 - _DEPTH - 2.5, z0 + _DEPTH + 2.5, z1 - _DEPTH - 2.5)
    trees = _scatter(court, int(rng.integers(2, 6)), (6.5, 10.5), rng, spread=5.0)
    return houses, trees + _street_trees(cell, rng)


def _row_house(
    side: str,
    span: tuple[float, float],
    ends: tuple[bool, bool],
    lot: Box,
    mean_floors: float,
    rng: np.random.Generator,
) -> House:
    x0, x1, z0, z1 = lot
    a, b = span
    box = {
        "s": (a, b, z0, z0 + _DEPTH),
        "n": (a, b, z1 - _DEPTH, z1),
        "w": (x0, x0 + _DEPTH, a, b),
        "e": (x1 - _DEPTH, x1, a, b),
    }[side]
    sides = dict.fromkeys("wesn", Side.PARTY)
    sides[side] = Side.STREET
    sides[{"s": "n", "n": "s", "w": "e", "e": "w"}[side]] = Side.COURT
    if side in "sn":  # the rows along x own the corners
        for flag, end in zip(ends, "we", strict=True):
            if flag:
                sides[end] = Side.STREET
    floors = int(np.clip(round(rng.normal(mean_floors, 0.7)), 2, 5))
    eaves = GROUND_FLOOR + FLOOR * (floors - 1) + float(rng.uniform(0.3, 0.9))
    kind = rng.random()
    corner = side in "sn" and any(ends)
    roof = Roof.FLAT if kind < 0.10 else Roof.HIP if corner or kind > 0.93 else Roof.GABLE
    rise = 0.0 if roof is Roof.FLAT else 0.5 * _DEPTH * float(rng.uniform(0.75, 1.05))
    return House(
        box=box,
        sides=sides,
        floors=floors,
        eaves=eaves,
        ridge=eaves + rise,
        roof=roof,
        ridge_along="x" if side in "sn" else "z",
        seed=int(rng.integers(1 << 31)),
        shops=bool(rng.random() < 0.62),
    )


def _villas(cell: Cell, rng: np.random.Generator) -> tuple[list[House], list[Tree]]:
    """Detached houses in gardens."""
    x0, x1, z0, z1 = cell.lot
    houses: list[House] = []
    columns = 3 if x1 - x0 > 46 else 2
    width = (x1 - x0) / columns
    for column in range(columns):
        for row in range(2):
            a, b = float(rng.uniform(9.0, min(12.5, width - 6))), float(rng.uniform(8.5, 11.0))
            left = x0 + column * width + (width - a) * float(rng.uniform(0.3, 0.7))
            front = float(rng.uniform(3.5, 7.0))
            near = z0 + front if row == 0 else z1 - front - b
            sides = dict.fromkeys("wesn", Side.COURT)
            sides["s" if row == 0 else "n"] = Side.STREET
            floors = int(rng.integers(1, 3)) + (rng.random() < 0.2)
            eaves = 3.3 + 2.9 * (floors - 1) + 0.3
            houses.append(
                House(
                    box=(left, left + a, near, near + b),
                    sides=sides,
                    floors=floors,
                    eaves=eaves,
                    ridge=eaves + 0.5 * min(a, b) * float(rng.uniform(0.8, 1.1)),
                    roof=Roof.HIP if rng.random() < 0.5 else Roof.GABLE,
                    ridge_along="x" if a >= b else "z",
                    seed=int(rng.integers(1 << 31)),
                )
            )
    middle = 0.5 * (z0 + z1)
    trees = _scatter((x0 + 2, x1 - 2, middle - 5, middle + 5), 7, (4.0, 10.0), rng, spread=4.5)
    return houses, trees + _street_trees(cell, rng)


def _park(cell: Cell, rng: np.random.Generator) -> tuple[list[House], list[Tree]]:
    """Lawns under scattered trees, open along both paths."""
    x0, x1, z0, z1 = cell.lot
    middle_x, middle_z = (x0 + x1) / 2, (z0 + z1) / 2
    trees: list[Tree] = []
    for box in (
        (x0 + 2, middle_x - 5, z0 + 2, middle_z - 5),
        (middle_x + 5, x1 - 2, z0 + 2, middle_z - 5),
        (x0 + 2, middle_x - 5, middle_z + 5, z1 - 2),
        (middle_x + 5, x1 - 2, middle_z + 5, z1 - 2),
    ):
        trees += _scatter(box, int(rng.integers(4, 8)), (6.0, 15.0), rng, spread=5.5)
    return [], trees + _street_trees(cell, rng)


def _square(cell: Cell, rng: np.random.Generator) -> tuple[list[House], list[Tree]]:
    """The market square: a row of limes on either side."""
    x0, x1, z0, z1 = cell.lot
    rows = np.arange(z0 + 6.0, z1 - 4.0, 8.0)
    trees = [
        Tree(x, float(z), float(rng.uniform(7.0, 8.5)), 2.6, int(rng.integers(1 << 31)))
        for x in (x0 + 2.2, x1 - 2.2)
        for z in rows
    ]
    return [], trees


def _church(cell: Cell, rng: np.random.Generator) -> tuple[list[House], list[Tree]]:
    """A church in its green; the tower stands towards the south."""
    x0, x1, z0, z1 = cell.lot
    middle = (x0 + x1) / 2
    street = dict.fromkeys("wesn", Side.STREET)
    front = z0 + 5.0

    def volume(box: Box, eaves: float, ridge: float, roof: Roof) -> House:
        seed = int(rng.integers(1 << 31))
        return House(box, street, 1, eaves, ridge, roof, "z", seed, church=True)

    houses = [
        volume((middle - 4.5, middle + 4.5, front, front + 9), 31.0, 53.0, Roof.SPIRE),
        volume((middle - 8.5, middle + 8.5, front + 9, z1 - 10), 11.5, 20.5, Roof.GABLE),
        volume((middle - 14, middle + 14, front + 20, front + 29), 10.0, 16.0, Roof.GABLE),
    ]
    trees = _scatter((x0 + 1.5, middle - 15, z0 + 3, z1 - 3), 6, (7.0, 13.0), rng, spread=6.0)
    trees += _scatter((middle + 15, x1 - 1.5, z0 + 3, z1 - 3), 6, (7.0, 13.0), rng, spread=6.0)
    return houses, trees


def _river(cell: Cell, rng: np.random.Generator) -> tuple[list[House], list[Tree]]:
    """Two quays with an avenue of planes on each."""
    trees: list[Tree] = []
    for z in (cell.z0 + cell.south + PROMENADE - 2.4, cell.z1 - cell.north - PROMENADE + 2.4):
        for x in np.arange(cell.x0 + cell.west + 5.0, cell.x1 - cell.east - 3.0, 9.5):
            if rng.random() < 0.82:
                height = float(rng.uniform(7.0, 10.5))
                trees.append(Tree(float(x), z, height, 0.36 * height, int(rng.integers(1 << 31))))
    return [], trees


_BUILDERS: dict[Kind, Callable[[Cell, np.random.Generator], tuple[list[House], list[Tree]]]] = {
    Kind.BLOCK: _block,
    Kind.VILLAS: _villas,
    Kind.PARK: _park,
    Kind.SQUARE: _square,
    Kind.CHURCH: _church,
    Kind.RIVER: _river,
}


def _cuts(low: float, high: float, rng: np.random.Generator) -> list[float]:
    """Party walls that divide [low, high] into houses of 9 to 17 metres."""
    count = max(1, round((high - low) / 12.5))
    widths = rng.uniform(0.75, 1.3, count)
    edges = low + np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum() * (high - low)
    return [float(v) for v in edges]


def _scatter(
    box: Box,
    count: int,
    heights: tuple[float, float],
    rng: np.random.Generator,
    spread: float,
) -> list[Tree]:
    """Trees at random places at least ``spread`` apart."""
    x0, x1, z0, z1 = box
    trees: list[Tree] = []
    if x1 <= x0 or z1 <= z0:
        return trees
    for x, z, h, seed in zip(
        rng.uniform(x0, x1, 4 * count),
        rng.uniform(z0, z1, 4 * count),
        rng.uniform(*heights, 4 * count),
        rng.integers(1 << 31, size=4 * count),
        strict=True,
    ):
        if all((x - t.x) ** 2 + (z - t.z) ** 2 > spread * spread for t in trees):
            trees.append(Tree(float(x), float(z), float(h), float(0.34 * h), int(seed)))
        if len(trees) == count:
            break
    return trees


def _street_trees(cell: Cell, rng: np.random.Generator) -> list[Tree]:
    """Avenues have a tree every ten metres on the pavement."""
    trees: list[Tree] = []
    x0, x1, z0, z1 = cell.lot
    for wide, fixed, low, high, along_x in (
        (cell.south > 7, z0 - 2.4, x0, x1, True),
        (cell.north > 7, z1 + 2.4, x0, x1, True),
        (cell.west > 7, x0 - 2.4, z0, z1, False),
        (cell.east > 7, x1 + 2.4, z0, z1, False),
    ):
        if not wide:
            continue
        for s in np.arange(low + 3.0, high - 2.0, 9.5):
            x, z = (float(s), fixed) if along_x else (fixed, float(s))
            height = float(rng.uniform(6.5, 8.5))
            trees.append(Tree(x, z, height, 2.1, int(rng.integers(1 << 31))))
    return trees
