"""Coarse forms of blocks of fields: grids of densities and colours that are there at once.

A vertex holds what its cell lets through on average (the mean of exp(−σ h) over eight points), so
that thin walls stay as dense as they look from afar, and the mean colour of what is dense, seen
from six sides. Sampled by steps of half a cell where anything is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rendering.models.components import Components, Domain, Evaluator, components_for
from scene_store.models.field_bytes import FieldBlock
from scene_store.models.field_chunks import StandIn
from splat.errors import SceneError
from splat.fields import (
    Contraction,
    Field,
    FieldSpace,
    GridLevel,
    HashGridEncoding,
    Network,
    OccupancySampler,
)
from splat.networks import Activation, Mlp

Float32Array = NDArray[np.float32]

SIDE = 32  # vertices; 256 KiB
MOST_DENSITY = 6e4  # of 16-bit numbers
THIN = 1e-2  # optical depth of a cell up to which it counts as empty
BATCH = 1 << 15
_HALVES = np.array(np.meshgrid(*[[-0.25, 0.25]] * 3)).reshape(3, -1).T
_SIDES = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)


def make_stand_in(block: FieldBlock, components: Components | None = None) -> StandIn:
    """The coarse form of a block that has bounds.

    Args:
        components: What evaluates the block; None for the fastest there are.

    Raises:
        SceneError: If the block has no bounds.
    """
    field = block.field
    lo = np.maximum(block.lo, field.space.lo)
    hi = np.minimum(block.hi, field.space.hi)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise SceneError("a field without bounds has no coarse form")
    chosen = components or components_for()
    bounded = bool(np.isfinite(field.space.lo).all())
    is_bounded = bounded or field.space.contraction is not Contraction.NONE
    evaluator = chosen.network(field.network, Domain(field.space.contraction, is_bounded))
    step = (hi - lo) / (SIDE - 1)
    at = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), axis=-1)[..., ::-1]
    vertices = lo + at.reshape(-1, 3) * step
    table = _resampled(evaluator, field, vertices, step)
    _spread_colors(table)
    return StandIn(_grid_field(field, table, lo, hi), float(step.max()))


def _resampled(
    evaluator: Evaluator,
    field: Field,
    vertices: NDArray[np.float64],
    step: NDArray[np.float64],
) -> Float32Array:
    """[N, 4] densities and colours about vertices [N, 3] of the field's world."""
    length = float(np.linalg.norm(step) / np.sqrt(3.0)) * field.space.density_scale
    out = np.zeros((len(vertices), 4), np.float32)
    views = _turned(field.space, _SIDES)
    for first in range(0, len(vertices), BATCH // len(_HALVES)):
        some = slice(first, first + BATCH // len(_HALVES))
        points = (vertices[some, None] + _HALVES * step).reshape(-1, 3)
        inside = _in_field(field.space, np.clip(points, field.space.lo, field.space.hi))
        density = evaluator.densities(inside).reshape(-1, len(_HALVES))
        through = np.exp(-density * np.float32(length)).mean(axis=1)
        thick = -np.log(np.maximum(through, np.float32(1e-30)))
        dense = np.flatnonzero(thick > THIN)
        out[some][:, 0] = np.where(thick > THIN, np.minimum(thick / length, MOST_DENSITY), 0)
        if len(dense):
            cells = inside.reshape(3, -1, len(_HALVES))[:, dense].reshape(3, -1)
            weights = np.float32(1) - np.exp(-density[dense] * np.float32(length))
            out[first + dense, 1:] = _mean_colors(evaluator, cells, weights, views)
    return out


def _mean_colors(
    evaluator: Evaluator, points: Float32Array, weights: Float32Array, views: Float32Array
) -> Float32Array:
    """[N, 3] of N cells of eight points each [3, 8 N], with weights [N, 8]."""
    total = np.zeros((*weights.shape, 3), np.float32)
    for view in views:
        along = np.repeat(view[:, None], points.shape[1], axis=1)
        _, color = evaluator.evaluate(np.ascontiguousarray(points), along)
        total += color.T.reshape(total.shape)
    weighted = (weights[..., None] * total).sum(axis=1) / len(views)
    mean = weighted / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    mean_colors: Float32Array = np.asarray(mean, np.float32)
    return mean_colors


def _spread_colors(table: Float32Array) -> None:
    """Empty vertices get the colours of dense ones beside them: between both, colour is
    interpolated as density is."""
    grid = table.reshape(SIDE, SIDE, SIDE, 4)
    dense = grid[..., 0] > 0
    total = np.where(dense[..., None], grid[..., 1:], 0)
    number = dense.astype(np.float32)
    for axis in range(3):
        total = _summed(total, axis)
        number = _summed(number, axis)
    beside = ~dense & (number > 0)
    grid[beside, 1:] = total[beside] / number[beside][:, None]


def _summed(values: Float32Array, axis: int) -> Float32Array:
    """With both neighbours along an axis."""
    before, after = [slice(None)] * values.ndim, [slice(None)] * values.ndim
    before[axis], after[axis] = slice(0, -1), slice(1, None)
    out: Float32Array = values.copy()
    out[tuple(after)] += values[tuple(before)]
    out[tuple(before)] += values[tuple(after)]
    return out


def _grid_field(
    field: Field, table: Float32Array, lo: NDArray[np.float64], hi: NDArray[np.float64]
) -> Field:
    """A field of a dense grid over a box."""
    grid = HashGridEncoding(
        (GridLevel(float(SIDE - 1), SIDE, False, SIDE**3, 0),), table.astype(np.float16), 0.0
    )
    network = Network(
        position=grid,
        trunk=Mlp(4),
        density_head=Mlp(4),
        density_activation=Activation.RELU,
        feature_columns=(1, 4),
        color_mlp=Mlp(3),
        color_inputs=("feature",),
    )
    size = hi - lo
    matrix = np.concatenate([np.diag(1.0 / size), (-lo / size)[:, None]], axis=1)
    space = FieldSpace(matrix, Contraction.NONE, lo, hi, field.space.density_scale)
    occupied = (table[:, 0] > 0).reshape(SIDE, SIDE, SIDE)
    for axis in range(3):
        occupied = _summed(occupied.astype(np.float32), axis) > 0
    step = 0.5 / (SIDE - 1)
    return Field(
        kind=field.kind,
        network=network,
        space=space,
        sampler=OccupancySampler(occupied[None], step, step),
        near=0.0,
        far=max(field.far, 1.0) * 1e3,
        background=field.background,
        up=field.up,
    )


def _in_field(space: FieldSpace, points: NDArray[np.float64]) -> Float32Array:
    """[3, N] field coordinates of points [N, 3] of the world."""
    y = points @ space.world_to_field[:, :3].T + space.world_to_field[:, 3]
    return np.ascontiguousarray(y.T, np.float32)


def _turned(space: FieldSpace, views: Float32Array) -> Float32Array:
    """Directions [N, 3] by the rotation of a space."""
    matrix = space.world_to_field[:, :3]
    rotation = matrix / np.sqrt((matrix * matrix).sum(axis=1, keepdims=True))
    return np.asarray(views @ rotation.T, np.float32)
