"""Choosing a level of detail of a streamed SOG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_store.formats import open_scene
from splat.errors import SceneError
from splat.gaussians import Gaussians
from tests.formats import encoders
from tests.formats.samples import random_gaussians, read_all

A, B = random_gaussians(90, 0, seed=1), random_gaussians(60, 0, seed=2)
SKY = random_gaussians(7, 0, seed=3)
NONE = Gaussians.empty()


def means(path: Path, lod: int | None) -> np.ndarray:
    with open_scene(path, lod=lod) as source:
        whole = read_all(source)
        assert source.meta.count == len(whole)
    return whole.means


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Leaf A has levels 0, 1 and 3; leaf B only 1 and 2."""
    levels = [[A, NONE], [A[:40], B], [NONE, B[:20]], [A[:10], NONE]]
    return encoders.streamed_sog(tmp_path, levels, SKY)


@pytest.mark.parametrize(
    ("lod", "parts"),
    [
        (None, (A, B, SKY)),  # B's finest level is 1
        (0, (A, B, SKY)),
        (1, (A[:40], B, SKY)),
        (2, (A[:40], B[:20], SKY)),  # of A's levels 1 and 3, equally near, the finer
        (3, (A[:10], B[:20], SKY)),
    ],
)
def test_each_leaf_gives_its_nearest_level(
    path: Path, lod: int | None, parts: tuple[Gaussians, ...]
) -> None:
    actual, expected = means(path, lod), Gaussians.concatenate(parts).means
    # Files are read in their own order.
    order = [np.lexsort(np.round(m, 2).T) for m in (actual, expected)]
    np.testing.assert_allclose(actual[order[0]], expected[order[1]], atol=1e-3)


def test_counts_of_all_levels_are_known(path: Path) -> None:
    with open_scene(path, lod=2) as source:
        assert source.meta.lod_counts == (157, 107, 67, 37)
        assert source.meta.count == 67


@pytest.mark.parametrize("lod", [-1, 4, 100])
def test_a_level_that_is_not_there(path: Path, lod: int) -> None:
    with pytest.raises(SceneError, match="levels of detail 0 to 3"):
        open_scene(path, lod=lod)


def test_the_folder_opens_like_its_lod_meta(path: Path) -> None:
    np.testing.assert_array_equal(means(path.parent, None), means(path, None))
    with open_scene(path.parent) as source:
        assert source.meta.path == path.parent


def test_stopping_early_does_no_harm(path: Path) -> None:
    with open_scene(path) as source:
        batches = source.batches(5)
        assert len(next(batches)) == 5
        del batches
        assert len(read_all(source)) == source.meta.count


def test_a_unit_that_vanishes_meanwhile_is_an_error(path: Path) -> None:
    with open_scene(path) as source:
        (path.parent / "1_0" / "quats.webp").unlink()
        with pytest.raises(SceneError, match=r"quats\.webp"):
            read_all(source)
