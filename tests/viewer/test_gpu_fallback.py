"""GPUs that are lost, or have no room: everybody goes on looking."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import RenderSettings, Settings, StreamSettings
from render_cache.reuse import ReuseLimits
from rendering.base import RasterSettings
from rendering.device import Device, DeviceLost, gpu_device
from rendering.device_memory import DeviceMemory
from rendering.device_rasterizers import MOST_REFUSALS, DeviceRasterizers
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.gpu_discovery import Absence, DriverReport
from rendering.gpu_support import GpuSupport
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene
from splat.camera import Camera
from splat.errors import BackendUnavailable, BelvedereError, BudgetError, SettingsError
from splat.stereo import StereoRig
from tests.engine_devices import WAIT_S, bytes_of
from tests.fake_driver import H200
from tests.fake_gpu import FakeCard, FakeGpuRasterizer, FakeGpus
from tests.fake_rasterizer import FakeRasterizer
from tests.scenes import random_scene
from tests.test_engine_faults import wait_until
from tests.test_streamed_memories import Asking, drew, expected, street_store
from viewer.camera_choice import CameraChoice
from viewer.cli import main
from viewer.device_view import devices_html, gpu_line
from viewer.engines import DeviceChoice, create_engine, drawn_by, open_drawers
from viewer.export import export
from viewer.export_targets import Targets
from viewer.opening import Ready, open_first, opens_in_parts
from viewer.scenes import SceneChoice

__all__ = ["expected", "street_store"]  # fixtures

MIB = 1 << 20
BALL = random_scene(3, 3_000, 0)
SECOND = replace(H200, index=1)
WARNINGS = logging.WARNING


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """A machine with a GPU."""
    return FakeGpus([H200]).install(monkeypatch)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    return FakeGpus([H200, SECOND]).install(monkeypatch)


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


# What is chosen


def test_a_gpu_that_can_be_used_draws_by_itself(gpu: FakeGpus) -> None:
    choice = DeviceChoice.of(RenderSettings())
    assert [device.name for device in choice.devices] == ["cuda:0"]
    assert (choice.memories, choice.host_memories) == (("cuda:0",), 0)
    assert choice.title == "NVIDIA H200 (cuda:0, engine fused)"
    with drawing_ball(RenderSettings()) as (engine, a, _):
        assert drew(a.draws_right()) == {"cuda:0"}
        assert engine.rasterizers["cuda:0"].name == "fused"
        line = "cuda:0: NVIDIA H200, by the engine fused."
        shown = devices_html(
            engine.schedule, engine.devices, None, engine.pictures, memories=engine.memories
        )
        assert line in shown and "In cuda:0" in shown


@pytest.mark.parametrize(
    ("render", "devices", "engines"),
    [
        (RenderSettings(devices="cpu"), ["cpu:0"], ["native"]),
        (RenderSettings(devices="2"), ["cpu:0", "cpu:1"], ["native", "native"]),
        (RenderSettings(engine="native"), ["cpu:0"], ["native"]),
        (RenderSettings(engine="reference"), ["cpu:0"], ["reference"]),
        (RenderSettings(engine="gsplat"), ["cuda:0"], ["gsplat"]),
        (RenderSettings(devices="cuda"), ["cuda:0", "cuda:1"], ["fused", "fused"]),
        (RenderSettings(devices="cuda:1,cpu"), ["cuda:1", "cpu:0"], ["fused", "native"]),
        (
            RenderSettings(engine="gsplat", devices="cpu,cuda:0"),
            ["cpu:0", "cuda:0"],
            ["native", "gsplat"],
        ),
    ],
)
def test_what_each_device_draws_with(
    two_gpus: FakeGpus, render: RenderSettings, devices: list[str], engines: list[str]
) -> None:
    choice = DeviceChoice.of(render)
    assert [device.name for device in choice.devices] == devices
    assert [choice.engine_of(device) for device in choice.devices] == engines


@pytest.mark.parametrize(
    ("render", "said"),
    [
        (RenderSettings(engine="native", devices="cuda"), "native draws on processors; leave"),
        (RenderSettings(engine="reference", devices="cuda:0,cpu"), "reference draws on processors"),
        (RenderSettings(engine="fused", devices="2"), "fused draws on GPUs; leave --devices out"),
        (RenderSettings(engine="gsplat", devices="cpu"), "gsplat draws on GPUs"),
    ],
)
def test_engines_and_devices_that_do_not_go_together(
    gpu: FakeGpus, render: RenderSettings, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        DeviceChoice.of(render)


def test_processors_are_chosen_without_asking_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(engine: str) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr("viewer.engines.find_support", find)
    for render in (RenderSettings(engine="native"), RenderSettings(devices="3")):
        DeviceChoice.of(render)


def test_a_gpu_that_cannot_be_used_is_told_once(
    gpu: FakeGpus, caplog: pytest.LogCaptureFixture
) -> None:
    problem = "NVIDIA H200 found, but torch 2.13.0+cpu is a CPU build; pip install"
    gpu.support = replace(gpu.support, gpus=(), problem=problem, is_surprising=True)
    for _ in range(3):
        assert [d.name for d in open_drawers(RenderSettings()).choice.devices] == ["cpu:0"]
    assert said(caplog, "NVIDIA") == [f"warning: {problem}; the processor draws instead"]
    for render in (RenderSettings(engine="fused"), RenderSettings(devices="cuda:0,cpu")):
        with pytest.raises(BackendUnavailable, match="engine fused cannot draw: NVIDIA H200 found"):
            DeviceChoice.of(render)


def test_no_gpu_is_not_worth_a_warning(gpu: FakeGpus, caplog: pytest.LogCaptureFixture) -> None:
    gpu.support = replace(gpu.support, gpus=(), problem="there is no NVIDIA driver")
    with caplog.at_level(logging.INFO):
        DeviceChoice.of(RenderSettings())
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "the processor draws: there is no NVIDIA driver")
    ]


@pytest.mark.parametrize("wrong", ["dead", "paints"])
def test_a_gpu_that_fails_its_trial_is_left_to_who_insists(
    gpu: FakeGpus, caplog: pytest.LogCaptureFixture, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card_of(gpu).dead = wrong == "dead"
    if wrong == "paints":
        monkeypatch.setattr("tests.fake_gpu.FakeGpuRasterizer", lambda card: FakeRasterizer())
    with drawing_ball(RenderSettings()) as (_, a, _b):
        assert drew(a.draws_right()) == {"cpu:0"}
    (line,) = said(caplog, "cannot draw")
    assert line.startswith("warning: NVIDIA H200 (cuda:0, engine fused) cannot draw: ")
    assert line.endswith("; the processor draws instead")
    with pytest.raises(BackendUnavailable, match=r"cannot draw: .*; --engine native draws"):
        open_drawers(RenderSettings(engine="fused"))


def test_what_would_draw_is_told_in_a_line(
    two_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = "NVIDIA H200 (cuda:0, engine fused)"
    assert drawn_by(RenderSettings()) == f"Drawn by {gpu}"
    assert drawn_by(RenderSettings(devices="cuda:0,cpu")) == f"Drawn by {gpu} and the processor"
    assert drawn_by(RenderSettings(engine="native")) == "Drawn by the processor"
    assert drawn_by(RenderSettings(devices="cpu")) == "Drawn by the processor"
    two_gpus.support = GpuSupport("fused", problem="there is no NVIDIA driver")
    assert drawn_by(RenderSettings()) == "Drawn by the processor: there is no NVIDIA driver"
    assert drawn_by(RenderSettings(engine="fused")).startswith("Cannot be drawn as the settings")


@pytest.mark.parametrize("interpreted", [False, True])
@pytest.mark.parametrize("command", ["view", "export", "info"])
def test_who_asks_for_a_gpu_that_is_not_there_gets_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ball_ply: Path,
    tmp_path: Path,
    command: str,
    interpreted: bool,
) -> None:
    """Triton's interpreter makes no difference: it is no GPU."""
    report = DriverReport(absence=Absence.NO_DRIVER, problem="there is no NVIDIA driver")
    monkeypatch.setattr("rendering.gpu_support._driver", lambda: report)
    monkeypatch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
    if command == "info":
        assert main(["info", str(ball_ply)]) == 0
        assert "Drawn by the processor: there is no NVIDIA driver\n" in capsys.readouterr().out
        return
    files = ["-o", str(tmp_path / "a.png")] if command == "export" else []
    assert main([command, str(ball_ply), *files, "--engine", "fused"]) == 2
    assert capsys.readouterr().err == (
        "belvedere: error: the engine fused cannot draw: there is no NVIDIA driver; --engine "
        "native draws on the processor\n"
    )
    assert main([command, str(ball_ply), *files, "--devices", "cuda:0"]) == 2
    assert "engine fused cannot draw: there is no NVIDIA driver" in capsys.readouterr().err


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
        assert 2 << 30 < budgets.device_bytes < 6 << 30
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


