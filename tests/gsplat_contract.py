"""The contract of rasterizers where gsplat keeps it, and what it does instead where it does not."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.gsplat_cuda import GsplatRasterizer
from rendering.reference import ReferenceRasterizer, edge_masks
from splat.camera import Camera, CameraModel
from splat.errors import RenderCancelled
from splat.gaussians import Gaussians
from tests.paging_contract import PagingContract
from tests.rasterizer_contract import ALL, BLUE, GREEN, IMAGES, RED, RasterizerContract, bytes_of
from tests.scenes import camera, gaussians, orbit_camera, random_scene

SETTINGS = {
    "classic": ALL,
    "antialiased": replace(ALL, antialiased=True),
    "half size": replace(ALL, resolution=0.5, background=(0.2, 0.5, 0.8)),
}


class GsplatContract(RasterizerContract):
    """Float32 throughout, so depths, which are divided by alpha, are no better than it."""

    tolerance = 5e-6
    depth_tolerance = 2e-5

    def test_needle(self, rasterizer: Any) -> None:
        """Determinants of needles cancel in float32."""
        self.tolerance = 1e-4
        super().test_needle(rasterizer)

    def test_saturated_pixels_take_no_more(self, rasterizer: Any) -> None:
        """gsplat leaves out the Gaussian that would saturate a pixel: 0.2⁵, not 0.2⁶."""
        view = camera(CameraModel.ORTHO, width=33, height=17, focal=1.0)
        means = [(0, 0, z) for z in range(1, 21)]
        colors = np.linspace(RED, BLUE, 20)
        scene = gaussians(means, scales=6.0, opacities=0.8, rgb=colors)
        image = self.draw(rasterizer, scene, view)
        assert image.count is not None
        assert image.color is not None
        assert image.count[8, 16] == 5
        assert image.count.max() == 20
        assert image.alpha[8, 16] == pytest.approx(1 - 0.2**5, abs=self.tolerance)
        expected = sum(0.8 * 0.2**i * colors[i] for i in range(5))
        np.testing.assert_allclose(image.color[8, 16], expected, atol=self.tolerance)

    def test_pixels_that_stop_early_are_opaque(self, rasterizer: Any) -> None:
        """gsplat's stop is fixed: the picture is the exact one, whatever is asked for."""
        view = camera(CameraModel.ORTHO, width=1, height=1, focal=1.0)
        means = [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
        scene = gaussians(means, scales=50.0, opacities=0.8, rgb=[RED, GREEN, BLUE])
        whole, early = (
            self.draw(rasterizer, scene, view, replace(ALL, transmittance_stop=stop))
            for stop in (1e-4, 0.1)
        )
        for name in IMAGES:
            np.testing.assert_array_equal(getattr(whole, name), getattr(early, name))

    def test_only_what_was_asked_for_is_returned(self, rasterizer: Any) -> None:
        """Colour with depth and without are different kernels: the last bit may differ."""
        prepared = rasterizer.prepare(random_scene(7, 60))
        view = orbit_camera(CameraModel.PINHOLE, 33, 17)
        everything = rasterizer.render(prepared, view, ALL)
        names = {
            Outputs(0): "alpha",
            Outputs.COLOR: "color",
            Outputs.DEPTH: "depth",
            Outputs.MEDIAN_DEPTH: "median_depth",
            Outputs.COUNT: "count",
        }
        for output, name in names.items():
            image = rasterizer.render(prepared, view, RasterSettings(outputs=output))
            assert set(bytes_of(image)) == {"alpha", name}
            np.testing.assert_array_equal(image.alpha, everything.alpha)
            np.testing.assert_allclose(getattr(image, name), getattr(everything, name), rtol=1e-6)

    def test_cancelled_under_way(self, rasterizer: Any) -> None:
        """The flag is looked at between stages."""
        prepared, flag = rasterizer.prepare(random_scene(1, 1000)), rasterizer.new_cancel_flag()
        stages, started = rasterizer.compile(), threading.Event()

        def told(*args: Any, **how: Any) -> Any:
            flag.set()
            started.set()
            return stages.isect_tiles(*args, **how)

        rasterizer._stages = replace(stages, isect_tiles=told)
        with pytest.raises(RenderCancelled):
            rasterizer.render(prepared, orbit_camera(CameraModel.PINHOLE, 33, 17), ALL, flag)
        assert started.is_set(), "cancelled before it was under way"


class GsplatPaging(PagingContract):
    """Beside what follows, the same."""

    def test_a_far_reaching_opacity_is_seen_from_outside_the_image(self, rasterizer: Any) -> None:
        """Not if 3.33 σ from its mean the image has not begun; that is at most o / 255 of alpha."""
        side, focal = 21, 10.0
        intrinsics = np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
        ahead = Camera(np.eye(4), intrinsics, side, side, model=CameraModel.ORTHO)

        def rim(x: float) -> float:
            beside = gaussians([x, 0, 1], scales=1.0, opacities=8.0)
            image = rasterizer.render(rasterizer.prepare(beside), ahead)
            return float(image.alpha[side // 2, -1])

        # The last pixel's centre is at x = 1, the image's edge at 1.05.
        assert rim(4.8) == 0 < 8 * np.exp(-0.5 * 3.8**2) < 8 / 255
        assert rim(4.3) == pytest.approx(8 * np.exp(-0.5 * 3.3**2), rel=0.05)


def assert_pictures_agree(
    rasterizer: GsplatRasterizer,
    scene: Gaussians,
    view: Camera,
    settings: RasterSettings,
    tolerance: float,
) -> Any:
    """With the reference where no rounding decides; [H, W] where a pixel came to the stop."""
    reference = ReferenceRasterizer()
    prepared = reference.prepare(scene)
    expected = reference.render(prepared, view, settings)
    image = rasterizer.render(rasterizer.prepare(scene), view, settings)
    masks = edge_masks(prepared, view, settings)
    stopped = expected.alpha >= 1 - 1e-4
    safe = ~(masks.cut | masks.stop | stopped)
    assert safe.mean() > 0.5
    assert_close(image, expected, safe, safe & ~masks.half, tolerance)
    assert image.color is not None and expected.color is not None
    assert np.abs(image.color - expected.color).max() < 0.1
    return stopped


def assert_close(
    image: RasterImage, expected: RasterImage, safe: Any, sure_half: Any, tolerance: float
) -> None:
    for name in ("alpha", "color"):
        ours, theirs = getattr(image, name), getattr(expected, name)
        np.testing.assert_allclose(ours[safe], theirs[safe], rtol=0, atol=tolerance)
    for name, where in (("depth", safe), ("median_depth", sure_half)):
        ours, theirs = getattr(image, name), getattr(expected, name)
        np.testing.assert_allclose(ours[where], theirs[where], rtol=10 * tolerance, atol=0)
    assert image.count is not None and expected.count is not None
    np.testing.assert_array_equal(image.count[safe], expected.count[safe])
