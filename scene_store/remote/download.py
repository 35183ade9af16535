"""Scenes that are one file on a server, kept on the local disk as they are.

A store or a streamed SOG is read in parts; any other file must be here to be opened. It lies
beside the cache of ranges, under a name that stands for its version, so that it is downloaded
once; what was not used for longest goes first when there is no more room.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scene_store.chunks import never_cancelled
from scene_store.range_reader import RangeReadError, insist
from scene_store.remote.address import Address
from scene_store.remote.cached_reader import RemoteReader
from scene_store.remote.identity import FileIdentity
from scene_store.remote.opening import open_reader
from scene_store.remote.options import CacheOptions, RemoteOptions
from scene_store.remote.range_cache import RANGES, default_budget
from scene_store.user_cache import cache_folder
from splat.atomic_file import atomic_file, cannot_write
from splat.errors import OutputError, SceneError, SceneNotFoundError, SceneUnreachableError

logger = logging.getLogger(__name__)

Progress = Callable[[float, str], None]

FOLDER = "files"
_PART_BYTES = 4 << 20
_AT_ONCE = 4
_IN_ONE_BYTES = 1 << 30  # of a server without ranges: such a file is in memory for a moment
_LOCK = ".lock"


@contextlib.contextmanager
def downloaded(
    text: str, options: RemoteOptions, progress: Progress = lambda share, what: None
) -> Iterator[Path]:
    """A remote file, here; it stays for as long as the block lasts at least.

    Args:
        text: Its address.
        options: How to deal with the server, and where to keep the file.
        progress: Hears the share that is here, and what is being done; may raise, which ends it.

    Raises:
        SceneNotFoundError: If it is not there.
        SceneUnreachableError: If it cannot be reached just now.
        SceneError: If there is no room for it in the cache's budget.
        OutputError: If it cannot be written.
    """
    name = Address.of(text).path.rpartition("/")[2]
    address = Address.of(text, name)
    cache = options.cache or CacheOptions()
    folder = (cache.folder or cache_folder(RANGES)) / FOLDER
    reader = open_reader(address, options)
    with contextlib.ExitStack() as stack:
        stack.callback(reader.close)
        with _telling(reader, name):
            identity = insist(lambda: reader.identity(name, never_cancelled))
        assert identity is not None  # nobody cancelled
        entry = folder / _digest(address, name, identity)
        path = entry / name
        try:
            entry.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(_in_use(entry))
            if not _is_here(path, identity):
                _make_room(folder, entry, identity.size or 0, cache, address.shown(name))
                with _telling(reader, name), atomic_file(path) as temporary:
                    _fetch(reader, name, identity, temporary, progress)
            os.utime(entry)
        except OSError as error:
            raise cannot_write(path, error) from None
        yield path


def _digest(address: Address, name: str, identity: FileIdentity) -> str:
    # A token in the query changes from day to day; the server's own mark tells files apart.
    file = address.shown(name) if identity.etag else address.file(name)
    text = f"{file}\0{identity.version}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _is_here(path: Path, identity: FileIdentity) -> bool:
    if identity.version is None:  # it may have changed, and nobody could tell
        return False
    try:
        return path.stat().st_size == identity.size
    except OSError:
        return False


def _fetch(
    reader: RemoteReader, name: str, identity: FileIdentity, path: Path, progress: Progress
) -> None:
    """Parts of the file, several at a time; all of it at once where the server knows no parts."""
    size = identity.size
    what = f"Downloading {name}"
    given_up = threading.Event()

    def read(start: int) -> None:
        assert size is not None
        part = insist(
            lambda: reader.read(name, start, min(_PART_BYTES, size - start), given_up.is_set)
        )
        if part is not None:
            os.pwrite(file.fileno(), part, start)

    with path.open("wb") as file:
        progress(0.0, what)
        if size is None or not _knows_ranges(reader, name):
            data = insist(lambda: reader.read_file(name, _IN_ONE_BYTES, never_cancelled))
            assert data is not None  # nobody cancelled
            file.write(data)
            return
        file.truncate(size)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
            try:
                starts = range(0, size, _PART_BYTES)
                for done, _ in enumerate(pool.map(read, starts), start=1):
                    progress(min(1.0, done * _PART_BYTES / size), what)
            except BaseException:
                given_up.set()
                pool.shutdown(cancel_futures=True)
                raise


def _knows_ranges(reader: RemoteReader, name: str) -> bool:
    try:
        insist(lambda: reader.read(name, 0, 1, never_cancelled))
    except RangeReadError as error:
        if error.transient or error.missing:
            raise
        return False
    return True


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was downloaded.

    Attributes:
        folder: Holds it alone.
        name: Of the file.
        used_ns: When it was last used, since the epoch.
        size_bytes: Of it.
    """

    folder: Path
    name: str
    used_ns: int
    size_bytes: int

    def remove(self) -> bool:
        """Remove it unless somebody uses it. Returns whether it is gone."""
        return _remove(self.folder)


def downloads(cache: CacheOptions) -> list[Download]:
    """All files that are kept, the least recently used first."""
    found = []
    with contextlib.suppress(OSError):
        for folder in ((cache.folder or cache_folder(RANGES)) / FOLDER).iterdir():
            with contextlib.suppress(OSError, StopIteration):  # somebody else removed it
                name = next(file.name for file in folder.iterdir() if file.name != _LOCK)
                used_ns = folder.stat().st_mtime_ns
                found.append(Download(folder, name, used_ns, _bytes_of(folder)))
    return sorted(found, key=lambda download: download.used_ns)


@contextlib.contextmanager
def _telling(reader: RemoteReader, name: str) -> Iterator[None]:
    """Faults of the server as errors of the scene."""
    try:
        yield
    except RangeReadError as error:
        if error.transient:
            raise SceneUnreachableError(f"{error.location}: {error.advice}") from None
        if error.missing:
            raise SceneNotFoundError(f"{error.location}: {error.advice}") from None
        raise SceneError(f"{error.location}: {error.advice}") from None


@contextlib.contextmanager
def _in_use(entry: Path) -> Iterator[None]:
    with (entry / _LOCK).open("a") as file:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def _make_room(folder: Path, keep: Path, size: int, cache: CacheOptions, shown: str) -> None:
    """Removes what was not used for longest; what others use stays.

    Raises:
        SceneError: If the budget cannot hold the file.
        OutputError: If the disk cannot.
    """
    budget = default_budget(folder) if cache.budget_bytes is None else cache.budget_bytes
    if size > budget:
        raise SceneError(
            f"{shown}: has {size:,} bytes, and the cache may keep {budget:,}; raise "
            f"--cache-budget, or download it yourself"
        )
    entries = [entry for entry in folder.iterdir() if entry.is_dir() and entry != keep]
    sizes = {entry: _bytes_of(entry) for entry in entries}
    used = sum(sizes.values())
    for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime):
        if used + size <= budget:
            break
        if _remove(entry):
            used -= sizes[entry]
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OutputError(f"{keep}: {shown} has {size:,} bytes, and the disk {free:,} free")


def _remove(entry: Path) -> bool:
    """Whether nobody uses it."""
    with contextlib.suppress(OSError), (entry / _LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(entry, ignore_errors=True)
        logger.info("%s: removed to make room for other files", entry)
        return True
    return False


def _bytes_of(entry: Path) -> int:
    total = 0
    for file in entry.iterdir():
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total
