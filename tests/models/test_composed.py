"""Compositions with neural scenes in them: all of them in one picture, each where it stands."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.frame import FrameRequest
from rendering.models.field_stand_ins import make_stand_in
from rendering.models.renderers import renderer_of
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.chunks import NeuralSource, gaussians_of, model_of
from scene_store.compose import read_composition
from scene_store.formats import write_ply
from scene_store.ledger import Budgets
from scene_store.models import find_reader, is_model, open_model
from scene_store.models.mixed_chunks import MixedModel
from scene_store.neural_store import build_neural_store, neural_store_bytes
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import SceneFormatError, SceneNotFoundError
from splat.gaussians import Gaussians
from tests.models.nerf_torch import networks, save_flexible
from tests.models.neural_source import SmallAnchors

CAMERA = Camera.look_at(
    (1.0, -9.0, 2.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), fov_y_rad=0.9, width=64, height=48
)
AMPLE = Budgets(1 << 28, 1 << 28)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of anchors, and a wall of Gaussians."""
    build_neural_store(SmallAnchors(), tmp_path / "grid.bvs", tmp_path)
    rng = np.random.default_rng(1)
    means = rng.uniform((-3, 3, -3), (3, 3.2, 3), (500, 3)).astype(np.float32)
    quats = np.zeros((500, 4), np.float32)
    quats[:, 0] = 1
    scales = np.full((500, 3), 0.2, np.float32)
    sh = rng.uniform(-1, 1, (500, 1, 3)).astype(np.float32)
    opacities = np.full(500, 0.9, np.float32)
    wall = Gaussians(means, quats, scales, opacities, sh)
    write_ply(tmp_path / "wall.ply", [wall], 500, 0)
    return tmp_path


def compose(folder: Path, text: str) -> Path:
    path = folder / "scene.yaml"
    path.write_text(text)
    return path


def picture(
    source: NeuralSource, budgets: Budgets = AMPLE, camera: Camera = CAMERA
) -> NDArray[np.float32]:
    engine = renderer_of(model_of(source), NativeRasterizer())
    with_scene = StreamedScene(source, engine, budgets, StreamPolicy(fade_s=0.0))
    try:
        request = FrameRequest("test", 1, (camera,))
        for _ in range(200):  # arrivals
            with with_scene.acquire(request) as drawable:
                assert drawable.stream is not None
                image = engine.render(drawable.scene, camera, request.settings)
                if drawable.stream.complete:
                    assert image.color is not None
                    return image.color
            for memory in with_scene._memories.values():
                memory.loader.wait_until_settled(5.0)
    finally:
        with_scene.close()
    raise AssertionError("it never was complete")


BOTH = """
up: [0, 0, 1]
scenes:
  - path: grid.bvs
    instances:
      - translation: [-1, 0, 0]
      - {translation: [3, 0, 0], rotation: [0, 0, 90], scale: 0.5}
  - path: wall.ply
    transform: {translation: [0, 1, 0]}
"""


def test_gaussians_and_anchors_are_one_scene(folder: Path) -> None:
    path = compose(folder, BOTH)
    assert is_model(path)
    source = open_model(path)
    assert isinstance(source, NeuralSource)
    model = model_of(source)
    assert isinstance(model, MixedModel)
    assert [part.model is None for part in model.parts] == [False, False, True]
    assert source.meta.up == (0.0, 0.0, 1.0)
    both = picture(source)
    walls = picture(open_model(compose(folder, BOTH.replace("scale: 0.5", "scale: 1e-6"))))
    assert both.max() > 0.1
    assert not np.array_equal(both, walls)  # the second copy is to be seen


def test_a_store_of_a_composition_draws_the_same(folder: Path) -> None:
    path = compose(folder, BOTH)
    source = open_model(path)
    foretold = neural_store_bytes(source)
    report = build_neural_store(source, folder / "both.bvs", path)
    assert foretold == pytest.approx(report.store_bytes, rel=0.02, abs=8192)
    whole = picture(source)
    store = open_store(folder / "both.bvs")
    assert isinstance(store, NeuralSource)
    assert np.array_equal(picture(store), whole)


def test_what_is_in_front_hides_what_is_behind(folder: Path) -> None:
    behind = picture(open_model(compose(folder, BOTH)))
    before = BOTH.replace("translation: [0, 1, 0]", "translation: [0, -6, 0]")
    hidden = picture(open_model(compose(folder, before)))
    only = before.replace("[-1, 0, 0]", "[-1, 900, 0]").replace("[3, 0, 0]", "[3, 900, 0]")
    wall = picture(open_model(compose(folder, only)))
    assert np.abs(hidden - wall).mean() < 0.2 * np.abs(behind - wall).mean()


def test_compositions_of_gaussians_are_left_to_others(folder: Path) -> None:
    path = compose(folder, "scenes: [{path: wall.ply}]")
    assert find_reader(path) is None
    assert not is_model(folder / "wall.ply")


def test_too_many_copies_are_refused(folder: Path) -> None:
    grid = "scenes: [{path: grid.bvs, grid: {counts: [11, 10, 10], pitch: [5, 5, 5]}}]"
    with pytest.raises(SceneFormatError, match="places 1,100 scenes"):
        open_model(compose(folder, grid))


def test_a_scene_that_is_missing_is_named(folder: Path) -> None:
    text = "scenes: [{path: grid.bvs}, {path: gone.ply}]"
    with pytest.raises(SceneNotFoundError, match=r"gone\.ply"):
        open_model(compose(folder, text))


