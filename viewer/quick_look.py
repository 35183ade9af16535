"""A coarse form of a large scene in a second or two: something to look at while more is read.

Formats with levels of detail have one; of those that decode any part of themselves every n-th
small run is taken; others are read until the time is over. What is left out leaves holes, so
the rest grows a little. Nothing of this is kept: the store that is built meanwhile replaces it.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from scene_store.formats import open_scene
from scene_store.loading import SMALLEST_SCALE, in_morton_order, usable_gaussians
from scene_store.sampling import RandomAccess
from scene_store.scene import Scene, SceneSource
from splat.gaussians import Gaussians
from viewer.scenes import SceneChoice

SAMPLE_COUNT = 400_000
RUN = 64  # neighbours taken together: decoding has a price per run
BATCH_COUNT = 1 << 16
TIME_S = 1.2
MOST_GROWTH = 3.0


def quick_look(choice: SceneChoice, *, count: int = SAMPLE_COUNT, time_s: float = TIME_S) -> Scene:
    """A sample of a file's Gaussians, in Morton order, to be looked at.

    Args:
        choice: The scene, a file.
        count: About how many Gaussians.
        time_s: When to be content with what there is.

    Raises:
        SceneError: If the scene cannot be read.
    """
    assert choice.path is not None
    level = choice.lod if choice.lod is not None else _level(choice, count)
    with open_scene(choice.path, lod=level) as source:
        meta = source.meta
        sample = _sample(source, count, time_s)
    usable = usable_gaussians(sample)
    if usable is not None:
        sample = sample[usable]
    share = len(sample) / max(1, meta.count)
    return Scene(meta, in_morton_order(grown(sample, share)))


def grown(sample: Gaussians, share: float) -> Gaussians:
    """Gaussians that cover about what all did of which they are a share.

    A surface that loses all but one of n Gaussians is covered again if each is √n times as
    large; they overlap, though, and large ones are blurred, so less is better.
    """
    growth = min(MOST_GROWTH, max(1.0, share**-0.4)) if share > 0 else 1.0
    scales = np.maximum(sample.scales, SMALLEST_SCALE) * np.float32(growth)
    return replace(sample, scales=scales, opacities=np.clip(sample.opacities, 0.0, 1.0))


def _level(choice: SceneChoice, count: int) -> int | None:
    """The finest level of detail of at most ``count`` Gaussians, else the coarsest."""
    assert choice.path is not None
    with open_scene(choice.path) as source:
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
