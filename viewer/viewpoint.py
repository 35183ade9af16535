"""Where a browser stands: at the start view, until a person goes elsewhere.

The start view holds the scene as the shape of the page's canvas asks for, so it comes nearer or
goes further when the window changes. That ends with anything that a person does to the camera,
with the mouse, the keys or the panel: what somebody chose is never taken back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import viser
from numpy.typing import ArrayLike, NDArray

from splat.camera import Camera
from viewer.page_camera import Confirm, PageCamera
from viewer.pose import PageSpace, Pose
from viewer.start_view import StartView, point_ahead

# An orbiting camera has no heading at its poles: what looks along them is put off by this.
OFF_POLE = 1e-3
POLE_COSINE = 0.999


class Viewpoint:
    """Thread-safe.

    Args:
        client: The browser.
        start: The first view, and the size of the scene.
        confirm: As in ``PageCamera``.
        on_pose: Takes every pose that is believed, in their order; must return at once.
        clock: Seconds.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        start: StartView,
        confirm: Confirm,
        on_pose: Callable[[Pose], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._start = start
        self._on_pose = on_pose
        space = PageSpace.for_scene(start.center, start.radius)
        self._camera = PageCamera(client, space, confirm, clock)
        # Held from what is said or told to ``on_pose``, so that no older pose comes after a newer.
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._up: NDArray[np.float64] = start.up
        # The canvas that the start view was fitted to; None once a person chose something, or
        # where the view is one that somebody chose.
        self._fitted_to: tuple[int, int] | None = None

    @property
    def space(self) -> PageSpace:
        """Between the scene's coordinates and the page's."""
        return self._camera.space

    @property
    def settled(self) -> bool:
        """Whether the page is where it was put, or has had its time to get there."""
        return self._camera.settled

    def look(self) -> None:
        """The page said where it looks from."""
        with self._lock:
            pose = self._camera.said()
            if pose is None:
                return
            if self._camera.moved:
                self._fitted_to = None
            if self._fitted_to not in (None, pose.canvas) and min(pose.canvas) > 0:
                pose = self._fit(pose.canvas)
            self._on_pose(pose)

    def update(self) -> None:
        """To be called now and then: the last pose may have been taken for a stale one."""
        if self._camera.overdue():
            self.look()

    def reset(self) -> None:
        """Back to the start view."""
        with self._lock:
            canvas = self._camera.canvas
            start = self._start.fitted(canvas[0] / max(1, canvas[1]))
            self._up = start.up
            self._fitted_to = None if start.outline is None else canvas
            self._on_pose(
                self._camera.put(
                    start.position, start.look_at, up=start.up, fov_y_rad=start.fov_y_rad
                )
            )

    def set_fov(self, fov_y_rad: float) -> None:
        """Change the vertical field of view, and nothing else."""
        with self._lock:
            self._fitted_to = None
            self._camera.set_fov(fov_y_rad)

    def set_up(self, up: ArrayLike) -> None:
        """Stand upright along ``up``, [3]; keeps looking at the same point from the same side."""
        with self._lock:
            self._fitted_to = None
            self._up = np.asarray(up, np.float64)
            self._camera.set_up(self._up)

    def set_speed(self, speed: float) -> None:
        """Shrink or grow the page's world around the camera, which stays where it is."""
        space = PageSpace.for_scene(self._start.center, self._start.radius, speed)
        with self._lock:
            position, look_at = self._camera.place
            self._on_pose(self._camera.put(position, look_at, space=space))

    def look_along(self, direction: ArrayLike) -> None:
        """Look at the same point along ``direction``, [3], from as far away."""
        along = np.asarray(direction, np.float64)
        with self._lock:
            self._fitted_to = None
            if abs(along @ self._up) > POLE_COSINE * np.linalg.norm(self._up):
                along = along + OFF_POLE * np.eye(3)[np.argmin(np.abs(along))]
            position, look_at = self._camera.place
            distance = float(np.linalg.norm(look_at - position))
            eye = look_at - distance * along / np.linalg.norm(along)
            self._on_pose(self._camera.put(eye, look_at, up=self._up))

    def go_to(self, camera: Camera) -> None:
        """Take the pose and the field of view of a training camera."""
        target = point_ahead(camera, self._start.center, self._start.radius)
        with self._lock:
            self._fitted_to = None
            self._on_pose(
                self._camera.put(camera.position, target, up=self._up, fov_y_rad=camera.fov_y_rad)
            )

    def _fit(self, canvas: tuple[int, int]) -> Pose:
        """The start view in a picture of another shape: only its distance is another."""
        self._fitted_to = canvas
        start = self._start.fitted(canvas[0] / canvas[1])
        return self._camera.put(start.position, start.look_at)
