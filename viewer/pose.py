"""Where a browser looks from, and how its coordinates relate to the scene's.

The page moves its camera at fixed speeds, computes in float32 and knows nothing of the
scene's units, so it is given a scene of a standard size around the origin:
``page = scale · (world − origin)``. The scale is the speed of movement, too: in a smaller
world the same step goes further.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splat.camera import Camera, intrinsics_from_fov_y
from splat.errors import CameraError

Float64Array = NDArray[np.float64]

# The page walks 2 units a second: half of the scene's radius.
PAGE_RADIUS = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class PageSpace:
    """The similarity between world coordinates and those of the page.

    Attributes:
        origin: [3] float64, world coordinates of the page's origin.
        scale: Page units in a world unit, > 0.
    """

    origin: Float64Array
    scale: float

    @classmethod
    def for_scene(cls, center: ArrayLike, radius: float, speed: float = 1.0) -> PageSpace:
        """The space in which one walks through ``radius`` in two seconds ÷ ``speed``."""
        return cls(np.asarray(center, np.float64), PAGE_RADIUS / (radius * speed))

    def to_page(self, points: ArrayLike) -> Float64Array:
        """World → page, [..., 3] float64."""
        return self.scale * (np.asarray(points, np.float64) - self.origin)

    def to_world(self, points: ArrayLike) -> Float64Array:
        """Page → world, [..., 3] float64."""
        return np.asarray(points, np.float64) / self.scale + self.origin


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """What a browser says about its camera, in world coordinates.

    Attributes:
        wxyz: [4] camera → world rotation of an OpenCV camera, unit quaternion.
        position: [3] world coordinates.
        fov_y_rad: Vertical field of view.
        canvas: (width, height) of the page's canvas in device pixels.
        focus: Distance to what the camera turns about, world units, > 0.
    """

    wxyz: Float64Array
    position: Float64Array
    fov_y_rad: float
    canvas: tuple[int, int]
    focus: float = 1.0

    def camera(self, width: int, height: int, near: float) -> Camera:
        """The camera of a picture of this size that fills the canvas.

        The canvas may be of any size, larger than a picture can be: it only says how wide
        the view is for its height, and the picture is stretched to fill it.

        Raises:
            CameraError: If the browser sent nonsense.
        """
        rotation = rotation_from_quaternion(self.wxyz)
        viewmat = np.eye(4)
        viewmat[:3, :3] = rotation.T
        viewmat[:3, 3] = -rotation.T @ self.position
        stretch = np.diag([width / self.canvas[0], height / self.canvas[1], 1.0])
        intrinsics = stretch @ intrinsics_from_fov_y(self.fov_y_rad, *self.canvas)
        return Camera(viewmat, intrinsics, width, height, near)


def rotation_from_quaternion(wxyz: ArrayLike) -> Float64Array:
    """[3, 3] float64 rotation matrix of a quaternion of any length but zero.

    Raises:
        CameraError: If it is zero or not finite.
    """
    quaternion = np.asarray(wxyz, np.float64)
    length = np.linalg.norm(quaternion)
    if quaternion.shape != (4,) or not np.isfinite(length) or length < 1e-12:
        raise CameraError(f"{quaternion} is not a rotation quaternion")
    w, x, y, z = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
