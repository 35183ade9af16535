"""Budgets divided among the memories that a streamed scene is in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from scene_store.chunks import ChunkSource
from scene_store.ledger import Budgets, ChunkCosts
from scene_store.shared_chunks import held_bytes_of
from splat.errors import BudgetError

MIB = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class MemoryShares:
    """What each of some memories may take, of a host's budget for all and a device's for each.

    Attributes:
        count: How many memories.
        costs: Of the chunks.
        root_bytes: Of the coarsest chunks on a device.
        page_bytes: Of a page of a device.
    """

    count: int
    costs: ChunkCosts
    root_bytes: int
    page_bytes: int

    @classmethod
    def of(cls, source: ChunkSource, page_bytes: int, count: int) -> MemoryShares:
        """Of a source, on devices with pages of such a size."""
        costs = ChunkCosts.of(source, page_bytes)
        return cls(count, costs, int(costs.device[source.tree.roots].sum()), page_bytes)

    @property
    def least(self) -> Budgets:
        """Smaller ones do not do: as soon as there is one, it loads."""
        return Budgets(self.count * self._least_host, self.root_bytes)

    @property
    def _least_host(self) -> int:
        """Of one memory."""
        return int(self.costs.encoded.max()) + int(self.costs.decoded.max())

    def between(self, budgets: Budgets) -> int:
        """Of the host's, for what one memory has read or decoded and others may want."""
        if self.count == 1:
            return 0
        return held_bytes_of(self.costs, budgets.host_bytes, self.count, self._least_host)

    def of_each(self, budgets: Budgets) -> Budgets:
        """Of one memory."""
        host = (budgets.host_bytes - self.between(budgets)) // self.count
        return Budgets(host, budgets.device_bytes)

    def together(self, budgets: Budgets) -> Budgets:
        """What all may take."""
        return Budgets(budgets.host_bytes, self.count * budgets.device_bytes)

    def require(self, budgets: Budgets) -> None:
        """Refuse budgets that are too small for several memories; of one, its residency does.

        Raises:
            BudgetError: If they are.
        """
        for name, budget, least in (
            ("host", budgets.host_bytes, self.least.host_bytes),
            ("device", budgets.device_bytes, self.least.device_bytes),
        ):
            if self.count > 1 and budget < least:
                raise BudgetError(
                    f"the {name} budget of {budget / MIB:.1f} MiB is too small for this scene in"
                    f" {self.count} memories, which needs {least / MIB:.1f} MiB; raise"
                    f" --{name}-budget, or use fewer devices"
                )
