"""How clients of one scene share a device's pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rendering.stream_choice import Chooser
from rendering.streamed_scene import StreamPolicy

PAGES = np.array([1, 2, 3, 1, 2, 3, 1, 2], np.int64)  # of eight chunks


@pytest.mark.parametrize(
    ("clients", "pages", "each"),
    [
        (0, 10, 10),
        (1, 10, 10),
        (2, 10, 5),
        (4, 10, 2),
        (4, 14, 3),
        (4, 15, 15),  # all there is
        (4, 99, 99),
    ],
)
def test_equal_shares_unless_all_fits(clients: int, pages: int, each: int) -> None:
    tree = SimpleNamespace(count=PAGES * 100, is_leaf=np.ones(len(PAGES), np.bool_))
    chooser = Chooser(cast(Any, tree), 100, StreamPolicy(), ["host"])
    for number in range(clients):
        chooser._clients[str(number)] = cast(Any, None)
    assert chooser.pages_of_each(pages) == each


@pytest.mark.parametrize(("asked_px", "error_px"), [(0.0, 2.0), (1.5, 2.0), (5.0, 5.0)])
def test_no_more_detail_is_asked_for_than_is_enough(asked_px: float, error_px: float) -> None:
    tree = SimpleNamespace(count=PAGES * 100, is_leaf=np.ones(len(PAGES), np.bool_))
    asked: list[object] = []

    def enough_px(cameras: object) -> float:
        asked.append(cameras)
        return 2.0

    chooser = Chooser(cast(Any, tree), 100, StreamPolicy(), ["host"], enough_px)
    request = SimpleNamespace(max_error_px=asked_px, cameras=("now",), frozen=())
    assert chooser.limits(cast(Any, request), 10).error_px == error_px
    request.frozen = ("then",)
    assert chooser.limits(cast(Any, request), 10).error_px == error_px
    assert asked == [("now",), ("then",)]
