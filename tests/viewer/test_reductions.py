"""How moving pictures are reduced, on made-up machines and scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from viewer.reductions import (
    BALANCE_PX,
    CostModel,
    DetailLaw,
    Reduction,
    ReductionController,
    balanced,
    scale_ladder,
)

TARGET_MS = 33.3
FULL_PIXELS = 1280 * 720
MILLION = (1_000_000,)
THINNED = (4_000_000, 1_300_000, 440_000)


@dataclass(frozen=True)
class Machine:
    """Costs of a full picture of a made-up scene on a made-up machine, by what causes them."""

    gaussians_ms: float
    pixels_ms: float
    both_ms: float = 0.0

    def cost_ms(self, share: float, scale: float) -> float:
        both = math.sqrt(share) * scale
        return self.gaussians_ms * share + self.pixels_ms * scale**2 + self.both_ms * both


@dataclass(frozen=True)
class View:
    """Of a streamed scene of a million: all that shows, and how that goes down with the error."""

    visible: int
    exponent: float

    def wanted(self, reduction: Reduction) -> int:
        error_px = max(1.0, reduction.error_px / reduction.scale)
        return max(1000, round(self.visible * math.pow(error_px, -self.exponent)))


def settle(
    machine: Machine, counts: tuple[int, ...] = MILLION, frames: int = 60, target_ms: float = 33.3
) -> list[Reduction]:
    """What is chosen over time for a scene in memory, with a rest now and then."""
    controller = ReductionController(0.25, counts)
    chosen = []

    def observe(reduction: Reduction) -> None:
        share = counts[reduction.detail] / counts[0]
        controller.observe(reduction, machine.cost_ms(share, reduction.scale))

    for frame in range(frames):
        observe(controller.current)
        if frame % 10 == 0:
            observe(Reduction(1.0))
        chosen.append(controller.choose(target_ms, FULL_PIXELS))
    return chosen


def stream(
    machine: Machine, view: View, frames: int = 80, noise: float = 0.0, fading: float = 1.0
) -> list[tuple[Reduction, float]]:
    """What is chosen over time for a streamed scene, and what it costs without the noise."""
    controller, random = ReductionController(0.25, MILLION), np.random.default_rng(1)
    chosen = []
    for _ in range(frames):
        reduction = controller.current
        wanted = view.wanted(reduction)
        drawn = round(fading * wanted)
        cost_ms = machine.cost_ms(drawn / MILLION[0], reduction.scale)
        noisy_ms = cost_ms * math.exp(noise * random.standard_normal())
        controller.observe(reduction, noisy_ms, drawn, wanted)
        controller.choose(TARGET_MS, FULL_PIXELS)
        chosen.append((reduction, cost_ms))
    return chosen


def test_the_ladder_ends_at_its_bounds() -> None:
    ladder = scale_ladder(0.25)
    assert ladder[0] == 1.0
    assert ladder[-1] == pytest.approx(0.25)
    assert all(0.93 < low / high < 0.96 for high, low in pairwise(ladder))
    assert scale_ladder(1.0) == (1.0, 1.0)


def test_pixels_and_detail_go_down_together_and_then_detail_alone() -> None:
    ways = balanced(0.25, 1.0)
    assert ways[0] == Reduction(1.0, 0, 1.0)
    for finer, coarser in pairwise(ways):
        assert coarser.scale <= finer.scale
        assert coarser.error_px / coarser.scale > finer.error_px / finer.scale
    for way in ways:
        if way.error_px > 1.0 and way.scale > 0.25:
            lost_by_pixels = 1 / way.scale - 1
            assert way.error_px / way.scale == pytest.approx(BALANCE_PX * lost_by_pixels)
    assert all(way.error_px >= 3.0 for way in balanced(0.25, 3.0))


def test_the_model_tells_what_costs() -> None:
    model = CostModel()
    machine = Machine(40, 60, 80)
    for share, scale in ((1.0, 0.5), (1.0, 1.0), (0.3, 0.7), (0.1, 1.0), (0.1, 0.3)) * 8:
        model.observe(share, scale**2, machine.cost_ms(share, scale))
    for share, scale in ((1.0, 0.3), (0.5, 0.5), (0.05, 1.0)):
        assert model.predict_ms(share, scale**2) == pytest.approx(
            machine.cost_ms(share, scale), rel=0.05
        )


def test_the_law_is_learned_when_the_error_changes() -> None:
    law = DetailLaw()
    for error_px in (4.0, 8.0, 4.0, 8.0, 16.0, 8.0):
        law.observe(error_px, round(1e6 * error_px**-1.6))
    assert law.wanted(4.0) == pytest.approx(1e6 * 4.0**-1.6, rel=0.1)
    law.observe(8.0, 5000)  # another view: as steep, until it shows otherwise
    assert law.wanted(4.0) == pytest.approx(5000 * 2**1.6, rel=0.1)


def test_a_cheap_scene_is_drawn_in_full_while_moving() -> None:
    assert settle(Machine(3, 10), THINNED)[-1] == Reduction(1.0)
    assert stream(Machine(3, 10), View(1_000_000, 1.0))[-1][0] == Reduction(1.0, 0, 1.0)


@pytest.mark.parametrize("per_gaussian_ms", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("per_pixel_ms", [50.0, 200.0])
def test_a_heavy_scene_holds_the_target_rate(per_gaussian_ms: float, per_pixel_ms: float) -> None:
    machine = Machine(per_gaussian_ms, per_pixel_ms)
    cost_ms = machine.cost_ms(1.0, settle(machine)[-1].scale)
    nothing_gained = 1.25 * machine.cost_ms(1.0, 0.25)
    assert 0.7 * TARGET_MS < cost_ms <= max(1.1 * TARGET_MS, nothing_gained)


@pytest.mark.parametrize("exponent", [0.4, 0.8, 1.7])
@pytest.mark.parametrize("fading", [1.0, 1.3])
@pytest.mark.parametrize(
    "machine", [Machine(150, 20, 0), Machine(20, 60, 80), Machine(40, 20, 150)]
)
def test_a_streamed_scene_holds_the_target_rate(
    machine: Machine, exponent: float, fading: float
) -> None:
    costs = [cost_ms for _, cost_ms in stream(machine, View(1_000_000, exponent), fading=fading)]
    assert all(0.6 * TARGET_MS < cost_ms <= 1.1 * TARGET_MS for cost_ms in costs[40:])


@pytest.mark.parametrize("exponent", [0.4, 0.8, 1.7])
@pytest.mark.parametrize("rests", [False, True])
def test_a_scene_in_memory_that_comes_to_be_streamed_gives_up_detail_too(
    exponent: float, rests: bool
) -> None:
    machine, view = Machine(150, 20, 80), View(1_000_000, exponent)
    controller = ReductionController(0.25, (50_000,))
    for _ in range(20):
        reduction = controller.current
        controller.observe(reduction, machine.cost_ms(0.05, reduction.scale))
        controller.choose(TARGET_MS, FULL_PIXELS)
    controller.set_counts(MILLION)
    costs = []
    for frame in range(60):
        still = rests and frame % 10 == 0
        reduction = Reduction(1.0) if still else controller.current
        wanted = view.visible if reduction.error_px == 0 else view.wanted(reduction)
        cost_ms = machine.cost_ms(wanted / MILLION[0], reduction.scale)
        controller.observe(reduction, cost_ms, wanted, wanted)
        if not still:
            controller.choose(TARGET_MS, FULL_PIXELS)
            costs.append(cost_ms)
    assert all(cost_ms <= 1.1 * TARGET_MS for cost_ms in costs[5:])
    assert controller.current.error_px > 0


@pytest.mark.parametrize("exponent", [0.4, 0.8, 1.7])
def test_a_noisy_machine_hardly_makes_it_hunt(exponent: float) -> None:
    frames = stream(Machine(40, 20, 150), View(1_000_000, exponent), frames=300, noise=0.15)
    ways = [way for way, _ in frames[60:]]
    assert sum(a != b for a, b in pairwise(ways)) <= 12
    assert max(way.scale for way in ways) / min(way.scale for way in ways) < 1.45
    mean_ms = np.mean([cost_ms for _, cost_ms in frames[60:]])
    assert 0.7 * TARGET_MS < mean_ms < 1.1 * TARGET_MS


def test_a_turn_to_a_heavy_view_is_answered_at_once() -> None:
    controller, machine = ReductionController(0.25, MILLION), Machine(100, 20)
    for view, frames in ((View(50_000, 0.3), 30), (View(1_000_000, 0.8), 4)):
        for _ in range(frames):
            reduction = controller.current
            wanted = view.wanted(reduction)
            cost_ms = machine.cost_ms(wanted / MILLION[0], reduction.scale)
            controller.observe(reduction, cost_ms, wanted, wanted)
            controller.choose(TARGET_MS, FULL_PIXELS)
    assert cost_ms <= 1.25 * TARGET_MS


def test_a_hopeless_scene_stops_at_the_lowest_scale() -> None:
    assert settle(Machine(0, 5000))[-1].scale < 0.3
    last, _ = stream(Machine(0, 5000), View(1_000_000, 1.0))[-1]
    assert last.scale < 0.3


def test_pixels_are_not_given_up_for_nothing() -> None:
    """Where Gaussians take 100 ms and pixels 20, blurring the picture would not help."""
    assert settle(Machine(100, 20))[-1].scale >= 0.5


def test_coarse_levels_are_the_last_resort() -> None:
    fitting = settle(Machine(10, 200), THINNED)[-1]
    assert fitting.detail == 0 and fitting.scale < 0.5
    heavy = Machine(100, 10)
    chosen = settle(heavy, THINNED)[-1]
    assert chosen.detail > 0
    assert heavy.cost_ms(THINNED[chosen.detail] / THINNED[0], chosen.scale) <= 1.1 * TARGET_MS


def test_choices_settle_without_flicker() -> None:
    for machine in (Machine(5, 120), Machine(100, 10), Machine(30, 30)):
        assert len(set(settle(machine, THINNED)[20:])) == 1
        assert len({way for way, _ in stream(machine, View(1_000_000, 1.2))[40:]}) == 1


def test_one_slow_frame_is_forgotten() -> None:
    machine = Machine(10, 60)
    controller = ReductionController(0.25)
    chosen = []
    for frame in range(60):
        hiccup = 4 if frame == 30 else 1
        controller.observe(
            controller.current, hiccup * machine.cost_ms(1, controller.current.scale)
        )
        chosen.append(controller.choose(TARGET_MS, FULL_PIXELS))
    assert chosen[29] == chosen[-1]


def test_an_unbalanced_choice_is_balanced_without_time_to_gain() -> None:
    """All pixels of few Gaussians lose more than fewer pixels of many, at the same cost."""
    counts = (500_000, 125_000)
    machine, controller = Machine(20, 20), ReductionController(0.25, counts)
    for _ in range(20):
        for way in (Reduction(1.0, 1), Reduction(0.25), Reduction(0.25, 1)):
            controller.observe(way, machine.cost_ms(counts[way.detail] / counts[0], way.scale))
    controller.current = before = Reduction(1.0, 1)
    chosen = [controller.choose(25.0, FULL_PIXELS) for _ in range(10)]
    assert chosen[0] == before, "it waits for evidence"
    assert chosen[-1].detail == 0 and chosen[-1] == chosen[-2]


def test_losing_the_coarser_levels_returns_to_what_is_left() -> None:
    controller = ReductionController(0.25, (100, 10))
    controller.current = Reduction(0.5, 1)
    controller.set_counts((100,))
    assert controller.current == Reduction(0.5, 0)


def test_a_view_that_needs_few_gaussians_is_not_drawn_coarsely() -> None:
    """An error that saves nothing is not made for the sake of the rate."""
    last, cost_ms = stream(Machine(20, 25), View(100_000, 0.0))[-1]
    assert last.scale > 0.9 and cost_ms <= 1.1 * TARGET_MS
