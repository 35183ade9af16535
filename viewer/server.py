"""The viewer's web page: opened at once, filled when the scene is there, for many browsers.

Built on viser, which brings the page, the camera controls and the panel's widgets; the
picture is its background image, drawn here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Iterator

import numpy as np
import viser

from configs.settings import Settings
from rendering.engine import RenderEngine
from splat.closing import Closing
from splat.errors import PortInUseError
from viewer.access import TOKEN_PARAMETER, choose_policy
from viewer.client import BrowserView, ShownScene
from viewer.gate import GuardedServer
from viewer.images import Mode, UInt8Array
from viewer.pacing import PacingPolicy
from viewer.panel import LoadingPanel
from viewer.ports import find_port
from viewer.pose import PageSpace
from viewer.session import ViewOptions

log = logging.getLogger(__name__)

PANEL_INTERVAL_S = 0.25
BRAND_COLOR = (82, 130, 180)
NEUTRAL_TOP, NEUTRAL_BOTTOM = (34, 38, 46), (16, 18, 22)


class ViewerServer(Closing):
    """Serves the page until closed.

    Args:
        settings: All of them.
        title: The scene's name.
        explicit_port: The port was asked for, so no other one will do.

    Raises:
        PortInUseError: If there is no port to listen on.
        SettingsError: If the address or the token is impossible.
    """

    def __init__(self, settings: Settings, *, title: str, explicit_port: bool = False) -> None:
        self._settings = settings
        viewer = settings.viewer
        self._policy = choose_policy(viewer.host, viewer.token)
        port = find_port(viewer, explicit=explicit_port)
        with _silent():  # viser announces itself; the command line says what there is to say
            self._server = GuardedServer(
                viewer.host,
                port,
                label="Belvedere",
                policy=self._policy,
                title=f"{title} · Belvedere",
            )
        self.host, self.port = viewer.host, self._server.get_port()
        if port not in (0, self.port):  # taken between the probe and now
            self._stop_serving()
            raise PortInUseError(f"port {port} on {viewer.host} was taken just now; try again")
        self._furnish()
        self._loading: LoadingPanel | None = LoadingPanel(self._server.gui, title)
        self._lock = threading.Lock()
        self._views: dict[int, BrowserView] = {}
        self._scene: ShownScene | None = None
        self._engine: RenderEngine | None = None
        self._work = (0.0, "")
        self._closing = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="panel-ticker", daemon=True)
        self._ticker.start()

    @property
    def url(self) -> str:
        """What a browser on this machine opens; holds the token, if one is needed."""
        return self.url_from("localhost" if self.listens_everywhere else self.host)

    @property
    def listens_everywhere(self) -> bool:
        """Whether all addresses of this machine lead to the page."""
        return self.host in ("0.0.0.0", "::", "")

    def url_from(self, host: str) -> str:
        """What a browser opens that knows this machine as ``host``."""
        base = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        token = self._policy.token
        return base if token is None else f"{base}/?{TOKEN_PARAMETER}={token}"

    @property
    def views(self) -> tuple[BrowserView, ...]:
        """The browsers that look at the scene now."""
        with self._lock:
            return tuple(self._views.values())

    def progress(self, share: float, what: str) -> None:
        """Tell those who wait that ``share`` of the scene, in [0, 1], is there."""
        if self._loading is not None:
            self._loading.progress(share, what)

    def show(self, scene: ShownScene, engine: RenderEngine) -> None:
        """Show a scene to all browsers, present and future. The caller closes the engine."""
        self._scene, self._engine = scene, engine
        if self._loading is not None:
            self._loading.remove()
            self._loading = None
        self._listen_to(scene)
        self._set_initial_camera(scene)
        self._server.on_client_disconnect(self._on_disconnect)
        self._server.on_client_connect(self._on_connect)

    def replace(self, scene: ShownScene) -> None:
        """Show another form of the scene that is shown; the engine draws it already."""
        with self._lock:
            self._scene = scene
        self._listen_to(scene)
        for view in self.views:
            view.replace_scene(scene)

    def show_work(self, share: float, what: str) -> None:
        """Tell all browsers how far the work behind the page is; "" when there is none."""
        self._work = (share, what)

    def close(self) -> None:
        """End all sessions and stop serving."""
        self._closing.set()
        for view in self.views:
            view.close()
        self._stop_serving()

    def _furnish(self) -> None:
        """An empty page in our colours, its panel beside the picture rather than over it."""
        gui, scene = self._server.gui, self._server.scene
        gui.configure_theme(
            dark_mode=True,
            control_width="small",
            show_logo=False,
            show_share_button=False,
            brand_color=BRAND_COLOR,
        )
        gui.main_panel.dock_right()
        scene.world_axes.visible = False
        # Pictures come lit; the page's own light costs it a second at the start.
        scene.configure_environment_map(None)
        scene.configure_default_lights(False)
        scene.set_background_image(_neutral_picture(), format="png")

    def _set_initial_camera(self, scene: ShownScene) -> None:
        start = scene.start
        space = PageSpace.for_scene(start.center, start.radius)
        self._server.scene.set_up_direction(start.up)
        with self._server.atomic():
            initial = self._server.initial_camera
            initial.fov = start.fov_y_rad
            initial.up = start.up
            initial.position = space.to_page(start.position)
            initial.look_at = space.to_page(start.look_at)

    def _on_connect(self, client: viser.ClientHandle) -> None:
        try:
            self._add_view(client)
        except Exception as error:  # viser would print a traceback
            log.warning("browser %d cannot be served: %s", client.client_id, error)
            log.debug("details", exc_info=True)
            self._on_disconnect(client)

    def _add_view(self, client: viser.ClientHandle) -> None:
        scene, engine = self._scene, self._engine
        assert scene is not None and engine is not None
        viewer = self._settings.viewer
        view = BrowserView(
            client,
            engine,
            scene,
            pacing_policy(self._settings),
            view_options(self._settings, scene),
            threads=self._settings.render.threads,
            ack_timeout_s=viewer.ack_timeout_s,
            moving_error_px=self._settings.stream.moving_error_px,
            on_limits=self._refresh,
        )
        with self._lock:
            self._views[client.client_id] = view
        view.start()
        now = self._scene
        if now is not None and now is not scene:  # replaced while we built
            view.replace_scene(now)
        if client.client_id not in self._server.get_clients():  # left while we built
            self._on_disconnect(client)
        log.debug("browser %d connected", client.client_id)

    def _on_disconnect(self, client: viser.ClientHandle) -> None:
        with self._lock:
            view = self._views.pop(client.client_id, None)
        if view is not None:
            view.close()
            log.debug("browser %d left", client.client_id)

    def _listen_to(self, scene: ShownScene) -> None:
        if scene.stream is not None:
            scene.stream.set_on_arrival(self._on_arrival)
            if self._engine is not None:
                scene.stream.set_on_work(self._engine.recorder.did)

    def _on_arrival(self) -> None:
        for view in self.views:
            view.session.arrived()

    def _refresh(self) -> None:
        for view in self.views:
            view.session.refresh()

    def _tick(self) -> None:
        while not self._closing.wait(PANEL_INTERVAL_S):
            loading = self._loading
            if loading is not None:
                loading.beat()
            for view in self.views:
                try:
                    view.update_panel()
                    view.show_work(*self._work)
                except Exception:  # a panel of a browser that just left
                    log.debug("panel update failed", exc_info=True)

    def _stop_serving(self) -> None:
        with _silent():
            self._server.stop()


def pacing_policy(settings: Settings) -> PacingPolicy:
    """The pacer's bounds as configured."""
    viewer = settings.viewer
    return PacingPolicy(
        target_fps=viewer.target_fps,
        min_scale=viewer.min_scale,
        max_side=viewer.max_side,
        moving_quality=viewer.moving_quality,
        still_quality=viewer.still_quality,
        refine_delay_s=1e-3 * viewer.refine_delay_ms,
        moving_stop=viewer.moving_stop,
        moving_drift_px=viewer.moving_drift_px,
    )


def view_options(settings: Settings, scene: ShownScene) -> ViewOptions:
    """How pictures are drawn at the start, as configured."""
    render = settings.render
    near = render.near if render.near is not None else render.near_ratio * scene.start.radius
    background = render.behind
    if render.background is None and scene.background is not None:
        background = scene.background
    return ViewOptions(
        mode=Mode(settings.viewer.mode),
        background=background,
        antialiased=render.antialiased,
        sh_degree=render.sh_degree,
        near=near,
    )


def _neutral_picture() -> UInt8Array:
    """[H, W, 3] a dark gradient: what is seen before the scene."""
    ramp = np.linspace(0.0, 1.0, 256)[:, None, None]
    colors = (1 - ramp) * np.array(NEUTRAL_TOP) + ramp * np.array(NEUTRAL_BOTTOM)
    return np.broadcast_to(np.round(colors), (256, 4, 3)).astype(np.uint8)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what a library prints off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
