"""Dormers: small gabled windows that stand out of a roof's slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scene_store.town.facade import Style
from scene_store.town.kit import Kit
from scene_store.town.roof import RoofPoint, roof_points, roof_size
from scene_store.town.site import House, Side
from splat.gaussians import Float32Array

_INSET, _HALF_WIDTH, _WALL, _GABLE, _EAVES = 1.1, 0.75, 1.45, 0.55, 0.18
_SPACING = 4.2
_PANE = (0.15, 0.17, 0.19)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one dormer stands.

    Attributes:
        along: Its middle, metres along the ridge.
        foot: Height at which its front leaves the slope.
        back, ridge_back: Metres from the eaves at which its walls and its ridge end.
        near: On the slope where the roof's frame begins, or else on the other.
    """

    house: House
    along: float
    foot: float
    back: float
    ridge_back: float
    near: bool

    def corners(self, *points: RoofPoint) -> Float32Array:
        """Points given from the dormer's middle; on the far slope it is turned half around."""
        depth = roof_size(self.house)[1]
        side = 1.0 if self.near else -1.0
        turned = [(self.along + side * a, c if self.near else depth - c, t) for a, c, t in points]
        return roof_points(self.house, turned)


def build_dormers(kit: Kit, house: House, material: str, color: Float32Array, style: Style) -> None:
    """A row of dormers on the slope that faces a street; some houses go without."""
    length, depth = roof_size(house)
    rise = house.ridge - house.eaves
    count = int(length // _SPACING)
    if count == 0 or rise < 3.0 or kit.chance(0.3):
        return
    slope = rise / (depth / 2)
    street = [side for side, role in house.sides.items() if role is Side.STREET]
    first_side = "s" if house.ridge_along == "x" else "e"
    back = _INSET + (_WALL + 0.15) / slope
    for k in range(count):
        place = _Place(
            house=house,
            along=(k + 0.5) * length / count,
            foot=house.eaves + slope * _INSET,
            back=back,
            ridge_back=min(depth / 2, back + 0.5),
            near=first_side in street or not street,
        )
        _front(kit, place, style)
        _sides_and_roof(kit, place, material, color, style)


def _front(kit: Kit, place: _Place, style: Style) -> None:
    """The window in its frame, and the little gable over it."""
    w, foot, top = _HALF_WIDTH, place.foot, place.foot + _WALL

    def upright(
        material: str, a0: float, a1: float, t0: float, t1: float, color: object, out: float = 0.0
    ) -> None:
        c = _INSET - out
        corners = place.corners((a0, c, t0), (a1, c, t0), (a1, c, t1), (a0, c, t1))
        kit.parts.quad(kit.material(material), corners, np.asarray(color, np.float32))

    upright("glass", 0.2 - w, w - 0.2, foot + 0.2, top - 0.1, _PANE)
    upright("trim", -w, 0.2 - w, foot, top, style.trim)
    upright("trim", w - 0.2, w, foot, top, style.trim)
    upright("trim", -w, w, foot, foot + 0.2, style.trim, 0.02)
    upright("frame", -0.04, 0.04, foot + 0.2, top - 0.1, style.frame, 0.03)
    peak = (0.0, _INSET, top + _GABLE)
    gable = place.corners((-w, _INSET, top - 0.1), (w, _INSET, top - 0.1), peak, peak)
    kit.parts.quad(kit.material("trim"), gable, style.trim)


def _sides_and_roof(
    kit: Kit, place: _Place, material: str, color: Float32Array, style: Style
) -> None:
    """Triangular cheeks down to the slope, and two small slopes of tiles."""
    top = place.foot + _WALL
    peak = top + _GABLE
    for s in (-1.0, 1.0):
        w, o = s * _HALF_WIDTH, s * (_HALF_WIDTH + _EAVES)
        foot = (w, _INSET, place.foot)
        base = [(w, place.back, top), (w, _INSET, top)]
        low = [(o, _INSET - 0.2, top - 0.12), (o, place.back + 0.25, top - 0.12)]
        high = [(0.0, place.ridge_back + 0.3, peak), (0.0, _INSET - 0.2, peak)]
        if s < 0:
            base, low, high = base[::-1], low[::-1], high[::-1]
        cheek = place.corners(*base, foot, foot)
        kit.parts.quad(kit.material("plaster"), cheek, style.wall * np.float32(0.9))
        kit.parts.quad(kit.material(material), place.corners(*low, *high), color)
