"""From a first look to a store: what is shown meanwhile, and with how much memory."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import viser
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import Settings, StreamSettings
from rendering.base import RasterSettings
from rendering.frame import FrameRequest, StreamStats
from rendering.streamed_scene import StreamedScene
from scene_store.build import BuildOptions, Stage, build_store
from scene_store.build.unfinished import UnfinishedStore
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.sketch import Sketch, sketch_scene
from splat.camera import Camera
from splat.errors import BudgetError
from tests import scenes
from tests.viewer.test_stream_panel import moved
from viewer import improving
from viewer.background import Background
from viewer.budgets import KeptBytes, beside_kept, kept_share
from viewer.client import BrowserView, ShownScene
from viewer.improving import _Changes, _show_closer, is_as_good, is_worth_showing
from viewer.opening import Ready, cached_store, open_first
from viewer.scenes import SceneChoice
from viewer.session_stats import SessionStats
from viewer.stream_panel import StreamBounds, StreamPanel
from viewer.streams import OpenedStream, streamed

COUNT = 30_000
WAIT_S = 60.0
MIB = 1 << 20
STREAM = StreamSettings(store_from=1000, host_budget=64 * MIB, device_budget=128 * MIB)
SETTINGS = Settings(stream=STREAM)
ALL = Budgets(64 * MIB, 128 * MIB)


def chunks_of(device_mib: int, forms: int = 1) -> Budgets:
    """What each form has of budgets; an eighth of the device's is for finished pictures."""
    device = device_mib * MIB
    return Budgets(64 * MIB // forms, (device - device // 8) // forms)


HALF = chunks_of(128, forms=2)


class _Stopped(Exception):
    """A build that was interrupted."""


@dataclass
class FakeServer:
    """Nobody looks; what is to be shown is remembered."""

    shown: list[ShownScene] = field(default_factory=list)
    views: tuple[Any, ...] = ()

    def replace(self, scene: ShownScene) -> None:
        self.shown.append(scene)


@dataclass
class FakeSession:
    stats: SessionStats = field(default_factory=SessionStats)


class FakeView:
    """A browser at rest: its picture is drawn again and again."""

    def __init__(self, ready: Ready) -> None:
        self._engine = ready.engine
        camera: Camera = ready.shown.start.camera(64, 48, 0.01)
        self.request = FrameRequest("somebody", 0, (camera,), RasterSettings(threads=1))
        self.session = FakeSession()

    def draw(self) -> int:
        """Gaussians of the newest picture."""
        stats = self._engine.submit(replace(self.request)).result(WAIT_S).stats
        drawn = stats.raster[0].gaussians
        self.session.stats = SessionStats(still=True, gaussians=drawn, stream=stats.stream)
        return drawn

    def rest(self) -> int:
        """The same, once the picture is complete."""
        deadline = time.monotonic() + WAIT_S
        while True:
            drawn, stats = self.draw(), self.session.stats
            if stats.settled:
                return drawn
            assert time.monotonic() < deadline, "its picture is never complete"


class SlowSource:
    """Chunks that come one by one, each after ``wait``; the rest is the source's."""

    def __init__(self, source: Any, wait: Callable[[], object]) -> None:
        self._source, self._wait = source, wait
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, chunk: int, cancelled: Callable[[], bool]) -> Any:
        self._wait()
        return self._source.read(chunk, cancelled)

    def close(self) -> None:
        self.closed = True
        self._source.close()


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def ball_ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    write_ply(path, [scenes.random_scene(5, COUNT, 0)], COUNT, 0)
    return path


@pytest.fixture
def choice(ball_ply: Path) -> SceneChoice:
    return SceneChoice(ball_ply, 1)


@pytest.fixture
def ready(choice: SceneChoice) -> Iterator[Ready]:
    with contextlib.ExitStack() as stack:
        ready = open_first(choice, SETTINGS, stack, lambda share, what: None)
        stack.callback(ready.close)
        yield ready


