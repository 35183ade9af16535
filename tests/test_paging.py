"""Pages of the native engine and of the reference."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rendering.base import PagingRasterizer, RasterSettings, ScenePart
from rendering.native.cpu import NativeRasterizer
from rendering.reference import ReferenceRasterizer
from splat.gaussians import Gaussians
from tests.paging_contract import PAGE_GAUSSIANS, PagingContract, view
from tests.rasterizer_contract import bytes_of
from tests.scenes import gaussians, random_scene


def resident_bytes() -> int:
    """Memory that this process has of the system."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestNativePaging(PagingContract):
    @pytest.fixture
    def rasterizer(self) -> NativeRasterizer:
        return NativeRasterizer()

    def test_the_page_returns_with_the_last_reference(self, rasterizer: NativeRasterizer) -> None:
        pool = rasterizer.new_pool(PAGE_GAUSSIANS, 0)
        page = pool.pack(random_scene(1, 10, sh_degree=0))
        composed = rasterizer.compose([ScenePart(page)])
        assert pool.pages_in_use == 1
        del page
        gc.collect()
        assert pool.pages_in_use == 1  # the list holds it
        del composed
        gc.collect()
        assert pool.pages_in_use == 0

    def test_a_page_outlives_its_pool(self, rasterizer: NativeRasterizer) -> None:
        page = rasterizer.new_pool(PAGE_GAUSSIANS, 0).pack(random_scene(1, 10, sh_degree=0))
        gc.collect()
        rasterizer.render(rasterizer.compose([ScenePart(page)]), view())
        assert page.count == 10

    @pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
    def test_a_page_takes_what_it_says(self, rasterizer: NativeRasterizer, sh_degree: int) -> None:
        pool = rasterizer.new_pool(16_384, sh_degree)
        harmonics = 2 * 3 * ((sh_degree + 1) ** 2 - 1) + 4 if sh_degree else 0
        per_gaussian = 56 + harmonics
        assert 0 <= pool.page_bytes - 16_384 * per_gaussian < 16_384

    def test_pages_are_packed_while_others_are_drawn(self, rasterizer: NativeRasterizer) -> None:
        """Reused pages never show through in a frame that draws older ones."""
        pool = rasterizer.new_pool(PAGE_GAUSSIANS, 0)
        scenes = [random_scene(seed, 700, sh_degree=0) for seed in range(4)]
        expected = [bytes_of(rasterizer.render(rasterizer.prepare(s), view())) for s in scenes]

        def draw(i: int) -> bool:
            composed = rasterizer.compose([ScenePart(pool.pack(scenes[i % 4]))])
            return bytes_of(rasterizer.render(composed, view())) == expected[i % 4]

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(draw, range(64)))
        gc.collect()
        assert pool.pages_in_use == 0

    def test_memory_goes_back_page_by_page_and_comes_again(
        self, rasterizer: NativeRasterizer
    ) -> None:
        """The address space of a scene may be in use by a few of its pages: that is all they
        take."""
        pool = rasterizer.new_pool(1024, 0)
        pool.keep_free(0)
        scene = random_scene(7, 1024, sh_degree=0)
        rows = np.tile(np.array([[0, 1024]], np.int64), (1000, 1))
        pages = list(pool.pack_many(scene, rows))
        full = resident_bytes()
        kept = pages[::100]
        del pages
        gc.collect()
        assert pool.pages_in_use == len(kept)
        assert full - resident_bytes() > 0.9 * 1000 * pool.page_bytes
        again = [*kept, *pool.pack_many(scene, rows)]
        first, *others = (
            bytes_of(rasterizer.render(rasterizer.compose([ScenePart(page)]), view()))
            for page in again[::90]
        )
        assert all(other == first for other in others)

    def test_rows_beyond_the_arrays_are_refused(self, rasterizer: NativeRasterizer) -> None:
        pool = rasterizer.new_pool(1024, 0)
        for row in ([90, 11], [-1, 5], [101, 0], [0, -1]):
            with pytest.raises(ValueError, match="beyond the arrays"):
                pool.pack_many(random_scene(7, 100, sh_degree=0), np.array([row], np.int64))
        assert pool.pages_in_use == 0

    def test_a_tint_takes_the_place_of_colours(self, rasterizer: NativeRasterizer) -> None:
        page = rasterizer.new_pool(PAGE_GAUSSIANS, 3).pack(random_scene(1, 500))
        green = RasterSettings(background=(0.0, 1.0, 0.0))
        full = [ScenePart(page, tint=(0, 1, 0), tint_share=1.0)]
        color = rasterizer.render(rasterizer.compose(full), view(), green).color
        assert color is not None
        np.testing.assert_allclose(color, np.broadcast_to([0, 1, 0], color.shape), atol=1e-5)
        half = [ScenePart(page, tint=(0, 1, 0), tint_share=0.5)]
        mixed = rasterizer.render(rasterizer.compose(half), view(), green).color
        plain = rasterizer.render(rasterizer.compose([ScenePart(page)]), view(), green).color
        assert mixed is not None and plain is not None
        np.testing.assert_allclose(mixed, 0.5 * plain + [0, 0.5, 0], atol=1e-5)

    @pytest.mark.parametrize(
        ("weight", "tint_share"), [(0.0, 0.0), (1.5, 0.0), (float("nan"), 0.0), (1.0, 2.0)]
    )
    def test_senseless_parts_are_refused(
        self, rasterizer: NativeRasterizer, weight: float, tint_share: float
    ) -> None:
        page = rasterizer.new_pool(PAGE_GAUSSIANS, 0).pack(gaussians([0, 0, 0]))
        with pytest.raises(ValueError, match="must be in"):
            rasterizer.compose([ScenePart(page, weight=weight, tint_share=tint_share)])

    @pytest.mark.parametrize("size", [(0, 0), (-1, 0), (10, 4), (1 << 40, 0)])
    def test_senseless_pools_are_refused(
        self, rasterizer: NativeRasterizer, size: tuple[int, int]
    ) -> None:
        with pytest.raises((ValueError, TypeError)):
            rasterizer.new_pool(*size)

    def test_an_empty_page(self, rasterizer: NativeRasterizer) -> None:
        page = rasterizer.new_pool(PAGE_GAUSSIANS, 0).pack(Gaussians.empty())
        assert rasterizer.render(rasterizer.compose([ScenePart(page)]), view()).alpha.max() == 0


class TestReferencePaging(PagingContract):
    @pytest.fixture
    def rasterizer(self) -> PagingRasterizer:
        return ReferenceRasterizer()
