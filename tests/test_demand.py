"""What clients want of the engine, and what each gets: pure sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.demand import LINGER_S, PAUSE, Demand, Want, fair_shares
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from splat.camera import Camera

CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, 6)
GROUPS = st.one_of(st.floats(0.0, 5.0), st.just(math.inf))
WANTS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        Want, st.sampled_from([0.5, 1.0, 2.0, 4.0]), GROUPS, st.sampled_from([1.0, math.inf])
    ),
    min_size=1,
)


def moving(client: str, rate_hz: float = 20.0, reduced_to: float = 1.0) -> FrameRequest:
    return FrameRequest(client, 0, (CAMERA,), rate_hz=rate_hz, reduced_to=reduced_to)


def still(client: str) -> FrameRequest:
    return FrameRequest(client, 0, (CAMERA,), urgency=Urgency.STILL, preemptible=True)


def export(client: str) -> FrameRequest:
    return FrameRequest(client, 0, (CAMERA,), urgency=Urgency.EXPORT, replaces=False)


def after(*drawn: tuple[FrameRequest, float], at_s: float = 0.0) -> Demand:
    """What is known when each request was drawn in such a time."""
    demand = Demand()
    for request, seconds in drawn:
        demand.asked(request, at_s)
        demand.drew(request, seconds, at_s)
    return demand


@given(WANTS, st.integers(1, 6))
def test_nothing_is_left_that_somebody_wants_and_nobody_gets_more_than_that(
    wants: dict[str, Want], capacity: int
) -> None:
    shares = fair_shares(wants, capacity)
    assert shares.keys() == wants.keys()
    assert all(0 <= shares[name] <= wants[name].usable + 1e-9 for name in wants)
    usable = sum(want.usable for want in wants.values())
    assert sum(shares.values()) == pytest.approx(min(capacity, usable))


@given(WANTS, st.integers(1, 6))
def test_who_lacks_something_gets_as_much_by_weight_as_anybody(
    wants: dict[str, Want], capacity: int
) -> None:
    shares = fair_shares(wants, capacity)
    by_weight = {name: shares[name] / wants[name].weight for name in wants}
    for name, want in wants.items():
        if shares[name] < want.usable - 1e-9:
            assert by_weight[name] >= max(by_weight.values()) - 1e-9


def test_four_who_want_all_get_a_quarter_and_those_who_want_little_leave_the_rest() -> None:
    equal = {name: Want(2.0, math.inf) for name in "abcd"}
    assert fair_shares(equal, 1) == dict.fromkeys("abcd", 0.25)
    modest = equal | {name: Want(2.0, 0.05) for name in "bcd"}
    assert fair_shares(modest, 1)["a"] == pytest.approx(0.85)
    assert fair_shares(equal, 2) == dict.fromkeys("abcd", 0.5)


def test_a_client_alone_has_all_and_a_crowd_divides_it() -> None:
    demand = after(*((moving(name), 0.05) for name in "abcd"))
    assert demand.share("a", (), 1, 0.1) == 0.25
    demand.forget("b")
    assert demand.share("a", (), 1, 0.1) == pytest.approx(1 / 3)
    # The others have been at rest for long.
    demand.asked(moving("a"), 1.0)
    assert demand.share("a", (), 1, 1.0 + LINGER_S) == 1.0


def test_who_waits_for_long_is_still_there() -> None:
    demand = after((moving("a"), 0.05), (moving("b"), 0.05))
    demand.asked(moving("a"), 10.0)
    assert demand.share("a", (moving("b"),), 1, 10.0) == 0.5


def test_weights_of_urgency_count() -> None:
    demand = after((moving("a"), 1.0))
    assert demand.share("a", [still("b")], 1, 0.1) == pytest.approx(2 / 3)
    assert demand.share("a", [export("b")], 1, 0.1) == pytest.approx(0.8)
    assert demand.share("a", [export("b")], 2, 0.1) == 1.0, "an export may use all the rest"


def test_demand_is_of_full_quality_however_much_pictures_are_reduced() -> None:
    full = after((moving("a"), 0.1)).load((), 1, 0.0)
    reduced = after((moving("a", reduced_to=0.25), 0.025)).load((), 1, 0.0)
    assert full.wanted == reduced.wanted == pytest.approx(2.0)
    assert full.overloaded and reduced.overloaded


def test_overload_is_told_of_one_device_as_of_several() -> None:
    demand = after((moving("a"), 0.02), (moving("b"), 0.02))  # 0.4 groups each
    assert not demand.load((), 1, 0.0).overloaded
    demand = after(*((moving(name), 0.02) for name in "abc"))
    load = demand.load((), 1, 0.0)
    assert load.overloaded and load.wanted == pytest.approx(1.2) and load.capacity == 1
    assert not demand.load((), 2, 0.0).overloaded
    assert not demand.load((), 1, 2 * LINGER_S).overloaded, "when they rest"


def test_a_camera_at_rest_wants_no_rate() -> None:
    demand = after((moving("a"), 0.1))
    demand.asked(still("a"), 0.1)
    assert demand.load([still("a")], 1, 0.1).wanted == 0
    assert demand.share("a", [still("a")], 1, 0.1) == 1.0


def test_what_other_groups_took_says_nothing_of_these() -> None:
    demand = after((moving("a"), 0.09))
    demand.regrouped(0.1)
    assert demand.load((), 1, 0.1).wanted == 0, "nothing is known"
    demand.drew(moving("a"), 0.09, 0.15)
    assert demand.load((), 1, 0.15).wanted == 0, "it was begun by the old group"
    demand.drew(moving("a"), 0.03, 0.19)
    assert demand.load((), 1, 0.19).wanted == pytest.approx(0.6)


def test_a_picture_at_rest_that_still_runs_is_not_what_a_moving_camera_wants() -> None:
    demand = after((moving("a"), 0.02), (moving("b"), 0.02))
    demand.asked(still("a"), 0.1)
    demand.asked(moving("a"), 0.2)
    demand.drew(moving("a"), 0.02, 0.2)
    load = demand.load([still("a")], 1, 0.2)
    assert load.wanted == pytest.approx(0.8) and not load.overloaded
    assert demand.share("b", [still("a")], 1, 0.2) == pytest.approx(0.6)


def test_who_rests_before_a_part_of_the_scene_is_there_will_ask_again() -> None:
    demand = after((moving("a"), 0.1))
    demand.asked(still("b"), 0.0)
    demand.drew(still("b"), 0.2, 0.2, is_final=False)
    pause_s = LINGER_S + 0.2 * PAUSE
    demand.asked(moving("a"), 0.19 + pause_s)
    assert demand.share("a", (), 1, 0.19 + pause_s) == pytest.approx(2 / 3)
    assert demand.share("a", (), 1, 0.21 + pause_s) == 1, "it had its time"
    demand.drew(still("b"), 0.2, 2.0, is_final=False)
    demand.asked(moving("a"), 2.0)
    demand.asked(moving("b"), 2.0)
    assert demand.share("a", (), 1, 2.0) == 1, "it moves, and what it wants is not known yet"
    demand.asked(still("b"), 2.1)
    demand.drew(still("b"), 0.2, 2.1, is_final=False)
    demand.forget("b")
    assert demand.share("a", (), 1, 2.1) == 1


def test_who_rests_gets_what_those_who_move_leave_or_a_third() -> None:
    assert after((moving("a"), 0.02)).share("b", (), 1, 0.1) == pytest.approx(0.6)
    assert after((moving("a"), 0.2)).share("b", (), 1, 0.1) == pytest.approx(1 / 3)


def test_a_little_too_much_is_no_overload() -> None:
    assert not after((moving("a"), 0.052)).load((), 1, 0.0).overloaded
    assert after((moving("a"), 0.054)).load((), 1, 0.0).overloaded


def test_what_a_picture_costs_is_smoothed() -> None:
    demand = after((moving("a"), 0.01), (moving("a"), 0.02))
    assert 0.2 < demand.load((), 1, 0.0).wanted < 0.3
