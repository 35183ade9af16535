"""The camera of an exported picture: what the user says, and what the scene fills in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from configs.settings import RenderSettings
from scene_store.chunks import model_of
from scene_store.models.mixed_chunks import MixedModel
from scene_store.scene import Vector3
from splat.camera import MAX_IMAGE_SIDE, Camera, fov_y_from_fov_x
from splat.errors import CameraError, SettingsError
from splat.fields import KINDS_WITHOUT_CAMERAS, FieldModel
from viewer.ranges import DOWNSCALE, FOV_DEG, SIDE_PX, require_in_range
from viewer.scenes import OpenedScene
from viewer.start_view import StartView
from viewer.streams import OpenedStream

USUAL_SIZE = (1280, 720)


@dataclass(frozen=True, slots=True)
class CameraChoice:
    """What the user says about the camera; the start view fills in the rest.

    Attributes:
        position, look_at: World coordinates.
        fov_deg, fov_x_deg: Vertical or horizontal field of view; at most one of them.
        training_camera: Index of a training camera to use instead.
        width, height: Pixels; where one is None, it follows the other one in the proportions
            of the training camera, else of 1280 × 720.
        downscale_factor: The size is divided by this.
    """

    position: Vector3 | None = None
    look_at: Vector3 | None = None
    fov_deg: float | None = None
    fov_x_deg: float | None = None
    training_camera: int | None = None
    width: int | None = None
    height: int | None = None
    downscale_factor: float = 1.0

    def check(self) -> None:
        """See before any work whether this can be a camera at all.

        Raises:
            SettingsError: If a number is out of its range.
            CameraError: If the choice contradicts itself.
        """
        require_in_range("--width", self.width, SIDE_PX)
        require_in_range("--height", self.height, SIDE_PX)
        require_in_range("--downscale-factor", self.downscale_factor, DOWNSCALE)
        require_in_range("--fov", self.fov_deg, FOV_DEG)
        require_in_range("--fov-x", self.fov_x_deg, FOV_DEG)
        if self.fov_deg is not None and self.fov_x_deg is not None:
            raise CameraError("give --fov (vertical) or --fov-x (horizontal), not both")
        if self.position is not None and self.position == self.look_at:
            raise CameraError("--position and --look-at are the same point")
        if self.training_camera is None:
            width, height = self.size(*USUAL_SIZE)
            if max(width, height) > MAX_IMAGE_SIDE:
                raise CameraError(
                    f"a picture of {width}×{height} pixels is too large; at most "
                    f"{MAX_IMAGE_SIDE:,} a side"
                )
            return
        if self.training_camera < 0:
            raise SettingsError(
                f"--training-camera: expected 0 or more, got {self.training_camera}"
            )
        given = (self.position, self.look_at, self.fov_deg, self.fov_x_deg)
        if any(value is not None for value in given):
            raise CameraError(
                "--training-camera has its own position, direction and field of view; leave out "
                "--position, --look-at, --fov and --fov-x"
            )

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to draw, given those that hold unless chosen."""
        wide = self.width or (width if self.height is None else width * self.height / height)
        high = self.height or (height if self.width is None else height * self.width / width)
        factor = self.downscale_factor
        return max(1, round(wide / factor)), max(1, round(high / factor))


def choose_camera(
    choice: CameraChoice, opened: OpenedScene | OpenedStream, render: RenderSettings
) -> Camera:
    """The camera of an export, whose choice was checked.

    Raises:
        CameraError: If the choice contradicts the scene.
    """
    near = render.near if render.near is not None else render.near_ratio * opened.start.radius
    if choice.training_camera is not None:
        return _training_camera(choice, opened, near)
    width, height = choice.size(*USUAL_SIZE)
    start = replace(opened.start, fov_y_rad=_fov_y_rad(choice, opened.start, width, height))
    start = start.changed(position=choice.position, look_at=choice.look_at)
    return start.camera(width, height, near)


def _training_camera(
    choice: CameraChoice, opened: OpenedScene | OpenedStream, near: float
) -> Camera:
    cameras = opened.meta.training_cameras
    index = choice.training_camera
    assert index is not None
    if opened.meta.cameras_assumed:
        raise CameraError(
            f"{opened.title}: {_what_is_silent(opened)} not tell the training cameras; leave out "
            f"--training-camera for the view that it starts with, or give --position and --look-at"
        )
    if not cameras:
        raise CameraError(f"{opened.title} comes without training cameras")
    if index >= len(cameras):
        raise CameraError(
            f"{opened.title}: there is no training camera {index}; valid: 0 to {len(cameras) - 1}"
        )
    camera = replace(cameras[index], near=near)
    return camera.resized(*choice.size(camera.width, camera.height))


def _what_is_silent(opened: OpenedScene | OpenedStream) -> str:
    """Whose files do not tell training cameras, where those of others in the scene may."""
    model = model_of(opened.source) if isinstance(opened, OpenedStream) else None
    kinds = list(dict.fromkeys(_kinds(model)))
    silent = [kind for kind in kinds if kind in KINDS_WITHOUT_CAMERAS]
    if silent == kinds or not silent:
        return "its files do"
    return f"files of its {' and '.join(silent)} do"


def _kinds(model: object) -> Iterator[str]:
    """What is drawn together, by the names of kinds of fields; "" for all that are none."""
    if isinstance(model, MixedModel):
        for part in model.parts:
            yield from _kinds(part.model)
    else:
        yield from model.kinds if isinstance(model, FieldModel) else ("",)


def _fov_y_rad(choice: CameraChoice, start: StartView, width: int, height: int) -> float:
    if choice.fov_x_deg is not None:
        return fov_y_from_fov_x(math.radians(choice.fov_x_deg), width, height)
    return start.fov_y_rad if choice.fov_deg is None else math.radians(choice.fov_deg)
