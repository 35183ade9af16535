"""What is known of the nodes in the order in which they were made; the tree in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scene_store.build.merging import BuiltNode
from scene_store.node_table import ChunkRef
from scene_store.tree import NO_PARENT, LodTree


@dataclass(slots=True)
class NodeLog:
    """Nodes 0, 1, 2 … by creation: children before their parents.

    Attributes:
        refs: Where each chunk lies; its level and count.
        numbers: lo, hi, max_scale, error and loss of each: 9 float32 values.
        parents: Of each, or ``NO_PARENT`` as long as there is none.
    """

    refs: list[ChunkRef] = field(default_factory=list)
    numbers: list[tuple[float, ...]] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.refs)

    def add(self, node: BuiltNode, ref: ChunkRef, children: Sequence[int]) -> None:
        """The next node, whose children are in the log already."""
        index = len(self.refs)
        self.refs.append(ref)
        self.numbers.append(tuple(node.numbers.tolist()))
        self.parents.append(NO_PARENT)
        for child in children:
            self.parents[child] = index

    def arrays(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
        """For a file."""
        return {
            "refs": np.array(self.refs, np.int64).reshape(-1, len(ChunkRef._fields)),
            "numbers": np.array(self.numbers, np.float32).reshape(-1, 9),
            "parents": np.array(self.parents, np.int64),
        }

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> NodeLog:
        """What ``arrays`` gave."""
        return cls(
            [ChunkRef(*row) for row in arrays["refs"].tolist()],
            [tuple(row) for row in arrays["numbers"].tolist()],
            arrays["parents"].tolist(),
        )

    def tree(self) -> tuple[LodTree, list[ChunkRef]]:
        """The finished tree, breadth first, and the chunk of each of its nodes."""
        order, child_count = self._breadth_first()
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        parents = np.array(self.parents, np.int64)[order]
        numbers = np.array(self.numbers, np.float32)[order]
        refs = [self.refs[i] for i in order]
        roots = int((parents == NO_PARENT).sum())
        first = roots + np.concatenate([[0], np.cumsum(child_count)[:-1]])
        tree = LodTree(
            lo=numbers[:, 0:3],
            hi=numbers[:, 3:6],
            max_scale=numbers[:, 6],
            error=numbers[:, 7],
            count=np.array([ref.gaussians for ref in refs], np.int32),
            parent=np.where(parents == NO_PARENT, NO_PARENT, place[parents]).astype(np.int32),
            first_child=np.where(child_count > 0, first, 0).astype(np.int32),
            child_count=child_count.astype(np.int32),
            level=np.array([ref.level for ref in refs], np.int32),
            loss=numbers[:, 8],
        )
        return tree, refs

    def _breadth_first(
        self,
    ) -> tuple[list[int], np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
        """Indices in breadth-first order, and the number of children of each in that order."""
        children: list[list[int]] = [[] for _ in self.parents]
        order: list[int] = []
        for node, parent in enumerate(self.parents):
            (order if parent == NO_PARENT else children[parent]).append(node)
        for node in order:  # grows as it is walked
            order.extend(children[node])
        return order, np.array([len(children[node]) for node in order], np.int64)
