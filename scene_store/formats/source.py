"""What every reader shares: opening files safely, slicing into batches, closing.

Readers trust nothing that a file says about its own size: a claimed count is checked
against the bytes that are there (``require_bytes``), or, where the file is compressed,
against what such a file could plausibly hold (``require_plausible_count``), before
anything is allocated.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.scene import SceneMeta
from splat.closing import Closing
from splat.errors import SceneError, SceneFormatError, SceneNotFoundError
from splat.gaussians import Gaussians

ByteArray = NDArray[np.uint8]

DOWNLOAD_AGAIN = "the file is incomplete or damaged: download or export it again"
UNTRUSTED = "it is damaged or made to exhaust memory: get it from a source you trust"

# A compressed Gaussian takes at least one byte in any scene ever seen (position noise
# alone is worth three); below this count even a constant scene is cheap to hold.
SMALL_COUNT = 1 << 20
MIN_COMPRESSED_BYTES_PER_GAUSSIAN = 1


_PIECE_BYTES = 1 << 24  # of one read
_STREAM_BYTES = 1 << 20


class FormatSource(Closing):
    """What all ``SceneSource``s here share. Subclasses set ``meta`` and implement ``_batches``."""

    meta: SceneMeta
    _closed = False

    def batches(self, max_count: int) -> Iterator[Gaussians]:
        """See ``SceneSource.batches``."""
        if max_count < 1:
            raise ValueError(f"max_count must be at least 1, got {max_count}")
        if self._closed:
            raise ValueError(f"{self.meta.path} is closed")
        return self._batches(max_count)

    @abstractmethod
    def _batches(self, max_count: int) -> Iterator[Gaussians]:
        """``batches``, after its checks."""

    def close(self) -> None:
        """See ``SceneSource.close``; closing twice does nothing."""
        self._closed = True


class IndexedSource(FormatSource):
    """A source whose Gaussians can be decoded from any index to any other."""

    def decode(self, start: int, stop: int) -> Gaussians:
        """Gaussians ``start`` to ``stop`` (exclusive), in arrays of their own."""
        # Broken numbers are passed on without a warning: loading drops and counts them.
        with np.errstate(all="ignore"):
            return self._decode(start, stop)

    def _batches(self, max_count: int) -> Iterator[Gaussians]:
        for start in range(0, self.meta.count, max_count):
            yield self.decode(start, min(start + max_count, self.meta.count))

    @abstractmethod
    def _decode(self, start: int, stop: int) -> Gaussians:
        """``decode``, with floating-point warnings off."""


def require_file(path: Path) -> int:
    """Size in bytes of a readable, non-empty, regular file.

    Raises:
        SceneNotFoundError: If it is not there or cannot be read.
        SceneFormatError: If it is not a regular file, or empty.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SceneFormatError(
                path, "is a folder, but a file is needed here", remedy="name the file inside it"
            )
        if not stat.S_ISREG(status.st_mode):
            raise SceneFormatError(path, "is not a regular file", remedy="copy it to a file first")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise SceneNotFoundError(f"{path}: no such file; check the spelling") from None
    except PermissionError:
        raise SceneNotFoundError(
            f"{path}: cannot be read (permission denied); change its permissions"
        ) from None
    except (OSError, ValueError) as error:
        raise SceneNotFoundError(f"{path}: cannot be opened ({reason_of(error)})") from None
    if status.st_size == 0:
        raise SceneFormatError(path, "is empty (0 bytes)", remedy=DOWNLOAD_AGAIN)
    return status.st_size


