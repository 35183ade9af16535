"""A coarse form of a whole scene, quickly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_store.formats import open_scene
from scene_store.formats.ply import write_ply
from scene_store.sampling import RandomAccess, Scattered
from scene_store.sketch import RUN, Sketch, _sample, _starts, grown, sketch_scene, spread
from scene_store.town_source import TownSource
from splat.gaussians import Gaussians
from tests import scenes


@pytest.fixture(scope="module")
def line_ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gaussians in a row, in the file's order."""
    path = tmp_path_factory.mktemp("line") / "line.ply"
    means = np.zeros((50_000, 3))
    means[:, 0] = np.arange(50_000)
    write_ply(path, [scenes.gaussians(means)], 50_000, 0)
    return path


def sketched(path: Path, count: int = 400_000, time_s: float = 5.0) -> Sketch:
    return sketch_scene(str(path), count, time_s)


def test_a_sample_is_spread_over_the_whole_file(line_ply: Path) -> None:
    scene = sketched(line_ply, 5_000)
    places = np.sort(scene.gaussians.means[:, 0])
    assert scene.meta.count == 50_000
    assert 4_500 <= len(places) <= 5_000
    assert len(np.unique(places)) == len(places), "none is taken twice"
    assert np.diff(places).max() < 2 * RUN * 10


def test_when_time_is_over_the_sample_is_smaller_but_not_one_sided(
    line_ply: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("scene_store.sketch.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("scene_store.sketch.AT_ONCE", 512)
    scene = sketched(line_ply, 20_000, 15.0)
    places = np.sort(scene.gaussians.means[:, 0])
    assert len(places) == 16 * 512
    assert np.diff(places).max() < 50_000 / 512


def test_runs_are_taken_where_single_ones_are_dear(
    line_ply: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("scene_store.sketch.time.monotonic", lambda: float(next(clock)))
    with open_scene(line_ply) as source:
        places = np.sort(_sample(source, 20_000, 15.0).means[:, 0])
    assert len(places) == 16 * RUN
    assert np.diff(places).max() < 50_000 / 8


def test_single_ones_are_those_at_their_places(line_ply: Path, data_dir: Path) -> None:
    places = np.array([7, 49_999, 0, 123, 123], np.int64)
    for path in (line_ply, data_dir / "truck.splat"):
        with open_scene(path) as source:
            assert isinstance(source, Scattered) and isinstance(source, RandomAccess)
            alone = source.decode_at(places)
            for row, place in enumerate(places.tolist()):
                one = source.decode(place, place + 1)
                for found, expected in zip(alone.arrays, one.arrays, strict=True):
                    np.testing.assert_array_equal(found[row], expected[0])


def test_single_ones_grow_until_they_meet_and_no_more() -> None:
    rng = np.random.default_rng(2)
    near = rng.uniform(-1, 1, (2_000, 3)) * (1.0, 1.0, 0.0)
    far = rng.uniform(-100, 100, (50, 3)) + np.array([0.0, 0.0, 300.0])
    means = np.concatenate([near, far])
    sample = scenes.gaussians(means)
    sample.scales[:] = 0.001
    sample.scales[2_000:] = 80.0  # far away, and large as it is
    wide = spread(sample, 0.0001)
    small, large = wide.scales.max(axis=1) < 1, wide.scales.max(axis=1) >= 1
    pitch = np.sqrt(4 / 2_000)
    assert small.sum() == 2_000
    np.testing.assert_allclose(wide.scales[large], 80.0, rtol=0.05)
    # Asked to stand for four each, none is more than twice as large.
    assert spread(sample, 0.25).scales.max() <= 160.0
    assert (spread(sample, 0.25).scales[small] <= 0.002 + 1e-6).all()
    meeting = sample[slice(0, 2_000)]
    meeting.scales[:] = 0.2 * pitch
    grown_up = np.median(spread(meeting, 0.01).scales)
    assert 0.35 * pitch < grown_up < 0.8 * pitch


def test_a_small_file_is_taken_whole(line_ply: Path) -> None:
    scene = sketched(line_ply, 60_000)
    assert len(scene.gaussians) == 50_000
    assert np.allclose(scene.gaussians.scales, 0.1), "and does not grow"


def test_formats_read_from_the_start_are_thinned(data_dir: Path) -> None:
    scene = sketched(data_dir / "biker.spz", 20_000, 60)
    assert 10_000 < len(scene.gaussians) <= 21_000 < scene.meta.count


def test_a_coarse_level_is_taken_where_there_is_one(data_dir: Path) -> None:
    park = data_dir / "park" / "lod-meta.json"
    assert sketched(park, 300_000).meta.count == 212_464
    assert sketched(park, 10).meta.count == 212_464, "the coarsest at least"


def test_a_town_is_sketched_by_a_smaller_one_with_the_same_centre() -> None:
    sketch = sketch_scene("town:3M", 5_000, 1.0)
    assert (len(sketch.gaussians), sketch.total) == (5_000, 3_000_000)
    low, high = TownSource(3_000_000).sample_means().min(axis=0), 40.0
    near = np.abs(sketch.gaussians.means[:, [0, 2]]).max(axis=1) < high
    assert low[0] < -high and near.sum() > 200


def test_a_composition_is_sketched_copy_by_copy(line_ply: Path, tmp_path: Path) -> None:
    text = (
        f"scenes:\n  - path: {line_ply}\n    instances:\n      - translation: [0, 1, 0]\n"
        f"      - translation: [0, 2, 0]\n  - path: {line_ply}\n"
    )
    (tmp_path / "three.yaml").write_text(text)
    sketch = sketch_scene(str(tmp_path / "three.yaml"), 9_000, 5.0)
    assert sketch.total == 150_000
    for height in (0.0, 1.0, 2.0):
        row = np.sort(sketch.gaussians.means[sketch.gaussians.means[:, 1] == height, 0])
        assert 2_700 <= len(row) <= 3_000
        assert np.diff(row).max() < 2 * RUN * 50_000 / 3_000


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.001])
def test_what_is_left_grows_to_cover_the_rest_within_bounds(share: float) -> None:
    one = scenes.gaussians((0, 0, 0), scales=0.2, opacities=0.5)
    growth = float(grown(one, share).scales[0, 0]) / 0.2
    assert growth == pytest.approx(min(3.0, share**-0.4), rel=1e-5)


def test_broken_values_are_left_out(tmp_path: Path) -> None:
    broken = scenes.gaussians(np.zeros((10, 3)))
    means = broken.means.copy()
    means[3] = np.nan
    mended = Gaussians(means, broken.quats, broken.scales, broken.opacities, broken.sh)
    write_ply(tmp_path / "b.ply", [mended], 10, 0)
    scene = sketched(tmp_path / "b.ply")
    assert len(scene.gaussians) == 9


@pytest.mark.parametrize("total", [400, 401, 12_345, 1_000_000])
def test_runs_do_not_overlap(total: int) -> None:
    starts = sorted(_starts(total, min(total, 50_000)))
    assert starts[0] == 0 and starts[-1] == total - RUN
    assert np.diff(starts).min() >= RUN
