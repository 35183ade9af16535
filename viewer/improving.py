"""From a first look to the store of a scene, while somebody looks.

The store is built by a process of its own (``viewer.store_job``). What it has finished at its
last checkpoint is shown in full detail, and a closer sketch of the scene stands in for the rest:
first of all of it, in the end of nothing. The camera stays where it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.settings import Settings
from rendering.frame import FrameRequest
from scene_store.build.unfinished import UnfinishedStore
from scene_store.ledger import Budgets
from scene_store.memory import available_bytes, gaussian_bytes
from scene_store.sketch import Sketch, sketch_scene
from scene_store.store_folder import scratch_folder
from splat.errors import BelvedereError, BudgetError, one_line
from viewer.background import Background
from viewer.budgets import choose_budgets
from viewer.engines import create_rasterizer
from viewer.opening import Ready, cached_store, shown_stream, sketch_facts, store_cache
from viewer.scenes import Progress, SceneChoice
from viewer.store_job import StoreJob
from viewer.streams import OpenedStream, streamed

if TYPE_CHECKING:
    from rendering.streamed_scene import StreamedScene
    from viewer.server import ViewerServer

log = logging.getLogger(__name__)

Say = Callable[[str], None]

# A closer look than the first one, as large as this and this share of the memory allow.
CLOSER_COUNT = 2_000_000
CLOSER_S = 8.0
CLOSER_SHARE = 1 / 32
LOOK_EVERY_S = 0.5  # for a new checkpoint
LEAST_PROGRESS = 0.02  # of the scene, for which the picture is worth being changed
# Before one form gives way to the next.
WARM_UP_S = 5.0
WARM_UP_ERROR_PX = 1.0


def improve(
    ready: Ready,
    choice: SceneChoice,
    settings: Settings,
    server: ViewerServer,
    kept: contextlib.ExitStack,
    works: list[Background[Any]],
    say: Say,
) -> bool:
    """Build the store of a scene of which a first look is shown, and show it in its place.

    Args:
        ready: The first look.
        choice, settings: The scene.
        server: Shows it.
        kept: Keeps the store in the cache while it is drawn.
        works: Gets what goes on behind, to be closed by the caller whatever happens.
        say: Hears how it ended.

    Returns:
        Whether that came about; if not, one line said why.
    """
    assert ready.store is not None
    cache = store_cache(settings)
    changes = _Changes(ready, choice, settings, server)
    try:
        with cache.building(ready.store) as alone:
            problem = _build(choice, ready.store, changes, works) if alone else "it is being built"
    except OSError as error:
        problem = error.strerror or str(error)
    server.show_work(0.0, "")
    if not problem:
        cache.make_room(ready.store)
        opened = cached_store(choice, settings, kept)
        if opened is None:
            problem = "it cannot be opened"
        elif not (problem := changes.to_store(opened)):
            say(f"Streaming {opened.meta.count:,} Gaussians from {ready.store}")
            return True
    say(one_line(f"No store of {choice.shown}: {problem}; reading all of it instead"))
    return False


def _build(
    choice: SceneChoice, store: Path, changes: _Changes, works: list[Background[Any]]
) -> str:
    """Why it failed; "" if it did not."""
    job = StoreJob(choice.source_name, store)
    closer: Background[None] | None = None
    try:
        closer = Background(lambda progress: _show_closer(choice, store, changes, progress))
        works.append(closer)
        while not job.done.wait(0.1):
            changes.server.show_work(job.share, job.what)
    finally:
        job.close()
        if closer is not None:
            closer.close()
    closer.done.wait()  # two changes at once would show the older one in the end
    return job.error


def _show_closer(choice: SceneChoice, store: Path, changes: _Changes, progress: Progress) -> None:
    """Show the scene as far as its store is built, again and again; ends by ``progress``."""
    journal = scratch_folder(store) / "journal.json"
    seen, share = 0, -1.0
    try:
        progress(0.0, "")
        sketch = sketch_scene(choice.source_name, _closer_count(), CLOSER_S, lod=choice.lod)
        while True:
            progress(0.0, "")
            changed = _modified_ns(journal)
            if share < 0 or changed != seen:
                seen = changed
                source = UnfinishedStore(store, sketch)
                if source.share >= share + LEAST_PROGRESS:
                    share = source.share
                    changes.to_unfinished(source, sketch)
                else:
                    source.close()
            time.sleep(LOOK_EVERY_S)
    except (BelvedereError, OSError, MemoryError) as error:  # the first look does, too
        log.debug("no closer look: %s", error, exc_info=True)


def _closer_count() -> int:
    available = available_bytes()
    if available is None:
        return CLOSER_COUNT
    return min(CLOSER_COUNT, int(CLOSER_SHARE * available / gaussian_bytes(3)))


def _modified_ns(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class _Changes:
    """One form of the scene takes the place of another.

    While a store is built each form has half of the budgets, as two of them are in memory for a
    moment; the last one gets all of them when it is alone. Budgets that a user sets meanwhile
    are kept.
    """

    def __init__(
        self, ready: Ready, choice: SceneChoice, settings: Settings, server: ViewerServer
    ) -> None:
        self.server = server
        self._ready, self._choice, self._settings = ready, choice, settings
        stream = settings.stream
        self._all = choose_budgets(stream.host_budget, stream.device_budget, available_bytes())
        self._half = Budgets(self._all.host_bytes // 2, self._all.device_bytes // 2)
        self._before: StreamedScene | None = None

    def to_unfinished(self, source: UnfinishedStore, sketch: Sketch) -> None:
        """Show what is finished, and a sketch of the rest.

        Raises:
            BudgetError: If there is not enough memory for it; then nothing changes.
        """
        facts = sketch_facts(sketch, "a closer look")
        if source.finished:
            share = f"{100 * source.share:.0f} % of {sketch.total:,} Gaussians in full detail"
            facts = f"{sketch.meta.format_name} · {share}, a sketch of the rest"
        opened = OpenedStream(self._choice.title, source, self._ready.shown.start)
        self._before = self._change(opened, facts, self._half)

    def to_store(self, opened: OpenedStream) -> str:
        """Show the store. Returns why that failed; "" if it did not."""
        alone = self._before is None
        try:
            scene = self._change(opened, opened.facts, self._all if alone else self._half)
            if scene.budgets == self._half:
                scene.set_budgets(self._all)
        except BudgetError as error:
            return str(error)
        return ""

    def _change(self, opened: OpenedStream, facts: str, budgets: Budgets) -> StreamedScene:
        before = self._before
        if before is not None and before.budgets != self._half:
            budgets = before.budgets
        rasterizer = create_rasterizer(self._settings.render.engine)
        scene = streamed(opened, rasterizer, self._settings.stream, budgets)
        if before is not None:
            scene.policy = before.policy
        _warm_up(scene, self.server)
        self._ready.engine.replace_scene(scene)
        shown = shown_stream(opened, scene)
        self.server.replace(replace(shown, start=self._ready.shown.start, facts=facts))
        return scene


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
        requests = [request for request in requests if not _is_whole(scene, request)]
        time.sleep(0.02)


def _is_whole(scene: StreamedScene, request: FrameRequest) -> bool:
    """Whether the picture would lack nothing, and nothing coarse would still fade out of it."""
    with scene.acquire(request) as drawable:
        stream = drawable.stream
    return stream is None or (stream.complete and not stream.fading)
