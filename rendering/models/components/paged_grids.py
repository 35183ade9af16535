"""Hash grids of which a part is in memory: all samples pass one level after the other.

A level is random access everywhere, so that it is there as a whole while it is looked into, and
not at all otherwise. Of what does not fit, a sweep over the levels reads everything once; which
levels stay is fixed, because with what was used last kept instead a sweep would find nothing.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.models.components.contracts import Float32Array
from splat.fields import HashGridEncoding, PagedGridEncoding, TableReader

# Samples that pass all levels together. More need more memory for their features (of 32 values
# 4 MiB), fewer read what is not kept more often.
SWEPT_SAMPLES = 1 << 15


class PagedGrid:
    """The levels of a grid, each there when it is asked for. Safe to use from several threads: one
    more of them than there are buffers waits for its turn.

    Args:
        grid: Which one.
        tables: Where its table is.

    Raises:
        RenderError: If what stays in memory cannot be read.
    """

    def __init__(self, grid: PagedGridEncoding, tables: TableReader) -> None:
        self.grid = grid
        self._tables = tables
        self._kept = [self._read(number) for number in range(grid.kept)]
        largest = max((self._level_bytes(i) for i in range(grid.kept, len(grid.levels))), default=0)
        self._buffers: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
        for _ in range(grid.buffers if largest else 0):
            self._buffers.put(np.empty(largest, np.uint8))

    def encode(self, encode_level: Callable[[HashGridEncoding], Any]) -> list[Any]:
        """What each level gives, coarsest first.

        Args:
            encode_level: Given a grid of one level, which is there until it returns.

        Raises:
            RenderError: If a level cannot be read.
        """
        levels = []
        for number, level in enumerate(self.grid.levels):
            with self._table(number) as table:
                levels.append(
                    encode_level(
                        HashGridEncoding((replace(level, first=0),), table, self.grid.shift)
                    )
                )
        return levels

    @contextmanager
    def _table(self, number: int) -> Iterator[NDArray[Any]]:
        if number < self.grid.kept:
            yield self._kept[number]
            return
        buffer = self._buffers.get()
        try:
            yield self._read(number, buffer)
        finally:
            self._buffers.put(buffer)

    def _read(self, number: int, buffer: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        grid, nbytes = self.grid, self._level_bytes(number)
        raw = np.empty(nbytes, np.uint8) if buffer is None else buffer[:nbytes]
        self._tables.read_into(grid.at + grid.levels[number].first * grid.entry_bytes, raw)
        table: NDArray[Any] = raw.view(np.float16 if grid.half else np.float32)
        return table.reshape(-1, grid.features)

    def _level_bytes(self, number: int) -> int:
        return self.grid.levels[number].entries * self.grid.entry_bytes


def reader_of(tables: TableReader | None) -> TableReader:
    """Of a network whose grid is elsewhere.

    Raises:
        ValueError: If it is nowhere.
    """
    if tables is None:
        raise ValueError("the network has a grid whose table is not there")
    return tables


def in_sweeps(samples: int) -> Iterator[slice]:
    """Which samples pass all levels together."""
    for first in range(0, samples, SWEPT_SAMPLES):
        yield slice(first, first + SWEPT_SAMPLES)


def within_cube(positions: Float32Array) -> NDArray[np.bool_]:
    """[M] of positions [3, M]: whether they are numbers in [0, 1]."""
    return np.asarray(((positions >= 0) & (positions <= 1)).all(axis=0), np.bool_)
