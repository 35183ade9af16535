"""Networks and encodings as the native kernels take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rendering.models.components.contracts import Domain
from rendering.models.native import _neural
from splat.fields import (
    ConcatenatedEncoding,
    Contraction,
    Encoding,
    FrequencyEncoding,
    FrequencyOrder,
    HashGridEncoding,
    IdentityEncoding,
    Network,
    PlaneEncoding,
    SphericalHarmonicsEncoding,
)
from splat.networks import Activation, Layer, Mlp

_ACTIVATIONS = {
    Activation.NONE: 0,
    Activation.RELU: 1,
    Activation.SIGMOID: 2,
    Activation.TANH: 3,
    Activation.EXP: 4,
    Activation.SOFTPLUS: 5,
    Activation.SOFTMAX: 6,
}
CONTRACTIONS = {Contraction.NONE: 0, Contraction.L2: 1, Contraction.LINF: 2}
_COLOR_INPUTS = {"feature": 0, "direction": 1, "position": 2, "appearance": 3, "grid": 4}


def packed_mlp(mlp: Mlp) -> _neural.Mlp:
    """Weights and biases in the order in which kernels read them, a copy."""
    layers = [
        (layer.weight, layer.bias, _ACTIVATIONS[layer.activation], layer.skip)
        for layer in mlp.layers
    ]
    return _neural.Mlp(mlp.inputs, layers)


def packed_encoding(encoding: Encoding, dims: int) -> _neural.Encoding:
    """An encoding of ``dims`` values; it keeps the tables and planes, not copies of them.

    Raises:
        ValueError: If it takes another number of values, or its sizes are absurd.
        TypeError: If it is of a kind that the kernels do not know.
    """
    packed = _packed_encoding(encoding, dims)
    if packed.inputs != dims:
        raise ValueError(f"an encoding of {packed.inputs} values is given {dims}")
    return packed


def _packed_encoding(encoding: Encoding, dims: int) -> _neural.Encoding:
    if isinstance(encoding, IdentityEncoding):
        return _neural.Encoding.identity(encoding.dims)
    if isinstance(encoding, FrequencyEncoding):
        first = encoding.includes_input and not encoding.input_last
        last = encoding.includes_input and encoding.input_last
        by_dimension = encoding.order is FrequencyOrder.DIMENSIONS
        return _neural.Encoding.frequencies(
            encoding.frequencies, encoding.dims, first, last, by_dimension
        )
    if isinstance(encoding, SphericalHarmonicsEncoding):
        return _neural.Encoding.harmonics(encoding.degree, encoding.remapped)
    if isinstance(encoding, HashGridEncoding):
        levels = [
            (level.scale, level.resolution, level.hashed, level.entries, level.first)
            for level in encoding.levels
        ]
        table: Any = np.ascontiguousarray(encoding.table)
        return _neural.Encoding.hash_grid(levels, table, encoding.shift)
    if isinstance(encoding, PlaneEncoding):
        return _packed_planes(encoding, dims)
    if isinstance(encoding, ConcatenatedEncoding):
        return _neural.Encoding.parts([packed_encoding(part, dims) for part in encoding.parts])
    raise TypeError(f"there are no kernels for {type(encoding).__name__}")


def _packed_planes(encoding: PlaneEncoding, dims: int) -> _neural.Encoding:
    planes = [np.ascontiguousarray(plane, np.float32) for plane in encoding.planes]
    none = np.zeros((0, 1), np.float32)
    lines = [
        none if line is None else np.ascontiguousarray(line, np.float32) for line in encoding.lines
    ]
    windows = encoding.windows or tuple((plane.shape[2], plane.shape[1], 0, 0) for plane in planes)
    # The axis of a line that is not there may be any.
    axes = [
        (first, second, along if line is not None else first)
        for (first, second, along), line in zip(encoding.axes, encoding.lines, strict=True)
    ]
    return _neural.Encoding.planes(planes, lines, axes, windows, dims, encoding.summed)


def packed_network(network: Network, domain: Domain, dims: int = 3) -> _neural.Network:
    """A whole network. Of a density's head that serves nothing else, the row that counts is kept.

    Args:
        dims: 3, of positions; or how many features it takes in their place.

    Raises:
        ValueError: If its parts do not fit each other.
    """
    column, head = network.density_column, network.density_head
    if head.layers and head.layers[-1].activation is not Activation.SOFTMAX:
        column, head = 0, _only_output(head, column)
    return _neural.Network(
        CONTRACTIONS[domain.contraction],
        domain.bounded,
        packed_encoding(network.position, dims),
        (
            _mlp_or_none(network.trunk),
            _mlp_or_none(head),
            None if network.feature_head is None else _mlp_or_none(network.feature_head),
        ),
        (column, _ACTIVATIONS[network.density_activation], network.density_bias),
        network.feature_columns,
        _color_parts(network),
        _grid_parts(network),
    )


def _color_parts(
    network: Network,
) -> tuple[_neural.Encoding | None, _neural.Mlp | None, list[int], list[float]]:
    if network.color_mlp is None:
        return None, None, [], []
    appearance: list[float] = []
    if network.appearances is not None:
        rows = network.appearances
        row = rows.mean(axis=0) if network.appearance is None else rows[network.appearance]
        appearance = [float(value) for value in row]
    return (
        packed_encoding(network.direction, 3),
        packed_mlp(network.color_mlp),
        [_COLOR_INPUTS[name] for name in network.color_inputs],
        appearance,
    )


def _grid_parts(
    network: Network,
) -> tuple[_neural.Encoding | None, _neural.Mlp | None, _neural.Encoding | None]:
    if network.color_position is None or "grid" not in network.color_inputs:
        return None, None, None
    basis, width = network.color_basis, network.color_position.outputs
    if basis is not None:
        width = basis.outputs
    return (
        packed_encoding(network.color_position, 3),
        None if basis is None else _mlp_or_none(basis),
        None if network.color_encoding is None else packed_encoding(network.color_encoding, width),
    )


def _mlp_or_none(mlp: Mlp) -> _neural.Mlp | None:
    return packed_mlp(mlp) if mlp.layers else None


def _only_output(mlp: Mlp, column: int) -> Mlp:
    last = mlp.layers[-1]
    rows = slice(column, column + 1)
    only = Layer(last.weight[rows], last.bias[rows], last.activation, last.skip)
    return Mlp(mlp.inputs, (*mlp.layers[:-1], only))
