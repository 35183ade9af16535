"""TorchScript read without executing it: known layers by name, all else is refused."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scene_store.models.archive import read_checkpoint
from scene_store.models.torchscript import (
    MAX_OUTLINED,
    read_embedding,
    read_network,
    read_torchscript,
)
from splat.errors import SceneError, SceneFormatError
from splat.networks import Activation
from tests.models.test_archive import one_line, perceptron, save

torch.set_num_threads(1)


def traced(path: Path, module: nn.Module, example: torch.Tensor) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module.eval(), example).save(str(path))
    return path


@pytest.mark.parametrize(
    ("last", "activation"),
    [
        (None, Activation.NONE),
        (nn.Tanh(), Activation.TANH),
        (nn.Sigmoid(), Activation.SIGMOID),
        (nn.Softmax(dim=1), Activation.SOFTMAX),
    ],
)
def test_a_traced_perceptron_is_read(
    tmp_path: Path, last: nn.Module | None, activation: Activation
) -> None:
    module = perceptron(last)
    path = traced(tmp_path / "x.pt", module, torch.rand(1, 35))
    for trust in (False, True):
        network = read_network(path, trust=trust)
        assert [layer.activation for layer in network.layers] == [Activation.RELU, activation]
        for layer, linear in zip(network.layers, (module[0], module[2]), strict=True):
            assert isinstance(linear, nn.Linear)
            np.testing.assert_array_equal(layer.weight, linear.weight.detach().numpy())
            np.testing.assert_array_equal(layer.bias, linear.bias.detach().numpy())


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


class Residual(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x) + x[:, :5]
        return out


def test_other_architectures_need_trust_and_must_compute_the_same(tmp_path: Path) -> None:
    path = traced(tmp_path / "wrapped.pt", Wrapped(), torch.rand(1, 35))
    with pytest.raises(SceneFormatError) as error:
        read_network(path)
    assert "unknown architecture Wrapped(Sequential(" in one_line(error, path)
    assert read_network(path, trust=True).outputs == 5
    path = traced(tmp_path / "residual.pt", Residual(), torch.rand(1, 35))
    for trust, problem in ((False, "unknown architecture"), (True, "computes something else")):
        with pytest.raises(SceneFormatError, match=problem):
            read_network(path, trust=trust)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(35, 4), nn.GELU()),
        nn.Sequential(nn.ReLU(), nn.Linear(35, 4)),
        nn.Sequential(nn.Linear(35, 4), nn.ReLU(), nn.Tanh()),
        nn.Sequential(nn.Sequential(nn.Linear(35, 4))),
        nn.Sequential(nn.Linear(35, 4), nn.LayerNorm(4)),
    ],
)
def test_other_layers_are_refused(tmp_path: Path, module: nn.Module) -> None:
    path = traced(tmp_path / "x.pt", module, torch.rand(1, 35))
    with pytest.raises(SceneFormatError, match=r"unknown architecture .*--trust"):
        read_network(path)


def test_an_embedding_is_read(tmp_path: Path) -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.embedding(x)
            return out

    module = Embedding()
    path = traced(tmp_path / "x.pt", module, torch.zeros(1, dtype=torch.long))
    expected = module.embedding.weight.detach().numpy()
    np.testing.assert_array_equal(read_embedding(path), expected)
    with pytest.raises(SceneFormatError, match="unknown architecture"):
        read_network(path)


def test_torchscript_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = traced(tmp_path / "x.pt", perceptron(), torch.rand(1, 35)).read_bytes()
    path = tmp_path / "cut.pt"
    for size in range(1, len(whole), 211):
        path.write_bytes(whole[:size])
        with pytest.raises(SceneError) as error:
            read_torchscript(path)
        one_line(error, path)


def test_layers_that_do_not_fit_or_are_not_finite_are_refused(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(35, 4), nn.Linear(4, 2))
    nn.init.constant_(next(module[1].parameters()), torch.nan)
    path = traced(tmp_path / "x.pt", module, torch.rand(1, 35))
    with pytest.raises(SceneFormatError, match="not finite"):
        read_network(path)


def test_each_kind_of_archive_says_when_the_other_is_needed(tmp_path: Path) -> None:
    script = traced(tmp_path / "x.pt", perceptron(), torch.rand(1, 35))
    with pytest.raises(SceneFormatError, match="is TorchScript"):
        read_checkpoint(script)
    with pytest.raises(SceneFormatError, match="is a checkpoint"):
        read_torchscript(save(tmp_path / "y.pt", {"a": 1}))


def sequential(*parts: bytes) -> bytes:
    """A module of others, as a pickle has it."""
    named = b"".join(b"X\x04\x00\x00\x00%04d" % at + part for at, part in enumerate(parts))
    return b"c__torch__.torch.nn.modules.container\nSequential\n)\x81}(" + named + b"ub"


def script_of(path: Path, pickled: bytes, storage: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/data/0", storage)
    return path


def test_modules_shared_again_and_again_are_told_of_shortly(tmp_path: Path) -> None:
    pickled = sequential() + b"q\x01"
    for _ in range(40):
        pickled += b"0" + sequential(b"h\x01", b"h\x01", b"h\x01") + b"q\x01"
    path = script_of(tmp_path / "x.pt", pickled)
    with pytest.raises(SceneFormatError, match=r"unknown architecture Sequential\(") as error:
        read_network(path)
    one_line(error, path)
    outline = read_torchscript(path).outline()
    assert 8 <= outline.count("Sequential") <= MAX_OUTLINED and "…" in outline


def test_an_outline_tells_all_of_a_small_module(tmp_path: Path) -> None:
    path = script_of(tmp_path / "x.pt", sequential(sequential(), sequential(sequential())))
    expected = "Sequential(Sequential, Sequential(Sequential))"
    assert read_torchscript(path).outline() == expected


def test_a_layer_again_and_again_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    """Half floats become floats, a matrix of them for each layer."""
    storage = b"(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuM\x00\x40tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
    tensor += b"K\0K\x80K\x80\x86K\x80K\x01\x86\x89NtR"
    linear = b"c__torch__.torch.nn.modules.linear\nLinear\n)\x81}X\x06\0\0\0weight" + tensor + b"sb"
    half = np.eye(128, dtype=np.float16).tobytes()
    few = script_of(tmp_path / "few.pt", sequential(linear + b"q\x01", b"h\x01"), half)
    assert len(read_network(few).layers) == 2
    parts = [linear + b"q\x01", *[b"h\x01"] * 9999]
    with pytest.raises(SceneFormatError, match="unknown architecture"):
        read_network(script_of(tmp_path / "many.pt", sequential(*parts), half))
