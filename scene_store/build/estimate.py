"""How large a store will be, and what room its build needs, from a small part of its scene.

The part is built as the whole is: sorted, cut into chunks, merged to coarser ones, encoded. A
coarse level takes more bytes for each Gaussian than a fine one, as its neighbours differ more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from scene_store.build.merging import Content, merge, original
from scene_store.build.options import (
    DEFAULT_OPTIONS,
    BuildEstimate,
    BuildOptions,
    suitable_page,
)
from scene_store.build.own_levels import plan_own_levels
from scene_store.build.partition import fits_in_memory
from scene_store.build.pyramid import MERGE_RATIO
from scene_store.build.rows import from_rows, row_bytes, usable_rows
from scene_store.build.sources import open_sources
from scene_store.loading import in_morton_order
from scene_store.manifest import Profile
from scene_store.page_codec import encode_chunk
from scene_store.sampling import RandomAccess, Skippable
from scene_store.scene import SceneMeta, SceneSource
from scene_store.store_folder import require_place
from splat.atomic_file import cannot_write
from splat.gaussians import Gaussians

_CACHE_SHARE = 0.25  # of the memory, for scenes that a composition repeats
# Beside what was estimated, for the journal and for errors of the estimate.
_SPARE = 1.1
SAMPLE = 1 << 17
_PIECES = 8
_LEVELS = 3  # that are merged; the ones above are taken to be like the last of them


def estimate_build(
    scenes: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    options: BuildOptions = DEFAULT_OPTIONS,
) -> BuildEstimate:
    """What ``build_store`` would make, and what room it would need; writes nothing.

    Raises:
        SceneError: If a scene cannot be read.
        OutputError: If there is no such folder, or that is no name for a store.
    """
    target = require_place(path)
    names = [os.fspath(scene) for scene in scenes]
    try:
        with open_sources(
            names, sh_degree=options.sh_degree, cache_bytes=cache_bytes(options)
        ) as source:
            levels = own_levels(names, source.meta, options).values()
            total = source.meta.count + sum(source.meta.lod_counts[lod] for lod in levels)
            return estimate_size(source, target, options, total)
    except OSError as error:
        raise cannot_write(target, error) from None


def own_levels(names: list[str], meta: SceneMeta, options: BuildOptions) -> dict[int, int]:
    """The scene's own level of detail for each of the store's levels that has one."""
    if len(names) > 1 or options.rebuild_lod:
        return {}
    return plan_own_levels(meta.lod_counts)


def estimate_size(
    source: SceneSource, path: Path, options: BuildOptions, total: int
) -> BuildEstimate:
    """What a store of an open scene takes.

    Args:
        source: The scene.
        path: The store to be.
        options: How it is built.
        total: Gaussians to be sorted, those of the scene's own levels among them.
    """
    count, degree = source.meta.count, store_degree(source, options)
    page = options.page_gaussians or suitable_page(count)
    in_memory = fits_in_memory(total, degree, options.memory)
    store = int(count * bytes_each(source, degree, page, options.profile))
    scratch = 0 if in_memory else total * row_bytes(degree)
    return BuildEstimate(
        gaussians=count,
        sh_degree=degree,
        store_bytes=store,
        scratch_bytes=scratch,
        free_bytes=shutil.disk_usage(path.resolve().parent).free,
        needed_bytes=int((store + scratch) * _SPARE),
    )


def cache_bytes(options: BuildOptions) -> int:
    """What compositions may keep, bytes."""
    return int(_CACHE_SHARE * options.memory)


def store_degree(source: SceneSource, options: BuildOptions) -> int:
    """Of the harmonics that a store of this scene has."""
    highest = options.sh_degree
    return source.meta.sh_degree if highest is None else min(highest, source.meta.sh_degree)


def bytes_each(source: SceneSource, degree: int, page: int, profile: Profile) -> float:
    """Bytes of a store for each of its originals, all levels included; 0 without any.

    Args:
        source: The scene; about ``SAMPLE`` Gaussians of it are read.
        degree: Of the store's harmonics.
        page: Gaussians of its chunks.
        profile: How they are encoded.
    """
    counts, sizes = [0] * _LEVELS, [0] * _LEVELS
    for piece in _pieces(source):
        usable = from_rows(usable_rows(piece, degree))
        chunks = _chunks(in_morton_order(usable), page) if len(usable) else []
        for level in range(_LEVELS):
            counts[level] += sum(len(chunk.gaussians) for chunk in chunks)
            sizes[level] += sum(encode_chunk(c.gaussians, profile).nbytes for c in chunks)
            chunks = list(_merged(chunks))
    share, total, each = 1.0, 0.0, 0.0
    for count, size in zip(counts, sizes, strict=True):
        each = size / count if count else each
        total += share * each
        share /= MERGE_RATIO
    return total + each * share * MERGE_RATIO / (MERGE_RATIO - 1)


def _pieces(source: SceneSource) -> Iterator[Gaussians]:
    """Neighbours in the scene's own order, from several places if that costs no more."""
    count = source.meta.count
    if isinstance(source, RandomAccess):
        size = SAMPLE // _PIECES
        starts = [i * (count - size) // (_PIECES - 1) for i in range(_PIECES)]
        for start in starts if count > SAMPLE else range(0, count, size):
            yield source.decode(start, min(count, start + size))
        return
    # What comes first is often unlike the rest: a backdrop, or the middle of a town.
    if isinstance(source, Skippable):
        batches = source.batches_from(count // 3, SAMPLE)
    else:
        batches = source.batches(SAMPLE)
    left = SAMPLE
    for batch in batches:
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return


def _chunks(gaussians: Gaussians, page: int) -> list[Content]:
    return [original(gaussians[at : at + page]) for at in range(0, len(gaussians), page)]


def _merged(chunks: list[Content]) -> Iterator[Content]:
    """The next level."""
    for at in range(0, len(chunks), MERGE_RATIO):
        group = chunks[at : at + MERGE_RATIO]
        count = sum(len(chunk.gaussians) for chunk in group) // MERGE_RATIO
        if count:
            yield merge(group, count)
