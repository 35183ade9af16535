"""Houses: walls, roofs, chimneys, dormers."""

from __future__ import annotations

import numpy as np

from scene_store.town.facade import Style, dress
from scene_store.town.kit import WHITE, Finish, Kit
from scene_store.town.parts import Wall
from scene_store.town.site import FLOOR, GROUND_FLOOR, Box, House, Roof, Side
from splat.gaussians import Float32Array

OVERHANG = 0.45


def build_house(kit: Kit, house: House) -> None:
    """One house, complete."""
    outer, kit.rng = kit.rng, np.random.default_rng(house.seed)
    style = _style(kit, house)
    overhang = 0.0 if house.roof is Roof.FLAT else OVERHANG
    for side, role in house.sides.items():
        base = 0.0
        eaves = house.eaves - 0.35 - 0.9 * overhang
        wall = Wall.of_box(side, house.box, house.eaves, base, eaves)
        if role is Side.PARTY:
            wall.rect(kit.parts, kit.material("plaster"), 0.0, wall.width,
                      max(0.0, house.eaves - 5.0), house.eaves, style.wall * 0.95)
        else:
            dress(kit, wall, style, street=role is Side.STREET)
    roof_palette = "slate" if kit.chance(0.14) else "roof"
    roof_color = kit.color(roof_palette)
    material = "slate" if roof_palette == "slate" else "tile"
    if house.roof is Roof.FLAT:
        _flat_roof(kit, house, style)
    elif house.roof is Roof.HIP:
        hip_roof(kit, house, material, roof_color, OVERHANG)
    else:
        gable_roof(kit, house, material, roof_color, style)
    if house.roof is not Roof.FLAT and kit.finish >= Finish.PLAIN:
        _chimneys(kit, house, style)
        if house.roof is Roof.GABLE:
            _dormers(kit, house, material, roof_color, style)
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


