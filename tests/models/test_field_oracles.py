"""Pictures of Instant-NGP and plain NeRFs, from files to pixels, against their oracles in torch.

The oracles know nothing of this project but cameras; their arithmetic is float64.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rendering.base import RasterSettings
from rendering.models.fields import FieldRasterizer
from rendering.native.cpu import NativeRasterizer
from scene_store.models import instant_ngp, nerf
from scene_store.models.field_bytes import block_rows
from scene_store.models.field_chunks import block_of
from splat.camera import Camera
from splat.fields import Field, FieldModel
from tests.models import instant_ngp_torch, nerf_torch
from tests.models.instant_ngp_torch import ngp_scene, save_snapshot
from tests.models.nerf_torch import Sampling, load_real, networks, save_flexible, save_original
from tests.models.town_views import block_cameras, moved_camera, town_block

BAR_DB = 50.0
WHITE = (1.0, 1.0, 1.0)
Picture = NDArray[np.float64]


def picture(field: Field, camera: Camera) -> tuple[Picture, Picture]:
    """Colours over white [H, W, 3] and opacities [H, W] as the viewer draws them."""
    model = FieldModel((field.kind,), field.background)
    rasterizer = FieldRasterizer(model, NativeRasterizer())
    scene = rasterizer.prepare(block_rows(block_of(field)))
    image = rasterizer.render(scene, camera, RasterSettings(background=WHITE))
    assert image.color is not None
    return image.color.astype(np.float64), image.alpha.astype(np.float64)


def assert_same(field: Field, camera: Camera, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    color, alpha = picture(field, camera)
    assert float(expected[0].std()) > 0.03  # it shows something
    for found, wanted in ((color, expected[0].numpy()), (alpha, expected[1].numpy())):
        error = float(np.mean((found - wanted) ** 2))
        assert -10.0 * np.log10(error + 1e-20) >= BAR_DB


def camera_of(number: int, width: int = 19, height: int = 14) -> Camera:
    """Of the views of the town's block, in a world of which it is two units wide."""
    block = town_block()
    camera = block_cameras(block, 6, width, height, distance=1.6)[number]
    return moved_camera(camera, block.center, block.radius)


@pytest.mark.parametrize(
    ("name", "number"), [("small", 4), ("large-box", 2), ("growth-to-2048", 1), ("latents", 3)]
)
def test_instant_ngp(name: str, number: int, tmp_path: Path) -> None:
    path, scene = tmp_path / "model.msgpack", ngp_scene(name)
    save_snapshot(path, scene.model, scene.world, scene.grid)
    camera = camera_of(number)
    expected = instant_ngp_torch.render(scene.model, camera, scene.world, scene.grid, WHITE)
    assert_same(instant_ngp.read_field(path), camera, expected)


def test_instant_ngp_from_within_and_cropped(tmp_path: Path) -> None:
    path, scene = tmp_path / "model.ingp", ngp_scene("large-box")
    crop = ([-0.6, -1.0, -0.4], [1.3, 1.6, 0.9])
    save_snapshot(path, scene.model, scene.world, scene.grid, crop=crop)
    camera = Camera.look_at(
        (0.1, 0.2, 0.05), (1.0, -0.4, 0.3), (0, 0, 1), fov_y_rad=1.2, width=17, height=13
    )
    corners = (torch.tensor(crop[0]), torch.tensor(crop[1]))
    expected = instant_ngp_torch.render(
        scene.model, camera, scene.world, scene.grid, WHITE, corners
    )
    assert_same(instant_ngp.read_field(path), camera, expected)


@pytest.mark.parametrize("kind", ["flexible", "original"])
def test_plain_nerfs(kind: str, tmp_path: Path) -> None:
    coarse, fine = networks(kind)
    if kind == "flexible":
        save_flexible(tmp_path / "checkpoint1.ckpt", coarse, fine)
        (tmp_path / "config.yml").write_text(
            "dataset: {near: 0.5, far: 4}\n"
            "nerf: {validation: {num_coarse: 24, num_fine: 32, white_background: true}}\n"
        )
        sampling = Sampling(0.5, 4.0, coarse=24, fine=32)
    else:
        save_original(tmp_path / "000200.tar", coarse, fine)
        (tmp_path / "args.txt").write_text("dataset_type = blender\nN_importance = 48\n")
        sampling = Sampling(2.0, 6.0, coarse=64, fine=48)
    camera = camera_of(2)
    expected = nerf_torch.render(coarse, fine, camera, sampling)
    assert_same(nerf.read_field(tmp_path), camera, expected)


@pytest.mark.parametrize("name", ["lego", "chair", "fern"])
def test_real_checkpoints(name: str, data_dir: Path) -> None:
    folder = data_dir / "nerf" / f"{name}-lowres"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    field = nerf.read_field(folder)
    (start,) = field.cameras
    camera = start.resized(16, 13)
    sampling = Sampling(field.near, field.far, 64, 64, field.ndc)
    coarse, fine = load_real(next(folder.glob("*.ckpt")))
    assert_same(field, camera, nerf_torch.render(coarse, fine, camera, sampling))
