"""The interactive policy, driven by plain numbers."""

from __future__ import annotations

import pytest

from viewer.pacing import (
    FrameCost,
    FramePlan,
    Pacer,
    PacingPolicy,
    ScaleController,
    full_size,
    moving_size,
    scale_ladder,
)

POLICY = PacingPolicy(target_fps=30, min_scale=0.25, max_side=1920, refine_delay_s=0.15)
CANVAS = (1280, 720)
FULL_PIXELS = 1280 * 720


def settle(cost_at_full_ms: float, fixed_ms: float = 0.0, frames: int = 60) -> list[float]:
    """Scales chosen while every pixel costs the same."""
    controller = ScaleController(POLICY.min_scale)
    scales = []
    for _ in range(frames):
        pixels = round(FULL_PIXELS * controller.scale**2)
        cost = FrameCost(fixed_ms, cost_at_full_ms * pixels / FULL_PIXELS)
        controller.observe(pixels, cost, FULL_PIXELS, 1e3 / POLICY.target_fps)
        scales.append(controller.scale)
    return scales


def test_the_ladder_ends_at_its_bounds() -> None:
    ladder = scale_ladder(0.25)
    assert ladder[0] == 1.0
    assert ladder[-1] == pytest.approx(0.25)
    assert all(0.8 < low / high < 0.9 for high, low in zip(ladder, ladder[1:], strict=False))
    assert scale_ladder(1.0) == (1.0, 1.0)


def test_a_cheap_scene_is_drawn_in_full_while_moving() -> None:
    assert settle(cost_at_full_ms=10)[-1] == 1.0


def test_a_heavy_scene_holds_the_target_rate() -> None:
    scale = settle(cost_at_full_ms=200)[-1]
    cost_ms = 200 * scale**2
    assert 0.6 * 33.3 < cost_ms <= 1.15 * 33.3


def test_a_hopeless_scene_stops_at_the_lowest_scale() -> None:
    assert settle(cost_at_full_ms=5000)[-1] == pytest.approx(0.25)


def test_fixed_costs_do_not_blur_the_picture_for_nothing() -> None:
    """With 100 ms of projection the target is lost; 60 ms of pixels are still granted."""
    scale = settle(cost_at_full_ms=60, fixed_ms=100)[-1]
    assert scale >= 0.8


def test_scales_settle_without_flicker() -> None:
    scales = settle(cost_at_full_ms=120, fixed_ms=5)
    assert len(set(scales[20:])) == 1


def test_one_slow_frame_does_not_change_a_settled_size_for_long() -> None:
    controller = ScaleController(POLICY.min_scale)
    for frame in range(60):
        pixels = round(FULL_PIXELS * controller.scale**2)
        pixel_ms = 90 * pixels / FULL_PIXELS * (3 if frame == 30 else 1)
        controller.observe(pixels, FrameCost(0, pixel_ms), FULL_PIXELS, 33.3)
        if frame == 29:
            before = controller.scale
    assert controller.scale == before


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
    assert refined == FramePlan(1280, 720, POLICY.still_quality, True, first.version)
    assert pacer.plan(10.2) is None
    assert pacer.plan(99.0) is None


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
        pacer.drawn(plan, FrameCost(20.0, 0.0))
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
    """Four moving browsers draw smaller pictures, so that all hold the rate."""

    def settled_width(sharers: int) -> int:
        pacer = Pacer(POLICY)
        plan = FramePlan(1, 1, 1, False, 0)
        for step in range(60):
            pacer.change(step, CANVAS)
            plan = start(pacer, step)
            pixel_ms = 80 * plan.width * plan.height / FULL_PIXELS
            pacer.drawn(plan, FrameCost(0, pixel_ms), sharers)
        return plan.width

    assert settled_width(4) < 0.8 * settled_width(1)


def test_the_largest_resolution_can_be_lowered() -> None:
    pacer = Pacer(POLICY)
    pacer.max_scale = 0.5
    pacer.change(0.0, CANVAS)
    start(pacer, 0.0)
    refined = start(pacer, 1.0)
    assert (refined.width, refined.height) == (640, 360)
