"""In which order frames reach their clients, whatever order they end in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rendering.delivery import Outbox
from rendering.frame import Frame, FrameRequest, FrameStats
from splat.camera import Camera
from splat.errors import BelvedereError, BudgetError, RenderCancelled

CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, 6)


@dataclass(eq=False)
class Begun:
    request: FrameRequest
    outcome: Frame | BelvedereError | None = None

    def draw(self) -> None:
        if self.outcome is None:
            self.outcome = Frame(self.request, (), FrameStats(0.0, 0.0, ()))


def begin(outbox: Outbox, sequence: int, *, replaces: bool = True, client: str = "a") -> Begun:
    answer = Begun(replace(FrameRequest(client, sequence, (CAMERA,)), replaces=replaces))
    outbox.opened(answer)
    return answer


def deliver(outbox: Outbox, client: str = "a") -> list[object]:
    arrived: list[object] = []
    while (answer := outbox.take(client)) is not None:
        arrived.append(answer)
        outbox.delivered(answer)
    return arrived


def test_a_newer_frame_waits_for_an_older_one_where_every_frame_is_wanted() -> None:
    outbox = Outbox()
    first, second = (begin(outbox, n, replaces=False) for n in (1, 2))
    second.draw()
    assert outbox.ended(second) == () and deliver(outbox) == []
    first.draw()
    assert outbox.ended(first) == () and deliver(outbox) == [first, second]
    assert len(outbox) == 0


def test_an_older_frame_is_in_vain_once_a_newer_one_is_there() -> None:
    outbox = Outbox()
    first, second, third = (begin(outbox, n) for n in (1, 2, 3))
    second.draw()
    assert outbox.ended(second) == (first,)
    assert isinstance(first.outcome, RenderCancelled)
    assert deliver(outbox) == [first, second]
    first.draw()  # its device comes to an end at last
    assert outbox.ended(first) == () and deliver(outbox) == []
    third.draw()
    outbox.ended(third)
    assert deliver(outbox) == [third]


def test_a_newer_frame_that_failed_ends_no_older_one() -> None:
    outbox = Outbox()
    first, second = (begin(outbox, n) for n in (1, 2))
    second.outcome = BudgetError("too large")
    assert outbox.ended(second) == () and first.outcome is None


def test_clients_do_not_wait_for_each_other() -> None:
    outbox = Outbox()
    begin(outbox, 1)
    other = begin(outbox, 1, client="b")
    other.draw()
    outbox.ended(other)
    assert deliver(outbox, "b") == [other]


def test_one_thread_at_a_time_delivers_to_a_client_until_it_is_lost() -> None:
    outbox = Outbox()
    first, second = (begin(outbox, n, replaces=False) for n in (1, 2))
    for answer in (first, second):
        answer.draw()
        outbox.ended(answer)
    assert outbox.take("a") is first
    assert outbox.take("a") is None
    outbox.interrupted("a")
    assert deliver(outbox) == [first, second]
    outbox.delivered(first)  # the lost thread comes back
    assert len(outbox) == 0


@given(st.permutations(range(6)), st.lists(st.booleans(), min_size=6, max_size=6))
def test_every_frame_is_answered_once_and_in_order(order: list[int], replaces: list[bool]) -> None:
    outbox = Outbox()
    answers = [begin(outbox, n, replaces=yes) for n, yes in enumerate(replaces)]
    arrived = []
    for number in order:
        answers[number].draw()
        outbox.ended(answers[number])
        arrived += deliver(outbox)
    assert arrived == answers
    newest_drawn = max(range(6), key=lambda n: (isinstance(answers[n].outcome, Frame), n))
    assert isinstance(answers[newest_drawn].outcome, Frame)
    for number, answer in enumerate(answers):
        if not isinstance(answer.outcome, Frame):
            assert any(replaces[number + 1 :])
