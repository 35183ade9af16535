"""The river: quays, water, bridges."""

from __future__ import annotations

import numpy as np

from scene_store.town.bridge import (
    QUAY_STONE,
    WALL_FOOT,
    WATER_DEPTH,
    HalfBridge,
    build_half_bridge,
)
from scene_store.town.kit import Finish, Kit
from scene_store.town.parts import Wall
from scene_store.town.plan import PROMENADE, Cell
from scene_store.town.street import (
    ASPHALT,
    EDGE,
    GRASS,
    KERB,
    PAVING,
    build_bench,
    build_streets,
    carriageway_half,
)

WATER_COLOR = (0.19, 0.25, 0.22)
BANK = 4.0  # width of the grassy slope outside the town


def banks(cell: Cell) -> tuple[float, float]:
    """Plan z of the southern and the northern quay wall."""
    return cell.z0 + cell.south + PROMENADE, cell.z1 - cell.north - PROMENADE


def has_bridge(line: int) -> bool:
    """Whether the street on grid line ``line`` crosses the river."""
    return line % 2 == 0


def build_river(kit: Kit, cell: Cell) -> None:
    """Both quays, the water between them, and halves of the bridges."""
    build_streets(kit, cell, sides="sn")
    south, north = banks(cell)
    x0, x1 = cell.x0, cell.x1
    paving = kit.material("paving")
    for a, b in ((cell.z0 + cell.south, south), (north, cell.z1 - cell.north)):
        kit.parts.floor(paving, x0, x1, a, b, PAVING, KERB)
    _flanks(kit, cell, south, north)
    kit.parts.floor(kit.material("water"), x0, x1, south, north, WATER_COLOR, -WATER_DEPTH)
    _quay_walls(kit, cell, south, north)
    for x in np.arange(x0 + cell.west + 9.7, x1 - cell.east - 4, 19.0):
        build_bench(kit, float(x), south - 1.6)
        build_bench(kit, float(x), north + 1.0)
    if has_bridge(cell.i):
        build_half_bridge(kit, HalfBridge(cell.x0, cell.west, 1.0, south, north))
    if has_bridge(cell.i + 1):
        build_half_bridge(kit, HalfBridge(cell.x1, cell.east, -1.0, south, north))


def build_river_edge(kit: Kit, cell: Cell, side_x: int) -> None:
    """The first metres of open river beyond the town, between grassy banks."""
    south, north = banks(cell)
    x0, x1 = (cell.x0, cell.x0 + EDGE) if side_x < 0 else (cell.x1 - EDGE, cell.x1)
    lawn = kit.material("lawn")
    kit.parts.floor(kit.material("water"), x0, x1, south, north, WATER_COLOR, -WATER_DEPTH)
    kit.parts.floor(lawn, x0, x1, cell.z0, south, GRASS)
    kit.parts.floor(lawn, x0, x1, north, cell.z1, GRASS)
    foot = WATER_DEPTH
    for a, b in ((south, south + BANK), (north, north - BANK)):
        top, bottom = [(x0, 0.0, a), (x1, 0.0, a)], [(x0, foot, b), (x1, foot, b)]
        low, high = (bottom, top) if b < a else (top, bottom)
        corners = [*low, *high[::-1]]  # along +x, then +z: the normal points up
        kit.parts.quad(lawn, corners, np.asarray(GRASS) * 0.85)


def _flanks(kit: Kit, cell: Cell, south: float, north: float) -> None:
    """The ground beside the junctions, where other cells have a street's half."""
    paving, asphalt = kit.material("paving"), kit.material("asphalt")
    for line, x, width, sign in (
        (cell.i, cell.x0, cell.west, 1.0),
        (cell.i + 1, cell.x1, cell.east, -1.0),
    ):
        drive = carriageway_half(width)
        a, b = sorted((x, x + sign * drive))
        for low, high in (
            (cell.z0 + carriageway_half(cell.south), south),
            (north, cell.z1 - carriageway_half(cell.north)),
        ):
            if has_bridge(line):
                kit.parts.floor(asphalt, a, b, low, high, ASPHALT, KERB + 0.02)
            else:
                kit.parts.floor(paving, a, b, low, high, PAVING, KERB)


def _quay_walls(kit: Kit, cell: Cell, south: float, north: float) -> None:
    """Masonry down to the water, a coping, and an iron railing."""
    stone, trim, grille = (kit.material(m) for m in ("stone", "trim", "grille"))
    for side, box in (
        ("n", (cell.x0, cell.x1, south - 1.0, south)),
        ("s", (cell.x0, cell.x1, north, north + 1.0)),
    ):
        wall = Wall.of_box(side, box, WATER_DEPTH + 0.5, base=-WALL_FOOT)
        wall.rect(kit.parts, stone, 0.0, wall.width, 0.0, WALL_FOOT, QUAY_STONE * 0.92)
        top = wall.raised(WALL_FOOT)
        top.box(kit.parts, trim, 0.0, wall.width, 0.0, 0.34, 0.12, QUAY_STONE * 1.12)
        top.ledge(kit.parts, trim, 0.0, wall.width, 0.34, -0.4, 0.0, QUAY_STONE * 1.12)
        west = cell.west if has_bridge(cell.i) else 0.0
        east = cell.east if has_bridge(cell.i + 1) else 0.0
        a, b = (west, east) if side == "s" else (east, west)
        if kit.finish >= Finish.PLAIN:
            iron = np.array([0.16, 0.20, 0.19], np.float32)
            top.rect(kit.parts, grille, a, wall.width - b, 0.34, 1.3, iron, -0.15, fill=0.18)
            rails = np.array([0.42, 1.3])
            bar = kit.material("frame")
            top.rect(kit.parts, bar, a, wall.width - b, rails, rails + 0.05, iron, -0.15)
