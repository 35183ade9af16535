"""The device budget: arithmetic on what a card says and frames were seen to take."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.device_memory import (
    LEAST_RESERVE_BYTES,
    DeviceMemory,
    ScratchPeak,
    budget_beside_frames,
    device_budget_bytes,
    estimated_scratch_bytes,
    lowered_budget_bytes,
    reserve_bytes,
)

GIB = 2**30
SIZES = st.integers(0, 200 * GIB)


def test_the_budget_is_what_is_left_of_what_can_be_had() -> None:
    memory = DeviceMemory(total=24 * GIB, free=14 * GIB, ours=4 * GIB)
    assert device_budget_bytes(memory, 2 * GIB) == 16 * GIB - 24 * GIB // 20


def test_another_process_on_the_card_counts() -> None:
    alone = device_budget_bytes(DeviceMemory(24 * GIB, 23 * GIB), GIB)
    beside = device_budget_bytes(DeviceMemory(24 * GIB, 3 * GIB), GIB)
    assert alone - beside == 20 * GIB
    assert device_budget_bytes(DeviceMemory(24 * GIB, GIB), GIB) == 0


def test_what_the_scene_has_already_does_not_lower_its_budget() -> None:
    before = device_budget_bytes(DeviceMemory(8 * GIB, 7 * GIB, 0), GIB)
    after = device_budget_bytes(DeviceMemory(8 * GIB, 3 * GIB, 4 * GIB), GIB)
    assert before == after


@given(total=SIZES, free=SIZES, ours=SIZES, scratch=SIZES)
def test_pages_scratch_and_reserve_fit_the_card(
    total: int, free: int, ours: int, scratch: int
) -> None:
    budget = device_budget_bytes(DeviceMemory(total, free, ours), scratch)
    assert budget >= 0
    if budget:
        assert budget + scratch + reserve_bytes(total) <= min(total, free + ours)


def test_a_small_card_keeps_a_reserve_too() -> None:
    assert reserve_bytes(2 * GIB) == LEAST_RESERVE_BYTES
    assert reserve_bytes(80 * GIB) == 4 * GIB


def test_estimates_grow_with_the_work() -> None:
    small = estimated_scratch_bytes(1_000_000, 1920 * 1080)
    assert small < estimated_scratch_bytes(2_000_000, 1920 * 1080)
    assert small < estimated_scratch_bytes(1_000_000, 3840 * 2160)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not here")
def test_the_estimate_is_of_the_arrays_of_two_eyes() -> None:
    """All of them seen by both, twice as many pairs: what a frame has at the same time."""
    from rendering.fused_kernels.layout import SPLAT_COLUMNS

    count = 1000
    arrays = 2 * count * (4 * int(SPLAT_COLUMNS.value) + 4 + 4)
    lists, places = 2 * count * (4 + 4), 2 * count * 4
    tiles_summed = 2 * count * (4 + 8)
    pairs = 4 * count * (4 + 4 + 4 + 8 + 4)  # and what is sorted, its indices, and in order
    taken = arrays + lists + places + tiles_summed + pairs
    assert taken < estimated_scratch_bytes(count, 0) < 2 * taken


@given(reach=SIZES, scratch=SIZES, budget=SIZES, least=SIZES)
def test_what_frames_were_seen_to_take_is_left_to_them(
    reach: int, scratch: int, budget: int, least: int
) -> None:
    left = budget_beside_frames(reach, scratch, budget, least)
    assert min(budget, least) <= left <= budget
    assert left + scratch <= reach or left <= least
    assert left == budget or left + scratch >= reach, "no more is given up than frames need"


@given(held=SIZES, budget=SIZES, least=SIZES)
def test_a_lowered_budget_is_below_what_there_was_and_not_below_the_least(
    held: int, budget: int, least: int
) -> None:
    lowered = lowered_budget_bytes(held, budget, least)
    assert lowered <= budget
    assert lowered >= min(budget, least)
    assert lowered <= max(held, least)


@pytest.mark.parametrize(("peaks", "most"), [((), 0), ((5, 9, 7), 9)])
def test_the_largest_frame_is_remembered(peaks: tuple[int, ...], most: int) -> None:
    scratch = ScratchPeak()
    for peak in peaks:
        scratch.observe(100 + peak, 100)
    assert scratch.bytes == most


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_pages_that_went_since_the_peak_are_no_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a lowered budget would look like larger frames, which would lower it again."""
    import torch

    from rendering.memory_cuda import FRAMES_A_LOOK, ScratchMeter

    peak = held = 1000

    def reset(device: torch.device) -> None:
        nonlocal peak
        peak = held

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    meter = ScratchMeter(torch.device("cuda:0"), lambda: held)
    for frame in range(4 * FRAMES_A_LOOK):
        peak = max(peak, held + 70)
        meter.frame_drawn()
        if frame == FRAMES_A_LOOK // 2:
            held = 300
    assert meter.peak_bytes == 70
