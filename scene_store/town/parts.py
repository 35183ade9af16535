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
_SLIVER = 5e-3  # metres below which a rectangle is left out

Lengths = float | Float32Array

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

    def placed(self, x: float, z: float, quarter_turns: int) -> PartTable:
        """Turned about the vertical by quarters (x towards z), then moved to plan (x, z)."""
        c, s = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[quarter_turns % 4]
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]], np.float32)
        move = np.array([x, 0.0, z], np.float32)
        panels, struts, blobs = self.panels.copy(), self.struts.copy(), self.blobs.copy()
        for rows, points, vectors in (
            (panels, (ORIGIN,), (ALONG, ACROSS)),
            (struts, (START, END), ()),
            (blobs, (CENTER,), ()),
        ):
            for columns in points:
                rows[:, columns] = rows[:, columns] @ turn + move
            for columns in vectors:
                rows[:, columns] = rows[:, columns] @ turn
        if quarter_turns % 2:
            blobs[:, RADII] = blobs[:, RADII][:, ::-1]
        return PartTable(panels, struts, blobs)

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

    def extend(self, table: PartTable) -> None:
        """Add ready parts."""
        self.panels.append(table.panels)
        self.struts.append(table.struts)
        self.blobs.append(table.blobs)

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
        count, (x0, x1, z0, z1) = _flat(x0, x1, z0, z1)
        rows = np.zeros((count, PANEL_COLUMNS), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2] = x0, -height, z0
        rows[:, 3], rows[:, 8] = x1 - x0, z1 - z0
        rows[:, COLOR] = color
        rows[:, EAVES], rows[:, FILL], rows[:, MATERIAL] = NO_EAVES, 1.0, material
        self.panels.append(rows[(rows[:, 3] > _SLIVER) & (rows[:, 8] > _SLIVER)])

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
        right: [3] unit vector along the x or the z axis.
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
    axis: int = field(init=False)
    rightward: float = field(init=False)
    outward: float = field(init=False)
    blank: Float32Array = field(init=False)

    def __post_init__(self) -> None:
        # The column of ALONG that is not zero, the signs there, and a row at the origin.
        row = np.zeros(PANEL_COLUMNS, np.float32)
        row[ORIGIN], row[EAVES], row[FILL] = self.origin, NO_EAVES, 1.0
        axis = 3 if self.right[0] != 0.0 else 5
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "rightward", float(self.right[axis - 3]))
        object.__setattr__(self, "outward", float(self.out[5 - axis]))
        object.__setattr__(self, "blank", row)

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
        points: Float32Array = self.origin + s * self.right + t * UP + d * self.out
        return points.reshape(-1, 3)

    def _rows(
        self, material: int, count: int, s: Lengths, t: Lengths, d: Lengths, color: ArrayLike
    ) -> Float32Array:
        """Panel rows that start at (s, t, d), their edges still zero."""
        rows = np.empty((count, PANEL_COLUMNS), np.float32)
        rows[:] = self.blank
        # Walls run along x or z, so only one coordinate depends on s and the other on d.
        rows[:, self.axis - 3] += s * self.rightward
        rows[:, 5 - self.axis] += d * self.outward
        rows[:, 1] -= t
        rows[:, COLOR] = color
        rows[:, MATERIAL] = material
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
        count, (s0, s1, t0, t1, d) = _flat(s0, s1, t0, t1, d)
        rows = self._rows(material, count, s0, t0, d, color)
        width, height = s1 - s0, t1 - t0
        rows[:, self.axis] = width * self.rightward
        rows[:, 7] = -height
        rows[:, EAVES], rows[:, FILL] = self.eaves, fill
        keep = (width > _SLIVER) & (height > _SLIVER)
        if isinstance(keep, np.ndarray) and not keep.all():
            rows = rows[keep]
        if keep is not False:
            parts.panels.append(rows)

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
        count, (s0, s1, t, d0, d1) = _flat(s0, s1, t, d0, d1)
        rows = self._rows(material, count, s0, t, d1, color)
        rows[:, self.axis] = (s1 - s0) * self.rightward
        rows[:, 11 - self.axis] = (d0 - d1) * self.outward
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
        # Run through inwards, a ledge is seen from below.
        self.ledge(parts, material, s0, s1, t, d1, d0, color)

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
        count, (s, t0, t1, d0, d1) = _flat(s, t0, t1, d0, d1)
        near, far = (d1, d0) if facing > 0 else (d0, d1)
        rows = self._rows(material, count, s, t0, near, color)
        rows[:, 8 - self.axis] = (far - near) * self.outward
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


def _flat(*values: ArrayLike) -> tuple[int, list[Lengths]]:
    """The common length of the values, and each as a number or an array of that length."""
    count, flat = 1, list[Lengths]()
    for value in values:
        if type(value) is not float:
            array = np.asarray(value, np.float32).ravel()
            if array.size == 1:
                value = float(array[0])
            else:
                count, value = array.size, array
        flat.append(value)
    return count, flat
