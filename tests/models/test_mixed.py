"""Gaussians and fields in one picture, against both merged sample by sample in float64."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.base import (
    ALPHA_CUT,
    ALPHA_MAX,
    TRANSMITTANCE_STOP,
    Outputs,
    RasterImage,
    RasterSettings,
    ScenePart,
)
from rendering.frame import FrameRequest
from rendering.frame_scenes import RequestRasterizer, composed
from rendering.models.mixed import MixedRasterizer, MixedScene, camera_inside
from rendering.models.rays import box_span, rays_of
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import least_budgets
from scene_store.chunks import EncodedChunk, never_cancelled
from scene_store.ledger import Budgets
from scene_store.models.field_bytes import block_rows
from scene_store.models.field_chunks import FieldChunks, block_of
from scene_store.models.mixed_chunks import (
    MixedChunks,
    MixedModel,
    MixedPart,
    unwrapped,
    wrapped,
)
from scene_store.placement import Placement, quaternion_of_euler
from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.camera import Camera, CameraModel
from splat.errors import RenderCancelled, SceneError
from splat.fields import Field, FieldModel, OccupancySampler
from splat.gaussians import Gaussians
from splat.rows import Rows
from splat.stereo import StereoRig
from tests.models.anchor_scenes import random_anchors
from tests.models.small_fields import ball_field, balls, view
from tests.models.streaming import settled_frame, streaming
from tests.rasterizer_contract import bytes_of
from tests.scenes import gaussians, random_scene

Float64Array = NDArray[np.float64]

ALL = RasterSettings(outputs=Outputs.ALL, background=(0.1, 0.2, 0.3), threads=1)
COLOR = replace(ALL, outputs=Outputs.COLOR | Outputs.DEPTH)


def exact(
    scene: Gaussians, field: Field, camera: Camera, seed: int
) -> tuple[Float64Array, Float64Array]:
    """Colour [H, W, 3] and alpha of Gaussians and a field of ``balls``, every one of them sorted
    into every pixel, in float64."""
    depth, alpha, color = (
        np.concatenate(pair, axis=1)
        for pair in zip(splatted(scene, camera), sampled(field, camera, seed), strict=True)
    )
    order = np.argsort(depth, axis=1, kind="stable")
    alpha = np.take_along_axis(alpha, order, axis=1)
    color = np.take_along_axis(color, order[..., None], axis=1)
    behind = np.cumprod(1 - alpha, axis=1)
    before = np.concatenate([np.ones((len(alpha), 1)), behind[:, :-1]], axis=1)
    taken = before > TRANSMITTANCE_STOP
    weights = np.where(taken, before * alpha, 0.0)
    seen = (weights[..., None] * color).sum(axis=1)
    left = 1 - weights.sum(axis=1)
    shape = camera.height, camera.width
    whole = seen + left[:, None] * np.array(ALL.background)
    return whole.reshape(*shape, 3), (1 - left).reshape(shape)


def splatted(scene: Gaussians, camera: Camera) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Depths and alphas [P, N] and colours [P, N, 3] of N Gaussians in P pixels."""
    engine = NativeRasterizer()
    projected = engine.project(engine.prepare(scene), camera)
    row, column = np.divmod(np.arange(camera.width * camera.height), camera.width)
    at = np.stack([column + 0.5, row + 0.5], axis=1)
    dx, dy = (at[:, None] - projected.means2d.astype(np.float64)).transpose(2, 0, 1)
    xx, xy, yy = projected.conics.astype(np.float64).T
    power = -0.5 * (xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy)
    alpha = np.minimum(ALPHA_MAX, projected.opacities.astype(np.float64) * np.exp(power))
    alpha[alpha < ALPHA_CUT] = 0.0
    depth = np.broadcast_to(projected.depths.astype(np.float64), alpha.shape)
    return depth, alpha, np.broadcast_to(projected.colors, (*alpha.shape, 3)).astype(np.float64)


