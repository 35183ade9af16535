"""What lies in a zip archive, told by a few KiB of it: for who asks what a file is.

Who reads one uses ``zipfile``, which takes memory for all that a directory lists and refuses what
is damaged; here a directory is looked at up to a bound, and what is none has no entries.

Source: PKWARE's APPNOTE.TXT, sections 4.3.7 to 4.3.16.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from scene_store.formats.source import require_file

ZIP_MAGIC = b"PK\x03\x04"
MAX_DIRECTORY_BYTES = 1 << 20  # some ten thousand entries; more are not looked at

_LOCAL = struct.Struct("<4s5H3I2H")
_LISTED = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_COMMENT_BYTES = 1 << 16
_END_MAGIC = b"PK\x05\x06"
_IN_64 = 0xFFFFFFFF
_STORED, _ENCRYPTED = 0, 1


def entries_of(path: Path) -> dict[str, int]:
    """By name, where entries begin. Of an archive without its end, the first one alone.

    Raises:
        SceneError: If there is no such file.
        OSError: If it cannot be read.
    """
    size = require_file(path)
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return {}
        found = _listed(_directory(file, size))
        first = _local(file, 0)
    return found or ({first[0]: 0} if first is not None else {})


def directory_bytes(path: Path) -> int:
    """How long a directory ``zipfile`` would read at most; it takes some ten times as much memory.

    Raises:
        SceneError: If there is no such file.
        OSError: If it cannot be read.
        zipfile.BadZipFile: If it is not told, so that nothing can be said of what would be read.
    """
    size = require_file(path)
    with path.open("rb") as file:
        place = _directory_place(file, size)
    if place is None:
        raise zipfile.BadZipFile("has no end record of a zip archive")
    return place[0]


def entry_head(path: Path, start: int, most_bytes: int) -> bytes:
    """The first bytes of the entry that begins at ``start``; none if it is not stored as it is.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        local = _local(file, start)
        if local is None:
            return b""
        _, data, is_plain = local
        file.seek(data)
        return file.read(most_bytes) if is_plain else b""


def _local(file: BinaryIO, start: int) -> tuple[str, int, bool] | None:
    """Name, first byte of the data, and whether these are stored as they are."""
    file.seek(start)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != ZIP_MAGIC:
        return None
    _, _, flags, method, *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    name = file.read(name_bytes).decode("utf-8", "replace")
    is_plain = method == _STORED and not flags & _ENCRYPTED
    return name, start + _LOCAL.size + name_bytes + extra_bytes, is_plain


def _directory(file: BinaryIO, size: int) -> bytes:
    """The bytes of the directory; none if there is none, or too much of it."""
    length, start = _directory_place(file, size) or (0, 0)
    if length > min(MAX_DIRECTORY_BYTES, size) or start > size:
        return b""
    file.seek(start)
    return file.read(length)


def _directory_place(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Length and start; None if they are not told.

    ``zipfile`` follows the locator of a zip64 whatever the end record says, and its versions look
    for what that locates in two places: told is the longest that one of them would read.
    """
    end = _end(file, size)
    if end is None:
        return None
    at, length, start = end
    beside, located = _places_64(file, at)
    found = [place_64 for place_64 in (beside, located) if place_64 is not None]
    if beside is None:
        found.append((length, start))
    return max(found)


def _end(file: BinaryIO, size: int) -> tuple[int, int, int] | None:
    """Where the end record is that ``zipfile`` takes, and its length and start of the directory:
    the last bytes, if they are one without a comment; else what looks most like the last one."""
    tail_start = max(0, size - _COMMENT_BYTES - _END.size)
    file.seek(tail_start)
    tail = file.read(size - tail_start)
    at = len(tail) - _END.size
    if at < 0:
        return None
    if tail[at : at + 4] != _END_MAGIC or tail[-2:] != b"\0\0":
        at = tail.rfind(_END_MAGIC)
    if at < 0 or at + _END.size > len(tail):
        return None
    *_, length, start, _ = _END.unpack_from(tail, at)
    return tail_start + at, length, start


def _places_64(file: BinaryIO, end: int) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Length and start of the directory of an archive of many GB, as the record right before the
    locator tells them, and as the one does that it locates; None where there is none."""
    at = end - _LOCATOR_64.size
    if at < 0:
        return None, None
    file.seek(at)
    locator = file.read(_LOCATOR_64.size)
    if len(locator) < _LOCATOR_64.size or locator[:4] != b"PK\x06\x07":
        return None, None
    located = _LOCATOR_64.unpack(locator)[2]
    return _place_64(file, at - _END_64.size, at), _place_64(file, located, at)


def _place_64(file: BinaryIO, at: int, locator: int) -> tuple[int, int] | None:
    """What a record tells that lies before the locator."""
    if not 0 <= at <= locator:
        return None
    file.seek(at)
    record = file.read(_END_64.size)
    if len(record) < _END_64.size or record[:4] != b"PK\x06\x06":
        return None
    *_, length, start = _END_64.unpack(record)
    return length, start


def _listed(directory: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    at = 0
    while at + _LISTED.size <= len(directory) and directory[at : at + 4] == b"PK\x01\x02":
        _, *fields = _LISTED.unpack_from(directory, at)
        name_bytes, extra_bytes, comment_bytes, start = *fields[9:12], fields[-1]
        at += _LISTED.size
        name = directory[at : at + name_bytes].decode("utf-8", "replace")
        if start != _IN_64:
            found[name] = start
        at += name_bytes + extra_bytes + comment_bytes
    return found
