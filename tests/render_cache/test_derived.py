"""What decoded pages are drawn again for: the rule, the policy, and the books of the cache."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest

from render_cache.derived import RECENT_FRAMES, DerivedCache
from render_cache.derived_rule import (
    EXACT,
    DerivedLimits,
    DerivedReuse,
    FrameCosts,
    PageSpheres,
    falls_due,
    reuse_for,
    still_holds,
)

LIMITS = DerivedLimits(depth=8, angle_rad=0.08, distance_ratio=0.2)
WIDE = DerivedReuse(8, 0.5 * math.pi, math.inf)


def pages_at(*pages: int, at: float = 10.0, radius: float = 0.5) -> PageSpheres:
    """Pages in a row, at a distance along z."""
    middle = np.array([[float(page), 0.0, at] for page in pages]).reshape(-1, 3)
    return PageSpheres(np.array(pages, np.int64), middle, np.full(len(pages), radius))


def sphere(middle: np.ndarray | tuple[float, float, float], radius: float = 0.0) -> PageSpheres:
    return PageSpheres(np.array([0]), np.array([middle], np.float64), np.array([radius]))


def here(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    return np.array([x, y, z])


# --- The policy --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "depth"),
    [
        (None, 0),  # nothing is known yet
        (FrameCosts(10.0, 20.0), 0),  # 30 ms of 33
        (FrameCosts(20.0, 20.0), 1),  # 20 + 20 / 2
        (FrameCosts(40.0, 20.0), 2),  # 20 + 40 / 3 is 33.3, the most there may be
        (FrameCosts(42.0, 20.0), 3),
        (FrameCosts(1000.0, 20.0), 8),  # the limit
        (FrameCosts(1.0, 40.0), 8),  # drawing alone takes too long
    ],
)
def test_the_least_depth_that_holds_the_rate(costs: FrameCosts | None, depth: int) -> None:
    reuse = reuse_for(LIMITS, costs, 30.0, moving=True)
    assert reuse.depth == depth
    assert reuse.angle_rad == pytest.approx(LIMITS.angle_rad * depth / 8)
    assert reuse.distance_ratio == pytest.approx(LIMITS.distance_ratio * depth / 8)


def test_at_rest_and_without_depth_all_is_exact() -> None:
    slow = FrameCosts(1000.0, 20.0)
    assert reuse_for(LIMITS, slow, 30.0, moving=False) == EXACT
    assert reuse_for(DerivedLimits(depth=0), slow, 30.0, moving=True) == EXACT


def test_costs_follow_what_is_measured() -> None:
    costs = FrameCosts(10.0, 10.0)
    for _ in range(20):
        costs = costs.blended(FrameCosts(30.0, 20.0))
    assert costs.decode_ms == pytest.approx(30.0, rel=0.01)
    assert costs.draw_ms == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize(
    "limits",
    [{"depth": -1}, {"angle_rad": -0.1}, {"distance_ratio": math.nan}, {"budget_bytes": -1}],
)
def test_senseless_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        DerivedLimits(**limits)  # type: ignore[arg-type]


# --- The rule ----------------------------------------------------------------------------------


def test_the_rule_bounds_direction_and_distance_of_small_pages() -> None:
    """Where it holds, a page's direction and distance change by no more than the limits."""
    random = np.random.default_rng(0)
    held = refused = 0
    for _ in range(600):
        page, before = random.normal(scale=4.0, size=3), random.normal(scale=8.0, size=3)
        now = before + random.normal(scale=10 ** random.uniform(-2, 0.7), size=3)
        reuse = DerivedReuse(1, 10 ** random.uniform(-2, -0.5), 10 ** random.uniform(-2, 0))
        rays = page - before, page - now
        lengths = [float(np.linalg.norm(ray)) for ray in rays]
        cosine = float(rays[0] @ rays[1]) / (lengths[0] * lengths[1])
        angle, change = math.acos(min(cosine, 1.0)), abs(lengths[1] / lengths[0] - 1)
        if still_holds(before[None], now, sphere(page), reuse)[0]:
            held += 1
            assert angle <= reuse.angle_rad + 1e-7 and change <= reuse.distance_ratio + 1e-9
        else:
            refused += 1
            away = np.linalg.norm(now - before) / min(lengths)
            assert angle > 0.999 * reuse.angle_rad or away > 0.999 * reuse.distance_ratio
    assert held > 100 and refused > 100


