"""Where a scene is, floaters aside: what a first view of it is chosen from.

Trained scenes have no agreed scale, and floaters far away. So the box is made of percentiles
weighted by opacity. A store remembers it (``docs/format.md``): its coarse chunks, which stand for
many originals each, would tell another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.formats.json_fields import JsonObject
from scene_store.scene import Vector3
from splat.camera import Camera
from splat.errors import CameraError
from splat.gaussians import Float32Array, Gaussians

Float64Array = NDArray[np.float64]

SAMPLES = 100_000
BODY_PERCENTILES = (2.0, 98.0)
CORE_PERCENTILES = (20.0, 80.0)

# A scene is flat (a drone's) if its height is less than this share of its width.
FLAT_RATIO = 0.35
LONG_RATIO = 1.5  # of a landscape's standard deviations along its sides
# In a uniform box the body is 1.5 times the core, in a normal distribution 2.1 times; a
# capture from within, with sharp things near and sparse ones far away, reaches more.
UNBOUNDED_RATIO = 3.0
_FRAME_TOLERANCE = 1e-4
# What is remembered is but a hint, and has to be possible: no side is shorter (scene units), and
# no camera farther away (diagonals of the scene's bounds, or units if that is more).
_LEAST_SIDE = 1e-7
_FARTHEST_CAMERA = 1e3
_FLOAT32_MAX = float(np.finfo(np.float32).max)
NO_SAMPLE = np.zeros((0, 4), np.float32)


class Shape(str, Enum):
    """What a scene is, by its extent alone."""

    OBJECT = "object"
    LANDSCAPE = "landscape"
    SURROUNDINGS = "surroundings"  # captured from within


@dataclass(frozen=True, slots=True)
class Outline:
    """A box that holds what a scene is about.

    Attributes:
        shape: What kind of scene it is.
        axes: Of the box, unit vectors in the scene's axes: to the right, towards whoever
            stands in front of it, and up. right × up = front.
        lo, hi: Its corners in these axes, scene units; ``lo`` is below ``hi`` everywhere.
        camera: Position and direction (a unit vector) of the first training camera.
    """

    shape: Shape
    axes: tuple[Vector3, Vector3, Vector3]
    lo: Vector3
    hi: Vector3
    camera: tuple[Vector3, Vector3] | None = None

    @property
    def up(self) -> Vector3:
        """The direction that is up in the box."""
        return self.axes[2]

    @property
    def size(self) -> Float64Array:
        """[3] along the axes."""
        return np.subtract(self.hi, self.lo)

    @property
    def center(self) -> Float64Array:
        """[3] in the scene's axes."""
        middle: Float64Array = 0.5 * np.add(self.lo, self.hi) @ np.array(self.axes)
        return middle

    @property
    def radius(self) -> float:
        """Half of the box's diagonal."""
        return 0.5 * float(np.linalg.norm(self.size))

    def stands_up(self, up: ArrayLike) -> bool:
        """Whether a vector, of any length, is the up of the box.

        Raises:
            CameraError: If it is no direction.
        """
        return bool(np.allclose(_unit(up), self.up, atol=_FRAME_TOLERANCE))

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        camera = None
        if self.camera is not None:
            camera = {"position": self.camera[0], "direction": self.camera[1]}
        right, front, up = self.axes
        return {
            "shape": self.shape.value,
            "axes": {"right": right, "front": front, "up": up},
            "lo": self.lo,
            "hi": self.hi,
            "camera": camera,
        }

    @classmethod
    def from_json(cls, fields: JsonObject, bounds: tuple[Vector3, Vector3]) -> Outline:
        """As ``to_json`` wrote it.

        Args:
            fields: What was written.
            bounds: Lowest and highest mean of the scene.

        Raises:
            SceneFormatError: If it makes no sense, or not of a scene with these bounds.
        """
        shape = fields.fields.get("shape")
        if not isinstance(shape, str) or shape not in {each.value for each in Shape}:
            raise fields.error("is none of " + ", ".join(each.value for each in Shape), "shape")
        frame = fields.child("axes")
        axes = (_numbers(frame, "right"), _numbers(frame, "front"), _numbers(frame, "up"))
        product = np.array(axes) @ np.array(axes).T
        if not np.allclose(product, np.eye(3), atol=_FRAME_TOLERANCE):
            raise fields.error("needs three unit vectors at right angles", "axes")
        if np.linalg.det(axes) > 0:
            raise fields.error("needs right × up to be front, and is mirrored", "axes")
        lo, hi = _numbers(fields, "lo"), _numbers(fields, "hi")
        if not all(high - low >= _LEAST_SIDE for low, high in zip(lo, hi, strict=True)):
            raise fields.error(f"needs to be above lo everywhere, by {_LEAST_SIDE:g}", "hi")
        if not _is_within(np.array([lo, hi]), np.array(axes), np.array(bounds)):
            raise fields.error("reaches beyond the bounds of the scene", "hi")
        return cls(Shape(shape), axes, lo, hi, _camera(fields, np.array(bounds)))


