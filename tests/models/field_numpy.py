"""Networks of ``splat.fields`` evaluated in float64, value by value as their docstrings say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from splat.fields import (
    HASH_PRIMES,
    ConcatenatedEncoding,
    Encoding,
    Field,
    FrequencyEncoding,
    FrequencyOrder,
    HashGridEncoding,
    IdentityEncoding,
    Network,
    PlaneEncoding,
    SphericalHarmonicsEncoding,
)
from splat.networks import EXP_LIMIT, Activation, Mlp

Array = NDArray[np.float64]

_ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.NONE: lambda x: x,
    Activation.RELU: lambda x: np.maximum(x, 0.0),
    Activation.SIGMOID: lambda x: 1.0 / (1.0 + np.exp(-x)),
    Activation.TANH: np.tanh,
    Activation.EXP: lambda x: np.exp(np.minimum(x, EXP_LIMIT)),
    Activation.SOFTPLUS: lambda x: np.logaddexp(x, 0.0),
}


def evaluate(field: Field, points: Array, directions: Array) -> tuple[Array, Array]:
    """Densities [M] and colours [M, 3] at points [M, 3] of the world, seen along unit vectors."""
    matrix = field.space.world_to_field
    turn = matrix[:, :3] / np.cbrt(np.linalg.det(matrix[:, :3]))
    return network_at(field.network, points @ matrix[:, :3].T + matrix[:, 3], directions @ turn.T)


def network_at(network: Network, points: Array, directions: Array) -> tuple[Array, Array]:
    """As ``evaluate``, in the field's own coordinates."""
    encoded = encode(network.position, points)
    trunk = forward(network.trunk, encoded)
    density = density_at(network, points)
    head = trunk if network.feature_head is None else forward(network.feature_head, trunk)
    first, end = network.feature_columns
    inputs = {"feature": head[:, first : end or None], "position": encoded}
    inputs["direction"] = encode(network.direction, directions)
    if network.appearances is not None:
        rows = network.appearances.astype(np.float64)
        row = rows.mean(axis=0) if network.appearance is None else rows[network.appearance]
        inputs["appearance"] = np.broadcast_to(row, (len(points), len(row)))
    if network.color_position is not None:
        grid = encode(network.color_position, points)
        grid = grid if network.color_basis is None else forward(network.color_basis, grid)
        code = network.color_encoding
        inputs["grid"] = grid if code is None else encode(code, grid)
    assert network.color_mlp is not None
    color = forward(
        network.color_mlp, np.concatenate([inputs[name] for name in network.color_inputs], axis=1)
    )
    return density, color


def density_at(network: Network, points: Array) -> Array:
    """Densities [M] at points [M, 3], in the field's own coordinates."""
    trunk = forward(network.trunk, encode(network.position, points))
    raw = forward(network.density_head, trunk)[:, network.density_column] + network.density_bias
    return _ACTIVATIONS[network.density_activation](raw)


def forward(mlp: Mlp, x: Array) -> Array:
    """A perceptron's outputs [M, O] of its inputs [M, I]."""
    h = x
    for layer in mlp.layers:
        own = np.concatenate([x, h], axis=1) if layer.skip else h
        h = _ACTIVATIONS[layer.activation](own @ layer.weight.astype(np.float64).T + layer.bias)
    return h


def encode(encoding: Encoding, x: Array) -> Array:
    """An encoding's outputs [M, O] of points or directions [M, 3]."""
    if isinstance(encoding, IdentityEncoding):
        return x
    if isinstance(encoding, ConcatenatedEncoding):
        return np.concatenate([encode(part, x) for part in encoding.parts], axis=1)
    if isinstance(encoding, FrequencyEncoding):
        if encoding.order is FrequencyOrder.OCTAVES:
            waves = [w(f * x) for f in encoding.frequencies for w in (np.sin, np.cos)]
        else:
            angles = (x[:, :, None] * np.array(encoding.frequencies)).reshape(len(x), -1)
            waves = [np.sin(angles), np.cos(angles)]
        own = [x] if encoding.includes_input else []
        return np.concatenate(own + waves, axis=1)
    if isinstance(encoding, SphericalHarmonicsEncoding):
        return _harmonics((x + 1) / 2 if encoding.remapped else x)[:, : encoding.outputs]
    if isinstance(encoding, HashGridEncoding):
        return _grid(encoding, x)
    assert isinstance(encoding, PlaneEncoding), "it is in memory"
    return _planes(encoding, x)


