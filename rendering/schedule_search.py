"""The best schedule for an objective, found by looking through all that could be it. Pure.

Every schedule of ``rendering.schedule_space`` gets lower bounds (``rendering.schedule_bounds``);
of each way to split, they are simulated in the order of those, until no bound is below the best
found, and each only until it cannot be that. So the result is that of simulating them all. The
fixed schedules are simulated as well, and win where nothing found is better.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from rendering.arrivals import Request
from rendering.cost_model import Costs
from rendering.frame_tasks import Machine
from rendering.patience import ENDLESS, OutOfPatience, Patience
from rendering.schedule import Fidelity, Schedule
from rendering.schedule_bounds import Bounds, bounds
from rendering.schedule_space import schedule_space
from rendering.simulation import Simulation, is_judged
from rendering.simulator import simulate

LATENCY_SHARE = 0.95  # of the requests: what a schedule is judged by
HELD_SHARE = 0.95  # of the frames of each client are shown, and in time
Rank = tuple[float, ...]  # the lower, the better


class Objective(str, Enum):
    """What is best.

    LATENCY: The time that 95 % of the requests are answered in.
    THROUGHPUT: Frames shown a second.
    FEWEST_DEVICES: Devices, where the rate that every client asks for is held.
    """

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    FEWEST_DEVICES = "fewest-devices"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a schedule is wanted for.

    Attributes:
        requests: Of ``rendering.arrivals``: ``saturated`` for THROUGHPUT, else ``steady``.
        fidelity: The worst that will do.
    """

    machine: Machine
    costs: Costs
    requests: tuple[Request, ...]
    objective: Objective = Objective.LATENCY
    fidelity: Fidelity = Fidelity.IDENTICAL

    def __post_init__(self) -> None:
        if not self.requests:
            raise ValueError("a problem has requests")
        if self.objective is Objective.THROUGHPUT and any(r.replaces for r in self.requests):
            raise ValueError("throughput is of requests that are all drawn: replaces=False")

    @property
    def eyes(self) -> int:
        """Of the requests, at most."""
        return max(request.eyes for request in self.requests)


