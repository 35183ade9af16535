"""Where a picture is cut: after some frames all parts take equally long, whatever costs what."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from rendering.part_balance import MOST_VIEWS, PartBalance
from rendering.part_costs import BINS, DAMPING, PartCosts


def settle(
    cost_below: Callable[[float], float], weights: list[float], frames: int = 25, noise: float = 0.0
) -> list[float]:
    """What parts take in the end, if what is before a share of the whole costs so much."""
    random = np.random.default_rng(4)
    shares = (np.cumsum(weights) / np.sum(weights))[:-1].tolist()
    costs, times = PartCosts.even(), []
    for _ in range(frames):
        ends = [0.0, *costs.cuts(shares), 1.0]
        spans = list(pairwise(ends))
        took = np.diff([cost_below(end) for end in ends])
        times = (took / weights).tolist()
        costs = costs.after(
            spans, (took * random.uniform(1 - noise, 1 + noise, len(took))).tolist()
        )
    assert costs.bins.sum() == pytest.approx(1.0) and len(costs.bins) == BINS
    return times


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 0.4], [1.0, 1.0, 0.5, 0.25]])
@pytest.mark.parametrize("power", [0.25, 1.0, 4.0])
def test_parts_end_together_after_some_frames(weights: list[float], power: float) -> None:
    """Where the beginning costs more than the end, and the other way round."""
    times = settle(lambda share: share**power, weights)
    assert max(times) < 1.1 * min(times)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 0.5, 0.5]])
def test_parts_end_together_though_each_repeats_something(weights: list[float]) -> None:
    shares = (np.cumsum(weights) / np.sum(weights))[:-1].tolist()
    costs, times = PartCosts.even(), np.zeros(len(weights))
    for _ in range(25):
        spans = list(pairwise([0.0, *costs.cuts(shares), 1.0]))
        took = np.array([0.1 + high**2 - low**2 for low, high in spans])
        times = took / weights
        costs = costs.after(spans, took.tolist())
    assert max(times) < 1.1 * min(times)


def test_parts_end_about_together_where_times_are_noisy() -> None:
    times = settle(lambda share: share**0.5, [1.0, 1.0], noise=0.3)
    assert max(times) < 1.5 * min(times)


def test_one_frame_that_hung_does_not_spoil_the_balance() -> None:
    ends = [(0.0, 0.5), (0.5, 1.0)]
    after = PartCosts.even().after(ends, [1e9, 1.0])
    (cut,) = after.cuts([0.5])
    assert 0.3 < cut < 0.5
    assert PartCosts.even().after(ends, [0.0, 0.0]).cuts([0.5]) == [0.5]


def test_a_frame_corrects_a_part_of_the_error() -> None:
    after = PartCosts.even().after([(0.0, 0.5), (0.5, 1.0)], [3.0, 1.0])
    assert after.bins[0] / after.bins[-1] == pytest.approx(3.0**DAMPING)
    assert 0 < DAMPING < 1


def test_costs_are_of_a_client_and_an_eye() -> None:
    balance = PartBalance()
    spans = [(0.5, 1.0), (0.0, 0.5)]
    balance.learn("a", 1, spans, [1.0, 3.0])
    assert balance.of("a", 1).cuts([0.5])[0] < 0.5
    for client, eye in (("a", 0), ("b", 1)):
        assert balance.of(client, eye).cuts([0.5]) == [0.5]


def test_of_parts_of_a_picture_nothing_is_learnt() -> None:
    balance = PartBalance()
    balance.learn("a", 0, [(0.0, 0.5)], [1.0])
    balance.learn("a", 0, [(0.5, 1.0), (0.0, 0.4)], [1.0, 2.0])
    assert len(balance) == 0


def test_views_that_nobody_draws_are_forgotten() -> None:
    balance = PartBalance()
    spans = [(0.0, 0.5), (0.5, 1.0)]
    for client in ("first", *map(str, range(MOST_VIEWS - 1)), "first", "another"):
        balance.learn(client, 0, spans, [2.0, 1.0])
    assert len(balance) == MOST_VIEWS
    assert balance.of("first", 0).cuts([0.5])[0] < 0.5
    assert balance.of("0", 0).cuts([0.5]) == [0.5]
