"""Ranges of bytes of named files: all that a store needs of where it lies."""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import stat
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from scene_store.chunks import Buffer
from scene_store.failures import RetryPolicy

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_PART_BYTES = 1 << 24  # between two looks at whether the read is still wanted
MOST_GAP_BYTES = 4096  # read in vain rather than by another request

_MOST_BUFFERS = 512  # of one call; the system sets a limit of at least 1,024
_MAX_OPEN_FILES = 64  # a scene of many files must not use up what a process may open
_OPENING_ATTEMPTS = 4
_OPENING_PATIENCE_S = 15.0  # from the first fault to the last attempt
_OPENING_POLICY = RetryPolicy()
# What a file answers now, it will answer again; a network drive that hangs, or too many open
# files, will pass.
_LASTING_ERRORS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
)


class RangeReadError(Exception):
    """Bytes cannot be had.

    Args:
        location: The file or address, for people.
        problem: What is wrong, as a phrase.
        missing: Whether there is no such file at all.
        transient: Whether another attempt may succeed.
        remedy: What the user can do about it, if that is known here.
    """

    def __init__(
        self,
        location: str,
        problem: str,
        *,
        missing: bool = False,
        transient: bool = False,
        remedy: str | None = None,
    ) -> None:
        self.location = location
        self.problem = problem
        self.missing = missing
        self.transient = transient
        self.remedy = remedy
        super().__init__(f"{location}: {self.advice}")

    @property
    def advice(self) -> str:
        """The problem, and its remedy if there is one."""
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


ByteRange = tuple[int, int]
"""Offset and size."""


class RangeReader(Protocol):
    """One folder of files, local or remote. Methods may be called by any threads."""

    @property
    def is_far(self) -> bool:
        """Whether a read waits for an answer, however little it brings."""

    def location(self, name: str) -> str:
        """The path or address of a file, for people."""

    def read(
        self, name: str, offset: int, size: int, cancelled: Callable[[], bool]
    ) -> bytes | None:
        """Exactly ``size`` bytes; None if ``cancelled`` said so meanwhile.

        Raises:
            RangeReadError: If they cannot be had; nothing is allocated for a file that is
                known to be shorter.
        """

    def read_ranges(
        self, name: str, ranges: Sequence[ByteRange], cancelled: Callable[[], bool]
    ) -> list[Buffer] | None:
        """Ranges of a file that lie together, in one read; None if ``cancelled`` said so.

        Args:
            name: The file.
            ranges: In ascending order. What lies between them is read, too, so there should
                be little of it.
            cancelled: As for ``read``.

        Raises:
            RangeReadError: If one of them cannot be had; then which is unknown.
        """

    def read_file(self, name: str, most_bytes: int, cancelled: Callable[[], bool]) -> bytes | None:
        """The whole file; None if ``cancelled`` said so meanwhile.

        Raises:
            RangeReadError: If it cannot be had, or is larger than ``most_bytes``.
        """

    def reject(self, name: str, offset: int, size: int) -> bool:
        """Notes that these bytes, as they were read, proved to be damaged.

        Returns:
            Whether reading them again may give others: a copy on the way was at fault.

        Raises:
            RangeReadError: If it is known why: they are not of the scene that was opened.
        """

    def close(self) -> None:
        """Releases files and connections. Reads that are under way end well or fail."""


class _Handle:
    """An open file that closes when its last reader is done with it."""

    def __init__(self, path: Path) -> None:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write.
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self.fd)
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")


