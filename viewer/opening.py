"""How ``view`` comes to a picture: the quickest way there is first, the best one in the end.

A store is opened at once. A large file for which there is one in the cache is that store. Of
any other large file a sample is shown while its store is built (``docs/adr/0008``); the rest is
read whole.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.settings import Settings
from rendering.frame import FrameRequest
from scene_store.memory import DRAW_FACTOR, available_bytes, gaussian_bytes
from scene_store.scene import Scene, SceneMeta
from scene_store.statistics import likely_up
from splat.errors import BudgetError, SceneError, one_line
from splat.gaussians import Gaussians
from viewer.engines import create_rasterizer
from viewer.quick_look import quick_look
from viewer.scenes import OpenedScene, Progress, SceneChoice, open_scene
from viewer.start_view import choose_start_view
from viewer.store_cache import StoreCache
from viewer.store_job import StoreJob
from viewer.streams import OpenedStream, open_stream, streamed

if TYPE_CHECKING:
    from rendering.engine import RenderEngine
    from rendering.streamed_scene import StreamedScene
    from viewer.client import ShownScene
    from viewer.server import ViewerServer

log = logging.getLogger(__name__)

Say = Callable[[str], None]

# A scene that takes more is streamed, however few its Gaussians.
MOST_OF_MEMORY = 0.5
# Before a sample gives way to its store.
WARM_UP_S = 5.0
WARM_UP_ERROR_PX = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """Something that can be drawn.

    Attributes:
        shown: What browsers are told of it.
        engine: Draws it; whoever takes this closes it.
        count: Gaussians of the scene.
        gaussians: The one reference to those in memory, at most one; for coarser forms of them.
        store: Where the store is to be built of which this is a foretaste; None if this is it.
    """

    shown: ShownScene
    engine: RenderEngine
    count: int
    gaussians: list[Gaussians]
    store: Path | None = None

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def open_first(
    choice: SceneChoice, settings: Settings, stack: contextlib.ExitStack, progress: Progress
) -> Ready:
    """The first form in which a scene can be shown.

    Args:
        choice: The scene.
        settings: All of them.
        stack: Keeps a store of the cache from being removed until it is closed.
        progress: Hears how far it is.

    Raises:
        BelvedereError: If it cannot be shown.
    """
    if choice.is_streamed:
        return _stream(open_stream(choice), settings)
    if choice.path is None or choice.lod is not None or not settings.stream.store:
        return open_whole(choice, settings, progress)
    if not _is_large(choice, settings):
        return open_whole(choice, settings, progress)
    cached = _cached(choice, settings, stack)
    if cached is not None:
        return _stream(cached, settings)
    return _sample(choice, settings, _cache(settings).path_of(choice.path))


def open_whole(choice: SceneChoice, settings: Settings, progress: Progress) -> Ready:
    """All of a scene in memory.

    Raises:
        BelvedereError: If it cannot be read, or does not fit.
    """
    opened = open_scene(choice, progress)
    progress(1.0, "Preparing …")
    return _resident(opened, settings)


def improve(
    ready: Ready,
    choice: SceneChoice,
    settings: Settings,
    server: ViewerServer,
    stack: contextlib.ExitStack,
    say: Say,
) -> bool:
    """Build the store of a scene of which a sample is shown, and show it in the sample's place.

    Returns:
        Whether that came about; if not, one line said why.
    """
    assert choice.path is not None and ready.store is not None
    cache = _cache(settings)
    try:
        with cache.building(ready.store) as alone:
            problem = _build(choice.path, ready.store, server) if alone else "it is being built"
    except OSError as error:
        problem = error.strerror or str(error)
    server.show_work(0.0, "")
    if not problem:
        cache.make_room(ready.store)
        opened = _cached(choice, settings, stack)
        if opened is None:
            problem = "it cannot be opened"
        elif not (problem := _swap(opened, ready, settings, server)):
            say(f"Streaming {opened.meta.count:,} Gaussians from {ready.store}")
            return True
    say(one_line(f"No store of {choice.path}: {problem}; reading all of it instead"))
    return False


def _build(scene: Path, store: Path, server: ViewerServer) -> str:
    """Why it failed; "" if it did not."""
    job = StoreJob(scene, store)
    try:
        while not job.done.wait(0.1):
            server.show_work(job.share, job.what)
    finally:
        job.close()
    return job.error


def _swap(opened: OpenedStream, ready: Ready, settings: Settings, server: ViewerServer) -> str:
    """Why it failed; "" if it did not."""
    rasterizer = create_rasterizer(settings.render.engine)
    try:
        scene = streamed(opened, rasterizer, settings.stream)
    except BudgetError as error:
        return str(error)
    _warm_up(scene, server)
    ready.engine.replace_scene(scene)
    server.replace(replace(shown_stream(opened, scene), start=ready.shown.start))
    return ""


def _warm_up(scene: StreamedScene, server: ViewerServer) -> None:
    """Fetch what the browsers look at, so that the picture does not get worse before it gets
    better: a streamed scene begins with its coarsest chunks."""
    end_s = time.monotonic() + WARM_UP_S
    requests = [
        FrameRequest(view.session.client, 0, cameras, max_error_px=WARM_UP_ERROR_PX)
        for view in server.views
        if (cameras := view.cameras)
    ]
    while requests and time.monotonic() < end_s:
        requests = [request for request in requests if not _complete(scene, request)]
        time.sleep(0.02)


def _complete(scene: StreamedScene, request: FrameRequest) -> bool:
    with scene.acquire(request) as drawable:
        return drawable.stream is None or drawable.stream.complete


def _cache(settings: Settings) -> StoreCache:
    return StoreCache(settings.stream.cache_budget)


def _cached(
    choice: SceneChoice, settings: Settings, stack: contextlib.ExitStack
) -> OpenedStream | None:
    """The scene as a store of the cache, if there is a good one."""
    assert choice.path is not None
    cache = _cache(settings)
    path = cache.path_of(choice.path)
    if not cache.has(path):
        return None
    try:
        stack.enter_context(cache.using(path))
        opened = open_stream(replace(choice, path=path))
    except (SceneError, OSError) as error:
        log.debug("%s: %s", path, error)
        cache.remove(path)
        return None
    return replace(opened, title=choice.title)


def _is_large(choice: SceneChoice, settings: Settings) -> bool:
    """Whether reading all of it would take too long, or too much of the memory there is."""
    from scene_store.formats import open_scene as open_source

    assert choice.path is not None
    with open_source(choice.path) as source:
        meta = source.meta
    needed = meta.count * gaussian_bytes(meta.sh_degree) * DRAW_FACTOR
    available = available_bytes()
    scarce = available is not None and needed > MOST_OF_MEMORY * available
    return meta.count >= settings.stream.store_from or scarce


def _sample(choice: SceneChoice, settings: Settings, store: Path) -> Ready:
    scene = quick_look(choice)
    start = choose_start_view(
        scene.gaussians,
        up=choice.up if choice.up is not None else likely_up(scene.meta, scene.gaussians),
        cameras=scene.meta.cameras,
        fov_y_rad=math.radians(choice.fov_deg),
    )
    if len(scene.gaussians) == 0:
        raise SceneError(f"{choice.path}: holds nothing that can be drawn")
    ready = _resident(OpenedScene(choice.title, scene, start), settings)
    facts = _sample_facts(scene)
    return replace(ready, shown=replace(ready.shown, facts=facts), gaussians=[], store=store)


def _sample_facts(scene: Scene) -> str:
    meta, count = scene.meta, len(scene.gaussians)
    return f"{meta.format_name} · a first look: {count:,} of {_total(meta):,} Gaussians"


def _total(meta: SceneMeta) -> int:
    """Gaussians of the scene, whatever level of detail was read."""
    return meta.lod_counts[0] if meta.lod_counts else meta.count


def _resident(opened: OpenedScene, settings: Settings) -> Ready:
    from rendering.engine import RenderEngine

    gaussians = opened.scene.gaussians
    engine = RenderEngine(create_rasterizer(settings.render.engine), gaussians)
    return Ready(shown_whole(opened), engine, len(gaussians), [gaussians])


def _stream(opened: OpenedStream, settings: Settings) -> Ready:
    from rendering.engine import RenderEngine

    rasterizer = create_rasterizer(settings.render.engine, streamed=True)
    scene = streamed(opened, rasterizer, settings.stream)
    shown = shown_stream(opened, scene)
    return Ready(shown, RenderEngine(rasterizer, scene), opened.meta.count, [])


def shown_whole(opened: OpenedScene) -> ShownScene:
    """What browsers are told of a scene in memory."""
    from viewer.client import ShownScene

    return ShownScene(
        title=opened.title,
        facts=opened.facts,
        start=opened.start,
        sh_degree=opened.scene.gaussians.sh_degree,
        cameras=opened.meta.cameras,
    )


def shown_stream(opened: OpenedStream, scene: StreamedScene) -> ShownScene:
    """What browsers are told of a streamed scene."""
    from viewer.client import ShownScene

    budgets = scene.budgets
    available = available_bytes() or 0
    return ShownScene(
        title=opened.title,
        facts=opened.facts,
        start=opened.start,
        sh_degree=opened.source.sh_degree,
        cameras=opened.meta.cameras,
        stream=scene,
        most_memory=max(available // 2, budgets.host_bytes, budgets.device_bytes),
    )
