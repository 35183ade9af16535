"""Where the scene of an Instant-NGP snapshot is: its box, its axes, and the data set's world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scene_store.formats.json_fields import JsonObject
from splat.camera import Float64Array

MAX_SIDE = 128
# Row i of it times a vector of the data set is component i in instant-ngp.
_CYCLED = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
_TOLERANCE = 1e-4

Vector3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class NgpWorld:
    """From the data set's world x to instant-ngp's: ``n = axes (scale · x + offset)``.

    Attributes:
        dataset: What the snapshot says of its data set; empty if nothing.
        axes: [3, 3] float64, a permutation.
        offset: [3] float64.
        scale: Units of instant-ngp in one of the data set.
        side: Of the box of the scene in instant-ngp's units, a power of two; its middle is (½, ½,
            ½).
        notes: What a user should know.
    """

    dataset: JsonObject
    axes: Float64Array
    offset: Float64Array
    scale: float
    side: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, snapshot: JsonObject) -> NgpWorld:
        """The world of a snapshot.

        Raises:
            SceneFormatError: If what it says makes none.
        """
        nerf = snapshot.child("nerf")
        if "dataset" not in nerf:
            dataset = JsonObject(nerf.path, {}, "snapshot.nerf.dataset", nerf.remedy)
            note = "the snapshot tells nothing of its data set: coordinates are instant-ngp's own"
            side = _side(nerf)
            return cls(dataset, np.eye(3), np.zeros(3), 1.0, side, (note,))
        dataset = nerf.child("dataset")
        scale = dataset.number("scale")
        if not 1e-6 < scale < 1e6:
            raise dataset.error(f"a scale of {scale:g} makes no scene", "scale")
        is_cycled = not dataset.fields.get("from_mitsuba")
        return cls(
            dataset,
            _CYCLED if is_cycled else np.eye(3),
            np.array(dataset.numbers("offset", 3)),
            scale,
            _side(dataset),
            _crop_notes(snapshot),
        )

    @property
    def to_field(self) -> Float64Array:
        """[3, 4] float64, from the data set's world to the unit cube that is the box."""
        corner = 0.5 - self.side / 2
        shift = (self.axes @ self.offset - corner) / self.side
        return np.concatenate([self.axes * (self.scale / self.side), shift[:, None]], axis=1)

    def point(self, n: Float64Array) -> Float64Array:
        """A point of instant-ngp's, in the data set's world."""
        out: Float64Array = (self.axes.T @ n - self.offset) / self.scale
        return out

    def box(self, snapshot: JsonObject) -> tuple[Float64Array, Float64Array]:
        """Corners of what is to be seen, in the data set's world.

        Raises:
            SceneFormatError: If the scene's box is another than the one that its networks take.
        """
        lo, hi = np.full(3, 0.5 - self.side / 2), np.full(3, 0.5 + self.side / 2)
        if "aabb" in snapshot:
            trained = snapshot.child("aabb")
            corners = np.array([trained.numbers("min", 3), trained.numbers("max", 3)])
            if np.abs(corners - [lo, hi]).max() > _TOLERANCE * self.side:
                raise trained.error(f"is not the box of a scene of side {self.side}")
        if "render_aabb" in snapshot:
            shown = snapshot.child("render_aabb")
            low = np.maximum(lo, shown.numbers("min", 3))
            high = np.minimum(hi, shown.numbers("max", 3))
            if (low < high).all():
                lo, hi = low, high
        corners = np.stack([self.point(lo), self.point(hi)])
        return corners.min(axis=0), corners.max(axis=0)

    def up(self, snapshot: JsonObject) -> Vector3 | None:
        """The direction that its author called up, in the data set's world."""
        if "up_dir" not in snapshot:
            return None
        up = self.axes.T @ np.array(snapshot.numbers("up_dir", 3))
        length = float(np.linalg.norm(up))
        if length < 1e-6:
            return None
        x, y, z = (float(value) / length for value in up)
        return x, y, z


def _side(table: JsonObject) -> int:
    side = table.integer("aabb_scale", 1)
    if side > MAX_SIDE or side & (side - 1):
        raise table.error(f"needs a power of two of at most {MAX_SIDE}", "aabb_scale")
    return side


def _crop_notes(snapshot: JsonObject) -> tuple[str, ...]:
    if "render_aabb_to_local" not in snapshot:
        return ()
    rows = [snapshot.numbers("render_aabb_to_local", 3, row) for row in range(3)]
    if np.abs(np.array(rows) - np.eye(3)).max() < _TOLERANCE:
        return ()
    return ("its crop box is turned: the box is taken as if it were not",)
