"""Reading a store: the manifest and the tree at once, each chunk when it is wanted."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.chunks import (
    Buffer,
    DecodedChunks,
    EncodedChunk,
    ReadOutcome,
    never_cancelled,
)
from scene_store.manifest import (
    MANIFEST_FILE,
    MAX_CHUNK_ROWS,
    MAX_MANIFEST_BYTES,
    Manifest,
    PageFile,
    parse_manifest,
)
from scene_store.node_table import NodeRecords, decode_nodes, table_bytes
from scene_store.page_codec import DecodingScratch, checksums, decode_chunks_into
from scene_store.range_reader import RangeReader, RangeReadError, insist
from scene_store.read_batches import Place, in_order, side_by_side
from scene_store.remote.address import is_remote
from scene_store.scene import SceneMeta
from scene_store.scene_folder import read_folder
from scene_store.tree import LodTree
from splat.closing import Closing
from splat.errors import (
    ChunkReadError,
    SceneError,
    SceneFormatError,
    SceneNotFoundError,
    SceneUnreachableError,
)
from splat.gaussians import Gaussians

if TYPE_CHECKING:
    from scene_store.remote.options import RemoteOptions

STORE_SUFFIX = ".bvs"

_BUILD_AGAIN = "the store is incomplete or damaged: copy or build it again"

# What a stream of any profile can take, raw, with room for headers.
_MOST_GEOMETRY_BYTES_EACH = 4 * 14 + 8
_MOST_SH_BYTES_EACH = 4 * 45 + 12
_MOST_OVERHEAD_BYTES = 8_192

_Part = Buffer | BaseException | None  # a stream; or why it is not there; or not wanted


class Store(Closing):
    """An open store; a ``ChunkSource``. Made by ``open_store``.

    Nothing but the manifest and the node table is read before a chunk is asked for, and
    nothing is kept of a chunk that was.

    Attributes:
        meta: What is known of the scene as a whole.
        manifest: What the store says of itself.
        tree: The chunks.
        sh_degree: Degree of every chunk as it is decoded: 0 if harmonics are left out.
        page_gaussians: Most Gaussians of a chunk.
    """

    def __init__(
        self,
        reader: RangeReader,
        path: Path | str,
        *,
        harmonics: bool = True,
        manifest: Manifest | None = None,
    ) -> None:
        self._reader = reader
        self.manifest = _read_manifest(reader) if manifest is None else manifest
        self.tree, self._records = _read_tree(reader, self.manifest)
        self.sh_degree = self.manifest.sh_degree if harmonics else 0
        self.page_gaussians = self.manifest.page_gaussians
        self.meta = _scene_meta(self.manifest, path, self.sh_degree)
        self._scratch = DecodingScratch()

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        record = self._records[chunk]
        return int(record["geometry_bytes"]) + (int(record["sh_bytes"]) if self.sh_degree else 0)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        record = self._records[chunk]
        level = self.manifest.levels[int(record["level"])]
        geometry = self._read_range(chunk, level.geometry, "geometry", cancelled)
        if geometry is None or level.sh is None or not self.sh_degree:
            return None if geometry is None else EncodedChunk((geometry, b""))
        harmonics = self._read_range(chunk, level.sh, "sh", cancelled)
        return None if harmonics is None else EncodedChunk((geometry, harmonics))

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        """See ``ChunkSource``."""
        out = Gaussians.allocate(int(self.tree.count[chunk]), self.sh_degree)
        self.decode_into(chunk, encoded, out)
        return out

    def decode_into(self, chunk: int, encoded: EncodedChunk, out: Gaussians) -> None:
        """As ``decode``, into arrays of the chunk's count and degree that the caller owns."""
        for error in self._decode([chunk], [encoded], [len(out)], out).values():
            raise error

    def read_batches(self, chunks: Sequence[int], most_bytes: int) -> list[list[int]]:
        """See ``BatchSource``. From afar a batch is one request: chunks that lie together."""
        records = self._records[np.asarray(chunks, np.intp)]
        size = records["geometry_bytes"].astype(np.int64)
        sizes = (size + records["sh_bytes"] if self.sh_degree else size).tolist()
        if not self._reader.is_far:
            return in_order(chunks, sizes, most_bytes)
        return side_by_side(chunks, self._places(chunks, "geometry"), sizes, most_bytes)

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        """See ``BatchSource``."""
        geometry = self._read_streams(chunks, "geometry", cancelled)
        harmonics: dict[int, _Part] = {}
        if self.sh_degree:
            sizes = self._records["sh_bytes"]
            there = [chunk for chunk in chunks if _is_there(geometry[chunk]) and sizes[chunk]]
            harmonics = self._read_streams(there, "sh", cancelled)
        return [_both(geometry[chunk], harmonics.get(chunk, b"")) for chunk in chunks]

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """See ``BatchSource``."""
        counts = self.tree.count[np.asarray(chunks)].astype(np.int64)
        out = self._scratch.room_for(int(counts.sum()), self.sh_degree)
        errors: dict[int, BaseException] = dict(self._decode(chunks, encoded, counts, out))
        return DecodedChunks(out, np.stack([np.cumsum(counts) - counts, counts], axis=1), errors)

    def faults(
        self, chunks: Sequence[int], cancelled: Callable[[], bool] = never_cancelled
    ) -> dict[int, ChunkReadError]:
        """Reads chunks and holds them against their checksums, without decoding them.

        Returns:
            Those that cannot be had as they were written, and why.
        """
        outcomes = dict(zip(chunks, self.read_many(chunks, lambda _: cancelled()), strict=True))
        there = {c: found for c, found in outcomes.items() if isinstance(found, EncodedChunk)}
        names = list(there)
        differing = self._differing(names, list(there.values())) if there else {}
        missing = {c: found for c, found in outcomes.items() if isinstance(found, ChunkReadError)}
        return {**missing, **{names[place]: error for place, error in differing.items()}}

    @property
    def file_order(self) -> NDArray[np.intp]:
        """[N] all chunks, as their geometry lies in the files."""
        return np.lexsort((self._records["geometry_offset"], self._records["level"]))

    def close(self) -> None:
        """See ``ChunkSource``."""
        self._reader.close()

    def _read_range(
        self, chunk: int, file: PageFile, stream: str, cancelled: Callable[[], bool]
    ) -> bytes | None:
        record = self._records[chunk]
        offset, size = int(record[f"{stream}_offset"]), int(record[f"{stream}_bytes"])
        try:
            return self._reader.read(file.name, offset, size, cancelled)
        except RangeReadError as error:
            raise _read_error(error, chunk) from None

    def _places(self, chunks: Sequence[int], stream: str) -> list[Place]:
        records = self._records[np.asarray(chunks, np.intp)]
        columns = ("level", f"{stream}_offset", f"{stream}_bytes")
        return list(zip(*(records[column].tolist() for column in columns), strict=True))

    def _read_streams(
        self, chunks: Sequence[int], stream: str, cancelled: Callable[[int], bool]
    ) -> dict[int, _Part]:
        """One stream of each chunk; what lies together is read together."""
        found: dict[int, _Part] = {}
        places = dict(zip(chunks, self._places(chunks, stream), strict=True))
        for run in side_by_side(chunks, list(places.values())):
            wanted = [chunk for chunk in run if not cancelled(chunk)]
            found.update(dict.fromkeys(run))
            found.update(self._read_run(wanted, [places[c] for c in wanted], stream, cancelled))
        return found

    def _read_run(
        self,
        chunks: list[int],
        places: list[Place],
        stream: str,
        cancelled: Callable[[int], bool],
    ) -> dict[int, _Part]:
        if not chunks:
            return {}
        name = self._name_of(chunks[0], stream)
        ranges = [(offset, size) for _, offset, size in places]
        try:
            parts = self._reader.read_ranges(name, ranges, lambda: all(map(cancelled, chunks)))
            if parts is None:
                return dict.fromkeys(chunks)
            return dict(zip(chunks, parts, strict=True))
        except RangeReadError as error:
            if len(chunks) == 1 or error.transient:
                return {chunk: _read_error(error, chunk) for chunk in chunks}
        # Some of them are there, perhaps.
        found: dict[int, _Part] = {}
        for chunk, place in zip(chunks, places, strict=True):
            found.update(self._read_run([chunk], [place], stream, cancelled))
        return found

    def _decode(
        self,
        chunks: Sequence[int],
        encoded: Sequence[EncodedChunk],
        counts: ArrayLike,
        out: Gaussians,
    ) -> dict[int, ChunkReadError]:
        """What is wrong with which of the batch; ``out`` holds all others."""
        errors = {
            place: ChunkReadError(self._file_of(chunks[place]), chunks[place], problem)
            for place, problem in enumerate(decode_chunks_into(encoded, counts, out))
            if problem is not None
        }
        errors.update(self._differing(chunks, encoded))
        return errors

    def _differing(
        self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]
    ) -> dict[int, ChunkReadError]:
        """Those of a batch that are not as they were written, by their place in it."""
        errors: dict[int, ChunkReadError] = {}
        streams = ("geometry", "sh") if self.sh_degree else ("geometry",)
        for index, stream in reversed(list(enumerate(streams))):
            sums = np.empty(len(encoded), np.uint32)
            checksums([each.parts[index] for each in encoded], sums)
            differ = sums != self._records[np.asarray(chunks, np.intp)][f"{stream}_crc"]
            for place in np.flatnonzero(differ).tolist():
                errors[place] = self._damaged(chunks[place], stream)
        return errors

    def _damaged(self, chunk: int, stream: str) -> ChunkReadError:
        record = self._records[chunk]
        start, size = int(record[f"{stream}_offset"]), int(record[f"{stream}_bytes"])
        name = self._name_of(chunk, stream)
        try:
            transient = self._reader.reject(name, start, size)
        except RangeReadError as error:
            return _read_error(error, chunk)
        return ChunkReadError(
            self._reader.location(name),
            chunk,
            f"is damaged: the checksum of bytes {start:,} to {start + size:,} differs; "
            f"copy or build the store again",
            transient=transient,
        )

    def _file_of(self, chunk: int) -> str:
        return self._reader.location(self._name_of(chunk, "geometry"))

    def _name_of(self, chunk: int, stream: str) -> str:
        level = self.manifest.levels[int(self.tree.level[chunk])]
        file = level.sh if stream == "sh" and level.sh is not None else level.geometry
        return file.name


