"""Colours that tell the chunks of a streamed scene apart, in the place of their own. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from render_cache.reuse import ChunkBoxes, Reuse, reuse
from scene_store.tree import LodTree
from splat.camera import Camera

Rgb = tuple[float, float, float]

UNTINTED: Rgb = (0.0, 0.0, 0.0)
TINT_SHARE = 0.6
LEVEL_TINTS: tuple[Rgb, ...] = (  # of levels 0, 1, 2, …: from original (blue) to coarse (red)
    (0.15, 0.35, 0.95),
    (0.10, 0.75, 0.85),
    (0.20, 0.80, 0.30),
    (0.95, 0.85, 0.15),
    (0.95, 0.50, 0.10),
    (0.90, 0.15, 0.15),
)
# Told apart without colour vision, too (Okabe and Ito).
REUSE_TINTS: Mapping[Reuse, Rgb] = {
    Reuse.EXACT: (0.00, 0.62, 0.45),
    Reuse.REPROJECT: (0.94, 0.89, 0.26),
    Reuse.MISS: (0.84, 0.37, 0.00),
}


class Tint(str, Enum):
    """What chunks are coloured by.

    NONE: Nothing; they keep their colours.
    LEVELS: Their level of detail.
    REUSE: What of their projection for the last frame still holds for this one
        (``render_cache.reuse``).
    """

    NONE = "none"
    LEVELS = "levels"
    REUSE = "reuse"


@dataclass(frozen=True, slots=True)
class LastFrame:
    """What a client's frame before this one was drawn from; nothing, if there was none.

    Attributes:
        cameras: One, or two eyes.
        chunks: Drawn.
    """

    cameras: tuple[Camera, ...] = ()
    chunks: tuple[int, ...] = ()


def chunk_kinds(
    tint: Tint,
    tree: LodTree,
    chunks: Sequence[int],
    cameras: Sequence[Camera],
    last: LastFrame,
) -> tuple[int, ...]:
    """What decides the colour of each chunk: its level, or its ``Reuse``; () without a tint."""
    index = np.array(chunks, np.intp)
    if tint is Tint.LEVELS:
        return tuple(tree.level[index].tolist())
    if tint is Tint.REUSE:
        return tuple(_answers(tree, index, cameras, last).tolist())
    return ()


def color_of(tint: Tint, kind: int) -> Rgb:
    """In which chunks of a kind (``chunk_kinds``) are tinted."""
    if tint is Tint.REUSE:
        return REUSE_TINTS[Reuse(kind)]
    return LEVEL_TINTS[min(kind, len(LEVEL_TINTS) - 1)]


def reuse_counts(kinds: Sequence[int]) -> tuple[int, ...]:
    """How many are of each ``Reuse``, in its order."""
    return tuple(sum(kind == answer for kind in kinds) for answer in Reuse)


def _answers(
    tree: LodTree,
    chunks: NDArray[np.intp],
    cameras: Sequence[Camera],
    last: LastFrame,
) -> NDArray[np.int8]:
    """[N] ``Reuse``, of two eyes the worse one's; what was not drawn cannot be used again."""
    answers = np.full(len(chunks), Reuse.MISS, np.int8)
    if len(cameras) != len(last.cameras):
        return answers
    boxes = ChunkBoxes(tree.lo[chunks], tree.hi[chunks], tree.max_scale[chunks])
    each = [reuse(before, now, boxes) for before, now in zip(last.cameras, cameras, strict=True)]
    drawn = np.isin(chunks, np.array(last.chunks, np.intp))
    return np.where(drawn, np.max(each, axis=0), answers).astype(np.int8)
