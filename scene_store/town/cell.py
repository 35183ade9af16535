"""One cell of the town: all its parts, and the Gaussians that show them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scene_store.town.bridge import WATER_Y
from scene_store.town.house import build_house
from scene_store.town.kit import Finish, Kit
from scene_store.town.landmark import build_church_volume, build_park, build_square
from scene_store.town.light import shade_map
from scene_store.town.nature import build_flowerbed, build_hedge, build_tree
from scene_store.town.parts import PartTable
from scene_store.town.plan import RIVER_ROW, Cell, Kind, TownPlan, cell_at
from scene_store.town.recipe import load_recipe
from scene_store.town.river import build_river, build_river_edge
from scene_store.town.site import Site, site_at
from scene_store.town.street import KERB, PAVING, build_edge, build_lamp, build_streets
from scene_store.town.surfels import emit
from splat.gaussians import Gaussians

LAWN = (0.38, 0.47, 0.21)
_MIRROR_DIM = 0.97
_MIRROR_DEPTH = 17.0


def make_cell(plan: TownPlan, index: int, sh_degree: int) -> Gaussians:
    """The Gaussians of the plan's cell ``index``, as many as its quota; they depend on the
    arguments alone, so cells can be made anywhere and in any order."""
    quota, seed = plan.quotas[index], plan.seed
    cell = quota.cell
    density = load_recipe().density[cell.kind.value]
    detail = (density * cell.area / max(1, quota.count)) ** 0.5
    ring = [(cell.i + di, cell.j + dj) for dj in (-1, 0, 1) for di in (-1, 0, 1)]
    around = tuple(site_at(i, j, seed) for i, j in ring)
    outside = tuple(cell_at(i, j, seed) for i, j in _edges(cell, plan.cells))
    rng = np.random.Generator(
        np.random.SFC64([seed & 0x7FFFFFFF, cell.i & 0xFFFFFFFF, cell.j & 0xFFFFFFFF, 4])
    )
    table = cell_parts(cell, seed, detail, outside)
    return emit(table, quota.count, shade_map(cell, around), rng, sh_degree)


def _edges(cell: Cell, taken: frozenset[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The places around a cell that are open country and that it is the one to border.

    A corner may touch two cells of the town that each build it from their own side; only
    where both its neighbours are open too is the corner built on its own.
    """
    i, j = cell.i, cell.j
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            near = {(i + di, j), (i, j + dj)} if di and dj else set()
            if (i + di, j + dj) not in taken and not near & taken:
                yield i + di, j + dj


def cell_parts(
    cell: Cell, seed: int, detail: float, open_sides: tuple[Cell, ...] = ()
) -> PartTable:
    """The parts of a cell in plan coordinates.

    Args:
        cell: The cell.
        seed: The town's.
        detail: Spacing relative to the recipe's that its Gaussians will have.
        open_sides: Neighbours (of eight) that the town does not reach; this cell builds their
            half of the street, or the town would end in the middle of the road.
    """
    rng = np.random.default_rng([seed & 0x7FFFFFFF, cell.i & 0xFFFFFFFF, cell.j & 0xFFFFFFFF, 2])
    kit = Kit(rng, Finish.at_spacing(detail))
    site = site_at(cell.i, cell.j, seed)
    if cell.kind is Kind.RIVER:
        build_river(kit, cell)
    else:
        build_streets(kit, cell)
        _GROUNDS[cell.kind](kit, cell, site)
    for neighbor in open_sides:
        _build_edge(kit, cell, neighbor)
    for house in site.houses:
        if house.church:
            build_church_volume(kit, house)
        else:
            build_house(kit, house)
    for tree in site.trees:
        build_tree(kit, tree)
    table = kit.parts.table()
    return _with_reflection(cell, table)


def _build_edge(kit: Kit, cell: Cell, neighbor: Cell) -> None:
    side_x, side_z = cell.i - neighbor.i, cell.j - neighbor.j
    if neighbor.kind is not Kind.RIVER:
        build_edge(kit, neighbor, side_x, side_z)
    elif side_z == 0:
        build_river_edge(kit, neighbor, side_x)


def _with_reflection(cell: Cell, table: PartTable) -> PartTable:
    """Add the mirror image of what the river can show of the cell."""
    standing = table.standing()
    if cell.j == RIVER_ROW:
        shown = standing
    elif cell.j == RIVER_ROW + 1:
        shown = standing.selected(cell.z0, cell.z0 + cell.south + _MIRROR_DEPTH)
    elif cell.j == RIVER_ROW - 1:
        shown = standing.selected(cell.z1 - cell.north - _MIRROR_DEPTH, cell.z1)
    elif cell.kind is Kind.CHURCH and abs(cell.j - RIVER_ROW) <= 2:
        shown = standing.above(8.0)
    else:
        return table
    return table.joined(shown.mirrored(WATER_Y, _MIRROR_DIM))


def _block_ground(kit: Kit, cell: Cell, site: Site) -> None:
    x0, x1, z0, z1 = cell.lot
    d = 11.5
    kit.parts.floor(kit.material("paving"), x0 + d, x1 - d, z0 + d, z0 + d + 3, PAVING, KERB)
    kit.parts.floor(kit.material("paving"), x0 + d, x1 - d, z1 - d - 3, z1 - d, PAVING, KERB)
    kit.parts.floor(kit.material("lawn"), x0 + d, x1 - d, z0 + d + 3, z1 - d - 3, LAWN, KERB)


def _villa_ground(kit: Kit, cell: Cell, site: Site) -> None:
    x0, x1, z0, z1 = cell.lot
    kit.parts.floor(kit.material("lawn"), x0, x1, z0, z1, LAWN, KERB)
    for house in site.houses:
        a, b, c, d = house.box
        middle = (a + b) / 2
        path = (
            (middle - 0.7, middle + 0.7, z0, c)
            if house.sides["s"].value == "street"
            else (middle - 0.7, middle + 0.7, d, z1)
        )
        kit.parts.floor(kit.material("paving"), *path, PAVING, KERB + 0.03)
        gate = 1.4
        for z in (z0 + 0.5, z1 - 0.5):
            if abs(z - path[2]) < 1 or abs(z - path[3]) < 1:
                build_hedge(kit, (a - 2.5, z), (middle - gate, z))
                build_hedge(kit, (middle + gate, z), (b + 2.5, z))
        build_flowerbed(kit, a - 1.0, (c + d) / 2, 0.8)
    build_hedge(kit, (x0 + 1, (z0 + z1) / 2), (x1 - 1, (z0 + z1) / 2))


def _park_ground(kit: Kit, cell: Cell, site: Site) -> None:
    build_park(kit, cell)


def _square_ground(kit: Kit, cell: Cell, site: Site) -> None:
    build_square(kit, cell)


def _church_ground(kit: Kit, cell: Cell, site: Site) -> None:
    x0, x1, z0, z1 = cell.lot
    kit.parts.floor(kit.material("cobble"), x0, x1, z0, z0 + 14, (0.60, 0.56, 0.50), KERB)
    kit.parts.floor(kit.material("lawn"), x0, x1, z0 + 14, z1, LAWN, KERB)
    for x in (x0 + 6.0, x1 - 6.0):
        build_lamp(kit, x, z0 + 6.0)
        build_flowerbed(kit, x, z0 + 12.0, 1.1)


_GROUNDS = {
    Kind.BLOCK: _block_ground,
    Kind.VILLAS: _villa_ground,
    Kind.PARK: _park_ground,
    Kind.SQUARE: _square_ground,
    Kind.CHURCH: _church_ground,
}
