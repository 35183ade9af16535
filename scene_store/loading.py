"""From a path to a scene in memory that is fit to be drawn."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from scene_store.memory import PEAK_FACTOR, require_memory
from scene_store.morton import Order, morton_order
from scene_store.scene import Scene, SceneSource
from splat.errors import SceneFormatError
from splat.gaussians import Float32Array, Gaussians

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

BATCH_COUNT = 1 << 16

# Projection squares a length times the focal length in pixels, which is about 1e4 for a long
# lens; float32 ends at 3.4e38. So a Gaussian of this size at unit distance is the largest whose
# covariance in the picture is a number at all.
LARGEST_LENGTH = np.float32(1e15)
# Of a harmonic: the square of its colour is a number, and a codec has steps for it
# (``page_codec.MAX_COEFFICIENT``).
LARGEST_COEFFICIENT = np.float32(1e15)
# A flat Gaussian (one scale of zero) is drawn as one that is thin.
SMALLEST_SCALE = np.float32(1e-20)

_REORDER_COLUMNS = 16  # float32 values: one cache line of each row at a time


def load_scene(
    path: str | os.PathLike[str],
    *,
    lod: int | None = None,
    progress: Progress | None = None,
    memory_factor: float = PEAK_FACTOR,
) -> Scene:
    """Reads a scene of any format into memory, cleaned and in Morton order.

    Gaussians with a value that is not finite, or so large that it cannot be used, are dropped
    and counted; opacities are clipped to [0, 1].

    Args:
        path: A file or a folder, or ``town:N``.
        lod: Level of detail, 0 the finest, for the formats that have several.
        progress: Called with the Gaussians read so far and their total.
        memory_factor: The most memory that reading and what follows takes at once, over the
            Gaussians themselves: it must be there before anything is read.

    Raises:
        SceneError: If it cannot be read, or nothing in it can be drawn.
        BudgetError: If it cannot fit into this machine's memory.
    """
    from scene_store.named_scene import open_named  # the town samples by this module

    with open_named(os.fspath(path), lod=lod) as source:
        meta = source.meta
        remedy = "use a smaller scene, or a store of this one, which belvedere build makes"
        if meta.lod_counts:
            remedy = "choose a coarser level of detail"
        require_memory(
            str(meta.path), meta.count, meta.sh_degree, factor=memory_factor, remedy=remedy
        )
        gaussians, dropped = _read(source, progress)
    if len(gaussians) == 0:
        raise SceneFormatError(
            meta.path,
            f"holds {meta.count:,} Gaussians, but none that can be drawn: each has a value "
            f"that is not finite or a scale that cannot be used",
            remedy="train or export it again",
        )
    if dropped:
        logger.warning("%s: dropped %d unusable Gaussians of %d", meta.path, dropped, meta.count)
    return Scene(meta, in_morton_order(gaussians), dropped)


def in_morton_order(gaussians: Gaussians) -> Gaussians:
    """The Gaussians sorted along the Z-curve, in place: a scene may fill the memory.

    At no time is more than a cache line of each Gaussian there twice.
    """
    order = morton_order(gaussians.means)
    *small, harmonics = gaussians.arrays
    # Copying is outside the interpreter's lock.
    with ThreadPoolExecutor(1) as pool:
        largest = pool.submit(_reorder_in_place, harmonics, order)
        for array in small:
            _reorder_in_place(array, order)
        largest.result()
    return gaussians


def _reorder_in_place(array: Float32Array, order: Order) -> None:
    rows = array.reshape(len(array), -1)
    for start in range(0, rows.shape[1], _REORDER_COLUMNS):
        _reorder_columns(rows[:, start : start + _REORDER_COLUMNS], order)


def _reorder_columns(columns: Float32Array, order: Order) -> None:
    before = columns.copy()
    for start in range(0, len(columns), BATCH_COUNT):
        block = slice(start, start + BATCH_COUNT)
        columns[block] = before.take(order[block], axis=0)


def _read(source: SceneSource, progress: Progress | None) -> tuple[Gaussians, int]:
    """All usable Gaussians in the source's order, and how many were dropped."""
    total = source.meta.count
    out = Gaussians.allocate(total, source.meta.sh_degree)
    done = kept = 0
    for batch in source.batches(BATCH_COUNT):
        done += len(batch)
        if done > total:
            raise SceneFormatError(source.meta.path, f"holds more than its {total:,} Gaussians")
        usable = usable_gaussians(batch)
        if usable is not None:
            batch = batch[usable]
        _put(batch, out, kept)
        kept += len(batch)
        if progress is not None:
            progress(done, total)
    return (out if kept == total else out[:kept]), total - kept


def _put(batch: Gaussians, out: Gaussians, start: int) -> None:
    rows = slice(start, start + len(batch))
    out.means[rows] = batch.means
    out.quats[rows] = batch.quats
    np.maximum(batch.scales, SMALLEST_SCALE, out=out.scales[rows])
    np.clip(batch.opacities, 0.0, 1.0, out=out.opacities[rows])
    bases = batch.sh.shape[1]
    out.sh[rows, :bases] = batch.sh
    out.sh[rows, bases:] = 0.0


def usable_gaussians(gaussians: Gaussians) -> NDArray[np.bool_] | None:
    """[N] which Gaussians can be drawn; None if all of them (the usual case, quickly told)."""
    means, scales, harmonics = gaussians.means, gaussians.scales, gaussians.sh
    others = (gaussians.quats, gaussians.opacities)
    with np.errstate(invalid="ignore"):
        if (
            (np.abs(means) <= LARGEST_LENGTH).all()
            and ((scales > 0) & (scales <= LARGEST_LENGTH)).all()
            and all(np.isfinite(values).all() for values in others)
            and harmonics.min(initial=0.0) >= -LARGEST_COEFFICIENT
            and harmonics.max(initial=0.0) <= LARGEST_COEFFICIENT
        ):
            return None
        usable: NDArray[np.bool_] = (np.abs(means) <= LARGEST_LENGTH).all(axis=1)
        usable &= ((scales >= 0) & (scales <= LARGEST_LENGTH)).all(axis=1)
        usable &= (scales > 0).any(axis=1)
        usable &= (np.abs(harmonics) <= LARGEST_COEFFICIENT).all(axis=(1, 2))
        for values in others:
            usable &= np.isfinite(values).reshape(len(means), -1).all(axis=1)
    return usable


__all__ = ["Progress", "in_morton_order", "load_scene", "usable_gaussians"]
