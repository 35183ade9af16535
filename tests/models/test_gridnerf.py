"""GridNeRF: what is read of LandMark's checkpoints draws what an independent model draws."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fitting.gridnerf_files import landmark_checkpoint, write_landmark, write_system
from benchmarks.fitting.gridnerf_torch import GridNerf, GridNerfSettings, fit_gridnerf
from benchmarks.fitting.posed_rays import PosedRays, camera_rays
from scene_store.models import gridnerf, gridnerf_blocks, instant_ngp, nerf, nerfacto
from scene_store.models.field_bytes import rows_block
from scene_store.models.field_checks import require_valid
from scene_store.models.field_chunks import block_of
from scene_store.models.gridnerf import open_model, read_field, read_fields
from scene_store.models.gridnerf_blocks import coarse_planes, partition
from splat.camera import Camera
from splat.errors import SceneFormatError, SceneNotFoundError
from splat.fields import BoxSampler, Field, PlaneEncoding, Rays
from splat.rows import Rows
from tests.models.field_engine import drawn
from tests.models.field_numpy import network_at
from tests.models.field_pictures import cube, picture, psnr_db

SMALL = GridNerfSettings(
    grid_size=(12, 10, 8),
    res_mode=(1, 2),
    n_lamb_sigma=3,
    n_lamb_sh=4,
    data_dim_color=5,
    feature_channels=16,
    near_far=(0.2, 3.5),
    lb=(-1.0, -0.8, -0.1),
)
MASK_THRESHOLD = 0.02  # of a step's opacity: leaves holes in what is lively
VARIANTS = {
    "as configured for MatrixCity": SMALL,
    "a sum, softplus, no biases, black": replace(
        SMALL,
        nonlinear_density=False,
        fea2dense_act="softplus",
        density_shift=-1.0,
        bias_enable=False,
        white_bkgd=False,
    ),
    "three planes": replace(SMALL, ndims=3, view_pe=0, fea_pe=1),
    "appearances and the NeRF branch": replace(SMALL, encode_app=True, run_nerf=True, view_pe=4),
    "a mask": replace(SMALL, alpha_mask=True),
}


def lively(settings: GridNerfSettings, seed: int = 5) -> GridNerf:
    """A model of parameters so large that everything in it matters."""
    torch.manual_seed(seed)
    model = GridNerf(settings)
    with torch.no_grad():
        for name, values in model.named_parameters():
            spread = 0.5 if "plane" in name or "_line" in name else 2 * float(values.std())
            values.copy_(spread * torch.randn(values.shape))
    if settings.alpha_mask:
        model.update_mask((19, 18, 17), threshold=MASK_THRESHOLD)
        assert model.mask is not None
        assert 0.2 < model.mask.float().mean() < 0.8
    return model


def cameras_around(width: int = 13, height: int = 9) -> list[Camera]:
    """One above the box and one in it."""
    places = ((1.5, 0.9, 1.1), (-0.4, -0.5, 0.6))
    middle, up = (0.1, 0.0, 0.3), (0.0, 0.0, 1.0)
    return [
        Camera.look_at(place, middle, up, fov_y_rad=0.9, width=width, height=height, near=1e-4)
        for place in places
    ]


def rays_around(width: int = 13, height: int = 9) -> PosedRays:
    return camera_rays(cameras_around(width, height))


def of_oracle(model: GridNerf, rays: PosedRays) -> np.ndarray:
    """Its picture in float64; the model is float32 again afterwards."""
    model.double()
    model.lo, model.hi = model.lo.double(), model.hi.double()
    with torch.no_grad():
        colors, _ = model(rays.origins.double(), rays.directions.double())
    model.float()
    model.lo, model.hi = model.lo.float(), model.hi.float()
    return np.asarray(colors.numpy())


def of_field(field: Field, rays: PosedRays) -> np.ndarray:
    return picture(field, rays.origins.double().numpy(), rays.directions.double().numpy())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("trainer", ["LandMark", "LandMarkSystem"])
def test_draws_what_the_oracle_draws(name: str, trainer: str, tmp_path: Path) -> None:
    settings = VARIANTS[name]
    model, rays = lively(settings), rays_around()
    if trainer == "LandMark":
        write_landmark(model, tmp_path / "town.th")
        if not settings.white_bkgd:
            (tmp_path / "args--20240131-153111.txt").write_text("white_bkgd = False\n")
    else:
        model.mask = None  # it is kept as an object of a class, which is not read
        write_system(model, tmp_path)
    readers = (gridnerf, instant_ngp, nerf, nerfacto)
    assert [reader for reader in readers if reader.recognizes(tmp_path)] == [gridnerf]
    field = read_field(tmp_path)
    require_valid(field)
    expected = of_oracle(model, rays)
    assert expected.std() > 0.02
    assert psnr_db(of_field(field, rays), expected) > 70


@pytest.mark.parametrize("name", VARIANTS)
def test_engine_draws_what_the_oracle_draws(name: str, tmp_path: Path) -> None:
    model = lively(replace(VARIANTS[name], white_bkgd=True))
    field = read_field(write_landmark(model, tmp_path / "town.th"))
    # At the mask's faces a sample more or less is a matter of rounding.
    least = 50 if model.mask is not None else 60
    assert psnr_db(drawn([field], cameras_around()), of_oracle(model, rays_around())) > least


def test_engine_draws_blocks_as_the_whole(tmp_path: Path) -> None:
    whole = read_field(write_landmark(lively(VARIANTS["a mask"]), tmp_path / "town.th"))
    cameras = cameras_around()
    np.testing.assert_array_equal(drawn(partition(whole, 3, 2), cameras), drawn([whole], cameras))


def test_engine_draws_what_was_trained_in_blocks(tmp_path: Path) -> None:
    model = lively(replace(SMALL, plane_division=(3, 2)))
    fields = read_fields(write_landmark(model, tmp_path / "town-merged-stack.th"))
    assert psnr_db(drawn(fields, cameras_around()), of_oracle(model, rays_around())) > 60


def test_streams_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_landmark(lively(SMALL), tmp_path / "town.th")
    monkeypatch.setattr(gridnerf_blocks, "BLOCK_BYTES", 4096)
    whole = read_field(path)
    nx, ny = gridnerf_blocks.division_of(whole)
    assert nx * ny >= texels(whole) * 4 / 4096
    source = open_model(path).source
    try:
        assert f"{nx * ny} blocks" in source.meta.format_name
        assert len(source.tree.count) == 2 * nx * ny  # each with a coarse one
        fields = []
        for chunk in range(nx * ny, 2 * nx * ny):
            encoded = source.read(chunk, lambda: False)
            assert encoded is not None
            rows = source.decode(chunk, encoded)
            assert isinstance(rows, Rows)
            fields.append(rows_block(rows).field)
    finally:
        source.close()
    cameras = cameras_around(5, 3)
    np.testing.assert_array_equal(drawn(fields, cameras), drawn([whole], cameras))


def test_blocks_that_are_read_together_parse_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_landmark(lively(SMALL), tmp_path / "town.th")
    monkeypatch.setattr(gridnerf_blocks, "BLOCK_BYTES", 4096)
    together, times = threading.Barrier(4), []
    cut = gridnerf_blocks.block_of_planes

    def counted_read(*arguments: Any, **named: Any) -> tuple[Field, ...]:
        times.append(1)
        return read_fields(*arguments, **named)

    def cut_together(*arguments: Any) -> Field:
        together.wait(20.0)  # all of them hold the file
        return cut(*arguments)

    monkeypatch.setattr(gridnerf, "read_fields", counted_read)
    source = open_model(path).source
    assert len(times) == 1
    monkeypatch.setattr(gridnerf, "block_of_planes", cut_together)
    chunks = np.flatnonzero(source.tree.is_leaf)[:4].tolist()
    with ThreadPoolExecutor(4) as threads:
        assert all(list(threads.map(source.read, chunks)))
    assert len(times) == 2
    with ThreadPoolExecutor(4) as threads:  # in between nothing of it was kept
        assert all(list(threads.map(source.read, chunks)))
    assert len(times) == 3


def test_coarse_block_is_like_the_block(tmp_path: Path) -> None:
    """Of smooth planes, that a coarse grid can hold."""
    model = lively(replace(SMALL, grid_size=(65, 57, 8), res_mode=(1,)))
    with torch.no_grad():
        for planes in (model.density_plane, model.app_plane):
            y, x = torch.meshgrid(torch.linspace(0, 1, 57), torch.linspace(0, 1, 65), indexing="ij")
            planes[0].copy_(torch.sin(2 * x + 3 * y) * torch.ones_like(planes[0]))
    whole = read_field(write_landmark(model, tmp_path / "town.th"))
    cameras = cameras_around()
    blocks = partition(whole, 2, 2)
    coarse = [coarse_planes(block_of(block)) for block in blocks]
    assert max(texels(c.field) for c in coarse) < 0.05 * texels(whole)
    assert {round(c.error, 6) for c in coarse} == {0.25}  # 2 units in 8 cells
    picture_of = drawn([c.field for c in coarse], cameras)
    assert psnr_db(picture_of, drawn([whole], cameras)) > 25


def test_mask_that_is_an_object_is_left_out(tmp_path: Path) -> None:
    field = read_field(write_system(lively(VARIANTS["a mask"]), tmp_path))
    assert isinstance(field.sampler, BoxSampler)
    assert field.sampler.mask is None


def test_settings_come_from_the_file(tmp_path: Path) -> None:
    field = read_field(write_landmark(lively(SMALL), tmp_path / "town.th"))
    assert (field.kind, field.rays) == ("GridNeRF", Rays.RAW)
    assert (field.near, field.far, field.space.density_scale) == (0.2, 3.5, 25.0)
    assert (field.background, field.up) == ((1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    assert any("background" in note for note in field.notes)
    assert isinstance(field.sampler, BoxSampler)
    model = GridNerf(SMALL)
    assert field.sampler.step == pytest.approx(model.step, rel=1e-6)
    assert field.sampler.samples == model.samples
    assert field.sampler.color_weight == pytest.approx(1e-3)
    assert field.sampler.mask is None
    noted = read_field(
        write_landmark(lively(VARIANTS["appearances and the NeRF branch"]), tmp_path / "two.th")
    ).notes
    assert any("grid branch" in note for note in noted)
    assert any("appearance of the first" in note for note in noted)


def test_octaves_that_are_not_written_down(tmp_path: Path) -> None:
    for view, feature in ((2, 2), (0, 0), (6, 6), (4, 1)):
        model = lively(replace(SMALL, data_dim_color=27, view_pe=view, fea_pe=feature))
        write_system(model, tmp_path)
        next(tmp_path.glob("args-*.txt")).write_text("white_bkgd = True\n")
        rays = rays_around(5, 3)
        assert psnr_db(of_field(read_field(tmp_path), rays), of_oracle(model, rays)) > 70


@pytest.mark.parametrize("trainer", ["LandMark", "LandMarkSystem"])
def test_trained_in_blocks(trainer: str, tmp_path: Path) -> None:
    settings = replace(SMALL, plane_division=(3, 2))
    model = lively(settings)
    if trainer == "LandMark":
        path = write_landmark(model, tmp_path / "town-merged-stack.th")
    else:
        path = write_system(model, tmp_path)
    fields = read_fields(path)
    assert len(fields) == 6
    with pytest.raises(SceneFormatError, match="has 6 blocks"):
        read_field(path)
    for field in fields:
        require_valid(field)
    assert len({id(field.sampler) for field in fields}) == 1
    assert isinstance(fields[0].sampler, BoxSampler)
    assert fields[0].sampler.step == pytest.approx(model.step, rel=1e-6)  # of the whole
    volume = sum(float(np.prod(field.space.hi - field.space.lo)) for field in fields)
    assert volume == pytest.approx(2.0 * 1.8 * 1.0)
    points = np.random.default_rng(0).uniform(model.lo.numpy(), model.hi.numpy(), (300, 3))
    views = np.tile([0.3, -0.2, 1.0], (300, 1))
    with torch.no_grad():
        expected = model.density(torch.tensor(points, dtype=torch.float32)).numpy()
        colors = model.color(torch.tensor(points).float(), torch.tensor(views).float()).numpy()
    found, seen = np.full(300, np.nan), np.full((300, 3), np.nan)
    for field in fields:
        x, inside = cube(field.space, points)
        found[inside], seen[inside] = network_at(field.network, x[inside], views[inside])
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(expected.max()))
    np.testing.assert_allclose(seen, colors, atol=1e-4)


@pytest.mark.parametrize("name", ["as configured for MatrixCity", "three planes"])
@pytest.mark.parametrize(("nx", "ny"), [(1, 1), (2, 3), (5, 1)])
def test_partition_has_the_values_of_the_whole(name: str, nx: int, ny: int, tmp_path: Path) -> None:
    whole = read_field(write_landmark(lively(VARIANTS[name]), tmp_path / "town.th"))
    blocks = partition(whole, nx, ny)
    assert len(blocks) == nx * ny
    generator = np.random.default_rng(1)
    for block in blocks:
        require_valid(block)
        points = generator.uniform(block.space.lo, block.space.hi, (64, 3))
        points[:8] = [block.space.lo if n & 1 else block.space.hi for n in range(8)]
        views = generator.normal(size=(64, 3))
        x, _ = cube(whole.space, points)
        np.testing.assert_array_equal(x, cube(block.space, points)[0])
        for a, b in zip(
            network_at(block.network, x, views), network_at(whole.network, x, views), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert blocks[0].space.lo.tolist() == whole.space.lo.tolist()
    assert blocks[-1].space.hi.tolist() == whole.space.hi.tolist()
    if nx * ny > 1:
        assert max(map(texels, blocks)) < texels(whole)
    with pytest.raises(ValueError, match="0 x 3 blocks"):
        partition(whole, 0, 3)


def test_partition_of_a_partition(tmp_path: Path) -> None:
    whole = read_field(write_landmark(lively(SMALL), tmp_path / "town.th"))
    at_once = partition(whole, 4, 1)[1]
    encoding = at_once.network.position
    assert isinstance(encoding, PlaneEncoding)
    again = partition(at_once, 1, 1)[0].network.position
    assert isinstance(again, PlaneEncoding)
    assert again.windows == encoding.windows
    assert all(np.array_equal(a, b) for a, b in zip(again.planes, encoding.planes, strict=True))


def texels(field: Field) -> int:
    parts = (field.network.position, field.network.color_position)
    return sum(p.size for part in parts if isinstance(part, PlaneEncoding) for p in part.planes)


def test_fitting_comes_nearer() -> None:
    torch.manual_seed(0)
    model, rays = GridNerf(replace(SMALL, run_nerf=True)), rays_around()
    seen = PosedRays(rays.origins, rays.directions, (0.3 + 0.3 * rays.directions).clamp(0, 1))
    first = fit_gridnerf(model, seen, steps=1, batch=32)
    assert fit_gridnerf(model, seen, steps=30, batch=32) < 0.8 * first


# ---- Which file -----------------------------------------------------------------------------


def test_checkpoint_of_a_folder(tmp_path: Path) -> None:
    assert not gridnerf.recognizes(tmp_path)
    with pytest.raises(SceneNotFoundError, match="no checkpoint"):
        read_field(tmp_path)
    saved = landmark_checkpoint(lively(SMALL))
    torch.save({"optimizer": {"state": {}}}, tmp_path / "town_opt.th")
    weights = {name: v for name, v in saved["state_dict"].items() if "density" not in name}
    torch.save({**saved, "state_dict": weights}, tmp_path / "town-merged-stack-wo_plane.th")
    assert not gridnerf.recognizes(tmp_path)
    sub = write_landmark(lively(SMALL), tmp_path / "town-sub0.th")
    for path in (tmp_path, sub):
        assert gridnerf.recognizes(path)
        with pytest.raises(SceneFormatError, match="one part of a model"):
            read_field(path)
    write_landmark(lively(SMALL), tmp_path / "town-merged.th")
    assert read_field(tmp_path).kind == "GridNeRF"
    write_landmark(lively(SMALL), tmp_path / "other-merged.th")
    with pytest.raises(SceneNotFoundError, match="holds 2 checkpoints"):
        read_field(tmp_path)


def test_gaussians_of_landmarksystem_are_none(tmp_path: Path) -> None:
    write_system(lively(SMALL), tmp_path)
    (tmp_path / "point_cloud.ply").touch()
    assert not gridnerf.recognizes(tmp_path)


# ---- Bad files ------------------------------------------------------------------------------


def _put(section: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved[section].__setitem__(name, value)


def _drop(section: str, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved[section].pop(name)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no weights": (lambda saved: saved.pop("state_dict"), "lacks the weights 'state_dict'"),
    "no arguments": (lambda saved: saved.pop("kwargs"), "lacks its arguments 'kwargs'"),
    "no box": (_drop("kwargs", "aabb"), "lacks aabb"),
    "an empty box": (_put("kwargs", "aabb", torch.zeros(2, 3)), "has no volume"),
    "a box of nothing": (_put("kwargs", "aabb", torch.full((2, 3), torch.nan)), "its aabb is not"),
    "no planes": (_drop("state_dict", "app_plane.0"), "lacks the weights app_plane.0"),
    "no line": (_drop("state_dict", "density_line.1"), "2 planes, but 1 lines (density)"),
    "no basis": (_drop("state_dict", "basis_mat.weight"), "lacks the weights basis_mat.weight"),
    "no network": (_drop("state_dict", "renderModule.mlp.2.weight"), "renderModule.mlp.2.weight"),
    "another width": (
        _put("state_dict", "renderModule.mlp.0.weight", torch.zeros(16, 9)),
        "renderModule takes 9 values, but 5 features",
    ),
    "a basis too narrow": (
        _put("state_dict", "basis_mat.weight", torch.zeros(5, 3)),
        "the colour's basis does not fit",
    ),
    "a plane of another kind": (
        _put("state_dict", "density_plane.0", torch.zeros(3, 10, 12)),
        "density_plane.0: shape",
    ),
    "values that are none": (
        _put("state_dict", "app_line.0", torch.full((1, 4, 8, 1), math.inf)),
        "app_plane.0: values that are not finite",
    ),
    "an absurd grid": (_put("kwargs", "gridSize", [10**9, 10, 8]), "gridSize"),
    "no steps": (_put("kwargs", "step_ratio", 0.0), "steps of 0"),
    "too many steps": (_put("kwargs", "step_ratio", 1e-7), "samples"),
    "an unknown density": (_put("kwargs", "fea2denseAct", "swish"), "'swish' of densities"),
    "a number that is none": (_put("kwargs", "distance_scale", "much"), "distance_scale is no"),
    "a mask without bits": (
        lambda saved: saved.update({"alphaMask.shape": (99, 99, 99)}),
        "has a mask of fewer than 970,299 bits",
    ),
    "an absurd mask": (
        lambda saved: saved.update({"alphaMask.shape": (1 << 20, 2, 2)}),
        "has a mask without a shape",
    ),
    "blocks without a division": (
        lambda saved: saved["state_dict"].update(
            {
                name: torch.stack([value] * 2, 2 if "plane" in name else 3)[..., 0]
                if "line" in name
                else torch.stack([value] * 2, 2)
                for name, value in saved["state_dict"].items()
                if "_plane" in name
            }
        ),
        "with a line of",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoint(name: str, tmp_path: Path) -> None:
    path = tmp_path / "town.th"
    change, problem = BROKEN[name]
    model = lively(VARIANTS["a mask"])
    saved = landmark_checkpoint(model)
    saved["state_dict"] = dict(saved["state_dict"])
    change(saved)
    torch.save(saved, path)
    with pytest.raises(SceneFormatError, match=re.escape(problem)) as caught:
        read_field(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_of_a_checkpoint(tmp_path: Path) -> None:
    path = write_landmark(lively(SMALL), tmp_path / "town.th")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneFormatError):
        read_field(path)


class _Witness:
    """Leaves a file behind if a pickle of it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_is_not_executed(tmp_path: Path) -> None:
    path, witness = tmp_path / "town.th", tmp_path / "witness"
    saved = landmark_checkpoint(lively(SMALL))
    saved["kwargs"]["aabb"] = _Witness(witness)
    torch.save(saved, path)
    with pytest.raises(SceneFormatError, match="not loaded"):
        read_field(path)
    assert not witness.exists()


def test_settings_beside_are_data(tmp_path: Path) -> None:
    write_system(lively(SMALL), tmp_path)
    settings = next(tmp_path.glob("args-*.txt"))
    settings.write_text("distance_scale = __import__('os').getpid()\n")
    with pytest.raises(SceneFormatError, match="distance_scale is no number"):
        read_field(tmp_path)
