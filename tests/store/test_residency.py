"""Residency: budgets, leases, tiers and convergence, on random traces in simulated time."""

from __future__ import annotations

import random as random_module

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from scene_store.demands import Tier
from scene_store.failures import RetryPolicy
from scene_store.ledger import ALLOWED_MOVES, Budgets, ChunkCosts, ChunkState, Ledger
from scene_store.lod import LodLimits
from scene_store.residency import Residency
from scene_store.tree import LodTree
from splat.camera import Camera
from splat.errors import BudgetError
from tests.store.forests import leaves_below, overview, random_forest, random_view
from tests.store.simulated_loader import (
    PAGE_BYTES,
    PAGE_GAUSSIANS,
    SimulatedLoader,
    random_costs,
)
from tests.store.slow_select import projected_scales

PICKS = st.integers(0, 2**16)
FOREST_SEEDS = st.integers(0, 2**16)


def least_budgets(tree: LodTree, costs: ChunkCosts) -> Budgets:
    """The smallest that a scene can be opened with."""
    host = int(costs.encoded.max() + costs.decoded.max())
    return Budgets(host, int(costs.device[tree.roots].sum()))


def budgets_between(tree: LodTree, costs: ChunkCosts, share: float) -> Budgets:
    """From the least (0) to all of the scene in both memories (1)."""
    least = least_budgets(tree, costs)
    most = Budgets(least.host_bytes + int(costs.encoded.sum()), int(costs.device.sum()))
    return Budgets(
        int(least.host_bytes + share * (most.host_bytes - least.host_bytes)),
        int(least.device_bytes + share * (most.device_bytes - least.device_bytes)),
    )


def limits_of(residency: Residency, error_px: float = 0.5) -> LodLimits:
    """Those that fit the device."""
    pages = residency.budgets.device_bytes // PAGE_BYTES
    return LodLimits(error_px=error_px, max_pages=pages, page_gaussians=PAGE_GAUSSIANS)


