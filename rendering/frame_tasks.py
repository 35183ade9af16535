"""A frame as tasks: what has to be done, by whom, and after what. Pure.

The tasks of a frame form a small graph: select, fetch, decode; then every part on its device,
projected, sorted and composited in one go; then the joining of the parts, and encoding. Tasks run
in *pools* of servers, each of which does one task at a time: a device alone, the helpers together,
spare cores of the host, the link between devices, the disk or network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rendering.assignment import Assignment, Group, Part, RatedDevice, parts_of
from rendering.cost_model import Costs
from rendering.schedule import Schedule, SplitBy
from rendering.stages import DRAWING, FRONT, STAGES, Stage
from rendering.timeline import JOIN

HELPERS, HOST, LINK, INPUT = "helpers", "host", "link", "input"


@dataclass(frozen=True, slots=True)
class Machine:
    """What schedules are for.

    Attributes:
        devices: At least one, names apart.
        host_lanes: Cores that no device uses, of weight 1: they choose, decode and encode. 0 where
            the devices are the machine's cores.
    """

    devices: tuple[RatedDevice, ...]
    host_lanes: int = 0

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a machine has devices of different names, got {names}")
        if {HELPERS, HOST, LINK, INPUT} & set(names):
            raise ValueError(f"{HELPERS}, {HOST}, {LINK} and {INPUT} are no names of devices")
        if self.host_lanes < 0:
            raise ValueError(f"host_lanes must be 0 or more, got {self.host_lanes}")


@dataclass(frozen=True, slots=True)
class Server:
    """One that does one task at a time.

    Attributes:
        lane: Its name in timelines.
        speed: Milliseconds of work that it does in one.
    """

    lane: str
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of a frame.

    Attributes:
        steps: One after the other without a pause: names of stages, or ``JOIN``, with the
            milliseconds of each on a server of speed 1.
        pool: Whose servers may do it.
        work_ms: Of all steps.
        after: Tasks of the same frame that must have ended, by index.
        in_turn: Whether it also waits until the frame before it in its group has ended all such
            tasks; not so what overlaps.
    """

    steps: tuple[tuple[str, float], ...]
    pool: str
    work_ms: float
    after: tuple[int, ...]
    in_turn: bool


def servers_of(assignment: Assignment, machine: Machine) -> dict[str, tuple[Server, ...]]:
    """The pools of a schedule in use, the faster servers first."""
    pools: dict[str, tuple[Server, ...]] = {
        device.name: (Server(device.name, device.weight),)
        for group in assignment.groups
        for device in group.devices
    }
    pools[HELPERS] = tuple(Server(device.name, device.weight) for device in assignment.helpers)
    pools[HOST] = tuple(Server(f"{HOST}:{i}") for i in range(machine.host_lanes))
    pools[LINK] = (Server(LINK),)
    pools[INPUT] = (Server(INPUT),)
    return pools


def frame_tasks(
    schedule: Schedule,
    assignment: Assignment,
    group: Group,
    machine: Machine,
    costs: Costs,
    eyes: int,
    work: float = 1.0,
) -> tuple[Task, ...]:
    """The tasks of a frame in a topological order; those that take no time are left out.

    Args:
        group: Of the assignment, which draws the frame.
        eyes: Of the request.
        work: Times the workload that was measured.
    """
    graph = _Graph(schedule, assignment, group, machine, work)
    before: tuple[int, ...] = ()
    for stage in FRONT:
        before = graph.support(stage, costs.whole_ms(stage, eyes, shared=True), before)
    split = _innermost(schedule)
    repeated = costs.repeated(split) if split else 0.0
    parts = parts_of(schedule, group, eyes, costs.tile_rows, repeated)
    drawn = [graph.draw(part, costs, before) for part in parts]
    joined = graph.join(parts, drawn, costs, is_layered=split is SplitBy.SHARD)
    graph.support(Stage.ENCODE, costs.whole_ms(Stage.ENCODE, eyes, shared=False), joined)
    return tuple(graph.tasks)


def longest_path_ms(
    tasks: Sequence[Task], pools: Mapping[str, Sequence[Server]], *, in_turn: bool = False
) -> float:
    """What the tasks take if none ever waits for a server, the fastest of each pool at work.

    Args:
        in_turn: Count only the tasks that wait for the frame before.
    """
    ends: list[float] = []
    for task in tasks:
        counts = task.in_turn or not in_turn
        duration = task.work_ms / pools[task.pool][0].speed if counts else 0.0
        ends.append(max((ends[i] for i in task.after), default=0.0) + duration)
    return max(ends, default=0.0)


def _innermost(schedule: Schedule) -> SplitBy | None:
    return schedule.split[-1].by if schedule.split else None


class _Graph:
    """Tasks in the making."""

    def __init__(
        self,
        schedule: Schedule,
        assignment: Assignment,
        group: Group,
        machine: Machine,
        work: float,
    ) -> None:
        self.tasks: list[Task] = []
        self._schedule, self._assignment, self._group = schedule, assignment, group
        self._machine, self._work = machine, work

    def support(self, stage: Stage, ms: float, after: tuple[int, ...]) -> tuple[int, ...]:
        """A stage of the whole frame, on whoever is there for such."""
        overlaps = stage in self._schedule.overlap
        if stage is Stage.FETCH:
            pool = INPUT
        elif overlaps and self._assignment.helpers:
            pool = HELPERS
        elif self._machine.host_lanes:
            pool = HOST
        else:
            pool = self._group.lead.name
        return self._add([(stage.value, ms)], pool, after, in_turn=not overlaps)

    def draw(self, part: Part, costs: Costs, after: tuple[int, ...]) -> tuple[int, ...]:
        """The drawing stages of a part; the tasks to wait for."""
        for overlaps, stages in groupby(DRAWING, lambda stage: stage in self._schedule.overlap):
            steps = []
            for stage in stages:
                shared = stage in self._schedule.shared
                ms = costs.drawing_ms(stage, part, shared=shared) * part.device.weight
                steps.append((stage.value, ms))
            after = self._add(steps, part.device.name, after, in_turn=not overlaps)
        return after

    def join(
        self,
        parts: Sequence[Part],
        drawn: Sequence[tuple[int, ...]],
        costs: Costs,
        *,
        is_layered: bool,
    ) -> tuple[int, ...]:
        """Parts brought to the lead, and layers composited there."""
        overlaps = self._schedule.overlap == STAGES
        arrived: list[int] = []
        for part, after in zip(parts, drawn, strict=True):
            ms = 0.0
            if part.device != self._group.lead:
                ms = costs.transfer_ms(part, is_layer=is_layered)
            arrived += self._add([(JOIN, ms)], LINK, after, in_turn=not overlaps)
        layers = sum(len(part.eyes) for part in parts if part.chunk_share < 1.0)
        eyes = len({eye for part in parts if part.chunk_share < 1.0 for eye in part.eyes})
        blend_ms = (layers - eyes) * costs.join.blend_ms
        lead = self._group.lead.name
        return self._add([(JOIN, blend_ms)], lead, tuple(arrived), in_turn=not overlaps)

    def _add(
        self,
        steps: Sequence[tuple[str, float]],
        pool: str,
        after: tuple[int, ...],
        *,
        in_turn: bool,
    ) -> tuple[int, ...]:
        """The task to wait for; what it waits for itself where it takes no time."""
        scaled = tuple((name, ms * self._work) for name, ms in steps if ms > 0)
        if not scaled:
            return after
        work_ms = sum(ms for _, ms in scaled)
        self.tasks.append(Task(scaled, pool, work_ms, after, in_turn))
        return (len(self.tasks) - 1,)
