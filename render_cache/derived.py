"""What was decoded for one view and still does for another: a cache of derived Gaussians.

How long something does is the rule of ``render_cache.derived_rule``; here are the books: what is
kept, who drew it, and what goes first for want of room. A frame asks for all of its pages at once,
which takes a few operations on columns, as frames that decode little have little time for more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from render_cache.byte_cache import CacheStats
from render_cache.derived_rule import (
    DerivedReuse,
    Float64Array,
    PageSpheres,
    falls_due,
    still_holds,
)
from render_cache.shared_bytes import SharedBytes

Value = TypeVar("Value")

MOST_CLIENTS = 64  # whose last frames are remembered
RECENT_FRAMES = 32  # of all clients: who asked for none of them is idle
LEAST_ROWS = 64  # of columns


@dataclass(slots=True, eq=False)
class _Entry(Generic[Value]):
    """A page decoded for a point.

    Attributes:
        page, point: Which, and the bytes of the point.
        value, size_bytes: What it was decoded to; None once that is gone.
        used: By which frame last, of all clients'.
        is_there: Whether the cache has it: who drew it may find it gone.
        holders: Clients that drew it last.
    """

    page: int
    point: bytes
    value: Value | None = None
    size_bytes: int = 0
    used: int = 0
    is_there: bool = False
    holders: set[str] = field(default_factory=set)


class _Drawn(Generic[Value]):
    """What a client drew last of each page, in columns.

    Attributes:
        points: [R, 3] float64 that it was decoded for.
        since: [R] int64, the frame of the client's in which it was last exact.
        entries: [R] what it is; None where a row is free.
    """

    def __init__(self) -> None:
        self.points = np.zeros((LEAST_ROWS, 3))
        self.since = np.zeros(LEAST_ROWS, np.int64)
        self.entries: list[_Entry[Value] | None] = [None] * LEAST_ROWS
        self._row: dict[int, int] = {}
        self._free = list(range(LEAST_ROWS))

    def rows_of(self, pages: Sequence[int]) -> NDArray[np.int64]:
        """[N] rows of pages; -1 of those that were not drawn."""
        row = self._row.get
        return np.array([row(page, -1) for page in pages], np.int64)

    def pages(self) -> list[int]:
        """That were drawn."""
        return list(self._row)

    def put(self, entry: _Entry[Value], point: Float64Array, since: int) -> None:
        """What was drawn of a page, in the place of what was before."""
        row = self._row.get(entry.page)
        if row is None:
            if not self._free:
                self._grow()
            row = self._row[entry.page] = self._free.pop()
        self.points[row], self.since[row], self.entries[row] = point, since, entry

    def of(self, page: int) -> _Entry[Value] | None:
        """What was drawn of a page."""
        row = self._row.get(page)
        return None if row is None else self.entries[row]

    def pop(self, page: int) -> _Entry[Value] | None:
        """What was drawn of a page, which is forgotten."""
        row = self._row.pop(page, None)
        if row is None:
            return None
        entry, self.entries[row] = self.entries[row], None
        self._free.append(row)
        return entry

    def _grow(self) -> None:
        rows = len(self.entries)
        self.points = np.concatenate([self.points, np.zeros_like(self.points)])
        self.since = np.concatenate([self.since, np.zeros_like(self.since)])
        self.entries += [None] * rows
        self._free += range(rows, 2 * rows)


@dataclass(slots=True, eq=False)
class _Client(Generic[Value]):
    """What is known of a client.

    Attributes:
        name: Whose it is.
        frames: The number of the last one.
        last: The number of the last one among those of all clients.
        drawn: By it.
    """

    name: str
    frames: int = 0
    last: int = 0
    drawn: _Drawn[Value] = field(default_factory=_Drawn)


@dataclass(frozen=True, slots=True, eq=False)
class _Place(Generic[Value]):
    """Of a frame among others, whichever begin before it has ended.

    Attributes:
        client: Whose it is.
        number: Of it among the client's.
        passed: Frames of the client since the last one here.
        of_all: Of it among those of all clients.
    """

    client: _Client[Value]
    number: int
    passed: int
    of_all: int


class DerivedCache(Generic[Value]):
    """Decoded pages, never more bytes than the budget. Safe to use from several threads.

    Several clients share it: a page that one has decoded for a point is there for all who look
    from just there; how long a page may be drawn again counts in frames of each client. Of each
    page a client has what it drew last. What goes first for want of room is what was not drawn for
    longest; what the last frames of the clients drew does not go, as a budget that is too small
    for it would otherwise keep nothing that is asked for.

    Args:
        budget_bytes: Of this cache.
        shared: That others have a part of, too; None if there are no others.

    Raises:
        ValueError: If the budget is negative.
    """

    def __init__(self, budget_bytes: int, shared: SharedBytes | None = None) -> None:
        self._account = (SharedBytes() if shared is None else shared).account()
        # The same entries twice: by point and page, and by page and point.
        self._at: dict[bytes, dict[int, _Entry[Value]]] = {}
        self._of: dict[int, dict[bytes, _Entry[Value]]] = {}
        self._clients: OrderedDict[str, _Client[Value]] = OrderedDict()
        self._lock = threading.Lock()
        self._count = self._held = self._hits = self._misses = self._frames = 0
        self._budget = 0
        # What may go, and by which frame each was used last; as it was when a frame began.
        self._unused: deque[tuple[_Entry[Value], int]] = deque()
        self._unused_in = -1
        self.set_budget(budget_bytes)

    def begin(
        self,
        client: str,
        center: NDArray[np.floating],
        reuse: DerivedReuse,
        number: int | None = None,
    ) -> DerivedFrame[Value]:
        """The next frame of a client.

        Args:
            center: [3] point that it decodes for, world units.
            reuse: How far what is there may be off.
            number: Of the frame, if some of the client's are drawn elsewhere; None for the next.
        """
        with self._lock:
            known = self._clients.setdefault(client, _Client(client))
            self._clients.move_to_end(client)
            while len(self._clients) > MOST_CLIENTS:
                self._let_go(self._clients.popitem(last=False)[1])
            passed = 1 if number is None else max(1, number - known.frames)
            known.frames += passed
            self._frames += 1
            known.last = self._frames
            place = _Place(known, known.frames, passed, self._frames)
            return DerivedFrame(self, place, np.asarray(center, np.float64), reuse)

    def forget(self, pages: Sequence[int]) -> None:
        """Pages that are gone."""
        with self._lock:
            for page in pages:
                for entry in list(self._of.get(page, {}).values()):
                    self._drop(entry)
                for client in self._clients.values():
                    client.drawn.pop(page)

    def clear(self) -> None:
        """Forget all pages; what was counted stays."""
        with self._lock:
            for entry in list(self._entries()):
                self._drop(entry)

    def shed(self) -> None:
        """Forget the pages that no client's last frame drew."""
        with self._lock:
            for entry, _ in self._find_unused():
                self._drop(entry)

    def set_budget(self, budget_bytes: int) -> None:
        """Another budget, in force at once.

        Raises:
            ValueError: If it is negative.
        """
        if budget_bytes < 0:
            raise ValueError(f"a budget must not be negative, got {budget_bytes}")
        with self._lock:
            self._budget = budget_bytes
            if self._held > budget_bytes:
                for entry in sorted(self._entries(), key=lambda each: each.used):
                    self._drop(entry)
                    if self._held <= budget_bytes:
                        break

    def stats(self) -> CacheStats:
        """What is held, and how often it helped, in pages."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._count, self._held, self._budget)

    # --- For frames ---------------------------------------------------------------------------

    def _find(
        self,
        place: _Place[Value],
        center: Float64Array,
        reuse: DerivedReuse,
        of: PageSpheres,
    ) -> list[Value | None]:
        pages = of.page.tolist()
        found: list[Value | None] = [None] * len(pages)
        with self._lock:
            hits = 0
            exact = self._at.get(center.tobytes())
            if exact is not None:
                hits += self._find_exact(place, center, exact, pages, found)
            if reuse.depth and hits < len(pages):
                hits += self._find_near(place, center, reuse, of, pages, found)
            self._hits += hits
            self._misses += len(pages) - hits
        return found

    def _find_exact(
        self,
        place: _Place[Value],
        center: Float64Array,
        exact: dict[int, _Entry[Value]],
        pages: Sequence[int],
        found: list[Value | None],
    ) -> int:
        """What anybody decoded for just this point: the client's from now on; how many."""
        hits = 0
        for at, page in enumerate(pages):
            entry = exact.get(page)
            if entry is not None:
                entry.used = max(entry.used, place.of_all)
                self._hold(place, entry, center)
                found[at] = entry.value
                hits += 1
        return hits

    def _find_near(
        self,
        place: _Place[Value],
        center: Float64Array,
        reuse: DerivedReuse,
        of: PageSpheres,
        pages: Sequence[int],
        found: list[Value | None],
    ) -> int:
        """What the client drew last, where that still holds; how many."""
        drawn, now = place.client.drawn, place.of_all
        rows = drawn.rows_of(pages)
        which = np.flatnonzero(rows >= 0)
        rows, near = rows[which], of if len(which) == len(of) else of[which]
        age = place.number - drawn.since[rows]
        good = still_holds(drawn.points[rows], center, near, reuse)
        good &= ~falls_due(near.turns, age, place.number, reuse.depth, place.passed)
        hits, entries = 0, drawn.entries
        for at, row in zip(which[good].tolist(), rows[good].tolist(), strict=True):
            entry = entries[row]
            if entry is not None and entry.is_there and found[at] is None:
                entry.used = max(entry.used, now)
                found[at] = entry.value
                hits += 1
        return hits

    def _keep(
        self,
        place: _Place[Value],
        center: Float64Array,
        decoded: Iterable[tuple[int, Value, int]],
    ) -> int:
        here, kept = center.tobytes(), 0
        with self._lock:
            for page, value, size_bytes in decoded:
                entry = self._of.get(page, {}).get(here)
                if entry is None:
                    entry = _Entry(page, here)
                else:
                    self._drop(entry)
                self._release(place.client, page)
                if not self._make_room(size_bytes):
                    continue
                # Whoever drew what it was before has this.
                entry.value, entry.size_bytes, entry.used = value, size_bytes, place.of_all
                self._put(entry)
                self._hold(place, entry, center)
                kept += 1
            return kept

    def _hold(self, place: _Place[Value], entry: _Entry[Value], point: Float64Array) -> None:
        """A page that is there is what the client draws from now on."""
        client = place.client
        if client.drawn.of(entry.page) is not entry:
            self._release(client, entry.page)
            entry.holders.add(client.name)
        client.drawn.put(entry, point, place.number)

    def _release(self, client: _Client[Value], page: int) -> None:
        """What a client drew of a page last is nothing to it any more."""
        entry = client.drawn.pop(page)
        if entry is None:
            return
        entry.holders.discard(client.name)
        if entry.is_there and not entry.holders:
            self._drop(entry)

    def _let_go(self, client: _Client[Value]) -> None:
        for page in client.drawn.pages():
            self._release(client, page)

    def _make_room(self, size_bytes: int) -> bool:
        """Whether there is room, which is taken, or could be made."""
        if self._take(size_bytes):
            return True
        if size_bytes > self._budget:
            return False
        if self._unused_in != self._frames:  # what is in use changes as frames begin
            self._unused_in, self._unused = self._frames, deque(self._find_unused())
        while self._unused:
            entry, used = self._unused.popleft()
            if entry.is_there and entry.used == used:
                self._drop(entry)
                if self._take(size_bytes):
                    return True
        return False

    def _take(self, size_bytes: int) -> bool:
        return self._held + size_bytes <= self._budget and self._account.take(size_bytes)

    def _find_unused(self) -> list[tuple[_Entry[Value], int]]:
        """What no client's last frame drew, that first which was not drawn for longest."""
        active = self._frames - RECENT_FRAMES
        in_use = {known.last for known in self._clients.values() if known.last > active}
        unused = [(each, each.used) for each in self._entries() if each.used not in in_use]
        return sorted(unused, key=lambda each: each[1])

    def _entries(self) -> Iterator[_Entry[Value]]:
        return (entry for pages in self._at.values() for entry in pages.values())

    def _put(self, entry: _Entry[Value]) -> None:
        self._at.setdefault(entry.point, {})[entry.page] = entry
        self._of.setdefault(entry.page, {})[entry.point] = entry
        entry.is_there = True
        self._count += 1
        self._held += entry.size_bytes

    def _drop(self, entry: _Entry[Value]) -> None:
        # Who drew it keeps the entry, but none of the memory.
        entry.is_there, entry.value = False, None
        self._count -= 1
        self._held -= entry.size_bytes
        self._account.give(entry.size_bytes)
        at, of = self._at[entry.point], self._of[entry.page]
        del at[entry.page], of[entry.point]
        if not at:
            del self._at[entry.point]
        if not of:
            del self._of[entry.page]


@dataclass(frozen=True, slots=True, eq=False)
class DerivedFrame(Generic[Value]):
    """A frame of a client, as ``DerivedCache.begin`` began it.

    Attributes:
        center: [3] float64 point that it decodes for.
        reuse: How far what is there may be off.
    """

    _cache: DerivedCache[Value]
    _place: _Place[Value]
    center: Float64Array
    reuse: DerivedReuse

    def find(self, pages: PageSpheres) -> list[Value | None]:
        """What may be drawn of each page; None for those that are to be decoded."""
        return self._cache._find(self._place, self.center, self.reuse, pages)

    def keep(self, page: int, value: Value, size_bytes: int) -> bool:
        """A page decoded for ``center``; whether there is room for it."""
        return self.keep_all([(page, value, size_bytes)]) == 1

    def keep_all(self, decoded: Iterable[tuple[int, Value, int]]) -> int:
        """Pages decoded for ``center``; of how many there was room for.

        Args:
            decoded: Each page's number, what it was decoded to, and the bytes that this takes.
        """
        return self._cache._keep(self._place, self.center, decoded)
