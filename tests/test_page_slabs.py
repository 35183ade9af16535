"""Pages cut from slabs: all or none, each once, and memory that goes when nobody uses it."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rendering.page_slabs import Place, SlabPool


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
    assert [place.number for place in places] == [*range(8), *range(4)]
    assert places[0].slab is places[7].slab is not places[8].slab
    assert (pool.pages, pool.pages_in_use) == (16, 12)


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
    pool = SlabPool(Memory(2), 4)
    pool.take(3)
    with pytest.raises(MemoryError):
        pool.take(6)
    assert (pool.pages, pool.pages_in_use) == (4, 3)
    with pytest.raises(MemoryError):
        pool.take(6)
    assert len(pool.take(1)) == 1


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
