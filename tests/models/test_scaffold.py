"""Scaffold-GS folders: what trainers write is read, and what is broken is told in a line."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from scene_store.formats import open_scene
from scene_store.formats.ply import write_ply as write_gaussians
from scene_store.models import anchor_file, find_reader, octree, scaffold
from scene_store.models.anchor_chunks import AnchorChunks
from splat.errors import BudgetError, SceneError, SceneFormatError
from splat.networks import Activation, Mlp
from tests.models.anchors_torch import (
    ARCHITECTURES,
    SPLIT,
    UNITE,
    AnchorNet,
    random_net,
    write_folder,
)
from tests.scenes import camera, random_scene

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

SCAFFOLDS = [name for name in ARCHITECTURES if name.startswith("scaffold")]


def opened(path: Path, **how: Any) -> AnchorChunks:
    reader = find_reader(path)
    assert reader in (scaffold, octree)
    source = reader.open_model(path, **how).source
    assert isinstance(source, AnchorChunks)
    return source


def all_anchors(source: AnchorChunks) -> NDArray[np.float32]:
    """The rows of all leaves, in the order of the file."""
    leaves = np.flatnonzero(source.tree.is_leaf).tolist()
    parts = []
    for leaf in leaves:
        encoded = source.read(leaf)
        assert encoded is not None and encoded.nbytes == source.encoded_bytes(leaf)
        parts.append(source.decode(leaf, encoded).data)
    places = np.concatenate([source._anchors.rows[leaf].places for leaf in leaves])
    assert len(np.unique(places)) == len(places)
    return np.asarray(np.concatenate(parts)[np.argsort(places)])


def assert_rows_are(source: AnchorChunks, net: AnchorNet) -> None:
    rows, layout = all_anchors(source), source.model.layout
    parts = {
        "anchor": layout.means,
        "scaling": layout.scales,
        "offset": layout.offset_values,
        "anchor_feat": layout.feature_values,
    }
    for name, part in parts.items():
        expected = getattr(net, name).detach().flatten(1).numpy()
        np.testing.assert_array_equal(rows[:, part], expected, err_msg=name)
    if layout.has_levels:
        levels = torch.stack([net.level, net.extra_level], 1).numpy()
        np.testing.assert_array_equal(rows[:, layout.level_values], levels)


def assert_network_is(network: Mlp | None, module: nn.Module | None, last: Activation) -> None:
    if module is None:
        assert network is None
        return
    assert isinstance(module, nn.Sequential) and network is not None
    linear = [part for part in module if isinstance(part, nn.Linear)]
    assert [layer.activation for layer in network.layers] == [Activation.RELU, last]
    for layer, part in zip(network.layers, linear, strict=True):
        np.testing.assert_array_equal(layer.weight, part.weight.detach().numpy())
        np.testing.assert_array_equal(layer.bias, part.bias.detach().numpy())


def assert_model_is(source: AnchorChunks, net: AnchorNet) -> None:
    model, config = source.model, net.config
    assert_network_is(model.opacity_mlp, net.mlp_opacity, Activation.TANH)
    assert_network_is(model.covariance_mlp, net.mlp_cov, Activation.NONE)
    assert_network_is(model.color_mlp, net.mlp_color, Activation.SIGMOID)
    assert_network_is(model.bank_mlp, net.mlp_feature_bank, Activation.SOFTMAX)
    assert model.opacity_dist == config.add_opacity_dist
    assert model.color_dist == config.add_color_dist
    assert model.covariance_dist == config.add_cov_dist
    assert model.level_input == config.add_level
    if net.embedding_appearance is None:
        assert model.appearances is None
    else:
        table = net.embedding_appearance.embedding.weight.detach().numpy()
        assert model.appearances is not None
        np.testing.assert_array_equal(model.appearances, table)


@pytest.mark.parametrize("mode", [SPLIT, UNITE])
@pytest.mark.parametrize("name", SCAFFOLDS)
def test_a_folder_is_read_as_it_was_written(tmp_path: Path, name: str, mode: str) -> None:
    net = random_net(ARCHITECTURES[name], 60)
    folder = write_folder(net, tmp_path / "x", mode=mode)
    assert scaffold.recognizes(folder) and not octree.recognizes(folder)
    with opened(folder) as source:
        assert_model_is(source, net)
        assert_rows_are(source, net)
        assert source.model.levels is None and source.model.name == "Scaffold-GS"
        assert source.meta.facts == "Scaffold-GS · 60 anchors"
        assert source.meta.path == folder


def test_the_folder_may_be_named_from_within(tmp_path: Path) -> None:
    net = random_net(ARCHITECTURES["scaffold-small"], 20)
    write_folder(net, tmp_path, iteration=7_000)
    other = random_net(ARCHITECTURES["scaffold-small"], 30)
    write_folder(other, tmp_path / "other", iteration=30_000)
    newest = tmp_path / "point_cloud" / "iteration_30000"
    shutil.copytree(tmp_path / "other" / "point_cloud" / "iteration_30000", newest)
    for path in (tmp_path, tmp_path / "point_cloud", newest, newest / "point_cloud.ply"):
        assert opened(path).meta.count == 30
    assert opened(tmp_path / "point_cloud" / "iteration_7000").meta.count == 20


def test_cameras_beside_it_are_found(tmp_path: Path) -> None:
    net = random_net(ARCHITECTURES["scaffold-small"], 20)
    folder = write_folder(net, tmp_path / "x", cameras=[camera(), camera(width=64)])
    for path in (folder, folder / "point_cloud/iteration_30000/point_cloud.ply"):
        assert [each.width for each in opened(path).meta.cameras] == [33, 64]


def test_folders_of_gaussians_open_as_before(tmp_path: Path) -> None:
    place = tmp_path / "point_cloud" / "iteration_1"
    place.mkdir(parents=True)
    write_gaussians(place / "point_cloud.ply", [random_scene(0, 10)], 10, 3)
    (place / "color_mlp.pt").write_bytes(b"no reason to think that it is neural")
    for path in (tmp_path, place, place / "point_cloud.ply"):
        assert find_reader(path) is None
        with open_scene(path) as source:
            assert source.meta.count == 10


@pytest.mark.parametrize("content", [b"", b"ply\nformat binary", b"PK\x03\x04", b"\x00" * 64])
def test_what_is_no_ply_is_not_taken_for_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "point_cloud.ply"
    path.write_bytes(content)
    assert find_reader(path) is None and find_reader(tmp_path) is None


# ---- What is broken --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that there may be."""
    net = random_net(ARCHITECTURES["scaffold-bank"], 40)
    return write_folder(net, tmp_path_factory.mktemp("written") / "x")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it to break: its ``iteration_N``."""
    shutil.copytree(written, tmp_path / "x")
    return tmp_path / "x" / "point_cloud" / "iteration_30000"


def refused(path: Path, **how: Any) -> str:
    """The one line that says why a folder is not opened."""
    with pytest.raises(SceneError) as error:
        opened(path, **how)
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


@pytest.mark.parametrize("name", ["opacity_mlp.pt", "cov_mlp.pt", "color_mlp.pt"])
def test_a_missing_network_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"lacks {name}" in refused(folder)


def test_missing_embeddings_are_named(folder: Path) -> None:
    (folder / "embedding_appearance.pt").unlink()
    assert "lacks embedding_appearance.pt" in refused(folder)


def test_missing_networks_in_a_united_file_are_named(tmp_path: Path) -> None:
    net = random_net(ARCHITECTURES["scaffold"], 20)
    path = write_folder(net, tmp_path / "x", mode=UNITE) / "point_cloud" / "iteration_30000"
    state = torch.load(path / "checkpoints.pth", map_location="cpu")
    del state["cov_mlp"]
    torch.save(state, path / "checkpoints.pth")
    assert "lacks the weights 'cov_mlp'" in refused(path)


def traced(path: Path, module: nn.Module, inputs: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module.eval(), torch.rand(1, inputs)).save(str(path))


def layers(inputs: int, outputs: int, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs), *last)


@pytest.mark.parametrize(
    ("name", "module", "inputs", "problem"),
    [
        ("opacity_mlp", layers(37, 10, nn.Tanh()), 37, "takes 37 values"),
        ("opacity_mlp", layers(34, 10, nn.Tanh()), 34, "takes 34 values"),
        ("opacity_mlp", layers(35, 9, nn.Tanh()), 35, "gives 9 values"),
        ("opacity_mlp", layers(35, 10, nn.Sigmoid()), 35, "relu and then tanh are known"),
        ("color_mlp", layers(51, 30), 51, "relu and then sigmoid are known"),
        ("cov_mlp", layers(35, 60), 35, "gives 60 values"),
        ("cov_mlp", nn.Sequential(nn.Linear(35, 70), nn.GELU()), 35, "unknown architecture"),
        ("cov_mlp", nn.Sequential(nn.Linear(35, 70), nn.Tanh()), 35, "are known for it"),
        ("feature_bank_mlp", layers(3, 3, nn.Softmax(dim=1)), 3, "takes 3 values"),
        ("feature_bank_mlp", layers(4, 2, nn.Softmax(dim=1)), 4, "must"),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    folder: Path, name: str, module: nn.Module, inputs: int, problem: str
) -> None:
    traced(folder / f"{name}.pt", module, inputs)
    assert problem in refused(folder)


def test_half_written_networks_are_refused(folder: Path) -> None:
    whole = (folder / "color_mlp.pt").read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 30):
        (folder / "color_mlp.pt").write_bytes(whole[:size])
        assert "color_mlp.pt" in refused(folder)


def test_code_is_not_executed(folder: Path) -> None:
    marker = folder / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    for name in ("opacity_mlp.pt", "cov_mlp.pt", "color_mlp.pt"):
        (folder / name).unlink()
    torch.save({"opacity_mlp": Evil()}, folder / "checkpoints.pth")
    assert "exec" in refused(folder)
    (folder.parent.parent / "cfg_args").write_text(f"open({str(marker)!r}, 'w')")
    assert "exec" in refused(folder)
    assert not marker.exists()


def rewritten(ply: Path, change: Callable[[NDArray[np.float32]], None]) -> None:
    """A PLY whose table of values was changed."""
    content = ply.read_bytes()
    start = content.index(b"end_header\n") + 11
    properties = content[:start].count(b"property float")
    table = np.frombuffer(content[start:], "<f4").reshape(-1, properties).copy()
    change(table)
    ply.write_bytes(content[:start] + table.tobytes())


def test_a_folder_without_settings_says_so(folder: Path) -> None:
    settings = folder.parent.parent / "cfg_args"
    settings.write_text("Namespace(white_background=True)")
    assert not any("cfg_args" in note for note in opened(folder).meta.notes)
    settings.unlink()
    assert any(note.startswith("no cfg_args beside it") for note in opened(folder).meta.notes)


def test_anchors_that_cannot_be_drawn_are_left_out(folder: Path) -> None:
    def spoil(table: NDArray[np.float32]) -> None:
        table[0, 0] = np.nan  # a mean
        table[1, 40] = np.inf  # a feature
        table[2, 70] = 60.0  # a scale beyond all
        table[3, 7] = -np.inf  # an offset
        table[4, :3] = 3e38
        table[5, 69:75] = 80.0

    rewritten(folder / "point_cloud.ply", spoil)
    source = opened(folder)
    assert source.meta.count == 34 and source.tree.count[source.tree.is_leaf].sum() == 34
    assert "left out 6 anchors that cannot be drawn" in source.meta.notes
    assert np.isfinite(all_anchors(source)).all()


def test_a_file_of_nothing_but_those_is_refused(folder: Path) -> None:
    def spoil(table: NDArray[np.float32]) -> None:
        table[:, 1] = np.nan

    rewritten(folder / "point_cloud.ply", spoil)
    assert "none that can be drawn" in refused(folder)


def test_a_ply_cut_anywhere_is_refused(folder: Path) -> None:
    ply = folder / "point_cloud.ply"
    whole = ply.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, whole.index(b"end_header") + 20):
        ply.write_bytes(whole[:size])
        assert "point_cloud.ply" in refused(folder)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (b"element vertex 40\n", b"element vertex 999999999999\n", "should take"),
        (b"element vertex 40\n", b"element vertex 0\n", "holds no anchors"),
        (b"property float scale_5\n", b"property float scaly\n", "lacks the properties scale_5"),
        (
            b"property float f_offset_9\n",
            b"property float f_o\n",
            "lacks the properties f_offset_9",
        ),
        (b"float f_offset_29\n", b"float f_o\n", "has 29 f_offset"),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    folder: Path, before: bytes, after: bytes, problem: str
) -> None:
    ply = folder / "point_cloud.ply"
    content = ply.read_bytes()
    assert before in content
    ply.write_bytes(content.replace(before, after))
    assert problem in refused(folder)


def test_more_anchors_than_memory_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_file, "available_bytes", lambda: 40 * anchor_file.OPENING_BYTES - 1)
    with pytest.raises(BudgetError, match="opening 40 anchors"):
        opened(folder)


def test_trust_is_passed_on(folder: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layers(35, 70)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x)
            return out

    traced(folder / "cov_mlp.pt", Odd(), 35)
    assert "--trust" in refused(folder)
    assert opened(folder, trust=True).model.covariance_mlp.outputs == 70


def test_both_kinds_of_errors_name_the_file(folder: Path) -> None:
    (folder / "cov_mlp.pt").write_bytes(b"no archive at all")
    with pytest.raises(SceneFormatError, match=r"cov_mlp\.pt"):
        opened(folder)
