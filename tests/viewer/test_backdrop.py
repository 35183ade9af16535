"""What is behind a scene where nobody chose it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.loading import load_settings
from configs.settings import RenderSettings, Settings
from rendering.models.renderers import renderer_of
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.chunks import model_of
from scene_store.ledger import Budgets
from scene_store.models.mixed_chunks import MixedModel, MixedPart
from scene_store.placement import Placement
from splat.fields import FieldModel
from tests.models.nerf_torch import networks, save_flexible
from viewer.backdrop import backdrop_of
from viewer.camera_choice import CameraChoice
from viewer.export import export
from viewer.export_targets import Targets
from viewer.opening import shown_stream
from viewer.scenes import SceneChoice
from viewer.server import view_options
from viewer.streams import open_stream

WHITE = (1.0, 1.0, 1.0)
GREEN = (0.0, 1.0, 0.0)
AWAY = CameraChoice(position=(0, 0, 50), look_at=(0, 0, 90), width=8, height=6)


@pytest.fixture
def nerf(tmp_path: Path) -> Path:
    """One that was trained before white."""
    path = tmp_path / "checkpoint1.ckpt"
    save_flexible(path, *networks("flexible"))
    (tmp_path / "config.yml").write_text("nerf: {validation: {white_background: true}}")
    return path


def drawn(scene: Path, render: RenderSettings) -> tuple[np.ndarray, np.ndarray]:
    """Colours 0 to 1 as they were written, and alphas."""
    path = scene.with_name("picture.png")
    targets = Targets(path, None, scene.with_name("alpha.npy"))
    export(SceneChoice.of(str(scene), 1000), AWAY, targets, render)
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1] / 255.0, np.load(scene.with_name("alpha.npy"))[..., None]


def test_fields_are_exported_before_what_they_were_trained_before(nerf: Path) -> None:
    own, alpha = drawn(nerf, RenderSettings())
    black, _ = drawn(nerf, RenderSettings(background=(0.0, 0.0, 0.0)))
    assert (alpha < 0.99).any()
    assert own - black == pytest.approx(np.broadcast_to(1.0 - alpha, own.shape), abs=0.01)


def test_pages_start_with_it(nerf: Path) -> None:
    opened = open_stream(SceneChoice.of(str(nerf), 1000))
    engine = renderer_of(model_of(opened.source), NativeRasterizer())
    budgets = Budgets(1 << 28, 1 << 28)
    scene = StreamedScene(opened.source, engine, budgets, StreamPolicy(fade_s=0.0))
    with contextlib.closing(scene):
        shown = shown_stream(opened, scene)
        assert view_options(Settings(), shown).background == WHITE
        chosen = replace(Settings(), render=RenderSettings(background=GREEN))
        assert view_options(chosen, shown).background == GREEN
        plain = replace(shown, background=None)
        assert view_options(Settings(), plain).background == (0.0, 0.0, 0.0)


def test_black_can_be_chosen() -> None:
    assert load_settings().render.background is None
    chosen = load_settings(overrides={"render.background": [0, 0, 0]}).render
    assert chosen.background == chosen.behind == (0.0, 0.0, 0.0)


def test_beside_others_fields_have_no_say() -> None:
    field = MixedPart(FieldModel(("NeRF",), WHITE), Placement(), 256, 0)
    splats = MixedPart(None, Placement(), 4096, 3)
    assert backdrop_of(MixedModel((field, field), WHITE)) == WHITE
    assert backdrop_of(MixedModel((field, splats), WHITE)) is None
    assert backdrop_of(FieldModel(("Nerfacto",))) is None
    assert backdrop_of(None) is None
