"""Exported pictures, compared with what the image model says by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenEXR
import pytest

from configs.settings import RenderSettings
from rendering.base import DILATION_PX2
from splat.errors import CameraError, OutputError, SceneNotFoundError, SettingsError
from viewer.camera_choice import CameraChoice
from viewer.export import export
from viewer.export_targets import Targets
from viewer.scenes import SceneChoice

# One blob (σ 0.1, opacity 0.8, orange) seen from 5 units with a focal length of 100 pixels.
SIZE = (41, 31)
FOV_DEG = math.degrees(2 * math.atan(0.5 * SIZE[1] / 100.0))
VIEW = CameraChoice(
    position=(0, 0, -5), look_at=(0, 0, 0), fov_deg=FOV_DEG, width=SIZE[0], height=SIZE[1]
)
BACKGROUND = (0.0, 0.25, 1.0)
RENDER = RenderSettings(background=BACKGROUND, threads=1)


def choice(path: Path, **more: object) -> SceneChoice:
    return SceneChoice(path, gaussians=2_000, up=(0, -1, 0), **more)  # type: ignore[arg-type]


def expected_alpha() -> np.ndarray:
    """[31, 41]: ``0.8 exp(−½ d² / (σ² + dilation))`` with σ = 100 · 0.1 / 5 pixels."""
    u = np.arange(SIZE[0]) + 0.5 - SIZE[0] / 2
    v = np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2
    variance = (100 * 0.1 / 5) ** 2 + DILATION_PX2
    alpha = 0.8 * np.exp(-0.5 * (u[None, :] ** 2 + v[:, None] ** 2) / variance)
    return np.where(alpha >= 1 / 255, alpha, 0.0)


def test_every_pixel_of_one_gaussian(one_blob_ply: Path, tmp_path: Path) -> None:
    targets = Targets(tmp_path / "c.png", tmp_path / "z.exr", tmp_path / "a.npy")
    export(choice(one_blob_ply), VIEW, targets, RENDER)
    alpha = np.load(tmp_path / "a.npy")
    # Off the axis the linearized projection differs a little from the round one assumed here.
    assert alpha == pytest.approx(expected_alpha(), abs=0.01)
    image = cv2.imread(str(tmp_path / "c.png"))
    assert image is not None
    blended = alpha[..., None] * (1.0, 0.5, 0.0) + (1 - alpha[..., None]) * BACKGROUND
    assert image[..., ::-1] == pytest.approx(255 * blended, abs=1.5)
    depth = OpenEXR.File(str(tmp_path / "z.exr")).channels()["Z"].pixels
    assert depth[alpha > 0] == pytest.approx(5.0, abs=1e-4)
    assert not depth[alpha == 0].any()


def test_a_grey_picture_of_alpha(one_blob_ply: Path, tmp_path: Path) -> None:
    export(choice(one_blob_ply), VIEW, Targets(alpha=tmp_path / "a.png"), RENDER)
    grey = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert grey is not None
    assert grey.ndim == 2
    assert grey[SIZE[1] // 2, SIZE[0] // 2] == round(255 * 0.8)


def test_depth_as_numpy_and_modes(one_blob_ply: Path, tmp_path: Path) -> None:
    targets = Targets(image=tmp_path / "count.png", depth=tmp_path / "z.npy")
    image = export(choice(one_blob_ply), VIEW, targets, RENDER, mode="count")
    assert image.count is not None
    assert image.count.max() == 1
    assert np.load(tmp_path / "z.npy").max() == pytest.approx(5.0, abs=1e-4)
    assert cv2.imread(str(tmp_path / "count.png")) is not None


def test_the_field_of_view_is_vertical_unless_it_is_not(one_blob_ply: Path, tmp_path: Path) -> None:
    """The same lens told by its width gives the same picture."""
    fov_x = math.degrees(2 * math.atan(0.5 * SIZE[0] / 100.0))
    across = CameraChoice(VIEW.position, VIEW.look_at, None, fov_x, None, *SIZE)
    images = [
        export(choice(one_blob_ply), camera, Targets(tmp_path / "c.png"), RENDER).alpha
        for camera in (VIEW, across)
    ]
    assert images[0] == pytest.approx(images[1], abs=1e-5)


def test_the_start_view_shows_the_scene(wall_ply: Path, tmp_path: Path) -> None:
    camera = CameraChoice(width=160, height=90)
    image = export(choice(wall_ply), camera, Targets(tmp_path / "c.png"), RENDER)
    assert 0.1 < (image.alpha > 0.5).mean() < 0.9


def test_the_size_can_be_divided(one_blob_ply: Path, tmp_path: Path) -> None:
    camera = CameraChoice(width=160, height=90, downscale_factor=4)
    image = export(choice(one_blob_ply), camera, Targets(tmp_path / "c.png"), RENDER)
    assert image.alpha.shape == (22, 40)


def test_the_near_plane_scales_with_the_scene(one_blob_ply: Path, tmp_path: Path) -> None:
    """From 0.001 units away the blob is still drawn: nothing is cut at a fixed distance."""
    camera = CameraChoice((0, 0, -0.001), (0, 0, 0), 60.0, None, None, 9, 9)
    image = export(choice(one_blob_ply), camera, Targets(alpha=tmp_path / "a.npy"), RENDER)
    assert image.alpha.max() > 0.5


def test_the_town_is_exported_without_a_scene(tmp_path: Path) -> None:
    camera = CameraChoice(width=64, height=36)
    image = export(SceneChoice(None, 20_000), camera, Targets(tmp_path / "t.png"), RENDER)
    assert (image.alpha > 0.9).mean() > 0.9, "sky included"


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        (Targets(), "nothing to write"),
        (Targets(image=Path("a.bmp")), "use one of .png"),
        (Targets(depth=Path("z.png")), "use one of .exr, .npy"),
        (Targets(image=Path("no/such/a.png")), "does not exist"),
        (Targets(image=Path("a.png"), alpha=Path("./a.png")), "--image and --alpha cannot be"),
        (Targets(depth=Path("a.npy"), alpha=Path("no/../a.npy")), "--depth and --alpha cannot be"),
    ],
)
def test_targets_are_checked_before_the_scene_is_read(targets: Targets, problem: str) -> None:
    with pytest.raises(OutputError, match=problem):
        export(choice(Path("missing.ply")), VIEW, targets, RENDER)


def test_a_missing_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(SceneNotFoundError, match=r"missing\.ply: no such file"):
        export(choice(Path("missing.ply")), VIEW, Targets(tmp_path / "a.png"), RENDER)


def test_links_to_one_file_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    targets = Targets(image=tmp_path / "a.png", alpha=tmp_path / "link.png")
    with pytest.raises(OutputError, match="cannot be the same file"):
        export(choice(Path("missing.ply")), VIEW, targets, RENDER)


@pytest.mark.parametrize(
    ("camera", "problem"),
    [
        (CameraChoice(fov_deg=60, fov_x_deg=60), "not both"),
        (CameraChoice(position=(1, 1, 1), look_at=(1, 1, 1)), "same"),
        (CameraChoice(fov_deg=180), "--fov: expected 1 to 170, got 180"),
        (CameraChoice(fov_x_deg=0.5), "--fov-x: expected 1 to 170, got 0.5"),
        (CameraChoice(fov_deg=math.nan), "--fov: expected"),
        (CameraChoice(width=0), "--width: expected 1 to 16384, got 0"),
        (CameraChoice(height=-5), "--height: expected"),
        (CameraChoice(width=100_000), "--width: expected"),
        (CameraChoice(downscale_factor=1e-320), "--downscale-factor: expected 0.01 to 1000"),
        (CameraChoice(downscale_factor=math.inf), "--downscale-factor: expected"),
        (CameraChoice(width=1000, downscale_factor=0.01), "100000×56250 pixels is too large"),
        (CameraChoice(training_camera=-1), "--training-camera: expected 0 or more"),
        (CameraChoice(training_camera=0, fov_deg=40), "leave out"),
        (CameraChoice(training_camera=0, position=(0, 0, 0)), "leave out"),
    ],
)
def test_impossible_cameras_are_refused_before_the_scene_is_read(
    tmp_path: Path, camera: CameraChoice, problem: str
) -> None:
    with pytest.raises((CameraError, SettingsError), match=problem):
        export(choice(Path("missing.ply")), camera, Targets(tmp_path / "a.png"), RENDER)


def test_a_picture_too_large_for_its_format_is_refused_before_the_scene_is_read(
    tmp_path: Path,
) -> None:
    camera = CameraChoice(width=16_384, height=2)
    targets = Targets(alpha=tmp_path / "a.webp")
    with pytest.raises(OutputError, match=r"does not fit \.webp.* write \.png"):
        export(choice(Path("missing.ply")), camera, targets, RENDER)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, (1280, 720)),
        ({"width": 640}, (640, 360)),
        ({"height": 360}, (640, 360)),
        ({"width": 100, "height": 99}, (100, 99)),
        ({"width": 640, "downscale_factor": 2.0}, (320, 180)),
        ({"downscale_factor": 1000.0}, (1, 1)),
    ],
)
def test_one_side_of_a_picture_follows_the_other(
    given: dict[str, Any], size: tuple[int, int]
) -> None:
    assert CameraChoice(**given).size(1280, 720) == size


def test_a_training_camera_must_be_there(one_blob_ply: Path, tmp_path: Path) -> None:
    camera = CameraChoice(training_camera=0)
    with pytest.raises(CameraError, match="without training cameras"):
        export(choice(one_blob_ply), camera, Targets(tmp_path / "a.png"), RENDER)
    assert not (tmp_path / "a.png").exists()
