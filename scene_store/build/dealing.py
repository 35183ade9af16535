"""Reading what does not fit into memory: dealt out to bucket files, and continued from the last
point that was saved, however it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from scene_store.build.grid import Codes, MortonGrid
from scene_store.build.partition import Buckets, Dealer
from scene_store.build.rows import row_width, usable_rows
from scene_store.sampling import Count, checked_batches
from scene_store.scene import SceneSource

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dealing:
    """How far it is, between two batches.

    Attributes:
        grid: Of the curve.
        limits: Keys at which the next bucket begins, growing.
        consumed: Gaussians that were read of each source.
        bucket_counts: Rows in the bucket files of each.
    """

    grid: MortonGrid
    limits: tuple[int, ...]
    consumed: tuple[int, ...]
    bucket_counts: tuple[tuple[int, ...], ...]

    @classmethod
    def begun(cls, grid: MortonGrid, limits: Codes, sources: int) -> Dealing:
        """Nothing is read yet."""
        empty = (0,) * (len(limits) + 1)
        return cls(grid, tuple(limits.tolist()), (0,) * sources, (empty,) * sources)

    def after(self, source: int, consumed: int, counts: tuple[int, ...]) -> Dealing:
        """When so much of one of the sources is read, and in its buckets."""
        return replace(
            self,
            consumed=_put(self.consumed, source, consumed),
            bucket_counts=_put(self.bucket_counts, source, counts),
        )

    def check(self, folders: Sequence[Path], width: int) -> None:
        """See that all of it is on the disk.

        Args:
            folders: Of the buckets of each source.
            width: Values of a row.

        Raises:
            ValueError: If it makes no sense, or a file is shorter.
            OSError: If a file is missing.
        """
        buckets = len(self.limits) + 1
        if len(self.consumed) != len(folders) or min(self.consumed) < 0:
            raise ValueError("its journal makes no sense")
        for folder, counts in zip(folders, self.bucket_counts, strict=True):
            if len(counts) != buckets or min(counts) < 0:
                raise ValueError("its journal makes no sense")
            files = Buckets(folder, width, counts)
            for bucket, count in enumerate(counts):
                if count and files.path(bucket).stat().st_size < 4 * width * count:
                    raise ValueError(f"{files.path(bucket).name} is shorter than it was")


def deal_out(
    sources: Sequence[SceneSource],
    folders: Sequence[Path],
    state: Dealing,
    sh_degree: int,
    memory: int,
    done: Count,
    save: Callable[[Dealing], None],
    every_s: float,
) -> Dealing:
    """Deals all usable Gaussians of some sources out to bucket files.

    Args:
        sources: What is read, one after the other.
        folders: Of the bucket files of each.
        state: Where to go on.
        sh_degree: Of the rows.
        memory: Of the whole build, bytes.
        done: Hears how many Gaussians were read, of all sources.
        save: Gets a state that is on the disk, from which another call can go on.
        every_s: Between two of them.

    Returns:
        The state at the end.
    """
    limits = np.array(state.limits, np.uint64)
    saved_s, before = time.monotonic(), 0
    for index, (source, folder) in enumerate(zip(sources, folders, strict=True)):
        consumed, total = state.consumed[index], before

        def reading(count: int, total: int = total) -> None:
            done(total + count)

        counts = state.bucket_counts[index]
        dealer = Dealer(folder, row_width(sh_degree), limits, memory, counts)
        for batch in checked_batches(source, reading, consumed):
            rows = usable_rows(batch, sh_degree)
            dealer.add(rows, state.grid.codes(rows[:, :3]))
            consumed += len(batch)
            if time.monotonic() - saved_s >= every_s:
                state = state.after(index, consumed, dealer.flush())
                save(state)
                saved_s = time.monotonic()
        state = state.after(index, consumed, dealer.finish().counts)
        before += source.meta.count
    return state


def _put(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])
