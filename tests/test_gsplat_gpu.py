"""The gsplat engine with its CUDA code: the contract, and pictures against the reference."""

from __future__ import annotations

import pytest
import torch

from rendering.gsplat_cuda import GsplatRasterizer
from splat.camera import CameraModel
from splat.errors import BackendUnavailable
from tests.gsplat_contract import SETTINGS, GsplatContract, GsplatPaging, assert_pictures_agree
from tests.scenes import orbit_camera, random_scene

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("torch finds no CUDA device to run gsplat on", allow_module_level=True)


@pytest.fixture(scope="module")
def on_gpu() -> GsplatRasterizer:
    """Built, which may take minutes."""
    try:
        rasterizer = GsplatRasterizer("cuda:0")
        rasterizer.compile()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return rasterizer


class TestContract(GsplatContract):
    tolerance = 2e-5  # compiled with fast maths
    depth_tolerance = 5e-5

    @pytest.fixture
    def rasterizer(self, on_gpu: GsplatRasterizer) -> GsplatRasterizer:
        return GsplatRasterizer("cuda:0", on_gpu.compile())


class TestPaging(GsplatPaging):
    @pytest.fixture
    def rasterizer(self, on_gpu: GsplatRasterizer) -> GsplatRasterizer:
        return on_gpu


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("model", list(CameraModel))
def test_pictures_are_the_references(
    on_gpu: GsplatRasterizer, model: CameraModel, how: str
) -> None:
    scene, view = random_scene(1, 2000), orbit_camera(model, 129, 97)
    assert_pictures_agree(on_gpu, scene, view, SETTINGS[how], 1e-4)
