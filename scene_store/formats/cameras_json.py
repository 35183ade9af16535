"""Training cameras: the ``cameras.json`` that INRIA's trainer leaves beside a scene.

A list of ``{id, img_name, width, height, position[3], rotation[3][3], fx, fy}``, where
rotation and position are camera → world with OpenCV axes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene_store.formats.json_fields import JsonObject, load_json
from splat.camera import Camera
from splat.errors import CameraError, SceneError

CAMERAS_FILE = "cameras.json"
MAX_CAMERAS = 20_000


def cameras_near(scene: Path) -> tuple[tuple[Camera, ...], tuple[str, ...]]:
    """Cameras found beside a scene file or above its training output, and notes.

    Cameras only help to choose a first view, so a broken file never stops a scene: it is
    reported in the notes instead.
    """
    folders = [scene.parent]
    if scene.parent.name.startswith("iteration_"):
        folders.append(scene.parent.parent.parent)
    for folder in folders:
        path = folder / CAMERAS_FILE
        try:
            if path.is_file():
                return read_cameras(path), ()
        except (SceneError, CameraError, OSError) as error:
            return (), (f"cameras ignored: {error}",)
    return (), ()


def read_cameras(path: Path) -> tuple[Camera, ...]:
    """All cameras of a ``cameras.json``.

    Raises:
        SceneFormatError: If the file is not what it should be.
        CameraError: If a camera makes no sense.
    """
    entries = load_json(path)
    if not isinstance(entries, list):
        raise JsonObject(path, {}, "").error("is not a list of cameras")
    return tuple(
        _camera(JsonObject.of(path, entry, f"camera {i}"))
        for i, entry in enumerate(entries[:MAX_CAMERAS])
    )


def _camera(entry: JsonObject) -> Camera:
    rotation = np.array([entry.numbers("rotation", 3, row) for row in range(3)])
    position = np.array(entry.numbers("position", 3))
    width, height = entry.integer("width"), entry.integer("height")
    fx, fy = entry.number("fx"), entry.number("fy")
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ position
    intrinsics = np.array([[fx, 0.0, 0.5 * width], [0.0, fy, 0.5 * height], [0.0, 0.0, 1.0]])
    return Camera(viewmat=viewmat, K=intrinsics, width=width, height=height)
