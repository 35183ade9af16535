"""Anchors in memory: pages of rows, with what is known of where their Gaussians may be."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from splat.anchors import AnchorLayout
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from splat.rows import Rows

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_SPHERE_VALUES = 5  # of an anchor, beside its row
_ROUNDING = 1e-5  # relative; engines add offsets in float32


class _WithWeakReferences:
    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True, eq=False)
class AnchorPage(_WithWeakReferences):
    """Anchors in a page.

    Attributes:
        number: No other page of this process has it.
        data: [n, W] float32, rows of the model's layout.
        spheres: [5, n] float32, of each anchor the mean, a radius about it that holds the means of
            its Gaussians, and the largest standard deviation that any of them may have.
        low, high: [3] float32 corners of a box that holds the means of all Gaussians.
        largest: Standard deviation of any Gaussian.
        middle: [3] float64, of the anchors.
        radius: Their distance from it, root mean square.
    """

    number: int
    data: Float32Array
    spheres: Float32Array
    low: Float32Array
    high: Float32Array
    largest: float
    middle: Float64Array
    radius: float

    @property
    def count(self) -> int:
        """Anchors."""
        return len(self.data)


KnownPage = TypeVar("KnownPage", bound=AnchorPage)


class AnchorPool:
    """Pages of anchors in host memory; see ``rendering.base.PagePool``.

    Args:
        page_rows: Of a page.
        layout: Of a row.
        gone: Where the numbers of pages go that nobody has any more.
    """

    def __init__(self, page_rows: int, layout: AnchorLayout, gone: deque[int]) -> None:
        if page_rows < 1:
            raise ValueError(f"a page has room for at least one anchor, got {page_rows}")
        self._page_rows, self._layout, self._gone = page_rows, layout, gone
        self._pages: weakref.WeakSet[AnchorPage] = weakref.WeakSet()

    @property
    def page_bytes(self) -> int:
        """Memory that one page takes, however full it is."""
        return 4 * self._page_rows * (self._layout.width + _SPHERE_VALUES)

    @property
    def pages_in_use(self) -> int:
        """Pages that hold anchors."""
        return len(self._pages)

    def pack(self, rows: Rows | Gaussians) -> AnchorPage:
        """Anchors in a page of their own."""
        return self.pack_many(rows, np.array([[0, len(rows)]], np.int64))[0]

    def pack_many(
        self, rows: Rows | Gaussians, places: NDArray[np.int64], threads: int = 1
    ) -> list[AnchorPage]:
        """Rows of anchors in pages of their own: all of them, or none.

        Args:
            rows: Those of all pages.
            places: [P, 2] first row and number of rows of each page.
            threads: One is enough: they are copied.

        Raises:
            BudgetError: If the memory is not to be had.
            ValueError: If they are more than a page holds, no anchors, or of another layout.
        """
        if not isinstance(rows, Rows) or rows.data.dtype != np.float32:
            raise ValueError("a pool of anchors takes rows of float32")
        if rows.width != self._layout.width:
            raise ValueError(f"anchors of {rows.width} values, expected {self._layout.width}")
        if (places[:, 1] > self._page_rows).any():
            raise ValueError(f"more anchors than fit a page of {self._page_rows:,}")
        if (places < 0).any() or (places.sum(axis=1) > len(rows)).any():
            raise ValueError("rows beyond the arrays")
        try:
            return [self._known(page) for page in self._pages_of(rows, places)]
        except MemoryError as error:
            raise BudgetError("not enough memory for another page of anchors") from error

    def keep_free(self, pages: int) -> None:
        """Nothing is held that nobody uses."""

    def _pages_of(self, rows: Rows, places: NDArray[np.int64]) -> list[AnchorPage]:
        return [
            page_of(rows.data[first : first + count], self._layout)
            for first, count in places.tolist()
        ]

    def _known(self, page: KnownPage) -> KnownPage:
        self._pages.add(page)
        # A queue: this may run amid anything, even with a cache's lock held.
        weakref.finalize(page, self._gone.append, page.number).atexit = False
        return page


_NUMBERS: Iterator[int] = itertools.count()


def next_number() -> int:
    """One that no page has."""
    return next(_NUMBERS)


def page_of(data: Float32Array, layout: AnchorLayout) -> AnchorPage:
    """A page of a copy of rows [n, W]."""
    data = data.copy()
    mean, scales = data[:, layout.means], data[:, layout.scales]
    if not len(data):
        none = np.zeros(3, np.float32)
        spheres = np.zeros((_SPHERE_VALUES, 0), np.float32)
        return AnchorPage(next(_NUMBERS), data, spheres, none, none, 0.0, np.zeros(3), 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        offsets = data[:, layout.offset_values].reshape(len(data), -1, 3)
        aside = offsets * np.exp(scales[:, None, 0:3])
        radius = np.sqrt(np.square(aside).sum(axis=2).max(axis=1))
        largest = np.exp(scales[:, 3:6].max(axis=1))
        low, high = mean + aside.min(axis=1), mean + aside.max(axis=1)
    spheres = np.stack([*mean.T, radius * np.float32(1 + _ROUNDING), largest])
    middle = mean.mean(axis=0, dtype=np.float64)
    return AnchorPage(
        next(_NUMBERS),
        data,
        np.ascontiguousarray(spheres, np.float32),
        low.min(axis=0),
        high.max(axis=0),
        float(largest.max()),
        middle,
        float(np.sqrt(np.square(mean - middle).sum(axis=1).mean())),
    )


def boxes_of(pages: Sequence[AnchorPage]) -> tuple[Float32Array, Float32Array, Float32Array]:
    """[P, 3] low and [P, 3] high corners of pages, and [P] their largest deviations."""
    low = np.array([page.low for page in pages], np.float32).reshape(-1, 3)
    high = np.array([page.high for page in pages], np.float32).reshape(-1, 3)
    return low, high, np.array([page.largest for page in pages], np.float32)
