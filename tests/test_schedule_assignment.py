"""Who draws what: every pixel and chunk once, and shares as the rules say."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rendering.assignment import (
    Group,
    Part,
    RatedDevice,
    assign,
    balanced_groups,
    parts_of,
    shares_of,
    whole_rows,
)
from rendering.frame_tasks import Machine
from rendering.schedule import (
    DeviceChoice,
    Pick,
    Schedule,
    Shares,
    Split,
    SplitBy,
)
from rendering.stages import Stage
from splat.errors import SettingsError
from tests.schedules import BAND, EYE, FRAME, SHARD, machine, machines, schedules

ROWS = 10
WEIGHTS = st.lists(st.floats(0.05, 4.0), min_size=1, max_size=8)


def names(parts: tuple[Part, ...]) -> list[str]:
    return [part.device.name for part in parts]


@given(schedules(), machines(), st.integers(1, 2), st.integers(1, 40))
def test_parts_are_all_of_a_frame_and_nothing_twice(
    schedule: Schedule, machine: Machine, eyes: int, rows: int
) -> None:
    assume(schedule.devices.pick is not Pick.NAMED)
    for group in assign(schedule, machine.devices).groups:
        parts = parts_of(schedule, group, eyes, rows, repeated=0.3)
        assert {part.device for part in parts} <= set(group.devices)
        assert len({part.device for part in parts}) == len(parts)
        for eye in range(eyes):
            mine = [part for part in parts if eye in part.eyes]
            area = sum(part.row_count * part.chunk_share for part in mine)
            assert area == pytest.approx(rows)
            runs = sorted(part.rows for part in mine)
            if schedule.has(SplitBy.BAND):
                assert [end for _, end in runs][:-1] == [start for start, _ in runs][1:]
            else:
                assert set(runs) == {(0, rows)}


@given(schedules(), machines())
def test_a_device_has_one_place(schedule: Schedule, machine: Machine) -> None:
    assume(schedule.devices.pick is not Pick.NAMED)
    assignment = assign(schedule, machine.devices)
    assert len(set(assignment.devices)) == len(assignment.devices)
    assert set(assignment.devices) <= set(machine.devices)
    assert all(group.devices for group in assignment.groups)
    slowest = min(d.weight for group in assignment.groups for d in group.devices)
    assert all(helper.weight <= slowest for helper in assignment.helpers)


def test_bands_by_weight() -> None:
    (group,) = assign(Schedule("a", split=(BAND,)), machine(1.0, 3.0, 1.0).devices).groups
    parts = parts_of(Schedule("a", split=(BAND,)), group, 2, ROWS)
    assert [(p.device.name, p.rows, p.eyes) for p in parts] == [
        ("cpu:1", (0, 6), (0, 1)),
        ("cpu:0", (6, 8), (0, 1)),
        ("cpu:2", (8, 10), (0, 1)),
    ]


def test_eyes_are_divided_before_bands() -> None:
    schedule = Schedule("a", split=(EYE, BAND))
    (group,) = assign(schedule, machine(1.0, 1.0, 1.0, 1.0).devices).groups
    parts = parts_of(schedule, group, 2, ROWS)
    assert [(p.eyes, p.rows) for p in parts] == [
        ((0,), (0, 5)),
        ((0,), (5, 10)),
        ((1,), (0, 5)),
        ((1,), (5, 10)),
    ]
    single = parts_of(schedule, group, 1, ROWS)
    assert len(single) == 4 and {part.eyes for part in single} == {(0,)}


def test_a_device_alone_draws_both_eyes_together() -> None:
    schedule = Schedule("a", split=(EYE,))
    (group,) = assign(schedule, machine(1.0).devices).groups
    (part,) = parts_of(schedule, group, 2, ROWS)
    assert part.eyes == (0, 1)


def test_frames_alternate_between_devices_or_groups() -> None:
    devices = machine(1.0, 0.5, 0.5, 1.0).devices
    alone = assign(Schedule("a", split=(FRAME,)), devices)
    assert [len(group.devices) for group in alone.groups] == [1, 1, 1, 1]
    pairs = assign(Schedule("a", split=(Split(SplitBy.FRAME, 2), BAND)), devices)
    assert [group.weight for group in pairs.groups] == [1.5, 1.5]


def test_devices_without_work_are_left_out() -> None:
    devices = machine(0.5, 1.0, 0.7).devices
    single = assign(Schedule("a"), devices)
    assert [d.name for d in single.devices] == ["cpu:1"]
    eyes = assign(Schedule("a", split=(EYE,)), devices)
    assert [d.name for d in eyes.devices] == ["cpu:1", "cpu:2"]


def test_helpers_are_the_slowest_and_never_all() -> None:
    schedule = Schedule("a", split=(BAND,), overlap=(Stage.ENCODE,), helpers=1)
    assignment = assign(schedule, machine(0.5, 1.0, 0.7).devices)
    assert [d.name for d in assignment.helpers] == ["cpu:0"]
    assert not assign(schedule, machine(1.0).devices).helpers


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (DeviceChoice(), {"cpu:0", "cpu:1", "cpu:2"}),
        (DeviceChoice(Pick.FIRST, 2), {"cpu:0", "cpu:1"}),
        (DeviceChoice(Pick.FASTEST, 2), {"cpu:1", "cpu:2"}),
        (DeviceChoice(Pick.FASTEST, 9), {"cpu:0", "cpu:1", "cpu:2"}),
        (DeviceChoice(Pick.NAMED, names=("cpu:2",)), {"cpu:2"}),
    ],
)
def test_the_devices_that_are_chosen(choice: DeviceChoice, chosen: set[str]) -> None:
    assignment = assign(
        Schedule("a", split=(BAND,), devices=choice), machine(0.5, 1.0, 0.7).devices
    )
    assert {device.name for device in assignment.devices} == chosen


def test_a_device_that_is_not_there_is_named() -> None:
    schedule = Schedule("a", devices=DeviceChoice(Pick.NAMED, names=("cuda:0",)))
    with pytest.raises(SettingsError, match="cuda:0; there are: cpu:0"):
        assign(schedule, machine(1.0).devices)


@given(WEIGHTS, st.sampled_from(Shares), st.floats(0.0, 1.0))
def test_shares_add_up(weights: list[float], rule: Shares, repeated: float) -> None:
    shares = shares_of(weights, rule, repeated)
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= 0.0


@given(WEIGHTS, st.floats(0.0, 0.9))
def test_balanced_parts_end_together_and_sooner(weights: list[float], repeated: float) -> None:
    def times(rule: Shares) -> list[float]:
        shares = shares_of(weights, rule, repeated)
        return [
            (repeated + (1 - repeated) * share) / weight
            for share, weight in zip(shares, weights, strict=True)
            if share > 0
        ]

    balanced = times(Shares.BALANCED)
    assert max(balanced) == pytest.approx(min(balanced))
    for other in (Shares.MEASURED, Shares.EQUAL):
        assert max(balanced) <= max(times(other)) * (1 + 1e-9)


@given(WEIGHTS, st.integers(1, 60))
def test_whole_rows_are_as_near_as_rows_are(weights: list[float], rows: int) -> None:
    shares = shares_of(weights, Shares.MEASURED)
    runs = whole_rows(shares, rows)
    assert runs[0][0] == 0 and runs[-1][1] == rows
    for (start, end), share in zip(runs, shares, strict=True):
        assert abs(end - start - rows * share) <= 1 + 1e-6


@given(machines(8), st.integers(1, 8))
def test_groups_are_balanced(machine: Machine, count: int) -> None:
    groups = balanced_groups(machine.devices, count)
    assert sorted(d.name for g in groups for d in g) == sorted(d.name for d in machine.devices)
    loads = [sum(d.weight for d in group) for group in groups]
    heaviest = max(d.weight for d in machine.devices)
    assert all(groups) and max(loads) - min(loads) <= heaviest + 1e-9


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_above_zero(weight: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        RatedDevice("cpu:0", weight)


def test_shards_are_runs_of_chunks() -> None:
    schedule = Schedule("a", split=(SHARD,))
    group = Group(machine(3.0, 1.0).devices)
    parts = parts_of(schedule, group, 1, ROWS)
    assert [part.chunks for part in parts] == [(0.0, 0.75), (0.75, 1.0)]
    assert names(parts) == ["cpu:0", "cpu:1"] and {part.rows for part in parts} == {(0, ROWS)}
