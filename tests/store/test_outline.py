"""The outline of a scene: by whom it is sampled, what it says, how it is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scene_store import outline
from scene_store.build.feed import Feed, Run
from scene_store.build.grid import MortonGrid
from scene_store.build.rows import to_rows
from scene_store.formats.json_fields import JsonObject
from scene_store.outline import (
    Outline,
    OutlineSampler,
    Shape,
    is_flat,
    is_unbounded,
    outline_of,
    scene_axes,
    weighted_percentiles,
)
from splat.camera import Camera
from splat.errors import SceneFormatError
from splat.gaussians import Gaussians
from tests import scenes

UP = (0.0, -1.0, 0.0)
UPS = [(0, -1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (0.2, -0.9, 0.1)]
BOUNDS = (-9.0, -9.0, -9.0), (9.0, 9.0, 9.0)
CAMERA = Camera.look_at((3, 1, 0), (0, 0, 0), UP, fov_y_rad=1.0, width=64, height=48)


def remembered(one: Outline, **changes: Any) -> Outline:
    """Written and read, with fields changed in between."""
    fields = json.loads(json.dumps({**one.to_json(), **changes}))
    return Outline.from_json(JsonObject.of("manifest.json", fields, "outline"), BOUNDS)


def add(sampler: OutlineSampler, scene: Gaussians) -> None:
    sampler.add(len(scene), lambda s: np.column_stack((scene.means[s], scene.opacities[s, None])))


@pytest.mark.parametrize("cameras", [(), (CAMERA,)])
def test_what_is_remembered_is_the_same_to_the_last_bit(cameras: tuple[Camera, ...]) -> None:
    one = outline_of(scenes.random_scene(5, 3000, 0), up=(0.3, -0.9, 0.1), cameras=cameras)
    assert remembered(one) == one
    assert one.stands_up((0.6, -1.8, 0.2)) and not one.stands_up(UP)
    assert (one.camera is not None) == bool(cameras)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"shape": "cube"}, "outline.shape"),
        ({"shape": ["object"]}, "outline.shape"),
        ({"lo": [0, 0]}, "outline.lo"),
        ({"lo": [-1e308] * 3, "hi": [1e308] * 3}, r"outline.hi\): reaches beyond"),
        ({"lo": [-1e30] * 3}, r"outline.hi\): reaches beyond"),
        ({"lo": [0] * 3, "hi": [5e-324] * 3}, r"outline.hi\): needs to be above lo"),
        ({"axes": {"right": [1, 0, 0], "front": [0, 1, 0], "up": [0, 0, 1]}}, "mirrored"),
        (
            {"camera": {"position": [1e300, 0, 0], "direction": [0, 0, 1]}},
            r"position\): is too far",
        ),
        ({"camera": {"position": [-1e308] * 3, "direction": [0, 0, 1]}}, r"position\): is too far"),
        ({"hi": [-1e9, 0, 0]}, "outline.hi"),
        ({"axes": {"right": [1, 0, 0], "front": [1, 0, 0], "up": [0, 0, 1]}}, "outline.axes"),
        ({"camera": {"position": [0, 0, 0], "direction": [0, 0, 2]}}, "outline.camera.direction"),
    ],
)
def test_nonsense_is_refused_with_its_place(changes: dict[str, Any], place: str) -> None:
    one = outline_of(scenes.random_scene(5, 100, 0), up=UP)
    with pytest.raises(SceneFormatError, match=place):
        remembered(one, **changes)


@pytest.mark.parametrize("batch", [1, 7, 64, 5000])
def test_a_sample_of_batches_is_that_of_the_whole(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outline, "SAMPLES", 500)
    scene = scenes.random_scene(6, 2003, 2)
    sampler = OutlineSampler(len(scene))
    for start in range(0, len(scene), batch):
        add(sampler, scene[start : start + batch])
    sample = sampler.gaussians()
    assert np.array_equal(sample.means, scene.means[::4])
    assert outline_of(sample, up=UP) == outline_of(scene, up=UP)


def test_of_a_sorted_portion_the_sample_is_that_of_its_gaussians() -> None:
    rows = to_rows(scenes.random_scene(9, 600, 1), 1)
    grid = MortonGrid.around(rows[:, :3])
    feed = Feed(iter([Run.of(rows[:250], grid), Run.of(rows[250:], grid)]))
    feed.require(600)
    feed.take(30)
    portion = feed.take(500)
    whole = portion.gaussians()
    for places in (slice(0, None, 1), slice(7, None, 13), slice(400, None, 1), slice(600, None, 3)):
        expected = np.column_stack((whole.means, whole.opacities))[places]
        assert np.array_equal(portion.means_and_opacities(places), expected)


def test_a_sample_goes_on_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline, "SAMPLES", 500)
    scene = scenes.random_scene(6, 2003, 2)
    whole, first = OutlineSampler(len(scene)), OutlineSampler(len(scene))
    add(whole, scene)
    add(first, scene[:777])
    second = OutlineSampler(len(scene), 777, first.rows)
    add(second, scene[777:])
    assert np.array_equal(whole.rows, second.rows)
    assert len(OutlineSampler(3).gaussians()) == 0


@pytest.mark.parametrize(
    ("points", "shape"),
    [
        (lambda rng: rng.uniform(-1, 1, (4000, 3)), Shape.OBJECT),
        (lambda rng: rng.uniform(-1, 1, (4000, 3)) * (9, 0.5, 5), Shape.LANDSCAPE),
        (lambda rng: rng.normal(size=(4000, 3)) * rng.pareto(0.7, (4000, 1)), Shape.SURROUNDINGS),
    ],
)
def test_the_extent_tells_what_a_scene_is(
    points: Callable[[np.random.Generator], np.ndarray], shape: Shape
) -> None:
    means = points(np.random.default_rng(1)).astype(np.float32)
    scene = replace(scenes.random_scene(8, len(means), 0), means=means)
    assert outline_of(scene, up=UP).shape is shape


def test_nothing_has_an_outline_too() -> None:
    assert outline_of(Gaussians.empty(), up=UP).radius > 0


@pytest.mark.parametrize("up", UPS)
def test_right_is_to_the_right_of_who_stands_in_front(up: tuple[float, float, float]) -> None:
    axes = scene_axes(np.array(up) / np.linalg.norm(up))
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
    right, front, upward = axes
    assert np.cross(right, upward) == pytest.approx(front), "the viewer looks along -front"


def test_shapes() -> None:
    assert is_flat((100, 60, 5))
    assert not is_flat((1, 1, 1))
    assert is_unbounded((10, 10, 1), (1, 1, 1))
    assert not is_unbounded((1.5, 1.5, 1), (1, 1, 1))


def test_weighted_percentiles_count_weights() -> None:
    values = np.array([[1.0], [2.0], [3.0], [4.0]])
    weights = np.array([1.0, 1.0, 1.0, 97.0])
    assert weighted_percentiles(values, weights, (1, 50, 100))[:, 0] == pytest.approx((1, 4, 4))
