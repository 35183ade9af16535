"""Costs: the arithmetic by hand, what is measured, and files."""

from __future__ import annotations

import pytest
from hypothesis import given

from rendering.assignment import Part, RatedDevice
from rendering.base import RasterStats
from rendering.cost_file import CostFile, cost_text, parse_costs
from rendering.cost_model import (
    Costs,
    JoinCost,
    StageCost,
    StageTimes,
    measured_weights,
    repeated_share,
)
from rendering.frame import FrameStats, StreamStats
from rendering.schedule import SplitBy
from rendering.stages import Stage
from splat.errors import SettingsError
from tests.schedules import COSTS, costs, machine

FAST = RatedDevice("cpu:0", 2.0)


def test_a_whole_picture_costs_what_was_measured() -> None:
    part = Part(RatedDevice("cpu:0"), (0,), (0, COSTS.tile_rows))
    for stage in (Stage.PROJECT, Stage.SORT, Stage.COMPOSITE):
        assert COSTS.drawing_ms(stage, part, shared=False) == COSTS[stage].ms


def test_a_band_repeats_a_part() -> None:
    half = Part(FAST, (0,), (0, 5))  # of 10 rows
    assert COSTS.tile_rows == 10
    assert COSTS.drawing_ms(Stage.PROJECT, half, shared=False) == pytest.approx((4 + 3) / 2)
    assert COSTS.drawing_ms(Stage.COMPOSITE, half, shared=False) == pytest.approx(15 / 2)


def test_a_shard_repeats_another_part() -> None:
    quarter = Part(FAST, (0,), (0, 10), (0.5, 0.75))
    composite = COSTS.drawing_ms(Stage.COMPOSITE, quarter, shared=False)
    assert composite == pytest.approx((9 + 21 / 4) / 2)


def test_both_eyes_cost_twice_unless_shared() -> None:
    both = Part(RatedDevice("cpu:0"), (0, 1), (0, 10))
    shared = Costs({Stage.PROJECT: StageCost(10.0, second_eye=0.3)})
    assert shared.tile_rows == 23
    whole = Part(both.device, both.eyes, (0, 23))
    assert shared.drawing_ms(Stage.PROJECT, whole, shared=False) == 20.0
    assert shared.drawing_ms(Stage.PROJECT, whole, shared=True) == 13.0
    assert COSTS.whole_ms(Stage.SELECT, 2, shared=True) == 1.5


def test_what_drawing_repeats_in_all() -> None:
    assert COSTS.repeated(SplitBy.BAND) == pytest.approx(4 / 44)
    assert COSTS.repeated(SplitBy.SHARD) == pytest.approx((1 + 9) / 44)
    assert COSTS.repeated(SplitBy.EYE) == 0.0


def test_parts_travel_by_their_bytes() -> None:
    join = JoinCost(hop_ms=0.5, megabytes_per_s=100.0)
    measured = Costs({Stage.COMPOSITE: StageCost(1.0)}, join, width=1000, height=320)
    part = Part(FAST, (0, 1), (0, 5))
    megabytes = 2 * 160 * 1000 * 12 / 1e6
    assert measured.transfer_ms(part, is_layer=False) == pytest.approx(0.5 + 10 * megabytes)
    layer = measured.transfer_ms(part, is_layer=True)
    assert layer == pytest.approx(0.5 + 10 * megabytes * 16 / 12)
    assert COSTS.transfer_ms(part, is_layer=True) == 0.1  # shared memory


def test_the_repeated_share_is_found_from_two_times() -> None:
    assert repeated_share(10.0, 5.0, 0.5) == 0.0
    assert repeated_share(10.0, 10.0, 0.5) == 1.0
    assert repeated_share(10.0, 7.0, 0.5) == pytest.approx(0.4)
    assert repeated_share(10.0, 4.0, 0.5) == 0.0 and repeated_share(10.0, 12.0, 0.5) == 1.0
    assert repeated_share(0.0, 1.0, 0.5) == 0.0