@dataclass(frozen=True, slots=True)
class Finding:
    """A schedule and how it did.

    Attributes:
        rank: For the objective; findings are compared by it.
        is_fixed: Whether it was given, not found.
    """

    schedule: Schedule
    simulation: Simulation
    rank: Rank
    is_fixed: bool = False

    @property
    def holds(self) -> bool:
        """Whether every client has the rate that it asks for."""
        return holds(self.simulation)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What the search came to.

    Attributes:
        best: Of all.
        runners_up: The best of each other way to split, best first.
        fixed: Those given whose pictures will do, in the order given.
        considered: Schedules that got bounds.
        simulated: Of them, those that were played through.
    """

    best: Finding
    runners_up: tuple[Finding, ...]
    fixed: tuple[Finding, ...]
    considered: int
    simulated: int

    @property
    def best_fixed(self) -> Finding | None:
        """None if none was given."""
        return min(self.fixed, key=lambda finding: finding.rank, default=None)


def search(
    problem: Problem, fixed: Iterable[Schedule] = (), *, runners_up: int = 3
) -> SearchResult:
    """The best schedule for a problem.

    Args:
        fixed: Schedules that the result must not be worse than.
        runners_up: Other ways to split to be told about.

    Raises:
        SettingsError: If a fixed schedule names a device that is not there.
    """
    enough = [s for s in fixed if s.fidelity.rank <= problem.fidelity.rank]
    given = tuple(evaluate(schedule, problem, is_fixed=True) for schedule in enough)
    space = list(schedule_space(problem.machine, problem.costs, problem.eyes, problem.fidelity))
    families: dict[str, list[Schedule]] = {}
    for schedule in space:
        families.setdefault(schedule.describe_split(), []).append(schedule)
    found = {how: _best_of(family, problem) for how, family in families.items()}
    best = min((*given, *(f for f, _ in found.values())), key=lambda finding: finding.rank)
    chosen = best.schedule.describe_split()
    rest = by_rank([finding for how, (finding, _) in found.items() if how != chosen])
    simulated = sum(count for _, count in found.values())
    return SearchResult(best, tuple(rest[:runners_up]), given, len(space), simulated)


def _best_of(family: Sequence[Schedule], problem: Problem) -> tuple[Finding, int]:
    """The best of some schedules, and how many had to be simulated to know."""
    bounded = sorted(
        (rank_of_bounds(bounds_of(schedule, problem), schedule, problem.objective), number)
        for number, schedule in enumerate(family)
    )
    best: Finding | None = None
    for simulated, (bound, number) in enumerate(bounded):
        if best is not None and bound >= best.rank:
            return best, simulated
        with contextlib.suppress(OutOfPatience):
            finding = evaluate(family[number], problem, patience=_patience(best, problem))
            if best is None or finding.rank < best.rank:
                best = finding
    assert best is not None, "a family has members"
    return best, len(bounded)


def _patience(best: Finding | None, problem: Problem) -> Patience:
    """When a simulation cannot become the best any more."""
    if best is None or problem.objective is not Objective.LATENCY:
        return ENDLESS
    count = sum(is_judged(problem.requests))
    in_time = math.ceil(LATENCY_SHARE * count)
    return Patience(best.simulation.latency(LATENCY_SHARE), count - in_time)


def evaluate(
    schedule: Schedule,
    problem: Problem,
    *,
    is_fixed: bool = False,
    patience: Patience = ENDLESS,
) -> Finding:
    """One schedule, simulated and ranked.

    Raises:
        OutOfPatience: As ``simulate``.
        SettingsError: If the schedule names a device that is not there.
    """
    simulation = simulate(schedule, problem.machine, problem.costs, problem.requests, patience)
    return Finding(schedule, simulation, rank_of(simulation, problem.objective), is_fixed)


def bounds_of(schedule: Schedule, problem: Problem) -> Bounds:
    """Of one schedule."""
    return bounds(schedule, problem.machine, problem.costs, problem.requests)


def holds(simulation: Simulation) -> bool:
    """Whether nearly all frames are shown, and in time, of each client."""
    return simulation.answered_share >= HELD_SHARE and simulation.late_share <= 1 - HELD_SHARE


def rank_of(simulation: Simulation, objective: Objective) -> Rank:
    """How good a schedule did; among equals the quicker, smaller, simpler is better."""
    p50_ms, p95_ms = simulation.latency(0.50), simulation.latency(LATENCY_SHARE)
    devices = len(simulation.devices)
    simplicity = _complexity(simulation.schedule)
    if objective is Objective.LATENCY:
        return p95_ms, p50_ms, devices, simplicity
    if objective is Objective.THROUGHPUT:
        return 1e3 / simulation.frames_per_s, p95_ms, devices, simplicity
    if holds(simulation):
        return 0.0, devices, p95_ms, simplicity
    return 1.0, -simulation.answered_share, p95_ms, simplicity


def rank_of_bounds(bound: Bounds, schedule: Schedule, objective: Objective) -> Rank:
    """A rank that the schedule cannot be better than."""
    if objective is Objective.LATENCY:
        return bound.p95_ms, bound.p50_ms, bound.devices, _complexity(schedule)
    if objective is Objective.THROUGHPUT:
        return bound.frame_ms, bound.p95_ms, bound.devices, _complexity(schedule)
    return 0.0, bound.devices, bound.p95_ms, _complexity(schedule)


def _complexity(schedule: Schedule) -> int:
    """Things to know about it."""
    return len(schedule.split) + len(schedule.overlap) + schedule.helpers


def improvement(best: Finding, other: Finding, objective: Objective) -> float:
    """How many times better, by the figure that the objective is about."""
    if objective is Objective.LATENCY:
        return other.simulation.latency(LATENCY_SHARE) / best.simulation.latency(LATENCY_SHARE)
    if objective is Objective.THROUGHPUT:
        return best.simulation.frames_per_s / other.simulation.frames_per_s
    return len(other.simulation.devices) / len(best.simulation.devices)


def by_rank(findings: Sequence[Finding]) -> list[Finding]:
    """Best first."""
    return sorted(findings, key=lambda finding: finding.rank)
