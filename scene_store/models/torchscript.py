"""TorchScript read without executing it: the tree of modules, by their classes' names, and weights.

``torch.jit.save`` writes a zip. Its ``data.pkl`` holds the module as an object of the class
``__torch__.torch.nn.modules.container.Sequential``, whose attributes are parameters and modules
again; ``code/`` holds what the classes do, as Python source. That source is never read: the
networks of anchors are put together of torch's own layers, which are known by name, and anything
else is refused.

Source: ``torch/csrc/jit/serialization/export_module.cpp`` of https://github.com/pytorch/pytorch.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.source import DOWNLOAD_AGAIN, require_file
from scene_store.models.archive_pickle import ForeignNameError, Name, PickleError, Record
from scene_store.models.archive_values import StorageRef, TensorRef, vocabulary
from scene_store.models.archive_zip import TorchZip
from splat.errors import SceneFormatError
from splat.networks import Activation, Layer, Mlp

Array = NDArray[Any]

TRUST_SCRIPT = "nothing of it was executed; add --trust if you trust whoever made it"

MAX_OUTLINED = 32  # modules
MAX_OUTLINE_DEPTH = 8
MAX_NAME = 64
MAX_LAYERS = 64  # of a perceptron; those of anchors have two

_ROOT = "__torch__"
_MANGLED = re.compile(r"\.___torch_mangle_\d+")
_ACTIVATIONS = {
    "torch.nn.modules.activation.ReLU": Activation.RELU,
    "torch.nn.modules.activation.Tanh": Activation.TANH,
    "torch.nn.modules.activation.Sigmoid": Activation.SIGMOID,
    "torch.nn.modules.activation.Softmax": Activation.SOFTMAX,
}
_LINEAR = "torch.nn.modules.linear.Linear"
_SEQUENTIAL = "torch.nn.modules.container.Sequential"
_PROBES = 64
_AGREE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class ModuleTree:
    """A module, as its file describes it.

    Attributes:
        kind: Its class: ``torch.nn.modules.linear.Linear``.
        arrays: Parameters and buffers, by name.
        children: Modules of which it is made, by name, in the file's order.
    """

    kind: str
    arrays: Mapping[str, Array] = field(default_factory=dict)
    children: Mapping[str, ModuleTree] = field(default_factory=dict)

    def outline(self) -> str:
        """Its class and those of what it is made of, for people; the first ones if many.

        What is shared is told of wherever it is, which could be without end.
        """
        left = MAX_OUTLINED

        def told(tree: ModuleTree, depth: int) -> str:
            nonlocal left
            left -= 1
            name = tree.kind.rpartition(".")[2][:MAX_NAME]
            parts = []
            for child in tree.children.values():
                if not left or not depth:
                    parts.append("…")
                    break
                parts.append(told(child, depth - 1))
            return f"{name}({', '.join(parts)})" if parts else name

        return told(self, MAX_OUTLINE_DEPTH)


def read_torchscript(path: Path) -> ModuleTree:
    """The module of a TorchScript archive; nothing of it is executed.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is broken, no TorchScript, or refers to anything but modules and
            tensors.
    """
    with TorchZip(path) as archive:
        if not archive.is_script:
            raise SceneFormatError(
                path, "is a checkpoint of torch.save, but TorchScript is needed here"
            )
        words = vocabulary(lambda name: name.module.partition(".")[0] == _ROOT)
        try:
            root = archive.pickle("data.pkl", words)
            if not isinstance(root, Record):
                raise PickleError(f"holds a {type(root).__name__} and no module")
            return _Reader(archive).tree(root)
        except ForeignNameError as error:
            raise SceneFormatError(
                path, f"{error}, which is not loaded", remedy=TRUST_SCRIPT
            ) from None
        except PickleError as error:
            raise SceneFormatError(path, str(error), remedy=DOWNLOAD_AGAIN) from None


class _Reader:
    """Makes trees of records; what is shared is read once."""

    def __init__(self, archive: TorchZip) -> None:
        self._archive = archive
        self._storages: dict[str, tuple[Any, Array]] = {}
        self._arrays: dict[int, Array] = {}
        self._trees: dict[int, ModuleTree] = {}

    def tree(self, record: Record) -> ModuleTree:
        """A module; neither circular nor deep, as ``read_pickle`` made sure."""
        known = self._trees.get(id(record))
        if known is None:
            fields = record.fields.items()
            known = self._trees[id(record)] = ModuleTree(
                _class_name(record.name),
                {name: self._array(v) for name, v in fields if isinstance(v, TensorRef)},
                {name: self.tree(v) for name, v in fields if isinstance(v, Record)},
            )
        return known

    def _array(self, tensor: TensorRef) -> Array:
        known = self._arrays.get(id(tensor))
        if known is None:
            known = self._arrays[id(tensor)] = tensor.of(self._values(tensor.storage))
        return known

    def _values(self, storage: StorageRef) -> Array:
        if storage.key not in self._storages:
            self._storages[storage.key] = (storage, self._archive.storage(storage))
        first, values = self._storages[storage.key]
        if first != storage:
            raise PickleError(f"describes its storage {storage.key[:40]!r} in two ways")
        return values


def _class_name(name: Name) -> str:
    return _MANGLED.sub("", str(name)).removeprefix(f"{_ROOT}.")


# ---- Networks -------------------------------------------------------------------------------


def read_network(path: Path, *, trust: bool = False) -> Mlp:
    """The perceptron in a TorchScript archive: linear layers, each with one activation at most.

    Args:
        path: The archive.
        trust: Whether it may be executed, to find out whether one of another architecture
            computes what its linear layers and activations in the order of their registration do.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is broken, or of another architecture.
    """
    if trust:
        return _trusted_network(path)
    tree = read_torchscript(path)
    if tree.kind != _SEQUENTIAL or any(child.children for child in tree.children.values()):
        raise _unknown(path, tree)
    return network_of(path, tree)


def network_of(path: Path, tree: ModuleTree) -> Mlp:
    """The perceptron that a module's parts make, one after another.

    Raises:
        SceneFormatError: If a part is no linear layer or known activation, or there are too many.
    """
    if len(tree.children) > 2 * MAX_LAYERS:  # one layer, again and again, becomes many copies
        raise _unknown(path, tree)
    layers: list[tuple[Array, Array]] = []
    activations: list[Activation] = []
    for name, part in tree.children.items():
        if part.kind == _LINEAR:
            layers.append(_linear(path, name, part))
            activations.append(Activation.NONE)
        elif part.kind in _ACTIVATIONS and layers and activations[-1] is Activation.NONE:
            activations[-1] = _ACTIVATIONS[part.kind]
        else:
            raise _unknown(path, tree)
    return perceptron(path, layers, activations)


def perceptron(path: Path, layers: list[tuple[Array, Array]], activations: list[Activation]) -> Mlp:
    """The perceptron of some layers' weights and biases.

    Raises:
        SceneFormatError: If they do not fit each other, or a value is not finite.
    """
    try:
        if not layers:
            raise ValueError("no linear layer")
        with np.errstate(over="ignore"):  # beyond float32: not finite
            made = tuple(
                Layer(weight, bias, activation)
                for (weight, bias), activation in zip(layers, activations, strict=True)
            )
        return Mlp(made[0].inputs, made)
    except ValueError as error:
        raise SceneFormatError(path, f"holds {error}", remedy=DOWNLOAD_AGAIN) from None


def read_embedding(path: Path) -> NDArray[np.float32]:
    """[A, E] the table of an embedding in a TorchScript archive.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is broken, or no embedding.
    """
    tree = read_torchscript(path)
    if len(tree.children) == 1 and not tree.arrays:
        (tree,) = tree.children.values()
    table = tree.arrays.get("weight")
    if tree.kind != "torch.nn.modules.sparse.Embedding" or table is None or table.ndim != 2:
        raise _unknown(path, tree)
    if not np.isfinite(table).all():
        raise SceneFormatError(path, "holds values that are not finite", remedy=DOWNLOAD_AGAIN)
    return np.ascontiguousarray(table, np.float32)


def _linear(path: Path, name: str, part: ModuleTree) -> tuple[Array, Array]:
    weight, bias = part.arrays.get("weight"), part.arrays.get("bias")
    if weight is None or weight.ndim != 2:
        raise SceneFormatError(path, "lacks the weights of a layer", where=f"module {name}")
    return weight, np.zeros(len(weight), np.float32) if bias is None else bias


def _unknown(path: Path, tree: ModuleTree) -> SceneFormatError:
    return SceneFormatError(
        path, f"holds the unknown architecture {tree.outline()[:120]}", remedy=TRUST_SCRIPT
    )


# ---- By torch, on request -------------------------------------------------------------------


def _trusted_network(path: Path) -> Mlp:
    """The layers of whatever it is, if they compute what it computes."""
    require_file(path)
    import torch  # only here: whoever draws without a GPU may not have it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of all TorchScript
            module = torch.jit.load(os.fspath(path), map_location="cpu").eval()
    except Exception as error:  # whatever the file made it do
        raise SceneFormatError(path, f"cannot be loaded by torch ({str(error)[:120]})") from None
    leaves = {
        name: ModuleTree(
            _class_of(part),
            {key: value.detach().float().numpy() for key, value in part.named_parameters()},
        )
        for name, part in module.named_modules()
        if not any(True for _ in part.children())
    }
    tree = ModuleTree(_class_of(module), {}, leaves)
    network = network_of(path, tree)
    probes = torch.randn(_PROBES, network.inputs, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            expected = module(probes).numpy()
    except Exception as error:
        raise SceneFormatError(path, f"cannot be executed ({str(error)[:120]})") from None
    if not np.allclose(expected, _evaluated(network, probes.numpy()), atol=_AGREE):
        raise SceneFormatError(path, f"computes something else than its layers: {tree.outline()}")
    return network


def _class_of(module: Any) -> str:
    name = str(module.original_name)
    known = [kind for kind in (*_ACTIVATIONS, _LINEAR) if kind.endswith(f".{name}")]
    return known[0] if known else name


def _evaluated(network: Mlp, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, O] what a perceptron of known activations gives for [N, I]."""
    for layer in network.layers:
        values = values @ layer.weight.T + layer.bias
        values = _APPLIED[layer.activation](values)
    return values


def _softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


_APPLIED: dict[Activation, Any] = {
    Activation.NONE: lambda values: values,
    Activation.RELU: lambda values: np.maximum(values, 0),
    Activation.TANH: np.tanh,
    Activation.SIGMOID: lambda values: 1 / (1 + np.exp(-values)),
    Activation.SOFTMAX: _softmax,
}
