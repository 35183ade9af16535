"""MessagePack, as strictly as files of unknown origin ask for.

Source: the MessagePack specification (msgpack.org), as nlohmann's JSON library writes it. Bytes are
not copied: a binary value is a view of what was read. Nothing that a file claims makes memory grow
beyond a multiple of its size, and what is made of it is counted with what Python takes for it.
"""

from __future__ import annotations

import contextlib
import struct
from os import PathLike
from typing import Any

from scene_store.formats.source import DOWNLOAD_AGAIN
from splat.errors import SceneFormatError

MAX_DEPTH = 48
MAX_VALUES = 1_000_000  # a snapshot of ten thousand cameras has fewer
MAX_OBJECT_BYTES = 1 << 27
MAX_HEAD_VALUES = 1 << 12  # of which names are looked for

# Bytes that Python takes for a value and its place in a list, at the least; measured.
_NUMBER_BYTES = 48
_TEXT_BYTES = 64
_LIST_BYTES = 96
_VIEW_BYTES = 208
_MAP_BYTES = 320
_ENTRY_BYTES = 64  # of a map

_NAMES = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
# First bytes of what is preceded by its length, by how many bytes the length has.
_BINARY = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_LIST = {0xDC: 2, 0xDD: 4}
_MAP = {0xDE: 2, 0xDF: 4}
_EXTENSION = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSION = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def starts_map(first: int) -> bool:
    """Whether a first byte begins a map."""
    return first >> 4 == 0x8 or first in _MAP


def parse_msgpack(
    path: str | PathLike[str], data: memoryview, most_values: int = MAX_VALUES
) -> Any:
    """The one value that ``data`` holds.

    Args:
        path: Of the file, for errors.
        most_values: That it may hold; fewer are told for what little was decompressed to it.

    Returns:
        None, bool, int, float, str, list or dict with text as keys; a ``memoryview`` for binary
        values and extensions.

    Raises:
        SceneFormatError: If it is not MessagePack, ends early, goes on after its end, or holds more
            than ``most_values`` values, more than ``MAX_DEPTH`` levels, or what takes more than
            ``MAX_OBJECT_BYTES`` besides ``data``.
    """
    reader = _Reader(path, data, most_values)
    value = reader.value(MAX_DEPTH)
    if reader.at != len(data):
        raise reader.error(f"goes on for {len(data) - reader.at:,} bytes after its end")
    return value


def leading_names(head: bytes) -> frozenset[str]:
    """The names of the map that a file begins with, as far as its first bytes go."""
    reader = _Reader("", memoryview(head), MAX_HEAD_VALUES)
    names: set[str] = set()
    with contextlib.suppress(SceneFormatError):
        for _ in range(reader.map_length()):
            names.add(reader.name())
            reader.value(MAX_DEPTH)
    return frozenset(names)


class _Reader:
    """Where reading has come to."""

    def __init__(self, path: str | PathLike[str], data: memoryview, most_values: int) -> None:
        self.at = 0
        self._path = path
        self._data = data
        self._values_left = self._most_values = most_values
        self._bytes_left = MAX_OBJECT_BYTES
        self._names: dict[str, str] = {}

    def error(self, problem: str) -> SceneFormatError:
        return SceneFormatError(
            self._path, problem, where=f"byte {self.at:,}", remedy=DOWNLOAD_AGAIN
        )

    def value(self, depth: int) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            raise self.error(f"holds more than {self._most_values:,} values")
        self._spend(_NUMBER_BYTES)
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first in _NAMES:
            return _NAMES[first]
        if first in _NUMBERS:
            number = _NUMBERS[first]
            return number.unpack(self._take(number.size))[0]
        return self._sized(first, depth)

    def map_length(self) -> int:
        """Entries of the map that begins here."""
        first = self._take(1)[0]
        if not starts_map(first):
            raise self.error("begins no map")
        return self._length(_MAP[first]) if first in _MAP else first & 0x0F

    def name(self, depth: int = 1) -> str:
        """A key of a map."""
        name = self.value(depth)
        if not isinstance(name, str):
            raise self.error("has a map whose keys are not text")
        return name

    def _sized(self, first: int, depth: int) -> Any:
        if first < 0x90:
            return self._map(first & 0x0F, depth)
        if first < 0xA0:
            return self._list(first & 0x0F, depth)
        if first < 0xC0:
            return self._text(first & 0x1F)
        if first in _BINARY:
            return self._view(self._length(_BINARY[first]), 0)
        if first in _TEXT:
            return self._text(self._length(_TEXT[first]))
        if first in _LIST:
            return self._list(self._length(_LIST[first]), depth)
        if first in _MAP:
            return self._map(self._length(_MAP[first]), depth)
        if first in _EXTENSION:
            return self._view(self._length(_EXTENSION[first]), 1)
        if first in _FIXED_EXTENSION:
            return self._view(_FIXED_EXTENSION[first], 1)
        self.at -= 1
        raise self.error(f"is not MessagePack: byte 0x{first:02x} begins nothing")

    def _list(self, count: int, depth: int) -> list[Any]:
        self._require_room(count, depth, "a list")
        self._spend(_LIST_BYTES)
        return [self.value(depth - 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        self._require_room(2 * count, depth, "a map")
        self._spend(_MAP_BYTES + count * _ENTRY_BYTES)
        out: dict[str, Any] = {}
        for _ in range(count):
            name = self.name(depth - 1)
            out[self._names.setdefault(name, name)] = self.value(depth - 1)
        return out

    def _text(self, size: int) -> str:
        self._spend(_TEXT_BYTES + 4 * size)
        try:
            return str(self._take(size), "utf-8")
        except UnicodeDecodeError:
            raise self.error("holds text that is not UTF-8") from None

    def _view(self, size: int, header: int) -> memoryview:
        """Bytes after a header."""
        self._spend(_VIEW_BYTES)
        return self._take(header + size)[header:]

    def _spend(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise self.error(f"holds values that take more than {MAX_OBJECT_BYTES:,} bytes")

    def _require_room(self, count: int, depth: int, what: str) -> None:
        """Nothing takes less than a byte, so no more can follow than bytes are left."""
        if depth == 0:
            raise self.error(f"is nested more than {MAX_DEPTH} deep")
        if count > len(self._data) - self.at:
            raise self.error(f"claims {what} that is longer than the file")

    def _length(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> memoryview:
        left = len(self._data) - self.at
        if size > left:
            raise self.error(f"ends early: {size:,} bytes should follow, {left:,} do")
        self.at += size
        return self._data[self.at - size : self.at]
