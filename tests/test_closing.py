"""``with`` and what it closes."""

from __future__ import annotations

import pytest

from splat.closing import Closing


class Door(Closing):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_it_is_closed_at_the_end() -> None:
    with Door() as door:
        assert door.closed == 0
    assert door.closed == 1


def test_it_is_closed_after_an_error_which_passes() -> None:
    door = Door()
    with pytest.raises(ZeroDivisionError), door:
        raise ZeroDivisionError
    assert door.closed == 1


def test_what_cannot_close_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="close"):
        type("Wall", (Closing,), {})()