def sampled(
    field: Field, camera: Camera, seed: int
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """The same of the field's samples, by the definitions of ``splat.fields``."""
    assert isinstance(field.sampler, OccupancySampler)
    rays = rays_of(camera, np.arange(camera.width * camera.height))
    enter, leave = box_span(rays, field.space.lo, field.space.hi)
    size = float((field.space.hi - field.space.lo)[0])
    density, colors = balls(17, size=size, seed=seed)
    step = field.sampler.min_step * size
    t = np.maximum(enter, 0.0)[:, None] + step * (0.5 + np.arange(int(2 * size / step)))
    x = rays.origins.T[:, None] + t[..., None] * rays.directions.T[:, None]
    x = np.where((t < leave[:, None])[..., None], (x - field.space.lo) / size, 0.0)
    cell = np.clip((x * 17).astype(int), 0, 16)
    there = (t < leave[:, None]) & field.sampler.occupied[0][
        cell[..., 2], cell[..., 1], cell[..., 0]
    ]
    low = np.clip((x * 16).astype(int), 0, 15)
    share = x * 16 - low
    sigma, color = np.zeros(t.shape), np.zeros((*t.shape, 3))
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, share, 1 - share).prod(axis=-1)
        i, j, k = np.moveaxis(low + corner, -1, 0)
        sigma += weight * density[k, j, i]
        color += weight[..., None] * colors[k, j, i]
    return t * rays.axial[:, None], np.where(there, 1 - np.exp(-sigma * step), 0.0), color


def mixed(scene: Gaussians, *fields: Field, slabs: int = 8) -> tuple[MixedRasterizer, MixedScene]:
    """A renderer of both, and the scene."""
    none = Placement()
    parts = [MixedPart(None, none, 1024, scene.sh_degree)]
    parts += [MixedPart(FieldModel((f.kind,)), none, 256, 0) for f in fields]
    rasterizer = MixedRasterizer(MixedModel(tuple(parts)), NativeRasterizer(), slabs=slabs)
    chunks = [wrapped(0, scene)]
    chunks += [wrapped(1 + i, block_rows(block_of(f))) for i, f in enumerate(fields)]
    return rasterizer, rasterizer.prepare(Rows.concatenate(chunks))


def sheet(count: int = 350, seed: int = 1) -> Gaussians:
    """An opaque, wavy surface through the middle of the field."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 1, (2, count))
    means = np.stack([x, y, 0.35 * np.sin(3 * x) - 0.1], axis=1)
    return gaussians(means, scales=0.09, opacities=0.95, rgb=rng.uniform(0, 1, (count, 3)))


def fog(count: int = 60, seed: int = 2) -> Gaussians:
    """Thin clouds everywhere."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(-0.9, 0.9, (count, 3))
    return gaussians(means, scales=0.2, opacities=0.25, rgb=rng.uniform(0, 1, (count, 3)))


