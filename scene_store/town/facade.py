"""Façades: storeys of windows, shop fronts, doors, balconies, mouldings.

A façade is cut into the rectangles that its openings leave, so that nothing of the wall
lies behind a window and every edge is the edge of a panel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scene_store.town.kit import IRON, Finish, Kit
from scene_store.town.parts import Wall
from splat.gaussians import Float32Array

GLASS_DEPTH = -0.13
FRAME_DEPTH = -0.10


@dataclass(frozen=True, slots=True, eq=False)
class Style:
    """How one house dresses its walls.

    Attributes:
        wall_material, base_material: Names in the recipe.
        bay: Wished distance between windows, metres.
        window: Width and height of an ordinary window.
        sill: Height of a window's foot above its floor.
        floor_levels: Foot of each storey and, last, the eaves.
    """

    wall_material: str
    wall: Float32Array
    base_material: str
    base: Float32Array
    trim: Float32Array
    frame: Float32Array
    shutter: Float32Array
    door: Float32Array
    awning: Float32Array
    sign: Float32Array
    bay: float
    window: tuple[float, float]
    sill: float
    floor_levels: tuple[float, ...]
    shutters: bool
    surrounds: bool
    balconies: bool
    courses: bool
    shops: bool


@dataclass(frozen=True, slots=True, eq=False)
class Openings:
    """Rectangles in a wall: arrays of one length, in the wall's s and t."""

    s0: Float32Array
    s1: Float32Array
    t0: Float32Array
    t1: Float32Array

    @classmethod
    def grid(cls, centers: ArrayLike, width: float, feet: ArrayLike, height: float) -> Openings:
        """One opening for each centre on each level."""
        grid = np.meshgrid(np.asarray(centers, np.float32), np.asarray(feet, np.float32))
        s, t = (v.ravel() for v in grid)
        return cls(s - width / 2, s + width / 2, t, t + height)


def dress(kit: Kit, wall: Wall, style: Style, *, street: bool) -> None:
    """Put a façade on a wall."""
    bays = max(1, round((wall.width - 0.6) / style.bay))
    step = wall.width / bays
    centers = (np.arange(bays) + 0.5) * step
    levels = np.asarray(style.floor_levels, np.float32)
    width = min(style.window[0], step - 0.5)
    ground_style = style.base if street else style.wall
    ground_material = style.base_material if street else style.wall_material
    if street and style.shops and bays >= 2:
        _shop_front(kit, wall, style, centers, step, float(levels[1]))
    else:
        _ground_floor(
            kit, wall, style, centers, width, float(levels[1]), ground_material, ground_style
        )
    if len(levels) > 2:
        _upper_floors(kit, wall, style, centers, width, levels, street)
    if street:
        _mouldings(kit, wall, style, levels)


def _upper_floors(
    kit: Kit,
    wall: Wall,
    style: Style,
    centers: Float32Array,
    width: float,
    levels: Float32Array,
    street: bool,
) -> None:
    feet, heads = levels[1:-1] + style.sill, levels[1:-1] + style.sill + style.window[1]
    heads = np.minimum(heads, levels[2:] - 0.25)
    height = float((heads - feet).min())
    material = kit.material(style.wall_material)
    wall.rect(kit.parts, material, 0.0, wall.width, levels[1:-1], feet, style.wall)
    wall.rect(kit.parts, material, 0.0, wall.width, feet + height, levels[2:], style.wall)
    _piers(kit, wall, material, centers, width, feet, feet + height, style.wall)
    openings = Openings.grid(centers, width, feet, height)
    windows(kit, wall, style, openings, rich=street)
    if not street:
        return
    if style.shutters and kit.finish >= Finish.PLAIN:
        _shutters(kit, wall, style, openings)
    if style.balconies and kit.finish is Finish.FULL:
        _balconies(kit, wall, style, centers, levels)


