"""The devices and the schedule of the settings: what they make, and what is refused at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from configs.schedules import SHIPPED
from configs.settings import RenderSettings
from rendering.frame import FrameRequest
from rendering.schedule import SplitBy
from splat.camera import CameraModel
from splat.errors import BackendUnavailable, BelvedereError, SettingsError
from tests.scenes import orbit_camera, random_scene
from viewer.engines import DeviceChoice, create_engine, open_drawers

PLAIN = RenderSettings()


def test_the_usual_choice_is_one_device_with_all_cores() -> None:
    choice = DeviceChoice.of(RenderSettings())
    assert [device.name for device in choice.devices] == ["cpu:0"]
    assert choice.schedule.name == "single"


def test_a_schedule_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match=r"none called 'nonsense'.*tile-split.*mine\.yaml"):
        DeviceChoice.of(RenderSettings(schedule="nonsense"))


def test_a_schedule_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nsplit: band\ndevices: all\n", encoding="utf-8")
    choice = DeviceChoice.of(RenderSettings(devices="3", schedule=str(file)))
    assert len(choice.devices) == 3
    assert [split.by for split in choice.schedule.split] == [SplitBy.BAND]


@pytest.mark.parametrize(
    ("devices", "schedule", "said"),
    [
        ("99x", "single", "'99x' names no devices; use auto, cpu"),
        ("cuda:-1", "single", "'cuda:-1' names no devices; use auto, cpu"),
        ("2", "nonsense.yaml", "nonsense.yaml"),
        ("2", "dealt.yaml", "deals out chunks"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    devices: str, schedule: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dealt = "name: dealt\nsplit: {by: shard, order: dealt}\n"
    (tmp_path / "dealt.yaml").write_text(dealt, encoding="utf-8")
    with pytest.raises((SettingsError, BelvedereError), match=said):
        DeviceChoice.of(RenderSettings(devices=devices, schedule=schedule))


@pytest.mark.parametrize("name", SHIPPED)
def test_all_that_is_shipped_can_be_drawn(name: str) -> None:
    assert DeviceChoice.of(RenderSettings(devices="3", schedule=name)).schedule.name == name


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        BackendUnavailable,
        match="a test finds no GPU; without --",
    ):
        DeviceChoice.of(RenderSettings(devices="cuda"))


def test_pictures_are_the_same_on_any_number_of_devices() -> None:
    scene = random_scene(6, 3_000)
    view = orbit_camera(CameraModel.PINHOLE, 150, 170)
    pictures = []
    for devices, schedule in (("auto", "single"), ("3", "tile-split")):
        render = RenderSettings(devices=devices, schedule=schedule)
        with create_engine(render, open_drawers(render), scene) as engine:
            frame = engine.submit(FrameRequest("a", 1, (view,))).result(20)
        color = frame.images[0].color
        assert color is not None
        pictures.append(color.tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(("memories", "held"), [("shared", 1), ("own", 3)])
def test_devices_have_memories_of_their_own_if_that_is_set(memories: str, held: int) -> None:
    scene = random_scene(6, 3_000)
    view = orbit_camera(CameraModel.PINHOLE, 150, 170)
    render = RenderSettings(devices="3", memories=memories, schedule="tile-split")  # type: ignore[arg-type]
    choice = DeviceChoice.of(render)
    assert len(choice.memories) == held
    with create_engine(render, open_drawers(render), scene) as engine:
        frame = engine.submit(FrameRequest("a", 1, (view,))).result(20)
        assert len(engine.memories) == held
    with create_engine(PLAIN, open_drawers(PLAIN), scene) as engine:
        alone = engine.submit(FrameRequest("a", 1, (view,))).result(20)
    one, other = frame.images[0].color, alone.images[0].color
    assert one is not None and other is not None
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("elastic", "in_use"), [(False, [True, True]), (True, [True, False])])
def test_elastic_settings_begin_with_one_device(elastic: bool, in_use: list[bool]) -> None:
    render = RenderSettings(devices="2", schedule="tile-split", elastic=elastic)
    with create_engine(render, open_drawers(render), random_scene(6, 10)) as engine:
        assert [device.in_use for device in engine.devices] == in_use


def test_elastic_settings_hold_the_rate_that_was_set() -> None:
    """Any picture is too slow for an absurd rate, and none for one a minute."""
    view = orbit_camera(CameraModel.PINHOLE, 150, 170)
    render = RenderSettings(devices="2", schedule="tile-split", elastic=True)
    for rate_hz, in_use in ((1e6, 2), (1.0, 1)):
        drawers, scene = open_drawers(render), random_scene(6, 3_000)
        with create_engine(render, drawers, scene, target_fps=rate_hz) as engine:
            for sequence in range(20):
                request = FrameRequest(
                    "a", sequence, (replace(view, near=0.01 + sequence / 1e3),), rate_hz=rate_hz
                )
                engine.submit(request).result(20)
            assert sum(device.in_use for device in engine.devices) == in_use
            assert engine.decision is not None
            assert engine.decision.overloaded == (in_use == 2)


def test_devices_that_a_schedule_cannot_use_are_not_added() -> None:
    render = RenderSettings(devices="4", schedule="single", elastic=True)
    drawers, scene = open_drawers(render), random_scene(6, 3_000)
    view = orbit_camera(CameraModel.PINHOLE, 64, 64)
    with create_engine(render, drawers, scene, target_fps=1e6) as engine:
        for sequence in range(12):
            request = FrameRequest(
                "a", sequence, (replace(view, near=0.01 + sequence / 1e3),), rate_hz=1e6
            )
            engine.submit(request).result(20)
        assert sum(device.in_use for device in engine.devices) == 1
        assert engine.decision is not None and engine.decision.overloaded
