"""Neural anchors as plain 3D Gaussians: what other viewers can open.

An anchor's Gaussians look different from everywhere; plain ones have harmonics for their colour,
and one opacity and shape. So the anchors are decoded for the places that a scene is looked at
from, each as the model draws it from there. A view counts by the pixels that a Gaussian has in it,
by one over the square of its distance: what fits a near view badly is seen, and networks say
little of distances at which the model does not draw an anchor. For each Gaussian, with that weight,

- opacity is the mean over the views that may see it, of 0 where it is not drawn;
- covariance is the mean, weighted by opacity, of ``R S² Rᵀ`` (its axes may turn and swap freely);
- harmonics are the least-squares fit to the colours over directions, weighted by opacity, with a
  penalty on degrees above 0, for a few views from one side say nothing of the other.

What an octree draws from near by alone is there from everywhere then, for nothing chooses between
levels afterwards; so each level of detail is a scene of its own (``bake_start``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rendering.base import ALPHA_CUT
from rendering.models.anchor_pages import page_of
from rendering.models.anchors_native import AnchorCuller
from rendering.models.anchors_reference import DecodedAnchors, appearance_of, decode_anchors
from splat.anchors import AnchorModel
from splat.bounds import ViewVolume
from splat.camera import Camera
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians
from splat.harmonics import sh_basis
from splat.rotations import quats_of, rotations_of
from splat.rows import Rows

Float64Array = NDArray[np.float64]

# Anchors that are fitted at once: few enough that BLAS evaluates a layer of them without threads,
# which would cost several times more than they bring.
BLOCK = 128
MOST_VIEWS = 32  # of a block
DIRECTIONS = 24  # where no views are known
RIDGE = 0.02  # of degrees above 0, as a share of all weights
_FAINT = 1e-9
_NOTHING = 1e-300


def to_gaussians(
    model: AnchorModel,
    rows: Rows,
    views: Sequence[Camera] = (),
    sh_degree: int = 3,
    *,
    appearance: int | None = None,
) -> Gaussians:
    """The anchors as Gaussians; those too faint to be drawn from any view are left out.

    Args:
        rows: [A, W] of ``model.layout``; a chunk of a scene, or all of it.
        views: From where the scene is looked at, such as its training cameras; none for all
            around each block of anchors, where all levels of an octree are drawn.
        sh_degree: Of the colours, 0 to 3.
        appearance: The training camera whose look they have; None for the mean of all.
    """
    drawn = model if views else replace(model, levels=None)
    look = appearance_of(model, appearance)
    blocks = [
        _fitted(drawn, block, views, sh_degree, look)
        for block in (rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK))
    ]
    return Gaussians.concatenate(blocks) if blocks else Gaussians.empty(sh_degree)


@dataclass(slots=True, eq=False)
class _Sums:
    """Over views, of N Gaussians with K harmonics; all weighted by the pixels that they have.

    Attributes:
        views: [N] that may see them.
        opacity: [N], also the sum of the weights of what follows.
        covariance: [N, 3, 3] weighted.
        normal: [N, K, K] and ``right`` [N, K, 3], the normal equations of the colours.
    """

    views: Float64Array
    opacity: Float64Array
    covariance: Float64Array
    normal: Float64Array
    right: Float64Array

    @classmethod
    def of(cls, count: int, bases: int) -> _Sums:
        shapes = (count,), (count,), (count, 3, 3), (count, bases, bases), (count, bases, 3)
        return cls(*(np.zeros(shape) for shape in shapes))

    def add(self, decoded: DecodedAnchors, center: Float64Array, seen: NDArray[np.bool_]) -> None:
        """A view.

        Args:
            seen: [A] anchors that it may show.
        """
        k = decoded.opacities.shape[1]
        ray = decoded.means.reshape(-1, 3) - center
        distance = np.maximum(np.linalg.norm(ray, axis=1), _FAINT)
        # It is never more than all of the picture, however near.
        reach = np.maximum(distance, decoded.scales.max(axis=2).reshape(-1))
        pixels = np.where(np.repeat(seen, k), reach**-2.0, 0.0)
        weight = pixels * decoded.opacities.reshape(-1).clip(0.0)
        self.views += pixels
        self.opacity += weight
        on = np.flatnonzero(weight)  # often but a part
        weight = weight[on]
        axes = rotations_of(decoded.quats.reshape(-1, 4)[on])
        axes *= decoded.scales.reshape(-1, 1, 3)[on]
        self.covariance[on] += weight[:, None, None] * (axes @ axes.transpose(0, 2, 1))
        way = ray[on] / distance[on, None]
        basis = sh_basis(way, SH_COUNT_OF_DEGREE.index(self.normal.shape[1]))
        weighted = weight[:, None] * basis
        self.normal[on] += weighted[:, :, None] * basis[:, None, :]
        target = decoded.colors.reshape(-1, 3)[on] - 0.5
        self.right[on] += weighted[:, :, None] * target[:, None, :]

    def harmonics(self) -> Float64Array:
        """[N, K, 3] that fit the colours best."""
        bases = self.normal.shape[1]
        penalty = np.full(bases, RIDGE)
        penalty[0] = 0.0
        total = np.maximum(self.opacity, _NOTHING)[:, None, None]
        normal = self.normal / total + np.diag(penalty) + _FAINT * np.eye(bases)
        return np.asarray(np.linalg.solve(normal, self.right / total), np.float64)


def _fitted(
    model: AnchorModel,
    rows: Rows,
    views: Sequence[Camera],
    sh_degree: int,
    look: Float64Array,
) -> Gaussians:
    """A block of anchors."""
    sums = _Sums.of(len(rows) * model.layout.offsets, SH_COUNT_OF_DEGREE[sh_degree])
    means = np.zeros((0, 3))
    most = np.zeros(len(sums.opacity))
    for center, seen in _seen_from(model, rows, views):
        decoded = decode_anchors(model, rows, center, look)
        sums.add(decoded, center, seen)
        np.maximum(most, decoded.opacities.reshape(-1), out=most)
        means = decoded.means.reshape(-1, 3)
    drawn = (sums.opacity > 0) & (most >= ALPHA_CUT)
    opacity = sums.opacity / np.maximum(sums.views, _NOTHING)
    drawn &= opacity >= ALPHA_CUT
    covariance = sums.covariance[drawn] / sums.opacity[drawn, None, None]
    variances, axes = np.linalg.eigh(covariance)
    axes[np.linalg.det(axes) < 0, :, 0] *= -1.0
    return Gaussians(
        means=means[drawn].astype(np.float32),
        quats=quats_of(axes).astype(np.float32),
        scales=np.sqrt(variances.clip(1e-20)).astype(np.float32),
        opacities=opacity[drawn].clip(0.0, 1.0).astype(np.float32),
        sh=sums.harmonics()[drawn].astype(np.float32),
    )


def _seen_from(
    model: AnchorModel, rows: Rows, views: Sequence[Camera]
) -> Iterator[tuple[Float64Array, NDArray[np.bool_]]]:
    """Points to decode a block for, and [A] which anchors are seen from there."""
    page = page_of(rows.data, model.layout)
    chosen = []
    for view in views:
        index = AnchorCuller([ViewVolume.of(view)]).anchors_in_view(page)
        if len(index):
            seen = np.zeros(len(rows), np.bool_)
            seen[index] = True
            chosen.append((view.position, seen))
    if chosen:
        # What no view shows is decoded for those that show its neighbours.
        unseen = ~np.logical_or.reduce([seen for _, seen in chosen])
        step = max(1.0, len(chosen) / MOST_VIEWS)
        for number in range(min(len(chosen), MOST_VIEWS)):
            center, seen = chosen[int(number * step)]
            yield center, seen | unseen
        return
    reach = 4.0 * max(page.radius, page.largest, _FAINT)
    for way in _directions(DIRECTIONS):
        yield page.middle - reach * way, np.ones(len(rows), np.bool_)


def _directions(count: int) -> Float64Array:
    """[count, 3] unit vectors all around, evenly (a Fibonacci lattice)."""
    number = np.arange(count) + 0.5
    height = 1.0 - 2.0 * number / count
    angle = math.pi * (1.0 + math.sqrt(5.0)) * number
    across = np.sqrt(1.0 - height**2)
    return np.stack([across * np.cos(angle), height, across * np.sin(angle)], axis=1)
