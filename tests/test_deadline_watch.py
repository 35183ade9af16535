"""The thread that sleeps until the next deadline: it wakes in time, and ends."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rendering.deadline_watch import DeadlineWatch

WAIT_S = 10.0
FAR_S = 1000.0


class Expired:
    """What was expired, and what follows.

    Attributes:
        next_s: The next deadline, as whoever is asked tells it.
        meanwhile: Called while the overdue are answered.
    """

    def __init__(self) -> None:
        self.next_s = math.inf
        self.meanwhile: Callable[[], None] = lambda: None
        self._times = threading.Semaphore(0)

    def __call__(self, now_s: float) -> float:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self._times.release()
        return self.next_s

    def once_more(self, timeout_s: float = WAIT_S) -> bool:
        return self._times.acquire(timeout=timeout_s)


@pytest.fixture
def expired() -> Expired:
    return Expired()


@pytest.fixture
def watch(expired: Expired) -> Iterator[DeadlineWatch]:
    before = set(threading.enumerate())
    watch = DeadlineWatch(expired, time.monotonic)
    yield watch
    watch.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_there_is_no_thread_before_a_deadline() -> None:
    before = set(threading.enumerate())
    watch = DeadlineWatch(lambda _: math.inf, time.monotonic)
    watch.stop()
    watch.expect(time.monotonic())
    assert set(threading.enumerate()) == before


def test_a_nearer_deadline_wakes_it(watch: DeadlineWatch, expired: Expired) -> None:
    watch.expect(time.monotonic() + FAR_S)
    time.sleep(0.02)  # until it sleeps
    watch.expect(time.monotonic() + 0.01)
    assert expired.once_more()
    assert not expired.once_more(0.05), "the far one was not told of again"


def test_who_comes_while_others_are_answered_is_not_forgotten(
    watch: DeadlineWatch, expired: Expired
) -> None:
    expired.meanwhile = lambda: watch.expect(time.monotonic() + 0.01)
    watch.expect(time.monotonic())
    assert expired.once_more() and expired.once_more()


def test_it_goes_on_with_the_next_deadline(watch: DeadlineWatch, expired: Expired) -> None:
    expired.next_s = time.monotonic() + 0.03
    expired.meanwhile = lambda: watch.expect(time.monotonic() + FAR_S)
    watch.expect(time.monotonic())
    assert expired.once_more() and expired.once_more()
