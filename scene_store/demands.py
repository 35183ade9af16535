"""Who wants which chunks: the clients' demands together, as tiers and one queue."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.tree import NO_PARENT, LodTree

ChunkArray = NDArray[np.intp]
NO_RANK = int(np.iinfo(np.int32).max)


class Tier(IntEnum):
    """Why a chunk is held; higher ones are evicted later."""

    RECENT = 0
    PREFETCH = 1
    VISIBLE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What one frame draws and wants.

    Attributes:
        draw: Chunks to be drawn, all resident: they are leased.
        want: Missing chunks, most urgent first.
        touched: Chunks that must stay or come for this view, those of ``draw`` among them.
        prefetch: Chunks for predicted views; None leaves the last prediction in force.
    """

    draw: Sequence[int] | NDArray[np.int32]
    want: Sequence[int] | NDArray[np.int32]
    touched: Sequence[int] | NDArray[np.int32]
    prefetch: Sequence[int] | NDArray[np.int32] | None = None


def _none() -> ChunkArray:
    return np.empty(0, np.intp)


@dataclass(slots=True)
class _Demand:
    """What one client asked for last."""

    wants: ChunkArray = field(default_factory=_none)
    touched: ChunkArray = field(default_factory=_none)
    prefetch: ChunkArray = field(default_factory=_none)


class Demands:
    """Tiers and ranks of the chunks of one tree. A parent's tier is never below its child's.

    What a new demand costs follows from its own length and the last one's, not from the size
    of the tree.

    Attributes:
        tier: [N] uint8 of ``Tier``. Roots are always VISIBLE.
        rank: [N] int32, place in the queue of what is missing, the most urgent first;
            ``NO_RANK`` for what nobody waits for. Parents come before their children, what
            is in view before what is predicted.
        order: [Q] the chunks that have a rank, by rank.
        last_used: [N] float64, when the chunk was last VISIBLE or PREFETCH; a parent's is
            never before its child's.
        visible: [V] the chunks whose tier is VISIBLE, in any order.
    """

    def __init__(self, tree: LodTree) -> None:
        self.tier = np.zeros(len(tree), np.uint8)
        self.rank = np.full(len(tree), NO_RANK, np.int32)
        self.order: ChunkArray = _none()
        self.last_used = np.full(len(tree), -np.inf)
        self.visible: ChunkArray = _none()
        self._predicted: ChunkArray = _none()  # those whose tier is PREFETCH
        self._parent = tree.parent
        self._roots = tree.roots.astype(np.intp)
        self._of_client: dict[Hashable, _Demand] = {}

    def put(
        self, client: Hashable, wants: ArrayLike, touched: ArrayLike, prefetch: ArrayLike | None
    ) -> None:
        """A client's newest view; ``prefetch`` None keeps its last prediction."""
        demand = self._of_client.setdefault(client, _Demand())
        demand.wants = np.asarray(wants, np.intp)
        demand.touched = np.asarray(touched, np.intp)
        if prefetch is not None:
            demand.prefetch = np.asarray(prefetch, np.intp)

    def drop(self, client: Hashable) -> None:
        """The client is gone."""
        self._of_client.pop(client, None)

    def rank_all(self, held: NDArray[np.bool_], now: float) -> None:
        """Works out ``tier``, ``rank`` and ``last_used`` anew.

        Args:
            held: [N] what need not be fetched any more.
            now: Seconds.
        """
        for raised in (self.visible, self._predicted):
            self.tier[raised] = Tier.RECENT
        demands = list(self._of_client.values())
        in_view = [self._roots, *(d.wants for d in demands), *(d.touched for d in demands)]
        self.visible = self._raise(in_view, Tier.VISIBLE)
        self._predicted = self._raise([d.prefetch for d in demands], Tier.PREFETCH)
        for raised in (self.visible, self._predicted):
            self.last_used[raised] = now
        queues = (
            [self._roots],
            [d.wants for d in demands],
            [d.prefetch for d in demands],
        )
        missing = [[chunks[~held[chunks]] for chunks in queue] for queue in queues]
        self.rank[self.order] = NO_RANK
        self.order = self._first_of_each(np.concatenate([_in_turn(queue) for queue in missing]))
        if not self._parents_come_first(held):
            self.rank[self.order] = NO_RANK
            self.order = self._with_parents(held)
            self.rank[self.order] = np.arange(len(self.order), dtype=np.int32)

    def _first_of_each(self, chunks: ChunkArray) -> ChunkArray:
        """Without repetitions, in the same order; their ranks are set."""
        places = np.arange(len(chunks), dtype=np.int32)
        # Of assignments to one place the last one counts.
        self.rank[chunks[::-1]] = places[::-1]
        first = self.rank[chunks] == places
        if not first.all():
            chunks = chunks[first]
            self.rank[chunks] = np.arange(len(chunks), dtype=np.int32)
        return chunks

    def _parents_come_first(self, held: NDArray[np.bool_]) -> bool:
        """Whether the queue is as ``select_lod`` makes it."""
        parents = self._parent[self.order]
        earlier = self.rank[parents] < np.arange(len(self.order))
        return bool(((parents == NO_PARENT) | held[parents] | earlier).all())

    def _with_parents(self, held: NDArray[np.bool_]) -> ChunkArray:
        """The queue with all missing ancestors, each before its first descendant."""
        queued: dict[int, None] = {}
        for chunk in self.order.tolist():
            way = []
            while chunk != NO_PARENT and chunk not in queued and not held[chunk]:
                way.append(chunk)
                chunk = int(self._parent[chunk])
            queued.update(dict.fromkeys(reversed(way)))
        return np.array(list(queued), np.intp)

    def _raise(self, lists: Sequence[ChunkArray], tier: Tier) -> ChunkArray:
        """Gives chunks and their ancestors at least this tier; those whose tier it became."""
        chunks = np.concatenate([_none(), *lists])
        raised = [_none()]
        while len(chunks):
            chunks = self._distinct(chunks[self.tier[chunks] < tier])
            self.tier[chunks] = tier
            raised.append(chunks)
            parents = self._parent[chunks]
            chunks = parents[parents != NO_PARENT].astype(np.intp)
        return np.concatenate(raised)

    def _distinct(self, chunks: ChunkArray) -> ChunkArray:
        """Each once. Ranks serve as the scratch: they are worked out anew afterwards."""
        places = np.arange(len(chunks), dtype=np.int32)
        before = self.rank[chunks]
        self.rank[chunks] = places
        first = self.rank[chunks] == places
        self.rank[chunks] = before
        distinct: ChunkArray = chunks[first]
        return distinct


def _in_turn(lists: Sequence[ChunkArray]) -> ChunkArray:
    """One of each list in turn, so that no client's wants wait for all of another's."""
    filled = [chunks for chunks in lists if len(chunks)]
    if len(filled) < 2:
        return filled[0] if filled else _none()
    places = np.concatenate([np.arange(len(chunks)) for chunks in filled])
    return np.concatenate(filled)[np.argsort(places, kind="stable")]
