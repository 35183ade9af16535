"""A large scene in a headless Chromium while its store is built: better and better, never worse."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from configs.loading import load_settings
from configs.settings import Settings
from scene_store.build import BuildOptions, Stage, build_store
from scene_store.build.unfinished import UnfinishedStore
from scene_store.sketch import sketch_scene
from tests.viewer.test_browser import browser, difference, drag, open_page, screenshot, wait_until
from viewer.improving import _Changes
from viewer.opening import Ready, cached_store, open_first
from viewer.scenes import SceneChoice
from viewer.server import ViewerServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CHOICE = SceneChoice.of("town:300k", 1)
FINISHED = 0.6


class _Stopped(Exception):
    """A build that was interrupted."""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("viewer.opening.SKETCH_COUNT", 10_000)
    return load_settings(
        None,
        {
            "viewer.port": 0,
            "viewer.max_side": 640,
            "stream.store_from": 1000,
            "stream.host_budget": 64 << 20,
            "stream.device_budget": 256 << 20,
        },
    )


@pytest.fixture
def ready(settings: Settings) -> Iterator[Ready]:
    with contextlib.ExitStack() as stack:
        ready = open_first(CHOICE, settings, stack, lambda share, what: None)
        stack.callback(ready.close)
        yield ready


def build(store: Path, until: float) -> None:
    def stop(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.BUILD and done > until * total:
            raise _Stopped

    store.parent.mkdir(parents=True, exist_ok=True)
    options = BuildOptions(page_gaussians=1024, threads=2, checkpoint_s=0.0, rebuild_lod=True)
    with contextlib.suppress(_Stopped):
        build_store([CHOICE.source_name], store, options, stop)


def seen_during(page: Page, change: Callable[[], object]) -> list[np.ndarray]:
    """Pictures of the page from before a change to a while after it."""
    thread = threading.Thread(target=change)
    thread.start()
    pictures = []
    while thread.is_alive():
        pictures.append(screenshot(page))
    for _ in range(8):
        page.wait_for_timeout(150)
        pictures.append(screenshot(page))
    return pictures


def places_worse(before: np.ndarray, now: np.ndarray, last: np.ndarray) -> float:
    """Share of the squares of 20 pixels that came clearly further from the last picture."""

    def errors(picture: np.ndarray) -> np.ndarray:
        error = np.square(picture.astype(np.float64) - last).mean(axis=2)
        height, width = error.shape
        squares: np.ndarray = error.reshape(height // 20, 20, width // 20, 20)
        return np.asarray(squares.mean(axis=(1, 3)))

    return float((errors(now) > 2.0 * errors(before) + 10.0).mean())


def test_each_form_is_better_than_the_one_before_and_the_camera_stays(
    browser: Browser, settings: Settings, ready: Ready
) -> None:
    assert ready.store is not None
    sketch = sketch_scene(CHOICE.source_name, 40_000, 10.0)
    build(ready.store, FINISHED)
    with contextlib.ExitStack() as kept:
        server = kept.enter_context(ViewerServer(settings, title="Town"))
        server.show(ready.shown, ready.engine)
        changes = _Changes(ready, CHOICE, settings, server)
        page = open_page(browser, server)
        kept.callback(page.context.close)
        (view,) = server.views
        wait_until(lambda: view.session.stats.settled, "the first look is there")
        drag(page)
        page.wait_for_timeout(1000)
        wait_until(lambda: view.session.stats.settled, "it rests after the drag")
        pose, first = view.session.pose, screenshot(page)

        source = UnfinishedStore(ready.store, sketch)
        assert 0.3 < source.share < 0.9
        meanwhile = seen_during(page, lambda: changes.to_unfinished(source, sketch))
        page.get_by_text("in full detail, a sketch of the rest").first.wait_for()
        page.get_by_text("Streaming").first.wait_for()
        wait_until(lambda: view.session.stats.settled, "the second form is there")
        page.wait_for_timeout(700)
        second = screenshot(page)

        build(ready.store, 1.0)
        opened = cached_store(CHOICE, settings, kept)
        assert opened is not None
        drawn = view.session.stats.gaussians
        later = seen_during(page, lambda: changes.to_store(opened))
        wait_until(lambda: view.session.stats.settled, "the store is there")
        page.wait_for_timeout(700)
        last = screenshot(page)

        assert difference(second, last) < 0.8 * difference(first, last)
        worst = max(difference(picture, last) for picture in meanwhile)
        assert worst <= 1.1 * difference(first, last), "a worse picture was seen in between"
        worst = max(places_worse(second, picture, last) for picture in later)
        assert worst < 0.01, "what was sharp was blurred in between"
        assert view.session.stats.gaussians > drawn
        now = view.session.pose
        assert pose is not None and now is not None
        assert np.array_equal(pose.position, now.position), "the camera moved"
