"""A schedule played through: discrete events on the costs of a workload. Pure, deterministic.

Clients' requests wait in ``rendering.scheduler.FairQueue``, the same rule that real devices go by.
A group of devices takes the next request when the frame before it is far enough: has left the
stages that do not overlap, or, where stages run ahead, has its own predecessor out of them. No more
than ``BEHIND_LIMIT`` frames are in their overlapping rest then, so that nothing piles up. Among
tasks that could start on a server, those of the frame begun first come first.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from rendering.arrivals import Request, in_order
from rendering.assignment import assign
from rendering.cost_model import Costs
from rendering.frame_tasks import Machine, Server, Task, frame_tasks, servers_of
from rendering.patience import ENDLESS, Answers, Patience
from rendering.schedule import Schedule, Shares
from rendering.scheduler import FairQueue
from rendering.simulation import SimulatedFrame, Simulation, latencies, which_shown

BEHIND_LIMIT = 1


def simulate(
    schedule: Schedule,
    machine: Machine,
    costs: Costs,
    requests: Iterable[Request],
    patience: Patience = ENDLESS,
) -> Simulation:
    """Play requests through a schedule until all are answered.

    Raises:
        OutOfPatience: As soon as too many requests were late.
        SettingsError: If the schedule names a device that the machine lacks.
    """
    return _Simulator(schedule, machine, costs, in_order(requests), patience).run()


@dataclass(frozen=True, slots=True)
class _Template:
    """The tasks of a kind of frame, and for each those that wait for it."""

    tasks: tuple[Task, ...]
    followers: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tasks: tuple[Task, ...]) -> _Template:
        followers = [
            tuple(i for i, task in enumerate(tasks) if number in task.after)
            for number in range(len(tasks))
        ]
        return cls(tasks, tuple(followers))


@dataclass(slots=True, eq=False)
class _Group:
    """What a group of devices is at: frames in the order they were begun."""

    number: int
    weight: float
    frames: list[_Frame] = field(default_factory=list)

    def accepts(self, *, runs_ahead: bool) -> bool:
        """Whether it can take another frame."""
        inside = sum(1 for frame in self.frames if frame.in_turn_left)
        behind = len(self.frames) - inside
        return inside <= (1 if runs_ahead else 0) and behind <= BEHIND_LIMIT


@dataclass(slots=True, eq=False)
class _Frame:
    """A frame under way.

    Attributes:
        missing: Of each task, predecessors that have not ended.
        in_turn_left, left: Tasks that have not ended: those in turn, and all.
        may_pass: Whether the frames before it in its group have passed the stages in turn.
        start_ms, end_ms, lane: Of each task.
        cost_ms: Time of servers.
    """

    number: int
    request: Request
    group: _Group
    template: _Template
    begun_ms: float
    may_pass: bool
    missing: list[int]
    in_turn_left: int
    left: int
    start_ms: list[float]
    end_ms: list[float]
    lane: list[str]
    cost_ms: float = 0.0


@dataclass(slots=True)
class _Pool:
    """Servers that are free, the fastest first, and a heap of tasks that are ready for them."""

    free: list[tuple[int, Server]]
    ready: list[tuple[int, int, _Frame]] = field(default_factory=list)


class _Simulator:
    def __init__(
        self,
        schedule: Schedule,
        machine: Machine,
        costs: Costs,
        requests: tuple[Request, ...],
        patience: Patience,
    ) -> None:
        self._schedule, self._machine, self._costs = schedule, machine, costs
        self._requests = requests
        self._answers = Answers(requests, patience)
        self._assignment = assign(schedule, machine.devices)
        pools = servers_of(self._assignment, machine)
        self._pools = {name: _Pool(list(enumerate(servers))) for name, servers in pools.items()}
        self._groups = [
            _Group(number, group.weight) for number, group in enumerate(self._assignment.groups)
        ]
        self._queue: FairQueue[Request] = FairQueue()
        self._waiting = 0
        self._templates: dict[tuple[int, int, float], _Template] = {}
        self._ending: list[tuple[float, int, _Frame, int, tuple[int, Server]]] = []
        self._started = 0
        self._turn = 0
        self._now = 0.0
        self._frames: list[_Frame] = []

    def run(self) -> Simulation:
        """Until nothing is left to do."""
        ending, requests, arriving = self._ending, self._requests, 0
        while arriving < len(requests) or ending:
            self._now = min(
                ending[0][0] if ending else math.inf,
                requests[arriving].arrival_ms if arriving < len(requests) else math.inf,
            )
            while ending and ending[0][0] <= self._now:
                self._end_task(*heappop(ending)[2:])
            while arriving < len(requests) and requests[arriving].arrival_ms <= self._now:
                self._admit(requests[arriving])
                arriving += 1
            self._begin_frames()
            for pool in self._pools.values():
                while pool.ready and pool.free:
                    self._start_task(pool)
        return self._result()

    def _admit(self, request: Request) -> None:
        admitted = self._queue.admit(request)
        self._waiting += admitted.dropped is None
        self._answers.ask(request)

    def _begin_frames(self) -> None:
        while self._waiting and (group := self._next_group()) is not None:
            request = self._queue.start_next()
            assert request is not None
            self._waiting -= 1
            self._turn = group.number + 1
            self._begin(request, group)

    def _next_group(self) -> _Group | None:
        """Whose turn it is, or the fastest of those that can take a frame and have the fewest."""
        ahead = self._schedule.runs_ahead
        if self._schedule.shares is Shares.EQUAL:
            group = self._groups[self._turn % len(self._groups)]
            return group if group.accepts(runs_ahead=ahead) else None
        return min(
            (group for group in self._groups if group.accepts(runs_ahead=ahead)),
            key=lambda group: (len(group.frames), -group.weight, group.number),
            default=None,
        )

    def _begin(self, request: Request, group: _Group) -> None:
        template = self._template(group.number, request)
        tasks = template.tasks
        frame = _Frame(
            len(self._frames),
            request,
            group,
            template,
            self._now,
            may_pass=not any(before.in_turn_left for before in group.frames),
            missing=[len(task.after) for task in tasks],
            in_turn_left=sum(task.in_turn for task in tasks),
            left=len(tasks),
            start_ms=[math.nan] * len(tasks),
            end_ms=[math.nan] * len(tasks),
            lane=[""] * len(tasks),
        )
        self._frames.append(frame)
        group.frames.append(frame)
        for number, missing in enumerate(frame.missing):
            if not missing:
                self._offer(frame, number)

    def _template(self, group: int, request: Request) -> _Template:
        key = group, request.eyes, request.work
        if key not in self._templates:
            tasks = frame_tasks(
                self._schedule,
                self._assignment,
                self._assignment.groups[group],
                self._machine,
                self._costs,
                request.eyes,
                request.work,
            )
            self._templates[key] = _Template.of(tasks)
        return self._templates[key]

    def _offer(self, frame: _Frame, number: int) -> None:
        """A task whose predecessors have ended is ready, if it need not wait for its turn."""
        task = frame.template.tasks[number]
        if frame.may_pass or not task.in_turn:
            heappush(self._pools[task.pool].ready, (frame.number, number, frame))

    def _start_task(self, pool: _Pool) -> None:
        _, number, frame = heappop(pool.ready)
        rank, server = pool.free.pop(0)
        duration_ms = frame.template.tasks[number].work_ms / server.speed
        frame.start_ms[number] = self._now
        frame.lane[number] = server.lane
        frame.cost_ms += duration_ms
        self._started += 1
        entry = (self._now + duration_ms, self._started, frame, number, (rank, server))
        heappush(self._ending, entry)

    def _end_task(self, frame: _Frame, number: int, server: tuple[int, Server]) -> None:
        task = frame.template.tasks[number]
        insort(self._pools[task.pool].free, server, key=lambda ranked: ranked[0])
        frame.end_ms[number] = self._now
        frame.left -= 1
        for follower in frame.template.followers[number]:
            frame.missing[follower] -= 1
            if not frame.missing[follower]:
                self._offer(frame, follower)
        if task.in_turn:
            frame.in_turn_left -= 1
            if not frame.in_turn_left:
                self._let_pass(frame.group)
        if not frame.left:
            frame.group.frames.remove(frame)
            self._queue.finish(frame.request, 1e-3 * frame.cost_ms)
            self._answers.answer(frame.request, self._now)

    def _let_pass(self, group: _Group) -> None:
        """The frame whose predecessors are all past the stages in turn may enter them."""
        frame = next((frame for frame in group.frames if frame.in_turn_left), None)
        if frame is None or frame.may_pass:
            return
        frame.may_pass = True
        for number, task in enumerate(frame.template.tasks):
            if task.in_turn and not frame.missing[number]:
                self._offer(frame, number)

    def _result(self) -> Simulation:
        ended = [max(frame.end_ms) for frame in self._frames]
        shown = which_shown([frame.request for frame in self._frames], ended)
        frames = tuple(
            SimulatedFrame(
                frame.request,
                frame.begun_ms,
                ended[frame.number],
                shown[frame.number],
                frame.template.tasks,
                tuple(frame.start_ms),
                tuple(frame.end_ms),
                tuple(frame.lane),
            )
            for frame in self._frames
        )
        return Simulation(
            self._schedule,
            self._assignment,
            self._requests,
            frames,
            latencies(self._requests, frames),
        )