def _grid(grid: HashGridEncoding, x: Array) -> Array:
    out = []
    for level in grid.levels:
        place = x * level.scale + grid.shift
        vertex = np.floor(place)
        part = place - vertex
        value = np.zeros((len(x), grid.table.shape[1]))
        for corner in np.ndindex(2, 2, 2):
            at = (vertex + corner).astype(np.int64).astype(np.uint64)
            weight = np.where(corner, part, 1.0 - part).prod(axis=1)
            if level.hashed:
                mixed = (at * np.array(HASH_PRIMES, np.uint64)) & np.uint64(0xFFFFFFFF)
                entry = mixed[:, 0] ^ mixed[:, 1] ^ mixed[:, 2]
            else:
                side = np.uint64(level.resolution)
                entry = at[:, 0] + at[:, 1] * side + at[:, 2] * side * side
            rows = level.first + (entry % np.uint64(level.entries)).astype(np.int64)
            value += weight[:, None] * grid.table[rows].astype(np.float64)
        out.append(value)
    return np.concatenate(out, axis=1)


def _planes(encoding: PlaneEncoding, x: Array) -> Array:
    """Windows must hold all texels that are asked for: nothing is clamped to them."""
    parts = []
    windows = encoding.windows or [(p.shape[2], p.shape[1], 0, 0) for p in encoding.planes]
    for plane, line, axes, (width, height, column, row) in zip(
        encoding.planes, encoding.lines, encoding.axes, windows, strict=True
    ):
        left, across = _texel(x[:, axes[0]], width)
        top, down = _texel(x[:, axes[1]], height)
        assert left.min() >= column and left.max() + 2 <= column + plane.shape[2]
        assert top.min() >= row and top.max() + 2 <= row + plane.shape[1]
        j, i = left - column, top - row
        upper = plane[:, i, j] * (1 - across) + plane[:, i, j + 1] * across
        lower = plane[:, i + 1, j] * (1 - across) + plane[:, i + 1, j + 1] * across
        values = upper * (1 - down) + lower * down
        if line is not None:
            low, share = _texel(x[:, axes[2]], line.shape[1])
            values = values * (line[:, low] * (1 - share) + line[:, low + 1] * share)
        parts.append(values.sum(axis=0, keepdims=True) if encoding.summed else values)
    values_of_all: Array = np.concatenate(parts).T
    return values_of_all


def _texel(u: Array, size: int) -> tuple[NDArray[np.int64], Array]:
    at = np.clip(u, 0, 1) * (size - 1)
    low = np.minimum(np.floor(at), size - 2).astype(np.int64)
    return low, at - low


def _harmonics(d: Array) -> Array:
    """Degree 4, from their definition by associated Legendre polynomials with the phase of Condon
    and Shortley."""
    x, y, z = d.T
    s = [np.ones_like(x), y, 2 * x * y, 3 * x * x * y - y**3]  # r^m sin(m φ), m from 1
    c = [np.ones_like(x), x, x * x - y * y, x**3 - 3 * x * y * y]
    legendre = {  # of cos θ = z, without sin^m θ, with (−1)^m
        (0, 0): 1.0 + 0 * z,
        (1, 0): z,
        (1, 1): -1.0 + 0 * z,
        (2, 0): (3 * z * z - 1) / 2,
        (2, 1): -3 * z,
        (2, 2): 3.0 + 0 * z,
        (3, 0): (5 * z**3 - 3 * z) / 2,
        (3, 1): -1.5 * (5 * z * z - 1),
        (3, 2): 15 * z,
        (3, 3): -15.0 + 0 * z,
    }
    factorial = [1, 1, 2, 6, 24, 120, 720]
    out = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            m = abs(order)
            ratio = factorial[degree - m] / factorial[degree + m]
            norm = np.sqrt((2 * degree + 1) / (4 * np.pi) * ratio * (2 if m else 1))
            around = 1.0 if m == 0 else (s[m] if order < 0 else c[m])
            out.append(norm * legendre[degree, m] * around)
    return np.stack(out, axis=1)
