"""Selection: the native walk is its slow twin, and keeps what ``select_lod`` promises."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scene_store.lod import Foveation, LodCut, LodLimits, select_lod
from scene_store.tree import LodTree
from splat.camera import Camera, CameraModel
from tests.store.forests import closed, leaves_below, overview, random_forest, random_view
from tests.store.slow_select import projected_scales, slow_select

FOVEATION = Foveation(inner_rad=0.1, outer_rad=0.5, edge_weight=0.2)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question for ``select_lod``."""

    tree: LodTree
    cameras: list[Camera]
    resident: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    limits: LodLimits
    foveation: Foveation | None

    def cut(self) -> LodCut:
        return select_lod(
            self.tree,
            self.cameras,
            self.resident,
            self.limits,
            lost=self.lost,
            foveation=self.foveation,
        )

    def visible_leaves(self) -> set[int]:
        """Leaves that a camera sees, and whose way from the root it sees."""
        seen = closed(self.tree, projected_scales(self.tree, self.cameras) >= 0)
        return {int(leaf) for leaf in np.flatnonzero(seen & self.tree.is_leaf)}


@st.composite
def cases(draw: st.DrawFn, *, lossless: bool = False) -> Case:
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    tree = random_forest(seed, roots=draw(st.integers(1, 3)), branching=draw(st.integers(1, 8)))
    models = draw(st.lists(st.sampled_from(CameraModel), min_size=1, max_size=2))
    cameras = [random_view(seed + index, model) for index, model in enumerate(models)]
    if draw(st.booleans()):
        cameras[0] = overview(tree)
    resident = closed(tree, random.random(len(tree)) < draw(st.sampled_from([0, 0.7, 0.9, 1])))
    lost = ~resident & (
        random.random(len(tree)) < (0 if lossless else draw(st.sampled_from([0, 0.1])))
    )
    limits = LodLimits(
        error_px=draw(st.sampled_from([0.0, 0.1, 1.0, 3.0])),
        max_gaussians=draw(st.sampled_from([0, 50, 500, 5000, 2**62])),
        max_pages=draw(st.sampled_from([0, 5, 50, 500, 2**62])),
        page_gaussians=draw(st.sampled_from([1, 16, 100])),
    )
    return Case(tree, cameras, resident, lost, limits, draw(st.sampled_from([None, FOVEATION])))


def assert_same(one: LodCut, other: LodCut) -> None:
    for field in dataclasses.fields(LodCut):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype, field.name
            assert mine.tolist() == theirs.tolist(), field.name
        else:
            assert mine == theirs, field.name


