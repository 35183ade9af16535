"""Traces of requests for the simulator: who asks for what, and when. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rendering.fairness import Urgency

JITTER = 0.9  # of an interval


@dataclass(frozen=True, slots=True)
class Request:
    """One wish for a frame.

    Attributes:
        client: Who asks.
        sequence: Grows with every request of a client.
        arrival_ms: When.
        eyes: 1 or 2.
        urgency: Decides whose turn it is.
        deadline_ms: How old the answer may be; infinite for any age.
        work: Times the work of the workload that was measured: less for a picture of lower
            resolution, more for a larger one.
        replaces: Whether it takes the place of one of its client that still waits.
        preemptible: As of ``rendering.frame.FrameRequest``. The simulator never abandons frames.
    """

    client: str
    sequence: int
    arrival_ms: float
    eyes: int = 1
    urgency: Urgency = Urgency.MOVING
    deadline_ms: float = math.inf
    work: float = 1.0
    replaces: bool = True
    preemptible: bool = False

    @property
    def deadline_s(self) -> None:
        """Nobody is turned away here; late answers are counted (``deadline_ms``)."""
        return None

    def __post_init__(self) -> None:
        if self.eyes not in (1, 2):
            raise ValueError(f"a frame is of 1 or 2 eyes, got {self.eyes}")
        if not (math.isfinite(self.arrival_ms) and self.arrival_ms >= 0):
            raise ValueError(f"a request arrives at 0 or later, got {self.arrival_ms}")
        if not (math.isfinite(self.work) and self.work > 0):
            raise ValueError(f"work must be above 0, got {self.work}")


@dataclass(frozen=True, slots=True)
class Viewer:
    """A client as a source of requests.

    Attributes:
        fps: Requests a second; each is to be answered before the next but one.
        work: As of ``Request``.
    """

    client: str
    eyes: int = 1
    urgency: Urgency = Urgency.MOVING
    fps: float = 30.0
    work: float = 1.0

    def request(self, sequence: int, arrival_ms: float, *, replaces: bool = True) -> Request:
        """The one of this number."""
        deadline_ms = 2e3 / self.fps
        return Request(
            self.client,
            sequence,
            arrival_ms,
            self.eyes,
            self.urgency,
            deadline_ms,
            self.work,
            replaces,
        )


def steady(
    viewers: Sequence[Viewer], seconds: float, *, jitter: float = JITTER, seed: int = 0
) -> tuple[Request, ...]:
    """Each viewer asks at its rate, the newest wins; the same trace for the same arguments.

    Args:
        jitter: Each request comes up to so much of an interval late. Clients in step would meet
            the same others again and again, and a schedule would be judged by that.
        seed: Of the jitter.
    """
    chance = random.Random(seed)
    requests = []
    for viewer in viewers:
        interval_ms = 1e3 / viewer.fps
        for sequence in range(max(1, round(seconds * viewer.fps))):
            late = jitter * chance.random()
            requests.append(viewer.request(sequence, (sequence + late) * interval_ms))
    return in_order(requests)


def saturated(viewers: Sequence[Viewer], frames: int) -> tuple[Request, ...]:
    """Each viewer wants so many frames, all of them, as fast as they come, as an export does."""
    return in_order(
        viewer.request(sequence, 0.0, replaces=False)
        for viewer in viewers
        for sequence in range(frames)
    )


def in_order(requests: Iterable[Request]) -> tuple[Request, ...]:
    """By arrival, then client, then sequence."""
    return tuple(sorted(requests, key=lambda r: (r.arrival_ms, r.client, r.sequence)))