@dataclass(frozen=True, slots=True)
class _Origin:
    """The file that describes all others, as it was when it was read."""

    path: Path
    device: int
    number: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path, status: os.stat_result) -> _Origin:
        return cls(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def change(self) -> str | None:
        """What became of it, as a phrase; None if it is as it was, or nobody can tell."""
        try:
            now = _Origin.of(self.path, os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return "was removed while it was open"
        except OSError:
            return None
        return None if now == self else "was replaced while it was open"


class FolderReader:
    """The files of a local folder.

    Read with ``pread``, not mapped: a file that somebody truncates, or a disk that fails, is
    then an error of one chunk instead of a signal that ends the process. What goes wrong after
    the folder was replaced, as the file shows that was first read as a whole, is said to be that.
    """

    is_far = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handles: dict[str, _Handle] = {}
        self._origin: _Origin | None = None
        self._lock = threading.Lock()
        self._closed = False

    def location(self, name: str) -> str:
        """See ``RangeReader``."""
        return str(self._folder / name)

    def read(
        self, name: str, offset: int, size: int, cancelled: Callable[[], bool]
    ) -> bytes | None:
        """See ``RangeReader``."""
        try:
            handle = self._open(name)
            length = os.fstat(handle.fd).st_size
            if offset + size > length:
                raise self._error(name, f"ends at byte {length:,}, before byte {offset + size:,}")
            parts: list[bytes] = []
            while size > 0:
                if cancelled():
                    return None
                part = os.pread(handle.fd, min(size, _PART_BYTES), offset)
                if not part:
                    raise self._error(name, "became shorter while it was read")
                parts.append(part)
                offset += len(part)
                size -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            raise self._failed(name, error) from None

    def read_ranges(
        self, name: str, ranges: Sequence[ByteRange], cancelled: Callable[[], bool]
    ) -> list[Buffer] | None:
        """See ``RangeReader``."""
        if cancelled():
            return None
        wanted = [bytearray(size) for _, size in ranges]
        try:
            whole = _scatter(self._open(name).fd, ranges, wanted)
        except OSError as error:
            raise self._failed(name, error) from None
        if whole:
            return list(wanted)
        parts = [self.read(name, offset, size, cancelled) for offset, size in ranges]
        found = [part for part in parts if part is not None]
        return list(found) if len(found) == len(parts) else None

    def read_file(self, name: str, most_bytes: int, cancelled: Callable[[], bool]) -> bytes | None:
        """See ``RangeReader``."""
        try:
            status = os.fstat(self._open(name).fd)
        except OSError as error:
            raise self._failed(name, error) from None
        if self._origin is None:
            self._origin = _Origin.of(self._folder / name, status)
        size = status.st_size
        require_size(self.location(name), size, most_bytes)
        return self.read(name, 0, size, cancelled)

    def reject(self, name: str, offset: int, size: int) -> bool:
        """See ``RangeReader``."""
        change = self._change(name)
        if change is not None:
            raise change
        return False  # the file itself is damaged

    def close(self) -> None:
        """See ``RangeReader``."""
        with self._lock:
            self._closed = True
            self._handles.clear()

    def _open(self, name: str) -> _Handle:
        handle = self._handles.get(name) or _Handle(self._folder / name)
        with self._lock:
            if self._closed:
                raise RangeReadError(self.location(name), "was closed")
            handle = self._handles.pop(name, handle)  # another thread's, if it was quicker
            self._handles[name] = handle  # the most recently used is last
            if len(self._handles) > _MAX_OPEN_FILES:
                del self._handles[next(iter(self._handles))]
            return handle

    def _failed(self, name: str, error: OSError) -> RangeReadError:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return self._error(name, "is missing", missing=True)
        problem = f"cannot be read: {error.strerror or error}"
        return self._error(name, problem, transient=error.errno not in _LASTING_ERRORS)

    def _error(
        self, name: str, problem: str, *, missing: bool = False, transient: bool = False
    ) -> RangeReadError:
        """``problem``, unless it comes from the folder being another one by now."""
        return self._change(name) or RangeReadError(
            self.location(name), problem, missing=missing, transient=transient
        )

    def _change(self, name: str) -> RangeReadError | None:
        problem = None if self._origin is None else self._origin.change()
        if problem is None:
            return None
        return RangeReadError(self.location(name), problem, remedy="open the scene again")


def _scatter(fd: int, ranges: Sequence[ByteRange], into: Sequence[bytearray]) -> bool:
    """Reads ranges by one call, each into memory of its own; whether all of them came."""
    end = ranges[0][0]
    buffers: list[bytearray] = []
    for (offset, size), buffer in zip(ranges, into, strict=True):
        if offset > end:
            buffers.append(bytearray(offset - end))
        buffers.append(buffer)
        end = offset + size
    if len(buffers) > _MOST_BUFFERS or not hasattr(os, "preadv"):
        return False
    return os.preadv(fd, buffers, ranges[0][0]) == end - ranges[0][0]


def cut(data: bytes, ranges: Sequence[ByteRange]) -> list[Buffer]:
    """Ranges of a file from all that lies from the first to the last of them.

    Copies, so that one of them does not keep the others' memory."""
    start = ranges[0][0]
    return [data[offset - start : offset - start + size] for offset, size in ranges]


def runs(ranges: Sequence[ByteRange], most_gap: int = MOST_GAP_BYTES) -> list[list[ByteRange]]:
    """Ascending ranges, in runs that are worth one read each."""
    found: list[list[ByteRange]] = []
    end = -1
    for offset, size in ranges:
        if not found or not 0 <= offset - end <= most_gap:
            found.append([])
        found[-1].append((offset, size))
        end = offset + size
    return found


def extent(ranges: Sequence[ByteRange]) -> ByteRange:
    """From the first of ascending ranges to the end of the last."""
    first, (offset, size) = ranges[0][0], ranges[-1]
    return first, offset + size - first


def require_size(location: str, size: int, most_bytes: int) -> None:
    """Refuses a file of more than ``most_bytes``.

    Raises:
        RangeReadError: If it is larger.
    """
    if size > most_bytes:
        raise RangeReadError(location, f"is larger than {most_bytes:,} bytes ({size:,})")


def insist(
    read: Callable[[], _T],
    *,
    policy: RetryPolicy = _OPENING_POLICY,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """What ``read`` returns, tried again after a passing fault: for opening a scene, where no
    residency watches over retries. Not often, and not for long: somebody waits for it.

    Raises:
        RangeReadError: The last one, or the first that will not pass.
    """
    jitter = random.Random()
    last_start_s = math.inf
    for attempt in range(1, _OPENING_ATTEMPTS):
        try:
            return read()
        except RangeReadError as error:
            last_start_s = min(last_start_s, clock() + _OPENING_PATIENCE_S)
            if not error.transient or clock() >= last_start_s:
                raise
            logger.info("%s; trying again", error)
            sleep(policy.wait_s(attempt, jitter))
    return read()
