"""Hash grids, networks and harmonics in plain torch, as nerfstudio and tiny-cuda-nn have them.

Written from Müller et al. 2022 (equations 2 to 4) and from what both compute: an oracle, which
shares no code with ``scene_store`` or ``rendering``. Modules are named as theirs.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

TCNN_ALIGNMENT = 16
PRIMES = (1, 2_654_435_761, 805_459_861)


# ---- Hash grids -----------------------------------------------------------------------------


def growth_of(levels: int, base: int, finest: int) -> float:
    """By which the resolution grows from level to level."""
    return float(np.exp((np.log(finest) - np.log(base)) / (levels - 1))) if levels > 1 else 1.0


def _corners(cells: Tensor, shares: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Vertices [N, 3] around points, and how much each has of them [N]."""
    found = []
    for corner in range(8):
        offset = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2])
        parts = torch.where(offset == 1, shares, 1 - shares)
        found.append((cells + offset, parts.prod(dim=-1)))
    return found


def _hashed(vertices: Tensor, entries: int) -> Tensor:
    mixed = (vertices * torch.tensor(PRIMES)) & 0xFFFFFFFF
    return (mixed[:, 0] ^ mixed[:, 1] ^ mixed[:, 2]) % entries


class TorchGrid(nn.Module):
    """nerfstudio's own hash grid: every level has a table of the full size."""

    def __init__(self, levels: int, base: int, finest: int, log2_entries: int, features: int):
        super().__init__()
        self.entries = 1 << log2_entries
        growth = growth_of(levels, base, finest)
        self.scalings = torch.floor(base * growth ** torch.arange(levels))
        table = (torch.rand(self.entries * levels, features) * 2 - 1) * 1e-3
        self.hash_table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L F] at points [N, 3] of the unit cube."""
        encoded = []
        for level, scale in enumerate(self.scalings):
            at = x * scale
            cells = torch.floor(at)
            rows = [
                (share[:, None] * self.hash_table[level * self.entries + _hashed(v, self.entries)])
                for v, share in _corners(cells.long(), at - cells)
            ]
            encoded.append(torch.stack(rows).sum(dim=0))
        return torch.cat(encoded, dim=-1)


class TcnnLevels:
    """Where tiny-cuda-nn keeps the levels of a hash grid."""

    def __init__(self, levels: int, base: int, finest: int, log2_entries: int, features: int):
        log2_growth = torch.log2(torch.tensor(growth_of(levels, base, finest), dtype=torch.float32))
        self.features = features
        self.outputs = levels * features
        self.levels: list[tuple[float, int, int, int]] = []
        first = 0
        for level in range(levels):
            scale = float(torch.exp2(level * log2_growth) * base - 1)
            side = math.ceil(scale) + 1
            entries = min((side**3 + 7) // 8 * 8, 1 << log2_entries)
            self.levels.append((scale, side, entries, first))
            first += entries
        self.size = first * features

    def encode(self, params: Tensor, x: Tensor) -> Tensor:
        """[N, L F] of points [N, 3]; ``params`` [size] hold the tables."""
        table = params.reshape(-1, self.features)
        encoded = []
        for scale, side, entries, first in self.levels:
            at = x * scale + 0.5
            cells = torch.floor(at)
            rows = []
            for vertex, share in _corners(cells.long(), at - cells):
                if side**3 > entries:
                    index = _hashed(vertex, entries)
                else:
                    index = (vertex * torch.tensor([1, side, side * side])).sum(dim=-1) % entries
                rows.append(share[:, None] * table[first + index])
            encoded.append(torch.stack(rows).sum(dim=0))
        return torch.cat(encoded, dim=-1)


# ---- Networks -------------------------------------------------------------------------------


class TorchMlp(nn.Module):
    """nerfstudio's own network."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int):
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[N, outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = functional.relu(layer(x))
        out: Tensor = last(x)
        return out


class TcnnLayers:
    """Where tiny-cuda-nn keeps the weights of a network, and with what it pads its inputs."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int, padding: float):
        self.inputs, self.outputs, self.padding = inputs, outputs, padding
        padded = [-(-width // TCNN_ALIGNMENT) * TCNN_ALIGNMENT for width in (inputs, outputs)]
        self.shapes = [(hidden, padded[0]), *[(hidden, hidden)] * (layers - 2), (padded[1], hidden)]
        self.size = sum(rows * columns for rows, columns in self.shapes)

    def apply(self, params: Tensor, x: Tensor) -> Tensor:
        """[N, outputs] of inputs [N, inputs]; ``params`` [size] hold the weights."""
        width = self.shapes[0][1] - self.inputs
        x = torch.cat([x, x.new_full((len(x), width), self.padding)], dim=-1)
        at = 0
        for number, (rows, columns) in enumerate(self.shapes):
            x = x @ params[at : at + rows * columns].reshape(rows, columns).T
            at += rows * columns
            if number < len(self.shapes) - 1:
                x = functional.relu(x)
        return x[:, : self.outputs]


def _as_half(params: Tensor) -> Tensor:
    """As tiny-cuda-nn reads its parameters; gradients pass through."""
    return params + (params.half().to(params.dtype) - params).detach()


def _initial(layers: TcnnLayers) -> Tensor:
    bounds = [math.sqrt(6 / sum(shape)) for shape in layers.shapes]
    return torch.cat(
        [
            (torch.rand(rows * columns) * 2 - 1) * bound
            for (rows, columns), bound in zip(layers.shapes, bounds, strict=True)
        ]
    )


class TcnnGrid(nn.Module):
    """A module of tiny-cuda-nn: a grid."""

    def __init__(self, levels: TcnnLevels):
        super().__init__()
        self._levels = levels
        self.params = nn.Parameter((torch.rand(levels.size) * 2 - 1) * 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L F]."""
        return self._levels.encode(_as_half(self.params), x)


class TcnnNetwork(nn.Module):
    """A module of tiny-cuda-nn: a network."""

    def __init__(self, layers: TcnnLayers):
        super().__init__()
        self._layers = layers
        self.params = nn.Parameter(_initial(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[N, outputs]."""
        return self._layers.apply(_as_half(self.params), x)


class TcnnJoint(nn.Module):
    """A module of tiny-cuda-nn: a network behind a grid, the network's weights first."""

    def __init__(self, levels: TcnnLevels, layers: TcnnLayers):
        super().__init__()
        self._levels, self._layers = levels, layers
        table = (torch.rand(levels.size) * 2 - 1) * 1e-3
        self.params = nn.Parameter(torch.cat([_initial(layers), table]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, outputs]."""
        params = _as_half(self.params)
        encoded = self._levels.encode(params[self._layers.size :], x)
        return self._layers.apply(params[: self._layers.size], encoded)


class Held(nn.Module):
    """Something under the name that nerfstudio gives it."""

    def __init__(self, name: str, held: nn.Module):
        super().__init__()
        self._name = name
        self.add_module(name, held)

    def forward(self, x: Tensor) -> Tensor:
        """What is held, of x."""
        out: Tensor = self.get_submodule(self._name)(x)
        return out


def harmonics(d: Tensor, *, signs: bool) -> Tensor:
    """[N, 16] real harmonics to degree 3 as polynomials of x, y, z (unit length presupposed).

    Args:
        signs: Whether with (−1)^m (tiny-cuda-nn), or without (nerfstudio's own).
    """
    x, y, z = d.unbind(dim=-1)
    xx, yy, zz = x * x, y * y, z * z
    pi = math.pi
    c1, c2 = math.sqrt(3 / (4 * pi)), math.sqrt(15 / (4 * pi))
    c20, c22 = math.sqrt(5 / (16 * pi)), math.sqrt(15 / (16 * pi))
    c33, c32 = math.sqrt(35 / (32 * pi)), math.sqrt(105 / (4 * pi))
    c31, c30 = math.sqrt(21 / (32 * pi)), math.sqrt(7 / (16 * pi))
    odd = -1.0 if signs else 1.0
    return torch.stack(
        [
            torch.full_like(x, math.sqrt(1 / (4 * pi))),
            *(odd * c1 * y, c1 * z, odd * c1 * x),
            *(c2 * x * y, odd * c2 * y * z, c20 * (3 * zz - 1), odd * c2 * x * z, c22 * (xx - yy)),
            *(odd * c33 * y * (3 * xx - yy), c32 * x * y * z, odd * c31 * y * (5 * zz - 1)),
            *(c30 * z * (5 * zz - 3), odd * c31 * x * (5 * zz - 1), c32 / 2 * z * (xx - yy)),
            odd * c33 * x * (xx - 3 * yy),
        ],
        dim=-1,
    )
