"""Every format shows the same picture: what ``belvedere export`` writes, against siblings.

The scenes, places and floors are those of ``benchmarks.formats``, where each floor has its
reason; here they are asserted, and shown to be sharp: small misreadings fall below them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import scene_store.loading
from scene_store.loading import load_scene
from splat.errors import BackendUnavailable
from splat.gaussians import Gaussians
from tests.conftest import REPOSITORY

try:
    from benchmarks import formats
    from benchmarks.formats import FAMILIES, NEAR_RATIO, Encoding, Family, Picture
except BackendUnavailable as error:
    if os.environ.get("CI"):  # where the engine must be there
        raise
    pytest.skip(str(error), allow_module_level=True)

SMALL = (160, 90)
BY_NAME = {family.name: family for family in FAMILIES}
# All but the finest levels of the park, which alone would take longer than all the rest.
COMPARED = [
    pytest.param(family, encoding, id=encoding.title)
    for family in FAMILIES
    for encoding in family.encodings[1:]
    if encoding.title not in ("park LOD 1", "park LOD 2")
]

# Where to look for what in the pictures: checked by eye, so that a scene which is upside
# down, mirrored or of false colours is noticed even where it has no sibling.
# scene, what, column and row as shares of the picture, RGB of the place.
LANDMARKS = [
    ("coast_near", "sky, top left", 0.03, 0.08, (233, 240, 244)),
    ("coast_near", "bench", 0.35, 0.517, (66, 84, 96)),
    ("coast_far", "sky, left", 0.094, 0.278, (246, 254, 255)),
    ("coast_far", "beach below it", 0.156, 0.486, (186, 179, 170)),
    ("biker", "back of the jacket", 0.502, 0.206, (50, 50, 50)),
    ("biker", "nothing beside him", 0.156, 0.278, (0, 0, 0)),
    ("playbot", "orange head", 0.539, 0.186, (174, 91, 27)),
    ("playbot", "its white top", 0.502, 0.05, (170, 168, 169)),
    ("playbot", "glow on the ground", 0.433, 0.633, (99, 149, 160)),
    ("park", "pool, right of the middle", 0.623, 0.494, (37, 197, 243)),
    ("park", "trees, left", 0.066, 0.639, (94, 121, 68)),
    ("park", "no sky", 0.156, 0.083, (0, 0, 0)),
    ("logo", "red fur, top left", 0.153, 0.136, (102, 37, 29)),
    ("logo", "white letter", 0.578, 0.314, (220, 221, 221)),
    ("logo", "yellow fur, below", 0.423, 0.875, (206, 133, 73)),
    ("truck", "turquoise bonnet", 0.689, 0.5, (104, 179, 208)),
    ("truck", "yellow parasol", 0.264, 0.272, (154, 141, 83)),
    ("truck", "green street sign", 0.613, 0.186, (56, 150, 136)),
    ("fruit", "paper", 0.192, 0.672, (208, 205, 197)),
    ("fruit", "dark to the right", 0.938, 0.833, (14, 14, 13)),
]
PATCH = 4  # pixels on each side of a landmark
LANDMARK_TOLERANCE = 12  # of 255, for the mean of the patch


@pytest.fixture(autouse=True)
def scenes(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of real scenes, or a skip that says what is missing."""
    monkeypatch.setenv("BELVEDERE_DATA", str(data_dir))


@cache
def reference(data_dir: Path, name: str, sh_degree: int | None = None) -> Picture:
    """The picture of a family's reference, drawn once."""
    family = BY_NAME[name]
    return formats.export_picture(
        data_dir / family.reference.path, family.reference, family.place, sh_degree=sh_degree
    )


def exported(data_dir: Path, family: Family, encoding: Encoding) -> Picture:
    return formats.export_picture(data_dir / encoding.path, encoding, family.place)


