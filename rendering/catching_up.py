"""Which memories have what pictures are drawn from, and which would make them coarser. Pure.

A device that starts anew, or is taken into use, has an empty memory. If it drew at once, every
picture would be as coarse as what it has. So it loads what the others draw, and draws when it has
that, or has had its time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from enum import Enum

from rendering.division import Division

CATCH_UP_S = 4.0  # after that a device draws with what it has: views may change too fast for it


class Lacks(Enum):
    """What a memory lacks of what was drawn: a device may draw without details, not without the
    coarsest chunks, for then there would be holes."""

    NOTHING = 0
    DETAIL = 1
    ROOTS = 2


class CatchingUp:
    """The memories of a scene, as its clients' pictures are drawn.

    Args:
        memories: All of them.

    Attributes:
        behind: Those whose devices should not draw for now, if others can.
    """

    def __init__(self, memories: Iterable[str]) -> None:
        self._memories = frozenset(memories)
        self._level: dict[Hashable, frozenset[str]] = {}  # by client, memories that are not behind
        self._lacks_roots: frozenset[str] = frozenset()
        self._since: dict[str, float] = {}
        self.behind: frozenset[str] = frozenset()

    def is_level(self, client: Hashable, memory: str) -> bool:
        """Whether a memory has what a client's last picture was drawn from."""
        return memory in self._level.get(client, self._memories)

    def agreeing(self, client: Hashable, division: Division) -> frozenset[str]:
        """Memories that do not draw a frame, but must have what it is drawn from: their devices
        draw the next one, which should not look different.

        None where memories hold slabs: they never have all of it.
        """
        if division.in_slabs:
            return frozenset()
        return frozenset(m for m in division.beside if self.is_level(client, m))

    def drew(
        self, client: Hashable, division: Division, lacks: Mapping[str, Lacks], now: float
    ) -> None:
        """A frame was chosen.

        Args:
            lacks: What each memory beside those that draw lacks of it.
            now: Seconds.
        """
        level = {
            memory
            for memory in division.beside
            if self.is_level(client, memory) or lacks.get(memory) is Lacks.NOTHING
        }
        self._level[client] = frozenset(division.draws) | level
        self._lacks_roots = frozenset(m for m, what in lacks.items() if what is Lacks.ROOTS)
        self._judge(now, division.beside)

    def lost(self, memory: str) -> None:
        """A memory is empty again."""
        self._level = {client: level - {memory} for client, level in self._level.items()}
        self._since.pop(memory, None)
        if self._level:
            self.behind |= {memory}

    def forget(self, client: Hashable, now: float) -> None:
        """The client is gone, or has its picture."""
        self._level.pop(client, None)
        self._judge(now, self._since.copy())

    def _judge(self, now: float, loading: Iterable[str]) -> None:
        """Whoever is behind, but for those who have loaded for long."""
        behind = self._memories - self._memories.intersection(*self._level.values())
        self._since = {
            memory: self._since.get(memory, now) for memory in behind.intersection(loading)
        }
        late = {m for m, since in self._since.items() if now - since > CATCH_UP_S}
        self.behind = behind - (late - self._lacks_roots)