def _piers(
    kit: Kit,
    wall: Wall,
    material: int,
    centers: Float32Array,
    width: float,
    t0: Float32Array,
    t1: Float32Array,
    color: Float32Array,
) -> None:
    left = np.concatenate([[0.0], centers + width / 2])
    right = np.concatenate([centers - width / 2, [wall.width]])
    s0, low = np.meshgrid(left, t0)
    s1, high = np.meshgrid(right, t1)
    wall.rect(kit.parts, material, s0, s1, low, high, color)


def windows(kit: Kit, wall: Wall, style: Style, o: Openings, *, rich: bool) -> None:
    """Glass, frames and, on a rich façade, reveals, sills and surrounds."""
    parts = kit.parts
    glass = _glass_colors(kit, len(o.s0))
    depth = GLASS_DEPTH if kit.finish is Finish.FULL else 0.0
    wall.rect(parts, kit.material("glass"), o.s0, o.s1, o.t0, o.t1, glass, depth)
    if kit.finish is Finish.MASSING:
        return
    f = 0.075
    middle, transom = (o.s0 + o.s1) / 2, o.t0 + 0.68 * (o.t1 - o.t0)
    bars = [
        (o.s0, o.s0 + f, o.t0, o.t1),
        (o.s1 - f, o.s1, o.t0, o.t1),
        (o.s0, o.s1, o.t0, o.t0 + f),
        (o.s0, o.s1, o.t1 - f, o.t1),
    ]
    if rich:
        bars += [
            (middle - 0.035, middle + 0.035, o.t0, o.t1),
            (o.s0, o.s1, transom - 0.03, transom + 0.03),
        ]
    s0, s1, t0, t1 = (np.concatenate(edges) for edges in zip(*bars, strict=True))
    frame_depth = FRAME_DEPTH if kit.finish is Finish.FULL else 0.03
    wall.rect(parts, kit.material("frame"), s0, s1, t0, t1, style.frame, frame_depth)
    if kit.finish is not Finish.FULL:
        return
    trim = kit.material("trim")
    reveal = style.trim * 0.9 if rich else style.wall * 0.92
    wall.soffit(parts, trim, o.s0, o.s1, o.t1, depth, 0.0, reveal)
    wall.cheek(parts, trim, o.s0, o.t0, o.t1, depth, 0.0, reveal, 1)
    wall.cheek(parts, trim, o.s1, o.t0, o.t1, depth, 0.0, reveal, -1)
    wall.box(parts, trim, o.s0 - 0.1, o.s1 + 0.1, o.t0 - 0.09, o.t0, 0.14, style.trim, ends=False)
    if rich and style.surrounds:
        b = 0.15
        edges = [
            (o.s0 - b, o.s0, o.t0, o.t1),
            (o.s1, o.s1 + b, o.t0, o.t1),
            (o.s0 - b, o.s1 + b, o.t1, o.t1 + 1.3 * b),
        ]
        s0, s1, t0, t1 = (np.concatenate(e) for e in zip(*edges, strict=True))
        wall.rect(parts, trim, s0, s1, t0, t1, style.trim, 0.035)


def _glass_colors(kit: Kit, count: int) -> Float32Array:
    """What is seen through a window: mostly dark rooms, some curtains, a few lamps."""
    dark = np.array([0.13, 0.15, 0.17], np.float32)
    curtain = np.array([0.46, 0.43, 0.38], np.float32)
    lamp = np.array([0.80, 0.60, 0.32], np.float32)
    dice = kit.rng.random(count)
    shade = kit.rng.uniform(0.6, 1.25, (count, 1)).astype(np.float32)
    colors = np.where(dice[:, None] < 0.74, dark, np.where(dice[:, None] < 0.95, curtain, lamp))
    return (colors * shade).astype(np.float32)


