"""One connected browser: its session, its panel, its camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import viser
from numpy.typing import ArrayLike, NDArray

from rendering.engine import RenderEngine
from splat.camera import Camera
from viewer.display import ViserScreen, move_camera, read_pose
from viewer.pacing import PacingPolicy
from viewer.panel import Panel
from viewer.pose import PageSpace, Pose
from viewer.session import Session, ViewOptions
from viewer.start_view import StartView, point_ahead

# Poses sent before a change of the page's space arrive after it; they are dropped while
# they are this far (page units) from where the camera was put, for this long.
STALE_POSE_DISTANCE = 0.05
STALE_POSE_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class ShownScene:
    """What a viewer shows, as far as a browser needs to know.

    Attributes:
        title, facts: For people.
        start: The first view.
        sh_degree: Highest degree of the Gaussians.
        cameras: Training cameras.
    """

    title: str
    facts: str
    start: StartView
    sh_degree: int
    cameras: tuple[Camera, ...] = ()


class BrowserView:
    """Everything that belongs to one browser; the actions of its panel.

    Args:
        client: viser's handle.
        engine: Shared by all browsers.
        scene: What is shown.
        policy, options, threads, sharers: As in ``Session``.
        ack_timeout_s: As in ``ViserScreen``.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        engine: RenderEngine,
        scene: ShownScene,
        policy: PacingPolicy,
        options: ViewOptions,
        *,
        threads: int,
        sharers: Callable[[], int],
        ack_timeout_s: float,
    ) -> None:
        self._client = client
        self._scene = scene
        self._lock = threading.Lock()
        self._space = PageSpace.for_scene(scene.start.center, scene.start.radius)
        self._up = scene.start.up
        self._expected_page: NDArray[np.float64] | None = None
        self._expected_until_s = 0.0
        self._screen = ViserScreen(client, ack_timeout_s)
        self.session = Session(
            f"browser-{client.client_id}",
            engine,
            self._screen,
            policy,
            options,
            threads=threads,
            sharers=sharers,
        )
        self._panel = Panel(
            client.gui,
            title=scene.title,
            facts=scene.facts,
            options=options,
            fov_y_rad=scene.start.fov_y_rad,
            sh_degree=scene.sh_degree,
            cameras=len(scene.cameras),
            actions=self,
        )

    def start(self) -> None:
        """Take the start view and begin to draw."""

        # Asynchronous callbacks keep their order; this one only stores the pose.
        async def on_camera(camera: viser.CameraHandle) -> None:
            self._look(camera)

        self._client.camera.on_update(on_camera)
        self._client.camera.max_orbit_distance = 1e6
        self._client.camera.min_orbit_distance = 1e-4
        self.reset_view()
        # The browser may be there already; then it has no reason to say anything more.
        self._look(self._client.camera)
        self.session.start()

    def close(self) -> None:
        """The browser is gone."""
        self.session.close()
        self._screen.close()

    def update_panel(self) -> None:
        """Show the newest numbers; called a few times a second."""
        self._panel.show_stats(self.session.stats)
        with self._lock:
            overdue = self._expected_page is not None and self._is_overdue()
        if overdue:  # the last pose was taken for a stale one, but no other came
            self._look(self._client.camera)

    def set_options(self, options: ViewOptions) -> None:
        self.session.set_options(options)

    def set_fov(self, fov_y_rad: float) -> None:
        self._client.camera.fov = fov_y_rad

    def set_speed(self, speed: float) -> None:
        """Shrink or grow the page's world around the camera, which stays where it is."""
        start, camera = self._scene.start, self._client.camera
        with self._lock:
            position = self._space.to_world(camera.position)
            look_at = self._space.to_world(camera.look_at)
            self._space = PageSpace.for_scene(start.center, start.radius, speed)
        self._move(position, look_at, None)

    def reset_view(self) -> None:
        start = self._scene.start
        with self._lock:
            self._up = start.up
        self._client.camera.fov = start.fov_y_rad
        self._move(start.position, start.look_at, start.up)

    def set_up(self, up: ArrayLike) -> None:
        """Stand upright along ``up``; keeps looking at the same point from the same side."""
        upward = np.asarray(up, np.float64)
        with self._lock:
            self._up = upward
        self._client.camera.up_direction = upward

    def look_along(self, direction: ArrayLike) -> None:
        with self._lock:
            target = self._space.to_world(self._client.camera.look_at)
            position = self._space.to_world(self._client.camera.position)
            up = self._up
        distance = float(np.linalg.norm(target - position))
        # A hair off the axis: an orbiting camera has no heading at its poles.
        along = np.asarray(direction, np.float64)
        if abs(along @ up) > 0.999 * np.linalg.norm(up):
            along = along + 1e-3 * np.eye(3)[np.argmin(np.abs(along))]
        self._move(target - distance * along / np.linalg.norm(along), target, up)

    def go_to_camera(self, index: int) -> None:
        camera = self._scene.cameras[index]
        start = self._scene.start
        self._client.camera.fov = camera.fov_y_rad
        self._move(camera.position, point_ahead(camera, start.center, start.radius), self._up)

    def _move(
        self,
        position: NDArray[np.float64],
        look_at: NDArray[np.float64],
        up: NDArray[np.float64] | None,
    ) -> None:
        with self._lock:
            space = self._space
            self._expected_page = space.to_page(position)
            self._expected_until_s = time.monotonic() + STALE_POSE_S
        move_camera(self._client, space, position=position, look_at=look_at, up=up)

    def _look(self, camera: viser.CameraHandle) -> None:
        with self._lock:
            if self._is_stale(camera.position):
                return
            pose: Pose = read_pose(camera, self._space)
        self.session.look(pose)

    def _is_stale(self, page_position: NDArray[np.float64]) -> bool:
        expected = self._expected_page
        if expected is None:
            return False
        near = np.linalg.norm(page_position - expected) < STALE_POSE_DISTANCE
        if near or self._is_overdue():
            self._expected_page = None
            return False
        return True

    def _is_overdue(self) -> bool:
        return time.monotonic() > self._expected_until_s