class ResidencyTraces(RuleBasedStateMachine):
    """Frames, reads, failures, leases and budgets in any order."""

    loader: SimulatedLoader
    tree: LodTree
    cameras: list[Camera]
    host_was: int
    device_was: int

    @initialize(seed=FOREST_SEEDS, roots=st.integers(1, 3), share=st.sampled_from([0, 0.1, 0.4, 1]))
    def open(self, seed: int, roots: int, share: float) -> None:
        self.tree = random_forest(seed, roots=roots, depth=3, branching=4)
        costs = random_costs(self.tree, seed)
        self.loader = SimulatedLoader.open(
            self.tree, costs, budgets_between(self.tree, costs, share), seed=seed
        )
        self.cameras = [overview(self.tree)]
        self.host_was = self.device_was = 0
        self.loader.step()

    @rule(seed=PICKS, far=st.booleans(), predicted=st.none() | PICKS)
    def look(self, seed: int, far: bool, predicted: int | None) -> None:
        self.cameras = [overview(self.tree) if far else random_view(seed)]
        prefetch = None
        if predicted is not None:
            prefetch = self.loader.cut([random_view(predicted)], limits_of(self.loader.residency))
        cut = self.loader.look(self.cameras, limits_of(self.loader.residency), prefetch)
        self.check_coverage(cut.draw.tolist())

    @rule()
    def look_again(self) -> None:
        self.loader.look(self.cameras, limits_of(self.loader.residency))

    @precondition(lambda self: self.loader.reading)
    @rule(pick=PICKS)
    def finish_read(self, pick: int) -> None:
        self.loader.finish_read(pick % len(self.loader.reading))

    @precondition(lambda self: self.loader.decoding)
    @rule(pick=PICKS)
    def finish_decoding(self, pick: int) -> None:
        self.loader.finish_decoding(pick % len(self.loader.decoding))

    @rule()
    def finish_all(self) -> None:
        self.loader.finish_all()

    @precondition(lambda self: self.loader.reading)
    @rule(pick=PICKS, transient=st.booleans())
    def fail_read(self, pick: int, transient: bool) -> None:
        index = pick % len(self.loader.reading)
        self.loader.fail_read(index, transient or self.is_root(self.loader.reading[index]))

    @precondition(lambda self: self.loader.decoding)
    @rule(pick=PICKS, transient=st.booleans())
    def fail_decoding(self, pick: int, transient: bool) -> None:
        index = pick % len(self.loader.decoding)
        self.loader.fail_decoding(index, transient or self.is_root(self.loader.decoding[index]))

    def is_root(self, chunk: int) -> bool:
        """A lost root would end most traces early; it has a test of its own."""
        return chunk in self.tree.roots

    @rule()
    def lease_what_is_drawn(self) -> None:
        cut = self.loader.cut(self.cameras, limits_of(self.loader.residency))
        self.loader.lease(cut.draw.tolist())

    @rule()
    def release(self) -> None:
        self.loader.release()

    @rule(share=st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    def change_budgets(self, share: float) -> None:
        loader = self.loader
        budgets = budgets_between(self.tree, loader.costs, share)
        # The new limits count before the actions that keep them are carried out.
        loader.carry_out(loader.residency.set_budgets(budgets, loader.now))

    @rule(seconds=st.sampled_from([0.01, 0.5, 60.0]))
    def wait(self, seconds: float) -> None:
        self.loader.now += seconds
        self.loader.step()

    @invariant()
    def books_agree(self) -> None:
        self.loader.check()

    @invariant()
    def budgets_are_kept(self) -> None:
        """After a budget shrank, bytes may be over it for as long as they only fall."""
        loader, budgets = self.loader, self.loader.residency.budgets
        assert loader.host_bytes <= max(budgets.host_bytes, self.host_was)
        assert loader.device_bytes <= max(budgets.device_bytes, self.device_was)
        self.host_was, self.device_was = loader.host_bytes, loader.device_bytes

    @invariant()
    def only_leases_and_flights_stand_over_a_budget(self) -> None:
        loader, costs = self.loader, self.loader.costs
        if loader.device_bytes > loader.residency.budgets.device_bytes:
            kept = {up for chunk in [*loader.leased, *loader.decoding] for up in self.way(chunk)}
            kept |= set(self.tree.roots.tolist()) & loader.device
            assert loader.device <= kept
        held = loader.host_bytes - int(costs.decoded[loader.decoding].sum())
        if held > loader.residency.budgets.host_bytes:
            assert not loader.held

    def way(self, chunk: int) -> set[int]:
        return {chunk, *self.tree.ancestors(chunk)}

    def check_coverage(self, drawn: list[int]) -> None:
        """Each visible leaf under a resident root exactly once."""
        covered = [leaf for node in drawn for leaf in leaves_below(self.tree, node)]
        assert len(covered) == len(set(covered))
        scales = projected_scales(self.tree, self.cameras)
        for leaf in np.flatnonzero((scales >= 0) & self.tree.is_leaf).tolist():
            way = self.way(leaf)
            if min(way) in self.loader.device and all(scales[node] >= 0 for node in way):
                assert leaf in covered

    def teardown(self) -> None:
        if not hasattr(self, "cameras"):
            return
        loader = self.loader
        loader.release()
        limits = limits_of(loader.residency)
        cut = loader.stand_still(self.cameras, limits)
        self.books_agree()
        assert not loader.is_over_budget
        assert cut.complete
        assert loader.residency.settled
        self.check_that_loads_have_stopped(limits)

    def check_that_loads_have_stopped(self, limits: LodLimits) -> None:
        loader = self.loader
        before = (loader.reads_started, set(loader.device))
        for _ in range(3):
            loader.now += 100.0
            loader.look(self.cameras, limits)
            loader.finish_all()
        assert (loader.reads_started, loader.device) == before


ResidencyTraces.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestResidencyTraces = ResidencyTraces.TestCase


@settings(max_examples=30, deadline=None)
@given(seed=FOREST_SEEDS, share=st.sampled_from([0, 0.1, 0.5, 1]), first=PICKS, second=PICKS)
def test_a_still_camera_sees_the_same_wherever_it_came_from(
    seed: int, share: float, first: int, second: int
) -> None:
    """The ideal cut within the budget: that of a scene wholly in memory."""
    tree = random_forest(seed, depth=3, branching=4)
    costs = random_costs(tree, seed)
    views = [[overview(tree)], [random_view(first)], [random_view(second)], [overview(tree)]]
    loader = SimulatedLoader.open(tree, costs, budgets_between(tree, costs, share))
    limits = limits_of(loader.residency)
    cuts = [loader.stand_still(view, limits).draw.tolist() for view in views]
    assert cuts[0] == cuts[3]
    fresh = SimulatedLoader.open(tree, costs, budgets_between(tree, costs, share))
    assert fresh.stand_still(views[2], limits).draw.tolist() == cuts[2]


# --- Small scenes, by hand ------------------------------------------------------------------


def family(children: int = 3) -> LodTree:
    """A root and its children side by side; every chunk has one page."""
    total = 1 + children
    lo = np.array([[0, 0, 0]] + [[4 * i, 0, 0] for i in range(children)], np.float32)
    hi = lo + np.array([[4 * children, 1, 1]] + [[4, 1, 1]] * children, np.float32)
    return LodTree(
        lo=lo,
        hi=hi,
        max_scale=np.full(total, 0.1, np.float32),
        error=np.array([1.0] + [0.0] * children, np.float32),
        count=np.full(total, 10, np.int32),
        parent=np.array([-1] + [0] * children, np.int32),
        first_child=np.array([1] + [0] * children, np.int32),
        child_count=np.array([children] + [0] * children, np.int32),
        level=np.array([1] + [0] * children, np.int32),
    )


def even_costs(tree: LodTree) -> ChunkCosts:
    """10 bytes encoded, 5 more while being decoded, 100 on the device."""
    one = np.ones(len(tree), np.int64)
    return ChunkCosts(10 * one, 5 * one, 100 * one)


def opened(tree: LodTree, host: int = 1000, device: int = 1000) -> SimulatedLoader:
    """With the roots already there."""
    loader = SimulatedLoader.open(tree, even_costs(tree), Budgets(host, device))
    loader.step()
    loader.finish_all()
    return loader


def want(loader: SimulatedLoader, wants: list[int], prefetch: list[int] | None = None) -> None:
    loader.now += 1
    loader.carry_out(loader.residency.update(wants, wants, prefetch or [], loader.now))


def test_roots_come_without_being_asked_for() -> None:
    assert opened(family()).device == {0}


def test_reads_start_in_the_order_of_the_wants_and_ancestors_come_first() -> None:
    tree = random_forest(5, depth=3, branching=3, leaf_share=0)
    loader = SimulatedLoader.open(tree, even_costs(tree), Budgets(10**6, 10**6))
    leaf = int(np.flatnonzero(tree.is_leaf)[-1])
    want(loader, [leaf])
    assert loader.reading == [*reversed(tree.ancestors(leaf)), leaf][: len(loader.reading)]
    loader.finish_all()
    assert loader.device == {leaf, *tree.ancestors(leaf)}


def test_predictions_wait_for_what_is_in_view() -> None:
    loader = opened(family(8))
    want(loader, [3, 4], prefetch=[1, 2, 5, 6, 7])
    assert loader.reading == [3, 4, 1]  # one slot stays free
    loader.finish_all()
    assert loader.device == {0, 1, 2, 3, 4, 5, 6, 7}


def test_a_prediction_s_read_is_abandoned_for_what_is_in_view() -> None:
    loader = opened(family(8))
    want(loader, [], prefetch=[1, 2, 3])
    assert loader.reading == [1, 2, 3]
    want(loader, [4, 5], prefetch=[1, 2, 3])
    assert loader.reading == [1, 2, 3, 4]
    assert loader.cancelled == {3}
    loader.finish_read(2)
    assert loader.reading == [1, 2, 4, 5]


def test_recent_goes_before_predicted_and_the_least_recently_used_first() -> None:
    loader = opened(family(6), device=400)
    for chunk in (2, 1, 3):
        want(loader, [chunk])
        loader.finish_all()
    assert loader.device == {0, 1, 2, 3}
    want(loader, [4], prefetch=[2])
    loader.finish_all()
    assert loader.device == {0, 2, 3, 4}
    want(loader, [5], prefetch=[2])
    loader.finish_all()
    assert loader.device == {0, 2, 4, 5}


def test_what_is_wanted_as_much_is_never_evicted() -> None:
    loader = opened(family(6), device=300)
    want(loader, [1, 2, 3])
    loader.finish_all()
    want(loader, [3, 4, 2, 1])
    loader.finish_all()
    assert loader.device == {0, 1, 2}
    assert loader.held == {3, 4}


def test_a_lease_outlasts_demand_and_budget() -> None:
    loader = opened(family(4), device=300)
    want(loader, [1, 2])
    loader.finish_all()
    loader.lease([1, 1, 2])
    want(loader, [3, 4])
    loader.finish_all()
    assert loader.device == {0, 1, 2}
    loader.carry_out(loader.residency.set_budgets(Budgets(1000, 200), loader.now))
    assert loader.device == {0, 1, 2}
    loader.residency.release([1])
    loader.leased.remove(1)
    loader.step()
    assert loader.device == {0, 1, 2}
    loader.release()
    loader.finish_all()
    assert len(loader.device) == 2


def test_nothing_is_leased_that_is_not_there() -> None:
    loader = opened(family())
    with pytest.raises(ValueError, match="chunk 2 is not on the device"):
        loader.residency.lease([0, 2])
    with pytest.raises(ValueError, match="more often than leased"):
        loader.residency.release([0])
    assert loader.residency.stats().leased == 0


def test_what_nobody_wants_any_more_is_no_longer_read() -> None:
    loader = opened(family(6))
    want(loader, [1, 2, 3, 4, 5])
    assert loader.reading == [1, 2, 3, 4]
    want(loader, [2])
    assert loader.cancelled == {1, 3, 4}
    want(loader, [2, 3])
    while loader.reading:
        loader.finish_read()
    loader.finish_all()
    assert loader.device == {0, 2, 3}
    assert loader.residency.stats().tally.cancelled == 3


def test_a_failed_chunk_is_tried_again_after_longer_and_longer_waits() -> None:
    loader = opened(family())
    want(loader, [1])
    waits = []
    for _ in range(4):
        loader.fail_read(0, transient=True)
        (failure,) = loader.residency.stats().failures
        assert failure.until == loader.residency.next_retry()
        waits.append(loader.residency.next_retry() - loader.now)  # type: ignore[operator]
        loader.now += 0.99 * waits[-1]
        loader.step()
        assert loader.reading == []
        loader.now += 0.02 * waits[-1]
        loader.step()
        assert loader.reading == [1]
    policy = RetryPolicy()
    for attempt, wait in enumerate(waits):
        longest = policy.first_s * policy.factor**attempt
        assert (1 - policy.jitter) * longest <= wait <= longest
    loader.finish_all()
    assert loader.residency.stats().failures == ()


def test_a_failure_of_what_nobody_wants_any_more_is_not_told() -> None:
    loader = opened(family())
    want(loader, [1])
    loader.fail_read(0, transient=True)
    assert len(loader.residency.stats().failures) == 1
    want(loader, [2])
    assert loader.residency.stats().failures == ()
    want(loader, [1])
    assert [failure.chunk for failure in loader.residency.stats().failures] == [1]


def test_waits_stop_growing() -> None:
    policy = RetryPolicy()
    assert policy.wait_s(10_000, random_module.Random(0)) <= policy.longest_s


def test_a_damaged_chunk_is_lost_and_the_others_go_on() -> None:
    loader = opened(family())
    want(loader, [1, 2, 3])
    loader.fail_read(0, transient=False)
    loader.finish_all()
    assert loader.device == {0, 2, 3}
    assert np.flatnonzero(loader.residency.lost).tolist() == [1]
    assert loader.residency.next_retry() is None
    assert loader.residency.settled
    (failure,) = loader.residency.stats().failures
    assert (failure.chunk, failure.permanent) == (1, True)
    assert failure.text == "fake: chunk 1: no luck"


def test_a_lost_root_is_left_out_and_its_subtree_never_read() -> None:
    tree = random_forest(3, roots=2, depth=2, branching=3)
    loader = SimulatedLoader.open(tree, even_costs(tree), Budgets(10**6, 10**6))
    loader.step()
    loader.fail_read(0, transient=False)
    cut = loader.stand_still([overview(tree)], LodLimits(error_px=0.0))
    assert cut.complete
    assert loader.residency.settled
    assert set(cut.draw.tolist()) <= set(leaves_below(tree, 1))
    want(loader, leaves_below(tree, 0))
    assert loader.reading == []


def test_any_exception_is_a_failure_to_be_tried_again() -> None:
    loader = opened(family())
    want(loader, [1])
    loader.residency.failed(loader.reading.pop(), ZeroDivisionError(), 5.0)
    (failure,) = loader.residency.stats().failures
    assert failure.text == "ZeroDivisionError"
    assert not failure.permanent


def test_more_bytes_than_promised_are_refused() -> None:
    loader = opened(family())
    want(loader, [1])
    loader.residency.loaded(loader.reading.pop(), 11, 0.0)
    assert loader.residency.state(1) is ChunkState.FAILED
    assert loader.residency.stats().host_bytes == 0
    assert loader.residency.lost[1]


def test_a_parent_finds_room_in_a_host_full_of_its_children() -> None:
    """The parent fails while its children are read; they must not keep it out."""
    tree = random_forest(1, depth=2, branching=4, leaf_share=0)
    costs = even_costs(tree)
    loader = SimulatedLoader.open(tree, costs, Budgets(35, 10**6))
    parent = int(np.flatnonzero(tree.level == 1)[0])
    children = list(tree.children(parent))
    loader.step()
    loader.finish_all()
    want(loader, [parent, *children])
    assert loader.reading[0] == parent
    while len(loader.reading) > 1:
        loader.finish_read(1)
    loader.fail_read(0, transient=True)
    assert loader.held
    loader.now = 100.0
    loader.step()
    loader.finish_all()
    assert {parent, *children} <= loader.device


def test_two_clients_share_one_residency_and_take_turns() -> None:
    loader = opened(family(8))
    residency = loader.residency
    loader.carry_out(residency.update([1, 2, 3, 4], [1, 2, 3, 4], [], 1.0, client="a"))
    for chunk in (1, 2, 3, 4):
        assert chunk in loader.reading
    loader.carry_out(residency.update([5, 6], [5, 6], [], 2.0, client="b"))
    loader.finish_read(0)
    assert loader.reading[-1] == 5
    loader.finish_all()
    loader.carry_out(residency.forget("a", 3.0))
    assert [residency.tier(chunk) for chunk in (1, 5)] == [Tier.RECENT, Tier.VISIBLE]


def test_the_last_prediction_stays_until_there_is_another() -> None:
    loader = opened(family(4))
    residency = loader.residency
    residency.update([], [], [1], 1.0)
    residency.update([], [2], None, 2.0)
    assert residency.tier(1) is Tier.PREFETCH
    residency.update([], [2], [], 3.0)
    assert residency.tier(1) is Tier.RECENT


def test_statistics() -> None:
    loader = opened(family(4))
    want(loader, [1, 2], prefetch=[3])
    loader.finish_all()
    want(loader, [1, 3, 4])
    loader.finish_all()
    loader.lease([1])
    stats = loader.residency.stats()
    assert stats.device_bytes == 500
    assert stats.device_bytes_by_tier == {Tier.VISIBLE: 400, Tier.PREFETCH: 0, Tier.RECENT: 100}
    assert stats.chunks[ChunkState.DEVICE] == 5
    assert stats.chunks_by_level == (4, 1)
    assert stats.leased == 1
    assert (stats.tally.reads, stats.tally.bytes_read) == (5, 50)
    assert (stats.tally.requests, stats.tally.device_hits) == (4, 1)


def test_budgets_too_small_for_the_scene_are_refused_with_the_remedy() -> None:
    tree = family()
    with pytest.raises(BudgetError, match=r"device budget .* raise --device-budget"):
        Residency(tree, even_costs(tree), Budgets(1000, 99))
    with pytest.raises(BudgetError, match=r"host budget .* raise --host-budget"):
        Residency(tree, even_costs(tree), Budgets(14, 1000))
    loader = opened(tree)
    with pytest.raises(BudgetError):
        loader.residency.set_budgets(Budgets(14, 1000), 0.0)
    assert loader.residency.budgets == Budgets(1000, 1000)


def test_little_is_read_ahead_of_decoders_that_are_behind() -> None:
    """So that what becomes urgent does not wait behind what was read long before."""
    tree = family(60)
    residency = Residency(
        tree, even_costs(tree), Budgets(10**6, 10**6), max_loads=4, max_promotions=2
    )
    loader = SimulatedLoader(residency, even_costs(tree))
    loader.step()
    loader.finish_all()
    want(loader, list(range(1, 61)))
    most_read = 0
    while loader.reading:
        loader.finish_read()
        most_read = max(most_read, len(loader.held))
    assert len(loader.decoding) == 2
    assert most_read <= 2 * 4
    want(loader, [60, *range(1, 60)])
    decoded = 0
    while 60 not in loader.reading:
        loader.finish_decoding()
        decoded += 1
    assert decoded <= most_read
    assert loader.reading[0] == 60
    loader.finish_all()
    assert loader.device == set(range(61))


def test_the_smallest_budgets_still_load_everything_one_by_one() -> None:
    loader = opened(family(5), host=15, device=600)
    want(loader, [1, 2, 3, 4, 5])
    assert len(loader.reading) == 1
    loader.finish_all()
    assert len(loader.device) == 6


def test_a_chunk_goes_only_the_ways_that_are_drawn() -> None:
    tree = family()
    for before in ChunkState:
        for after in ChunkState:
            ledger = Ledger(tree, even_costs(tree), Budgets(1000, 1000))
            ledger.state[1] = before
            if (before, after) in ALLOWED_MOVES:
                ledger.move(1, after)
                assert ledger.of(1) is after
            else:
                with pytest.raises(ValueError, match=f"from {before.name} to {after.name}"):
                    ledger.move(1, after)
