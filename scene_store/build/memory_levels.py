"""A scene's levels of detail in memory, unencoded: what a store holds, without its codec.

The tree is the one that ``belvedere build`` makes, by the same code; chunks are the rows of plain
arrays. For scenes that are put together with others, and for measurements in which neither a disk
nor a decompressor is to take part.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from scene_store.build.feed import Feed, Run
from scene_store.build.grid import MortonGrid
from scene_store.build.leaves import next_leaf
from scene_store.build.node_log import NodeLog
from scene_store.build.options import suitable_page
from scene_store.build.pyramid import Pyramid
from scene_store.build.rows import usable_rows
from scene_store.chunks import EncodedChunk, never_cancelled
from scene_store.node_table import ChunkRef
from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.cores import usable_cores
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians

_AHEAD_PER_WORKER = 4


class MemoryChunks:
    """A ``ChunkSource`` whose chunks are there already.

    Args:
        name: Of the scene.
        tree: N chunks.
        gaussians: Those of all chunks, one after the other in the tree's order.
        page_gaussians: Most Gaussians of a chunk.
    """

    def __init__(self, name: str, tree: LodTree, gaussians: Gaussians, page_gaussians: int) -> None:
        originals = int(tree.count[tree.is_leaf].sum())
        self.meta = SceneMeta(Path(name), "levels in memory", originals, gaussians.sh_degree)
        self.tree, self.gaussians = tree, gaussians
        self.sh_degree, self.page_gaussians = gaussians.sh_degree, page_gaussians
        ends = np.cumsum(tree.count.astype(np.int64))
        self.rows = np.stack([ends - tree.count, tree.count.astype(np.int64)], axis=1)
        """[N, 2] first row and number of rows of each chunk."""

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        return int(self.tree.count[chunk]) * _gaussian_bytes(self.sh_degree)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        first, count = self.rows[chunk].tolist()
        return _parts(self.gaussians[slice(first, first + count)])

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        """See ``ChunkSource``."""
        return _gaussians(encoded, self.sh_degree)

    def close(self) -> None:
        """There is nothing to close."""


class _Shelf:
    """Chunks in the order in which they were written."""

    def __init__(self) -> None:
        self.chunks: list[EncodedChunk] = []

    def append(self, level: int, count: int, encoded: EncodedChunk) -> ChunkRef:
        """See ``ChunkWriter``; the place takes the place of an offset."""
        self.chunks.append(encoded)
        return ChunkRef(level, count, len(self.chunks) - 1, 0, 0, 0, 0, 0)


def build_levels(
    gaussians: Gaussians, name: str, page_gaussians: int | None = None
) -> MemoryChunks:
    """The levels of a scene, on all cores.

    Args:
        page_gaussians: Most of a chunk; None for what suits the scene.
    """
    degree, page = gaussians.sh_degree, page_gaussians or suitable_page(len(gaussians))
    grid = MortonGrid.around(gaussians.means)
    feed = Feed(iter((Run.of(usable_rows(gaussians, degree), grid),)))
    log, shelf, workers = NodeLog(), _Shelf(), usable_cores()
    with ThreadPoolExecutor(workers, thread_name_prefix="levels") as pool:
        pyramid = Pyramid(shelf, log, _parts, pool, page, _AHEAD_PER_WORKER * workers, {})
        while count := next_leaf(feed, page):
            codes = feed.codes(0, count)
            pyramid.add_leaf(feed.take(count), int(codes[0]), int(codes[-1]))
        pyramid.finish()
    tree, refs = log.tree()
    parts = [_gaussians(shelf.chunks[ref.geometry_offset], degree) for ref in refs]
    return MemoryChunks(name, tree, Gaussians.concatenate(parts), page)


def _parts(gaussians: Gaussians) -> EncodedChunk:
    return EncodedChunk(tuple(array.data.cast("B") for array in gaussians.arrays))


def _gaussians(encoded: EncodedChunk, sh_degree: int) -> Gaussians:
    means, quats, scales, opacities, sh = (
        np.frombuffer(part, np.float32) for part in encoded.parts
    )
    bases = SH_COUNT_OF_DEGREE[sh_degree]
    return Gaussians(
        means.reshape(-1, 3),
        quats.reshape(-1, 4),
        scales.reshape(-1, 3),
        opacities,
        sh.reshape(-1, bases, 3),
    )


def _gaussian_bytes(sh_degree: int) -> int:
    return 4 * (11 + 3 * SH_COUNT_OF_DEGREE[sh_degree])
