"""What became of requests that were played through a schedule: latencies, rates, where time went.

A request is answered when the first frame is there that was asked for by it or by a later one of
the same client; the time until then is its latency. A frame that comes after a newer one of
its client is not shown, unless every frame is wanted (``Request.replaces``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from rendering.arrivals import Request
from rendering.assignment import Assignment
from rendering.fairness import Urgency
from rendering.frame_tasks import Task
from rendering.schedule import Schedule
from rendering.stages import STAGES, Stage
from rendering.timeline import JOIN, Passage, Span, Timeline, busy_ms

QUEUE, WAIT = "queue", "wait"
PATH_ORDER = (
    QUEUE,
    WAIT,
    *(stage.value for stage in STAGES if stage is not Stage.ENCODE),
    JOIN,
    Stage.ENCODE.value,
)


@dataclass(frozen=True, slots=True)
class SimulatedFrame:
    """One frame that was drawn, and when its tasks ran.

    Attributes:
        request: What asked for it.
        begun_ms: When a group took it.
        ended_ms: When it was complete.
        shown: Whether it was of use: not after a newer one of its client.
        start_ms, end_ms, lane: Of its tasks: when, and where.
    """

    request: Request
    begun_ms: float
    ended_ms: float
    shown: bool
    tasks: tuple[Task, ...]
    start_ms: tuple[float, ...]
    end_ms: tuple[float, ...]
    lane: tuple[str, ...]

    def spans(self, number: int) -> Iterator[Span]:
        """The steps of its tasks; ``number`` is the frame's."""
        for i, task in enumerate(self.tasks):
            duration_ms, at_ms = self.end_ms[i] - self.start_ms[i], self.start_ms[i]
            for name, work_ms in task.steps:
                end_ms = at_ms + duration_ms * work_ms / task.work_ms
                yield Span(self.lane[i], name, at_ms, end_ms, number, self.request.client)
                at_ms = end_ms

    def path_ms(self) -> dict[str, float]:
        """What its time from arrival to end went to, along the chain of tasks that waited.

        By step of the tasks; ``QUEUE`` until it was begun, ``WAIT`` for servers or for the frame
        before.
        """
        path: dict[str, float] = {}

        def spend(what: str, ms: float) -> None:
            if ms > 0:
                path[what] = path.get(what, 0.0) + ms

        number: int | None = max(range(len(self.tasks)), key=lambda i: (self.end_ms[i], i))
        while number is not None:
            task = self.tasks[number]
            duration_ms = self.end_ms[number] - self.start_ms[number]
            for name, ms in task.steps:
                spend(name, duration_ms * ms / task.work_ms)
            before = max(task.after, key=lambda i: (self.end_ms[i], i), default=None)
            ready_ms = self.begun_ms if before is None else self.end_ms[before]
            spend(WAIT, self.start_ms[number] - ready_ms)
            number = before
        spend(QUEUE, self.begun_ms - self.request.arrival_ms)
        return path


