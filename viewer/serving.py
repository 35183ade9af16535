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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from configs.settings import Settings
from rendering.device import DeviceLost
from rendering.recorder import TRACED_FRAMES
from scene_store.scene import Vector3
from splat.errors import BelvedereError
from viewer.access import choose_policy
from viewer.background import Background
from viewer.details import add_details
from viewer.opening import (
    Ready,
    open_first,
    opens_in_parts,
    shown_whole,
    store_cache,
    unkept_budgets,
)
from viewer.ports import find_port, is_loopback, outward_address
from viewer.scenes import SceneChoice, check_exists, check_openable, open_scene
from viewer.text import byte_size
from viewer.traces import check_trace, write_trace

if TYPE_CHECKING:
    from viewer.server import ViewerServer

log = logging.getLogger(__name__)

WAKE_S = 0.2  # the longest that Ctrl-C goes unheard

Say = Callable[[str], None]


def serve(
    choice: SceneChoice,
    settings: Settings,
    *,
    explicit_port: bool = False,
    position: Vector3 | None = None,
    look_at: Vector3 | None = None,
    say: Say = lambda line: None,
    open_browser: bool = False,
    trace: Path | None = None,
) -> None:
    """Show a scene until interrupted.

    Args:
        choice: The scene.
        settings: All of them.
        explicit_port: Only the configured port will do.
        position, look_at: Where to start, where the user knows better.
        say: Takes lines for the user.
        open_browser: Open the page in the user's browser.
        trace: A file for what the last pictures took (``viewer.traces``), written in the end.

    Raises:
        BelvedereError: If the scene cannot be opened, the page not be served, or the file not be
            written.
    """
    began_s = time.monotonic()
    # Fail now rather than in a second, and before anybody is sent to a page.
    check_exists(choice)
    check_openable(choice, whole=not opens_in_parts(choice, settings))
    choose_policy(settings.viewer.host, settings.viewer.token)
    find_port(settings.viewer, explicit=explicit_port)
    if trace is not None:
        check_trace(trace, scene=choice.path)
    kept = contextlib.ExitStack()  # what must outlast the drawing
    opening = Background(
        lambda progress: open_first(choice, settings, kept, progress), dispose=Ready.close
    )
    works: list[Background[Any]] = [opening]
    ready: Ready | None = None
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
            ready = opening.wait(server.progress)
            if trace is not None:
                ready.engine.recorder.keep(TRACED_FRAMES)
            if position is not None or look_at is not None:
                start = ready.shown.start.changed(position=position, look_at=look_at)
                ready = replace(ready, shown=replace(ready.shown, start=start))
            server.show(ready.shown, ready.engine)
            took_s = time.monotonic() - began_s
            if title := ready.drawers.choice.title:
                say(f"Drawn by {title}")
            if ready.store is not None:
                say(f"First look: {ready.count:,} Gaussians after {took_s:.1f} s")
                _improve(ready, ready.choice, settings, server, kept, works, say)
            else:
                say(f"Ready: {ready.count:,} {ready.unit} after {took_s:.1f} s")
                if ready.gaussians:
                    add_details(ready.engine, ready.gaussians)
            _wait_for_interruption()
    except KeyboardInterrupt:
        say("Stopped.")
        interrupted = True
        if trace is not None:
            _write_trace(trace, ready, say)
    finally:
        for work in works:
            idle &= work.close()
        if ready is not None:
            ready.close()
        kept.close()
    if interrupted and ready is not None and ready.store is not None:
        _tell_unfinished(ready.choice, ready.store, settings, say)
    if interrupted and not idle:
        _leave()


def _wait_for_interruption() -> NoReturn:
    """Until Ctrl-C or SIGTERM. The interpreter looks for signals before it blocks: in a wait
    without an end, one that comes between the two is not heard before another one."""
    never = threading.Event()
    while True:
        never.wait(WAKE_S)


def _write_trace(path: Path, ready: Ready | None, say: Say) -> None:
    if ready is None:
        say("No trace: the scene was not open yet.")
        return
    write_trace(path, ready.engine, ready.shown.title)
    say(str(path))


def _tell_unfinished(choice: SceneChoice, store: Path, settings: Settings, say: Say) -> None:
    """Of a store that was being built: what is left of it, and what becomes of that."""
    unfinished = store_cache(settings).unfinished(store)
    if unfinished is not None:
        say(
            f"Its store is unfinished: {byte_size(unfinished.size_bytes)} in {unfinished.path}; "
            f"the next view of {choice.shown} continues it, belvedere cache --clear removes it."
        )


def _leave() -> NoReturn:
    """End the process now: its usual end would wait for work that nobody wants any more."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _improve(
    ready: Ready,
    choice: SceneChoice,
    settings: Settings,
    server: ViewerServer,
    kept: contextlib.ExitStack,
    works: list[Background[Any]],
    say: Say,
) -> None:
    """Show the store of a scene of which there is a first look; else all of it; else that."""
    from viewer.improving import improve  # the builder takes its time to import

    try:
        if improve(ready, choice, settings, server, kept, works, say):
            return
    except Exception as error:  # the page goes on with what it has
        log.warning("%s: no better picture: %s: %s", choice.shown, type(error).__name__, error)
        log.debug("details", exc_info=True)
        return
    if note := unkept_budgets(choice, settings):
        say(note)
    reading = Background(lambda progress: open_scene(choice, progress))
    works.append(reading)
    try:
        whole = reading.wait(server.show_work)
        ready.engine.replace_scene(whole.scene.gaussians)
    except (BelvedereError, DeviceLost) as error:  # a GPU may have no room for it, or be lost
        say(f"The first look is all there is: {error}")
        return
    finally:
        server.show_work(0.0, "")
    server.replace(replace(shown_whole(whole), start=ready.shown.start))
    gaussians = [whole.scene.gaussians]
    del whole  # the engine holds its own form of the scene
    add_details(ready.engine, gaussians)


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
