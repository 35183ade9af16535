"""Transfers to a device: nothing is overwritten under way, nobody waits for ever."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scene_store.staging import (
    OVER,
    RingSpace,
    Span,
    StagingRing,
    TransferStalled,
    Words,
)
from scene_store.transfer import HostCopier, Target, Transfer
from scene_store.upload_allowance import UploadAllowance
from splat.errors import BudgetError
from tests.late_copier import Device, LateCopier, LateMark

WAIT_S = 20.0
PIECE = 16  # words


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def transfer(copier: LateCopier, ring_pieces: int = 8, **more: object) -> Transfer:
    return Transfer(copier, ring_bytes=4 * PIECE * ring_pieces, **more)  # type: ignore[arg-type]


def numbered(first: int) -> Callable[[Words, int], None]:
    """Each piece is full of its number."""

    def fill(words: Words, at: int) -> None:
        words[:] = np.arange(first + at, first + at + len(words))[:, None]

    return fill


def send(to: Transfer, pieces: int, first: int = 1) -> tuple[Words, list[LateMark]]:
    target = to.copier.device_words(pieces * PIECE)
    marks = to.send([Target(pieces, target)], PIECE, numbered(first))
    return target.reshape(pieces, PIECE), marks  # type: ignore[return-value]


def assert_arrived(target: Words, first: int = 1) -> None:
    expected = np.arange(first, first + len(target), dtype=np.float32)
    np.testing.assert_array_equal(target, np.repeat(expected[:, None], PIECE, axis=1))


# --- The ring -------------------------------------------------------------------------------


@given(
    words=st.integers(1, 40),
    steps=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 10)), max_size=60),
)
def test_spans_in_use_never_overlap(words: int, steps: list[tuple[int, int]]) -> None:
    """Whatever is asked for, and in whatever order it is given up."""
    space, in_use = RingSpace(words), list[Span]()
    for count, given_up in steps:
        span = space.place(count)
        if span is not None:
            assert 0 <= span.first < span.end <= words and span.end - span.first == count
            for other in in_use:
                assert span.end <= other.first or other.end <= span.first
            in_use.append(span)
        else:
            assert count > words or in_use
        if given_up < len(in_use):
            in_use.pop(given_up).given_up = True


def test_a_ring_goes_round() -> None:
    space = RingSpace(10)
    first, second = space.place(4), space.place(4)
    assert first is not None and second is not None
    assert space.place(4) is None
    first.mark = OVER
    third = space.place(4)
    assert third is not None and (third.first, third.end) == (0, 4)
    assert space.place(1) is None  # what is left before the second is none, behind it not in turn
    second.mark = OVER
    fourth = space.place(6)
    assert fourth is not None and (fourth.first, fourth.end) == (4, 10)


@pytest.mark.parametrize("seed", range(4))
def test_all_arrives_whole_from_many_threads_and_late(seed: int) -> None:
    """Copies are made when they are over, from what is in the ring then: one that was written
    over would bring something else."""
    copier = LateCopier()
    to = transfer(copier, ring_pieces=16)
    with Device(copier, seed), ThreadPoolExecutor(6) as threads:
        sent = list(threads.map(lambda i: send(to, 3 + i, 100 * i), range(24)))
    for i, (target, marks) in enumerate(sent):
        assert_arrived(target, 100 * i)
        assert len(marks) == len(target)
    assert len(copier.host_taken) == 1, "host memory is taken once"


def test_targets_need_not_lie_together() -> None:
    copier = LateCopier()
    memory = copier.device_words(10 * PIECE).reshape(10, PIECE)
    places = [[7, 8, 9], [2], [4, 5]]
    targets = [Target(len(run), memory[run[0] : run[-1] + 1].reshape(-1)) for run in places]
    with Device(copier):
        transfer(copier).send(targets, PIECE, numbered(1))
    assert_arrived(memory[[7, 8, 9, 2, 4, 5]])
    assert not memory[[0, 1, 3, 6]].any()


def test_a_piece_larger_than_the_ring_is_refused() -> None:
    to = transfer(LateCopier(), ring_pieces=8)
    target = to.copier.device_words(9 * PIECE)
    with pytest.raises(BudgetError, match=r"does not fit .* smaller pages"):
        to.send([Target(1, target)], 9 * PIECE, numbered(0))


def test_copies_that_never_end_are_not_waited_for_for_ever() -> None:
    copier = LateCopier()
    to = transfer(copier, ring_pieces=4, patience_s=0.05)
    begun = time.monotonic()
    with pytest.raises(TransferStalled, match="no copy to the device ended"):
        send(to, 9)
    with pytest.raises(TransferStalled):
        to.wait_until_over()
    with ThreadPoolExecutor(4) as threads:
        several = [threads.submit(send, to, 5) for _ in range(4)]
        assert all(isinstance(one.exception(WAIT_S), TransferStalled) for one in several)
    assert time.monotonic() - begun < WAIT_S
    copier.finish_all()
    with Device(copier):
        target, _ = send(to, 9)
    assert_arrived(target)


def test_what_is_not_filled_is_free_again() -> None:
    copier = LateCopier()
    to = transfer(copier, ring_pieces=1, patience_s=0.05)
    target = to.copier.device_words(PIECE)

    def fail(words: Words, at: int) -> None:
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            to.send([Target(1, target)], PIECE, fail)
    send(to, 1)
    assert len(copier.under_way) == 1


def test_no_host_memory_is_no_deadlock() -> None:
    class Poor(LateCopier):
        def host_words(self, count: int) -> tuple[Words, object]:
            if len(self.host_taken) < 2:
                self.host_taken.append(count)
                raise RuntimeError("CUDA error: out of memory")
            return super().host_words(count)

    copier = Poor()
    ring = StagingRing(copier, 8, patience_s=0.05)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"), ring.filled(8):
            pass
    with ring.filled(8) as (span, words, _):
        assert (span.first, len(words)) == (0, 8)


@pytest.mark.parametrize("lost", [False, True])
def test_memory_of_a_device_that_is_lost_is_never_freed(lost: bool) -> None:
    """To free it would end the process; all other rings give theirs back."""

    class Memory(np.ndarray):
        """Can be referred to weakly."""

    class Pinned(LateCopier):
        def host_words(self, count: int) -> tuple[Words, object]:
            words, _ = super().host_words(count)
            taken.append(weakref.ref(own := words.view(Memory)))
            return own, own

    taken: list[weakref.ref[Memory]] = []
    copier = Pinned()
    ring = StagingRing(copier, 8)
    with ring.filled(8):
        pass
    copier.lost = lost
    del ring
    gc.collect()
    assert (taken[0]() is not None) == lost


def test_a_ring_that_was_never_used_asks_nobody() -> None:
    class Silent(LateCopier):
        def can_free_host_words(self) -> bool:
            raise AssertionError

    ring = StagingRing(Silent(), 8)
    del ring
    gc.collect()


def test_large_spans_have_their_turn() -> None:
    """Small ones that come later do not keep a large one waiting for ever."""
    copier = LateCopier()
    ring, order = StagingRing(copier, 8), list[int]()
    small = ring.filled(4)
    small.__enter__()

    def take(size: int) -> None:
        with ring.filled(size):
            order.append(size)

    large = threading.Thread(target=take, args=(8,))
    large.start()
    while len(ring._turns) != 1:
        time.sleep(0.001)
    later = threading.Thread(target=take, args=(4,))
    later.start()
    later.join(0.05)
    assert order == []
    small.__exit__(None, None, None)
    large.join(WAIT_S)
    later.join(WAIT_S)
    assert order == [8, 4]


def test_on_the_cpu_it_is_there_at_once() -> None:
    pytest.importorskip("torch")
    to = Transfer(HostCopier())
    target = to.copier.device_words(5 * PIECE)
    marks = to.send([Target(5, target)], PIECE, numbered(1))
    assert_arrived(target.numpy().reshape(5, PIECE))
    assert all(mark.is_over() for mark in marks)
    to.wait_until_over()


# --- Frames ---------------------------------------------------------------------------------


def test_a_frame_waits_on_the_device_for_what_it_draws_and_nothing_else() -> None:
    copier = LateCopier()
    to = transfer(copier)
    (_, mine), (_, other) = send(to, 1), send(to, 1)
    to.frame_begins(lambda: {mine[0]})
    assert (mine[0].held, other[0].held) == (1, 0)
    copier.finish_all()
    to.frame_begins(lambda: pytest.fail("nothing is under way: nobody need ask"))
    assert mine[0].held == 1


@given(sizes=st.lists(st.integers(1, 30), max_size=40), cap=st.integers(1, 20))
def test_no_more_is_copied_than_frames_allow(sizes: list[int], cap: int) -> None:
    """On the average; at once, no more than a frame's, or a single copy that is larger."""
    allowance, now_s = UploadAllowance(cap, 0.1), 5.0
    allowance.frame_begins(now_s)
    frames, copied, of_frame = 1, 0, 0
    for size in sizes:
        while allowance.wait_s(size, now_s):
            now_s += 0.016
            allowance.frame_begins(now_s)
            frames, of_frame = frames + 1, 0
        copied, of_frame = copied + size, of_frame + size
        assert of_frame <= cap or of_frame == size
        assert copied <= frames * cap + max(0, max(sizes) - cap)


