"""What is particular to SPZ: fixed point, axes, extensions, degree 4."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from scene_store.formats import open_scene
from scene_store.formats.spz_extensions import AXES, axes_from_extensions, up_of_axes
from tests.formats import encoders
from tests.formats.samples import random_gaussians, read_all

AXES_RECORD = 0xADBE0003


@pytest.mark.parametrize("bits", [0, 8, 12, 20])
def test_fixed_point_keeps_the_sign(tmp_path: Path, bits: int) -> None:
    gaussians = random_gaussians(3, 0)
    limit = min(2.0 ** (23 - bits) - 1, 1000.0)
    gaussians.means[:] = ((0.0, 1.0, -1.0), (limit, -limit, 2.0), (-3.0, 3.0, -2.0))
    path = tmp_path / "a.spz"
    path.write_bytes(encoders.spz(gaussians, 4, fractional_bits=bits))
    with open_scene(path) as source:
        np.testing.assert_allclose(read_all(source).means, gaussians.means, atol=0.5 / 2**bits)


def test_degree_4_is_cut_to_3(tmp_path: Path) -> None:
    """Version 4 may hold 24 coefficients; the nine of degree 4 come last."""
    gaussians = random_gaussians(5, 3)
    content = encoders.spz(gaussians, 3, compress=False)
    body = np.frombuffer(content[16:], np.uint8).copy()
    sh = body[-5 * 45 :].reshape(5, 45)
    wider = np.concatenate([sh, np.full((5, 27), 200, np.uint8)], axis=1)
    header = bytearray(content[:16])
    header[12] = 4
    path = tmp_path / "a.spz"
    path.write_bytes(bytes(header) + body[: -5 * 45].tobytes() + wider.tobytes())
    with open_scene(path) as source:
        assert source.meta.sh_degree == 3
        assert "harmonics of degree 4 cut to 3" in source.meta.notes
        np.testing.assert_allclose(read_all(source).sh[:, 1:], gaussians.sh[:, 1:], atol=0.005)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    ("axes", "up"),
    [("RUB", (0, 1, 0)), ("RDF", (0, -1, 0)), ("RBU", (0, 0, 1)), ("LFD", (0, 0, -1))],
)
def test_named_axes_tell_where_up_is(
    tmp_path: Path, version: int, axes: str, up: tuple[float, float, float]
) -> None:
    unknown = struct.pack("<II5s", 0x00010001, 5, b"hello")
    record = unknown + struct.pack("<III", AXES_RECORD, 4, AXES.index(axes))
    path = tmp_path / "a.spz"
    path.write_bytes(encoders.spz(random_gaussians(9, 1), version, extensions=record))
    with open_scene(path) as source:
        assert source.meta.up == up
        assert len(read_all(source)) == 9


def test_handedness_is_told() -> None:
    """By the determinant of where the letters point, in right-up-back coordinates."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "U": (0, 1, 0), "D": (0, -1, 0)}
    directions |= {"B": (0, 0, 1), "F": (0, 0, -1)}
    for axes in AXES[1:]:
        determinant = np.linalg.det(np.array([directions[letter] for letter in axes], float))
        mirrored = any("mirrored" in note for note in up_of_axes(axes)[1])
        assert mirrored == (determinant < 0), axes


@pytest.mark.parametrize(
    "records",
    [
        b"",
        b"1234567",
        struct.pack("<II", AXES_RECORD, 4),
        struct.pack("<III", AXES_RECORD, 4, 0),
        struct.pack("<III", AXES_RECORD, 4, 99),
        struct.pack("<II", 7, 2**32 - 1),
    ],
)
def test_unusable_extensions_mean_the_default(records: bytes) -> None:
    assert axes_from_extensions(records) is None
    assert up_of_axes(None) == ((0.0, 1.0, 0.0), ())


def test_the_antialiasing_flag_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    path.write_bytes(encoders.spz(random_gaussians(2, 0), 4, flags=1))
    with open_scene(path) as source:
        assert any("antialiasing" in note for note in source.meta.notes)
