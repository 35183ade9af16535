"""Plain NeRF checkpoints: what is read is what the oracle evaluates; what is broken is one line."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scene_store.models.nerf import read_field, recognizes
from splat.errors import SceneFormatError, SceneNotFoundError
from splat.fields import Field, FrequencyEncoding, HierarchicalSampler, Rays, Spacing
from tests.models.field_numpy import evaluate, network_at
from tests.models.nerf_torch import load_real, networks, save_flexible, save_original

KINDS = ("flexible", "original")
SAVE = {"flexible": save_flexible, "original": save_original}
NAMES = {"flexible": "checkpoint199.ckpt", "original": "000200.tar"}
YAML = """
dataset: {type: blender, near: 1.5, far: 7, no_ndc: true}
models: {coarse: {hidden_size: 999, num_layers: 77}}
nerf:
  validation: {num_coarse: 24, num_fine: 40, lindisp: true, white_background: false}
"""


def points_and_directions(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    directions = random.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return random.uniform(-2, 2, (count, 3)), directions


def assert_same(field: Field, coarse: nn.Module, fine: nn.Module | None) -> None:
    points, directions = points_and_directions()
    sampler = field.sampler
    assert isinstance(sampler, HierarchicalSampler)
    last = coarse if fine is None else fine
    density, color = evaluate(field, points, directions)
    assert_values(last, points, directions, density, color)
    assert (sampler.coarse is None) == (fine is None)
    if sampler.coarse is not None:
        density, color = network_at(sampler.coarse, points, directions)
        assert_values(coarse, points, directions, density, color)


def assert_values(
    network: nn.Module, points: np.ndarray, directions: np.ndarray, *found: np.ndarray
) -> None:
    with torch.no_grad():
        color, density = network.float()(
            torch.tensor(points, dtype=torch.float32), torch.tensor(directions, dtype=torch.float32)
        )
    assert float(density.max()) > 1
    np.testing.assert_allclose(found[0], density.numpy(), rtol=1e-3, atol=1e-3 * density.max())
    np.testing.assert_allclose(found[1], color.numpy(), atol=1e-3)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluates_as_the_oracle(kind: str, legacy: bool, tmp_path: Path) -> None:
    coarse, fine = networks(kind)
    path = tmp_path / NAMES[kind]
    SAVE[kind](path, coarse, fine, legacy=legacy)
    assert recognizes(path)
    assert recognizes(tmp_path)
    assert_same(read_field(path), coarse, fine)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_alone_is_its_own_coarse_one(kind: str, tmp_path: Path) -> None:
    coarse, _ = networks(kind)
    SAVE[kind](tmp_path / NAMES[kind], coarse, None)
    assert_same(read_field(tmp_path), coarse, None)


def test_the_newest_checkpoint_of_a_folder_is_read(tmp_path: Path) -> None:
    coarse, fine = networks("flexible")
    save_flexible(tmp_path / "checkpoint99.ckpt", coarse, fine)
    save_flexible(tmp_path / "checkpoint100.ckpt", fine, coarse)
    (tmp_path / "checkpoint9999.ckpt").write_bytes(b"of something else")
    assert_same(read_field(tmp_path), fine, coarse)


@pytest.mark.parametrize("name", ["lego", "chair", "fern"])
def test_real_checkpoints(name: str, data_dir: Path) -> None:
    folder = data_dir / "nerf" / f"{name}-lowres"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    coarse, fine = load_real(next(folder.glob("*.ckpt")))
    assert recognizes(folder)
    field = read_field(folder)
    assert_same(field, coarse, fine)
    assert field.rays is Rays.DEPTH
    assert isinstance(field.network.position, FrequencyEncoding)
    assert len(field.network.position.frequencies) == (6 if name == "fern" else 10)
    if name == "fern":
        assert (field.near, field.far, field.background) == (0.0, 1.0, (0.0, 0.0, 0.0))
        assert field.ndc is not None
        assert field.up == (0.0, 1.0, 0.0)
        assert any("stretched" in note for note in field.notes)
        assert not any("ahead of the camera" in note for note in field.notes)
    else:
        assert (field.near, field.far, field.background) == (2.0, 6.0, (1.0, 1.0, 1.0))
        assert (field.ndc, field.up) == (None, (0.0, 0.0, 1.0))
        assert field.notes == (
            "shows what lies 2 to 6 units ahead of the camera, as it was trained, and nothing "
            "nearer or further",
        )


def test_it_starts_where_the_synthetic_scenes_do(tmp_path: Path) -> None:
    save_flexible(tmp_path / "checkpoint1.ckpt", *networks("flexible"))
    (camera,) = read_field(tmp_path).cameras
    np.testing.assert_allclose(
        camera.position, 4.031 * np.array([math.sqrt(3) / 4, 0.75, 0.5]), rtol=1e-9
    )
    np.testing.assert_allclose(camera.forward, -camera.position / 4.031, atol=1e-9)
    assert camera.fov_y_rad == pytest.approx(math.radians(39.6))


def test_a_configuration_tells_how_rays_are_sampled(tmp_path: Path) -> None:
    save_flexible(tmp_path / "checkpoint1.ckpt", *networks("flexible"))
    (tmp_path / "config.yml").write_text(YAML)
    field = read_field(tmp_path)
    sampler = field.sampler
    assert isinstance(sampler, HierarchicalSampler)
    assert (field.near, field.far, field.background) == (1.5, 7.0, (0.0, 0.0, 0.0))
    assert any("1.5 to 7 units ahead of the camera" in note for note in field.notes)
    assert (sampler.coarse_samples, sampler.fine_samples) == (24, 40)
    assert sampler.spacing is Spacing.INVERSE


def test_arguments_tell_how_rays_are_sampled(tmp_path: Path) -> None:
    save_original(tmp_path / "000200.tar", *networks("original"))
    (tmp_path / "args.txt").write_text(
        "N_importance = 32\nN_samples = 16\ndataset_type = blender\nft_path = None\n"
        "lindisp = False\nwhite_bkgd = True\nno_ndc = False\nlrate = 0.0005\n"
    )
    field = read_field(tmp_path)
    sampler = field.sampler
    assert isinstance(sampler, HierarchicalSampler)
    assert (field.near, field.far, field.background) == (2.0, 6.0, (1.0, 1.0, 1.0))
    assert (sampler.coarse_samples, sampler.fine_samples, field.ndc) == (16, 32, None)


def test_without_fine_samples_the_coarse_network_is_seen(tmp_path: Path) -> None:
    coarse, fine = networks("original")
    save_original(tmp_path / "000200.tar", coarse, fine)
    (tmp_path / "args.txt").write_text("N_importance = 0\ndataset_type = blender\n")
    assert_same(read_field(tmp_path), coarse, None)


def test_no_configuration_is_noted(tmp_path: Path) -> None:
    save_original(tmp_path / "000200.tar", *networks("original"))
    assert any("no config.yml" in note for note in read_field(tmp_path).notes)


class NoDirections(nn.Module):
    """krrish94's without view directions, and with a skip of the position behind what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Linear(27, 16)
        self.layers_xyz = nn.ModuleList([nn.Linear(16, 16), nn.Linear(43, 16), nn.Linear(16, 16)])
        self.fc_out = nn.Linear(16, 4)

    def forward(self, points: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        waves = [f(2.0**k * points) for k in range(4) for f in (torch.sin, torch.cos)]
        x = torch.cat([points, *waves], dim=-1)
        h = self.layer1(x)
        for number, layer in enumerate(self.layers_xyz):
            h = torch.relu(layer(torch.cat([h, x], dim=-1) if number == 1 else h))
        out = self.fc_out(h)
        return torch.sigmoid(out[..., :3]), torch.relu(out[..., 3])


def test_colours_without_directions_and_skips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NoDirections()
    with torch.no_grad():
        network.fc_out.weight *= 20
    save_flexible(tmp_path / "checkpoint1.ckpt", network, None)
    assert_same(read_field(tmp_path), network, None)


# --- What is broken ------------------------------------------------------------------------------


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A checkpoint, changed."""
    path = folder / "checkpoint1.ckpt"
    save_flexible(path, *networks("flexible"))
    values = torch.load(path, weights_only=True)
    change(values)
    torch.save(values, path)
    return path


def tensor(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        state = values["model_fine_state_dict"]
        if value is None:
            del state[name]
        else:
            state[name] = value

    return change


BROKEN: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (tensor("fc_rgb.weight", None), "fc_rgb.weight.*is missing"),
    (tensor("layer1.weight", torch.zeros(32, 26)), "no encoding gives 26 values"),
    (tensor("layer1.weight", torch.zeros(32)), "float32 of shape"),
    (tensor("layer1.weight", torch.zeros(32, 27, dtype=torch.int64)), "int64 of shape"),
    (tensor("layers_xyz.1.weight", torch.zeros(32, 33)), "takes 33 values, but there are 32"),
    (tensor("layers_dir.0.weight", torch.zeros(16, 40)), "no encoding gives 8 values"),
    (tensor("fc_rgb.weight", torch.zeros(4, 16)), "weight .* and bias"),
    (tensor("fc_alpha.weight", torch.full((1, 32), math.nan)), "not finite"),
    (tensor("layer1.weight", torch.zeros(5000, 3)), "has the shape"),
    (tensor("layer1.weight", [1, 2]), "holds a list where weights should be"),
    (
        lambda values: values.update(model_coarse_state_dict=None),
        "model_coarse_state_dict is empty",
    ),
    (lambda values: values.pop("model_coarse_state_dict"), "is no checkpoint of a NeRF"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_what_is_broken_is_one_clear_line(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    path = rewritten(tmp_path, change)
    with pytest.raises(SceneFormatError, match=message) as caught:
        read_field(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


def test_code_in_a_checkpoint_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def harm(values: dict[str, Any]) -> None:
        values["model_fine_state_dict"] = Harmful()

    path = rewritten(tmp_path, harm)
    with pytest.raises(SceneFormatError, match="mkdir"):
        read_field(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_truncated_checkpoints_are_refused(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint1.ckpt"
    save_flexible(path, *networks("flexible"), legacy=legacy)
    whole = path.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(SceneFormatError):
            read_field(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: {near: 9, far: 1}", "near 9 and far 1"),
        ("dataset: {near: soon}", "dataset.near.*needs a number"),
        ("dataset: {no_ndc: 3}", "true or false"),
        ("nerf: {validation: {num_coarse: 1000000}}", "whole number of 2 to 4,096"),
        ("[1, 2]", "is no configuration"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.mkdir [harmed]", "not valid YAML"),
    ],
)
def test_wrong_configurations_are_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    save_flexible(tmp_path / "checkpoint1.ckpt", *networks("flexible"))
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(SceneFormatError, match=message):
        read_field(tmp_path)


def test_folders_without_checkpoints(tmp_path: Path) -> None:
    assert not recognizes(tmp_path)
    with pytest.raises(SceneNotFoundError, match="holds no checkpoint"):
        read_field(tmp_path)
