"""The river: quays, water, bridges."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

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
from splat.gaussians import Float32Array

WATER_DEPTH = 2.4  # the surface, below the quays
WATER_Y = WATER_DEPTH
WALL_FOOT = WATER_DEPTH - 0.02  # masonry stops just above the water, its mirror image below
QUAY_STONE = np.array([0.63, 0.58, 0.50], np.float32)
WATER_COLOR = (0.19, 0.25, 0.22)
BANK = 4.0  # width of the grassy slope outside the town
_ARCHES, _PIER, _CAMBER = 3, 2.2, 1.1


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
        _half_bridge(kit, cell.x0, cell.west, south, north, 1.0)
    if has_bridge(cell.i + 1):
        _half_bridge(kit, cell.x1, cell.east, south, north, -1.0)


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


def _deck(s: Float32Array, length: float) -> Float32Array:
    """Height of the roadway at ``s`` metres from the southern bank."""
    f = 2.0 * s / length - 1.0
    return np.asarray(KERB + 0.02 + _CAMBER * np.maximum(0.0, 1.0 - f * f), np.float32)


def _intrados(s: Float32Array, length: float) -> Float32Array:
    """Height of the arches' underside, or the water's where a pier stands."""
    span = length / _ARCHES
    within = s % span
    half = (span - _PIER) / 2
    f = (within - span / 2) / half
    rise = WATER_DEPTH + 0.25 + 0.75 * _deck(s, length) - 0.9
    arch = -WATER_DEPTH + 0.3 + rise * np.sqrt(np.maximum(0.0, 1.0 - f * f))
    return np.where(np.abs(f) < 1.0, arch, -WALL_FOOT).astype(np.float32)


def _half_bridge(kit: Kit, x: float, width: float, south: float, north: float, sign: float) -> None:
    """The half of a stone bridge that lies on one side of ``x``."""
    length = north - south
    pieces = 72
    s = np.linspace(0.0, length, pieces + 1, dtype=np.float32)
    a, b = s[:-1], s[1:]
    middle = np.asarray((a + b) / 2, np.float32)
    low, high = _intrados(middle, length), _deck(middle, length)
    drive = carriageway_half(width)
    outer = x + sign * width
    parts = kit.parts

    def rows(px: float, height: Float32Array, pz: Float32Array) -> Float32Array:
        return np.stack([np.full(pz.shape, px), -height, pz], axis=1).astype(np.float32)

    def slope(material: str, xa: float, xb: float, lift: float, color: ArrayLike) -> None:
        left, right = min(xa, xb), max(xa, xb)
        start = rows(left, _deck(a, length) + lift, south + a)
        end = rows(left, _deck(b, length) + lift, south + b)
        parts.panel(kit.material(material), start, (right - left, 0.0, 0.0), end - start, color)

    slope("asphalt", x + sign * 0.07, x + sign * drive, 0.0, ASPHALT)
    dashed = np.where((np.arange(pieces) // 5 % 2 == 0)[:, None], 0.86, ASPHALT[0]) * np.ones(3)
    slope("marking", x, x + sign * 0.07, 0.0, dashed)
    slope("paving", x + sign * drive, outer - sign * 0.4, KERB, PAVING)
    slope("trim", outer - sign * 0.5, outer + sign * 0.06, 1.08, QUAY_STONE * 1.12)
    stone = kit.material("stone")
    step = (b - a)[:, None]
    # Seen from the river: the spandrels with the arches cut out, then the parapet.
    for base, top, at, out, tint in (
        (low, high, outer, sign, 1.0),
        (high, high + 1.05, outer, sign, 1.06),
        (high + KERB, high + 1.05, outer - sign * 0.45, -sign, 1.0),
    ):
        forward = out > 0
        foot = rows(at, base, south + (a if forward else b))
        along = np.concatenate([0 * step, 0 * step, step if forward else -step], axis=1)
        rise = np.stack([0 * base, base - top, 0 * base], axis=1)
        parts.panel(stone, foot, along, rise, QUAY_STONE * tint)
    # The vaults, from below.
    left, right = min(x, outer), max(x, outer)
    start = rows(left, _intrados(a + 1e-3, length), south + a)
    end = rows(left, _intrados(b - 1e-3, length), south + b)
    parts.panel(
        stone,
        start + np.array([right - left, 0, 0], np.float32),
        (left - right, 0.0, 0.0),
        end - start,
        QUAY_STONE * 0.8,
    )
    for k in range(1, _ARCHES):
        _cutwater(kit, outer, sign, south + k * length / _ARCHES)


def _cutwater(kit: Kit, x: float, sign: float, z: float) -> None:
    """The pointed foot of a pier, with a sloping cap."""
    stone = kit.material("stone")
    base, top, half = WALL_FOOT, 0.9, _PIER / 2
    corners = [(x, z - half), (x + sign * 1.3, z), (x, z + half)]
    corners = corners if sign > 0 else corners[::-1]
    for k in range(2):
        (ax, az), (bx, bz) = corners[k], corners[k + 1]
        face = [(ax, base, az), (bx, base, bz), (bx, top, bz), (ax, top, az)]
        kit.parts.quad(stone, face, QUAY_STONE)
        peak = (x, top - 0.7, z)
        kit.parts.quad(stone, [(ax, top, az), (bx, top, bz), peak, peak], QUAY_STONE * 1.1)
