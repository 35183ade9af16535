"""Houses: walls, roofs, chimneys, dormers."""

from __future__ import annotations

import numpy as np

from scene_store.town.dormer import build_dormers
from scene_store.town.facade import Style, dress
from scene_store.town.kit import WHITE, Finish, Kit
from scene_store.town.parts import Wall
from scene_store.town.roof import roof_points, roof_size
from scene_store.town.site import FLOOR, GROUND_FLOOR, Box, House, Roof, Side
from splat.gaussians import Float32Array

OVERHANG = 0.45


def build_house(kit: Kit, house: House) -> None:
    """One house, complete."""
    outer, kit.rng = kit.rng, np.random.default_rng(house.seed)
    # Drawn before any detail, so that a house looks the same with more of it or less.
    style = _style(kit, house)
    roof_palette = "slate" if kit.chance(0.14) else "roof"
    roof_color = kit.color(roof_palette)
    material = "slate" if roof_palette == "slate" else "tile"
    overhang = 0.0 if house.roof is Roof.FLAT else OVERHANG
    for side, role in house.sides.items():
        base = 0.0
        eaves = house.eaves - 0.35 - 0.9 * overhang
        wall = Wall.of_box(side, house.box, house.eaves, base, eaves)
        if role is Side.PARTY:
            wall.rect(
                kit.parts,
                kit.material("plaster"),
                0.0,
                wall.width,
                max(0.0, house.eaves - 5.0),
                house.eaves,
                style.wall * 0.95,
            )
        else:
            dress(kit, wall, style, street=role is Side.STREET)
    if house.roof is Roof.FLAT:
        _flat_roof(kit, house, style)
    elif house.roof is Roof.HIP:
        hip_roof(kit, house, material, roof_color, OVERHANG)
    else:
        gable_roof(kit, house, material, roof_color, style)
    if house.roof is not Roof.FLAT and kit.finish >= Finish.PLAIN:
        _chimneys(kit, house, style)
        if house.roof is Roof.GABLE:
            build_dormers(kit, house, material, roof_color, style)
    kit.rng = outer


def _style(kit: Kit, house: House) -> Style:
    rng = kit.rng
    masonry = kit.chance(0.11)
    wall = kit.color("masonry" if masonry else "plaster")
    levels = [0.0]
    ground, floor = (GROUND_FLOOR, FLOOR) if house.shops or house.floors > 2 else (3.3, 2.9)
    for k in range(1, house.floors):
        levels.append(ground + floor * (k - 1))
    levels.append(house.eaves)
    if len(levels) == 2:
        levels = [0.0, house.eaves]
    stone_base = kit.chance(0.55)
    return Style(
        wall_material="brick" if masonry else "plaster",
        wall=wall,
        base_material="stone" if stone_base else "plaster",
        base=kit.color("stone") if stone_base else wall * np.float32(0.88),
        trim=kit.color("trim"),
        frame=kit.color("frame"),
        shutter=kit.color("shutter"),
        door=kit.color("door"),
        awning=kit.color("awning"),
        sign=kit.color("sign"),
        bay=float(rng.uniform(2.1, 3.1)),
        window=(float(rng.uniform(0.95, 1.25)), float(rng.uniform(1.5, 1.95))),
        sill=float(rng.uniform(0.7, 0.9)),
        floor_levels=tuple(levels),
        shutters=kit.chance(0.42),
        surrounds=kit.chance(0.6),
        balconies=kit.chance(0.3),
        courses=kit.chance(0.4),
        shops=house.shops,
    )


def gable_roof(
    kit: Kit, house: House, material: str, color: Float32Array, style: Style | None = None
) -> None:
    """Two slopes and two gables."""
    length, depth = roof_size(house)
    rise = house.ridge - house.eaves
    e, drop = OVERHANG, OVERHANG * rise / (depth / 2)
    low, high, middle = house.eaves - drop, house.ridge, depth / 2
    # A verge over free gables, flush with the neighbour on party walls.
    ends = ("w", "e") if house.ridge_along == "x" else ("s", "n")
    v = [0.0 if house.sides[s] is Side.PARTY else 0.25 for s in ends]
    index = kit.material(material)
    near = [
        (-v[0], -e, low),
        (length + v[1], -e, low),
        (length + v[1], middle, high),
        (-v[0], middle, high),
    ]
    far = [
        (length + v[1], depth + e, low),
        (-v[0], depth + e, low),
        (-v[0], middle, high),
        (length + v[1], middle, high),
    ]
    for corners in (near, far):
        kit.parts.quad(index, roof_points(house, corners), color)
    wall = WHITE * 0.9 if style is None else style.wall
    plaster = kit.material("plaster")
    for at, flip in ((0.0, True), (length, False)):
        base = [(at, 0.0, house.eaves), (at, depth, house.eaves)]
        base = base[::-1] if flip else base
        apex = (at, middle, house.ridge - 0.05)
        kit.parts.quad(plaster, roof_points(house, [*base, apex, apex]), wall)
    if kit.finish >= Finish.PLAIN:
        ridge = roof_points(
            house, [(-v[0], middle, high + 0.05), (length + v[1], middle, high + 0.05)]
        )
        kit.parts.strut(ridge[0], ridge[1], 0.11, color * 0.8)
        _gutters(kit, house, low, e, (-v[0], length + v[1]), depth)


