"""The levels above the leaves, made bottom-up while the leaves arrive.

Nodes of a level wait until a few neighbours can be merged to their parent, which then waits
on the level above. Only what waits is in memory, whatever the size of the scene. Which nodes
belong together depends on their counts and keys alone, so a parent is planned at once and made
by the pool whenever its turn comes; finished nodes are written in the order in which they were
planned. The bytes of a store therefore depend neither on threads nor on time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from scene_store.build.feed import Feed, Portion
from scene_store.build.leaves import jump
from scene_store.build.merging import (
    BuiltNode,
    Content,
    foreign,
    merge,
    original,
    reach,
)
from scene_store.build.node_log import NodeLog
from scene_store.chunks import EncodedChunk
from scene_store.node_table import ChunkRef
from splat.gaussians import Gaussians

MIN_GROUP, MAX_GROUP = 3, 6
# A parent has a quarter of its children's Gaussians; more than this many pages of them would
# have to be squeezed into one, and with fewer its own page would stay half empty.
MERGE_RATIO = 4
MOST_PAGES, LEAST_PAGES = 4.5, 3.0

Encode = Callable[[Gaussians], EncodedChunk]


class ChunkWriter(Protocol):
    """Where chunks go."""

    def append(self, level: int, count: int, encoded: EncodedChunk) -> ChunkRef:
        """Keeps a chunk of ``count`` Gaussians."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A node that waits for its parent.

    Attributes:
        index: In the log, once it is recorded.
        count: Gaussians of it.
        first_code, last_code: Keys of the originals below it.
        built: The node itself, in the making.
    """

    index: int
    count: int
    first_code: int
    last_code: int
    built: Future[BuiltNode]


@dataclass(frozen=True, slots=True, eq=False)
class _Planned:
    """A node that is not written yet."""

    level: int
    children: tuple[int, ...]
    built: Future[BuiltNode]


class Pyramid:
    """Makes nodes, writes their chunks, and logs them.

    Args:
        writer: Where chunks go; used by the calling thread alone.
        log: Where nodes go.
        encode: Makes a chunk's bytes.
        pool: Makes nodes; must start what is submitted in the order of submission.
        page_gaussians: Most Gaussians of a chunk.
        ahead: Nodes that may be planned before the oldest is written.
        own_levels: For levels above 0 that the source brings itself, their Gaussians, sorted.
    """

    def __init__(
        self,
        writer: ChunkWriter,
        log: NodeLog,
        encode: Encode,
        pool: Executor,
        page_gaussians: int,
        ahead: int,
        own_levels: Mapping[int, Feed],
    ) -> None:
        self.waiting: list[list[Pending]] = []
        self._writer = writer
        self._log = log
        self._encode = encode
        self._pool = pool
        self._page = page_gaussians
        self._ahead = ahead
        self._own_levels = own_levels
        self._planned: deque[_Planned] = deque()

    def add_leaf(self, portion: Portion, first_code: int, last_code: int) -> None:
        """Original Gaussians, after all before them on the curve."""
        built = self._pool.submit(_leaf, portion, self._encode)
        self._plan(0, len(portion), first_code, last_code, (), built)

    def finish(self) -> None:
        """Merges what waits until a single root is left, and writes everything."""
        level = 0
        while level < len(self.waiting):
            here = self.waiting[level]
            if len(here) > 1:
                for size in _even_groups([node.count for node in here], self._page):
                    self._merge(level, size)
            level += 1
        self.settle()

    def settle(self) -> None:
        """Writes everything that is planned."""
        while self._planned:
            self._record()

    def restore(self, waiting: Sequence[Sequence[Pending]]) -> None:
        """Continues with nodes that waited, and are recorded."""
        self.waiting = [list(level) for level in waiting]

    def _plan(
        self,
        level: int,
        count: int,
        first_code: int,
        last_code: int,
        children: tuple[int, ...],
        built: Future[BuiltNode],
    ) -> None:
        index = len(self._log) + len(self._planned)
        self._planned.append(_Planned(level, children, built))
        while len(self.waiting) <= level:
            self.waiting.append([])
        self.waiting[level].append(Pending(index, count, first_code, last_code, built))
        if len(self._planned) > self._ahead:
            self._record()
        # Enough always stay behind that none is left alone at the end.
        if len(self.waiting[level]) >= MAX_GROUP + MIN_GROUP:
            self._merge(level, group_size(self.waiting[level], self._page))

    def _merge(self, level: int, size: int) -> None:
        """Plans the parent of the first ``size`` nodes that wait."""
        here = self.waiting[level]
        children, self.waiting[level] = here[:size], here[size:]
        own = self._own_portion(level + 1)
        total = sum(child.count for child in children)
        count = min(self._page, len(own) if own else max(1, total // MERGE_RATIO))
        built = self._pool.submit(
            _parent, [child.built for child in children], own, count, self._encode
        )
        indices = tuple(child.index for child in children)
        span = (children[0].first_code, children[-1].last_code)
        self._plan(level + 1, count, *span, indices, built)

    def _own_portion(self, level: int) -> Portion | None:
        """What the source has for the interval of the curve up to the nodes that still wait."""
        feed = self._own_levels.get(level)
        if feed is None:
            return None
        rest = self.waiting[level - 1]
        portion = feed.take_below(rest[0].first_code if rest else None)
        return portion if len(portion) else None

    def _record(self) -> None:
        """Writes the oldest planned node."""
        planned = self._planned.popleft()
        node = planned.built.result()
        ref = self._writer.append(planned.level, len(node.content.gaussians), node.encoded)
        self._log.add(node, ref, planned.children)


def group_size(nodes: Sequence[Pending], page_gaussians: int) -> int:
    """How many of the first nodes to merge: where the curve jumps most, the later of equals."""
    best, best_jump, total = 2, -1, nodes[0].count
    for size in range(2, MAX_GROUP + 1):
        total += nodes[size - 1].count
        if size > 2 and total > MOST_PAGES * page_gaussians:
            break
        here = jump(nodes[size - 1].last_code, nodes[size].first_code)
        filled = total >= LEAST_PAGES * page_gaussians
        # Until the parent's page is well filled, more are taken whatever the curve does.
        if size < MIN_GROUP or not filled:
            best = size
        elif here >= best_jump:
            best, best_jump = size, here
    return best


def _even_groups(counts: Sequence[int], page_gaussians: int) -> list[int]:
    """Sizes of the last groups of a level; each of at least two."""
    pages = sum(counts) / page_gaussians
    groups = max(-(-len(counts) // MAX_GROUP), int(np.ceil(pages / MOST_PAGES)))
    groups = max(1, min(groups, len(counts) // 2))
    edges = [i * len(counts) // groups for i in range(groups + 1)]
    return [b - a for a, b in pairwise(edges)]


def _leaf(portion: Portion, encode: Encode) -> BuiltNode:
    content = original(portion.gaussians())
    gaussians = content.gaussians
    return BuiltNode(
        content,
        encode(gaussians),
        gaussians.means.min(axis=0),
        gaussians.means.max(axis=0),
        reach(gaussians),
        np.float32(0.0),
        np.float32(0.0),
    )


def _parent(
    children: Sequence[Future[BuiltNode]], own: Portion | None, count: int, encode: Encode
) -> BuiltNode:
    # The pool starts tasks in order, so the children's are running at least: no deadlock.
    parts = [child.result() for child in children]
    content = merge([part.content for part in parts], count)
    if own is not None:
        content = _brought(own, count, content)
    gaussians = content.gaussians
    return BuiltNode(
        content,
        encode(gaussians),
        np.minimum(gaussians.means.min(axis=0), np.min([p.lo for p in parts], axis=0)),
        np.maximum(gaussians.means.max(axis=0), np.max([p.hi for p in parts], axis=0)),
        max(reach(gaussians), *(part.max_scale for part in parts)),
        max(np.float32(content.error), *(part.error for part in parts)),
        np.float32(content.loss),
    )


def _brought(own: Portion, count: int, merged: Content) -> Content:
    """The source's own Gaussians of a level, reduced to what fits.

    How far they are from the originals is not told; ``merged``, as few made of the originals,
    cannot be far from it.
    """
    gaussians = own.gaussians()
    if count < len(gaussians):
        gaussians = merge([original(gaussians)], count).gaussians
    return foreign(gaussians, merged.error, merged.loss)
