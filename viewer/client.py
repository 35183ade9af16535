"""One connected browser: its session, its panel, its camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import viser
from numpy.typing import ArrayLike

from render_cache.reuse import Reuse
from rendering.engine import RenderEngine
from rendering.frame import FrameRequest
from rendering.streamed_scene import StreamedScene
from rendering.tint import Tint
from scene_store.ledger import Budgets
from scene_store.memory import available_bytes
from splat.camera import Camera
from splat.errors import CameraError
from viewer.budgets import require_room
from viewer.chunk_boxes import ChunkBoxes
from viewer.device_panel import DevicePanel
from viewer.display import ViserScreen
from viewer.pacing import PacingPolicy, full_size
from viewer.panel import Panel
from viewer.pose import Pose
from viewer.session import Session, ViewOptions
from viewer.session_stats import SessionStats
from viewer.shared_budgets import SharedBudgets
from viewer.start_view import StartView
from viewer.stream_panel import StreamBounds, StreamPanel
from viewer.traces import TRACE_NAME, trace_text
from viewer.viewpoint import Viewpoint

BOXES_INTERVAL_S = 0.5
MAX_WARM_SIDE = 1920
# Where an open panel would leave less of the window to the picture it begins closed.
NARROW_PX = 580


@dataclass(frozen=True, slots=True, eq=False)
class ShownScene:
    """What a viewer shows, as far as a browser needs to know.

    Attributes:
        title, facts: For people.
        start: The first view.
        sh_degree: Highest degree of the Gaussians.
        cameras: Training cameras.
        stream: What is drawn, where it comes piece by piece.
        shares: The budgets of all that is in memory of it; None if nothing is streamed.
        most_memory: What one of its budgets may be raised to, bytes.
        first_scale: Of a scene whose pixels take long, the resolution of the first picture, as a
            share of the full one, per side; moving ones may have half as many. None for others.
        background: RGB behind it where nobody chose one; None if it has none of its own.
    """

    title: str
    facts: str
    start: StartView
    sh_degree: int
    cameras: tuple[Camera, ...] = ()
    stream: StreamedScene | None = None
    shares: SharedBudgets | None = None
    most_memory: int = 0
    first_scale: float | None = None
    background: tuple[float, float, float] | None = None

    def paced(self, policy: PacingPolicy) -> PacingPolicy:
        """How its pictures are paced where others are by ``policy``."""
        if self.first_scale is None:
            return policy
        least = min(policy.min_scale, 0.5 * self.first_scale)
        return replace(policy, min_scale=least, first_scale=self.first_scale)


class BrowserView:
    """Everything that belongs to one browser; the actions of its panel.

    Args:
        client: viser's handle.
        engine: Shared by all browsers.
        scene: What is shown.
        policy, options, threads, moving_error_px: As in ``Session``.
        ack_timeout_s: As in ``ViserScreen``.
        on_limits: Called when somebody changed what all browsers' pictures may take.
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
        ack_timeout_s: float,
        moving_error_px: float = 1.0,
        on_limits: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._engine = engine
        self._scene = scene
        self._lock = threading.Lock()
        self._screen = ViserScreen(client, ack_timeout_s, self._uncover)
        self._uncovered = False
        self.session = Session(
            f"browser-{client.client_id}",
            engine,
            self._screen,
            scene.paced(policy),
            options,
            threads=threads,
            moving_error_px=moving_error_px,
        )
        self._viewpoint = Viewpoint(
            client, scene.start, self._screen.acknowledge, self.session.look
        )
        self._on_limits = on_limits
        self._tint = Tint.NONE
        self._frozen: Pose | None = None
        self._boxes_wanted = False
        self._boxes: ChunkBoxes | None = None
        self._boxes_next_s = 0.0
        self._stream_panel: StreamPanel | None = None
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
        self._add_stream_panel()
        self._device_panel = DevicePanel(
            client.gui, engine, self.session.client, actions=self, order=4.6
        )

    def start(self) -> None:
        """Take the start view and begin to draw."""

        # Asynchronous callbacks keep their order; this one only stores the pose.
        async def on_camera(camera: viser.CameraHandle) -> None:
            self._viewpoint.look()

        self._client.camera.on_update(on_camera)
        self._client.camera.max_orbit_distance = 1e6
        self._client.camera.min_orbit_distance = 1e-4
        self.reset_view()
        self.session.start()

    def close(self) -> None:
        """The browser is gone."""
        self.session.close()
        self._screen.close()

    @property
    def request(self) -> FrameRequest | None:
        """For all detail of what the browser looks at; None if it did not say where from, or
        said nonsense."""
        pose, options = self.session.pose, self.session.options
        if pose is None or min(pose.canvas) < 1:
            return None
        size = full_size(pose.canvas, MAX_WARM_SIDE)
        try:
            camera = pose.camera(*size, options.near)
            frozen = options.frozen.camera(*size, options.near) if options.frozen else None
        except CameraError:
            return None
        chooser = (frozen,) if frozen else ()
        return FrameRequest(self.session.client, 0, (camera,), frozen=chooser)

    def update_panel(self) -> None:
        """Show the newest numbers; called a few times a second."""
        stats = self.session.stats
        self._panel.show_stats(stats)
        stream, shares = self._scene.stream, self._scene.shares
        if stream is not None and shares is not None and self._stream_panel is not None:
            most = stream.policy.max_gaussians
            chunks = stream.stats()
            # Budgets are of each memory.
            on_device = (chunks.device_bytes + shares.kept_bytes) // len(stream.memories)
            held = replace(chunks, budgets=shares.budgets, device_bytes=on_device)
            self._stream_panel.show(held, stats.stream, most)
            if self._tint is Tint.REUSE and is_yet_to_compare(stats):
                self.session.refresh()
            self._update_boxes(stream)
        self._device_panel.show()
        self._viewpoint.update()
        self._uncover()

    def replace_scene(self, scene: ShownScene) -> None:
        """The same scene in another form; the camera stays where it is."""
        self._scene = scene
        self._panel.show_facts(scene.facts)
        if self._boxes is not None:
            self._boxes.hide()
        if scene.stream is None:
            self._remove_stream_panel()
        elif self._stream_panel is None:
            self._add_stream_panel()
        else:
            self._boxes = ChunkBoxes(self._client, scene.stream.source.tree)
            self._stream_panel.rebase(_stream_bounds(scene))
        self.session.refresh()

    def show_work(self, share: float, what: str) -> None:
        """Tell how far the work behind the page is."""
        self._panel.show_work(share, what)

    def set_options(self, options: ViewOptions) -> None:
        with self._lock:
            options = replace(options, tint=self._tint, frozen=self._frozen)
        self.session.set_options(options)

    def set_budgets(self, budgets: Budgets) -> None:
        shares = self._scene.shares
        if shares is not None and budgets != shares.budgets:
            available, held = available_bytes(), shares.held_bytes
            require_room(budgets, available, held, shares.memories, shares.gpu_bytes)
            shares.set_budgets(budgets)
            self._on_limits()

    def set_max_gaussians(self, count: int) -> None:
        stream = self._scene.stream
        if stream is not None:
            stream.policy = replace(stream.policy, max_gaussians=count)
            self._on_limits()

    def tint(self, tint: Tint) -> None:
        with self._lock:
            self._tint = tint
        self.set_options(self.session.options)

    def freeze(self, on: bool) -> None:
        pose = self.session.pose if on else None
        with self._lock:
            self._frozen = pose
        self.set_options(self.session.options)

    def show_boxes(self, on: bool) -> None:
        self._boxes_wanted = on
        self._boxes_next_s = 0.0

    def download_trace(self) -> None:
        trace = trace_text(self._engine, self._scene.title).encode()
        self._client.send_file_download(TRACE_NAME, trace, save_immediately=True)

    def set_fov(self, fov_y_rad: float) -> None:
        self._viewpoint.set_fov(fov_y_rad)

    def set_speed(self, speed: float) -> None:
        self._viewpoint.set_speed(speed)

    def reset_view(self) -> None:
        self._viewpoint.reset()

    def set_up(self, up: ArrayLike) -> None:
        self._viewpoint.set_up(up)

    def look_along(self, direction: ArrayLike) -> None:
        self._viewpoint.look_along(direction)

    def go_to_camera(self, index: int) -> None:
        self._viewpoint.go_to(self._scene.cameras[index])

    def _add_stream_panel(self) -> None:
        stream, shares = self._scene.stream, self._scene.shares
        if stream is None or shares is None:
            return
        self._boxes = ChunkBoxes(self._client, stream.source.tree)
        self._stream_panel = StreamPanel(
            self._client.gui,
            bounds=_stream_bounds(self._scene),
            budgets=shares.budgets,
            max_gaussians=stream.policy.max_gaussians,
            actions=self,
            order=4.5,
        )

    def _remove_stream_panel(self) -> None:
        if self._stream_panel is not None:
            self._stream_panel.remove()
        self._stream_panel = self._boxes = None

    def _update_boxes(self, stream: StreamedScene) -> None:
        """At a low rate: a box is twelve lines, and the page draws them itself."""
        if self._boxes is None:
            return
        if not self._boxes_wanted:
            self._boxes.hide()
        elif time.monotonic() >= self._boxes_next_s:
            self._boxes_next_s = time.monotonic() + BOXES_INTERVAL_S
            pose = self.session.pose
            if pose is not None:
                chunks = stream.drawn_chunks(self.session.client)
                self._boxes.show(chunks, pose.position, self._viewpoint.space)

    def _uncover(self) -> None:
        """Show the page once it has a picture from the start view, or will not get one."""
        stats, pose = self.session.stats, self.session.pose
        # One for another canvas would be stretched.
        seen = stats.seen is not None and pose is not None and stats.seen.canvas == pose.canvas
        with self._lock:
            if self._uncovered or not (stats.error or (seen and self._viewpoint.settled)):
                return
            self._uncovered = True
        if self._client.camera.image_width < NARROW_PX:
            self._client.gui.main_panel.minimize()
        self._panel.uncover()


def is_yet_to_compare(stats: SessionStats) -> bool:
    """Whether a picture at rest, tinted by reuse, was compared with another view's: a last one
    of the same view says what a still camera costs, which is nothing."""
    counts = stats.stream.reuse if stats.stream is not None else ()
    return stats.settled and sum(counts) > sum(counts[: Reuse.EXACT + 1])


def _stream_bounds(scene: ShownScene) -> StreamBounds:
    assert scene.stream is not None
    return StreamBounds(
        scene.stream.least_budgets, scene.most_memory, scene.stream.source.meta.count
    )
