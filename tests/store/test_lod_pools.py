"""Selection for devices of several memories: one cut, of what all that need it have."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scene_store.lod import LodCut, LodLimits, Pool, select_in_pools, select_lod
from splat.camera import Camera
from tests.store.forests import closed, overview, random_forest
from tests.store.slow_select import needs, slow_select_in_pools
from tests.store.test_lod import Case, assert_same, cases


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PoolCase:
    """A question for ``select_in_pools``."""

    case: Case
    pools: list[Pool]

    def cut(self) -> LodCut:
        case = self.case
        return select_in_pools(
            case.tree,
            case.cameras,
            self.pools,
            case.limits,
            lost=case.lost,
            foveation=case.foveation,
        )


@st.composite
def pool_cases(draw: st.DrawFn) -> PoolCase:
    case = draw(cases())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pools = []
    for _ in range(draw(st.integers(1, 4))):
        share = draw(st.sampled_from([0, 0.7, 0.9, 1]))
        resident = closed(case.tree, (random.random(len(case.tree)) < share) & ~case.lost)
        pools.append(Pool(resident, draw(st.none() | slabs(case.cameras))))
    return PoolCase(case, pools)


@st.composite
def slabs(draw: st.DrawFn, cameras: list[Camera]) -> tuple[Camera, ...]:
    """What a device sees of each camera, or of some."""
    seen = []
    for camera in cameras[: draw(st.integers(1, len(cameras)))]:
        near = max(camera.near, draw(st.sampled_from([0.0, 2.0, 6.0])))
        far = draw(st.sampled_from([camera.far, near + 1.0, near + 4.0]))
        seen.append(dataclasses.replace(camera, near=near, far=far))
    return tuple(seen)


@settings(max_examples=200, deadline=None)
@given(pool_cases())
def test_the_native_walk_is_its_slow_twin(question: PoolCase) -> None:
    case = question.case
    slow = slow_select_in_pools(
        case.tree,
        case.cameras,
        question.pools,
        case.limits,
        lost=case.lost,
        foveation=case.foveation,
    )
    assert_same(question.cut(), slow)


@settings(max_examples=100, deadline=None)
@given(pool_cases())
def test_every_pool_holds_what_it_needs_of_what_is_drawn_and_has_room_for_all_of_it(
    question: PoolCase,
) -> None:
    tree, limits, cut = question.case.tree, question.case.limits, question.cut()
    pages = -(-tree.count // limits.page_gaussians)
    roots = set(tree.roots[~question.case.lost[tree.roots]].tolist())
    for number, pool in enumerate(question.pools):
        needed = needs(tree, pool)
        mine = set(cut.needed_in(number).tolist())
        assert mine == {node for node in cut.touched.tolist() if needed[node]}
        assert all(pool.resident[node] for node in cut.draw.tolist() if node in mine)
        assert all(set(tree.ancestors(node)) <= mine for node in mine)
        assert pages[list(mine | roots)].sum() <= max(limits.max_pages, pages[tree.roots].sum())
    lacks = [
        {n for n in cut.needed_in(i).tolist() if not pool.resident[n]}
        for i, pool in enumerate(question.pools)
    ]
    assert set(cut.want.tolist()) == set().union(*lacks)


@settings(max_examples=50, deadline=None)
@given(cases(), st.integers(1, 4))
def test_pools_that_hold_the_same_are_as_one(case: Case, count: int) -> None:
    pools = [Pool(case.resident) for _ in range(count)]
    joint = PoolCase(case, pools).cut()
    assert set(joint.needed_by.tolist()) <= {2**count - 1}
    alone = dataclasses.replace(case.cut(), needed_by=joint.needed_by)
    assert_same(joint, alone)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_what_one_of_two_pools_lacks_is_drawn_coarsely(case: Case) -> None:
    nothing = np.zeros(len(case.tree), np.bool_)
    full = closed(case.tree, ~case.lost)
    cut = PoolCase(case, [Pool(full), Pool(nothing)]).cut()
    assert len(cut.draw) == 0
    assert_same(
        PoolCase(case, [Pool(full), Pool(case.resident)]).cut(),
        PoolCase(case, [Pool(case.resident), Pool(full)]).cut(),
    )


def test_two_slabs_hold_more_than_one_pool() -> None:
    """Refined as far as either half has room, and not where its own has none."""
    tree = random_forest(7, roots=1, branching=6, depth=5)
    camera = overview(tree)
    centre = 0.5 * (tree.lo[0] + tree.hi[0])
    middle = float((centre - camera.position) @ camera.forward)
    near = dataclasses.replace(camera, far=middle)
    far = dataclasses.replace(camera, near=middle)
    everything = np.ones(len(tree), np.bool_)
    pages = -(-tree.count // 16)
    limits = LodLimits(error_px=0.0, page_gaussians=16, max_pages=int(0.6 * pages.sum()))
    alone = select_lod(tree, [camera], everything, limits)
    halves = [Pool(everything, (near,)), Pool(everything, (far,))]
    both = select_in_pools(tree, [camera], halves, limits)
    assert both.drawn_gaussians > 1.2 * alone.drawn_gaussians
    for number in range(2):
        assert pages[both.needed_in(number)].sum() <= limits.max_pages


def test_nonsense_is_refused() -> None:
    tree = random_forest(1)
    flags = np.ones(len(tree), np.bool_)
    with pytest.raises(ValueError, match="residency"):
        select_in_pools(tree, [], [Pool(flags), Pool(flags[1:])])
    with pytest.raises(ValueError, match="see nothing"):
        select_in_pools(tree, [], [Pool(flags, ())])
    for count in (0, 65):
        with pytest.raises(ValueError, match=r"1 to 64 pools|need at least one array"):
            select_in_pools(tree, [], [Pool(flags)] * count)
