"""Files that are whole or absent, and errors that name them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest

from splat.errors import OutputError
from viewer.image_files import (
    MAP_SUFFIXES,
    PICTURE_SUFFIXES,
    check_target,
    write_map,
    write_picture,
)

RGB = np.zeros((5, 7, 3), np.uint8)
RGB[:, :, 0] = 200
RGB[2, 3] = (10, 20, 30)


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_pictures_are_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    write_picture(path, RGB, quality=95)
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape == RGB.shape
    if suffix == ".png":
        assert (image[..., ::-1] == RGB).all()
    else:
        assert np.abs(image[0, 0, ::-1].astype(int) - (200, 0, 0)).max() < 12


def test_quality_is_heeded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for quality in (20, 95):
        write_picture(tmp_path / f"{quality}.jpg", noise, quality)
    sizes = [(tmp_path / f"{quality}.jpg").stat().st_size for quality in (20, 95)]
    assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize("suffix", MAP_SUFFIXES)
def test_maps_keep_every_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"map{suffix}"
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * 1e3
    write_map(path, values, "Z")
    exr = suffix == ".exr"
    read = OpenEXR.File(str(path)).channels()["Z"].pixels if exr else np.load(path)
    assert read.dtype == np.float32
    assert (read == values).all()


def test_a_file_is_replaced_at_once_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    write_picture(path, RGB, 90)
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]
    assert cv2.imread(str(path)) is not None


def test_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_picture(tmp_path / "picture.png", RGB, 90)
    assert (tmp_path / "picture.png").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("picture.gif", r"cannot write '.gif'; use one of .png"),
        ("picture", r"cannot write no ending"),
        ("nowhere/picture.png", r"folder .*nowhere does not exist"),
        ("folder.png", r"is a folder"),
    ],
)
def test_bad_targets_are_named_before_any_work(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=problem) as info:
        check_target(tmp_path / name, PICTURE_SUFFIXES)
    assert name in str(info.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write"):
        check_target(tmp_path / "picture.png", PICTURE_SUFFIXES)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"picture.png: cannot write: No space left"):
        write_picture(tmp_path / "picture.png", RGB, 90)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "longest"), [("wide.webp", 16_383), ("wide.jpg", 65_500)])
def test_a_picture_too_large_for_its_format_is_refused(
    tmp_path: Path, name: str, longest: int
) -> None:
    path = tmp_path / name
    remedy = rf"{longest + 1}×1 pixels .* at most {longest:,} a side; write \.png or"
    with pytest.raises(OutputError, match=remedy):
        write_picture(path, np.zeros((1, longest + 1, 3), np.uint8), 90)
    assert not list(tmp_path.iterdir())
    write_picture(path, np.zeros((1, longest, 3), np.uint8), 90)
    assert path.exists()


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.npy"
    path.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_map(path, np.zeros((2, 2), np.float32), "Z")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_map_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/z\.exr: cannot write"):
        write_map(tmp_path / "nowhere" / "z.exr", np.zeros((2, 2), np.float32), "Z")