def build(choice: SceneChoice, store: Path, until: float = 1.0) -> None:
    """The store of the scene, or its beginning."""

    def stop(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.BUILD and done > until * total:
            raise _Stopped

    store.parent.mkdir(parents=True, exist_ok=True)
    options = BuildOptions(page_gaussians=1024, threads=1, checkpoint_s=0.0, rebuild_lod=True)
    with contextlib.suppress(_Stopped):
        build_store([choice.source_name], store, options, stop)


def is_seen(ready: Ready) -> bool:
    """Whether something of the scene is drawn, sooner or later."""
    camera: Camera = ready.shown.start.camera(64, 48, 0.01)
    deadline = time.monotonic() + WAIT_S
    for sequence in itertools.count():
        request = FrameRequest("somebody", sequence, (camera,), RasterSettings(threads=1))
        alpha = ready.engine.submit(request).result(WAIT_S).images[0].alpha
        if alpha.max() > 0.5 or time.monotonic() > deadline:
            return bool(alpha.max() > 0.5)
        time.sleep(0.01)
    return False


def show_in(panel: StreamPanel, shown: ShownScene) -> None:
    """As the browser's ticker does."""
    assert shown.stream is not None and shown.shares is not None
    held = replace(shown.stream.stats(), budgets=shown.shares.budgets)
    panel.show(held, None, shown.stream.policy.max_gaussians)


def show_unfinished(changes: _Changes, choice: SceneChoice, ready: Ready) -> Sketch:
    """The form in which somewhat more than a half is finished; the sketch of the rest."""
    assert ready.store is not None
    sketch = sketch_scene(choice.source_name, 4_000, 5.0)
    build(choice, ready.store, 0.6)
    changes.to_unfinished(UnfinishedStore(ready.store, sketch), sketch)
    return sketch


def test_what_is_finished_is_shown_then_all_of_it(choice: SceneChoice, ready: Ready) -> None:
    assert ready.store is not None
    server: Any = FakeServer()
    changes = _Changes(ready, choice, SETTINGS, server)
    show_unfinished(changes, choice, ready)
    (first,) = server.shown
    assert "of 30,000 Gaussians in full detail, a sketch of the rest" in first.facts
    assert first.stream is not None and first.stream.budgets == HALF
    first.stream.policy = replace(first.stream.policy, max_gaussians=12_345)
    assert is_seen(ready)

    build(choice, ready.store)
    with contextlib.ExitStack() as kept:
        opened = cached_store(choice, SETTINGS, kept)
        assert opened is not None and changes.to_store(opened) == ""
        last = server.shown[-1]
        assert last.stream is not None and last.stream.budgets == chunks_of(128)
        assert last.stream.policy.max_gaussians == 12_345, "what a user has set is kept"
        assert last.start is ready.shown.start, "so the camera stays"
        assert is_seen(ready)
        ready.close()


def test_before_anything_is_finished_the_look_is_closer(
    choice: SceneChoice, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ready.store is not None
    server: Any = FakeServer()
    changes = _Changes(ready, choice, SETTINGS, server)
    monkeypatch.setattr(improving, "CLOSER_COUNT", 8_000)
    monkeypatch.setattr(improving, "LOOK_EVERY_S", 0.01)
    store = ready.store
    work = Background(lambda progress: _show_closer(choice, store, changes, progress))
    while not server.shown and not work.done.wait(0.01):
        pass
    assert "a closer look: " in server.shown[0].facts
    assert server.shown[0].stream.source.meta.count == COUNT
    build(choice, store, 0.5)
    while len(server.shown) < 2 and not work.done.wait(0.01):
        pass
    assert "in full detail" in server.shown[1].facts
    work.close()
    assert work.done.wait(WAIT_S)
    ready.close()


def test_without_memory_for_it_the_first_look_stays(choice: SceneChoice, ready: Ready) -> None:
    assert ready.store is not None
    server: Any = FakeServer()
    tiny = Settings(stream=replace(STREAM, host_budget=1000))
    changes = _Changes(ready, choice, tiny, server)
    sketch = sketch_scene(choice.source_name, 4_000, 5.0)
    with pytest.raises(BudgetError):
        changes.to_unfinished(UnfinishedStore(ready.store, sketch), sketch)
    assert server.shown == [] and is_seen(ready)


def stream_stats(*, complete: bool = True, fading: bool = False, drawn: int = 0) -> StreamStats:
    return StreamStats(complete, fading, 0, 0, 0.0, 1, (drawn,), 0.0)


WHOLE = SessionStats(still=True, gaussians=100, stream=stream_stats(drawn=100))
LACKING = replace(WHOLE, stream=stream_stats(complete=False, drawn=100))


@pytest.mark.parametrize(
    ("coming", "shown", "good"),
    [
        (stream_stats(drawn=10), WHOLE, True),  # the sketch's place in it may hold fewer
        (stream_stats(drawn=10, fading=True), WHOLE, False),
        (stream_stats(drawn=1000, complete=False), WHOLE, False),  # sharp places would blur
        (stream_stats(drawn=99, complete=False), LACKING, False),
        (stream_stats(drawn=100, complete=False), LACKING, True),
        (stream_stats(drawn=100, complete=False), replace(LACKING, still=False), False),
        (stream_stats(drawn=100, complete=False), replace(WHOLE, stream=None), True),
        (stream_stats(drawn=99, complete=False), replace(WHOLE, stream=None), False),
    ],
)
def test_a_picture_gives_way_to_one_that_is_as_good(
    coming: StreamStats, shown: SessionStats, good: bool
) -> None:
    assert is_as_good(coming, shown) is good


@given(st.lists(st.floats(0, 1), min_size=1))
def test_forms_come_at_ever_longer_intervals_and_not_near_the_end(shares: list[float]) -> None:
    shown = [-1.0]
    for share in sorted(shares):
        if is_worth_showing(share, shown[-1]):
            shown.append(share)
    assert len(shown) <= 15, "however many checkpoints a build has"
    for before, after in itertools.pairwise(shown[1:]):
        assert after - before >= max(0.0199, 0.33 * before) and after < 0.9


def test_no_picture_on_the_way_to_the_store_is_worse_and_the_budgets_hold(
    choice: SceneChoice, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ready.store is not None
    view = FakeView(ready)
    server: Any = FakeServer(views=(view,))
    changes = _Changes(ready, choice, SETTINGS, server)
    view.rest()
    show_unfinished(changes, choice, ready)
    finished = view.rest()
    assert finished > 0.5 * COUNT
    (before,) = (shown.stream for shown in server.shown)
    given_up = threading.Event()  # it still tells what it holds
    monkeypatch.setattr(before, "close", given_up.set)

    build(choice, ready.store)
    made: list[StreamedScene] = []

    def noted(*what: Any) -> StreamedScene:
        made.append(streamed(*what))
        return made[-1]

    monkeypatch.setattr(improving, "streamed", noted)
    leave_all_to, alone = changes._shares.leave_all_to, threading.Event()

    def noting(last: StreamedScene) -> None:
        alone.set()
        leave_all_to(last)

    monkeypatch.setattr(changes._shares, "leave_all_to", noting)
    with contextlib.ExitStack() as kept:
        opened = cached_store(choice, SETTINGS, kept)
        assert opened is not None
        slow: Any = SlowSource(opened.source, lambda: time.sleep(0.02))
        opened = OpenedStream(opened.title, slow, opened.start)
        change = threading.Thread(target=changes.to_store, args=(opened,))
        change.start()
        drawn = []
        while change.is_alive():
            drawn.append(view.draw())
            scenes_now = [before, *made]
            held = [scene.stats() for scene in scenes_now]
            budgets = [scene.budgets for scene in scenes_now]
            pictures = ready.engine.pictures.held_bytes
            if not alone.is_set():  # so it was until here
                assert budgets == [HALF] * len(budgets)
                assert sum(each.host_bytes for each in held) <= ALL.host_bytes
                assert sum(each.device_bytes for each in held) + pictures <= ALL.device_bytes
        monkeypatch.undo()
        before.close()
        assert drawn.count(finished) > 3, "it was shown while the store was read"
        assert min(drawn) == finished and view.rest() == COUNT
        ready.close()


def test_what_never_becomes_as_good_takes_over_in_the_end(
    choice: SceneChoice, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ready.store is not None
    view = FakeView(ready)
    server: Any = FakeServer(views=(view,))
    view.draw()
    monkeypatch.setattr(improving, "PREPARE_S", 0.5)
    build(choice, ready.store)
    over = threading.Event()
    with contextlib.ExitStack() as kept:
        opened = cached_store(choice, SETTINGS, kept)
        assert opened is not None
        slow: Any = SlowSource(opened.source, lambda: over.wait(WAIT_S))
        began_s = time.monotonic()
        changes = _Changes(ready, choice, SETTINGS, server)
        assert changes.to_store(OpenedStream(opened.title, slow, opened.start)) == ""
        assert time.monotonic() - began_s >= 0.5 and len(server.shown) == 1
        over.set()
        assert view.rest() == COUNT
        ready.close()


@pytest.mark.parametrize("watched", [True, False])
def test_a_form_that_is_overtaken_is_given_up(
    choice: SceneChoice, ready: Ready, watched: bool
) -> None:
    assert ready.store is not None
    view = FakeView(ready)
    server: Any = FakeServer(views=(view,) if watched else ())
    changes = _Changes(ready, choice, SETTINGS, server)
    first = view.draw()
    build(choice, ready.store, 0.6)
    sketch = sketch_scene(choice.source_name, 4_000, 5.0)
    over = threading.Event()
    slow: Any = SlowSource(UnfinishedStore(ready.store, sketch), lambda: over.wait(WAIT_S))
    asked = itertools.count()

    def go_on() -> None:
        if next(asked) == 3:
            over.set()
            raise _Stopped

    if not watched:
        changes.to_unfinished(slow, sketch, go_on)
        assert len(server.shown) == 1, "nobody has to wait for what nobody looks at"
    else:
        with pytest.raises(_Stopped):
            changes.to_unfinished(slow, sketch, go_on)
        assert slow.closed and not server.shown and view.draw() == first
    over.set()
    ready.close()


def test_one_slider_moved_twice_changes_its_own_budget_and_no_other(
    choice: SceneChoice, ready: Ready, viser_server: viser.ViserServer
) -> None:
    assert ready.store is not None
    server: Any = FakeServer()
    changes = _Changes(ready, choice, SETTINGS, server)
    sketch = show_unfinished(changes, choice, ready)
    view: Any = BrowserView.__new__(BrowserView)
    view._scene, view._on_limits = server.shown[-1], lambda: None
    panel = StreamPanel(
        viser_server.gui, bounds=StreamBounds(Budgets(MIB, MIB), 512 * MIB, COUNT), budgets=ALL,
        max_gaussians=COUNT, actions=view, order=1,
    )  # fmt: skip
    for device in (100, 90):
        show_in(panel, server.shown[-1])
        assert panel._host.value == 64, "the whole budget is shown"
        moved(panel._device, device)
        shown = server.shown[-1]
        assert shown.shares.budgets == Budgets(64 * MIB, device * MIB)
        assert shown.stream.budgets == chunks_of(device, forms=2)
        changes.to_unfinished(UnfinishedStore(ready.store, sketch), sketch)
        assert server.shown[-1].stream.budgets == shown.stream.budgets
        view._scene = server.shown[-1]
    build(choice, ready.store)
    with contextlib.ExitStack() as kept:
        opened = cached_store(choice, SETTINGS, kept)
        assert opened is not None and changes.to_store(opened) == ""
        last = server.shown[-1]
        assert last.stream.budgets == chunks_of(90)
        assert last.most_memory >= 90 * MIB
        ready.close()


def test_without_room_for_two_forms_the_one_that_is_shown_stays(
    choice: SceneChoice, ready: Ready
) -> None:
    assert ready.store is not None
    server: Any = FakeServer()
    changes = _Changes(ready, choice, SETTINGS, server)
    sketch = show_unfinished(changes, choice, ready)
    (shown,) = server.shown
    shown.shares.set_budgets(shown.stream.least_budgets)
    with pytest.raises(BudgetError, match="two forms"):
        changes.to_unfinished(UnfinishedStore(ready.store, sketch), sketch)
    assert server.shown == [shown] and shown.stream.budgets == shown.stream.least_budgets
    assert is_seen(ready)
    shown.shares.set_budgets(ALL)
    changes.to_unfinished(UnfinishedStore(ready.store, sketch), sketch)
    assert len(server.shown) == 2 and server.shown[1].stream.budgets == HALF
    ready.close()


def test_without_room_for_two_forms_the_store_comes_when_the_other_is_gone(
    choice: SceneChoice, ready: Ready
) -> None:
    assert ready.store is not None
    view = FakeView(ready)
    server: Any = FakeServer(views=(view,))
    changes = _Changes(ready, choice, SETTINGS, server)
    view.rest()
    show_unfinished(changes, choice, ready)
    (shown,) = server.shown
    view.rest()
    (memory,) = shown.stream._memories.values()
    pool = memory._pages._pool
    assert pool.pages_in_use > 0
    least = shown.stream.least_budgets
    little = Budgets(ALL.host_bytes, 2 * least.device_bytes - 1)
    shown.shares.set_budgets(little)
    build(choice, ready.store)
    in_use: list[int] = []
    with contextlib.ExitStack() as kept:
        opened = cached_store(choice, SETTINGS, kept)
        assert opened is not None
        slow: Any = SlowSource(opened.source, lambda: in_use.append(pool.pages_in_use))
        assert changes.to_store(OpenedStream(opened.title, slow, opened.start)) == ""
        last = server.shown[-1]
        assert last.shares.budgets == little
        most = KeptBytes(SETTINGS.render.picture_cache)
        share = kept_share(little, most, last.stream.least_budgets)
        assert last.stream.budgets == beside_kept(little, share) and share.pictures > 0
        assert is_seen(ready)
        assert in_use and not any(in_use), "nothing is read while the other is there"
        ready.close()
