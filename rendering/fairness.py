"""Whose turn it is where clients share devices: deficit round robin by measured cost.

Costs are known only after a frame, so turns are paid for afterwards (surplus round robin:
Adiseshu, Parulkar and Varghese 1996, after Shreedhar and Varghese's deficit round robin, 1995).
A client has a balance of device seconds. While it is positive the client may begin frames, and
each takes what it cost from it; the client is in debt then, and waits. When all who wait are in
debt, a new round gives everybody a quantum times the weight of their urgency. So

- among those that may begin, the more urgent comes first: VR, then moving, then still;
- nobody starves, for the urgent run out of balance, too;
- long-run shares are as the weights, whatever frames cost: a client of heavy frames pays with
  waiting. Between clients that never rest, service over weight differs by at most a quantum and
  one frame over its weight;
- idleness is no credit: who neither waits nor runs when a round begins gets nothing, but for
  what it owes.

What runs is reserved at the price of the client's last frame, so that a client that may use
several devices at once does not take all of them on one balance.

Pure: no threads, no clock. ``FairQueue`` has latest wins on top, and could stand where
``rendering.scheduler.FrameScheduler`` does once several frames run at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

QUANTUM_S = 0.01


class Urgency(IntEnum):
    """How much a request suffers from waiting, the most first."""

    VR = 0
    MOVING = 1
    STILL = 2


WEIGHTS: Mapping[Urgency, float] = {Urgency.VR: 4.0, Urgency.MOVING: 2.0, Urgency.STILL: 1.0}


@dataclass(frozen=True, slots=True)
class Turn:
    """One client may begin one frame.

    Attributes:
        reserved_s: Taken from its balance until the frame is settled.
    """

    client: str
    reserved_s: float


@dataclass(slots=True)
class _Account:
    urgency: Urgency
    balance_s: float
    last_cost_s: float = 0.0
    waiting: bool = False
    running: int = 0
    place: int = 0  # in line among equally urgent ones

    @property
    def present(self) -> bool:
        return self.waiting or self.running > 0


class DeficitTurns:
    """Balances of clients, and whose turn is next.

    Args:
        quantum_s: Device seconds a round for a client of weight 1.
        weights: By urgency.
    """

    def __init__(
        self, quantum_s: float = QUANTUM_S, weights: Mapping[Urgency, float] = WEIGHTS
    ) -> None:
        if quantum_s <= 0 or min(weights.values()) <= 0:
            raise ValueError("the quantum and all weights must be above 0")
        self._quantum_s = quantum_s
        self._weights = weights
        self._accounts: dict[str, _Account] = {}
        self._places = 0

    def __len__(self) -> int:
        return len(self._accounts)

    def balance_s(self, client: str) -> float:
        """What a client may use before it has to wait; 0 for one unknown."""
        account = self._accounts.get(client)
        return account.balance_s if account else 0.0

    def enter(self, client: str, urgency: Urgency) -> None:
        """A client waits for a turn, or goes on waiting with another urgency."""
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = _Account(urgency, self._income_s(urgency))
        account.urgency = urgency
        if not account.waiting:
            account.waiting = True
            self._places += 1
            account.place = self._places

    def leave(self, client: str) -> None:
        """A client waits no more. What it owes is not forgotten."""
        if client in self._accounts:
            self._accounts[client].waiting = False
            self._close_if_idle()

    def take(self) -> Turn | None:
        """The next turn, None if nobody waits. Has to be settled."""
        waiting = {name: entry for name, entry in self._accounts.items() if entry.waiting}
        if not waiting:
            return None
        if all(entry.balance_s <= 0 for entry in waiting.values()):
            self._begin_round()
        client = min(
            (name for name, entry in waiting.items() if entry.balance_s > 0),
            key=lambda name: (waiting[name].urgency, waiting[name].place),
        )
        account = waiting[client]
        account.waiting = False
        account.running += 1
        account.balance_s -= account.last_cost_s
        return Turn(client, account.last_cost_s)

    def settle(self, turn: Turn, cost_s: float) -> None:
        """The frame of a turn has ended, drawn or not, after ``cost_s`` device seconds."""
        account = self._accounts[turn.client]
        account.running -= 1
        account.last_cost_s = max(cost_s, 0.0)
        account.balance_s += turn.reserved_s - account.last_cost_s
        self._close_if_idle()

    def _income_s(self, urgency: Urgency) -> float:
        return self._quantum_s * self._weights[urgency]

    def _begin_round(self) -> None:
        """As many rounds at once as it takes until somebody who waits may begin."""
        rounds = min(
            math.floor(-entry.balance_s / self._income_s(entry.urgency)) + 1
            for entry in self._accounts.values()
            if entry.waiting
        )
        for client, entry in list(self._accounts.items()):
            income_s = self._income_s(entry.urgency)
            entry.balance_s = min(entry.balance_s + rounds * income_s, income_s)
            if not entry.present and entry.balance_s >= 0:
                del self._accounts[client]

    def _close_if_idle(self) -> None:
        """A busy period has ended: all debts are forgotten."""
        if not any(entry.present for entry in self._accounts.values()):
            self._accounts.clear()


class Queued(Protocol):
    """What a queue needs to know of a request; ``rendering.frame.FrameRequest`` is one."""

    @property
    def client(self) -> str:
        """Who asks."""

    @property
    def sequence(self) -> int:
        """Grows with every request of a client."""

    @property
    def preemptible(self) -> bool:
        """Whether a newer request of the client may abandon this one while it runs."""


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
    waiting: deque[tuple[R, Urgency]] = field(default_factory=deque)
    running: list[tuple[R, Turn]] = field(default_factory=list)


class FairQueue(Generic[R]):
    """Requests that wait and those that run: latest wins in a client, fair turns between clients.

    Not thread-safe.

    Args:
        turns: Whose turn it is.
    """

    def __init__(self, turns: DeficitTurns | None = None) -> None:
        self._turns = turns or DeficitTurns()
        self._clients: dict[str, _Client[R]] = {}

    def __len__(self) -> int:
        return sum(len(client.waiting) for client in self._clients.values())

    @property
    def running(self) -> tuple[R, ...]:
        """What was started and has not finished."""
        return tuple(request for entry in self._clients.values() for request, _ in entry.running)

    def admit(self, request: R, urgency: Urgency, *, replaces: bool = True) -> Admitted[R]:
        """Let a request wait.

        Args:
            replaces: Whether a waiting one of its client is in vain now. Not so where every
                frame is wanted, as of an export: those are drawn in the order they came in.
        """
        entry = self._clients.setdefault(request.client, _Client())
        others = [other for other, _ in (*entry.waiting, *entry.running)]
        if any(other.sequence >= request.sequence for other in others):
            return Admitted(dropped=request)
        dropped = entry.waiting.pop()[0] if replaces and entry.waiting else None
        entry.waiting.append((request, urgency))
        # The newer request keeps the place in line of the one it replaces.
        self._turns.enter(request.client, entry.waiting[0][1])
        if not replaces:
            return Admitted(dropped)
        return Admitted(dropped, tuple(other for other, _ in entry.running if other.preemptible))

    def start_next(self) -> R | None:
        """The request to draw now, which runs until ``finish``; None if none waits."""
        turn = self._turns.take()
        if turn is None:
            return None
        entry = self._clients[turn.client]
        request, _ = entry.waiting.popleft()
        entry.running.append((request, turn))
        if entry.waiting:
            self._turns.enter(turn.client, entry.waiting[0][1])
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
        kept = deque(pair for pair in entry.waiting if pair[0] is not request) if entry else deque()
        if entry is None or len(kept) == len(entry.waiting):
            return False
        entry.waiting = kept
        if not kept:
            self._turns.leave(request.client)
        self._forget_if_gone(request.client)
        return True

    def drain(self) -> tuple[R, ...]:
        """Remove and return all that waits."""
        requests = []
        for client, entry in list(self._clients.items()):
            requests += [request for request, _ in entry.waiting]
            entry.waiting.clear()
            self._turns.leave(client)
            self._forget_if_gone(client)
        return tuple(requests)

    def _forget_if_gone(self, client: str) -> None:
        entry = self._clients[client]
        if not (entry.waiting or entry.running):
            del self._clients[client]
