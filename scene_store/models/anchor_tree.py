"""The tree of a scene of anchors: which of them a chunk holds.

Anchors are sorted along the Z-curve; leaves are runs of ``LEAF_ANCHORS`` of them. An inner node
holds fewer anchors than its children together:

* Of an octree, a node of tree level t holds the anchors of its leaves whose own level is at most
  ``levels − 1 − t``: what the model's rule draws of them from far enough. So any node is a part of
  what is drawn, nothing is made up, and a cut draws exactly what the rule asks for if no anchor
  that a node lacks could be asked for. The rule knows distances only. Let D be the largest
  distance at which an anchor is drawn, of those that the node lacks; then its error is
  ``D / EXACT_FOCAL_PX``, so that it is refined nearer than ``D · f / (EXACT_FOCAL_PX · error_px)``
  (``scene_store.lod``): the cut is exact for ``error_px <= f / EXACT_FOCAL_PX``, and more detail
  than that is read for nothing (``exact_error_px``).
* Else, a node stands in for its children by a quarter of their anchors: of each four in a row the
  one that stands for the largest area. Offsets and scales of that anchor are multiplied by
  ``gain = √(area of the anchors that it stands for / its own)``, which would preserve the area if
  Gaussians did not overlap; as they do, by ``gain ** GROWTH``. With weights of area, an anchor's
  error² is ``|p − p'|² + (spread − gain · spread')²`` (the bound of Gelbrich, 1990, as for merged
  Gaussians), where p' and spread' are its stand-in's, and a node's error the RMS of all that it
  stands for. Above the coarsest level of an octree, which is drawn from any distance, there are
  such nodes if it has many anchors. They are drawn only where budgets leave no other choice: D is
  then ``FARTHEST`` times the size of the scene.

Boxes hold the means of all Gaussians, not only anchors; scales are bounded by those that networks
cannot exceed. So culling never loses what is visible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.lod import focal_px
from scene_store.models.anchor_file import Measures
from scene_store.tree import NO_PARENT, LodTree
from splat.anchors import AnchorModel, LevelRule, OctreeLevels
from splat.camera import Camera, CameraModel

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Places = NDArray[np.uint32]

LEAF_ANCHORS = 4096
EXACT_FOCAL_PX = 512.0
# So many anchors of an octree's coarsest level may be in memory always.
MOST_ROOT_ANCHORS = 1 << 16
FARTHEST = 1000.0
# On a fitted piece of the town, pictures of a quarter and a sixteenth of the anchors are 0.5 to
# 0.9 dB nearer to that of all than with 1, and 3 to 4 dB nearer than with 0.
GROWTH = 0.75

_GROUP = 4  # anchors for which one stands; children of a node
_MOST_CHILDREN = 16
# What a pixel is thought to differ by where anchors are missing or stood in for: squared colour.
_LOSS = 0.05
_LARGEST = float(np.finfo(np.float32).max)
# An anchor's level is compared with a number that other machines round otherwise.
_SLACK = 1 + 1e-4
_ROUNDING = 1e-5
# A level's number exceeds its anchors' by this much at most where they are drawn first.
_EARLIEST = {
    LevelRule.FLOOR: 0.0,
    LevelRule.ROUND: 0.5,
    LevelRule.CEIL: 1.0,
    LevelRule.PROGRESSIVE: 1.0,
}


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRows:
    """The anchors of a node.

    Attributes:
        places: [R] in the order of the curve, ascending, until ``AnchorTree`` makes places in the
            file of them.
        gains: [R] what offsets and scales are multiplied by; None for 1.
    """

    places: Places
    gains: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True, eq=False)
class AnchorTree:
    """What a source of anchors streams.

    Attributes:
        tree: The chunks.
        rows: Of each chunk; places are those in the file, ascending.
    """

    tree: LodTree
    rows: tuple[ChunkRows, ...]


@dataclass(slots=True, eq=False)
class _Node:
    """A node in the making; ``lo`` to ``level`` as the columns of ``LodTree``."""

    rows: ChunkRows
    children: Sequence[_Node]
    lo: Float32Array
    hi: Float32Array
    max_scale: float
    error: float
    loss: float
    level: int
    first: int  # of its run of anchors
    end: int
    stood_for: Float64Array | None = None  # as of ``_Sums``


def drawn_within(
    levels: OctreeLevels, level: NDArray[np.floating[Any]], extra_level: Float32Array
) -> Float64Array:
    """[N] the distances from their means, at most, at which an octree's anchors are drawn.

    Those of level 0 are drawn at any distance; this is never asked of them.
    """
    level = level.astype(np.float64)
    need = level - _EARLIEST[levels.rule] - extra_level
    with np.errstate(over="ignore"):
        reach = levels.standard_dist / levels.res_scale * np.power(levels.fork, -need)
        # The rule measures from the middle of a voxel whose corner the mean is.
        middle = math.sqrt(3) / 2 * levels.voxel_size * np.power(levels.fork, -level)
    return np.asarray(np.minimum((reach + middle) * _SLACK, _LARGEST))


def exact_error_px(model: object, cameras: Sequence[Camera]) -> float:
    """The largest error of a cut that has every anchor that a model's rule draws, pixels.

    More detail is read for nothing. It is 0 of whatever has no such rule.
    """
    has_rule = isinstance(model, AnchorModel) and model.levels is not None
    if not has_rule or any(camera.model is CameraModel.ORTHO for camera in cameras):
        return 0.0  # a walk knows no distances for ortho cameras
    return min(map(focal_px, cameras), default=0.0) / EXACT_FOCAL_PX


def build_tree(measures: Measures, order: Places, levels: OctreeLevels | None) -> AnchorTree:
    """The tree of the anchors of a file.

    Args:
        measures: Of N usable anchors, in the order of the curve.
        order: [N] their places in the file.
        levels: Of an octree.
    """
    nodes = [
        _leaf(measures, start, min(start + LEAF_ANCHORS, len(order)))
        for start in range(0, len(order), LEAF_ANCHORS)
    ]
    least_error = 0.0
    if levels is not None:
        nodes = _by_levels(measures, nodes, levels)
        if sum(len(node.rows) for node in nodes) <= MOST_ROOT_ANCHORS:
            return _finished(nodes, order)
        corners = [np.min([node.lo for node in nodes], 0), np.max([node.hi for node in nodes], 0)]
        size = float(np.linalg.norm(np.subtract(corners[1], corners[0], dtype=np.float64)))
        least_error = FARTHEST * size / EXACT_FOCAL_PX
    return _finished(_by_stand_ins(measures, nodes, least_error), order)


def _leaf(measures: Measures, first: int, end: int) -> _Node:
    part = measures[first:end]
    return _Node(
        ChunkRows(np.arange(first, end, dtype=np.uint32)),
        (),
        part.lo.min(axis=0),
        part.hi.max(axis=0),
        float(part.largest.max()),
        error=0.0,
        loss=0.0,
        level=0,
        first=first,
        end=end,
    )


# ---- Levels of an octree --------------------------------------------------------------------


def _by_levels(measures: Measures, nodes: list[_Node], levels: OctreeLevels) -> list[_Node]:
    """The nodes that hold the coarsest level alone, above all others."""
    within = drawn_within(levels, measures.level, measures.extra_level)
    level = np.ascontiguousarray(measures.level)
    for coarsest in range(int(level.max()) - 1, -1, -1):
        if len(nodes) == 1 and len(nodes[0].rows) <= LEAF_ANCHORS:
            break  # nothing would be gained by less

        def count(node: _Node, most: int = coarsest) -> int:
            return int((level[node.rows.places] <= most).sum())

        nodes = [
            _of_level(measures, within, group, coarsest)
            for group in _groups(nodes, count, LEAF_ANCHORS)
        ]
    return nodes


def _of_level(
    measures: Measures, within: Float64Array, children: Sequence[_Node], coarsest: int
) -> _Node:
    first, end = children[0].first, children[-1].end
    kept = measures.level[first:end] <= coarsest
    missing = ~kept
    if not kept.any():
        kept[0] = True  # a node must hold something, and its rule says when this is drawn
    distance = float(within[first:end].max(initial=0.0, where=missing))
    area = float(measures.area[first:end].sum(dtype=np.float64, where=missing))
    return _parent(
        children,
        ChunkRows((first + np.flatnonzero(kept)).astype(np.uint32)),
        error=distance / EXACT_FOCAL_PX,
        loss=_LOSS * area,
    )


# ---- Stand-ins ------------------------------------------------------------------------------


class _Sums:
    """Columns of what is summed over the anchors that each row stands for, weighted by area."""

    WEIGHT, MEAN, SQUARE, SPREAD, SPREAD_SQUARE = 0, slice(1, 4), 4, 5, 6
    COUNT = 7


def _by_stand_ins(measures: Measures, nodes: list[_Node], least_error: float) -> list[_Node]:
    """One root above all nodes, and what is between; no error is below the least."""
    while len(nodes) > 1:
        groups = _groups(nodes, lambda node: -(-len(node.rows) // _GROUP), LEAF_ANCHORS)
        nodes = [_stand_in(measures, group, least_error) for group in groups]
    return nodes


def _stand_in(measures: Measures, children: Sequence[_Node], least_error: float) -> _Node:
    places = np.concatenate([child.rows.places for child in children])
    sums = np.concatenate([_stood_for(measures, child) for child in children])
    starts = np.arange(0, len(places), _GROUP)
    # Of those that stand for the largest area in their cell, the first.
    weights = np.zeros((len(starts), _GROUP))
    weights.ravel()[: len(places)] = sums[:, _Sums.WEIGHT]
    chosen = starts + weights.argmax(axis=1)
    total = np.add.reduceat(sums, starts, axis=0)
    kept = measures[places[chosen]]
    ratios = total[:, _Sums.WEIGHT] / np.maximum(kept.area, 1e-37)
    gains = np.maximum(ratios, 1.0) ** (0.5 * GROWTH)
    squares = _squared_errors(total, kept, gains)
    error = math.sqrt(max(float(squares.sum()), 0.0) / float(total[:, _Sums.WEIGHT].sum()))
    lost = float(total[:, _Sums.WEIGHT].sum() - kept.area.sum(dtype=np.float64))
    node = _parent(
        children,
        ChunkRows(places[chosen], gains.astype(np.float32)),
        error=max(error, least_error),
        loss=_LOSS * max(lost, 0.0),
    )
    wide = gains.astype(np.float32)[:, None]
    node.lo = np.minimum(node.lo, (kept.means + wide * (kept.lo - kept.means)).min(axis=0))
    node.hi = np.maximum(node.hi, (kept.means + wide * (kept.hi - kept.means)).max(axis=0))
    node.max_scale = max(node.max_scale, float((kept.largest * gains).max()))
    node.stood_for = total
    return node


def _stood_for(measures: Measures, node: _Node) -> Float64Array:
    """[R, 7] ``_Sums`` of the node's rows."""
    if node.stood_for is not None:
        return node.stood_for
    part = measures[node.rows.places]
    weight, means = part.area.astype(np.float64), part.means.astype(np.float64)
    spread = part.spread.astype(np.float64)
    sums = np.empty((len(weight), _Sums.COUNT))
    sums[:, _Sums.WEIGHT] = weight
    sums[:, _Sums.MEAN] = weight[:, None] * means
    sums[:, _Sums.SQUARE] = weight * np.square(means).sum(axis=1)
    sums[:, _Sums.SPREAD] = weight * spread
    sums[:, _Sums.SPREAD_SQUARE] = weight * np.square(spread)
    return sums