def test_going_straight_ahead_hardly_turns_what_is_ahead() -> None:
    before, now = here(), here(z=0.5)
    limits = DerivedReuse(1, 0.01, 0.2)
    assert still_holds(before[None], now, sphere((0.0, 0.0, 30.0), 1.0), limits)[0]
    assert not still_holds(before[None], now, sphere((30.0, 0.0, 0.0), 1.0), limits)[0]


def test_through_a_page_and_beyond_it_is_not_straight_ahead() -> None:
    before, limits = here(), DerivedReuse(1, 0.5 * math.pi - 0.1, 0.9)
    assert not still_holds(before[None], here(z=12.0), sphere((0.0, 0.0, 10.0)), limits)[0]


def test_around_the_camera_the_radius_counts() -> None:
    """A tenth of a page's radius is a tenth of a radian, whichever the way."""
    for way in (here(0.1), here(z=0.1)):
        around = sphere((0.0, 0.0, 0.2), 1.0)
        assert still_holds(here()[None], way, around, DerivedReuse(1, 0.11, 0.11))[0]
        assert not still_holds(here()[None], way, around, DerivedReuse(1, 0.09, 0.2))[0]
        assert not still_holds(here()[None], way, around, DerivedReuse(1, 0.2, 0.09))[0]
    assert still_holds(here()[None], here(), sphere((0.0, 0.0, 0.0)), EXACT)[0]


def holds_by_the_text(
    before: np.ndarray, now: np.ndarray, page: PageSpheres, i: int, reuse: DerivedReuse
) -> bool:
    """The module's text, for one page, a number at a time."""
    middle, radius = page.middle[i], float(page.radius[i])
    apart = math.dist(before, now)
    if apart == 0:
        return True
    far, far_now = math.dist(middle, before), max(math.dist(middle, now), radius)
    if far <= radius or apart >= far:
        sine = apart / far_now if far_now else math.inf
    else:
        beta = math.acos(float(np.clip((now - before) @ (middle - before) / apart / far, -1, 1)))
        sine = apart * math.sin(beta) / far_now if far_now else math.inf
    nearest = max(min(far, far_now), radius)
    ratio = apart / nearest if nearest else math.inf
    return sine <= math.sin(reuse.angle_rad) and ratio <= reuse.distance_ratio


def test_columns_of_pages_hold_as_each_page_does() -> None:
    random = np.random.default_rng(6)
    held = 0
    for number in range(60):
        count = 40
        middle = random.normal(scale=3.0, size=(count, 3))
        radius = random.choice([0.0, 0.5, 2.0], count)
        now = random.normal(scale=3.0, size=3)
        step = 10 ** random.uniform(-2, 1, (count, 1))
        before = now + random.normal(size=(count, 3)) * step
        before[0], middle[1], middle[2] = now, now, before[2]
        if number % 2:  # straight towards them
            before[3:20] = now - 0.3 * (middle[3:20] - now)
        pages = PageSpheres(np.arange(count), middle, radius)
        reuse = DerivedReuse(1, 10 ** random.uniform(-2, 0), 10 ** random.uniform(-1.5, 0.5))
        found = still_holds(before, now, pages, reuse)
        expected = [holds_by_the_text(before[i], now, pages, i, reuse) for i in range(count)]
        assert found.tolist() == expected
        held += sum(expected)
    assert 400 < held < 2000


