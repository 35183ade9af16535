"""Streets: carriageways, markings, crossings, kerbs, pavements, lamps, parked cars."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scene_store.town.car import build_car
from scene_store.town.kit import IRON, Finish, Kit
from scene_store.town.parts import Wall
from scene_store.town.plan import AVENUE_HALF, STREET_HALF, Cell
from scene_store.town.site import Box

Span = tuple[ArrayLike, ArrayLike]

KERB = 0.12
ASPHALT = (0.33, 0.33, 0.34)
PAVING = (0.66, 0.63, 0.58)
KERBSTONE = (0.70, 0.68, 0.64)
PAINT = (0.88, 0.88, 0.85)
_DASH, _LINE, _ZEBRA, _STRIPE = 3.0, 0.07, 3.2, 0.5


EDGE = AVENUE_HALF + 8.0  # the town's last streets and their grassy verge reach so far out
GRASS = (0.46, 0.51, 0.29)


def carriageway_half(half_width: float) -> float:
    """Half the carriageway of a street of a given half width; pavements take the rest."""
    return 3.4 if half_width <= STREET_HALF else 4.4


def build_streets(kit: Kit, cell: Cell, sides: str = "wesn") -> None:
    """The cell's halves of the streets on the given sides, with everything on them."""
    half = {side: carriageway_half(width) for side, width in _widths(cell).items()}
    inner = (
        cell.x0 + half["w"],
        cell.x1 - half["e"],
        cell.z0 + half["s"],
        cell.z1 - half["n"],
    )
    _corners(kit, cell, inner, sides)
    for side in sides:
        _carriageway(kit, side, cell, inner)
    _pavement(kit, cell, inner, sides)


def build_edge(kit: Kit, cell: Cell, side_x: int, side_z: int) -> None:
    """What a cell beyond the town's edge contributes: its half of the street, and a verge.

    ``side_x``, ``side_z`` say on which of its sides the town lies: −1 west or south, 1 east
    or north, 0 neither; with both set, the town only touches its corner.
    """
    if side_x and side_z:
        _edge_corner(kit, cell, side_x, side_z)
        return
    side = {(-1, 0): "w", (1, 0): "e", (0, -1): "s", (0, 1): "n"}[side_x, side_z]
    build_streets(kit, cell, sides=side)
    x0, x1, z0, z1 = cell.lot
    _stubs(kit, cell, side)
    strip = {
        "w": (x0, cell.x0 + EDGE, cell.z0, cell.z1),
        "e": (cell.x1 - EDGE, x1, cell.z0, cell.z1),
        "s": (cell.x0, cell.x1, z0, cell.z0 + EDGE),
        "n": (cell.x0, cell.x1, cell.z1 - EDGE, z1),
    }[side]
    kit.parts.floor(kit.material("lawn"), *strip, GRASS)


def _stubs(kit: Kit, cell: Cell, side: str) -> None:
    """Where the crossing streets would run on beyond the edge, the pavement does."""
    half = {name: carriageway_half(width) for name, width in _widths(cell).items()}
    paving = kit.material("paving")
    x0, x1, z0, z1 = cell.lot
    for end in "we" if side in "sn" else "sn":
        a = {"w": cell.x0, "e": cell.x1 - half["e"], "s": cell.z0, "n": cell.z1 - half["n"]}[end]
        b = a + half[end]
        c, d = {
            "s": (cell.z0 + half["s"], z0),
            "n": (z1, cell.z1 - half["n"]),
            "w": (cell.x0 + half["w"], x0),
            "e": (x1, cell.x1 - half["e"]),
        }[side]
        box = (a, b, c, d) if side in "sn" else (c, d, a, b)
        kit.parts.floor(paving, *box, PAVING, KERB)


