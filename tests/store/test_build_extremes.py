"""Scenes of unusual values: what cannot be drawn is left out, and all else comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_store.build import BuildOptions, build_store
from scene_store.build import builder as builder_module
from scene_store.build.rows import from_rows, usable_rows
from scene_store.formats import write_ply
from scene_store.loading import (
    LARGEST_COEFFICIENT,
    LARGEST_LENGTH,
    load_scene,
    usable_gaussians,
)
from scene_store.manifest import Profile
from scene_store.page_codec import MAX_COEFFICIENT, decode_chunk, encode_chunk
from scene_store.sampling import SampleCollector
from scene_store.store import open_store
from splat.gaussians import Gaussians
from tests.store.test_merge import random_gaussians

PAGE = 1024
COUNT = 6 * PAGE
VALUES = (0, 1e-38, 1e-20, 1e-3, 1, 1e3, 1e9, 9e14, 1e15, 2e15, 1e28, 1e33, 3e38, np.inf, np.nan)
BRIGHTEST = 1 << 14


def extreme_gaussians(count: int, seed: int) -> Gaussians:
    """Some of everything: one in four with a value from ``VALUES``, of either sign."""
    rng = np.random.default_rng(seed)
    gaussians = random_gaussians(count, sh_degree=1, seed=seed)
    for array in (gaussians.means, gaussians.scales, gaussians.sh):
        values = array.reshape(count, -1)
        odd = np.flatnonzero(rng.random(count) < 0.25)
        columns = rng.integers(0, values.shape[1], len(odd))
        signs = 1 if array is gaussians.scales else rng.choice((-1, 1), len(odd))
        values[odd, columns] = rng.choice(VALUES, len(odd)) * signs
    return gaussians


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_built_can_be_read(tmp_path: Path, profile: Profile, seed: int) -> None:
    scene = tmp_path / "scene.ply"
    write_ply(scene, [extreme_gaussians(COUNT, seed)], COUNT, 1)
    options = BuildOptions(profile=profile, page_gaussians=PAGE)
    report = build_store([scene], tmp_path / "s.bvs", options)
    assert 0.5 * COUNT < report.gaussians < COUNT
    with open_store(tmp_path / "s.bvs") as store:
        for node in range(len(store.tree)):
            encoded = store.read(node)
            assert encoded is not None
            gaussians = store.decode(node, encoded)
            assert all(np.isfinite(array).all() for array in gaussians.arrays)
            assert np.abs(gaussians.means).max() <= LARGEST_LENGTH
            assert np.abs(gaussians.sh).max() <= 1.001 * BRIGHTEST
        found = int(store.tree.count[store.tree.is_leaf].sum())
    assert found == report.gaussians == len(load_scene(scene).gaussians)


@pytest.mark.parametrize("profile", Profile)
def test_all_that_is_usable_can_be_encoded(profile: Profile) -> None:
    for seed in range(20):
        usable = from_rows(usable_rows(extreme_gaussians(200, 100 + seed), 1))
        decoded = decode_chunk(encode_chunk(usable, profile), len(usable), 1)
        # One that is far too bright takes nothing from the others.
        np.testing.assert_allclose(decoded.sh[:, 0], usable.sh[:, 0], rtol=1e-5, atol=0.51 / 64)


def test_the_codec_refuses_what_it_could_not_read() -> None:
    gaussians = random_gaussians(10, sh_degree=1, seed=1)
    for value in (MAX_COEFFICIENT, -MAX_COEFFICIENT):
        gaussians.sh[3, 2, 1] = gaussians.sh[4, 0, 1] = value
        decode_chunk(encode_chunk(gaussians, Profile.COMPACT), 10, 1)
        gaussians.sh[3, 2, 1] = 2 * value
        with pytest.raises(ValueError, match="harmonic"):
            encode_chunk(gaussians, Profile.COMPACT)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("broken", ["means", "scales"])
def test_unusable_gaussians_do_not_spoil_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool, broken: str
) -> None:
    monkeypatch.setattr(builder_module, "fits_in_memory", lambda *args: in_memory)
    clean = random_gaussians(COUNT, seed=7)
    dirty = replace(clean, means=clean.means.copy(), scales=clean.scales.copy())
    dirty.means[::50] = 1e30 if broken == "means" else 1e14
    if broken == "scales":
        dirty.scales[::50] = np.nan
    kept = np.arange(COUNT) % 50 != 0
    sizes = []
    for name, gaussians in (("clean", clean[kept]), ("dirty", dirty)):
        path = tmp_path / f"{name}.ply"
        write_ply(path, [gaussians], len(gaussians), 0)
        options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=PAGE)
        build_store([path], tmp_path / f"{name}.bvs", options)
        with open_store(tmp_path / f"{name}.bvs") as store:
            sizes.append(store.tree.hi - store.tree.lo)
    assert sizes[0].shape == sizes[1].shape
    np.testing.assert_allclose(np.sort(sizes[1], axis=0), np.sort(sizes[0], axis=0), rtol=0.2)


def test_a_sample_is_of_what_can_be_drawn() -> None:
    gaussians = random_gaussians(100, seed=8)
    gaussians.means[::10] = 1e30
    gaussians.scales[5] = np.nan
    collector = SampleCollector(100)
    collector.add(gaussians[:50])
    collector.add(gaussians[50:])
    kept = (np.arange(100) % 10 != 0) & (np.arange(100) != 5)
    assert np.array_equal(collector.means(), gaussians.means[kept])


@pytest.mark.parametrize("value", [2e15, -2e15, np.inf, np.nan])
def test_harmonics_of_no_use_are_left_out(value: float) -> None:
    gaussians = random_gaussians(10, sh_degree=1, seed=9)
    gaussians.sh[3, 0, 0], gaussians.sh[4, 3, 2] = LARGEST_COEFFICIENT, -LARGEST_COEFFICIENT
    assert usable_gaussians(gaussians) is None
    gaussians.sh[7, 2, 1] = value
    usable = usable_gaussians(gaussians)
    assert usable is not None
    assert np.flatnonzero(~usable).tolist() == [7]
