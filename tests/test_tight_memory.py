"""Pictures where memory is short: the same bytes in bands, as few as need be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.base import TILE_PX, RasterImage, RasterStats
from rendering.tight_memory import CALM_PICTURES, Images, Rows, TightMemory
from splat.errors import BudgetError


class Card:
    """Draws pictures whose rows are numbered, of at most so many rows.

    Attributes:
        most: Rows that there is memory for.
        held: Rows that unused memory takes away, until somebody lets go of it.
        asked: Bands that were asked for.
    """

    def __init__(self, most: int, held: int = 0) -> None:
        self.most, self.held = most, held
        self.asked: list[Rows] = []
        self.tight = TightMemory(self.relieve)

    def relieve(self) -> None:
        self.held = 0

    def band(self, rows: Rows) -> Images:
        first, end = rows
        self.asked.append(rows)
        if end - first > self.most - self.held:
            raise BudgetError("cuda:0 has no memory")
        alpha = np.tile(np.arange(first, end, dtype=np.float32)[:, None], (1, 3))
        stats = RasterStats(70, end - first, 10, {"project": 1.0, "sort": 2.0})
        return RasterImage(alpha, stats=stats), RasterImage(alpha + 0.5, stats=stats)

    def draw(self, height: int, first: int = 0) -> Images:
        self.asked.clear()
        return self.tight.draw((first, height), self.band)


def assert_whole(images: Images, height: int, first: int = 0) -> None:
    for image, more in zip(images, (0.0, 0.5), strict=True):
        np.testing.assert_array_equal(image.alpha[:, 0], np.arange(first, height) + more)


def test_nothing_is_cut_while_memory_suffices() -> None:
    card = Card(1000)
    images = card.draw(100)
    assert card.asked == [(0, 100)]
    assert_whole(images, 100)
    assert images[0].stats.parts == 1


def test_unused_memory_goes_first() -> None:
    card = Card(100, held=50)
    images = card.draw(100)
    assert card.asked == [(0, 100), (0, 100)]
    assert images[0].stats.parts == 1


def test_bands_are_halves_until_they_fit() -> None:
    card = Card(64)
    images = card.draw(193)
    assert card.asked == [
        (0, 193),
        (0, 193),
        (0, 128),
        (0, 64),
        (64, 128),
        (128, 193),
        (128, 192),
        (192, 193),
    ]
    assert_whole(images, 193)
    assert images[0].stats == RasterStats(70, 64, 40, {"project": 4.0, "sort": 8.0}, parts=4)


def test_the_next_picture_begins_with_bands_that_fit() -> None:
    card = Card(64)
    card.draw(200)
    card.draw(200)
    assert card.asked == [(0, 64), (64, 128), (128, 192), (192, 200)]


def test_larger_bands_are_tried_again_after_a_while() -> None:
    card = Card(64)
    card.draw(128)
    card.most = 1000
    parts = [card.draw(128)[0].stats.parts for _ in range(CALM_PICTURES + 1)]
    assert parts == [2] * CALM_PICTURES + [1]


def test_bands_do_not_grow_for_ever() -> None:
    """Once all is drawn at once, that is how it is begun."""
    card = Card(64)
    card.draw(128)
    card.most = 1000
    for _ in range(CALM_PICTURES + 1):
        card.draw(128)
    assert card.tight._most_rows is None
    assert len(card.draw(400)) == 2 and card.asked == [(0, 400)]


def test_less_than_a_row_of_tiles_is_an_error() -> None:
    card = Card(TILE_PX - 1)
    with pytest.raises(BudgetError):
        card.draw(200)
    assert card.asked[-1] == (0, TILE_PX)
    card.most = 1000
    assert_whole(card.draw(200), 200)  # the engine goes on


def test_other_errors_are_not_memorys() -> None:
    def lost(rows: Rows) -> Images:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Card(1).tight.draw((0, 100), lost)


@given(
    tiles=st.integers(0, 5),
    height=st.integers(1, 400),
    most=st.integers(TILE_PX, 300),
    held=st.integers(0, 300),
    pictures=st.integers(1, 3),
)
def test_every_row_is_drawn_once(
    tiles: int, height: int, most: int, held: int, pictures: int
) -> None:
    first = tiles * TILE_PX
    card = Card(most, held)
    for _ in range(pictures):
        assert_whole(card.draw(first + height, first), first + height, first)
        for begin, end in card.asked:
            assert begin % TILE_PX == 0 and (end % TILE_PX == 0 or end == first + height)
