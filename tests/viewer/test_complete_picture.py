"""Pictures of streamed scenes that are waited for: whose chunks come late, or never."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.settings import RenderSettings, StreamSettings
from rendering.base import Outputs
from rendering.frame import FrameRequest
from rendering.streamed_scene import StreamedScene
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.store import Store, open_store
from splat.camera import Camera
from splat.errors import RenderCancelled
from tests import scenes
from viewer.complete_picture import CompleteScene
from viewer.drawing import prepared
from viewer.engines import create_rasterizer
from viewer.scenes import SceneChoice
from viewer.streams import OpenedStream, open_stream, stream_start, streamed

WAIT_S = 20.0
TWO_DEVICES = RenderSettings(threads=1, near=0.01, devices="2", schedule="alternate-frame")
MEMORY = StreamSettings(host_budget=64 << 20, device_budget=64 << 20)


@pytest.fixture(scope="module")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ply = tmp_path_factory.mktemp("ball") / "ball.ply"
    write_ply(ply, [scenes.random_scene(3, 8_000, 1)], 8_000, 1)
    build_store([ply], ply.with_suffix(".bvs"), BuildOptions(page_gaussians=1024, threads=1))
    return ply.with_suffix(".bvs")


def view(x: float) -> Camera:
    return Camera.look_at(
        (x, -1.0, -6.0), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=97, height=70, near=0.01
    )


class Silent:
    """A store whose finest chunks never come."""

    def __init__(self, store: Store) -> None:
        self.store, self.leaves = store, set(np.flatnonzero(store.tree.is_leaf).tolist())

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def read(self, chunk: int, cancelled: object = None) -> object:
        if chunk in self.leaves:
            raise OSError("no answer")  # hoped to pass
        return self.store.read(chunk)


@contextlib.contextmanager
def silent(store_path: Path) -> Iterator[StreamedScene]:
    store = open_store(store_path)
    start = stream_start(SceneChoice(store_path, 1), store)
    opened = OpenedStream("silent", Silent(store), start)  # type: ignore[arg-type]
    with contextlib.closing(
        streamed(opened, create_rasterizer("native"), replace(MEMORY, fade_ms=0.0))
    ) as scene:
        yield scene


def test_silence_ends_the_wait_and_so_does_stopping(ball_store: Path) -> None:
    request = FrameRequest("export", 1, (view(0.0),))
    with silent(ball_store) as scene:
        with CompleteScene(scene, give_up_s=0.2).acquire(request) as drawable:
            assert drawable.stream is not None and not drawable.stream.complete
        patient = CompleteScene(scene)
        threading.Timer(0.1, patient.stop).start()
        began_s = time.monotonic()
        with pytest.raises(RenderCancelled), patient.acquire(request):
            raise AssertionError("it never is complete")
        assert time.monotonic() - began_s < 5
        assert scene.stats().leased == 0


def test_while_others_are_drawn_silence_is_waited_out(ball_store: Path) -> None:
    """What they hold may be what there is no room for."""
    with silent(ball_store) as scene:
        complete = CompleteScene(scene, give_up_s=0.05)
        with complete.acquire(FrameRequest("export", 1, (view(0.0),))):
            second_is_here = threading.Event()

            def second() -> None:
                with (
                    contextlib.suppress(RenderCancelled),
                    complete.acquire(FrameRequest("export", 2, (view(0.5),))),
                ):
                    second_is_here.set()

            thread = threading.Thread(target=second)
            thread.start()
            assert not second_is_here.wait(0.6)
        assert second_is_here.wait(WAIT_S), "now it is alone, and gives up"
        thread.join(WAIT_S)


def test_whoever_waited_for_others_has_its_own_time_when_they_are_done(ball_store: Path) -> None:
    with silent(ball_store) as scene:
        complete = CompleteScene(scene, give_up_s=0.6)
        second_is_here = threading.Event()

        def second() -> None:
            with complete.acquire(FrameRequest("export", 2, (view(0.5),))):
                second_is_here.set()

        thread = threading.Thread(target=second)
        with complete.acquire(FrameRequest("export", 1, (view(0.0),))):
            thread.start()
            time.sleep(1.0)
        assert not second_is_here.wait(0.3), "there is room only now"
        assert second_is_here.wait(WAIT_S)
        thread.join(WAIT_S)


def test_whoever_is_interrupted_does_not_wait_for_chunks(
    ball_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_some() -> None:
        with silent(ball_store) as scene:
            monkeypatch.setattr("viewer.drawing.streamed", lambda *a: scene)
            opened = open_stream(SceneChoice(ball_store, 1))
            with prepared(opened, TWO_DEVICES, MEMORY, print) as draw:
                views = draw.each([(view(0.0),), (view(0.1),)], Outputs.COLOR)
                me = threading.get_ident()
                threading.Timer(0.3, signal.pthread_kill, [me, signal.SIGINT]).start()
                next(views)

    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        draw_some()
    assert time.monotonic() - began_s < 10
