"""Real scenes by other people's tools: counts, plausible values, equality across formats."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from scene_store.formats import open_scene
from scene_store.loading import load_scene
from scene_store.statistics import likely_up, scene_statistics
from splat.gaussians import Gaussians
from tests.formats.samples import (
    Tolerance,
    assert_close,
    nearest_rows,
    read_all,
    turned_about_x,
)

# path, format, Gaussians, degree, extent of the middle 98 % at most
SCENES = [
    ("park", "streamed SOG", 4_249_286, 0, 60),
    ("park/4_0", "SOG v2", 212_464, 0, 60),
    ("playbot", "streamed SOG", 500_000, 2, 3),
    ("logo_sog1", "SOG v1", 307_128, 0, 5),
    ("coast_near", "streamed SOG", 87_271, 3, 20),
    ("coast_far", "streamed SOG", 92_729, 3, 200),
    ("biker.spz", "SPZ v4", 152_746, 0, 4),
    ("biker.compressed.ply", "SuperSplat compressed PLY", 152_746, 0, 4),
    ("truck.splat", "splat", 116_544, 0, 5),
    ("fruit_drops_minimal.ply", "3DGS PLY", 4_721, 3, 1),
    ("encodings/coast.ply", "3DGS PLY", 25_780, 3, 12),
    ("encodings/coast.compressed.ply", "SuperSplat compressed PLY", 25_780, 3, 12),
    ("encodings/coast.sog", "SOG v2", 25_780, 3, 12),
    ("encodings/coast.v3.spz", "SPZ v3", 25_780, 3, 12),
    ("encodings/coast.v4.spz", "SPZ v4", 25_780, 3, 12),
    ("encodings/coast.spzjs.spz", "SPZ v2", 25_780, 3, 12),
    ("encodings/coast.c1.ksplat", "ksplat level 1", 25_780, 2, 12),
    ("encodings/coast.c2.ksplat", "ksplat level 2", 25_780, 2, 12),
    ("fixtures/minimal.splat", "splat", 4, 0, 2),
    ("fixtures/minimal.ksplat", "ksplat level 0", 4, 0, 2),
    ("fixtures/minimal-raw.spz", "SPZ v2", 4, 0, 2),
    ("fixtures/minimal-v2.spz", "SPZ v2", 4, 0, 2),
    ("fixtures/minimal-v3.spz", "SPZ v3", 4, 0, 2),
    ("fixtures/minimal-v4.spz", "SPZ v4", 4, 0, 2),
]


@pytest.mark.parametrize(
    ("name", "format_name", "count", "degree", "extent"), SCENES, ids=[s[0] for s in SCENES]
)
def test_a_real_scene_loads_with_plausible_values(
    data_dir: Path, name: str, format_name: str, count: int, degree: int, extent: float
) -> None:
    scene = load_scene(data_dir / name)
    assert scene.meta.format_name == format_name
    assert (len(scene.gaussians), scene.dropped) == (count, 0)
    assert scene.meta.sh_degree == degree
    statistics = scene_statistics(scene.gaussians)
    assert 0.05 < np.ptp(statistics.robust_bounds, axis=0).max() < extent
    assert 1e-4 < statistics.scale_percentiles[4] < 0.2  # the median
    assert 0.03 < statistics.opacity_percentiles[4] <= 1.0
    colours = scene.gaussians.sh[:, 0] * 0.2820948 + 0.5
    assert 0.0 < np.median(colours) < 1.0
    lengths = np.linalg.norm(scene.gaussians.quats, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)


def test_levels_of_detail_of_the_park(data_dir: Path) -> None:
    with open_scene(data_dir / "park") as source:
        counts = source.meta.lod_counts
    assert sum(counts) == 9_900_835
    assert list(counts) == sorted(counts, reverse=True)
    for lod, count in enumerate(counts[2:], start=2):
        scene = load_scene(data_dir / "park", lod=lod)
        assert len(scene.gaussians) == count


def test_four_million_gaussians_load_in_seconds(data_dir: Path) -> None:
    """A generous bound: this is the time to the first picture of a large scene."""
    start = time.perf_counter()
    load_scene(data_dir / "park")
    assert time.perf_counter() - start < 8.0


# --- the same scene in every encoding ------------------------------------------------

OPACITY_BYTE = 1 / 255 + 1e-6
SPZ_TOLERANCE = Tolerance(
    2**-13 + 1e-5, 0.5 / 16 + 1e-4, OPACITY_BYTE, 0.5 / 255 / 0.15 + 1e-4, 0.0667, 0.3
)
ENCODINGS = {
    "v3.spz": SPZ_TOLERANCE,
    "v4.spz": SPZ_TOLERANCE,
    "spzjs.spz": Tolerance(2**-13 + 1e-5, 0.032, OPACITY_BYTE, 0.0132, 0.0667, 12),
    "c1.ksplat": Tolerance(1e-4, 1e-3, OPACITY_BYTE, 0.0140, 5e-4, 0.1),
    "c2.ksplat": Tolerance(1e-4, 1e-3, OPACITY_BYTE, 0.0140, 1.37 / 255 + 1e-4, 0.1),
    "sog": Tolerance(3e-4, 0.13, OPACITY_BYTE, 0.04, 0.21, 2.2),
    "compressed.ply": Tolerance(2e-3, 0.01, OPACITY_BYTE, 0.017, 4 / 256 + 1e-4, 0.3),
}
# What a format cannot hold is cut off, and compared where it can.
# Below 6e-5, float16 loses precision.
SMALLEST_LOG_SCALE = {"spz": -10.0, "compressed.ply": -20.0, "ksplat": -9.7}


@pytest.fixture(scope="module")
def coast(data_dir: Path) -> Gaussians:
    with open_scene(data_dir / "encodings" / "coast.ply") as source:
        return read_all(source)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_of_the_coast_is_the_same_scene(
    data_dir: Path, coast: Gaussians, encoding: str
) -> None:
    with open_scene(data_dir / "encodings" / f"coast.{encoding}") as source:
        actual = read_all(source)
        if source.meta.up == (0.0, 1.0, 0.0) and encoding != "spzjs.spz":
            actual = turned_about_x(actual)
    assert len(actual) == len(coast)
    actual, expected = clipped(actual, encoding), clipped(coast, encoding)
    if not encoding.endswith(".spz"):  # the others reorder; finding the partners takes long
        actual = actual[::7]
        rows = nearest_rows(actual, expected)
        assert len(set(rows.tolist())) == len(actual)
        expected = expected[rows]
    assert_close(actual, expected, ENCODINGS[encoding])


def clipped(g: Gaussians, encoding: str) -> Gaussians:
    """Without what the encoding cannot hold: tiny scales, colours out of range."""
    for ending, log_scale in SMALLEST_LOG_SCALE.items():
        if encoding.endswith(ending):
            g = Gaussians(
                g.means, g.quats, np.maximum(g.scales, np.exp(log_scale)), g.opacities, g.sh
            )
    sh = g.sh.copy()
    # Bytes of .ksplat hold colours from 0 to 1, those of .spz somewhat more.
    limit = {"ksplat": 0.5 / 0.2820948, "spz": 0.5 / 0.15}.get(encoding.rpartition(".")[2], 9.0)
    sh[:, 0] = np.clip(sh[:, 0], -limit, limit)
    return Gaussians(g.means, g.quats, np.maximum(g.scales, 1e-9), g.opacities, sh)


def test_the_biker_is_the_same_in_both_formats(data_dir: Path) -> None:
    with open_scene(data_dir / "biker.compressed.ply") as source:
        ply = read_all(source)
    with open_scene(data_dir / "biker.spz") as source:
        spz = turned_about_x(read_all(source))
    shared = Gaussians(ply.means, ply.quats, np.maximum(ply.scales, np.exp(-10.0)),
                       ply.opacities, ply.sh)  # fmt: skip
    assert_close(spz, shared, Tolerance(2e-4, 0.0322, OPACITY_BYTE, 0.0132, angle=0.3))


def test_the_minimal_files_are_the_same_four_gaussians(data_dir: Path) -> None:
    def read(name: str) -> Gaussians:
        with open_scene(data_dir / "fixtures" / name) as source:
            return read_all(source)

    splat = read("minimal.splat")
    np.testing.assert_array_equal(splat.means, [(-1, 0, -1), (0, 0, -1), (-1, 0, 0), (0, 0, 0)])
    np.testing.assert_allclose(splat.scales, 0.1, rtol=1e-6)
    # They are spheres, so that each file has its own idea of their rotations. The older
    # .spz files hold colours without the format's wider range.
    tolerance = Tolerance(1e-6, 0.032, 1e-6, 0.02, angle=180)
    wide = Tolerance(1e-6, 0.032, 1e-6, 0.6, angle=180)
    assert_close(read("minimal.ksplat"), splat, tolerance)
    assert_close(read("minimal-raw.spz"), splat, wide)
    assert_close(read("minimal-v2.spz"), splat, wide)
    assert_close(turned_about_x(read("minimal-v3.spz")), splat, tolerance)
    assert_close(turned_about_x(read("minimal-v4.spz")), splat, tolerance)


def test_the_fruit_has_quaternions_made_unit(data_dir: Path) -> None:
    with open_scene(data_dir / "fruit_drops_minimal.ply") as source:
        assert source.meta.notes == ("ignored properties: transform",)
        lengths = np.linalg.norm(read_all(source).quats, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)


def test_the_coast_is_upright_in_every_format(data_dir: Path) -> None:
    """spzjs keeps the axes of its input, y down, and says nothing."""
    for name, up in (("ply", -1), ("v3.spz", 1), ("v4.spz", 1), ("spzjs.spz", -1)):
        scene = load_scene(data_dir / "encodings" / f"coast.{name}")
        assert likely_up(scene.meta, scene.gaussians) == (0, up, 0), name
