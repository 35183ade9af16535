"""Merging: the native code against plain numpy, and what must hold of its results."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_store.build.merging import displacement, foreign, merge, original, reach
from scene_store.native import _store
from splat.gaussians import Gaussians
from tests.store import slow_merge


def random_gaussians(count: int, *, sh_degree: int = 0, seed: int = 0) -> Gaussians:
    """A rough surface with flat, long and round Gaussians of all sizes."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(-1, 1, (count, 3)) * (1.0, 1.0, 0.1)
    quats = rng.normal(size=(count, 4))
    scales = np.exp(rng.uniform(np.log(1e-4), np.log(0.05), (count, 3)))
    sh = rng.normal(0, 0.5, (count, (sh_degree + 1) ** 2, 3))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    arrays = (means, quats, scales, rng.uniform(0, 1, count), sh)
    return Gaussians(*(array.astype(np.float32) for array in arrays))


def clusters(gaussians: Gaussians, target: int, *, original: bool = True) -> NDArray[np.uint32]:
    labels = np.empty(len(gaussians), np.uint32)
    _store.cluster(*gaussians.arrays, original, target, labels)
    return labels


@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_moments_are_those_of_plain_numpy(sh_degree: int) -> None:
    gaussians = random_gaussians(500, sh_degree=sh_degree, seed=sh_degree)
    labels = clusters(gaussians, 60)
    result = merge([original(gaussians)], 60).gaussians
    means, matrices, opacities, sh = slow_merge.merged(gaussians, labels, 60)
    np.testing.assert_allclose(result.means, means, atol=2e-7)
    np.testing.assert_allclose(slow_merge.covariances(result), matrices, atol=3e-8)
    np.testing.assert_allclose(result.opacities, opacities, rtol=1e-5)
    np.testing.assert_allclose(result.sh, sh, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result.quats, axis=1), 1, atol=1e-6)


def test_opacity_mass_is_preserved() -> None:
    gaussians = random_gaussians(3000, seed=3)
    result = merge([original(gaussians)], 750).gaussians
    footprint = slow_merge.footprints(gaussians, 750).opacity
    below_cap = result.opacities < slow_merge.MAX_OPACITY
    assert below_cap.mean() > 0.99
    before = slow_merge.weights(gaussians, footprint).sum()
    after = slow_merge.weights(result, footprint).sum()
    assert after == pytest.approx(before, rel=1e-3)


def even_surface(opacity: float, *, side: int = 32, pitch: float = 1.0) -> Gaussians:
    """A horizontal square of flat round Gaussians on a grid, so dense that it is even."""
    at = (np.arange(side) + 0.5) * pitch
    x, y = (axis.ravel() for axis in np.meshgrid(at, at))
    count = side * side
    arrays = (
        np.stack([x, y, np.zeros(count)], axis=1),
        np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
        np.tile([0.6 * pitch, 0.6 * pitch, 0.01 * pitch], (count, 1)),
        np.full(count, opacity),
        np.full((count, 1, 3), 0.5),
    )
    return Gaussians(*(array.astype(np.float32) for array in arrays))