# --- Turns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1, 3, 8])
def test_pages_take_turns_and_none_waits_longer_than_the_depth(depth: int) -> None:
    pages = np.arange(180)
    since = np.zeros(180, np.int64)
    due_each = []
    for frame in range(1, 40):
        due = falls_due(pages, frame - since, frame, depth)
        since[due] = frame
        assert (frame - since <= depth).all()
        due_each.append(int(due.sum()))
    steady = due_each[2 * depth + 2 :]
    assert set(steady) == {180 // (depth + 1)}


def test_turns_of_frames_drawn_elsewhere_are_made_up_for() -> None:
    """A device that draws every other frame decodes a third each time, of D + 1 of six."""
    cache: DerivedCache[int] = DerivedCache(10_000)
    pages = pages_at(*range(180), at=1000.0)
    decoded = []
    for number in range(1, 60, 2):
        frame = cache.begin("a", here(1e-3 * number), DerivedReuse(5, 0.1, 0.1), number)
        found = frame.find(pages)
        decoded.append(found.count(None))
        for page, value in enumerate(found):
            if value is None:
                frame.keep(page, page, 1)
    assert decoded[0] == 180
    assert set(decoded[6:]) == {60}


def test_caches_decode_alike_where_turns_are_given() -> None:
    """Whatever numbers their pages have."""
    turn = np.random.default_rng(5).integers(0, 1 << 32, 90)
    caches: list[DerivedCache[int]] = [DerivedCache(10_000) for _ in range(2)]
    for number in range(1, 20):
        asked = []
        for cache, first in zip(caches, (0, 1001), strict=True):
            at = pages_at(*range(90), at=1000.0)
            pages = PageSpheres(at.page + first, at.middle, at.radius, turn)
            frame = cache.begin("a", here(1e-3 * number), DerivedReuse(5, 0.1, 0.1), number)
            found = frame.find(pages)
            asked.append([value is None for value in found])
            for page, is_wanted in zip(pages.page.tolist(), asked[-1], strict=True):
                if is_wanted:
                    frame.keep(page, page, 1)
        assert asked[0] == asked[1] and any(asked[0])


# --- The books, held against plain ones -------------------------------------------------------


class PlainBooks:
    """What ``DerivedCache`` finds where there is room for all, in plain dictionaries."""

    def __init__(self) -> None:
        self.there: dict[tuple[int, bytes], int] = {}
        self.drawn: dict[str, dict[int, tuple[bytes, int]]] = {}
        self.frames: dict[str, int] = {}

    def find(
        self, client: str, center: np.ndarray, reuse: DerivedReuse, pages: PageSpheres
    ) -> list[int | None]:
        frame = self.frames[client] = self.frames.get(client, 0) + 1
        found: list[int | None] = []
        for i, page in enumerate(pages.page.tolist()):
            if (page, center.tobytes()) in self.there:
                self.draw(client, page, center)
                found.append(self.there[page, center.tobytes()])
                continue
            found.append(None)
            before, since = self.drawn.get(client, {}).get(page, (b"", 0))
            if before and reuse.depth and (page, before) in self.there:
                age = frame - since
                has_turn = (frame + page) % (reuse.depth + 1) == 0
                point = np.frombuffer(before)
                if (
                    age <= reuse.depth
                    and not (age > 0 and has_turn)
                    and holds_by_the_text(point, center, pages, i, reuse)
                ):
                    found[-1] = self.there[page, before]
        return found

    def keep(self, client: str, page: int, center: np.ndarray, value: int) -> None:
        self.there[page, center.tobytes()] = value
        self.draw(client, page, center)

    def draw(self, client: str, page: int, center: np.ndarray) -> None:
        own, point = self.drawn.setdefault(client, {}), center.tobytes()
        before, _ = own.get(page, (point, 0))
        own[page] = point, self.frames[client]
        if all(each.get(page, (b"", 0))[0] != before for each in self.drawn.values()):
            self.there.pop((page, before), None)

    def forget(self, page: int) -> None:
        self.there = {key: value for key, value in self.there.items() if key[0] != page}
        for each in self.drawn.values():
            each.pop(page, None)


@pytest.mark.parametrize("seed", range(3))
def test_all_pages_at_once_are_found_as_each_would_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    cache: DerivedCache[int] = DerivedCache(1 << 40)
    plain = PlainBooks()
    middle = random.normal(scale=6.0, size=(150, 3))  # more than columns have rows at first
    radius = random.uniform(0.0, 1.0, 150)
    at = dict.fromkeys("ab", here())
    hits = misses = 0
    for value in range(150):
        client = str(random.choice(["a", "b"]))
        kind = random.random()
        if kind < 0.6:
            at[client] = at[client] + random.normal(scale=0.1, size=3)
        elif kind < 0.8:
            at[client] = at["ab".replace(client, "")]
        seen = np.flatnonzero(random.random(150) < 0.8)
        pages = PageSpheres(seen, middle[seen], radius[seen])
        reuse = DerivedReuse(int(random.choice([0, 2, 5])), 0.2, 0.3)
        frame = cache.begin(client, at[client], reuse)
        found = frame.find(pages)
        assert found == plain.find(client, at[client], reuse, pages)
        for page, known in zip(seen.tolist(), found, strict=True):
            if known is None or random.random() < 0.05:
                frame.keep(page, value, 1)
                plain.keep(client, page, at[client], value)
        assert cache.stats().entries == cache.stats().held_bytes == len(plain.there)
        if value % 40 == 39:
            cache.forget([5, 6])
            plain.forget(5)
            plain.forget(6)
        hits += len(found) - found.count(None)
        misses += found.count(None)
    assert (cache.stats().hits, cache.stats().misses) == (hits, misses)
    assert hits > 2000 and misses > 2000


def test_what_makes_way_is_not_held_by_who_drew_it() -> None:
    """The budget is of memory: a page that goes is gone."""

    class Page:
        pass

    cache: DerivedCache[Page] = DerivedCache(10)
    first = Page()
    gone = weakref.ref(first)
    assert cache.begin("a", here(), EXACT).keep(1, first, 10)
    del first
    assert cache.begin("a", here(1.0), EXACT).keep(2, Page(), 10)
    gc.collect()
    assert gone() is None
    assert cache.begin("a", here(1.0), WIDE).find(pages_at(1)) == [None]


# --- The books ---------------------------------------------------------------------------------


def test_the_same_point_is_a_hit_for_everybody_at_any_depth() -> None:
    cache: DerivedCache[str] = DerivedCache(100)
    first = cache.begin("a", here(), EXACT)
    assert first.find(pages_at(1, 2)) == [None, None]
    assert first.keep(1, "one", 10)
    assert cache.begin("b", here(), EXACT).find(pages_at(1, 2)) == ["one", None]
    assert cache.begin("b", here(1e-9), EXACT).find(pages_at(1)) == [None]
    assert (cache.stats().hits, cache.stats().misses, cache.stats().entries) == (1, 4, 1)


def test_a_nearby_point_is_a_hit_for_as_many_frames_as_the_depth_says() -> None:
    cache: DerivedCache[str] = DerivedCache(100)
    reuse = DerivedReuse(3, 0.1, 0.1)
    cache.begin("a", here(), EXACT).keep(7, "seven", 10)
    hits = [cache.begin("a", here(0.001 * i), reuse).find(pages_at(7))[0] for i in range(1, 6)]
    assert hits.count("seven") <= 3 and hits[-1] is None
    # Another client never drew it, and so has nothing to go on with.
    assert cache.begin("b", here(0.001), reuse).find(pages_at(7)) == [None]


def test_a_page_that_stays_exact_does_not_age() -> None:
    """After a rest at one point, the first step does not decode everything."""
    cache: DerivedCache[str] = DerivedCache(10_000)
    reuse = DerivedReuse(8, 0.1, 0.1)
    pages = tuple(range(90))
    first = cache.begin("a", here(), EXACT)
    for page in pages:
        first.keep(page, "p", 1)
    for _ in range(50):
        assert None not in cache.begin("a", here(), EXACT).find(pages_at(*pages, at=1000.0))
    found = cache.begin("a", here(0.01), reuse).find(pages_at(*pages, at=1000.0))
    assert found.count(None) == 10


def test_too_far_is_a_miss() -> None:
    cache: DerivedCache[str] = DerivedCache(100)
    cache.begin("a", here(), EXACT).keep(0, "p", 1)
    near = DerivedReuse(8, 0.05, 0.05)
    assert cache.begin("a", here(0.1), near).find(pages_at(0)) == ["p"]
    assert cache.begin("a", here(3.0), near).find(pages_at(0)) == [None]


def test_bytes_never_exceed_the_budget() -> None:
    random = np.random.default_rng(2)
    cache: DerivedCache[int] = DerivedCache(500)
    for number in range(300):
        client = f"c{random.integers(3)}"
        frame = cache.begin(client, here(float(random.integers(4))), DerivedReuse(2, 0.2, 0.2))
        pages = sorted(set(random.integers(0, 30, 8).tolist()))
        for page, value in zip(pages, frame.find(pages_at(*pages)), strict=True):
            if value is None:
                frame.keep(page, page, int(random.integers(1, 120)))
            else:
                assert value == page
        if number == 200:
            cache.set_budget(100)
        if number % 50 == 0:
            cache.forget([3, 4, 5])
        stats = cache.stats()
        assert 0 <= stats.held_bytes <= stats.budget_bytes == (500 if number < 200 else 100)


def test_a_budget_that_is_too_small_keeps_what_it_can() -> None:
    """Cyclic use would leave a plain least-recently-used cache without a single hit."""
    cache: DerivedCache[int] = DerivedCache(50)
    pages = tuple(range(10))
    hits = []
    for _ in range(5):
        frame = cache.begin("a", here(), EXACT)
        found = frame.find(pages_at(*pages))
        hits.append(10 - found.count(None))
        for page, value in zip(pages, found, strict=True):
            if value is None:
                frame.keep(page, page, 10)
    assert hits == [0, 5, 5, 5, 5]


def test_frames_under_way_at_once_keep_what_each_of_them_drew() -> None:
    """A frame that began before another, and draws after it, is no less in use for that."""
    cache: DerivedCache[int] = DerivedCache(40)
    pages = pages_at(0, 1, 2, 3)
    first, other = cache.begin("a", here(), EXACT), cache.begin("b", here(1.0), EXACT)
    assert first.find(pages) == [None] * 4
    assert all(first.keep(page, page, 10) for page in range(4))
    assert not any(other.keep(page, -page, 10) for page in range(4))
    later = cache.begin("b", here(2.0), EXACT)
    assert not any(later.keep(page, -page, 10) for page in range(4))
    assert cache.begin("a", here(), EXACT).find(pages) == [0, 1, 2, 3]


def test_what_is_in_use_does_not_keep_what_is_not() -> None:
    """However long ago the one was drawn and however lately the other."""
    cache: DerivedCache[int] = DerivedCache(20)
    assert cache.begin("a", here(), EXACT).keep(0, 0, 10)
    assert cache.begin("b", here(1.0), EXACT).keep(1, 1, 10)
    frame = cache.begin("b", here(2.0), EXACT)  # which draws page 1 no more
    assert frame.keep(2, 2, 10)
    assert frame.find(pages_at(2)) == [2]
    assert cache.begin("a", here(), EXACT).find(pages_at(0)) == [0]


def test_what_idle_clients_drew_makes_way() -> None:
    cache: DerivedCache[int] = DerivedCache(10)
    assert cache.begin("idle", here(), EXACT).keep(1, 1, 10)
    taken = [
        cache.begin("busy", here(float(i)), EXACT).keep(2, 2, 10) for i in range(RECENT_FRAMES + 3)
    ]
    assert not taken[0] and taken[-1]


def test_forgetting() -> None:
    cache: DerivedCache[str] = DerivedCache(100)
    frame = cache.begin("a", here(), EXACT)
    frame.keep(1, "one", 10)
    cache.begin("a", here(5.0), EXACT).keep(1, "one there", 10)
    frame.keep(2, "two", 10)
    cache.forget([1, 99])
    assert cache.stats().entries == 1 and cache.stats().held_bytes == 10
    assert cache.begin("a", here(), WIDE).find(pages_at(1, 2)) == [None, "two"]
    cache.clear()
    assert cache.stats().held_bytes == 0
    assert cache.begin("a", here(), EXACT).find(pages_at(2)) == [None]
    with pytest.raises(ValueError, match="negative"):
        cache.set_budget(-1)


def test_a_value_in_the_place_of_another() -> None:
    cache: DerivedCache[str] = DerivedCache(100)
    frame = cache.begin("a", here(), EXACT)
    frame.keep(1, "cut", 10)
    frame.keep(1, "whole", 30)
    assert cache.stats().held_bytes == 30
    assert frame.find(pages_at(1)) == ["whole"]
