"""The GPU engine's kernels under Triton's interpreter, so on the CPU: the contract, and the oracle.

The interpreter takes a second for a small picture. What the contract asks for many sizes is asked
for one here.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

# Before Triton is imported: kernels are made for the interpreter, or for a device.
os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

from rendering.base import Outputs, RasterSettings, ScenePart
from rendering.fused_cuda import FusedRasterizer, Tuning
from rendering.fused_pages import PAGE_GAUSSIANS, page_words, rest_rows
from rendering.reference import ReferenceRasterizer, edge_masks
from splat.camera import Camera, CameraModel
from splat.errors import BackendUnavailable
from tests.fused_cancelling import cancelled_between_launches
from tests.fused_memory import spoil_new_memory
from tests.paging_contract import PagingContract, parts_of
from tests.rasterizer_contract import ALL, bytes_of
from tests.rasterizer_limits import RasterizerLimits
from tests.scenes import orbit_camera, random_scene
from tests.test_native_rasterizer import compare

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy, in lanes that are masked
    pytest.mark.skipif(
        os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET says not to interpret"
    ),
]
FEW_PROGRAMS = Tuning(tile=32, stride=4, half_colors=False)  # which is quick to interpret
TUNINGS = {
    "stream": Tuning(),
    "matrix": Tuning(matrix=True, stride=4),
    "small": Tuning(block=32, tile=8, stride=4, warps=2),
}


@pytest.fixture(autouse=True)
def _spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_new_memory(monkeypatch)


@pytest.fixture
def fused() -> FusedRasterizer:
    return FusedRasterizer("cpu", FEW_PROGRAMS)


class TestFused(RasterizerLimits):
    tolerance = 5e-5
    depth_tolerance = 2e-5
    fewer = 10

    @pytest.fixture
    def rasterizer(self) -> FusedRasterizer:
        return FusedRasterizer("cpu", FEW_PROGRAMS)

    @pytest.mark.parametrize("model", [CameraModel.PINHOLE])
    @pytest.mark.parametrize("size", [(70, 97)])
    def test_bands_are_the_rows_of_the_whole(
        self, rasterizer: Any, model: CameraModel, size: tuple[int, int]
    ) -> None:
        scene = rasterizer.prepare(random_scene(3, 100))
        view = orbit_camera(model, *size)
        whole = rasterizer.render(scene, view, ALL)
        for rows in ((0, 32), (32, 96), (96, 97)):
            band = rasterizer.render(scene, view, replace(ALL, rows=rows))
            assert bytes_of(band) == bytes_of(whole.rows(*rows))

    def test_any_number_of_threads_gives_the_same_bytes(self, rasterizer: Any) -> None:
        """Threads are the CPU's affair; programs end in any order on a device."""
        scene = rasterizer.prepare(random_scene(2, 100))
        view = orbit_camera(CameraModel.ORTHO, 33, 17)
        assert bytes_of(rasterizer.render(scene, view, ALL)) == bytes_of(
            rasterizer.render(scene, view, replace(ALL, threads=3))
        )

    def test_cancelled_under_way(self, rasterizer: Any) -> None:
        cancelled_between_launches(rasterizer)

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (200, 1), (1, 200)])
    def test_slimmest_images(self, rasterizer: Any, width: int, height: int) -> None:
        super().test_slimmest_images(rasterizer, width, height)


class TestPaging(PagingContract):
    fewer = 8

    @pytest.fixture
    def rasterizer(self) -> FusedRasterizer:
        return FusedRasterizer("cpu", FEW_PROGRAMS)


@pytest.mark.parametrize(
    ("model", "tuning"),
    [
        *((model, "stream") for model in CameraModel),
        (CameraModel.PINHOLE, "matrix"),
        (CameraModel.FISHEYE, "small"),
    ],
)
def test_equals_the_reference(model: CameraModel, tuning: str) -> None:
    scene, view = random_scene(1, 120), orbit_camera(model, 45, 37)
    how = replace(ALL, background=(0.2, 0.5, 0.8), transmittance_stop=0.01)
    truth_maker, rasterizer = ReferenceRasterizer(), FusedRasterizer("cpu", TUNINGS[tuning])
    prepared = truth_maker.prepare(scene)
    image = rasterizer.render(rasterizer.prepare(scene), view, how)
    masks = edge_masks(prepared, view, how)
    safe = ~(masks.cut | masks.stop)
    compare(image, truth_maker.render(prepared, view, how), safe, safe & ~masks.half)


