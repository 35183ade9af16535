"""The procedural town: exact, deterministic, bounded, and a place."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Generator
from typing import Any, cast

import numpy as np
import pytest

import scene_store.memory
from scene_store.town import (
    TOWN_START_VIEW,
    TOWN_VIEWS,
    generate,
    generate_town,
    plan_town,
    town_batches,
)
from scene_store.town import workers as town_workers
from scene_store.town.bridge import WATER_Y
from scene_store.town.generate import MAX_BATCH
from scene_store.town.light import mirror_table, sky_color
from scene_store.town.parts import Parts, Wall
from scene_store.town.plan import (
    BASE_COUNT,
    MAX_COUNT,
    MIN_COUNT,
    SKY_RADIUS,
    Kind,
    bend,
    bend_slopes,
    cell_at,
)
from scene_store.town.recipe import load_recipe
from scene_store.town.river import banks
from scene_store.town.surfels import Sizes, frame_quats, upright_quats
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from splat.harmonics import sh_basis

COUNT = 60_000


@pytest.fixture(scope="module")
def town() -> Gaussians:
    return generate_town(COUNT, workers=1)


@pytest.fixture(scope="module")
def fine_town() -> Gaussians:
    return generate_town(BASE_COUNT // 5)


def digest(gaussians: Gaussians) -> str:
    arrays = (
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh,
    )
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def rotate(quats: np.ndarray, vector: tuple[float, float, float]) -> np.ndarray:
    w, u = quats[:, :1].astype(np.float64), quats[:, 1:].astype(np.float64)
    v = np.broadcast_to(np.asarray(vector, np.float64), u.shape)
    t = 2.0 * np.cross(u, v)
    return v + w * t + np.cross(u, t)


@pytest.mark.parametrize("count", [MIN_COUNT, 9_999, 123_457])
def test_gives_exactly_the_asked_number(count: int) -> None:
    assert len(generate_town(count, sh_degree=0)) == count


@pytest.mark.parametrize("degree", [1, 3])
def test_gives_the_asked_harmonics(degree: int) -> None:
    assert generate_town(4_000, sh_degree=degree).sh_degree == degree


def test_refuses_what_it_cannot_make() -> None:
    for count in (MIN_COUNT - 1, MAX_COUNT + 1, 10**12):
        with pytest.raises(
            ValueError, match=f"at least 2,000 and at most 1,000,000,000.*{count:,}"
        ):
            generate_town(count)
    with pytest.raises(ValueError, match="degree"):
        town_batches(COUNT, sh_degree=4)


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_workers_or_the_run(
    town: Gaussians, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(generate, "_ALONE_COUNT", 0)
    assert digest(generate_town(COUNT, workers=workers)) == digest(town)


@pytest.mark.parametrize("loss", ["cannot start", "ends early"])
def test_a_lost_process_costs_time_only(
    town: Gaussians,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    loss: str,
) -> None:
    program = sys.executable if loss == "ends early" else "/no/such/python"
    monkeypatch.setattr(generate, "_ALONE_COUNT", 0)
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(town_workers, "__name__", "no.such.module")
    assert digest(generate_town(COUNT, workers=2)) == digest(town)
    assert "process" in caplog.text


def test_a_town_that_is_given_up_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_ALONE_COUNT", 0)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    batches = town_batches(COUNT, workers=2)
    next(batches)
    assert len(started) == 2 and all(process.poll() is None for process in started)
    cast("Generator[Gaussians]", batches).close()
    assert all(process.poll() is not None for process in started)


def test_progress_counts_up_to_the_whole() -> None:
    seen: list[tuple[int, int]] = []
    generate_town(COUNT, sh_degree=0, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert seen[-1] == (COUNT, COUNT)
    assert {total for _, total in seen} == {COUNT}


def test_a_town_larger_than_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_store.memory, "available_bytes", lambda: 10**9)
    with pytest.raises(BudgetError, match=r"the town: 10,000,000 .* 1\.0 GB .*; ask for fewer"):
        generate_town(10_000_000)


def test_another_seed_is_another_town(town: Gaussians) -> None:
    assert digest(generate_town(COUNT, seed=8)) != digest(town)


def test_batches_are_the_town_in_order(town: Gaussians) -> None:
    assert digest(Gaussians.concatenate(list(town_batches(COUNT)))) == digest(town)


def test_batches_are_bounded_at_any_count() -> None:
    # The counts alone decide; cells above the bound are handed out in parts.
    plan = plan_town(300_000_000)
    assert plan.backdrop + sum(q.count for q in plan.quotas) == 300_000_000
    assert max(q.count for q in plan.quotas) < 2 * MAX_BATCH
    sizes = [len(b) for b, _ in zip(town_batches(8_000_000, sh_degree=0), range(3), strict=False)]
    assert max(sizes) <= MAX_BATCH


def test_values_are_usable(town: Gaussians) -> None:
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert np.isfinite(getattr(town, name)).all(), name
    assert np.abs(np.linalg.norm(town.quats, axis=1) - 1.0).max() < 1e-4
    assert (town.scales > 0).all()
    assert (town.opacities > 0).all() and (town.opacities <= 1).all()
    base = town.sh[:, 0] * 0.28209479 + 0.5
    assert np.percentile(base, 0.5) > -0.05 and np.percentile(base, 99.5) < 1.3


def test_up_is_minus_y_and_the_ground_is_at_zero(town: Gaussians) -> None:
    near = np.hypot(town.means[:, 0], town.means[:, 2]) < 100.0
    facing_up = np.abs(rotate(town.quats, (0.0, 0.0, 1.0))[:, 1]) > 0.99
    ground = town.means[near & facing_up, 1]
    assert abs(np.median(ground)) < 0.3
    heights = -town.means[near, 1]
    assert 50.0 < heights.max() < 60.0  # the church's cross
    assert np.percentile(heights, 75) > 3.0


def test_detail_grows_first_and_the_extent_after() -> None:
    small, base, large, huge = (plan_town(n) for n in (200_000, BASE_COUNT, 10**7 * 2, 10**8 * 2))
    assert small.cells == base.cells
    assert small.detail == pytest.approx(math.sqrt(10.0))
    for less, more in ((base, large), (large, huge)):
        assert 5.0 < len(more.quotas) / len(less.quotas) < 12.0
        assert less.cells < more.cells
        assert 0.75 < more.detail / less.detail < 0.9


def test_the_centre_looks_alike_at_all_sizes() -> None:
    base, huge = plan_town(BASE_COUNT), plan_town(100 * BASE_COUNT)
    kinds = {(q.cell.i, q.cell.j): q.cell for q in huge.quotas}
    for quota in base.quotas:
        assert kinds[quota.cell.i, quota.cell.j] == quota.cell
    first, last = base.quotas[0], huge.quotas[0]
    assert first.cell == last.cell
    assert 1.5 < last.count / first.count < 3.0


def test_landmarks_are_where_they_are_for_every_seed() -> None:
    for seed in (1, 7, 123):
        assert cell_at(0, 0, seed).kind is Kind.SQUARE
        assert cell_at(0, 1, seed).kind is Kind.CHURCH
        assert all(cell_at(i, -1, seed).kind is Kind.RIVER for i in range(-9, 9))


def colors(gaussians: Gaussians, direction: tuple[float, float, float]) -> np.ndarray:
    d = np.asarray(direction) / np.linalg.norm(direction)
    basis = sh_basis(d, gaussians.sh_degree)
    return np.asarray(np.maximum(0.0, 0.5 + np.einsum("k,nkc->nc", basis, gaussians.sh)))


def test_water_mirrors_more_at_a_glance(fine_town: Gaussians) -> None:
    town = fine_town
    south, north = banks(cell_at(0, -1, 7))
    x, z = town.means[:, 0], town.means[:, 2]
    water = (np.abs(town.means[:, 1] - WATER_Y) < 1e-3) & (np.abs(x) < 25) & (town.opacities < 0.5)
    assert water.sum() > 100
    assert (z[water] > south - 15).all() and (z[water] < north + 15).all()
    steep = colors(town[water], (0.0, 1.0, 0.05)).mean(axis=0)
    shallow = colors(town[water], (0.0, 0.12, 1.0)).mean(axis=0)
    assert (shallow - steep > 0.05).all() and (shallow > 1.3 * steep).all()


def test_without_harmonics_nothing_depends_on_the_view() -> None:
    flat = generate_town(MIN_COUNT, sh_degree=0)
    assert np.array_equal(colors(flat, (0, 0, 1)), colors(flat, (1, 0, 0)))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_mirrors_reflect_the_sky_by_fresnel(degree: int) -> None:
    table = mirror_table(degree)
    level = table.sh[0, -1].astype(np.float64)
    steep = sh_basis(np.array([0.0, 1.0, 0.0]), degree) @ level
    flat = np.array([0.3, 0.2, 0.9]) / np.linalg.norm([0.3, 0.2, 0.9])
    assert (sh_basis(flat, degree) @ level).mean() > 2.0 * steep.mean() > 0.0


def test_the_sky_is_brightest_around_the_sun() -> None:
    sun = load_recipe().light.to_sun.astype(np.float64)
    away = sun * (-1, 1, -1)
    assert sky_color(sun).sum() > sky_color(away).sum() + 0.5
    np.testing.assert_allclose(sky_color(away), sky_color(away * (1, -1, 1)))


def test_the_sky_is_closed(fine_town: Gaussians) -> None:
    town = fine_town
    far = np.linalg.norm(town.means, axis=1) > 0.99 * SKY_RADIUS
    directions = town.means[far] / SKY_RADIUS
    probes = np.random.default_rng(0).standard_normal((500, 3))
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    gap = np.arccos(np.clip(probes @ directions.T, -1, 1)).min(axis=1) * SKY_RADIUS
    assert (gap < 1.2 * town.scales[far, 0].mean()).all()


def test_the_walk_is_free_of_obstacles(fine_town: Gaussians) -> None:
    town = fine_town
    start, end = (np.array(p) for p in (TOWN_VIEWS.walk.start, TOWN_VIEWS.walk.end))
    t = np.linspace(0.0, 1.0, 60)[:, None]
    path = start + t * (end - start)
    near = town.means[np.abs(town.means - start).max(axis=1) < 70.0]
    gap = min(float(np.linalg.norm(near - p, axis=1).min()) for p in path)
    assert gap > 0.9
    assert start[1] == pytest.approx(-1.7)


def test_views_look_at_the_town_upright() -> None:
    for view in (TOWN_START_VIEW, TOWN_VIEWS.picture, TOWN_VIEWS.overview, TOWN_VIEWS.river):
        assert view.up == (0.0, -1.0, 0.0)
        assert np.linalg.norm(np.subtract(view.target, view.position)) > 20.0
        assert view.position[1] < WATER_Y


def test_bend_slopes_are_its_derivatives() -> None:
    x, z = np.array([13.0, -70.0], np.float32), np.array([41.0, -9.0], np.float32)
    step = np.float32(0.5)
    east, forward = bend_slopes(x, z)
    measured_east = (bend(x, z + step)[0] - bend(x, z - step)[0]) / (2 * step)
    measured_forward = (bend(x + step, z)[1] - bend(x - step, z)[1]) / (2 * step)
    np.testing.assert_allclose(east, measured_east, atol=2e-3)
    np.testing.assert_allclose(forward, measured_forward, atol=2e-3)


def test_walls_of_a_box_face_outwards() -> None:
    for side in "wesn":
        wall = Wall.of_box(side, (2.0, 6.0, 10.0, 20.0), 3.0)
        middle = wall.at(wall.width / 2, 1.5)[0]
        assert np.dot(middle - (4.0, -1.5, 15.0), wall.out) > 0
        np.testing.assert_array_equal(np.cross(wall.right, (0.0, -1.0, 0.0)), wall.out)


def test_a_mirror_image_is_upside_down_and_faces_outwards() -> None:
    parts = Parts()
    wall = Wall.of_box("s", (0.0, 4.0, 0.0, 4.0), 3.0)
    wall.rect(parts, 0, 1.0, 3.0, 1.0, 2.0, (0.5, 0.5, 0.5))
    row = parts.table().mirrored(1.0, 0.5).panels[0]
    corner, along, across = row[0:3], row[3:6], row[6:9]
    np.testing.assert_allclose(corner, (3.0, 3.0, 0.0))
    np.testing.assert_allclose(corner + along + across, (1.0, 4.0, 0.0))
    assert np.cross(along, across)[2] < 0
    np.testing.assert_allclose(row[9:12], 0.25)


def test_counts_meet_any_quota_above_one_a_part() -> None:
    parts = Parts()
    parts.floor(0, [0.0, 5.0], [4.0, 9.0], 0.0, 3.0, (0.5, 0.5, 0.5))
    parts.blob((0.0, -3.0, 0.0), 1.0, (0.2, 0.4, 0.1))
    sizes = Sizes(parts.table(), load_recipe(), np.random.default_rng(1))
    for quota in (3, 10, 777, 54_321):
        assert sizes.counts_for(quota).total == quota


def test_quaternions_carry_axes_onto_frames() -> None:
    rng = np.random.default_rng(5)
    frames = np.linalg.qr(rng.standard_normal((200, 3, 3)))[0]
    frames *= np.sign(np.linalg.det(frames))[:, None, None]
    a, b, c = (np.ascontiguousarray(frames[:, :, k], np.float32) for k in range(3))
    quats = frame_quats(a, b, c)
    for axis, image in (((1, 0, 0), a), ((0, 1, 0), b), ((0, 0, 1), c)):
        np.testing.assert_allclose(rotate(quats, axis), image, atol=1e-5)
    normals = np.concatenate([c, [[0.0, 0.0, -1.0]]]).astype(np.float32)
    np.testing.assert_allclose(rotate(upright_quats(normals), (0, 0, 1)), normals, atol=1e-3)
