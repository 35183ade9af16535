"""The devices there are, how fast they are, what becomes of those that fail, and who draws next."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.assignment import Group
from rendering.base import RasterImage, RasterStats
from rendering.demand import Load
from rendering.device import Device, cpu_devices, gpu_device, names_gpus, parse_devices
from rendering.device_health import DeviceHealth, FaultPolicy
from rendering.device_roster import SINGLE, DeviceRoster
from rendering.device_speed import FEWEST, STALE_S, DeviceSpeeds, work_of
from rendering.elastic import ElasticPolicy
from rendering.gpu_support import GpuSupport
from rendering.schedule import DeviceChoice, Order, Pick, Schedule, Shares, Split, SplitBy
from rendering.stages import Stage
from splat.errors import BackendUnavailable, SettingsError
from tests.fake_driver import H200, P100, T4

FRAMES = Schedule("frames", split=(Split(SplitBy.FRAME),))
BANDS = Schedule("bands", split=(Split(SplitBy.BAND),))


def names(count: int) -> frozenset[str]:
    return frozenset(f"cpu:{i}" for i in range(count))


def took(group: Group | None) -> list[str]:
    return [device.name for device in group.devices] if group else []


def test_one_device_has_all_the_threads_that_a_request_allows() -> None:
    (device,) = cpu_devices(1, cores=7)
    assert device.name == "cpu:0"
    assert [device.threads_for(wanted) for wanted in (0, 3)] == [0, 3]


@given(st.integers(2, 64), st.integers(1, 40))
def test_virtual_devices_divide_the_cores(count: int, cores: int) -> None:
    devices = cpu_devices(count, cores)
    assert [device.name for device in devices] == [f"cpu:{i}" for i in range(count)]
    threads = [device.threads for device in devices]
    assert sum(threads) == max(count, cores) and max(threads) - min(threads) <= 1
    assert min(threads) >= 1


def test_a_virtual_device_uses_no_more_than_its_threads() -> None:
    device = Device("cpu:1", 2)
    assert [device.threads_for(wanted) for wanted in (0, 1, 2, 5)] == [2, 1, 2, 2]
    with pytest.raises(ValueError, match="cpu:1: threads"):
        Device("cpu:1", -1)


@pytest.mark.parametrize("text", ["auto", " CPU ", "1"])
def test_the_usual_is_one_device(text: str) -> None:
    assert parse_devices(text, 4) == (Device("cpu:0"),)


def test_a_number_of_devices_is_read() -> None:
    assert [device.threads for device in parse_devices("3", 4)] == [2, 1, 1]


@pytest.mark.parametrize("text", ["0", "-1", "65", "two", "", "1.5", "²"])
def test_what_is_no_number_of_devices_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^devices: .*; use (1 for all|auto, cpu, a number)"):
        parse_devices(text)


GPUS = GpuSupport("fused", (H200, T4), (P100,))


def gpus() -> GpuSupport:
    return GPUS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cuda", ["cuda:0", "cuda:1"]),
        ("gpu", ["cuda:0", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        (" GPU:0 ", ["cuda:0"]),
        ("cuda:1, cuda:0", ["cuda:1", "cuda:0"]),
        ("cuda:0,cpu", ["cuda:0", "cpu:0"]),
        ("cpu,cuda", ["cpu:0", "cuda:0", "cuda:1"]),
        ("cpu,cuda:1,cpu", ["cpu:0", "cuda:1", "cpu:1"]),
        ("cpu,cpu", ["cpu:0", "cpu:1"]),
    ],
)
def test_gpus_are_named_alone_or_in_lists(text: str, found: list[str]) -> None:
    devices = parse_devices(text, 4, find_gpus=gpus)
    assert [device.name for device in devices] == found
    for device in devices:
        assert device.is_gpu == device.name.startswith("cuda:")
        assert device.memory == (device.name if device.is_gpu else "host")
        assert device.threads == (0 if device.is_gpu or "cpu:1" not in found else 2)


@pytest.mark.parametrize("text", ["cuda:0,cuda", "cuda:1,gpu:1"])
def test_no_device_is_named_twice(text: str) -> None:
    with pytest.raises(SettingsError, match="names a device twice"):
        parse_devices(text, find_gpus=gpus)


@pytest.mark.parametrize("text", ["cuda:", "cuda:x", "cuda:-1", "cuda:0,2", "cuda:0,,cpu", "cpu:0"])
def test_lists_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^devices: .* names no devices; use auto, .*cuda:0, or several"
    ):
        parse_devices(text, find_gpus=gpus)


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(BackendUnavailable, match="there is no cuda:7; use cuda:0, cuda:1"):
        parse_devices("cpu,cuda:7", find_gpus=gpus)
    with pytest.raises(BackendUnavailable, match=r"cuda:2: Tesla P100 has compute capability 6\.0"):
        parse_devices("cuda:2", find_gpus=gpus)
    with pytest.raises(
        BackendUnavailable, match=r"devices: .*: no GPU can be used: there is no NVIDIA driver"
    ):
        parse_devices(
            "cuda", find_gpus=lambda: GpuSupport("fused", problem="there is no NVIDIA driver")
        )
    with pytest.raises(BackendUnavailable, match="cuda:0: the engine draws on processors alone"):
        parse_devices("cuda:0")


def test_nobody_asks_for_gpus_that_are_not_wanted() -> None:
    def asked() -> GpuSupport:
        raise AssertionError("asked")

    for text in ("auto", "cpu", "3", "cpu,cpu"):
        assert parse_devices(text, 4, find_gpus=asked) == parse_devices(text, 4)
    assert [names_gpus(text) for text in ("auto", "cpu", "2", "cpu,cuda:0", "gpu")] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_a_device_without_a_number_of_threads_is_guessed_to_be_as_fast_as_any() -> None:
    speeds = DeviceSpeeds([gpu_device(0), Device("cpu:0", 4), Device("cpu:1", 2)])
    assert speeds.weights(0.0) == {"cuda:0": 1.0, "cpu:0": 1.0, "cpu:1": 0.5}


def test_without_measurements_devices_weigh_as_their_threads() -> None:
    speeds = DeviceSpeeds([Device("a", 4), Device("b", 2), Device("c", 1)])
    assert speeds.weights(0.0) == {"a": 1.0, "b": 0.5, "c": 0.25}


def test_a_slow_device_weighs_what_was_measured() -> None:
    speeds = DeviceSpeeds(cpu_devices(3, 3))
    for second in range(20):
        speeds.drew("cpu:0", 100.0, 0.01, second)
        speeds.drew("cpu:1", 25.0, 0.01, second)
    # The third did nothing yet: it is taken for as fast as the others on average.
    assert speeds.weights(20.0) == pytest.approx({"cpu:0": 1.0, "cpu:1": 0.25, "cpu:2": 0.625})


def test_small_changes_move_nothing_and_large_ones_do() -> None:
    speeds = DeviceSpeeds(cpu_devices(2, 2))
    for _ in range(FEWEST):
        speeds.drew("cpu:0", 1.0, 1.0, 0.0)
        speeds.drew("cpu:1", 0.95, 1.0, 0.0)
    assert speeds.weights(0.0) == {"cpu:0": 1.0, "cpu:1": 1.0}
    for _ in range(30):
        speeds.drew("cpu:1", 0.5, 1.0, 0.0)
    assert speeds.weights(0.0)["cpu:1"] == pytest.approx(0.5, abs=0.05)


def test_what_was_not_confirmed_for_long_is_forgotten() -> None:
    speeds = DeviceSpeeds(cpu_devices(2, 2))
    for _ in range(FEWEST):
        speeds.drew("cpu:0", 1.0, 1.0, STALE_S + 1)
        speeds.drew("cpu:1", 0.1, 1.0, 0.0)
    assert speeds.weights(1.0)["cpu:1"] == pytest.approx(0.1)
    assert speeds.weights(STALE_S + 1) == {"cpu:0": 1.0, "cpu:1": 1.0}
    for _ in range(FEWEST):  # what counts from then on is how it is now
        speeds.drew("cpu:1", 0.5, 1.0, STALE_S + 1)
    assert speeds.weights(STALE_S + 1)["cpu:1"] == pytest.approx(0.5)


def test_a_single_measurement_decides_nothing() -> None:
    speeds = DeviceSpeeds(cpu_devices(2, 2))
    for _ in range(FEWEST - 1):
        speeds.drew("cpu:0", 1.0, 1.0, 0.0)
        speeds.drew("cpu:1", 0.01, 1.0, 0.0)
    assert speeds.weights(0.0) == {"cpu:0": 1.0, "cpu:1": 1.0}


def test_no_work_and_no_time_say_nothing_of_a_device() -> None:
    speeds = DeviceSpeeds(cpu_devices(2, 2))
    for _ in range(FEWEST):
        speeds.drew("cpu:0", 0.0, 1.0, 0.0)
        speeds.drew("cpu:1", 1.0, 0.0, 0.0)
    assert speeds.weights(0.0) == {"cpu:0": 1.0, "cpu:1": 1.0}


def test_work_is_what_was_drawn_else_pixels() -> None:
    alpha = np.zeros((4, 5), np.float32)
    counted = RasterImage(alpha, stats=RasterStats(gaussians=7, tile_pairs=30))
    assert work_of([counted, counted]) == 74
    assert work_of([RasterImage(alpha)]) == 20


def test_pauses_grow_and_faults_long_past_are_forgotten() -> None:
    policy = FaultPolicy(faults=9, within_s=60, first_pause_s=0.1, last_pause_s=0.3)
    health = DeviceHealth(["a", "b"], policy)
    sentences = [health.fault("a", at) for at in (0.0, 1.0, 2.0, 90.0)]
    assert [s.pause_s for s in sentences] == pytest.approx([0.1, 0.2, 0.3, 0.1])
    assert [s.first for s in sentences] == [True, False, False, True]
    assert health.faults("a") == 4 and health.faults("b") == 0


def test_a_device_that_fails_again_and_again_retires_but_not_the_last_one() -> None:
    health = DeviceHealth(["a", "b"], FaultPolicy(faults=3))
    assert [health.fault("a", 0.0).retired for _ in range(3)] == [False, False, True]
    assert health.serving == {"b"}
    assert not any(health.fault("b", 0.0).retired for _ in range(20))
    assert health.serving == {"b"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"tries": 0},
        {"faults": 0},
        {"patience_s": 0.0},
        {"first_pause_s": 2.0, "last_pause_s": 1.0},
    ],
)
def test_impossible_policies_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        FaultPolicy(**wrong)  # type: ignore[arg-type]


def test_one_device_draws_by_the_single_schedule() -> None:
    roster = DeviceRoster(cpu_devices(3, 3))
    ready = names(3)
    assert roster.take_group("cpu:1", ready, ready, 0.0) is None
    group = roster.take_group("cpu:0", ready, ready, 0.0)
    assert took(group) == ["cpu:0"]
    assert roster.take_group("cpu:0", ready, ready, 0.0) is None
    assert group is not None
    roster.release(group)
    assert took(roster.take_group("cpu:0", ready, ready, 0.0)) == ["cpu:0"]


def test_frames_alternate_between_devices_that_are_free() -> None:
    roster = DeviceRoster(cpu_devices(2, 2), FRAMES)
    ready = names(2)
    assert took(roster.take_group("cpu:0", ready, ready, 0.0)) == ["cpu:0"]
    assert took(roster.take_group("cpu:1", ready, ready, 0.0)) == ["cpu:1"]
    busy = DeviceRoster(cpu_devices(2, 2), FRAMES)
    assert took(busy.take_group("cpu:1", ready, frozenset({"cpu:1"}), 0.0)) == ["cpu:1"]


def test_frames_strictly_in_turn_wait_for_it() -> None:
    roster = DeviceRoster(
        cpu_devices(2, 2), Schedule("strict", split=FRAMES.split, shares=Shares.EQUAL)
    )
    ready = names(2)
    first = roster.take_group("cpu:0", ready, ready, 0.0)
    assert first is not None
    roster.release(first)
    assert roster.take_group("cpu:0", ready, ready, 0.0) is None
    assert took(roster.take_group("cpu:1", ready, ready, 0.0)) == ["cpu:1"]


def test_devices_that_are_gone_are_left_out() -> None:
    roster = DeviceRoster(cpu_devices(3, 3), BANDS)
    two = frozenset({"cpu:0", "cpu:2"})
    assert took(roster.take_group("cpu:0", two, two, 0.0)) == ["cpu:0", "cpu:2"]
    nobody: frozenset[str] = frozenset()
    assert roster.take_group("cpu:0", nobody, nobody, 0.0) is None


def test_a_schedule_by_names_goes_on_with_those_that_are_there() -> None:
    chosen = DeviceChoice(Pick.NAMED, names=("cpu:1", "cpu:2"))
    roster = DeviceRoster(cpu_devices(3, 3), Schedule("named", split=BANDS.split, devices=chosen))
    for there, expected in (
        ({"cpu:0", "cpu:2"}, ["cpu:2"]),
        ({"cpu:0"}, ["cpu:0"]),
    ):
        group = roster.take_group(expected[0], there, there, 0.0)
        assert took(group) == expected
        assert group is not None
        roster.release(group)


@pytest.mark.parametrize("last", ["cpu:0", "cpu:1", "cpu:2"])
def test_the_last_device_of_a_list_draws_and_helps_nobody(last: str) -> None:
    chosen = DeviceChoice(Pick.NAMED, names=("cpu:1", "cpu:2"))
    schedule = Schedule("helped", devices=chosen, helpers=1, overlap=(Stage.ENCODE,))
    roster = DeviceRoster(cpu_devices(3, 3), schedule)
    assert took(roster.take_group(last, {last}, {last}, 0.0)) == [last]


def test_a_schedule_that_cannot_be_drawn_is_refused_and_the_old_one_stays() -> None:
    roster = DeviceRoster(cpu_devices(2, 2))
    with pytest.raises(SettingsError, match="simulated, but not drawn; use order: depth"):
        roster.set_schedule(Schedule("mine", split=(Split(SplitBy.SHARD, order=Order.DEALT),)))
    missing = DeviceChoice(Pick.NAMED, names=("cpu:7",))
    with pytest.raises(SettingsError, match=r"names the device cpu:7; there are: cpu:0, cpu:1"):
        roster.set_schedule(Schedule("mine", devices=missing))
    assert roster.schedule.name == "single"


def test_devices_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        DeviceRoster([Device("cpu:0"), Device("cpu:0")])


def test_devices_come_with_late_frames_and_go_with_early_ones() -> None:
    policy = ElasticPolicy(target_fps=10, most=3, grow_after=4, shrink_after=8)
    roster = DeviceRoster(cpu_devices(3, 3), BANDS, policy)
    ready = names(3)
    assert roster.in_use(ready) == ("cpu:0",)
    for _ in range(4):
        roster.adapt(Load(1.9, 1, True), ready)
    assert roster.in_use(ready) == ("cpu:0", "cpu:1")
    assert took(roster.take_group("cpu:0", ready, ready, 0.0)) == ["cpu:0", "cpu:1"]
    for _ in range(8):
        roster.adapt(Load(0.1, 1, False), ready)
    assert roster.in_use(ready) == ("cpu:0",)
    assert roster.decision is not None and "1 device would take 20.0 ms" in roster.decision.reason


def test_alternating_frames_are_judged_by_how_often_they_end() -> None:
    policy = ElasticPolicy(target_fps=10, least=2, most=3, grow_after=4, shrink_after=8)
    roster = DeviceRoster(cpu_devices(3, 3), FRAMES, policy)
    for _ in range(4):
        roster.adapt(Load(1.9, roster.group_count(names(3), 0.0), False), names(3))
    assert roster.in_use(names(3)) == ("cpu:0", "cpu:1")
    for _ in range(4):
        roster.adapt(Load(2.9, roster.group_count(names(3), 0.0), True), names(3))
    assert roster.in_use(names(3)) == ("cpu:0", "cpu:1", "cpu:2")


def test_no_more_devices_are_added_than_a_schedule_can_use() -> None:
    policy = ElasticPolicy(target_fps=10, most=3, grow_after=4, shrink_after=8)
    roster = DeviceRoster(cpu_devices(3, 3), SINGLE, policy)
    for _ in range(9):
        roster.adapt(Load(5.0, 1, True), names(3))
    assert roster.in_use(names(3)) == ("cpu:0",)
    assert roster.decision is not None and roster.decision.overloaded