def test_without_frames_all_is_allowed() -> None:
    allowance = UploadAllowance(10, 0.1)
    assert allowance.wait_s(1_000_000, 0.0) == 0
    allowance.frame_begins(1.0)
    assert allowance.wait_s(8, 1.0) == 0
    assert allowance.wait_s(8, 1.04) == pytest.approx(0.06)
    assert allowance.wait_s(1_000_000, 1.1) == 0


def test_a_pause_forgives_debts_and_saves_nothing() -> None:
    allowance = UploadAllowance(10, 0.1)
    allowance.frame_begins(1.0)
    assert allowance.wait_s(1000, 1.0) == 0  # nothing was copied for this frame yet
    allowance.frame_begins(9.0)
    assert allowance.wait_s(10, 9.0) == 0
    assert allowance.wait_s(1, 9.0) > 0


def test_uploads_wait_for_frames_and_frames_for_nobody() -> None:
    clock, copier = Clock(), LateCopier()
    allowance = UploadAllowance(2 * PIECE * 4, 1e9)
    to = transfer(copier, ring_pieces=64, allowance=allowance, clock=clock)
    to.frame_begins(set)
    loader = threading.Thread(target=send, args=(to, 7))
    loader.start()
    for frame in range(1, 4):
        loader.join(0.02)
        assert loader.is_alive() and len(copier.under_way) == frame
        begun = time.monotonic()
        to.frame_begins(set)
        assert time.monotonic() - begun < WAIT_S / 10
    loader.join(WAIT_S)
    assert not loader.is_alive() and len(copier.under_way) == 4
