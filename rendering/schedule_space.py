"""The schedules there are for a machine: what the search looks through. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

from rendering.assignment import RatedDevice
from rendering.cost_model import Costs
from rendering.frame_tasks import Machine
from rendering.schedule import (
    DeviceChoice,
    Fidelity,
    Order,
    Pick,
    Schedule,
    Shares,
    Split,
    SplitBy,
)
from rendering.stages import AHEAD, BEHIND, STAGES, Stage

ALL_SUBSETS_UP_TO = 3  # devices; of more, only the fastest few are tried
MOST_HELPERS = 2
OVERLAPS = ((), AHEAD, BEHIND, (*AHEAD, *BEHIND), STAGES)


def schedule_space(
    machine: Machine, costs: Costs, eyes: int, fidelity: Fidelity = Fidelity.IDENTICAL
) -> Iterator[Schedule]:
    """Every schedule worth a try, each once.

    All splits × subsets of devices (up to equal weights) × helpers × overlaps × shares, without
    those that come to the same: shares of equal devices, eyes where there is one.

    Args:
        eyes: Of the requests, at most.
        fidelity: The worst that will do.
    """
    for choice, devices in device_choices(machine.devices):
        for helpers in range(min(MOST_HELPERS, len(devices) - 1) + 1):
            drawing = len(devices) - helpers
            for split, overlap in product(splits(drawing, eyes, fidelity), OVERLAPS):
                if helpers and not overlap:
                    continue
                for shares in share_rules(devices[:drawing], split):
                    name = _name(split, overlap, drawing, helpers, shares)
                    yield Schedule(name, "", split, choice, shares, overlap, helpers)


def device_choices(
    devices: Sequence[RatedDevice],
) -> Iterator[tuple[DeviceChoice, tuple[RatedDevice, ...]]]:
    """Subsets of devices, the fastest first in each; one of those that have the same weights."""
    ranked = sorted(devices, key=lambda device: -device.weight)
    for count in range(1, len(ranked) + 1):
        fastest = tuple(ranked[:count])
        yield DeviceChoice(Pick.FASTEST, count), fastest
        seen = {tuple(device.weight for device in fastest)}
        if len(ranked) > ALL_SUBSETS_UP_TO:
            continue
        for subset in combinations(ranked, count):
            weights = tuple(device.weight for device in subset)
            if weights not in seen:
                seen.add(weights)
                names = tuple(device.name for device in subset)
                yield DeviceChoice(Pick.NAMED, names=names), subset


def splits(devices: int, eyes: int, fidelity: Fidelity) -> Iterator[tuple[Split, ...]]:
    """Ways to divide frames among so many devices, all of them used."""
    if devices == 1:
        yield ()
        return
    yield (Split(SplitBy.FRAME),)
    yield from _inside_frame(devices, eyes, fidelity)
    for groups in sorted({2, 3, 4, devices // 2}):
        if 2 <= groups < devices:
            for inner in _inside_frame(-(-devices // groups), eyes, fidelity):
                yield (Split(SplitBy.FRAME, groups), *inner)


def _inside_frame(devices: int, eyes: int, fidelity: Fidelity) -> Iterator[tuple[Split, ...]]:
    """Ways to divide one frame among so many devices, 2 or more."""
    innermost = [Split(SplitBy.BAND)]
    for order, needed in ((Order.DEPTH, Fidelity.ORDERED), (Order.DEALT, Fidelity.APPROXIMATE)):
        if fidelity.rank >= needed.rank:
            innermost.append(Split(SplitBy.SHARD, order=order))
    for level in innermost:
        yield (level,)
        if eyes > 1 and devices > 2:
            yield (Split(SplitBy.EYE), level)
    if eyes > 1 and devices == 2:
        yield (Split(SplitBy.EYE),)


def share_rules(devices: Sequence[RatedDevice], split: Sequence[Split]) -> tuple[Shares, ...]:
    """Those that differ on these devices."""
    if not split or len({device.weight for device in devices}) == 1:
        return (Shares.MEASURED,)
    if any(level.by in (SplitBy.BAND, SplitBy.SHARD) for level in split):
        return (Shares.MEASURED, Shares.BALANCED, Shares.EQUAL)
    return (Shares.MEASURED, Shares.EQUAL) if split[0].by is SplitBy.FRAME else (Shares.MEASURED,)


def _name(
    split: Sequence[Split], overlap: Sequence[Stage], drawing: int, helpers: int, shares: Shares
) -> str:
    """``found: frame2-band 4+1 pipelined``, short and apart for tables."""
    how = "-".join(f"{level.by.value}{level.parts or ''}" for level in split) or "single"
    words = [how, f"{drawing}+{helpers}" if helpers else f"{drawing}"]
    if split and shares is not Shares.MEASURED:
        words.append(shares.value)
    if overlap:
        words.append({AHEAD: "ahead", BEHIND: "behind", STAGES: "free"}.get(tuple(overlap), "both"))
    return " ".join(words)