def _is_within(box: Float64Array, axes: Float64Array, bounds: Float64Array) -> bool:
    """Whether a box [2, 3] in some axes is inside of bounds [2, 3], but for what it was grown."""
    with np.errstate(over="ignore", invalid="ignore"):  # bounds may be any numbers
        middle, half = 0.5 * bounds.sum(axis=0) @ axes.T, 0.5 * np.ptp(bounds, axis=0)
        reach = np.abs(axes) @ half
        slack = 1e-3 * np.linalg.norm(half) + 1e-5 * np.abs(bounds).max() + _LEAST_SIDE
        inside = np.abs(box - middle) <= np.minimum(reach + slack, _FLOAT32_MAX)
    return bool(inside.all())


def _camera(fields: JsonObject, bounds: Float64Array) -> tuple[Vector3, Vector3] | None:
    if "camera" not in fields:
        return None
    camera = fields.child("camera")
    direction = _numbers(camera, "direction")
    if abs(math.hypot(*direction) - 1.0) > _FRAME_TOLERANCE:
        raise camera.error("needs a unit vector", "direction")
    position = _numbers(camera, "position")
    with np.errstate(over="ignore"):
        away = math.hypot(*np.subtract(position, 0.5 * bounds.sum(axis=0)))
        farthest = _FARTHEST_CAMERA * max(math.hypot(*np.ptp(bounds, axis=0)), 1.0)
    if not away <= min(farthest, _FLOAT32_MAX):
        raise camera.error("is too far from the scene", "position")
    return position, direction


def _numbers(fields: JsonObject, name: str) -> Vector3:
    x, y, z = fields.numbers(name, 3)
    return x, y, z


def outline_of(gaussians: Gaussians, *, up: ArrayLike, cameras: Sequence[Camera] = ()) -> Outline:
    """The outline of a scene in memory.

    Args:
        gaussians: The scene; a sample of it is looked at.
        up: The direction that is up, of any length (``scene_store.statistics.likely_up``).
        cameras: Training cameras.

    Raises:
        CameraError: If ``up`` is no direction.
    """
    axes = scene_axes(_unit(up))
    points, weights = _sample(gaussians)
    if len(points) == 0:
        points, weights = np.array([[-1.0] * 3, [1.0] * 3]), np.ones(2)
    local = points @ axes.T
    box = _box(local, weights, BODY_PERCENTILES)
    core = _box(local, weights, CORE_PERCENTILES)
    shape = Shape.OBJECT
    if is_unbounded(box[1] - box[0], core[1] - core[0]):
        shape, box = Shape.SURROUNDINGS, core
    elif is_flat(box[1] - box[0]):
        shape, axes = Shape.LANDSCAPE, face_long_side(local, weights, axes)
        box = _box(points @ axes.T, weights, BODY_PERCENTILES)
    right, front, upward = map(_vector, axes)
    lo, hi = map(_vector, box)
    return Outline(shape, (right, front, upward), lo, hi, first_camera(cameras))


def first_camera(cameras: Sequence[Camera]) -> tuple[Vector3, Vector3] | None:
    """Position and direction of the first of these, as an outline remembers it."""
    return (_vector(cameras[0].position), _vector(cameras[0].forward)) if cameras else None


class OutlineSampler:
    """Picks from Gaussians that pass in sorted order what ``outline_of`` looks at of them all.

    Args:
        count: How many will pass.
        seen: How many have passed already,
        rows: and what was picked of them.
    """

    def __init__(self, count: int, seen: int = 0, rows: Float32Array = NO_SAMPLE) -> None:
        self._step = _stride(count)
        self._seen = seen
        self._parts = [rows]

    def add(self, count: int, of: Callable[[slice], Float32Array]) -> None:
        """The next ones.

        Args:
            count: How many.
            of: Means and opacities [M, 4] of some of them.
        """
        places = slice(-self._seen % self._step, None, self._step)
        self._seen += count
        self._parts.append(of(places))

    @property
    def rows(self) -> Float32Array:
        """[M, 4] means and opacities of what was picked."""
        self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def gaussians(self) -> Gaussians:
        """The same as Gaussians, grey balls of no size."""
        rows = self.rows
        out = Gaussians.allocate(len(rows), 0)
        out.means[:], out.opacities[:] = rows[:, :3], rows[:, 3]
        out.quats[:], out.scales[:], out.sh[:] = (1, 0, 0, 0), 0, 0
        return out


