"""The chunks of a streamed scene in one memory: pages, what decides which, and who fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import PagePool, PagingRasterizer, ScenePart
from scene_store.chunks import ChunkSource
from scene_store.ledger import Budgets, ChunkCosts
from scene_store.loader import DECODERS, READERS, Loader, OnWork
from scene_store.residency import Residency
from splat.gaussians import Gaussians


class ChunkPages:
    """The chunks on the device, by number: the ``DevicePool`` of the loader."""

    def __init__(self, pool: PagePool, page_gaussians: int) -> None:
        self._pool = pool
        self._page_gaussians = page_gaussians
        self._pages: dict[int, tuple[Any, ...]] = {}

    def upload(self, chunks: Sequence[int], gaussians: Gaussians, rows: NDArray[np.int64]) -> None:
        """Pack chunks into pages of their own."""
        size = self._page_gaussians
        pages = [
            [
                (start, min(size, first + count - start))
                for start in range(first, first + count, size)
            ]
            for first, count in rows.tolist()
        ]
        flat = np.array([page for each in pages for page in each], np.int64).reshape(-1, 2)
        packed = iter(self._pool.pack_many(gaussians, flat))
        for chunk, each in zip(chunks, pages, strict=True):
            self._pages[chunk] = tuple(islice(packed, len(each)))

    def free(self, chunk: int) -> None:
        """Give a chunk's pages back."""
        del self._pages[chunk]

    def of(self, chunk: int) -> tuple[Any, ...]:
        """The pages of a chunk that is there."""
        return self._pages[chunk]

    def drop(self) -> None:
        """Forget all pages; what is drawn of them keeps them as long."""
        self._pages.clear()


class ChunkMemory:
    """What one memory holds of a scene.

    Args:
        place: Among the memories of the scene.
        sharers: How many memories there are; they share the host's threads.
        rasterizer: What draws from it.
        source: The chunks.
        costs: What they take.
        budgets: Hard limits.
        on_arrival: Called on a thread of its own when more can be drawn than before.
        on_short: Called when the device has less memory than its budget, with the bytes that chunks
            have of it; says whether it lowered the budget.
        on_work: Hears what was read and decoded, and when.
        clock: Seconds.

    Attributes:
        rasterizer: As given.
        loader: Leases chunks, and has them come.
    """

    def __init__(
        self,
        place: int,
        sharers: int,
        rasterizer: PagingRasterizer,
        source: ChunkSource,
        costs: ChunkCosts,
        budgets: Budgets,
        *,
        on_arrival: Callable[[], None],
        on_short: Callable[[int], bool],
        on_work: OnWork,
        clock: Callable[[], float],
    ) -> None:
        self.rasterizer = rasterizer
        readers, decoders = max(2, READERS // sharers), max(1, DECODERS // sharers)
        first = {"reading": place * readers, "decoding": place * decoders}

        def worked(lane: str, stage: str, start_s: float, end_s: float) -> None:
            kind, _, number = lane.partition(":")
            on_work(f"{kind}:{first[kind] + int(number)}", stage, start_s, end_s)

        self._pool = rasterizer.new_pool(source.page_gaussians, source.sh_degree)
        self._pages = ChunkPages(self._pool, source.page_gaussians)
        self.loader = Loader(
            source,
            self._pages,
            Residency(source.tree, costs, budgets),
            on_arrival=on_arrival,
            on_short=on_short,
            on_work=worked,
            clock=clock,
            readers=readers,
            decoders=decoders,
        )

    def parts(self, chunk: int, weight: float, *tint: Any) -> list[ScenePart]:
        """A chunk that is leased, as a frame draws it.

        Args:
            tint: As of ``ScenePart``.
        """
        return [ScenePart(page, weight, *tint) for page in self._pages.of(chunk)]

    def adapt(self, budgets: Budgets) -> None:
        """New limits, as there is less memory than was thought: pages that nobody uses go back to
        the device from now on.

        Raises:
            BudgetError: If they are too small for this scene; the old ones stay.
        """
        self.loader.set_budgets(budgets)
        self._pool.keep_free(0)

    def lose(self) -> None:
        """All of it is gone. Returns at once; frames keep what they draw."""
        self.loader.close(wait=False)
        self._pages.drop()

    def close(self) -> None:
        """End the loading. ``drop`` what is there when nobody chooses from it any more."""
        self.loader.close()

    def drop(self) -> None:
        """Forget all pages."""
        self._pages.drop()