def _read_error(error: RangeReadError, chunk: int) -> ChunkReadError:
    return ChunkReadError(error.location, chunk, error.advice, transient=error.transient)


def _is_there(part: _Part) -> bool:
    return part is not None and not isinstance(part, BaseException)


def _both(geometry: _Part, harmonics: _Part) -> ReadOutcome:
    if geometry is None or isinstance(geometry, BaseException):
        return geometry
    if harmonics is None or isinstance(harmonics, BaseException):
        return harmonics
    return EncodedChunk((geometry, harmonics))


def open_store(
    path: str | os.PathLike[str],
    *,
    harmonics: bool = True,
    remote: RemoteOptions | None = None,
) -> Store:
    """Opens a store; reads its manifest and its tree only.

    Args:
        path: A local folder, the manifest in it, or the address of either (``http://``,
            ``https://``, ``s3://`` and what else fsspec knows).
        harmonics: Whether chunks are wanted with their harmonics above degree 0; without,
            those files are never read.
        remote: How to deal with servers; the defaults if None.

    Raises:
        SceneNotFoundError: If there is no store.
        SceneUnreachableError: If it cannot be reached just now.
        SceneFormatError: If it is damaged, makes no sense, or is of a newer version.
        BackendUnavailable: If such addresses need a package that is not installed.
    """
    reader, place = read_folder(path, MANIFEST_FILE, remote)
    try:
        manifest = _read_manifest(reader)
        if manifest.model is not None:
            # It is one of these.
            from scene_store.neural_store import NeuralStore

            return NeuralStore(reader, manifest, place)
        return Store(reader, place, harmonics=harmonics, manifest=manifest)
    except BaseException:
        reader.close()
        raise


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a local folder looks like a store: a look at what is there, not a check. False
    for addresses, which are not asked, and for folders that may not be entered."""
    return not is_remote(os.fspath(path)) and os.path.isfile(Path(path) / MANIFEST_FILE)


def _read_manifest(reader: RangeReader) -> Manifest:
    location = reader.location(MANIFEST_FILE)
    try:
        text = insist(lambda: reader.read_file(MANIFEST_FILE, MAX_MANIFEST_BYTES, never_cancelled))
    except RangeReadError as error:
        if error.missing:
            raise SceneNotFoundError(
                f"{location}: {error.problem}; a store has one when its build has ended"
            ) from None
        if error.transient:
            raise SceneUnreachableError(f"{location}: {error.advice}") from None
        raise SceneFormatError(location, error.problem, remedy=error.remedy) from None
    assert text is not None  # nobody cancelled
    return parse_manifest(location, text)


def _read_tree(reader: RangeReader, manifest: Manifest) -> tuple[LodTree, NodeRecords]:
    location = reader.location(manifest.nodes_file.name)

    def damaged(problem: str) -> SceneFormatError:
        return SceneFormatError(location, problem, remedy=_BUILD_AGAIN)

    size = table_bytes(manifest.nodes)
    if manifest.nodes_file.size_bytes != size:
        raise damaged(f"needs {size:,} bytes for {manifest.nodes:,} nodes")
    try:
        table = insist(lambda: reader.read(manifest.nodes_file.name, 0, size, never_cancelled))
    except RangeReadError as error:
        if error.transient:
            raise SceneUnreachableError(f"{location}: {error.advice}") from None
        remedy = error.remedy or _BUILD_AGAIN
        raise SceneFormatError(location, error.problem, remedy=remedy) from None
    assert table is not None  # nobody cancelled
    if zlib.crc32(table) != manifest.nodes_crc:
        raise damaged("the checksum differs")
    try:
        tree, records = decode_nodes(table, manifest.nodes, manifest.version)
    except SceneError as error:
        raise damaged(str(error)) from None
    if problem := _contradiction(manifest, records):
        raise damaged(problem)
    return tree, records


def _contradiction(manifest: Manifest, records: NodeRecords) -> str | None:
    """What the table says that the manifest rules out; None if they agree."""
    most = manifest.page_gaussians if manifest.model is None else MAX_CHUNK_ROWS
    if int(records["count"].max()) > most:
        return f"holds a chunk of more than {most:,} Gaussians"
    if int(records["level"].max()) >= len(manifest.levels):
        return "holds a node of a level that the manifest lacks"
    counts = records["count"].astype(np.int64)
    for index, level in enumerate(manifest.levels):
        here = records["level"] == index
        if int(here.sum()) != level.chunks or int(counts[here].sum()) != level.gaussians:
            return f"the manifest counts level {index} differently"
        rows = manifest.model.row_bytes if manifest.model else _MOST_GEOMETRY_BYTES_EACH
        for stream, file, most_each in (
            ("geometry", level.geometry, rows),
            ("sh", level.sh, _MOST_SH_BYTES_EACH),
        ):
            sizes = records[f"{stream}_bytes"][here].astype(np.int64)
            if (sizes > counts[here] * most_each + _MOST_OVERHEAD_BYTES).any():
                return f"holds a chunk of level {index} with too many bytes for its Gaussians"
            length = file.size_bytes if file is not None else 0
            # Compared as unsigned numbers, and without a sum that could overflow.
            starts = records[f"{stream}_offset"][here]
            if (sizes > length).any() or (starts > (length - sizes).astype(np.uint64)).any():
                return f"holds a chunk of level {index} that lies outside of its file"
    return None


def _scene_meta(manifest: Manifest, path: Path | str, sh_degree: int) -> SceneMeta:
    left_out = manifest.sh_degree - sh_degree
    notes = ("harmonics above degree 0 are left out",) if left_out else ()
    model = manifest.model
    about = f"({manifest.profile.value})" if model is None else f"of {model.format_name}"
    return SceneMeta(
        path=path,
        format_name=f"Belvedere store {about}",
        count=manifest.gaussians if model is None else model.count,
        unit="Gaussians" if model is None else model.unit,
        sh_degree=sh_degree,
        up=manifest.info.up,
        outline=manifest.info.outline,
        lod_counts=tuple(level.gaussians for level in manifest.levels),
        notes=manifest.info.notes + notes,
    )
