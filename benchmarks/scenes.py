"""What the benchmarks draw, and from where: scenes by name, each with fixed camera paths.

``town-N`` is the procedural town of N Gaussians (``town-150K``, ``town-1M``); ``park`` the
capture of a caravan park in the folder of real scenes; any other name is the path of a
scene. Every scene has two paths: ``aerial``, a full circle in the air, and ``walk``, a
straight line looking ahead, at eye height where the scene has a known ground.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.loading import in_morton_order, load_scene
from scene_store.statistics import likely_up
from scene_store.town import TOWN_UP, TOWN_VIEWS, generate_town
from splat.camera import Camera, fov_y_from_fov_x
from splat.errors import SettingsError
from splat.gaussians import Gaussians
from viewer.start_view import StartView, choose_start_view

Vector3 = tuple[float, float, float]
Size = tuple[int, int]

SIZE: Size = (1280, 720)
PATH_FRAMES = 120
PATH_NAMES = ("aerial", "walk")

TOWN_NEAR = 0.1  # metres
PARK_NEAR = 0.02  # 12 cm; a unit of the park is about 6 m
NEAR_RATIO = 1e-4  # of the radius of any other scene, as in the viewer's settings

PARK_UP: Vector3 = (0.0, -1.0, 0.0)
PARK_FOV_X_RAD = math.radians(70.0)
PARK_EYE: Vector3 = (24.0, -14.0, 16.0)
PARK_TARGET: Vector3 = (0.0, 0.0, -2.0)
PARK_WALK: tuple[Vector3, Vector3] = ((2.0, -0.4, 2.0), (-4.0, -0.3, -1.0))

REPOSITORY = Path(__file__).resolve().parent.parent

_TOWN = re.compile(r"town-(\d+(?:\.\d+)?)([KMG]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, slots=True)
class Lens:
    """All of a pinhole camera but its pose: image size in pixels, angle, near plane."""

    fov_y_rad: float
    near: float
    size: Size = SIZE


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A single place to look from, world coordinates."""

    position: Vector3
    target: Vector3
    up: Vector3
    lens: Lens

    def camera(self) -> Camera:
        """The view as a camera."""
        return _look_at(self.position, self.target, self.up, self.lens)


