"""``belvedere view``: the page is up at once, the scene is opened behind it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from configs.settings import Settings
from scene_store.scene import Vector3
from viewer.access import choose_policy
from viewer.details import add_details
from viewer.ports import find_port, is_loopback, outward_address
from viewer.scenes import OpenedScene, SceneChoice, check_exists, open_scene

if TYPE_CHECKING:
    from rendering.engine import RenderEngine
    from viewer.client import ShownScene
    from viewer.server import ViewerServer

# Reading stops between two batches; what has none, such as sorting, is left to itself.
CLOSE_TIMEOUT_S = 0.4

Say = Callable[[str], None]


class _Abandoned(Exception):
    """The viewer closes before its scene was read."""


class _Opening:
    """A scene being opened on its own thread, so that the page need not wait."""

    def __init__(self, choice: SceneChoice, settings: Settings) -> None:
        self.share, self.what = 0.0, "Opening …"
        self._result: tuple[OpenedScene, RenderEngine] | None = None
        self._error: BaseException | None = None
        self.done = threading.Event()
        self._abandoned = False
        self._choice, self._settings = choice, settings
        threading.Thread(target=self._open, name="scene-opening", daemon=True).start()

    def close(self) -> bool:
        """Stop reading, and close the engine unless ``take`` handed it over.

        Returns whether the work has ended; if not, it goes on until its next batch.
        """
        self._abandoned = True
        ended = self.done.wait(CLOSE_TIMEOUT_S)
        if ended and self._result is not None:
            self._result[1].close()
        return ended

    def take(self) -> tuple[OpenedScene, RenderEngine]:
        """The scene and its engine, once ``done``; the caller closes the engine.

        Raises:
            BelvedereError: If the scene could not be opened.
        """
        if self._error is not None:
            raise self._error
        assert self._result is not None, "take() before done, or twice"
        result, self._result = self._result, None
        return result

    def _progress(self, share: float, what: str) -> None:
        if self._abandoned:
            raise _Abandoned
        self.share, self.what = share, what

    def _open(self) -> None:
        from rendering.engine import RenderEngine
        from viewer.engines import create_rasterizer

        try:
            rasterizer = create_rasterizer(self._settings.render.engine)
            opened = open_scene(self._choice, self._progress)
            self._progress(1.0, "Preparing …")
            self._result = opened, RenderEngine(rasterizer, opened.scene.gaussians)
        except BaseException as error:
            self._error = error
        finally:
            self.done.set()


def serve(
    choice: SceneChoice,
    settings: Settings,
    *,
    explicit_port: bool = False,
    position: Vector3 | None = None,
    look_at: Vector3 | None = None,
    say: Say = lambda line: None,
    open_browser: bool = False,
) -> None:
    """Show a scene until interrupted.

    Args:
        choice: The scene.
        settings: All of them.
        explicit_port: Only the configured port will do.
        position, look_at: Where to start, where the user knows better.
        say: Takes lines for the user.
        open_browser: Open the page in the user's browser.

    Raises:
        BelvedereError: If the scene cannot be opened or the page not be served.
    """
    began_s = time.monotonic()
    check_exists(choice)
    # Fail now rather than in a second.
    choose_policy(settings.viewer.host, settings.viewer.token)
    find_port(settings.viewer, explicit=explicit_port)
    opening = _Opening(choice, settings)
    engine: RenderEngine | None = None
    interrupted, idle = False, True
    try:
        # Imported while the scene is being read: viser takes a good part of a second.
        from viewer.server import ViewerServer

        with contextlib.ExitStack() as stack:
            with _interruptions_held_back():  # half a server could not be closed
                server = stack.enter_context(
                    ViewerServer(settings, title=choice.title, explicit_port=explicit_port)
                )
            if settings.viewer.port not in (0, server.port):
                say(f"Port {settings.viewer.port} is in use; taking {server.port}.")
            say(f"Serving {server.url} (Ctrl-C to stop)")
            _announce_exposure(server, say)
            if open_browser:
                _open_browser(server.url)
            opened, engine = _wait_for_scene(opening, server)
            if position is not None or look_at is not None:
                start = opened.start.changed(position=position, look_at=look_at)
                opened = replace(opened, start=start)
            server.show(_shown(opened), engine)
            handed_over = [opened.scene.gaussians]
            count = len(opened.scene.gaussians)
            say(f"Ready: {count:,} Gaussians after {time.monotonic() - began_s:.1f} s")
            del opened  # the engine holds its own form of the scene
            add_details(engine, handed_over)
            threading.Event().wait()
    except KeyboardInterrupt:
        say("Stopped.")
        interrupted = True
    finally:
        idle = opening.close()
        if engine is not None:
            engine.close()
    if interrupted and not idle:
        _leave()


def _leave() -> NoReturn:
    """End the process now: its usual end would wait for work that nobody wants any more."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _wait_for_scene(opening: _Opening, server: ViewerServer) -> tuple[OpenedScene, RenderEngine]:
    while not opening.done.wait(0.1):
        server.progress(opening.share, opening.what)
    return opening.take()


def _shown(opened: OpenedScene) -> ShownScene:
    from viewer.client import ShownScene

    return ShownScene(
        title=opened.title,
        facts=opened.facts,
        start=opened.start,
        sh_degree=opened.scene.gaussians.sh_degree,
        cameras=opened.scene.meta.cameras,
    )


def _announce_exposure(server: ViewerServer, say: Say) -> None:
    if is_loopback(server.host):
        return
    if server.listens_everywhere:
        say(f"From other machines: {server.url_from(outward_address())}")
    say("Whoever has the address with its token can see the scene; nothing is encrypted.")


def _open_browser(url: str) -> None:
    """Some browsers keep their caller until they are closed."""
    threading.Thread(target=webbrowser.open, args=(url,), name="open-browser", daemon=True).start()


@contextlib.contextmanager
def _interruptions_held_back() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the end of the block; it must be short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    usual = {
        number: signal.signal(number, lambda number, frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    for received in held[:1]:
        signal.raise_signal(received)
