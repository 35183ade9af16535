"""Which request is drawn next: latest wins within a client, fair turns between clients.

The whole policy, free of threads and clocks. ``rendering.engine`` asks it under a lock, whenever
a group of devices is free: any number of frames may run at a time.

*Latest wins.* A client has at most one waiting request that is for the newest view; a newer one
takes its place. A running request is given up for a newer one of the same client only if it is
preemptible: quick frames of a moving camera are completed, so that motion is seen, while a slow
refinement never delays the answer to a new motion.

*Fair turns.* ``rendering.fairness``, the rule that schedules are simulated with.
"""

from __future__ import annotations

from rendering.fairness import Admitted, FairQueue, Urgency
from rendering.frame import FrameRequest


def urgency_of(request: FrameRequest) -> Urgency:
    """What may be given up refines a camera at rest, and an export can wait; two eyes are a
    headset's."""
    if request.preemptible or not request.replaces:
        return Urgency.STILL
    return Urgency.VR if len(request.cameras) > 1 else Urgency.MOVING


class FrameScheduler:
    """The requests that wait and those that run. Not thread-safe; the engine locks."""

    def __init__(self) -> None:
        self._queue: FairQueue[FrameRequest] = FairQueue()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> tuple[FrameRequest, ...]:
        """Those that were started and have not finished."""
        return self._queue.running

    def admit(self, request: FrameRequest) -> Admitted[FrameRequest]:
        """Let ``request`` wait; say which request it drops and which running ones it ends."""
        return self._queue.admit(request, urgency_of(request), replaces=request.replaces)

    def start_next(self) -> FrameRequest | None:
        """The request to draw now, which runs until ``finish``; None if none waits."""
        return self._queue.start_next()

    def finish(self, request: FrameRequest, cost_s: float) -> None:
        """A running frame ended, drawn or not, after ``cost_s`` seconds of devices' work."""
        self._queue.finish(request, cost_s)

    def drain(self) -> tuple[FrameRequest, ...]:
        """Remove and return all waiting requests."""
        return self._queue.drain()