def test_stage_times_are_medians_of_frames() -> None:
    def frame(project: float, sort: float, binning: float, select: float) -> FrameStats:
        stages = {"project": project, "sort": sort, "bin": binning, "composite": 9.0}
        stream = StreamStats(True, False, 0, 0, 0.0, 1, (1,), select)
        return FrameStats(0.0, 0.0, (RasterStats(stage_ms=stages),), stream)

    times = StageTimes.of([frame(1, 2, 1, 0.1), frame(3, 8, 2, 0.2), frame(99, 4, 1, 9.0)])
    assert times.frames == 3
    assert times.ms == {
        Stage.SELECT: 0.2,
        Stage.PROJECT: 3,
        Stage.SORT: 5,
        Stage.COMPOSITE: 9.0,
    }
    assert list(times.ms) == [Stage.SELECT, Stage.PROJECT, Stage.SORT, Stage.COMPOSITE]


def test_weights_are_of_the_fastest() -> None:
    weights = measured_weights({"cpu:0": [10.0, 11.0, 90.0], "cpu:1": [22.0], "cpu:2": [110.0]})
    assert weights == {"cpu:0": 1.0, "cpu:1": 0.5, "cpu:2": pytest.approx(0.1)}


def test_other_sizes_are_estimated() -> None:
    larger = COSTS.scaled(pixels=4.0, gaussians=2.0)
    assert (larger.width, larger.height) == (1280, 640)
    assert larger[Stage.COMPOSITE].ms == 120.0 and larger[Stage.PROJECT].ms == 20.0
    assert larger[Stage.ENCODE].ms == 20.0 and larger.join.blend_ms == 8.0


@pytest.mark.parametrize("wrong", [{"ms": -1.0}, {"ms": 1.0, "band": 1.5}, {"ms": float("nan")}])
def test_impossible_costs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        StageCost(**wrong)
    with pytest.raises(ValueError, match="drawing costs nothing"):
        Costs({Stage.ENCODE: StageCost(1.0)})


@given(costs())
def test_files_hold_four_digits(measured: Costs) -> None:
    file = CostFile(measured, machine(1.0, 0.5, host_lanes=1))
    again = parse_costs(cost_text(file), "again.yaml")
    assert again.machine == file.machine
    assert (again.costs.width, again.costs.height) == (measured.width, measured.height)
    for stage, cost in measured.stages.items():
        assert again.costs[stage].ms == pytest.approx(cost.ms, rel=1e-3)
        assert again.costs[stage].second_eye == cost.second_eye


def test_short_files_and_json_will_do() -> None:
    file = parse_costs("stages: {project: 12, composite: {ms: 30, shard: 0.2}}", "a.yaml")
    assert file.costs[Stage.PROJECT] == StageCost(12.0) and file.machine is None
    json = '{"stages": {"sort": {"ms": 1e-3}}, "devices": {"cpu:0": 1, "cpu:1": 0.5}}'
    assert parse_costs(json, "a.json").machine == machine(1.0, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about: x", "a.yaml (line 1): has no stages; add the measured"),
        ("stages:\n  draw: 3", "a.yaml (line 2): stages.draw: unknown key"),
        ("stages:\n  sort: {band: 1}", "a.yaml (line 2): stages.sort: has no time"),
        ("stages:\n  sort: {ms: 1, band: 2}", "a.yaml (line 2): stages.sort.band: expected a"),
        ("stages:\n  sort: quick", "a.yaml (line 2): stages.sort: expected a number"),
        ("stages: {encode: 3}", "a.yaml (line 1): stages: drawing costs nothing"),
        ("stages: {sort: 3}\ndevices: {}", "a.yaml (line 2): devices: a machine has devices"),
        ("stages: {sort: 3}\ndevices: {a: 0}", "a.yaml (line 2): devices.a: expected a number"),
        ("stages: {sort: 3}\ndevices: {link: 1}", "a.yaml (line 2): devices: helpers, host"),
        ("stages: {sort: 3}\nwidth: 0", "a.yaml (line 2): width: expected a whole number"),
        ("stages: {sort: 3}\njoin: {ms: 1}", "a.yaml (line 2): join.ms: unknown key"),
    ],
)
def test_a_wrong_file_is_told_by_line_and_key(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_costs(text, "a.yaml")
    assert str(error.value).startswith(said)
