"""Pictures without a browser: a scene, a camera, files."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from configs.settings import RenderSettings, Settings, StreamSettings
from rendering.base import Outputs, PagingRasterizer, RasterImage, RasterSettings
from scene_store.scene import Vector3
from splat.camera import MAX_IMAGE_SIDE, Camera, fov_y_from_fov_x
from splat.errors import CameraError, OutputError, SettingsError
from viewer.downloads import at_hand
from viewer.engines import create_rasterizer
from viewer.image_files import (
    MAP_SUFFIXES,
    PICTURE_SUFFIXES,
    check_size,
    check_target,
    write_map,
    write_picture,
)
from viewer.opening import open_in_parts, opens_in_parts, used_instead
from viewer.ranges import DOWNSCALE, FOV_DEG, SIDE_PX, require_in_range
from viewer.scenes import OpenedScene, Progress, SceneChoice, open_scene
from viewer.start_view import StartView
from viewer.streams import OpenedStream, streamed

log = logging.getLogger(__name__)

USUAL_SIZE = (1280, 720)
DEPTH_CHANNEL = "Z"
ALPHA_CHANNEL = "A"
ALL_GAUSSIANS = 1_000_000_000
DEFAULT_STREAM = StreamSettings()

Opened = OpenedScene | OpenedStream


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
        self._check_distinct()
        if self.image is not None:
            check_target(self.image, PICTURE_SUFFIXES)
        if self.depth is not None:
            check_target(self.depth, MAP_SUFFIXES)
        if self.alpha is not None:
            check_target(self.alpha, PICTURE_SUFFIXES + MAP_SUFFIXES)

    def check_size(self, width: int, height: int) -> None:
        """See whether the formats can hold a picture of this size.

        Raises:
            OutputError: If one cannot.
        """
        for path in self.paths:
            check_size(path, width, height)

    def _check_distinct(self) -> None:
        options: dict[str, str] = {}  # by the file they write, links followed
        for option in ("image", "depth", "alpha"):
            path = getattr(self, option)
            if path is None:
                continue
            first = options.setdefault(os.path.realpath(path), option)
            if first != option:
                raise OutputError(f"{path}: --{first} and --{option} cannot be the same file")

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
    stream: StreamSettings = DEFAULT_STREAM,
    on_problem: Callable[[str], None] = lambda line: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> RasterImage:
    """Open a scene, draw one view of it, write the files; the render is returned.

    What fits easily is read whole, and drawn bit by bit as it is in the file. A large scene is
    opened as ``view`` opens it: by its own chunks, or those of the store that ``view`` made of it.
    The picture of chunks is complete: it is drawn when all that is in view has been read. What is
    damaged is drawn more coarsely, and the picture is written.

    Args:
        choice: The scene.
        camera_choice: Where from.
        targets: The files.
        render: How.
        mode: What the picture shows.
        progress: Hears how much of a scene is read, and when it is drawn.
        stream: How much memory a store may take.
        on_problem: Hears, a line each, what the picture lacks.
        on_note: Hears, a line each, what else is to be known of it.

    Raises:
        SceneError: If the scene cannot be read.
        BudgetError: If memory does not suffice.
        CameraError, SettingsError: If the camera makes no sense.
        OutputError: If a file cannot be written. What can be known before the scene is read
            is refused before.
    """
    from viewer.images import Mode, alpha_to_uint8, picture

    camera_choice.check()
    targets.check()
    if camera_choice.training_camera is None:
        targets.check_size(*camera_choice.size(*USUAL_SIZE))
    shown = Mode(mode)
    with contextlib.ExitStack() as kept:
        opened = _open(choice, Settings(render=render, stream=stream), kept, progress)
        if isinstance(opened, OpenedStream) and opened.cached is not None:
            on_note(used_instead(choice, opened.cached))
        camera = choose_camera(camera_choice, opened, render)
        targets.check_size(camera.width, camera.height)
        outputs = targets.outputs | (shown.outputs if targets.image else Outputs(0))
        progress(1.0, f"Drawing {camera.width}×{camera.height} pixels")
        image = _draw(opened, camera, render, outputs, stream, on_problem)
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


def _open(
    choice: SceneChoice, settings: Settings, kept: contextlib.ExitStack, progress: Progress
) -> Opened:
    """By its chunks if it is large and has them, else whole."""
    choice = at_hand(choice, kept, progress)
    if opens_in_parts(choice, settings):
        opened = open_in_parts(choice, settings, kept)
        if opened is not None:
            return opened
    return open_scene(choice, progress)


def _draw(
    opened: Opened,
    camera: Camera,
    render: RenderSettings,
    outputs: Outputs,
    stream: StreamSettings,
    on_problem: Callable[[str], None],
) -> RasterImage:
    settings = RasterSettings(
        background=render.background,
        antialiased=render.antialiased,
        sh_degree=render.sh_degree,
        outputs=outputs,
        threads=render.threads,
    )
    rasterizer = create_rasterizer(render.engine, streamed=isinstance(opened, OpenedStream))
    if isinstance(opened, OpenedStream):
        return _draw_stream(opened, rasterizer, camera, settings, stream, on_problem)
    return rasterizer.render(rasterizer.prepare(opened.scene.gaussians), camera, settings)


def _draw_stream(
    opened: OpenedStream,
    rasterizer: PagingRasterizer,
    camera: Camera,
    settings: RasterSettings,
    stream: StreamSettings,
    on_problem: Callable[[str], None],
) -> RasterImage:
    """The complete picture; the source is closed."""
    from viewer.complete_picture import draw_complete

    whole = replace(stream, max_gaussians=ALL_GAUSSIANS, fade_ms=0.0)
    with contextlib.closing(streamed(opened, rasterizer, whole)) as scene:
        drawn = draw_complete(scene, rasterizer, camera, settings)
    for problem in drawn.problems:
        on_problem(problem)
    if drawn.stream.complete and drawn.stream.error_px > 0 and not drawn.problems:
        log.warning(
            "drawn with an error of up to %.2g pixels, as memory allows; raise --device-budget",
            drawn.stream.error_px,
        )
    return drawn.image


def choose_camera(choice: CameraChoice, opened: Opened, render: RenderSettings) -> Camera:
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


def _training_camera(choice: CameraChoice, opened: Opened, near: float) -> Camera:
    cameras = opened.meta.cameras
    index = choice.training_camera
    assert index is not None
    if not cameras:
        raise CameraError(f"{opened.title} comes without training cameras")
    if index >= len(cameras):
        raise CameraError(
            f"{opened.title}: there is no training camera {index}; valid: 0 to {len(cameras) - 1}"
        )
    camera = replace(cameras[index], near=near)
    return camera.resized(*choice.size(camera.width, camera.height))


def _fov_y_rad(choice: CameraChoice, start: StartView, width: int, height: int) -> float:
    if choice.fov_x_deg is not None:
        return fov_y_from_fov_x(math.radians(choice.fov_x_deg), width, height)
    return start.fov_y_rad if choice.fov_deg is None else math.radians(choice.fov_deg)