def is_flat(size: ArrayLike) -> bool:
    """Whether a box of this (width, depth, height) is a landscape rather than an object."""
    width, depth, height = np.asarray(size, np.float64)
    return bool(height < FLAT_RATIO * max(width, depth))


def is_unbounded(body: ArrayLike, core: ArrayLike) -> bool:
    """Whether a scene reaches far beyond its dense core, as captures from within do."""
    ground_body, ground_core = np.asarray(body)[:2], np.asarray(core)[:2]
    return bool(np.linalg.norm(ground_body) > UNBOUNDED_RATIO * np.linalg.norm(ground_core))


def scene_axes(up: Float64Array) -> Float64Array:
    """[3, 3] rows (right, towards the viewer, up): a frame for standing in, right × up = front.

    The diagonal between the two horizontal axes is where trained objects usually face:
    +x +z where y points down, +x −y where z is vertical. Where y points up the scene is taken
    to be turned about x, as when a format's axes are others (ADR 0004): it begins with the
    same picture.
    """
    vertical = int(np.argmax(np.abs(up)))
    front = np.eye(3)[2] if vertical != 2 else -np.eye(3)[1]
    if vertical == 1 and up[1] > 0:
        front = -front
    toward = front - (front @ up) * up
    toward /= np.linalg.norm(toward)
    return np.stack([np.cross(toward, -up), toward, up])


def face_long_side(local: Float64Array, weights: Float64Array, axes: Float64Array) -> Float64Array:
    """``axes`` turned about up so that a long scene, seen from the front, spans the width.

    Args:
        local: [N, 3] points in ``axes``.
        weights: [N].
        axes: [3, 3] rows (right, towards the viewer, up).
    """
    low, high = weighted_percentiles(local, weights, BODY_PERCENTILES)[:, :2]
    inside = ((local[:, :2] >= low) & (local[:, :2] <= high)).all(axis=1)
    spread, directions = np.linalg.eigh(
        np.cov(local[inside, :2].T, aweights=np.maximum(weights[inside], 1e-12))
    )
    if spread[1] < LONG_RATIO**2 * spread[0]:
        return axes
    toward = directions[:, 0] if directions[1, 0] > 0 else -directions[:, 0]
    # A quarter view of a long scene would put one end close to the eye: stand more in front.
    turn = -math.radians(20.0)
    cosine, sine = math.cos(turn), math.sin(turn)
    toward = np.array(
        [cosine * toward[0] + sine * toward[1], cosine * toward[1] - sine * toward[0]]
    )
    front = toward @ axes[:2]
    return np.stack([np.cross(front, -axes[2]), front, axes[2]])


def weighted_percentiles(
    values: Float64Array, weights: Float64Array, percentiles: Sequence[float]
) -> Float64Array:
    """Percentiles [len(percentiles), D] of ``values`` [N, D], N ≥ 1, with weights [N]."""
    out = np.empty((len(percentiles), values.shape[1]))
    for axis in range(values.shape[1]):
        order = np.argsort(values[:, axis], kind="stable")
        mass = np.cumsum(weights[order])
        wanted = np.asarray(percentiles) / 100.0 * mass[-1]
        index = np.minimum(np.searchsorted(mass, wanted), len(order) - 1)
        out[:, axis] = values[order[index], axis]
    return out


def _stride(count: int) -> int:
    """Every how manieth of so many Gaussians is looked at."""
    return max(1, count // SAMPLES)


def _sample(gaussians: Gaussians) -> tuple[Float64Array, Float64Array]:
    """(points [M, 3], weights [M]) of a regular sample; faint Gaussians weigh little."""
    stride = _stride(len(gaussians))
    points = gaussians.means[::stride].astype(np.float64)
    weights = gaussians.opacities[::stride].astype(np.float64)
    if weights.sum() <= 0:
        weights = np.ones(len(points))
    return points, weights


def _box(
    local: Float64Array, weights: Float64Array, percentiles: tuple[float, float]
) -> tuple[Float64Array, Float64Array]:
    low, high = weighted_percentiles(local, weights, percentiles)
    size = high - low
    # A plane or a single point has no extent in some direction; give it a little.
    least = max(1e-3 * float(size.max()), 1e-6 * float(np.abs(local).max()), 1e-6)
    grow = 0.5 * np.maximum(least - size, 0.0)
    return low - grow, high + grow


def _unit(vector: ArrayLike) -> Float64Array:
    direction = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(direction))
    if direction.shape != (3,) or not math.isfinite(length) or length == 0:
        raise CameraError("the up direction needs three finite numbers, not all zero")
    return direction / length


def _vector(values: ArrayLike) -> Vector3:
    x, y, z = np.asarray(values, np.float64).tolist()
    return x, y, z
