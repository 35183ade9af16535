"""The fused engine on a GPU: the contract, pages, two eyes, and pictures against the reference."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("torch finds no CUDA device to run our kernels on", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted here; set TRITON_INTERPRET=0", allow_module_level=True)

from rendering.fused_cuda import FusedRasterizer, Tuning
from rendering.reference import ReferenceRasterizer, edge_masks
from splat.camera import CameraModel
from tests.fused_cancelling import cancelled_between_launches
from tests.fused_pair_contract import FusedPairContract
from tests.paging_contract import PagingContract
from tests.rasterizer_contract import ALL, bytes_of
from tests.rasterizer_limits import RasterizerLimits
from tests.scenes import orbit_camera, random_scene
from tests.test_native_rasterizer import compare

pytestmark = pytest.mark.gpu
EXACT = Tuning(half_colors=False)
TUNINGS = {
    "stream": EXACT,
    "tiles of 8": replace(EXACT, tile=8),
    "tiles of 32, four warps": replace(EXACT, tile=32, warps=4),
    "matrix": replace(EXACT, matrix=True, warps=4),
    "small programs": replace(EXACT, block=32, project_warps=1),
}


@pytest.fixture(scope="module")
def on_gpu() -> FusedRasterizer:
    return FusedRasterizer("cuda:0", EXACT)


class TestContract(RasterizerLimits):
    tolerance = 5e-5
    depth_tolerance = 2e-5

    @pytest.fixture
    def rasterizer(self, on_gpu: FusedRasterizer) -> FusedRasterizer:
        return on_gpu

    def test_cancelled_under_way(self, rasterizer: Any) -> None:
        cancelled_between_launches(rasterizer)


class TestPaging(PagingContract):
    @pytest.fixture
    def rasterizer(self, on_gpu: FusedRasterizer) -> FusedRasterizer:
        return on_gpu


class TestPair(FusedPairContract):
    def make(self, tuning: Tuning) -> FusedRasterizer:
        return FusedRasterizer("cuda:0", tuning)


@pytest.mark.parametrize("tuning", list(TUNINGS))
@pytest.mark.parametrize("model", list(CameraModel))
@pytest.mark.parametrize("size", [(129, 97), (641, 3)])
def test_pictures_are_the_references(
    model: CameraModel, tuning: str, size: tuple[int, int]
) -> None:
    scene, view = random_scene(1, 3000), orbit_camera(model, *size)
    how = replace(ALL, background=(0.2, 0.5, 0.8), transmittance_stop=0.01)
    truth_maker, rasterizer = ReferenceRasterizer(), FusedRasterizer("cuda:0", TUNINGS[tuning])
    prepared = truth_maker.prepare(scene)
    image = rasterizer.render(rasterizer.prepare(scene), view, how)
    masks = edge_masks(prepared, view, how)
    safe = ~(masks.cut | masks.stop)
    compare(image, truth_maker.render(prepared, view, how), safe, safe & ~masks.half)


def test_the_same_bytes_again_and_from_many_threads(on_gpu: FusedRasterizer) -> None:
    """Whichever program ends first."""
    prepared, view = (
        on_gpu.prepare(random_scene(2, 200_000)),
        orbit_camera(CameraModel.PINHOLE, 640, 360),
    )
    first = bytes_of(on_gpu.render(prepared, view, ALL))
    assert np.frombuffer(first["alpha"], np.float32).max() > 0.5
    others: list[bool] = []

    def draw() -> None:
        others.extend(bytes_of(on_gpu.render(prepared, view, ALL)) == first for _ in range(5))

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert others == [True] * 15
