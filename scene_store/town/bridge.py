"""Stone bridges: three arches, piers with cutwaters, a cambered roadway between parapets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scene_store.town.kit import Kit
from scene_store.town.street import ASPHALT, KERB, PAVING, carriageway_half
from splat.gaussians import Float32Array

WATER_DEPTH = 2.4  # the river's surface, below the quays
WATER_Y = WATER_DEPTH
WALL_FOOT = WATER_DEPTH - 0.02  # masonry stops just above the water, its mirror image below
QUAY_STONE = np.array([0.63, 0.58, 0.50], np.float32)

_ARCHES, _PIER, _CAMBER, _PARAPET = 3, 2.2, 1.1, 1.05
_DECK_PIECES, _ARCH_PIECES = 16, 72
# Arches are cut from narrow upright strips; their Gaussians overlap to close the joints.
_STRIP_FILL = 1.7


@dataclass(frozen=True, slots=True)
class HalfBridge:
    """The half of a bridge on one side of a street's middle.

    Attributes:
        x: Plan x of the street's middle.
        width: Half width of the street.
        sign: 1 for the half east of ``x``, −1 for the one west of it.
        south, north: Plan z of the quay walls.
    """

    x: float
    width: float
    sign: float
    south: float
    north: float

    @property
    def length(self) -> float:
        """Metres from quay to quay."""
        return self.north - self.south

    @property
    def outer(self) -> float:
        """Plan x of the side that is seen from the river."""
        return self.x + self.sign * self.width

    def deck(self, s: Float32Array) -> Float32Array:
        """Height of the roadway at ``s`` metres from the southern bank."""
        f = 2.0 * s / self.length - 1.0
        return np.asarray(KERB + 0.02 + _CAMBER * np.maximum(0.0, 1.0 - f * f), np.float32)

    def intrados(self, s: Float32Array) -> Float32Array:
        """Height of the arches' underside at ``s``; where a pier stands, its foot's."""
        span = self.length / _ARCHES
        f = (s % span - span / 2) / ((span - _PIER) / 2)
        rise = WATER_DEPTH - 0.65 + 0.75 * self.deck(s)
        arch = 0.3 - WATER_DEPTH + rise * np.sqrt(np.maximum(0.0, 1.0 - f * f))
        return np.where(np.abs(f) < 1.0, arch, -WALL_FOOT).astype(np.float32)

    def points(self, x: float, height: Float32Array, s: Float32Array) -> Float32Array:
        """[n, 3] plan points at ``s`` metres from the southern bank."""
        return np.stack([np.full(s.shape, x), -height, self.south + s], axis=1).astype(np.float32)


def build_half_bridge(kit: Kit, half: HalfBridge) -> None:
    """All of it, from the roadway to the cutwaters."""
    _roadway(kit, half)
    _walls(kit, half)
    _vaults(kit, half)
    for k in range(1, _ARCHES):
        _cutwater(kit, half, half.south + k * half.length / _ARCHES)


def _roadway(kit: Kit, half: HalfBridge) -> None:
    """Asphalt with its middle line, a pavement, the parapet's coping."""
    s = np.linspace(0.0, half.length, _DECK_PIECES + 1, dtype=np.float32)
    x, outer, sign = half.x, half.outer, half.sign
    kerb = x + sign * carriageway_half(half.width)

    def strip(material: str, xa: float, xb: float, lift: float, color: ArrayLike) -> None:
        left, right = min(xa, xb), max(xa, xb)
        points = half.points(left, half.deck(s) + lift, s)
        edge = (right - left, 0.0, 0.0)
        kit.parts.panel(kit.material(material), points[:-1], edge, np.diff(points, axis=0), color)

    strip("asphalt", x + sign * 0.07, kerb, 0.0, ASPHALT)
    painted = (np.arange(_DECK_PIECES) % 2 == 0)[:, None]
    strip("marking", x, x + sign * 0.07, 0.0, np.where(painted, (0.86, 0.86, 0.83), ASPHALT))
    strip("paving", kerb, outer - sign * 0.4, KERB, PAVING)
    strip("trim", outer - sign * 0.5, outer + sign * 0.06, _PARAPET + 0.03, QUAY_STONE * 1.12)


def _walls(kit: Kit, half: HalfBridge) -> None:
    """The spandrels with the arches cut out, and both faces of the parapet."""
    edges = np.linspace(0.0, half.length, _ARCH_PIECES + 1, dtype=np.float32)
    a, b = edges[:-1], edges[1:]
    middle = np.asarray(0.5 * (a + b), np.float32)
    deck = half.deck(middle)
    inner = half.outer - half.sign * 0.45
    for low, high, x, facing, tint in (
        (half.intrados(middle), deck, half.outer, half.sign, 1.0),
        (deck, deck + _PARAPET, half.outer, half.sign, 1.06),
        (deck + KERB, deck + _PARAPET, inner, -half.sign, 1.0),
    ):
        start, end = (a, b) if facing > 0 else (b, a)
        along = np.stack([0 * start, 0 * start, end - start], axis=1)
        rise = np.stack([0 * low, low - high, 0 * low], axis=1)
        foot = half.points(x, low, start)
        stone = kit.material("stone")
        kit.parts.panel(stone, foot, along, rise, QUAY_STONE * tint, fill=_STRIP_FILL)


def _vaults(kit: Kit, half: HalfBridge) -> None:
    """The undersides of the arches."""
    edges = np.linspace(0.0, half.length, _ARCH_PIECES + 1, dtype=np.float32)
    left = min(half.x, half.outer)
    points = half.points(left, half.intrados(edges), edges)
    kit.parts.panel(
        kit.material("stone"),
        points[:-1],
        np.diff(points, axis=0),
        (half.width, 0.0, 0.0),
        QUAY_STONE * 0.8,
        fill=_STRIP_FILL,
    )


def _cutwater(kit: Kit, half: HalfBridge, z: float) -> None:
    """The pointed foot of a pier, with a sloping cap."""
    stone, x = kit.material("stone"), half.outer
    base, top, reach = WALL_FOOT, 0.9, _PIER / 2
    corners = [(x, z - reach), (x + half.sign * 1.3, z), (x, z + reach)]
    corners = corners if half.sign > 0 else corners[::-1]
    for k in range(2):
        (ax, az), (bx, bz) = corners[k], corners[k + 1]
        face = [(ax, base, az), (bx, base, bz), (bx, top, bz), (ax, top, az)]
        peak = (x, top - 0.7, z)
        kit.parts.quad(stone, face, QUAY_STONE)
        kit.parts.quad(stone, [(ax, top, az), (bx, top, bz), peak, peak], QUAY_STONE * 1.1)
