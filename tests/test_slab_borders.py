"""Borders of slabs stay where they are in the world, as long as that will do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rendering.depth_slabs import DepthMasses, DepthNeeds, Slab
from rendering.drawable import Outlook
from rendering.slab_borders import MOST_VIEWS, SLACK, SlabBorders, depth_of, point_at, with_room
from splat.camera import Camera, CameraModel
from tests.scenes import orbit_camera

POINTS = np.random.default_rng(3).uniform(-20, 20, (4000, 3))
ENDS = [0.3, 0.6]


class Points:
    """All points ahead, whatever the angle, in chunks of some depth."""

    def __init__(self, deep: float = 0.0) -> None:
        self.deep = deep

    def masses(self, camera: Camera) -> DepthMasses:
        offsets = POINTS - camera.position
        depths = offsets @ camera.forward
        if camera.model is CameraModel.FISHEYE:
            depths = np.linalg.norm(offsets, axis=1)
        ahead = depths[depths > camera.near]
        return DepthMasses.of(ahead, np.ones(len(ahead)))

    def needs(self, camera: Camera) -> DepthNeeds:
        depths = self.masses(camera).depths
        return DepthNeeds.of(depths - self.deep, depths + self.deep, np.ones(len(depths)))


class Nothing:
    def masses(self, camera: Camera) -> DepthMasses:
        return DepthMasses.of(np.empty(0), np.empty(0))


def outlook(share: float = 10.0, parts: Any = Points()) -> Outlook:  # noqa: B008
    return Outlook(parts, parts, share)


def seen(camera: Camera) -> DepthMasses:
    return Points().masses(camera)


def walker(z: float = -30.0, x: float = 0.0) -> Camera:
    to = (x, 0.0, z + 1.0)
    return Camera.look_at((x, 0, z), to, (0, -1, 0), fov_y_rad=0.9, width=64, height=48)


def borders(slabs: tuple[Slab | None, ...]) -> list[float]:
    return [slab.near for slab in slabs[1:] if slab is not None]


def ask(known: SlabBorders, camera: Camera, client: str = "a", eye: int = 0) -> list[float]:
    return borders(known.slabs(client, eye, camera, outlook(), ENDS))


@pytest.mark.parametrize("model", CameraModel)
def test_the_first_borders_have_the_shares_that_are_asked_for(model: CameraModel) -> None:
    camera = replace(orbit_camera(model, 65, 131, 0.6), far=np.inf)
    slabs = SlabBorders().slabs("a", 0, camera, outlook(), ENDS)
    assert [slab.masses for slab in slabs if slab] == [
        pytest.approx(pair, abs=1e-3) for pair in ((0, 0.3), (0.3, 0.6), (0.6, 1))
    ]
    for border in borders(slabs):
        assert depth_of(camera, point_at(camera, border)) == pytest.approx(border)


def test_a_border_stays_while_the_camera_goes_ahead() -> None:
    known = SlabBorders()
    first = ask(known, walker(-30.0))
    ahead = ask(known, walker(-29.0))
    assert ahead == pytest.approx([border - 1.0 for border in first], abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 15), st.floats(-5, 5)), min_size=1, max_size=12))
def test_shares_are_never_far_from_what_they_should_be(places: list[tuple[float, float]]) -> None:
    known = SlabBorders()
    for z, x in places:
        camera = walker(z, x)
        masses = seen(camera)
        slabs = known.slabs("a", 0, camera, outlook(), ENDS)
        ends = [slab.masses[1] for slab in slabs if slab is not None]
        assert ends == pytest.approx([*ENDS, 1.0], abs=SLACK + 2e-3)
        for slab in slabs:
            assert slab is not None
            assert slab.masses[0] == pytest.approx(masses.share_below(slab.near), abs=1e-3)


def test_looking_back_and_forth_moves_no_border() -> None:
    known = SlabBorders()
    there = [ask(known, walker(-30.0 + 0.4 * (turn % 2))) for turn in range(10)]
    assert len({round(border, 3) for one in there for border in one}) == 4


def test_on_a_long_way_borders_move_seldom() -> None:
    known, moves, last = SlabBorders(), 0, [0.0, 0.0]
    for z in np.linspace(-30, 0, 200):
        camera = walker(float(z))
        world = [border + z for border in ask(known, camera)]
        moves += not np.allclose(world, last, atol=1e-3)
        last = world
    assert 2 <= moves <= 12


def test_views_have_borders_of_their_own_and_are_forgotten() -> None:
    known = SlabBorders()
    mine = ask(known, walker(-30.0))
    assert ask(known, walker(-10.0), eye=1) != mine
    assert ask(known, walker(-10.0), client="b") != mine
    assert ask(known, walker(-30.0)) == pytest.approx(mine, abs=1e-4)
    for number in range(MOST_VIEWS):
        ask(known, walker(), client=str(number))
    assert len(known._points) == MOST_VIEWS


def test_another_number_of_devices_has_other_borders() -> None:
    known, camera = SlabBorders(), walker()
    ask(known, camera)
    two = known.slabs("a", 0, camera, outlook(), [0.5])
    assert two[0] is not None and two[0].masses == pytest.approx((0, 0.5), abs=1e-3)


def test_a_view_of_nothing_is_one_slab() -> None:
    first, *others = SlabBorders().slabs("a", 0, walker(), outlook(parts=Nothing()), ENDS)
    assert first is not None and others == [None, None]


def test_no_slab_needs_more_than_a_memory_has_room_for() -> None:
    known, camera = SlabBorders(), walker()
    slabs = known.slabs("a", 0, camera, outlook(0.6), [0.1])
    assert [slab.masses for slab in slabs if slab] == [
        pytest.approx(pair, abs=1e-3) for pair in ((0, 0.448), (0.448, 1))
    ]
    for z in np.linspace(-30, -10, 40):
        slabs = known.slabs("a", 0, walker(float(z)), outlook(0.6), [0.1])
        assert all(slab.masses[1] - slab.masses[0] <= 0.6 for slab in slabs if slab)


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
def test_chunks_on_a_border_are_needed_on_both_sides(end: float) -> None:
    known, parts = SlabBorders(), Points(deep=3.0)
    for z in np.linspace(-30, -10, 40):
        camera = walker(float(z))
        first, second = known.slabs("a", 0, camera, outlook(0.7, parts), [end])
        assert first is not None and second is not None
        needs = parts.needs(camera)
        assert needs.between(-np.inf, second.near) <= 0.7
        assert needs.between(second.near, np.inf) <= 0.7


def test_where_all_of_it_has_no_room_slabs_are_even() -> None:
    first, second = SlabBorders().slabs("a", 0, walker(), outlook(0.45), [0.1])
    assert first is not None and second is not None
    assert first.masses == pytest.approx((0, 0.5), abs=1e-3)


PARTS = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0, 20), st.integers(1, 9)), min_size=1, max_size=30
)


def needed(parts: list[tuple[float, float, int]], near: float, far: float) -> float:
    """The plain way."""
    inside = sum(mass for low, deep, mass in parts if low < far and low + deep >= near)
    return inside / sum(mass for _, _, mass in parts)


@settings(max_examples=200, deadline=None)
@given(PARTS, st.lists(st.floats(-5, 130), min_size=1, max_size=4).map(sorted), st.floats(0.1, 1))
def test_borders_go_no_further_than_they_must(
    parts: list[tuple[float, float, int]], wanted: list[float], most: float
) -> None:
    low, deep, mass = (np.array(column, np.float64) for column in zip(*parts, strict=True))
    needs = DepthNeeds.of(low, low + deep, mass)
    ends = [-np.inf, *wanted, np.inf]
    for near, far in itertools.pairwise(ends):
        assert needs.between(near, far) == pytest.approx(needed(parts, near, far))
    moved = with_room(wanted, needs, most)
    if max(needed(parts, *each) for each in itertools.pairwise(ends)) <= most:
        assert moved == pytest.approx(wanted, rel=1e-6), "but for the rounding to float32"
    if moved is None:
        greedy = -np.inf  # not even the fewest slabs, each as large as it may be, are enough
        for _ in wanted:
            greedy = needs.furthest(greedy, most)
        assert needed(parts, greedy, np.inf) > most
        return
    assert moved == sorted(moved)
    for near, far in itertools.pairwise([-np.inf, *moved, np.inf]):
        assert needed(parts, near, far) <= most + 1e-9