def test_gaussians_in_memory_are_read_once(folder: Path) -> None:
    text = BOTH.replace("    transform:", "    instances: [{}, {scale: 2}]\n    transform:")
    source = open_model(compose(folder, text))
    assert len(source._sources) == 4  # type: ignore[attr-defined]
    assert source._sources[2] is source._sources[3]  # type: ignore[attr-defined]
    leaf = source._sources[2]  # type: ignore[attr-defined]
    encoded = leaf.read(0)
    assert len(gaussians_of(leaf.decode(0, encoded))) == 500


# --- Blocks --------------------------------------------------------------------------------------


def voxels(path: Path, low: float, color: float) -> None:
    """A cube of fog from ``low`` on, of side 2, thin at its faces."""
    side = 10
    axes = [np.linspace(-1, 1, side)] * 3
    z, y, x = np.meshgrid(*axes, indexing="ij")
    np.savez(
        path,
        density=np.clip(3 * (1 - np.maximum(abs(y), abs(z))), 0, None),
        rgb=np.stack([np.full_like(x, color), 0.5 + 0.5 * x, 0.5 + 0.5 * z], axis=-1),
        lo=np.array([low, -1.0, -1.0]),
        hi=np.array([low + 2.0, 1.0, 1.0]),
    )


BLOCKS = """
up: [0, 0, 1]
scenes:
  - blocks: [west.npz, east.npz]
    border: 0.4
"""


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    voxels(tmp_path / "west.npz", -1.8, 0.2)
    voxels(tmp_path / "east.npz", -0.2, 0.9)
    return compose(tmp_path, BLOCKS)


def test_blocks_stream_in_less_than_they_take(blocks: Path) -> None:
    """Where one is behind the camera, the other is drawn as if both were there."""
    away = Camera.look_at(
        (0.9, -0.0, 0.0), (5.0, 0.0, 0.0), (0.0, 0.0, 1.0), fov_y_rad=0.6, width=40, height=32
    )
    resident = picture(open_model(blocks, make_stand_in=make_stand_in), camera=away)
    source = open_model(blocks, make_stand_in=make_stand_in)
    engine = renderer_of(model_of(source), NativeRasterizer())
    pages = -(-source.tree.count.astype(np.int64) // source.page_gaussians)
    page_bytes = engine.new_pool(source.page_gaussians, 0).page_bytes
    roots = source.tree.roots
    room = int(pages[roots].sum() + pages[source.tree.is_leaf].max()) * page_bytes
    assert room < int(pages.sum()) * page_bytes
    streamed = picture(source, Budgets(1 << 28, room), camera=away)
    assert float(np.ptp(resident)) > 0.05
    assert np.array_equal(streamed, resident)


def test_a_block_that_comes_is_there_coarsely_before(blocks: Path) -> None:
    whole = picture(open_model(blocks, make_stand_in=make_stand_in))
    source = open_model(blocks, make_stand_in=make_stand_in)
    engine = renderer_of(model_of(source), NativeRasterizer())
    pages = -(-source.tree.count.astype(np.int64) // source.page_gaussians)
    page_bytes = engine.new_pool(source.page_gaussians, 0).page_bytes
    least = Budgets(1 << 28, int(pages[source.tree.roots].sum()) * page_bytes)
    with contextlib.closing(StreamedScene(source, engine, least)) as scene:
        for memory in scene._memories.values():
            assert memory.loader.wait_until_settled(20.0)
        request = FrameRequest("test", 1, (CAMERA,))
        with scene.acquire(request) as drawable:
            image = engine.render(drawable.scene, CAMERA, request.settings)
    assert image.color is not None
    assert 0 < np.abs(image.color - whole).max() < 0.2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("scenes: [{blocks: []}]", "names no block"),
        ("scenes: [{blocks: [a.npz], path: b.npz}]", "path and blocks"),
        ("scenes: [{blocks: [a.npz], border: -1}]", "not below 0"),
        ("scenes: [{path: a.npz, border: 1}]", "is for blocks"),
        ("scenes: [{blocks: [a.npz], lod: 1}]", "no levels of detail"),
    ],
)
def test_blocks_that_make_no_sense_are_one_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SceneFormatError, match=problem):
        read_composition(compose(tmp_path, text))


def test_blocks_are_fields(folder: Path) -> None:
    with pytest.raises(SceneFormatError, match="no radiance field"):
        open_model(compose(folder, "scenes: [{blocks: [wall.ply]}]"))
    with pytest.raises(SceneNotFoundError, match=r"gone\.npz"):
        open_model(compose(folder, "scenes: [{blocks: [gone.npz]}]"))


def test_levels_of_neural_scenes_are_not_chosen(folder: Path) -> None:
    voxels(folder / "west.npz", -1.8, 0.2)
    for name in ("grid.bvs", "west.npz"):
        with pytest.raises(SceneFormatError, match=rf"level 1 of .*{name}.*; leave out lod"):
            open_model(compose(folder, f"scenes: [{{path: {name}, lod: 1}}]"))


def test_a_field_without_bounds_stays_in_memory(tmp_path: Path) -> None:
    save_flexible(tmp_path / "checkpoint1.ckpt", *networks("flexible"))
    voxels(tmp_path / "west.npz", -1.8, 0.2)
    text = "scenes: [{path: checkpoint1.ckpt}, {path: west.npz}]"
    source = open_model(compose(tmp_path, text), make_stand_in=make_stand_in)
    assert sorted(source.tree.child_count.tolist()) == [0, 0, 1]
    assert float(np.ptp(picture(source))) > 0.05
