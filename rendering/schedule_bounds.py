"""What no simulation of a schedule can beat, cheaply: the search skips what cannot win. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rendering.arrivals import Request
from rendering.assignment import Assignment, assign
from rendering.cost_model import Costs
from rendering.frame_tasks import (
    HELPERS,
    HOST,
    INPUT,
    LINK,
    Machine,
    Server,
    Task,
    frame_tasks,
    longest_path_ms,
    servers_of,
)
from rendering.schedule import Schedule
from rendering.simulation import is_judged, percentile

Kind = tuple[int, float]  # eyes and work: requests of one kind cost the same


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lower bounds.

    Attributes:
        p50_ms, p95_ms: Of the latency.
        frame_ms: Of the time for each frame, if every request is drawn.
        devices: In use; this is no bound but so.
    """

    p50_ms: float
    p95_ms: float
    frame_ms: float
    devices: int


def bounds(
    schedule: Schedule, machine: Machine, costs: Costs, requests: Sequence[Request]
) -> Bounds:
    """The bounds of a schedule on a trace of requests."""
    assignment = assign(schedule, machine.devices)
    pools = servers_of(assignment, machine)
    kinds = Counter((request.eyes, request.work) for request in requests)
    tasks = {
        kind: [
            frame_tasks(schedule, assignment, group, machine, costs, *kind)
            for group in assignment.groups
        ]
        for kind in kinds
    }
    alone = {
        kind: min(longest_path_ms(of_group, pools) for of_group in by_group)
        for kind, by_group in tasks.items()
    }
    latency = _latency_ms(requests, alone)
    return Bounds(
        percentile(latency, 0.50),
        percentile(latency, 0.95),
        _busy_ms(kinds, tasks, assignment, pools) / max(1, len(requests)),
        len(assignment.devices),
    )


def _latency_ms(requests: Sequence[Request], alone: Mapping[Kind, float]) -> list[float]:
    """Of each that is judged: a frame of its client answers it, which takes what it takes alone."""
    quickest: dict[str, float] = {}
    for request in requests:
        ms = alone[request.eyes, request.work]
        quickest[request.client] = min(ms, quickest.get(request.client, ms))
    judged = zip(requests, is_judged(requests), strict=True)
    return [quickest[request.client] for request, yes in judged if yes]


def _busy_ms(
    kinds: Mapping[Kind, int],
    tasks: Mapping[Kind, Sequence[Sequence[Task]]],
    assignment: Assignment,
    pools: Mapping[str, Sequence[Server]],
) -> float:
    """By the work there is.

    For any weights ``v`` of the groups, ``Σ frames · min over groups (v · ms) <= Σ v · end``, since
    what a group does one after the other ends before the end. Their speeds serve as weights.
    """
    shared = {HELPERS, HOST, INPUT, LINK}
    weights = [group.weight for group in assignment.groups]
    in_turn = devices = 0.0
    for kind, count in kinds.items():
        by_group = list(zip(weights, tasks[kind], strict=True))
        in_turn += count * min(
            weight * longest_path_ms(of_group, pools, in_turn=True) for weight, of_group in by_group
        )
        devices += count * min(
            sum(task.work_ms for task in of_group if task.pool not in shared)
            for of_group in tasks[kind]
        )
    ends = [in_turn / sum(weights), devices / sum(weights)]
    for pool in shared:
        work = sum(
            count
            * min(
                sum(task.work_ms for task in of_group if task.pool == pool)
                for of_group in tasks[kind]
            )
            for kind, count in kinds.items()
        )
        if work:
            ends.append(work / sum(server.speed for server in pools[pool]))
    return max(ends)