def _shutters(kit: Kit, wall: Wall, style: Style, o: Openings) -> None:
    leaf = 0.48 * (o.s1 - o.s0)
    timber = kit.material("timber")
    open_ = kit.rng.random(len(o.s0)) < 0.9
    for s0, s1 in ((o.s0 - leaf - 0.03, o.s0 - 0.03), (o.s1 + 0.03, o.s1 + leaf + 0.03)):
        wall.rect(
            kit.parts,
            timber,
            s0[open_],
            s1[open_],
            o.t0[open_] - 0.02,
            o.t1[open_] + 0.02,
            style.shutter,
            0.06,
        )
    shut = ~open_
    if shut.any():
        wall.rect(
            kit.parts, timber, o.s0[shut], o.s1[shut], o.t0[shut], o.t1[shut], style.shutter, 0.02
        )


def _balconies(
    kit: Kit, wall: Wall, style: Style, centers: Float32Array, levels: Float32Array
) -> None:
    chosen = centers[kit.rng.random(len(centers)) < 0.4]
    floors = levels[1:-1][1:] if len(levels) > 3 else levels[1:-1]
    if len(chosen) == 0 or len(floors) == 0:
        return
    s, t = (v.ravel() for v in np.meshgrid(chosen, floors))
    half, depth, rail = 0.95, 0.85, 0.95
    slab = kit.material("trim")
    wall.box(kit.parts, slab, s - half, s + half, t - 0.16, t, depth, style.trim, under=True)
    grille = kit.material("grille")
    wall.rect(kit.parts, grille, s - half, s + half, t, t + rail, IRON, depth - 0.05, fill=0.16)
    wall.rect(
        kit.parts,
        kit.material("frame"),
        s - half,
        s + half,
        t + rail,
        t + rail + 0.05,
        IRON,
        depth - 0.05,
    )
    for side in (-1, 1):
        wall.cheek(
            kit.parts,
            kit.material("frame"),
            s + side * half,
            t + rail,
            t + rail + 0.05,
            0.0,
            depth,
            IRON,
            side,
        )
    planted = kit.rng.random(len(s)) < 0.45
    if planted.any():
        kit.parts.blob(
            wall.at(s[planted], t[planted] + rail - 0.05, depth + 0.05),
            (0.42, 0.2, 0.2) if abs(wall.right[0]) > 0.5 else (0.2, 0.2, 0.42),
            kit.colors("flower", int(planted.sum())),
        )


def _ground_floor(
    kit: Kit,
    wall: Wall,
    style: Style,
    centers: Float32Array,
    width: float,
    top: float,
    material_name: str,
    color: Float32Array,
) -> None:
    """Windows and one door."""
    material = kit.material(material_name)
    foot, head = 1.15, min(1.15 + style.window[1], top - 0.35)
    door_bay = int(kit.rng.integers(len(centers)))
    door = centers[door_bay]
    rest = np.delete(centers, door_bay)
    half = 0.62
    wall.rect(kit.parts, material, 0.0, door - half, 0.0, foot, color)
    wall.rect(kit.parts, material, door + half, wall.width, 0.0, foot, color)
    wall.rect(kit.parts, material, 0.0, wall.width, head, top, color)
    widths = np.full(len(centers), width, np.float32)
    widths[door_bay] = 2 * half
    left = np.concatenate([[0.0], centers + widths / 2])
    right = np.concatenate([centers - widths / 2, [wall.width]])
    wall.rect(kit.parts, material, left, right, foot, head, color)
    if len(rest):
        windows(kit, wall, style, Openings.grid(rest, width, [foot], head - foot), rich=True)
    leaf = min(2.35, head)
    wall.rect(
        kit.parts, kit.material("timber"), door - half, door + half, 0.0, leaf, style.door, -0.1
    )
    light = Openings.grid([door], 2 * half, [leaf], head - leaf)
    if head - leaf > 0.1:
        wall.rect(
            kit.parts,
            kit.material("glass"),
            light.s0,
            light.s1,
            light.t0,
            light.t1,
            _glass_colors(kit, 1),
            -0.1,
        )
    if kit.finish is Finish.FULL:
        trim = kit.material("trim")
        wall.rect(
            kit.parts,
            trim,
            [door - half - 0.18, door + half],
            [door - half, door + half + 0.18],
            0.0,
            head,
            style.trim,
            0.04,
        )
        wall.box(
            kit.parts,
            trim,
            door - half - 0.25,
            door + half + 0.25,
            head,
            head + 0.2,
            0.2,
            style.trim,
        )
        wall.box(
            kit.parts,
            kit.material("stone"),
            door - half - 0.2,
            door + half + 0.2,
            0.0,
            0.16,
            0.35,
            style.trim * 0.8,
        )


