"""Exports by devices with memories of their own: the files of one device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.settings import RenderSettings
from splat.errors import BelvedereError
from tests.engine_devices import Chaos, Troubled
from tests.viewer.test_export_devices import (
    EXACT,
    INSIDE,
    MEMORY,
    ODS,
    RENDER,
    ball_ply,
    ball_store,
    files,
    over,
)
from viewer.camera_choice import CameraChoice
from viewer.export import export
from viewer.export_targets import Targets
from viewer.eyes import EyesChoice
from viewer.scenes import SceneChoice
from viewer.stereo_layouts import StereoLayout

__all__ = ["ball_ply", "ball_store"]  # fixtures


def own(schedule: str, devices: int = 2) -> RenderSettings:
    return replace(over(devices, schedule), memories="own")


@pytest.mark.parametrize("schedule", EXACT)
@pytest.mark.parametrize("kind", ["ply", "bvs"])
def test_files_are_those_of_one_device(
    ball_ply: Path, ball_store: Path, tmp_path: Path, kind: str, schedule: str
) -> None:
    scene = ball_ply if kind == "ply" else ball_store
    apart = StereoLayout.SEPARATE
    expected = files(scene, tmp_path / "1", RENDER, layout=apart)
    assert files(scene, tmp_path / "2", own(schedule), layout=apart) == expected


def test_many_pictures_are_those_of_one_device(ball_store: Path, tmp_path: Path) -> None:
    around = {"layout": StereoLayout.TOP_BOTTOM, "eyes": ODS, "camera": INSIDE}
    expected = files(ball_store, tmp_path / "1", RENDER, **around)  # type: ignore[arg-type]
    several = files(ball_store, tmp_path / "3", own("alternate-frame", 3), **around)  # type: ignore[arg-type]
    assert several == expected


def test_shards_are_near(ball_store: Path, tmp_path: Path) -> None:
    for folder, render in (("1", RENDER), ("3", own("shard", 3))):
        files(ball_store, tmp_path / folder, render)
    alone, several = (cv2.imread(str(tmp_path / f / "c.png")) for f in "13")
    assert alone is not None and several is not None
    assert np.abs(alone.astype(int) - several).max() <= 1


def test_a_device_that_is_lost_costs_no_file(
    ball_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = {"layout": StereoLayout.TOP_BOTTOM, "eyes": ODS, "camera": INSIDE}
    expected = files(ball_store, tmp_path / "1", RENDER, **around)  # type: ignore[arg-type]
    chaos = Chaos(4, share=0.15, hang_s=0.02)
    monkeypatch.setattr("viewer.engines.create_rasterizer", lambda *a, **k: Troubled(chaos))
    several = files(ball_store, tmp_path / "3", own("alternate-frame", 3), **around)  # type: ignore[arg-type]
    assert several == expected
    assert chaos.happened


def test_a_budget_that_is_too_small_for_all_is_refused(ball_store: Path, tmp_path: Path) -> None:
    little = replace(MEMORY, host_budget=1 << 20)
    camera = CameraChoice(position=(4.0, -2.0, -5.0), look_at=(0.0, 0.0, 0.0), width=64, height=48)
    with pytest.raises(BelvedereError, match=r"in 16 memories, which needs .* --host-budget"):
        export(
            SceneChoice(ball_store, 1),
            camera,
            Targets(tmp_path / "a.png"),
            own("tile-split", 16),
            stream=little,
            eyes=EyesChoice(),
        )
