"""Radiance fields behind the engines' contract: oracles' pictures, the same bytes however drawn,
blocks that come and go."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.base import Outputs, RasterImage, RasterSettings, ScenePart
from rendering.memory_shares import least_budgets
from rendering.models.components import Variant
from rendering.models.field_blend import overlaps
from rendering.models.field_rays import FieldRays
from rendering.models.field_scene import FieldScene
from rendering.models.field_stand_ins import make_stand_in
from rendering.models.fields import FieldRasterizer
from rendering.models.rays import rays_of
from rendering.models.renderers import renderer_of
from rendering.native.cpu import NativeRasterizer
from scene_store.ledger import Budgets
from scene_store.models import nerf
from scene_store.models.field_bytes import FieldBlock, block_rows
from scene_store.models.field_chunks import FieldChunks, block_of
from scene_store.models.field_memory import has_empty_grid, reserved_rows
from scene_store.placement import Placement, quaternion_of_euler
from splat.camera import Camera, CameraModel
from splat.errors import RenderCancelled, SceneError
from splat.fields import (
    BoxSampler,
    Field,
    FieldModel,
    HierarchicalSampler,
    OccupancySampler,
    PlaneEncoding,
    Rays,
)
from splat.gaussians import Gaussians
from splat.rows import Rows
from tests.models import field_pictures, nerf_torch
from tests.models.small_fields import (
    ball_field,
    contracted_field,
    plain_field,
    random_network,
    space,
    view,
    voxels,
)
from tests.models.streaming import draw, settled_frame, streaming
from tests.rasterizer_contract import bytes_of

Float32Array = NDArray[np.float32]

ALL = RasterSettings(outputs=Outputs.ALL, background=(0.1, 0.2, 0.3), threads=1)


def plane_field() -> Field:
    """Like GridNeRF's: planes, even steps in a box, a mask, directions of depth 1."""
    rng = np.random.default_rng(3)
    planes = PlaneEncoding(
        tuple(rng.normal(size=(4, 5, 6)).astype(np.float32) for _ in range(2)),
        (rng.normal(size=(4, 7)).astype(np.float32), None),
        ((0, 1, 2), (1, 2, 0)),
    )
    lo, hi = np.full(3, -1.0), np.full(3, 1.0)
    mask = rng.random((3, 4, 5)) > 0.4
    sampler = BoxSampler(lo, hi, 0.05, 80, mask, lo, hi, 1e-2)
    network = random_network(rng, planes)
    return Field("GridNeRF", network, space(), sampler, near=0.1, far=10.0, rays=Rays.RAW)


FIELDS: dict[str, Callable[[], Field]] = {
    "balls": ball_field,
    "plain": plain_field,
    "contracted": contracted_field,
    "planes": plane_field,
}


def rasterizer(**options: object) -> FieldRasterizer:
    return FieldRasterizer(FieldModel(("test",)), NativeRasterizer(), **options)  # type: ignore[arg-type]


def prepared(*blocks: FieldBlock, **options: object) -> tuple[FieldRasterizer, FieldScene]:
    made = rasterizer(**options)
    return made, made.prepare(Rows.concatenate([block_rows(block) for block in blocks]))


def picture(
    field: Field | FieldBlock, camera: Camera, settings: RasterSettings = ALL, **options: object
) -> RasterImage:
    block = block_of(field) if isinstance(field, Field) else field
    made, scene = prepared(block, **options)
    return made.render(scene, camera, settings)


def color_of(image: RasterImage) -> Float32Array:
    assert image.color is not None
    return image.color