def _gutters(
    kit: Kit, house: House, low: float, e: float, span: tuple[float, float], depth: float
) -> None:
    for across in (-e, depth + e):
        a, b = roof_points(house, [(span[0], across, low - 0.04), (span[1], across, low - 0.04)])
        kit.parts.strut(a, b, 0.07, (0.42, 0.40, 0.37))


def hip_roof(kit: Kit, house: House, material: str, color: Float32Array, overhang: float) -> None:
    """Four slopes; a square house gets a pyramid."""
    length, depth = roof_size(house)
    rise = house.ridge - house.eaves
    e = overhang
    low = house.eaves - e * rise / (depth / 2)
    inset = min(depth / 2, length / 2)
    a, b, middle, high = inset, length - inset, depth / 2, house.ridge
    index = kit.material(material)
    slopes = [
        [(-e, -e, low), (length + e, -e, low), (b, middle, high), (a, middle, high)],
        [(length + e, depth + e, low), (-e, depth + e, low), (a, middle, high), (b, middle, high)],
        [(-e, depth + e, low), (-e, -e, low), (a, middle, high), (a, middle, high)],
        [(length + e, -e, low), (length + e, depth + e, low), (b, middle, high), (b, middle, high)],
    ]
    for corners in slopes:
        kit.parts.quad(index, roof_points(house, corners), color)
    if kit.finish >= Finish.PLAIN and b > a:
        ridge = roof_points(house, [(a, middle, high + 0.05), (b, middle, high + 0.05)])
        kit.parts.strut(ridge[0], ridge[1], 0.11, color * 0.8)


def _flat_roof(kit: Kit, house: House, style: Style) -> None:
    x0, x1, z0, z1 = house.box
    kit.parts.floor(kit.material("gravel"), x0, x1, z0, z1, (0.55, 0.53, 0.50), house.eaves)
    for side in "wesn":
        wall = Wall.of_box(side, house.box, 0.7, base=house.eaves)
        plaster = kit.material("plaster")
        wall.rect(kit.parts, plaster, 0.0, wall.width, 0.0, 0.7, style.wall)
        wall.ledge(kit.parts, kit.material("trim"), 0.0, wall.width, 0.7, -0.3, 0.06, style.trim)
        inner = Wall(wall.at(wall.width, 0.0, -0.3)[0], -wall.right, -wall.out, wall.width, 0.7)
        inner.rect(kit.parts, plaster, 0.0, wall.width, 0.0, 0.7, style.wall * 0.9)
    for _ in range(int(kit.rng.integers(1, 4))):
        x = float(kit.rng.uniform(x0 + 1.5, x1 - 3.5))
        z = float(kit.rng.uniform(z0 + 1.5, z1 - 3.5))
        box: Box = (
            x,
            x + float(kit.rng.uniform(0.9, 2.2)),
            z,
            z + float(kit.rng.uniform(0.9, 1.8)),
        )
        kit.solid(
            "trim",
            box,
            house.eaves,
            house.eaves + float(kit.rng.uniform(0.7, 2.2)),
            (0.66, 0.66, 0.64),
        )


def _chimneys(kit: Kit, house: House, style: Style) -> None:
    """Stacks near the ridge, with pots."""
    length, depth = roof_size(house)
    for _ in range(int(kit.rng.integers(1, 3))):
        along = float(kit.rng.uniform(0.8, max(0.9, length - 1.6)))
        across = depth / 2 + float(kit.rng.choice([-1.3, 1.3]))
        a, b = roof_points(house, [(along, across - 0.35, 0.0), (along + 0.95, across + 0.35, 0.0)])
        low_x, high_x = sorted((float(a[0]), float(b[0])))
        low_z, high_z = sorted((float(a[2]), float(b[2])))
        top = house.ridge + float(kit.rng.uniform(0.7, 1.5))
        brick = (0.55, 0.36, 0.28) if kit.chance(0.6) else tuple(style.wall * 0.9)
        kit.solid("brick", (low_x, high_x, low_z, high_z), house.ridge - 2.2, top, brick)
        kit.solid(
            "trim",
            (low_x - 0.06, high_x + 0.06, low_z - 0.06, high_z + 0.06),
            top,
            top + 0.12,
            style.trim * 0.8,
        )
        for f in (0.3, 0.7):
            foot = np.array(
                [low_x + f * (high_x - low_x), -top - 0.1, low_z + f * (high_z - low_z)]
            )
            kit.parts.strut(foot, foot - (0.0, 0.45, 0.0), 0.12, (0.60, 0.36, 0.26))
