"""Chunks coloured by their level, and by what of the last frame would do for this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from render_cache.reuse import Reuse
from rendering.base import RasterSettings
from rendering.drawable import Drawable
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene, StreamPolicy
from rendering.tint import (
    LEVEL_TINTS,
    REUSE_TINTS,
    LastFrame,
    Tint,
    chunk_kinds,
    color_of,
    reuse_counts,
)
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.manifest import Profile
from scene_store.store import Store, open_store
from scene_store.tree import LodTree
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests import scenes

WAIT_S = 20.0
SETTINGS = RasterSettings(threads=1)
FAR = 400.0
AMPLE = Budgets(64 << 20, 64 << 20)


def view(x: float = 0.0, z: float = 0.0) -> Camera:
    return Camera.look_at(
        (x, 0, z), (x, 0, z + 1), (0, -1, 0), fov_y_rad=0.9, width=131, height=75, far=1e4
    )


def near_and_far() -> Gaussians:
    """A cloud before the camera, and one far away that is as large in the picture."""
    near = scenes.random_scene(5, 3000, 0)
    near = replace(near, scales=np.minimum(near.scales, 0.05))
    far = replace(near, means=near.means * 40)
    ahead = np.array([0, 0, 1], np.float32)
    return Gaussians.concatenate(
        [
            replace(near, means=near.means + 5 * ahead),
            replace(far, means=far.means + FAR * ahead),
        ]
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near-and-far")
    gaussians = near_and_far()
    write_ply(folder / "scene.ply", [gaussians], len(gaussians), 0)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "scene.ply"], folder / "scene.bvs", options)
    return folder / "scene.bvs"


@pytest.fixture
def source(store: Path) -> Iterator[Store]:
    source = open_store(store)
    yield source
    source.close()


def leaves(tree: LodTree, *, far: bool) -> list[int]:
    return [
        chunk
        for chunk in np.flatnonzero(tree.is_leaf).tolist()
        if (tree.lo[chunk, 2] > FAR / 2) == far
    ]


def answers(
    tree: LodTree, chunks: list[int], now: tuple[Camera, ...], last: LastFrame
) -> set[Reuse]:
    return {Reuse(kind) for kind in chunk_kinds(Tint.REUSE, tree, chunks, now, last)}


def test_of_a_still_camera_all_holds(source: Store) -> None:
    chunks = np.flatnonzero(source.tree.is_leaf).tolist()
    last = LastFrame((view(),), tuple(chunks))
    assert answers(source.tree, chunks, (view(),), last) == {Reuse.EXACT}


def test_of_a_moving_camera_what_is_far_holds(source: Store) -> None:
    near, far = (leaves(source.tree, far=far) for far in (False, True))
    last = LastFrame((view(),), (*near, *far))
    assert near and far
    assert answers(source.tree, near, (view(0.2),), last) == {Reuse.MISS}
    assert answers(source.tree, far, (view(0.2),), last) == {Reuse.REPROJECT}
    assert answers(source.tree, far, (view(300.0),), last) == {Reuse.MISS}


def test_what_was_not_drawn_is_not_there_to_be_used_again(source: Store) -> None:
    far = leaves(source.tree, far=True)
    last = LastFrame((view(),), tuple(far[1:]))
    kinds = chunk_kinds(Tint.REUSE, source.tree, far, (view(),), last)
    assert kinds == (Reuse.MISS, *[Reuse.EXACT] * (len(far) - 1))
    assert answers(source.tree, far, (view(),), LastFrame()) == {Reuse.MISS}


def test_of_two_eyes_the_worse_answer_counts(source: Store) -> None:
    far = leaves(source.tree, far=True)
    last = LastFrame((view(), view(0.1)), tuple(far))
    assert answers(source.tree, far, (view(), view(0.1)), last) == {Reuse.EXACT}
    assert answers(source.tree, far, (view(), view(0.2)), last) == {Reuse.REPROJECT}
    assert answers(source.tree, far, (view(300.0), view(0.1)), last) == {Reuse.MISS}
    assert answers(source.tree, far, (view(),), last) == {Reuse.MISS}, "of one eye there was none"


def test_levels_do_not_depend_on_the_camera(source: Store) -> None:
    chunks = list(range(len(source.tree)))
    kinds = chunk_kinds(Tint.LEVELS, source.tree, chunks, (view(),), LastFrame())
    assert kinds == tuple(source.tree.level.tolist()) and max(kinds) > 0
    assert chunk_kinds(Tint.NONE, source.tree, chunks, (view(),), LastFrame()) == ()


def test_every_kind_has_a_colour_of_its_own() -> None:
    assert [color_of(Tint.REUSE, answer) for answer in Reuse] == list(REUSE_TINTS.values())
    assert len(set(REUSE_TINTS.values())) == len(Reuse)
    assert color_of(Tint.LEVELS, 0) == LEVEL_TINTS[0]
    assert color_of(Tint.LEVELS, 99) == LEVEL_TINTS[-1]
    assert reuse_counts((2, 1, 2)) == (0, 1, 2)


@contextmanager
def drawing(source: Store, *, picture_bytes: int = 0) -> Iterator[RenderEngine]:
    rasterizer = NativeRasterizer()
    scene = StreamedScene(source, rasterizer, AMPLE, StreamPolicy(fade_s=0.0))
    with RenderEngine(rasterizer, scene, picture_bytes=picture_bytes) as engine:
        for sequence in range(2):
            ask(engine, -2 + sequence, view())
            assert scene.wait_until_settled(WAIT_S)
        yield engine


def ask(engine: RenderEngine, sequence: int, camera: Camera, tint: Tint = Tint.NONE) -> Frame:
    urgency = Urgency.STILL
    request = FrameRequest("a", sequence, (camera,), SETTINGS, urgency=urgency, tint=tint)
    return engine.submit(request).result(WAIT_S)


def counts(frame: Frame) -> tuple[int, ...]:
    assert frame.stats.stream is not None
    return frame.stats.stream.reuse


def test_frames_are_compared_with_the_one_before(source: Store) -> None:
    with drawing(source) as engine:
        first = ask(engine, 0, view())
        assert counts(first) == (), "nobody asked"
        still = ask(engine, 1, view(), Tint.REUSE)
        moved = ask(engine, 2, view(0.2), Tint.REUSE)
        rested = ask(engine, 3, view(0.2), Tint.REUSE)
    chunks = first.stats.stream.chunks if first.stats.stream else 0
    assert counts(still) == counts(rested) == (chunks, 0, 0)
    exact, reproject, miss = counts(moved)
    assert exact == 0 and reproject > 0 and miss > 0 and reproject + miss == chunks
    tinted, again = moved.images[0].color, rested.images[0].color
    assert tinted is not None and again is not None
    # Nothing is red where all is the same.
    assert tinted[..., 0].mean() > again[..., 0].mean() + 0.1


def test_a_kept_picture_has_the_tint_that_was_asked_for(source: Store) -> None:
    with drawing(source, picture_bytes=1 << 20) as engine:
        plain = ask(engine, 0, view())
        moved = ask(engine, 1, view(0.2), Tint.REUSE)
        rested = ask(engine, 2, view(0.2), Tint.REUSE)
        again = ask(engine, 3, view(0.2), Tint.REUSE)
        levels = ask(engine, 4, view(0.2), Tint.LEVELS)
        back = ask(engine, 5, view())
    reused = [frame.stats.reused for frame in (moved, rested, again, levels, back)]
    assert reused == [0, 0, 1, 0, 1], "the same view in other colours is another picture"
    assert np.array_equal(back.images[0].alpha, plain.images[0].alpha)


def test_kinds_are_part_of_the_key(source: Store) -> None:
    rasterizer = NativeRasterizer()
    scene = StreamedScene(source, rasterizer, AMPLE, StreamPolicy(fade_s=0.0))

    def key(camera: Camera, tint: Tint) -> object:
        with scene.acquire(FrameRequest("a", 0, (camera,), tint=tint)) as drawable:
            assert isinstance(drawable, Drawable)
            return drawable.key

    key(view(), Tint.NONE)
    assert scene.wait_until_settled(WAIT_S)
    keys = [key(view(), tint) for tint in (*Tint, *Tint)]
    assert len(set(keys)) == len(Tint)
    assert key(view(0.2), Tint.REUSE) not in keys
    scene.close()
