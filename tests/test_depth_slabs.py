"""Slabs of depth: every depth is in exactly one, and they are cut where the costs say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.depth_slabs import (
    DepthMasses,
    Slab,
    cut_in_slabs,
    slabs_between,
    spread,
)
from rendering.part_costs import PartCosts
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
    first, *others = cut_in_slabs(CAMERA, nothing, PartCosts.even(), [0.3, 0.6])
    assert first is not None and first.seen_by(CAMERA).far == CAMERA.far
    assert others == [None, None]


def test_slabs_have_the_shares_that_they_are_given() -> None:
    depths = np.random.default_rng(2).uniform(1, 90, 10_000)
    masses = DepthMasses.of(depths, np.ones(10_000))
    slabs = cut_in_slabs(CAMERA, masses, PartCosts.even(), [0.5, 0.7])
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