def test_weights_tints_and_degrees_of_pages(fused: FusedRasterizer) -> None:
    """Pages of any degree of harmonics in one list, as a reference draws them one by one."""
    scene = random_scene(4, 300)
    low = replace(scene[slice(100, 200)], sh=scene.sh[100:200, :4])
    parts = [scene[slice(0, 100)], low, scene[slice(200, 300)]]
    view, how = orbit_camera(CameraModel.PINHOLE, 33, 29), RasterSettings(outputs=Outputs.ALL)
    truth = ReferenceRasterizer()
    weights = (1.0, 0.6, 0.3)

    def composed(rasterizer: Any) -> Any:
        scenes = [rasterizer.prepare(part) for part in parts]
        return rasterizer.compose(
            [ScenePart(part, weight) for part, weight in zip(scenes, weights, strict=True)]
        )

    expected, image = (r.render(composed(r), view, how) for r in (truth, fused))
    masks = edge_masks(composed(truth), view, how)
    safe = ~(masks.cut | masks.stop)
    compare(image, expected, safe, safe & ~masks.half)


def test_a_tint_takes_the_place_of_colours(fused: FusedRasterizer) -> None:
    part = ScenePart(fused.prepare(random_scene(1, 200)), tint=(1.0, 0.0, 0.0), tint_share=1.0)
    image = fused.render(fused.compose([part]), orbit_camera(CameraModel.PINHOLE, 33, 29))
    assert image.color is not None
    np.testing.assert_allclose(image.color[..., 0], image.alpha, atol=1e-5)
    assert not image.color[..., 1:].any()


def test_pages_are_as_large_as_they_say(fused: FusedRasterizer) -> None:
    for degree in range(4):
        pool = fused.new_pool(256, degree)
        page = pool.pack(random_scene(1, 200, degree))
        assert page.words.numel() * 4 == pool.page_bytes == 4 * page_words(degree, 256)
        assert (page.count, page.room) == (200, 256)
    assert rest_rows(3) == 45
    scene = random_scene(1, 2 * PAGE_GAUSSIANS + 5, 0)
    assert [page.count for page in fused.prepare(scene).pages] == [1024, 1024, 5]
    assert len(parts_of(scene, (1024,))) == 2


def test_an_invisible_scene_is_the_background(fused: FusedRasterizer) -> None:
    view = Camera.look_at((0, 0, 9), (0, 0, 99), (0, -1, 0), fov_y_rad=1.0, width=20, height=10)
    image = fused.render(fused.prepare(random_scene(1, 300)), view, ALL)
    assert image.stats.visible == 0
    assert not image.alpha.any()


def test_without_a_device_it_says_so() -> None:
    with pytest.raises(BackendUnavailable, match="CPU engine"):
        FusedRasterizer("cuda:0")


@pytest.mark.parametrize("matrix", [False, True])
def test_memory_that_was_never_written_shows_nowhere(matrix: bool) -> None:
    """The first chunk is behind the camera, so that the first row of splats is never written."""
    near, far = random_scene(1, 40), random_scene(2, 40)
    near.means[:] += np.array([0, 0, -100], np.float32)
    view = Camera.look_at((0, 0, -6), (0, 0, 0), (0, -1, 0), fov_y_rad=1.0, width=33, height=29)
    fused = FusedRasterizer("cpu", Tuning(matrix=matrix))
    parts = [ScenePart(fused.prepare(part)) for part in (near, far)]
    image = fused.render(fused.compose(parts), view, ALL)
    alone = fused.render(fused.prepare(far), view, ALL)
    assert image.stats.visible == alone.stats.visible > 10
    assert bytes_of(image) == bytes_of(alone)


def test_a_colour_that_is_infinite_stays_where_its_gaussian_is(fused: FusedRasterizer) -> None:
    scene = random_scene(1, 60)
    scene.sh[0, 0] = np.inf
    view = orbit_camera(CameraModel.PINHOLE, 45, 37)
    image = fused.render(fused.prepare(scene), view, ALL)
    usual = fused.render(fused.prepare(scene[slice(1, None)]), view, ALL)
    assert image.color is not None and usual.color is not None
    assert image.count is not None and usual.count is not None
    assert not np.isnan(image.color).any()
    untouched = image.count == usual.count
    assert untouched.any() and not untouched.all()
    np.testing.assert_allclose(image.color[untouched], usual.color[untouched], atol=1e-6)
