"""Host memory that copies to a device are made from: a ring, filled and copied from all round.

A span of it is taken, filled, and copied from while others are filled; it is free again when the
mark of its copy is over. Nothing is written where a copy still reads.
"""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splat.errors import BudgetError

Words = NDArray[np.float32]

MIB = 2**20
WORD_BYTES = 4
PATIENCE_S = 20.0  # of a copy, before the device is taken to be gone
_LOOK_S = 0.0005  # a copy does not say when it is over: it is looked at


_NEVER_FREED: list[object] = []
"""Host memory of devices that were lost (``Copier.can_free_host_words``)."""
# Not even when modules end with the interpreter: lists are freed then, this one has an owner more.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_NEVER_FREED))


class TransferStalled(Exception):
    """Copies to a device do not end: it hangs, or is gone."""


class Mark(Protocol):
    """A moment of the copies of a device."""

    def is_over(self) -> bool:
        """Whether all that was copied before it has arrived."""

    def hold_frame(self) -> None:
        """What the calling thread has the device do from now on begins when it is over."""


class _Over:
    """Of copies that are over when they are made."""

    def is_over(self) -> bool:
        return True

    def hold_frame(self) -> None:
        """Nothing to wait for."""


OVER: Mark = _Over()


class Copier(Protocol):
    """Copies words to a device, in the order in which it is asked to. Safe on any thread."""

    def host_words(self, count: int) -> tuple[Words, Any]:
        """Host memory that copies can be made from while others go on: as an array, and as what
        ``copy`` takes slices of."""

    def device_words(self, count: int) -> Any:
        """Memory of the device, of any content: can be sliced. What was given back is not given
        out before copies that were started are over."""

    def can_free_host_words(self) -> bool:
        """Whether host memory that copies were made from may be freed; False once the device is
        lost, if that would end the process. Called at any moment, on any thread."""

    def copy(self, source: Any, target: Any) -> None:
        """Starts to copy a slice of the host's words, or of the device's, to one of the device's,
        after all that was started before."""

    def mark(self) -> Mark:
        """That what was started so far is over."""


@dataclass(slots=True, eq=False)
class Span:
    """Words of a ring, from ``first`` to ``end``.

    Attributes:
        mark: Of the copy made from it; None while it is being filled.
        given_up: Nothing will be copied from it.
    """

    first: int
    end: int
    mark: Mark | None = None
    given_up: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nobody needs what is in it."""
        return self.given_up or (self.mark is not None and self.mark.is_over())


@dataclass(slots=True, eq=False)
class RingSpace:
    """Which words of a ring are in use: spans are given out, and come back, in one order.

    Attributes:
        words: Of the ring.
        spans: Those in use, oldest first.
    """

    words: int
    spans: deque[Span] = field(default_factory=deque)

    def place(self, count: int) -> Span | None:
        """A span of so many words that no other overlaps; None if there is no room yet."""
        while self.spans and self.spans[0].is_over:
            self.spans.popleft()
        first = self._room_for(count)
        if first is None:
            return None
        span = Span(first, first + count)
        self.spans.append(span)
        return span

    def _room_for(self, count: int) -> int | None:
        if not self.spans:
            return 0 if count <= self.words else None
        head, tail = self.spans[-1].end, self.spans[0].first
        if self.spans[-1].first < tail:  # it has come round
            return head if head + count <= tail else None
        if head + count <= self.words:
            return head
        return 0 if count <= tail else None


class StagingRing:
    """Host memory that is filled and copied from, round and round.

    Args:
        copier: To the device.
        words: Of the ring; taken from the system at its first use.
        patience_s: How long a span may be waited for.

    Raises:
        BudgetError: When a span is asked for that is larger than the ring.
        TransferStalled: When copies do not end.
    """

    def __init__(self, copier: Copier, words: int, patience_s: float = PATIENCE_S) -> None:
        self._copier, self._patience_s = copier, patience_s
        self._changed = threading.Condition()
        self._space = RingSpace(words)
        self._turns: deque[object] = deque()  # first come, first served, whatever the size
        self._memory: tuple[Words, Any] | None = None
        # Has the memory until the ring is gone, or the interpreter ends.
        self._to_free: list[object] = []
        weakref.finalize(self, _free, copier, self._to_free)

    @property
    def words(self) -> int:
        """Of the ring."""
        return self._space.words

    @contextmanager
    def filled(self, count: int) -> Iterator[tuple[Span, Words, Any]]:
        """A span to fill and copy from in the block, which sets its mark: the span, its words, and
        what the copier takes slices of. Without a mark it is free again at once."""
        span, (words, source) = self._take(count)
        try:
            yield span, words[span.first : span.end], source[span.first : span.end]
        finally:
            with self._changed:
                span.given_up = span.mark is None
                self._changed.notify_all()

    def in_flight(self) -> list[Mark]:
        """Of copies that may not be over."""
        with self._changed:
            spans = list(self._space.spans)
        return [span.mark for span in spans if span.mark is not None and not span.is_over]

    def wait_until_over(self) -> None:
        """Until every copy is that was started; not for those who are filling spans."""
        deadline_s = time.monotonic() + self._patience_s
        while self.in_flight():
            if time.monotonic() > deadline_s:
                raise TransferStalled(self._stalled)
            time.sleep(_LOOK_S)

    def require(self, count: int) -> None:
        """Refuse spans that are larger than the ring."""
        if count > self.words:
            raise BudgetError(
                f"a copy of {count * WORD_BYTES / MIB:.1f} MiB does not fit the "
                f"{self.words * WORD_BYTES / MIB:.1f} MiB through which scenes go to a device; "
                "build the store with smaller pages"
            )

    def _take(self, count: int) -> tuple[Span, tuple[Words, Any]]:
        self.require(count)
        turn = object()
        with self._changed:
            self._turns.append(turn)
            try:
                span = self._wait_for(turn, count)
                if self._memory is None:
                    self._memory = self._host_words(span)
                return span, self._memory
            finally:
                self._turns.remove(turn)
                self._changed.notify_all()

    def _host_words(self, span: Span) -> tuple[Words, Any]:
        try:
            memory = self._copier.host_words(self.words)
        except BaseException:
            span.given_up = True
            raise
        self._to_free.append(memory)
        return memory

    def _wait_for(self, turn: object, count: int) -> Span:
        """Under the lock. Whoever waits is patient from the moment when it is first in line."""
        while self._turns[0] is not turn:
            self._changed.wait(self._patience_s)
        deadline_s = time.monotonic() + self._patience_s
        while (span := self._space.place(count)) is None:
            if time.monotonic() > deadline_s:
                raise TransferStalled(self._stalled)
            self._changed.wait(_LOOK_S)
        return span

    @property
    def _stalled(self) -> str:
        return f"no copy to the device ended in {self._patience_s:g} s"


def _free(copier: Copier, memory: list[object]) -> None:
    """Nobody uses a ring's memory any more."""
    if memory and not copier.can_free_host_words():
        _NEVER_FREED.extend(memory)
    memory.clear()
