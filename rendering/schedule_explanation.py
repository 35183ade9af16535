"""Why a schedule was chosen, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rendering.schedule import Fidelity, Schedule, SplitBy
from rendering.schedule_search import Finding, Objective, SearchResult, improvement
from rendering.simulation import QUEUE, Simulation
from splat.text import counted

TOLD_SHARE = 0.02  # of a frame's time: smaller differences of a stage are not told


def figure(simulation: Simulation, objective: Objective) -> str:
    """What the objective is about: ``23.4 ms``, ``41.0 frames/s``, ``2 devices``."""
    if objective is Objective.LATENCY:
        return f"{simulation.latency(0.95):.1f} ms (p95)"
    if objective is Objective.THROUGHPUT:
        return f"{simulation.frames_per_s:.1f} frames/s"
    return counted(len(simulation.devices), "devices")


def reasons(result: SearchResult, objective: Objective) -> tuple[str, ...]:
    """Why the best is best: against the best fixed one, or the runner-up where it is that one."""
    best = result.best
    lines = [describe(best.schedule)]
    if objective is Objective.FEWEST_DEVICES and not best.holds:
        share = best.simulation.answered_share
        lines.append(
            f"no schedule holds the rate: the best shows {share:.0%} of the frames; "
            "lower the quality, or add devices"
        )
    others = (*(f for f in result.fixed if f.schedule != best.schedule), *result.runners_up)
    rival = result.best_fixed
    if rival is None or rival is best:
        rival = min(others, key=lambda finding: finding.rank, default=None)
    if rival is not None and rival is not best:
        lines += against(best, rival, objective)
    return tuple(lines)


def against(best: Finding, rival: Finding, objective: Objective) -> Iterator[str]:
    """How two findings differ."""
    ours, theirs = best.simulation, rival.simulation
    times = improvement(best, rival, objective)
    if times > 1.0005:
        yield (
            f"{figure(ours, objective)} against {figure(theirs, objective)} of "
            f"{rival.schedule.name}: {times:.2f} times better"
        )
    else:
        yield f"as good as {rival.schedule.name}, {figure(theirs, objective)}: the simpler is kept"
    changes = list(_path_changes(ours, theirs, with_queue=objective is not Objective.THROUGHPUT))
    if changes:
        yield f"on a frame's critical path, mean, from {rival.schedule.name}: {', '.join(changes)}"
    yield (
        f"devices idle {ours.idle_share:.0%} of the time, with {rival.schedule.name} "
        f"{theirs.idle_share:.0%}"
    )


def describe(schedule: Schedule) -> str:
    """What a schedule does, in words."""
    words = {
        SplitBy.FRAME: "several frames at a time on groups of devices",
        SplitBy.EYE: "each eye on its own",
        SplitBy.BAND: "each picture in bands",
        SplitBy.SHARD: "the scene shared out by depth, layers joined",
    }
    parts = [words[level.by] for level in schedule.split] or ["whole frames on one device"]
    if schedule.overlap:
        parts.append(f"beside the next frame: {schedule.describe_overlap()}")
    picture = "" if schedule.fidelity is Fidelity.IDENTICAL else f"; {schedule.fidelity.value}"
    return f"{schedule.name}: {', '.join(parts)}{picture}"


def _path_changes(ours: Simulation, theirs: Simulation, *, with_queue: bool) -> Iterator[str]:
    mine, other = ours.mean_path_ms(), theirs.mean_path_ms()
    whole = max(sum(other.values()), sum(mine.values()))
    for what in dict.fromkeys((*other, *mine)):
        before, after = other.get(what, 0.0), mine.get(what, 0.0)
        if abs(after - before) >= TOLD_SHARE * whole and (with_queue or what != QUEUE):
            yield f"{what} {before:.1f} → {after:.1f} ms"
