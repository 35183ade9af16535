"""The interactive policy, driven by plain numbers."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest

from configs.settings import Settings, ViewerSettings
from rendering.base import RasterSettings
from rendering.frame import StreamStats
from viewer.pacing import (
    REPEAT_S,
    STALLED_S,
    FramePlan,
    Pacer,
    PacingPolicy,
    full_size,
    moving_size,
    time_for_picture_ms,
)
from viewer.reductions import FIRST_SCALE, WHOLE
from viewer.server import pacing_policy

POLICY = PacingPolicy(target_fps=30, min_scale=0.25, max_side=1920, refine_delay_s=0.15)
CANVAS = (1280, 720)


def test_sizes_are_multiples_of_sixteen_and_keep_the_shape() -> None:
    width, height = moving_size((1283, 717), 0.59)
    assert (width % 16, height % 16) == (0, 0)
    assert width / height == pytest.approx(1283 / 717, rel=0.05)
    assert moving_size((1283, 717), 1.0) == (1283, 717)
    assert moving_size((10, 9), 0.5) == (10, 9)


def test_full_size_respects_the_longest_side() -> None:
    assert full_size((3840, 2160), 1920) == (1920, 1080)
    assert full_size((800, 600), 1920) == (800, 600)
    assert full_size((800, 600), 1920, scale=0.5) == (400, 300)
    assert full_size((5000, 1), 1920) == (1920, 1)


def start(pacer: Pacer, now_s: float) -> FramePlan:
    plan = pacer.plan(now_s)
    assert isinstance(plan, FramePlan), f"expected a picture at {now_s}, got {plan}"
    pacer.start(plan, now_s)
    return plan


def test_every_bound_can_be_set() -> None:
    viewer: dict[str, Any] = {
        "target_fps": 17.0,
        "min_scale": 0.3,
        "max_side": 700,
        "moving_quality": 33,
        "still_quality": 77,
        "moving_stop": 0.07,
        "moving_drift_px": 0.9,
    }
    policy = pacing_policy(Settings(viewer=ViewerSettings(**viewer, refine_delay_ms=250)))
    chosen = {"refine_delay_s": 0.25, "first_scale": FIRST_SCALE}
    assert asdict(policy) == {**viewer, **chosen}
    assert pacing_policy(Settings()) == PacingPolicy()


def test_only_moving_pictures_are_drawn_with_less_care() -> None:
    policy = PacingPolicy(moving_stop=0.05, moving_drift_px=0.25)
    wanted = RasterSettings(antialiased=True)
    pacer = Pacer(policy)
    pacer.change(10.0, CANVAS)
    moving = start(pacer, 10.0)
    settings = policy.raster_settings(wanted, moving)
    assert settings.transmittance_stop == 0.05
    assert settings.reuse.drift_px == 0.25
    assert settings.reuse.angle_rad > 0
    assert settings.resolution == moving.reduction.scale
    assert settings.antialiased
    still = start(pacer, 10.15)
    assert policy.raster_settings(wanted, still) == wanted


def test_nothing_is_drawn_before_the_browser_said_where_it_looks() -> None:
    assert Pacer(POLICY).plan(0.0) is None


def test_a_view_is_drawn_quickly_then_fully_then_no_more() -> None:
    pacer = Pacer(POLICY)
    pacer.change(10.0, CANVAS)
    first = start(pacer, 10.0)
    assert not first.still
    assert first.width < 1280
    assert first.jpeg_quality == POLICY.moving_quality
    assert pacer.plan(10.05) == pytest.approx(0.10)
    refined = start(pacer, 10.15)
    assert refined == FramePlan(1280, 720, POLICY.still_quality, True, first.version, WHOLE)
    assert pacer.plan(10.2) is None
    assert pacer.plan(99.0) is None


def test_a_full_picture_that_takes_long_comes_in_steps() -> None:
    """Twice the pixels a side each, until the last step would save less than half of the time."""
    pacer = Pacer(PacingPolicy(min_scale=0.05, first_scale=0.1))
    pacer.change(0.0, CANVAS)
    now_s, scales = 0.0, []
    for _ in range(8):
        plan = pacer.plan(now_s)
        if isinstance(plan, float):
            now_s += plan
            continue
        if plan is None:
            break
        pacer.start(plan, now_s)
        scales.append((plan.still, plan.reduction.scale, plan.repeated))
        cost_s = 20.0 * plan.reduction.scale**2
        now_s += cost_s
        pacer.drawn(plan, 1e3 * cost_s)
    assert pacer.plan(now_s) is None
    moving, *still = scales
    assert not moving[0]
    assert all(is_still for is_still, _, _ in still)
    assert [repeated for _, _, repeated in still] == [False] * len(still)
    sides = [scale for _, scale, _ in still]
    assert sides[-1] == 1.0
    assert 2 <= len(sides) <= 5
    assert all(after >= 1.4 * before for before, after in pairwise([moving[1], *sides]))


def test_a_full_picture_that_is_quick_comes_at_once() -> None:
    pacer = Pacer(PacingPolicy())
    pacer.change(0.0, CANVAS)
    plan = start(pacer, 0.0)
    pacer.drawn(plan, 100.0)
    assert start(pacer, 1.0).reduction == WHOLE


def test_motion_puts_the_refinement_off() -> None:
    pacer = Pacer(POLICY)
    for step in range(20):
        now_s = 0.1 * step
        pacer.change(now_s, CANVAS)
        assert not start(pacer, now_s).still
    assert isinstance(pacer.plan(1.9 + 0.14), float)
    assert start(pacer, 1.9 + 0.151).still


def test_motion_during_the_refinement_is_drawn_next() -> None:
    pacer = Pacer(POLICY)
    pacer.change(0.0, CANVAS)
    start(pacer, 0.0)
    assert start(pacer, 0.2).still
    pacer.change(0.25, CANVAS)
    assert not start(pacer, 0.25).still


def test_the_target_rate_is_not_exceeded() -> None:
    pacer = Pacer(POLICY)
    pacer.change(0.0, CANVAS)
    start(pacer, 0.0)
    pacer.change(0.01, CANVAS)
    assert pacer.plan(0.01) == pytest.approx(1 / 30 - 0.01)


def test_an_abandoned_picture_is_drawn_again() -> None:
    pacer = Pacer(POLICY)
    pacer.change(0.0, CANVAS)
    start(pacer, 0.0)
    start(pacer, 0.2)
    pacer.abandon()
    assert isinstance(pacer.plan(0.4), FramePlan)


def test_on_a_slow_link_drawing_waits_so_that_the_picture_is_fresh() -> None:
    """With 200 ms of transport and 20 ms of drawing, drawing starts about 180 ms later."""
    pacer = Pacer(POLICY)
    now_s = 0.0
    for _ in range(40):
        pacer.change(now_s, CANVAS)
        plan = start(pacer, now_s)
        pacer.drawn(plan, 20.0)
        pacer.sent(now_s + 0.02)
        pacer.acknowledged(now_s + 0.22)
        now_s += 0.3
    pacer.change(now_s, CANVAS)
    start(pacer, now_s)
    pacer.sent(now_s + 0.02)
    pacer.change(now_s + 0.03, CANVAS)
    wait_s = pacer.plan(now_s + 0.03)
    assert isinstance(wait_s, float)
    assert wait_s == pytest.approx(0.17, abs=0.01)


def test_browsers_in_motion_share_the_time() -> None:
    """A browser that gets a quarter of the time draws smaller pictures, to hold the rate."""

    def settled_width(share: float) -> int:
        pacer, widths = Pacer(POLICY), [0]
        for step in range(60):
            pacer.change(step, CANVAS)
            plan = start(pacer, step)
            pacer.drawn(plan, 80 * plan.reduction.scale**2, share=share)
            widths.append(plan.width)
        return widths[-1]

    assert settled_width(0.25) < 0.6 * settled_width(1.0)


def test_the_time_for_a_picture_is_a_share_of_the_interval() -> None:
    assert time_for_picture_ms(1.0, 20.0, 50.0) == 50.0
    assert time_for_picture_ms(0.25, 20.0, 50.0) == 12.5
    # Encoding holds up this browser alone, which still has no more than the interval.
    assert time_for_picture_ms(0.25, 20.0, 50.0, encode_ms=5.0) == 17.5
    assert time_for_picture_ms(0.95, 20.0, 50.0, encode_ms=5.0) == 50.0
    # Who can take but five a second needs a quarter of the devices for full ones.
    assert time_for_picture_ms(0.25, 5.0, 50.0) == 50.0


def test_requests_say_what_is_wanted_and_how_much_they_are_reduced() -> None:
    pacer, plan = Pacer(POLICY), None
    for step in range(60):
        pacer.change(step, CANVAS)
        plan = start(pacer, step)
        pacer.drawn(plan, 80 * plan.reduction.scale**2)
    assert plan is not None and plan.rate_hz == pytest.approx(POLICY.target_fps)
    assert plan.reduced_to == pytest.approx(plan.reduction.scale**2, rel=0.4)
    assert 0.2 < plan.reduced_to < 0.7
    for step in range(60, 90):
        pacer.sent(step)
        pacer.acknowledged(step + 0.2)
        pacer.change(step + 0.5, CANVAS)
        plan = start(pacer, step + 0.5)
    assert plan.rate_hz == pytest.approx(5.0, rel=0.05), "what the link can bring"


def test_the_largest_resolution_can_be_lowered() -> None:
    pacer = Pacer(POLICY)
    pacer.max_scale = 0.5
    pacer.change(0.0, CANVAS)
    start(pacer, 0.0)
    refined = start(pacer, 1.0)
    assert (refined.width, refined.height) == (640, 360)


def of_a_stream(*, complete: bool, fading: bool) -> StreamStats:
    return StreamStats(complete, fading, 0, 0, 0.0, 1, (1000,), 0.1, 1000)


def still_of_a_stream(pacer: Pacer, now_s: float, *, complete: bool, fading: bool = False) -> None:
    """Draw the resting picture that is due, of a scene that is only partly there."""
    plan = pacer.plan(now_s)
    assert isinstance(plan, FramePlan) and plan.still
    pacer.start(plan, now_s)
    pacer.drawn(plan, 20.0, stream=of_a_stream(complete=complete, fading=fading))


def resting_pacer() -> Pacer:
    """One whose camera has been at rest since 10 s; its moving picture was drawn."""
    pacer = Pacer(PacingPolicy())
    pacer.change(10.0, (640, 360))
    plan = pacer.plan(10.0)
    assert isinstance(plan, FramePlan) and not plan.still
    pacer.start(plan, 10.0)
    pacer.drawn(plan, 20.0, stream=of_a_stream(complete=False, fading=True))
    return pacer


def test_an_incomplete_picture_is_repeated_when_something_came() -> None:
    pacer = resting_pacer()
    still_of_a_stream(pacer, 11.0, complete=False)
    assert pacer.plan(11.01) == pytest.approx(STALLED_S - 0.01)
    pacer.arrived()
    assert pacer.plan(11.01) == pytest.approx(REPEAT_S - 0.01), "not at once"
    still_of_a_stream(pacer, 11.0 + REPEAT_S, complete=True)
    pacer.arrived()  # for somebody else
    assert pacer.plan(20.0) is None, "a complete picture is final"


def test_pictures_at_rest_leave_others_their_share() -> None:
    for share, again_s in ((1.0, REPEAT_S), (0.5, REPEAT_S), (0.25, 0.16), (0.02, 2.0)):
        pacer = resting_pacer()
        plan = pacer.plan(11.0)
        assert isinstance(plan, FramePlan) and plan.still
        pacer.start(plan, 11.0)
        incomplete = of_a_stream(complete=False, fading=True)
        pacer.drawn(plan, 40.0, 10.0, share=share, stream=incomplete)
        assert pacer.plan(11.05) == pytest.approx(again_s - 0.05)
        assert isinstance(pacer.plan(11.001 + again_s), FramePlan)


def test_what_came_while_a_picture_was_drawn_is_not_forgotten() -> None:
    pacer = resting_pacer()
    plan = pacer.plan(11.0)
    assert isinstance(plan, FramePlan)
    pacer.start(plan, 11.0)
    pacer.arrived()
    pacer.drawn(plan, 20.0, stream=of_a_stream(complete=False, fading=False))
    assert isinstance(pacer.plan(11.0 + REPEAT_S), FramePlan)


def test_another_form_of_the_scene_is_drawn_once_and_sharp() -> None:
    pacer = resting_pacer()
    plan = pacer.plan(11.0)
    assert isinstance(plan, FramePlan)
    pacer.start(plan, 11.0)
    pacer.replaced()
    # Of the form before:
    pacer.drawn(plan, 20.0, stream=of_a_stream(complete=True, fading=False))
    again = pacer.plan(11.0 + REPEAT_S)
    assert isinstance(again, FramePlan) and again.still
    still_of_a_stream(pacer, 11.0 + REPEAT_S, complete=True)
    assert pacer.plan(20.0) is None


def test_a_fading_picture_is_repeated_until_it_is_not() -> None:
    pacer = resting_pacer()
    now_s = 11.0
    for _ in range(3):
        still_of_a_stream(pacer, now_s, complete=True, fading=True)
        assert pacer.plan(now_s + 0.02) == pytest.approx(REPEAT_S - 0.02)
        now_s += REPEAT_S
    still_of_a_stream(pacer, now_s, complete=True)
    assert pacer.plan(now_s + 100) is None


def test_an_incomplete_picture_is_tried_again_now_and_then() -> None:
    pacer = resting_pacer()
    still_of_a_stream(pacer, 11.0, complete=False)
    assert isinstance(pacer.plan(11.0 + STALLED_S), FramePlan)
