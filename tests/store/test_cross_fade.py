"""Cross-fading: never a hole, within the pool, and over in time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scene_store.cross_fade import CrossFade
from scene_store.lod import LodCut, LodLimits, select_lod
from scene_store.tree import LodTree
from tests.store.forests import closed, leaves_below, overview, random_forest, random_view

PAGE_GAUSSIANS = 25


def pages_of(tree: LodTree, chunks: set[int]) -> int:
    return int((-(-tree.count[list(chunks)] // PAGE_GAUSSIANS)).sum())


def leaves_of(tree: LodTree, chunks: list[int]) -> set[int]:
    return {leaf for chunk in chunks for leaf in leaves_below(tree, chunk)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    steps=st.lists(
        st.tuples(
            st.integers(0, 6),
            st.sampled_from([0.5, 0.9, 1.0]),
            st.sampled_from([0.0, 0.01, 0.05, 1.0]),
        ),
        min_size=2,
        max_size=25,
    ),
    spare=st.sampled_from([0, 3, 1000]),
)
def test_fading_covers_what_is_drawn_and_ends_at_the_cut(
    seed: int, steps: list[tuple[int, float, float]], spare: int
) -> None:
    """Views change, chunks come and go; at last the camera stands still."""
    tree = random_forest(seed, depth=3, branching=4)
    random = np.random.default_rng(seed)
    fade = CrossFade(tree, PAGE_GAUSSIANS, 0.2)
    now = 0.0
    for view, share, seconds in steps:
        now += seconds
        camera = random_view(seed + view) if view else overview(tree)
        resident = closed(tree, random.random(len(tree)) < share)
        cut = select_lod(tree, [camera], resident, LodLimits(error_px=0.3 * view))
        kept = set(cut.touched.tolist())
        room = pages_of(tree, kept) + spare
        shown = fade.step(cut, resident, room, now)
        check_step(tree, cut, shown, resident)
        assert pages_of(tree, kept | {chunk for chunk, _ in shown}) <= room
    for _ in range(25):
        now += 0.01
        shown = fade.step(cut, resident, room, now)
        check_step(tree, cut, shown, resident)
    assert shown == [(chunk, 1.0) for chunk in cut.draw.tolist()]
    assert not fade.fading


def check_step(
    tree: LodTree,
    cut: LodCut,
    shown: list[tuple[int, float]],
    resident: NDArray[np.bool_],
) -> None:
    chunks = [chunk for chunk, _ in shown]
    assert chunks == sorted(set(chunks))
    assert all(0 < weight <= 1 and resident[chunk] for chunk, weight in shown)
    full = leaves_of(tree, [chunk for chunk, weight in shown if weight == 1])
    assert leaves_of(tree, cut.draw.tolist()) <= full


def pair() -> LodTree:
    """A root and two children."""
    return LodTree(
        lo=np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0]], np.float32),
        hi=np.array([[2, 1, 1], [1, 1, 1], [2, 1, 1]], np.float32),
        max_scale=np.full(3, 0.1, np.float32),
        error=np.array([1, 0, 0], np.float32),
        count=np.full(3, 10, np.int32),
        parent=np.array([-1, 0, 0], np.int32),
        first_child=np.array([1, 0, 0], np.int32),
        child_count=np.array([2, 0, 0], np.int32),
        level=np.array([1, 0, 0], np.int32),
    )


def three_generations() -> LodTree:
    """A root, its child and that one's child."""
    return LodTree(
        lo=np.zeros((3, 3), np.float32),
        hi=np.ones((3, 3), np.float32),
        max_scale=np.full(3, 0.1, np.float32),
        error=np.array([2, 1, 0], np.float32),
        count=np.full(3, 10, np.int32),
        parent=np.array([-1, 0, 1], np.int32),
        first_child=np.array([1, 2, 0], np.int32),
        child_count=np.array([1, 1, 0], np.int32),
        level=np.array([2, 1, 0], np.int32),
    )


def cut_of(draw: list[int]) -> LodCut:
    chosen = np.array(draw, np.int32)
    touched = np.unique(np.append(chosen, 0)).astype(np.int32) if draw else chosen
    return LodCut(chosen, np.empty(0, np.int32), touched, 0, 0, 0, 0.0, True)