def _squared_errors(total: Float64Array, kept: Measures, gains: Float64Array) -> Float64Array:
    """[R] summed squared errors of what each stands for, times its weight."""
    # Squares of float32 fit float64, so differences of them are as exact as the means are.
    means, spread = kept.means.astype(np.float64), gains * kept.spread
    weight = total[:, _Sums.WEIGHT]
    apart = (
        total[:, _Sums.SQUARE]
        - 2 * (means * total[:, _Sums.MEAN]).sum(axis=1)
        + weight * np.square(means).sum(axis=1)
    )
    other = (
        total[:, _Sums.SPREAD_SQUARE]
        - 2 * spread * total[:, _Sums.SPREAD]
        + weight * np.square(spread)
    )
    return np.asarray(np.maximum(apart, 0.0) + np.maximum(other, 0.0))


# ---- Any nodes ------------------------------------------------------------------------------


def _groups(
    nodes: Sequence[_Node], count: Callable[[_Node], int], full: int
) -> list[Sequence[_Node]]:
    """Nodes that follow each other, in groups that are about full; none alone but if it must."""
    groups: list[Sequence[_Node]] = []
    start, held = 0, 0
    for place, node in enumerate(nodes):
        held += count(node)
        size = place + 1 - start
        if size == _MOST_CHILDREN or (size >= 2 and held >= full):
            groups.append(nodes[start : place + 1])
            start, held = place + 1, 0
    rest = nodes[start:]
    if len(rest) == 1 and groups:
        groups[-1] = [*groups[-1], *rest]
    elif rest:
        groups.append(rest)
    return groups


