"""The oracle itself: by hand where a hand can reckon, and its files as their trainers read them."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData
from torch import nn

from benchmarks.fit_anchors import KINDS, TRAINED, decoded, main, picture
from benchmarks.psnr import psnr_db
from splat.camera import Camera
from tests.models.anchors_torch import (
    ARCHITECTURES,
    UNITE,
    AnchorConfig,
    AnchorNet,
    OctreeConfig,
    fitted_net,
    random_net,
    write_folder,
)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def first(module: nn.Module | None) -> nn.Linear:
    """The first layer of a network."""
    return layer(module, 0)


def layer(module: nn.Module | None, number: int) -> nn.Linear:
    """A layer of a network."""
    assert isinstance(module, nn.Sequential)
    found = module[number]
    assert isinstance(found, nn.Linear)
    return found


def test_one_anchor_by_hand() -> None:
    config = AnchorConfig(feat_dim=4, n_offsets=1, add_opacity_dist=True, add_color_dist=True)
    net = AnchorNet(config, torch.tensor([[3.0, 0.0, 4.0]]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter[...] = 0.0
        net.anchor[...] = torch.tensor([[3.0, 0.0, 4.0]])
        net.scaling[...] = torch.tensor([[2.0, 2.0, 2.0, 0.5, 1.0, 4.0]]).log()
        net.offset[...] = torch.tensor([[[1.0, -0.5, 0.0]]])
        first(net.mlp_opacity).weight[0, 7] = 0.1  # the distance, after 4 and 3 others
        layer(net.mlp_opacity, 2).weight[0, 0] = 1.0
        first(net.mlp_color).weight[1, 4] = 1.0  # x of the direction
        layer(net.mlp_color, 2).weight[:, 1] = torch.tensor([1.0, 0.0, -1.0])
        layer(net.mlp_cov, 2).bias[...] = torch.tensor(
            [0.0, 0.0, math.log(3.0), 0.0, 0.0, 2.0, 0.0]
        )
    drawn = net.decode(torch.zeros(3))
    torch.testing.assert_close(drawn.means, torch.tensor([[5.0, -1.0, 4.0]]))
    torch.testing.assert_close(drawn.opacities, torch.tensor([math.tanh(0.5)]))
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.6, 0.0, -0.6)]
    torch.testing.assert_close(drawn.colors, torch.tensor([sigmoid]))
    torch.testing.assert_close(drawn.scales, torch.tensor([[0.25, 0.5, 3.0]]))
    torch.testing.assert_close(drawn.quats, torch.tensor([[0.0, 0.0, 1.0, 0.0]]))


@pytest.mark.parametrize(
    ("rule", "drawn", "parts"),
    [
        ("floor", [True, False, False], [1.0, 1.0, 1.0]),
        ("round", [True, False, False], [1.0, 1.0, 1.0]),
        ("ceil", [True, True, False], [1.0, 1.0, 1.0]),
        ("progressive", [True, True, False], [1.0, 0.4, 1.0]),
    ],
)
def test_levels_by_hand(rule: str, drawn: list[bool], parts: list[float]) -> None:
    octree = OctreeConfig(levels=3, voxel_size=0.0, standard_dist=2.0**0.4, dist2level=rule)
    net = AnchorNet(AnchorConfig(octree=octree), torch.zeros(3, 3), torch.arange(3))
    at_one = torch.tensor([1.0, 0.0, 0.0])  # log2(2^0.4 / 1) = 0.4
    mask, part = net.level_of_detail(at_one)
    assert mask.tolist() == drawn
    torch.testing.assert_close(part, torch.tensor(parts))
    near, _ = net.level_of_detail(0.01 * at_one)
    assert near.all()
    far, _ = net.level_of_detail(100 * at_one)
    assert far.tolist() == [True, False, False]


def test_distance_of_levels_is_to_the_middle_of_the_voxel() -> None:
    octree = OctreeConfig(levels=2, voxel_size=4.0, standard_dist=2.0, dist2level="floor")
    net = AnchorNet(AnchorConfig(octree=octree), torch.zeros(1, 3), torch.ones(1))
    # Level 1: the middle is at (1, 1, 1); it is drawn up to a distance of 1 from there.
    assert net.level_of_detail(torch.tensor([1.0, 1.0, 1.99]))[0].item()
    assert not net.level_of_detail(torch.zeros(3))[0].item()


def test_feature_bank_by_hand() -> None:
    net = AnchorNet(AnchorConfig(feat_dim=8, use_feat_bank=True), torch.zeros(1, 3))
    bank = net.mlp_feature_bank
    assert bank is not None
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.zero_()
        layer(bank, 2).bias[...] = torch.tensor([0.5, 0.25, 0.25]).log()
    feature = torch.arange(1.0, 9.0)[None]
    blended = net._feature(feature, torch.zeros(1, 3), torch.zeros(1, 1), [])
    quarter, half = [1.0, 5.0] * 4, [1.0, 3.0, 5.0, 7.0] * 2
    expected = 0.5 * np.array(quarter) + 0.25 * np.array(half) + 0.25 * np.arange(1, 9)
    np.testing.assert_allclose(blended.detach().numpy()[0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["scaffold-bank", "octree-all", "octree-bank"])
def test_folder_says_what_the_model_is(name: str, tmp_path: Path) -> None:
    net = random_net(ARCHITECTURES[name], count=20)
    camera = Camera.look_at((1, 2, 3), (0, 0, 0), (0, -1, 0), fov_y_rad=1.0, width=40, height=30)
    folder = write_folder(net, tmp_path / "out", iteration=7, cameras=[camera], device="cpu")
    place = folder / "point_cloud" / "iteration_7"

    vertex = PlyData.read(place / "point_cloud.ply")["vertex"]
    names = [each.name for each in vertex.properties]
    third = {"scaffold-bank": "nx"}.get(name, "level")
    assert names[:4] == ["x", "y", "z", third] and names[-4:] == [f"rot_{i}" for i in range(4)]
    offsets = np.stack([vertex[f"f_offset_{i}"] for i in range(30)], 1)
    np.testing.assert_array_equal(
        offsets.reshape(20, 3, -1).transpose(0, 2, 1), net.offset.detach().numpy()
    )
    octree = net.config.octree
    if octree is not None:
        assert vertex["info"][:3].tolist() == [octree.voxel_size, octree.standard_dist, 0.0]
        np.testing.assert_array_equal(vertex["level"], net.level.numpy())

    for file, module in (
        ("opacity_mlp", net.mlp_opacity),
        ("cov_mlp", net.mlp_cov),
        ("color_mlp", net.mlp_color),
        ("feature_bank_mlp", net.mlp_feature_bank),
    ):
        assert module is not None
        told = torch.rand(5, first(module).in_features)
        loaded = torch.jit.load(str(place / f"{file}.pt"))
        torch.testing.assert_close(loaded(told), module(told), rtol=0, atol=0)
    assert (place / "embedding_appearance.pt").exists() == bool(net.config.appearance_dim)
    assert json.loads((folder / "cameras.json").read_text())[0]["position"] == pytest.approx(
        [1, 2, 3]
    )
    text = (folder / "cfg_args").read_text()
    assert text.startswith("Namespace(")
    said = {word.arg: word.value for word in ast.parse(text, mode="eval").body.keywords}  # type: ignore[attr-defined]
    assert ast.literal_eval(said["n_offsets"]) == net.config.n_offsets


def test_files_say_that_tensors_were_on_a_gpu(tmp_path: Path) -> None:
    net = random_net(replace(ARCHITECTURES["scaffold-small"], appearance_dim=4), count=5)
    write_folder(net, tmp_path / "split", iteration=1)
    write_folder(net, tmp_path / "unite", iteration=1, mode=UNITE)
    path = tmp_path / "split/point_cloud/iteration_1/color_mlp.pt"
    reader = torch._C.PyTorchFileReader(str(path))
    assert b"cuda:0" in reader.get_record("data.pkl") and b"cpu" not in reader.get_record(
        "data.pkl"
    )
    loaded = torch.jit.load(str(path), map_location="cpu")
    torch.testing.assert_close(
        loaded.state_dict()["0.weight"], first(net.mlp_color).weight.detach()
    )
    places: set[str] = set()

    def located(storage: Any, location: str) -> Any:
        places.add(location)
        return storage

    united = tmp_path / "unite/point_cloud/iteration_1/checkpoints.pth"
    states = torch.load(united, map_location=located, weights_only=True)
    assert places == {"cuda:0"}
    assert set(states) == {"opacity_mlp", "cov_mlp", "color_mlp", "appearance"}
    fresh = nn.Sequential(nn.Linear(11, 8), nn.ReLU(True), nn.Linear(8, 3), nn.Tanh())
    fresh.load_state_dict(states["opacity_mlp"])


@pytest.mark.parametrize(("octree", "least_db"), [(False, 28.0), (True, 25.0)])
def test_fitted_models_look_like_the_town(octree: bool, least_db: float) -> None:
    fitted = fitted_net(octree)
    for camera in fitted.held_out:
        truth = picture(fitted.gaussians, camera)
        assert psnr_db(picture(decoded(fitted.net, camera), camera), truth) > least_db
        nothing = picture(fitted.gaussians[:0], camera)
        assert psnr_db(nothing, truth) < least_db - 10


def test_command_writes_both_kinds_and_says_how_good_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["-o", str(tmp_path), "--town", "20000", "--half-side", "15", "--steps", "5"])
    told = capsys.readouterr().out
    for kind in KINDS:
        assert (tmp_path / kind / "point_cloud" / "iteration_5" / "point_cloud.ply").exists()
        assert len(json.loads((tmp_path / kind / "cameras.json").read_text())) == TRAINED
        assert kind in told