@pytest.fixture
def ball_ply(tmp_path: Path) -> Path:
    from scene_store.formats.ply import write_ply

    write_ply(tmp_path / "ball.ply", [BALL], len(BALL), 0)
    return tmp_path / "ball.ply"


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


# The rule of who is replaced


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def supply(
    *devices: Device, fail: Callable[[], None] = lambda: None
) -> tuple[DeviceRasterizers, Clock]:
    clock, card = Clock(), FakeCard()

    def make(device: Device) -> FakeGpuRasterizer | NativeRasterizer:
        fail()
        return FakeGpuRasterizer(card) if device.is_gpu else NativeRasterizer()

    return DeviceRasterizers(devices, make, lambda _: NativeRasterizer(), clock), clock


def test_losses_that_lie_far_apart_are_forgiven() -> None:
    rasterizers, clock = supply(gpu_device(0))
    for _ in range(20):
        assert rasterizers(gpu_device(0)).name == "fused"
        clock.now_s += 31
    assert rasterizers(gpu_device(0)).name == "fused"
    assert rasterizers(gpu_device(0)).name == "native"
    clock.now_s += 1_000
    assert rasterizers(gpu_device(0)).name == "native", "for good"


def test_the_last_device_is_replaced_even_if_it_does_not_know_that_it_is() -> None:
    working = [True]

    def fail() -> None:
        if not working[0]:
            raise RuntimeError("no context")

    rasterizers, _ = supply(gpu_device(0), Device("cpu:0"), fail=fail)
    told: list[str] = []
    rasterizers.on_replaced(lambda device: told.append(device.name))
    working[0] = False
    for _ in range(MOST_REFUSALS - 1):
        with pytest.raises(DeviceLost, match=r"no context|lost before"):
            rasterizers(gpu_device(0))
    assert not told
    assert rasterizers(gpu_device(0)).name == "native"
    assert rasterizers(gpu_device(0)).name == "native"
    assert told == ["cuda:0"]


def test_each_memory_begins_with_one_rasterizer() -> None:
    devices = (Device("cpu:0"), gpu_device(0), Device("cpu:1"))
    rasterizers, _ = supply(*devices)
    assert set(rasterizers.by_memory) == {"host", "cuda:0"}
    assert rasterizers.first is rasterizers.by_memory["host"]
    assert rasterizers(devices[1]) is rasterizers.by_memory["cuda:0"]
    assert rasterizers(devices[2]) is not rasterizers.first
    assert rasterizers(devices[1]) is not rasterizers.by_memory["cuda:0"]
