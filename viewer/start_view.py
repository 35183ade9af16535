"""Where to stand at the start: a view, an up direction and distances, from the data alone.

Trained scenes have no agreed orientation, no agreed scale, and floaters far away. So all
sizes here are percentiles weighted by opacity, and what is known beats what is guessed:
training cameras, then the format's convention, then the shape of the scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splat.camera import Camera
from splat.errors import CameraError
from splat.gaussians import Gaussians

Float64Array = NDArray[np.float64]

SAMPLES = 100_000
AZIMUTH_RAD = math.radians(40.0)  # between the front and the right side
BODY_PERCENTILES = (2.0, 98.0)
CORE_PERCENTILES = (20.0, 80.0)

# A scene is flat (a drone's) if its height is less than this share of its width.
FLAT_RATIO = 0.35
LONG_RATIO = 1.5  # of a landscape's standard deviations along its sides
# In a uniform box the body is 1.5 times the core, in a normal distribution 2.1 times; a
# capture from within, with sharp things near and sparse ones far away, reaches more.
UNBOUNDED_RATIO = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class StartView:
    """A first view and the scene's size.

    Attributes:
        position, look_at: [3] world coordinates.
        up: [3] unit vector, upwards in the picture and the axis of orbiting.
        fov_y_rad: Vertical field of view.
        center: [3] middle of the scene's dense part.
        radius: Radius of that part, world units; speeds and planes scale with it.
    """

    position: Float64Array
    look_at: Float64Array
    up: Float64Array
    fov_y_rad: float
    center: Float64Array
    radius: float

    def camera(self, width: int, height: int, near: float) -> Camera:
        """The view as a camera for pictures of this size."""
        return Camera.look_at(
            self.position,
            self.look_at,
            self.up,
            fov_y_rad=self.fov_y_rad,
            width=width,
            height=height,
            near=near,
        )

    def changed(
        self,
        *,
        position: ArrayLike | None = None,
        look_at: ArrayLike | None = None,
    ) -> StartView:
        """The view from another place, or towards another one.

        Raises:
            CameraError: If both are the same place.
        """
        eye = self.position if position is None else np.asarray(position, np.float64)
        target = self.look_at if look_at is None else np.asarray(look_at, np.float64)
        if np.array_equal(eye, target):
            raise CameraError("camera position and look-at point are the same")
        return replace(self, position=eye, look_at=target)


@dataclass(frozen=True, slots=True, eq=False)
class _Extent:
    """A box in the axes (right, forward, up) of a scene."""

    low: Float64Array
    high: Float64Array

    @property
    def size(self) -> Float64Array:
        return self.high - self.low

    @property
    def center(self) -> Float64Array:
        return 0.5 * (self.low + self.high)


def choose_start_view(
    gaussians: Gaussians,
    *,
    up: ArrayLike,
    cameras: Sequence[Camera] = (),
    fov_y_rad: float = math.radians(60.0),
) -> StartView:
    """A view that shows what the scene is about.

    Args:
        gaussians: The scene; a sample of it is looked at.
        up: The direction that is up, of any length (``scene_store.statistics.likely_up``).
        cameras: Training cameras; the first one is the view.
        fov_y_rad: Vertical field of view.
    """
    points, weights = _sample(gaussians)
    axes = scene_axes(_unit(up))
    if len(points) == 0:
        points, weights = np.array([[-1.0] * 3, [1.0] * 3]), np.ones(2)
    local = points @ axes.T
    body = _extent(local, weights, BODY_PERCENTILES)
    core = _extent(local, weights, CORE_PERCENTILES)
    if cameras:
        return _from_training_camera(cameras[0], body, axes, fov_y_rad)
    if is_unbounded(body.size, core.size):
        return _outside(core, axes, fov_y_rad, elevation_rad=math.radians(18), fill=1.0)
    if is_flat(body.size):
        axes = face_long_side(local, weights, axes)
        body = _extent(points @ axes.T, weights, BODY_PERCENTILES)
        return _outside(body, axes, fov_y_rad, elevation_rad=math.radians(33), fill=1.6)
    return _outside(body, axes, fov_y_rad, elevation_rad=math.radians(16), fill=1.0)


def is_flat(size: ArrayLike) -> bool:
    """Whether a box of this (width, depth, height) is a landscape rather than an object."""
    width, depth, height = np.asarray(size, np.float64)
    return bool(height < FLAT_RATIO * max(width, depth))


def is_unbounded(body: ArrayLike, core: ArrayLike) -> bool:
    """Whether a scene reaches far beyond its dense core, as captures from within do."""
    ground_body, ground_core = np.asarray(body)[:2], np.asarray(core)[:2]
    return bool(np.linalg.norm(ground_body) > UNBOUNDED_RATIO * np.linalg.norm(ground_core))


def scene_axes(up: Float64Array) -> Float64Array:
    """[3, 3] rows (right, towards the viewer, up): a right-handed frame for standing in.

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


