"""How much decoded anchors may take of the memories that they are kept in.

Every renderer of anchors keeps what it decoded for itself: of several devices, and of several parts
of a scene, each has its own. People give a budget for a memory, which all who keep something there
share equally.
"""

from __future__ import annotations

import threading
from typing import Protocol
from weakref import WeakSet

UNLIMITED_BYTES = 1 << 62


class Keeper(Protocol):
    """Who keeps decoded anchors: ``rendering.models.anchor_frames.AnchorFrames``."""

    @property
    def held_bytes(self) -> int:
        """What it keeps."""

    def set_room(self, most_bytes: int) -> None:
        """It may keep no more than that, at once."""


class DecodedRoom:
    """The budget of each memory, and who keeps something of it. There is no limit before the first
    one is set. Safe to use from several threads."""

    def __init__(self) -> None:
        self._keepers: WeakSet[Keeper] = WeakSet()
        self._bytes, self._sharers = UNLIMITED_BYTES, 1
        self._lock = threading.Lock()

    def add(self, keeper: Keeper) -> None:
        """Somebody who keeps decoded anchors, for as long as it is there."""
        with self._lock:
            self._keepers.add(keeper)
            keeper.set_room(self._bytes // self._sharers)

    def set_sharers(self, sharers: int) -> None:
        """How many keep something in one memory, at most.

        Raises:
            ValueError: If there are none.
        """
        if sharers < 1:
            raise ValueError(f"somebody must share the room, got {sharers}")
        with self._lock:
            self._sharers = sharers
            self._tell()

    def set_bytes(self, budget_bytes: int) -> None:
        """Another budget of each memory, in force at once.

        Raises:
            ValueError: If it is negative.
        """
        if budget_bytes < 0:
            raise ValueError(f"a budget must not be negative, got {budget_bytes}")
        with self._lock:
            self._bytes = budget_bytes
            self._tell()

    @property
    def held_bytes(self) -> int:
        """What all of them keep, in all memories."""
        with self._lock:
            return sum(keeper.held_bytes for keeper in self._keepers)

    def _tell(self) -> None:
        for keeper in self._keepers:
            keeper.set_room(self._bytes // self._sharers)
