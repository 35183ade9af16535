"""Slabs of depth: every depth is in exactly one, and they are cut where the costs say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.depth_slabs import (
    BINS,
    DepthMasses,
    Slab,
    SlabCosts,
    cut_in_slabs,
    slabs_between,
    spread,
)
from rendering.slab_balance import MOST_VIEWS, SlabBalance
from splat.camera import Camera
from tests import scenes

F32 = np.float32
CAMERA = scenes.camera(near=0.5, far=100.0)
positive = st.floats(2.0**-40, 2.0**40, width=32)
# Numbers that float32 has not, so that rounding them is a part of it.
ranges = st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9)).filter(
    lambda pair: pair[0] < pair[1]
)


def holds(camera: Camera, depth: F32) -> bool:
    """Whether rasterizers draw it: near and far are compared in float32."""
    return bool(F32(camera.near) <= depth <= F32(camera.far))


def slabs_of(camera: Camera, borders: list[F32]) -> list[Slab]:
    shares = np.linspace(0, 1, len(borders) + 2).tolist()
    return [slab for slab in slabs_between(camera, borders, shares) if slab is not None]


@given(ranges, st.lists(positive, max_size=5), st.lists(positive, min_size=1, max_size=9))
def test_a_depth_is_in_one_slab_if_the_camera_draws_it_and_else_in_none(
    limits: tuple[float, float], cuts: list[float], depths: list[float]
) -> None:
    camera = replace(CAMERA, near=limits[0], far=limits[1])
    borders = sorted(F32(cut) for cut in cuts)
    ends = [F32(camera.near), F32(camera.far)]
    tried = [F32(depth) for depth in depths] + borders + ends
    tried += [np.nextafter(depth, F32(towards)) for depth in tried for towards in (0, np.inf)]
    views = [slab.seen_by(camera) for slab in slabs_of(camera, borders)]
    for depth in tried:
        assert sum(holds(view, depth) for view in views) == holds(camera, depth)
    for nearer, further in pairwise(views):
        assert nearer.far < further.near


def test_a_depth_on_a_border_is_in_the_further_slab() -> None:
    nearer, further = (slab.seen_by(CAMERA) for slab in slabs_of(CAMERA, [F32(3)]))
    assert not holds(nearer, F32(3)) and holds(further, F32(3))
    assert holds(nearer, np.nextafter(F32(3), F32(0)))
    assert (nearer.near, further.far) == (CAMERA.near, CAMERA.far)


def test_a_slab_may_be_a_single_depth() -> None:
    above = np.nextafter(F32(3), F32(4))
    middle = slabs_of(CAMERA, [F32(3), above])[1].seen_by(CAMERA)
    held = [depth for depth in (F32(2.9999), F32(3), above) if holds(middle, depth)]
    assert held == [F32(3)]


@pytest.mark.parametrize("borders", [[0.1, 0.2], [200.0, 300.0], [0.5, 0.5], [7.0, 7.0]])
def test_slabs_in_which_nothing_can_be_are_none(borders: list[float]) -> None:
    slabs = slabs_between(CAMERA, [F32(b) for b in borders], [0.0, 0.3, 0.6, 1.0])
    assert None in slabs
    assert sum(holds(slab.seen_by(CAMERA), F32(7)) for slab in slabs if slab is not None) == 1


def test_a_view_of_nothing_is_one_slab() -> None:
    nothing = DepthMasses.of(np.empty(0), np.empty(0))
    first, *others = cut_in_slabs(CAMERA, nothing, SlabCosts.even(), [0.3, 0.6])
    assert first is not None and first.seen_by(CAMERA).far == CAMERA.far
    assert others == [None, None]


def test_slabs_have_the_shares_that_they_are_given() -> None:
    depths = np.random.default_rng(2).uniform(1, 90, 10_000)
    masses = DepthMasses.of(depths, np.ones(10_000))
    slabs = cut_in_slabs(CAMERA, masses, SlabCosts.even(), [0.5, 0.7])
    shares = [
        np.mean([holds(slab.seen_by(CAMERA), depth) for depth in depths.astype(F32)[:2000]])
        for slab in slabs
        if slab is not None
    ]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.04)


def test_heavy_points_count_more() -> None:
    masses = DepthMasses.of(np.array([4.0, 1.0, 2.0, 3.0]), np.array([7.0, 1.0, 1.0, 1.0]))
    assert masses.depth_at(0.3) == 4 and masses.depth_at(0.1) == 2
    assert masses.depth_at(1.0) == 4


def test_chunks_are_spread_over_their_depths() -> None:
    masses = spread(np.array([0.0, 10.0]), np.array([8.0, 10.0]), np.array([1.0, 1.0]))
    assert masses.depths.tolist() == [1, 3, 5, 7, 10, 10, 10, 10]
    assert masses.below.tolist() == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]


def settle(
    cost_below: Callable[[float], float], weights: list[float], frames: int = 25, noise: float = 0.0
) -> list[float]:
    """What slabs take in the end, if the Gaussians below a share cost ``cost_below(share)``."""
    random = np.random.default_rng(4)
    shares = (np.cumsum(weights) / np.sum(weights))[:-1].tolist()
    costs, times = SlabCosts.even(), []
    for _ in range(frames):
        ends = [0.0, *costs.masses(shares), 1.0]
        slabs = [Slab(1.0, 2.0, pair) for pair in pairwise(ends)]
        took = np.diff([cost_below(end) for end in ends])
        times = (took / weights).tolist()
        costs = costs.after(
            slabs, (took * random.uniform(1 - noise, 1 + noise, len(took))).tolist()
        )
    assert costs.bins.sum() == pytest.approx(1.0) and len(costs.bins) == BINS
    return times


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 0.4], [1.0, 1.0, 0.5, 0.25]])
@pytest.mark.parametrize("power", [0.25, 1.0, 4.0])
def test_slabs_end_together_after_some_frames(weights: list[float], power: float) -> None:
    """Where near Gaussians cost more than far ones, and the other way round."""
    times = settle(lambda share: share**power, weights)
    assert max(times) < 1.1 * min(times)


def test_slabs_end_about_together_where_times_are_noisy() -> None:
    times = settle(lambda share: share**0.5, [1.0, 1.0], noise=0.3)
    assert max(times) < 1.5 * min(times)


def test_one_frame_that_hung_does_not_spoil_the_balance() -> None:
    ends = [Slab(1.0, 2.0, (0.0, 0.5)), Slab(2.0, 3.0, (0.5, 1.0))]
    after = SlabCosts.even().after(ends, [1e9, 1.0])
    (cut,) = after.masses([0.5])
    assert 0.25 < cut < 0.5
    assert SlabCosts.even().after(ends, [0.0, 0.0]).masses([0.5]) == [0.5]


def test_costs_are_of_a_client_and_an_eye() -> None:
    balance = SlabBalance()
    slabs = [Slab(2.0, 3.0, (0.5, 1.0)), Slab(1.0, 2.0, (0.0, 0.5))]
    balance.learn("a", 1, slabs, [1.0, 3.0])
    assert balance.of("a", 1).masses([0.5])[0] < 0.5
    for client, eye in (("a", 0), ("b", 1)):
        assert balance.of(client, eye).masses([0.5]) == [0.5]


def test_of_parts_of_a_picture_nothing_is_learnt() -> None:
    balance = SlabBalance()
    balance.learn("a", 0, [Slab(1.0, 2.0, (0.0, 0.5))], [1.0])
    balance.learn("a", 0, [Slab(1.0, 2.0, (0.5, 1.0)), Slab(3.0, 4.0, (0.0, 0.4))], [1.0, 2.0])
    assert len(balance) == 0


def test_views_that_nobody_draws_are_forgotten() -> None:
    balance = SlabBalance()
    slabs = [Slab(1.0, math.inf, (0.0, 0.5)), Slab(2.0, 3.0, (0.5, 1.0))]
    for number in range(MOST_VIEWS + 9):
        balance.learn("first", 0, slabs, [2.0, 1.0])
        balance.learn(str(number), 0, slabs, [2.0, 1.0])
    assert len(balance) == MOST_VIEWS
    assert balance.of("first", 0).masses([0.5])[0] < 0.5
    assert balance.of("0", 0).masses([0.5]) == [0.5]
