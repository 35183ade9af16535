"""One source for several memories: what one of them has read or decoded, another need not.

Devices that draw together want the same chunks at about the same time. Each memory has a loader
and a residency of its own; all loaders read from one ``SharedChunks``. What one of them has read,
and not decoded yet, is there for all; what it has decoded is kept until all have got it, for a
while; and nobody does what somebody else is at.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from scene_store.chunks import (
    ChunkSource,
    DecodedChunks,
    EncodedChunk,
    Payload,
    ReadOutcome,
    in_batches,
    joined,
    never_cancelled,
    row_bytes_of,
    rows_of,
)
from scene_store.ledger import ChunkCosts
from splat.errors import ChunkReadError

POLL_S = 0.02  # between two looks at whether a chunk that somebody else reads is still wanted
KEPT_S = 1.0
HELD_CHUNKS = 32  # of the largest, decoded: as far as loaders are behind each other
DECODED = EncodedChunk(())  # in the place of the bytes of a chunk that is decoded already

Value = TypeVar("Value")


class SharedChunks:
    """Another source, for several loaders at a time; a ``BatchSource``.

    What happens to a chunk is what the source makes of it. Whoever asks for a chunk that another
    thread is reading or decoding waits for that, and does it again only if it came to nothing, or
    to more than could be kept.

    Args:
        source: The scene; who made this closes it.
        sharers: How many loaders. What all of them have got is not kept any longer.
        held_bytes: The most that is kept of what is decoded.
        clock: Seconds.

    Attributes:
        meta, tree, sh_degree, page_gaussians, row_bytes: The source's.
    """

    def __init__(
        self,
        source: ChunkSource,
        sharers: int,
        held_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = in_batches(source)
        self.meta, self.tree = source.meta, source.tree
        self.sh_degree, self.page_gaussians = source.sh_degree, source.page_gaussians
        self.encoded_bytes = source.encoded_bytes
        self.row_bytes = row_bytes_of(source)
        self._lock = threading.Lock()
        self._room = _Room(sharers - 1, held_bytes, clock)
        self._read: WeakValueDictionary[int, EncodedChunk] = WeakValueDictionary()
        self._reads: _Flights[EncodedChunk] = _Flights(self._read.get)
        self._decodings: _Flights[Payload] = _Flights(self._room.take)

    @property
    def held_bytes(self) -> int:
        """What is kept."""
        return self._room.held_bytes

    def set_held_bytes(self, most: int) -> None:
        """Another bound, in force at once."""
        with self._lock:
            self._room.bound(most)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        (outcome,) = self.read_many([chunk], lambda _: cancelled())
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def decode(self, chunk: int, encoded: EncodedChunk) -> Payload:
        """See ``ChunkSource``."""
        decoded = self.decode_many([chunk], [encoded])
        if decoded.errors:
            raise decoded.errors[0]
        first, count = decoded.rows[0].tolist()
        return decoded.contents[first : first + count]

    def read_batches(self, chunks: Sequence[int], most_bytes: int) -> list[list[int]]:
        """See ``BatchSource``."""
        return self._source.read_batches(chunks, most_bytes)

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        """See ``BatchSource``. A chunk that is decoded is not read."""
        outcomes: dict[int, ReadOutcome] = {}
        missing = list(chunks)
        while missing:
            with self._lock:
                outcomes.update((c, DECODED) for c in missing if c in self._room)
                missing = [chunk for chunk in missing if chunk not in outcomes]
                found, mine, theirs = self._reads.claim(missing)
            outcomes.update(found)
            if mine:
                outcomes.update(self._read_mine(mine, cancelled))
            for chunk, flight in theirs.items():
                while not flight.wait(POLL_S) and not cancelled(chunk):
                    pass
                if cancelled(chunk):
                    outcomes[chunk] = None
            missing = [chunk for chunk in theirs if chunk not in outcomes]
        return [outcomes[chunk] for chunk in chunks]

    def _read_mine(
        self, mine: list[int], cancelled: Callable[[int], bool]
    ) -> dict[int, ReadOutcome]:
        outcomes: list[ReadOutcome] = [None] * len(mine)
        try:
            outcomes = self._source.read_many(mine, cancelled)
        finally:
            with self._lock:
                for chunk, outcome in zip(mine, outcomes, strict=True):
                    if isinstance(outcome, EncodedChunk):
                        self._read[chunk] = outcome
                self._reads.landed(mine)
        return dict(zip(mine, outcomes, strict=True))

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """See ``BatchSource``."""
        parts: dict[int, Payload] = {}
        errors: dict[int, BaseException] = {}
        given = dict(zip(chunks, encoded, strict=True))
        missing = list(chunks)
        while missing:
            with self._lock:
                found, mine, theirs = self._decodings.claim(missing)
            parts.update(found)
            if mine:
                # Never waits for anybody: who does has done its own share before.
                decoded = self._decode(mine, given)
                if len(mine) == len(chunks):
                    return decoded
                _take(decoded, mine, parts, errors)
            for flight in theirs.values():
                flight.wait()
            missing = list(theirs)
        return _together([parts.get(c) for c in chunks], chunks, errors, self.sh_degree)

    def _decode(self, mine: list[int], given: dict[int, EncodedChunk]) -> DecodedChunks:
        """Chunks that are for this thread; others hear of it. Valid as the source's are."""
        try:
            errors: dict[int, BaseException] = {}
            encoded: dict[int, EncodedChunk] = {}
            for place, chunk in enumerate(mine):
                outcome = self._bytes_of(chunk, given[chunk])
                if isinstance(outcome, EncodedChunk):
                    encoded[place] = outcome
                else:
                    errors[place] = outcome
            if not encoded:
                return DecodedChunks(
                    joined([], self.sh_degree), np.zeros((len(mine), 2), np.int64), errors
                )
            good = list(encoded)
            decoded = self._source.decode_many(
                [mine[place] for place in good], list(encoded.values())
            )
            errors.update((good[place], error) for place, error in decoded.errors.items())
            rows = np.zeros((len(mine), 2), np.int64)
            rows[good] = decoded.rows
            whole = DecodedChunks(decoded.contents, rows, errors)
            self._keep(mine, whole)
            return whole
        finally:
            with self._lock:
                self._decodings.landed(mine)

    def _bytes_of(self, chunk: int, encoded: EncodedChunk) -> EncodedChunk | BaseException:
        """What is to be decoded; read once more if what had been decoded is gone meanwhile."""
        if encoded is not DECODED:
            return encoded
        (outcome,) = self._source.read_many([chunk], lambda _: False)
        if outcome is None:
            return ChunkReadError("the scene", chunk, "the read was abandoned", transient=True)
        return outcome

    def _keep(self, chunks: Sequence[int], decoded: DecodedChunks) -> None:
        """Copies, as the source's arrays are another batch's next."""
        for place, (chunk, (first, count)) in enumerate(
            zip(chunks, decoded.rows.tolist(), strict=True)
        ):
            if place in decoded.errors:
                continue
            copy = joined([decoded.contents[first : first + count]])
            with self._lock:
                self._room.put(chunk, copy)

    def close(self) -> None:
        """Forget what is kept. The source is not closed."""
        with self._lock:
            self._room.bound(0)


