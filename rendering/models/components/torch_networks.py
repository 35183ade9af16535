"""Encodings and networks of ``splat.fields`` in plain torch: the equations, nothing else.

In float64 this is the reference that fast variants are tested against; in float32 on a device it
is what draws there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rendering.models.components.contracts import Domain
from rendering.models.components.paged_grids import PagedGrid, reader_of
from splat.fields import (
    HASH_PRIMES,
    ConcatenatedEncoding,
    Contraction,
    Encoding,
    FrequencyEncoding,
    FrequencyOrder,
    HashGridEncoding,
    IdentityEncoding,
    Network,
    PagedGridEncoding,
    PlaneEncoding,
    SphericalHarmonicsEncoding,
    TableReader,
)
from splat.networks import EXP_LIMIT, Activation, Mlp

_UINT32 = 0xFFFFFFFF
_BATCH = 1 << 16  # samples at once: intermediate values of more would fill the memory


class TorchField:
    """A network on a device.

    Args:
        network: What to evaluate.
        domain: Where it is defined.
        device, dtype: Of all tensors.
        tables: Of a ``PagedGridEncoding``.
    """

    def __init__(
        self,
        network: Network,
        domain: Domain,
        device: torch.device,
        dtype: torch.dtype,
        tables: TableReader | None = None,
    ) -> None:
        self._network, self._domain = network, domain
        self._arrays = Arrays(device, dtype)
        self._paged = None
        if isinstance(network.position, PagedGridEncoding):
            self._paged = PagedGrid(network.position, reader_of(tables))

    @property
    def nbytes(self) -> int:
        """Of copies on the device."""
        return self._arrays.nbytes

    def evaluate(self, positions: Tensor, directions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Densities [M] and colours [3, M] (none [0, M] without directions)."""
        parts = [
            self._batch(
                positions[:, first : first + _BATCH],
                None if directions is None else directions[:, first : first + _BATCH],
            )
            for first in range(0, max(positions.shape[1], 1), _BATCH)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], 1)

    def _batch(self, positions: Tensor, directions: Tensor | None) -> tuple[Tensor, Tensor]:
        net, arrays = self._network, self._arrays
        position = contracted(positions, self._domain.contraction)
        inside = torch.isfinite(position).all(0)
        if self._domain.bounded:
            inside &= ((position >= 0) & (position <= 1)).all(0)
        code = self._code(position)
        hidden = mlp(net.trunk, code, arrays)
        raw = mlp(net.density_head, hidden, arrays)[net.density_column] + net.density_bias
        density = activated(net.density_activation, raw[None])[0]
        kept = inside & torch.isfinite(density) & (density > 0)
        density = torch.where(kept, density, 0.0)
        if directions is None:
            return density, density.new_zeros(0, len(density))
        assert net.color_mlp is not None
        inputs = {"position": code}
        features = hidden if net.feature_head is None else mlp(net.feature_head, hidden, arrays)
        first, end = net.feature_columns
        inputs["feature"] = features[first : end or len(features)]
        inputs["direction"] = encode(net.direction, directions, arrays)
        if net.appearances is not None:
            rows = arrays.of(net.appearances)
            row = rows.mean(0) if net.appearance is None else rows[net.appearance]
            inputs["appearance"] = row[:, None].expand(-1, len(density))
        if net.color_position is not None:
            inputs["grid"] = self._grid(position)
        color = mlp(net.color_mlp, torch.cat([inputs[name] for name in net.color_inputs]), arrays)
        return density, torch.where(kept, color, 0.0)

    def _code(self, position: Tensor) -> Tensor:
        arrays = self._arrays
        if self._paged is None:
            return encode(self._network.position, position, arrays)
        # What is kept of a level's table on the device is gone with the level.
        levels = self._paged.encode(
            lambda level: encode(level, position, Arrays(arrays.device, arrays.dtype))
        )
        return torch.cat(levels)

    def _grid(self, position: Tensor) -> Tensor:
        net, arrays = self._network, self._arrays
        assert net.color_position is not None
        values = encode(net.color_position, position, arrays)
        if net.color_basis is not None:
            values = mlp(net.color_basis, values, arrays)
        if net.color_encoding is not None:
            values = encode(net.color_encoding, values, arrays)
        return values


