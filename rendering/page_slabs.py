"""Pages of one size, cut from slabs of a device's memory: they come and go, slabs seldom do.

Taking memory from a driver is slow, and what is taken in small pieces lies in pieces when it comes
back. All pages are of one size, so that any free one will do, and no more slabs are taken than the
most pages in use at a time fill. A slab is a small part of all there is, or what is missing.

Pages that go at random leave a few in each slab, so that no slab can go. Where memory is to be
given back, slabs are *left*: their pages move to free places of others (``SlabPool.leave``), and
a slab goes when the last page has moved, or come back.
"""

from __future__ import annotations

import heapq
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

SHARE = 16  # a slab is one part of so many, if less is missing


class Slab:
    """Memory of several pages.

    Attributes:
        memory: Of all of them.
        pages: So many.
        free: Numbers of those that nobody has, a heap: neighbours go together.
        is_left: It goes when it is empty; its pages are to move elsewhere.
    """

    __slots__ = ("free", "is_left", "memory", "pages")

    def __init__(self, memory: Any, pages: int) -> None:
        self.memory, self.pages = memory, pages
        self.free = list(range(pages))
        self.is_left = False

    @property
    def in_use(self) -> int:
        """Pages that somebody has."""
        return self.pages - len(self.free)

    @property
    def is_empty(self) -> bool:
        """Whether nobody has any of its pages."""
        return len(self.free) == self.pages


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A page of a slab."""

    slab: Slab
    number: int


def next_slab_pages(held: int, missing: int, most: int, limit: int) -> int:
    """Pages of the next slab: those that are missing, or a share of what there is.

    Args:
        held: Pages that there is memory for.
        missing: That are asked for beyond them.
        most: Of a slab.
        limit: Of all; only what is missing may be beyond it.
    """
    return min(most, max(missing, min(held // SHARE, limit - held)))


class SlabPool:
    """Pages in slabs. Safe on any thread.

    Args:
        new_slab: Takes memory for so many pages; raises if there is none.
        slab_pages: Of a slab, at most.
    """

    def __init__(self, new_slab: Callable[[int], Any], slab_pages: int) -> None:
        self._new_slab, self._slab_pages = new_slab, max(1, slab_pages)
        self._lock = threading.Lock()
        self._slabs: list[Slab] = []
        self._most_free = self._limit = sys.maxsize
        self._shrank = False
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
            return sum(slab.in_use for slab in self._slabs)

    def take(self, count: int) -> list[Place]:
        """So many pages, or none: neighbours one after the other, where there are any.

        Raises:
            Exception: What ``new_slab`` raises.
        """
        with self._lock:
            self._collect()
            self._slabs += self._new_slabs(count - sum(len(slab.free) for slab in self._slabs))
            return self._taken(count, self._slabs)

    def give_back(self, place: Place) -> None:
        """Nobody has it any more. Takes no lock: may be called at any moment."""
        self._returned.append(place)

    def keep_free(self, pages: int) -> None:
        """Hold at most so many unused pages from now on, but for those of slabs in use."""
        with self._lock:
            self._collect()
            self._most_free = pages
            self._shrank |= self._let_go(pages)

    def limit(self, pages: int) -> None:
        """Hold memory for at most so many pages from now on, but for what is in use; what there is
        beyond that goes as far as pages move (``is_loose``)."""
        with self._lock:
            self._limit = pages

    def trim(self) -> None:
        """Let go of all slabs that nobody uses, now."""
        with self._lock:
            self._collect()
            self._shrank |= self._let_go(0)

    def has_shrunk(self) -> bool:
        """Whether slabs went since this was last asked, because less is to be held: not those that
        merely came and went."""
        with self._lock:
            shrank, self._shrank = self._shrank, False
            return shrank

    def is_loose(self) -> bool:
        """Whether pages should move: chooses slabs to be left while all are beyond the limit, and
        others have room for what is used of them.

        What is held when they have moved is within the limit, or less than a slab more than what
        is in use.
        """
        with self._lock:
            self._collect()
            staying = [slab for slab in self._slabs if not slab.is_left]
            excess = sum(slab.pages for slab in staying) - self._limit
            if excess > 0:
                self._choose_left(staying, excess)
            return any(slab.is_left for slab in self._slabs)

    def _choose_left(self, staying: list[Slab], excess: int) -> None:
        """Those first of which the least has to move."""
        to_move = sum(slab.in_use for slab in self._slabs if slab.is_left)
        free = sum(len(slab.free) for slab in staying) - to_move
        for slab in sorted(staying, key=lambda slab: slab.in_use / slab.pages):
            if excess > 0 and slab.pages <= free:
                slab.is_left = True
                free, excess = free - slab.pages, excess - slab.pages
        self._let_go(self._most_free)

    def leave(self, places: Iterable[Place], most: int) -> list[tuple[Place, Place]]:
        """Those of some pages in use that should move, and where to: at most so many.

        The new places are taken. Whoever has a page moves what is in it, and gives the old place
        back when nobody reads it any more.
        """
        with self._lock:
            self._collect()
            staying = [slab for slab in self._slabs if not slab.is_left]
            count = min(most, sum(len(slab.free) for slab in staying))
            leaving = [place for place in places if place.slab.is_left][:count]
            return list(zip(leaving, self._taken(len(leaving), staying), strict=True))

    def _taken(self, count: int, slabs: list[Slab]) -> list[Place]:
        """Slabs that are nearly full first, so that others become empty; last those that are
        left: they stay then."""
        places: list[Place] = []
        for slab in sorted(slabs, key=lambda slab: (slab.is_left, len(slab.free))):
            of_slab = min(len(slab.free), count - len(places))
            places += [Place(slab, heapq.heappop(slab.free)) for _ in range(of_slab)]
            slab.is_left &= not of_slab
        return places

    def _new_slabs(self, missing: int) -> list[Slab]:
        fresh: list[Slab] = []
        held = sum(slab.pages for slab in self._slabs)
        try:
            while missing > 0:
                pages = next_slab_pages(held, missing, self._slab_pages, self._limit)
                fresh.append(Slab(self._new_slab(pages), pages))
                held, missing = held + pages, missing - pages
        except BaseException:
            fresh.clear()  # the error refers to them, and somebody may keep it
            raise
        return fresh

    def _collect(self) -> None:
        """Under the lock: what came back is free."""
        while self._returned:
            place = self._returned.popleft()
            heapq.heappush(place.slab.free, place.number)
        self._let_go(self._most_free)

    def _let_go(self, most_free: int) -> bool:
        """Of empty slabs that are left, or more than is to be kept; whether there were any."""
        free = sum(len(slab.free) for slab in self._slabs)
        kept = []
        for slab in self._slabs:
            if slab.is_empty and (slab.is_left or free > most_free):
                free -= slab.pages
                self._shrank |= slab.is_left
            else:
                kept.append(slab)
        went = len(kept) < len(self._slabs)
        self._slabs = kept
        return went