def held_bytes_of(costs: ChunkCosts, host_bytes: int, memories: int, least_bytes: int) -> int:
    """How much a ``SharedChunks`` may keep of a budget.

    Args:
        costs: Of its chunks.
        host_bytes: The budget, of which every one of ``memories`` needs ``least_bytes``.
    """
    spare = max(0, host_bytes - memories * least_bytes)
    return min(HELD_CHUNKS * int(costs.decoded.max()), spare // 2)


class _Room:
    """Decoded chunks in a bound of bytes. Each is given out so many times, and goes then.

    Where there is no room for another one, those that nobody came for in ``KEPT_S`` go. Younger
    ones stay: whoever is behind will want them before what comes now.
    """

    def __init__(self, times: int, most_bytes: int, clock: Callable[[], float]) -> None:
        self._times, self._most, self._clock = times, most_bytes, clock
        self._entries: OrderedDict[int, Payload] = OrderedDict()
        self._since: dict[int, float] = {}
        self._given: Counter[int] = Counter()
        self.held_bytes = 0

    def __contains__(self, chunk: int) -> bool:
        return chunk in self._entries

    def take(self, chunk: int) -> Payload | None:
        found = self._entries.get(chunk)
        if found is not None:
            self._given[chunk] += 1
            if self._given[chunk] >= self._times:
                self._drop(chunk)
        return found

    def put(self, chunk: int, contents: Payload) -> None:
        self._drop(chunk)
        now = self._clock()
        self._make_room(contents.nbytes, now - KEPT_S)
        if self.held_bytes + contents.nbytes <= self._most:
            self._entries[chunk], self._since[chunk] = contents, now
            self.held_bytes += contents.nbytes

    def bound(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._make_room(0, math.inf)

    def _drop(self, chunk: int) -> None:
        entry = self._entries.pop(chunk, None)
        if entry is not None:
            self.held_bytes -= entry.nbytes
            self._given.pop(chunk, None)
            del self._since[chunk]

    def _make_room(self, nbytes: int, before: float) -> None:
        """By dropping what came before a time."""
        while self._entries and self.held_bytes + nbytes > self._most:
            oldest = next(iter(self._entries))
            if self._since[oldest] > before:
                return
            self._drop(oldest)


class _Flights(Generic[Value]):
    """What threads are at. Guarded by the owner's lock.

    Args:
        take: What is there of a chunk.
    """

    def __init__(self, take: Callable[[int], Value | None]) -> None:
        self._take = take
        self._under_way: dict[int, threading.Event] = {}

    def claim(
        self, chunks: Sequence[int]
    ) -> tuple[dict[int, Value], list[int], dict[int, threading.Event]]:
        """What is there; what is to be done by who asks, until ``landed``; and what others do."""
        found: dict[int, Value] = {}
        mine: list[int] = []
        theirs: dict[int, threading.Event] = {}
        for chunk in chunks:
            value = self._take(chunk)
            if value is not None:
                found[chunk] = value
            elif chunk in self._under_way:
                theirs[chunk] = self._under_way[chunk]
            else:
                mine.append(chunk)
                self._under_way[chunk] = threading.Event()
        return found, mine, theirs

    def landed(self, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            self._under_way.pop(chunk).set()


def _take(
    decoded: DecodedChunks,
    chunks: Sequence[int],
    parts: dict[int, Payload],
    errors: dict[int, BaseException],
) -> None:
    """Copies of what was decoded, by chunk."""
    for place, chunk in enumerate(chunks):
        if place in decoded.errors:
            errors[chunk] = decoded.errors[place]
        else:
            first, count = decoded.rows[place].tolist()
            parts[chunk] = joined([decoded.contents[first : first + count]])


def _together(
    parts: Sequence[Payload | None],
    chunks: Sequence[int],
    errors: dict[int, BaseException],
    sh_degree: int,
) -> DecodedChunks:
    by_place = {place: errors[chunk] for place, chunk in enumerate(chunks) if chunk in errors}
    return DecodedChunks(joined(parts, sh_degree), rows_of(parts), by_place)