@pytest.mark.parametrize(("family", "encoding"), COMPARED)
def test_an_encoding_shows_the_picture_of_its_sibling(
    data_dir: Path, family: Family, encoding: Encoding
) -> None:
    # A .ksplat has no harmonics of degree 3; what it has must be right.
    degree = 2 if encoding.path.endswith(".ksplat") else None
    truth = reference(data_dir, family.name, degree)
    picture = exported(data_dir, family, encoding)
    assert encoding.floor_db is not None
    assert formats.psnr_db(picture.pixels, truth.pixels) >= encoding.floor_db
    assert picture.coverage == pytest.approx(truth.coverage, abs=0.02)


@pytest.mark.parametrize(
    ("name", "what", "x", "y", "rgb"), LANDMARKS, ids=[f"{m[0]}: {m[1]}" for m in LANDMARKS]
)
def test_a_scene_is_upright_and_in_its_colours(
    data_dir: Path, name: str, what: str, x: float, y: float, rgb: tuple[int, int, int]
) -> None:
    pixels = reference(data_dir, name).pixels
    row, column = round(y * pixels.shape[0]), round(x * pixels.shape[1])
    patch = pixels[row - PATCH : row + PATCH + 1, column - PATCH : column + PATCH + 1]
    np.testing.assert_allclose(patch.mean(axis=(0, 1)), rgb, atol=LANDMARK_TOLERANCE, err_msg=what)


# --- the floors are sharp ------------------------------------------------------------


def other_quaternion_order(g: Gaussians) -> Gaussians:
    return replace(g, quats=np.ascontiguousarray(g.quats[:, [3, 0, 1, 2]]))


def inverse_rotations(g: Gaussians) -> Gaussians:
    return replace(g, quats=g.quats * np.array([1, -1, -1, -1], np.float32))


def larger_scales(g: Gaussians) -> Gaussians:
    return replace(g, scales=g.scales * np.float32(1.15))


def blue_for_red(g: Gaussians) -> Gaussians:
    return replace(g, sh=np.ascontiguousarray(g.sh[:, :, ::-1]))


def coefficient_major(g: Gaussians) -> Gaussians:
    """Harmonics whose channels and coefficients were mixed up."""
    rest = g.sh[:, 1:].reshape(len(g), 3, -1).transpose(0, 2, 1)
    return replace(g, sh=np.concatenate([g.sh[:, :1], rest], axis=1))


def harmonics_of_other_axes(g: Gaussians) -> Gaussians:
    """Degree 1 with the sign of y and z lost, as when only positions are turned."""
    sh = g.sh.copy()
    sh[:, 1:3] *= -1
    return replace(g, sh=sh)


MISREADINGS: list[Callable[[Gaussians], Gaussians]] = [
    other_quaternion_order,
    inverse_rotations,
    larger_scales,
    blue_for_red,
    coefficient_major,
    harmonics_of_other_axes,
]


@pytest.mark.parametrize("path", ["coast.compressed.ply", "coast.sog", "coast.v4.spz"])
@pytest.mark.parametrize("misread", MISREADINGS, ids=lambda misread: misread.__name__)
def test_a_misreading_falls_below_the_floor(
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    misread: Callable[[Gaussians], Gaussians],
) -> None:
    family = BY_NAME["coast"]
    encoding = next(e for e in family.encodings if e.path.endswith(path))
    truth = reference(data_dir, "coast")
    in_order = scene_store.loading.in_morton_order
    monkeypatch.setattr(scene_store.loading, "in_morton_order", lambda g: in_order(misread(g)))
    picture = exported(data_dir, family, encoding)
    assert encoding.floor_db is not None
    assert formats.psnr_db(picture.pixels, truth.pixels) < encoding.floor_db


# --- one scene in several wrappings: the same bytes ----------------------------------


def wrapped_as_training_folder(data: Path, folder: Path) -> tuple[Path, Path]:
    ply = data / "encodings" / "coast.ply"
    inside = folder / "point_cloud" / "iteration_7"
    inside.mkdir(parents=True)
    (inside / "point_cloud.ply").symlink_to(ply)
    return ply, folder