def _shop_front(
    kit: Kit, wall: Wall, style: Style, centers: Float32Array, step: float, top: float
) -> None:
    """Large panes between piers, a sign above, awnings over some."""
    parts = kit.parts
    base = kit.material(style.base_material)
    half = step / 2 - 0.28
    riser, head = 0.5, min(2.75, top - 0.9)
    left = np.concatenate([[0.0], centers + half])
    right = np.concatenate([centers - half, [wall.width]])
    wall.rect(parts, base, left, right, 0.0, head, style.base)
    wall.rect(parts, base, 0.0, wall.width, head + 0.62, top, style.base)
    doors = np.arange(len(centers)) % 3 == int(kit.rng.integers(3))
    shown = centers[~doors]
    timber = kit.material("timber")
    wall.rect(parts, timber, shown - half, shown + half, 0.0, riser, style.sign)
    wall.rect(parts, kit.material("trim"), 0.0, wall.width, head, head + 0.62, style.sign, 0.05)
    panes = _glass_colors(kit, len(centers)) * 0.9 + 0.05
    feet = np.where(doors, 0.05, riser)
    wall.rect(
        parts,
        kit.material("glass"),
        centers - half,
        centers + half,
        feet,
        head,
        panes,
        -0.18 if kit.finish is Finish.FULL else 0.0,
    )
    if kit.finish is Finish.MASSING:
        return
    frame = kit.material("frame")
    for edge in (-half, -0.04, half - 0.08):
        wall.rect(parts, frame, centers + edge, centers + edge + 0.08, feet, head, style.sign, -0.1)
    wall.rect(
        parts, frame, centers - half, centers + half, head - 0.75, head - 0.69, style.sign, -0.1
    )
    if kit.chance(0.6):
        _awnings(kit, wall, style, centers[kit.rng.random(len(centers)) < 0.8], step, head)


def _awnings(
    kit: Kit, wall: Wall, style: Style, centers: Float32Array, step: float, head: float
) -> None:
    """Striped cloth, 1.4 m out over the pavement."""
    if len(centers) == 0:
        return
    stripes = 8
    half = step / 2 - 0.12
    k = np.arange(stripes)
    s = (centers[:, None] - half + 2 * half * k / stripes).ravel()
    pale = np.array([0.92, 0.89, 0.82], np.float32)
    color = np.where((np.tile(k, len(centers)) % 2 == 0)[:, None], style.awning, pale)
    width = 2 * half / stripes
    fabric = kit.material("fabric")
    wall.ledge(kit.parts, fabric, s, s + width, head - 0.28, 0.05, 1.35, color, rise=0.75)
    wall.rect(kit.parts, fabric, s, s + width, head - 0.5, head - 0.28, color, 1.35)


def _mouldings(kit: Kit, wall: Wall, style: Style, levels: Float32Array) -> None:
    """A band above the ground floor and a cornice under the eaves."""
    if kit.finish is Finish.MASSING:
        return
    trim = kit.material("trim")
    bands = [levels[1] - 0.05, *([*levels[2:-1] - 0.05] if style.courses else [])]
    wall.box(
        kit.parts,
        trim,
        0.0,
        wall.width,
        bands,
        np.asarray(bands) + 0.16,
        0.09,
        style.trim,
        ends=False,
    )
    top = float(levels[-1])
    wall.box(kit.parts, trim, 0.0, wall.width, top - 0.34, top - 0.14, 0.14, style.trim, ends=False)
    wall.box(kit.parts, trim, 0.0, wall.width, top - 0.14, top + 0.04, 0.30, style.trim, under=True)
