"""The chunks of a streamed scene in one memory: pages, what decides which, and who fills them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rendering.base import PagePool, PagingRasterizer, ScenePart
from rendering.device import DeviceLost
from scene_store.chunks import ChunkSource, Payload
from scene_store.ledger import Budgets, ChunkCosts
from scene_store.loader import DECODERS, READERS, Loader, OnWork
from scene_store.residency import Residency

Page = TypeVar("Page")


@runtime_checkable
class MovingPool(Protocol[Page]):
    """A pool that cannot give memory back page by page: its pages must move for that. See
    ``rendering.fused_pages``."""

    def limit(self, most_bytes: int) -> None:
        """Hold no more than that from now on, but for pages in use."""

    def is_loose(self) -> bool:
        """Whether it holds more, and could do with less if pages moved. The device has again what
        went since."""

    def moved(self, pages: Iterable[Page]) -> dict[Page, Page]:
        """Copies of those pages that should move, elsewhere; not all of them at once."""


@runtime_checkable
class MeasuringRasterizer(Protocol):
    """An engine that knows what its frames take of the device beside pages."""

    @property
    def scratch_bytes(self) -> int:
        """The most that was seen so far."""


class ChunkPages:
    """The chunks on the device, by number: the ``DevicePool`` of the loader."""

    def __init__(self, pool: PagePool, page_gaussians: int) -> None:
        self._pool = pool
        self._moving: MovingPool[Any] | None = pool if isinstance(pool, MovingPool) else None
        self._page_gaussians = page_gaussians
        self._lock = threading.Lock()  # of who replaces pages; others take whole tuples
        self._pages: dict[int, tuple[Any, ...]] = {}

    def upload(self, chunks: Sequence[int], contents: Payload, rows: NDArray[np.int64]) -> None:
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
        packed = iter(self._pool.pack_many(contents, flat))
        for chunk, each in zip(chunks, pages, strict=True):
            self._pages[chunk] = tuple(islice(packed, len(each)))

    def free(self, chunk: int) -> None:
        """Give a chunk's pages back."""
        with self._lock:
            del self._pages[chunk]

    def of(self, chunk: int) -> tuple[Any, ...]:
        """The pages of a chunk that is there."""
        return self._pages[chunk]

    def drop(self) -> None:
        """Forget all pages; what is drawn of them keeps them as long."""
        with self._lock:
            self._pages.clear()

    def limit(self, most_bytes: int) -> None:
        """Hold no more than that as soon as pages have moved."""
        if self._moving is not None:
            self._moving.limit(most_bytes)

    def move(self) -> bool:
        """Have some pages move, if memory is to be given back. What is drawn keeps the old ones.

        Returns:
            Whether any did: more may follow.
        """
        if self._moving is None or not self._moving.is_loose():
            return False
        with self._lock:
            there = dict(self._pages)
        moved = self._moving.moved(page for pages in there.values() for page in pages)
        with self._lock:
            for chunk, pages in there.items():
                # It may be gone meanwhile, and its new pages go with it.
                if self._pages.get(chunk) is pages and not moved.keys().isdisjoint(pages):
                    self._pages[chunk] = tuple(moved.get(page, page) for page in pages)
        return bool(moved)


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
        self._pages.limit(budgets.device_bytes)
        self._budgets = budgets
        self._moving = threading.Lock()
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

    @property
    def scratch_bytes(self) -> int:
        """The most that frames were seen to take beside pages; 0 if nobody measures it."""
        its = self.rasterizer
        return its.scratch_bytes if isinstance(its, MeasuringRasterizer) else 0

    def set_budgets(self, budgets: Budgets) -> None:
        """New limits, in force at once: memory beyond them goes back to the device, but for what
        is being drawn, which follows (``tidy``).

        Raises:
            BudgetError: If they are too small for this scene; the old ones stay.
        """
        self.loader.set_budgets(budgets)
        if budgets.device_bytes != self._budgets.device_bytes:
            self._pages.limit(budgets.device_bytes)
            self._pool.keep_free(0)
        self._budgets = budgets
        while self.tidy():
            pass

    def tidy(self) -> bool:
        """Has pages move for a few milliseconds at most, if there is more memory than budget;
        whether any did."""
        if not self._moving.acquire(blocking=False):
            return False  # somebody is at it
        try:
            # A lost device is found by who draws on it.
            with suppress(DeviceLost):
                return self._pages.move()
            return False
        finally:
            self._moving.release()

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
