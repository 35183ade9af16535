"""A coarse form of a whole scene in a second or two.

Formats with levels of detail have one; of those that decode any part of themselves every n-th
small run is taken; others are read until the time is over. What is left out leaves holes, so
the rest grows a little. Scenes that know a better way tell it themselves (``Sketchable``).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from scene_store.loading import SMALLEST_SCALE, usable_gaussians
from scene_store.named_scene import open_named
from scene_store.sampling import RandomAccess
from scene_store.scene import SceneMeta, SceneSource
from splat.gaussians import Gaussians

RUN = 64  # neighbours taken together: decoding has a price per run
BATCH_COUNT = 1 << 16
MOST_GROWTH = 3.0


@runtime_checkable
class Sketchable(Protocol):
    """A source that makes a coarse form of itself."""

    def sketch(self, count: int, time_s: float) -> Gaussians:
        """About ``count`` Gaussians that show all of it, made in about ``time_s``."""


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """What ``sketch_scene`` found.

    Attributes:
        meta: Of the scene, at the level of detail that was read.
        gaussians: Fit to be drawn; in no order.
    """

    meta: SceneMeta
    gaussians: Gaussians

    @property
    def total(self) -> int:
        """Gaussians of the scene, whatever level of detail was read."""
        return self.meta.lod_counts[0] if self.meta.lod_counts else self.meta.count


def sketch_scene(name: str, count: int, time_s: float, *, lod: int | None = None) -> Sketch:
    """A coarse form of a scene.

    Args:
        name: A file or folder of any format, ``town`` or ``town:N``.
        count: About how many Gaussians; the coarsest level of detail may have more.
        time_s: When to be content with what there is.
        lod: Level of detail to take them from; None for a suitable one.

    Raises:
        SceneError: If the scene cannot be read.
    """
    with open_named(name, lod=_level(name, count) if lod is None else lod) as source:
        return Sketch(source.meta, sketch(source, count, time_s))


def sketch(source: SceneSource, count: int, time_s: float) -> Gaussians:
    """About ``count`` Gaussians that show all of an open scene."""
    if isinstance(source, Sketchable):
        return source.sketch(count, time_s)
    sample = _sample(source, count, time_s)
    usable = usable_gaussians(sample)
    if usable is not None:
        sample = sample[usable]
    return grown(sample, len(sample) / max(1, source.meta.count))


def grown(sample: Gaussians, share: float) -> Gaussians:
    """Gaussians that cover about what all did of which they are a share.

    A surface that loses all but one of n Gaussians is covered again if each is √n times as
    large; they overlap, though, and large ones are blurred, so less is better.
    """
    growth = min(MOST_GROWTH, max(1.0, share**-0.4)) if share > 0 else 1.0
    scales = np.maximum(sample.scales, SMALLEST_SCALE) * np.float32(growth)
    return replace(sample, scales=scales, opacities=np.clip(sample.opacities, 0.0, 1.0))


def _level(name: str, count: int) -> int | None:
    """The finest level of detail of at most ``count`` Gaussians, else the coarsest."""
    with open_named(name) as source:
        counts = source.meta.lod_counts
    fitting = [level for level, size in enumerate(counts) if size <= count]
    return (fitting[0] if fitting else len(counts) - 1) if counts else None


def _sample(source: SceneSource, count: int, time_s: float) -> Gaussians:
    end = time.monotonic() + time_s
    total = source.meta.count
    if total <= count:
        return Gaussians.concatenate(list(source.batches(BATCH_COUNT)))
    parts: list[Gaussians] = []
    if isinstance(source, RandomAccess):
        # From coarse to fine: whenever the time is over, what there is covers all of the file.
        for start in _starts(total, count):
            parts.append(source.decode(start, min(start + RUN, total)))
            if time.monotonic() > end:
                break
        return Gaussians.concatenate(parts)
    step = max(1, math.ceil(total / count))
    for batch in source.batches(BATCH_COUNT):
        parts.append(batch[::step])
        if time.monotonic() > end:
            break
    return Gaussians.concatenate(parts)


def _starts(total: int, count: int) -> list[int]:
    """Where runs begin, evenly spread over the file however many of them are taken."""
    runs = max(1, min(count, total) // RUN)
    places = np.linspace(0, total - RUN, runs).astype(np.int64)
    # A permutation by the bits' reversal visits every region before any twice.
    bits = max(1, (runs - 1).bit_length())
    index = np.arange(1 << bits)
    reverse = np.zeros_like(index)
    for bit in range(bits):
        reverse |= ((index >> bit) & 1) << (bits - 1 - bit)
    return [int(start) for start in places[reverse[reverse < runs]]]