def _edge_corner(kit: Kit, cell: Cell, side_x: int, side_z: int) -> None:
    """The quarter junction at one corner of a cell, its pavement and its verge."""
    x, width_x = (cell.x0, cell.west) if side_x < 0 else (cell.x1, cell.east)
    z, width_z = (cell.z0, cell.south) if side_z < 0 else (cell.z1, cell.north)

    def square(
        material: str,
        a: tuple[float, float],
        b: tuple[float, float],
        color: ArrayLike,
        height: float = 0.0,
    ) -> None:
        # Spans run from the corner into the cell.
        west, east = sorted(x - side_x * v for v in a)
        south, north = sorted(z - side_z * v for v in b)
        kit.parts.floor(kit.material(material), west, east, south, north, color, height)

    drive_x, drive_z = carriageway_half(width_x), carriageway_half(width_z)
    square("asphalt", (0, drive_x), (0, drive_z), ASPHALT)
    square("paving", (drive_x, width_x), (0, width_z), PAVING, KERB)
    square("paving", (0, drive_x), (drive_z, width_z), PAVING, KERB)
    square("lawn", (width_x, EDGE), (0, EDGE), GRASS)
    square("lawn", (0, width_x), (width_z, EDGE), GRASS)


def _widths(cell: Cell) -> dict[str, float]:
    return {"w": cell.west, "e": cell.east, "s": cell.south, "n": cell.north}


def _corners(kit: Kit, cell: Cell, inner: Box, sides: str) -> None:
    """The quarters of the four junctions."""
    x0, x1, z0, z1 = inner
    asphalt = kit.material("asphalt")
    for sx, (a, b) in (("w", (cell.x0, x0)), ("e", (x1, cell.x1))):
        for sz, (c, d) in (("s", (cell.z0, z0)), ("n", (z1, cell.z1))):
            if sx in sides or sz in sides:
                kit.parts.floor(asphalt, a, b, c, d, ASPHALT)


def _carriageway(kit: Kit, side: str, cell: Cell, inner: Box) -> None:
    """Half a street between two junctions: zebra, dashed middle line, asphalt, zebra."""
    x0, x1, z0, z1 = inner
    low, high = (x0, x1) if side in "sn" else (z0, z1)
    centre, kerb = {"s": (cell.z0, z0), "n": (cell.z1, z1), "w": (cell.x0, x0), "e": (cell.x1, x1)}[
        side
    ]

    def strip(material: str, along: Span, across: Span, color: ArrayLike) -> None:
        # ``across`` runs from 0 at the street's middle to 1 at the kerb.
        sign = 1.0 if kerb > centre else -1.0
        a, b = (centre + sign * np.asarray(v, np.float32) for v in across)
        near, far = np.minimum(a, b), np.maximum(a, b)
        (x0, x1), (z0, z1) = (along, (near, far)) if side in "sn" else ((near, far), along)
        kit.parts.floor(kit.material(material), x0, x1, z0, z1, color)

    width = abs(kerb - centre)
    if kit.finish is Finish.MASSING:
        strip("asphalt", (low, high), (0.0, width), ASPHALT)
        return
    z = _ZEBRA + 0.8
    for a, b in ((low + 0.8, low + z), (high - z, high - 0.8)):
        stripes = np.arange(0.0, width - 0.1, _STRIPE)
        white = (np.arange(len(stripes)) % 2 == 0)[:, None]
        color = np.where(white, PAINT, ASPHALT)
        strip("marking", (a, b), (stripes, np.minimum(stripes + _STRIPE, width)), color)
    strip("asphalt", ((low, high - 0.8), (low + 0.8, high)), (0.0, width), ASPHALT)
    low, high = low + z, high - z
    dashes = np.arange(low, high, _DASH)
    white = (np.arange(len(dashes)) % 2 == 0)[:, None]
    ends = np.minimum(dashes + _DASH, high)
    strip("marking", (dashes, ends), (0.0, _LINE), np.where(white, PAINT, ASPHALT))
    strip("asphalt", (low, high), (_LINE, width), ASPHALT)
    _park_cars(kit, side, (low + 1.0, high - 1.0), kerb)
    _lamps(kit, side, (low, high), kerb)