class FileBytes:
    """The bytes of a file, read where and when they are needed.

    They are not mapped into memory: a file that somebody truncates while it is read is then an
    error of its own, instead of a signal that ends the process. Nothing stays open between reads,
    so that there may be any number of these. Any threads may read.

    Args:
        path: The file.

    Attributes:
        size: Its length.

    Raises:
        SceneError: As ``require_file``.
    """

    def __init__(self, path: Path) -> None:
        self.size = require_file(path)
        self._path = path
        self._state: tuple[int, int] | None = None
        with self._opened():
            pass

    def __getitem__(self, part: slice) -> ByteArray:
        """The bytes of a slice, in an array of their own.

        Raises:
            SceneError: If they cannot be read, or the file has changed since it was opened.
        """
        start, stop, _ = part.indices(self.size)
        out = np.empty(max(0, stop - start), np.uint8)
        if out.size:
            with self._opened() as file:
                self._fill(out, file, start)
        return out

    def pieces(self, start: int, stop: int, most_bytes: int) -> Iterator[ByteArray]:
        """The bytes between two places, some at a time, in an array that is used again for the
        next ones; errors as for a slice."""
        buffer = np.empty(min(most_bytes, max(0, stop - start)), np.uint8)
        with self._opened() as file:
            for at in range(start, stop, most_bytes):
                yield self._fill(buffer[: min(most_bytes, stop - at)], file, at)

    def gather(self, starts: NDArray[np.int64], size: int) -> ByteArray:
        """[N, size] the bytes from each of N places on; errors as for a slice."""
        out = np.empty((len(starts), size), np.uint8)
        with self._opened() as file:
            from scene_store.native import _store  # readers work where it is not built

            error = _store.gather(file.fileno(), np.ascontiguousarray(starts), out)
            if error > 0:
                raise OSError(error, os.strerror(error))
            if error:
                raise self._changed("became shorter")
        return out

    def records(self, start: int, stop: int, dtype: np.dtype[np.void]) -> FileRecords:
        """The packed records between two bytes."""
        return FileRecords(self, start, (stop - start) // dtype.itemsize, dtype)

    def stream(self, start: int, stop: int) -> io.BufferedReader:
        """The bytes between two places, for what reads streams."""
        return io.BufferedReader(_Part(self, start, stop), _STREAM_BYTES)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[io.FileIO]:
        try:
            with open(self._path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                state = (status.st_size, status.st_mtime_ns)
                if self._state is None:
                    self._state = state
                if state != self._state or status.st_size != self.size:
                    raise self._changed("has changed")
                yield file
        except OSError as error:
            raise SceneNotFoundError(f"{self._path}: cannot be read ({reason_of(error)})") from None

    def _fill(self, out: ByteArray, file: io.FileIO, start: int) -> ByteArray:
        file.seek(start)
        rest = out.data
        while rest:
            done = file.readinto(rest[:_PIECE_BYTES])
            if not done:
                raise self._changed("became shorter")
            rest = rest[done:]
        return out

    def _changed(self, what: str) -> SceneFormatError:
        return SceneFormatError(
            self._path, f"{what} while it was read", remedy="open it again when it is complete"
        )


@dataclass(frozen=True, slots=True)
class FileRecords:
    """Packed records of one type in a file, read a slice at a time.

    Attributes:
        dtype: Of a record.
    """

    data: FileBytes
    start: int
    count: int
    dtype: np.dtype[np.void]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> NDArray[np.void]:
        """The records of a slice, in an array of their own; ``SceneError`` as ``FileBytes``."""
        first, end, _ = part.indices(self.count)
        size = self.dtype.itemsize
        return self.data[self.start + first * size : self.start + end * size].view(self.dtype)

    def at(self, places: NDArray[np.int64]) -> NDArray[np.void]:
        """The records at some places, in an array of their own; ``SceneError`` as ``FileBytes``."""
        size = self.dtype.itemsize
        return self.data.gather(self.start + places * size, size).view(self.dtype)[:, 0]

    def blocks(self, first: int, end: int, most: int) -> Iterator[NDArray[np.void]]:
        """Records from the first to the end, ``most`` at a time; each block until the next one."""
        size = self.dtype.itemsize
        place = (self.start + first * size, self.start + end * size)
        for piece in self.data.pieces(*place, most * size):
            yield piece.view(self.dtype)


class _Part(io.RawIOBase):
    """The bytes of a file between two places."""

    def __init__(self, data: FileBytes, start: int, stop: int) -> None:
        self._data = data
        self._next, self._stop = start, stop

    def readable(self) -> bool:
        """Nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as there are bytes; how many came."""
        piece = self._data[self._next : min(self._stop, self._next + len(buffer))]
        buffer[: len(piece)] = piece.data
        self._next += len(piece)
        return len(piece)


def read_head(path: Path, size: int) -> bytes:
    """At most the first ``size`` bytes of a file that ``require_file`` accepts."""
    # Reading allocates what is asked for, so that is never more than there is.
    size = min(size, require_file(path))
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise SceneNotFoundError(f"{path}: cannot be read ({reason_of(error)})") from None


def reason_of(error: Exception) -> str:
    """The operating system's own short words for an error, without path and number."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def require_bytes(path: Path, available: int, needed: int, what: str) -> None:
    """Checks that ``what`` of ``needed`` bytes fits the ``available`` ones.

    Raises:
        SceneFormatError: If it does not.
    """
    if needed > available:
        raise SceneFormatError(
            path,
            f"{what} should take {needed:,} bytes, but only {available:,} are there",
            where=f"byte {available:,}",
            remedy=DOWNLOAD_AGAIN,
        )


def require_plausible_count(
    path: str | os.PathLike[str], count: int, compressed_bytes: int, where: str
) -> None:
    """Refuses a count that a compressed file of this size cannot honestly hold.

    Decompression bombs promise millions of Gaussians in a few bytes.

    Raises:
        SceneFormatError: If the count is implausible.
    """
    limit = SMALL_COUNT + compressed_bytes // MIN_COMPRESSED_BYTES_PER_GAUSSIAN
    if count > limit:
        raise SceneFormatError(
            path,
            f"claims {count:,} Gaussians in {compressed_bytes:,} compressed bytes, "
            f"more than such a file can hold",
            where=where,
            remedy=UNTRUSTED,
        )


def require_only_lod(path: Path, lod: int | None) -> None:
    """Refuses a level of detail other than 0 for a source that has only one.

    Raises:
        SceneError: If another level was asked for.
    """
    if lod not in (None, 0):
        raise SceneError(
            f"{path}: has a single level of detail, so level {lod} cannot be read; leave it out"
        )
