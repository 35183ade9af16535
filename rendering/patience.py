"""When a simulation is of no interest any more: too many requests were answered too late. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rendering.arrivals import Request
from rendering.simulation import is_judged


@dataclass(frozen=True, slots=True)
class Patience:
    """When a simulation is of no interest any more.

    Attributes:
        limit_ms: A request that is answered later is late.
        most_late: So many may be.
    """

    limit_ms: float
    most_late: int


class OutOfPatience(Exception):
    """More requests were late than might be."""


ENDLESS = Patience(math.inf, 0)


class Answers:
    """Counts late answers while a simulation runs.

    Args:
        requests: All that will be asked.
        patience: With late ones.
    """

    def __init__(self, requests: Sequence[Request], patience: Patience) -> None:
        self._patience = patience
        self._judged = {
            id(request) for request, yes in zip(requests, is_judged(requests), strict=True) if yes
        }
        self._open: dict[str, list[Request]] = {}
        self._late = 0

    def ask(self, request: Request) -> None:
        """A request has arrived."""
        self._open.setdefault(request.client, []).append(request)

    def answer(self, by: Request, now_ms: float) -> None:
        """The frame of a request answers what its client had asked for until then.

        Raises:
            OutOfPatience: If too many were late.
        """
        oldest_ms = now_ms - self._patience.limit_ms
        still_open = []
        for request in self._open[by.client]:
            if request.sequence > by.sequence:
                still_open.append(request)
            else:
                self._late += id(request) in self._judged and request.arrival_ms < oldest_ms
        self._open[by.client] = still_open
        if self._late > self._patience.most_late:
            raise OutOfPatience
