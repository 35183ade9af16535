"""Hash grids and networks as nerfstudio and tiny-cuda-nn lay them out.

tiny-cuda-nn (Müller 2021) keeps the parameters of a module in one vector: those of the network
first, layer by layer, [outputs, inputs] row-major and without biases, then those of the grid,
level by level. Inputs and outputs of a network are padded to multiples of 16: what a grid feeds
it is padded by zeros, what comes from outside by ones, so that these weights act as a bias.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat.fields import GridLevel, HashGridEncoding
from splat.networks import MAX_WIDTH, Activation, Layer, Mlp

ALIGNMENT = 16
Float32Array = NDArray[np.float32]


def torch_levels(count: int, base: int, finest: int, log2_entries: int) -> tuple[GridLevel, ...]:
    """Levels of nerfstudio's own (torch) grid: all hashed, each with a table of the full size.

    Args:
        count: Levels.
        base, finest: Resolutions of the first and of the last.
        log2_entries: Of each table.
    """
    entries = 1 << log2_entries
    growth = np.float32(_growth(count, base, finest))
    # A float32 to an integer power, rounded, as torch does it: 2048 may become 2047.
    powers = (np.float64(growth) ** np.arange(count)).astype(np.float32)
    scales = np.floor(np.float32(base) * powers)
    return tuple(
        GridLevel(float(scale), int(scale) + 1, True, entries, level * entries)
        for level, scale in enumerate(scales)
    )


def tcnn_levels(count: int, base: int, finest: int, log2_entries: int) -> tuple[GridLevel, ...]:
    """Levels of tiny-cuda-nn's grid: coarse ones are dense; arguments as of ``torch_levels``."""
    log2_growth = np.log2(np.float32(_growth(count, base, finest)))
    levels = []
    first = 0
    for level in range(count):
        scale = np.exp2(np.float32(level) * log2_growth) * np.float32(base) - np.float32(1)
        resolution = math.ceil(scale) + 1
        entries = min(-(-(resolution**3) // 8) * 8, 1 << log2_entries)
        levels.append(GridLevel(float(scale), resolution, resolution**3 > entries, entries, first))
        first += entries
    return tuple(levels)


def entries_of(levels: tuple[GridLevel, ...]) -> int:
    """Of all tables together."""
    return levels[-1].first + levels[-1].entries


def torch_grid(levels: tuple[GridLevel, ...], table: NDArray[Any]) -> HashGridEncoding:
    """nerfstudio's own grid.

    Args:
        levels: Of ``torch_levels``.
        table: [E, F].

    Raises:
        ValueError: If the table is not of these levels' size, or holds what is not finite.
    """
    if table.ndim != 2 or len(table) != entries_of(levels):
        raise ValueError(
            f"a hash table of shape {table.shape}, but its {len(levels)} levels have "
            f"{entries_of(levels)} entries"
        )
    return HashGridEncoding(levels, _finite(table.astype(np.float32, copy=False)), shift=0.0)


def tcnn_grid(
    levels: tuple[GridLevel, ...], params: NDArray[Any], features: int
) -> HashGridEncoding:
    """tiny-cuda-nn's grid; evaluated in half precision, as it does it.

    Args:
        levels: Of ``tcnn_levels``.
        params: [E · features].
        features: Of an entry.

    Raises:
        ValueError: As ``torch_grid``.
    """
    if params.size != entries_of(levels) * features:
        raise ValueError(
            f"a hash grid of {params.size} values, but its {len(levels)} levels have "
            f"{entries_of(levels)} entries of {features}"
        )
    with np.errstate(over="ignore"):
        table = params.astype(np.float16).reshape(-1, features)
    return HashGridEncoding(levels, _finite(table), shift=0.5)


def tcnn_mlp(
    params: NDArray[Any], inputs: int, outputs: int, layers: int, last: Activation, padding: float
) -> Mlp:
    """A network of tiny-cuda-nn, its weights rounded to half precision, as it does it.

    Args:
        params: All its weights.
        inputs, outputs: Without padding.
        layers: How many, the last one included.
        last: Activation of the last one; of the others it is the rectifier.
        padding: With which inputs are padded.

    Raises:
        ValueError: If no width of the hidden layers fits.
    """
    padded_in, padded_out = _padded(inputs), _padded(outputs)
    width = _hidden_width(params.size, padded_in + padded_out, layers)
    if width is None:
        raise ValueError(
            f"a network of {params.size} values, but none of {layers} layers with {inputs} inputs "
            f"and {outputs} outputs has so many"
        )
    with np.errstate(over="ignore"):
        values = params.reshape(-1).astype(np.float16).astype(np.float32)
    shapes = [(width, padded_in), *[(width, width)] * (layers - 2), (padded_out, width)]
    made = []
    at = 0
    for number, (rows, columns) in enumerate(shapes):
        weight = values[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        bias = np.zeros(rows, np.float32)
        if number == 0:
            bias = weight[:, inputs:].sum(axis=1, dtype=np.float64).astype(np.float32) * padding
            weight = weight[:, :inputs]
        if number == layers - 1:
            weight, bias = weight[:outputs], bias[:outputs]
        made.append(Layer(weight, bias, last if number == layers - 1 else Activation.RELU))
    return Mlp(inputs, tuple(made))


def tcnn_mlp_size(total: int, inputs: int, outputs: int, layers: int) -> bool:
    """Whether a network of tiny-cuda-nn can have ``total`` weights; as of ``tcnn_mlp``."""
    return _hidden_width(total, _padded(inputs) + _padded(outputs), layers) is not None


def _hidden_width(total: int, ends: int, layers: int) -> int | None:
    """Width w with ``total = ends · w + (layers − 2) · w²``."""
    if layers < 2 or total <= 0:
        return None
    inner = layers - 2
    if inner == 0:
        width = total // ends
    else:
        width = (math.isqrt(ends * ends + 4 * inner * total) - ends) // (2 * inner)
    fits = 0 < width <= MAX_WIDTH and total == ends * width + inner * width * width
    return width if fits else None


def _padded(width: int) -> int:
    return -(-width // ALIGNMENT) * ALIGNMENT


def _growth(count: int, base: int, finest: int) -> float:
    return math.exp((math.log(finest) - math.log(base)) / (count - 1)) if count > 1 else 1.0


def _finite(table: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(table).all():
        raise ValueError("a hash table with values that are not finite")
    return np.ascontiguousarray(table)
