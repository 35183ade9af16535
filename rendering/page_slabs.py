"""Pages of one size, cut from slabs of a device's memory: they come and go, slabs seldom do.

Taking memory from a driver is slow, and what is taken in small pieces lies in pieces when it comes
back. All pages are of one size, so that any free one will do, and no more slabs are taken than the
most pages in use at a time fill.
"""

from __future__ import annotations

import heapq
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Slab:
    """Memory of several pages.

    Attributes:
        memory: Of all of them.
        pages: So many.
        free: Numbers of those that nobody has, a heap: neighbours go together.
    """

    __slots__ = ("free", "memory", "pages")

    def __init__(self, memory: Any, pages: int) -> None:
        self.memory, self.pages = memory, pages
        self.free = list(range(pages))

    @property
    def is_empty(self) -> bool:
        """Whether nobody has any of its pages."""
        return len(self.free) == self.pages


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A page of a slab."""

    slab: Slab
    number: int


class SlabPool:
    """Pages in slabs. Safe on any thread.

    Args:
        new_slab: Takes memory for so many pages; raises if there is none.
        slab_pages: Of each slab.
    """

    def __init__(self, new_slab: Callable[[int], Any], slab_pages: int) -> None:
        self._new_slab, self._slab_pages = new_slab, max(1, slab_pages)
        self._lock = threading.Lock()
        self._slabs: list[Slab] = []
        self._most_free = sys.maxsize
        # What comes back may do so amid garbage collection, on a thread that has the lock.
        self._returned: deque[Place] = deque()

    @property
    def pages(self) -> int:
        """There is memory for, in use or not."""
        with self._lock:
            self._collect()
            return sum(slab.pages for slab in self._slabs)

    @property
    def pages_in_use(self) -> int:
        """Taken, and not given back."""
        with self._lock:
            self._collect()
            return sum(slab.pages - len(slab.free) for slab in self._slabs)

    def take(self, count: int) -> list[Place]:
        """So many pages, or none: neighbours one after the other, where there are any.

        Raises:
            Exception: What ``new_slab`` raises.
        """
        with self._lock:
            self._collect()
            missing = count - sum(len(slab.free) for slab in self._slabs)
            fresh = self._new_slabs(-(-missing // self._slab_pages))
            # Slabs that are nearly full first, so that others become empty.
            self._slabs = sorted(self._slabs + fresh, key=lambda slab: len(slab.free))
            places: list[Place] = []
            for slab in self._slabs:
                of_slab = min(len(slab.free), count - len(places))
                places += [Place(slab, heapq.heappop(slab.free)) for _ in range(of_slab)]
            return places

    def give_back(self, place: Place) -> None:
        """Nobody has it any more. Takes no lock: may be called at any moment."""
        self._returned.append(place)

    def keep_free(self, pages: int) -> None:
        """Hold at most so many unused pages from now on, but for those of slabs in use."""
        with self._lock:
            self._most_free = pages
            self._collect()

    def trim(self) -> None:
        """Let go of all slabs that nobody uses, now."""
        with self._lock:
            self._collect()
            self._slabs = [slab for slab in self._slabs if not slab.is_empty]

    def _new_slabs(self, count: int) -> list[Slab]:
        fresh: list[Slab] = []
        try:
            for _ in range(count):
                fresh.append(Slab(self._new_slab(self._slab_pages), self._slab_pages))
        except BaseException:
            fresh.clear()  # the error refers to them, and somebody may keep it
            raise
        return fresh

    def _collect(self) -> None:
        """Under the lock: what came back is free."""
        while self._returned:
            place = self._returned.popleft()
            heapq.heappush(place.slab.free, place.number)
        free = sum(len(slab.free) for slab in self._slabs)
        if free <= self._most_free:
            return
        kept = []
        for slab in self._slabs:
            if slab.is_empty and free > self._most_free:
                free -= slab.pages
            else:
                kept.append(slab)
        self._slabs = kept
