"""Which chunks are read together: plans over where they lie, without files."""

from __future__ import annotations

from collections.abc import Sequence

from scene_store.range_reader import MOST_GAP_BYTES

Place = tuple[int, int, int]
"""A stream's level, and its offset and size in the file of that level."""

_NO_LIMIT = 1 << 62


def in_order(chunks: Sequence[int], sizes: Sequence[int], most_bytes: int) -> list[list[int]]:
    """Batches of chunks in the order given, each of at most ``most_bytes`` or one chunk."""
    batches: list[list[int]] = []
    room = 0
    for chunk, size in zip(chunks, sizes, strict=True):
        if not batches or size > room:
            batches.append([])
            room = most_bytes
        batches[-1].append(chunk)
        room -= size
    return batches


def side_by_side(
    chunks: Sequence[int],
    places: Sequence[Place],
    sizes: Sequence[int] | None = None,
    most_bytes: int = _NO_LIMIT,
) -> list[list[int]]:
    """Batches of chunks that lie in one file with hardly anything between them.

    Args:
        chunks: The most urgent first.
        places: Of one stream of each.
        sizes: Bytes of each, all streams together; those of ``places`` if None.
        most_bytes: What a batch does not exceed, unless it is a single chunk.

    Returns:
        Batches, each in the order of the file; the one with the most urgent chunk first.
    """
    by_place = sorted(range(len(chunks)), key=places.__getitem__)
    batches: list[list[int]] = []
    end, room = (-1, 0), 0
    for index in by_place:
        level, offset, size = places[index]
        taken = size if sizes is None else sizes[index]
        near = level == end[0] and 0 <= offset - end[1] <= MOST_GAP_BYTES
        gap = offset - end[1] if near else 0
        if not near or gap + taken > room:
            batches.append([])
            room, gap = most_bytes, 0
        batches[-1].append(index)
        room -= gap + taken
        end = (level, offset + size)
    batches.sort(key=min)
    return [[chunks[index] for index in batch] for batch in batches]
