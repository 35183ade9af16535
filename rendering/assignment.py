"""A schedule on the devices there are: who draws which part of a frame. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from rendering.schedule import (
    DeviceChoice,
    Pick,
    Schedule,
    Shares,
    Split,
    SplitBy,
)
from splat.errors import SettingsError

CutRows = Callable[[tuple[int, ...], Sequence[float]], Sequence[float]]
"""From pictures and the ends of shares of their cost, but the last, to shares of their rows."""


@dataclass(frozen=True, slots=True)
class RatedDevice:
    """A device and how fast it was measured to be.

    Attributes:
        name: Such as ``cpu:0``.
        weight: Its speed; a device of weight 2 draws in half the time of one of weight 1.
    """

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"{self.name}: a weight is above 0, got {self.weight}")


@dataclass(frozen=True, slots=True)
class Part:
    """What one device draws of one frame.

    Attributes:
        device: Who.
        eyes: Which cameras of the request.
        rows: Tile rows, from the first to before the last.
        chunks: The share of the chunks, from and to, in [0, 1], in the order of the split.
    """

    device: RatedDevice
    eyes: tuple[int, ...]
    rows: tuple[int, int]
    chunks: tuple[float, float] = (0.0, 1.0)

    @property
    def row_count(self) -> int:
        """Tile rows of each eye."""
        return self.rows[1] - self.rows[0]

    @property
    def chunk_share(self) -> float:
        """Of all chunks."""
        return self.chunks[1] - self.chunks[0]


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that draw a frame together, the fastest first.

    Attributes:
        devices: At least one. The first, the lead, joins the parts.
    """

    devices: tuple[RatedDevice, ...]

    @property
    def lead(self) -> RatedDevice:
        """Where parts are joined, and what is not split is done."""
        return self.devices[0]

    @property
    def weight(self) -> float:
        """Of all together."""
        return sum(device.weight for device in self.devices)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The devices of a schedule, with what each is for.

    Attributes:
        groups: Each draws whole frames; several where frames alternate.
        helpers: Draw nothing, do what overlaps.
    """

    groups: tuple[Group, ...]
    helpers: tuple[RatedDevice, ...] = ()

    @property
    def devices(self) -> tuple[RatedDevice, ...]:
        """All of them."""
        return (*(device for group in self.groups for device in group.devices), *self.helpers)


def assign(schedule: Schedule, devices: Sequence[RatedDevice]) -> Assignment:
    """The groups and helpers of a schedule.

    A device that has nothing to do is left out: the second one of a schedule without a split.

    Args:
        devices: The machine's, at least one, in its own order.

    Raises:
        SettingsError: If the schedule names a device that is not there.
    """
    chosen = _chosen(schedule.devices, devices)
    helping = min(schedule.helpers, len(chosen) - 1)
    drawing, helpers = chosen[: len(chosen) - helping], chosen[len(chosen) - helping :]
    inner = [level for level in schedule.split if level.by is not SplitBy.FRAME]
    frames = next((level for level in schedule.split if level.by is SplitBy.FRAME), None)
    if frames is None:
        groups = [drawing]
    elif inner:
        groups = balanced_groups(drawing, frames.parts)
    else:
        groups = [[device] for device in drawing[: frames.parts or None]]
    most = _most_devices(inner)
    return Assignment(tuple(Group(tuple(group[:most])) for group in groups), tuple(helpers))


def parts_of(
    schedule: Schedule,
    group: Group,
    eyes: int,
    tile_rows: int,
    repeated: float = 0.0,
    cut_rows: CutRows | None = None,
) -> tuple[Part, ...]:
    """What each device of a group draws of a frame; together all of it, and nothing twice.

    Args:
        eyes: Cameras of the request, 1 or 2. A single picture has no eyes to divide: the next
            level divides it among all, or the lead draws it alone.
        tile_rows: Of each picture.
        repeated: Share of drawing that each part repeats (``Costs.repeated``), for BALANCED.
        cut_rows: Where the cost is, for bands that are BALANCED: what parts repeat is in that.
    """
    levels = [level for level in schedule.split if level.by is not SplitBy.FRAME]
    pictures = tuple(range(eyes))
    by_eye = bool(levels) and levels[0].by is SplitBy.EYE
    below = next((level for level in levels if level.by is not SplitBy.EYE), None)
    if not by_eye or eyes == 1 or len(group.devices) == 1:
        return _divide(
            schedule.shares, below, group.devices, pictures, tile_rows, repeated, cut_rows
        )
    return tuple(
        part
        for eye, team in zip(pictures, balanced_groups(group.devices, eyes), strict=True)
        for part in _divide(schedule.shares, below, team, (eye,), tile_rows, repeated, cut_rows)
    )


def balanced_groups(devices: Sequence[RatedDevice], count: int) -> list[list[RatedDevice]]:
    """At most ``count`` groups of about equal weight, none empty, each the fastest first.

    The heaviest remaining device goes to the lightest group (longest processing time first,
    Graham 1969).
    """
    groups: list[list[RatedDevice]] = [[] for _ in range(min(count, len(devices)))]
    for device in _fastest_first(devices):
        lightest = min(groups, key=lambda group: (sum(d.weight for d in group), len(group)))
        lightest.append(device)
    return groups


def shares_of(weights: Sequence[float], rule: Shares, repeated: float = 0.0) -> list[float]:
    """How large the part of each device is; they add up to 1.

    BALANCED solves ``(repeated + (1 − repeated) share) / weight = t`` for the same t
    everywhere. Who would need more than t for the repeated work alone gets nothing.
    """
    if rule is Shares.EQUAL:
        return [1.0 / len(weights)] * len(weights)
    if rule is Shares.MEASURED or repeated >= 1.0:
        return [weight / sum(weights) for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    for used in range(len(order), 0, -1):
        chosen = order[:used]
        together = sum(weights[i] for i in chosen)
        time = (1.0 - repeated + used * repeated) / together
        raw = {i: (time * weights[i] - repeated) / (1.0 - repeated) for i in chosen}
        if min(raw.values()) > 0 or used == 1:
            break
    return [raw.get(i, 0.0) for i in range(len(weights))]


def whole_rows(shares: Sequence[float], rows: int) -> list[tuple[int, int]]:
    """Consecutive runs of whole rows, as near to the shares as whole rows are."""
    ends = [min(rows, math.floor(rows * end + 0.5)) for end in accumulate(shares)]
    ends[-1] = rows
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _chosen(choice: DeviceChoice, devices: Sequence[RatedDevice]) -> list[RatedDevice]:
    """The chosen ones, the fastest first."""
    if choice.pick is Pick.NAMED:
        by_name = {device.name: device for device in devices}
        for name in choice.names:
            if name not in by_name:
                there = ", ".join(by_name)
                raise SettingsError(f"the schedule names the device {name}; there are: {there}")
        return _fastest_first([by_name[name] for name in choice.names])
    if choice.pick is Pick.FIRST:
        return _fastest_first(devices[: choice.count])
    return _fastest_first(devices)[: choice.count or None]


def _fastest_first(devices: Sequence[RatedDevice]) -> list[RatedDevice]:
    """Sorted; equally fast ones stay in order."""
    return sorted(devices, key=lambda device: -device.weight)


def _most_devices(levels: Sequence[Split]) -> int | None:
    """That a frame can be divided among; None for any number."""
    if not levels:
        return 1
    limits = [level.most_parts for level in levels]
    return None if None in limits else math.prod(limit or 1 for limit in limits)


def _divide(
    rule: Shares,
    level: Split | None,
    devices: Sequence[RatedDevice],
    eyes: tuple[int, ...],
    tile_rows: int,
    repeated: float,
    cut_rows: CutRows | None,
) -> tuple[Part, ...]:
    """One set of pictures among devices, by bands or shards, or whole."""
    if level is None:
        return (Part(devices[0], eyes, (0, tile_rows)),)
    used = devices[: level.parts or None]
    shares = shares_of([device.weight for device in used], rule, repeated)
    if level.by is SplitBy.BAND:
        if cut_rows is not None and rule is Shares.BALANCED:
            cuts = cut_rows(eyes, list(accumulate(shares))[:-1])
            shares = [end - first for first, end in pairwise([0.0, *cuts, 1.0])]
        parts = [
            Part(device, eyes, rows)
            for device, rows in zip(used, whole_rows(shares, tile_rows), strict=True)
        ]
        return tuple(part for part in parts if part.row_count)
    ends = [*list(accumulate(shares))[:-1], 1.0]
    runs = zip([0.0, *ends[:-1]], ends, strict=True)
    return tuple(
        Part(device, eyes, (0, tile_rows), run)
        for device, run in zip(used, runs, strict=True)
        if run[1] > run[0]
    )
