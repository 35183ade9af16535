"""Pages cut from slabs: all or none, each once, and memory that goes when nobody uses it."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.page_slabs import SHARE, Place, SlabPool, next_slab_pages


class Memory:
    """Of a device that has room for so many slabs."""

    def __init__(self, slabs: int = 1000) -> None:
        self.left = slabs

    def __call__(self, pages: int) -> object:
        if not self.left:
            raise MemoryError
        self.left -= 1
        return object()


def where(place: Place) -> tuple[int, int]:
    return id(place.slab), place.number


def test_neighbours_go_together() -> None:
    pool = SlabPool(Memory(), 8)
    places = pool.take(12)
    assert [place.number for place in places] == [*range(4), *range(8)]
    assert places[4].slab is places[11].slab is not places[0].slab
    assert (pool.pages, pool.pages_in_use) == (12, 12)


def test_pages_are_taken_again_before_more_memory_is() -> None:
    memory = Memory(2)
    pool = SlabPool(memory, 4)
    places = pool.take(8)
    for place in places[2:5]:
        pool.give_back(place)
    again = pool.take(3)
    assert {where(place) for place in again} == {where(place) for place in places[2:5]}
    assert memory.left == 0


def test_all_or_none() -> None:
    pool = SlabPool(memory := Memory(2), 4)
    pool.take(3)
    with pytest.raises(MemoryError):
        pool.take(6)
    assert (pool.pages, pool.pages_in_use) == (3, 3)
    with pytest.raises(MemoryError):
        pool.take(6)
    memory.left = 1
    assert len(pool.take(4)) == 4


def test_slabs_that_nobody_uses_can_go() -> None:
    pool = SlabPool(Memory(), 4)
    places = pool.take(12)
    for place in places[4:]:
        pool.give_back(place)
    assert pool.pages == 12
    pool.keep_free(5)
    assert pool.pages == 8
    for place in places[:3]:
        pool.give_back(place)
    assert pool.pages == 4  # one page of that slab is in use; the other slab had to go
    pool.keep_free(0)
    assert pool.pages == 4
    pool.give_back(places[3])
    assert pool.pages == 0


def test_full_slabs_are_filled_first() -> None:
    """So that those with little in them become empty."""
    pool = SlabPool(Memory(), 4)
    places = pool.take(8)
    for place in [*places[:3], places[4]]:
        pool.give_back(place)
    (taken,) = pool.take(1)
    assert taken.slab is places[4].slab


def test_what_comes_back_while_the_lock_is_held_waits_for_nobody() -> None:
    """As it may, amid garbage collection."""
    pool = SlabPool(Memory(), 4)
    (place,) = pool.take(1)
    done = threading.Event()

    def give_back() -> None:
        pool.give_back(place)
        done.set()

    with pool._lock:
        thread = threading.Thread(target=give_back)
        thread.start()
        assert done.wait(10)
    thread.join(10)
    assert pool.pages_in_use == 0


def test_many_threads_never_have_the_same_page() -> None:
    pool, lock = SlabPool(Memory(), 7), threading.Lock()
    in_use: set[tuple[int, int]] = set()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(150):
            places = pool.take(dice.randrange(1, 12))
            with lock:
                fresh = {where(place) for place in places}
                assert len(fresh) == len(places) and not fresh & in_use
                in_use.update(fresh)
            with lock:
                in_use.difference_update(fresh)
            for place in places:
                pool.give_back(place)
            if dice.random() < 0.05:
                pool.trim()

    with ThreadPoolExecutor(6) as threads:
        for outcome in [threads.submit(work, seed) for seed in range(6)]:
            outcome.result(60)
    assert pool.pages_in_use == 0
    pool.trim()
    assert pool.pages == 0


# --- Memory that is given back ----------------------------------------------------------------


@given(
    held=st.integers(0, 10_000),
    missing=st.integers(1, 200),
    most=st.integers(1, 300),
    beyond=st.integers(0, 500),
)
def test_a_slab_is_what_is_missing_or_a_small_part(
    held: int, missing: int, most: int, beyond: int
) -> None:
    pages = next_slab_pages(held, missing, most, held + beyond)
    assert 1 <= pages <= most
    assert pages <= max(missing, held / SHARE)
    assert pages <= max(missing, beyond)
    assert pages >= min(missing, most)


def moved(pool: SlabPool, places: list[Place]) -> list[Place]:
    """As who has pages does it: all that should move does, and old places come back."""
    while pool.is_loose():
        pairs = dict(pool.leave(places, 5))
        if not pairs:
            break
        for before in pairs:
            pool.give_back(before)
        places = [pairs.get(place, place) for place in places]
    return places


@given(
    taken=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    slab_pages=st.integers(1, 64),
    share=st.floats(0.3, 0.9),
    seed=st.integers(0, 1000),
)
def test_pages_move_until_no_more_is_held_than_is_allowed(
    taken: list[int], slab_pages: int, share: float, seed: int
) -> None:
    """Whichever pages went: without moves nearly every slab would keep some."""
    pool, dice = SlabPool(Memory(), slab_pages), random.Random(seed)
    places = [place for count in taken for place in pool.take(count)]
    limit = int(share * len(places))
    kept = set(dice.sample(range(len(places)), limit))
    for at, place in enumerate(places):
        if at not in kept:
            pool.give_back(place)
    pool.limit(limit)
    places = moved(pool, [places[at] for at in kept])
    assert len({where(place) for place in places}) == len(places) == pool.pages_in_use == limit
    smallest = min((slab.pages for slab in pool._slabs), default=0)
    assert pool.pages < limit + max(1, smallest)
    assert not pool.is_loose(), "nothing moves to and fro"
    pool.limit(1 << 30)
    assert len(pool.take(50)) == 50


def test_within_the_limit_nothing_moves() -> None:
    pool = SlabPool(Memory(), 4)
    places = pool.take(16)
    for place in places[::2]:
        pool.give_back(place)
    pool.limit(16)
    assert not pool.is_loose() and pool.pages == 16
    pool.limit(15)
    assert pool.is_loose()
    assert len(pool.leave(places[1::2], 100)) == 2, "a slab goes, and no other"


def test_a_slab_that_is_left_stays_while_somebody_has_a_page_of_it() -> None:
    pool = SlabPool(Memory(), 4)
    places = pool.take(8)
    for place in places[1:6]:
        pool.give_back(place)
    pool.limit(4)
    assert pool.is_loose()
    ((before, after),) = pool.leave([places[0], *places[6:]], 100)
    assert before is places[0] and after.slab is places[6].slab
    assert pool.is_loose() and pool.pages == 8
    assert pool.leave([after, *places[6:]], 100) == []
    pool.give_back(before)
    assert not pool.is_loose() and pool.pages == 4


def test_a_slab_that_is_left_is_used_before_more_memory_is_taken() -> None:
    memory = Memory(2)
    pool = SlabPool(memory, 4)
    places = pool.take(8)
    for place in places[1:6]:
        pool.give_back(place)
    pool.limit(4)
    assert pool.is_loose()
    assert len(pool.take(5)) == 5
    assert not pool.is_loose() and memory.left == 0
