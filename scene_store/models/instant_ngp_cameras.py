"""Cameras of an Instant-NGP snapshot: of its images, else where its author looked from last."""

from __future__ import annotations

import math

import numpy as np

from scene_store.formats.json_fields import JsonObject
from scene_store.models.instant_ngp_world import NgpWorld
from splat.camera import Camera, Float64Array
from splat.errors import CameraError

START_SIZE = (1280, 720)  # of a view that tells none
_DISTORTED = ("is_fisheye", "ftheta_p0", "latlong", "equirectangular", "orthographic")


def snapshot_cameras(snapshot: JsonObject, world: NgpWorld) -> tuple[Camera, ...]:
    """Pinhole cameras in the data set's world; those of other lenses are left out.

    Raises:
        SceneFormatError: If what should be one is something else.
    """
    dataset = world.dataset
    if "xforms" in dataset and "metadata" in dataset:
        pairs = zip(dataset.items("xforms"), dataset.items("metadata"), strict=False)
        found = (_of_image(dataset, *pair, world) for pair in pairs)
        cameras = tuple(camera for camera in found if camera is not None)
        if cameras:
            return cameras
    if "camera" not in snapshot:
        return ()
    camera = _last_view(snapshot.child("camera"), world)
    return () if camera is None else (camera,)


def _of_image(
    dataset: JsonObject, xform: object, metadata: object, world: NgpWorld
) -> Camera | None:
    pose = JsonObject.of(dataset.path, xform, f"{dataset.place}.xforms", dataset.remedy)
    lens = JsonObject.of(dataset.path, metadata, f"{dataset.place}.metadata", dataset.remedy)
    kind = lens.fields.get("lens")
    if isinstance(kind, dict) and any(kind.get(name) for name in _DISTORTED):
        return None
    width, height = (int(value) for value in lens.numbers("resolution", 2))
    centre = lens.numbers("principal_point", 2)
    focal = lens.numbers("focal_length", 2)
    return _camera(
        _rows(pose, "start"), focal, (centre[0] * width, centre[1] * height), (width, height), world
    )


def _last_view(view: JsonObject, world: NgpWorld) -> Camera | None:
    if "matrix" not in view or "relative_focal_length" not in view:
        return None
    width, height = START_SIZE
    axis = view.integer("fov_axis") if "fov_axis" in view else 1
    zoom = view.number("zoom") if "zoom" in view else 1.0
    pixels = START_SIZE[min(axis, 1)] * zoom
    x, y = view.numbers("relative_focal_length", 2)
    return _camera(
        _rows(view, "matrix"),
        (x * pixels, y * pixels),
        (0.5 * width, 0.5 * height),
        START_SIZE,
        world,
    )


def _rows(table: JsonObject, name: str) -> Float64Array:
    """A matrix [3, 4] from the camera to instant-ngp's world: x right, y down, z forward."""
    return np.array([table.numbers(name, 4, row) for row in range(3)])


def _camera(
    pose: Float64Array,
    focal: tuple[float, ...],
    centre: tuple[float, float],
    size: tuple[int, int],
    world: NgpWorld,
) -> Camera | None:
    """None for what is no camera: snapshots are written from any data set."""
    turned = world.axes.T @ pose[:, :3]
    left, stretch, right = np.linalg.svd(turned)
    if not (stretch > 0.5).all() or not (stretch < 2.0).all():
        return None
    to_camera = (left @ right).T
    viewmat = np.eye(4)
    viewmat[:3, :3] = to_camera
    viewmat[:3, 3] = -to_camera @ world.point(pose[:, 3])
    K = np.array([[focal[0], 0.0, centre[0]], [0.0, focal[1], centre[1]], [0.0, 0.0, 1.0]])
    try:
        return Camera(viewmat, K, size[0], size[1], near=1e-3 / world.scale, far=math.inf)
    except CameraError:
        return None