class Arrays:
    """A network's arrays as tensors of a device, each copied once."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        # The array is kept, so that no other one takes its id.
        self._kept: dict[int, tuple[Any, Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """Of all copies."""
        return sum(tensor.nbytes for _, tensor in self._kept.values())

    def of(self, array: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
        """The values in the dtype of all computation."""
        if id(array) not in self._kept:
            contiguous = np.array(array, order="C")
            tensor = torch.from_numpy(contiguous).to(self.device, self.dtype)
            self._kept[id(array)] = array, tensor
        return self._kept[id(array)][1]


def contracted(y: Tensor, contraction: Contraction) -> Tensor:
    """Field coordinates [3, M] as encodings take them (``FieldSpace``)."""
    if contraction is Contraction.NONE:
        return y
    norm = y.square().sum(0).sqrt() if contraction is Contraction.L2 else y.abs().amax(0)
    far = norm.clamp(min=1.0)
    return (torch.where(norm > 1, y * ((2 - 1 / far) / far), y) + 2) / 4


def activated(activation: Activation, v: Tensor) -> Tensor:
    """``splat.networks.Activation`` of [outputs, M]."""
    if activation is Activation.RELU:
        return v.clamp(min=0)
    if activation is Activation.SIGMOID:
        return torch.sigmoid(v)
    if activation is Activation.TANH:
        return torch.tanh(v)
    if activation is Activation.EXP:
        return v.clamp(max=EXP_LIMIT).exp()
    if activation is Activation.SOFTPLUS:
        return torch.nn.functional.softplus(v, threshold=100)
    if activation is Activation.SOFTMAX:
        return torch.softmax(v, 0)
    return v


def mlp(network: Mlp, x: Tensor, arrays: Arrays) -> Tensor:
    """[inputs, M] → [outputs, M]."""
    value = x
    for layer in network.layers:
        if layer.skip:
            value = torch.cat([x, value])
        sums = arrays.of(layer.weight) @ value + arrays.of(layer.bias)[:, None]
        value = activated(layer.activation, sums)
    return value


def encode(encoding: Encoding, x: Tensor, arrays: Arrays) -> Tensor:
    """[D, M] → [outputs, M]."""
    if isinstance(encoding, IdentityEncoding):
        return x
    if isinstance(encoding, FrequencyEncoding):
        return _frequencies(encoding, x)
    if isinstance(encoding, SphericalHarmonicsEncoding):
        return _harmonics(encoding, x)
    if isinstance(encoding, HashGridEncoding):
        return _hash_grid(encoding, x, arrays)
    if isinstance(encoding, PlaneEncoding):
        return _planes(encoding, x, arrays)
    if isinstance(encoding, ConcatenatedEncoding):
        return torch.cat([encode(part, x, arrays) for part in encoding.parts])
    raise TypeError(f"there is no torch form of {type(encoding).__name__}")


def _frequencies(encoding: FrequencyEncoding, x: Tensor) -> Tensor:
    # In float64 whatever the rest is: at 2^10 π the products would lose a thousandth of a turn.
    radians = torch.tensor(encoding.frequencies, dtype=torch.float64, device=x.device)
    angles = radians[:, None, None] * x.to(torch.float64)  # [frequencies, D, M]
    sines, cosines = angles.sin(), angles.cos()
    if encoding.order is FrequencyOrder.OCTAVES:
        waves = torch.stack([sines, cosines], 1).reshape(-1, x.shape[1])
    else:
        waves = torch.stack([sines, cosines]).transpose(1, 2).reshape(-1, x.shape[1])
    waves = waves.to(x.dtype)
    if not encoding.includes_input:
        return waves
    return torch.cat([waves, x] if encoding.input_last else [x, waves])


def _harmonics(encoding: SphericalHarmonicsEncoding, v: Tensor) -> Tensor:
    """Y_lm of a direction by recurrence over the associated Legendre polynomials, with Condon and
    Shortley's sign, in the order l² + l + m."""
    x, y, z = (v + 1) / 2 if encoding.remapped else v
    one = torch.ones_like(z)
    # cosines[m] + i sines[m] = (x + i y)^m; legendre[l, m] is P_lm / sin^m, its sign included.
    cosines, sines = [one], [torch.zeros_like(z)]
    legendre: dict[tuple[int, int], Tensor] = {(0, 0): one}
    for m in range(1, encoding.degree):
        cosines.append(cosines[-1] * x - sines[-1] * y)
        sines.append(sines[-1] * x + cosines[-2] * y)
        legendre[m, m] = -(2 * m - 1) * legendre[m - 1, m - 1]
    for m in range(encoding.degree):
        for band in range(m + 1, encoding.degree):
            before = legendre.get((band - 2, m), torch.zeros_like(z))
            legendre[band, m] = (
                (2 * band - 1) * z * legendre[band - 1, m] - (band + m - 1) * before
            ) / (band - m)
    rows = []
    for band in range(encoding.degree):
        for m in range(-band, band + 1):
            wave = sines[-m] if m < 0 else cosines[m]
            rows.append(_norm(band, abs(m)) * legendre[band, abs(m)] * wave)
    return torch.stack(rows)