ALL = np.ones(3, np.bool_)


def weights(fade: CrossFade, draw: list[int], now: float, pages: int = 100) -> dict[int, float]:
    return {c: round(w, 6) for c, w in fade.step(cut_of(draw), ALL, pages, now)}


def test_the_first_picture_does_not_fade() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS)
    assert weights(fade, [1, 2], 5.0) == {1: 1, 2: 1}
    assert not fade.fading


def test_children_rise_before_their_parent_falls() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS, 0.2)
    weights(fade, [0], 0.0)
    assert weights(fade, [1, 2], 1.0) == {0: 1}
    assert fade.fading
    assert weights(fade, [1, 2], 1.04) == {0: 1, 1: 0.4, 2: 0.4}
    assert weights(fade, [1, 2], 1.10) == {0: 1, 1: 1, 2: 1}
    assert weights(fade, [1, 2], 1.17) == {0: 0.3, 1: 1, 2: 1}
    assert weights(fade, [1, 2], 1.21) == {1: 1, 2: 1}


def test_the_oldest_of_several_generations_does_not_wait_for_the_youngest() -> None:
    fade = CrossFade(three_generations(), PAGE_GAUSSIANS, 0.2)
    weights(fade, [0], 0.0)
    weights(fade, [1], 1.0)
    assert weights(fade, [1], 1.10) == {0: 1, 1: 1}
    weights(fade, [2], 1.10)
    assert weights(fade, [2], 1.15) == {0: 0.5, 1: 1, 2: 0.5}
    assert weights(fade, [2], 1.21) == {1: 1, 2: 1}
    assert weights(fade, [2], 1.26) == {1: 0.5, 2: 1}


def test_nothing_fades_where_all_is_new() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS, 0.2)
    weights(fade, [0], 0.0)
    shown = fade.step(cut_of([1, 2]), ALL, 100, 1.0, at_once=True)
    assert shown == [(1, 1.0), (2, 1.0)] and not fade.fading
    weights(fade, [0], 1.05)
    assert weights(fade, [0], 1.10) == {0: 0.5, 1: 1, 2: 1}, "from there it fades again"
    fade.step(cut_of([1, 2]), ALL, 100, 1.11, at_once=True)
    assert weights(fade, [1, 2], 1.15) == {1: 1, 2: 1}


def test_a_fade_turns_back_where_it_is() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS, 0.2)
    weights(fade, [0], 0.0)
    for now in (1.0, 1.1, 1.15):
        weights(fade, [1, 2], now)
    assert weights(fade, [0], 1.16) == {0: 0.4, 1: 1, 2: 1}
    assert weights(fade, [0], 1.22) == {0: 1, 1: 1, 2: 1}
    assert weights(fade, [0], 1.32) == {0: 1}


def test_what_comes_into_view_or_leaves_it_does_not_fade() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS)
    assert weights(fade, [1], 0.0) == {1: 1}
    assert weights(fade, [1, 2], 1.0) == {1: 1, 2: 1}
    assert weights(fade, [2], 1.1) == {2: 1}
    assert not fade.fading


def test_a_parent_that_covers_more_than_its_child_did_is_there_at_once() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS, 0.2)
    weights(fade, [1], 0.0)
    assert weights(fade, [0], 1.0) == {0: 1, 1: 1}
    assert weights(fade, [0], 1.05) == {0: 1, 1: 0.5}


def test_without_room_there_is_no_fade() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS, 0.2)
    weights(fade, [1, 2], 0.0)
    assert weights(fade, [0], 1.0, pages=1) == {0: 1}
    assert not fade.fading


def test_an_evicted_chunk_is_not_shown_any_more() -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS, 0.2)
    weights(fade, [1, 2], 0.0)
    shown = fade.step(cut_of([0]), np.array([True, True, False]), 100, 1.0)
    assert shown == [(0, 1.0), (1, 1.0)]


@pytest.mark.parametrize("draw", [[0], [1, 2]])
def test_no_duration_shows_cuts_as_they_are(draw: list[int]) -> None:
    fade = CrossFade(pair(), PAGE_GAUSSIANS, 0.0)
    weights(fade, [0], 0.0)
    assert weights(fade, draw, 0.0) == dict.fromkeys(draw, 1)
    assert not fade.fading