@settings(max_examples=200, deadline=None)
@given(cases())
def test_the_native_walk_is_its_slow_twin(case: Case) -> None:
    slow = slow_select(
        case.tree,
        case.cameras,
        case.resident,
        case.limits,
        lost=case.lost,
        foveation=case.foveation,
    )
    assert_same(case.cut(), slow)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_every_visible_leaf_is_covered_once(case: Case) -> None:
    drawn = case.cut().draw
    covered = [leaf for node in drawn for leaf in leaves_below(case.tree, int(node))]
    assert len(covered) == len(set(covered))
    roots = case.tree.roots
    held = {leaf for root in roots[case.resident[roots]] for leaf in leaves_below(case.tree, root)}
    assert case.visible_leaves() & held <= set(covered)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_sizes_and_sets_of_a_cut(case: Case) -> None:
    cut, tree, limits = case.cut(), case.tree, case.limits
    assert case.resident[cut.draw].all()
    assert not case.resident[cut.want].any()
    assert not case.lost[cut.touched].any()
    assert set(cut.draw.tolist()) | set(cut.want.tolist()) <= set(cut.touched.tolist())
    assert cut.drawn_gaussians == tree.count[cut.draw].sum()
    roots_alone = int(tree.count[tree.roots].sum())
    assert max(cut.drawn_gaussians, cut.ideal_gaussians) <= max(limits.max_gaussians, roots_alone)
    pages = -(-tree.count // limits.page_gaussians)
    kept = set(cut.touched.tolist()) | set(tree.roots[~case.lost[tree.roots]].tolist())
    assert pages[list(kept)].sum() <= max(limits.max_pages, pages[tree.roots].sum())


@settings(max_examples=80, deadline=None)
@given(cases())
def test_wants_come_parents_first_and_everything_touched_has_its_ancestors(case: Case) -> None:
    cut = case.cut()
    before = set(np.flatnonzero(case.resident).tolist())
    for node in cut.want.tolist():
        assert all(up in before for up in case.tree.ancestors(node))
        before.add(node)
    touched = set(cut.touched.tolist())
    assert all(set(case.tree.ancestors(node)) <= touched for node in touched)


@settings(max_examples=80, deadline=None)
@given(cases(lossless=True))
def test_fetching_what_is_wanted_ends_at_the_ideal_cut(case: Case) -> None:
    """And at the same one as from nothing, or with everything there."""
    resident = case.resident.copy()
    for _ in range(2):
        cut = dataclasses.replace(case, resident=resident).cut()
        resident[cut.want] = True
    assert cut.complete
    assert cut.want.size == 0
    assert cut.drawn_gaussians == cut.ideal_gaussians
    everything = dataclasses.replace(case, resident=np.ones(len(case.tree), np.bool_)).cut()
    assert_same(cut, everything)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_without_limits_the_error_target_is_met(case: Case) -> None:
    limits = LodLimits(error_px=case.limits.error_px)
    whole = np.ones(len(case.tree), np.bool_)
    cut = select_lod(case.tree, case.cameras, whole, limits, foveation=case.foveation)
    if limits.error_px == 0:
        assert set(cut.draw.tolist()) == case.visible_leaves()
        assert cut.error_px == 0
    else:
        assert cut.error_px < limits.error_px


def two_levels(**changes: NDArray[np.float32]) -> LodTree:
    """A root over [0, 4] × [-1, 1]², and two leaves beside each other."""
    columns = {
        "lo": np.array([[0, -1, -1], [0, -1, -1], [2, -1, -1]], np.float32),
        "hi": np.array([[4, 1, 1], [2, 1, 1], [4, 1, 1]], np.float32),
        "max_scale": np.full(3, 0.01, np.float32),
        "error": np.array([0.5, 0, 0], np.float32),
    }
    return LodTree(
        **{**columns, **changes},
        count=np.array([10, 8, 8], np.int32),
        parent=np.array([-1, 0, 0], np.int32),
        first_child=np.array([1, 0, 0], np.int32),
        child_count=np.array([2, 0, 0], np.int32),
        level=np.array([1, 0, 0], np.int32),
    )


def view_from(x: float, fov_y_rad: float = 1.0) -> Camera:
    """From (x, 0, 0) towards larger x; the focal length is 50 / tan(fov / 2) px."""
    return Camera.look_at(
        (x, 0, 0), (x + 1, 0, 0), (0, 0, 1), fov_y_rad=fov_y_rad, width=100, height=100
    )


ALL = np.ones(3, np.bool_)


def test_the_projected_error_by_hand() -> None:
    camera = view_from(-10)
    expected = 0.5 * 50 / math.tan(0.5) / 10
    coarse = select_lod(two_levels(), [camera], ALL, LodLimits(error_px=expected * 1.001))
    assert coarse.draw.tolist() == [0]
    assert coarse.error_px == pytest.approx(expected)
    fine = select_lod(two_levels(), [camera], ALL, LodLimits(error_px=expected * 0.999))
    assert fine.draw.tolist() == [1, 2]
    assert fine.error_px == 0


def test_inside_a_box_the_near_plane_is_the_distance() -> None:
    cut = select_lod(two_levels(), [view_from(1)], ALL, LodLimits(error_px=1e9))
    assert cut.error_px == pytest.approx(0.5 * 50 / math.tan(0.5) / 0.01, rel=1e-5)


def test_the_nearer_of_two_cameras_decides() -> None:
    limits = LodLimits(error_px=1.0)
    far, near = view_from(-100), view_from(-10)
    assert select_lod(two_levels(), [far], ALL, limits).draw.tolist() == [0]
    assert select_lod(two_levels(), [far, near], ALL, limits).draw.tolist() == [1, 2]
    assert select_lod(two_levels(), [near, far], ALL, limits).draw.tolist() == [1, 2]


def test_a_parent_stands_in_until_all_its_visible_children_are_there() -> None:
    some = np.array([True, True, False])
    cut = select_lod(two_levels(), [view_from(-10)], some)
    assert (cut.draw.tolist(), cut.want.tolist(), cut.complete) == ([0], [2], False)
    ahead = view_from(2.5)  # the first child lies behind it
    cut = select_lod(two_levels(), [ahead], np.array([True, False, True]))
    assert (cut.draw.tolist(), cut.want.tolist(), cut.complete) == ([2], [], True)
    assert cut.culled == 1


def test_a_lost_child_leaves_its_parent_and_nothing_to_want() -> None:
    some = np.array([True, True, False])
    cut = select_lod(two_levels(), [view_from(-10)], some, lost=~some)
    assert (cut.draw.tolist(), cut.want.tolist(), cut.complete) == ([0], [], True)


def test_budgets_stop_the_walk() -> None:
    camera = [view_from(-10)]
    for limits in (
        LodLimits(max_gaussians=15),
        LodLimits(max_pages=5, page_gaussians=4),
        LodLimits(max_gaussians=0, max_pages=0),
    ):
        assert select_lod(two_levels(), camera, ALL, limits).draw.tolist() == [0]
    enough = LodLimits(max_gaussians=16, max_pages=7, page_gaussians=4)
    assert select_lod(two_levels(), camera, ALL, enough).draw.tolist() == [1, 2]


def three_scenes(**changes: NDArray[np.float32]) -> LodTree:
    """Roots beside each other, far from the eye, each with two leaves: 10 Gaussians for 4."""
    places = np.array([0, 20, 40, 0, 0, 20, 20, 40, 40], np.float32)
    columns = {
        "error": np.array([3, 2, 1, 0, 0, 0, 0, 0, 0], np.float32),
        "loss": np.array([2, 1, 4, 0, 0, 0, 0, 0, 0], np.float32),
    }
    return LodTree(
        **{**columns, **changes},
        lo=np.stack([np.zeros(9), places, np.zeros(9)], axis=1),
        hi=np.stack([np.ones(9), places + 1, np.ones(9)], axis=1),
        max_scale=np.full(9, 0.01, np.float32),
        count=np.array([4, 4, 4, 5, 5, 5, 5, 5, 5], np.int32),
        parent=np.array([-1, -1, -1, 0, 0, 1, 1, 2, 2], np.int32),
        first_child=np.array([3, 5, 7, 0, 0, 0, 0, 0, 0], np.int32),
        child_count=np.array([2, 2, 2, 0, 0, 0, 0, 0, 0], np.int32),
        level=np.array([1, 1, 1, 0, 0, 0, 0, 0, 0], np.int32),
    )


NINE = np.ones(9, np.bool_)
FAR_OFF = Camera.look_at(
    (-2000, 20, 0), (0, 20, 0), (0, 0, 1), fov_y_rad=0.1, width=100, height=100
)


def drawn(tree: LodTree, limits: LodLimits, camera: Camera = FAR_OFF) -> list[int]:
    return [int(node) for node in select_lod(tree, [camera], NINE, limits).draw]


def test_a_budget_goes_where_most_is_lost_of_the_picture() -> None:
    tree = three_scenes()
    assert drawn(tree, LodLimits(0.0, max_gaussians=18)) == [0, 1, 7, 8]
    assert drawn(tree, LodLimits(0.0, max_gaussians=24)) == [1, 3, 4, 7, 8]
    assert drawn(tree, LodLimits(0.0, max_gaussians=30)) == [3, 4, 5, 6, 7, 8]
    roots = np.array([True] * 3 + [False] * 6)
    order = select_lod(tree, [FAR_OFF], roots, LodLimits(0.0)).want
    assert order.tolist() == [7, 8, 3, 4, 5, 6]


def test_what_is_good_enough_is_left_however_much_it_would_gain() -> None:
    scale = select_lod(three_scenes(), [FAR_OFF], NINE, LodLimits(1e9)).error_px / 3
    assert drawn(three_scenes(), LodLimits(1.5 * scale)) == [2, 3, 4, 5, 6]


def test_gains_are_in_squared_pixels() -> None:
    # From 10 the first root is a third as far away as the second, and loses less than a ninth.
    near = Camera.look_at((-10, 0.5, 0), (0, 8, 0), (0, 0, 1), fov_y_rad=2.5, width=99, height=99)
    ratio = np.hypot(10, 19.5) ** 2 / 10**2
    for share, expected in ((0.95, [0, 2, 5, 6]), (1.05, [1, 2, 3, 4])):
        losses = np.array([share, ratio, 0, 0, 0, 0, 0, 0, 0], np.float32)
        tree = three_scenes(loss=losses)
        assert drawn(tree, LodLimits(0.0, max_gaussians=18), near) == expected


def test_gains_are_for_each_gaussian_that_is_added() -> None:
    # A child of the first root is behind the camera: it costs one Gaussian, and not six.
    tree = three_scenes()
    boxes = tree.lo.copy(), tree.hi.copy()
    for box in boxes:
        box[3, 0] -= 5000
    boxes[0][0, 0] -= 5000
    columns = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    beside = LodTree(**{**columns, "lo": boxes[0], "hi": boxes[1], "loss": tree.loss})
    assert beside.loss[0] < beside.loss[2]
    cut = select_lod(beside, [FAR_OFF], NINE, LodLimits(0.0, max_gaussians=13))
    assert cut.draw.tolist() == [1, 2, 4]


def test_a_tree_without_losses_goes_by_its_errors() -> None:
    tree = three_scenes(loss=np.empty(0, np.float32))
    assert tree.loss.tolist() == (tree.count * tree.error**2).tolist()
    assert drawn(tree, LodLimits(0.0, max_gaussians=18)) == [1, 2, 3, 4]


def test_what_is_behind_is_neither_drawn_nor_wanted() -> None:
    cut = select_lod(two_levels(), [view_from(10)], np.zeros(3, np.bool_))
    assert cut.draw.size == cut.want.size == cut.touched.size == 0
    assert (cut.culled, cut.complete, cut.error_px) == (1, True, 0)


def test_foveation_spares_what_is_off_the_axis() -> None:
    camera = Camera.look_at((-10, 0, 0), (0, 6, 0), (0, 0, 1), fov_y_rad=1, width=200, height=100)
    weighted = Foveation(inner_rad=0.05, outer_rad=0.2, edge_weight=0.25)
    plain = select_lod(two_levels(), [camera], ALL, LodLimits(error_px=1e9)).error_px
    fovea = select_lod(two_levels(), [camera], ALL, LodLimits(error_px=1e9), foveation=weighted)
    assert fovea.error_px == pytest.approx(0.25 * plain)
    ahead = select_lod(
        two_levels(), [view_from(-10)], ALL, LodLimits(error_px=1e9), foveation=weighted
    )
    assert ahead.error_px == pytest.approx(0.5 * 50 / math.tan(0.5) / 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LodLimits(error_px=-1.0),
        lambda: LodLimits(error_px=math.nan),
        lambda: LodLimits(page_gaussians=0),
        lambda: Foveation(0.5, 0.5, 0.5),
        lambda: Foveation(0.1, 0.5, 0.0),
        lambda: select_lod(two_levels(), [view_from(0)], np.ones(2, np.bool_)),
        lambda: select_lod(two_levels(), [view_from(0)], ALL, lost=np.ones(4, np.bool_)),
    ],
)
def test_nonsense_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"must|needs"):
        make()
