"""The tree of chunks: what level-of-detail selection and residency know of a scene.

A node is a chunk of Gaussians. Leaves hold the originals; an inner node holds fewer, merged
ones that stand in for its children. Any *cut* through the tree, one node on each way from a
root to a leaf, is a complete picture of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat.errors import SceneError
from splat.gaussians import Float32Array

NO_PARENT = -1


@dataclass(frozen=True, slots=True, eq=False)
class LodTree:
    """Columns of N nodes in breadth-first order, so that parents precede their children.

    Attributes:
        lo, hi: [N, 3] float32, box of the means of all Gaussians in the node's subtree and
            of the node itself, world units.
        max_scale: [N] float32, largest standard deviation in the subtree or the node, times
            ``sqrt(ln(255 max(1, opacity)) / ln 255)``: what culling must allow for.
        error: [N] float32, world units: how far the node's Gaussians lie from the originals
            that they stand for (weighted RMS). 0 for a leaf, never above the parent's.
        count: [N] int32, Gaussians of the node itself.
        parent: [N] int32; ``NO_PARENT`` for a root.
        first_child: [N] int32, index of the first child; children are contiguous. 0 for a leaf.
        child_count: [N] int32; 0 for a leaf.
        level: [N] int32, 0 for original Gaussians; below the parent's, so that no way down is
            longer than there are levels.
        loss: [N] float32, world units² times squared colour: how much of the picture the node's
            Gaussians lose (Σ opacity · area · variance of the colours that each stands for).
            0 for a leaf. Left out, it is ``count · error²``.

    Raises:
        SceneError: If the columns do not describe a forest in breadth-first order.
    """

    lo: Float32Array
    hi: Float32Array
    max_scale: Float32Array
    error: Float32Array
    count: NDArray[np.int32]
    parent: NDArray[np.int32]
    first_child: NDArray[np.int32]
    child_count: NDArray[np.int32]
    level: NDArray[np.int32]
    loss: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        for column in fields(self):
            wide = column.name in ("lo", "hi")
            real = wide or column.name in ("max_scale", "error", "loss")
            values = getattr(self, column.name)
            if column.name == "loss" and len(values) == 0:  # the last column
                values = _assumed_loss(self.count, self.error)
            array: NDArray[Any] = np.ascontiguousarray(values, np.float32 if real else np.int32)
            if array.shape != ((len(self.parent), 3) if wide else (len(self.parent),)):
                raise SceneError(f"the tree's column {column.name!r} has the wrong length")
            array.flags.writeable = False
            object.__setattr__(self, column.name, array)
        self._require_boxes()
        self._require_forest()

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def roots(self) -> NDArray[np.int32]:
        """Indices of the nodes without a parent; they come first."""
        return np.flatnonzero(self.parent == NO_PARENT).astype(np.int32)

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """[N] whether the node has no children."""
        leaf: NDArray[np.bool_] = self.child_count == 0
        return leaf

    def children(self, node: int) -> range:
        """Indices of the node's children."""
        first = int(self.first_child[node])
        return range(first, first + int(self.child_count[node]))

    def ancestors(self, node: int) -> list[int]:
        """The way from the node's parent up to its root."""
        way: list[int] = []
        while (node := int(self.parent[node])) != NO_PARENT:
            way.append(node)
        return way

    def _require_boxes(self) -> None:
        sizes = (self.max_scale, self.error, self.loss)
        if not all(np.isfinite(column).all() for column in (self.lo, self.hi, *sizes)):
            raise SceneError("the tree holds a box, scale, error or loss that is not finite")
        if (self.lo > self.hi).any() or any((column < 0).any() for column in sizes):
            raise SceneError("the tree holds an inverted box, or a negative scale, error or loss")

    def _require_forest(self) -> None:
        if len(self) == 0 or self.parent[0] != NO_PARENT:
            raise SceneError("the tree has no root")
        if (self.count < 1).any() or (self.child_count < 0).any():
            raise SceneError("the tree has a node without Gaussians, or with fewer than none")
        inner = np.flatnonzero(self.child_count)
        root_count = int((self.parent == NO_PARENT).sum())
        sizes = self.child_count[inner].astype(np.int64)
        # Breadth first: the children of successive inner nodes follow each other, after the roots.
        expected_first = root_count + np.concatenate([[0], np.cumsum(sizes)[:-1]])
        if not np.array_equal(self.first_child[inner], expected_first[: len(inner)]):
            raise SceneError("the tree's nodes are not in breadth-first order")
        expected_parent = np.concatenate([np.full(root_count, NO_PARENT), np.repeat(inner, sizes)])
        if not np.array_equal(self.parent, expected_parent):
            raise SceneError("the tree's parents and children do not agree")
        ups = self.parent[root_count:]
        if (ups >= np.arange(root_count, len(self))).any():
            raise SceneError("the tree holds a node before its parent")
        if (self.error[root_count:] > self.error[ups]).any():
            raise SceneError("the tree holds a node with a larger error than its parent")
        if (self.level < 0).any() or (self.level[root_count:] >= self.level[ups]).any():
            raise SceneError("the tree holds a node of a level that is not below its parent's")


def _assumed_loss(count: NDArray[np.int32], error: Float32Array) -> NDArray[np.float64]:
    """As if each Gaussian lost an area as large as its error."""
    squares: NDArray[np.float64] = np.square(error.astype(np.float64))
    return (count * squares).clip(max=np.finfo(np.float32).max)
