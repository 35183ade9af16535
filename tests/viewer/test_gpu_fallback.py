"""GPUs that are lost, or have no room: everybody goes on looking."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import RenderSettings, Settings, StreamSettings
from render_cache.reuse import ReuseLimits
from rendering.base import RasterSettings
from rendering.device_memory import DeviceMemory
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene
from splat.camera import Camera
from splat.errors import BelvedereError, BudgetError
from splat.stereo import StereoRig
from tests.engine_devices import WAIT_S, bytes_of
from tests.fake_driver import H200
from tests.fake_gpu import FakeCard, FakeGpus
from tests.scenes import random_scene
from tests.test_engine_faults import wait_until
from tests.test_streamed_memories import Asking, drew, expected, street_store
from viewer.camera_choice import CameraChoice
from viewer.device_view import gpu_line
from viewer.engines import create_engine, open_drawers
from viewer.export import export
from viewer.export_targets import Targets
from viewer.opening import Ready, open_first, opens_in_parts
from viewer.scenes import SceneChoice

__all__ = ["expected", "street_store"]  # fixtures

MIB = 1 << 20
BALL = random_scene(3, 3_000, 0)
SECOND = replace(H200, index=1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """A machine with a GPU."""
    return FakeGpus([H200]).install(monkeypatch)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    return FakeGpus([H200, SECOND]).install(monkeypatch)


@pytest.fixture
def ball_ply(tmp_path: Path) -> Path:
    from scene_store.formats.ply import write_ply

    write_ply(tmp_path / "ball.ply", [BALL], len(BALL), 0)
    return tmp_path / "ball.ply"


def card_of(gpus: FakeGpus, name: str = "cuda:0") -> FakeCard:
    return gpus.cards[name]


def view(x: float = 0.0) -> Camera:
    return Camera.look_at(
        (x, -0.5, -6.0), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=83, height=131
    )


def plain(*cameras: Camera) -> list[bytes]:
    """By the processor."""
    rasterizer = NativeRasterizer()
    scene = rasterizer.prepare(BALL)
    settings = RasterSettings(threads=1)
    return bytes_of([rasterizer.render(scene, camera, settings) for camera in cameras])


class Looking:
    """One client, that never looks from the same place twice."""

    def __init__(self, engine: RenderEngine, name: str) -> None:
        self._engine, self._name, self._sequence = engine, name, 0

    def draws_right(self, eyes: int = 1) -> Frame:
        self._sequence += 1
        cameras = tuple(view(0.01 * self._sequence + 0.1 * eye) for eye in range(eyes))
        settings = RasterSettings(threads=1)
        request = FrameRequest(self._name, self._sequence, cameras, settings)
        frame = self._engine.submit(request).result(WAIT_S)
        assert bytes_of(frame.images) == plain(*cameras)
        return frame


@contextlib.contextmanager
def drawing_ball(render: RenderSettings) -> Iterator[tuple[RenderEngine, Looking, Looking]]:
    with create_engine(render, open_drawers(render), BALL) as engine:
        yield engine, Looking(engine, "a"), Looking(engine, "b")


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if words in r.getMessage()]


# Scenes that are in memory


def test_a_gpu_that_is_lost_for_a_moment_draws_again(gpu: FakeGpus) -> None:
    with drawing_ball(RenderSettings()) as (engine, a, b):
        a.draws_right()
        card_of(gpu).lose()
        assert drew(a.draws_right()) == {"cuda:0"}
        b.draws_right()
        assert engine.rasterizers["cuda:0"] is card_of(gpu).made[1]
        assert engine.devices[0].faults == 1


def test_the_processor_takes_the_place_of_a_gpu_that_is_gone(
    gpu: FakeGpus, caplog: pytest.LogCaptureFixture
) -> None:
    with drawing_ball(RenderSettings()) as (engine, a, b):
        a.draws_right()
        card_of(gpu).dead = True
        for client in (a, b, a, b):
            client.draws_right(eyes=2)
        assert engine.rasterizers["cuda:0"].name == "native"
        engine.restart_device("cuda:0")
        a.draws_right()
        (status,) = engine.devices
        assert status.engine == "native"
        assert gpu_line(status) == (
            "cuda:0: NVIDIA H200 is gone; the processor draws in its place."
        )
    (line,) = said(caplog, "in its place")
    assert line.startswith("cuda:0 is gone: the GPU has fallen off the bus; the processor draws")


def test_a_gpu_that_is_lost_again_and_again_is_gone(gpu: FakeGpus) -> None:
    with drawing_ball(RenderSettings()) as (engine, a, _):
        card_of(gpu).lose(1_000)
        a.draws_right()
        assert engine.rasterizers["cuda:0"].name == "native"
        assert len(card_of(gpu).made) == 3


MIXED = ("tile-split", "eye-parallel", "alternate-frame", "single")


@pytest.mark.parametrize("schedule", MIXED)
def test_a_gpu_beside_the_processor_retires_when_it_is_gone(
    gpu: FakeGpus, caplog: pytest.LogCaptureFixture, schedule: str
) -> None:
    render = RenderSettings(devices="cuda:0,cpu", schedule=schedule)
    with drawing_ball(render) as (engine, a, b):
        devices = set[str]()
        for client in (a, b, a, b):
            devices |= drew(client.draws_right(eyes=2))
        assert "cuda:0" in devices
        assert devices == {"cuda:0"} if schedule == "single" else {"cuda:0", "cpu:0"}
        card_of(gpu).dead = True
        for client in (a, b, a, b):
            client.draws_right(eyes=2)
        wait_until(lambda: engine.devices[0].retired)
        assert drew(a.draws_right(eyes=2)) == {"cpu:0"}
    assert not said(caplog, "in its place")
    assert len(said(caplog, "no longer used")) == 1


def test_of_two_gpus_that_are_gone_one_is_replaced(
    two_gpus: FakeGpus, caplog: pytest.LogCaptureFixture
) -> None:
    render = RenderSettings(devices="cuda", schedule="tile-split")
    with drawing_ball(render) as (engine, a, b):
        assert drew(a.draws_right()) == {"cuda:0", "cuda:1"}
        for card in two_gpus.cards.values():
            card.dead = True
        with contextlib.suppress(BelvedereError):
            a.draws_right()
        wait_until(lambda: any(device.retired for device in engine.devices))
        wait_until(lambda: any(device.ready for device in engine.devices))
        for client in (a, b):
            client.draws_right(eyes=2)
    assert len(said(caplog, "in its place")) == 1


def test_two_eyes_are_drawn_at_once_on_a_gpu_too(gpu: FakeGpus) -> None:
    render = RenderSettings(devices="cuda:0,cpu", schedule="single")
    settings = RasterSettings(threads=1, reuse=ReuseLimits(0.5, 0.1))
    with drawing_ball(render) as (engine, _, _b):
        request = FrameRequest("a", 1, StereoRig(0.06).eyes(view()), settings)
        assert len(engine.submit(request).result(WAIT_S).images) == 2
        assert card_of(gpu).made[0].pairs == 1


def test_elastic_settings_begin_with_the_first_device(gpu: FakeGpus) -> None:
    render = RenderSettings(devices="cuda:0,cpu", schedule="tile-split", elastic=True)
    with drawing_ball(render) as (engine, a, _):
        assert [device.in_use for device in engine.devices] == [True, False]
        assert drew(a.draws_right()) == {"cuda:0"}


# Streamed scenes

LITTLE = Settings(stream=StreamSettings(host_budget=64 * MIB, device_budget=64 * MIB, fade_ms=0.0))


@contextlib.contextmanager
def streaming(store: Path, settings: Settings = LITTLE) -> Iterator[tuple[Ready, StreamedScene]]:
    with contextlib.ExitStack() as kept:
        ready = open_first(SceneChoice(store, 1), settings, kept, lambda share, what: None)
        kept.callback(ready.close)
        assert ready.shown.stream is not None
        yield ready, ready.shown.stream


@pytest.mark.parametrize("how", ["for a moment", "for good"])
def test_a_streamed_scene_goes_on_when_its_gpu_is_lost(
    gpu: FakeGpus, street_store: Path, expected: Frame, how: str
) -> None:
    with streaming(street_store) as (ready, scene):
        a, b = Asking(ready.engine, "a"), Asking(ready.engine, "b")
        assert bytes_of(a.complete().images) == bytes_of(expected.images)
        assert scene.engine_of("cuda:0") == "fused"
        card_of(gpu).dead = how == "for good"
        card_of(gpu).lose()
        for client in (a, b):
            frame = client.complete()
            assert bytes_of(frame.images) == bytes_of(expected.images)
        replaced = how == "for good"
        assert scene.engine_of("cuda:0") == ("native" if replaced else "fused")
        held, most = scene.held_bytes("cuda:0")
        assert 0 < held <= most
        shares = ready.shown.shares
        assert shares is not None and shares.memories == replaced
        assert (shares.gpu_bytes is None) == replaced


def test_a_gpu_that_is_gone_while_chunks_are_on_their_way(
    gpu: FakeGpus, street_store: Path, expected: Frame
) -> None:
    """Uploads fail before any picture does."""
    with streaming(street_store) as (ready, _):
        card_of(gpu).dead = True
        client = Asking(ready.engine)
        assert bytes_of(client.complete().images) == bytes_of(expected.images)


def test_chunks_of_a_gpu_beside_the_processor(
    gpu: FakeGpus, street_store: Path, expected: Frame
) -> None:
    render = RenderSettings(devices="cuda:0,cpu", schedule="tile-split")
    with streaming(street_store, replace(LITTLE, render=render)) as (ready, scene):
        client = Asking(ready.engine)
        assert bytes_of(client.complete().images) == bytes_of(expected.images)
        assert scene.present == {"cuda:0", "host"}
        card_of(gpu).dead = True
        assert bytes_of(client.complete().images) == bytes_of(expected.images)
        wait_until(lambda: ready.engine.devices[0].retired)
        assert scene.present == {"host"} and drew(client.draw()) == {"cpu:0"}


def test_a_budget_of_a_gpu_is_no_more_than_the_host_has_when_it_is_gone(
    gpu: FakeGpus, street_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(stream=StreamSettings(fade_ms=0.0))
    with streaming(street_store, settings) as (ready, scene):
        assert scene.budgets.device_bytes > 0.7 * H200.memory_bytes
        Asking(ready.engine).complete()
        monkeypatch.setattr("viewer.opening.available_bytes", lambda: 1 << 30)
        card_of(gpu).dead = True
        Asking(ready.engine, "b").complete()
        assert 256 * MIB < scene.budgets.device_bytes < 1 << 30


def test_a_scene_that_was_made_for_a_gpu_that_is_gone_meanwhile(
    gpu: FakeGpus, street_store: Path, expected: Frame
) -> None:
    from scene_store.store import open_store

    with streaming(street_store) as (ready, scene):
        before = ready.engine.rasterizers
        card_of(gpu).dead = True
        Asking(ready.engine).complete()
        card_of(gpu).dead = False
        late = StreamedScene(open_store(street_store), before, scene.budgets, scene.policy)  # type: ignore[arg-type]
        ready.engine.replace_scene(late)
        assert late.engine_of("cuda:0") == "native"
        frame = Asking(ready.engine, "b").complete()
        assert bytes_of(frame.images) == bytes_of(expected.images)


# Budgets


def test_a_gpu_has_a_budget_of_its_own_memory(gpu: FakeGpus, street_store: Path) -> None:
    gpu.memory = DeviceMemory(8 << 30, 6 << 30)
    with streaming(street_store, Settings()) as (ready, scene):
        budgets = scene.budgets
        assert 1 << 30 < budgets.device_bytes < 6 << 30
        assert ready.engine.pictures.budget_bytes == RenderSettings().picture_cache
        shares = ready.shown.shares
        assert shares is not None and shares.held_bytes < 64 * MIB
        Asking(ready.engine).complete()
        assert scene.stats().device_bytes > 0
    much = Settings(stream=StreamSettings(device_budget=7 << 30))
    refused = pytest.raises(BudgetError, match=r"--device-budget 7 GiB: the GPU has .* what else")
    with refused, streaming(street_store, much):
        pass


def test_gsplat_has_room_for_half_as_much(gpu: FakeGpus) -> None:
    """It draws from a copy of the pages."""
    gpu.memory = DeviceMemory(16 << 30, 16 << 30)
    fused, gsplat = (open_drawers(RenderSettings(engine=name)) for name in ("fused", "gsplat"))
    one, other = (drawers.gpu_room(0, 1_000_000) for drawers in (fused, gsplat))
    assert one is not None and other is not None and other == pytest.approx(one / 2, rel=0.01)
    assert fused.take_whole(30_000_000, 0) and not gsplat.take_whole(35_000_000, 0)


def test_a_scene_that_no_gpu_can_hold_is_large(gpu: FakeGpus, ball_ply: Path) -> None:
    choice = SceneChoice(ball_ply, 1)
    assert not opens_in_parts(choice, Settings())
    small = replace(H200, memory_bytes=1 << 28)
    gpu.support = replace(gpu.support, gpus=(small,))
    assert opens_in_parts(choice, Settings())
    assert not opens_in_parts(choice, Settings(render=RenderSettings(devices="cpu")))


def test_a_scene_that_is_read_whole_and_does_not_fit_is_drawn_by_the_processor(
    gpu: FakeGpus, ball_ply: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.memory = DeviceMemory(4 << 30, 1 << 28)  # another process has the rest
    with contextlib.ExitStack() as kept:
        ready = open_first(SceneChoice(ball_ply, 1), Settings(), kept, lambda share, what: None)
        kept.callback(ready.close)
        assert [status.device.name for status in ready.engine.devices] == ["cpu:0"]
    (line,) = said(caplog, "no room")
    assert "NVIDIA H200 (cuda:0, engine fused) has no room for all of its" in line


# Export


@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_an_export_survives_its_gpu(
    gpu: FakeGpus, ball_ply: Path, street_store: Path, tmp_path: Path, kind: str
) -> None:
    path = ball_ply if kind == "whole" else street_store
    camera = CameraChoice(position=(0.0, -1.0, -8.0), look_at=(0.0, 0.0, 5.0), width=90, height=70)

    def written(name: str, render: RenderSettings) -> bytes:
        target = tmp_path / name
        export(SceneChoice(path, 1), camera, Targets(target), render, stream=LITTLE.stream)
        return target.read_bytes()

    on_processor = written("cpu.png", RenderSettings(devices="cpu"))
    assert written("gpu.png", RenderSettings()) == on_processor
    assert len(card_of(gpu).made) == 1
    card_of(gpu).lose()
    assert written("lost.png", RenderSettings()) == on_processor
    card_of(gpu).lose(1_000)
    assert written("gone.png", RenderSettings()) == on_processor
