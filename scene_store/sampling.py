"""A sample of a scene's means, for those who need to know where its Gaussians are.

It depends on the source alone, not on how it is read: whole, piece by piece, or in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scene_store.loading import usable_gaussians
from scene_store.scene import SceneSource
from splat.errors import SceneFormatError
from splat.gaussians import Float32Array, Gaussians

SAMPLES = 1 << 16
BATCH_COUNT = 1 << 17
_SLICES = 64

Count = Callable[[int], None]


def sample_slices(count: int) -> list[slice]:
    """Which of ``count`` Gaussians are the sample: slices at even distances, in order."""
    if count <= SAMPLES:
        return [slice(0, count)]
    each = SAMPLES // _SLICES
    return [slice(at := i * (count - each) // (_SLICES - 1), at + each) for i in range(_SLICES)]


@runtime_checkable
class RandomAccess(Protocol):
    """A source that decodes any part of itself at no more than that part's cost."""

    def decode(self, start: int, stop: int) -> Gaussians:
        """Gaussians ``start`` to ``stop`` (exclusive)."""


@runtime_checkable
class Scattered(Protocol):
    """A source of which single Gaussians are hardly dearer than several together."""

    def decode_at(self, places: NDArray[np.int64]) -> Gaussians:
        """The Gaussians at some places, in that order."""


@runtime_checkable
class Skippable(Protocol):
    """A source that can begin anywhere at less than the cost of what it leaves out."""

    def batches_from(self, start: int, max_count: int) -> Iterator[Gaussians]:
        """``SceneSource.batches`` without the first ``start`` Gaussians."""


@runtime_checkable
class KnowsSample(Protocol):
    """A source that can tell where its Gaussians lie without making them."""

    def sample_means(self) -> Float32Array:
        """[M, 3] means, about as dense where Gaussians are dense."""


def quick_sample(source: SceneSource) -> Float32Array | None:
    """Means [M, 3] of a source, if they can be had without reading it all; else None."""
    if isinstance(source, KnowsSample):
        return source.sample_means()
    if isinstance(source, RandomAccess):
        pieces = sample_slices(source.meta.count)
        return np.concatenate([_usable_means(source.decode(p.start, p.stop)) for p in pieces])
    return None


def full_sample(source: SceneSource) -> Float32Array:
    """A sample of means [M, 3], read in whatever way the source allows."""
    sample = quick_sample(source)
    if sample is not None:
        return sample
    collector = SampleCollector(source.meta.count)
    for batch in checked_batches(source, lambda count: None):
        collector.add(batch)
    return collector.means()


class SampleCollector:
    """Picks the same sample from batches as they pass.

    Args:
        count: Gaussians of the source.
    """

    def __init__(self, count: int) -> None:
        self._slices = sample_slices(count)
        self._parts: list[Float32Array] = []
        self._seen = 0

    def add(self, batch: Gaussians) -> None:
        """The next batch."""
        start, self._seen = self._seen, self._seen + len(batch)
        for piece in self._slices:
            a, b = max(piece.start - start, 0), min(piece.stop - start, len(batch))
            if a < b:
                self._parts.append(_usable_means(batch[a:b]))

    def means(self) -> Float32Array:
        """[M, 3] of what passed and can be drawn."""
        return np.concatenate([np.zeros((0, 3), np.float32), *self._parts])


def _usable_means(gaussians: Gaussians) -> Float32Array:
    """Copies of those that can be drawn: what is left out of a scene says nothing of it."""
    usable = usable_gaussians(gaussians)
    return gaussians.means.copy() if usable is None else gaussians.means[usable]


def checked_batches(source: SceneSource, done: Count, start: int = 0) -> Iterator[Gaussians]:
    """Batches of a source; ``done`` hears how many Gaussians came.

    Args:
        source: The scene.
        done: Hears it after each batch, with what was left out.
        start: Gaussians that are left out at the beginning.

    Raises:
        SceneFormatError: If there are more than the source said.
    """
    seen = start
    for batch in _batches_from(source, start):
        seen += len(batch)
        if seen > source.meta.count:
            raise SceneFormatError(
                source.meta.path, f"holds more than its {source.meta.count:,} Gaussians"
            )
        yield batch
        done(seen)


def _batches_from(source: SceneSource, start: int) -> Iterator[Gaussians]:
    """Batches of a source that begin at a Gaussian; read, and thrown away, is what comes before
    it only where nothing else helps."""
    if start == 0:
        yield from source.batches(BATCH_COUNT)
    elif isinstance(source, Skippable):
        yield from source.batches_from(start, BATCH_COUNT)
    elif isinstance(source, RandomAccess):
        for at in range(start, source.meta.count, BATCH_COUNT):
            yield source.decode(at, min(at + BATCH_COUNT, source.meta.count))
    else:
        yield from without_first(start, source.batches(BATCH_COUNT))


def without_first(count: int, batches: Iterable[Gaussians]) -> Iterator[Gaussians]:
    """Batches without the first Gaussians of all of them."""
    for batch in batches:
        if count < len(batch):
            yield batch[count:]
        count = max(0, count - len(batch))