def _pavement(kit: Kit, cell: Cell, inner: Box, sides: str) -> None:
    """A kerb with a face, and slabs up to the lot."""
    x0, x1, z0, z1 = inner
    lot = cell.lot
    e = 0.28
    kerb, paving = kit.material("kerb"), kit.material("paving")
    for side, (kerb_box, slab_box) in {
        "s": ((x0, x1, z0, z0 + e), (x0, x1, z0 + e, lot[2])),
        "n": ((x0, x1, z1 - e, z1), (x0, x1, lot[3], z1 - e)),
        "w": ((x0, x0 + e, z0 + e, z1 - e), (x0 + e, lot[0], lot[2], lot[3])),
        "e": ((x1 - e, x1, z0 + e, z1 - e), (lot[1], x1 - e, lot[2], lot[3])),
    }.items():
        if side not in sides:
            continue
        kit.parts.floor(kerb, *kerb_box, KERBSTONE, KERB)
        kit.parts.floor(paving, *slab_box, PAVING, KERB)
        face = Wall.of_box(side, kerb_box, KERB)
        face.rect(kit.parts, kerb, 0.0, face.width, 0.0, KERB, KERBSTONE)


def _park_cars(kit: Kit, side: str, span: tuple[float, float], kerb: float) -> None:
    """Cars along the kerb, some places free."""
    if kit.finish is Finish.MASSING:
        return
    inward = 1.0 if side in "sw" else -1.0
    for s in np.arange(span[0] + 2.6, span[1] - 2.4, 5.7):
        if not kit.chance(0.42):
            continue
        offset = kerb - inward * (1.05 + kit.rng.normal(0, 0.05))
        along = s + kit.rng.normal(0, 0.25)
        x, z = (along, offset) if side in "sn" else (offset, along)
        build_car(kit, float(x), float(z), side in "sn", kit.chance(0.5))


def _lamps(kit: Kit, side: str, span: tuple[float, float], kerb: float) -> None:
    """A lamp every twenty metres, just behind the kerb."""
    inward = 1.0 if side in "sw" else -1.0
    for s in np.arange(span[0] + 4.0, span[1], 19.0):
        x, z = (s, kerb + inward * 0.55) if side in "sn" else (kerb + inward * 0.55, s)
        build_lamp(kit, float(x), float(z))


def build_lamp(kit: Kit, x: float, z: float, height: float = 4.4) -> None:
    """A cast-iron lamp post with a lantern."""
    foot = np.array([x, 0.0, z])
    up = np.array([0.0, -1.0, 0.0])
    kit.parts.strut(foot, foot + 0.7 * up, 0.10, IRON)
    kit.parts.strut(foot + 0.7 * up, foot + height * up, 0.05, IRON)
    if kit.finish >= Finish.PLAIN:
        kit.parts.strut(
            foot + (height - 0.5) * up + (-0.35, 0, 0),
            foot + (height - 0.5) * up + (0.35, 0, 0),
            0.03,
            IRON,
        )
    kit.parts.strut(foot + height * up, foot + (height + 0.5) * up, 0.16, (0.96, 0.90, 0.74))
    kit.parts.strut(foot + (height + 0.5) * up, foot + (height + 0.66) * up, 0.2, IRON)


def build_bench(kit: Kit, x: float, z: float, along_x: bool = True) -> None:
    """A wooden bench."""
    wood, half = (0.45, 0.31, 0.20), 0.9
    a = np.array([half, 0.0, 0.0]) if along_x else np.array([0.0, 0.0, half])
    b = np.array([0.0, 0.0, 0.16]) if along_x else np.array([0.16, 0.0, 0.0])
    seat = np.array([x, -0.46, z])
    for offset in (-b, 0 * b, b):
        kit.parts.strut(seat + offset - a, seat + offset + a, 0.055, wood)
    for rise in (0.2, 0.38):
        back = seat + 1.6 * b + (0.0, -rise, 0.0)
        kit.parts.strut(back - a, back + a, 0.055, wood)
    for end in (-0.8, 0.8):
        top = seat + end * a
        kit.parts.strut((top[0], 0.0, top[2]), top, 0.04, IRON)
