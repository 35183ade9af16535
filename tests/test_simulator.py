"""Schedules played through: hand-computed cases, and what must hold for any."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings

from rendering.arrivals import Request, Viewer, saturated, steady
from rendering.cost_model import Costs, JoinCost, StageCost
from rendering.fairness import Urgency
from rendering.frame_tasks import Machine
from rendering.patience import OutOfPatience, Patience
from rendering.schedule import (
    Pick,
    Schedule,
    Shares,
    Split,
    SplitBy,
)
from rendering.simulation import Simulation
from rendering.simulator import simulate
from rendering.stages import AHEAD, BEHIND, STAGES, Stage
from rendering.timeline import Span
from tests.schedules import (
    BAND,
    COSTS,
    EYE,
    FRAME,
    SHARD,
    costs,
    machine,
    machines,
    schedules,
    traces,
)

ONE = Request("a", 0, 0.0)
BOTH = Request("a", 0, 0.0, eyes=2)


def latency(schedule: Schedule, on: Machine, request: Request = ONE, costs: Costs = COSTS) -> float:
    (ms,) = simulate(schedule, on, costs, [request]).latency_ms
    return ms


def frames_ms(schedule: Schedule, on: Machine, frames: int = 20) -> float:
    """Between two of many frames."""
    simulation = simulate(schedule, on, COSTS, saturated([Viewer("a")], frames))
    first, *_, last = sorted(frame.ended_ms for frame in simulation.frames)
    return (last - first) / (frames - 1)


# One frame by hand: select 1, project 10 (a band repeats 4), sort 4, composite 30, encode 5.


def test_one_device_does_all_in_turn() -> None:
    assert latency(Schedule("a"), machine(1.0)) == pytest.approx(50.0)
    assert latency(Schedule("a"), machine(0.5)) == pytest.approx(100.0)
    assert latency(Schedule("a"), machine(1.0), BOTH) == pytest.approx(1.5 + 88.0 + 10.0)


def test_two_bands() -> None:
    drawn = 4 + 3 + 2 + 15
    assert latency(Schedule("a", split=(BAND,)), machine(1.0, 1.0)) == pytest.approx(
        1 + drawn + 0.1 + 5
    )


def test_two_eyes() -> None:
    assert latency(Schedule("a", split=(EYE,)), machine(1.0, 1.0), BOTH) == pytest.approx(
        1.5 + 44 + 0.1 + 10
    )


def test_two_shards_are_blended_on_the_lead() -> None:
    drawn = 1 + 4.5 + 2 + 9 + 10.5
    assert latency(Schedule("a", split=(SHARD,)), machine(1.0, 1.0)) == pytest.approx(
        1 + drawn + 0.1 + 2 + 5
    )


def test_host_cores_choose_and_encode() -> None:
    assert latency(Schedule("a"), machine(2.0, host_lanes=1)) == pytest.approx(1 + 22 + 5)


def test_work_scales_a_frame() -> None:
    assert latency(Schedule("a"), machine(1.0), Request("a", 0, 0.0, work=3.0)) == 150.0


def test_eyes_that_share_project_once() -> None:
    stages = {
        Stage.PROJECT: StageCost(10.0, second_eye=0.25),
        Stage.COMPOSITE: StageCost(5.0),
    }
    shared = Schedule("a", shared=(Stage.PROJECT,))
    assert latency(shared, machine(1.0), BOTH, Costs(stages)) == 12.5 + 10.0
    alone = Schedule("a", shared=())
    assert latency(alone, machine(1.0), BOTH, Costs(stages)) == 20.0 + 10.0


# Many frames


def test_alternate_frames_are_as_slow_and_twice_as_many() -> None:
    schedule = Schedule("a", split=(FRAME,))
    assert latency(schedule, machine(1.0, 1.0)) == pytest.approx(50.0)
    assert frames_ms(schedule, machine(1.0, 1.0)) == pytest.approx(25.0, rel=0.06)


def test_without_overlap_the_next_frame_waits() -> None:
    assert frames_ms(Schedule("a"), machine(1.0, host_lanes=1)) == pytest.approx(50.0)


def test_encoding_behind_leaves_the_device_free() -> None:
    behind = Schedule("a", overlap=BEHIND)
    assert frames_ms(behind, machine(1.0, host_lanes=2)) == pytest.approx(45.0, rel=0.01)
    both = Schedule("a", overlap=(*AHEAD, *BEHIND))
    assert frames_ms(both, machine(1.0, host_lanes=2)) == pytest.approx(44.0, rel=0.01)


def test_one_host_core_encodes_the_last_frame_before_it_chooses_for_the_next() -> None:
    behind = Schedule("a", overlap=BEHIND)
    assert frames_ms(behind, machine(1.0, host_lanes=1)) == pytest.approx(50.0)


def test_overlap_alone_does_not_make_a_device_faster() -> None:
    assert frames_ms(Schedule("a", overlap=STAGES), machine(1.0)) == pytest.approx(50.0, rel=0.02)


def test_a_helper_takes_what_overlaps() -> None:
    schedule = Schedule("a", overlap=(*AHEAD, *BEHIND), helpers=1)
    simulation = simulate(schedule, machine(1.0, 0.5), COSTS, saturated([Viewer("a")], 10))
    stages = {span.stage for span in simulation.spans if span.lane == "cpu:1"}
    assert stages == {"select", "encode"}
    assert frames_ms(schedule, machine(1.0, 0.5)) == pytest.approx(44.0, rel=0.03)


def test_free_stages_let_a_device_begin_the_next_frame() -> None:
    """The quicker of two uneven halves need not wait for the other."""
    uneven = machine(1.0, 0.5)
    equal = Schedule("a", split=(BAND,), shares=Shares.EQUAL)
    waiting = frames_ms(equal, uneven)
    assert frames_ms(Schedule("a", split=(BAND,), shares=Shares.EQUAL, overlap=STAGES), uneven) < (
        waiting
    )


def test_equal_groups_take_frames_strictly_in_turn() -> None:
    uneven = machine(1.0, 0.25)
    in_turn = Schedule("a", split=(FRAME,), shares=Shares.EQUAL)
    simulation = simulate(in_turn, uneven, COSTS, saturated([Viewer("a")], 6))
    lanes = [next(frame.spans(0)).lane for frame in simulation.frames]
    assert lanes == ["cpu:0", "cpu:1"] * 3
    free = simulate(Schedule("a", split=(FRAME,)), uneven, COSTS, saturated([Viewer("a")], 10))
    lanes = [next(frame.spans(0)).lane for frame in free.frames]
    assert lanes.count("cpu:0") == 8


# Requests


def test_the_newest_request_wins_and_answers_the_older_ones() -> None:
    requests = [Request("a", i, 10.0 * i) for i in range(5)]
    simulation = simulate(Schedule("a"), machine(1.0), COSTS, requests)
    assert [frame.request.sequence for frame in simulation.frames] == [0, 4]
    assert simulation.latency_ms == pytest.approx((50, 90, 80, 70, 60))
    assert simulation.answered_share == 0.4


def test_a_frame_that_was_overtaken_is_not_shown() -> None:
    requests = [Request("a", i, float(i)) for i in range(3)]
    simulation = simulate(Schedule("a", split=(FRAME,)), machine(1.0, 0.3), COSTS, requests)
    assert [frame.shown for frame in simulation.frames] == [True, False, True]
    assert simulation.latency_ms[1] == pytest.approx(100.0 - 1.0)
    wanted = [Request("a", i, float(i), replaces=False) for i in range(3)]
    all_wanted = simulate(Schedule("a", split=(FRAME,)), machine(1.0, 0.3), COSTS, wanted)
    assert all(frame.shown for frame in all_wanted.frames)


def test_a_headset_comes_before_a_still_picture() -> None:
    requests = [
        Request("busy", 0, 0.0),
        Request("still", 0, 1.0, urgency=Urgency.STILL),
        Request("headset", 0, 2.0, eyes=2, urgency=Urgency.VR),
    ]
    simulation = simulate(Schedule("a"), machine(1.0), COSTS, requests)
    assert [frame.request.client for frame in simulation.frames] == ["busy", "headset", "still"]


def test_stills_are_not_judged_beside_moving_views() -> None:
    requests = [Request("still", 0, 0.0, urgency=Urgency.STILL, work=4.0), Request("a", 0, 0.0)]
    simulation = simulate(Schedule("a"), machine(1.0), COSTS, requests)
    assert simulation.latency(0.95) == pytest.approx(simulation.latency_ms[0])
    assert simulation.requests[0].client == "a"
    alone = simulate(Schedule("a"), machine(1.0), COSTS, requests[:1])
    assert alone.latency(0.95) == pytest.approx(200.0)


def test_patience_ends_only_what_is_late() -> None:
    requests = saturated([Viewer("a")], 10)
    late = simulate(Schedule("a"), machine(1.0), COSTS, requests)
    count = sum(ms > 300.0 for ms in late.latency_ms)
    kept = simulate(Schedule("a"), machine(1.0), COSTS, requests, Patience(300.0, count))
    assert kept.latency_ms == late.latency_ms
    with pytest.raises(OutOfPatience):
        simulate(Schedule("a"), machine(1.0), COSTS, requests, Patience(300.0, count - 1))


def test_a_request_is_late_by_its_own_frame() -> None:
    (request,) = saturated([Viewer("a")], 1)
    alone = simulate(Schedule("a"), machine(1.0), COSTS, [request]).latency_ms[0]
    simulate(Schedule("a"), machine(1.0), COSTS, [request], Patience(alone + 1, 0))
    with pytest.raises(OutOfPatience):
        simulate(Schedule("a"), machine(1.0), COSTS, [request], Patience(alone - 1, 0))


# What holds for any


def played(
    schedule: Schedule, on: Machine, measured: Costs, requests: Sequence[Request]
) -> Simulation:
    assume(schedule.devices.pick is not Pick.NAMED)
    return simulate(schedule, on, measured, requests)


@settings(deadline=None, max_examples=60)
@given(schedules(), machines(), costs(), traces())
def test_a_lane_does_one_thing_at_a_time(
    schedule: Schedule, on: Machine, measured: Costs, requests: tuple[Request, ...]
) -> None:
    simulation = played(schedule, on, measured, requests)
    lanes: dict[str, list[Span]] = {}
    for span in sorted(simulation.spans, key=lambda span: (span.start_ms, span.end_ms)):
        lanes.setdefault(span.lane, []).append(span)
    for spans in lanes.values():
        for one, following in pairwise(spans):
            assert one.end_ms <= following.start_ms + 1e-6


@settings(deadline=None, max_examples=60)
@given(schedules(), machines(), costs(), traces())
def test_every_request_is_answered_and_its_time_accounted_for(
    schedule: Schedule, on: Machine, measured: Costs, requests: tuple[Request, ...]
) -> None:
    simulation = played(schedule, on, measured, requests)
    assert len(simulation.latency_ms) == len(requests)
    assert all(0 < ms < float("inf") for ms in simulation.latency_ms)
    newest = {request.client: request.sequence for request in requests}
    shown = {f.request.client: f.request.sequence for f in simulation.frames if f.shown}
    assert shown == newest, "in the end everybody sees what was asked for last"
    for frame in simulation.frames:
        total = frame.ended_ms - frame.request.arrival_ms
        assert sum(frame.path_ms().values()) == pytest.approx(total)
    assert all(0 <= share <= 1 + 1e-9 for share in simulation.utilisation().values())


@settings(deadline=None, max_examples=40)
@given(schedules(), machines(), costs(), traces())
def test_it_is_deterministic(
    schedule: Schedule, on: Machine, measured: Costs, requests: tuple[Request, ...]
) -> None:
    first = played(schedule, on, measured, requests)
    again = simulate(schedule, on, measured, requests)
    assert first.spans == again.spans and first.latency_ms == again.latency_ms


@settings(deadline=None, max_examples=60)
@given(schedules(), machines(), costs(), traces())
def test_stages_in_turn_of_a_group_do_not_overlap(
    schedule: Schedule, on: Machine, measured: Costs, requests: tuple[Request, ...]
) -> None:
    assume(not schedule.has(SplitBy.FRAME))
    simulation = played(schedule, on, measured, requests)
    waiting = {stage.value for stage in STAGES if stage not in schedule.overlap}
    spans = [span for span in simulation.spans if span.stage in waiting]
    ends: dict[int, float] = {}
    starts: dict[int, float] = {}
    for span in spans:
        ends[span.frame] = max(ends.get(span.frame, 0.0), span.end_ms)
        starts[span.frame] = min(starts.get(span.frame, span.start_ms), span.start_ms)
    frames = sorted(starts)
    for one, following in pairwise(frames):
        assert ends[one] <= starts[following] + 1e-6


def test_a_trace_is_the_same_again_and_jittered_by_its_seed() -> None:
    viewers = [Viewer("a", fps=10.0), Viewer("b", 2, Urgency.VR, 20.0)]
    trace = steady(viewers, 2.0)
    assert trace == steady(viewers, 2.0) != steady(viewers, 2.0, seed=1)
    assert [r.arrival_ms for r in trace] == sorted(r.arrival_ms for r in trace)
    mine = [r for r in trace if r.client == "b"]
    assert len(mine) == 40 and all(r.eyes == 2 and r.deadline_ms == 100.0 for r in mine)
    for number, request in enumerate(mine):
        assert 50.0 * number <= request.arrival_ms < 50.0 * (number + 1)


@pytest.mark.parametrize(
    "wrong", [{"eyes": 3}, {"arrival_ms": -1.0}, {"work": 0.0}, {"arrival_ms": float("inf")}]
)
def test_impossible_requests_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        Request(**{"client": "a", "sequence": 0, "arrival_ms": 0.0, **wrong})  # type: ignore[arg-type]


def test_a_link_takes_one_part_after_the_other() -> None:
    join = JoinCost(hop_ms=10.0)
    measured = Costs({Stage.COMPOSITE: StageCost(32.0)}, join, width=32, height=128)
    schedule = Schedule("a", split=(BAND,))
    assert latency(schedule, machine(1.0, 1.0, 1.0, 1.0), ONE, measured) == pytest.approx(8 + 30)


def test_groups_of_frames_and_bands() -> None:
    schedule = Schedule("a", split=(Split(SplitBy.FRAME, 2), BAND))
    four = machine(1.0, 1.0, 1.0, 1.0)
    assert latency(schedule, four) == pytest.approx(1 + 24 + 0.1 + 5)
    assert frames_ms(schedule, four) == pytest.approx(30.1 / 2, rel=0.06)
