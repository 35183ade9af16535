"""Budgets divided among the memories that a streamed scene is in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rendering.base import PagingRasterizer
from rendering.device import HOST_MEMORY
from scene_store.chunks import ChunkSource
from scene_store.ledger import Budgets, ChunkCosts
from scene_store.shared_chunks import held_bytes_of
from splat.errors import BudgetError
from splat.text import mib_held, mib_needed

Rasterizers = PagingRasterizer | Mapping[str, PagingRasterizer]
"""What draws a scene; by memory, if there are several."""


def by_memory(rasterizer: Rasterizers) -> dict[str, PagingRasterizer]:
    """What draws from each memory."""
    return dict(rasterizer) if isinstance(rasterizer, Mapping) else {HOST_MEMORY: rasterizer}


def memory_count(rasterizer: Rasterizers) -> int:
    """How many memories a scene is made for."""
    return len(by_memory(rasterizer))


def least_budgets(source: ChunkSource, rasterizer: Rasterizers) -> Budgets:
    """What a ``StreamedScene`` of this source cannot do without: as soon as there is one, it
    loads."""
    return MemoryShares.drawn_by(source, by_memory(rasterizer)).least


def page_bytes_of(source: ChunkSource, rasterizer: PagingRasterizer) -> int:
    """A page of a source's chunks, as an engine keeps it."""
    return rasterizer.new_pool(source.page_gaussians, source.sh_degree).page_bytes


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

    @classmethod
    def drawn_by(
        cls, source: ChunkSource, rasterizers: Mapping[str, PagingRasterizer]
    ) -> MemoryShares:
        """Of a source, with the largest of the pages of what draws it."""
        by_engine = {rasterizer.name: rasterizer for rasterizer in rasterizers.values()}
        largest = max(page_bytes_of(source, rasterizer) for rasterizer in by_engine.values())
        return cls.of(source, largest, len(rasterizers))

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
                    f"the {name} budget of {mib_held(budget)} is too small for this scene in"
                    f" {self.count} memories, which needs {mib_needed(least)}; raise"
                    f" --{name}-budget, or use fewer devices"
                )
