"""Coarser scenes cover what the finer ones cover."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.coarsen import coarsen
from splat.gaussians import Gaussians


def random_gaussians(count: int, *, sh_degree: int = 0) -> Gaussians:
    rng = np.random.default_rng(count)
    quats = rng.normal(size=(count, 4))
    arrays = (
        rng.normal(size=(count, 3)),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.exp(rng.normal(-3, 1, (count, 3))),
        rng.uniform(0, 1, count),
        rng.normal(size=(count, (sh_degree + 1) ** 2, 3)),
    )
    return Gaussians(*(array.astype(np.float32) for array in arrays))


def covered_area(gaussians: Gaussians) -> NDArray[np.float32]:
    """[N] opacity × the two largest scales."""
    middle, largest = np.sort(gaussians.scales, axis=1)[:, 1:].T
    area: NDArray[np.float32] = gaussians.opacities * middle * largest
    return area


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("group", [1, 2, 3, 7])
def test_one_stands_for_a_group(count: int, group: int) -> None:
    coarse = coarsen(random_gaussians(count, sh_degree=1), group)
    assert len(coarse) == -(-count // group)
    assert coarse.sh_degree == 1


def test_groups_of_one_change_nothing() -> None:
    fine = random_gaussians(50)
    coarse = coarsen(fine, 1)
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert getattr(coarse, name) == pytest.approx(getattr(fine, name), rel=1e-5)


def test_equal_twins_become_one_of_twice_the_area() -> None:
    one = random_gaussians(1)
    coarse = coarsen(Gaussians.concatenate([one, one]), 2)
    assert coarse.means == pytest.approx(one.means, rel=1e-5)
    assert coarse.sh == pytest.approx(one.sh, rel=1e-5)
    assert covered_area(coarse) == pytest.approx(2 * covered_area(one), rel=1e-4)


def test_the_area_of_a_group_is_kept() -> None:
    fine = random_gaussians(999)
    coarse = coarsen(fine, 3)
    groups = covered_area(fine).reshape(-1, 3).sum(axis=1)
    assert covered_area(coarse) == pytest.approx(groups, rel=1e-3)


def test_the_most_visible_member_lends_its_shape() -> None:
    fine = random_gaussians(9)
    fine.scales[4] = (5.0, 4.0, 3.0)
    fine.opacities[4] = 1.0
    coarse = coarsen(fine, 9)
    assert coarse.quats[0] == pytest.approx(fine.quats[4])
    assert coarse.means[0] == pytest.approx(fine.means[4], abs=0.3)


def test_invisible_gaussians_do_no_harm() -> None:
    fine = random_gaussians(6)
    fine.opacities[:] = 0.0
    coarse = coarsen(fine, 3)
    assert np.isfinite(coarse.means).all()
    assert np.isfinite(coarse.scales).all()
    assert not coarse.opacities.any()


def test_blocks_join_seamlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = random_gaussians(1000)
    whole = coarsen(fine, 3)
    monkeypatch.setattr("rendering.coarsen.BLOCK_GROUPS", 7)
    assert coarsen(fine, 3).means == pytest.approx(whole.means)


def test_nothing_stays_nothing() -> None:
    assert len(coarsen(Gaussians.empty(), 3)) == 0
