"""Baking: from pictures of a scene, whatever draws it, to Gaussians that look like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.models import bake as baking
from rendering.models.bake import PROBES, BakeOptions, bake, picture_of, seen_outline
from rendering.models.bake_fit import LEAST_LOGIT, PLAIN, RATES, redistribute, split
from rendering.models.bake_progress import Progress
from rendering.models.bake_surfels import Picture, surfels
from rendering.models.bake_views import FOV_RAD, LEAST_KNOWN, LEAST_TRAINING, choose_views
from rendering.models.fields import FieldRasterizer
from rendering.native.cpu import NativeRasterizer
from rendering.native.fitting import LOGIT, FittedGaussians
from scene_store.models.field_bytes import block_rows
from scene_store.models.field_chunks import block_of
from scene_store.outline import Outline, Shape, outline_of
from splat.camera import Camera
from splat.errors import BudgetError, SceneError
from splat.fields import FieldModel
from splat.gaussians import Gaussians
from tests.models.small_fields import ball_field
from tests.models.town_views import block_cameras, town_block

OUTPUTS = Outputs.COLOR | Outputs.DEPTH | Outputs.MEDIAN_DEPTH
SMALL_START = BakeOptions(views=12, size=96, sh_degree=3, rounds=1, threads=1)
SMALL = BakeOptions(views=12, size=96, gaussians=4000, sh_degree=1, rounds=4, threads=1)


def silent(share: float, what: str) -> None:
    assert 0 <= share <= 1 and what


class Town:
    """Draws a block of the town; counts what was asked for."""

    def __init__(self) -> None:
        self.block = town_block()
        self.drawn: list[Camera] = []
        self._native = NativeRasterizer()
        self._scene = self._native.prepare(self.block.gaussians)

    def __call__(self, cameras: Sequence[Camera]) -> Iterator[RasterImage]:
        for camera in cameras:
            self.drawn.append(camera)
            yield self._native.render(self._scene, camera, RasterSettings(outputs=OUTPUTS))

    @property
    def outline(self) -> Outline:
        return outline_of(self.block.gaussians, up=self.block.up)


@cache
def town_pictures() -> tuple[Picture, ...]:
    town = Town()
    cameras = block_cameras(town.block, 6, 96, 72)
    return tuple(picture_of(i, c) for i, c in zip(town(cameras), cameras, strict=True))


def box(shape: Shape) -> Outline:
    axes = (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)
    return Outline(shape, axes, (-2.0, -1.0, 0.0), (2.0, 3.0, 1.0))


# --- Views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", Shape)
def test_views_look_at_a_scene_from_all_sides(shape: Shape) -> None:
    outline = box(shape)
    views = choose_views(outline, (), 40, 200, seed=3)
    assert (len(views.fitted), len(views.checked), len(views.held)) == (40, 5, 5)
    assert not views.trained
    assert {(camera.width, camera.height) for camera in views.all} == {(200, 150)}
    places = np.array([camera.position for camera in views.all])
    assert len(np.unique(places.round(6), axis=0)) == 50, "no place twice"
    away = (places - outline.center) / outline.radius
    inside = (np.abs((places - outline.center) @ np.array(outline.axes).T) < outline.size / 2).all(
        1
    )
    assert inside.sum() == (38 if shape is Shape.SURROUNDINGS else 0)
    sides = np.sign(away[:, :2][~inside])
    assert len(np.unique(sides, axis=0)) == 4
    up = np.array([camera.viewmat[1, :3] for camera in views.all]) @ outline.up
    assert (up < 0).all(), "the right way up"


def test_training_cameras_are_taken_where_there_are_enough() -> None:
    cameras = block_cameras(town_block(), 30, 320, 240)
    views = choose_views(box(Shape.OBJECT), cameras, 1000, 160, seed=0)
    assert views.trained and len(views.all) == 30
    assert len(views.held) == len(views.checked) == 3
    assert {(camera.width, camera.height) for camera in views.all} == {(160, 120)}
    assert views.known == views.fitted
    assert len({tuple(camera.position) for camera in views.all}) == 30, "none twice"
    again, other = (choose_views(box(Shape.OBJECT), cameras, 1000, 160, seed) for seed in (0, 1))
    held = [[tuple(c.position) for c in each.held] for each in (views, again, other)]
    assert held[0] == held[1] != held[2], "by the seed"
    few = choose_views(box(Shape.OBJECT), cameras, 8, 160, seed=0)
    places = [{tuple(c.position) for c in part} for part in (few.known, few.checked + few.held)]
    assert len(few.fitted) == 12 and few.known[:12] == few.fitted and len(few.known) == 26
    assert not places[0] & places[1], "what measures is not known"
    few = choose_views(box(Shape.OBJECT), cameras[: LEAST_TRAINING - 1], 8, 160, seed=0)
    assert not few.trained and len(few.fitted) == 8
    assert len(few.known) == LEAST_KNOWN and few.known[:8] == few.fitted
    assert not {tuple(c.position) for c in few.known} & {tuple(c.position) for c in few.held}


def test_a_camera_that_a_scene_names_is_what_others_are_like() -> None:
    outline = box(Shape.OBJECT)
    named = Camera.look_at(
        outline.center + np.array([0, 9, 3]),
        outline.center,
        outline.up,
        fov_y_rad=0.4,
        width=60,
        height=80,
    )
    views = choose_views(outline, [named], 12, 40, seed=0)
    assert {(camera.width, camera.height) for camera in views.all} == {(30, 40)}
    assert {round(camera.fov_y_rad, 6) for camera in views.all} == {0.4}
    apart = [np.linalg.norm(camera.position - outline.center) for camera in views.all]
    assert 0.9 < min(apart) / np.hypot(9, 3) < 1 < max(apart) / np.hypot(9, 3) < 1.1
    within = replace(named, viewmat=np.eye(4))  # not outside of the box
    assert choose_views(outline, [within], 12, 40, seed=0).fitted[0].fov_y_rad == FOV_RAD


def test_a_few_pictures_tell_where_a_scene_is() -> None:
    town = Town()
    known = town.outline
    (x, y, z), (u, v, w) = known.lo, known.hi
    vague = replace(known, lo=(x - 60, y - 60, z - 60), hi=(u + 60, v + 60, w + 60))
    seen = seen_outline(town, vague, (), 0, silent)
    assert np.linalg.norm(seen.center - known.center) < 0.2 * known.radius
    assert 0.8 < seen.radius / known.radius < 1.4 < vague.radius / known.radius
    assert {(camera.width, camera.height) for camera in town.drawn} == {(48, 36)}


def test_another_seed_is_another_spiral() -> None:
    first, same, other = (
        choose_views(box(Shape.OBJECT), (), 8, 64, seed).fitted[0].position for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same) and not np.allclose(first, other)


# --- Surfels -------------------------------------------------------------------------------------


def plane_picture(distance: float, count: int = 64) -> Picture:
    """A checkered wall across z = 0, half transparent, seen from a distance along −z."""
    camera = Camera.look_at(
        (0, 0, -distance), (0, 0, 0), (0, -1, 0), fov_y_rad=0.6, width=count, height=count
    )
    pixels = np.zeros((count, count, 4), np.uint8)
    pixels[..., 3] = 128
    pixels[: count // 2, :, 0] = 128  # the upper half red, as seen over black
    return Picture(camera, pixels, np.full((count, count), distance, np.float32))


def test_surfels_lie_flat_on_what_is_seen() -> None:
    found = surfels([plane_picture(2.0)], 500)
    assert 400 < len(found) <= 500
    assert np.abs(found.means[:, 2]).max() < 1e-5
    assert np.allclose(found.opacities, 128 / 255, atol=1e-5)
    thin = np.argmin(found.scales, axis=1)
    assert (thin == 2).all(), "their third axis is the normal"
    assert (found.quats[:, 0] ** 2 + found.quats[:, 3] ** 2 < 1e-6).all() or np.allclose(
        np.abs(found.quats[:, 0]), 1, atol=1e-3
    ), "which is along z"
    red = found.sh[:, 0, 0] > found.sh[:, 0, 1]
    assert (found.means[red][:, 1] < 0.02).all() and red.any() and not red.all()


def test_what_is_seen_from_near_by_is_not_taken_from_afar() -> None:
    near, far = plane_picture(1.0), plane_picture(8.0)
    near_alone = surfels([near], 10_000)
    both = surfels([near, far], 10_000)
    inside = (np.abs(both.means[:, :2]) < 0.25).all(axis=1)
    assert inside.sum() == pytest.approx((np.abs(near_alone.means[:, :2]) < 0.25).all(1).sum(), 1)
    assert np.median(both.scales[inside].max(1)) < 0.3 * np.median(both.scales[~inside].max(1))


@pytest.mark.parametrize("count", [50, 700, 3000])
def test_surfels_are_as_many_as_asked_for(count: int) -> None:
    found = surfels(town_pictures(), count)
    assert 0.75 * count < len(found) <= count


def test_nothing_seen_gives_nothing() -> None:
    empty = plane_picture(1.0)
    nothing = Picture(empty.camera, np.zeros_like(empty.pixels), np.zeros_like(empty.depth))
    assert len(surfels([nothing], 100)) == 0


# --- Rounds --------------------------------------------------------------------------------------


def test_a_split_leaves_the_picture_nearly_as_it_was() -> None:
    axis = np.array([[np.cos(0.3), 0, np.sin(0.3), 0]], np.float32)
    one = Gaussians(
        np.zeros((1, 3), np.float32),
        axis,
        np.array([[0.05, 0.1, 0.4]], np.float32),
        np.array([0.4], np.float32),
        np.full((1, 1, 3), 1.0, np.float32),
    )
    fitted = FittedGaussians(one, 0)
    camera = Camera.look_at((0, 0.3, -4), (0, 0, 0), (0, -1, 0), fov_y_rad=0.5, width=64, height=48)
    before = fitted.draw(camera, PLAIN)[..., 3]
    fitted.replace(np.zeros(1, np.bool_), split(fitted.rows))
    after = fitted.draw(camera, PLAIN)[..., 3]
    assert len(fitted) == 2
    assert after.sum() == pytest.approx(before.sum(), rel=0.1)
    assert np.abs(after - before).max() < 0.25 * before.max()
    rows = np.arange(64 * 48).reshape(48, 64)
    assert (rows * after).sum() / after.sum() == pytest.approx(
        (rows * before).sum() / before.sum(), rel=0.01
    )


def test_what_shows_nothing_goes_and_what_errs_most_is_split() -> None:
    pictures = town_pictures()
    fitted = FittedGaussians(surfels(pictures, 1000), 0)
    fitted.rows[0, LOGIT] = -9.0  # all but transparent
    fitted.rows[1, :3] = (0, -1e6, 0)  # in the sky, above all cameras
    for picture in pictures:
        fitted.step(picture.camera, picture.pixels, PLAIN, RATES)
    shows = (fitted.weight > 0) & (fitted.rows[:, LOGIT] > LEAST_LOGIT)
    assert not shows[:2].any()
    worst = int(np.argmax(np.where(shows, fitted.error, 0)))
    mean, count = fitted.rows[worst, :3].copy(), int(shows.sum())
    redistribute(fitted, 100, 1)
    assert count < len(fitted) <= 1100 and len(fitted) > 1050
    added = len(fitted) - count
    halves = fitted.rows[-2 * added :, :3].reshape(2, added, 3)
    assert np.linalg.norm(halves.mean(axis=0) - mean, axis=1).min() < 1e-4


# --- All of it -----------------------------------------------------------------------------------


def test_the_town_is_baked() -> None:
    town = Town()
    heard: list[tuple[float, str]] = []
    gaussians, report = bake(
        town, town.outline, (), SMALL, lambda share, what: heard.append((share, what))
    )
    assert len(gaussians) == report.gaussians <= 4000 and gaussians.sh_degree == 1
    assert len(town.drawn) == PROBES + 12 + 4 + 4, "each view is drawn once"
    assert report.held == 4 and report.rounds == 4 and not report.trained
    assert 17 < report.worst_db <= report.psnr_db
    shares = [share for share, _ in heard]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    assert any("left" in what for _, what in heard) and any(" dB" in what for _, what in heard)

    # What is reported is what anybody would measure.
    native = NativeRasterizer()
    scene, held = native.prepare(gaussians), town.drawn[-4:]
    errors = []
    for camera, truth in zip(held, list(town(held)), strict=True):
        drawn = native.render(scene, camera).color
        assert drawn is not None and truth.color is not None
        errors.append(np.square(drawn.clip(0, 1) - truth.color.clip(0, 1)).mean())
    assert -10 * np.log10(errors).mean() == pytest.approx(report.psnr_db, abs=0.05)


def test_the_same_seed_gives_the_same_gaussians() -> None:
    town = Town()
    options = BakeOptions(views=6, size=64, gaussians=600, sh_degree=0, rounds=2)
    first, again = (bake(town, town.outline, (), options, silent)[0] for _ in range(2))
    for mine, others in zip(first.arrays, again.arrays, strict=True):
        assert np.array_equal(mine, others)


def test_a_field_is_baked() -> None:
    field = ball_field()
    engine = FieldRasterizer(FieldModel(("Instant-NGP",)), NativeRasterizer())
    scene = engine.prepare(block_rows(block_of(field)))

    def draw(cameras: Sequence[Camera]) -> Iterator[RasterImage]:
        for camera in cameras:
            yield engine.render(scene, camera, RasterSettings(outputs=OUTPUTS))

    options = BakeOptions(views=12, size=64, gaussians=1500, sh_degree=0, rounds=8)
    gaussians, report = bake(draw, box(Shape.OBJECT), (), options, silent)
    assert report.psnr_db > 26
    assert np.abs(np.median(gaussians.means, axis=0)).max() < 1


def test_a_good_start_is_kept() -> None:
    town = Town()
    options = BakeOptions(views=6, size=64, rounds=1, sh_degree=1)
    asked: list[Sequence[Camera]] = []

    def start(views: Sequence[Camera], progress: Progress) -> Gaussians:
        asked.append(views)
        progress(1.0, "Converting")
        return town.block.gaussians

    kept, report = bake(town, town.outline, (), options, silent, start)
    assert report.psnr_db > 45, "but for what 8 bits tell apart"
    assert report.start_db == report.psnr_db
    (views,) = asked
    assert views[0] in town.drawn and len(views) == LEAST_KNOWN
    assert np.array_equal(kept.means, town.block.gaussians.means), "no round was better"


def test_the_share_that_is_done_never_falls() -> None:
    town, heard = Town(), [0.0]

    def progress(share: float, what: str) -> None:
        assert heard[-1] <= share <= 1, what
        heard.append(share)

    def start(views: Sequence[Camera], progress: Progress) -> Gaussians:
        for done in (0.0, 0.5, 1.0):
            progress(done, "Converting")
        return town.block.gaussians

    options = BakeOptions(views=6, size=64, rounds=1, sh_degree=0)
    bake(town, town.outline, (), options, progress, start)
    assert heard[-1] == 1 and len(heard) > 20


def test_a_start_that_does_not_fit_is_refused_before_pictures_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    town = Town()

    def start(views: Sequence[Camera], progress: Progress) -> Gaussians:
        monkeypatch.setattr(baking, "available_bytes", lambda: 165 << 20)
        return town.block.gaussians

    with pytest.raises(BudgetError, match="use fewer --views"):
        bake(town, town.outline, (), SMALL_START, silent, start)
    assert len(town.drawn) <= PROBES


def test_an_end_is_an_end() -> None:
    class Stop(Exception):
        pass

    def stop(share: float, what: str) -> None:
        if share > 0.2:
            raise Stop

    town = Town()
    with pytest.raises(Stop):
        bake(town, town.outline, (), SMALL, stop)
    assert len(town.drawn) < PROBES + 20


def test_what_does_not_fit_is_refused_before_anything_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baking, "available_bytes", lambda: 100 << 20)
    town = Town()
    with pytest.raises(BudgetError, match=r"need 0\.\d GB of memory, and 0\.1 GB"):
        bake(town, town.outline, (), SMALL, silent)
    assert town.drawn == []


def test_a_scene_that_shows_nothing_is_said_to() -> None:
    native = NativeRasterizer()
    empty = native.prepare(Gaussians.empty())

    def draw(cameras: Sequence[Camera]) -> Iterator[RasterImage]:
        for camera in cameras:
            yield native.render(empty, camera, RasterSettings(outputs=OUTPUTS))

    with pytest.raises(SceneError, match="nothing of the scene is seen"):
        bake(draw, box(Shape.OBJECT), (), SMALL, silent)
