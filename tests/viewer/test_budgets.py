"""How much memory a stream is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.device_memory import DeviceMemory, estimated_scratch_bytes, reserve_bytes
from scene_store.ledger import Budgets
from splat.errors import BudgetError
from viewer.budgets import (
    UNKNOWN_BYTES,
    choose_budgets,
    gpu_budget_bytes,
    gpu_takes_whole,
    is_over,
    needs_of_whole,
    require_room,
    unkept_line,
)
from viewer.text import memory_size

GIB = 1 << 30
SIZES = st.integers(1, 64 * GIB)


@given(
    host=st.none() | SIZES,
    device=st.none() | SIZES,
    available=st.none() | st.integers(0, 256 * GIB),
)
def test_both_fit_together_or_are_refused(
    host: int | None, device: int | None, available: int | None
) -> None:
    try:
        budgets = choose_budgets(host, device, available)
    except BudgetError:
        assert available is not None and (host or 0) + (device or 0) > available
        return
    assert host is None or budgets.host_bytes == host
    assert device is None or budgets.device_bytes == device
    assert budgets.host_bytes >= 0 and budgets.device_bytes >= 0
    if available is not None:
        assert budgets.host_bytes + budgets.device_bytes <= available


@pytest.mark.parametrize("available", [None, 8 * GIB, 64 * GIB])
def test_something_is_left_for_others(available: int | None) -> None:
    budgets = choose_budgets(None, None, available)
    free = UNKNOWN_BYTES if available is None else available
    assert 0.5 * free < budgets.host_bytes + budgets.device_bytes < 0.7 * free
    assert budgets.device_bytes > budgets.host_bytes


def test_one_budget_leaves_the_other_a_share() -> None:
    budgets = choose_budgets(1 * GIB, None, 20 * GIB)
    assert budgets.host_bytes == GIB
    assert budgets.device_bytes == 11 * GIB  # 60 % are usable
    assert choose_budgets(None, 19 * GIB, 20 * GIB).host_bytes == GIB


def test_the_error_names_what_was_asked_and_what_there_is() -> None:
    with pytest.raises(
        BudgetError, match=r"--host-budget 6 GiB and --device-budget 3 GiB: .* 8 GiB"
    ):
        choose_budgets(6 * GIB, 3 * GIB, 8 * GIB)
    with pytest.raises(BudgetError, match=r"^--device-budget 9 GiB:"):
        choose_budgets(None, 9 * GIB, 8 * GIB)


def test_memory_is_written_in_powers_of_two() -> None:
    sizes = (512, 2048, 3 << 19, 1000 << 20, 3 << 29)
    assert [memory_size(size) for size in sizes] == [
        "512 bytes",
        "2 KiB",
        "1.5 MiB",
        "1000 MiB",
        "1.5 GiB",
    ]


def test_what_reading_takes_beside_the_chunks_is_set_aside() -> None:
    overhead = GIB // 8
    assert choose_budgets(GIB, 2 * GIB, 8 * GIB, overhead) == Budgets(GIB - overhead, 2 * GIB)
    without, budgets = (
        choose_budgets(None, None, 8 * GIB),
        choose_budgets(None, None, 8 * GIB, overhead),
    )
    both = budgets.host_bytes + budgets.device_bytes
    assert both + overhead <= 8 * GIB
    assert both < without.host_bytes + without.device_bytes
    with pytest.raises(BudgetError, match=r"--host-budget 64 MiB: .* takes 128 MiB .* raise it"):
        choose_budgets(GIB // 16, None, 8 * GIB, overhead)


def test_a_scene_that_is_open_may_keep_what_it_has() -> None:
    budgets = Budgets(GIB, 3 * GIB)
    require_room(budgets, 2 * GIB, held=2 * GIB)
    require_room(budgets, None, held=0)
    with pytest.raises(BudgetError, match=r"1 GiB for the host and 3 GiB .* more than the 3.5 GiB"):
        require_room(budgets, 2 * GIB, held=3 * GIB // 2)


@pytest.mark.parametrize(
    ("host", "device", "over"),
    [
        (None, None, False),
        (10 * GIB, None, False),
        (10 * GIB - 1, None, True),
        (None, 3 * GIB, False),
        (None, 3 * GIB - 1, True),
        (10 * GIB, 3 * GIB, False),
        (10 * GIB, 1, True),
        (1, 3 * GIB, True),
    ],
)
def test_only_what_the_user_said_makes_a_scene_large(
    host: int | None, device: int | None, over: bool
) -> None:
    assert is_over(host, device, Budgets(10 * GIB, 3 * GIB)) == over


def test_a_whole_scene_takes_its_gaussians_and_what_their_reading_takes() -> None:
    plain, rich = needs_of_whole(1000, 0, 60.0), needs_of_whole(1000, 3, 152.0)
    assert (plain.device_bytes, rich.device_bytes) == (60_000, 152_000)
    assert 56_000 < plain.host_bytes < 2 * 56_000
    assert 236_000 < rich.host_bytes < 2 * 236_000


def test_a_budget_that_is_not_kept_is_named_with_what_is_taken_instead() -> None:
    line = unkept_line("a.ply", None, 64 << 20, 20_000_000, 2)
    assert line.startswith("a.ply: --device-budget 64 MiB: not kept")
    assert "about 6.065 GiB" in line and "belvedere build" in line and "--host" not in line
    both = unkept_line("a.ply", GIB, 64 << 20, 20_000_000, 2)
    assert "--host-budget 1 GiB and --device-budget 64 MiB" in both


def test_every_memory_has_the_devices_budget() -> None:
    alone = choose_budgets(None, None, 8 * GIB)
    three = choose_budgets(None, None, 8 * GIB, memories=3)
    assert three == Budgets(alone.host_bytes, alone.device_bytes // 3)
    assert choose_budgets(None, 2 * GIB, 8 * GIB, memories=3).device_bytes == 2 * GIB
    with pytest.raises(BudgetError, match=r"what 3 devices take must fit into the 8 GiB"):
        choose_budgets(None, 3 * GIB, 8 * GIB, memories=3)
    require_room(Budgets(GIB, 2 * GIB), 8 * GIB, 0, memories=3)
    with pytest.raises(BudgetError, match=r"3 GiB for each of 3 devices are more"):
        require_room(Budgets(GIB, 3 * GIB), 8 * GIB, 0, memories=3)


# GPUs


def test_a_gpu_takes_nothing_of_the_host() -> None:
    budgets = choose_budgets(None, None, 8 * GIB, memories=0, gpu_bytes=100 * GIB)
    assert budgets.device_bytes == 100 * GIB
    assert budgets.host_bytes == choose_budgets(None, None, 8 * GIB).host_bytes
    asked = choose_budgets(None, 90 * GIB, 8 * GIB, memories=0, gpu_bytes=100 * GIB)
    assert asked.device_bytes == 90 * GIB
    with pytest.raises(BudgetError, match=r"^--device-budget 101 GiB: the GPU has 100 GiB for a"):
        choose_budgets(None, 101 * GIB, 800 * GIB, memories=0, gpu_bytes=100 * GIB)
    with pytest.raises(BudgetError, match=r"^--host-budget 9 GiB: 8 GiB are available; lower it"):
        choose_budgets(9 * GIB, GIB, 8 * GIB, memories=0, gpu_bytes=100 * GIB)


@pytest.mark.parametrize("gpu_bytes", [GIB // 2, 100 * GIB])
def test_of_a_gpu_and_a_processor_the_smaller_counts(gpu_bytes: int) -> None:
    alone = choose_budgets(None, None, 8 * GIB)
    both = choose_budgets(None, None, 8 * GIB, memories=1, gpu_bytes=gpu_bytes)
    assert both.device_bytes == min(alone.device_bytes, gpu_bytes)
    with pytest.raises(BudgetError, match="must fit into the 8 GiB"):
        choose_budgets(None, 9 * GIB, 8 * GIB, memories=1, gpu_bytes=100 * GIB)


def test_an_open_scene_may_not_have_more_than_its_gpu() -> None:
    require_room(Budgets(GIB, 60 * GIB), 2 * GIB, 0, memories=0, gpu_bytes=60 * GIB)
    with pytest.raises(BudgetError, match=r"the GPU has 60 GiB .*; the budgets stay as they were"):
        require_room(Budgets(GIB, 61 * GIB), 2 * GIB, 0, memories=0, gpu_bytes=60 * GIB)
    with pytest.raises(BudgetError, match=r"^3 GiB for the host are more than the 2 GiB"):
        require_room(Budgets(3 * GIB, GIB), 2 * GIB, 0, memories=0, gpu_bytes=60 * GIB)


@given(
    total=st.integers(GIB, 200 * GIB),
    free_share=st.floats(0, 1),
    each=st.floats(40, 300),
    most=st.integers(1_000, 1_000_000_000),
)
def test_frames_of_a_gpu_have_room_beside_its_chunks(
    total: int, free_share: float, each: float, most: int
) -> None:
    """Whatever is drawn: as many as may be, or all that its memory holds."""
    memory, pixels = DeviceMemory(total, int(free_share * total)), 1_000_000
    budget = gpu_budget_bytes(memory, each, most, pixels)
    drawn = min(most, int(budget / each))
    taken = budget + estimated_scratch_bytes(drawn, pixels) if budget else 0
    assert (budget >= 0 and taken <= memory.free - reserve_bytes(total) + each) or not budget
    assert gpu_budget_bytes(memory, each, most // 2, pixels) >= budget


def test_a_whole_scene_needs_room_for_its_frames_too() -> None:
    free, each = DeviceMemory(24 * GIB, 20 * GIB), 150.0
    most = max(n for n in range(0, 100_000_000, 100_000) if gpu_takes_whole(free, n, each, 10**6))
    assert 30_000_000 < most < 20 * GIB / each / 2
    assert not gpu_takes_whole(DeviceMemory(24 * GIB, GIB), most, each, 10**6)
