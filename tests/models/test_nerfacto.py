"""Nerfacto: what is read of nerfstudio's folders draws what an independent model in torch draws."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.fitting.hash_torch import TorchGrid
from benchmarks.fitting.nerfacto_files import checkpoint, config_text, write_run
from benchmarks.fitting.nerfacto_torch import Nerfacto, NerfactoSettings, Proposal, fit_nerfacto
from benchmarks.fitting.posed_rays import PosedRays, Similarity, camera_rays
from scene_store.models import gridnerf, hash_grids, instant_ngp, nerf, nerfacto
from scene_store.models.field_checks import require_valid
from scene_store.models.nerfacto_config import MAX_CONFIG_BYTES, read_config
from splat.camera import Camera
from splat.errors import SceneFormatError, SceneNotFoundError
from splat.fields import Contraction, ProposalSampler, Spacing
from tests.models.field_engine import drawn
from tests.models.field_pictures import picture, psnr_db

SMALL = NerfactoSettings(
    hidden_dim=16,
    hidden_dim_color=32,
    num_levels=5,
    base_res=8,
    max_res=96,
    log2_hashmap_size=11,
    appearance_embed_dim=4,
    proposals=(
        Proposal(max_res=48, num_levels=3, log2_hashmap_size=10),
        Proposal(max_res=64, num_levels=5, log2_hashmap_size=10),
    ),
    num_proposal_samples_per_ray=(24, 16),
    num_nerf_samples_per_ray=12,
    far_plane=6.0,
    num_images=5,
    average_init_density=2.0,
)
LINEAR = tuple(replace(proposal, use_linear=True) for proposal in SMALL.proposals)
VARIANTS = {
    "torch": SMALL,
    "torch of 0.3": replace(SMALL, version="0.3"),
    "tcnn": replace(SMALL, implementation="tcnn"),
    "tcnn of 0.3": replace(SMALL, implementation="tcnn", version="0.3"),
    "tcnn of 0.2": replace(SMALL, implementation="tcnn", version="0.2"),
    "linear proposals": replace(SMALL, proposals=LINEAR),
    "linear proposals of tcnn": replace(SMALL, implementation="tcnn", proposals=LINEAR),
    "one proposal network, white": replace(
        SMALL, use_same_proposal_network=True, background_color="white", appearance_embed_dim=0
    ),
    "a box, black, no appearance, one even proposal": replace(
        SMALL,
        disable_scene_contraction=True,
        scene_scale=1.5,
        background_color="random",
        use_average_appearance_embedding=False,
        proposal_initial_sampler="uniform",
        num_proposal_iterations=1,
    ),
}


def lively(settings: NerfactoSettings, seed: int = 3) -> Nerfacto:
    """A model of parameters so large that everything in it matters."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Nerfacto(settings)
    with torch.no_grad():
        for name, values in model.named_parameters():
            is_network = ".layers." in name or "mlp_head" in name or "linear" in name
            spread = 1.5 * float(values.std()) if is_network and values.numel() > 1 else 0.6
            values.copy_(spread * torch.randn(values.shape, generator=generator))
    return model


def cameras_around(width: int = 13, height: int = 9) -> list[Camera]:
    """Two that look at the middle, one of them inside of what is not contracted."""
    places = ((1.3, 0.4, 0.6), (-0.2, -0.5, 0.3))
    middle, up = (0.0, 0.1, 0.0), (0.0, 0.0, 1.0)
    return [
        Camera.look_at(place, middle, up, fov_y_rad=0.9, width=width, height=height, near=1e-4)
        for place in places
    ]


def rays_around(width: int = 13, height: int = 9) -> PosedRays:
    return camera_rays(cameras_around(width, height))


def of_oracle(model: Nerfacto, rays: PosedRays) -> np.ndarray:
    """Its picture in float64; the model is float32 again afterwards."""
    with torch.no_grad():
        colors, _ = model.double()(rays.origins.double(), unit(rays))
    model.float()
    return np.asarray(colors.numpy())


def unit(rays: PosedRays) -> torch.Tensor:
    return functional.normalize(rays.directions.double(), dim=-1)


