"""What every ``Rasterizer`` must do. A test module inherits the class and makes one.

Expected images come from ``closed_form``: the test computes by hand where a Gaussian
lands and how its ellipse looks, and the rest is arithmetic.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rendering.base import TILE_PX, Outputs, RasterImage, Rasterizer, RasterSettings
from splat.camera import Camera, CameraModel
from splat.errors import RenderCancelled
from splat.gaussians import Gaussians
from splat.harmonics import sh_basis
from tests.closed_form import Splat, paint
from tests.scenes import ODD_SIZES, camera, gaussians, orbit_camera, random_scene

ALL = RasterSettings(outputs=Outputs.ALL)
RED, GREEN, BLUE = (0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.1, 0.2, 0.9)
SQUARE_ROOT_HALF = math.sqrt(0.5)
IMAGES = ("alpha", "color", "depth", "median_depth", "count")


def bytes_of(image: RasterImage) -> dict[str, bytes]:
    """The exact content of every image that is there."""
    arrays = {name: getattr(image, name) for name in IMAGES}
    return {name: array.tobytes() for name, array in arrays.items() if array is not None}


class RasterizerContract:
    """Inherit, implement ``make``, and loosen a tolerance only for float32 arithmetic.

    Attributes:
        tolerance: Of colour and alpha, absolute.
        depth_tolerance: Relative.
        fewer: By how much some scenes are smaller, of engines that are slow.
    """

    tolerance = 1e-6
    depth_tolerance = 1e-6
    fewer = 1

    @pytest.fixture
    def rasterizer(self) -> Rasterizer:
        """The rasterizer under test."""
        raise NotImplementedError

    # --- helpers ---------------------------------------------------------------------------

    def draw(
        self,
        rasterizer: Rasterizer,
        scene: Gaussians,
        view: Camera,
        settings: RasterSettings = ALL,
    ) -> RasterImage:
        return rasterizer.render(rasterizer.prepare(scene), view, settings)

    def check(
        self,
        rasterizer: Rasterizer,
        scene: Gaussians,
        view: Camera,
        splats: Sequence[Splat],
        settings: RasterSettings = ALL,
    ) -> RasterImage:
        """Draw and compare all images with ``splats``, given front to back."""
        image = self.draw(rasterizer, scene, view, settings)
        expected = paint(splats, view.width, view.height, settings.background)
        self.check_types(image, view)
        np.testing.assert_array_equal(image.count, expected.count)
        for name in ("alpha", "color"):
            np.testing.assert_allclose(
                getattr(image, name), getattr(expected, name), rtol=0, atol=self.tolerance
            )
        for name in ("depth", "median_depth"):
            np.testing.assert_allclose(
                getattr(image, name), getattr(expected, name), rtol=self.depth_tolerance, atol=0
            )
        return image

    def check_types(self, image: RasterImage, view: Camera) -> None:
        shape = (view.height, view.width)
        for name in IMAGES:
            array = getattr(image, name)
            assert array.shape == ((*shape, 3) if name == "color" else shape)
            assert array.dtype == (np.int32 if name == "count" else np.float32)

    # --- one Gaussian ----------------------------------------------------------------------

    @pytest.mark.parametrize("opacity", [0.02, 0.4, 0.97])
    def test_round_gaussian_on_the_axis(self, rasterizer: Rasterizer, opacity: float) -> None:
        view = camera(width=33, height=17, focal=40.0)
        scene = gaussians((0, 0, 2), scales=0.1, opacities=opacity)
        splat = Splat((16.5, 8.5), (40 * 0.1 / 2) ** 2 * np.eye(2), opacity, depth=2.0)
        image = self.check(rasterizer, scene, view, [splat])
        # At the centre the exponent is 0; one pixel aside it is -1 / (2 · (4 + 0.3)).
        assert image.alpha[8, 16] == pytest.approx(opacity, abs=self.tolerance)
        beside = opacity * math.exp(-0.5 / 4.3)
        assert image.alpha[8, 17] == pytest.approx(beside, abs=self.tolerance)

    def test_it_ends_where_alpha_falls_below_the_cut(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=129, height=1, focal=1.0)
        scene = gaussians((0, 0, 1), scales=10.0, opacities=0.5)
        image = self.draw(rasterizer, scene, view)
        # 0.5 exp(-d² / 2(100 + 0.3)) = 1/255 at d = 31.19: 31 pixels to either side.
        assert image.count is not None
        np.testing.assert_array_equal(np.flatnonzero(image.count[0]), np.arange(33, 96))
        assert image.alpha[0, 33] == pytest.approx(0.5 * math.exp(-(31**2) / 200.6), abs=1e-4)
        assert image.alpha[0, 32] == 0

    def test_alpha_is_clamped(self, rasterizer: Rasterizer) -> None:
        view = camera(width=9, height=9, focal=40.0)
        scene = gaussians((0, 0, 1), scales=1.0, opacities=1.0)
        image = self.check(
            rasterizer, scene, view, [Splat((4.5, 4.5), 1600 * np.eye(2), opacity=1.0)]
        )
        assert image.alpha[4, 4] == pytest.approx(0.999, abs=1e-6)

    @pytest.mark.parametrize("opacity", [0.0, 0.0039])
    def test_opacity_below_the_cut_draws_nothing(
        self, rasterizer: Rasterizer, opacity: float
    ) -> None:
        self.check(rasterizer, gaussians((0, 0, 1), opacities=opacity), camera(), [])

    def test_opacity_just_above_the_cut_is_drawn(self, rasterizer: Rasterizer) -> None:
        image = self.draw(rasterizer, gaussians((0, 0, 1), opacities=0.00393), camera())
        assert image.count is not None
        assert image.count.sum() == image.count[8, 16] == 1

    def test_empty_scene_shows_the_background(self, rasterizer: Rasterizer) -> None:
        settings = replace(ALL, background=(0.1, 0.5, 1.0))
        self.check(rasterizer, Gaussians.empty(), camera(), [], settings)
        self.check(rasterizer, Gaussians.empty(sh_degree=3), camera(), [], settings)

    @pytest.mark.parametrize(
        ("z", "drawn"),
        [
            (-2.0, False),
            (0.0, False),
            (0.49, False),
            (0.5, True),
            (7.0, True),
            (8.0, True),
            (8.1, False),
        ],
    )
    @pytest.mark.parametrize("model", list(CameraModel))
    def test_near_and_far(
        self, rasterizer: Rasterizer, model: CameraModel, z: float, drawn: bool
    ) -> None:
        view = camera(model, near=0.5, far=8.0, focal=5.0)
        image = self.draw(rasterizer, gaussians((0, 0, z), scales=0.4), view)
        assert (image.alpha.max() > 0.5) == drawn
        assert image.alpha.any() == drawn

    def test_mean_outside_the_image(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=33, height=17, focal=2.0)
        scene = gaussians((-9.0, 0.2, 3), scales=2.0)
        splat = Splat((16.5 - 18, 8.5 + 0.4), 16 * np.eye(2), depth=3.0)
        image = self.check(rasterizer, scene, view, [splat])
        assert 0.1 < image.alpha.max() < 0.8

    # --- shapes ----------------------------------------------------------------------------

    def test_needle(self, rasterizer: Rasterizer) -> None:
        """A hundred pixels long, infinitely thin, at 30°."""
        view = camera(CameraModel.ORTHO, width=65, height=31, focal=1.0)
        angle = math.pi / 6
        quat = (math.cos(angle / 2), 0, 0, math.sin(angle / 2))
        scene = gaussians((0.3, -0.2, 1), scales=(30.0, 1e-6, 1e-6), quats=quat)
        axis = np.array([math.cos(angle), math.sin(angle)])
        splat = Splat((32.8, 15.3), 900 * np.outer(axis, axis))
        self.check(rasterizer, scene, view, [splat])

    def test_speck_is_as_large_as_the_dilation(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=9, height=9, focal=1.0)
        scene = gaussians((0.2, 0.1, 1), scales=1e-9)
        self.check(rasterizer, scene, view, [Splat((4.7, 4.6), np.zeros((2, 2)))])

    @pytest.mark.parametrize("scale", [1e3, 1e5])
    def test_giant_fills_the_image(self, rasterizer: Rasterizer, scale: float) -> None:
        view = camera(width=65, height=31)
        image = self.draw(rasterizer, gaussians((0, 0, 1), scales=scale, opacities=0.5), view)
        np.testing.assert_allclose(image.alpha, 0.5, atol=1e-3)

    def test_rotation_about_every_axis(self, rasterizer: Rasterizer) -> None:
        """Quarter turns permute the axes of an ellipsoid of 2 × 4 × 8 pixels."""
        view = camera(CameraModel.ORTHO, width=33, height=33, focal=1.0)
        seen_along_z = {(0, 0, 0): (2, 4), (1, 0, 0): (2, 8), (0, 1, 0): (8, 4), (0, 0, 1): (4, 2)}
        for axis, (wide, high) in seen_along_z.items():
            half_turn = SQUARE_ROOT_HALF if any(axis) else 1.0
            quat = (half_turn, *(SQUARE_ROOT_HALF * a for a in axis))
            scene = gaussians((0.1, 0.2, 5), scales=(2, 4, 8), quats=quat)
            splat = Splat((16.6, 16.7), np.diag([wide**2, high**2]), depth=5.0)
            self.check(rasterizer, scene, view, [splat])

    def test_antialiasing_compensates_the_dilation(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=17, height=9, focal=1.0)
        scene = gaussians((0.2, 0.1, 1), scales=(0.3, 1.5, 1.0), opacities=0.9)
        factor = math.sqrt((0.09 * 2.25) / (0.39 * 2.55))
        splat = Splat((8.7, 4.6), np.diag([0.09, 2.25]), 0.9 * factor)
        self.check(rasterizer, scene, view, [splat], replace(ALL, antialiased=True))

    def test_a_smaller_picture_compensates_for_its_larger_pixels(
        self, rasterizer: Rasterizer
    ) -> None:
        view = camera(CameraModel.ORTHO, width=17, height=9, focal=1.0)
        scene = gaussians((0.2, 0.1, 1), scales=(0.3, 1.5, 1.0), opacities=0.9)
        kept = 0.3 * 0.5**2
        factor = math.sqrt((0.09 + kept) * (2.25 + kept) / (0.39 * 2.55))
        splat = Splat((8.7, 4.6), np.diag([0.09, 2.25]), 0.9 * factor)
        self.check(rasterizer, scene, view, [splat], replace(ALL, resolution=0.5))

    def test_a_speck_is_as_bright_in_a_smaller_picture(self, rasterizer: Rasterizer) -> None:
        scene = rasterizer.prepare(gaussians((0.03, 0.02, 2), scales=0.01, opacities=0.2))
        full = camera(width=64, height=32, focal=60.0)
        small = replace(full, K=np.diag([0.5, 0.5, 1.0]) @ full.K, width=32, height=16)
        whole = rasterizer.render(scene, full, RasterSettings())
        half = rasterizer.render(scene, small, RasterSettings(resolution=0.5))
        assert 4 * half.alpha.sum() == pytest.approx(whole.alpha.sum(), rel=0.12)
        grown = rasterizer.render(scene, small, RasterSettings())
        assert 4 * grown.alpha.sum() > 1.5 * whole.alpha.sum()

    def test_antialiasing_hides_specks(self, rasterizer: Rasterizer) -> None:
        settings = replace(ALL, antialiased=True)
        scene = gaussians((0, 0, 1), scales=1e-6, opacities=1.0)
        image = self.check(rasterizer, scene, camera(), [], settings)
        assert image.stats.visible == 0

    # --- several Gaussians -----------------------------------------------------------------

    @pytest.mark.parametrize("front", [0, 1])
    def test_nearer_is_in_front(self, rasterizer: Rasterizer, front: int) -> None:
        view = camera(CameraModel.ORTHO, width=33, height=17, focal=1.0)
        depths = (2.0, 3.0) if front == 0 else (3.0, 2.0)
        scene = gaussians(
            [(-1, 0, depths[0]), (2, 1, depths[1])], scales=(3, 3, 3), rgb=[RED, BLUE]
        )
        splats = [
            Splat((15.5, 8.5), 9 * np.eye(2), depth=depths[0], rgb=RED),
            Splat((18.5, 9.5), 9 * np.eye(2), depth=depths[1], rgb=BLUE),
        ]
        settings = replace(ALL, background=(0.2, 0.3, 0.4))
        self.check(rasterizer, scene, view, splats if front == 0 else splats[::-1], settings)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_equal_depths_keep_the_order_of_the_scene(
        self, rasterizer: Rasterizer, reverse: bool
    ) -> None:
        view = camera(CameraModel.ORTHO, width=17, height=17, focal=1.0)
        colors = [RED, GREEN, BLUE][:: -1 if reverse else 1]
        scene = gaussians([(0, 0, 2)] * 3, scales=4.0, opacities=0.4, rgb=colors)
        splats = [Splat((8.5, 8.5), 16 * np.eye(2), 0.4, depth=2.0, rgb=c) for c in colors]
        self.check(rasterizer, scene, view, splats)

    def test_depths_equal_in_float32_keep_the_order_of_the_scene(
        self, rasterizer: Rasterizer
    ) -> None:
        viewmat = np.eye(4)
        viewmat[2, 3] = 10_000.0
        view = camera(CameraModel.ORTHO, width=17, height=17, focal=1.0, viewmat=viewmat)
        scene = gaussians([(0, 0, 2e-4), (0, 0, 1e-4)], scales=4.0, rgb=[RED, BLUE])
        splats = [Splat((8.5, 8.5), 16 * np.eye(2), depth=1e4, rgb=c) for c in (RED, BLUE)]
        self.check(rasterizer, scene, view, splats)

    def test_saturated_pixels_take_no_more(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=33, height=17, focal=1.0)
        depths = np.arange(1.0, 21.0)
        means = np.stack([0 * depths, 0 * depths, depths], axis=1)
        scene = gaussians(means, scales=6.0, opacities=0.8, rgb=np.linspace(RED, BLUE, 20))
        splats = [
            Splat((16.5, 8.5), 36 * np.eye(2), 0.8, depth, tuple(rgb))
            for depth, rgb in zip(depths, np.linspace(RED, BLUE, 20), strict=True)
        ]
        image = self.check(rasterizer, scene, view, splats)
        # 0.2⁵ = 3.2e-4 is above the stop, 0.2⁶ below: six in the middle, more at the rim.
        assert image.count is not None
        assert image.count[8, 16] == 6
        assert image.count.max() == 20

    def test_pixels_that_stop_early_are_opaque(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=1, height=1, focal=1.0)
        means = [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
        scene = gaussians(means, scales=50.0, opacities=0.8, rgb=[RED, GREEN, BLUE])
        white = replace(ALL, background=(1.0, 1.0, 1.0))
        whole = self.draw(rasterizer, scene, view, white)
        early = self.draw(rasterizer, scene, view, replace(white, transmittance_stop=0.1))
        assert whole.color is not None
        assert early.color is not None
        assert early.count is not None
        assert early.depth is not None
        # 0.2² = 0.04 is below the stop: the first two fill the pixel, 0.8 to 0.16.
        assert early.count[0, 0] == 2
        assert early.alpha[0, 0] == 1
        expected = (0.8 * np.array(RED) + 0.16 * np.array(GREEN)) / 0.96
        np.testing.assert_allclose(early.color[0, 0], expected, atol=1e-6)
        assert early.depth[0, 0] == pytest.approx((0.8 * 1 + 0.16 * 2) / 0.96, rel=1e-6)
        assert np.abs(early.color - whole.color).max() <= 0.1
        # One that never comes to the stop shows the background as ever.
        one = gaussians((0, 0, 1), scales=50.0, opacities=0.8, rgb=RED)
        images = [
            self.draw(rasterizer, one, view, settings)
            for settings in (white, replace(white, transmittance_stop=0.1))
        ]
        assert bytes_of(images[0]) == bytes_of(images[1])

    @pytest.mark.parametrize("stop", [0.0, 5e-5, 0.5, -1.0, math.nan])
    def test_a_stop_is_neither_below_the_models_nor_a_half(self, stop: float) -> None:
        with pytest.raises(ValueError, match="stop"):
            RasterSettings(transmittance_stop=stop)

    def test_hundreds_of_layers(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=33, height=17, focal=1.0)
        random = np.random.default_rng(1)
        depths = random.permutation(np.arange(1.0, 701.0))
        colors = random.random((700, 3))
        means = np.stack([0 * depths, 0 * depths, depths], axis=1)
        scene = gaussians(means, scales=50.0, opacities=0.012, rgb=colors)
        splats = [
            Splat((16.5, 8.5), 2500 * np.eye(2), 0.012, depths[i], tuple(colors[i]))
            for i in np.argsort(depths)
        ]
        image = self.check(rasterizer, scene, view, splats)
        assert image.count is not None
        assert (image.count == 700).all()

    @pytest.mark.parametrize(("width", "height"), ODD_SIZES)
    def test_odd_sizes(self, rasterizer: Rasterizer, width: int, height: int) -> None:
        view = camera(CameraModel.ORTHO, width=width, height=height, focal=1.0)
        corners = [(-0.5 * width, -0.5 * height), (0.5 * width, 0.5 * height), (0.0, 0.0)]
        means = [(x, y, 1.0 + i) for i, (x, y) in enumerate(corners)]
        scene = gaussians(means, scales=(7.0, 3.0, 1.0), rgb=[RED, GREEN, BLUE])
        splats = [
            Splat((x + 0.5 * width, y + 0.5 * height), np.diag([49, 9]), 0.8, 1.0 + i, rgb)
            for i, ((x, y), rgb) in enumerate(zip(corners, (RED, GREEN, BLUE), strict=True))
        ]
        self.check(rasterizer, scene, view, splats)

    # --- camera models ---------------------------------------------------------------------

    def test_pinhole_off_axis(self, rasterizer: Rasterizer) -> None:
        """Off-centre principal point, fx ≠ fy: JJᵀ of a ball of radius s at (x, y, z)."""
        view = camera(width=65, height=31, focal=(30.0, 22.0), centre=(20.0, 19.5))
        x, y, z, s = 1.0, -0.5, 2.0, 0.25
        scene = gaussians((x, y, z), scales=s)
        tx, ty, gx, gy = x / z, y / z, 30 * s / z, 22 * s / z
        covariance = [
            [gx * gx * (1 + tx * tx), gx * gy * tx * ty],
            [gx * gy * tx * ty, gy * gy * (1 + ty * ty)],
        ]
        splat = Splat((20 + 30 * tx, 19.5 + 22 * ty), covariance, depth=z)
        self.check(rasterizer, scene, view, [splat])

    @pytest.mark.parametrize("side", [-1, 1])
    def test_pinhole_linearization_is_limited(self, rasterizer: Rasterizer, side: int) -> None:
        """Far outside the image x/z inside J stops 0.3 tan(fov / 2) beyond the edge."""
        view = camera(width=40, height=20, focal=20.0, centre=(15.0, 10.0))
        tx, z, s = 4.0 * side, 1.0, 1.4
        scene = gaussians((tx * z, 0, z), scales=s)
        limit = (25 / 20 if side > 0 else 15 / 20) + 0.3 * (20 / 20)
        covariance = (20 * s) ** 2 * np.diag([1 + limit * limit, 1.0])
        splat = Splat((15 + 20 * tx, 10.0), covariance)
        image = self.check(rasterizer, scene, view, [splat])
        assert image.alpha.max() > 0.1

    @pytest.mark.parametrize("degrees", [0.0, 1e-3, 30.0, 89.9, 120.0, 144.0])
    @pytest.mark.parametrize("direction_degrees", [0.0, 37.0, 206.0])
    def test_fisheye(
        self, rasterizer: Rasterizer, degrees: float, direction_degrees: float
    ) -> None:
        """A ball of radius s at distance ρ is fx s / ρ along the image radius and
        fx s θ / r across it."""
        focal = (12.0, 10.0)
        view = camera(CameraModel.FISHEYE, width=65, height=63, focal=focal)
        theta, phi, rho, s = math.radians(degrees), math.radians(direction_degrees), 2.5, 0.4
        e = np.array([math.cos(phi), math.sin(phi)])
        r = rho * math.sin(theta)
        scene = gaussians((*(r * e), rho * math.cos(theta)), scales=s)
        across = theta / r if r else 1 / rho
        normal = np.array([-e[1], e[0]])
        stretch = np.outer(e, e) / rho**2 + np.outer(normal, normal) * across**2
        covariance = s**2 * np.outer(focal, focal) * stretch
        mean = (32.5 + focal[0] * theta * e[0], 31.5 + focal[1] * theta * e[1])
        self.check(rasterizer, scene, view, [Splat(mean, covariance, depth=rho)])

    def test_fisheye_does_not_see_behind_itself(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.FISHEYE, width=65, height=63, focal=12.0)
        theta = math.radians(146.0)
        scene = gaussians((math.sin(theta), 0, math.cos(theta)), scales=0.4)
        self.check(rasterizer, scene, view, [])

    def test_scene_and_camera_moved_together(self, rasterizer: Rasterizer) -> None:
        random = np.random.default_rng(5)
        view = camera(width=65, height=31, focal=30.0)
        still = gaussians(
            random.uniform((-2, -1, 2), (2, 1, 6), size=(12, 3)),
            scales=random.uniform(0.02, 0.6, size=(12, 3)),
            quats=random.normal(size=(12, 4)),
            rgb=random.random((12, 3)),
        )
        # A third of a turn about (1, 1, 1) maps x → y → z → x exactly.
        turn = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
        shift = np.array([1.0, -2.0, 4.0])
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = turn.T, -turn.T @ shift
        w, x, y, z = still.quats.T.astype(float)
        turned = 0.5 * np.stack([w - x - y - z, w + x - y + z, w + x + y - z, w - x + y + z])
        moved = replace(still, means=still.means @ turn.T + shift, quats=turned.T)
        here = self.draw(rasterizer, still, view)
        there = self.draw(rasterizer, moved, replace(view, viewmat=viewmat))
        assert here.color is not None
        assert there.color is not None
        # A rim that rounding moves may cost a pixel one Gaussian's last 1/255.
        np.testing.assert_allclose(here.color, there.color, atol=2 / 255)
        assert np.abs(here.color - there.color).mean() < 1e-5
        assert here.alpha.max() > 0.5

    # --- colour ----------------------------------------------------------------------------

    @pytest.mark.parametrize("held", [0, 1, 2, 3])
    @pytest.mark.parametrize("asked", [None, 0, 1, 2, 3])
    def test_spherical_harmonics(
        self, rasterizer: Rasterizer, held: int, asked: int | None
    ) -> None:
        random = np.random.default_rng(held)
        mean = np.array([0.3, -0.2, 1.5])
        sh = random.normal(scale=0.15, size=(1, (held + 1) ** 2, 3)).astype(np.float32)
        scene = replace(gaussians(mean, scales=3.0), sh=sh)
        degree = held if asked is None else min(held, asked)
        direction = np.float32(mean).astype(float) / np.linalg.norm(mean)
        used = sh[0, : (degree + 1) ** 2].astype(float)
        rgb = np.maximum(0, 0.5 + sh_basis(direction, degree) @ used)
        image = self.draw(rasterizer, scene, camera(), replace(ALL, sh_degree=asked))
        assert image.color is not None
        expected = image.alpha[..., None] * rgb
        np.testing.assert_allclose(image.color, expected, atol=2e-5 + self.tolerance)

    @pytest.mark.parametrize("degree", [1, 2, 3])
    def test_a_huge_coefficient_is_its_own_affair(
        self, rasterizer: Rasterizer, degree: int
    ) -> None:
        """An invisible Gaussian's coefficient of 1e6 leaves its neighbours' colours alone."""
        scene, view = random_scene(9, 48, degree), orbit_camera(CameraModel.PINHOLE, 65, 31)
        broken = 21
        scene.opacities[broken] = 0.0
        before = self.draw(rasterizer, scene, view)
        scene.sh[broken, -1, 1] = 1e6
        after = self.draw(rasterizer, scene, view)
        assert before.alpha.max() > 0.5
        assert bytes_of(after) == bytes_of(before)

    def test_colors_below_zero_are_black_and_above_one_stay(self, rasterizer: Rasterizer) -> None:
        view = camera(CameraModel.ORTHO, width=9, height=9, focal=1.0)
        scene = gaussians((0, 0, 1), scales=2.0, rgb=(-0.5, 0.25, 3.0))
        splat = Splat((4.5, 4.5), 4 * np.eye(2), rgb=(0.0, 0.25, 3.0))
        self.check(rasterizer, scene, view, [splat])

    def test_only_what_was_asked_for_is_returned(self, rasterizer: Rasterizer) -> None:
        scene, view = random_scene(7, 60), orbit_camera(CameraModel.PINHOLE, 33, 17)
        everything = self.draw(rasterizer, scene, view)
        names = {
            Outputs.COLOR: "color",
            Outputs.DEPTH: "depth",
            Outputs.MEDIAN_DEPTH: "median_depth",
            Outputs.COUNT: "count",
        }
        for output, name in names.items():
            image = self.draw(rasterizer, scene, view, RasterSettings(outputs=output))
            assert set(bytes_of(image)) == {"alpha", name}
            np.testing.assert_array_equal(getattr(image, name), getattr(everything, name))
            np.testing.assert_array_equal(image.alpha, everything.alpha)

    # --- behaviour -------------------------------------------------------------------------

    def test_statistics(self, rasterizer: Rasterizer) -> None:
        scene = gaussians([(0, 0, 2), (0.1, 0, 3), (0, 0, -2)])
        stats = self.draw(rasterizer, scene, camera()).stats
        assert (stats.gaussians, stats.visible) == (3, 2)
        assert stats.tile_pairs >= 2
        assert all(ms >= 0 for ms in stats.stage_ms.values())
        assert {"project", "composite"} <= stats.stage_ms.keys()

    def test_prepared_scene_is_a_copy(self, rasterizer: Rasterizer) -> None:
        scene, view = random_scene(3, 50), orbit_camera(CameraModel.PINHOLE, 33, 17)
        prepared = rasterizer.prepare(scene)
        before = bytes_of(rasterizer.render(prepared, view, ALL))
        for array in (scene.means, scene.quats, scene.scales, scene.opacities, scene.sh):
            array[:] = 0.5
        assert bytes_of(rasterizer.render(prepared, view, ALL)) == before

    def test_any_number_of_threads_gives_the_same_bytes(self, rasterizer: Rasterizer) -> None:
        prepared = rasterizer.prepare(random_scene(4, 400))
        view = orbit_camera(CameraModel.PINHOLE, 129, 65)
        first = bytes_of(rasterizer.render(prepared, view, replace(ALL, threads=1)))
        for threads in (0, 1, 2, 3, 7):
            again = rasterizer.render(prepared, view, replace(ALL, threads=threads))
            assert bytes_of(again) == first

    def test_concurrent_renders_do_not_disturb_each_other(self, rasterizer: Rasterizer) -> None:
        prepared = rasterizer.prepare(random_scene(5, 300 // self.fewer))
        views = [orbit_camera(CameraModel.PINHOLE, 65, 31, angle) for angle in range(6)]

        def draw(view: Camera) -> dict[str, bytes]:
            return bytes_of(rasterizer.render(prepared, view, ALL))

        alone = [draw(view) for view in views]
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(draw, views)) == alone

    def test_cancelled_before_it_began(self, rasterizer: Rasterizer) -> None:
        prepared = rasterizer.prepare(random_scene(6, 50))
        view = orbit_camera(CameraModel.PINHOLE, 33, 17)
        untouched = bytes_of(rasterizer.render(prepared, view, ALL))
        flag = rasterizer.new_cancel_flag()
        assert not flag.is_set()
        flag.set()
        assert flag.is_set()
        with pytest.raises(RenderCancelled):
            rasterizer.render(prepared, view, ALL, flag)
        unset = rasterizer.new_cancel_flag()
        assert bytes_of(rasterizer.render(prepared, view, ALL, unset)) == untouched

    def test_cancelled_under_way(self, rasterizer: Rasterizer) -> None:
        """Two thousand layers over four million pixels take seconds; cancelling, none."""
        means = np.column_stack([np.zeros((2000, 2)), np.linspace(1, 2, 2000)])
        prepared = rasterizer.prepare(gaussians(means, scales=100.0, opacities=0.0045))
        view, flag = camera(width=2048, height=2048), rasterizer.new_cancel_flag()
        outcome: list[Any] = []

        def render() -> None:
            try:
                outcome.append(rasterizer.render(prepared, view, replace(ALL, threads=1), flag))
            except RenderCancelled as error:
                outcome.append(error)

        thread = threading.Thread(target=render)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive(), "the render ended before it could be cancelled"
        flag.set()
        thread.join(10)
        assert not thread.is_alive()
        assert isinstance(outcome[0], RenderCancelled)

    @pytest.mark.parametrize("size", [(70, 97), (64, 64), (33, 31)])
    @pytest.mark.parametrize("model", list(CameraModel))
    def test_bands_are_the_rows_of_the_whole(
        self, rasterizer: Rasterizer, model: CameraModel, size: tuple[int, int]
    ) -> None:
        width, height = size
        scene = rasterizer.prepare(random_scene(21, 400))
        view = orbit_camera(model, width, height, 0.7)
        whole = rasterizer.render(scene, view, ALL)
        edges = [*range(0, height, TILE_PX), height]
        bands = [
            rasterizer.render(scene, view, replace(ALL, rows=rows)) for rows in pairwise(edges)
        ]
        assert all(
            len(band.alpha) == b - a for band, (a, b) in zip(bands, pairwise(edges), strict=True)
        )
        assert bytes_of(RasterImage.stack(bands, whole.stats)) == bytes_of(whole)
        beyond = (0, TILE_PX * (len(edges) + 1))
        with pytest.raises(ValueError, match="no band"):
            rasterizer.render(scene, view, replace(ALL, rows=beyond))
