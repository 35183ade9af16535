"""From a first look to the store of a scene, while somebody looks.

The store is built by a process of its own (``viewer.store_job``). What it has finished at its
last checkpoint is shown in full detail, and a closer sketch of the scene stands in for the rest:
first of all of it, in the end of nothing. The camera stays where it is, and what was good stays
good: a form gives way when the next one's pictures are as good (``is_as_good``), not before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from configs.settings import Settings
from rendering.base import PagingRasterizer
from rendering.frame import StreamStats
from rendering.streamed_scene import least_budgets
from scene_store.build.unfinished import UnfinishedStore, finished_gaussians
from scene_store.memory import available_bytes, gaussian_bytes
from scene_store.sketch import Sketch, sketch_scene
from scene_store.store_folder import scratch_folder
from splat.errors import BelvedereError, BudgetError, one_line
from splat.gaussians import MAX_SH_DEGREE, Gaussians
from viewer.background import Background
from viewer.budgets import KeptBytes, choose_budgets
from viewer.opening import Ready, cached_store, shown_stream, sketch_facts, store_cache
from viewer.scenes import Progress, SceneChoice
from viewer.session_stats import SessionStats
from viewer.shared_budgets import SharedBudgets
from viewer.store_job import StoreJob
from viewer.streams import OpenedStream, streamed

if TYPE_CHECKING:
    from rendering.streamed_scene import StreamedScene
    from viewer.client import BrowserView
    from viewer.server import ViewerServer

log = logging.getLogger(__name__)

Say = Callable[[str], None]

# A closer look than the first one, as large as this and this share of the memory allow.
CLOSER_COUNT = 2_000_000
CLOSER_S = 8.0
CLOSER_SHARE = 1 / 32
LOOK_EVERY_S = 0.5  # for a new checkpoint
# What must be finished of the scene for another form of it: so much more, and so many times as
# much as in the last one. A change reads again all that is in view, so they come at ever longer
# intervals. From the last share on the store itself is near.
LEAST_PROGRESS, LEAST_GROWTH, MOST_UNFINISHED = 0.02, 4 / 3, 0.9
# A form whose pictures are not as good by then takes over all the same: a camera that never
# rests, or a disk that stalls, must not keep the whole scene from being seen.
PREPARE_S = 30.0
PREPARE_EVERY_S = 0.1
# The same where nothing else can be shown meanwhile, for lack of memory.
PREPARE_ALONE_S = 1.0


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
    seen, shown = 0, -1.0

    def go_on() -> None:
        progress(0.0, "")

    try:
        go_on()
        most = _closer_count(changes.host_budget)
        sketch = sketch_scene(choice.source_name, most, CLOSER_S, lod=choice.lod)
        while True:
            go_on()
            changed = _modified_ns(journal)
            if shown < 0 or changed != seen:
                seen = changed
                if is_worth_showing(finished_gaussians(store) / max(1, sketch.total), shown):
                    source = UnfinishedStore(store, sketch)
                    shown = source.share
                    try:
                        changes.to_unfinished(source, sketch, go_on)
                    except BudgetError as error:  # a user may give more before the next one
                        log.debug("no closer look at present: %s", error)
            time.sleep(LOOK_EVERY_S)
    except (BelvedereError, OSError, MemoryError) as error:  # the first look does, too
        log.debug("no closer look: %s", error, exc_info=True)


def is_worth_showing(finished: float, shown: float) -> bool:
    """Whether an unfinished store is to take the place of an earlier form of it.

    Args:
        finished: Share of the scene that is there in full detail.
        shown: That of the earlier form; below 0 if there is none.
    """
    if shown < 0:
        return True
    least = max(shown + LEAST_PROGRESS, LEAST_GROWTH * shown)
    return least <= finished < MOST_UNFINISHED


def is_as_good(coming: StreamStats, shown: SessionStats) -> bool:
    """Whether a picture can take the place of the one that a browser shows.

    It can if it is complete: nothing is to come, or to fade. If what is shown is a picture at
    rest that is not complete either, or a sample, as many Gaussians will do. How many a moving
    picture has says nothing: it has fewer than are there.

    Args:
        coming: Of the picture in full detail, from where the browser looks now.
        shown: Of its last picture.
    """
    if coming.complete and not coming.fading:
        return True
    whole = shown.stream is not None and shown.stream.complete
    return shown.still and not whole and sum(coming.gaussians_by_level) >= shown.gaussians


def _closer_count(host_budget: int | None) -> int:
    """Of a sketch that stays in host memory while the store is built; half is for chunks."""
    available, each = available_bytes(), gaussian_bytes(3)
    share = CLOSER_COUNT if available is None else int(CLOSER_SHARE * available / each)
    allowed = CLOSER_COUNT if host_budget is None else max(1, host_budget // 2 // each)
    return min(CLOSER_COUNT, share, allowed)


def _modified_ns(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class _Changes:
    """One form of the scene takes the place of another.

    While a store is built each form has half of the budgets, as two of them are in memory during
    a change; the last one gets all of them when it is alone. Budgets that a user sets meanwhile
    are likewise those of both together. Where they are too small for two forms the one that is
    shown stays, and is given up before anything of the store is loaded.
    """

    def __init__(
        self, ready: Ready, choice: SceneChoice, settings: Settings, server: ViewerServer
    ) -> None:
        self.server = server
        self._ready, self._choice, self._settings = ready, choice, settings
        stream, drawers = settings.stream, ready.drawers
        memories = drawers.choice.host_memories
        room = drawers.gpu_room(MAX_SH_DEGREE, stream.max_gaussians)
        self._reach = drawers.gpu_reach()
        budgets = choose_budgets(
            stream.host_budget,
            stream.device_budget,
            available_bytes(),
            memories=memories,
            gpu_bytes=room,
        )
        self._shares = SharedBudgets(
            budgets,
            pictures=ready.engine if memories else None,
            most_kept=KeptBytes(settings.render.picture_cache),
            memories=memories,
            gpu_bytes=room,
        )
        drawers.rasterizers.on_replaced(lambda _: self._shares.move_to_host(available_bytes()))
        self._before: StreamedScene | None = None

    @property
    def host_budget(self) -> int | None:
        """That of the settings; None where nothing was said."""
        return self._settings.stream.host_budget

    def to_unfinished(
        self, source: UnfinishedStore, sketch: Sketch, go_on: Callable[[], None] = lambda: None
    ) -> None:
        """Show what is finished, and a sketch of the rest, as soon as it is as good.

        Args:
            source: Both; closed when something else is shown, or if this comes to nothing.
            sketch: What the rest is from.
            go_on: Called again and again meanwhile; whatever it raises ends the change.

        Raises:
            BudgetError: If there is not enough memory for it; then nothing changes.
        """
        facts = sketch_facts(sketch, "a closer look")
        if source.finished:
            share = f"{100 * source.share:.0f} % of {sketch.total:,} Gaussians in full detail"
            facts = f"{sketch.meta.format_name} · {share}, a sketch of the rest"
        opened = OpenedStream(self._choice.title, source, self._ready.shown.start)
        scene = self._beside(opened)
        if scene is None:
            source.close()
            raise BudgetError(f"{opened.title}: too little memory for two forms of it at once")
        self._change(scene, go_on)
        self._tell(opened, scene, facts)
        self._before = scene

    def to_store(self, opened: OpenedStream) -> str:
        """Show the store, as soon as it is as good. Returns why that failed; "" if it did not."""
        try:
            scene = self._beside(opened)
            if scene is None:
                scene = self._change_alone(opened)
            else:
                self._change(scene, lambda: None)
                self._shares.leave_all_to(scene)
        except BudgetError as error:
            opened.source.close()
            return str(error)
        self._tell(opened, scene, opened.facts)
        return ""

    def _beside(self, opened: OpenedStream) -> StreamedScene | None:
        """A form to come, beside the one that is shown; None without room for both."""
        by_memory = self._drawn_by()
        return self._shares.admit(
            least_budgets(opened.source, by_memory),
            lambda share: streamed(opened, by_memory, self._settings.stream, share, self._reach),
        )

    def _drawn_by(self) -> dict[str, PagingRasterizer]:
        """By memory, what the engine draws with at present."""
        engines = self._ready.engine.rasterizers
        return {memory: cast(PagingRasterizer, one) for memory, one in engines.items()}

    def _change(self, scene: StreamedScene, go_on: Callable[[], None]) -> None:
        """Show a form as soon as it is as good as the one that is shown."""
        try:
            self._prepare(scene, go_on, PREPARE_S)
        except BaseException:
            self._shares.give_up()
            scene.close()
            raise
        self._shares.take_over(scene, lambda: self._ready.engine.replace_scene(scene))

    def _change_alone(self, opened: OpenedStream) -> StreamedScene:
        """Give up what is shown, then load the last form and show it. A browser at rest keeps its
        picture meanwhile; one that moves sees nothing for a moment."""
        engine = self._ready.engine
        by_memory = self._drawn_by()
        scene = self._shares.admit_alone(
            least_budgets(opened.source, by_memory),
            lambda: engine.replace_scene(Gaussians.empty()),
            lambda all_of_it: streamed(
                opened, by_memory, self._settings.stream, all_of_it, self._reach
            ),
        )
        try:
            self._prepare(scene, lambda: None, PREPARE_ALONE_S)
        except BaseException:
            scene.close()
            raise
        engine.replace_scene(scene)
        return scene

    def _tell(self, opened: OpenedStream, scene: StreamedScene, facts: str) -> None:
        shown = shown_stream(opened, scene, self._shares)
        self.server.replace(replace(shown, start=self._ready.shown.start, facts=facts))

    def _prepare(self, scene: StreamedScene, go_on: Callable[[], None], limit_s: float) -> None:
        """Fetch what the browsers look at until it is as good as what they show: a streamed
        scene begins with its coarsest chunks."""
        end_s = time.monotonic() + limit_s
        while True:
            go_on()
            self._follow_user(scene)
            good = [_is_prepared(scene, view) for view in self.server.views]  # asks for all
            if all(good) or time.monotonic() >= end_s:
                return
            time.sleep(PREPARE_EVERY_S)

    def _follow_user(self, coming: StreamedScene) -> None:
        """How the form that is shown was set to be drawn counts for the next one, too."""
        before = self._before
        if before is not None and coming.policy != before.policy:
            coming.policy = before.policy


def _is_prepared(scene: StreamedScene, view: BrowserView) -> bool:
    """Whether a browser's picture would be as good; what it lacks is fetched from now on."""
    request = view.request
    if request is None:
        return True
    with scene.acquire(request) as drawable:
        stream = drawable.stream
    return stream is None or is_as_good(stream, view.session.stats)