def psnr_db(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return field_pictures.psnr_db(one.astype(np.float64), other.astype(np.float64))


def depth_of(image: RasterImage) -> Float32Array:
    assert image.depth is not None
    return image.depth


def test_quick_pictures_take_half_the_samples() -> None:
    """Of a plain NeRF, whose samples are as many as somebody chose."""
    field, camera = plain_field(), view(24, 18)
    exact = picture(field, camera, skips_empty=False)
    quick = picture(field, camera, replace(ALL, transmittance_stop=2e-4), skips_empty=False)
    assert quick.stats.tile_pairs < 0.6 * exact.stats.tile_pairs
    assert 20 < psnr_db(color_of(quick), color_of(exact)) < 90


# --- Oracles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["contracted", "planes"])
def test_draws_the_definition_s_picture(name: str) -> None:
    field = replace(FIELDS[name](), background=ALL.background)
    camera = view(33, 27)
    rays = rays_of(camera, np.arange(33 * 27))
    length = 1.0 if field.rays is Rays.LENGTH else 1.0 / rays.axial
    expected = field_pictures.picture(field, rays.origins.T, (rays.directions * length).T)
    drawn = color_of(picture(field, camera)).reshape(-1, 3)
    assert psnr_db(np.clip(drawn, 0, 1), expected) >= 60
    assert np.ptp(expected, axis=0).max() > 0.2


@pytest.mark.parametrize("kind", ["flexible", "original"])
def test_draws_a_plain_nerf_as_torch_does(kind: str, tmp_path: Path) -> None:
    coarse, fine = nerf_torch.networks(kind)
    name = {"flexible": "checkpoint199.ckpt", "original": "000200.tar"}[kind]
    save = {"flexible": nerf_torch.save_flexible, "original": nerf_torch.save_original}[kind]
    save(tmp_path / name, coarse, fine)
    field = nerf.read_field(tmp_path / name)
    sampler = field.sampler
    assert isinstance(sampler, HierarchicalSampler)
    field = replace(field, sampler=replace(sampler, coarse_samples=24, fine_samples=16))
    sampling = nerf_torch.Sampling(field.near, field.far, 24, 16, background=ALL.background)
    camera = view(13, 11)
    expected = nerf_torch.render(coarse, fine, camera, sampling)[0].numpy()
    assert psnr_db(color_of(picture(field, camera)), expected) >= 60


@pytest.mark.parametrize("name", ["lego", "fern"])
def test_draws_real_checkpoints_as_torch_does(name: str, data_dir: Path) -> None:
    """Lego with empty space passed over, of which it has enough."""
    (checkpoint,) = (data_dir / "nerf" / f"{name}-lowres").glob("*.ckpt")
    field = nerf.read_field(checkpoint)
    assert has_empty_grid(field.network)
    assert isinstance(field.sampler, HierarchicalSampler)
    field = replace(field, sampler=replace(field.sampler, coarse_samples=24, fine_samples=24))
    camera = Camera.look_at(
        *(
            ((0, 0, 0), (0, 0, -1), (0, 1, 0))
            if name == "fern"
            else ((2, -3, 2), (0, 0, 0), (0, 0, 1))
        ),
        fov_y_rad=0.7,
        width=14,
        height=10,
    )
    coarse, fine = nerf_torch.load_real(checkpoint)
    sampling = nerf_torch.Sampling(
        field.near, field.far, 24, 24, field.ndc, background=ALL.background
    )
    expected = nerf_torch.render(coarse, fine, camera, sampling)[0].numpy()
    drawn = picture(field, camera, skips_empty=name == "lego")
    assert psnr_db(color_of(drawn), expected) >= 60
    assert (drawn.stats.tile_pairs < 0.5 * 48 * 14 * 10) == (name == "lego")


@pytest.mark.parametrize("name", ["balls", "plain", "contracted"])
def test_variants_of_components_draw_the_same_picture(name: str) -> None:
    """Not of planes: their first sample lies on a face of the box, in it or not by rounding."""
    camera = view(13, 11)
    truth = picture(FIELDS[name](), camera, variant=Variant.REFERENCE)
    for variant in (Variant.NATIVE, Variant.TORCH):
        image = picture(FIELDS[name](), camera, variant=variant)
        np.testing.assert_allclose(color_of(image), color_of(truth), atol=2e-4)


# --- The same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_bands_threads_and_waves_change_no_byte(name: str) -> None:
    block = block_of(FIELDS[name]())
    camera = view(41, 70)
    whole = picture(block, camera)
    assert bytes_of(picture(block, camera, replace(ALL, threads=3), wave_rays=129)) == bytes_of(
        whole
    )
    made, scene = prepared(block)
    bands = [
        made.render(scene, camera, replace(ALL, rows=rows, threads=2))
        for rows in ((0, 32), (32, 64), (64, 70))
    ]
    assert bytes_of(RasterImage.stack(bands, whole.stats)) == bytes_of(whole)
    assert whole.alpha.max() > 0.5


def test_occupied_cells_are_all_that_is_drawn() -> None:
    """Evaluated or passed over: what is outside them does not count."""
    skipped, all_of_it = (
        picture(ball_field(), view()),
        picture(ball_field(), view(), skips_empty=False),
    )
    assert bytes_of(skipped) == bytes_of(all_of_it)
    assert all_of_it.stats.tile_pairs > 4 * skipped.stats.tile_pairs


# --- The contract of rendering.base --------------------------------------------------------------


def wall(z: float = 0.25) -> Field:
    """Red and opaque from z on, white fog of density ¼ before it."""
    side = 33
    at = np.linspace(-1, 1, side)[:, None, None] * np.ones((side, side, side))
    density = np.where(at >= z, 400.0, 0.25)
    color = np.where((at >= z - 0.07)[..., None], (1.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    everywhere = OccupancySampler(np.ones((1, 4, 4, 4), np.bool_), 1 / 256, 1 / 256)
    return Field("Instant-NGP", voxels(density, color), space(), everywhere, near=0.0, far=1e6)


def ahead(model: CameraModel = CameraModel.PINHOLE, **more: object) -> Camera:
    camera = Camera.look_at((0, 0, -3), (0, 0, 0), (0, -1, 0), fov_y_rad=0.3, width=21, height=17)
    if model is CameraModel.ORTHO:
        K = np.array([[20.0, 0, 10.5], [0, 20.0, 8.5], [0, 0, 1]])
        camera = replace(camera, K=K)
    return replace(camera, model=model, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", list(CameraModel))
def test_depths_are_those_of_the_conventions(model: CameraModel) -> None:
    camera = ahead(model)
    image = picture(wall(), camera)
    rays = rays_of(camera, np.arange(21 * 17))
    distance = 3.2 / rays.directions[2]  # it begins between two vertices, 1/16 before 3.25
    expected = (distance * rays.axial).reshape(17, 21)
    assert image.median_depth is not None
    np.testing.assert_allclose(image.median_depth, expected, atol=0.03)
    if model is CameraModel.PINHOLE:
        assert np.ptp(image.median_depth) < 0.015  # z, not distance
    if model is CameraModel.FISHEYE:
        assert np.ptp(image.median_depth) > 0.03


def test_fog_is_as_thick_as_its_density_says() -> None:
    """exp(−σ d) over the units before the wall, but for the vertices at which colours change."""
    fog = replace(wall(), space=replace(space(), density_scale=2.0))
    color = color_of(picture(fog, ahead(CameraModel.ORTHO)))[8, 10]
    through = math.exp(-2.0 * 0.25 * 1.15)
    np.testing.assert_allclose(color, (1.0, 1 - through, 1 - through), atol=0.02)


def test_near_and_far_cut_what_is_seen() -> None:
    assert picture(wall(), ahead(far=1.9)).alpha.max() == 0  # the box begins at 2
    fog = picture(wall(), ahead(CameraModel.ORTHO, far=2.5)).alpha
    np.testing.assert_allclose(fog, 1 - math.exp(-0.25 * 0.5), atol=0.003)
    behind = picture(wall(), ahead(near=3.5))
    np.testing.assert_allclose(color_of(behind)[8, 10], (1, 0, 0), atol=1e-3)
    assert depth_of(behind).min() >= 3.5


def test_a_weight_multiplies_the_density() -> None:
    made, scene = prepared(block_of(ball_field()))
    page = ScenePart(scene.parts[0].scene, weight=0.25)
    thin = made.render(made.compose([page]), view(), ALL)
    whole = made.render(scene, view(), ALL)
    through = whole.alpha < 0.99  # what is opaque stopped before its end
    assert through.any()
    expected = (1 - whole.alpha[through]) ** 0.25
    np.testing.assert_allclose(1 - thin.alpha[through], expected, atol=1e-4)
    assert (thin.alpha <= whole.alpha + 1e-6).all()


def test_a_tint_takes_the_place_of_colours() -> None:
    made, scene = prepared(block_of(ball_field()))
    green = ScenePart(scene.parts[0].scene, 1.0, (0.0, 1.0, 0.0), 1.0)
    image = made.render(made.compose([green]), view(), replace(ALL, background=(0, 0, 0)))
    np.testing.assert_allclose(color_of(image)[..., 1], image.alpha, atol=1e-5)
    assert color_of(image)[..., 0].max() == 0


def test_pixels_that_stop_early_are_opaque_and_near() -> None:
    exact = picture(ball_field(), view())
    early = picture(ball_field(), view(), replace(ALL, transmittance_stop=0.1))
    assert np.abs(color_of(early) - color_of(exact)).max() <= 0.1 + 1e-5
    stopped = exact.alpha >= 0.9001
    assert stopped.any() and (early.alpha[stopped] == 1).all()
    assert early.stats.tile_pairs <= exact.stats.tile_pairs
    assert early.count is not None and exact.count is not None


def test_the_last_sample_is_the_background_where_the_field_says_so() -> None:
    image = picture(contracted_field(), view())
    assert (image.alpha == 1).all()
    open_field = replace(contracted_field(), last_sample_background=False)
    assert picture(open_field, view()).alpha.min() < 0.999


def test_nothing_shows_the_background() -> None:
    made = rasterizer()
    image = made.render(made.compose([]), view(), ALL)
    assert image.alpha.max() == 0 and image.stats.tile_pairs == 0
    np.testing.assert_allclose(color_of(image)[3, 4], ALL.background)
    assert image.count is not None and image.count.max() == 0


def test_only_what_is_asked_for_is_there() -> None:
    image = picture(ball_field(), view(), RasterSettings(outputs=Outputs.DEPTH, threads=1))
    assert image.color is None and image.count is None and image.median_depth is None
    assert image.depth is not None


def test_statistics_say_what_was_done() -> None:
    block = block_of(ball_field())
    image = picture(block, view())
    assert image.stats.gaussians == len(block_rows(block))
    assert 0 < image.stats.visible < 45 * 37 < image.stats.tile_pairs
    assert set(image.stats.stage_ms) == {"sample", "network", "composite"}


def test_a_cancelled_picture_is_none() -> None:
    made, scene = prepared(block_of(ball_field()))
    flag = made.new_cancel_flag()
    flag.set()
    with pytest.raises(RenderCancelled):
        made.render(scene, view(), ALL, flag)
    with pytest.raises(TypeError, match="watched"):
        made.render(scene, view(), ALL, object())  # type: ignore[arg-type]


def test_other_scenes_are_refused() -> None:
    made = rasterizer()
    with pytest.raises(TypeError, match="no scene of fields"):
        made.render("scene", view())
    with pytest.raises(TypeError, match="engine itself"):
        made.prepare(Gaussians.empty())


# --- Pages and blocks ----------------------------------------------------------------------------


def test_a_block_in_pages_is_drawn_once() -> None:
    rows = block_rows(block_of(ball_field()))
    made = rasterizer()
    pool = made.new_pool(64, 0)
    both = Rows.concatenate([rows, rows])
    firsts = [*range(0, len(rows), 64)]
    places = np.array(
        [[start + a, min(64, len(rows) - a)] for start in (0, len(rows)) for a in firsts], np.int64
    )
    pages = pool.pack_many(both, places)
    assert len(pages) == 2 * len(firsts)
    scene = made.compose([ScenePart(page) for page in pages[: len(firsts)]])
    assert bytes_of(made.render(scene, view(), ALL)) == bytes_of(picture(ball_field(), view()))
    for bad in (places[:-1], places[1:], places[::-1]):
        with pytest.raises(ValueError, match=r"in order|no block"):
            pool.pack_many(both, bad)
    with pytest.raises(ValueError, match="than fit"):
        pool.pack(rows)


@pytest.mark.parametrize("name", FIELDS)
def test_memory_beside_the_rows_is_within_what_is_reserved(name: str) -> None:
    field = FIELDS[name]()
    _, scene = prepared(block_of(field))
    assert scene.blocks[0].ready.nbytes <= 256 * reserved_rows(field)


def halves(border: float) -> list[FieldBlock]:
    """One field as two blocks that overlap by the border."""
    field, reach = ball_field(), border / 2
    left = FieldBlock(field, (-1, -1, -1), (reach, 1, 1), 0, border=border)
    return [left, FieldBlock(field, (-reach, -1, -1), (1, 1, 1), 1, border=border)]


@pytest.mark.parametrize("border", [0.0, 0.3])
def test_blocks_are_the_whole_that_they_are_of(border: float) -> None:
    made, scene = prepared(*halves(border))
    blocks, whole = made.render(scene, view(), ALL), picture(ball_field(), view())
    np.testing.assert_allclose(color_of(blocks), color_of(whole), atol=2e-5)
    np.testing.assert_allclose(blocks.alpha, whole.alpha, atol=1e-4)  # the stop
    np.testing.assert_allclose(depth_of(blocks), depth_of(whole), rtol=5e-4)


def test_weights_of_overlapping_blocks_add_up_to_one() -> None:
    three = [*halves(0.3), FieldBlock(ball_field(), (-0.2, -0.5, -1), (0.5, 1, 1), 2, border=0.3)]
    found = overlaps(three)
    points = np.random.default_rng(1).uniform(-1, 1, (3, 500))
    total = np.zeros(500)
    for block, overlap in zip(three, found, strict=True):
        assert overlap is not None
        low, high = np.array([block.lo]).T, np.array([block.hi]).T
        inside = ((points >= low) & (points < high)).all(axis=0)
        total[inside] += overlap.weights(points[:, inside])
    np.testing.assert_allclose(total, 1.0, atol=1e-5)


def test_levels_of_one_site_and_other_groups_are_not_blended() -> None:
    left, right = halves(0.3)
    assert overlaps([left, replace(left)]) == [None, None]
    assert overlaps([left, replace(right, group=1)]) == [None, None]
    assert overlaps([left, right]) != [None, None]


def test_a_placed_block_is_seen_from_where_the_camera_would_be() -> None:
    placement = Placement((0.5, -1.0, 2.0), quaternion_of_euler((10, 50, -30)), 2.5)
    camera = view()
    rotation = placement.points(np.eye(3)) - placement.points(np.zeros((1, 3)))
    moved = np.eye(4)
    moved[:3, :3] = camera.viewmat[:3, :3] @ (rotation / 2.5)
    moved[:3, 3] = 2.5 * camera.viewmat[:3, 3] - moved[:3, :3] @ np.array(placement.translation)
    placed = replace(block_of(ball_field()), placement=placement)
    there = picture(placed, replace(camera, viewmat=moved))
    here = picture(ball_field(), camera)
    np.testing.assert_allclose(color_of(there), color_of(here), atol=1e-3)
    np.testing.assert_allclose(depth_of(there), 2.5 * depth_of(here), rtol=1e-3, atol=1e-3)


def test_directions_turn_with_a_field_s_own_axes() -> None:
    field = plain_field(rays=Rays.LENGTH)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = replace(
        field.space, world_to_field=np.concatenate([2.0 * turn, np.zeros((3, 1))], axis=1)
    )
    rays = FieldRays.of(rays_of(view(), np.arange(50)), block_of(field))
    inside = rays.in_space(turned)
    np.testing.assert_allclose(inside.views, turn @ rays.views, atol=1e-6)
    np.testing.assert_allclose(inside.directions, 2 * turn @ rays.world_directions, atol=1e-6)


# --- Streaming -----------------------------------------------------------------------------------


def row_of_blocks(count: int = 4) -> FieldChunks:
    fields = [ball_field((i - count / 2, -0.5, -0.5), 1.05, i, side=25) for i in range(count)]
    reads = [lambda field=field: field for field in fields]
    return FieldChunks.of_fields("row.yaml", reads, border=0.05, make_stand_in=make_stand_in)


def beside(x: float) -> Camera:
    """Sees about two blocks of four."""
    return Camera.look_at(
        (x, -0.2, -2.2), (x, 0, 0), (0, -1, 0), fov_y_rad=0.6, width=45, height=37
    )


def test_the_model_s_renderer_is_this_one() -> None:
    source = row_of_blocks(1)
    assert isinstance(renderer_of(source.model, NativeRasterizer()), FieldRasterizer)


def test_streamed_in_less_memory_than_it_takes_it_is_the_resident_picture() -> None:
    source, made = row_of_blocks(), rasterizer()
    views = [beside(-1.0), beside(1.0), beside(-1.0)]
    with streaming(source, made) as (engine, scene):
        expected = [settled_frame(engine, scene, camera, ALL)[1] for camera in views]
        needed = scene.stats().device_bytes
    least = least_budgets(source, made)
    page = 256 * source.page_gaussians
    block = -(-int(source.tree.count[4:].max()) // source.page_gaussians) * page
    tight = Budgets(least.host_bytes, least.device_bytes + 2 * block)
    assert tight.device_bytes < needed
    with streaming(source, made, tight) as (engine, scene):
        for camera, whole in zip(views, expected, strict=True):
            frame, image = settled_frame(engine, scene, camera, ALL)
            assert frame.stats.stream is not None and frame.stats.stream.complete
            assert bytes_of(image) == bytes_of(whole)
            assert scene.stats().device_bytes <= tight.device_bytes


def test_a_stand_in_is_drawn_until_its_block_is_there() -> None:
    source, made = row_of_blocks(), rasterizer()
    least = least_budgets(source, made)
    with streaming(source, made, least) as (engine, scene):
        scene.wait_until_settled(20.0)
        coarse = draw(engine, beside(0.0), ALL)
        image = coarse.images[0]
        assert coarse.stats.stream is not None and coarse.stats.stream.error_px > 0
    with streaming(source, made) as (engine, scene):
        _, fine = settled_frame(engine, scene, beside(0.0), ALL)
    assert image.alpha.max() > 0.9
    assert psnr_db(color_of(image), color_of(fine)) > 20


def test_what_has_no_bounds_has_no_stand_in() -> None:
    with pytest.raises(SceneError, match="without bounds"):
        make_stand_in(block_of(plain_field()))
