"""Pictures of fields in float64, as ``splat.fields`` defines samplers, spaces and backgrounds.

What readers are held against: it knows nothing of engines, and they nothing of it. Points and
values are rows, [N, …].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat.fields import BoxSampler, Contraction, Field, FieldSpace, ProposalSampler, Spacing
from tests.models.field_numpy import density_at, network_at

Array = NDArray[np.float64]


def cube(space: FieldSpace, points: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Points [N, 3] in the unit cube, and whether there is anything."""
    y = points @ space.world_to_field[:, :3].T + space.world_to_field[:, 3]
    if space.contraction is not Contraction.NONE:
        order = 2 if space.contraction is Contraction.L2 else np.inf
        size = np.maximum(np.linalg.norm(y, ord=order, axis=1, keepdims=True), 1)
        y = (np.where(size > 1, (2 - 1 / size) * y / size, y) + 2) / 4
    inside = np.logical_and(points >= space.lo, points <= space.hi).all(axis=1)
    return np.clip(y, 0, 1), np.asarray(inside)


def picture(field: Field, origins: Array, directions: Array) -> Array:
    """[N, 3] colours of rays over the field's own background.

    Args:
        origins, directions: [N, 3]; directions as ``Field.rays`` has them for one unit of t.
    """
    if isinstance(field.sampler, ProposalSampler):
        t, lengths = _proposed(field, field.sampler, origins, directions)
        color_weight, kept = 0.0, np.ones(t.shape, bool)
    else:
        assert isinstance(field.sampler, BoxSampler)
        t, lengths, kept = _boxed(field.sampler, field, origins, directions)
        color_weight = field.sampler.color_weight
    points = (origins[:, None] + directions[:, None] * t[..., None]).reshape(-1, 3)
    views = np.broadcast_to(directions[:, None], (*t.shape, 3)).reshape(-1, 3)
    x, inside = cube(field.space, points)
    sigma, color = network_at(field.network, x, views)
    sigma = (sigma * inside).reshape(t.shape) * kept
    color = color.reshape(*t.shape, 3)
    weights = _weights(sigma, lengths * field.space.density_scale)
    seen = ((weights * (weights > color_weight))[..., None] * color).sum(axis=1)
    left = 1 - weights.sum(axis=1, keepdims=True)
    behind = color[:, -1] if field.last_sample_background else np.array(field.background or 0.0)
    return np.asarray(np.clip(seen + left * behind, 0, 1))


def _weights(sigma: Array, lengths: Array) -> Array:
    alpha = 1 - np.exp(-sigma * lengths)
    left = np.cumprod(1 - alpha, axis=1)
    return np.asarray(alpha * np.concatenate([np.ones((len(alpha), 1)), left[:, :-1]], axis=1))


def _proposed(
    field: Field, sampler: ProposalSampler, origins: Array, directions: Array
) -> tuple[Array, Array]:
    borders = np.tile(np.linspace(0, 1, sampler.counts[0] + 1), (len(origins), 1))
    counts = (*sampler.counts[1:], sampler.samples)
    for network, space, count in zip(
        sampler.proposals, sampler.proposal_spaces, counts, strict=True
    ):
        t = _distances(borders, field, sampler.spacing)
        middles = (t[:, 1:] + t[:, :-1]) / 2
        points = origins[:, None] + directions[:, None] * middles[..., None]
        x, inside = cube(space, points.reshape(-1, 3))
        sigma = (density_at(network, x) * inside).reshape(middles.shape)
        weights = _weights(sigma, np.diff(t) * space.density_scale) + sampler.padding
        sums = np.cumsum(weights, axis=1)
        sums = np.concatenate([np.zeros((len(t), 1)), sums], axis=1) / sums[:, -1:]
        wanted = (np.arange(count + 1) + 0.5) / (count + 1)
        borders = np.stack([np.interp(wanted, s, b) for s, b in zip(sums, borders, strict=True)])
    t = _distances(borders, field, sampler.spacing)
    return (t[:, 1:] + t[:, :-1]) / 2, np.diff(t)


def _distances(s: Array, field: Field, spacing: Spacing) -> Array:
    near, far = field.near, field.far
    if spacing is Spacing.UNIFORM:
        return np.asarray(near + s * (far - near))
    assert spacing is Spacing.PIECEWISE
    start, end = (x / 2 if x < 1 else 1 - 1 / (2 * x) for x in (near, far))
    even = start + s * (end - start)
    return np.where(even < 0.5, 2 * even, 1 / (2 - 2 * np.maximum(even, 0.5)))


def _boxed(
    sampler: BoxSampler, field: Field, origins: Array, directions: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        faces = [(corner - origins) / directions for corner in (sampler.lo, sampler.hi)]
    entry = np.clip(np.fmin(*faces).max(axis=1), field.near, field.far)
    t = entry[:, None] + sampler.step * np.arange(sampler.samples)
    lengths = np.full(t.shape, sampler.step)
    lengths[:, -1] = 0
    points = (origins[:, None] + directions[:, None] * t[..., None]).reshape(-1, 3)
    kept = ((points >= sampler.lo) & (points <= sampler.hi)).all(axis=1)
    if sampler.mask is not None:
        assert sampler.mask_lo is not None and sampler.mask_hi is not None
        kept &= _masked(sampler.mask, sampler.mask_lo, sampler.mask_hi, points)
    return t, lengths, kept.reshape(t.shape)


def _masked(mask: NDArray[np.bool_], lo: Array, hi: Array, points: Array) -> NDArray[np.bool_]:
    at = (points - lo) / (hi - lo) * (np.array(mask.shape[::-1]) - 1)
    low = np.floor(at).astype(np.int64)
    found = np.zeros(len(points), bool)
    for corner in np.ndindex(2, 2, 2):
        vertex = low + corner
        there = ((vertex >= 0) & (vertex < mask.shape[::-1])).all(axis=1)
        part = np.where(np.array(corner) == 1, at - low, 1 - (at - low)).prod(axis=1)
        x, y, z = np.clip(vertex, 0, np.array(mask.shape[::-1]) - 1).T
        found |= there & (part > 0) & mask[z, y, x]
    return found


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of two pictures with values in [0, 1]."""
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)
