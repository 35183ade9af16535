"""What people remember of the town: the church, the market square, the park's basin."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.town.house import gable_roof
from scene_store.town.kit import IRON, Finish, Kit
from scene_store.town.nature import build_flowerbed
from scene_store.town.parts import Wall
from scene_store.town.plan import Cell
from scene_store.town.site import Box, House, Roof
from scene_store.town.street import build_bench, build_lamp
from splat.gaussians import Float32Array

VERDIGRIS = np.array([0.45, 0.62, 0.55], np.float32)
CHURCH_WALL = np.array([0.88, 0.83, 0.72], np.float32)
QUOIN = np.array([0.70, 0.64, 0.54], np.float32)
SLATE = np.array([0.38, 0.40, 0.45], np.float32)
# Metres from the middle of the square.
_STALLS = (
    (-10.0, 6.0),
    (-10.0, 11.0),
    (-10.0, 16.0),
    (-14.5, 9.0),
    (-14.5, 14.0),
    (10.0, 7.0),
    (10.0, 12.0),
    (14.5, 9.5),
)
_PARASOLS = (
    (13.0, -9.0),
    (16.5, -7.0),
    (15.5, -12.0),
    (12.0, -13.5),
    (-14.0, -9.0),
    (-16.5, -12.0),
    (-12.5, -13.0),
)
GOLD = np.array([0.86, 0.68, 0.28], np.float32)


def build_church_volume(kit: Kit, house: House) -> None:
    """The tower, the nave or the transept."""
    if house.roof is Roof.SPIRE:
        _tower(kit, house)
        return
    for side in "wesn":
        wall = Wall.of_box(side, house.box, house.eaves, eaves=house.eaves - 0.5)
        if side in "sn":
            _plain(kit, wall)
        else:
            _lancets(
                kit,
                wall,
                count=max(1, round(wall.width / 5.0)),
                foot=3.2,
                head=house.eaves - 2.2,
                half=0.75,
            )
    gable_roof(kit, house, "slate", SLATE)


def _plain(kit: Kit, wall: Wall) -> None:
    wall.rect(kit.parts, kit.material("plaster"), 0.0, wall.width, 0.0, wall.height, CHURCH_WALL)


def _lancets(kit: Kit, wall: Wall, *, count: int, foot: float, head: float, half: float) -> None:
    """Tall windows with pointed heads between buttresses."""
    parts, plaster = kit.parts, kit.material("plaster")
    step = wall.width / count
    center = (np.arange(count, dtype=np.float32) + 0.5) * step
    point = head + 1.8 * half
    wall.rect(parts, plaster, 0.0, wall.width, 0.0, foot, CHURCH_WALL)
    wall.rect(parts, plaster, 0.0, wall.width, point, wall.height, CHURCH_WALL)
    left = np.concatenate([[0.0], center + half])
    right = np.concatenate([center - half, [wall.width]])
    wall.rect(parts, plaster, left, right, foot, point, CHURCH_WALL)
    glass = np.array([0.16, 0.20, 0.26], np.float32)
    wall.rect(parts, kit.material("glass"), center - half, center + half, foot, head, glass, -0.2)
    up, rise = np.array([0.0, -1.0, 0.0]), point - head
    across, width = rise * up, 2 * half * wall.right
    parts.panel(
        kit.material("glass"), wall.at(center - half, head, -0.2), width, across, glass, taper=1.0
    )
    # The spandrels beside each point: two triangles that close the rectangle.
    for side in (-1.0, 1.0):
        corner = wall.at(center + side * half, point, 0.0)
        for k in range(count):
            outer, top = corner[k], wall.at(center[k], point, 0.0)[0]
            low = wall.at(center[k] + side * half, head, 0.0)[0]
            base = [top, outer] if side < 0 else [outer, top]
            parts.quad(plaster, [*base, low, low], CHURCH_WALL)
    if kit.finish >= Finish.PLAIN:
        bars = np.concatenate([center - half, center - 0.06, center + half - 0.12])
        wall.rect(parts, kit.material("frame"), bars, bars + 0.12, foot, head, QUOIN, -0.15)
    edges = np.arange(count + 1, dtype=np.float32) * step
    wall.box(
        parts,
        kit.material("stone"),
        np.clip(edges - 0.5, 0, wall.width - 1),
        np.clip(edges + 0.5, 1, wall.width),
        0.0,
        0.72 * wall.height,
        0.8,
        QUOIN,
    )


def _tower(kit: Kit, house: House) -> None:
    """Square shaft with quoins, portal, clocks, belfry, and a copper spire."""
    parts = kit.parts
    x0, x1, z0, z1 = house.box
    for side in "wesn":
        wall = Wall.of_box(side, house.box, house.eaves, eaves=house.eaves - 0.4)
        _tower_wall(kit, wall, portal=side == "s")
    middle = np.array([(x0 + x1) / 2, 0.0, (z0 + z1) / 2])
    half, top = (x1 - x0) / 2, house.eaves
    copper = kit.material("copper")
    # A square skirt turns into an octagon; the octagon into a needle.
    radii = [(half + 0.5, top + 0.1, 4), (half * 0.78, top + 3.0, 8)]
    ring = _ring(middle, radii[0][0] * np.sqrt(2.0), radii[0][1], 4, np.pi / 4)
    neck = _ring(middle, radii[1][0] * np.sqrt(2.0), radii[1][1], 4, np.pi / 4)
    for k in range(4):
        n = (k + 1) % 4
        parts.quad(copper, [ring[n], ring[k], neck[k], neck[n]], VERDIGRIS)
    octagon = _ring(middle, half * 0.92, top + 2.4, 8, np.pi / 8)
    shoulder = _ring(middle, half * 0.60, top + 8.0, 8, np.pi / 8)
    tip = middle - (0.0, house.ridge, 0.0)
    for k in range(8):
        n = (k + 1) % 8
        parts.quad(copper, [octagon[n], octagon[k], shoulder[k], shoulder[n]], VERDIGRIS)
        parts.quad(copper, [shoulder[n], shoulder[k], tip, tip], VERDIGRIS)
    parts.blob(tip - (0.0, 0.3, 0.0), 0.42, GOLD, fuzz=0.0)
    parts.strut(tip, tip - (0.0, 2.6, 0.0), 0.07, GOLD)
    parts.strut(tip - (0.6, 1.9, 0.0), tip - (-0.6, 1.9, 0.0), 0.07, GOLD)


def _tower_wall(kit: Kit, wall: Wall, *, portal: bool) -> None:
    parts, w, h = kit.parts, wall.width, wall.height
    plaster, stone, trim = (kit.material(m) for m in ("plaster", "stone", "trim"))
    c, belfry, b = w / 2, h - 8.0, 0.75
    q = 0.8
    wall.rect(parts, stone, [0.0, w - q], [q, w], 0.0, h, QUOIN, 0.04)
    openings = np.array([c - 1.7, c + 1.7], np.float32)
    foot = 4.6 if portal else 0.0
    wall.rect(parts, plaster, q, w - q, foot, belfry, CHURCH_WALL)
    wall.rect(parts, plaster, q, w - q, belfry + 4.2, h, CHURCH_WALL)
    wall.rect(
        parts,
        plaster,
        [q, openings[0] + b, openings[1] + b],
        [openings[0] - b, openings[1] - b, w - q],
        belfry,
        belfry + 4.2,
        CHURCH_WALL,
    )
    louvres = np.arange(belfry, belfry + 4.1, 0.42, dtype=np.float32)
    s, t = np.meshgrid(openings, louvres)
    shade = np.where(np.arange(s.size)[:, None] // 2 % 2 == 0, 0.22, 0.34) * np.ones(3)
    wall.rect(parts, kit.material("timber"), s - b, s + b, t, t + 0.42, shade, -0.25)
    for level in (belfry - 7.5, belfry - 0.6, h - 0.7):
        wall.box(parts, trim, -0.2, w + 0.2, level, level + 0.5, 0.3, QUOIN, under=True)
    _clock(kit, wall, c, belfry - 3.4)
    slit = wall.height * 0.30
    wall.rect(
        parts, kit.material("glass"), c - 0.4, c + 0.4, slit, slit + 2.2, (0.14, 0.16, 0.2), 0.03
    )
    if portal:
        wall.rect(parts, stone, [q, c + 1.5], [c - 1.5, w - q], 0.0, foot, QUOIN)
        wall.rect(parts, stone, c - 1.5, c + 1.5, 3.6, foot, QUOIN)
        wall.rect(
            parts,
            kit.material("timber"),
            [c - 1.5, c],
            [c, c + 1.5],
            0.0,
            3.6,
            (0.30, 0.19, 0.12),
            -0.3,
        )
        wall.box(parts, stone, [c - 2.1, c + 1.5], [c - 1.5, c + 2.1], 0.0, 4.0, 0.35, QUOIN)
        steps = np.arange(4)
        for k in steps:
            wall.box(
                parts,
                stone,
                c - 3.2 - 0.3 * k,
                c + 3.2 + 0.3 * k,
                0.0,
                0.6 - 0.15 * k,
                0.5 + 0.4 * k,
                QUOIN * 1.05,
            )


def _clock(kit: Kit, wall: Wall, s: float, t: float) -> None:
    """A dark dial with golden hours and hands."""
    radius, parts = 1.55, kit.parts
    dial = (0.14, 0.17, 0.24)
    angle = np.arange(12) * np.pi / 6
    wedge = radius * np.tan(np.pi / 12)
    for a in angle:
        out = np.sin(a) * wall.right - np.cos(a) * np.array([0.0, 1.0, 0.0])
        side = np.cos(a) * wall.right + np.sin(a) * np.array([0.0, 1.0, 0.0])
        rim = wall.at(s, t, 0.1)[0] + radius * out
        middle = wall.at(s, t, 0.1)[0]
        sector = [rim + wedge * side, rim - wedge * side, middle, middle]
        parts.quad(kit.material("frame"), sector, dial)
        mark = wall.at(s, t, 0.16)[0]
        parts.strut(mark + 0.78 * radius * out, mark + 0.95 * radius * out, 0.075, GOLD)
    centre = wall.at(s, t, 0.18)[0]
    for a, reach in ((2.1, 0.55), (4.9, 0.8)):
        hand = np.sin(a) * wall.right - np.cos(a) * np.array([0.0, 1.0, 0.0])
        parts.strut(centre, centre + reach * radius * hand, 0.07, GOLD)


def _ring(
    middle: NDArray[np.floating], radius: float, height: float, count: int, phase: float
) -> Float32Array:
    """[count, 3] points of a level circle, counterclockwise as seen on the plan."""
    angle = phase + np.arange(count) * 2 * np.pi / count
    points = np.stack([np.cos(angle) * radius, np.full(count, -height), np.sin(angle) * radius], 1)
    return np.asarray(points + middle, np.float32)


def build_square(kit: Kit, cell: Cell) -> None:
    """Cobbles, a fountain, market stalls, café tables under parasols."""
    x0, x1, z0, z1 = cell.lot
    kit.parts.floor(kit.material("cobble"), x0, x1, z0, z1, (0.60, 0.56, 0.50), 0.12)
    middle_x, middle_z = (x0 + x1) / 2, (z0 + z1) / 2
    build_fountain(kit, middle_x, middle_z - 2.0)
    for x, z in _STALLS:
        build_stall(kit, middle_x + x, middle_z + z)
    for x, z in _PARASOLS:
        build_parasol(kit, middle_x + x, middle_z + z)
    for x in (x0 + 4.6, x1 - 4.6):
        for z in (z0 + 9, z0 + 25, z1 - 8):
            build_lamp(kit, x, z)
            build_bench(kit, x, z + 3.0, along_x=False)


def build_fountain(kit: Kit, x: float, z: float) -> None:
    """An octagonal basin around a column with two bowls."""
    middle = np.array([x, 0.0, z])
    stone, pale = kit.material("stone"), np.array([0.74, 0.71, 0.64], np.float32)
    outer, inner = 3.4, 3.0
    for radius, low, high, inside in ((outer, 0.1, 0.85, False), (inner, 0.4, 0.85, True)):
        foot, rim = (_ring(middle, radius, h, 8, np.pi / 8) for h in (low, high))
        for k in range(8):
            n = (k + 1) % 8
            a, b = (k, n) if inside else (n, k)
            kit.parts.quad(stone, [foot[a], foot[b], rim[b], rim[a]], pale)
    edge = _ring(middle, outer + 0.1, 0.86, 8, np.pi / 8)
    lip = _ring(middle, inner, 0.86, 8, np.pi / 8)
    water = _ring(middle, inner, 0.62, 8, np.pi / 8)
    basin = (0.20, 0.28, 0.29)
    for k in range(8):
        n = (k + 1) % 8
        kit.parts.quad(kit.material("trim"), [edge[n], edge[k], lip[k], lip[n]], pale)
        centre = middle - (0.0, 0.62, 0.0)
        kit.parts.quad(kit.material("paint"), [water[n], water[k], centre, centre], basin)
    up = np.array([0.0, -1.0, 0.0])
    kit.parts.strut(middle + 0.5 * up, middle + 3.4 * up, 0.26, pale)
    for height, radius in ((1.7, 1.25), (2.8, 0.7)):
        kit.parts.blob(middle + height * up, (radius, 0.22, radius), pale, fuzz=0.0)
        spouts = _ring(middle, radius, height + 0.1, 10, 0.0)
        fall = _ring(middle, radius + 0.2, height - 0.8, 10, 0.0)
        kit.parts.strut(spouts, fall, 0.03, (0.86, 0.91, 0.94))
    kit.parts.blob(middle + 3.8 * up, (0.22, 0.55, 0.22), VERDIGRIS * 0.8, fuzz=0.0)


def build_stall(kit: Kit, x: float, z: float) -> None:
    """A market stall: striped gabled cloth on four posts, crates of fruit."""
    cloth, pale = kit.color("awning"), np.array([0.93, 0.90, 0.84], np.float32)
    a, b, low, high = 1.7, 1.25, 2.15, 2.75
    fabric = kit.material("fabric")
    stripes = 6
    edges = np.linspace(-a, a, stripes + 1)
    for k in range(stripes):
        u, v = x + edges[k], x + edges[k + 1]
        color = cloth if k % 2 == 0 else pale
        for sign in (-1.0, 1.0):
            eave = [(u, -low, z + sign * b), (v, -low, z + sign * b)]
            ridge = [(v, -high, z), (u, -high, z)]
            trim = [(u, -low + 0.25, z + sign * b), (v, -low + 0.25, z + sign * b)]
            for foot, head in ((eave, ridge), (trim, eave[::-1])):
                corners = [*foot, *head] if sign < 0 else [*foot[::-1], *head[::-1]]
                kit.parts.quad(fabric, corners, color)
    posts = np.array([(x + i * a, 0.0, z + k * b) for i in (-1, 1) for k in (-1, 1)])
    kit.parts.strut(posts, posts - (0.0, low, 0.0), 0.05, (0.45, 0.33, 0.22))
    box: Box = (x - a + 0.1, x + a - 0.1, z - 0.75, z + 0.75)
    kit.solid("timber", box, 0.12, 0.95, (0.50, 0.36, 0.24))
    crates = [(dx, dz) for dx in (-1.1, -0.4, 0.4, 1.1) for dz in (-0.4, 0.35)]
    goods = np.array([(x + dx, -1.02, z + dz) for dx, dz in crates])
    kit.parts.blob(goods, (0.32, 0.15, 0.32), kit.colors("fruit", len(goods)))


def build_parasol(kit: Kit, x: float, z: float) -> None:
    """A café table with chairs under a parasol."""
    color = kit.color("awning") if kit.chance(0.5) else np.array([0.93, 0.90, 0.82], np.float32)
    middle = np.array([x, 0.0, z])
    up = np.array([0.0, -1.0, 0.0])
    rim, tip = _ring(middle, 1.75, 2.25, 8, np.pi / 8), middle + 2.85 * up
    for k in range(8):
        n = (k + 1) % 8
        kit.parts.quad(
            kit.material("fabric"), [rim[n], rim[k], tip, tip], color * (1.0 if k % 2 else 0.9)
        )
    kit.parts.strut(middle, tip, 0.04, (0.55, 0.50, 0.42))
    kit.parts.strut(middle, middle + 0.72 * up, 0.04, IRON)
    wood, timber = np.array([0.46, 0.31, 0.20], np.float32), kit.material("timber")
    _slab(kit, middle + 0.74 * up, (0.42, 0.0, 0.0), (0.0, 0.0, 0.42), "trim", (0.86, 0.84, 0.78))
    for angle in np.arange(4) * np.pi / 2 + kit.rng.uniform(0, 1.5):
        out = np.array([np.cos(angle), 0.0, np.sin(angle)])
        side = np.array([np.sin(angle), 0.0, -np.cos(angle)])
        seat = middle + 0.45 * up + 0.95 * out
        _slab(kit, seat, 0.22 * side, 0.22 * out, "timber", wood)
        for a in (-0.18, 0.18):
            for c in (-0.18, 0.18):
                leg = seat + a * out + c * side
                kit.parts.strut(leg, leg - 0.45 * up, 0.028, wood * 0.7)
        low, high = seat + 0.22 * out + 0.1 * up, seat + 0.26 * out + 0.48 * up
        kit.parts.quad(
            timber,
            [low - 0.21 * side, low + 0.21 * side, high + 0.21 * side, high - 0.21 * side],
            wood,
        )


def _slab(
    kit: Kit, center: ArrayLike, a: ArrayLike, b: ArrayLike, material: str, color: ArrayLike
) -> None:
    """A board around ``center`` that reaches ``a`` and ``b`` to either side and faces up."""
    c, a, b = (np.asarray(v, np.float32) for v in (center, a, b))
    a = a if np.cross(a, b)[1] < 0 else -a
    kit.parts.panel(kit.material(material), c - a - b, 2 * a, 2 * b, color)


def build_park(kit: Kit, cell: Cell) -> None:
    """Lawns, crossing paths, a round bed in the middle, benches."""
    x0, x1, z0, z1 = cell.lot
    mx, mz, p = (x0 + x1) / 2, (z0 + z1) / 2, 1.6
    gravel, lawn = kit.material("gravel"), kit.material("lawn")
    sand, green = (0.76, 0.69, 0.56), (0.38, 0.47, 0.21)
    for a, b in ((x0, mx - p), (mx + p, x1)):
        for c, d in ((z0, mz - p), (mz + p, z1)):
            kit.parts.floor(lawn, a, b, c, d, green, 0.12)
            kit.parts.floor(gravel, mx - p, mx + p, c, d, sand, 0.1)
        kit.parts.floor(gravel, a, b, mz - p, mz + p, sand, 0.1)
    kit.parts.floor(gravel, mx - p, mx + p, mz - p, mz + p, sand, 0.1)
    build_flowerbed(kit, mx, mz, 1.2)
    for s in (-14.0, -7.0, 7.0, 14.0):
        build_bench(kit, mx + s, mz + p + 0.5)
        build_lamp(kit, mx + p + 0.4, mz + s)
        build_flowerbed(kit, mx - p - 1.4, mz + s, 0.8)
