"""From a path to a scene in memory: what is dropped, the order, the progress."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from scene_store import loading, memory
from scene_store.loading import in_morton_order, load_scene, usable_gaussians
from scene_store.morton import morton_order
from scene_store.statistics import scene_statistics
from splat.errors import BudgetError, SceneFormatError
from splat.gaussians import Gaussians
from tests.formats import encoders
from tests.formats.samples import (
    Tolerance,
    assert_close,
    assert_identical,
    copy_of,
    random_gaussians,
)


def write_ply(folder: Path, gaussians: Gaussians) -> Path:
    path = folder / "scene.ply"
    with np.errstate(divide="ignore", invalid="ignore"):
        path.write_bytes(encoders.ply(gaussians))
    return path


def sorted_by_x(g: Gaussians) -> Gaussians:
    return g[np.argsort(g.means[:, 0])]


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_good_scene_is_loaded_whole_and_in_morton_order(tmp_path: Path, degree: int) -> None:
    gaussians = random_gaussians(3000, degree)
    scene = load_scene(write_ply(tmp_path, gaussians))
    assert scene.dropped == 0
    tolerance = Tolerance(0, 1e-5, 1e-6, 0, 0)
    assert_close(sorted_by_x(scene.gaussians), sorted_by_x(gaussians), tolerance)
    np.testing.assert_array_equal(morton_order(scene.gaussians.means), np.arange(3000))


BROKEN = {
    "mean nan": ("means", (3, 0), np.nan),
    "mean inf": ("means", (3, 2), np.inf),
    "mean beyond use": ("means", (3, 1), 1e20),
    "quat nan": ("quats", (3, 1), np.nan),
    "quat zero": ("quats", (3, slice(None)), 0.0),
    "scale inf": ("scales", (3, 0), np.inf),
    "scale beyond use": ("scales", (3, 0), 1e20),
    "all scales zero": ("scales", (3, slice(None)), 0.0),
    "opacity nan": ("opacities", 3, np.nan),
    "colour nan": ("sh", (3, 0, 1), np.nan),
    "harmonic inf": ("sh", (3, 2, 0), -np.inf),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_gaussian_is_dropped_and_counted(tmp_path: Path, case: str) -> None:
    name, where, value = BROKEN[case]
    gaussians = random_gaussians(10, 1)
    getattr(gaussians, name)[where] = value
    scene = load_scene(write_ply(tmp_path, gaussians))
    assert scene.dropped == 1
    kept = gaussians[np.arange(10) != 3]
    assert_close(sorted_by_x(scene.gaussians), sorted_by_x(kept), Tolerance(0, 1e-5, 1e-6, 0, 0))


def test_a_negative_scale_is_dropped(tmp_path: Path) -> None:
    gaussians = random_gaussians(10, 0)
    gaussians.scales[4, 1] = -0.1
    path = tmp_path / "a.splat"
    path.write_bytes(encoders.splat(gaussians))
    assert load_scene(path).dropped == 1


def test_a_flat_gaussian_is_kept_and_made_thin(tmp_path: Path) -> None:
    gaussians = random_gaussians(10, 0)
    gaussians.scales[4, 1] = 0.0
    scene = load_scene(write_ply(tmp_path, gaussians))
    assert scene.dropped == 0
    assert (scene.gaussians.scales > 0).all()
    assert scene.gaussians.scales.min() < 1e-15


def test_infinite_logits_are_opacities_of_zero_and_one(tmp_path: Path) -> None:
    gaussians = random_gaussians(10, 0)
    gaussians.opacities[:2] = (0.0, 1.0)
    scene = load_scene(write_ply(tmp_path, gaussians))
    assert scene.dropped == 0
    assert sorted(scene.gaussians.opacities)[0] == 0.0
    assert sorted(scene.gaussians.opacities)[-1] == 1.0


@pytest.mark.parametrize("pattern", [b"\0\0\xa0\x7f", b"\0\0\xc0\xff", b"\0\0\x80\x7f"])
def test_all_kinds_of_nan_and_infinity(tmp_path: Path, pattern: bytes) -> None:
    """Signalling NaN included; beside one good Gaussian."""
    good = random_gaussians(1, 0)
    content = encoders.ply(Gaussians.concatenate([good, good]))
    path = tmp_path / "scene.ply"
    path.write_bytes(content[: -17 * 4] + pattern * 17)
    scene = load_scene(path)
    assert (len(scene.gaussians), scene.dropped) == (1, 1)


def test_a_scene_with_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    gaussians = random_gaussians(10, 0)
    gaussians.means[:] = np.nan
    with pytest.raises(SceneFormatError, match="10 Gaussians, but none that can be drawn"):
        load_scene(write_ply(tmp_path, gaussians))


def test_progress_is_told_up_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "BATCH_COUNT", 30)
    calls: list[tuple[int, int]] = []
    path = write_ply(tmp_path, random_gaussians(100, 0))
    load_scene(path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(30, 100), (60, 100), (90, 100), (100, 100)]


def test_batches_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians = random_gaussians(500, 2)
    gaussians.means[[7, 8, 300]] = np.nan
    path = write_ply(tmp_path, gaussians)
    whole = load_scene(path)
    monkeypatch.setattr(loading, "BATCH_COUNT", 9)
    parts = load_scene(path)
    assert whole.dropped == parts.dropped == 3
    assert_identical(whole.gaussians, parts.gaussians)


def test_a_scene_larger_than_the_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ply(tmp_path, random_gaussians(100, 0))
    monkeypatch.setattr(memory, "available_bytes", lambda: 5000)
    monkeypatch.setattr(loading, "_read", lambda *args: pytest.fail("reading was begun"))
    problem = r"scene\.ply: 100 Gaussians need .* GB .* are available, .*; use a smaller scene"
    with pytest.raises(BudgetError, match=problem):
        load_scene(path)


@pytest.mark.parametrize("degree", [0, 2, 3])
def test_the_peak_of_memory_is_what_is_asked_for(tmp_path: Path, degree: int) -> None:
    count = 300_000
    path = write_ply(tmp_path, random_gaussians(count, degree))
    tracemalloc.start()
    try:
        scene = load_scene(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scene.gaussians.nbytes == count * memory.gaussian_bytes(degree)
    assert scene.gaussians.nbytes < peak < memory.PEAK_FACTOR * scene.gaussians.nbytes


def test_usable_gaussians_tells_the_usual_case_apart() -> None:
    assert usable_gaussians(random_gaussians(10, 3)) is None
    broken = random_gaussians(10, 3)
    broken.sh[4, 15, 2] = np.nan
    usable = usable_gaussians(broken)
    assert usable is not None
    assert np.flatnonzero(~usable).tolist() == [4]


# --- Morton order --------------------------------------------------------------------


def test_morton_order_of_a_small_cube() -> None:
    """The corners of a cube are visited with x fastest, then y, then z."""
    corners = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)
    shuffled = np.array([5, 2, 7, 0, 3, 6, 1, 4])
    np.testing.assert_array_equal(shuffled[morton_order(corners[shuffled])], np.arange(8))


def test_morton_order_is_a_permutation_that_keeps_ties_in_order() -> None:
    means = np.repeat(random_gaussians(40, 0).means, 25, axis=0)
    order = morton_order(means)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    for start in range(0, 1000, 25):
        same = order[start : start + 25].astype(int)
        assert (np.diff(same) == 1).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_morton_order_of_almost_nothing(count: int) -> None:
    assert len(morton_order(np.zeros((count, 3), np.float32))) == count


def test_neighbours_in_memory_are_neighbours_in_space() -> None:
    means = random_gaussians(20_000, 0).means
    steps = np.linalg.norm(np.diff(means[morton_order(means)], axis=0), axis=1)
    assert np.median(steps) < 0.1 * np.median(np.linalg.norm(np.diff(means, axis=0), axis=1))


def test_far_outliers_do_not_spoil_the_order() -> None:
    means = random_gaussians(20_000, 0).means
    means[::1000] *= 1e9
    steps = np.linalg.norm(np.diff(means[morton_order(means)], axis=0), axis=1)
    assert np.median(steps) < 0.5


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_reordering_moves_whole_gaussians(degree: int) -> None:
    gaussians = random_gaussians(1000, degree)
    expected = copy_of(gaussians)[morton_order(gaussians.means)]
    assert_identical(in_morton_order(gaussians), expected)


HUGE = (1e300, -1e300, 1.7e308, 1e39, -3.5e38, float("inf"), float("nan"))


@pytest.mark.parametrize("name", ["x", "z", "scale_1", "f_dc_0", "f_rest_4"])
@pytest.mark.parametrize("value", HUGE)
def test_doubles_beyond_float32_are_dropped_without_a_warning(
    tmp_path: Path, name: str, value: float
) -> None:
    if name == "scale_1" and value < 0:
        value = -value  # a logarithm: far below zero is merely thin
    gaussians = random_gaussians(100, 1)
    columns = encoders.ply_columns(gaussians)
    columns[name] = columns[name].astype(np.float64)
    columns[name][::4] = value
    path = tmp_path / "a.ply"
    properties = encoders.ply_properties(1)
    content = encoders.ply(gaussians, order=properties, types={name: "double"}, extra=columns)
    path.write_bytes(content)
    scene = load_scene(path)
    assert (len(scene.gaussians), scene.dropped) == (75, 25)
    scene_statistics(scene.gaussians)


def test_huge_chunk_ranges_are_dropped_without_a_warning(tmp_path: Path) -> None:
    head, body = encoders.compressed_ply(random_gaussians(300, 0)).split(b"end_header\n", 1)
    ranges = np.frombuffer(body[: 2 * 18 * 4], "<f4").reshape(2, 18).copy()
    ranges[1, 0:3], ranges[1, 3:6] = -3.4e38, 3.4e38
    path = tmp_path / "a.compressed.ply"
    path.write_bytes(head + b"end_header\n" + ranges.tobytes() + body[ranges.nbytes :])
    scene = load_scene(path)
    assert (len(scene.gaussians), scene.dropped) == (256, 44)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("streamed", [True, False])
def test_huge_bounds_of_textures_are_told_without_a_warning(
    tmp_path: Path, version: int, streamed: bool
) -> None:
    gaussians = random_gaussians(50, 0)
    if streamed:
        path = encoders.streamed_sog(tmp_path, [[gaussians[:25], gaussians[25:]]], None)
        metas = sorted(tmp_path.glob("*/meta.json"))
    else:
        path = encoders.write_files(tmp_path, encoders.sog(gaussians, version))
        metas = [path]
    for file in metas:
        meta = json.loads(file.read_text())
        meta["means"] |= {"mins": [-1.7e308] * 3, "maxs": [1.7e308] * 3}
        file.write_text(json.dumps(meta))
    with pytest.raises(SceneFormatError, match="none that can be drawn"):
        load_scene(path)


def test_training_cameras_at_huge_places_are_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(encoders.ply(random_gaussians(5, 0)))
    camera = {
        "position": [1e308, -1e308, 1e308],
        "rotation": [[1e300, 1, 1], [1, 1e300, 1], [1, 1, 1e300]],
        "width": 64,
        "height": 48,
        "fx": 50.0,
        "fy": 50.0,
    }
    (tmp_path / "cameras.json").write_text(json.dumps([camera]))
    scene = load_scene(path)
    assert any("cameras ignored" in note for note in scene.meta.notes)
    assert os.sysconf("SC_PAGE_SIZE") > 0
