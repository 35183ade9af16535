"""Where to stand at the start: a view, an up direction and distances, from the data alone.

What is known beats what is guessed: training cameras, then the format's convention of what is up,
then the shape of the scene (``scene_store.outline``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.outline import Outline, Shape, outline_of
from splat.camera import Camera
from splat.errors import CameraError
from splat.gaussians import Gaussians

Float64Array = NDArray[np.float64]

DEFAULT_FOV_RAD = math.radians(60.0)
AZIMUTH_RAD = math.radians(40.0)  # between the front and the right side
WIDE = 16 / 9


@dataclass(frozen=True, slots=True)
class Framing:
    """How a view from outside holds a box.

    Attributes:
        elevation_rad: From how high it is looked down on.
        fill: Share of half the picture's width, and of half its height, that its farthest
            corner reaches.
    """

    elevation_rad: float
    fill: tuple[float, float]


FRAMINGS = {
    Shape.OBJECT: Framing(math.radians(16), (1.0, 1.0)),
    # The corners of a box seen along its diagonal are mostly empty above and below, while trees
    # reach out at its sides.
    Shape.LANDSCAPE: Framing(math.radians(33), (0.88, 1.6)),
    Shape.SURROUNDINGS: Framing(math.radians(18), (1.0, 1.0)),
}


@dataclass(frozen=True, slots=True, eq=False)
class StartView:
    """A first view and the scene's size.

    Attributes:
        position, look_at: [3] world coordinates.
        up: [3] unit vector, upwards in the picture and the axis of orbiting.
        fov_y_rad: Vertical field of view.
        center: [3] middle of the scene's dense part.
        radius: Radius of that part, world units; speeds and planes scale with it.
        outline: What is framed from outside; None where somebody chose the place.
    """

    position: Float64Array
    look_at: Float64Array
    up: Float64Array
    fov_y_rad: float
    center: Float64Array
    radius: float
    outline: Outline | None = None

    def camera(self, width: int, height: int, near: float) -> Camera:
        """The view as a camera for pictures of this size."""
        return Camera.look_at(
            self.position,
            self.look_at,
            self.up,
            fov_y_rad=self.fov_y_rad,
            width=width,
            height=height,
            near=near,
        )

    def changed(
        self,
        *,
        position: ArrayLike | None = None,
        look_at: ArrayLike | None = None,
    ) -> StartView:
        """The view from another place, or towards another one.

        Raises:
            CameraError: If both are the same place.
        """
        eye = self.position if position is None else np.asarray(position, np.float64)
        target = self.look_at if look_at is None else np.asarray(look_at, np.float64)
        if np.array_equal(eye, target):
            raise CameraError("camera position and look-at point are the same")
        return replace(self, position=eye, look_at=target, outline=None)

    def fitted(self, aspect: float) -> StartView:
        """The view in a picture that is ``aspect`` times as wide as it is high.

        A place that somebody chose, a training camera's among them, is kept.
        """
        if self.outline is None or not 0.0 < aspect < math.inf:
            return self
        return replace(self, position=_position(self.outline, self.fov_y_rad, aspect))


def choose_start_view(
    gaussians: Gaussians,
    *,
    up: ArrayLike,
    cameras: Sequence[Camera] = (),
    fov_y_rad: float = DEFAULT_FOV_RAD,
) -> StartView:
    """A view that shows what the scene is about.

    Args:
        gaussians: The scene; a sample of it is looked at.
        up: The direction that is up, of any length (``scene_store.statistics.likely_up``).
        cameras: Training cameras; the first one is the view.
        fov_y_rad: Vertical field of view.
    """
    return view_of(outline_of(gaussians, up=up, cameras=cameras), fov_y_rad)


def view_of(outline: Outline, fov_y_rad: float = DEFAULT_FOV_RAD) -> StartView:
    """The first view of a scene of which the outline is known, in a picture of 16:9."""
    center, radius = outline.center, outline.radius
    position, look_at = _position(outline, fov_y_rad, WIDE), center
    if outline.camera is not None:
        position, direction = (np.array(vector) for vector in outline.camera)
        look_at = _ahead(position, direction, center, radius)
    return StartView(
        position=position,
        look_at=look_at,
        up=np.array(outline.up),
        fov_y_rad=fov_y_rad,
        center=center,
        radius=radius,
        outline=outline if outline.camera is None else None,
    )


def _position(outline: Outline, fov_y_rad: float, aspect: float) -> Float64Array:
    """[3] from where the box fills the picture as the scene's shape asks for."""
    framing = FRAMINGS[outline.shape]
    level = math.cos(framing.elevation_rad)
    toward_eye = np.array(
        [
            level * math.sin(AZIMUTH_RAD),
            level * math.cos(AZIMUTH_RAD),
            math.sin(framing.elevation_rad),
        ]
    )
    distance = fitting_distance(outline.size, toward_eye, fov_y_rad, framing.fill, aspect)
    position: Float64Array = outline.center + distance * toward_eye @ np.array(outline.axes)
    return position


def fitting_distance(
    size: Float64Array,
    toward_eye: Float64Array,
    fov_y_rad: float,
    fill: tuple[float, float] = (1.0, 1.0),
    aspect: float = WIDE,
) -> float:
    """Distance from a box's centre at which its projection takes ``fill`` of a picture, or less.

    Args:
        size: [3] of the box, which is centred and upright (third axis up).
        toward_eye: [3] unit vector from the centre to the camera, not vertical.
        fov_y_rad: Vertical field of view.
        fill: As in ``Framing``; 1 touches an edge.
        aspect: Width of the picture over its height.
    """
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = 0.5 * signs * size
    right = np.cross(-toward_eye, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    upward = np.cross(right, -toward_eye)
    tangent = math.tan(0.5 * fov_y_rad)
    across, high = fill[0] * tangent * aspect, fill[1] * tangent
    reach = np.maximum(np.abs(corners @ right) / across, np.abs(corners @ upward) / high)
    # A corner that is nearer to the eye by z must be seen from z further away.
    return float((reach + corners @ toward_eye).max())


def point_ahead(camera: Camera, center: Float64Array, radius: float) -> Float64Array:
    """[3] the point to orbit around in a training camera's view, about as far as the scene."""
    return _ahead(camera.position, camera.forward, center, radius)


def _ahead(
    position: Float64Array, direction: Float64Array, center: Float64Array, radius: float
) -> Float64Array:
    ahead = float((center - position) @ direction)
    return position + min(max(ahead, 0.2 * radius), 10.0 * radius) * direction
