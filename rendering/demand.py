"""What clients would use of the engine if they got what they want, and what each gets. Pure.

A client whose camera moves wants pictures of full quality at its rate. What that takes is known
from the pictures that it gets: how long they took, and how much they were reduced. Where all wishes
together are more than there is, each client gets its share by weight, as the turns of
``rendering.fairness`` have it, and lowers the quality until its pictures fit that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rendering.fairness import WEIGHTS, Urgency

LINGER_S = 0.5  # a camera that moved as recently will go on
SMOOTHING = 0.3  # weight of the newest picture
PAUSE = 2.0  # times a picture at rest, before the next one, to leave others who move their share
TOLERANCE = 0.05  # of what is wanted, that may be lacking


class Wish(Protocol):
    """What is to be known of a request; ``rendering.frame.FrameRequest`` is one."""

    @property
    def client(self) -> str:
        """Who asks."""

    @property
    def urgency(self) -> Urgency:
        """Moving cameras and headsets want a rate, others all that they can get."""

    @property
    def replaces(self) -> bool:
        """Whether the client looks at one picture at a time."""

    @property
    def rate_hz(self) -> float:
        """Frames a second that it wants."""

    @property
    def reduced_to(self) -> float:
        """Of the time for the picture that it wants, the share that this one is to take."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a client would use.

    Attributes:
        weight: Of its turns.
        groups: Groups of devices that it would keep at work; infinity for all there are.
        most: That it can use at a time.
    """

    weight: float
    groups: float
    most: float = 1.0

    @property
    def usable(self) -> float:
        """Groups that it would use if they were there."""
        return min(self.groups, self.most)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is.

    Attributes:
        wanted: Groups of devices that those who move would keep at work in full quality.
        capacity: Those that there are.
        overloaded: Whether somebody who moves gets less than that: time to lower the quality.
    """

    wanted: float
    capacity: int
    overloaded: bool


def fair_shares(wants: Mapping[str, Want], capacity: float) -> dict[str, float]:
    """Groups of devices that each client gets: all it wants, or its share by weight of what is left
    by those who want less (max-min fairness: Bertsekas and Gallager 1992, 6.5.2)."""
    shares: dict[str, float] = {}
    left, weights = capacity, sum(want.weight for want in wants.values())
    for name in sorted(wants, key=lambda name: wants[name].usable / wants[name].weight):
        want = wants[name]
        shares[name] = min(want.usable, left * want.weight / weights)
        left -= shares[name]
        weights -= want.weight
    return shares


@dataclass(slots=True)
class _Measured:
    """A client in motion."""

    weight: float
    rate_hz: float
    last_s: float
    wanted_s: float | None = None  # one picture of full quality, once one is drawn

    @property
    def groups(self) -> float:
        return 0.0 if self.wanted_s is None else self.rate_hz * self.wanted_s


@dataclass(slots=True)
class Demand:
    """What clients want, from what they ask for and what that takes."""

    _moving: dict[str, _Measured] = field(default_factory=dict)
    _resting: dict[str, float] = field(default_factory=dict)  # until when they will ask again
    _regrouped_s: float = -math.inf

    def asked(self, request: Wish, now_s: float) -> None:
        """A request has come."""
        if request.urgency >= Urgency.STILL:
            self._moving.pop(request.client, None)  # it rests
            return
        self._resting.pop(request.client, None)
        weight = WEIGHTS[request.urgency]
        client = self._moving.get(request.client)
        if client is None:
            client = self._moving[request.client] = _Measured(weight, request.rate_hz, now_s)
        client.weight, client.rate_hz, client.last_s = weight, request.rate_hz, now_s

    def drew(self, request: Wish, seconds: float, now_s: float, *, is_final: bool = True) -> None:
        """A request was drawn by a group of devices in such a time.

        Args:
            is_final: Whether it will not be asked for again, as more of the scene came.
        """
        client = self._moving.get(request.client)
        if client is None and not is_final:
            self._resting[request.client] = now_s + LINGER_S + PAUSE * seconds
        if client is None or request.urgency >= Urgency.STILL:
            return
        if now_s - seconds < self._regrouped_s:
            return
        wanted_s = seconds / request.reduced_to
        before_s = wanted_s if client.wanted_s is None else client.wanted_s
        client.wanted_s = before_s + SMOOTHING * (wanted_s - before_s)
        client.last_s = now_s

    def regrouped(self, now_s: float) -> None:
        """Groups have other devices from now on: what pictures took until now, and those that are
        being drawn, says nothing of what they will take."""
        self._regrouped_s = now_s
        for client in self._moving.values():
            client.wanted_s = None

    def forget(self, client: str) -> None:
        """The client is gone."""
        self._moving.pop(client, None)
        self._resting.pop(client, None)

    def wants(self, present: Iterable[Wish], now_s: float) -> dict[str, Want]:
        """What each client wants.

        Args:
            present: What waits, or is drawn.
        """
        requests = {request.client: request for request in present}
        for name, client in list(self._moving.items()):
            if name not in requests and now_s - client.last_s > LINGER_S:
                del self._moving[name]
        wants = {name: Want(entry.weight, entry.groups) for name, entry in self._moving.items()}
        self._resting = {name: end_s for name, end_s in self._resting.items() if now_s < end_s}
        wants |= dict.fromkeys(self._resting, Want(WEIGHTS[Urgency.STILL], math.inf))
        for name, request in requests.items():
            # Whose camera moves again needs no picture at rest, though one may still be drawn.
            if request.urgency >= Urgency.STILL and name not in self._moving:
                most = 1.0 if request.replaces else math.inf
                wants[name] = Want(WEIGHTS[request.urgency], math.inf, most)
        return wants

    def share(self, client: str, present: Iterable[Wish], capacity: int, now_s: float) -> float:
        """Of the time of one group of devices, what a client gets at least, at most all of it."""
        wants = self.wants(present, now_s)
        moving = self._moving.get(client)
        weight = WEIGHTS[Urgency.STILL] if moving is None else moving.weight
        # What it would get if it wanted all there is: less is not for want of devices.
        wants[client] = Want(weight, math.inf)
        return min(1.0, fair_shares(wants, capacity)[client])

    def load(self, present: Iterable[Wish], capacity: int, now_s: float) -> Load:
        """How busy the engine is."""
        wants = self.wants(present, now_s)
        shares = fair_shares(wants, capacity)
        moving = {name: wants[name].groups for name in self._moving}
        lacks = any(shares[name] < (1 - TOLERANCE) * groups for name, groups in moving.items())
        return Load(math.fsum(moving.values()), capacity, lacks)
