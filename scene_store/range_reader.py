"""Ranges of bytes of named files: all that a store needs of where it lies."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_PART_BYTES = 1 << 24  # between two looks at whether the read is still wanted


class RangeReadError(Exception):
    """Bytes cannot be had.

    Args:
        location: The file or address, for people.
        problem: What is wrong, as a phrase.
        missing: Whether there is no such file at all.
        transient: Whether another attempt may succeed.
    """

    def __init__(
        self, location: str, problem: str, *, missing: bool = False, transient: bool = False
    ) -> None:
        self.location = location
        self.problem = problem
        self.missing = missing
        self.transient = transient
        super().__init__(f"{location}: {problem}")


class RangeReader(Protocol):
    """One folder of files, local or remote. Methods may be called by any threads."""

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

    def read_head(self, name: str, most_bytes: int) -> bytes:
        """The file from its start, but at most ``most_bytes``.

        Raises:
            RangeReadError: If it cannot be read.
        """

    def close(self) -> None:
        """Releases files and connections. Reads that are under way end well or fail."""


class _Handle:
    """An open file that closes when its last reader is done with it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.fd)


class FolderReader:
    """The files of a local folder.

    Read with ``pread``, not mapped: a file that somebody truncates, or a disk that fails, is
    then an error of one chunk instead of a signal that ends the process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handles: dict[str, _Handle] = {}
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
                raise RangeReadError(
                    self.location(name),
                    f"ends at byte {length:,}, before byte {offset + size:,}",
                )
            parts: list[bytes] = []
            while size > 0:
                if cancelled():
                    return None
                part = os.pread(handle.fd, min(size, _PART_BYTES), offset)
                if not part:
                    raise RangeReadError(self.location(name), "became shorter while it was read")
                parts.append(part)
                offset += len(part)
                size -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            raise self._failed(name, error) from None

    def read_head(self, name: str, most_bytes: int) -> bytes:
        """See ``RangeReader``."""
        try:
            handle = self._open(name)
            size = min(os.fstat(handle.fd).st_size, most_bytes)
        except OSError as error:
            raise self._failed(name, error) from None
        return self.read(name, 0, size, lambda: False) or b""

    def close(self) -> None:
        """See ``RangeReader``."""
        with self._lock:
            self._closed = True
            self._handles.clear()

    def _open(self, name: str) -> _Handle:
        with self._lock:
            if self._closed:
                raise RangeReadError(self.location(name), "was closed")
            handle = self._handles.get(name)
            if handle is None:
                handle = self._handles[name] = _Handle(self._folder / name)
            return handle

    def _failed(self, name: str, error: OSError) -> RangeReadError:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        problem = "is missing" if missing else f"cannot be read: {error.strerror or error}"
        return RangeReadError(self.location(name), problem, missing=missing)
