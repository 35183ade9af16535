"""The order in which chunks leave, and that it is worked out piece by piece."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scene_store.demands import Tier
from scene_store.eviction import least_used_first
from tests.store.forests import random_forest
from tests.store.simulated_loader import SimulatedLoader
from tests.store.test_residency import budgets_between, even_costs


@settings(max_examples=40)
@given(st.integers(0, 1 << 16), st.integers(0, 3000), st.integers(1, 2000))
def test_by_tier_then_use_then_children_first(seed: int, count: int, moments: int) -> None:
    random = np.random.default_rng(seed)
    chunks = np.sort(random.permutation(10_000)[:count])
    tiers = random.integers(0, 3, count).astype(np.uint8)
    last_used = random.integers(0, moments, count).astype(float)
    last_used[random.random(count) < 0.1] = -np.inf
    order = list(least_used_first(chunks, tiers, last_used))
    expected = chunks[np.lexsort((-chunks, last_used, tiers))]
    assert order == expected.tolist()


def test_a_full_device_gives_way_chunk_by_chunk_to_all_that_is_in_view() -> None:
    """Many more than are sorted at a time, each the child of one that may go after it."""
    tree = random_forest(3, depth=8, branching=5, leaf_share=0)
    costs = even_costs(tree)
    loader = SimulatedLoader.open(tree, costs, budgets_between(tree, costs, 0.5), max_loads=64)
    leaves = np.flatnonzero(tree.is_leaf)
    third = len(leaves) // 3
    assert third > 600
    for turn, wants in enumerate((leaves[:third], leaves[-third:], leaves[:third])):
        loader.now = float(turn)
        needed = sorted({up for leaf in wants.tolist() for up in (leaf, *tree.ancestors(leaf))})
        loader.carry_out(loader.residency.update(needed, needed, [], loader.now))
        loader.finish_all()
        loader.check()
        assert set(needed) <= loader.device
        # Nothing goes in vain.
        assert turn == 0 or loader.device_bytes > 0.9 * loader.residency.budgets.device_bytes
    assert loader.residency.stats().tally.evicted > third


def test_a_parent_goes_after_its_children_for_the_same_need() -> None:
    tree = random_forest(5, depth=2, branching=4, leaf_share=0)
    costs = even_costs(tree)
    loader = SimulatedLoader.open(tree, costs, budgets_between(tree, costs, 1.0))
    everything = list(range(len(tree)))
    loader.carry_out(loader.residency.update(everything, everything, [], 0.0))
    loader.finish_all()
    loader.carry_out(loader.residency.update([], [], [], 1.0))
    roots = int(costs.device[tree.roots].sum())
    budgets = budgets_between(tree, costs, 0.0)
    assert budgets.device_bytes == roots
    loader.carry_out(loader.residency.set_budgets(budgets, 2.0))  # checks the order
    assert loader.device == set(tree.roots.tolist())
    assert all(loader.residency.tier(chunk) is Tier.RECENT for chunk in everything[1:])
