"""Which request is drawn next: latest wins within a client, fair shares between clients.

The whole policy, free of threads and clocks. ``rendering.engine`` asks it under a lock.

*Latest wins.* A client has at most one waiting request; a newer one takes its place. A
running request is given up for a newer one of the same client only if it is preemptible:
quick frames of a moving camera are completed, so that motion is seen, while a slow
refinement never delays the answer to a new motion.

*Fair shares.* Start-time fair queueing (Goyal, Vin and Cheng, 1996) with equal weights:
each client carries a virtual time that grows by the engine time its frames took, and the
waiting client with the smallest one is served. A client that asks for heavy frames pays
for them with waiting; one that was idle starts at the present, so idleness is no credit.
"""

from __future__ import annotations

from dataclasses import dataclass

from rendering.frame import FrameRequest


@dataclass(frozen=True, slots=True)
class Admission:
    """What a new request changes.

    Attributes:
        dropped: The request that will not be drawn: the replaced one, or the new one
            itself if it arrived after a newer one of its client. None if nothing is.
        cancel_running: Whether the running frame is to be abandoned.
    """

    dropped: FrameRequest | None = None
    cancel_running: bool = False


@dataclass(slots=True)
class _Waiting:
    request: FrameRequest
    arrival: int


class FrameScheduler:
    """The requests that wait and the one that runs. Not thread-safe; the engine locks."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._virtual_s: dict[str, float] = {}
        self._now_s = 0.0
        self._arrivals = 0
        self.running: FrameRequest | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, request: FrameRequest) -> Admission:
        """Let ``request`` wait; say which request it drops and whether it interrupts."""
        client = request.client
        waiting = self._waiting.get(client)
        running = self.running if self._is_running(client) else None
        for other in (waiting.request if waiting else None, running):
            if other is not None and other.sequence >= request.sequence:
                return Admission(dropped=request)
        cancel_running = running is not None and running.preemptible
        if waiting is not None:
            # The newer request keeps the place in line of the one it replaces.
            replaced, waiting.request = waiting.request, request
            return Admission(dropped=replaced, cancel_running=cancel_running)
        self._arrivals += 1
        self._waiting[client] = _Waiting(request, self._arrivals)
        self._virtual_s[client] = max(self._virtual_s.get(client, 0.0), self._now_s)
        return Admission(cancel_running=cancel_running)

    def start_next(self) -> FrameRequest | None:
        """The request to draw now, which becomes ``running``; None if none waits."""
        if self.running is not None or not self._waiting:
            return None
        client = min(self._waiting, key=self._turn)
        self.running = self._waiting.pop(client).request
        self._now_s = self._virtual_s[client]
        return self.running

    def finish(self, cost_s: float) -> None:
        """The running frame ended, drawn or not, after ``cost_s`` seconds of work."""
        assert self.running is not None, "finish() without a running frame"
        self._virtual_s[self.running.client] += max(cost_s, 0.0)
        self.running = None
        self._forget_the_past()

    def drain(self) -> tuple[FrameRequest, ...]:
        """Remove and return all waiting requests."""
        requests = tuple(entry.request for entry in self._waiting.values())
        self._waiting.clear()
        return requests

    def _turn(self, client: str) -> tuple[float, int]:
        return self._virtual_s[client], self._waiting[client].arrival

    def _is_running(self, client: str) -> bool:
        return self.running is not None and self.running.client == client

    def _forget_the_past(self) -> None:
        """Drop clients without debt, and all debts once nobody waits: a busy period ended."""
        if not self._waiting:
            self._virtual_s.clear()
            return
        self._virtual_s = {
            client: virtual_s
            for client, virtual_s in self._virtual_s.items()
            if client in self._waiting or virtual_s > self._now_s
        }
