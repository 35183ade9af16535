"""Who sees an exported picture: one eye, two eyes, or two eyes that look all around."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from configs.settings import Range
from rendering.base import Outputs, RasterImage
from splat.camera import Camera, Float64Array, look_at_viewmat
from splat.errors import CameraError
from splat.stereo import HUMAN_IPD, StereoRig
from viewer.camera_choice import USUAL_SIZE, CameraChoice
from viewer.drawing import Draw, Images
from viewer.panoramas import MAX_HEIGHT, Panorama, PanoramaSize, panorama_pair
from viewer.ranges import DOWNSCALE, EYES, require_in_range
from viewer.scenes import Progress
from viewer.stereo_layouts import StereoLayout

log = logging.getLogger(__name__)

PANORAMA_HEIGHT = 2048
PANORAMA_PX = Range(1, MAX_HEIGHT)
# What players expect of a file of which nobody tells them more.
PANORAMA_LAYOUTS = {
    Panorama.VR180: StereoLayout.SIDE_BY_SIDE,
    Panorama.ODS: StereoLayout.TOP_BOTTOM,
}
# The distance of what is in the middle is measured in a picture of this size, pixels.
MEASURED_PX = 256
MIDDLE = 0.5  # of the picture's width and height


@dataclass(frozen=True, slots=True)
class EyesChoice:
    """What the user says about two eyes.

    Attributes:
        ipd: Their distance, world units; None for ``HUMAN_IPD``.
        convergence: Distance of what both see at the same place of the picture, world units;
            infinite for eyes that look parallel. None for those, but for an anaglyph for the
            distance of what is in the middle of the picture.
        panorama: What they look around at; None for a flat picture.
    """

    ipd: float | None = None
    convergence: float | None = None
    panorama: Panorama | None = None

    def check(self, layout: StereoLayout | None, camera: CameraChoice) -> None:
        """See before any work whether it makes sense, and the camera with it.

        Args:
            layout: How two pictures become files; None for a picture of one eye.
            camera: Where the head is.

        Raises:
            SettingsError: If a number is out of its range.
            CameraError: If the choices contradict each other.
        """
        if layout is None:
            self._check_one_eye()
        require_in_range("--ipd", self.ipd, EYES)
        if self.convergence != math.inf:
            require_in_range("--convergence", self.convergence, EYES)
        if self.panorama is None:
            camera.check()
            return
        if self.convergence is not None:
            raise CameraError(
                "--convergence: the eyes of a panorama look parallel, as headsets expect; leave "
                "it out"
            )
        for option, value in (
            ("--width", camera.width),
            ("--fov", camera.fov_deg),
            ("--fov-x", camera.fov_x_deg),
        ):
            if value is not None:
                raise CameraError(
                    f"{option}: a panorama has its own field of view, and its width follows "
                    "--height; leave it out"
                )
        require_in_range("--height", camera.height, PANORAMA_PX)
        require_in_range("--downscale-factor", camera.downscale_factor, DOWNSCALE)
        self.head(camera).check()
        size = self.size_of(camera)
        require_in_range("--height", None if size is None else size[1], PANORAMA_PX)

    @property
    def is_in_slices(self) -> bool:
        """Whether what is seen is made of many pictures."""
        return self.panorama is Panorama.ODS

    @property
    def distance(self) -> float:
        """Of the eyes, world units."""
        return HUMAN_IPD if self.ipd is None else self.ipd

    def head(self, camera: CameraChoice) -> CameraChoice:
        """The camera between the eyes, of which a panorama takes place and direction alone."""
        return camera if self.panorama is None else replace(camera, height=None, downscale_factor=1)

    def size_of(self, camera: CameraChoice) -> tuple[int, int] | None:
        """(width, height) of one eye's picture; None if a training camera decides."""
        if self.panorama is not None:
            height = PANORAMA_HEIGHT if camera.height is None else camera.height
            size = PanoramaSize.of(self.panorama, max(1, round(height / camera.downscale_factor)))
            return size.width, size.height
        return camera.size(*USUAL_SIZE) if camera.training_camera is None else None

    def _check_one_eye(self) -> None:
        for option, value in (
            ("--ipd", self.ipd),
            ("--convergence", self.convergence),
            ("--panorama", self.panorama),
        ):
            if value is not None:
                raise CameraError(f"{option}: is for two eyes; add --stereo side-by-side")


def draw_seen(
    draw: Draw,
    camera: Camera,
    eyes: EyesChoice,
    layout: StereoLayout | None,
    height: int,
    outputs: Outputs,
    progress: Progress = lambda share, what: None,
) -> RasterImage:
    """What is seen: of two eyes, the left one's images above the right one's.

    Args:
        draw: Draws the scene.
        camera: The eye, or the head between two of them; for a panorama, level.
        eyes: As checked.
        layout: What the pictures are for; None for one eye.
        height: Of one eye's images, pixels.
        outputs: Images that are wanted.
        progress: Hears how much of a panorama is drawn.
    """
    if layout is None:
        (image,) = draw((camera,), outputs)
        return image
    if eyes.panorama is None:
        rig = StereoRig(eyes.distance, _convergence(draw, camera, eyes, layout))
        left, right = draw(rig.eyes(camera), outputs)
        return RasterImage.stack((left, right), left.stats)

    def draw_each(pairs: Sequence[tuple[Camera, Camera]]) -> Iterator[Images]:
        return draw.each(pairs, outputs)

    def on_slice(done: int, of: int) -> None:
        if of > 1:
            progress(done / of, f"Drawing slice {done + 1:,} of {of:,}")

    rig = StereoRig(eyes.distance)
    return panorama_pair(eyes.panorama, height, camera, rig, draw_each, on_slice)


def levelled(camera: Camera, up: Float64Array) -> Camera:
    """The camera with a level horizon, which is what panoramas are played with.

    Who looked straight up or down looks to where raising or lowering the head leads.
    """
    upward = up / np.linalg.norm(up)
    steepness = float(camera.forward @ upward)
    ahead = camera.forward - steepness * upward
    if np.linalg.norm(ahead) < 1e-6:
        ahead = math.copysign(1.0, steepness) * camera.viewmat[1, :3]
    viewmat = look_at_viewmat(camera.position, camera.position + ahead, upward)
    return replace(camera, viewmat=viewmat)


def distance_ahead(draw: Draw, camera: Camera) -> float:
    """Median depth of what is in the middle of a picture, world units; infinite if nothing is."""
    scale = min(1.0, MEASURED_PX / max(camera.width, camera.height))
    width, height = (max(1, round(scale * side)) for side in (camera.width, camera.height))
    (image,) = draw((camera.resized(width, height),), Outputs.MEDIAN_DEPTH)
    assert image.median_depth is not None
    x, y = (int(0.5 * (1 - MIDDLE) * side) for side in (width, height))
    middle = image.median_depth[y : height - y, x : width - x]
    seen = middle[middle > 0]
    return float(np.median(seen)) if seen.size else math.inf


def _convergence(draw: Draw, camera: Camera, eyes: EyesChoice, layout: StereoLayout) -> float:
    if eyes.convergence is not None:
        return eyes.convergence
    if layout is not StereoLayout.ANAGLYPH:
        return math.inf
    distance = distance_ahead(draw, camera)
    log.info("the eyes converge at a distance of %.4g", distance)
    return distance
