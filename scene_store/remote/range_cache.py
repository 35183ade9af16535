"""Ranges of remote files on the local disk, within a byte budget.

One file for each range, named by a hash of what it is (which version of which remote file,
from where to where) and carrying its own length and checksum. Readers take no lock: a file
appears by a rename, whole, and whatever is wrong with one is found by its checksum. Writers,
of all processes together, hold a lock on the folder while they make room and write, so the
budget holds for all of them. The count of bytes is raised before a file is written; a process
that is killed leaves a count that is too high, never too low, until the folder is looked through
again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scene_store.chunks import Buffer
from scene_store.remote.options import CacheOptions
from scene_store.user_cache import cache_folder

logger = logging.getLogger(__name__)

RANGES = "ranges"  # the name of the default folder
DEFAULT_BUDGET_BYTES = 10 << 30
DEFAULT_SHARE_OF_FREE_DISK = 0.1

_MAGIC = b"BVRANGE1"
_HEADER_BYTES = len(_MAGIC) + 8 + 4
_SUFFIX = ".range"
_UNFINISHED = ".partial"
_BLOCK_BYTES = 4096  # what a disk gives out at least
_LOW_WATER = 0.9  # of the budget, after room was made: not for every single write
_LOCK_PATIENCE_S = 0.2  # a reader rather goes without the cache than waits for it
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class RangeKey:
    """Which bytes.

    Attributes:
        file: The remote file, whatever names it.
        version: Of its content.
        offset, size: The range.
    """

    file: str
    version: str
    offset: int
    size: int

    @property
    def digest(self) -> str:
        """A name for it."""
        parts = (self.file, self.version, str(self.offset), str(self.size))
        text = "\0".join(parts).encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).hexdigest()


class RangeCache:
    """A folder of ranges. Never an error: what goes wrong is said once, and not cached.

    Args:
        folder: Of its own; made when something is put there.
        budget_bytes: The most that it takes on disk, folders and all.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._looked_through = False
        self._usable = True

    @classmethod
    def of(cls, options: CacheOptions) -> RangeCache:
        """The cache that the options describe."""
        folder = options.folder or cache_folder(RANGES)
        budget = options.budget_bytes
        return cls(folder, default_budget(folder) if budget is None else budget)

    def get(self, key: RangeKey) -> bytes | None:
        """The bytes, if they are here and whole."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                content = file.read(_HEADER_BYTES + key.size + 1)
        except OSError:
            return None
        data = content[_HEADER_BYTES:]
        if content[:_HEADER_BYTES] != _header(data) or len(data) != key.size:
            self.discard(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # for the order of eviction; nothing depends on it
        return data

    def put(self, key: RangeKey, data: Buffer) -> None:
        """Keeps the bytes, if there is room to be made for them."""
        self.put_many({key: data})

    def put_many(self, ranges: Mapping[RangeKey, Buffer]) -> None:
        """Keeps the bytes of several ranges, if there is room to be made for them."""
        most = self.budget_bytes * _LOW_WATER - _taken(0, 0)
        sizes = {key: _BLOCK_BYTES + _file_bytes(data) for key, data in ranges.items()}
        fitting = {key: size for key, size in sizes.items() if size <= most}
        if not self._usable or (not fitting and self.budget_bytes > 0):
            return
        if not self._lock.acquire(timeout=_LOCK_PATIENCE_S):
            return  # another thread looks through the folder
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not fitting:  # a budget of nothing: no room, or a folder that can never be
                self._usable = False
                return
            with self._locked() as held:
                for together in _groups(fitting, most) if held else ():
                    self._write({key: ranges[key] for key in together})
        except OSError as error:
            self._give_up(error)
        finally:
            self._lock.release()

    def size_bytes(self) -> int:
        """Bytes of all ranges that are here."""
        if not self.folder.is_dir():
            return 0
        with contextlib.suppress(OSError):
            return sum(size for _, size, _ in self._found()[1])
        return 0

    def clear(self) -> None:
        """Forgets all ranges, unless somebody is writing one just now."""
        if not self.folder.is_dir():
            return
        with contextlib.suppress(OSError), self._lock, self._locked() as held:
            if held:
                folders, files = self._found()
                for _, _, path in files:
                    path.unlink(missing_ok=True)
                left = sum(not _is_removed(folder) for folder in folders)
                self._note_used(_taken(left, 0))

    def discard(self, key: RangeKey) -> bool:
        """Forgets a range; whether it was here."""
        try:
            self._path(key).unlink()
        except OSError:
            return False
        return True

    def _path(self, key: RangeKey) -> Path:
        digest = key.digest
        return self.folder / digest[:2] / (digest[2:] + _SUFFIX)

    def _give_up(self, error: OSError) -> None:
        self._usable = False
        problem = "the disk is full" if error.errno in _FULL else error.strerror or str(error)
        logger.warning(
            "%s: remote data is no longer cached on disk: %s; everything else goes on",
            self.folder,
            problem,
        )

    # --- Under the lock ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether the folder's lock could be had in time."""
        with (self.folder / "lock").open("ab") as file:
            deadline = time.monotonic() + _LOCK_PATIENCE_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        yield False
                        return
                    time.sleep(0.005)
            yield True  # closing the file gives the lock back

    def _write(self, ranges: Mapping[RangeKey, Buffer]) -> None:
        used, size = self._used(), self._need(ranges)
        if used + size > self.budget_bytes:
            used = self._make_room(size + _BLOCK_BYTES * len(ranges))
            size = self._need(ranges)  # folders may be gone
        self._note_used(used + size)
        for key, data in ranges.items():
            path = self._path(key)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            unfinished = path.with_suffix(_UNFINISHED)
            try:
                with unfinished.open("wb") as file:
                    file.write(_header(data))
                    file.write(data)
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise

    def _need(self, ranges: Mapping[RangeKey, Buffer]) -> int:
        """Bytes that writing these takes, with the folders that are not there yet."""
        folders = {self._path(key).parent for key in ranges}
        fresh = sum(not folder.is_dir() for folder in folders)
        return sum(map(_file_bytes, ranges.values())) + _BLOCK_BYTES * fresh

    def _used(self) -> int:
        """Bytes that are taken, or more. Each process looks through the folder once."""
        try:
            noted = int((self.folder / "used").read_bytes())
        except (OSError, ValueError):
            noted = -1
        if noted < 0 or not self._looked_through:
            self._looked_through = True
            folders, files = self._found()
            return _taken(len(folders), sum(size for _, size, _ in files))
        return noted

    def _note_used(self, used: int) -> None:
        (self.folder / "used").write_bytes(str(used).encode("ascii"))

    def _make_room(self, size: int) -> int:
        """Removes the least recently used files, and folders that are empty then; what is left
        takes as many bytes."""
        folders, files = self._found()
        left = Counter(path.parent for _, _, path in files)
        bytes_left = sum(size for _, size, _ in files)
        empty = [folder for folder in folders if not left[folder]]
        goal = int(self.budget_bytes * _LOW_WATER) - size
        for _, freed, path in sorted(files):
            if _taken(len(folders) - len(empty), bytes_left) <= goal:
                break
            path.unlink(missing_ok=True)
            bytes_left -= freed
            left[path.parent] -= 1
            if not left[path.parent]:
                empty.append(path.parent)
        gone = sum(_is_removed(folder) for folder in empty)
        return _taken(len(folders) - gone, bytes_left)

    def _found(self) -> tuple[list[Path], list[tuple[int, int, Path]]]:
        """The folders; and (time of the last use, bytes on disk, path) of all ranges in them.
        What a killed writer left behind is removed."""
        folders, files = [], []
        for folder in os.scandir(self.folder):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            folders.append(Path(folder.path))
            for entry in os.scandir(folder.path):
                with contextlib.suppress(FileNotFoundError):  # discarded by a reader
                    if entry.name.endswith(_UNFINISHED):
                        os.unlink(entry.path)
                    elif entry.name.endswith(_SUFFIX):
                        status = entry.stat(follow_symlinks=False)
                        files.append(
                            (status.st_mtime_ns, _on_disk(status.st_size), Path(entry.path))
                        )
        return folders, files


def _taken(folders: int, bytes_of_files: int) -> int:
    """Bytes on disk, with the folders, the one above them, the lock and the count."""
    return bytes_of_files + _BLOCK_BYTES * (folders + 3)


def _is_removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
        return True
    return False


def default_budget(folder: Path) -> int:
    """The smaller of 10 GiB and a tenth of what is free on the folder's disk."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return 0
    return min(DEFAULT_BUDGET_BYTES, int(free * DEFAULT_SHARE_OF_FREE_DISK))


def _file_bytes(data: Buffer) -> int:
    return _on_disk(_HEADER_BYTES + len(data))


def _groups(sizes: Mapping[RangeKey, int], most: float) -> list[dict[RangeKey, int]]:
    """Ranges in groups of which each has room by itself."""
    groups: list[dict[RangeKey, int]] = []
    room = 0.0
    for key, size in sizes.items():
        if not groups or size > room:
            groups.append({})
            room = most
        groups[-1][key] = size
        room -= size
    return groups


def _header(data: Buffer) -> bytes:
    return _MAGIC + len(data).to_bytes(8, "little") + zlib.crc32(data).to_bytes(4, "little")


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
