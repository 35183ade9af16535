"""Native marching, inverse sampling and compositing against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.models.components import (
    DONE,
    OPAQUE,
    Accumulators,
    Components,
    Marcher,
    Samples,
    Variant,
    components_for,
)
from rendering.models.components.native import NativeComponents, instruction_sets
from splat.fields import OccupancySampler

Float32Array = NDArray[np.float32]


@pytest.fixture(params=instruction_sets())
def native(request: pytest.FixtureRequest) -> NativeComponents:
    return NativeComponents(2, request.param)


@pytest.fixture(scope="module")
def reference() -> Components:
    return components_for(variant=Variant.REFERENCE)


@dataclass(frozen=True, slots=True)
class RayBatch:
    """R rays in field coordinates."""

    origins: Float32Array
    directions: Float32Array
    enter: Float32Array
    first: Float32Array
    last: Float32Array

    def march(self, marcher: Marcher, most: int = 4096) -> Samples:
        """All samples, in waves."""
        cursors = marcher.start(len(self.enter))
        waves = []
        while (cursors != DONE).any():
            waves.append(self.wave(marcher, cursors, most))
        ray, t, length = (
            np.concatenate([getattr(wave, name) for wave in waves])
            for name in ("ray", "t", "length")
        )
        order = np.argsort(ray, kind="stable")
        return Samples(ray[order], t[order], length[order])

    def wave(self, marcher: Marcher, cursors: NDArray[np.int32], most: int) -> Samples:
        """The next samples."""
        return marcher.march(
            self.origins, self.directions, self.enter, self.first, self.last, cursors, most
        )


def rays_around(rng: np.random.Generator, count: int, speed: float = 1.0) -> RayBatch:
    """Rays from a shell around the unit cube, and from within it, towards it."""
    unit = rng.normal(size=(3, count))
    origins = 0.5 + unit / np.linalg.norm(unit, axis=0) * rng.uniform(0, 2, count)
    directions = rng.uniform(0.1, 0.9, (3, count)) - origins
    directions[:, ::7] *= np.array([[1.0], [0.0], [1.0]])  # some along a plane
    directions *= speed / np.linalg.norm(directions, axis=0)
    origins32, directions32 = origins.astype(np.float32), directions.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (np.array([0.0, 1.0])[:, None, None] - origins) / directions
    enter = (
        np.nan_to_num(np.fmin(ends[0], ends[1]), nan=-1, neginf=-1, posinf=99)
        .max(axis=0)
        .clip(min=0)
    )
    first = np.where(np.arange(count) % 5 == 0, enter + 0.3 / speed, 0.0)
    last = np.where(np.arange(count) % 3 == 0, enter + 0.5 / speed, 10.0 / speed)
    return RayBatch(
        origins32,
        directions32,
        enter.astype(np.float32),
        first.astype(np.float32),
        last.astype(np.float32),
    )


def sampler_of(
    rng: np.random.Generator, cascades: int, side: int, share: float, cone_angle: float = 0.0
) -> OccupancySampler:
    """Clumps of occupied cells."""
    coarse = rng.random((cascades, -(-side // 4), -(-side // 4), -(-side // 4))) < share
    occupied = coarse.repeat(4, 1).repeat(4, 2).repeat(4, 3)[:, :side, :side, :side]
    occupied = occupied & (rng.random(occupied.shape) < 0.7)
    smallest = 3**0.5 / 256
    return OccupancySampler(occupied, smallest, smallest * (20 if cone_angle else 1), cone_angle)


SAMPLERS = [
    (1, 16, 0.1, 0.0),
    (1, 13, 0.3, 0.0),
    (3, 16, 0.1, 0.0),
    (3, 8, 0.05, 0.02),
    (2, 2, 1.0, 0.1),
    (1, 1, 1.0, 0.0),
    (5, 32, 0.01, 0.004),
    (2, 16, 1.0, 0.0),
    (2, 16, 0.0, 0.0),
]


def same(ours: Samples, theirs: Samples) -> None:
    for item in fields(Samples):
        np.testing.assert_array_equal(getattr(ours, item.name), getattr(theirs, item.name))


@pytest.mark.parametrize("sizes", SAMPLERS)
def test_marching_is_stepping(sizes: tuple[int, int, float, float], reference: Components) -> None:
    rng = np.random.default_rng(21)
    sampler = sampler_of(rng, *sizes)
    rays = rays_around(rng, 150, speed=1.7)
    ours = rays.march(NativeComponents(1).marcher(sampler))
    exact = rays.march(reference.marcher(sampler))
    # A step at a cell's border may fall to either side of it by its last bit.
    _assert_nearly_the_same(ours, exact)
    if sizes[2] == 0:
        assert len(ours) == 0
    else:
        assert len(ours) > 100


def _assert_nearly_the_same(ours: Samples, exact: Samples) -> None:
    def keys(samples: Samples) -> NDArray[np.int64]:
        place: NDArray[np.int64] = np.rint(samples.t * 10_000).astype(np.int64)
        return place + samples.ray.astype(np.int64) * 1_000_000

    missed = np.setdiff1d(keys(exact), np.concatenate([keys(ours) + d for d in (-1, 0, 1)]))
    added = np.setdiff1d(keys(ours), np.concatenate([keys(exact) + d for d in (-1, 0, 1)]))
    assert len(missed) + len(added) <= 0.001 * len(exact)
    if len(ours) == len(exact):
        np.testing.assert_allclose(ours.t, exact.t, atol=2e-6)
        np.testing.assert_allclose(ours.length, exact.length, atol=2e-6)


@pytest.mark.parametrize("sizes", SAMPLERS)
def test_what_is_skipped_has_no_samples(sizes: tuple[int, int, float, float]) -> None:
    """The same bytes with and without skipping."""
    rng = np.random.default_rng(22)
    sampler = sampler_of(rng, *sizes)
    rays = rays_around(rng, 400)
    skipping = NativeComponents(2).marcher(sampler)
    stepping = NativeComponents(2, skips_empty_space=False).marcher(sampler)
    same(rays.march(skipping), rays.march(stepping))


@pytest.mark.parametrize("most", [1, 3, 32])
def test_waves_are_pieces_of_the_whole(most: int) -> None:
    rng = np.random.default_rng(23)
    rays = rays_around(rng, 100)
    marcher = NativeComponents(2).marcher(sampler_of(rng, 2, 16, 0.2))
    same(rays.march(marcher, most), rays.march(marcher))


def test_a_wave_is_bounded_and_rays_can_be_ended() -> None:
    rng = np.random.default_rng(24)
    rays = rays_around(rng, 100)
    marcher = NativeComponents(1).marcher(sampler_of(rng, 1, 16, 1.0))
    cursors = marcher.start(100)
    first = rays.wave(marcher, cursors, 5)
    assert np.bincount(first.ray).max() == 5
    cursors[:50] = DONE
    second = rays.wave(marcher, cursors, 5)
    assert second.ray.min() >= 50


def test_bands_of_a_ray_are_pieces_of_it() -> None:
    """``first`` and ``last`` choose samples; they move none."""
    rng = np.random.default_rng(25)
    rays = rays_around(rng, 60)
    marcher = NativeComponents(1).marcher(sampler_of(rng, 2, 16, 0.5, 0.01))
    start, end = np.zeros(60, np.float32), np.full(60, 99, np.float32)
    border = np.full(60, 0.9, np.float32)
    whole = replace(rays, first=start, last=end).march(marcher)
    near = replace(rays, first=start, last=border)
    far = replace(rays, first=border, last=end)
    parts = near.march(marcher), far.march(marcher)
    t = np.concatenate([part.t for part in parts])
    ray = np.concatenate([part.ray for part in parts])
    order = np.argsort(ray, kind="stable")
    np.testing.assert_array_equal(t[order], whole.t)
    assert 0 < len(parts[0]) < len(whole)


def test_hostile_rays_have_no_samples() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, 0.5, 1e-45], np.float32)
    rng = np.random.default_rng(26)
    marcher = NativeComponents(1).marcher(sampler_of(rng, 2, 8, 1.0))
    origins, directions = rng.choice(values, (3, 2000)), rng.choice(values, (3, 2000))
    enter, first, last = rng.choice(values, (3, 2000))
    rays = RayBatch(origins, directions, enter, first, last)
    cursors = rng.integers(-(2**31), 2**31 - 1, 2000).astype(np.int32)
    samples = rays.wave(marcher, cursors, 4)
    assert np.isfinite(samples.t).all()
    points = origins[:, samples.ray] + samples.t * directions[:, samples.ray]
    assert ((points > -1e-3) & (points < 1 + 1e-3)).all()


@pytest.mark.parametrize("variant", [Variant.NATIVE, Variant.REFERENCE])
@pytest.mark.parametrize(
    "bad",
    [
        OccupancySampler(np.ones((17, 2, 2, 2), np.bool_), 0.1, 0.1),
        OccupancySampler(np.ones((1, 2, 2, 3), np.bool_), 0.1, 0.1),
        OccupancySampler(np.ones((1, 0, 0, 0), np.bool_), 0.1, 0.1),
        OccupancySampler(np.ones((1, 2, 2, 2), np.bool_), 0.0, 0.1),
        OccupancySampler(np.ones((1, 2, 2, 2), np.bool_), 0.1, 0.05),
        OccupancySampler(np.ones((1, 2, 2, 2), np.bool_), 0.1, float("nan")),
        OccupancySampler(np.ones((1, 2, 2, 2), np.bool_), 0.1, 0.1, -1.0),
    ],
)
def test_absurd_samplers_are_refused(variant: Variant, bad: OccupancySampler) -> None:
    with pytest.raises(ValueError, match=r"."):
        components_for(variant=variant).marcher(bad)


def bins(rng: np.random.Generator, rays: int, n: int) -> tuple[Float32Array, Float32Array]:
    borders = np.sort(rng.uniform(0, 5, (rays, n + 1)), axis=1).astype(np.float32)
    weights = (rng.random((rays, n)) ** 8).astype(np.float32)
    weights[0] = 0
    weights[1:3, 1:] = 0
    return borders, weights


@pytest.mark.parametrize("count", [1, 7, 48])
@pytest.mark.parametrize("padding", [0.0, 0.01])
def test_borders_where_weights_are(reference: Components, count: int, padding: float) -> None:
    borders, weights = bins(np.random.default_rng(27), 70, 33)
    found = NativeComponents(2).borders_from_weights(borders, weights, count, padding)
    expected = reference.borders_from_weights(borders, weights, count, padding)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (np.diff(found, axis=1) >= 0).all()


def test_even_weights_give_even_borders() -> None:
    borders = np.linspace(0, 1, 5, dtype=np.float32)[None]
    found = NativeComponents(1).borders_from_weights(borders, np.ones((1, 4), np.float32), 3, 0.01)
    np.testing.assert_allclose(found, [[1 / 8, 3 / 8, 5 / 8, 7 / 8]], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 64])
def test_samples_where_weights_are(reference: Components, count: int) -> None:
    borders, weights = bins(np.random.default_rng(28), 70, 33)
    t = np.ascontiguousarray(borders[:, :-1])
    found = NativeComponents(2).samples_from_weights(t, weights, count)
    expected = reference.samples_from_weights(t, weights, count)
    # At a border of bins a place may be at either end of a bin of no weight.
    assert np.mean(np.abs(found - expected) > 1e-4) < 0.005
    assert found.shape == (70, 33 + count)
    assert (np.diff(found, axis=1) >= 0).all()


def test_even_weights_give_even_samples() -> None:
    """Middles are ½ … 4½: the ends, and quarters between them."""
    t = np.arange(6, dtype=np.float32)[None]
    found = NativeComponents(1).samples_from_weights(t, np.ones((1, 6), np.float32), 5)
    fine = np.setdiff1d(np.round(found[0], 5), t[0])
    np.testing.assert_allclose(fine, [0.5, 1.5, 2.5, 3.5, 4.5], atol=1e-5)


def test_hostile_weights_give_samples_all_the_same() -> None:
    rng = np.random.default_rng(29)
    values = np.array([np.nan, np.inf, -np.inf, 3e38, -1.0, 0.0, 1e-45, 1.0], np.float32)
    t, weights = rng.choice(values, (500, 20)), rng.choice(values, (500, 20))
    native = NativeComponents(1)
    with np.errstate(all="ignore"):
        assert not np.isnan(native.samples_from_weights(t, weights, 9)).any()
        found = native.borders_from_weights(t, np.ascontiguousarray(weights[:, :19]), 9, 0.01)
    assert not np.isnan(found).any()


def test_weights(native: NativeComponents, reference: Components) -> None:
    rng = np.random.default_rng(30)
    densities = (rng.random((40, 37)) ** 6 * 200).astype(np.float32)
    lengths = rng.random((40, 37)).astype(np.float32) * 0.1
    lengths[:, -1] = 1e10
    found = native.weights(densities, lengths)
    np.testing.assert_allclose(found, reference.weights(densities, lengths), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@dataclass(frozen=True, slots=True)
class Blend:
    """Samples to composite."""

    samples: Samples
    densities: Float32Array
    colors: Float32Array

    def into(self, components: Components, rays: int = 30, splits: int = 1) -> Accumulators:
        """In as many calls as wanted."""
        into = Accumulators.empty(rays)
        rank = np.arange(len(self.samples)) - np.searchsorted(self.samples.ray, self.samples.ray)
        waves = np.array_split(np.arange(rank.max() + 1), splits)
        for wave in waves:
            chosen = np.isin(rank, wave)
            part = Samples(*(getattr(self.samples, f.name)[chosen] for f in fields(Samples)))
            colors = np.ascontiguousarray(self.colors[:, chosen])
            components.composite(part, self.densities[chosen], colors, 1.5, into)
        return into


def blend_of(rng: np.random.Generator, count: int = 900) -> Blend:
    ray = np.sort(rng.choice([1, 2, 3, 5, 8, 13, 21, 29], count)).astype(np.int32)
    t = np.zeros(count, np.float32)
    for r in np.unique(ray):
        t[ray == r] = np.sort(rng.uniform(1, 9, (ray == r).sum()))
    length = rng.uniform(0.001, 0.1, count).astype(np.float32)
    densities = (rng.random(count) ** 5 * 20).astype(np.float32)
    densities[ray == 3] = 0
    colors = rng.random((3, count)).astype(np.float32)
    return Blend(Samples(ray, t, length), densities, colors)


def test_compositing(native: NativeComponents, reference: Components) -> None:
    blend = blend_of(np.random.default_rng(31))
    ours, exact = blend.into(native), blend.into(reference)
    for item in fields(Accumulators):
        found, expected = getattr(ours, item.name), getattr(exact, item.name)
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=item.name)
    assert (ours.transmittance[[0, 3]] == 1).all() and (ours.median[[0, 3]] == 0).all()
    assert (ours.transmittance <= 1).all() and (ours.median > 0).any()


def test_waves_and_threads_composite_to_the_same_bytes(native: NativeComponents) -> None:
    blend = blend_of(np.random.default_rng(32), 20_000)
    expected = blend.into(native)
    for other in (
        blend.into(native, splits=5),
        blend.into(NativeComponents(1, native.instruction_set)),
    ):
        for item in fields(Accumulators):
            np.testing.assert_array_equal(getattr(other, item.name), getattr(expected, item.name))


def test_an_opaque_ray_takes_no_more(native: NativeComponents) -> None:
    ones = np.ones(3, np.float32)
    samples = Samples(np.zeros(3, np.int32), np.arange(1, 4, dtype=np.float32), ones)
    colors = np.eye(3, dtype=np.float32)
    into = Accumulators.empty(1)
    native.composite(samples, np.array([0.1, 50.0, 50.0], np.float32), colors, 1.0, into)
    assert into.transmittance[0] < OPAQUE
    np.testing.assert_allclose(into.color[:, 0], [1 - np.exp(-0.1), np.exp(-0.1), 0], atol=1e-6)
    np.testing.assert_array_equal(into.last_color[:, 0], [0, 1, 0])
    assert into.median[0] == 2


def test_thin_samples_lose_no_digits(native: NativeComponents) -> None:
    densities = np.logspace(-12, 2, 5000).astype(np.float32)[:, None]
    found = native.weights(densities, np.ones_like(densities))[:, 0].astype(np.float64)
    exact = -np.expm1(-densities[:, 0].astype(np.float64))
    assert np.abs(found / exact - 1).max() < 3e-7


def test_hostile_samples_stay_bounded(native: NativeComponents) -> None:
    rng = np.random.default_rng(33)
    values = np.array([np.nan, np.inf, -np.inf, 3e38, -1.0, 0.0, 1e-45, 1.0], np.float32)
    densities = rng.choice(values, (1, 1000))
    found = native.weights(densities, rng.choice(values, (1, 1000)))
    assert ((found >= 0) & (found <= 1)).all()


def _samples(ray: list[int], t: int | None = None) -> Samples:
    size = len(ray) if t is None else t
    return Samples(
        np.array(ray, np.int32), np.zeros(size, np.float32), np.zeros(len(ray), np.float32)
    )


def test_samples_that_do_not_fit_are_refused(native: NativeComponents) -> None:
    two, colors = np.zeros(2, np.float32), np.zeros((3, 2), np.float32)
    into = Accumulators.empty(3)
    refused: list[Callable[[], object]] = [
        lambda: native.composite(_samples([0, 3]), two, colors, 1.0, into),
        lambda: native.composite(_samples([-1, 0]), two, colors, 1.0, into),
        lambda: native.composite(_samples([1, 0]), two, colors, 1.0, into),
        lambda: native.composite(_samples([0, 1], 3), two, colors, 1.0, into),
        lambda: native.composite(_samples([0, 1]), two[:1], colors, 1.0, into),
        lambda: native.composite(_samples([0, 1]), two, colors[:2], 1.0, into),
        lambda: native.samples_from_weights(colors[:, :1], colors[:, :1], 5),
        lambda: native.borders_from_weights(colors, colors, 5, 0.1),
        lambda: native.borders_from_weights(colors, colors[:, :1], 5, float("nan")),
        lambda: native.weights(colors, colors[:2]),
    ]
    for call in refused:
        with pytest.raises(ValueError, match=r"."):
            call()
    native.composite(_samples([]), two[:0], colors[:, :0].copy(), 1.0, into)