def alphas(gaussians: Gaussians, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P] opacity of all together, seen from straight above, at points [P, 2] of the ground."""
    through = np.ones(len(points))
    matrices = slow_merge.covariances(gaussians)[:, :2, :2]
    for mean, matrix, opacity in zip(gaussians.means, matrices, gaussians.opacities, strict=True):
        d = points - mean[:2]
        power = -0.5 * np.einsum("pi,ij,pj->p", d, np.linalg.inv(matrix), d)
        through *= 1 - np.minimum(opacity * np.exp(power), 0.99)
    return 1 - through


@pytest.mark.parametrize("opacity", [0.05, 0.15, 0.3])
def test_a_translucent_surface_stays_even(opacity: float) -> None:
    surface = even_surface(opacity)
    points = np.random.default_rng(15).uniform(10, 22, (400, 2))
    once = merge([original(surface)], 256)
    levels = once, merge([once], 64)
    truth = alphas(surface, points)
    for level in levels:
        seen = alphas(level.gaussians, points)
        assert np.sqrt(np.mean((seen - truth) ** 2)) < 0.3 * truth.mean()


def test_clouds_and_opaque_surfaces_are_not_blurred() -> None:
    rng = np.random.default_rng(16)
    cloud = even_surface(0.1)
    cloud.means[:] = rng.normal(0, 1, cloud.means.shape)
    opaque = even_surface(1.0)
    opaque.opacities[:] = 8.0
    for gaussians, target in ((cloud, 1), (opaque, 64)):
        result = merge([original(gaussians)], target).gaussians
        labels = clusters(gaussians, target)
        one = gaussians[labels == labels[500]]
        own = slow_merge.covariances(one).mean(axis=0) + np.cov(one.means.T, bias=True)
        grown = slow_merge.covariances(result)[labels[500]]
        np.testing.assert_allclose(np.trace(grown), np.trace(own), rtol=0.02)


@pytest.mark.parametrize("target", [1, 2, 7, 250, 999, 1000])
def test_the_target_is_met_exactly(target: int) -> None:
    gaussians = random_gaussians(1000, seed=4)
    labels = clusters(gaussians, target)
    assert np.array_equal(np.unique(labels), np.arange(target))
    assert len(merge([original(gaussians)], target).gaussians) == target


def test_what_was_merged_before_is_widened_less() -> None:
    level = merge([original(random_gaussians(600, seed=14))], 150)
    labels = clusters(level.gaussians, 40, original=False)
    result = merge([level], 40).gaussians
    expected = slow_merge.merged(level.gaussians, labels, 40, original=False)[2]
    np.testing.assert_allclose(result.opacities, expected, rtol=1e-5)
    widened = slow_merge.merged(level.gaussians, labels, 40)[2]
    assert widened.mean() > 1.05 * expected.mean()


def test_two_alike_become_one_like_them() -> None:
    one = random_gaussians(1, seed=5)
    both = Gaussians.concatenate([one, one])
    result = merge([original(both)], 1).gaussians
    np.testing.assert_allclose(result.means, one.means, atol=1e-6)
    np.testing.assert_allclose(
        slow_merge.covariances(result), slow_merge.covariances(one), atol=1e-9
    )
    np.testing.assert_allclose(result.sh, one.sh, atol=1e-6)
    np.testing.assert_allclose(result.opacities, 2 * one.opacities, rtol=1e-3)


def test_a_cheap_pair_goes_before_a_dear_one() -> None:
    # Four in a row: a close pair of one colour, then two far apart of different colours.
    means = np.array([[0, 0, 0], [0.01, 0, 0], [1, 0, 0], [2, 0, 0]], np.float32)
    sh = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)[:, None]
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (4, 1))
    gaussians = Gaussians(
        means, quats, np.full((4, 3), 0.05, np.float32), np.full(4, 0.5, np.float32), sh
    )
    labels = clusters(gaussians, 3)
    assert labels[0] == labels[1]
    assert len({labels[1], labels[2], labels[3]}) == 3


def test_pairs_are_nearly_as_cheap_as_any() -> None:
    count, target = 80, 70  # a single round: every cluster is one or two
    gaussians = random_gaussians(count, seed=6)
    footprint = slow_merge.footprints(gaussians, target)
    w = slow_merge.weights(gaussians, footprint.weight)
    costs = {
        (i, j): slow_merge.pair_cost(gaussians, w, footprint.shape, i, j)
        for i in range(count)
        for j in range(i + 1, count)
    }
    labels = clusters(gaussians, target)
    chosen = sum(cost for (i, j), cost in costs.items() if labels[i] == labels[j])
    # The cheapest of all pairs, then the cheapest of what is left, and so on.
    cheapest, left = 0.0, set(range(count))
    for (i, j), cost in sorted(costs.items(), key=lambda item: item[1]):
        if {i, j} <= left and len(left) > 2 * target - count:
            cheapest += cost
            left -= {i, j}
    typical = np.median(list(costs.values())) * (count - target)
    assert chosen < 0.2 * typical
    assert chosen < 3 * cheapest


def test_what_is_dear_to_merge_is_left_alone() -> None:
    # Groups of eight that are nearly one, and some that have nothing to do with each other: the
    # former go first, though that takes several rounds.
    groups, size, others = 80, 8, 160
    gaussians = random_gaussians(groups * size + others, seed=15)
    gaussians.scales[:] = 0.01
    gaussians.opacities[:] = 0.5
    alike = np.arange(groups * size).reshape(groups, size)
    gaussians.sh[alike] = gaussians.sh[alike[:, :1]]
    gaussians.means[alike] = gaussians.means[alike[:, :1]]
    gaussians.means[alike] += np.random.default_rng(1).normal(0, 3e-3, (groups, size, 3))
    labels = clusters(gaussians, groups + others)
    assert len(np.unique(labels[groups * size :])) > 0.8 * others


@pytest.mark.parametrize("power", [-15, 12])
def test_any_scale_of_the_world(power: int) -> None:
    gaussians = random_gaussians(800, seed=7)
    factor = np.float32(2.0**power)
    scaled = Gaussians(
        gaussians.means * factor,
        gaussians.quats,
        gaussians.scales * factor,
        gaussians.opacities,
        gaussians.sh,
    )
    assert np.array_equal(clusters(gaussians, 200), clusters(scaled, 200))


HARD = {
    "all in one place": {"means": 0.0},
    "one far away": {"means": "far"},
    "flat": {"scales": "flat"},
    "huge and tiny": {"scales": "wide"},
    "invisible": {"opacities": 0.0},
}


@pytest.mark.parametrize("case", HARD.values(), ids=HARD.keys())
def test_hard_cases_stay_finite(case: dict[str, object]) -> None:
    gaussians = random_gaussians(300, seed=8)
    means, quats, scales, opacities, sh = (array.copy() for array in gaussians.arrays)
    if case.get("means") == 0.0:
        means[:] = 0.0
    if case.get("means") == "far":
        means[7] = 1e15
    if case.get("scales") == "flat":
        scales[:, 2] = 1e-20
    if case.get("scales") == "wide":
        scales[::2], scales[1::2] = 1e15, 1e-20
    if "opacities" in case:
        opacities[:] = 0.0
    content = merge([original(Gaussians(means, quats, scales, opacities, sh))], 75)
    for array in content.gaussians.arrays:
        assert np.isfinite(array).all()
    assert (content.gaussians.scales > 0).all()
    assert np.isfinite(content.error)


def test_the_error_is_how_far_originals_moved() -> None:
    # Points on a line, merged two by two: each moves by half their distance.
    count, distance = 256, 0.5
    means = np.zeros((count, 3), np.float32)
    means[:, 0] = np.arange(count) // 2 * 100 + np.arange(count) % 2 * distance
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))
    small = Gaussians(
        means,
        quats,
        np.full((count, 3), 1e-6, np.float32),
        np.full(count, 0.5, np.float32),
        np.zeros((count, 1, 3), np.float32),
    )
    content = merge([original(small)], count // 2)
    # √2 times: the stand-in is also as large as the two are apart, and they were points. Two
    # ends without a middle are as even as can be, and so it is grown.
    grown = np.sqrt(slow_merge.MAX_GROWTH)
    assert content.error == pytest.approx(distance / 2 * np.sqrt(2) * grown, rel=1e-3)
    assert original(small).error == 0.0


def test_errors_grow_from_level_to_level() -> None:
    first = merge([original(random_gaussians(4000, seed=9))], 1000)
    second = merge([first], 250)
    assert 0 < first.error < second.error


def test_the_loss_is_the_spread_of_colours_where_it_is_seen() -> None:
    count, target = 600, 90
    gaussians = random_gaussians(count, seed=16)
    labels = clusters(gaussians, target)
    first = merge([original(gaussians)], target)
    variances = slow_merge.color_variances(gaussians, np.zeros(count), labels, target)
    np.testing.assert_allclose(first.variances, variances, rtol=1e-4)
    areas = slow_merge.areas(slow_merge.covariances(first.gaussians), 0.0)
    by_color = float((first.gaussians.opacities * areas * variances).sum())
    assert by_color < first.loss < 1.1 * by_color
    assert original(gaussians).loss == 0.0


def test_losses_are_against_the_originals_and_not_the_level_below() -> None:
    first = merge([original(random_gaussians(4000, seed=17))], 1000)
    second = merge([first], 250)
    labels = clusters(first.gaussians, 250, original=False)
    variances = slow_merge.color_variances(first.gaussians, first.variances, labels, 250)
    np.testing.assert_allclose(second.variances, variances, rtol=1e-4, atol=1e-7)
    assert second.loss > first.loss


def test_a_scene_of_one_colour_has_losses_too() -> None:
    gaussians = random_gaussians(400, seed=18)
    gaussians.sh[:] = 0.5
    content = merge([original(gaussians)], 100)
    assert content.variances.max() < 1e-9
    assert content.loss > 0


def test_the_error_of_what_a_source_brings_is_kept() -> None:
    gaussians = random_gaussians(100, seed=10)
    error = 0.5 * float(gaussians.scales.max(axis=1).min())
    content = foreign(gaussians, error, 0.25)
    assert displacement(content.gaussians, content.sizes) == pytest.approx(error, rel=1e-3)
    assert content.loss == pytest.approx(0.25, rel=0.05)  # and a little for the shapes


def test_reach_allows_for_opacities_above_one() -> None:
    gaussians = random_gaussians(1, seed=11)
    largest = gaussians.scales.max()
    assert reach(gaussians) == pytest.approx(largest)
    gaussians.opacities[:] = 8.0
    assert reach(gaussians) == pytest.approx(largest * np.sqrt(np.log(255 * 8) / np.log(255)))


def test_labels_that_do_not_fit_are_refused() -> None:
    gaussians = random_gaussians(10, seed=12)
    out = Gaussians.allocate(3, 0)
    before, after = np.zeros(10, np.float32), np.zeros(3, np.float32)
    for labels in (np.full(10, 3, np.uint32), np.zeros(10, np.uint32)):
        with pytest.raises(ValueError, match="label"):
            _store.merge_clusters(
                *gaussians.arrays, True, before, before, labels, *out.arrays, after, after
            )
    with pytest.raises(ValueError, match="target"):
        clusters(gaussians, 11)
