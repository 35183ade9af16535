"""Parked cars: a few models, built once and placed many times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from numpy.typing import ArrayLike

from scene_store.town import parts as columns
from scene_store.town.kit import Kit
from scene_store.town.parts import Parts, PartTable
from scene_store.town.recipe import load_recipe

MODELS = 4
_GLASS = (0.12, 0.14, 0.16)
_TYRE, _HUB = (0.08, 0.08, 0.085), (0.55, 0.55, 0.56)
_HEADLAMP, _TAILLAMP = (0.95, 0.94, 0.88), (0.62, 0.10, 0.08)

Corner = tuple[float, float, float]


def build_car(kit: Kit, x: float, z: float, along_x: bool, reverse: bool) -> None:
    """A car at plan (x, z), parked along one axis."""
    model = _model(int(kit.rng.integers(MODELS)))
    car = model.placed(x, z, (0 if along_x else 1) + (2 if reverse else 0))
    painted = car.panels[:, columns.MATERIAL] == kit.material("paint")
    car.panels[painted, columns.COLOR] = kit.color("car")
    kit.parts.extend(car)


@lru_cache(maxsize=MODELS)
def _model(index: int) -> PartTable:
    """Body, cabin, windows, wheels and lamps; the nose points along +x, paint is white."""
    length, tall = 4.05 + 0.16 * index, (1.47, 1.60, 1.42, 1.52)[index]
    half, sill, waist, nose = 0.86, 0.28, 0.82, 0.72
    front, back = length / 2, -length / 2
    hood, screen = front - 0.95, front - 1.05
    roof_front, roof_back, rear = front - 1.75, back + 0.75, back + 0.12
    top = half - 0.16
    parts, recipe = Parts(), load_recipe()

    def face(material: str, corners: Sequence[Corner], color: ArrayLike = (1.0, 1.0, 1.0)) -> None:
        # Corners are (towards the nose, to the left, up).
        points = [(a, -h, -b) for a, b, h in corners]
        parts.quad(recipe.material_index(material), points, color)

    def rod(start: Corner, end: Corner, radius: float, color: ArrayLike) -> None:
        first, last = ((a, -h, -b) for a, b, h in (start, end))
        parts.strut(first, last, radius, color)

    for s in (1.0, -1.0):
        side = [
            (front - 0.1, s * half, sill),
            (back + 0.1, s * half, sill),
            (back + 0.05, s * half, waist),
            (front - 0.15, s * half, waist),
        ]
        pane = [
            (screen, s * half, waist),
            (rear, s * half, waist),
            (roof_back, s * top, tall),
            (roof_front, s * top, tall),
        ]
        face("paint", side if s > 0 else _turned(side))
        face("glass", pane if s > 0 else _turned(pane), _GLASS)
        pillar = 0.5 * (roof_front + roof_back)
        rod((pillar, s * (half + 0.01), waist), (pillar, s * (top + 0.02), tall), 0.05, _TYRE)
        for a in (front - 0.8, back + 0.75):
            rod((a, s * (half - 0.18), 0.31), (a, s * (half + 0.03), 0.31), 0.29, _TYRE)
            rod((a, s * (half + 0.03), 0.31), (a, s * (half + 0.06), 0.31), 0.15, _HUB)
    face("paint", _across(front, sill, front - 0.06, nose, half, half))
    face("paint", _across(front - 0.06, nose, hood, waist + 0.03, half, half))
    face("glass", _across(hood, waist, roof_front, tall, half, top), _GLASS)
    face("paint", _across(roof_front, tall, roof_back, tall, top, top))
    face("glass", _turned(_across(rear, waist, roof_back, tall, half, top)), _GLASS)
    face("paint", _across(rear, waist, back + 0.05, waist, half, half))
    face("paint", _turned(_across(back, sill, back + 0.05, waist, half, half)))
    for b in (-0.6, 0.6):
        rod((front + 0.01, b - 0.14, 0.62), (front + 0.01, b + 0.14, 0.62), 0.08, _HEADLAMP)
        rod((back - 0.01, b - 0.14, 0.70), (back - 0.01, b + 0.14, 0.70), 0.06, _TAILLAMP)
    # What lies under a car sees neither sun nor sky.
    parts.floor(
        recipe.material_index("rubber"),
        0.1 - front,
        front - 0.1,
        -half,
        half,
        (0.10, 0.10, 0.105),
        0.06,
    )
    return parts.table()


def _across(a0: float, h0: float, a1: float, h1: float, half0: float, half1: float) -> list[Corner]:
    """A face across the car from (a0, h0) up or back to (a1, h1), seen from the front."""
    return [(a0, -half0, h0), (a0, half0, h0), (a1, half1, h1), (a1, -half1, h1)]


def _turned(corners: list[Corner]) -> list[Corner]:
    """The same face seen from its other side."""
    a, b, c, d = corners
    return [b, a, d, c]
