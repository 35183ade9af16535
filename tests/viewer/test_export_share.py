"""Exports of fields take their time: how much of the picture is there is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.settings import RenderSettings
from rendering.cancel import EventCancelFlag, ShareDone
from tests.models.test_voxel_grid import ball
from viewer.camera_choice import CameraChoice
from viewer.export import export
from viewer.export_targets import Targets
from viewer.option_groups import TOWN_GAUSSIANS
from viewer.scenes import Progress, SceneChoice
from viewer.stereo_layouts import StereoLayout

THREADS = 2
SIZE = CameraChoice(width=160, height=120)  # five waves of rays


@pytest.fixture
def field(tmp_path: Path) -> Path:
    return ball(tmp_path / "ball.npz")


def drawn(
    scene: Path, target: Path, progress: Progress, layout: StereoLayout | None = None
) -> bytes:
    """The bytes of the file."""
    choice = SceneChoice.of(str(scene), TOWN_GAUSSIANS)
    render = RenderSettings(threads=THREADS)
    export(choice, SIZE, Targets(target, layout=layout), render, progress=progress)
    return target.read_bytes()


@pytest.mark.parametrize("layout", [None, StereoLayout.TOP_BOTTOM])
def test_the_share_of_the_picture_is_told(
    field: Path, tmp_path: Path, layout: StereoLayout | None
) -> None:
    heard: list[float] = []

    def progress(share: float, what: str) -> None:
        if what.startswith("Drawing 160×120 pixels"):
            heard.append(share)

    silent = drawn(field, tmp_path / "a.png", lambda share, what: None, layout)
    assert drawn(field, tmp_path / "b.png", progress, layout) == silent
    assert heard.pop(0) == 1.0, "the line, before any share is known"
    assert heard == sorted(heard) and heard[-1] == 1.0
    eyes = 1 if layout is None else 2
    assert len(heard) == 5 * eyes
    assert heard[0] == pytest.approx(1 / (5 * eyes))


def test_who_hears_it_may_end_it(field: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(share: float, what: str) -> None:
        if share < 1 and what.startswith("Drawing"):
            raise Stop

    with pytest.raises(Stop):
        drawn(field, tmp_path / "a.png", stop)
    assert not (tmp_path / "a.png").exists()


def test_nobody_need_hear_it() -> None:
    heard: list[float] = []
    flag = EventCancelFlag()
    for each in (None, flag):
        ShareDone(each, 2).one_more()
    flag.on_share = heard.append
    share = ShareDone(flag, 2)
    share.one_more()
    share.one_more()
    assert heard == [0.5, 1.0]
