"""The interactive policy, driven by plain numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from viewer.pacing import (
    REPEAT_S,
    STALLED_S,
    CostModel,
    FramePlan,
    Pacer,
    PacingPolicy,
    Reduction,
    ReductionController,
    full_size,
    moving_size,
    scale_ladder,
)

POLICY = PacingPolicy(target_fps=30, min_scale=0.25, max_side=1920, refine_delay_s=0.15)
CANVAS = (1280, 720)
FULL = Reduction(1.0, 0)
FULL_PIXELS = 1280 * 720
MILLION = (1_000_000,)
THINNED = (4_000_000, 1_300_000, 440_000)


class Machine:
    """Costs of a made-up scene on a made-up machine."""

    def __init__(self, per_gaussian_ms: float, per_pixel_ms: float) -> None:
        self.per_gaussian_ms, self.per_pixel_ms = per_gaussian_ms, per_pixel_ms

    def cost_ms(self, reduction: Reduction, counts: tuple[int, ...] = MILLION) -> float:
        return (
            self.per_gaussian_ms * counts[reduction.detail] / counts[0]
            + self.per_pixel_ms * reduction.scale**2
        )


def settle(
    machine: Machine, counts: tuple[int, ...] = MILLION, frames: int = 60
) -> list[Reduction]:
    """What is chosen over time, after one full picture as every start shows it."""
    controller = ReductionController(POLICY.min_scale, counts)
    chosen = []
    for frame in range(frames):
        controller.observe(controller.current, machine.cost_ms(controller.current, counts))
        if frame == 0:
            controller.observe(Reduction(1.0, 0), machine.cost_ms(Reduction(1.0, 0)))
        chosen.append(controller.choose(1e3 / POLICY.target_fps, FULL_PIXELS))
    return chosen


def test_the_ladder_ends_at_its_bounds() -> None:
    ladder = scale_ladder(0.25)
    assert ladder[0] == 1.0
    assert ladder[-1] == pytest.approx(0.25)
    assert all(0.8 < low / high < 0.9 for high, low in pairwise(ladder))
    assert scale_ladder(1.0) == (1.0, 1.0)


def test_the_model_tells_gaussians_from_pixels() -> None:
    model = CostModel()
    for share, area in ((1.0, 0.25), (1.0, 1.0), (0.3, 0.5)) * 5:
        model.observe(share, area, 40 * share + 60 * area)
    assert model.predict_ms(1.0, 0.0) == pytest.approx(40, rel=0.05)
    assert model.predict_ms(0.0, 1.0) == pytest.approx(60, rel=0.05)


def test_a_cheap_scene_is_drawn_in_full_while_moving() -> None:
    assert settle(Machine(3, 10), THINNED)[-1] == Reduction(1.0, 0)


@pytest.mark.parametrize("per_gaussian_ms", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("per_pixel_ms", [50.0, 200.0])
def test_a_heavy_scene_holds_the_target_rate(per_gaussian_ms: float, per_pixel_ms: float) -> None:
    machine = Machine(per_gaussian_ms, per_pixel_ms)
    cost_ms = machine.cost_ms(settle(machine)[-1])
    assert 0.6 * 33.3 < cost_ms <= 1.25 * 33.3


def test_a_hopeless_scene_stops_at_the_lowest_scale() -> None:
    assert settle(Machine(0, 5000))[-1].scale == pytest.approx(0.25)


def test_pixels_are_not_given_up_for_nothing() -> None:
    """Where Gaussians take 100 ms and pixels 20, blurring the picture would not help."""
    assert settle(Machine(100, 20))[-1].scale == 1.0


def test_detail_is_given_up_where_gaussians_cost() -> None:
    machine = Machine(100, 10)
    chosen = settle(machine, THINNED)[-1]
    assert chosen.detail > 0
    assert chosen.scale > 0.7
    assert machine.cost_ms(chosen, THINNED) <= 1.25 * 33.3


def test_neither_pixels_nor_gaussians_are_given_up_alone() -> None:
    """Few Gaussians on many pixels look as dull as many Gaussians on few pixels."""
    controller = ReductionController(0.25, THINNED)

    def sharpness(scale: float, detail: int) -> float:
        return controller.sharpness(Reduction(scale, detail), FULL_PIXELS)

    assert sharpness(0.84, 1) > sharpness(1.0, 2) > sharpness(0.25, 0)


def test_choices_settle_without_flicker() -> None:
    for machine in (Machine(5, 120), Machine(100, 10), Machine(30, 30)):
        assert len(set(settle(machine, THINNED)[20:])) == 1


def test_one_slow_frame_is_forgotten() -> None:
    machine = Machine(10, 60)
    controller = ReductionController(POLICY.min_scale)
    chosen = []
    for frame in range(60):
        hiccup = 4 if frame == 30 else 1
        controller.observe(controller.current, hiccup * machine.cost_ms(controller.current))
        chosen.append(controller.choose(33.3, FULL_PIXELS))
    assert chosen[29] == chosen[-1]


def test_an_unbalanced_choice_is_balanced_without_time_to_gain() -> None:
    """All pixels of few Gaussians are less sharp than fewer pixels of many, at the same cost."""
    counts, budget_ms = (500_000, 125_000), 25.0
    controller = ReductionController(0.25, counts)

    def cost_ms(reduction: Reduction) -> float:
        return 20.0 * counts[reduction.detail] / counts[0] + 20.0 * reduction.scale**2

    for _ in range(20):
        for known in (Reduction(1.0, 1), Reduction(0.25, 0), Reduction(0.25, 1)):
            controller.observe(known, cost_ms(known))
    controller.current = before = Reduction(1.0, 1)
    chosen = [controller.choose(budget_ms, FULL_PIXELS) for _ in range(10)]
    assert chosen[0] == before, "it waits for evidence"
    assert chosen[-1].detail == 0 and chosen[-1] == chosen[-2]
    assert cost_ms(chosen[-1]) <= 1.02 * cost_ms(before)
    assert controller.sharpness(chosen[-1], FULL_PIXELS) > 1.05 * controller.sharpness(
        before, FULL_PIXELS
    )


def test_losing_the_coarser_levels_returns_to_what_is_left() -> None:
    controller = ReductionController(0.25, (100, 10))
    controller.current = Reduction(0.5, 1)
    controller.set_counts((100,))
    assert controller.current == Reduction(0.5, 0)


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
    assert refined == FramePlan(1280, 720, POLICY.still_quality, True, first.version, FULL)
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
    """Four moving browsers draw smaller pictures, so that all hold the rate."""

    def settled_width(sharers: int) -> int:
        pacer, widths = Pacer(POLICY), [0]
        for step in range(60):
            pacer.change(step, CANVAS)
            plan = start(pacer, step)
            pacer.drawn(plan, 80 * plan.reduction.scale**2, sharers)
            widths.append(plan.width)
        return widths[-1]

    assert settled_width(4) < 0.8 * settled_width(1)


def test_the_largest_resolution_can_be_lowered() -> None:
    pacer = Pacer(POLICY)
    pacer.max_scale = 0.5
    pacer.change(0.0, CANVAS)
    start(pacer, 0.0)
    refined = start(pacer, 1.0)
    assert (refined.width, refined.height) == (640, 360)


def still_of_a_stream(pacer: Pacer, now_s: float, *, complete: bool, fading: bool = False) -> None:
    """Draw the resting picture that is due, of a scene that is only partly there."""
    plan = pacer.plan(now_s)
    assert isinstance(plan, FramePlan) and plan.still
    pacer.start(plan, now_s)
    pacer.streamed(complete=complete, fading=fading)
    pacer.drawn(plan, 20.0, gaussians=1000)


def resting_pacer() -> Pacer:
    """One whose camera has been at rest since 10 s; its moving picture was drawn."""
    pacer = Pacer(PacingPolicy())
    pacer.change(10.0, (640, 360))
    plan = pacer.plan(10.0)
    assert isinstance(plan, FramePlan) and not plan.still
    pacer.start(plan, 10.0)
    pacer.streamed(complete=False, fading=True)
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


def test_what_came_while_a_picture_was_drawn_is_not_forgotten() -> None:
    pacer = resting_pacer()
    plan = pacer.plan(11.0)
    assert isinstance(plan, FramePlan)
    pacer.start(plan, 11.0)
    pacer.arrived()
    pacer.streamed(complete=False, fading=False)
    assert isinstance(pacer.plan(11.0 + REPEAT_S), FramePlan)


def test_another_form_of_the_scene_is_drawn_once_and_sharp() -> None:
    pacer = resting_pacer()
    plan = pacer.plan(11.0)
    assert isinstance(plan, FramePlan)
    pacer.start(plan, 11.0)
    pacer.replaced()
    pacer.streamed(complete=True, fading=False)  # of the form before
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


def test_a_view_that_needs_few_gaussians_is_not_drawn_coarsely() -> None:
    """A limit that a streamed scene does not reach costs nothing, so it is not lowered."""
    counts = (4_000_000, 2_000_000, 1_000_000, 500_000)
    controller = ReductionController(0.25, counts)
    for _ in range(20):
        reduction = controller.current
        drawn = min(150_000, counts[reduction.detail])
        cost_ms = 5.0 + 10.0 * drawn / 150_000 + 15.0 * reduction.scale**2
        controller.observe(reduction, cost_ms, drawn)
        controller.choose(33.0, 1280 * 720)
    assert controller.current.detail == 0
    assert controller.current.scale > 0.8


def test_a_view_that_needs_many_is_drawn_from_fewer() -> None:
    counts = (4_000_000, 2_000_000, 1_000_000, 500_000)
    controller = ReductionController(0.25, counts)
    for _ in range(20):
        reduction = controller.current
        drawn = counts[reduction.detail]
        cost_ms = 100.0 * drawn / counts[0] + 15.0 * reduction.scale**2
        controller.observe(reduction, cost_ms, drawn)
        controller.choose(33.0, 1280 * 720)
    assert controller.current.detail >= 2