def _parent(children: Sequence[_Node], rows: ChunkRows, error: float, loss: float) -> _Node:
    return _Node(
        rows,
        children,
        np.min([child.lo for child in children], axis=0),
        np.max([child.hi for child in children], axis=0),
        max(child.max_scale for child in children),
        min(max(error, *(child.error for child in children), 0.0), _LARGEST),
        min(loss, _LARGEST),
        1 + max(child.level for child in children),
        children[0].first,
        children[-1].end,
    )


def _finished(roots: list[_Node], order: Places) -> AnchorTree:
    """Nodes in breadth-first order, as columns."""
    nodes, parents, first = list(roots), [NO_PARENT] * len(roots), []
    for index, node in enumerate(nodes):  # grows meanwhile
        first.append(len(nodes) if node.children else 0)
        parents += [index] * len(node.children)
        nodes += node.children
    lo, hi = np.array([node.lo for node in nodes]), np.array([node.hi for node in nodes])
    # Means are reckoned again where they are drawn, and rounded otherwise.
    pad = (hi - lo) * _ROUNDING + np.maximum(np.abs(lo), np.abs(hi)) * np.finfo(np.float32).eps
    scales = np.array([node.max_scale for node in nodes])
    tree = LodTree(
        lo=lo - pad,
        hi=hi + pad,
        max_scale=np.minimum(scales * (1 + _ROUNDING), _LARGEST),
        error=np.array([node.error for node in nodes], np.float32),
        count=np.array([len(node.rows) for node in nodes], np.int32),
        parent=np.array(parents, np.int32),
        first_child=np.array(first, np.int32),
        child_count=np.array([len(node.children) for node in nodes], np.int32),
        level=np.array([node.level for node in nodes], np.int32),
        loss=np.array([node.loss for node in nodes], np.float32),
    )
    return AnchorTree(tree, tuple(_in_file(node.rows, order) for node in nodes))


def _in_file(rows: ChunkRows, order: Places) -> ChunkRows:
    """With places in the file, ascending: so reading goes forward."""
    places = order[rows.places]
    by_place = np.argsort(places)
    gains = None if rows.gains is None else rows.gains[by_place]
    return ChunkRows(places[by_place], gains)
