"""Fields that are larger than their budgets: their hash grids stay on disk, and pass level by level
(``splat.fields.PagedGridEncoding``).

A hash grid cannot be cut in space: a sample looks into every level, and nearly every block of
space into every part of a large one. But no sample needs two levels at once, so that a field is
drawn, to the bit, with the memory of its largest level, at the price of reading what is not kept
for every sweep of samples.

A field without grids is its networks alone, a few MiB of which each sample needs everything; it
stays as it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import EncodedChunk, NeuralSource, decoded_rows_of, never_cancelled
from scene_store.models.field_bytes import ROW_BYTES, FieldBlock, block_rows, rows_block
from scene_store.models.field_checks import paged_grids
from scene_store.models.field_memory import reserved_rows
from scene_store.user_cache import cache_folder
from splat.cores import usable_cores
from splat.errors import ChunkReadError, RenderError, SceneError
from splat.fields import (
    Field,
    FieldModel,
    HashGridEncoding,
    Network,
    PagedFieldModel,
    PagedGridEncoding,
    ProposalSampler,
)
from splat.gaussians import Gaussians
from splat.rows import Rows

LEAST_TABLE_BYTES = 64 << 10  # smaller ones are not worth a file


class TableFile:
    """Bytes in a file without a name, which is gone with the process. See
    ``splat.fields.TableReader``.

    Args:
        folder: For the file, which is made with the first bytes; None for the user's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder("tables") if folder is None else folder
        self.nbytes = 0
        self._file: _Nameless | None = None
        self._closed = False

    def append(self, raw: NDArray[Any]) -> int:
        """Where an array was put, in bytes.

        Raises:
            OSError: If it cannot be written.
        """
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = _Nameless(self.folder)
        at = -(-self.nbytes // ROW_BYTES) * ROW_BYTES
        left = np.ascontiguousarray(raw).reshape(-1).view(np.uint8).data
        while len(left):
            left = left[os.pwrite(self._file.fd, left, at + raw.nbytes - len(left)) :]
        self.nbytes = at + raw.nbytes
        return at

    def read_into(self, at: int, out: NDArray[np.uint8]) -> None:
        """See ``TableReader``."""
        file = self._file  # is open as long as somebody has it
        try:
            if file is None or self._closed:
                raise OSError("the scene was closed")
            done = 0
            while done < out.size:
                got = _pread_into(file.fd, out[done:], at + done)
                if not got:
                    raise OSError("the file is cut off")
                done += got
        except OSError as error:
            raise RenderError(f"the table of a hash grid cannot be read ({error})") from error

    def close(self) -> None:
        """Nothing can be read any more; the file goes with the last read that is under way."""
        self._closed, self._file = True, None


class _Nameless:
    """An open file without a name, which is closed with the last reference to it.

    Attributes:
        fd: Of the file.
    """

    def __init__(self, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            self.fd = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


def _pread_into(fd: int, out: NDArray[np.uint8], at: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [out.data], at)
    part = os.pread(fd, out.size, at)
    out[: len(part)] = np.frombuffer(part, np.uint8)
    return len(part)


@dataclass(frozen=True, slots=True)
class _Paged:
    """A chunk whose grids are elsewhere.

    Attributes:
        at, nbytes: Of its rows in the file.
        rows: That it takes on a device.
    """

    at: int
    nbytes: int
    rows: int


class PagedFields:
    """Another source of fields, which can do with less memory (``make_room``). See
    ``NeuralSource``.

    Args:
        source: The scene; closed with this.
        tables: A file for what is not in memory, closed with this.

    Attributes:
        meta, model, tree: The source's; chunks whose grids are elsewhere are smaller.
        decoded_rows: As of ``decoded_rows_of``.
    """

    sh_degree = 0

    def __init__(self, source: NeuralSource, tables: TableFile) -> None:
        model = source.model
        assert isinstance(model, FieldModel)
        self._source, self._tables = source, tables
        self._paged: dict[int, _Paged] = {}
        self.meta, self.tree = source.meta, source.tree
        self.page_gaussians, self.row_bytes = source.page_gaussians, source.row_bytes
        self.decoded_rows = decoded_rows_of(source)
        self.model = PagedFieldModel(model.kinds, model.background, model.border, tables)

    def make_room(self, host_bytes: int, device_bytes: int) -> None:
        """Keep grids on disk of fields that take more than there is; before anything is loaded.
        Each such field is read once, and is in memory for that time.

        Args:
            host_bytes, device_bytes: What there is for all of the scene.

        Raises:
            ChunkReadError: If a field cannot be read.
            SceneError: If the file cannot be written.
        """
        count, decoded = self.tree.count.copy(), self.decoded_rows.copy()
        for chunk, room in _rooms(self, host_bytes, device_bytes).items():
            try:
                there = _page_out(self._source, chunk, room, self._tables)
            except OSError as error:
                raise SceneError(
                    f"{self.meta.path}: is larger than its memory budget, and its grids cannot be "
                    f"kept in {self._tables.folder} ({error.strerror or error}); raise the budgets,"
                    f" or make room there (XDG_CACHE_HOME names another folder)"
                ) from error
            if there is not None:
                self._paged[chunk] = there
                count[chunk], decoded[chunk] = there.rows, there.nbytes // ROW_BYTES
        self.tree, self.decoded_rows = replace(self.tree, count=count), decoded

    def overview(self) -> Gaussians:
        """See ``NeuralSource``."""
        return self._source.overview()

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        there = self._paged.get(chunk)
        return self._source.encoded_bytes(chunk) if there is None else there.nbytes

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        there = self._paged.get(chunk)
        if there is None:
            return self._source.read(chunk, cancelled)
        raw = np.empty(there.nbytes, np.uint8)
        try:
            self._tables.read_into(there.at, raw)
        except RenderError as error:
            raise ChunkReadError(self.meta.path, chunk, str(error)) from error
        return None if cancelled() else EncodedChunk((raw.data,))

    def decode(self, chunk: int, encoded: EncodedChunk) -> Rows:
        """See ``ChunkSource``."""
        if chunk in self._paged:
            return Rows(np.frombuffer(encoded.parts[0], np.uint8).reshape(-1, ROW_BYTES))
        rows = self._source.decode(chunk, encoded)
        assert isinstance(rows, Rows)
        try:
            rows_block(rows, checked=False)  # it may name no tables: these are of other chunks
        except ValueError as error:
            raise ChunkReadError(self.meta.path, chunk, str(error)) from None
        return rows

    def close(self) -> None:
        """Close the source and the file."""
        self._tables.close()
        self._source.close()


def _rooms(source: PagedFields, host_bytes: int, device_bytes: int) -> dict[int, int]:
    """Chunks that do not fit beside the coarsest ones, or are too large to be read, and the room
    that each has on the device, bytes."""
    tree, page_bytes = source.tree, source.page_gaussians * source.row_bytes
    pages = -(-tree.count.astype(np.int64) // source.page_gaussians)
    read = source.decoded_rows * source.row_bytes
    read += np.array([source.encoded_bytes(chunk) for chunk in range(len(tree))])
    roots = int(pages[tree.roots].sum())
    is_root = np.zeros(len(tree), np.bool_)
    is_root[tree.roots] = True
    # Of roots that do not fit together, each is given its share.
    all_pages = device_bytes // page_bytes
    share = np.minimum(1.0, pages / max(1, roots))
    room = np.where(is_root, share * all_pages, all_pages - roots).astype(np.int64)
    needed = np.flatnonzero((pages > room) | (read > host_bytes))
    return {int(chunk): int(max(0, room[chunk])) * page_bytes for chunk in needed}


def _page_out(source: NeuralSource, chunk: int, room: int, tables: TableFile) -> _Paged | None:
    encoded = source.read(chunk, never_cancelled)
    assert encoded is not None, "nobody cancelled"
    rows = source.decode(chunk, encoded)
    assert isinstance(rows, Rows)
    block = rows_block(rows, checked=False)
    out = _with_grids(block, lambda grid: _put(grid, tables))
    if not paged_grids(out.field):
        return None
    # A longer description may take another row; finished pictures may have a part of the rest.
    least = len(block_rows(out)) + reserved_rows(out.field) + 1
    out = _filled(out, (room - least * ROW_BYTES) * 7 // 8)
    core = block_rows(out).data
    at = tables.append(core)
    return _Paged(at, core.nbytes, len(core) + reserved_rows(out.field))


def _put(grid: HashGridEncoding, tables: TableFile) -> PagedGridEncoding | HashGridEncoding:
    """A grid as it is with nothing kept, if its table is worth it."""
    entries, features = grid.table.shape
    if grid.table.nbytes < LEAST_TABLE_BYTES or len(grid.levels) < 2:
        return grid
    at = tables.append(grid.table)
    half = grid.table.dtype == np.float16
    return PagedGridEncoding(grid.levels, features, half, entries, at, grid.shift)


def _filled(block: FieldBlock, spare: int) -> FieldBlock:
    """With as much in memory as there is room for: a second buffer and more for threads, in half
    of it, then levels."""
    grids = paged_grids(block.field)
    chosen = dict(zip(grids, fill(grids, spare), strict=True))
    return _with_paged(block, lambda grid: chosen[grid])


def fill(grids: Sequence[PagedGridEncoding], spare: int) -> list[PagedGridEncoding]:
    """Grids of which as much is in memory as there is room for beside what they cannot do
    without: further buffers in half of it, then levels, coarse ones first.

    Args:
        grids: With one buffer each, and nothing kept.
        spare: Bytes.
    """
    out, half = list(grids), spare // 2

    def change(number: int, into: PagedGridEncoding, limit: int) -> bool:
        nonlocal spare, half
        more = into.memory_bytes - out[number].memory_bytes
        if more > limit:
            return False
        out[number] = into
        spare, half = spare - more, half - more
        return True

    for _ in range(1, usable_cores()):
        for number, grid in enumerate(out):
            change(number, replace(grid, buffers=grid.buffers + 1), half)
    for number in reversed(range(len(out))):  # proposals first: all their samples are looked up
        while out[number].kept < len(out[number].levels):
            kept = out[number].kept + 1
            buffers = out[number].buffers if kept < len(out[number].levels) else 0
            if not change(number, replace(out[number], kept=kept, buffers=buffers), spare):
                break
    return out


def _with_grids(
    block: FieldBlock, change: Callable[[HashGridEncoding], PagedGridEncoding | HashGridEncoding]
) -> FieldBlock:
    def changed(network: Network) -> Network:
        if network.color_position is not None or not isinstance(network.position, HashGridEncoding):
            return network
        return replace(network, position=change(network.position))

    return replace(block, field=_with_networks(block.field, changed))


def _with_paged(
    block: FieldBlock, change: Callable[[PagedGridEncoding], PagedGridEncoding]
) -> FieldBlock:
    def changed(network: Network) -> Network:
        if not isinstance(network.position, PagedGridEncoding):
            return network
        return replace(network, position=change(network.position))

    return replace(block, field=_with_networks(block.field, changed))


def _with_networks(field: Field, change: Callable[[Network], Network]) -> Field:
    sampler = field.sampler
    if isinstance(sampler, ProposalSampler):
        sampler = replace(sampler, proposals=tuple(map(change, sampler.proposals)))
    return replace(field, network=change(field.network), sampler=sampler)
