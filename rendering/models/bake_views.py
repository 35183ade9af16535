"""From where a scene is looked at to be baked.

Training cameras are best: there the scene is known. Without them, cameras stand around what the
scene is about, in a spiral from low to high, nearer and farther in turn; of surroundings most stand
inside and look out. Where a scene names but one or a few cameras, the others have the lens of the
first and about its distance: fields may show nothing that is nearer than what they were trained
with. Some of all are held out: they measure what the others cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.outline import Outline, Shape
from splat.camera import Camera, CameraModel

Float64Array = NDArray[np.float64]

GOLDEN_ANGLE_RAD = math.pi * (3.0 - math.sqrt(5.0))
FOV_RAD = math.radians(50.0)
ASPECT = 4 / 3
LEAST_TRAINING = 12  # cameras; fewer show too little of a scene
HELD_SHARE = 8  # one of so many views is held out
LEAST_HELD, MOST_HELD = 4, 16
LEAST_KNOWN = 64  # cameras, where they can be placed at will
# Elevations of cameras around a scene, and their distances, in radii of its box.
ELEVATIONS = {
    Shape.OBJECT: (math.radians(-5.0), math.radians(75.0)),
    Shape.LANDSCAPE: (math.radians(8.0), math.radians(70.0)),
    Shape.SURROUNDINGS: (math.radians(-5.0), math.radians(45.0)),
}
DISTANCES = (2.3, 1.5, 1.9)
ALIKE = (1.0, 0.93, 1.08)  # and of the distance of a camera that the scene names
INSIDE_SHARE = 0.75  # of the cameras of surroundings
LOOKING_OUT_RAD = math.radians(25.0)  # up or down at most
ASIDE = 0.2  # of the box, by which they look past its middle
INSIDE = 0.7  # of the box, within which they stand
LEAST_DISTANCE = 0.8  # of a camera that sees a scene from outside, in radii of its box
NEAR_RATIO = 1e-3  # of the radius


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Where from.

    Attributes:
        fitted: The cameras whose pictures the Gaussians are made of.
        checked: Those that tell when to stop.
        held: Those that nothing depends on: the result is measured there.
        known: From where the scene may be looked at without drawing it: those that are fitted, and
            more, but none that is checked or held.
        trained: Whether they are cameras that the scene was trained with.
    """

    fitted: tuple[Camera, ...]
    checked: tuple[Camera, ...]
    held: tuple[Camera, ...]
    known: tuple[Camera, ...]
    trained: bool

    @property
    def all(self) -> tuple[Camera, ...]:
        """In the order in which they had best be drawn."""
        return (*self.fitted, *self.checked, *self.held)


