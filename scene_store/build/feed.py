"""A sorted stream of Gaussians, made of runs that are loaded when they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scene_store.build.grid import Codes, MortonGrid, sort_order
from scene_store.build.rows import from_rows, means_and_opacities
from splat.gaussians import Float32Array, Gaussians


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Some Gaussians with all keys between those of the run before and those of the next.

    Attributes:
        rows: [N, width], in the source's order.
        order: [N] uint32, what sorts them.
        codes: [N] uint64 keys, sorted.
    """

    rows: Float32Array
    order: np.ndarray[tuple[int], np.dtype[np.uint32]]
    codes: Codes

    @classmethod
    def of(cls, rows: Float32Array, grid: MortonGrid) -> Run:
        """The rows, sorted; equal keys in the order given."""
        codes = grid.codes(rows[:, :3])
        order = sort_order(codes)
        return cls(rows, order, codes.take(order))


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """A piece of the stream that has not been copied yet: any thread may do that."""

    pieces: tuple[tuple[Run, int, int], ...]

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.pieces)

    def gaussians(self) -> Gaussians:
        """In sorted order."""
        parts = [run.rows.take(run.order[a:b], axis=0) for run, a, b in self.pieces]
        return from_rows(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def means_and_opacities(self, places: slice) -> Float32Array:
        """[M, 4] of some of them, copied now."""
        chosen = range(len(self))[places]
        parts, before = [], 0
        for run, start, stop in self.pieces:
            here = np.arange(chosen.start, chosen.stop, chosen.step) - before + start
            here = here[(here >= start) & (here < stop)]
            parts.append(means_and_opacities(run.rows[run.order[here]]))
            before += stop - start
        return np.concatenate(parts)


class Feed:
    """Reads runs one after the other and hands out what is in front.

    Args:
        runs: In the order of their keys.
        consumed: Gaussians before the first run.
    """

    def __init__(self, runs: Iterator[Run], consumed: int = 0) -> None:
        self._source = runs
        self._runs: deque[Run] = deque()
        self._start = 0  # in the first run
        self.available = 0
        self.consumed = consumed

    def require(self, count: int) -> int:
        """Loads until ``count`` are available or the stream ends; how many are."""
        while self.available < count and self._load():
            pass
        return self.available

    def codes(self, start: int, stop: int) -> Codes:
        """Keys of available Gaussians, counted from the front."""
        parts = [run.codes[a:b] for run, a, b in self._pieces(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.uint64), *parts])

    def take(self, count: int) -> Portion:
        """Removes ``count`` available Gaussians from the front."""
        portion = Portion(tuple(self._pieces(0, count)))
        self._drop(count)
        return portion

    def take_below(self, code: int | None) -> Portion:
        """Removes all Gaussians whose keys are below ``code``; None for all that are left."""
        count = 0
        while True:
            ahead = self.codes(count, self.available)
            below = len(ahead) if code is None else int(np.searchsorted(ahead, np.uint64(code)))
            count += below
            if below < len(ahead) or not self._load():
                return self.take(count)

    def skip(self, count: int) -> None:
        """Removes what an earlier build had taken, without keeping it."""
        while count > 0 and self.require(1):
            step = min(count, self.available)
            self._drop(step)
            count -= step

    def _load(self) -> bool:
        run = next(self._source, None)
        if run is None:
            return False
        if len(run.codes):
            self._runs.append(run)
            self.available += len(run.codes)
        return True

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Run, int, int]]:
        base = -self._start
        for run in self._runs:
            end = base + len(run.codes)
            a, b = max(start, base, 0), min(stop, end)
            if a < b:
                yield run, a - base, b - base
            base = end
            if base >= stop:
                return

    def _drop(self, count: int) -> None:
        self.available -= count
        self.consumed += count
        self._start += count
        while self._runs and self._start >= len(self._runs[0].codes):
            self._start -= len(self._runs.popleft().codes)