def _sample(gaussians: Gaussians) -> tuple[Float64Array, Float64Array]:
    """(points [M, 3], weights [M]) of a regular sample; faint Gaussians weigh little."""
    stride = max(1, len(gaussians) // SAMPLES)
    points = gaussians.means[::stride].astype(np.float64)
    weights = gaussians.opacities[::stride].astype(np.float64)
    if weights.sum() <= 0:
        weights = np.ones(len(points))
    return points, weights


def _extent(
    local: Float64Array, weights: Float64Array, percentiles: tuple[float, float]
) -> _Extent:
    low, high = weighted_percentiles(local, weights, percentiles)
    size = high - low
    # A plane or a single point has no extent in some direction; give it a little.
    least = max(1e-3 * float(size.max()), 1e-6 * float(np.abs(local).max()), 1e-6)
    grow = 0.5 * np.maximum(least - size, 0.0)
    return _Extent(low - grow, high + grow)


def _radius(extent: _Extent) -> float:
    return 0.5 * float(np.linalg.norm(extent.size))


def _outside(
    extent: _Extent, axes: Float64Array, fov_y_rad: float, *, elevation_rad: float, fill: float
) -> StartView:
    """A view of a box from outside; ``fill`` is its share of the picture (1 touches an edge)."""
    azimuth_rad = AZIMUTH_RAD
    toward_eye = np.array(
        [
            math.cos(elevation_rad) * math.sin(azimuth_rad),
            math.cos(elevation_rad) * math.cos(azimuth_rad),
            math.sin(elevation_rad),
        ]
    )
    distance = fitting_distance(extent.size, toward_eye, fov_y_rad, fill)
    center = extent.center @ axes
    return StartView(
        position=center + distance * toward_eye @ axes,
        look_at=center,
        up=axes[2],
        fov_y_rad=fov_y_rad,
        center=center,
        radius=_radius(extent),
    )


def fitting_distance(
    size: Float64Array, toward_eye: Float64Array, fov_y_rad: float, fill: float
) -> float:
    """Distance from a box's centre at which its projection takes ``fill`` of a 16:9 picture.

    Args:
        size: [3] of the box, which is centred and upright (third axis up).
        toward_eye: [3] unit vector from the centre to the camera, not vertical.
        fov_y_rad: Vertical field of view.
        fill: Half the picture's height, or width, that the farthest corner reaches.
    """
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = 0.5 * signs * size
    right = np.cross(-toward_eye, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    upward = np.cross(right, -toward_eye)
    tangent = fill * math.tan(0.5 * fov_y_rad)
    reach = np.maximum(
        np.abs(corners @ upward) / tangent, np.abs(corners @ right) / (tangent * 16 / 9)
    )
    # A corner that is nearer to the eye by z must be seen from z further away.
    return float((reach + corners @ toward_eye).max())


def _from_training_camera(
    camera: Camera, body: _Extent, axes: Float64Array, fov_y_rad: float
) -> StartView:
    """The view of a training camera, orbiting around what is in front of it."""
    center = body.center @ axes
    radius = _radius(body)
    return StartView(
        position=camera.position,
        look_at=point_ahead(camera, center, radius),
        up=axes[2],
        fov_y_rad=fov_y_rad,
        center=center,
        radius=radius,
    )


def point_ahead(camera: Camera, center: Float64Array, radius: float) -> Float64Array:
    """[3] the point to orbit around in a training camera's view, about as far as the scene."""
    ahead = float((center - camera.position) @ camera.forward)
    return camera.position + min(max(ahead, 0.2 * radius), 10.0 * radius) * camera.forward


def _unit(vector: ArrayLike) -> Float64Array:
    direction = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(direction))
    if direction.shape != (3,) or not math.isfinite(length) or length == 0:
        raise CameraError("the up direction needs three finite numbers, not all zero")
    return direction / length