@dataclass(frozen=True)
class Simulation:
    """What became of a trace of requests.

    Attributes:
        schedule: That was played through.
        assignment: Of devices to it.
        requests: In order of arrival.
        frames: In the order they were begun.
        latency_ms: Of each request.
    """

    schedule: Schedule
    assignment: Assignment
    requests: tuple[Request, ...]
    frames: tuple[SimulatedFrame, ...]
    latency_ms: tuple[float, ...]

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Who worked when."""
        return tuple(
            span for number, frame in enumerate(self.frames) for span in frame.spans(number)
        )

    @property
    def timeline(self) -> Timeline:
        """All of it, to be looked at."""
        passages = tuple(
            Passage(
                number,
                frame.request.client,
                frame.request.arrival_ms,
                frame.begun_ms,
                frame.ended_ms,
            )
            for number, frame in enumerate(self.frames)
        )
        return Timeline(self.devices, self.spans, passages)

    @cached_property
    def end_ms(self) -> float:
        """When the last frame was complete."""
        return max((frame.ended_ms for frame in self.frames), default=0.0)

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of those in use."""
        return tuple(device.name for device in self.assignment.devices)

    def latency(self, share: float) -> float:
        """The latency that this share of the requests that are judged keeps under, milliseconds."""
        judged = is_judged(self.requests)
        return percentile(
            [ms for ms, yes in zip(self.latency_ms, judged, strict=True) if yes], share
        )

    @property
    def frames_per_s(self) -> float:
        """Shown, of all clients."""
        start_ms = min((request.arrival_ms for request in self.requests), default=0.0)
        shown = sum(frame.shown for frame in self.frames)
        return 1e3 * shown / (self.end_ms - start_ms) if self.end_ms > start_ms else math.inf

    @property
    def late_share(self) -> float:
        """Of requests answered after their deadline."""
        pairs = zip(self.requests, self.latency_ms, strict=True)
        return sum(ms > request.deadline_ms for request, ms in pairs) / max(1, len(self.requests))

    @property
    def answered_share(self) -> float:
        """Frames shown over frames asked for, of the client that fares worst."""
        asked: dict[str, int] = {}
        shown: dict[str, int] = {}
        for request in self.requests:
            asked[request.client] = asked.get(request.client, 0) + 1
        for frame in self.frames:
            client = frame.request.client
            shown[client] = shown.get(client, 0) + frame.shown
        return min((shown.get(client, 0) / count for client, count in asked.items()), default=1.0)

    def utilisation(self) -> dict[str, float]:
        """Of each device, the share of the time until the end in which it worked."""
        busy = busy_ms(self.spans)
        return {name: busy.get(name, 0.0) / (self.end_ms or 1.0) for name in self.devices}

    @property
    def idle_share(self) -> float:
        """Of all devices in use together."""
        return max(0.0, 1.0 - fmean(self.utilisation().values()))  # rounding may make it less

    def mean_path_ms(self) -> dict[str, float]:
        """``SimulatedFrame.path_ms`` of all frames, the mean of each entry, in order of passing.

        Together they are the mean time from a request to its frame.
        """
        total: dict[str, float] = {}
        for frame in self.frames:
            for what, ms in frame.path_ms().items():
                total[what] = total.get(what, 0.0) + ms
        return {what: total[what] / len(self.frames) for what in PATH_ORDER if what in total}


def is_judged(requests: Sequence[Request]) -> list[bool]:
    """Whose latency a schedule is judged by: of moving views and headsets, or, without any, of all.

    A picture of a view at rest is waited for by nobody who moves; that it comes at all is seen
    to by fair turns (``rendering.fairness``), and seen in ``Simulation.answered_share``.
    """
    hurried = [request.urgency < Urgency.STILL for request in requests]
    return hurried if any(hurried) else [True] * len(requests)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; 0 for none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0


def which_shown(requests: Sequence[Request], ended_ms: Sequence[float]) -> list[bool]:
    """Of each frame, whether it came in time to be of use, from what asked for it and its end."""
    newest: dict[str, int] = {}
    shown = [False] * len(requests)
    for number in sorted(range(len(requests)), key=lambda i: (ended_ms[i], i)):
        client, sequence = requests[number].client, requests[number].sequence
        late = sequence < newest.get(client, -1)
        shown[number] = not (late and requests[number].replaces)
        newest[client] = max(newest.get(client, -1), sequence)
    return shown


def latencies(requests: Sequence[Request], frames: Sequence[SimulatedFrame]) -> tuple[float, ...]:
    """Of each request, to the first frame that answers it or a later one of its client."""
    ends = {(frame.request.client, frame.request.sequence): frame.ended_ms for frame in frames}
    earliest: dict[str, float] = {}
    latency: dict[tuple[str, int], float] = {}
    for request in sorted(requests, key=lambda r: r.sequence, reverse=True):
        key = request.client, request.sequence
        end_ms = min(earliest.get(request.client, math.inf), ends.get(key, math.inf))
        earliest[request.client] = end_ms
        latency[key] = end_ms - request.arrival_ms
    return tuple(latency[request.client, request.sequence] for request in requests)
