"""The heading of the panel: what the cover is told, and that the viewer lives."""

from __future__ import annotations

import pytest
import viser

from viewer.cover import CoverState
from viewer.heading import BEAT_S, Heading


class Clock:
    """Seconds, at will."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heading(viser_server: viser.ViserServer, clock: Clock) -> Heading:
    return Heading(viser_server.gui, "t", "f", CoverState.OPENING, 0.25, clock)


def test_a_covered_page_is_told_again_and_again_that_the_viewer_lives(
    heading: Heading, clock: Clock
) -> None:
    first = heading.content
    heading.beat()
    assert heading.content == first, "not more often than needed"
    told = {first}
    for _ in range(3):
        clock.now_s += BEAT_S
        heading.beat()
        told.add(heading.content)
    assert len(told) == 4
    assert 'data-cover="opening" data-share="0.250"' in heading.content


def test_a_page_that_shows_its_picture_is_left_in_peace(heading: Heading, clock: Clock) -> None:
    heading.say(cover=CoverState.SHOWN)
    shown = heading.content
    clock.now_s += 10 * BEAT_S
    heading.beat()
    assert heading.content == shown and 'data-cover="shown"' in shown


def test_what_is_said_after_its_end_is_nothing(
    heading: Heading, clock: Clock, recwarn: pytest.WarningsRecorder
) -> None:
    """The ticker may be about to, while the scene takes the loading panel's place."""
    heading.remove()
    last = heading.content
    clock.now_s += 10 * BEAT_S
    heading.beat()
    heading.say(facts="late")
    assert heading.content == last
    assert not recwarn.list
