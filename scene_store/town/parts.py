"""The three things that the town is built of, before they become Gaussians.

A ``Panel`` is a flat rectangle (or isosceles trapezoid) of a material, a ``Strut`` a thin
rod, and a ``Blob`` an ellipsoid of leaves. Builders describe them in plan coordinates with
y down; ``surfels`` turns them into Gaussians at whatever spacing the budget allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from splat.gaussians import Float32Array

UP = np.array([0.0, -1.0, 0.0], np.float32)
NO_EAVES = 1e6

# Right (as seen from outside) and outward unit vectors of a box's sides.
_SIDES = {
    side: (np.array(right, np.float32), np.array(out, np.float32))
    for side, right, out in (
        ("s", (1, 0, 0), (0, 0, -1)),
        ("n", (-1, 0, 0), (0, 0, 1)),
        ("w", (0, 0, -1), (-1, 0, 0)),
        ("e", (0, 0, 1), (1, 0, 0)),
    )
}

# Columns of the packed tables.
ORIGIN, ALONG, ACROSS, COLOR = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12)
TAPER, EAVES, FILL, MATERIAL = 12, 13, 14, 15
PANEL_COLUMNS = 16
START, END, RADIUS, STRUT_COLOR = slice(0, 3), slice(3, 6), 6, slice(7, 10)
STRUT_COLUMNS = 10
CENTER, RADII, BLOB_COLOR, FUZZ = slice(0, 3), slice(3, 6), slice(6, 9), 9
BLOB_COLUMNS = 10


@dataclass(frozen=True, slots=True, eq=False)
class PartTable:
    """Parts as packed float32 rows; the columns are named at the top of this module.

    Attributes:
        panels: [P, 16]. A point of a panel is ``origin + ((u - ½)(1 - taper v) + ½) along +
            v across`` with u, v in [0, 1]; ``along × across`` points out of the surface.
            ``eaves`` is the height below which an overhang shades the panel, ``fill`` the
            share of its width that a Gaussian covers (railings leave gaps).
        struts: [S, 10] start, end, radius, colour.
        blobs: [B, 10] centre, radii, colour, fuzz (1 foliage, 0 a smooth ball).
    """

    panels: Float32Array
    struts: Float32Array
    blobs: Float32Array

    def __len__(self) -> int:
        return len(self.panels) + len(self.struts) + len(self.blobs)

    def joined(self, other: PartTable) -> PartTable:
        """The parts of both."""
        return PartTable(
            np.concatenate([self.panels, other.panels]),
            np.concatenate([self.struts, other.struts]),
            np.concatenate([self.blobs, other.blobs]),
        )

    def mirrored(self, level_y: float, dim: float) -> PartTable:
        """Reflected in the horizontal plane ``y = level_y``, colours times ``dim``.

        What water shows is a second, upside-down town below its surface; the surface itself
        is half transparent. So reflections move as they should when the camera does.
        """
        panels, struts, blobs = self.panels.copy(), self.struts.copy(), self.blobs.copy()
        # Reflection turns a surface inside out; running along it backwards turns it right.
        panels[:, ORIGIN] += panels[:, ALONG]
        panels[:, ALONG] *= -1.0
        for rows, points, vectors in (
            (panels, (1,), (4, 7)),
            (struts, (1, 4), ()),
            (blobs, (1,), ()),
        ):
            for column in points:
                rows[:, column] = 2.0 * level_y - rows[:, column]
            for column in vectors:
                rows[:, column] *= -1.0
        for rows, color in ((panels, COLOR), (struts, STRUT_COLOR), (blobs, BLOB_COLOR)):
            rows[:, color] *= dim
        return PartTable(panels, struts, blobs)

    def above(self, height: float) -> PartTable:
        """The parts that start at least ``height`` metres above the ground."""
        picked = [rows[rows[:, 1] <= -height] for rows in (self.panels, self.struts, self.blobs)]
        return PartTable(*picked)

    def standing(self) -> PartTable:
        """All but the horizontal panels: what stands up, or leans."""
        rise = np.abs(self.panels[:, ALONG.start + 1]) + np.abs(self.panels[:, ACROSS.start + 1])
        return PartTable(self.panels[rise > 1e-3], self.struts, self.blobs)

    def selected(self, z_low: float, z_high: float) -> PartTable:
        """The parts that start with plan z in [z_low, z_high]."""
        picked = [
            rows[(rows[:, 2] >= z_low) & (rows[:, 2] <= z_high)]
            for rows in (self.panels, self.struts, self.blobs)
        ]
        return PartTable(*picked)


@dataclass(slots=True)
class Parts:
    """Collects parts. Every argument broadcasts: one call may add a whole façade's windows."""

    panels: list[Float32Array] = field(default_factory=list)
    struts: list[Float32Array] = field(default_factory=list)
    blobs: list[Float32Array] = field(default_factory=list)

    def panel(
        self,
        material: int,
        origin: ArrayLike,
        along: ArrayLike,
        across: ArrayLike,
        color: ArrayLike,
        *,
        taper: ArrayLike = 0.0,
        eaves: ArrayLike = NO_EAVES,
        fill: ArrayLike = 1.0,
    ) -> None:
        """Add panels; vectors are [n, 3] or [3], the rest [n] or scalars."""
        vectors = [np.asarray(v, np.float32) for v in (origin, along, across)]
        count = max([len(v) for v in vectors if v.ndim == 2] or [1])
        rows = np.empty((count, PANEL_COLUMNS), np.float32)
        rows[:, ORIGIN], rows[:, ALONG], rows[:, ACROSS] = vectors
        rows[:, COLOR] = color
        rows[:, TAPER], rows[:, EAVES], rows[:, FILL] = taper, eaves, fill
        rows[:, MATERIAL] = material
        self.panels.append(rows)

    def quad(self, material: int, corners: ArrayLike, color: ArrayLike) -> None:
        """Add one isosceles trapezoid (or, with equal last corners, a triangle) by its corners
        [4, 3]: base left, base right, top right, top left, as seen from outside."""
        a, b, c, d = np.asarray(corners, np.float32)
        taper = 1.0 - float(np.linalg.norm(c - d) / np.linalg.norm(b - a))
        self.panel(material, a, b - a, (c + d - a - b) / 2.0, color, taper=taper)

    def strut(self, start: ArrayLike, end: ArrayLike, radius: ArrayLike, color: ArrayLike) -> None:
        """Add rods; points are [n, 3] or [3]."""
        start, end = np.broadcast_arrays(np.atleast_2d(start), np.atleast_2d(end))
        rows = np.empty((len(start), STRUT_COLUMNS), np.float32)
        rows[:, START], rows[:, END], rows[:, RADIUS] = start, end, radius
        rows[:, STRUT_COLOR] = color
        self.struts.append(rows)

    def blob(
        self, center: ArrayLike, radii: ArrayLike, color: ArrayLike, fuzz: ArrayLike = 1.0
    ) -> None:
        """Add ellipsoids; ``center`` is [n, 3] or [3], ``radii`` broadcasts to it."""
        center = np.atleast_2d(np.asarray(center, np.float32))
        rows = np.empty((len(center), BLOB_COLUMNS), np.float32)
        rows[:, CENTER], rows[:, RADII], rows[:, BLOB_COLOR] = center, radii, color
        rows[:, FUZZ] = fuzz
        self.blobs.append(rows)

    def floor(
        self,
        material: int,
        x0: ArrayLike,
        x1: ArrayLike,
        z0: ArrayLike,
        z1: ArrayLike,
        color: ArrayLike,
        height: float = 0.0,
    ) -> None:
        """Add horizontal rectangles that face up."""
        x0, x1, z0, z1 = (np.asarray(v, np.float32) for v in (x0, x1, z0, z1))
        keep = (x1 - x0 > 1e-3) & (z1 - z0 > 1e-3)
        if not np.any(keep):
            return
        x0, x1, z0, z1 = (v.ravel() for v in np.broadcast_arrays(x0, x1, z0, z1))
        keep = np.broadcast_to(keep, x0.shape) if keep.ndim == 0 else keep.ravel()
        x0, x1, z0, z1 = x0[keep], x1[keep], z0[keep], z1[keep]
        zero = np.zeros_like(x0)
        self.panel(
            material,
            np.stack([x0, zero - height, z0], 1),
            np.stack([x1 - x0, zero, zero], 1),
            np.stack([zero, zero, z1 - z0], 1),
            color,
        )

    def table(self) -> PartTable:
        """Everything added so far."""
        return PartTable(
            np.concatenate([np.empty((0, PANEL_COLUMNS), np.float32), *self.panels]),
            np.concatenate([np.empty((0, STRUT_COLUMNS), np.float32), *self.struts]),
            np.concatenate([np.empty((0, BLOB_COLUMNS), np.float32), *self.blobs]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Wall:
    """A vertical plane to put rectangles on: s runs right and t up as seen from outside,
    d sticks out of it.

    Attributes:
        origin: [3] lower left corner.
        right: [3] unit vector.
        out: [3] unit vector, the outward normal.
        width, height: Metres.
        eaves: Height above ground below which the roof's overhang throws its shadow.
    """

    origin: Float32Array
    right: Float32Array
    out: Float32Array
    width: float
    height: float
    eaves: float = NO_EAVES

    @classmethod
    def of_box(
        cls,
        side: str,
        box: tuple[float, float, float, float],
        height: float,
        base: float = 0.0,
        eaves: float = NO_EAVES,
    ) -> Wall:
        """The wall on side ``"w"``, ``"e"``, ``"s"`` or ``"n"`` of a box (x0, x1, z0, z1)."""
        x0, x1, z0, z1 = box
        x, z, width = {
            "s": (x0, z0, x1 - x0),
            "n": (x1, z1, x1 - x0),
            "w": (x0, z1, z1 - z0),
            "e": (x1, z0, z1 - z0),
        }[side]
        right, out = _SIDES[side]
        return cls(np.array([x, -base, z], np.float32), right, out, width, height, eaves)

    def at(self, s: ArrayLike, t: ArrayLike, d: ArrayLike = 0.0) -> Float32Array:
        """[n, 3] points; the arguments broadcast."""
        s, t, d = (np.asarray(v, np.float32)[..., None] for v in (s, t, d))
        return (self.origin + s * self.right + t * UP + d * self.out).reshape(-1, 3)

    def _rows(
        self, material: int, s: Float32Array, t: Float32Array, d: Float32Array, color: ArrayLike
    ) -> Float32Array:
        """Panel rows that start at (s, t, d), their edges still zero."""
        rows = np.zeros((len(s), PANEL_COLUMNS), np.float32)
        rows[:, 0] = self.origin[0] + s * self.right[0] + d * self.out[0]
        rows[:, 1] = self.origin[1] - t
        rows[:, 2] = self.origin[2] + s * self.right[2] + d * self.out[2]
        rows[:, COLOR] = color
        rows[:, EAVES], rows[:, FILL], rows[:, MATERIAL] = NO_EAVES, 1.0, material
        return rows

    def raised(self, base: float) -> Wall:
        """The same wall with its foot ``base`` metres higher."""
        return replace(self, origin=self.origin + base * UP, height=self.height - base)

    def rect(
        self,
        parts: Parts,
        material: int,
        s0: ArrayLike,
        s1: ArrayLike,
        t0: ArrayLike,
        t1: ArrayLike,
        color: ArrayLike,
        d: ArrayLike = 0.0,
        fill: float = 1.0,
    ) -> None:
        """Rectangles parallel to the wall, ``d`` in front of it; empty ones are left out."""
        s0, s1, t0, t1, d = _flat(s0, s1, t0, t1, d)
        rows = self._rows(material, s0, t0, d, color)
        rows[:, 3] = (s1 - s0) * self.right[0]
        rows[:, 5] = (s1 - s0) * self.right[2]
        rows[:, 7] = t0 - t1
        rows[:, EAVES], rows[:, FILL] = self.eaves, fill
        parts.panels.append(rows[(s1 - s0 > 5e-3) & (t1 - t0 > 5e-3)])

    def ledge(
        self,
        parts: Parts,
        material: int,
        s0: ArrayLike,
        s1: ArrayLike,
        t: ArrayLike,
        d0: ArrayLike,
        d1: ArrayLike,
        color: ArrayLike,
        rise: float = 0.0,
    ) -> None:
        """Surfaces that face up, from ``d0`` out to ``d1``, ``rise`` higher at the wall."""
        s0, s1, t, d0, d1 = _flat(s0, s1, t, d0, d1)
        rows = self._rows(material, s0, t, d1, color)
        rows[:, ALONG] = (s1 - s0)[:, None] * self.right
        rows[:, ACROSS] = (d0 - d1)[:, None] * self.out
        rows[:, 7] = -rise
        parts.panels.append(rows)

    def soffit(
        self,
        parts: Parts,
        material: int,
        s0: ArrayLike,
        s1: ArrayLike,
        t: ArrayLike,
        d0: ArrayLike,
        d1: ArrayLike,
        color: ArrayLike,
    ) -> None:
        """Surfaces that face down, from ``d0`` out to ``d1``."""
        s0, s1, t, d0, d1 = _flat(s0, s1, t, d0, d1)
        rows = self._rows(material, s0, t, d0, color)
        rows[:, ALONG] = (s1 - s0)[:, None] * self.right
        rows[:, ACROSS] = (d1 - d0)[:, None] * self.out
        parts.panels.append(rows)

    def cheek(
        self,
        parts: Parts,
        material: int,
        s: ArrayLike,
        t0: ArrayLike,
        t1: ArrayLike,
        d0: ArrayLike,
        d1: ArrayLike,
        color: ArrayLike,
        facing: int,
    ) -> None:
        """Surfaces across the wall, facing right (``facing`` 1) or left (−1)."""
        s, t0, t1, d0, d1 = _flat(s, t0, t1, d0, d1)
        near, far = (d1, d0) if facing > 0 else (d0, d1)
        rows = self._rows(material, s, t0, near, color)
        rows[:, ALONG] = (far - near)[:, None] * self.out
        rows[:, 7] = t0 - t1
        parts.panels.append(rows)

    def box(
        self,
        parts: Parts,
        material: int,
        s0: ArrayLike,
        s1: ArrayLike,
        t0: ArrayLike,
        t1: ArrayLike,
        depth: float,
        color: ArrayLike,
        *,
        ends: bool = True,
        under: bool = False,
    ) -> None:
        """Boxes that stick out of the wall by ``depth``: front, top, ends, perhaps underside."""
        self.rect(parts, material, s0, s1, t0, t1, color, depth)
        self.ledge(parts, material, s0, s1, t1, 0.0, depth, color)
        if ends:
            self.cheek(parts, material, s0, t0, t1, 0.0, depth, color, -1)
            self.cheek(parts, material, s1, t0, t1, 0.0, depth, color, 1)
        if under:
            self.soffit(parts, material, s0, s1, t0, 0.0, depth, color)


def _flat(*values: ArrayLike) -> list[Float32Array]:
    """The values as arrays of one length; scalars and single values are repeated."""
    arrays = [np.asarray(v, np.float32).ravel() for v in values]
    count = max(a.size for a in arrays)
    return [a if a.size == count else np.full(count, a[0], np.float32) for a in arrays]