def _norm(band: int, m: int) -> float:
    ratio = 1.0
    for factor in range(band - m + 1, band + m + 1):
        ratio /= factor
    return float(np.sqrt((2 * band + 1) / (4 * np.pi) * ratio * (2 if m else 1)))


def _hash_grid(encoding: HashGridEncoding, x: Tensor, arrays: Arrays) -> Tensor:
    table = arrays.of(encoding.table)
    u = torch.nan_to_num(x.clamp(0, 1), nan=0.0)
    outputs = []
    for level in encoding.levels:
        place = u * level.scale + encoding.shift
        near = place.floor()
        fraction = place - near
        total = torch.zeros((table.shape[1], x.shape[1]), dtype=x.dtype, device=x.device)
        for corner in range(8):
            far = [corner >> axis & 1 for axis in range(3)]
            vertex = [near[axis].to(torch.int64) + far[axis] for axis in range(3)]
            if level.hashed:
                index = torch.zeros_like(vertex[0])
                for axis in range(3):
                    index ^= vertex[axis] * HASH_PRIMES[axis] & _UINT32
            else:
                r = level.resolution
                index = (vertex[0] + vertex[1] * r + vertex[2] * (r * r)) & _UINT32
            weight = torch.ones_like(fraction[0])
            for axis in range(3):
                weight = weight * (fraction[axis] if far[axis] else 1 - fraction[axis])
            total += weight * table[level.first + index % level.entries].T
        outputs.append(total)
    return torch.cat(outputs)


def _planes(encoding: PlaneEncoding, x: Tensor, arrays: Arrays) -> Tensor:
    outputs = []
    groups = zip(encoding.planes, encoding.lines, encoding.axes, strict=True)
    for number, (plane, line, (first, second, along)) in enumerate(groups):
        texels = arrays.of(plane)
        whole = (texels.shape[2], texels.shape[1], 0, 0)
        width, height, column, row = encoding.windows[number] if encoding.windows else whole
        x0, x1, fx = _between(x[first], width, column, texels.shape[2])
        y0, y1, fy = _between(x[second], height, row, texels.shape[1])
        top = texels[:, y0, x0] * (1 - fx) + texels[:, y0, x1] * fx
        bottom = texels[:, y1, x0] * (1 - fx) + texels[:, y1, x1] * fx
        value = top * (1 - fy) + bottom * fy
        if line is not None:
            points = arrays.of(line)
            i0, i1, f = _between(x[along], points.shape[1], 0, points.shape[1])
            value = value * (points[:, i0] * (1 - f) + points[:, i1] * f)
        outputs.append(value.sum(0, keepdim=True) if encoding.summed else value)
    return torch.cat(outputs)


def _between(x: Tensor, whole: int, start: int, held: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two texels that samples lie between, and how far they are from the first."""
    u = torch.nan_to_num(x.clamp(0, 1), nan=0.0) * (whole - 1)
    texel = u.floor()
    near = (texel.to(torch.int64) - start).clamp(0, held - 1)
    return near, (near + 1).clamp(max=held - 1), u - texel
