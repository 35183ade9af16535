"""The camera of one page: put somewhere from here, moved there by a person.

What a page says of its camera crosses what it is told. A pose from before it was put somewhere is
stale, and would be a picture from where nobody looks any more; it is told from a new one by being
neither where the camera was put, nor late enough: the page says when it has heard all.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import viser
from numpy.typing import NDArray

from splat.errors import CameraError
from viewer.display import move_camera, read_pose
from viewer.pose import PageSpace, Pose, rotation_from_quaternion

Float64Array = NDArray[np.float64]

# A pose is where the camera was put if it is as near, page units and radians.
NEAR_DISTANCE = 0.05
NEAR_ANGLE_RAD = 0.02
# After the page has heard where its camera was put: it speaks of that in a later turn.
GRACE_S = 0.5

Confirm = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Put:
    """Where a camera was put, in the page's coordinates.

    Attributes:
        position: [3].
        forward: [3] unit vector.
        fov_y_rad: Vertical field of view.
    """

    position: Float64Array
    forward: Float64Array
    fov_y_rad: float

    @classmethod
    def of(cls, camera: viser.CameraHandle) -> Put:
        """Where a camera is according to its handle."""
        forward = rotation_from_quaternion(camera.wxyz)[:, 2]
        return cls(np.array(camera.position, np.float64), forward, float(camera.fov))

    def is_near(self, other: Put) -> bool:
        """Whether both are the same, but for rounding."""
        cosine = float(np.clip(self.forward @ other.forward, -1.0, 1.0))
        return (
            float(np.linalg.norm(self.position - other.position)) < NEAR_DISTANCE
            and math.acos(cosine) < NEAR_ANGLE_RAD
            and abs(self.fov_y_rad - other.fov_y_rad) < NEAR_ANGLE_RAD
        )


class PageCamera:
    """Thread-safe.

    Args:
        client: The browser.
        space: Between the scene's coordinates and the page's.
        confirm: Calls its argument when the page has heard all that it was told, or never will.
        clock: Seconds.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        space: PageSpace,
        confirm: Confirm,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._confirm = confirm
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._space = space
        self._put: Put | None = None
        self._puts = 0
        self._heard_s = math.inf

    @property
    def space(self) -> PageSpace:
        """Between the scene's coordinates and the page's."""
        with self._lock:
            return self._space

    @property
    def settled(self) -> bool:
        """Whether the page is where it was put, or has had its time to get there."""
        with self._lock:
            return self._put is None or self._overdue()

    def put(
        self,
        position: Float64Array,
        look_at: Float64Array,
        *,
        up: Float64Array | None = None,
        fov_y_rad: float | None = None,
        space: PageSpace | None = None,
    ) -> Pose:
        """Put the camera somewhere; all vectors are world coordinates.

        Args:
            position, look_at: [3].
            up: [3] the upward direction from now on.
            fov_y_rad: Vertical field of view from now on.
            space: The page's coordinates from now on.

        Returns:
            The pose there.
        """
        camera = self._client.camera
        with self._lock:
            self._space = space or self._space
            space, before = self._space, None if self._put is not None else _place_of(camera)
            if fov_y_rad is not None:
                camera.fov = fov_y_rad
            move_camera(self._client, space, position=position, look_at=look_at, up=up)
            put = Put.of(camera)
            # A page that is there already has nothing to say.
            self._put = None if before is not None and put.is_near(before) else put
            self._heard_s = math.inf
            self._puts += 1
            number, pose = self._puts, read_pose(camera, space)
        self._confirm(lambda: self._heard(number))
        return pose

    def set_fov(self, fov_y_rad: float) -> None:
        """Change the vertical field of view, and nothing else."""
        with self._lock:
            self._client.camera.fov = fov_y_rad
            if self._put is not None:
                self._put = Put(self._put.position, self._put.forward, fov_y_rad)

    def said(self) -> Pose | None:
        """What the page said last; None if that is from before the camera was put somewhere."""
        camera = self._client.camera
        with self._lock:
            if self._put is not None and not self._overdue():
                place = _place_of(camera)
                if place is None or not self._put.is_near(place):
                    return None
            self._put = None
            return read_pose(camera, self._space)

    def overdue(self) -> bool:
        """Whether the page said nothing of where it was put, though it has heard it."""
        with self._lock:
            return self._put is not None and self._overdue()

    def _overdue(self) -> bool:
        return self._clock() > self._heard_s + GRACE_S

    def _heard(self, number: int) -> None:
        with self._lock:
            if number == self._puts:
                self._heard_s = self._clock()


def _place_of(camera: viser.CameraHandle) -> Put | None:
    """Where a page says its camera is; None if that is nonsense."""
    try:
        return Put.of(camera)
    except CameraError:
        return None