@pytest.mark.parametrize("name", VARIANTS)
def test_draws_what_the_oracle_draws(name: str, tmp_path: Path) -> None:
    model, rays = lively(VARIANTS[name]), rays_around()
    write_run(model, tmp_path)
    field = nerfacto.read_field(tmp_path)
    require_valid(field)
    expected = of_oracle(model, rays)
    assert expected.std() > 0.01  # there is something to see
    drawn = picture(field, rays.origins.double().numpy(), unit(rays).numpy())
    assert psnr_db(drawn, expected) > 90


@pytest.mark.parametrize("name", ["torch", "tcnn", "one proposal network, white"])
def test_engine_draws_what_the_oracle_draws(name: str, tmp_path: Path) -> None:
    model = lively(VARIANTS[name])
    write_run(model, tmp_path)
    colors = drawn([nerfacto.read_field(tmp_path)], cameras_around())
    assert psnr_db(colors, of_oracle(model, rays_around())) > 60


def test_settings_come_from_the_files(tmp_path: Path) -> None:
    settings = VARIANTS["a box, black, no appearance, one even proposal"]
    world = Similarity(np.array([1.0, 2.0, 3.0]), 0.25)
    write_run(lively(settings), tmp_path, world)
    field = nerfacto.read_field(tmp_path)
    assert (field.kind, field.near, field.far, field.up) == ("Nerfacto", 0.0, 6.0, (0, 0, 1))
    assert (field.background, field.last_sample_background) == ((0, 0, 0), False)
    assert isinstance(field.sampler, ProposalSampler)
    assert (field.sampler.counts, field.sampler.samples) == ((24,), 12)
    assert field.sampler.spacing is Spacing.UNIFORM
    assert field.space.contraction is Contraction.NONE
    np.testing.assert_allclose([field.space.lo, field.space.hi], [[-1.5] * 3, [1.5] * 3])
    assert any("0.25" in note for note in field.notes)
    contracted = replace(settings, disable_scene_contraction=False, background_color="last_sample")
    write_run(lively(contracted), tmp_path)
    field = nerfacto.read_field(tmp_path)
    assert (field.background, field.last_sample_background) == (None, True)
    assert field.space.contraction is Contraction.LINF and np.isinf(field.space.hi).all()


def test_newest_checkpoint_of_a_folder(tmp_path: Path) -> None:
    old, new = lively(SMALL, seed=1), lively(SMALL, seed=2)
    write_run(new, tmp_path, step=20_000)
    path = write_run(old, tmp_path, step=2_000)
    rays = rays_around(5, 3)
    at = rays.origins.double().numpy(), unit(rays).numpy()
    assert psnr_db(picture(nerfacto.read_field(tmp_path), *at), of_oracle(new, rays)) > 90
    assert psnr_db(picture(nerfacto.read_field(path), *at), of_oracle(old, rays)) > 90
    readers = (gridnerf, instant_ngp, nerf, nerfacto)
    for place in (tmp_path, path, path.parent):
        assert [reader for reader in readers if reader.recognizes(place)] == [nerfacto]


def test_checkpoint_alone_has_nerfstudio_s_own_settings(tmp_path: Path) -> None:
    proposals = tuple(replace(p, log2_hashmap_size=8) for p in NerfactoSettings().proposals)
    settings = NerfactoSettings(log2_hashmap_size=8, proposals=proposals, appearance_embed_dim=0)
    path = shutil.copy(write_run(Nerfacto(settings), tmp_path / "run"), tmp_path)
    field = nerfacto.read_field(Path(path))
    require_valid(field)
    assert any("config.yml" in note for note in field.notes)
    assert isinstance(field.sampler, ProposalSampler)
    assert (field.sampler.counts, field.sampler.samples) == ((256, 96), 48)


def test_trained_in_parallel(tmp_path: Path) -> None:
    model, rays = lively(SMALL), rays_around(5, 3)
    path = write_run(model, tmp_path)
    saved = checkpoint(model)
    saved["pipeline"] = {
        name.replace("_model.", "module._model.module."): value
        for name, value in saved["pipeline"].items()
    }
    torch.save(saved, path)
    drawn = picture(nerfacto.read_field(path), rays.origins.double().numpy(), unit(rays).numpy())
    assert psnr_db(drawn, of_oracle(model, rays)) > 90


