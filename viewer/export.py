"""Pictures without a browser: a scene, a camera, files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from configs.settings import RenderSettings
from rendering.base import Outputs, RasterImage, RasterSettings
from scene_store.scene import Vector3
from splat.camera import Camera, fov_y_from_fov_x
from splat.errors import CameraError, OutputError
from viewer.engines import create_rasterizer
from viewer.image_files import (
    MAP_SUFFIXES,
    PICTURE_SUFFIXES,
    check_target,
    write_map,
    write_picture,
)
from viewer.scenes import OpenedScene, Progress, SceneChoice, open_scene
from viewer.start_view import StartView

DEPTH_CHANNEL = "Z"
ALPHA_CHANNEL = "A"


@dataclass(frozen=True, slots=True)
class CameraChoice:
    """What the user says about the camera; the start view fills in the rest.

    Attributes:
        position, look_at: World coordinates.
        fov_deg, fov_x_deg: Vertical or horizontal field of view; at most one of them.
        training_camera: Index of a training camera to use instead.
        width, height: Pixels; None for the training camera's own, else 1280 × 720.
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

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to draw, given those that hold unless chosen."""
        factor = self.downscale_factor
        return (
            max(1, round((self.width or width) / factor)),
            max(1, round((self.height or height) / factor)),
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """The files to write.

    Attributes:
        image: Picture in colour (or as ``mode`` says).
        depth: Expected view depth, 0 where nothing is: .exr (channel Z) or .npy.
        alpha: Opacity: .exr (channel A), .npy, or a grey picture.
        quality: Of JPEG and WebP, 1 to 100.
    """

    image: Path | None = None
    depth: Path | None = None
    alpha: Path | None = None
    quality: int = 95

    def check(self) -> None:
        """See before any work whether all can be written.

        Raises:
            OutputError: If not, or if there is nothing to write.
        """
        if self.image is None and self.depth is None and self.alpha is None:
            raise OutputError("nothing to write; pass --image, --depth or --alpha")
        if self.image is not None:
            check_target(self.image, PICTURE_SUFFIXES)
        if self.depth is not None:
            check_target(self.depth, MAP_SUFFIXES)
        if self.alpha is not None:
            check_target(self.alpha, PICTURE_SUFFIXES + MAP_SUFFIXES)

    @property
    def outputs(self) -> Outputs:
        """What a render must produce for them."""
        outputs = Outputs(0)
        if self.image is not None:
            outputs |= Outputs.COLOR
        if self.depth is not None:
            outputs |= Outputs.DEPTH
        return outputs

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that will be written."""
        return tuple(path for path in (self.image, self.depth, self.alpha) if path is not None)


def export(
    choice: SceneChoice,
    camera_choice: CameraChoice,
    targets: Targets,
    render: RenderSettings,
    mode: str = "color",
    progress: Progress = lambda share, what: None,
) -> RasterImage:
    """Open a scene, draw one view of it, write the files; the render is returned.

    Raises:
        SceneError: If the scene cannot be read.
        CameraError: If the camera makes no sense.
        OutputError: If a file cannot be written; known before the scene is read.
    """
    from viewer.images import Mode, alpha_to_uint8, picture

    targets.check()
    shown = Mode(mode)
    opened = open_scene(choice, progress)
    camera = choose_camera(camera_choice, opened, render)
    settings = RasterSettings(
        background=render.background,
        antialiased=render.antialiased,
        sh_degree=render.sh_degree,
        outputs=targets.outputs | (shown.outputs if targets.image else Outputs(0)),
        threads=render.threads,
    )
    rasterizer = create_rasterizer(render.engine)
    image = rasterizer.render(rasterizer.prepare(opened.scene.gaussians), camera, settings)
    if targets.image is not None:
        rgb = picture(image, shown, render.background).rgb
        write_picture(targets.image, rgb, targets.quality)
    if targets.depth is not None:
        assert image.depth is not None
        write_map(targets.depth, image.depth, DEPTH_CHANNEL)
    if targets.alpha is not None:
        if targets.alpha.suffix.lower() in MAP_SUFFIXES:
            write_map(targets.alpha, image.alpha, ALPHA_CHANNEL)
        else:
            write_picture(targets.alpha, alpha_to_uint8(image.alpha)[..., 0], targets.quality)
    return image


def choose_camera(choice: CameraChoice, opened: OpenedScene, render: RenderSettings) -> Camera:
    """The camera of an export.

    Raises:
        CameraError: If the choice contradicts itself or the scene.
    """
    near = render.near if render.near is not None else render.near_ratio * opened.start.radius
    if choice.training_camera is not None:
        return _training_camera(choice, opened, near)
    width, height = choice.size(1280, 720)
    start = replace(opened.start, fov_y_rad=_fov_y_rad(choice, opened.start, width, height))
    start = start.changed(position=choice.position, look_at=choice.look_at)
    return start.camera(width, height, near)


def _training_camera(choice: CameraChoice, opened: OpenedScene, near: float) -> Camera:
    cameras = opened.scene.meta.cameras
    index = choice.training_camera
    assert index is not None
    if not cameras:
        raise CameraError(f"{opened.title} comes without training cameras")
    if not 0 <= index < len(cameras):
        raise CameraError(f"there is no training camera {index}; valid: 0 to {len(cameras) - 1}")
    if choice.position or choice.look_at or choice.fov_deg or choice.fov_x_deg:
        raise CameraError("a training camera has its own position, direction and field of view")
    camera = replace(cameras[index], near=near)
    return camera.resized(*choice.size(camera.width, camera.height))


def _fov_y_rad(choice: CameraChoice, start: StartView, width: int, height: int) -> float:
    if choice.fov_deg is not None and choice.fov_x_deg is not None:
        raise CameraError("give the vertical field of view or the horizontal one, not both")
    if choice.fov_x_deg is not None:
        return fov_y_from_fov_x(math.radians(choice.fov_x_deg), width, height)
    return start.fov_y_rad if choice.fov_deg is None else math.radians(choice.fov_deg)
