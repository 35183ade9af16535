"""A cache that is bounded by bytes: the least recently used goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache holds, and how often it helped.

    Attributes:
        hits, misses: Questions that were answered, and those that were not.
        entries, held_bytes: What is there now.
        budget_bytes: The most there may be.
    """

    hits: int = 0
    misses: int = 0
    entries: int = 0
    held_bytes: int = 0
    budget_bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Of the questions, the share that was answered; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class ByteCache(Generic[Key, Value]):
    """Values by keys, never more bytes than the budget. Safe to use from several threads.

    Args:
        budget_bytes: For all values together; 0 keeps nothing.

    Raises:
        ValueError: If the budget is negative.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._held = self._hits = self._misses = 0
        self._budget = 0
        self.set_budget(budget_bytes)

    def get(self, key: Key) -> Value | None:
        """The value, which is the most recently used from now on; None if it is not there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Key, value: Value, size_bytes: int) -> bool:
        """Keep a value in the place of the one there was; whether there is room for it at all."""
        with self._lock:
            self._drop(key)
            if size_bytes > self._budget:
                return False
            self._make_room(size_bytes)
            self._entries[key] = (value, size_bytes)
            self._held += size_bytes
            return True

    def discard(self, key: Key) -> None:
        """Forget a value, if it is there."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget all values; what was counted stays."""
        with self._lock:
            self._entries.clear()
            self._held = 0

    def set_budget(self, budget_bytes: int) -> None:
        """Another budget, in force at once.

        Raises:
            ValueError: If it is negative.
        """
        if budget_bytes < 0:
            raise ValueError(f"a budget must not be negative, got {budget_bytes}")
        with self._lock:
            self._budget = budget_bytes
            self._make_room(0)

    def stats(self) -> CacheStats:
        """What is held, and how often it helped."""
        with self._lock:
            return CacheStats(
                self._hits, self._misses, len(self._entries), self._held, self._budget
            )

    def _make_room(self, size_bytes: int) -> None:
        while self._held + size_bytes > self._budget:
            _, (_, freed) = self._entries.popitem(last=False)
            self._held -= freed

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._held -= entry[1]
