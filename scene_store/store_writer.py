"""Writing a store: chunks appended level by level, and a manifest at the very end."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from scene_store.chunks import Buffer, EncodedChunk
from scene_store.manifest import (
    DEFAULT_PAGE_GAUSSIANS,
    MANIFEST_FILE,
    MAX_CHUNK_ROWS,
    MAX_LEVELS,
    MAX_NODES,
    MODEL_FILE,
    MODEL_VERSION,
    NODES_FILE,
    VERSION,
    Level,
    Manifest,
    ModelPart,
    PageFile,
    Profile,
    StoreInfo,
    encode_manifest,
)
from scene_store.node_table import ChunkRef, encode_nodes
from scene_store.store_folder import (
    SCRATCH_FOLDER,
    PartialFolder,
    flush_folder,
    page_name,
    require_free,
)
from scene_store.tree import LodTree
from splat.atomic_file import cannot_write
from splat.closing import Closing
from splat.errors import OutputError


@dataclass(frozen=True, slots=True)
class WriterState:
    """How far a store was written: lengths of the page files by level, flushed to the disk."""

    geometry_bytes: tuple[int, ...] = ()
    sh_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """What gives the rows of a store of a neural scene a meaning.

    Attributes:
        data: The file.
        row_bytes, format_name, unit, count: As of ``ModelPart``.
    """

    data: bytes
    row_bytes: int
    format_name: str
    unit: str
    count: int

    @property
    def part(self) -> ModelPart:
        """As the manifest has it."""
        return ModelPart(
            PageFile(MODEL_FILE, len(self.data)),
            zlib.crc32(self.data),
            self.row_bytes,
            self.format_name,
            self.unit,
            self.count,
        )


class StoreWriter(Closing):
    """Writes a store in ``PATH.partial``, which becomes ``PATH`` when it is complete.

    Chunks are encoded by ``page_codec.encode_chunk``, on any thread or process, and appended
    here by one thread. The bytes of a store depend only on what is appended and in which order
    within each level.

    A killed or failed build leaves the partial folder, which is not a store (it has no
    manifest). To continue it, ``resume`` from the state that ``checkpoint`` returned last: what
    was appended after that is cut off. To begin anew, ``clear`` it. Both hold until the store
    has its name.

    Args:
        path: The store to be, conventionally ``*.bvs``, or a link to it. Its folder must exist.
        sh_degree: 0 to 3, of every chunk.
        profile: How the chunks will have been encoded.
        page_gaussians: Most Gaussians of a chunk.
        replace: Whether a store of that name may be replaced (only once the new one is
            complete). What is not a store, or holds anything else, is never replaced.
        many_pages: Whether a chunk may take several pages, as those of neural scenes do.

    Raises:
        OutputError: If it cannot be written, or ``path`` or ``PATH.partial`` is taken, or
            another writer is at work on it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sh_degree: int,
        profile: Profile = Profile.COMPACT,
        page_gaussians: int = DEFAULT_PAGE_GAUSSIANS,
        replace: bool = False,
        many_pages: bool = False,
    ) -> None:
        self.path = Path(path)
        self.sh_degree = sh_degree
        self.profile = profile
        self.page_gaussians = page_gaussians
        self._replace = replace
        self._most_of_a_chunk = MAX_CHUNK_ROWS if many_pages else page_gaussians
        self._files: dict[str, _PageFile] = {}
        self._target = require_free(path, replace)
        with self._reporting():
            self._partial = PartialFolder(path)
        self._folder = self._partial.folder

    @property
    def scratch(self) -> Path:
        """An existing folder in the partial one for the build's own files (journal, sorted
        runs); survives a kill, and is removed when the store has its name."""
        return self._partial.scratch

    def clear(self) -> None:
        """Begins anew: removes what an earlier build left, its scratch files included.

        Raises:
            OutputError: If it cannot be removed.
        """
        self._close_files()
        with self._reporting():
            self._partial.remove_all_but(())
            self.scratch.mkdir(exist_ok=True)

    def can_resume(self, state: WriterState) -> bool:
        """Whether the page files still hold what this state says."""
        try:
            found = {name: os.lstat(self._folder / name) for name in _sizes_of(state)}
        except OSError:
            return False
        return all(
            stat.S_ISREG(found[name].st_mode) and found[name].st_size >= size
            for name, size in _sizes_of(state).items()
        )

    def resume(self, state: WriterState) -> None:
        """Continues where ``checkpoint`` returned this state; what came after is cut off.

        Raises:
            OutputError: If the page files are not there any more, or are shorter.
        """
        self._close_files()
        with self._reporting():
            wanted = _sizes_of(state)
            self._partial.remove_all_but({SCRATCH_FOLDER, *wanted})
            for name, size in wanted.items():
                self._files[name] = _PageFile(self._folder / name, size)

    def append(self, level: int, count: int, encoded: EncodedChunk) -> ChunkRef:
        """Adds a chunk of ``count`` Gaussians to the page files of its level.

        Raises:
            OutputError: If it cannot be written (disk full). The partial folder stays, and
                after some room was made the same chunk can be appended again.
        """
        if not 0 <= level < MAX_LEVELS or not 0 < count <= self._most_of_a_chunk:
            raise ValueError(f"a chunk of {count} Gaussians of level {level} does not fit")
        geometry, harmonics = encoded.parts
        with self._reporting():
            geometry_at = self._file("geometry", level).append(geometry)
            sh_at = self._file("sh", level).append(harmonics) if harmonics else 0
        return ChunkRef(
            level,
            count,
            geometry_at,
            len(geometry),
            zlib.crc32(geometry),
            sh_at,
            len(harmonics),
            zlib.crc32(harmonics),
        )

    def checkpoint(self) -> WriterState:
        """Flushes all that was appended to the disk; the state from which to continue.

        Raises:
            OutputError: If it cannot be written.
        """
        with self._reporting():
            for file in self._files.values():
                file.flush()
            flush_folder(self._folder)
        return WriterState(self._lengths("geometry"), self._lengths("sh"))

    def finish(
        self,
        tree: LodTree,
        refs: Sequence[ChunkRef],
        info: StoreInfo,
        model: ModelBytes | None = None,
    ) -> None:
        """Writes the node table and the manifest and gives the store its name.

        Args:
            tree: The finished tree.
            refs: The chunk of each node, in the tree's order.
            info: What else to remember.
            model: Of a neural scene.

        Raises:
            OutputError: If it cannot be written, or its name was taken meanwhile. The build can
                be continued then.
            ValueError: If tree and refs do not belong together.
        """
        if len(tree) > MAX_NODES:
            raise ValueError(f"a store cannot have {len(tree):,} nodes")
        table = encode_nodes(tree, refs)
        manifest = self._manifest(tree, table, info, model)
        self.checkpoint()
        pending = self.scratch / MANIFEST_FILE
        with self._reporting():
            self._partial.remove_all_but({SCRATCH_FOLDER, *self._files})
            _write_flushed(self._folder / NODES_FILE, table)
            if model is not None:
                _write_flushed(self._folder / MODEL_FILE, model.data)
            _write_flushed(pending, encode_manifest(manifest))
            self._partial.become(self._target, pending, replace=self._replace)
        self._close_files()

    def discard(self) -> None:
        """Gives up: removes the partial folder, unless the store is finished."""
        self._close_files()
        self._partial.discard()

    def close(self) -> None:
        """Closes the files; the partial folder stays unless ``finish`` was called."""
        self._close_files()
        self._partial.release()

    def _file(self, stream: str, level: int) -> _PageFile:
        name = page_name(stream, level)
        if name not in self._files:
            self._files[name] = _PageFile(self._folder / name, 0)
        return self._files[name]

    def _lengths(self, stream: str) -> tuple[int, ...]:
        names = [page_name(stream, level) for level in range(MAX_LEVELS)]
        lengths = [self._files[name].length if name in self._files else 0 for name in names]
        used = max((level + 1 for level, length in enumerate(lengths) if length), default=0)
        return tuple(lengths[:used])

    def _manifest(
        self, tree: LodTree, table: bytes, info: StoreInfo, model: ModelBytes | None
    ) -> Manifest:
        levels = []
        for level in range(int(tree.level.max()) + 1):
            here = tree.level == level
            if not here.any():
                raise ValueError(f"level {level} has no chunks")
            levels.append(
                Level(
                    int(here.sum()),
                    int(tree.count[here].sum(dtype=np.int64)),
                    self._page("geometry", level),
                    self._page("sh", level) if self.sh_degree else None,
                )
            )
        roots = tree.roots
        lo, hi = tree.lo[roots].min(axis=0).tolist(), tree.hi[roots].max(axis=0).tolist()
        return Manifest(
            profile=self.profile,
            sh_degree=self.sh_degree,
            page_gaussians=self.page_gaussians,
            lo=(lo[0], lo[1], lo[2]),
            hi=(hi[0], hi[1], hi[2]),
            levels=tuple(levels),
            nodes=len(tree),
            nodes_file=PageFile(NODES_FILE, len(table)),
            nodes_crc=zlib.crc32(table),
            info=info,
            generator=_generator(),
            version=VERSION if model is None else MODEL_VERSION,
            model=None if model is None else model.part,
        )

    def _page(self, stream: str, level: int) -> PageFile:
        """The page file of a level; created empty where nothing was appended."""
        with self._reporting():
            return PageFile(page_name(stream, level), self._file(stream, level).length)

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Errors of the file system as errors about the store."""
        try:
            yield
        except OSError as error:
            raise cannot_write(self.path, error) from None


_PAGE_FLAGS = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class _PageFile:
    """One page file, written at a position that is known, so that a failed write (disk full)
    leaves nothing behind that a later one would follow."""

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        self._dirty = True
        self._fd = os.open(path, _PAGE_FLAGS, 0o666)
        found = os.fstat(self._fd).st_size
        if found < length:
            os.close(self._fd)
            raise OutputError(
                f"{path}: holds {found:,} bytes of the {length:,} that were written before; "
                f"build again from the start"
            )
        os.ftruncate(self._fd, length)

    def append(self, data: Buffer) -> int:
        """Where the data begin."""
        start, view = self.length, memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, start + len(data) - len(view))
            view = view[written:]
        self.length += len(data)
        self._dirty = True
        return start

    def flush(self) -> None:
        if self._dirty:
            os.ftruncate(self._fd, self.length)
            os.fsync(self._fd)
            self._dirty = False

    def close(self) -> None:
        os.close(self._fd)


def _sizes_of(state: WriterState) -> dict[str, int]:
    """Of the page files that are not empty, by name."""
    return {
        page_name(stream, level): size
        for stream, sizes in (("geometry", state.geometry_bytes), ("sh", state.sh_bytes))
        for level, size in enumerate(sizes)
        if size
    }


def _generator() -> str:
    try:
        return f"belvedere {version('belvedere')}"
    except PackageNotFoundError:
        return "belvedere"


def _write_flushed(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
