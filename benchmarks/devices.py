"""Are the schedules that the search finds worth it, against the best of those that come with it?

The costs are measured (``benchmarks.stage_costs``): the stages of the native rasterizer on one
thread, what bands and shards repeat, the encoding, the choosing. The devices are virtual, each
such a thread, or one slower or faster by its weight, and **schedules are compared by the
simulator** on those costs: a machine of two cores can measure what a stage costs, but not run
four devices beside each other.

Clients ask at rates that keep the devices busy for ``LOAD`` of what they could do without any
loss, so that the comparison says the same on quick and on slow machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from benchmarks.report import Row, new_table, record, verdict
from benchmarks.stage_costs import stage_costs
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from configs.schedules import shipped_texts
from rendering.arrivals import Viewer, saturated, steady
from rendering.assignment import RatedDevice
from rendering.base import PagingRasterizer
from rendering.cost_file import CostFile, cost_text
from rendering.cost_model import Costs
from rendering.fairness import Urgency
from rendering.frame_tasks import Machine
from rendering.schedule import Schedule
from rendering.schedule_explanation import figure
from rendering.schedule_file import parse_schedule
from rendering.schedule_search import Objective, Problem, SearchResult, improvement, search
from rendering.stages import STAGES
from splat.atomic_file import atomic_file

MIN_GAIN = 1.3  # on one mixed workload at least
NEVER_WORSE = 1.0
LOAD = 0.5
REQUESTS = 400  # of all clients
COSTS_FILE = "costs.yaml"
SCENES, PATHS = ("town-150K",), ("aerial",)


@dataclass(frozen=True, slots=True)
class Workload:
    """Devices and those who share them.

    Attributes:
        weights: Of the devices.
        viewers: Their rates are relative to each other.
        is_mixed: Whether the clients differ.
    """

    name: str
    weights: tuple[float, ...]
    viewers: tuple[Viewer, ...]
    objective: Objective
    is_mixed: bool = False

    @property
    def machine(self) -> Machine:
        """Virtual devices."""
        return Machine(tuple(RatedDevice(f"cpu:{i}", w) for i, w in enumerate(self.weights)))

    def problem(self, costs: Costs) -> Problem:
        """The question to the search."""
        if self.objective is Objective.THROUGHPUT:
            requests = saturated(self.viewers, REQUESTS // len(self.viewers))
        else:
            viewers = self.paced(costs)
            requests = steady(viewers, REQUESTS / sum(viewer.fps for viewer in viewers))
        return Problem(self.machine, costs, requests, self.objective)

    def paced(self, costs: Costs) -> tuple[Viewer, ...]:
        """The viewers at rates that take ``LOAD`` of the devices."""
        busy = sum(
            viewer.fps * viewer.work * 1e-3 * costs.whole_ms(stage, viewer.eyes, shared=True)
            for viewer in self.viewers
            for stage in STAGES
        )
        factor = LOAD * sum(self.weights) / busy
        return tuple(replace(viewer, fps=viewer.fps * factor) for viewer in self.viewers)


HEADSET = Viewer("headset", 2, Urgency.VR, 2.0)
WALKER, OTHER = Viewer("walker", fps=1.0), Viewer("other", fps=1.0)
# Pictures of views at rest, of eight times the pixels and detail of the moving ones.
STILLS = Viewer("stills", 1, Urgency.STILL, 0.2, work=8.0)
EVEN, UNEVEN = (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 0.6, 0.4)
LATENCY, THROUGHPUT = Objective.LATENCY, Objective.THROUGHPUT
WORKLOADS = (
    Workload("viewer; 2 devices", (1.0, 1.0), (WALKER,), LATENCY),
    Workload("viewer; 4 devices", EVEN, (WALKER,), LATENCY),
    Workload("headset; 2 devices", (1.0, 1.0), (HEADSET,), LATENCY),
    Workload("headset; 4 devices", EVEN, (HEADSET,), LATENCY),
    Workload("headset; 4 uneven", UNEVEN, (HEADSET,), LATENCY),
    Workload("2 viewers, all frames; 4 devices", EVEN, (WALKER, OTHER), THROUGHPUT),
    Workload("headset, viewer; 3 uneven", (1.0, 0.8, 0.5), (HEADSET, WALKER), LATENCY, True),
    Workload("headset, 2 viewers; 4 uneven", UNEVEN, (HEADSET, WALKER, OTHER), LATENCY, True),
    Workload("headset, stills; 4 devices", EVEN, (HEADSET, STILLS), LATENCY, True),
    Workload("headset, viewer, stills; 4 devices", EVEN, (HEADSET, WALKER, STILLS), LATENCY, True),
    Workload("headset, viewer, stills; 4 uneven", UNEVEN, (HEADSET, WALKER, STILLS), LATENCY, True),
    Workload("the same, all frames; 4 uneven", UNEVEN, (HEADSET, WALKER, STILLS), THROUGHPUT, True),
)


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """One workload.

    Attributes:
        workload: Its name.
        gain: How many times better the found schedule is than the best fixed one, by the
            objective.
        found, fixed: Their names.
        found_figure, fixed_figure: What they reach, for people.
        considered, simulated: Schedules that the search looked at, and played through.
    """

    workload: str
    gain: float
    found: str
    found_figure: str
    fixed: str
    fixed_figure: str
    considered: int
    simulated: int
    bar: float = NEVER_WORSE

    @property
    def passed(self) -> bool:
        """Whether it is at least so much better."""
        return self.gain >= self.bar


def shipped_schedules() -> tuple[Schedule, ...]:
    """Those that Belvedere comes with."""
    return tuple(parse_schedule(text, f"{name}.yaml") for name, text in shipped_texts().items())


def run(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    work: Path | None = None,
    advance: Advance = ignore_progress,
) -> list[Row]:
    """Measure the costs of a path, and search on them; ``DeviceFigures`` with verdicts.

    The last row is the mixed workload of the largest gain, with the bar of those.

    Args:
        work: Where the costs are left for ``belvedere schedule --costs``; None for nowhere.
        advance: Called after each view and each workload.
    """
    costs = stage_costs(subject, store, sampling, advance)
    if work is not None:
        write_costs(work / COSTS_FILE, costs)
    about = {
        **subject.describe(),
        "threads": 1,
        "stage_ms": {stage.value: cost.ms for stage, cost in costs.stages.items()},
        "band_repeats": {stage.value: cost.band for stage, cost in costs.stages.items()},
        "shard_repeats": {stage.value: cost.shard for stage, cost in costs.stages.items()},
        "join_ms": {"hop": costs.join.hop_ms, "blend": costs.join.blend_ms},
    }
    figures = []
    for workload in WORKLOADS:
        figures.append(figures_of(workload, search(workload.problem(costs), shipped_schedules())))
        advance()
    return [record("devices", entry, about) for entry in (*figures, best_mixed(figures))]


def figures_of(workload: Workload, result: SearchResult) -> DeviceFigures:
    """A search in figures."""
    best, fixed, objective = result.best, result.best_fixed, workload.objective
    assert fixed is not None
    return DeviceFigures(
        workload.name,
        improvement(best, fixed, objective),
        best.schedule.name,
        figure(best.simulation, objective),
        fixed.schedule.name,
        figure(fixed.simulation, objective),
        result.considered,
        result.simulated,
    )


def best_mixed(figures: Sequence[DeviceFigures]) -> DeviceFigures:
    """The largest gain on a mixed workload, held against the bar of those."""
    mixed = {workload.name for workload in WORKLOADS if workload.is_mixed}
    best = max((f for f in figures if f.workload in mixed), key=lambda entry: entry.gain)
    return replace(best, workload=f"best mixed: {best.workload}", bar=MIN_GAIN)


def write_costs(path: Path, costs: Costs) -> None:
    """For ``belvedere schedule --costs``.

    Raises:
        OutputError: If the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write_text(cost_text(CostFile(costs)), encoding="utf-8")


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        "devices: schedules found by search against the best shipped one, simulated on measured "
        f"costs, bars ≥ {NEVER_WORSE:g}×, and ≥ {MIN_GAIN:g}× on one mixed workload",
        ["scene", "workload", "found", "best shipped"],
        ["found reaches", "shipped", "times better", "looked at", "simulated", "bar"],
    )
    for row in rows:
        table.add_row(
            f"{row['scene']} {row['path']}",
            row["workload"],
            row["found"],
            row["fixed"],
            row["found_figure"],
            row["fixed_figure"],
            f"{row['gain']:.2f}",
            f"{row['considered']:,}",
            f"{row['simulated']:,}",
            verdict(row),
        )
    if rows:
        table.caption = _caption(rows[0])
    return table


def _caption(row: Row) -> str:
    stages = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in row["stage_ms"].items())
    repeats = row["band_repeats"]
    return (
        f"One eye on one thread: {stages}. Of projection, each band repeats "
        f"{repeats['project']:.0%}, each shard {row['shard_repeats']['project']:.0%}; of "
        f"compositing {repeats['composite']:.0%} and {row['shard_repeats']['composite']:.0%}."
    )
