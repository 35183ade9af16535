"""What every ``PagingRasterizer`` must do beside ``RasterizerContract``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rendering.base import Outputs, PagingRasterizer, RasterSettings, ScenePart
from splat.camera import Camera, CameraModel
from splat.gaussians import Gaussians
from tests.rasterizer_contract import bytes_of
from tests.scenes import gaussians, random_scene

PAGE_GAUSSIANS = 1024
EVERYTHING = RasterSettings(outputs=Outputs.ALL, background=(0.1, 0.2, 0.3))


def view(size: int = 65) -> Camera:
    """From outside of ``random_scene``'s ball."""
    return Camera.look_at((1, -2, -7), (0, 0, 0), (0, -1, 0), fov_y_rad=1.0, width=size, height=40)


def parts_of(scene: Gaussians, counts: tuple[int, ...]) -> list[Gaussians]:
    """The scene cut into runs of the given lengths and a rest."""
    ends = np.cumsum(counts)
    return [
        scene[slice(a, b)] for a, b in zip([0, *ends], [*ends, len(scene)], strict=True) if a < b
    ]


class PagingContract:
    """Inherit it, and give ``rasterizer``."""

    fewer = 1
    """By how much scenes and pages are smaller, of engines that are slow."""

    @pytest.fixture
    def rasterizer(self) -> PagingRasterizer:
        raise NotImplementedError

    @property
    def page_gaussians(self) -> int:
        """Room of a page."""
        return PAGE_GAUSSIANS // self.fewer

    @pytest.mark.parametrize("counts", [(), (1024,), (16, 1024), (512, 512, 64)])
    def test_pages_draw_what_the_whole_scene_draws(
        self, rasterizer: PagingRasterizer, counts: tuple[int, ...]
    ) -> None:
        scene = random_scene(3, (1500 if counts else 900) // self.fewer)
        pool = rasterizer.new_pool(self.page_gaussians, 3)
        runs = parts_of(scene, tuple(count // self.fewer for count in counts))
        composed = rasterizer.compose([ScenePart(pool.pack(run)) for run in runs])
        whole = rasterizer.render(rasterizer.prepare(scene), view(), EVERYTHING)
        paged = rasterizer.render(composed, view(), EVERYTHING)
        assert bytes_of(paged) == bytes_of(whole)
        assert paged.stats.gaussians == len(scene)

    def test_pages_packed_together_are_those_packed_alone(
        self, rasterizer: PagingRasterizer
    ) -> None:
        full = self.page_gaussians
        scene = random_scene(4, 2 * full + 52)
        pool = rasterizer.new_pool(full, 3)
        rows = np.array([[0, full], [full, 7], [full + 7, full], [2 * full + 7, 45]], np.int64)
        together = rasterizer.compose([ScenePart(p) for p in pool.pack_many(scene, rows)])
        drawn = rasterizer.render(together, view(), EVERYTHING)
        whole = rasterizer.render(rasterizer.prepare(scene), view(), EVERYTHING)
        assert bytes_of(drawn) == bytes_of(whole)

    def test_pages_packed_together_come_all_or_none(self, rasterizer: PagingRasterizer) -> None:
        more = self.page_gaussians + 1
        pool = rasterizer.new_pool(self.page_gaussians, 3)
        with pytest.raises(ValueError, match="than fit"):
            pool.pack_many(random_scene(4, more), np.array([[0, 5], [0, more]], np.int64))

    def test_equal_depths_are_drawn_in_the_order_of_the_parts(
        self, rasterizer: PagingRasterizer
    ) -> None:
        ahead = Camera.look_at((0, 0, -4), (0, 0, 0), (0, -1, 0), fov_y_rad=1.0, width=9, height=9)
        red, blue = (gaussians([0, 0, 0], rgb=rgb, scales=1.0) for rgb in ((1, 0, 0), (0, 0, 1)))
        pool = rasterizer.new_pool(self.page_gaussians, 0)
        red_part, blue_part = ScenePart(pool.pack(red)), ScenePart(pool.pack(blue))
        for order, front in (((red_part, blue_part), 0), ((blue_part, red_part), 2)):
            color = rasterizer.render(rasterizer.compose(order), ahead).color
            assert color is not None
            assert color[4, 4, front] == pytest.approx(0.8, abs=1e-3)
            assert color[4, 4, 2 - front] == pytest.approx(0.2 * 0.8, abs=1e-3)

    def test_a_weight_multiplies_the_opacities(self, rasterizer: PagingRasterizer) -> None:
        scene = random_scene(5, 300 // self.fewer)
        pool = rasterizer.new_pool(self.page_gaussians, 3)
        weighted = rasterizer.compose([ScenePart(pool.pack(scene), weight=0.25)])
        thin = rasterizer.prepare(replace(scene, opacities=scene.opacities * np.float32(0.25)))
        drawn = rasterizer.render(weighted, view())
        expected = rasterizer.render(thin, view())
        np.testing.assert_allclose(drawn.alpha, expected.alpha, atol=2e-5)

    def test_no_parts_show_the_background(self, rasterizer: PagingRasterizer) -> None:
        image = rasterizer.render(rasterizer.compose([]), view(), EVERYTHING)
        assert image.alpha.max() == 0
        assert image.color is not None
        np.testing.assert_allclose(image.color[0, 0], EVERYTHING.background)

    def test_harmonics_of_a_lower_degree_fit(self, rasterizer: PagingRasterizer) -> None:
        count = 200 // self.fewer
        plain, shiny = random_scene(1, count, sh_degree=0), random_scene(2, count, sh_degree=3)
        pool = rasterizer.new_pool(self.page_gaussians, 3)
        mixed = rasterizer.compose([ScenePart(pool.pack(plain)), ScenePart(pool.pack(shiny))])
        together = rasterizer.prepare(Gaussians.concatenate([plain, shiny]))
        drawn, expected = (rasterizer.render(s, view()).color for s in (mixed, together))
        assert drawn is not None and expected is not None
        np.testing.assert_allclose(drawn, expected, atol=2e-4)  # 16-bit harmonics

    def test_more_than_a_page_is_refused(self, rasterizer: PagingRasterizer) -> None:
        pool = rasterizer.new_pool(self.page_gaussians, 0)
        with pytest.raises(ValueError, match="page"):
            pool.pack(random_scene(1, self.page_gaussians + 1, sh_degree=0))

    @pytest.mark.parametrize("opacity", [1.5, 4.0, 8.0])
    def test_opacities_above_one_have_flat_tops(
        self, rasterizer: PagingRasterizer, opacity: float
    ) -> None:
        """alpha = min(0.999, o exp(-r²/2σ²)), out to where that falls below the cut."""
        side, focal, scale = 201, 100.0, 0.1
        ahead = Camera(
            np.eye(4), np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]]), side, side
        )
        blob = gaussians([0, 0, 1], scales=scale, opacities=opacity)
        alpha = rasterizer.render(rasterizer.prepare(blob), ahead).alpha[side // 2].astype(float)
        offset = np.abs(np.arange(side) - side // 2)
        falloff = opacity * np.exp(-0.5 * offset**2 / ((focal * scale) ** 2 + 0.3))
        expected = np.minimum(0.999, np.where(falloff < 1 / 255, 0, falloff))
        sure = np.abs(falloff * 255 - 1) > 1e-3
        np.testing.assert_allclose(alpha[sure], expected[sure], atol=2e-5)

    def test_a_far_reaching_opacity_is_seen_from_outside_the_image(
        self, rasterizer: PagingRasterizer
    ) -> None:
        """Beyond 3.33 σ, where no opacity of 1 would reach, and beyond the image's edge."""
        side, focal = 21, 10.0
        intrinsics = np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
        ahead = Camera(np.eye(4), intrinsics, side, side, model=CameraModel.ORTHO)
        beside = gaussians([4.8, 0, 1], scales=1.0, opacities=8.0)
        image = rasterizer.render(rasterizer.prepare(beside), ahead)
        assert image.alpha[side // 2, -1] == pytest.approx(8 * np.exp(-0.5 * 3.8**2), rel=0.05)
