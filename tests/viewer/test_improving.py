"""From a first look to a store: what is shown meanwhile, and with how much memory."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings, StreamSettings
from rendering.base import RasterSettings
from rendering.frame import FrameRequest
from scene_store.build import BuildOptions, Stage, build_store
from scene_store.build.unfinished import UnfinishedStore
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.sketch import sketch_scene
from splat.camera import Camera
from splat.errors import BudgetError
from tests import scenes
from viewer import improving
from viewer.background import Background
from viewer.client import ShownScene
from viewer.improving import _Changes, _show_closer
from viewer.opening import Ready, cached_store, open_first
from viewer.scenes import SceneChoice

COUNT = 30_000
WAIT_S = 60.0
MIB = 1 << 20
STREAM = StreamSettings(store_from=1000, host_budget=64 * MIB, device_budget=128 * MIB)
SETTINGS = Settings(stream=STREAM)
HALF, ALL = Budgets(32 * MIB, 64 * MIB), Budgets(64 * MIB, 128 * MIB)


class _Stopped(Exception):
    """A build that was interrupted."""


@dataclass
class FakeServer:
    """Nobody looks; what is to be shown is remembered."""

    shown: list[ShownScene] = field(default_factory=list)
    views: tuple[Any, ...] = ()

    def replace(self, scene: ShownScene) -> None:
        self.shown.append(scene)


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


def test_what_is_finished_is_shown_then_all_of_it(choice: SceneChoice, ready: Ready) -> None:
    assert ready.store is not None
    server: Any = FakeServer()
    changes = _Changes(ready, choice, SETTINGS, server)
    sketch = sketch_scene(choice.source_name, 4_000, 5.0)
    build(choice, ready.store, 0.6)
    changes.to_unfinished(UnfinishedStore(ready.store, sketch), sketch)
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
        assert last.stream is not None and last.stream.budgets == ALL
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
