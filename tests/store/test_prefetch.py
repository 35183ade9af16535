"""Prediction of poses and of what they need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scene_store.lod import LodLimits, select_lod
from scene_store.prefetch import (
    LoadLatency,
    Motion,
    PosePredictor,
    PredictionSettings,
    coarse_levels,
    look_ahead,
    pages_of,
    prefetch_chunks,
    widened,
)
from splat.camera import MAX_IMAGE_SIDE, Camera
from tests.store.forests import closed, overview, random_forest, random_view

SCENE_SIZE = 100.0
LATENCY_S = 0.2  # a horizon of 0.4 s


def camera_at(x: float, y: float = 0.0, yaw: float = 0.0) -> Camera:
    """At (x, y, 0) in a world with z up, looking along +x turned left by ``yaw``."""
    ahead = (x + math.cos(yaw), y + math.sin(yaw), 0)
    return Camera.look_at((x, y, 0), ahead, (0, 0, 1), fov_y_rad=1.0, width=64, height=48)


def yaw_of(camera: Camera) -> float:
    return math.atan2(camera.forward[1], camera.forward[0])


def driven(
    pose: Callable[[float], Camera], until: float, step: float = 1 / 30
) -> tuple[PosePredictor, float]:
    """A predictor that saw poses at a steady rate; and when it saw the last."""
    predictor = PosePredictor(SCENE_SIZE)
    now = 0.0
    for index in itertools.count():
        now = index * step
        predictor.observe(pose(now), now)
        if now >= until:
            return predictor, now
    raise AssertionError


def test_a_straight_walk_goes_on() -> None:
    predictor, now = driven(lambda t: camera_at(3 * t, -t), 1.0)
    views = predictor.predict(now, LATENCY_S)
    assert len(views) == 3
    for view, seconds in zip(views, (0.0, 0.2, 0.4), strict=True):
        expected = [3 * (now + seconds), -(now + seconds), 0]
        assert view.position == pytest.approx(expected, abs=1e-6)
        assert yaw_of(view) == pytest.approx(0, abs=1e-9)


def test_a_turn_goes_on() -> None:
    predictor, now = driven(lambda t: camera_at(5, 5, 0.8 * t), 1.0)
    views = predictor.predict(now, LATENCY_S)
    assert [yaw_of(view) for view in views] == pytest.approx(
        [0.8 * (now + seconds) for seconds in (0, 0.2, 0.4)]
    )
    assert views[-1].position == pytest.approx([5, 5, 0])


@given(
    angles=st.lists(st.floats(-0.7, 0.7), min_size=6, max_size=6),
    position=st.lists(st.floats(-10, 10), min_size=6, max_size=6),
)
def test_a_motion_repeats_the_step_it_was_seen_in(
    angles: list[float], position: list[float]
) -> None:
    one = Camera.look_at(
        position[:3],
        np.add(position[:3], [1, *angles[:2]]),
        (0, 0, 1),
        fov_y_rad=1,
        width=8,
        height=8,
    )
    two = Camera.look_at(
        position[3:],
        np.add(position[3:], [1, *angles[2:4]]),
        [*angles[4:], 1.0],
        fov_y_rad=1,
        width=8,
        height=8,
    )
    motion = Motion.of([(1.0, one), (1.5, two)])
    assert motion is not None
    assert motion.linear_deviation == motion.angular_deviation == 0
    again = motion.applied_to(one, 0.5)
    assert again.viewmat == pytest.approx(two.viewmat, abs=1e-6)


def test_the_horizon_follows_the_latency_within_bounds() -> None:
    predictor, now = driven(lambda t: camera_at(3 * t), 1.0)
    reach = [predictor.predict(now, s)[-1].position[0] - 3 * now for s in (0.0, 0.3, 60.0)]
    bounds = PredictionSettings()
    assert reach == pytest.approx([3 * bounds.shortest_s, 3 * 0.6, 3 * bounds.longest_s])


def test_jitter_shortens_the_reach_and_widens_the_view() -> None:
    random = np.random.default_rng(0)
    noise = iter(random.normal(scale=0.05, size=1000))
    steady, now = driven(lambda t: camera_at(3 * t, 0, 0.8 * t), 1.0)
    shaky, _ = driven(lambda t: camera_at(3 * t + next(noise), 0, 0.8 * t + next(noise)), 1.0)
    one, other = (p.predict(now, LATENCY_S) for p in (steady, shaky))
    assert other[2].position[0] - other[0].position[0] < 0.8 * 3 * 0.4
    assert other[2].width > one[2].width
    assert other[2].width <= math.ceil(64 * (1 + 2 * PredictionSettings().longest_guard))


@pytest.mark.parametrize(
    "jump", [camera_at(60, 0), camera_at(3, 0, 1.5), camera_at(3, -25)], ids=["far", "turn", "side"]
)
def test_nothing_is_predicted_across_a_teleport(jump: Camera) -> None:
    predictor, now = driven(lambda t: camera_at(3 * t), 1.0)
    predictor.observe(jump, now + 1 / 30)
    (only,) = predictor.predict(now + 1 / 30, LATENCY_S)
    assert only.position == pytest.approx(jump.position)
    beside = jump.camera_to_world
    beside[1, 3] += 0.1
    moved = replace(jump, viewmat=np.linalg.inv(beside).astype(np.float64))
    predictor.observe(moved, now + 2 / 30)
    views = predictor.predict(now + 2 / 30, LATENCY_S)
    assert views[-1].position - moved.position == pytest.approx([0, 3 * 0.4, 0])


def test_a_pause_forgets_the_motion() -> None:
    predictor, now = driven(lambda t: camera_at(3 * t), 1.0)
    assert len(predictor.predict(now + 1.0, LATENCY_S)) == 1
    predictor.observe(camera_at(3.1), now + 5)
    assert len(predictor.predict(now + 5, LATENCY_S)) == 1


def test_standing_still_predicts_standing_still() -> None:
    predictor, now = driven(lambda t: camera_at(1), 1.0)
    for view in predictor.predict(now, LATENCY_S):
        assert view.position == pytest.approx([1, 0, 0])


def test_a_prediction_that_hardly_changes_is_the_same_object() -> None:
    predictor, now = driven(lambda t: camera_at(3 * t), 1.0)
    first = predictor.predict(now, LATENCY_S)
    assert predictor.predict(now, 1.05 * LATENCY_S) is first
    predictor.observe(camera_at(3 * now + 0.1), now + 1 / 30)
    assert predictor.predict(now + 1 / 30, LATENCY_S) is first
    for index in range(2, 10):
        predictor.observe(camera_at(3 * (now + index / 30)), now + index / 30)
    assert predictor.predict(now + 0.3, LATENCY_S) is not first


def test_without_a_pose_there_is_nothing_to_predict() -> None:
    assert PosePredictor(SCENE_SIZE).predict(0.0, LATENCY_S) == ()


def test_latency_of_nearly_all_chunks() -> None:
    latency = LoadLatency()
    assert latency.bound_s == 0
    latency.observe(0.1)
    assert 0.1 < latency.bound_s < 0.5
    random = np.random.default_rng(1)
    seconds = random.uniform(0.05, 0.15, 200)
    for value in seconds:
        latency.observe(value)
    assert np.quantile(seconds, 0.95) < latency.bound_s < 0.4
    for _ in range(100):
        latency.observe(0.01)
    assert latency.bound_s < 0.02


def test_looking_ahead_on_a_known_path() -> None:
    path = [camera_at(index) for index in range(100)]

    def places(index: int, frames: int, views: int = 4) -> list[float]:
        return [round(view.position[0], 6) for view in look_ahead(path, index, frames, views)]

    assert places(0, 3) == [1, 2, 3]
    assert places(10, 30) == [11, 21, 30, 40]
    assert places(97, 30) == [98, 99]
    assert places(99, 30) == []


def test_a_wider_view_has_the_old_one_in_its_middle() -> None:
    camera = random_view(3)
    wide = widened(camera, 0.25)
    x, y = (wide.width - camera.width) // 2, (wide.height - camera.height) // 2
    assert (x, y) == (math.ceil(0.25 * camera.width), math.ceil(0.25 * camera.height))
    assert wide.K[:2, 2] - camera.K[:2, 2] == pytest.approx([x, y])
    assert wide.K[0, 0] == camera.K[0, 0]
    huge = widened(widened(camera, 500.0), 1.0)
    assert max(huge.width, huge.height) <= MAX_IMAGE_SIDE


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    share=st.sampled_from([0.05, 0.3, 1.0]),
    resident_share=st.sampled_from([0.0, 0.5, 1.0]),
    base_share=st.sampled_from([0.0, 0.1, 0.5]),
    urgent=st.integers(0, 9),
)
def test_predictions_and_the_base_layer_fit_the_pool_beside_what_is_in_view(
    seed: int, share: float, resident_share: float, base_share: float, urgent: int
) -> None:
    tree = random_forest(seed, depth=3, roots=2)
    pages = pages_of(tree, 25)
    random = np.random.default_rng(seed)
    resident = closed(tree, random.random(len(tree)) < resident_share)
    roots = int(pages[tree.roots].sum())
    limits = LodLimits(error_px=0.5, max_pages=roots + int(share * pages.sum()), page_gaussians=25)
    cut = select_lod(tree, [random_view(seed)], resident, limits)
    views = [random_view(seed + 1), overview(tree)]
    base = coarse_levels(tree, int(base_share * limits.max_pages), 25)
    chunks = prefetch_chunks(
        tree, views, resident, limits, cut.touched, base=base, urgent=urgent
    ).tolist()
    assert len(chunks) == len(set(chunks))
    assert not set(chunks) & set(cut.touched.tolist())
    together = {*chunks, *cut.touched.tolist(), *tree.roots.tolist()}
    assert pages[list(together)].sum() <= limits.max_pages
    assert all(set(tree.ancestors(chunk)) <= together for chunk in chunks)
    in_view = {*cut.touched.tolist(), *tree.roots.tolist()}
    if pages[list(in_view | {*base.tolist()})].sum() <= limits.max_pages:
        assert {*base.tolist()} <= together, "predictions make room for it"
    first = [chunk for chunk in base[:urgent].tolist() if chunk in chunks]
    assert chunks[: len(first)] == first
    if share == 1.0 and base_share <= 0.1:
        needed = {*base.tolist()}
        for view in views:
            needed |= set(select_lod(tree, [view], resident, limits).touched.tolist())
        assert needed <= together


def test_the_coarsest_levels_come_wherever_one_looks_but_not_what_is_lost() -> None:
    tree = random_forest(2, depth=3)
    limits = LodLimits(error_px=0.0, max_pages=200, page_gaussians=25)
    lost = np.zeros(len(tree), np.bool_)
    lost[2] = True
    none = np.zeros(len(tree), np.bool_)
    kept = np.array([0], np.int32)
    base = coarse_levels(tree, 20, 25)
    chunks = prefetch_chunks(tree, [], none, limits, kept, base=base, lost=lost)
    assert chunks.tolist() == [chunk for chunk in base.tolist() if chunk not in (0, 2)]
    with_view = prefetch_chunks(tree, [overview(tree)], none, limits, kept, base=base)
    assert len(with_view) > len(chunks) and set(chunks) <= set(with_view.tolist())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), pages=st.integers(0, 300))
def test_a_base_layer_is_closed_under_ancestors_and_within_its_share(seed: int, pages: int) -> None:
    tree = random_forest(seed, depth=3, roots=2)
    base = coarse_levels(tree, pages, 25)
    assert pages_of(tree, 25)[base].sum() <= pages
    chunks = set(base.tolist())
    assert all(set(tree.ancestors(chunk)) <= chunks for chunk in chunks)
    assert base.tolist() == coarse_levels(tree, pages, 25).tolist()


def test_coarse_levels_keep_to_their_pages() -> None:
    tree = random_forest(2, depth=3)
    used = np.cumsum(pages_of(tree, 25))
    assert len(coarse_levels(tree, 0, 25)) == 0
    assert len(coarse_levels(tree, int(used[4]), 25)) == 5
    assert len(coarse_levels(tree, int(used[-1]), 25)) == len(tree)
