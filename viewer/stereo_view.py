"""Both eyes' pictures of a scene in the page: for 3D screens, free viewing and coloured glasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rendering.base import RasterImage
from splat.camera import Camera
from splat.stereo import StereoRig
from viewer.images import Mode, Picture, picture
from viewer.pose import Pose
from viewer.stereo_layouts import StereoLayout, join

# Photographers' rule: eyes a thirtieth of the distance to the subject apart are comfortable,
# whatever the scene's units.
COMFORTABLE_SHARE = 1 / 30


@dataclass(frozen=True, slots=True)
class StereoView:
    """How a page shows two eyes.

    Attributes:
        layout: How their pictures share the canvas.
        depth: Times the comfortable distance of the eyes; more is deeper.
    """

    layout: StereoLayout
    depth: float = 1.0

    def eyes(self, pose: Pose, width: int, height: int, near: float) -> tuple[Camera, ...]:
        """The left and the right eye of a picture of this size on the canvas.

        What the camera turns about lies in the plane of the screen.

        Raises:
            CameraError: If the browser sent nonsense.
        """
        columns, rows = self._parts
        wide, high = pose.canvas
        part = replace(pose, canvas=(max(1, wide // columns), max(1, high // rows)))
        middle = part.camera(max(1, width // columns), max(1, height // rows), near)
        rig = StereoRig(self.depth * COMFORTABLE_SHARE * pose.focus, pose.focus)
        return rig.eyes(middle)

    def picture(
        self, images: Sequence[RasterImage], mode: Mode, background: tuple[float, float, float]
    ) -> Picture:
        """What the page shows for both eyes' images."""
        left, right = (picture(image, mode, background) for image in images)
        (joined,) = join(left.rgb, right.rgb, self.layout)
        return Picture(joined, left.legend)

    @property
    def _parts(self) -> tuple[int, int]:
        """Into how many parts the canvas is divided, across and down."""
        return {
            StereoLayout.SIDE_BY_SIDE: (2, 1),
            StereoLayout.TOP_BOTTOM: (1, 2),
        }.get(self.layout, (1, 1))