def wrapped_as_unpacked_sog(data: Path, folder: Path) -> tuple[Path, Path]:
    sog = data / "encodings" / "coast.sog"
    with zipfile.ZipFile(sog) as archive:
        archive.extractall(folder)
    return sog, folder


def wrapped_as_meta_json(data: Path, folder: Path) -> tuple[Path, Path]:
    return data / "logo_sog1", data / "logo_sog1" / "meta.json"


def wrapped_with_a_wrong_ending(data: Path, folder: Path) -> tuple[Path, Path]:
    ksplat = data / "encodings" / "coast.c2.ksplat"
    (folder / "coast.ply").symlink_to(ksplat)
    return ksplat, folder / "coast.ply"


@pytest.mark.parametrize(
    "wrap",
    [
        wrapped_as_training_folder,
        wrapped_as_unpacked_sog,
        wrapped_as_meta_json,
        wrapped_with_a_wrong_ending,
    ],
)
def test_the_wrapping_makes_no_difference(
    data_dir: Path, tmp_path: Path, wrap: Callable[[Path, Path], tuple[Path, Path]]
) -> None:
    first, second = (
        formats.export_picture(path, Encoding("picture"), formats.COAST, SMALL)
        for path in wrap(data_dir, tmp_path)
    )
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.pixels.std() > 5


# --- the command and the benchmark ----------------------------------------------------


def test_the_command_writes_the_same_picture_and_finds_up_by_itself(
    data_dir: Path, tmp_path: Path
) -> None:
    family = BY_NAME["biker"]
    spz = family.encodings[1]
    place = family.place.turned()
    assert load_scene(data_dir / spz.path).meta.up == place.up  # no --up below
    target = tmp_path / "biker.png"
    distance = float(np.linalg.norm(np.subtract(place.position, place.target)))
    command = [sys.executable, "-m", "viewer.cli", "export", str(data_dir / spz.path)]
    command += ["--image", str(target), "--near", str(NEAR_RATIO * distance)]
    command += ["--position", *map(str, place.position), "--look-at", *map(str, place.target)]
    command += ["--fov-x", str(place.fov_x_deg), "--width", "160", "--height", "90"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(target), "")
    expected = tmp_path / "expected"
    expected.mkdir()
    formats.export_picture(data_dir / spz.path, spz, family.place, SMALL, pictures=expected)
    assert target.read_bytes() == (expected / "biker.spz.png").read_bytes()


def test_the_benchmark_reports_every_encoding(data_dir: Path) -> None:
    rows = formats.run([BY_NAME["coast"], BY_NAME["fruit"]], loads=1)
    assert [row["file"] for row in rows] == [
        encoding.title for name in ("coast", "fruit") for encoding in BY_NAME[name].encodings
    ]
    assert {row["passed"] for row in rows} == {True}
    ply, *others, fruit = rows
    assert ply["reference"] is ply["psnr_db"] is fruit["psnr_db"] is None
    assert all(row["reference"] == "encodings/coast.ply" and row["psnr_db"] > 30 for row in others)
    ksplat = next(row for row in others if row["file"].endswith("c1.ksplat"))
    assert ksplat["same_degree_psnr_db"] > ksplat["psnr_db"] + 5
    assert ply["bytes_per_gaussian"] == pytest.approx(236, abs=1)  # 59 floats and the header
    assert formats.table_of(rows).row_count == len(rows)


def test_the_benchmark_tells_a_missed_floor(data_dir: Path) -> None:
    minimal = BY_NAME["minimal"]
    first, second = minimal.encodings[:2]
    strict = replace(minimal, encodings=(first, replace(second, floor_db=300.0)))
    _, row = formats.run([strict], size=SMALL, loads=1)
    assert row["psnr_db"] == formats.PSNR_OF_EQUAL_DB
    assert row["passed"] is False


def test_the_benchmark_names_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELVEDERE_DATA", str(tmp_path))
    (row,) = formats.run([BY_NAME["truck"]])
    assert row["passed"] is None
    assert "BELVEDERE_DATA" in row["skipped"]
