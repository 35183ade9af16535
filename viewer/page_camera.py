"""The camera of one page: put somewhere from here, moved there by a person.

What a page says of its camera crosses what it is told. A pose from before it was put somewhere is
stale, and would be a picture from where nobody looks any more; it is told from a new one by being
neither where the camera was put, nor late enough: the page says when it has heard all. One on its
way through several places may speak of the last when it means an earlier one. Nor does
anything start from a stale one: where the camera is, in the scene's coordinates, is remembered
from the last pose that was believed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import viser
import viser.transforms as tf
from numpy.typing import NDArray

from splat.camera import look_at_viewmat
from splat.errors import CameraError
from viewer.display import read_pose
from viewer.pose import PageSpace, Pose, rotation_from_quaternion

Float64Array = NDArray[np.float64]

# A pose is where the camera was put if it is as near, page units and radians.
NEAR_DISTANCE = 0.05
NEAR_ANGLE_RAD = 0.02
# After the page has heard where its camera was put: it speaks of that in a later turn.
GRACE_S = 0.5
# viser does not send what its handle holds already, but what it holds may be of a stale pose. So
# it is first given another value, by this much of itself, which the second one replaces unsent.
ANOTHER = 0.1

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
        self._put: Put | None = None  # until the page is there
        self._passed: list[Put] = []  # what it may speak of before
        self._last_put: Put | None = None
        self._moved = False
        self._up: Float64Array | None = None
        self._fov_y_rad: float | None = None
        self._place: tuple[Float64Array, Float64Array] | None = None
        self._puts = 0
        self._heard_s = math.inf

    @property
    def space(self) -> PageSpace:
        """Between the scene's coordinates and the page's."""
        with self._lock:
            return self._space

    @property
    def canvas(self) -> tuple[int, int]:
        """(width, height) of the page's canvas in device pixels."""
        camera = self._client.camera
        return int(camera.image_width), int(camera.image_height)

    @property
    def place(self) -> tuple[Float64Array, Float64Array]:
        """Where the camera is, and what it looks at: 2 times [3], world coordinates."""
        with self._lock:
            return self._place or self._place_in(self._client.camera)

    @property
    def moved(self) -> bool:
        """Whether the page is elsewhere than where it was put last."""
        with self._lock:
            return self._moved

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

        Raises:
            CameraError: If there is none; nothing happens then.
        """
        camera = self._client.camera
        with self._lock:
            upward = up if up is not None else self._up
            viewmat = look_at_viewmat(
                position, look_at, upward if upward is not None else camera.up_direction
            )
            self._space = space or self._space
            space, before = self._space, None if self._put is not None else _place_of(camera)
            self._up = upward
            self._fov_y_rad = fov_y_rad or self._fov_y_rad or float(camera.fov)
            with self._client.atomic():
                if fov_y_rad is not None:
                    _tell_fov(camera, fov_y_rad)
                if up is not None:
                    _tell_up(camera, up)
                _tell_place(camera, space.to_page(position), space.to_page(look_at))
            self._place = np.array(position), np.array(look_at)
            # Not what the handle says now: a word of the page may have come in between.
            put = Put(space.to_page(position), viewmat[2, :3], self._fov_y_rad)
            self._last_put = put
            self._moved = False
            if self._put is not None:
                self._passed.append(self._put)
            else:
                self._passed = [] if before is None else [before]
            # A page that is there already has nothing to say.
            self._put = None if before is not None and put.is_near(before) else put
            self._heard_s = math.inf
            self._puts += 1
            number = self._puts
        self._confirm(lambda: self._heard(number))
        return Pose(
            wxyz=np.array(tf.SO3.from_matrix(viewmat[:3, :3].T).wxyz, np.float64),
            position=np.array(position, np.float64),
            fov_y_rad=put.fov_y_rad,
            canvas=self.canvas,
            focus=float(np.linalg.norm(look_at - position)),
        )

    def set_fov(self, fov_y_rad: float) -> None:
        """Change the vertical field of view, and nothing else."""
        with self._lock:
            with self._client.atomic():
                _tell_fov(self._client.camera, fov_y_rad)
            self._fov_y_rad = fov_y_rad
            if self._last_put is not None:
                self._last_put = replace(self._last_put, fov_y_rad=fov_y_rad)
            if self._put is not None:
                self._put = self._last_put

    def set_up(self, up: Float64Array) -> None:
        """Change the upward direction, [3], and nothing else."""
        with self._lock, self._client.atomic():
            _tell_up(self._client.camera, up)
            self._up = up

    def said(self) -> Pose | None:
        """What the page said last; None if that is from before the camera was put somewhere."""
        camera = self._client.camera
        with self._lock:
            place = _place_of(camera)
            if self._put is not None and not self._is_current(place, self._put):
                return None
            self._put = None
            if place is not None:
                self._place = self._place_in(camera)
            if self._last_put is not None:
                self._moved |= not _is_near(place, self._last_put)
            return read_pose(camera, self._space)

    def overdue(self) -> bool:
        """Whether the page said nothing of where it was put, though it has heard it."""
        with self._lock:
            return self._put is not None and self._overdue()

    def _is_current(self, place: Put | None, put: Put) -> bool:
        """Whether a page that is told to be at ``put`` is, or will not be."""
        if self._overdue():
            return True
        heard = self._heard_s < math.inf
        return _is_near(place, put) and (heard or not any(map(put.is_near, self._passed)))

    def _place_in(self, camera: viser.CameraHandle) -> tuple[Float64Array, Float64Array]:
        return self._space.to_world(camera.position), self._space.to_world(camera.look_at)

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


def _is_near(place: Put | None, put: Put) -> bool:
    return place is not None and place.is_near(put)


def _tell_fov(camera: viser.CameraHandle, fov_y_rad: float) -> None:
    camera.fov = (1 - ANOTHER) * fov_y_rad
    camera.fov = fov_y_rad


def _tell_up(camera: viser.CameraHandle, up: Float64Array) -> None:
    up = np.asarray(up, np.float64)
    camera.up_direction = up + ANOTHER * np.roll(up, 1)
    camera.up_direction = up


def _tell_place(camera: viser.CameraHandle, position: Float64Array, look_at: Float64Array) -> None:
    camera.position = position + ANOTHER * (1.0 + np.abs(position))
    camera.position = position  # takes what is looked at along
    camera.look_at = look_at + ANOTHER * (look_at - position)
    camera.look_at = look_at