def _frame(house: House) -> tuple[Float32Array, Float32Array, Float32Array, float, float]:
    """(corner, unit vector along the ridge, unit vector across, length, depth) of a roof,
    such that along × across points up."""
    x0, x1, z0, z1 = house.box
    if house.ridge_along == "x":
        corner, along, across = (x0, z0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
        length, depth = x1 - x0, z1 - z0
    else:
        corner, along, across = (x1, z0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)
        length, depth = z1 - z0, x1 - x0
    origin = np.array([corner[0], 0.0, corner[1]], np.float32)
    return origin, np.array(along, np.float32), np.array(across, np.float32), length, depth


def _points(house: House, rows: list[tuple[float, float, float]]) -> Float32Array:
    """Corners from (along, across, height) in the roof's frame."""
    origin, along, across, _, _ = _frame(house)
    local = np.asarray(rows, np.float32)
    points = origin + local[:, :1] * along + local[:, 1:2] * across
    points[:, 1] -= local[:, 2]
    return points


def gable_roof(
    kit: Kit, house: House, material: str, color: Float32Array, style: Style | None = None
) -> None:
    """Two slopes and two gables."""
    _, _, _, length, depth = _frame(house)
    rise = house.ridge - house.eaves
    e, drop = OVERHANG, OVERHANG * rise / (depth / 2)
    low, high, middle = house.eaves - drop, house.ridge, depth / 2
    # A verge over free gables, flush with the neighbour on party walls.
    ends = ("w", "e") if house.ridge_along == "x" else ("s", "n")
    v = [0.0 if house.sides[s] is Side.PARTY else 0.25 for s in ends]
    index = kit.material(material)
    near = [(-v[0], -e, low), (length + v[1], -e, low), (length + v[1], middle, high),
            (-v[0], middle, high)]
    far = [(length + v[1], depth + e, low), (-v[0], depth + e, low), (-v[0], middle, high),
           (length + v[1], middle, high)]
    for corners in (near, far):
        kit.parts.quad(index, _points(house, corners), color)
    wall = WHITE * 0.9 if style is None else style.wall
    plaster = kit.material("plaster")
    for at, flip in ((0.0, True), (length, False)):
        base = [(at, 0.0, house.eaves), (at, depth, house.eaves)]
        base = base[::-1] if flip else base
        apex = (at, middle, house.ridge - 0.05)
        kit.parts.quad(plaster, _points(house, [*base, apex, apex]), wall)
    if kit.finish >= Finish.PLAIN:
        ridge = _points(house, [(-v[0], middle, high + 0.05), (length + v[1], middle, high + 0.05)])
        kit.parts.strut(ridge[0], ridge[1], 0.11, color * 0.8)
        _gutters(kit, house, low, e, (-v[0], length + v[1]), depth)


def _gutters(
    kit: Kit, house: House, low: float, e: float, span: tuple[float, float], depth: float
) -> None:
    for across in (-e, depth + e):
        a, b = _points(house, [(span[0], across, low - 0.04), (span[1], across, low - 0.04)])
        kit.parts.strut(a, b, 0.07, (0.42, 0.40, 0.37))


def hip_roof(
    kit: Kit, house: House, material: str, color: Float32Array, overhang: float
) -> None:
    """Four slopes; a square house gets a pyramid."""
    _, _, _, length, depth = _frame(house)
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
        kit.parts.quad(index, _points(house, corners), color)
    if kit.finish >= Finish.PLAIN and b > a:
        ridge = _points(house, [(a, middle, high + 0.05), (b, middle, high + 0.05)])
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
        box: Box = (x, x + float(kit.rng.uniform(0.9, 2.2)), z, z + float(kit.rng.uniform(0.9, 1.8)))
        kit.solid("trim", box, house.eaves, house.eaves + float(kit.rng.uniform(0.7, 2.2)),
                  (0.66, 0.66, 0.64))


def _chimneys(kit: Kit, house: House, style: Style) -> None:
    """Stacks near the ridge, with pots."""
    _, _, _, length, depth = _frame(house)
    for _ in range(int(kit.rng.integers(1, 3))):
        along = float(kit.rng.uniform(0.8, max(0.9, length - 1.6)))
        across = depth / 2 + float(kit.rng.choice([-1.3, 1.3]))
        a, b = _points(house, [(along, across - 0.35, 0.0), (along + 0.95, across + 0.35, 0.0)])
        low_x, high_x = sorted((float(a[0]), float(b[0])))
        low_z, high_z = sorted((float(a[2]), float(b[2])))
        top = house.ridge + float(kit.rng.uniform(0.7, 1.5))
        brick = (0.55, 0.36, 0.28) if kit.chance(0.6) else tuple(style.wall * 0.9)
        kit.solid("brick", (low_x, high_x, low_z, high_z), house.ridge - 2.2, top, brick)
        kit.solid("trim", (low_x - 0.06, high_x + 0.06, low_z - 0.06, high_z + 0.06), top,
                  top + 0.12, style.trim * 0.8)
        for f in (0.3, 0.7):
            foot = np.array([low_x + f * (high_x - low_x), -top - 0.1,
                             low_z + f * (high_z - low_z)])
            kit.parts.strut(foot, foot - (0.0, 0.45, 0.0), 0.12, (0.60, 0.36, 0.26))


def _dormers(
    kit: Kit, house: House, material: str, color: Float32Array, style: Style
) -> None:
    """Small gabled windows in the slope to the street, or skylights."""
    _, _, _, length, depth = _frame(house)
    rise = house.ridge - house.eaves
    slope = rise / (depth / 2)
    street = [s for s, role in house.sides.items() if role is Side.STREET]
    near_side = "s" if house.ridge_along == "x" else "e"
    near = near_side in street or not street
    count = int(length // 4.2)
    if count == 0 or rise < 3.0 or kit.chance(0.3):
        return
    for k in range(count):
        along = (k + 0.5) * length / count
        inset, w, h = 1.1, 0.75, 1.45
        foot = house.eaves + slope * inset
        back = inset + (h + 0.15) / slope
        _dormer(kit, house, along, inset, back, w, foot, h, near, depth, material, color, style)


def _dormer(
    kit: Kit,
    house: House,
    along: float,
    inset: float,
    back: float,
    w: float,
    foot: float,
    h: float,
    near: bool,
    depth: float,
    material: str,
    color: Float32Array,
    style: Style,
) -> None:
    flip = 1.0 if near else -1.0

    def corners(rows: list[tuple[float, float, float]]) -> Float32Array:
        # On the far slope the same shape is turned half around.
        turned = [(along + flip * a, c if near else depth - c, t) for a, c, t in rows]
        return _points(house, turned)

    top, peak = foot + h, foot + h + 0.55
    ridge_back = min(depth / 2, back + 0.5)
    plaster, tiles = kit.material("plaster"), kit.material(material)
    trim, glass, frame = kit.material("trim"), kit.material("glass"), kit.material("frame")
    quad = kit.parts.quad
    quad(glass, corners([(-w + 0.2, inset, foot + 0.2), (w - 0.2, inset, foot + 0.2),
                         (w - 0.2, inset, top - 0.1), (-w + 0.2, inset, top - 0.1)]),
         (0.15, 0.17, 0.19))
    for a, b in ((-w, -w + 0.2), (w - 0.2, w)):
        quad(trim, corners([(a, inset, foot), (b, inset, foot), (b, inset, top), (a, inset, top)]),
             style.trim)
    quad(frame, corners([(-0.04, inset - 0.03, foot + 0.2), (0.04, inset - 0.03, foot + 0.2),
                         (0.04, inset - 0.03, top - 0.1), (-0.04, inset - 0.03, top - 0.1)]),
         style.frame)
    quad(trim, corners([(-w, inset - 0.02, foot), (w, inset - 0.02, foot),
                        (w, inset - 0.02, foot + 0.2), (-w, inset - 0.02, foot + 0.2)]), style.trim)
    quad(trim, corners([(-w, inset, top - 0.1), (w, inset, top - 0.1), (0.0, inset, peak),
                        (0.0, inset, peak)]), style.trim)
    for s in (-1.0, 1.0):
        # Cheeks: triangles between the front and the slope, as narrow trapezoids.
        a, b = (s * w, back, top), (s * w, inset, top)
        c = (s * w, inset, foot)
        base = [b, a] if s > 0 else [a, b]
        quad(plaster, corners([*base, c, c])[[0, 1, 2, 3]], style.wall * 0.9)
        o = s * (w + 0.18)
        low = [(o, inset - 0.2, top - 0.12), (o, back + 0.25, top - 0.12)]
        high = [(0.0, ridge_back + 0.3, peak), (0.0, inset - 0.2, peak)]
        if s < 0:
            low, high = low[::-1], high[::-1]
        quad(tiles, corners([*low, *high]), color)
