"""How large a store will be, from a small part of its scene.

The part is built as the whole is: sorted, cut into chunks, merged to coarser ones, encoded. A
coarse level takes more bytes for each Gaussian than a fine one, as its neighbours differ more.
"""

from __future__ import annotations

from collections.abc import Iterator

from scene_store.build.merging import Content, merge, original
from scene_store.build.pyramid import MERGE_RATIO
from scene_store.build.rows import from_rows, usable_rows
from scene_store.loading import in_morton_order
from scene_store.manifest import Profile
from scene_store.page_codec import encode_chunk
from scene_store.sampling import RandomAccess, Skippable
from scene_store.scene import SceneSource
from splat.gaussians import Gaussians

SAMPLE = 1 << 17
_PIECES = 8
_LEVELS = 3  # that are merged; the ones above are taken to be like the last of them


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
