"""The contract of all models, for each kind that is read, in the layout of its trainer."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fitting.gridnerf_files import write_landmark
from benchmarks.fitting.instant_ngp_file import save_snapshot
from benchmarks.fitting.nerfacto_files import write_run
from configs.settings import RenderSettings
from rendering.models.anchors import AnchorRasterizer
from scene_store.chunks import model_of
from scene_store.models import open_model
from scene_store.neural_store import build_neural_store
from splat.errors import CameraError, SettingsError
from tests.models import test_gridnerf, test_nerfacto
from tests.models.anchors_torch import ARCHITECTURES, UNITE, random_net, write_folder
from tests.models.instant_ngp_torch import ngp_scene
from tests.models.model_contract import ModelContract
from tests.models.nerf_torch import networks, save_flexible, save_original
from viewer.camera_choice import CameraChoice, choose_camera
from viewer.engines import open_drawers
from viewer.scenes import SceneChoice
from viewer.streams import open_stream

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

ITERATION = "point_cloud/iteration_30000"


class TestScaffold(ModelContract):
    reader = "scaffold"
    files = tuple(
        f"{ITERATION}/{name}"
        for name in ("point_cloud.ply", "color_mlp.pt", "cov_mlp.pt", "opacity_mlp.pt")
    )

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        return write_folder(random_net(ARCHITECTURES["scaffold"]), tmp_path / "scaffold")


class TestOctree(ModelContract):
    reader = "octree"
    files = (f"{ITERATION}/checkpoints.pth",)

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        net = random_net(ARCHITECTURES["octree"])
        return write_folder(net, tmp_path / "octree", mode=UNITE)


class TestInstantNgp(ModelContract):
    reader = "instant_ngp"
    files = ("small.ingp",)

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        made = ngp_scene("small")
        path = tmp_path / "small.ingp"
        save_snapshot(path, made.model, made.world, made.grid)
        return path


class TestNerfacto(ModelContract):
    reader = "nerfacto"

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        write_run(test_nerfacto.lively(test_nerfacto.SMALL), tmp_path / "nerfacto")
        return tmp_path / "nerfacto"


class TestGridNerf(ModelContract):
    reader = "gridnerf"
    files = ("grid.th",)

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        path = tmp_path / "grid.th"
        return write_landmark(test_gridnerf.lively(test_gridnerf.SMALL), path)


class TestNerf(ModelContract):
    reader = "nerf"
    files = ("checkpoint199.ckpt",)

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        path = tmp_path / "checkpoint199.ckpt"
        save_flexible(path, *networks("flexible"))
        return path


class TestOriginalNerf(ModelContract):
    reader = "nerf"
    files = ("000200.tar",)

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        path = tmp_path / "000200.tar"
        save_original(path, *networks("original"))
        return path


def test_a_choice_of_a_model_streams(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint1.ckpt"
    save_flexible(path, *networks("flexible"))
    choice = SceneChoice.of(str(path), 1000)
    assert choice.is_model
    assert choice.is_streamed
    assert not SceneChoice.of("town", 1000).is_model


def test_appearances_are_chosen_by_settings(tmp_path: Path) -> None:
    net = random_net(ARCHITECTURES["scaffold-appearance"])
    source = open_model(write_folder(net, tmp_path / "scaffold"))
    model = model_of(source)
    drawers = open_drawers(RenderSettings(appearance=2), model=model, only_processor=True)
    assert isinstance(drawers.first, AnchorRasterizer)
    with pytest.raises(SettingsError, match="appearance: 6, but the scene has 6 of them"):
        open_drawers(RenderSettings(appearance=6), model=model, only_processor=True)
    plain = open_model(write_folder(random_net(ARCHITECTURES["scaffold"]), tmp_path / "plain"))
    with pytest.raises(SettingsError, match="the scene has none"):
        open_drawers(RenderSettings(appearance=0), model=model_of(plain), only_processor=True)


def test_a_place_to_start_from_is_no_training_camera(tmp_path: Path) -> None:
    """Plain NeRFs do not tell their cameras; snapshots do."""
    path = tmp_path / "checkpoint1.ckpt"
    save_flexible(path, *networks("flexible"))
    store = tmp_path / "nerf.bvs"
    with contextlib.closing(open_model(path)) as source:
        build_neural_store(source, store, path)
    composed = tmp_path / "scene.yaml"
    composed.write_text("scenes: [{path: checkpoint1.ckpt}]")
    for scene in (path, store, composed):
        opened = open_stream(SceneChoice.of(str(scene), 1000))
        with contextlib.closing(opened.source):
            assert opened.meta.cameras and not opened.meta.training_cameras
            with pytest.raises(CameraError, match=": its files do not tell the training cameras"):
                choose_camera(CameraChoice(training_camera=0), opened, RenderSettings())
            start = choose_camera(CameraChoice(), opened, RenderSettings())
            np.testing.assert_allclose(start.position, opened.meta.cameras[0].position, atol=1e-6)
    made = ngp_scene("small")
    save_snapshot(tmp_path / "small.ingp", made.model, made.world, made.grid)
    with contextlib.closing(open_model(tmp_path / "small.ingp")) as source:
        assert source.meta.training_cameras == source.meta.cameras
    composed.write_text("scenes: [{path: checkpoint1.ckpt}, {path: small.ingp}]")
    with contextlib.closing(open_model(composed)) as source:
        build_neural_store(source, tmp_path / "both.bvs", composed)
    for scene in (composed, tmp_path / "both.bvs"):
        opened = open_stream(SceneChoice.of(str(scene), 1000))
        with (
            contextlib.closing(opened.source),
            pytest.raises(CameraError, match="files of its NeRF do not tell the training"),
        ):
            choose_camera(CameraChoice(training_camera=0), opened, RenderSettings())
