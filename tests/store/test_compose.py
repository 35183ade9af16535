"""Compositions: what stands where, and that it looks the same from there."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from scene_store.compose import ComposedSource, read_composition
from scene_store.formats import open_scene, write_ply
from scene_store.loading import load_scene
from scene_store.placement import (
    IDENTITY,
    Placement,
    harmonics_rotation,
    quaternion_of_euler,
    rotation_matrix,
)
from splat.errors import SceneError, SceneFormatError, SceneNotFoundError
from splat.gaussians import Gaussians
from splat.harmonics import sh_basis
from tests.store import slow_merge
from tests.store.test_merge import random_gaussians

TURN = quaternion_of_euler((20.0, -50.0, 110.0))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_turned_gaussian_shows_its_colours_from_turned_directions(degree: int) -> None:
    gaussians = random_gaussians(20, sh_degree=degree, seed=degree)
    turned = Placement(rotation=TURN).of(gaussians)
    directions = np.random.default_rng(1).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = np.einsum("dk,nkc->dnc", sh_basis(directions, degree), gaussians.sh)
    around = directions @ rotation_matrix(TURN).T
    after = np.einsum("dk,nkc->dnc", sh_basis(around, degree), turned.sh)
    np.testing.assert_allclose(after, before, atol=2e-6)


def test_rotations_of_harmonics_are_orthogonal_and_follow_each_other() -> None:
    other = quaternion_of_euler((0.0, 70.0, 0.0))
    both = Placement(rotation=TURN).after(Placement(rotation=other)).rotation
    for first, second, total in zip(
        *(harmonics_rotation(q, 3) for q in (other, TURN, both)), strict=True
    ):
        np.testing.assert_allclose(second @ first, total, atol=1e-12)
        np.testing.assert_allclose(total @ total.T, np.eye(len(total)), atol=1e-12)


def test_means_and_covariances_are_placed() -> None:
    gaussians = random_gaussians(50, seed=4)
    placement = Placement((1.0, -2.0, 3.0), TURN, 2.5)
    placed = placement.of(gaussians)
    matrix = 2.5 * rotation_matrix(TURN)
    expected = gaussians.means @ matrix.T + np.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(placed.means, expected, atol=1e-5)
    sigma = matrix @ slow_merge.covariances(gaussians) @ matrix.T
    np.testing.assert_allclose(slow_merge.covariances(placed), sigma, atol=1e-6)


def test_euler_angles_turn_about_x_then_y_then_z() -> None:
    turned = rotation_matrix(quaternion_of_euler((90.0, 90.0, 0.0))) @ [0.0, 1.0, 0.0]
    np.testing.assert_allclose(turned, [1.0, 0.0, 0.0], atol=1e-12)  # y → z → x


def test_placements_are_applied_from_the_inside() -> None:
    outer = Placement((1.0, 2.0, 3.0), TURN, 2.0)
    inner = Placement((-4.0, 0.0, 1.0), quaternion_of_euler((0.0, 0.0, 30.0)), 0.5)
    points = np.random.default_rng(2).normal(size=(10, 3))
    both = outer.after(inner).points(points)
    np.testing.assert_allclose(both, outer.points(inner.points(points)), atol=1e-12)


@pytest.fixture
def ply(tmp_path: Path) -> Path:
    path = tmp_path / "part.ply"
    gaussians = random_gaussians(200, sh_degree=1, seed=5)
    write_ply(path, [gaussians], len(gaussians), 1)
    return path


def composed(folder: Path, text: str) -> Path:
    path = folder / "scene.yaml"
    path.write_text(text, "utf-8")
    return path


def all_of(path: Path, max_count: int = 64, **options: int) -> Gaussians:
    with ComposedSource(path, **options) as source:
        return Gaussians.concatenate(list(source.batches(max_count)))


def test_a_grid_of_instances(ply: Path) -> None:
    path = composed(
        ply.parent,
        """
        up: [0, -1, 0]
        scenes:
          - path: part.ply
            transform: {scale: 2}
            grid: {counts: [2, 1, 3], pitch: [10, 0, 100]}
            instances:
              - translation: [0, 5, 0]
              - {rotation: [0, 90, 0]}
          - path: part.ply
        """,
    )
    with open_scene(path) as source:
        assert source.meta.count == 13 * 200
        assert source.meta.up == (0.0, -1.0, 0.0)
        assert source.meta.sh_degree == 1
    part = load_part(ply)
    means = all_of(path).means.reshape(13, 200, 3)
    np.testing.assert_allclose(means[12], part.means)
    np.testing.assert_allclose(means[0], 2 * part.means + [0, 5, 0], atol=1e-5)
    np.testing.assert_allclose(means[5], 2 * part.means + [10, 5, 200], atol=1e-4)
    # The second instance turns the whole grid: z is where x was, and x is −z.
    x, y, z = (2 * part.means + [10, 0, 200]).T
    np.testing.assert_allclose(means[11], np.stack([z, y, -x], axis=1), atol=1e-4)


def load_part(ply: Path) -> Gaussians:
    with open_scene(ply) as source:
        return Gaussians.concatenate(list(source.batches(1000)))


def test_the_cache_changes_nothing(ply: Path) -> None:
    path = composed(
        ply.parent,
        "scenes: [{path: part.ply, grid: {counts: [3, 1, 1], pitch: [4, 0, 0]}}]",
    )
    for kept, streamed in zip(all_of(path).arrays, all_of(path, cache_bytes=0).arrays, strict=True):
        assert np.array_equal(kept, streamed)


def test_a_composition_loads_like_any_scene(ply: Path) -> None:
    scene = load_scene(composed(ply.parent, "scenes: [{path: part.ply}, {path: 'town:3000'}]"))
    assert len(scene.gaussians) == 3200


def test_the_sample_covers_all_instances(ply: Path) -> None:
    path = composed(
        ply.parent,
        "scenes: [{path: part.ply, grid: {counts: [5, 1, 1], pitch: [10, 0, 0]}}]",
    )
    sample = ComposedSource(path).sample_means()
    assert len(sample) == 1000
    assert sample[:, 0].max() > 38


def test_names_are_relative_to_the_file(ply: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = composed(ply.parent, "scenes: [{path: part.ply}]")
    monkeypatch.chdir(ply.parent.parent)
    assert read_composition(path).names == (str(ply),)


def test_names_are_told_without_detours(ply: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "all.yaml"
    path.write_text("scenes: [{path: ../gone.ply}, {path: ./a.ply}, {path: link/../b.ply}]")
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "b.ply").write_bytes(ply.read_bytes())
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "inner")
    # What is behind a link is not beside it: b.ply of the other folder is meant.
    assert read_composition(path).names == (
        str(tmp_path / "gone.ply"),
        str(tmp_path / "here" / "a.ply"),
        str(tmp_path / "here" / "link" / ".." / "b.ply"),
    )


def test_a_quaternion_need_not_be_of_unit_length(ply: Path) -> None:
    path = composed(ply.parent, "scenes: [{path: part.ply, transform: {rotation: [2, 0, 0, 0]}}]")
    assert read_composition(path).parts[0].placements[0].rotation == IDENTITY


BROKEN = {
    "nothing": ("# nothing", "needs keys"),
    "no scenes": ("scenes: []", "at least one scene"),
    "unknown key": ("scenes: [{path: part.ply, sclae: 2}]", "scenes[0].sclae"),
    "unknown key above": ("scene: []", "unknown key"),
    "no path": ("scenes: [{lod: 0}]", "needs a 'path'"),
    "not YAML": ("scenes: [", "not valid YAML"),
    "aliases": ("a: &a [1]\nscenes: [*a, *a]", "aliases"),
    "scale": ("scenes: [{path: part.ply, transform: {scale: 0}}]", "above 0"),
    "mirrored": ("scenes: [{path: part.ply, transform: {scale: -1}}]", "above 0"),
    "text": ("scenes: [{path: part.ply, transform: {scale: big}}]", "needs a number"),
    "not finite": ("scenes: [{path: part.ply, transform: {scale: .inf}}]", "at most"),
    "not a number": ("scenes: [{path: part.ply, transform: {scale: .nan}}]", "at most"),
    "truth": ("scenes: [{path: part.ply, transform: {scale: true}}]", "needs a number"),
    "rotation": ("scenes: [{path: part.ply, transform: {rotation: [1, 2]}}]", "wxyz"),
    "no rotation": ("scenes: [{path: part.ply, transform: {rotation: [0, 0, 0, 0]}}]", "wxyz"),
    "too many": (
        "scenes: [{path: part.ply, grid: {counts: [9999, 9999, 9999], pitch: [1, 1, 1]}}]",
        "product",
    ),
    "grid": ("scenes: [{path: part.ply, grid: {counts: [1, 1, 1]}}]", "'pitch'"),
    "no instance": ("scenes: [{path: part.ply, instances: []}]", "names no instance"),
    "remote": ("scenes: [{path: https://example.org/a.bvs}]", "address; download it first"),
    "twice": (
        "scenes:\n - path: part.ply\n   transform: {scale: 2}\n   transform: {scale: 3}",
        "(line 4): has the key 'transform' twice",
    ),
    "sexagesimal": ("scenes: [{path: part.ply, transform: {scale: 1:30}}]", "not '1:30'"),
    "too many together": (
        "scenes:" + 3 * "\n - {path: part.ply, grid: {counts: [700, 700, 1], pitch: [1, 1, 1]}}",
        "scenes[2]): brings the instances to more than 1,000,000",
    ),
    "itself": ("scenes: [{path: scene.yaml}]", "another composition"),
    "up": ("up: [0, 0, 0]\nscenes: [{path: part.ply}]", "no direction"),
    "level": ("scenes: [{path: part.ply, lod: -1}]", "scenes[0].lod"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_composition_is_explained(ply: Path, text: str, said: str) -> None:
    path = composed(ply.parent, text)
    with pytest.raises(SceneFormatError) as error:
        ComposedSource(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_scene_and_a_wrong_level_are_named(ply: Path) -> None:
    with pytest.raises(SceneNotFoundError, match=r"\.yaml: scenes\[1\]\.path: .*gone\.ply"):
        open_scene(composed(ply.parent, "scenes: [{path: part.ply}, {path: gone.ply}]"))
    with pytest.raises(SceneError, match="single level"):
        open_scene(composed(ply.parent, "scenes: [{path: part.ply, lod: 1}]"))
    with pytest.raises(SceneError, match="single level"):
        open_scene(composed(ply.parent, "scenes: [{path: part.ply}]"), lod=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1e3", 1e3), ("1.0e3", 1e3), (".5", 0.5), ("+2.", 2.0), ("010", 10.0)],
)
def test_numbers_may_be_written_as_people_do(ply: Path, text: str, value: float) -> None:
    path = composed(ply.parent, f"scenes: [{{path: part.ply, transform: {{scale: {text}}}}}]")
    assert read_composition(path).parts[0].placements[0].scale == value


def test_up_is_the_first_scenes_turned_with_it(ply: Path) -> None:
    with open_scene(ply) as source:
        up = source.meta.up
    assert up is not None
    text = "scenes: [{path: part.ply, transform: {rotation: [90, 0, 0]}}, {path: part.ply}]"
    with ComposedSource(composed(ply.parent, text)) as source:
        x, y, z = up
        assert source.meta.up == (x, -z + 0.0, y)
    assert "its scenes disagree about what is up" in source.meta.notes


def test_up_is_a_direction(ply: Path) -> None:
    path = composed(ply.parent, "up: [0, -5, 0]\nscenes: [{path: part.ply}]")
    assert read_composition(path).up == (0.0, -1.0, 0.0)


GRID = "{path: part.ply, grid: {counts: [1000, 1000, 1], pitch: [1, 1, 1]}}"


def test_instances_are_counted_before_any_is_made(
    ply: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    after = Placement.after

    def counting(self: Placement, inner: Placement) -> Placement:
        made.append(1)
        return after(self, inner)

    monkeypatch.setattr(Placement, "after", counting)
    with pytest.raises(SceneFormatError, match=r"\(scenes\[1\]\): brings the instances to more"):
        read_composition(composed(ply.parent, f"scenes: [{', '.join(400 * [GRID])}]"))
    assert not made
    with ComposedSource(composed(ply.parent, f"scenes: [{GRID}]")) as source:
        assert source.meta.count == 200 * 1_000_000
        assert len(made) < 5, "the first alone, which tells what is up"
        placements = source.composition.parts[0].placements
        assert placements[-1].translation == (999.0, 999.0, 0.0)
        assert [p.translation[:2] for p in placements[1000:1002]] == [(1.0, 0.0), (1.0, 1.0)]
        made.clear()
        sample = source.sample_means()
        assert len(made) < 200_000
        assert 50_000 < len(sample) < 100_000
        assert (sample.max(axis=0) - sample.min(axis=0))[:2].min() > 980


def test_the_cache_is_a_share_of_what_is_available(
    ply: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scene_store.compose.available_bytes", lambda: 4_000)
    path = composed(ply.parent, "scenes: [{path: part.ply}]")
    assert ComposedSource(path).cache_bytes == 1_000


def test_angles_are_degrees() -> None:
    w, x, y, z = quaternion_of_euler((0.0, 0.0, 60.0))
    assert (w, x, y) == pytest.approx((math.cos(math.radians(30)), 0, 0))
    assert z == pytest.approx(0.5)