def psnr_db(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(-10 * np.log10(np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize(
    ("make", "slabs", "least_db"), [(sheet, 8, 50), (sheet, 32, 60), (fog, 8, 40), (fog, 64, 55)]
)
def test_they_are_composited_by_depth(
    make: Callable[[], Gaussians], slabs: int, least_db: float
) -> None:
    scene, field, camera = make(), ball_field(), view(33, 27)
    color, alpha = exact(scene, field, camera, seed=0)
    rasterizer, prepared = mixed(scene, field, slabs=slabs)
    image = rasterizer.render(prepared, camera, ALL)
    assert image.color is not None
    assert psnr_db(image.color, color) >= least_db
    # What is there does not depend on its order.
    np.testing.assert_allclose(image.alpha, alpha, atol=3e-4)


def test_gaussians_alone_are_the_engine_s_picture() -> None:
    scene = random_scene(4, 300)
    rasterizer, prepared = mixed(scene, ball_field())
    engine = NativeRasterizer()
    alone = replace(prepared, fields=None)
    expected = engine.render(engine.prepare(scene), view(), ALL)
    assert bytes_of(rasterizer.render(alone, view(), ALL)) == bytes_of(expected)


def test_what_is_far_apart_is_exact_with_any_slabs() -> None:
    """A sheet in front of the field: one slab is enough."""
    scene = sheet()
    front = replace(scene, means=scene.means * np.float32(0.3) + np.array([0, 0, -2], np.float32))
    camera = Camera.look_at((0, 0, -5), (0, 0, 0), (0, -1, 0), fov_y_rad=0.7, width=33, height=27)
    color, _ = exact(front, ball_field(), camera, seed=0)
    for slabs in (1, 8):
        rasterizer, prepared = mixed(front, ball_field(), slabs=slabs)
        image = rasterizer.render(prepared, camera, ALL)
        assert image.color is not None
        np.testing.assert_allclose(image.color, color, atol=2e-4)


def test_bands_are_the_whole_to_the_byte() -> None:
    rasterizer, prepared = mixed(sheet(), ball_field())
    camera = view(45, 70)
    whole = rasterizer.render(prepared, camera, ALL)
    bands = [
        rasterizer.render(prepared, camera, replace(ALL, rows=rows, threads=2))
        for rows in ((0, 32), (32, 64), (64, 70))
    ]
    assert bytes_of(RasterImage.stack(bands, whole.stats)) == bytes_of(whole)


def test_a_placed_scene_is_the_one_whose_camera_was_moved() -> None:
    placement = Placement((0.4, -0.2, 0.3), quaternion_of_euler((10, 30, -20)), 1.4)
    camera, scene = view(61, 47), sheet()
    engine = NativeRasterizer()
    moved = engine.render(engine.prepare(scene), camera_inside(camera, placement), COLOR)
    placed = engine.render(engine.prepare(placement.of(scene)), camera, COLOR)
    assert moved.color is not None and placed.color is not None
    np.testing.assert_allclose(moved.color, placed.color, atol=2e-3)
    assert moved.depth is not None and placed.depth is not None
    solid = placed.alpha > 0.5
    np.testing.assert_allclose(1.4 * moved.depth[solid], placed.depth[solid], rtol=2e-3)


def test_an_orthographic_camera_is_moved_too() -> None:
    placement = Placement((0.4, -0.2, 0.3), quaternion_of_euler((10, 30, -20)), 1.4)
    camera = replace(
        view(61, 47),
        model=CameraModel.ORTHO,
        K=np.array([[20.0, 0, 30], [0, 20.0, 24], [0, 0, 1]]),
    )
    engine = NativeRasterizer()
    moved = engine.render(engine.prepare(sheet()), camera_inside(camera, placement), COLOR)
    placed = engine.render(engine.prepare(placement.of(sheet())), camera, COLOR)
    assert moved.color is not None and placed.color is not None
    np.testing.assert_allclose(moved.color, placed.color, atol=2e-3)


def test_a_cancelled_picture_is_none() -> None:
    rasterizer, prepared = mixed(sheet(), ball_field())
    flag = rasterizer.new_cancel_flag()
    flag.set()
    with pytest.raises(RenderCancelled):
        rasterizer.render(prepared, view(), ALL, flag)


# --- Chunks --------------------------------------------------------------------------------------


class Spheres:
    """Gaussians as a source of three chunks: one merged over two."""

    def __init__(self, scene: Gaussians) -> None:
        half = len(scene) // 2
        self._chunks = [scene[::4], scene[:half], scene[half:]]
        self.meta = SceneMeta("spheres", "3DGS PLY", len(scene), scene.sh_degree)
        self.sh_degree, self.page_gaussians = scene.sh_degree, 64
        boxes = [(c.means.min(axis=0), c.means.max(axis=0)) for c in [scene, *self._chunks[1:]]]
        self.tree = LodTree(
            lo=np.stack([lo for lo, _ in boxes]),
            hi=np.stack([hi for _, hi in boxes]),
            max_scale=np.full(3, scene.scales.max(), np.float32),
            error=np.array([0.1, 0, 0], np.float32),
            count=np.array([len(chunk) for chunk in self._chunks], np.int32),
            parent=np.array([-1, 0, 0], np.int32),
            first_child=np.array([1, 0, 0], np.int32),
            child_count=np.array([2, 0, 0], np.int32),
            level=np.array([1, 0, 0], np.int32),
        )

    def encoded_bytes(self, chunk: int) -> int:
        return self._chunks[chunk].nbytes

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        return EncodedChunk((b"",))

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        return self._chunks[chunk]

    def close(self) -> None: ...


PLACED = Placement((0.2, 0.1, 0.0), quaternion_of_euler((0, 40, 0)), 1.1)


def both() -> MixedChunks:
    fields = FieldChunks.of_fields("balls.ingp", [ball_field])
    return MixedChunks([Spheres(sheet()), fields], [PLACED, Placement((0.1, 0, 0))], "both.yaml")


def test_trees_become_one_forest() -> None:
    source = both()
    np.testing.assert_array_equal(source.tree.parent, [-1, -1, 0, 0])
    np.testing.assert_array_equal(source.tree.first_child[:1], [2])
    assert source.tree.error[0] == pytest.approx(0.11)
    placed = PLACED.points(sheet().means)
    assert (source.tree.lo[0] <= placed.min(axis=0)).all()
    assert (source.tree.hi[0] >= placed.max(axis=0)).all()
    assert source.model.parts[0].model is None
    assert source.meta.format_name == "composition of 3DGS PLY, Instant-NGP"
    assert len(source.overview()) > 0


def test_chunks_say_whose_they_are() -> None:
    source = both()
    for chunk, number in enumerate((0, 1, 0, 0)):
        encoded = source.read(chunk)
        assert encoded is not None
        rows = source.decode(chunk, encoded)
        assert len(rows) <= source.tree.count[chunk]
        assert unwrapped(rows).source == number


@pytest.mark.parametrize("degree", [0, 2])
def test_gaussians_come_back_to_the_bit(degree: int) -> None:
    scene = random_scene(3, 77, degree)
    back = unwrapped(wrapped(5, scene))
    assert back.source == 5 and isinstance(back.contents, Gaussians)
    for one, other in zip(back.contents.arrays, scene.arrays, strict=True):
        assert one.tobytes() == other.tobytes()


def test_rows_come_back_to_the_bit() -> None:
    for data in (
        np.random.default_rng(1).random((31, 7)).astype(np.float32),
        np.arange(1024, dtype=np.uint8).reshape(4, 256),
    ):
        back = unwrapped(wrapped(2, Rows(data))).contents
        assert isinstance(back, Rows)
        assert back.data.dtype == data.dtype and back.data.tobytes() == data.tobytes()


def test_chunks_that_are_cut_off_or_foreign_are_refused() -> None:
    rows = wrapped(0, sheet())
    for bad in (rows[:-1], rows[1:], Rows(np.zeros((2, 256), np.uint8))):
        with pytest.raises(ValueError, match=r"cut off|no chunk"):
            unwrapped(bad)
    with pytest.raises(SceneError, match="needs scenes"):
        MixedChunks([], [])


def test_a_streamed_scene_is_the_whole_one() -> None:
    source = both()
    rasterizer = MixedRasterizer(source.model, NativeRasterizer())
    camera = view(61, 43)
    budgets = least_budgets(source, rasterizer)
    ample = Budgets(budgets.host_bytes, budgets.device_bytes + (4 << 20))
    with streaming(source, rasterizer, ample) as (engine, scene):
        frame, image = settled_frame(engine, scene, camera, ALL)
        assert frame.stats.stream is not None and frame.stats.stream.complete
    placed = PLACED.of(sheet())
    moved = replace(block_of(ball_field()), placement=Placement((0.1, 0, 0)), group=1)
    whole = rasterizer.prepare(
        Rows.concatenate([wrapped(0, placed), wrapped(1, block_rows(moved))])
    )
    assert bytes_of(rasterizer.render(whole, camera, ALL)) == bytes_of(image)


def test_pages_of_a_chunk_hold_it_together() -> None:
    source = both()
    rasterizer = MixedRasterizer(source.model, NativeRasterizer())
    pool = rasterizer.new_pool(source.page_gaussians, 0)
    encoded = source.read(1)
    assert encoded is not None
    rows = source.decode(1, encoded)
    places = np.array([[a, min(256, len(rows) - a)] for a in range(0, len(rows), 256)], np.int64)
    pages = pool.pack_many(rows, places)
    assert len(pages) == len(places) > 1
    scene = rasterizer.compose([ScenePart(page, weight=0.5) for page in pages])
    assert len(scene.fields.blocks) == 1 and scene.fields.blocks[0].weight == 0.5
    with pytest.raises(ValueError, match="in order"):
        pool.pack_many(rows, places[:-1])
    with pytest.raises(ValueError, match="than fit"):
        pool.pack_many(rows, np.array([[0, len(rows)]], np.int64))


def test_anchors_are_decoded_once_for_all_that_is_drawn_of_a_request() -> None:
    """Before the borders are looked for: slabs, bands and both eyes are of the same Gaussians."""
    model, rows = random_anchors("scaffold", 60)
    placement = Placement((0.2, 0.1, 0.0), quaternion_of_euler((10, 20, 0)), 0.4)
    anchors = MixedPart(model, placement, 16, 0)
    parts = (anchors, MixedPart(FieldModel((ball_field().kind,)), Placement(), 256, 0))
    rasterizer = MixedRasterizer(MixedModel(parts), NativeRasterizer())
    pool = rasterizer.new_pool(512, 0)
    chunks = [wrapped(0, rows[at : at + 16]) for at in range(0, 60, 16)]
    chunks.append(wrapped(1, block_rows(block_of(ball_field()))))
    pages = [ScenePart(pool.pack(chunk)) for chunk in chunks]
    eyes = StereoRig(0.1).eyes(view(33, 64))
    decoded: list[tuple[int, bytes]] = []
    work = rasterizer._drawing[0]._work
    inner = work._packed

    def counting(pages: Any, views: Any, threads: int) -> Any:
        decoded.extend((page.number, views.center.tobytes()) for page, _ in pages)
        return inner(pages, views, threads)

    work._packed = counting
    scene = composed(rasterizer, pages, FrameRequest("a", 0, eyes))
    assert isinstance(rasterizer, RequestRasterizer)
    for eye in eyes:
        whole = rasterizer.render(scene, eye, ALL)
        bands = [
            rasterizer.render(scene, eye, replace(ALL, rows=band)) for band in ((0, 32), (32, 64))
        ]
        assert bytes_of(RasterImage.stack(bands, whole.stats)) == bytes_of(whole)
    assert 1 < len(decoded) == len(set(decoded)) <= 4
    assert len({center for _, center in decoded}) == 1
    # Nobody knows of a request: once for a camera.
    decoded.clear()
    alone = rasterizer.compose(pages)
    first = rasterizer.render(alone, eyes[0], ALL)
    assert first.stats.stage_ms["decode"] > 0
    assert first.stats.gaussians >= 60 * model.layout.offsets
    count = len(decoded)
    rasterizer.render(alone, eyes[0], replace(ALL, rows=(0, 32)))
    assert 1 < len(decoded) == count <= 4


def test_threads_draw_at_once() -> None:
    rasterizer, prepared = mixed(sheet(), ball_field())
    pictures: list[RasterImage] = []
    threads = [
        threading.Thread(target=lambda: pictures.append(rasterizer.render(prepared, view(), ALL)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(bytes_of(picture).values()) for picture in pictures}) == 1
