"""Schedules, machines and costs for tests: some to look at, and any there could be."""

from __future__ import annotations

from hypothesis import strategies as st

from configs.schedules import shipped_texts
from rendering.arrivals import Request, Viewer, steady
from rendering.assignment import RatedDevice
from rendering.cost_model import Costs, JoinCost, StageCost
from rendering.fairness import Urgency
from rendering.frame_tasks import Machine
from rendering.schedule import (
    DeviceChoice,
    Order,
    Pick,
    Schedule,
    Shares,
    Split,
    SplitBy,
)
from rendering.schedule_file import parse_schedule
from rendering.stages import AHEAD, BEHIND, STAGES, Stage

COSTS = Costs(
    {
        Stage.SELECT: StageCost(1.0, second_eye=0.5),
        Stage.PROJECT: StageCost(10.0, band=0.4, shard=0.1),
        Stage.SORT: StageCost(4.0),
        Stage.COMPOSITE: StageCost(30.0, shard=0.3),
        Stage.ENCODE: StageCost(5.0),
    },
    JoinCost(hop_ms=0.1, blend_ms=2.0),
    width=640,
    height=320,
)
EYE, BAND, FRAME = Split(SplitBy.EYE), Split(SplitBy.BAND), Split(SplitBy.FRAME)
SHARD, DEALT = Split(SplitBy.SHARD), Split(SplitBy.SHARD, order=Order.DEALT)
HEADSET = Viewer("headset", 2, Urgency.VR, 10.0)
WALKER = Viewer("walker", 1, Urgency.MOVING, 8.0)
STILLS = Viewer("stills", 1, Urgency.STILL, 2.0, work=3.0)
OVERLAPS = ((), AHEAD, BEHIND, (*AHEAD, *BEHIND), STAGES)


def machine(*weights: float, host_lanes: int = 0) -> Machine:
    """Devices ``cpu:0``, ``cpu:1``… of these weights."""
    return Machine(tuple(RatedDevice(f"cpu:{i}", w) for i, w in enumerate(weights)), host_lanes)


def shipped() -> dict[str, Schedule]:
    """Those that Belvedere comes with, by the name of their file."""
    return {name: parse_schedule(text, name) for name, text in shipped_texts().items()}


@st.composite
def machines(draw: st.DrawFn, most: int = 4) -> Machine:
    """Of a few devices."""
    weights = draw(st.lists(st.sampled_from([1.0, 0.8, 0.5, 0.3, 2.0]), min_size=1, max_size=most))
    return machine(*weights, host_lanes=draw(st.integers(0, 1)))


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    """Any that could be measured."""
    ms = st.floats(0.0, 40.0).map(lambda value: round(value, 2))
    share = st.sampled_from([0.0, 0.1, 0.4, 1.0])
    stages = {stage: StageCost(draw(ms), draw(share), draw(share), draw(share)) for stage in STAGES}
    stages[Stage.COMPOSITE] = StageCost(draw(st.floats(1.0, 40.0)), 0.0, draw(share))
    join = JoinCost(
        draw(st.sampled_from([0.0, 0.2, 3.0])),
        draw(st.sampled_from([0.0, 1e4])),
        draw(st.sampled_from([0.0, 2.0])),
    )
    return Costs(stages, join, width=320, height=draw(st.integers(20, 400)))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any valid one."""
    levels = []
    if draw(st.booleans()):
        levels.append(Split(SplitBy.FRAME, draw(st.integers(2, 3))))
    if draw(st.booleans()):
        levels.append(draw(st.sampled_from([EYE, Split(SplitBy.EYE, 2)])))
    innermost = st.sampled_from([BAND, Split(SplitBy.BAND, 2), SHARD, DEALT])
    if draw(st.booleans()):
        levels.append(draw(innermost))
    overlap = draw(st.sampled_from(OVERLAPS))
    return Schedule(
        draw(st.sampled_from(["mine", "a b-2.c"])),
        draw(st.sampled_from(["", "What: it does"])),
        tuple(levels),
        draw(
            st.sampled_from(
                [
                    DeviceChoice(),
                    DeviceChoice(Pick.FIRST, 2),
                    DeviceChoice(Pick.FASTEST, 3),
                    DeviceChoice(Pick.NAMED, names=("cpu:0", "cuda:0", "1")),
                ]
            )
        ),
        draw(st.sampled_from(Shares)),
        overlap,
        draw(st.integers(0, 1)) if overlap else 0,
        draw(st.sampled_from([(), (Stage.PROJECT,), (Stage.PROJECT, Stage.SORT)])),
    )


@st.composite
def traces(draw: st.DrawFn) -> tuple[Request, ...]:
    """Some viewers for a second or two."""
    viewers = draw(
        st.lists(st.sampled_from([HEADSET, WALKER, STILLS]), min_size=1, max_size=3, unique=True)
    )
    return steady(viewers, draw(st.sampled_from([0.5, 2.0])), seed=draw(st.integers(0, 9)))