@pytest.mark.parametrize("levels", [1, 2, 5, 8, 16])
@pytest.mark.parametrize(("base", "finest"), [(16, 2048), (16, 128), (16, 256), (12, 1024)])
def test_resolutions_are_those_of_torch(levels: int, base: int, finest: int) -> None:
    """Their float32 powers decide whether 2048 stays 2048."""
    grid = TorchGrid(levels, base, finest, 4, 1)
    ours = [level.scale for level in hash_grids.torch_levels(levels, base, finest, 4)]
    assert ours == grid.scalings.tolist()


def test_fitting_comes_nearer() -> None:
    torch.manual_seed(0)
    model, rays = Nerfacto(SMALL), rays_around()
    seen = PosedRays(rays.origins, rays.directions, (0.5 + 0.5 * rays.directions).clamp(0, 1))
    first = fit_nerfacto(model, seen, steps=1, batch=64)
    assert fit_nerfacto(model, seen, steps=15, batch=64) < 0.7 * first


# ---- Bad files ------------------------------------------------------------------------------


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["pipeline"].pop(name)


def _with(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["pipeline"].__setitem__(name, value)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no pipeline": (lambda saved: saved.pop("pipeline"), "lacks the weights 'pipeline'"),
    "no table": (_without("_model.field.mlp_base.model.0.hash_table"), "lacks the weights field"),
    "no bias": (_without("_model.field.mlp_head.layers.1.bias"), "mlp_head.layers.1.bias"),
    "no head": (_without("_model.field.mlp_head.layers.0.weight"), "mlp_head.layers.0.weight"),
    "a table too small": (
        _with("_model.field.mlp_base.model.0.hash_table", torch.zeros(100, 2)),
        "its 5 levels have 10240 entries",
    ),
    "a table of nothing": (
        _with("_model.field.mlp_base.model.0.hash_table", torch.full((10240, 2), torch.nan)),
        "not finite",
    ),
    "a head too wide": (
        _with("_model.field.mlp_head.layers.0.weight", torch.zeros(32, 99)),
        "field.mlp_head: takes 99 values, but it is given 35",
    ),
    "layers that do not fit": (
        _with("_model.field.mlp_head.layers.1.weight", torch.zeros(32, 7)),
        "layer 1 takes 7 values",
    ),
    "absurd resolution": (_with("_model.field.max_res", torch.tensor(10**9)), "max_res is 10000"),
    "absurd table": (
        _with("_model.field.log2_hashmap_size", torch.tensor(40)),
        "log2_hashmap_size is 40, not from 1 to 30",
    ),
    "large table": (
        _with("_model.field.log2_hashmap_size", torch.tensor(30)),
        "its 5 levels have 5368709120 entries",
    ),
    "Gaussians": (
        lambda saved: saved.update(pipeline={"_model.gauss_params.means": torch.zeros(4, 3)}),
        "ns-export gaussian-splat",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoint(name: str, tmp_path: Path) -> None:
    path = write_run(lively(SMALL), tmp_path)
    saved = checkpoint(lively(SMALL))
    change, problem = BROKEN[name]
    change(saved)
    torch.save(saved, path)
    with pytest.raises(SceneFormatError, match=re.escape(problem)) as caught:
        nerfacto.read_field(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_flat_vector_that_does_not_fit(tmp_path: Path) -> None:
    path = write_run(lively(VARIANTS["tcnn"]), tmp_path)
    saved = checkpoint(lively(VARIANTS["tcnn"]))
    saved["pipeline"]["_model.field.mlp_base.model.params"] = torch.zeros(5000)
    torch.save(saved, path)
    with pytest.raises(SceneFormatError, match="5000 values for a grid and a network"):
        nerfacto.read_field(tmp_path)
    saved["pipeline"]["_model.field.mlp_base.model.params"] = torch.zeros(20_480 + 777)
    torch.save(saved, path)
    with pytest.raises(SceneFormatError, match="what is left is no network"):
        nerfacto.read_field(tmp_path)


def test_half_of_a_checkpoint(tmp_path: Path) -> None:
    path = write_run(lively(SMALL), tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneFormatError):
        nerfacto.read_field(tmp_path)


def test_folder_without_checkpoint(tmp_path: Path) -> None:
    assert not nerfacto.recognizes(tmp_path)
    (tmp_path / "nerfstudio_models").mkdir()
    assert not nerfacto.recognizes(tmp_path)
    with pytest.raises(SceneNotFoundError, match="no checkpoint"):
        nerfacto.read_field(tmp_path)


def test_nothing_in_settings_is_executed(tmp_path: Path) -> None:
    write_run(lively(SMALL), tmp_path)
    config, witness = tmp_path / "config.yml", tmp_path / "witness"
    call = f"!!python/object/apply:os.system ['touch {witness}']"
    config.write_text(config.read_text().replace("vis: viewer", f"vis: {call}"))
    assert "os.system" in config.read_text()
    assert nerfacto.read_field(tmp_path).kind == "Nerfacto"
    inside = config_text(SMALL).replace("num_levels: 5", f"num_levels: {call}")
    config.write_text(inside)
    with pytest.raises(SceneFormatError, match="num_levels is ''"):
        nerfacto.read_field(tmp_path)
    assert not witness.exists()


BOMB = "\n".join(
    ["a0: &a0 {x: 1}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
)


def changed_config(old: str, new: str) -> str:
    """The small model's settings with other words in one place."""
    text = config_text(SMALL)
    assert text.count(old) >= 1
    return text.replace(old, new)


BAD_CONFIGS = {
    "no YAML": ("a: [1, 2", "is no YAML"),
    "a list": ("- 1\n- 2", "holds no settings"),
    "no pipeline": ("method_name: nerfacto", "has no settings 'pipeline.model'"),
    "merged for ever": (BOMB, "has no settings 'pipeline.model'"),
    "nested for ever": ("a: " + "[" * 3_000, "nested too deep"),
    "too long": ("a: " + "x" * MAX_CONFIG_BYTES, "is larger than"),
    "no model": (
        changed_config("!!python/name:nerfstudio.models.nerfacto.NerfactoModel ''", "1"),
        "does not say which model",
    ),
    "of Gaussians": (
        changed_config("nerfacto.NerfactoModel", "splatfacto.SplatfactoModel"),
        "the model is SplatfactoModel, not Nerfacto",
    ),
    "resolution of 10^9": (
        changed_config("max_res: 96", "max_res: 1000000000"),
        "max_res is '1000000000', not a whole number from 1 to 16777216",
    ),
    "2^40 entries": (
        changed_config("log2_hashmap_size: 11", "log2_hashmap_size: 40"),
        "log2_hashmap_size is '40'",
    ),
    "a million samples": (
        changed_config("[24, 16]", "[1000000, 16]"),
        "num_proposal_samples_per_ray is '1000000'",
    ),
    "no density": (
        changed_config("average_init_density: 2.0", "average_init_density: .nan"),
        "average_init_density is '.nan'",
    ),
    "an unknown background": (
        changed_config("last_sample", "plaid"),
        "background_color is 'plaid', not one of",
    ),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_settings(name: str, tmp_path: Path) -> None:
    text, problem = BAD_CONFIGS[name]
    path = tmp_path / "config.yml"
    path.write_text(text)
    with pytest.raises(SceneFormatError, match=re.escape(problem)) as caught:
        read_config(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"scale": 0.5, "transform": [[1, 0, 0, 0]] * 3}), "scaled by 0.5"),
        ('{"scale": 0.5, "transform": [[1', "cannot be read"),
        (json.dumps({"scale": 0.5, "transform": [[1]]}), "holds no transform"),
    ],
)
def test_transform_of_the_data_set_is_told(text: str, said: str, tmp_path: Path) -> None:
    write_run(lively(SMALL), tmp_path)
    (tmp_path / "dataparser_transforms.json").write_text(text)
    assert any(said in note for note in nerfacto.read_field(tmp_path).notes)
