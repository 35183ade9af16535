"""A coarse form of a whole scene in a second or two.

Formats with levels of detail have one; of those that decode any part of themselves single
Gaussians are taken at even distances, or small runs; others are read until the time is over.
What is left out leaves holes, so the rest grows until it meets. Scenes that know a better way
tell it themselves (``Sketchable``).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from scene_store.loading import SMALLEST_SCALE, in_morton_order, usable_gaussians
from scene_store.named_scene import open_named
from scene_store.sampling import RandomAccess, Scattered
from scene_store.scene import SceneMeta, SceneSource
from splat.gaussians import Gaussians

RUN = 64  # neighbours taken together where decoding has a price per run
AT_ONCE = 4096  # single ones between two looks at the clock
BATCH_COUNT = 1 << 16
MOST_GROWTH = 3.0  # where neighbours stay together
MOST_SPREADING = 12.0  # where each is alone
_NEIGHBOURS = 4  # along the Z-curve, on each side
# The deviation at which Gaussians that are so far apart meet, of the distance to the second
# nearest. At random places of a surface that is three quarters of their mean pitch.
_MEETING = 0.65


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
    total = source.meta.count
    if isinstance(source, Scattered) and total > count:
        sample = _usable(_scattered(source, total, count, time_s))
        return spread(sample, len(sample) / total)
    sample = _usable(_sample(source, count, time_s))
    return grown(sample, len(sample) / max(1, total))


def _usable(sample: Gaussians) -> Gaussians:
    usable = usable_gaussians(sample)
    return sample if usable is None else sample[usable]


def spread(sample: Gaussians, share: float) -> Gaussians:
    """Single Gaussians of which each stands for all around it, so large that they meet.

    None grows by more than what it stands for asks, and none of those that are as large as they
    are far apart: of a scene with details of all sizes, the background stays as it is.
    """
    if len(sample) < 2 * _NEIGHBOURS or share >= 1:
        return grown(sample, share)
    sample = in_morton_order(sample)
    apart = np.full((2 * _NEIGHBOURS, len(sample)), np.inf, np.float32)
    for k in range(1, _NEIGHBOURS + 1):
        step = np.linalg.norm(sample.means[k:] - sample.means[:-k], axis=1)
        apart[2 * k - 2, k:], apart[2 * k - 1, :-k] = step, step
    second = np.partition(apart, 1, axis=0)[1]
    scales = np.maximum(sample.scales, SMALLEST_SCALE)
    # Two of three axes: a surface is filled by what lies in it.
    width = np.sqrt(np.sort(scales, axis=1)[:, 1] * scales.max(axis=1))
    growth = np.clip(_MEETING * second / width, 1.0, min(MOST_SPREADING, share**-0.5))
    opacities = np.clip(sample.opacities, 0.0, 1.0)
    return replace(sample, scales=scales * growth[:, None], opacities=opacities)


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


def _scattered(source: Scattered, total: int, count: int, time_s: float) -> Gaussians:
    """Single Gaussians from all over a file, until the time is over."""
    end = time.monotonic() + time_s
    places = np.array(_starts(total, count, 1), np.int64)
    parts: list[Gaussians] = []
    for first in range(0, len(places), AT_ONCE):
        parts.append(source.decode_at(np.sort(places[first : first + AT_ONCE])))
        if time.monotonic() > end:
            break
    return Gaussians.concatenate(parts)


def _starts(total: int, count: int, run: int = RUN) -> list[int]:
    """Where runs begin, evenly spread over the file however many of them are taken."""
    runs = max(1, min(count, total) // run)
    places = np.linspace(0, total - run, runs).astype(np.int64)
    # A permutation by the bits' reversal visits every region before any twice.
    bits = max(1, (runs - 1).bit_length())
    index = np.arange(1 << bits)
    reverse = np.zeros_like(index)
    for bit in range(bits):
        reverse |= ((index >> bit) & 1) << (bits - 1 - bit)
    return [int(start) for start in places[reverse[reverse < runs]]]
