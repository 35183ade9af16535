"""The engine of GPUs under Triton's interpreter, in a viewer that loses it: what it prepared, and
its pages, give way to those of the processor."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before Triton is imported: kernels are made for the interpreter, or for a device.
os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

from configs.settings import EngineName, RenderSettings, Settings, StreamSettings
from rendering.base import CancelFlag, PagingRasterizer, RasterImage, RasterSettings
from rendering.device import DeviceLost
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.fused_cuda import FusedRasterizer, Tuning
from rendering.native.cpu import NativeRasterizer
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.manifest import Profile
from splat.camera import Camera
from tests.fake_driver import H200
from tests.fake_gpu import FakeGpus
from tests.scenes import random_scene
from viewer.engines import create_engine, open_drawers
from viewer.opening import open_first
from viewer.scenes import SceneChoice

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy, in lanes that are masked
    pytest.mark.skipif(
        os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET says not to interpret"
    ),
]
WAIT_S = 60.0
FEW_PROGRAMS = Tuning(tile=32, stride=4, half_colors=False)  # which is quick to interpret
SCENE = random_scene(3, 200, 1)
VIEW = Camera.look_at((0, -0.5, -6), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=31, height=26)


class Losable(FusedRasterizer):
    """Draws until its card is dead."""

    dead = False

    def __init__(self) -> None:
        super().__init__("cpu", FEW_PROGRAMS)

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        if Losable.dead:
            raise DeviceLost("the GPU has fallen off the bus")
        return super().render(scene, camera, settings, cancel)


class InterpretedGpus(FakeGpus):
    def create(self, engine: EngineName, device: str = "", **how: Any) -> PagingRasterizer:
        return Losable() if device else super().create(engine, device, **how)


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    InterpretedGpus([H200]).install(monkeypatch)
    monkeypatch.setattr(Losable, "dead", False)


def draw(engine: RenderEngine, sequence: int) -> Frame:
    """A view that was not drawn before, complete."""
    view = replace(VIEW, near=0.01 + sequence / 1e3)
    while True:
        request = FrameRequest("a", sequence, (view,), RasterSettings(threads=1))
        frame = engine.submit(request).result(WAIT_S)
        if frame.stats.stream is None or frame.stats.stream.complete:
            return frame


def assert_right(frame: Frame) -> None:
    rasterizer = NativeRasterizer()
    image = rasterizer.render(rasterizer.prepare(SCENE), VIEW, RasterSettings(threads=1))
    assert image.color is not None and frame.images[0].color is not None
    np.testing.assert_allclose(frame.images[0].color, image.color, rtol=0, atol=1e-3)


def test_a_scene_in_memory_goes_on_by_the_processor() -> None:
    with create_engine(RenderSettings(), open_drawers(RenderSettings()), SCENE) as engine:
        assert_right(draw(engine, 1))
        assert engine.devices[0].engine == "fused"
        Losable.dead = True
        assert_right(draw(engine, 2))
        assert engine.devices[0].engine == "native"


def test_a_streamed_scene_goes_on_by_the_processor(tmp_path: Path) -> None:
    write_ply(tmp_path / "ball.ply", [SCENE], len(SCENE), SCENE.sh_degree)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([tmp_path / "ball.ply"], tmp_path / "ball.bvs", options)
    settings = Settings(stream=StreamSettings(fade_ms=0.0))
    with contextlib.ExitStack() as kept:
        choice = SceneChoice(tmp_path / "ball.bvs", 1)
        ready = open_first(choice, settings, kept, lambda share, what: None)
        kept.callback(ready.close)
        scene = ready.shown.stream
        assert scene is not None
        assert_right(draw(ready.engine, 1))
        assert scene.engine_of("cuda:0") == "fused"
        Losable.dead = True
        assert_right(draw(ready.engine, 2))
        assert scene.engine_of("cuda:0") == "native"
