"""What the fused engine must do for two eyes, wherever its kernels run. A test module inherits the
class and makes the engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from render_cache.reuse import ReuseLimits
from rendering.base import PairRasterizer, RasterImage, RasterSettings
from rendering.fused_cuda import FusedRasterizer, Tuning
from rendering.reference import ReferenceRasterizer, edge_masks
from rendering.reference_pair import project_second
from splat.camera import Camera, CameraModel
from splat.errors import RenderCancelled
from splat.gaussians import Gaussians
from splat.stereo import StereoRig
from tests.rasterizer_contract import ALL, bytes_of
from tests.scenes import camera, gaussians, orbit_camera, random_scene
from tests.test_native_rasterizer import compare

USUAL = replace(ALL, reuse=ReuseLimits(0.5, math.radians(1)), background=(0.2, 0.5, 0.8))
NOTHING = replace(USUAL, reuse=ReuseLimits(1e-12, 1e-12))


def eyes_of(convergence: float = math.inf) -> tuple[Camera, Camera]:
    """Two eyes that look at what ``random_scene`` makes."""
    middle = orbit_camera(CameraModel.PINHOLE, 43, 35, angle_rad=1.0)
    return StereoRig(0.06, convergence).eyes(middle)


def check_against_reference(
    fused: FusedRasterizer, scene: Gaussians, how: RasterSettings = USUAL
) -> None:
    """Both pictures within the bars of the native engine."""
    truth_maker, (left, right) = ReferenceRasterizer(), eyes_of(4.0)
    prepared = truth_maker.prepare(scene)
    truth = truth_maker.render_pair(prepared, left, right, how)
    drawn = fused.render_pair(fused.prepare(scene), left, right, how)
    seconds = project_second(prepared, left, right, how)
    for eye, given, image, true in zip((left, right), (None, seconds), drawn, truth, strict=True):
        masks = edge_masks(prepared, eye, how, projected=given)
        safe = ~(masks.cut | masks.stop)
        compare(image, true, safe, safe & ~masks.half)


class FusedPairContract:
    """Inherit it, and give ``make``."""

    tuning = Tuning()

    def make(self, tuning: Tuning) -> FusedRasterizer:
        """The engine."""
        raise NotImplementedError

    @pytest.fixture
    def fused(self) -> FusedRasterizer:
        return self.make(self.tuning)

    def test_it_draws_pairs(self, fused: FusedRasterizer) -> None:
        assert isinstance(fused, PairRasterizer)

    def test_the_left_picture_is_that_of_one_eye_and_so_is_the_right_with_nothing_to_share(
        self,
        fused: FusedRasterizer,
    ) -> None:
        scene, (left, right) = fused.prepare(random_scene(1, 120)), eyes_of(4.0)
        alone = [bytes_of(fused.render(scene, eye, USUAL)) for eye in (left, right)]
        shared = fused.render_pair(scene, left, right, USUAL)
        apart = fused.render_pair(scene, left, right, NOTHING)
        assert bytes_of(shared[0]) == alone[0] == bytes_of(apart[0])
        assert bytes_of(shared[1]) != alone[1] == bytes_of(apart[1])
        # What both see is one splat.
        assert shared[0].stats.visible < apart[0].stats.visible

    @pytest.mark.parametrize("tuning", [Tuning(), Tuning(matrix=True, stride=4), Tuning(tile=8)])
    def test_a_pair_equals_the_reference(self, tuning: Tuning) -> None:
        check_against_reference(self.make(tuning), random_scene(3, 120))

    def test_an_early_stop_and_halves_stay_within_the_bars(self, fused: FusedRasterizer) -> None:
        how = replace(USUAL, transmittance_stop=0.02, antialiased=True, resolution=0.5)
        check_against_reference(fused, random_scene(3, 120), how)

    def test_what_is_fainter_to_one_eye_is_not_to_the_other(self, fused: FusedRasterizer) -> None:
        """A needle that points at the left eye: too faint for it when antialiased."""
        left, right = StereoRig(0.1).eyes(camera(width=33, height=25, focal=30.0))
        toward = np.array([0.0, 0.0, 1.0]) - left.position
        half = 0.5 * math.atan2(-toward[2], toward[0])  # about y, from the x axis
        needle = gaussians(
            (0, 0, 1),
            scales=[[0.3, 0.0016, 0.0016]],
            quats=[[math.cos(half), 0, math.sin(half), 0]],
            opacities=0.3,
        )
        scene = fused.prepare(needle)
        how = replace(USUAL, antialiased=True, background=(0.0, 0.0, 0.0))
        alone = [fused.render(scene, eye, how) for eye in (left, right)]
        assert alone[1].alpha.max() > max(0.01, 2 * alone[0].alpha.max())
        pair = fused.render_pair(scene, left, right, how)
        for image, own in zip(pair, alone, strict=True):
            np.testing.assert_allclose(image.alpha, own.alpha, atol=1e-6)

    def test_a_giant_before_one_eye_does_not_show_to_the_other(
        self, fused: FusedRasterizer
    ) -> None:
        """It is anything but the same to both, and reaches further than any picture."""
        scene = fused.prepare(gaussians([(0, 0, 0.02), (0, 0, 2)], scales=[[1e8] * 3, [0.1] * 3]))
        left, right = StereoRig(0.3).eyes(camera(width=45, height=33, focal=30.0))
        for image, eye in zip(
            fused.render_pair(scene, left, right, USUAL), (left, right), strict=True
        ):
            alone = fused.render(scene, eye, USUAL)
            np.testing.assert_allclose(image.alpha, alone.alpha, atol=1e-6)

    def test_bands_of_a_pair_are_the_rows_of_the_whole(self, fused: FusedRasterizer) -> None:
        scene, (left, right) = fused.prepare(random_scene(2, 120)), eyes_of()
        whole = fused.render_pair(scene, left, right, USUAL)
        for rows in ((0, 32), (32, 35)):
            band = fused.render_pair(scene, left, right, replace(USUAL, rows=rows))
            for eye, image in zip(whole, band, strict=True):
                assert bytes_of(image) == bytes_of(eye.rows(*rows))

    def test_statistics_add_up_to_those_of_the_pair(self, fused: FusedRasterizer) -> None:
        scene, (left, right) = fused.prepare(random_scene(2, 120)), eyes_of()
        pair: tuple[RasterImage, RasterImage] = fused.render_pair(scene, left, right, NOTHING)
        alone = [fused.render(scene, eye, NOTHING) for eye in (left, right)]
        assert pair[0].stats == pair[1].stats
        pairs = sum(image.stats.tile_pairs for image in alone)
        assert sum(image.stats.tile_pairs for image in pair) in (pairs, pairs - 1)

    def test_what_is_no_pair_or_was_cancelled_is_refused(self, fused: FusedRasterizer) -> None:
        scene, (left, right) = fused.prepare(random_scene(1, 10)), eyes_of()
        with pytest.raises(ValueError, match="pinhole"):
            fused.render_pair(scene, left, replace(right, near=0.2), USUAL)
        with pytest.raises(ValueError, match="limits"):
            fused.render_pair(scene, left, right, ALL)
        cancel = fused.new_cancel_flag()
        cancel.set()
        with pytest.raises(RenderCancelled):
            fused.render_pair(scene, left, right, USUAL, cancel)
