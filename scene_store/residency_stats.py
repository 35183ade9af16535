"""What residency holds and has done, for people and benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from scene_store.demands import NO_RANK, Demands, Tier
from scene_store.failures import Failure, Failures
from scene_store.ledger import Budgets, ChunkState, Ledger
from scene_store.tree import LodTree


@dataclass(slots=True)
class Tally:
    """Counters since the scene was opened.

    Attributes:
        bytes_read: Encoded bytes read.
        reads: Chunks that they were.
        cancelled: Reads abandoned.
        evicted: Chunks thrown off the device.
        requests: Chunks that came into view.
        device_hits: Those of them that could be drawn at once.
        host_hits: Those of them that had only to be decoded.
    """

    bytes_read: int = 0
    reads: int = 0
    cancelled: int = 0
    evicted: int = 0
    requests: int = 0
    device_hits: int = 0
    host_hits: int = 0


@dataclass(frozen=True, slots=True)
class ResidencyStats:
    """A snapshot.

    Attributes:
        budgets: The limits in force.
        host_bytes, device_bytes: Held against them, in flight included.
        chunks: Number of chunks in each state.
        device_bytes_by_tier: Those of chunks that can be drawn.
        chunks_by_level: Chunks that can be drawn, by the tree's level, originals (0) first.
        leased: Chunks under a lease.
        tally: What was done so far.
        failures: Of chunks that are lost, or failing and still wanted, by chunk.
        remade: Chunks that are damaged and were made again (``RemadeChunks``), a line each.
    """

    budgets: Budgets
    host_bytes: int
    device_bytes: int
    chunks: dict[ChunkState, int]
    device_bytes_by_tier: dict[Tier, int]
    chunks_by_level: tuple[int, ...]
    leased: int
    tally: Tally
    failures: tuple[Failure, ...]
    remade: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        tree: LodTree,
        ledger: Ledger,
        demands: Demands,
        failures: Failures,
        leases: NDArray[np.int32],
        tally: Tally,
    ) -> ResidencyStats:
        """Of one memory, as it is now.

        Args:
            leases: [N] how often each chunk is leased.
        """
        drawable = ledger.state == ChunkState.DEVICE
        device, tiers = ledger.costs.device, demands.tier
        levels = np.bincount(tree.level[drawable], minlength=int(tree.level.max()) + 1)
        return cls(
            budgets=ledger.budgets,
            host_bytes=ledger.host_bytes,
            device_bytes=ledger.device_bytes,
            chunks={state: ledger.count(state) for state in ChunkState},
            device_bytes_by_tier={t: int(device[drawable & (tiers == t)].sum()) for t in Tier},
            chunks_by_level=tuple(levels.tolist()),
            leased=int(np.count_nonzero(leases)),
            tally=replace(tally),
            failures=tuple(
                failure
                for failure in failures.all()
                if failure.permanent or int(demands.rank[failure.chunk]) != NO_RANK
            ),
        )


def joint(each: Sequence[ResidencyStats]) -> ResidencyStats:
    """Of several memories together: sums, and the failures of all, a chunk's once."""
    if len(each) == 1:
        return each[0]
    tally = Tally(**{f.name: sum(getattr(s.tally, f.name) for s in each) for f in fields(Tally)})
    failures = {failure.chunk: failure for stats in each for failure in stats.failures}
    chunks: Counter[ChunkState] = Counter(dict.fromkeys(ChunkState, 0))
    tiers: Counter[Tier] = Counter(dict.fromkeys(Tier, 0))
    for stats in each:
        chunks.update(stats.chunks)
        tiers.update(stats.device_bytes_by_tier)
    levels = zip(*(stats.chunks_by_level for stats in each), strict=True)
    return ResidencyStats(
        budgets=Budgets(
            sum(stats.budgets.host_bytes for stats in each),
            sum(stats.budgets.device_bytes for stats in each),
        ),
        host_bytes=sum(stats.host_bytes for stats in each),
        device_bytes=sum(stats.device_bytes for stats in each),
        chunks=dict(chunks),
        device_bytes_by_tier=dict(tiers),
        chunks_by_level=tuple(sum(level) for level in levels),
        leased=sum(stats.leased for stats in each),
        tally=tally,
        failures=tuple(failures[chunk] for chunk in sorted(failures)),
    )
