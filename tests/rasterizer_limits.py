"""What every ``Rasterizer`` must do with the largest and the smallest of everything."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rendering.base import Rasterizer, RasterSettings
from splat.camera import MAX_IMAGE_SIDE, CameraModel
from splat.errors import RenderCancelled
from splat.gaussians import Gaussians
from tests.closed_form import Splat
from tests.rasterizer_contract import ALL, RasterizerContract
from tests.scenes import camera, gaussians

SIZES = [(1, 1), (MAX_IMAGE_SIDE, 1), (1, MAX_IMAGE_SIDE)]  # width, height


class ForeignFlag:
    """A ``CancelFlag`` of nobody's making, already set."""

    def set(self) -> None:
        """Nothing to do."""

    def is_set(self) -> bool:
        return True


class RasterizerLimits(RasterizerContract):
    """The contract, and its far ends."""

    # --- lengths ---------------------------------------------------------------------------

    @pytest.mark.parametrize("scale", [1e3, 1e6, 1e9, 1e12, 1e15])
    @pytest.mark.parametrize("z", [0.02, 1.0, 300.0])
    def test_giant_around_a_pinhole_camera(
        self, rasterizer: Rasterizer, scale: float, z: float
    ) -> None:
        """Its mean lies far outside the picture, but less than a standard deviation away."""
        view = camera(width=40, height=20, focal=(20.0, 25.0), centre=(15.0, 10.0))
        scene = gaussians((0.5 * scale, -0.3 * scale, z), scales=scale)
        # x/z and y/z inside J are limited as in test_pinhole_linearization_is_limited.
        limited = np.array([25 / 20 + 0.3 * 20 / 20, -(10 / 25 + 0.3 * 10 / 25)])
        jacobian = np.array([[20, 0, -20 * limited[0]], [0, 25, -25 * limited[1]]]) / z
        mean = (15 + 20 * 0.5 * scale / z, 10 - 25 * 0.3 * scale / z)
        splat = Splat(mean, scale**2 * jacobian @ jacobian.T, depth=z)
        image = self.check(rasterizer, scene, view, [splat])
        assert 0.5 < image.alpha.max() < 0.8

    @pytest.mark.parametrize("focal", [1e4, 1e7, 1e10, 1e13])
    def test_huge_focal_length(self, rasterizer: Rasterizer, focal: float) -> None:
        view = camera(width=33, height=17, focal=focal)
        scene = gaussians((0, 0, 2), scales=1000.0)
        splat = Splat((16.5, 8.5), (focal * 1000 / 2) ** 2 * np.eye(2), depth=2.0)
        self.check(rasterizer, scene, view, [splat])

    @pytest.mark.parametrize("scale", [1e4, 1e7, 1e10, 1e13])
    def test_giant_ellipse(self, rasterizer: Rasterizer, scale: float) -> None:
        """Ten thousand times as long as wide, at 30°, seen from its flank."""
        view = camera(CameraModel.ORTHO, width=65, height=31, focal=1.0)
        angle = math.pi / 6
        along, across = np.array([[math.cos(angle), math.sin(angle)], [-0.5, math.cos(angle)]])
        u, v = 32.5 + 1.7e-4 * scale * across
        quat = (math.cos(angle / 2), 0, 0, math.sin(angle / 2))
        scene = gaussians((u - 32.5, v - 15.5 + 17, 1), scales=(scale, 1e-4 * scale, 1), quats=quat)
        covariance = scale**2 * (np.outer(along, along) + 1e-8 * np.outer(across, across))
        image = self.draw(rasterizer, scene, view)
        inverse = np.linalg.inv(covariance + 0.3 * np.eye(2))
        rows, columns = np.mgrid[:31, :65] + 0.5
        d = np.stack([columns - u, rows - (v + 17)], axis=-1)
        alpha = 0.8 * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, inverse, d))
        np.testing.assert_allclose(image.alpha, alpha, atol=0.01)

    @pytest.mark.parametrize("distance", [1e-3, 1e3, 1e9, 1e14])
    def test_fisheye_at_any_distance(self, rasterizer: Rasterizer, distance: float) -> None:
        """Only the ratio of size to distance matters."""
        view = camera(CameraModel.FISHEYE, width=65, height=63, focal=12.0, near=1e-5)
        theta, s = math.radians(50.0), 0.2
        mean = distance * np.array([math.sin(theta), 0, math.cos(theta)])
        scene = gaussians(mean, scales=s * distance)
        across = theta / math.sin(theta)
        covariance = (12 * s) ** 2 * np.diag([1, across**2])
        depth = float(np.linalg.norm(scene.means[0].astype(float)))
        splat = Splat((32.5 + 12 * theta, 31.5), covariance, depth=depth)
        self.check(rasterizer, scene, view, [splat])

    @pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-6])
    def test_speck_close_up(self, rasterizer: Rasterizer, size: float) -> None:
        view = camera(width=33, height=17, focal=40.0, near=1e-9)
        scene = gaussians((0, 0, 1e-6), scales=size)
        splat = Splat((16.5, 8.5), (40 * size / 1e-6) ** 2 * np.eye(2), depth=1e-6)
        self.check(rasterizer, scene, view, [splat])

    @pytest.mark.parametrize("antialiased", [False, True])
    def test_far_end_of_a_needle(self, rasterizer: Rasterizer, antialiased: bool) -> None:
        """Three thousand pixels from its middle it is as thin and as straight as there."""
        view = camera(CameraModel.ORTHO, width=65, height=31, focal=1.0)
        angle, away = math.pi / 6, 3000.0
        axis = np.array([math.cos(angle), math.sin(angle)])
        quat = (math.cos(angle / 2), 0, 0, math.sin(angle / 2))
        scene = gaussians((*(away * axis), 1), scales=(4000.0, 0.5, 0.5), quats=quat)
        across = np.array([-axis[1], axis[0]])
        covariance = 4000.0**2 * np.outer(axis, axis) + 0.25 * np.outer(across, across)
        factor = math.sqrt(0.25 / 0.55) if antialiased else 1.0
        mean = np.array([32.5, 15.5]) + away * axis
        splat = Splat((float(mean[0]), float(mean[1])), covariance, 0.8 * factor)
        image = self.draw(rasterizer, scene, view, replace(ALL, antialiased=antialiased))
        np.testing.assert_allclose(image.alpha, splat.alpha(65, 31), atol=3e-4)
        assert image.alpha.max() > 0.5 * factor

    # --- images ----------------------------------------------------------------------------

    @pytest.mark.parametrize(("width", "height"), SIZES)
    def test_slimmest_images(self, rasterizer: Rasterizer, width: int, height: int) -> None:
        """Nothing, one Gaussian at the far end, and only what lies behind the camera."""
        view = camera(CameraModel.ORTHO, width=width, height=height, focal=1.0)
        settings = replace(ALL, background=(0.1, 0.5, 1.0))
        far_end = (width - 0.5 - width / 2, height - 0.5 - height / 2)
        self.check(rasterizer, Gaussians.empty(), view, [], settings)
        self.check(rasterizer, gaussians([(0, 0, -1)] * 3), view, [], settings)
        image = self.check(
            rasterizer,
            gaussians((*far_end, 2), scales=3.0),
            view,
            [Splat((width - 0.5, height - 0.5), 9 * np.eye(2), depth=2.0)],
            settings,
        )
        assert image.alpha[-1, -1] == pytest.approx(0.8, abs=self.tolerance)

    @pytest.mark.parametrize("model", list(CameraModel))
    def test_all_behind_the_camera(self, rasterizer: Rasterizer, model: CameraModel) -> None:
        random = np.random.default_rng(3)
        means = random.uniform((-1e-3, -1e-3, -9), (1e-3, 1e-3, -1), size=(3000, 3))
        image = self.check(rasterizer, gaussians(means), camera(model), [])
        assert image.stats.visible == image.stats.tile_pairs == 0
        assert image.stats.gaussians == 3000

    # --- cancelling ------------------------------------------------------------------------

    def test_a_flag_is_never_ignored(self, rasterizer: Rasterizer) -> None:
        prepared = rasterizer.prepare(gaussians((0, 0, 1)))
        with pytest.raises((RenderCancelled, TypeError)):
            rasterizer.render(prepared, camera(), RasterSettings(), ForeignFlag())
