"""Which chunks go when there is no room, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scene_store.demands import Demands, Tier
from scene_store.ledger import ChunkState, Ledger
from scene_store.tree import NO_PARENT, LodTree

ANY_TIER = Tier.VISIBLE + 1

_PIECE = 512  # as many are sorted at a time: few are needed of many that may go


def least_used_first(
    chunks: NDArray[np.intp], tiers: NDArray[np.uint8], last_used: NDArray[np.float64]
) -> Iterator[int]:
    """By tier, then by last use, then children (higher indices) before parents.

    Args:
        chunks: [M] ascending.
        tiers, last_used: [M] those of each.
    """
    for tier in np.unique(tiers):
        group, used = chunks[tiers == tier][::-1], last_used[tiers == tier][::-1]
        while len(group):
            bound = np.inf if len(group) <= _PIECE else np.partition(used, _PIECE)[_PIECE]
            now = used <= bound
            yield from group[now][np.argsort(used[now], kind="stable")].tolist()
            group, used = group[~now], used[~now]


class Leaving:
    """The chunks that may leave the device, in the order in which they would.

    The order follows from what is demanded. It is worked out once for a demand, not for each
    chunk that needs room: a scene may hold hundreds of thousands.

    Args:
        tree: The chunks.
        ledger: Where they are.
        demands: Why they are there.
        leases: [N] how often each is leased.
    """

    def __init__(
        self, tree: LodTree, ledger: Ledger, demands: Demands, leases: NDArray[np.int32]
    ) -> None:
        self._ledger = ledger
        self._demands = demands
        self._leases = leases
        self._parent = tree.parent.data
        self._is_root = tree.parent == NO_PARENT
        self._order: _Queue | None = None
        self._complete = False

    def order_changed(self) -> None:
        """Demands or leases have changed."""
        self._order = None

    def one_more(self) -> None:
        """Another chunk is on the device."""
        self._complete = False

    def to_free(self, need: int, tier: int) -> list[int] | None:
        """Chunks below ``tier``, at most VISIBLE, that free ``need`` bytes; None if there are
        none. They must go now."""
        victims = None if self._order is None else self._pick(self._order, need, tier)
        if victims is None and not (self._order is not None and self._complete):
            self._order, self._complete = self._below(Tier.VISIBLE), True
            victims = self._pick(self._order, need, tier)
        if victims is not None:
            self._complete = False  # their parents may be next
        return victims

    def as_many_as_may_go(self, need: int) -> list[int]:
        """Chunks of any tier until they free ``need`` bytes, or all that may go."""
        victims, _ = self._next(self._below(ANY_TIER), need, ANY_TIER)
        return victims

    def _below(self, tier: int) -> _Queue:
        """What is on the device below ``tier``, neither leased nor a root."""
        free = (self._ledger.state == ChunkState.DEVICE) & (self._demands.tier < tier)
        chunks = (free & (self._leases == 0) & ~self._is_root).nonzero()[0]
        tiers, last_used = self._demands.tier[chunks], self._demands.last_used[chunks]
        return _Queue(least_used_first(chunks, tiers, last_used))

    def _pick(self, queue: _Queue, need: int, tier: int) -> list[int] | None:
        victims, freed = self._next(queue, need, tier)
        if freed < need:
            queue.put_back(victims)
            return None
        return victims

    def _next(self, queue: _Queue, need: int, tier: int) -> tuple[list[int], int]:
        """Of the next in the queue those that may go, until they free ``need`` bytes; and what
        they free. Who may not go now will not before the order changes."""
        victims: list[int] = []
        orphans: Counter[int] = Counter()  # by parent, its children among the victims
        freed = 0
        while freed < need and (chunk := queue.take()) is not None:
            if self._demands.tier[chunk] >= tier:
                queue.put_back([chunk])
                break
            there = self._ledger.is_in(chunk, ChunkState.DEVICE) and not self._leases[chunk]
            if there and int(self._ledger.device_children[chunk]) == orphans[chunk]:
                victims.append(chunk)
                freed += int(self._ledger.costs.device[chunk])
                orphans[self._parent[chunk]] += 1
        return victims, freed


class _Queue:
    """Chunks one after the other; those that were taken in vain return to the front."""

    def __init__(self, order: Iterator[int]) -> None:
        self._order = order
        self._returned: list[int] = []

    def take(self) -> int | None:
        """The next one; None at the end."""
        return self._returned.pop() if self._returned else next(self._order, None)

    def put_back(self, chunks: list[int]) -> None:
        """These were the last taken, in this order."""
        self._returned.extend(reversed(chunks))
