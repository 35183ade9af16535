"""Two eyes drawn at once: the left one to the byte, the right one within the limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from render_cache.reuse import ReuseLimits
from rendering.base import PairRasterizer, RasterSettings
from rendering.reference import ReferenceRasterizer, edge_masks
from rendering.reference_pair import outline_drift_px, project_second
from rendering.reference_project import project
from splat.camera import Camera, CameraModel
from splat.errors import RenderCancelled
from splat.stereo import StereoRig, is_pair
from tests.rasterizer_contract import ALL, bytes_of
from tests.scenes import camera, gaussians, orbit_camera, random_scene
from tests.test_native_rasterizer import INSTRUCTION_SETS, compare, make_native

USUAL = replace(ALL, reuse=ReuseLimits(0.5, math.radians(1)), background=(0.2, 0.5, 0.8))
NOTHING = replace(USUAL, reuse=ReuseLimits(1e-12, 1e-12))
FEW_PARTS = 8


def eyes_of(
    width: int = 203, height: int = 131, ipd: float = 0.06, convergence: float = math.inf
) -> tuple[Camera, Camera]:
    """Two eyes that look at what ``random_scene`` makes."""
    middle = orbit_camera(CameraModel.PINHOLE, width, height, angle_rad=1.0)
    return StereoRig(ipd, convergence).eyes(middle)


@pytest.fixture(params=["native", "reference"])
def rasterizer(request: pytest.FixtureRequest) -> PairRasterizer:
    """Those that draw pairs."""
    drawn: PairRasterizer = make_native() if request.param == "native" else ReferenceRasterizer()
    assert isinstance(drawn, PairRasterizer)
    return drawn


@pytest.mark.parametrize("convergence", [math.inf, 4.0])
def test_the_left_picture_is_that_of_one_eye(
    rasterizer: PairRasterizer, convergence: float
) -> None:
    scene = rasterizer.prepare(random_scene(1, 600))
    left, right = eyes_of(97, 61, convergence=convergence)
    pair = rasterizer.render_pair(scene, left, right, USUAL)
    assert bytes_of(pair[0]) == bytes_of(rasterizer.render(scene, left, USUAL))
    assert bytes_of(pair[1]) != bytes_of(pair[0])


@pytest.mark.parametrize("convergence", [math.inf, 4.0])
def test_with_nothing_to_share_the_right_picture_is_that_of_one_eye(
    rasterizer: PairRasterizer, convergence: float
) -> None:
    scene = rasterizer.prepare(random_scene(1, 600))
    left, right = eyes_of(97, 61, convergence=convergence)
    pair = rasterizer.render_pair(scene, left, right, NOTHING)
    assert bytes_of(pair[1]) == bytes_of(rasterizer.render(scene, right, NOTHING))


@pytest.mark.parametrize("scale", [1e2, 1e8, 1e15, 1e25])
def test_a_giant_before_one_eye_does_not_show_to_the_other(
    rasterizer: PairRasterizer, scale: float
) -> None:
    """It is anything but the same to both, and reaches further than any picture."""
    scene = rasterizer.prepare(
        gaussians([(0, 0, 0.02), (0, 0, 2)], scales=[[scale] * 3, [0.1] * 3])
    )
    view = camera(width=45, height=33, focal=30.0)
    left, right = StereoRig(0.3).eyes(view)
    pair = rasterizer.render_pair(scene, left, right, USUAL)
    for image, eye in zip(pair, (left, right), strict=True):
        alone = rasterizer.render(scene, eye, USUAL)
        assert alone.color is not None
        assert image.color is not None
        np.testing.assert_allclose(image.color, alone.color, atol=1e-5)


@pytest.mark.parametrize("opacity", [0.3, 0.45])
@pytest.mark.parametrize("instruction_set", [None, *INSTRUCTION_SETS])
def test_what_is_fainter_to_one_eye_is_not_to_the_other(
    instruction_set: str | None, opacity: float
) -> None:
    """A needle that points at the left eye: too faint for it, or nearly so, when antialiased."""
    left, right = StereoRig(0.1).eyes(camera(width=65, height=49, focal=60.0))
    toward = np.array([0.0, 0.0, 1.0]) - left.position
    half = 0.5 * math.atan2(-toward[2], toward[0])  # about y, from the x axis
    needle = gaussians(
        (0, 0, 1),
        scales=[[0.3, 0.0008, 0.0008]],
        quats=[[math.cos(half), 0, math.sin(half), 0]],
        opacities=opacity,
    )
    rasterizer: PairRasterizer = (
        ReferenceRasterizer() if instruction_set is None else make_native(instruction_set)
    )
    scene = rasterizer.prepare(needle)
    how = replace(USUAL, antialiased=True, background=(0.0, 0.0, 0.0))
    alone = [rasterizer.render(scene, eye, how) for eye in (left, right)]
    assert alone[1].alpha.max() > max(0.01, 2 * alone[0].alpha.max())
    pair = rasterizer.render_pair(scene, left, right, how)
    for image, own in zip(pair, alone, strict=True):
        np.testing.assert_allclose(image.alpha, own.alpha, atol=1e-6)


def test_what_is_shared_is_nearly_right(rasterizer: PairRasterizer) -> None:
    scene = rasterizer.prepare(random_scene(1, 600))
    left, right = eyes_of(97, 61)
    exact = rasterizer.render(scene, right, USUAL)
    _, shared = rasterizer.render_pair(scene, left, right, USUAL)
    assert exact.color is not None
    assert shared.color is not None
    assert bytes_of(exact) != bytes_of(shared)
    error = float(np.square(exact.color - shared.color).mean())
    assert -10 * math.log10(error) > 45


def test_what_is_no_pair_is_refused(rasterizer: PairRasterizer) -> None:
    scene = rasterizer.prepare(random_scene(1, 10))
    left, right = eyes_of(33, 17)
    turned = right.viewmat.copy()
    turned[:3, :3] = turned[:3, :3] @ [[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]]
    raised = right.viewmat.copy()
    raised[1, 3] += 0.1
    longer = right.K.copy()
    longer[0, 0] *= 1.1
    others = [
        replace(right, viewmat=turned),
        replace(right, viewmat=raised),
        replace(right, K=longer),
        replace(right, width=34),
        replace(right, near=0.2),
        replace(right, model=CameraModel.ORTHO),
    ]
    assert is_pair(left, right)
    for other in others:
        assert not is_pair(left, other)
        with pytest.raises(ValueError, match=r"pair|eyes"):
            rasterizer.render_pair(scene, left, other, USUAL)
    wide_left, wide_right = (replace(eye, model=CameraModel.FISHEYE) for eye in (left, right))
    with pytest.raises(ValueError, match="pinhole"):
        rasterizer.render_pair(scene, wide_left, wide_right, USUAL)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (1.0, 0.0)])
def test_exact_pictures_are_not_drawn_as_a_pair(
    rasterizer: PairRasterizer, limits: tuple[float, float]
) -> None:
    scene = rasterizer.prepare(random_scene(1, 10))
    with pytest.raises(ValueError, match="limits"):
        rasterizer.render_pair(scene, *eyes_of(33, 17), replace(ALL, reuse=ReuseLimits(*limits)))


def test_a_pair_that_was_cancelled(rasterizer: PairRasterizer) -> None:
    scene = rasterizer.prepare(random_scene(1, 10))
    cancel = rasterizer.new_cancel_flag()
    cancel.set()
    with pytest.raises(RenderCancelled):
        rasterizer.render_pair(scene, *eyes_of(33, 17), USUAL, cancel)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 600),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    ipd=st.floats(0.005, 1.0),
    convergence=st.sampled_from([math.inf, 3.0]),
    drift_px=st.floats(0.01, 8.0),
    angle_rad=st.floats(0.001, 2.0),
    sh_degree=st.sampled_from([None, 0, 1]),
    stop=st.sampled_from([1e-4, 0.02]),
    resolution=st.sampled_from([1.0, 0.3]),
    antialiased=st.booleans(),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
)
def test_the_native_pair_equals_the_reference(
    seed: int,
    count: int,
    size: tuple[int, int],
    ipd: float,
    convergence: float,
    drift_px: float,
    angle_rad: float,
    sh_degree: int | None,
    stop: float,
    resolution: float,
    antialiased: bool,
    instruction_set: str,
) -> None:
    left, right = eyes_of(*size, ipd=ipd, convergence=convergence)
    how = replace(
        ALL,
        reuse=ReuseLimits(drift_px, angle_rad),
        sh_degree=sh_degree,
        transmittance_stop=stop,
        resolution=resolution,
        antialiased=antialiased,
    )
    scene = random_scene(seed, count)
    scene.opacities[::3] *= 2  # some above 1, as of merged Gaussians
    reference, native = ReferenceRasterizer(), make_native(instruction_set)
    truth_scene = reference.prepare(scene)
    in_range = project(truth_scene, left, anywhere=True).index
    drift = outline_drift_px(truth_scene, in_range, left, right)
    assume(not ((drift / drift_px - 1).abs() < 1e-4).any())  # rounding would decide
    far = float(np.linalg.norm(right.position - left.position)) / math.sin(min(angle_rad, 1.5707))
    distance = np.linalg.norm(scene.means - left.position, axis=1)
    assume(not (np.abs(distance / far - 1) < 1e-4).any())
    truth = reference.render_pair(truth_scene, left, right, how)
    drawn = native.render_pair(native.prepare(scene), left, right, how)
    seconds = project_second(truth_scene, left, right, how)
    for eye, (image, true) in enumerate(zip(drawn, truth, strict=True)):
        camera, given = (left, None) if eye == 0 else (right, seconds)
        masks = edge_masks(truth_scene, camera, how, projected=given)
        safe = ~(masks.cut | masks.stop)
        compare(image, true, safe, safe & ~masks.half)


@pytest.mark.parametrize("stop", [1e-4, 0.02])
def test_same_bytes_again_and_on_any_number_of_threads(stop: float) -> None:
    native = make_native()
    scene = native.prepare(random_scene(2, 3000))
    how = replace(USUAL, transmittance_stop=stop)
    first = [
        bytes_of(eye) for eye in native.render_pair(scene, *eyes_of(), replace(how, threads=1))
    ]
    for threads in (1, 2, 5, 0):
        again = native.render_pair(scene, *eyes_of(), replace(how, threads=threads))
        assert [bytes_of(eye) for eye in again] == first


def test_a_small_record_budget_changes_no_byte() -> None:
    native = make_native()
    scene = native.prepare(random_scene(2, 9000))
    whole = native.render_pair(scene, *eyes_of(), USUAL)
    native.record_budget_bytes = 100_000
    parts = native.render_pair(scene, *eyes_of(), USUAL)
    assert parts[0].stats.parts >= FEW_PARTS > whole[0].stats.parts
    assert [bytes_of(eye) for eye in parts] == [bytes_of(eye) for eye in whole]


def test_bands_are_the_rows_of_the_whole() -> None:
    native = make_native()
    scene = native.prepare(random_scene(2, 3000))
    whole = native.render_pair(scene, *eyes_of(), USUAL)
    for rows in ((0, 32), (32, 96), (96, 131)):
        band = native.render_pair(scene, *eyes_of(), replace(USUAL, rows=rows))
        for eye, image in zip(whole, band, strict=True):
            assert bytes_of(image) == bytes_of(eye.rows(*rows))


@pytest.mark.parametrize("size", [1e-3, 0.02])
def test_what_lies_between_far_eyes_is_not_drawn(size: float) -> None:
    """What both see tens of tiles apart is in the tiles of either, not in those between."""
    rng = np.random.default_rng(1)
    means = rng.uniform((-1, -1, 1.9), (1, 1, 2.1), (2000, 3))
    native = make_native()
    scene = native.prepare(gaussians(means, scales=[[size, size, size]] * 2000))
    left, right = StereoRig(1.5).eyes(camera(width=1500, height=600, focal=700.0))
    how = replace(USUAL, reuse=ReuseLimits(1e3, 1e3))
    alone = [native.render(scene, eye, how).stats.tile_pairs for eye in (left, right)]
    pair = native.render_pair(scene, left, right, how)
    assert sum(eye.stats.tile_pairs for eye in pair) <= 1.05 * sum(alone)


def test_statistics_add_up_to_those_of_the_pair() -> None:
    native = make_native()
    scene, eyes = native.prepare(random_scene(2, 3000)), eyes_of(ipd=1e-4)
    left, right = native.render_pair(scene, *eyes, USUAL)
    assert left.stats == right.stats
    assert sum(left.stats.stage_ms.values()) > 0
    # Nearly all is the same to eyes so near to each other, and counts once.
    alone = native.render(scene, eyes[0], USUAL).stats.tile_pairs
    assert 0.98 * alone < left.stats.tile_pairs + right.stats.tile_pairs < 1.05 * alone


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    ipd=st.floats(0.001, 2.0),
    convergence=st.floats(0.5, 100.0),
    fov_rad=st.floats(0.2, 2.6),
)
def test_no_outline_differs_by_more_than_the_bound(
    seed: int, ipd: float, convergence: float, fov_rad: float
) -> None:
    """In any direction n, the outline is k √(nᵀ Σ′ n) from the mean."""
    middle = orbit_camera(CameraModel.PINHOLE, 160, 90, angle_rad=seed % 7)
    focal = 80 / math.tan(fov_rad / 2)
    middle = replace(middle, K=np.array([[focal, 0, 80], [0, focal, 45], [0, 0, 1]]))
    left, right = StereoRig(ipd, convergence).eyes(middle)
    faint_to_dense = random_scene(seed, 200)
    faint_to_dense.opacities[::2] *= 3  # merged Gaussians may be denser than one
    scene = ReferenceRasterizer().prepare(faint_to_dense)
    first, second = (project(scene, eye, anywhere=True) for eye in (left, right))
    np.testing.assert_array_equal(first.index, second.index)
    np.testing.assert_array_equal(first.depths, second.depths)
    np.testing.assert_allclose(first.means2d[:, 1], second.means2d[:, 1], rtol=0, atol=1e-9)
    turns = torch.linspace(0, math.pi, 90, dtype=torch.float64)
    n = torch.stack([turns.cos(), turns.sin()])
    heights = []
    for eye in (first, second):
        xx, xy, yy = eye.conics.unbind(dim=1)
        inverse = torch.stack([xx, xy, xy, yy], dim=1).reshape(-1, 2, 2)
        covariance = torch.linalg.inv(inverse)
        reach = (2 * (255 * eye.opacities).log()).sqrt()
        heights.append(reach[:, None] * torch.einsum("in,mij,jn->mn", n, covariance, n).sqrt())
    moved = (heights[1] - heights[0]).abs().amax(dim=1)
    bound = outline_drift_px(scene, first.index, left, right)
    assert (moved <= bound * (1 + 1e-6) + 1e-6).all()


def test_settings_are_exact_unless_told_otherwise() -> None:
    assert RasterSettings().reuse == ReuseLimits(0, 0)
