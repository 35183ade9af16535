"""A build that goes on, as a scene that can be streamed already.

The finished part of the curve is there in full detail, level by level; a sketch of the scene
stands in for the rest. Both become one tree as in the build itself: the pyramid of its last
checkpoint is continued with the sketch, in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from scene_store.build.feed import Feed, Run
from scene_store.build.grid import MortonGrid
from scene_store.build.journal import DAMAGE, Checkpoint, Journal
from scene_store.build.leaves import next_leaf
from scene_store.build.node_log import NodeLog
from scene_store.build.options import suitable_page
from scene_store.build.pyramid import Pyramid
from scene_store.build.rows import usable_rows
from scene_store.chunks import EncodedChunk, never_cancelled
from scene_store.manifest import Profile
from scene_store.node_table import ChunkRef
from scene_store.page_codec import CorruptChunkError, decode_chunk, encode_chunk
from scene_store.range_reader import FolderReader, RangeReadError
from scene_store.scene import SceneMeta
from scene_store.sketch import Sketch
from scene_store.store_folder import page_name, partial_folder, scratch_folder
from splat.errors import ChunkReadError, SceneError
from splat.gaussians import Gaussians

_THREADS = 1  # the build and the pictures want the others
_AHEAD = 4


class _MemoryWriter:
    """Keeps chunks; their place is the negative of their number."""

    def __init__(self) -> None:
        self.chunks: list[EncodedChunk] = []

    def append(self, level: int, count: int, encoded: EncodedChunk) -> ChunkRef:
        """See ``pyramid.ChunkWriter``."""
        self.chunks.append(encoded)
        sizes = [len(part) for part in encoded.parts]
        crcs = [zlib.crc32(part) for part in encoded.parts]
        return ChunkRef(level, count, -len(self.chunks), sizes[0], crcs[0], 0, sizes[1], crcs[1])


class UnfinishedStore:
    """A ``ChunkSource`` of what a build has finished, and a sketch of the rest.

    Args:
        store: The store to be; its build writes beside it.
        sketch: Of the whole scene; what is finished takes its place.

    Attributes:
        finished: Original Gaussians that are there in full detail.

    Raises:
        SceneError: If there is nothing to be drawn.
    """

    def __init__(self, store: Path, sketch: Sketch) -> None:
        scratch = scratch_folder(store)
        journal = Journal.found_in(scratch)
        checkpoint = _checkpoint(journal)
        self.sh_degree = sketch.gaussians.sh_degree
        self.page_gaussians = suitable_page(sketch.total)
        self._profile = Profile.COMPACT
        if journal is not None:
            self.sh_degree = int(journal.identity["sh_degree"])
            self.page_gaussians = int(journal.identity["page_gaussians"])
            self._profile = Profile(journal.identity["profile"])
        # Opened now: the folder gets another name in the end.
        self._reader = FolderReader(partial_folder(store))
        self._in_memory = _MemoryWriter()
        try:
            state = journal.sorted if journal is not None else None
            grid = state.grid if state is not None else None
            log = self._completed(checkpoint, grid, sketch)
            self.tree, self._refs = log.tree()
            self._open_files()
        except BaseException as error:
            self._reader.close()
            if isinstance(error, RangeReadError):
                raise SceneError(f"{error.location}: {error.problem}") from None
            raise
        self.finished = checkpoint.consumed[0] if checkpoint else 0
        self.meta: SceneMeta = replace(sketch.meta, count=sketch.total, sh_degree=self.sh_degree)

    @property
    def share(self) -> float:
        """Of the scene that is there in full detail."""
        return min(1.0, self.finished / max(1, self.meta.count))

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        ref = self._refs[chunk]
        return ref.geometry_bytes + ref.sh_bytes

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        ref = self._refs[chunk]
        if ref.geometry_offset < 0:
            return self._in_memory.chunks[-1 - ref.geometry_offset]
        parts = [b"", b""]
        for index, (stream, offset, size) in enumerate(
            (
                ("geometry", ref.geometry_offset, ref.geometry_bytes),
                ("sh", ref.sh_offset, ref.sh_bytes),
            )
        ):
            if size == 0:
                continue
            try:
                part = self._reader.read(page_name(stream, ref.level), offset, size, cancelled)
            except RangeReadError as error:
                raise ChunkReadError(error.location, chunk, error.advice) from None
            if part is None:
                return None
            parts[index] = part
        return EncodedChunk((parts[0], parts[1]))

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        """See ``ChunkSource``."""
        ref = self._refs[chunk]
        geometry, harmonics = encoded.parts
        crcs = (ref.geometry_crc, ref.sh_crc)
        try:
            if (zlib.crc32(geometry), zlib.crc32(harmonics)) != crcs:
                raise CorruptChunkError("the checksum differs")
            return decode_chunk(encoded, ref.gaussians, self.sh_degree)
        except CorruptChunkError as error:
            place = self._reader.location(page_name("geometry", ref.level))
            raise ChunkReadError(place, chunk, str(error)) from None

    def close(self) -> None:
        """See ``ChunkSource``."""
        self._reader.close()

    def _completed(
        self, checkpoint: Checkpoint | None, grid: MortonGrid | None, sketch: Sketch
    ) -> NodeLog:
        """The tree of the checkpoint, completed with the sketch of what is not finished."""
        log = checkpoint.log if checkpoint else NodeLog()
        waiting = checkpoint.waiting if checkpoint else ()
        rows = usable_rows(sketch.gaussians, self.sh_degree)
        grid = grid if grid is not None else MortonGrid.around(rows[:, :3])
        ends = [node.last_code for level in waiting for node in level]
        if ends:
            rows = rows[grid.codes(rows[:, :3]) > np.uint64(max(ends))]
        feed = Feed(iter((Run.of(rows, grid),)))
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="sketch") as pool:
            page, memory = self.page_gaussians, self._in_memory
            pyramid = Pyramid(memory, log, self._encode, pool, page, _AHEAD, {})
            pyramid.restore(waiting)
            while count := next_leaf(feed, page):
                codes = feed.codes(0, count)
                pyramid.add_leaf(feed.take(count), int(codes[0]), int(codes[-1]))
            pyramid.finish()
        if not len(log):
            raise SceneError(f"{sketch.meta.path}: holds nothing that can be drawn")
        return log

    def _encode(self, gaussians: Gaussians) -> EncodedChunk:
        return encode_chunk(gaussians, self._profile)

    def _open_files(self) -> None:
        on_disk = [ref for ref in self._refs if ref.geometry_offset >= 0]
        for level in sorted({ref.level for ref in on_disk}):
            streams = ("geometry", "sh") if self.sh_degree else ("geometry",)
            for stream in streams:
                self._reader.read(page_name(stream, level), 0, 1, never_cancelled)


def finished_gaussians(store: Path) -> int:
    """Original Gaussians that an ``UnfinishedStore`` would have in full detail at present."""
    journal = Journal.found_in(scratch_folder(store))
    try:
        return journal.consumed[0] if journal is not None and journal.consumed else 0
    except DAMAGE:
        return 0


def _checkpoint(journal: Journal | None) -> Checkpoint | None:
    """The last one; None if there is none, it is damaged, or the next one takes its place just
    now."""
    try:
        return None if journal is None else journal.checkpoint()
    except DAMAGE:
        return None
