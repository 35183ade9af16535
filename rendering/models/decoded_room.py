"""How much decoded anchors may take of the memories that they are kept in.

Every renderer of anchors keeps what it decoded for itself: of several devices, and of several parts
of a scene, each has its own. People give a budget for a memory, which all who keep something there
share. Who draws takes what it needs of it; where there is too little, those who have not drawn for
a while lose what they keep, and the others what they did not draw lately. So a copy of a scene that
is out of view, or a device that was lost and started anew, stands in nobody's way.
"""

from __future__ import annotations

import threading
from typing import Protocol
from weakref import WeakKeyDictionary

from render_cache.shared_bytes import UNLIMITED_BYTES, SharedBytes

RECENT_FRAMES = 32  # of a memory: who drew in none of them is idle


class Keeper(Protocol):
    """Who keeps decoded anchors: ``rendering.models.anchors.AnchorRasterizer``."""

    @property
    def held_bytes(self) -> int:
        """What it keeps."""

    def shed(self) -> None:
        """Let go of what its last frames did not draw."""

    def clear(self) -> None:
        """Let go of everything."""

    def trim(self) -> None:
        """Give back memory that is ready for the next frames."""


class MemoryRoom:
    """The budget of one memory, and who keeps something of it. Safe to use from several threads.

    Attributes:
        shared: The budget, for the keepers' caches.
    """

    def __init__(self, budget_bytes: int = UNLIMITED_BYTES) -> None:
        self.shared = SharedBytes(budget_bytes)
        self._last: WeakKeyDictionary[Keeper, int] = WeakKeyDictionary()  # frame that each drew
        self._frame, self._request = 0, object()
        self._lock = threading.Lock()

    def drew(self, keeper: Keeper, request: object) -> None:
        """Somebody begins a frame, or its part of one.

        Args:
            request: What is drawn; others draw for the same one.
        """
        with self._lock:
            if request is not self._request:
                self._request, self._frame = request, self._frame + 1
            self._last[keeper] = self._frame
            if not self.shared.was_short:
                return
            self.shared.was_short = False
            idle = self._frame - RECENT_FRAMES
            others = [(each, last) for each, last in self._last.items() if each is not keeper]
        for other, last in others:
            if last <= idle:
                other.clear()
            else:
                other.shed()

    def set_bytes(self, budget_bytes: int) -> None:
        """Another budget, in force at once.

        Raises:
            ValueError: If it is negative.
        """
        is_less = budget_bytes < self.shared.most_bytes
        self.shared.set_most(budget_bytes)
        with self._lock:
            keepers = sorted(self._last, key=lambda keeper: self._last[keeper])
        for keeper in keepers:
            if self.held_bytes > budget_bytes:
                keeper.shed()
        for keeper in keepers:
            if self.held_bytes > budget_bytes:
                keeper.clear()
        for keeper in keepers if is_less else ():
            keeper.trim()

    @property
    def held_bytes(self) -> int:
        """What all of them keep."""
        return self.shared.held_bytes


class DecodedRoom:
    """The room in every memory; without a limit before the first one is set. Safe to use from
    several threads."""

    def __init__(self) -> None:
        self._memories: dict[str, MemoryRoom] = {}
        self._bytes = UNLIMITED_BYTES
        self._lock = threading.Lock()

    def of(self, memory: str) -> MemoryRoom:
        """The room in a memory."""
        with self._lock:
            return self._memories.setdefault(memory, MemoryRoom(self._bytes))

    def set_bytes(self, budget_bytes: int) -> None:
        """Another budget of each memory, in force at once.

        Raises:
            ValueError: If it is negative.
        """
        if budget_bytes < 0:
            raise ValueError(f"a budget must not be negative, got {budget_bytes}")
        with self._lock:
            self._bytes = budget_bytes
            memories = list(self._memories.values())
        for memory in memories:
            memory.set_bytes(budget_bytes)

    @property
    def held_bytes(self) -> int:
        """What is kept in all memories."""
        with self._lock:
            return sum(memory.held_bytes for memory in self._memories.values())
