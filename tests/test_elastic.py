"""How many devices hold a frame rate: it converges, holds what can be held, and never swings."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.elastic import ElasticPolicy

POLICY = ElasticPolicy(target_fps=50.0, most=8, grow_after=4, shrink_after=12)  # 20 ms


def run(
    policy: ElasticPolicy,
    fixed_ms: float,
    work_ms: float,
    present: int,
    *,
    noise: float = 0.0,
    frames: int = 400,
    seed: int = 0,
) -> list[int]:
    """The number of devices after each frame, of frames that take ``fixed + work / devices``."""
    chance = random.Random(seed)
    window: list[float] = []
    counts = []
    for _ in range(frames):
        ms = (fixed_ms + work_ms / present) * (1 + noise * (2 * chance.random() - 1))
        window.append(ms)
        wanted = policy.decide(window, present, policy.most).wanted
        if wanted != present:
            present, window = wanted, []
        counts.append(present)
    return counts


@given(
    st.floats(0.0, 15.0),
    st.floats(1.0, 150.0),
    st.integers(1, 8),
    st.floats(0.0, 0.09),
    st.integers(0, 5),
)
def test_it_converges_and_never_swings(
    fixed_ms: float, work_ms: float, start: int, noise: float, seed: int
) -> None:
    """With constant work it grows or shrinks, never one after the other, but for noise at start."""
    counts = run(POLICY, fixed_ms, work_ms, start, noise=noise, seed=seed)
    changes = [b - a for a, b in zip([start, *counts], counts, strict=False) if b != a]
    assert all(change > 0 for change in changes) or all(change < 0 for change in changes)
    assert len(set(counts[-100:])) == 1


@given(st.floats(0.0, 15.0), st.floats(1.0, 150.0), st.integers(1, 8))
def test_it_holds_what_can_be_held_with_no_more_than_needed(
    fixed_ms: float, work_ms: float, start: int
) -> None:
    final = run(POLICY, fixed_ms, work_ms, start)[-1]

    def holds(devices: int) -> bool:
        return fixed_ms + work_ms / devices <= POLICY.target_ms

    needed = next((n for n in range(1, POLICY.most + 1) if holds(n)), POLICY.most)
    assert final >= needed
    if start <= needed:
        assert final == needed, "growing asks for no more than are needed"


def test_release_waits_for_a_long_quiet_time() -> None:
    counts = run(POLICY, 1.0, 10.0, 4, frames=40)
    assert counts[10] == 4 and counts[11] == 3 and counts[22] == 3 and counts[23] == 2


def test_growth_is_at_once_as_much_as_is_certain() -> None:
    decision = POLICY.decide([60.0] * 4, 1, 8)
    assert decision.wanted == 3 and not decision.overloaded
    assert decision.reason == "4 of 4 frames took over 20.0 ms (60.0 ms): 2 more"


def test_a_few_late_frames_are_no_reason() -> None:
    assert POLICY.decide([10.0, 90.0, 10.0, 10.0], 2, 8).wanted == 2
    assert POLICY.decide([10.0, 90.0, 90.0, 10.0], 2, 8).wanted > 2


def test_overload_is_said_when_all_devices_are_not_enough() -> None:
    decision = POLICY.decide([50.0] * 4, 8, 8)
    assert decision.wanted == 8 and decision.overloaded
    assert "with all 8 devices" in decision.reason


@pytest.mark.parametrize(
    ("present", "available", "wanted"), [(4, 2, 2), (1, 8, 2), (3, 3, 3), (9, 20, 8)]
)
def test_limits_come_before_frames(present: int, available: int, wanted: int) -> None:
    assert replace(POLICY, least=2).decide([], present, available).wanted == wanted


def test_nothing_is_decided_on_few_frames() -> None:
    decision = POLICY.decide([500.0] * 3, 1, 8)
    assert decision.wanted == 1 and decision.reason == "too few frames to tell: 3 of 4"


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_fps": 0.0},
        {"least": 0},
        {"least": 3, "most": 2},
        {"shrink_below": 1.0},
        {"late_share": 1.0},
        {"grow_after": 0},
        {"grow_after": 70},
    ],
)
def test_impossible_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ElasticPolicy(**wrong)  # type: ignore[arg-type]
