"""Chunks ahead of a camera: named when the prediction changes, and those that come into view."""

from __future__ import annotations

import numpy as np
import pytest

from rendering.foresight import BASE_OF_POOL, Foresight
from scene_store.lod import ChunkIndices, LodLimits, select_lod
from scene_store.prefetch import coarse_levels, look_ahead, prefetch_chunks, widened
from scene_store.tree import NO_PARENT, LodTree
from splat.camera import Camera

LEAVES = 40  # in a row along x, one a unit
LIMITS = LodLimits(error_px=0.0, max_gaussians=10_000, max_pages=1_000, page_gaussians=100)


@pytest.fixture
def tree() -> LodTree:
    """A root over a row of leaves."""
    places = np.arange(LEAVES, dtype=np.float32)
    lo = np.stack([places, 0 * places, 0 * places], 1)
    return LodTree(
        lo=np.concatenate([[[0, 0, 0]], lo]),
        hi=np.concatenate([[[LEAVES, 1, 1]], lo + 1]),
        max_scale=np.full(1 + LEAVES, 0.01, np.float32),
        error=np.array([1.0] + LEAVES * [0.0], np.float32),
        count=np.full(1 + LEAVES, 100, np.int32),
        parent=np.array([NO_PARENT] + LEAVES * [0], np.int32),
        first_child=np.array([1] + LEAVES * [0], np.int32),
        child_count=np.array([LEAVES] + LEAVES * [0], np.int32),
        level=np.array([1] + LEAVES * [0], np.int32),
    )


def at(x: float) -> Camera:
    """Looks at the row from the front; sees about two units to each side."""
    return Camera.look_at(
        (x, 0.5, -3), (x, 0.5, 0), (0, -1, 0), fov_y_rad=0.9, width=120, height=80
    )


def needed(tree: LodTree, camera: Camera) -> ChunkIndices:
    resident = np.zeros(len(tree), np.bool_)
    return select_lod(tree, [camera], resident, LIMITS).touched


def look(
    foresight: Foresight,
    tree: LodTree,
    camera: Camera,
    now: float,
    limits: LodLimits = LIMITS,
    *,
    final: bool = False,
) -> ChunkIndices | None:
    nothing = np.zeros(len(tree), np.bool_)
    foresight.observe(camera, now)
    return foresight.look(
        camera, now, 0.1, limits, nothing, nothing, needed(tree, camera), final=final
    )


def walk(foresight: Foresight, tree: LodTree, speed: float) -> ChunkIndices:
    """The newest prediction after a second of walking to x = 10."""
    newest = None
    for step in range(31):
        ahead = look(foresight, tree, at(10 + speed * (step / 30 - 1)), step / 30)
        newest = newest if ahead is None else ahead
    assert newest is not None
    return newest


def test_on_a_known_path_the_next_views_are_fetched_wherever_they_are(tree: LodTree) -> None:
    foresight = Foresight(tree)
    path = [at(10), at(25), at(36)]
    nothing = np.zeros(len(tree), np.bool_)

    def ahead(coming: tuple[Camera, ...]) -> ChunkIndices | None:
        kept = needed(tree, path[0])
        return foresight.look(path[0], 0.0, 0.1, LIMITS, nothing, nothing, kept, coming=coming)

    coming = tuple(look_ahead(path, 0, 2))
    fetched = ahead(coming)
    assert fetched is not None
    order = fetched.tolist()
    first, second = (
        [order.index(chunk) for chunk in needed(tree, view)[1:].tolist()] for view in coming
    )
    assert max(first) < min(second)
    assert ahead(coming) is None, "the same views need the same chunks"
    assert ahead(coming[1:]) is not None


@pytest.mark.parametrize("speed", [4.0, -4.0])
def test_what_lies_ahead_of_a_walk_is_fetched(tree: LodTree, speed: float) -> None:
    ahead = walk(Foresight(tree), tree, speed)
    soon = np.setdiff1d(needed(tree, at(10 + 0.25 * speed)), needed(tree, at(10)))
    assert len(soon) and np.isin(soon, ahead).all()
    behind = np.setdiff1d(needed(tree, at(10 - speed)), needed(tree, at(10)))
    assert not np.isin(behind[:-1] if speed > 0 else behind[1:], ahead).all()


def test_nothing_new_is_worked_out_for_a_camera_at_rest(tree: LodTree) -> None:
    foresight = Foresight(tree)
    assert look(foresight, tree, at(10), 0.0) is not None
    for step in range(1, 30):
        assert look(foresight, tree, at(10), step / 30) is None or step < 3


def test_other_limits_need_other_chunks(tree: LodTree) -> None:
    foresight = Foresight(tree)
    for step in range(30):
        look(foresight, tree, at(10), step / 30)
    few = LodLimits(error_px=0.0, max_gaussians=100, max_pages=1_000, page_gaussians=100)
    assert look(foresight, tree, at(10), 1.0, few) is not None


def test_wider_views_may_have_more_gaussians(tree: LodTree) -> None:
    camera = at(10)
    nothing = np.zeros(len(tree), np.bool_)
    exact = select_lod(tree, [camera], nothing, LIMITS).ideal_gaussians
    tight = LodLimits(error_px=0.0, max_gaussians=exact, max_pages=1_000, page_gaussians=100)

    def ahead(view_pixels: int | None) -> ChunkIndices:
        views, kept = [widened(camera, 0.3)], np.empty(0, np.int32)
        return prefetch_chunks(tree, views, nothing, tight, kept, view_pixels=view_pixels)

    leaves = needed(tree, camera)[1:]
    assert not np.isin(leaves, ahead(None)).any(), "coarser than the view that it predicts"
    assert np.isin(leaves, ahead(camera.width * camera.height)).all()


def test_predictions_are_as_fine_as_the_view(
    tree: LodTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def noted(*words: object, view_pixels: int, **more: object) -> ChunkIndices:
        asked.append(view_pixels)
        return np.empty(0, np.int32)

    monkeypatch.setattr("rendering.foresight.prefetch_chunks", noted)
    camera = at(10)
    look(Foresight(tree), tree, camera, 0.0)
    assert asked == [camera.width * camera.height]


def test_the_base_layer_grows_once_a_picture_is_final_and_stays(tree: LodTree) -> None:
    pool = LodLimits(error_px=0.0, max_gaussians=10_000, max_pages=200, page_gaussians=100)
    foresight = Foresight(tree)
    layer = coarse_levels(tree, int(BASE_OF_POOL * pool.max_pages), 100)
    assert len(needed(tree, at(10))) < len(layer) < len(tree)

    def missing(ahead: ChunkIndices | None, camera: Camera) -> set[int]:
        assert ahead is not None
        return {*layer.tolist()} - {*ahead.tolist(), *needed(tree, camera).tolist()}

    assert missing(look(foresight, tree, at(30), 0.0, pool), at(30)), "other things are waited for"
    assert not missing(look(foresight, tree, at(30), 0.1, pool, final=True), at(30))
    assert not missing(look(foresight, tree, at(20), 0.2, pool), at(20)), "it is kept"


def test_a_far_view_is_told(tree: LodTree) -> None:
    foresight = Foresight(tree)
    assert foresight.observe(at(10), 0.0), "the first"
    assert not foresight.observe(at(10.5), 0.1)
    assert foresight.observe(at(30), 0.2)
    assert not foresight.observe(at(30), 9.0)
    assert not foresight.observe(at(30.5), 20.0), "a motion that begins"
