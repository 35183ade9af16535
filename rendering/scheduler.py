"""Which request is drawn next: latest wins within a client, fair turns between clients.

The whole policy, free of threads and clocks; ``rendering.engine`` asks it under a lock whenever a
group of devices is free, and ``rendering.simulator`` when it would be.

*Latest wins.* A client has at most one waiting request that is for the newest view; a newer one
takes its place. A running request is given up for a newer one of the same client only if it is
preemptible: quick frames of a moving camera are completed, so that motion is seen, while a slow
refinement never delays the answer to a new motion.

*Fair turns.* ``rendering.fairness``: the more urgent first, shares of time by measured cost.

*Deadlines.* Who would only get what nobody wants any more need not wait (``expire``); but nobody
is turned away twice without having been served, however long all others take.

A client has no more frames under way than there are groups of devices, and one waiting; of a
client that wants every frame, ``MOST_WAITING`` may.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from rendering.fairness import DeficitTurns, Turn, Urgency

# Of one client that wants every frame: enough to keep as many devices busy as there can be.
MOST_WAITING = 128


class Queued(Protocol):
    """What a queue needs to know of a request; ``rendering.frame.FrameRequest`` is one."""

    @property
    def client(self) -> str:
        """Who asks."""

    @property
    def sequence(self) -> int:
        """Grows with every request of a client."""

    @property
    def urgency(self) -> Urgency:
        """Decides whose turn it is."""

    @property
    def preemptible(self) -> bool:
        """Whether a newer request of the client may abandon this one while it runs."""

    @property
    def replaces(self) -> bool:
        """Whether older requests of the client are in vain now."""

    @property
    def deadline_s(self) -> float | None:
        """When it is in vain if it has not been started; None for never."""


R = TypeVar("R", bound=Queued)


@dataclass(frozen=True, slots=True)
class Admitted(Generic[R]):
    """What a new request changes.

    Attributes:
        dropped: The request that will not be drawn: the replaced one, or the new one itself
            if it came after a newer one of its client. None if nothing is.
        cancelled: Running ones to be abandoned; each is still to be finished.
    """

    dropped: R | None = None
    cancelled: tuple[R, ...] = ()


@dataclass(slots=True)
class _Client(Generic[R]):
    waiting: deque[R] = field(default_factory=deque)
    running: list[tuple[R, Turn]] = field(default_factory=list)


class FairQueue(Generic[R]):
    """Requests that wait and those that run. Not thread-safe; the engine locks.

    Args:
        turns: Whose turn it is.
    """

    def __init__(self, turns: DeficitTurns | None = None) -> None:
        self._turns = turns or DeficitTurns()
        self._clients: dict[str, _Client[R]] = {}
        self._turned_away: set[str] = set()  # clients, since they were last served

    def __len__(self) -> int:
        return sum(len(client.waiting) for client in self._clients.values())

    @property
    def running(self) -> tuple[R, ...]:
        """What was started and has not finished."""
        return tuple(request for entry in self._clients.values() for request, _ in entry.running)

    @property
    def requests(self) -> tuple[R, ...]:
        """All of them, those of a client in order."""
        return tuple(
            request
            for entry in self._clients.values()
            for request in (*(running for running, _ in entry.running), *entry.waiting)
        )

    def admit(self, request: R) -> Admitted[R]:
        """Let a request wait: in the place of a waiting one of its client, or, where every frame
        is wanted, as of an export, behind it."""
        entry = self._clients.setdefault(request.client, _Client())
        running = [other for other, _ in entry.running]
        if any(other.sequence >= request.sequence for other in (*entry.waiting, *running)):
            return Admitted(dropped=request)
        dropped = entry.waiting.pop() if request.replaces and entry.waiting else None
        entry.waiting.append(request)
        # The newer request keeps the place in line of the one it replaces.
        self._turns.enter(request.client, entry.waiting[0].urgency)
        if not request.replaces:
            return Admitted(dropped)
        return Admitted(dropped, tuple(other for other in running if other.preemptible))

    def waiting_of(self, client: str) -> int:
        """How many requests of a client wait."""
        entry = self._clients.get(client)
        return len(entry.waiting) if entry else 0

    @property
    def next_deadline_s(self) -> float:
        """Of those that wait; infinity if none has one."""
        return min((deadline_s for deadline_s, _ in self._deadlines()), default=math.inf)

    def expire(self, now_s: float) -> tuple[R, ...]:
        """Remove and return the waiting requests whose deadline is over."""
        overdue = tuple(r for deadline_s, r in self._deadlines() if deadline_s <= now_s)
        for request in overdue:
            self.withdraw(request)
            self._turned_away.add(request.client)
        return overdue

    def forget(self, client: str) -> tuple[R, ...]:
        """The client is gone: remove and return what it waited for."""
        self._turned_away.discard(client)
        return self._withdraw_all(client) if client in self._clients else ()

    def start_next(self) -> R | None:
        """The request to draw now, which runs until ``finish``; None if none waits."""
        turn = self._turns.take()
        if turn is None:
            return None
        entry = self._clients[turn.client]
        self._turned_away.discard(turn.client)
        request = entry.waiting.popleft()
        entry.running.append((request, turn))
        if entry.waiting:
            self._turns.enter(turn.client, entry.waiting[0].urgency)
        return request

    def finish(self, request: R, cost_s: float) -> None:
        """A running request ended, drawn or not, after ``cost_s`` device seconds of work."""
        entry = self._clients[request.client]
        (turn,) = (turn for other, turn in entry.running if other is request)
        entry.running = [pair for pair in entry.running if pair[0] is not request]
        self._turns.settle(turn, cost_s)
        self._forget_if_gone(request.client)

    def withdraw(self, request: R) -> bool:
        """Take a waiting request back; whether it still waited."""
        entry = self._clients.get(request.client)
        kept = deque(r for r in entry.waiting if r is not request) if entry else deque()
        if entry is None or len(kept) == len(entry.waiting):
            return False
        entry.waiting = kept
        if not kept:
            self._turns.leave(request.client)
        self._forget_if_gone(request.client)
        return True

    def drain(self) -> tuple[R, ...]:
        """Remove and return all that waits."""
        return tuple(
            request for client in list(self._clients) for request in self._withdraw_all(client)
        )

    def _withdraw_all(self, client: str) -> tuple[R, ...]:
        entry = self._clients[client]
        waiting = tuple(entry.waiting)
        entry.waiting.clear()
        self._turns.leave(client)
        self._forget_if_gone(client)
        return waiting

    def _deadlines(self) -> Iterator[tuple[float, R]]:
        for client, entry in self._clients.items():
            for request in entry.waiting:
                if request.deadline_s is not None and client not in self._turned_away:
                    yield request.deadline_s, request

    def _forget_if_gone(self, client: str) -> None:
        entry = self._clients[client]
        if not (entry.waiting or entry.running):
            del self._clients[client]
