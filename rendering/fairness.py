"""Whose turn it is where clients share devices: deficit round robin by measured cost.

Costs are known only after a frame, so turns are paid for afterwards (surplus round robin:
Adiseshu, Parulkar and Varghese 1996, after Shreedhar and Varghese's deficit round robin, 1995).
A client has a balance of device seconds. While it is positive the client may begin frames, and
each takes what it cost from it; the client is in debt then, and waits. When all who wait are in
debt, a new round gives everybody a quantum times the weight of their urgency. So

- among those that may begin, the more urgent comes first (``Urgency``);
- nobody starves, for the urgent run out of balance, too;
- long-run shares are as the weights, whatever frames cost: a client of heavy frames pays with
  waiting. Between clients that never rest, service over weight differs by at most a quantum and
  one frame over its weight;
- idleness is no credit: who neither waits nor runs when a round begins gets nothing, but for
  what it owes;
- who comes amid a round need not wait for the next one, but so may only the first few: an
  endless train of newcomers keeps nobody waiting.

What runs is reserved at the price of the client's last frame, so that a client that may use
several devices at once does not take all of them on one balance.

Pure: no threads, no clock. ``rendering.scheduler`` has latest wins on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

QUANTUM_S = 0.01
NEWCOMERS = 16  # of a round, that may begin in it


class Urgency(IntEnum):
    """How much whoever looks suffers from waiting, the most first.

    VR: a headset, whose wearer gets sick.
    MOVING: a camera in motion.
    STILL: a camera at rest, whose picture gets better.
    EXPORT: nobody looks.
    """

    VR = 0
    MOVING = 1
    STILL = 2
    EXPORT = 3


WEIGHTS: Mapping[Urgency, float] = {
    Urgency.VR: 4.0,
    Urgency.MOVING: 2.0,
    Urgency.STILL: 1.0,
    Urgency.EXPORT: 0.5,
}


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
        self._newcomers = 0  # since the first turn of this round
        self._begun = False  # whether there was one

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
            self._newcomers += self._begun
            balance_s = self._income_s(urgency) if self._newcomers <= NEWCOMERS else 0.0
            account = self._accounts[client] = _Account(urgency, balance_s)
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
        while all(entry.balance_s <= 0 for entry in waiting.values()):
            self._begin_round()  # twice at most, where the sum of a debt and incomes rounds to 0
        client = min(
            (name for name, entry in waiting.items() if entry.balance_s > 0),
            key=lambda name: (waiting[name].urgency, waiting[name].place),
        )
        self._begun = True
        account = waiting[client]
        account.waiting = False
        account.running += 1
        account.balance_s -= account.last_cost_s
        return Turn(client, account.last_cost_s)

    def settle(self, turn: Turn, cost_s: float) -> None:
        """The frame of a turn has ended, drawn or not, after ``cost_s`` device seconds."""
        account = self._accounts[turn.client]
        cost_s = max(cost_s, 0.0)
        account.running -= 1
        account.balance_s += turn.reserved_s - cost_s
        if cost_s:  # what was taken back before it was begun says nothing of the next one
            account.last_cost_s = cost_s
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
        self._newcomers, self._begun = 0, False
        for client, entry in list(self._accounts.items()):
            income_s = self._income_s(entry.urgency)
            owed = entry.balance_s < 0
            entry.balance_s = min(entry.balance_s + rounds * income_s, income_s)
            # Who has just paid a debt is no newcomer, with a balance like theirs, a moment later.
            if not (entry.present or owed):
                del self._accounts[client]

    def _close_if_idle(self) -> None:
        """A busy period has ended: all debts are forgotten."""
        if not any(entry.present for entry in self._accounts.values()):
            self._accounts.clear()
            self._newcomers, self._begun = 0, False
