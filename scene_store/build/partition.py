"""From a source in any order to runs in the order of the Z-curve.

What fits is read into memory and sorted there. The rest is first dealt out to bucket files,
each an interval of the curve with its limits taken from a sample, so that buckets are about
equally large however unevenly the scene is filled; then bucket after bucket is read and sorted.
Both ways give the same sequence: equal keys keep the order of the source.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from scene_store.build.feed import Run
from scene_store.build.grid import Codes, MortonGrid
from scene_store.build.rows import row_bytes, row_width, usable_rows
from scene_store.sampling import Count, SampleCollector, checked_batches, sample_slices
from scene_store.scene import SceneSource
from scene_store.store_folder import flush_folder
from splat.errors import SceneFormatError
from splat.gaussians import Float32Array

MAX_BUCKETS = 512
# Of the memory: a bucket, and what waits to be written to all of them.
_BUCKET_SHARE, _BUFFER_SHARE = 0.1, 0.25
# A bucket this many times as large as it should be is dealt out again.
_TOO_LARGE = 3
# Of each row of a run, for its key and its place in the order, while it is sorted.
_SORT_BYTES = 40


def fits_in_memory(count: int, sh_degree: int, memory: int) -> bool:
    """Whether so many Gaussians can be sorted in so much memory."""
    return count * (row_bytes(sh_degree) + _SORT_BYTES) <= memory


def read_run(
    source: SceneSource, sh_degree: int, grid: MortonGrid | None, done: Count
) -> tuple[Run, MortonGrid]:
    """All usable Gaussians as one run; with a grid of their own if none is given."""
    rows = np.empty((source.meta.count, row_width(sh_degree)), np.float32)
    sample = SampleCollector(source.meta.count)
    kept = 0
    for batch in checked_batches(source, done):
        if grid is None:
            sample.add(batch)
        part = usable_rows(batch, sh_degree)
        rows[kept : kept + len(part)] = part
        kept += len(part)
    if grid is None:
        grid = MortonGrid.around(sample.means())
    return Run.of(rows[:kept], grid), grid


@dataclass(frozen=True, slots=True)
class Buckets:
    """Bucket files of one source, in the order of the curve.

    Attributes:
        folder: Where they are.
        width: Values of a row.
        counts: Rows of each.
    """

    folder: Path
    width: int
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Rows of all."""
        return sum(self.counts)

    def path(self, bucket: int) -> Path:
        """File of a bucket; absent if it is empty."""
        return self.folder / f"{bucket:03d}.rows"

    def whole(self, rows: int) -> int:
        """Rows of the first buckets that together hold no more than ``rows``."""
        ends = np.cumsum(self.counts)
        return int(ends[ends <= rows].max(initial=0))

    def runs(self, grid: MortonGrid, memory: int, skip: int = 0) -> Iterator[Run]:
        """Sorted runs, without the buckets that ``skip`` counts (``whole``).

        The files are left where they are, for a build that is continued.
        """
        for bucket, end in enumerate(np.cumsum(self.counts).tolist()):
            if end > skip and self.counts[bucket]:
                yield from self._runs_of(bucket, grid, memory)

    def _runs_of(self, bucket: int, grid: MortonGrid, memory: int) -> Iterator[Run]:
        path, count = self.path(bucket), self.counts[bucket]
        size = self.width * 4
        if count * size <= _TOO_LARGE * _BUCKET_SHARE * memory:
            yield Run.of(self._rows(path, slice(0, count)), grid)
            return
        step = max(1, int(_BUCKET_SHARE * memory) // size)
        sample = grid.codes(
            np.concatenate([self._rows(path, s)[:, :3] for s in sample_slices(count)])
        )
        limits = bucket_limits(sample, bucket_count(count * size, memory))
        pieces = [slice(at, min(at + step, count)) for at in range(0, count, step)]
        if len(limits) == 0:  # all in one cell: any order is theirs
            for piece in pieces:
                yield Run.of(self._rows(path, piece), grid)
            return
        folder = path.with_suffix(".split")
        dealer = Dealer(folder, self.width, limits, memory)
        for piece in pieces:
            part = self._rows(path, piece)
            dealer.add(part, grid.codes(part[:, :3]))
        yield from dealer.finish(flush=False).runs(grid, memory)
        shutil.rmtree(folder)

    def _rows(self, path: Path, piece: slice) -> Float32Array:
        """Some rows of a bucket; read, not mapped, as somebody could cut the file."""
        count = piece.stop - piece.start
        offset = piece.start * self.width * 4
        values = np.fromfile(path, np.float32, count * self.width, offset=offset)
        if len(values) < count * self.width:
            raise SceneFormatError(
                path,
                "became shorter while it was read",
                remedy="the same command builds again from the start",
            )
        return values.reshape(count, self.width)


def bucket_count(total_bytes: int, memory: int) -> int:
    """Into how many files so many bytes are dealt."""
    wanted = math.ceil(total_bytes / max(1.0, _BUCKET_SHARE * memory))
    return max(2, min(MAX_BUCKETS, wanted))


def bucket_limits(sample: Codes, buckets: int) -> Codes:
    """Keys at which the next bucket begins; fewer where many Gaussians share a cell."""
    if len(sample) == 0:
        return np.zeros(0, np.uint64)
    ordered = np.sort(sample)
    places = np.arange(1, buckets) * len(ordered) // buckets
    limits: Codes = np.unique(ordered[places])
    useful: Codes = limits[limits > ordered[0]]
    return useful


class Dealer:
    """Appends rows to the bucket files that their keys belong to.

    Args:
        folder: Made anew, unless there is something in it to go on with.
        width: Values of a row.
        limits: Keys at which the next bucket begins, growing.
        memory: Of the whole build, bytes.
        counts: Rows of each bucket that are there already, ``flush``'s answer; what was written
            after them is cut off.
    """

    def __init__(
        self, folder: Path, width: int, limits: Codes, memory: int, counts: Sequence[int] = ()
    ) -> None:
        self._buckets = Buckets(folder, width, ())
        self._counts = list(counts) or [0] * (len(limits) + 1)
        if any(self._counts):
            self._cut()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._limits = limits
        self._most_waiting = int(_BUFFER_SHARE * memory)
        self._waiting: list[list[Float32Array]] = [[] for _ in range(len(limits) + 1)]
        self._waiting_bytes = 0
        self._written: set[int] = set()  # since the last flush

    def add(self, rows: Float32Array, codes: Codes) -> None:
        """Deals out some rows, each bucket's in the order given."""
        bucket = np.searchsorted(self._limits, codes, side="right").astype(np.uint16)
        order = np.argsort(bucket, kind="stable")
        dealt = rows.take(order, axis=0)
        edges = np.searchsorted(bucket[order], np.arange(len(self._waiting) + 1)).tolist()
        for index, (start, stop) in enumerate(pairwise(edges)):
            if start < stop:
                self._waiting[index].append(dealt[start:stop])
        self._waiting_bytes += dealt.nbytes
        if self._waiting_bytes > self._most_waiting:
            self._write()

    def finish(self, *, flush: bool = True) -> Buckets:
        """Writes the rest; with ``flush``, so that it survives a power cut."""
        if flush:
            self.flush()
        else:
            self._write()
        return Buckets(self._buckets.folder, self._buckets.width, tuple(self._counts))

    def flush(self) -> tuple[int, ...]:
        """Writes all that was dealt out so far, so that it survives a power cut; rows of each
        bucket."""
        self._write()
        for index in sorted(self._written):
            _flush(self._buckets.path(index))
        self._written.clear()
        flush_folder(self._buckets.folder)
        return tuple(self._counts)

    def _cut(self) -> None:
        for index, count in enumerate(self._counts):
            path = self._buckets.path(index)
            if count:
                os.truncate(path, 4 * self._buckets.width * count)
            else:
                path.unlink(missing_ok=True)

    def _write(self) -> None:
        for index, parts in enumerate(self._waiting):
            if not parts:
                continue
            with open(self._buckets.path(index), "ab") as file:
                for part in parts:
                    file.write(part.data)
                    self._counts[index] += len(part)
            parts.clear()
            self._written.add(index)
        self._waiting_bytes = 0


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
