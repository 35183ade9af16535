"""The native engine, on every instruction set of this processor, against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.loading import load_settings
from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.reference import ReferenceRasterizer, edge_masks
from rendering.reference_project import project, view_depths
from scene_store.loading import in_morton_order
from splat.camera import CameraModel
from splat.errors import BackendUnavailable, SettingsError
from tests.conftest import require_or_skip
from tests.rasterizer_contract import ALL, bytes_of
from tests.rasterizer_limits import RasterizerLimits
from tests.scenes import ODD_SIZES, orbit_camera, random_scene

if TYPE_CHECKING:
    from rendering.native.cpu import NativeRasterizer

try:
    from rendering.native import cpu
except BackendUnavailable as error:
    MISSING: str | None = str(error)
    INSTRUCTION_SETS: tuple[str, ...] = ("none",)
else:
    MISSING = None
    INSTRUCTION_SETS = cpu.instruction_sets()

MIN_PSNR_DB = 60.0
MAX_ERROR = 2 / 255


def make_native(instruction_set: str | None = None) -> NativeRasterizer:
    require_or_skip(MISSING is None, str(MISSING))
    return cpu.NativeRasterizer(instruction_set)


@pytest.fixture(params=INSTRUCTION_SETS)
def native(request: pytest.FixtureRequest) -> NativeRasterizer:
    return make_native(request.param)


class TestNative(RasterizerLimits):
    # Float32: exp2 by polynomial, sums of hundreds of layers.
    tolerance = 5e-5
    depth_tolerance = 2e-5

    @pytest.fixture(params=INSTRUCTION_SETS)
    def rasterizer(self, request: pytest.FixtureRequest) -> NativeRasterizer:
        return make_native(request.param)


def check_against_reference(
    rasterizer: NativeRasterizer,
    seed: int,
    count: int,
    model: CameraModel,
    size: tuple[int, int],
    how: RasterSettings = ALL,
) -> None:
    """The bars of the ``exact`` benchmark, on a random scene."""
    scene, view = random_scene(seed, count), orbit_camera(model, *size, angle_rad=seed)
    truth_maker = ReferenceRasterizer()
    prepared = truth_maker.prepare(scene)
    truth = truth_maker.render(prepared, view, how)
    image = rasterizer.render(rasterizer.prepare(scene), view, how)
    masks = edge_masks(prepared, view, how)
    safe = ~(masks.cut | masks.stop)
    compare(image, truth, safe, safe & ~masks.half)


def compare(
    image: RasterImage, truth: RasterImage, safe: np.ndarray, safe_median: np.ndarray
) -> None:
    """Colour and alpha within the bars; counts and depths equal where nothing may flip."""
    assert image.color is not None
    assert truth.color is not None
    error = np.abs(image.color - truth.color)
    mean_square = float(np.square(error, dtype=np.float64).mean())
    assert mean_square == 0 or -10 * np.log10(mean_square) >= MIN_PSNR_DB
    assert error[safe].max(initial=0) <= MAX_ERROR
    assert np.abs(image.alpha - truth.alpha)[safe].max(initial=0) <= MAX_ERROR
    assert image.count is not None
    assert truth.count is not None
    np.testing.assert_array_equal(image.count[safe], truth.count[safe])
    assert image.depth is not None
    assert truth.depth is not None
    np.testing.assert_allclose(image.depth[safe], truth.depth[safe], rtol=1e-3)
    assert image.median_depth is not None
    assert truth.median_depth is not None
    np.testing.assert_allclose(
        image.median_depth[safe_median], truth.median_depth[safe_median], rtol=1e-6
    )


@pytest.mark.parametrize("model", list(CameraModel))
@pytest.mark.parametrize("stop", [1e-3, 0.02, 0.3])
def test_stopping_early_equals_the_reference(
    native: NativeRasterizer, model: CameraModel, stop: float
) -> None:
    how = replace(ALL, transmittance_stop=stop, background=(0.2, 0.5, 0.8))
    check_against_reference(native, 3, 2000, model, (97, 61), how)


@pytest.mark.parametrize("stop", [1e-3, 0.02, 0.3])
def test_stopping_early_is_off_by_no_more_than_the_stop(
    native: NativeRasterizer, stop: float
) -> None:
    scene, view = random_scene(5, 6000), orbit_camera(CameraModel.PINHOLE, 129, 65)
    prepared = native.prepare(scene)
    exact, early = (
        native.render(prepared, view, replace(ALL, sh_degree=0, transmittance_stop=least))
        for least in (1e-4, stop)
    )
    assert exact.color is not None
    assert early.color is not None
    assert early.count is not None
    assert exact.count is not None
    assert (early.count <= exact.count).all()
    assert (early.count < exact.count).any()
    shades = native.project(prepared, view, replace(ALL, sh_degree=0)).colors
    assert np.abs(early.color - exact.color).max() <= stop * shades.max() + 1e-5


@pytest.mark.parametrize(("antialiased", "resolution"), [(False, 1.0), (True, 1.0), (False, 0.4)])
@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("model", list(CameraModel))
def test_equals_the_reference(
    native: NativeRasterizer,
    model: CameraModel,
    size: tuple[int, int],
    antialiased: bool,
    resolution: float,
) -> None:
    how = replace(ALL, antialiased=antialiased, resolution=resolution, background=(0.2, 0.5, 0.8))
    check_against_reference(native, 1, 800, model, size, how)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 600),
    model=st.sampled_from(CameraModel),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    antialiased=st.booleans(),
    resolution=st.floats(0.05, 1.0),
    sh_degree=st.sampled_from([None, 0, 1, 2, 3]),
)
def test_equals_the_reference_on_any_scene(
    seed: int,
    count: int,
    model: CameraModel,
    size: tuple[int, int],
    antialiased: bool,
    resolution: float,
    sh_degree: int | None,
) -> None:
    how = replace(ALL, antialiased=antialiased, resolution=resolution, sh_degree=sh_degree)
    check_against_reference(make_native(), seed, count, model, size, how)


@pytest.mark.parametrize("model", list(CameraModel))
def test_same_bytes_again_and_on_any_number_of_threads(
    native: NativeRasterizer, model: CameraModel
) -> None:
    prepared = native.prepare(random_scene(2, 3000))
    view = orbit_camera(model, 257, 131)
    first = bytes_of(native.render(prepared, view, replace(ALL, threads=1)))
    for threads in (1, 2, 3, 5, 16, 0):
        assert bytes_of(native.render(prepared, view, replace(ALL, threads=threads))) == first


def test_instruction_sets_agree() -> None:
    """Not bit by bit (lanes and fused operations differ), but far below one 8-bit step."""
    require_or_skip(MISSING is None, str(MISSING))
    scene, view = random_scene(8, 1500), orbit_camera(CameraModel.PINHOLE, 129, 65)
    masks = edge_masks(ReferenceRasterizer().prepare(scene), view)
    safe = ~(masks.cut | masks.stop)
    images = []
    for name in INSTRUCTION_SETS:
        rasterizer = make_native(name)
        image = rasterizer.render(rasterizer.prepare(scene), view, ALL)
        assert image.color is not None
        images.append(image.color[safe])
    for other in images[1:]:
        np.testing.assert_allclose(other, images[0], atol=1e-4)


def test_colour_without_depth_is_the_same_colour(native: NativeRasterizer) -> None:
    """The kernels for fewer outputs are other code; they must not be other pictures."""
    prepared = native.prepare(random_scene(9, 2000))
    view = orbit_camera(CameraModel.PINHOLE, 131, 67)
    full = bytes_of(native.render(prepared, view, ALL))
    for outputs in (Outputs.COLOR, Outputs.COLOR | Outputs.DEPTH):
        part = bytes_of(native.render(prepared, view, RasterSettings(outputs=outputs)))
        assert part.items() <= full.items()


def test_unknown_instruction_set_is_refused() -> None:
    require_or_skip(MISSING is None, str(MISSING))
    with pytest.raises(BackendUnavailable, match="abacus"):
        make_native("abacus")


@pytest.mark.parametrize("model", list(CameraModel))
def test_projection_equals_the_reference(native: NativeRasterizer, model: CameraModel) -> None:
    scene, view = random_scene(10, 2000), orbit_camera(model, 129, 65)
    ours = native.project(native.prepare(scene), view)
    truth = project(ReferenceRasterizer().prepare(scene), view)
    both, at, there = np.intersect1d(ours.index, truth.index.numpy(), return_indices=True)
    # They may differ about Gaussians that end exactly at the border of the image.
    assert len(both) >= 0.999 * max(len(ours.index), len(truth))
    np.testing.assert_allclose(ours.means2d[at], truth.means2d[there], rtol=1e-5, atol=1e-3)
    scale = np.abs(truth.conics[there].numpy()).max(axis=1, keepdims=True)
    assert (np.abs(ours.conics[at] - truth.conics[there].numpy()) <= 1e-4 * scale).all()
    np.testing.assert_allclose(ours.opacities[at], truth.opacities[there], rtol=1e-5)
    np.testing.assert_allclose(ours.colors[at], truth.colors[there], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.extents[at], truth.extents[there], rtol=1e-4)


@pytest.mark.parametrize("model", list(CameraModel))
def test_depth_keys_equal_the_reference_bit_by_bit(
    native: NativeRasterizer, model: CameraModel
) -> None:
    """Else Gaussians that nearly tie are blended in another order."""
    scene, view = random_scene(12, 3000), orbit_camera(model, 129, 65)
    ours = native.project(native.prepare(scene), view)
    truth = view_depths(ReferenceRasterizer().prepare(scene).means, view)
    np.testing.assert_array_equal(ours.depths, truth.numpy()[ours.index])


@pytest.mark.parametrize("budget_bytes", [0, 4 << 20])
def test_a_small_record_budget_changes_no_byte(budget_bytes: int) -> None:
    scene, view = random_scene(5, 6000), orbit_camera(CameraModel.PINHOLE, 333, 201, angle_rad=0.3)
    ample = make_native()
    frugal = cpu.NativeRasterizer(record_budget_bytes=budget_bytes)
    expected = ample.render(ample.prepare(scene), view, ALL)
    image = frugal.render(frugal.prepare(scene), view, ALL)
    assert bytes_of(image) == bytes_of(expected)
    assert image.stats.visible == expected.stats.visible
    assert image.stats.tile_pairs == expected.stats.tile_pairs


def test_times_are_those_of_the_threads_that_took_part() -> None:
    """A single task for 64 threads takes as long as for one."""
    rasterizer = make_native(cpu.instruction_sets()[0])
    prepared = rasterizer.prepare(random_scene(1, 1000))  # one chunk
    view = orbit_camera(CameraModel.PINHOLE, 31, 31)  # one tile
    best: dict[int, dict[str, float]] = {}
    for threads in (1, 64):
        how = RasterSettings(threads=threads)
        times = [rasterizer.render(prepared, view, how).stats.stage_ms for _ in range(20)]
        best[threads] = {stage: min(t[stage] for t in times) for stage in times[0]}
    for stage in ("project", "sort", "composite"):
        assert best[64][stage] > best[1][stage] / 4


@pytest.mark.parametrize("threads", [-1, cpu.MAX_THREADS + 1 if MISSING is None else 0])
def test_threads_beyond_the_bound_are_refused(threads: int) -> None:
    rasterizer = make_native()
    prepared = rasterizer.prepare(random_scene(1, 10))
    with pytest.raises(ValueError, match="threads"):
        rasterizer.render(
            prepared, orbit_camera(CameraModel.PINHOLE, 9, 9), RasterSettings(threads=threads)
        )


def test_the_bound_of_threads_is_that_of_the_settings() -> None:
    make_native()
    with pytest.raises(SettingsError, match=f"0 to {cpu.MAX_THREADS}"):
        load_settings(None, {"render.threads": cpu.MAX_THREADS + 1})
    assert load_settings(None, {"render.threads": cpu.MAX_THREADS}).render.threads == 1024


@pytest.mark.parametrize(("near", "far"), [(0.01, 4.0), (6.0, float("inf")), (4.5, 5.5)])
def test_fisheye_chunks_between_near_and_far(near: float, far: float) -> None:
    """Chunks are left out by their distance, never one that is partly within."""
    rasterizer, truth = make_native(), ReferenceRasterizer()
    scene = in_morton_order(random_scene(11, 4000, sh_degree=0))  # several chunks, apart
    view = replace(orbit_camera(CameraModel.FISHEYE, 65, 31), near=near, far=far)
    prepared = truth.prepare(scene)
    masks = edge_masks(prepared, view, ALL)
    safe = ~(masks.cut | masks.stop)
    image = rasterizer.render(rasterizer.prepare(scene), view, ALL)
    assert 0 < image.stats.visible < len(scene)
    compare(image, truth.render(prepared, view, ALL), safe, safe & ~masks.half)