def choose_views(
    outline: Outline, training: Sequence[Camera], count: int, size: int, seed: int
) -> Views:
    """Cameras for ``count`` pictures to fit to, and some more to measure with.

    Args:
        outline: Where the scene is.
        training: Its training cameras; those that are no pinhole cameras are left out.
        count: How many.
        size: Longest side of a picture, pixels.
        seed: Turns the spiral, and shuffles.
    """
    usable = trained_views(training)
    held = min(max(count // HELD_SHARE, LEAST_HELD), MOST_HELD)
    wanted = count + 2 * held
    trained = bool(usable)
    if trained:
        chosen = _spread(len(usable), wanted)
        cameras = [_sized(usable[i], size) for i in chosen]
        held = min(held, max(1, len(cameras) // HELD_SHARE))
        more = [_sized(usable[i], size) for i in sorted(set(range(len(usable))) - set(chosen))]
        # At random: every n-th camera of a capture in rings may be of one ring.
        apart = np.random.default_rng(seed).permutation(len(cameras))[: 2 * held].tolist()
    else:
        like = named_view(outline, training)
        cameras = placed(outline, wanted, size, seed, like)
        more = placed(outline, max(0, LEAST_KNOWN - count), size, seed + 1, like)
        apart = _spread(len(cameras), 2 * held)
    left = [camera for i, camera in enumerate(cameras) if i not in set(apart)]
    return Views(
        fitted=tuple(left),
        checked=tuple(cameras[i] for i in apart[::2]),
        held=tuple(cameras[i] for i in apart[1::2]),
        known=(*left, *more),
        trained=trained,
    )


def trained_views(training: Sequence[Camera]) -> list[Camera]:
    """The training cameras that can be views, if they are enough to be all of them."""
    usable = [camera for camera in training if camera.model is CameraModel.PINHOLE]
    return usable if len(usable) >= LEAST_TRAINING else []


def named_view(outline: Outline, training: Sequence[Camera]) -> Camera | None:
    """The camera that the others had best be like, where a scene names one that sees it from
    outside."""
    if outline.shape is Shape.SURROUNDINGS:
        return None
    cameras = (camera for camera in training if camera.model is CameraModel.PINHOLE)
    first = next(cameras, None)
    if first is None or _distance(outline, first) < LEAST_DISTANCE * outline.radius:
        return None
    return first


def _distance(outline: Outline, camera: Camera) -> float:
    return float(np.linalg.norm(camera.position - outline.center))


def _spread(total: int, count: int) -> list[int]:
    """``count`` of ``total`` places, evenly, or all of them."""
    if count >= total:
        return list(range(total))
    return [int((i + 0.5) * total / count) for i in range(count)]


def _sized(camera: Camera, size: int) -> Camera:
    """With a longest side of at most ``size``."""
    scale = min(1.0, size / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


@dataclass(frozen=True, slots=True)
class _Lens:
    """What cameras that are placed have in common."""

    fov_y_rad: float
    width: int
    height: int

    @classmethod
    def of(cls, size: int, like: Camera | None) -> _Lens:
        aspect = ASPECT if like is None else like.width / like.height
        width, height = min(size, size * aspect), min(size, size / aspect)
        fov = FOV_RAD if like is None else like.fov_y_rad
        return cls(fov, max(1, round(width)), max(1, round(height)))

    def camera(self, outline: Outline, eye: Float64Array, target: Float64Array) -> Camera:
        return Camera.look_at(
            eye,
            target,
            outline.up,
            fov_y_rad=self.fov_y_rad,
            width=self.width,
            height=self.height,
            near=NEAR_RATIO * outline.radius,
        )


def placed(
    outline: Outline, count: int, size: int, seed: int, like: Camera | None = None
) -> list[Camera]:
    """``count`` cameras around and, of surroundings, inside of a scene.

    Args:
        outline: Where the scene is.
        size: Longest side of a picture, pixels.
        seed: Turns the spiral.
        like: Has the lens that all have, at about the distance from the scene that they have.
    """
    inside = round(INSIDE_SHARE * count) if outline.shape is Shape.SURROUNDINGS else 0
    turn = float(np.random.default_rng(seed).uniform(0, 2 * math.pi))
    lens = _Lens.of(size, like)
    distances = [factor * outline.radius for factor in DISTANCES]
    if like is not None:
        distances = [factor * _distance(outline, like) for factor in ALIKE]
    parts = (
        _around(outline, count - inside, lens, turn, distances),
        _within(outline, inside, lens, turn),
    )
    # Dealt in turn, so that any few that follow each other see both.
    both = [((i + 0.5) / len(part), camera) for part in parts for i, camera in enumerate(part)]
    return [camera for _, camera in sorted(both, key=lambda pair: pair[0])]


def _around(
    outline: Outline, count: int, lens: _Lens, turn: float, distances: Sequence[float]
) -> list[Camera]:
    low, high = (math.sin(angle) for angle in ELEVATIONS[outline.shape])
    axes = np.array(outline.axes)
    cameras = []
    for i in range(count):
        elevation = math.asin(low + (high - low) * (i + 0.5) / count)
        toward = _direction(turn + i * GOLDEN_ANGLE_RAD, elevation)
        eye = outline.center + distances[i % len(distances)] * toward @ axes
        target = outline.center
        if i % len(distances):  # what is off the middle is looked at, too
            target = target + _scattered(i, ASIDE) * outline.size @ axes
        cameras.append(lens.camera(outline, eye, target))
    return cameras


def _within(outline: Outline, count: int, lens: _Lens, turn: float) -> list[Camera]:
    axes = np.array(outline.axes)
    cameras = []
    for i in range(count):
        eye = outline.center + _scattered(i, 0.5 * INSIDE) * outline.size @ axes
        elevation = LOOKING_OUT_RAD * (2.0 * ((i * 0.618033988749895) % 1.0) - 1.0)
        toward = _direction(turn + i * GOLDEN_ANGLE_RAD, elevation)
        cameras.append(lens.camera(outline, eye, eye + toward @ axes))
    return cameras


def _direction(azimuth: float, elevation: float) -> Float64Array:
    """[3] in the outline's axes: right, front, up."""
    level = math.cos(elevation)
    return np.array([level * math.sin(azimuth), level * math.cos(azimuth), math.sin(elevation)])


def _scattered(index: int, reach: float) -> Float64Array:
    """[3] the ``index``-th point of a sequence that fills the cube ``[-reach, reach]`` evenly
    (Roberts' R3)."""
    steps = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703])
    return reach * (2.0 * ((0.5 + (index + 1) * steps) % 1.0) - 1.0)