@dataclass(frozen=True, slots=True, eq=False)
class CameraPath:
    """Cameras in the order in which they are passed."""

    name: str
    cameras: tuple[Camera, ...]

    def spread(self, count: int) -> tuple[Camera, ...]:
        """``count`` cameras at equal distances from the first one on, or all if they are fewer."""
        total = len(self.cameras)
        wanted = min(count, total)
        return tuple(self.cameras[i * total // wanted] for i in range(wanted))


@dataclass(frozen=True, slots=True, eq=False)
class BenchmarkScene:
    """A scene in memory, in Morton order, with the places that it is looked at from."""

    name: str
    gaussians: Gaussians
    view: View
    paths: tuple[CameraPath, ...]

    def path(self, name: str) -> CameraPath:
        """The path of that name (one of ``PATH_NAMES``)."""
        return next(path for path in self.paths if path.name == name)


def data_folder() -> Path:
    """The folder of real scenes: ``BELVEDERE_DATA``, else ``../shared/data``."""
    return Path(os.environ.get("BELVEDERE_DATA") or REPOSITORY.parent / "shared" / "data")


def town_count(name: str) -> int | None:
    """The Gaussians of ``town-N``; None for a name that is no town's.

    Raises:
        SettingsError: If it begins like a town's and goes on like none.
    """
    if not name.lower().startswith("town-"):
        return None
    match = _TOWN.fullmatch(name)
    if match is None:
        raise SettingsError(f"scene '{name}': write a town's size as in town-150K or town-1.5M")
    return round(float(match[1]) * _FACTORS[match[2].upper()])


def open_scene(name: str, size: Size = SIZE) -> BenchmarkScene:
    """A scene by its name: ``town-N``, ``park``, or a path.

    Raises:
        SceneError: If it cannot be read.
        SettingsError: If the town's size makes no sense.
    """
    count = town_count(name)
    if count is not None:
        try:
            gaussians = in_morton_order(generate_town(count))
        except ValueError as error:
            raise SettingsError(f"scene '{name}': {error}") from None
        return BenchmarkScene(name, gaussians, town_view(size), town_paths(size))
    if name == "park":
        gaussians = load_scene(data_folder() / "park" / "lod-meta.json").gaussians
        return BenchmarkScene(name, gaussians, park_view(size), park_paths(size))
    scene = load_scene(name)
    start = choose_start_view(
        scene.gaussians,
        up=likely_up(scene.meta, scene.gaussians),
        cameras=scene.meta.cameras,
    )
    title = Path(name).parent.name if Path(name).name.endswith("meta.json") else Path(name).name
    return BenchmarkScene(title, scene.gaussians, start_view(start, size), start_paths(start, size))


def town_view(size: Size = SIZE) -> View:
    """The town as in the README's picture."""
    view = TOWN_VIEWS.picture
    lens = Lens(math.radians(view.fov_y_deg), TOWN_NEAR, size)
    return View(view.position, view.target, view.up, lens)


def town_paths(size: Size = SIZE) -> tuple[CameraPath, ...]:
    """A circle over the roofs, and a walk along the street beside the market square."""
    aerial, walk = TOWN_VIEWS.aerial, TOWN_VIEWS.walk
    x, y, z = aerial.center
    eye = (x, -aerial.height, z - aerial.radius)
    aerial_lens = Lens(math.radians(aerial.fov_y_deg), TOWN_NEAR, size)
    walk_lens = Lens(math.radians(walk.fov_y_deg), TOWN_NEAR, size)
    return (
        orbit(View(eye, (x, y, z), TOWN_UP, aerial_lens)),
        straight_walk(walk.start, walk.end, TOWN_UP, walk_lens),
    )


def park_view(size: Size = SIZE) -> View:
    """The whole park from the air."""
    lens = Lens(fov_y_from_fov_x(PARK_FOV_X_RAD, *size), PARK_NEAR, size)
    return View(PARK_EYE, PARK_TARGET, PARK_UP, lens)


def park_paths(size: Size = SIZE) -> tuple[CameraPath, ...]:
    """A circle around the park, and a walk from its pool to its pitches."""
    view = park_view(size)
    return orbit(view), straight_walk(*PARK_WALK, PARK_UP, view.lens)


def start_view(start: StartView, size: Size = SIZE) -> View:
    """Any scene as the viewer first shows it."""
    position, target, up = (_vector(v) for v in (start.position, start.look_at, start.up))
    return View(position, target, up, Lens(start.fov_y_rad, NEAR_RATIO * start.radius, size))


def start_paths(start: StartView, size: Size = SIZE) -> tuple[CameraPath, ...]:
    """Any scene: around what the viewer first shows, and half the way towards it."""
    view = start_view(start, size)
    halfway = _vector(0.5 * (start.position + start.look_at))
    return orbit(view), straight_walk(view.position, halfway, view.up, view.lens)


def orbit(first: View, frames: int = PATH_FRAMES) -> CameraPath:
    """A full circle about the upright axis through the target, all views of the target."""
    target = np.asarray(first.target)
    arm = np.asarray(first.position) - target
    cameras = [
        _look_at(
            target + _turned(arm, first.up, math.tau * i / frames), target, first.up, first.lens
        )
        for i in range(frames)
    ]
    return CameraPath("aerial", tuple(cameras))


def straight_walk(
    start: Vector3, end: Vector3, up: Vector3, lens: Lens, frames: int = PATH_FRAMES
) -> CameraPath:
    """From ``start`` to ``end`` at an even pace, looking ahead all the way."""
    origin, way = np.asarray(start), np.asarray(end) - np.asarray(start)
    places = [origin + way * (i / (frames - 1)) for i in range(frames)]
    return CameraPath("walk", tuple(_look_at(p, p + way, up, lens) for p in places))


def _look_at(position: ArrayLike, target: ArrayLike, up: ArrayLike, lens: Lens) -> Camera:
    width, height = lens.size
    return Camera.look_at(
        position,
        target,
        up,
        fov_y_rad=lens.fov_y_rad,
        width=width,
        height=height,
        near=lens.near,
    )


def _turned(vector: NDArray[np.float64], axis: Vector3, angle_rad: float) -> NDArray[np.float64]:
    """``vector`` rotated about ``axis`` (Rodrigues' formula)."""
    unit = np.asarray(axis) / np.linalg.norm(axis)
    along = (vector @ unit) * unit
    across = vector - along
    turned: NDArray[np.float64] = (
        along + math.cos(angle_rad) * across + math.sin(angle_rad) * np.cross(unit, vector)
    )
    return turned


def _vector(values: Sequence[float] | NDArray[np.float64]) -> Vector3:
    x, y, z = (float(value) for value in values)
    return x, y, z
