"""The truth about neural anchors: the equations of ``splat.anchors`` in float64, line by line.

Slow, and written to be read; every other decoder is held to it. It is also what plain 3DGS is
fitted to (``rendering.models.anchors_to_gaussians``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splat.anchors import AnchorModel, LevelRule, OctreeLevels
from splat.gaussians import Gaussians
from splat.harmonics import rgb_to_sh0
from splat.networks import EXP_LIMIT, Activation, Mlp
from splat.rows import Rows

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedAnchors:
    """What A anchors stand for, seen from a point: k Gaussians each, drawn or not.

    Attributes:
        means: [A, k, 3] float64, world units.
        quats: [A, k, 4] float64, wxyz, unit length.
        scales: [A, k, 3] float64, standard deviations.
        opacities: [A, k] float64; of 0 and less are not drawn, nor are anchors of levels that are
            not due, whose opacities are 0.
        colors: [A, k, 3] float64, displayed as they are.
    """

    means: Float64Array
    quats: Float64Array
    scales: Float64Array
    opacities: Float64Array
    colors: Float64Array

    def gaussians(self, least_opacity: float = 0.0) -> Gaussians:
        """Those of more than an opacity, by anchor and then by number, colours as degree 0."""
        drawn = self.opacities > least_opacity
        return Gaussians(
            means=self.means[drawn].astype(np.float32),
            quats=self.quats[drawn].astype(np.float32),
            scales=self.scales[drawn].astype(np.float32),
            opacities=self.opacities[drawn].astype(np.float32),
            sh=rgb_to_sh0(self.colors[drawn])[:, None, :].astype(np.float32),
        )


def decode_anchors(
    model: AnchorModel,
    rows: Rows,
    center: NDArray[np.floating],
    appearance: NDArray[np.floating] | None = None,
) -> DecodedAnchors:
    """What anchors stand for.

    Args:
        rows: [A, W] of ``model.layout``.
        center: [3] or [A, 3], the point that each is seen from, world units.
        appearance: [E] embedding; None for ``appearance_of(model)``.
    """
    layout, k = model.layout, model.layout.offsets
    data = rows.data.astype(np.float64)
    mean, feature = data[:, layout.means], data[:, layout.feature_values]
    scales = np.exp(data[:, layout.scales])
    offsets = data[:, layout.offset_values].reshape(-1, k, 3)
    levels = data[:, layout.level_values]

    ray = mean - np.asarray(center, np.float64)
    distance = np.linalg.norm(ray, axis=1, keepdims=True)
    view = ray / np.maximum(distance, np.finfo(np.float32).tiny)
    level = levels[:, :1] if model.level_input else levels[:, :0]
    if model.bank_mlp is not None:
        seen = [view, level] if layout.has_levels else [view, distance]
        feature = _blended(feature, evaluate(model.bank_mlp, np.concatenate(seen, axis=1)))

    def inputs(with_distance: bool, *more: Float64Array) -> Float64Array:
        dist = distance if with_distance else distance[:, :0]
        return np.concatenate([feature, view, dist, level, *more], axis=1)

    opacity = evaluate(model.opacity_mlp, inputs(model.opacity_dist))
    if model.levels is not None:
        opacity = opacity * level_shares(model.levels, mean, levels, np.asarray(center))[:, None]
    look = appearance_of(model) if appearance is None else np.asarray(appearance, np.float64)
    looks = np.broadcast_to(look, (len(rows), len(look)))
    color = evaluate(model.color_mlp, inputs(model.color_dist, looks)).reshape(-1, k, 3)
    shape = evaluate(model.covariance_mlp, inputs(model.covariance_dist)).reshape(-1, k, 7)
    quats = shape[..., 3:7]
    length = np.linalg.norm(quats, axis=-1, keepdims=True)
    quats = np.where(length > 1e-12, quats / np.maximum(length, 1e-12), [1.0, 0.0, 0.0, 0.0])
    return DecodedAnchors(
        means=mean[:, None, :] + offsets * scales[:, None, 0:3],
        quats=quats,
        scales=scales[:, None, 3:6] / (1.0 + np.exp(-shape[..., :3])),
        opacities=opacity,
        colors=color,
    )


def appearance_of(model: AnchorModel, camera: int | None = None) -> Float64Array:
    """[E] embedding of a training camera; the mean of all for None, as no camera is like a new
    one. Of no values if the model has none."""
    if model.appearances is None:
        return np.zeros(0)
    looks = model.appearances.astype(np.float64)
    look: Float64Array = looks.mean(axis=0) if camera is None else looks[camera]
    return look


def level_shares(
    octree: OctreeLevels,
    means: NDArray[np.floating],
    levels: NDArray[np.floating],
    center: NDArray[np.floating],
) -> Float64Array:
    """[A] what the opacities of anchors are multiplied by: 0 where their level is not due.

    Args:
        means: [A, 3] of anchors, world units.
        levels: [A, 2] their level and extra level.
        center: [3] or [A, 3] point that they are seen from.
    """
    level, extra = levels[:, 0].astype(np.float64), levels[:, 1].astype(np.float64)
    half = 0.5 * octree.voxel_size / octree.fork**level
    distance = np.linalg.norm(means + half[:, None] - center, axis=1) * octree.res_scale
    with np.errstate(divide="ignore"):
        due = np.log2(octree.standard_dist / distance) / np.log2(octree.fork) + extra
    if octree.rule is LevelRule.PROGRESSIVE:
        due = np.clip(due + 1.0, 0.9999, octree.levels - 0.0001)
        whole = np.floor(due)
        blended: Float64Array = np.where(level == whole, due - whole, level < whole)
        return blended.astype(np.float64)
    whole = _WHOLE[octree.rule](due)
    drawn: Float64Array = (level <= np.clip(whole, 0, octree.levels - 1)).astype(np.float64)
    return drawn


_WHOLE = {LevelRule.FLOOR: np.floor, LevelRule.ROUND: np.rint, LevelRule.CEIL: np.ceil}


def _blended(feature: Float64Array, weights: Float64Array) -> Float64Array:
    """The feature bank: a feature [A, F] in three resolutions, weights [A, 3]."""
    coarse, middle = np.tile(feature[:, ::4], (1, 4)), np.tile(feature[:, ::2], (1, 2))
    return weights[:, 0:1] * coarse + weights[:, 1:2] * middle + weights[:, 2:3] * feature


def evaluate(mlp: Mlp, inputs: Float64Array) -> Float64Array:
    """A network's outputs [A, O] of inputs [A, I]."""
    values = inputs
    for layer in mlp.layers:
        taken = np.concatenate([inputs, values], axis=1) if layer.skip else values
        values = _activated(
            taken @ layer.weight.astype(np.float64).T + layer.bias, layer.activation
        )
    return values


def _activated(x: Float64Array, activation: Activation) -> Float64Array:
    if activation is Activation.RELU:
        return np.maximum(x, 0.0)
    if activation is Activation.SIGMOID:
        return 0.5 * (1.0 + np.tanh(0.5 * x))
    if activation is Activation.TANH:
        return np.tanh(x)
    if activation is Activation.EXP:
        return np.exp(np.minimum(x, EXP_LIMIT))
    if activation is Activation.SOFTPLUS:
        return np.logaddexp(0.0, x)
    if activation is Activation.SOFTMAX:
        powers = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    return x
