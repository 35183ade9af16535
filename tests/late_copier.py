"""A device for tests of transfers: copies are over when a test says so, in any order."""

from __future__ import annotations

import random
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.float32]


class LateMark:
    """Of a ``LateCopier``'s copies.

    Attributes:
        held: Frames that were told to wait for it.
    """

    def __init__(self, copies: list[tuple[Words, Words]]) -> None:
        self._copies = copies
        self._over = False
        self.held = 0

    def is_over(self) -> bool:
        return self._over

    def hold_frame(self) -> None:
        self.held += 1

    def finish(self) -> None:
        """The copies are made now, of what is in host memory now."""
        for source, target in self._copies:
            target[:] = source
        self._over = True


class LateCopier:
    """Memory of the "device" is an array of numpy's.

    Attributes:
        under_way: Marks of copies that are not over.
        host_taken: Words of each piece of host memory taken.
        room: Words of device memory left.
        lost: Whether the device is gone.
    """

    def __init__(self, room: int = 1 << 24) -> None:
        self._lock = threading.Lock()
        self._started = threading.local()
        self.under_way: list[LateMark] = []
        self.host_taken: list[int] = []
        self.room = room
        self.lost = False

    def host_words(self, count: int) -> tuple[Words, Any]:
        self.host_taken.append(count)
        words = np.full(count, np.nan, np.float32)
        return words, words

    def device_words(self, count: int) -> Any:
        if count > self.room:
            raise RuntimeError("CUDA error: out of memory")
        self.room -= count
        words = np.zeros(count, np.float32)
        weakref.finalize(words, self._given_back, count)
        return words

    def _given_back(self, count: int) -> None:
        self.room += count

    def can_free_host_words(self) -> bool:
        return not self.lost

    def copy(self, source: Words, target: Words) -> None:
        assert source.shape == target.shape
        self._mine().append((source, target))

    def mark(self) -> LateMark:
        mark = LateMark(list(self._mine()))
        self._mine().clear()
        with self._lock:
            self.under_way.append(mark)
        return mark

    def finish_one(self, dice: random.Random) -> bool:
        """One of the copies; whether there was any."""
        with self._lock:
            if not self.under_way:
                return False
            mark = self.under_way.pop(self.next_over(dice))
        mark.finish()
        return True

    def next_over(self, dice: random.Random) -> int:
        """Which of the copies under way."""
        return dice.randrange(len(self.under_way))

    def finish_all(self) -> None:
        """Whatever was started."""
        while self.finish_one(random.Random(0)):
            pass

    def _mine(self) -> list[tuple[Words, Words]]:
        if not hasattr(self._started, "copies"):
            self._started.copies = []
        copies: list[tuple[Words, Words]] = self._started.copies
        return copies


class StreamCopier(LateCopier):
    """Copies are over as late, but in the order in which they were started."""

    def next_over(self, dice: random.Random) -> int:
        return 0


class Device(threading.Thread):
    """Finishes copies, one now and then, until it is closed."""

    def __init__(self, copier: LateCopier, seed: int = 0) -> None:
        super().__init__(daemon=True)
        self._copier, self._dice = copier, random.Random(seed)
        self._closed = threading.Event()

    def run(self) -> None:
        while not self._closed.wait(self._dice.choice((0.0, 0.0, 0.001))):
            self._copier.finish_one(self._dice)

    def __enter__(self) -> Device:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.join(10)
        self._copier.finish_all()
