"""Neural anchors as plain Gaussians: what is kept, and that the loss is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rendering.base import RasterSettings
from rendering.models.anchors import anchor_rasterizer
from rendering.models.anchors_reference import decode_anchors
from rendering.models.anchors_to_gaussians import to_gaussians
from rendering.native.cpu import NativeRasterizer
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.harmonics import sh_basis
from splat.rotations import quats_of, rotations_of
from splat.rows import Rows
from tests.models.anchor_scenes import random_anchors
from tests.models.gaussian_anchors import PLAIN, anchors_of
from tests.scenes import random_scene


def around(count: int, turn: float = 0.0, distance: float = 12.0) -> list[Camera]:
    return [
        Camera.look_at(
            (distance * np.sin(a), -2.0, distance * np.cos(a)),
            (0, 0, 0),
            (0, -1, 0),
            fov_y_rad=0.9,
            width=60,
            height=40,
        )
        for a in np.linspace(turn, turn + 2 * np.pi, count, endpoint=False)
    ]


@pytest.mark.parametrize("sh_degree", [0, 3])
def test_what_looks_alike_from_everywhere_stays_as_it_is(sh_degree: int) -> None:
    plain = random_scene(3, 200, sh_degree=0)
    plain = plain[plain.opacities > 0.01]
    found = to_gaussians(PLAIN, anchors_of(plain), around(8), sh_degree)
    assert found.sh_degree == sh_degree and len(found) == len(plain)
    np.testing.assert_allclose(found.means, plain.means, atol=1e-6)
    np.testing.assert_allclose(found.opacities, plain.opacities, atol=1e-5)
    np.testing.assert_allclose(found.sh[:, 0], plain.sh[:, 0], atol=2e-3)
    np.testing.assert_allclose(found.sh[:, 1:], 0.0, atol=2e-3)
    np.testing.assert_allclose(covariances(found), covariances(plain), rtol=2e-3, atol=1e-6)


def covariances(gaussians: Gaussians) -> np.ndarray:
    axes = rotations_of(gaussians.quats) * gaussians.scales[:, None, :].astype(np.float64)
    product: np.ndarray = axes @ axes.transpose(0, 2, 1)
    return product


def test_colours_are_fitted_to_the_directions() -> None:
    """Harmonics say more of the views that they were fitted to than a colour alone does."""
    model, rows = random_anchors("scaffold", 60)
    views = around(16)
    errors = []
    for degree in range(4):
        found = to_gaussians(model, rows, views, degree)
        error = weight = 0.0
        for view in views:
            truth = decode_anchors(model, rows, view.position)
            kept = kept_of(found, truth.means.reshape(-1, 3))
            ray = found.means - view.position
            basis = sh_basis(ray / np.linalg.norm(ray, axis=1, keepdims=True), degree)
            colors = 0.5 + (basis[:, :, None] * found.sh).sum(axis=1)
            weights = truth.opacities.reshape(-1)[kept].clip(0.0)
            off = np.square(colors - truth.colors.reshape(-1, 3)[kept]).sum(axis=1)
            error, weight = error + float((weights * off).sum()), weight + float(weights.sum())
        errors.append(error / weight)
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 0.6 * errors[0]


def kept_of(found: Gaussians, means: np.ndarray) -> np.ndarray:
    """Which Gaussians were kept, by their means."""
    places = {mean.tobytes(): i for i, mean in enumerate(means.astype(np.float32))}
    return np.array([places[mean.tobytes()] for mean in found.means])


def loss_db(
    model: AnchorModel, rows: Rows, gaussians: Gaussians, views: list[Camera]
) -> list[float]:
    """PSNR of Gaussians against the anchors that they were made of, over a grey sky."""
    engine, sky = NativeRasterizer(), RasterSettings(background=(0.5, 0.6, 0.7))
    neural = anchor_rasterizer(model, engine)
    anchors, plain = neural.prepare(rows), engine.prepare(gaussians)
    losses = []
    for view in views:
        truth = neural.render(anchors, view, sky).color
        drawn = engine.render(plain, view, sky).color
        assert truth is not None and drawn is not None
        error = np.square(truth.clip(0, 1) - drawn.clip(0, 1), dtype=np.float64).mean()
        losses.append(-10.0 * np.log10(max(float(error), 1e-12)))
    return losses


def test_pictures_from_between_the_views_are_alike() -> None:
    model, rows = random_anchors("scaffold", 150)
    between = around(4, turn=0.2)
    flat, full = (
        np.mean(loss_db(model, rows, to_gaussians(model, rows, around(16), degree), between))
        for degree in (0, 3)
    )
    assert full > flat > 15
    plain = random_scene(1, 50, 0)
    exact = to_gaussians(PLAIN, anchors_of(plain), around(16), 0)
    assert min(loss_db(PLAIN, anchors_of(plain), exact, between)) > 55


def test_without_views_it_is_looked_at_from_all_around() -> None:
    model, rows = random_anchors("scaffold-dist", 40)
    found = to_gaussians(model, rows)
    assert len(found) > 40
    assert all(np.isfinite(array).all() for array in found.arrays)


@pytest.mark.parametrize("rule", ["octree", "octree-progressive"])
def test_of_an_octree_what_its_rule_draws_from_the_views_is_there(rule: str) -> None:
    """From afar the coarsest level alone, from near by all; a near view counts for more."""
    model, rows = random_anchors(rule, 160)
    assert model.levels is not None
    # Each view's distance, at which one more level is due.
    far, near = 400.0 * model.levels.standard_dist, 0.01 * model.levels.standard_dist
    assert coarsest(model, rows, around(6, distance=far)) == {0.0}
    without = to_gaussians(replace(model, levels=None), rows, around(6, distance=far), 0)
    assert len(without) > 2 * len(to_gaussians(model, rows, around(6, distance=far), 0))
    close = [replace(view, far=1e6) for view in around(6, distance=near)]
    assert coarsest(model, rows, close) == {0.0, 1.0, 2.0, 3.0}


def coarsest(model: AnchorModel, rows: Rows, views: list[Camera]) -> set[float]:
    """The levels of the anchors that there are Gaussians of."""
    found = {mean.tobytes() for mean in to_gaussians(model, rows, views, 0).means}
    decoded = decode_anchors(replace(model, levels=None), rows, np.zeros(3))
    levels = rows.data[:, model.layout.level_values][:, 0]
    return {
        float(level)
        for level, means in zip(levels, decoded.means.astype(np.float32), strict=True)
        if any(mean.tobytes() in found for mean in means)
    }


def test_a_near_view_counts_for_more_than_a_far_one() -> None:
    """What is seen from the other side differs; from afar it weighs less."""
    model, rows = random_anchors("scaffold", 120)
    here = around(1)[0]
    beside, afar = (
        loss_db(model, rows, to_gaussians(model, rows, [here, other], 0), [here])[0]
        for other in (around(1, np.pi)[0], around(1, np.pi, distance=96.0)[0])
    )
    alone = loss_db(model, rows, to_gaussians(model, rows, [here], 0), [here])[0]
    assert alone > afar > beside + 6


def test_nothing_of_nothing() -> None:
    none = Rows(np.zeros((0, PLAIN.layout.width), np.float32))
    assert len(to_gaussians(PLAIN, none, around(2), 2)) == 0


def test_quaternions_and_matrices() -> None:
    random = np.random.default_rng(0)
    quats = random.normal(size=(500, 4))
    quats[:8] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1],
                 [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, -1]]  # fmt: skip
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    matrices = rotations_of(quats)
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, atol=1e-12)
    again = quats_of(matrices)
    again *= np.sign((again * quats).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(again, quats, atol=1e-12)
    np.testing.assert_allclose(matrices[1] @ [0, 1, 0], [0, -1, 0], atol=1e-15)
