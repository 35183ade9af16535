"""The reference rasterizer keeps the contract, and knows where rounding may decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rendering.base import Outputs, RasterSettings
from rendering.camera_models import to_screen
from rendering.reference import ReferenceRasterizer, edge_mask, edge_masks
from rendering.reference_project import project
from splat.camera import CameraModel
from tests.rasterizer_limits import RasterizerLimits
from tests.scenes import camera, gaussians, orbit_camera, random_scene


class TestReference(RasterizerLimits):
    @pytest.fixture
    def rasterizer(self) -> ReferenceRasterizer:
        return ReferenceRasterizer()


def test_projection_keeps_the_order_and_places_of_the_scene() -> None:
    scene = ReferenceRasterizer().prepare(
        gaussians([(0, 0, 3), (0, 0, -1), (0.2, 0.1, 2), (90, 0, 1)], rgb=(0.1, 0.2, 0.3))
    )
    projected = project(scene, camera(width=33, height=17, focal=40.0))
    np.testing.assert_array_equal(projected.index, [0, 2])
    np.testing.assert_allclose(projected.means2d, [(16.5, 8.5), (20.5, 10.5)], rtol=1e-7)
    np.testing.assert_allclose(projected.depths, [3, 2])
    np.testing.assert_allclose(projected.colors, [(0.1, 0.2, 0.3)] * 2, atol=1e-7)
    # On the axis: variance (40 · 0.1 / 3)² + 0.3, extent sqrt(2 ln(255 · 0.8) · variance).
    variance = (4 / 3) ** 2 + 0.3
    np.testing.assert_allclose(projected.conics[0], (1 / variance, 0, 1 / variance), rtol=1e-6)
    extent = np.sqrt(2 * np.log(255 * 0.8) * variance)
    np.testing.assert_allclose(projected.extents[0], (extent, extent), rtol=1e-6)


@pytest.mark.parametrize("model", list(CameraModel))
def test_jacobian_is_the_derivative_of_the_projection(model: CameraModel) -> None:
    view = orbit_camera(model, 65, 31)
    points = torch.tensor([(0.3, -0.2, 2.0), (0.0, 0.0, 1.0), (-1e-7, 2e-7, 1.5), (0.4, 0.3, 1.0)])
    points = points.to(torch.float64)
    _, jacobian = to_screen(points, view)
    step = 1e-6
    for axis in range(3):
        offset = step * torch.eye(3, dtype=torch.float64)[axis]
        slope = (to_screen(points + offset, view)[0] - to_screen(points - offset, view)[0]) / (
            2 * step
        )
        np.testing.assert_allclose(jacobian[:, :, axis], slope, rtol=1e-6, atol=1e-6)


def test_edge_mask_marks_the_rim_and_nothing_else() -> None:
    rasterizer = ReferenceRasterizer()
    view = camera(CameraModel.ORTHO, width=129, height=1, focal=1.0)
    # 0.5 exp(-30² / 2 σ²) = 1/255 exactly at 30 pixels from the centre.
    sigma = np.sqrt(30**2 / (2 * np.log(127.5)) - 0.3)
    scene = rasterizer.prepare(gaussians((0, 0, 1), scales=sigma, opacities=0.5))
    masks = edge_masks(scene, view)
    assert set(np.flatnonzero(masks.cut[0])) == {64 - 30, 64 + 30}
    assert not masks.stop.any()
    # Only at the centre is alpha 0.5, the transmittance at which the median is decided.
    assert {64} <= set(np.flatnonzero(masks.half[0])) <= {63, 64, 65}
    np.testing.assert_array_equal(edge_mask(scene, view), masks.cut)


def test_edge_mask_marks_transmittance_at_the_stop() -> None:
    rasterizer = ReferenceRasterizer()
    view = camera(CameraModel.ORTHO, width=5, height=5, focal=1.0)
    means = [(0, 0, z) for z in range(1, 8)]
    scene = rasterizer.prepare(gaussians(means, scales=1e5, opacities=0.9))  # 0.1⁴ = stop
    assert edge_masks(scene, view).stop.all()
    away = rasterizer.prepare(gaussians(means, scales=1e5, opacities=0.8))
    assert not edge_masks(away, view).stop.any()


def test_edges_hold_every_pixel_that_a_nudge_changes() -> None:
    """What float32 rounding does to opacities may only flip pixels inside the masks."""
    rasterizer = ReferenceRasterizer()
    scene, view = random_scene(11, 500), orbit_camera(CameraModel.PINHOLE, 97, 61)
    settings = RasterSettings(outputs=Outputs.ALL)
    prepared = rasterizer.prepare(scene)
    nudged = rasterizer.prepare(scene)
    nudged.opacities.mul_(1 + 2e-6)
    here, there = (rasterizer.render(s, view, settings) for s in (prepared, nudged))
    assert here.count is not None
    assert there.count is not None
    flipped = here.count != there.count
    mask = edge_mask(prepared, view)
    assert not (flipped & ~mask).any()
    assert 0 < mask.mean() < 0.5
