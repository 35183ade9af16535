"""Writing a store: chunks appended level by level, and a manifest at the very end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from scene_store.chunks import EncodedChunk
from scene_store.manifest import (
    DEFAULT_PAGE_GAUSSIANS,
    MANIFEST_FILE,
    MAX_LEVELS,
    MAX_NODES,
    NODES_FILE,
    Level,
    Manifest,
    PageFile,
    Profile,
    StoreInfo,
    encode_manifest,
)
from scene_store.node_table import ChunkRef, encode_nodes
from scene_store.tree import LodTree
from splat.atomic_file import cannot_write
from splat.closing import Closing
from splat.errors import OutputError

_PARTIAL_SUFFIX = ".partial"
_SCRATCH_FOLDER = "scratch"
_LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class WriterState:
    """How far a store was written: lengths of the page files by level, flushed to the disk."""

    geometry_bytes: tuple[int, ...] = ()
    sh_bytes: tuple[int, ...] = ()


def partial_folder(path: str | os.PathLike[str]) -> Path:
    """Where the store ``path`` lies until it is complete."""
    target = Path(path)
    return target.with_name(target.name + _PARTIAL_SUFFIX)


def scratch_folder(path: str | os.PathLike[str]) -> Path:
    """Where the build of the store ``path`` keeps files of its own."""
    return partial_folder(path) / _SCRATCH_FOLDER


class StoreWriter(Closing):
    """Writes a store in ``PATH.partial``, which becomes ``PATH`` when it is complete.

    Chunks are encoded by ``page_codec.encode_chunk``, on any thread or process, and appended
    here by one thread. The bytes of a store depend only on what is appended and in which order
    within each level.

    A killed or failed build leaves the partial folder, which is not a store (it has no
    manifest). To continue it, ``resume`` from the state that ``checkpoint`` returned last: what
    was appended after that is cut off. To begin anew, ``clear`` it.

    Args:
        path: The store to be, conventionally ``*.bvs``. Its folder must exist.
        sh_degree: 0 to 3, of every chunk.
        profile: How the chunks will have been encoded.
        page_gaussians: Most Gaussians of a chunk.
        replace: Whether a store of that name may be replaced (only once the new one is
            complete). Anything that is not a store is never replaced.

    Raises:
        OutputError: If it cannot be written, or ``path`` is taken, or another writer is at
            work on it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sh_degree: int,
        profile: Profile = Profile.COMPACT,
        page_gaussians: int = DEFAULT_PAGE_GAUSSIANS,
        replace: bool = False,
    ) -> None:
        self.path = Path(path)
        self.sh_degree = sh_degree
        self.profile = profile
        self.page_gaussians = page_gaussians
        self._replace = replace
        self._folder = partial_folder(path)
        self._files: dict[str, _PageFile] = {}
        _require_free(self.path, replace)
        with self._reporting():
            os.makedirs(self.scratch, exist_ok=True)
            self._lock = self._locked()

    @property
    def scratch(self) -> Path:
        """An existing folder in the partial one for the build's own files (journal, sorted
        runs); survives a kill, and is removed by ``finish``."""
        return scratch_folder(self.path)

    def clear(self) -> None:
        """Begins anew: removes what an earlier build left, its scratch files included.

        Raises:
            OutputError: If it cannot be removed.
        """
        self._close_files()
        with self._reporting():
            self._remove_all_but({_LOCK_FILE})
            os.makedirs(self.scratch, exist_ok=True)

    def resume(self, state: WriterState) -> None:
        """Continues where ``checkpoint`` returned this state; what came after is cut off.

        Raises:
            OutputError: If the page files are not there any more, or are shorter.
        """
        self._close_files()
        with self._reporting():
            wanted = {}
            for stream, sizes in (("geometry", state.geometry_bytes), ("sh", state.sh_bytes)):
                wanted.update({page_name(stream, level): n for level, n in enumerate(sizes) if n})
            self._remove_all_but({_LOCK_FILE, _SCRATCH_FOLDER, *wanted})
            for name, size in wanted.items():
                self._files[name] = _PageFile(self._folder / name, size)

    def append(self, level: int, count: int, encoded: EncodedChunk) -> ChunkRef:
        """Adds a chunk of ``count`` Gaussians to the page files of its level.

        Raises:
            OutputError: If it cannot be written (disk full). The partial folder stays, and
                after some room was made the same chunk can be appended again.
        """
        if not 0 <= level < MAX_LEVELS or not 0 < count <= self.page_gaussians:
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
            _flush_folder(self._folder)
        return WriterState(self._lengths("geometry"), self._lengths("sh"))

    def finish(self, tree: LodTree, refs: Sequence[ChunkRef], info: StoreInfo) -> None:
        """Writes the node table and the manifest and gives the store its name.

        Args:
            tree: The finished tree.
            refs: The chunk of each node, in the tree's order.
            info: What else to remember.

        Raises:
            OutputError: If it cannot be written.
            ValueError: If tree and refs do not belong together.
        """
        if len(tree) > MAX_NODES:
            raise ValueError(f"a store cannot have {len(tree):,} nodes")
        table = encode_nodes(tree, refs)
        manifest = self._manifest(tree, table, info)
        self.checkpoint()
        with self._reporting():
            self._remove_all_but({_LOCK_FILE, *self._files})
            self._close_files()
            _write_flushed(self._folder / NODES_FILE, table)
            _write_flushed(self._folder / MANIFEST_FILE, encode_manifest(manifest))
            _flush_folder(self._folder)
            _rename_over(self._folder, self.path, self._replace)
            _flush_folder(self.path.parent)
            os.unlink(self.path / _LOCK_FILE)
        self._release_lock()

    def close(self) -> None:
        """Closes the files; the partial folder stays unless ``finish`` was called."""
        self._close_files()
        self._release_lock()

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

    def _manifest(self, tree: LodTree, table: bytes, info: StoreInfo) -> Manifest:
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
        )

    def _page(self, stream: str, level: int) -> PageFile:
        """The page file of a level; created empty where nothing was appended."""
        with self._reporting():
            return PageFile(page_name(stream, level), self._file(stream, level).length)

    def _remove_all_but(self, names: set[str]) -> None:
        for entry in list(os.scandir(self._folder)):
            if entry.name in names:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def _locked(self) -> int | None:
        """A handle that holds the folder's lock, for as long as this process lives."""
        handle = os.open(self._folder / _LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                raise OutputError(
                    f"{self.path}: another build is writing it; wait for it or choose another name"
                ) from None
            # Some network file systems know no locks; a build must be possible there.
        return handle

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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


class _PageFile:
    """One page file, written at a position that is known, so that a failed write (disk full)
    leaves nothing behind that a later one would follow."""

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        self._dirty = True
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        found = os.fstat(self._fd).st_size
        if found < length:
            os.close(self._fd)
            raise OutputError(
                f"{path}: holds {found:,} bytes of the {length:,} that were written before; "
                f"build again from the start"
            )
        os.ftruncate(self._fd, length)

    def append(self, data: bytes) -> int:
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


def page_name(stream: str, level: int) -> str:
    """Of the file that holds a level's ``geometry`` or ``sh``."""
    return f"{stream}-{level:02d}.bin"


def _generator() -> str:
    try:
        return f"belvedere {version('belvedere')}"
    except PackageNotFoundError:
        return "belvedere"


def _require_free(path: Path, replace: bool) -> None:
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: cannot write: the folder {path.parent} does not exist; create it"
        )
    if not os.path.lexists(path):
        return
    if not (path / MANIFEST_FILE).is_file():
        raise OutputError(f"{path}: exists and is not a store; choose another name")
    if not replace:
        raise OutputError(f"{path}: exists already; remove it or choose another name")


def _write_flushed(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """The names in it; not every file system can, and the files are complete without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename_over(folder: Path, target: Path, replace: bool) -> None:
    """Gives the folder its name; an old store of that name goes once the new one has it."""
    _require_free(target, replace)
    if not os.path.lexists(target):
        os.rename(folder, target)
        return
    old = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    os.rename(target, old)
    try:
        os.rename(folder, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
