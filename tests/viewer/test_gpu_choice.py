"""Which devices draw, and by which engines, on machines with GPUs; what is told of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import RenderSettings
from rendering.gpu_discovery import Absence, DriverReport
from rendering.gpu_support import GpuSupport
from splat.errors import BackendUnavailable, SettingsError
from tests.fake_driver import H200
from tests.fake_gpu import FakeGpus
from tests.fake_rasterizer import FakeRasterizer
from tests.test_streamed_memories import drew
from tests.viewer.test_gpu_fallback import ball_ply, card_of, drawing_ball, gpu, said, two_gpus
from viewer.cli import main
from viewer.device_view import devices_html
from viewer.engines import DeviceChoice, create_rasterizer, drawn_by, open_drawers

__all__ = ["ball_ply", "gpu", "two_gpus"]  # fixtures


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
        (RenderSettings(), ["cuda:0", "cuda:1"], ["fused", "fused"]),
        (RenderSettings(engine="gsplat"), ["cuda:0", "cuda:1"], ["gsplat", "gsplat"]),
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
        with pytest.raises(BackendUnavailable, match="no GPU can be used: NVIDIA H200 found"):
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


def test_gpus_of_another_kind_draw_if_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(H200, index=1, name="NVIDIA T400", memory_bytes=4 << 30)
    FakeGpus([H200, other]).install(monkeypatch)
    assert [device.name for device in DeviceChoice.of(RenderSettings()).devices] == ["cuda:0"]
    both = DeviceChoice.of(RenderSettings(devices="cuda"))
    assert [device.name for device in both.devices] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(("dead", "left"), [("cuda:1", {"cuda:0"}), ("cuda:0", {"cuda:1"})])
def test_where_one_of_two_cannot_draw(
    two_gpus: FakeGpus, caplog: pytest.LogCaptureFixture, dead: str, left: set[str]
) -> None:
    card_of(two_gpus, dead).dead = True
    drawers = open_drawers(RenderSettings())
    assert {device.name for device in drawers.choice.devices} == left
    assert len(said(caplog, "cannot draw")) == 1


def test_frames_go_to_several_devices_in_turn_unless_somebody_says_otherwise(
    two_gpus: FakeGpus,
) -> None:
    names = {
        devices: DeviceChoice.of(RenderSettings(devices=devices)).schedule.name
        for devices in ("auto", "cuda:0", "3", "cpu")
    }
    assert names == {
        "auto": "alternate-frame",
        "cuda:0": "single",
        "3": "alternate-frame",
        "cpu": "single",
    }
    assert DeviceChoice.of(RenderSettings(schedule="tile-split")).schedule.name == "tile-split"
    with drawing_ball(RenderSettings()) as (_, a, b):
        assert drew(a.draws_right()) | drew(b.draws_right()) <= {"cuda:0", "cuda:1"}


def test_what_would_draw_is_told_in_a_line(
    two_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = "NVIDIA H200 (cuda:0, engine fused)"
    assert drawn_by(RenderSettings()) == f"Drawn by {gpu}, {gpu.replace('cuda:0', 'cuda:1')}"
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
        "belvedere: error: engine fused: no GPU can be used: there is no NVIDIA driver; without "
        "--engine and --devices the processor draws\n"
    )
    assert main([command, str(ball_ply), *files, "--devices", "cuda:0"]) == 2
    assert capsys.readouterr().err == (
        "belvedere: error: devices: cuda:0: no GPU can be used: there is no NVIDIA driver; without "
        "--devices the processor draws\n"
    )


def test_gsplat_is_compiled_before_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is made, and not by its first picture, whose patience is shorter than a compiler's;
    what keeps it from it is heard as of any engine that is missing."""
    pytest.importorskip("torch")
    did: list[str] = []

    class Gsplat:
        problem = ""

        def __init__(self, device: str) -> None:
            did.append(device)

        def compile(self) -> None:
            did.append("compiled")
            if self.problem:
                raise BackendUnavailable(self.problem)

    monkeypatch.setattr("rendering.gsplat_cuda.GsplatRasterizer", Gsplat)
    assert isinstance(create_rasterizer("gsplat", "cuda:1"), Gsplat)
    assert did == ["cuda:1", "compiled"]
    monkeypatch.setattr(Gsplat, "problem", "gsplat's build failed: a.cu(1): error: no such thing")
    with pytest.raises(BackendUnavailable, match=r"build failed: a\.cu"):
        create_rasterizer("gsplat", "cuda:1")
