"""The header of a PLY file: elements, their properties, and where the data begins.

Format: Greg Turk, "The PLY Polygon File Format" (1994).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene_store.formats.source import DOWNLOAD_AGAIN, read_head
from splat.errors import SceneFormatError

MAX_HEADER_BYTES = 1 << 20

_TYPE_CODES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True, slots=True)
class PlyElement:
    """One element: ``count`` records of the packed ``dtype``.

    ``offset`` is the byte at which its first record begins.
    """

    name: str
    count: int
    dtype: np.dtype[np.void]
    offset: int

    @property
    def properties(self) -> tuple[str, ...]:
        """Names in file order."""
        return self.dtype.names or ()

    @property
    def end(self) -> int:
        """The byte after its last record."""
        return self.offset + self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class PlyHeader:
    """Elements up to the first one of variable length, and the comments."""

    elements: dict[str, PlyElement]
    comments: tuple[str, ...]


@dataclass(slots=True)
class _OpenElement:
    """An element whose properties are still being collected."""

    name: str
    count: int
    fields: dict[str, str]
    has_list: bool = False


def read_ply_header(path: Path) -> PlyHeader:
    """Reads and validates a header. Sizes are claims: the caller checks them.

    Raises:
        SceneFormatError: If it is not a binary PLY header.
    """
    lines, data_offset = _header_lines(path)
    order = ""
    comments: list[str] = []
    elements: list[_OpenElement] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        keyword = words[0] if words else ""
        place = f"header line {number}"
        if keyword == "format":
            order = _byte_order(path, words, place)
        elif keyword in ("comment", "obj_info"):
            comments.append(line[len(keyword) + 1 :].strip())
        elif keyword == "element":
            elements.append(_element(path, words, place))
        elif keyword == "property":
            _add_property(path, elements, words, order, place)
        elif number > 1 and keyword:
            raise SceneFormatError(
                path, f"does not understand {line[:40]!r}", where=place, remedy=DOWNLOAD_AGAIN
            )
    if not order:
        raise SceneFormatError(path, "has no format line", where="header", remedy=DOWNLOAD_AGAIN)
    return PlyHeader(_laid_out(path, elements, data_offset), tuple(comments))


def _header_lines(path: Path) -> tuple[list[str], int]:
    """Lines before ``end_header``, and the byte at which the data begins."""
    head = read_head(path, MAX_HEADER_BYTES)
    if not head.startswith((b"ply\n", b"ply\r")):
        raise SceneFormatError(
            path,
            f"does not begin with 'ply' but with {head[:4]!r}",
            where="byte 0",
            remedy="check that it is a PLY file",
        )
    end = head.find(b"\nend_header")
    end = end if end >= 0 else head.find(b"\rend_header")
    if end < 0:
        problem = (
            f"has no end_header in its first {MAX_HEADER_BYTES:,} bytes"
            if len(head) == MAX_HEADER_BYTES
            else "ends inside its header"
        )
        raise SceneFormatError(path, problem, where="header", remedy=DOWNLOAD_AGAIN)
    data = end + len(b"\nend_header")
    if head[data : data + 2] == b"\r\n":
        data += 2
    elif head[data : data + 1] in (b"\n", b"\r"):
        data += 1
    else:
        raise SceneFormatError(
            path, "has no line end after end_header", where="header", remedy=DOWNLOAD_AGAIN
        )
    text = head[:end].decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
    return text.split("\n"), data


def _byte_order(path: Path, words: list[str], place: str) -> str:
    kind = words[1] if len(words) > 1 else ""
    if kind == "ascii":
        raise SceneFormatError(
            path,
            "is an ASCII PLY, and only binary ones are read",
            where=place,
            remedy="save it as binary PLY (binary_little_endian)",
        )
    if kind not in _BYTE_ORDERS:
        raise SceneFormatError(
            path, f"has the unknown format {kind[:40]!r}", where=place, remedy=DOWNLOAD_AGAIN
        )
    return _BYTE_ORDERS[kind]


def _element(path: Path, words: list[str], place: str) -> _OpenElement:
    # Twelve digits hold any real count and keep products far inside 64 bits.
    if len(words) != 3 or not (words[2].isascii() and words[2].isdigit() and len(words[2]) <= 12):
        raise SceneFormatError(
            path,
            "an element needs a name and a count",
            where=place,
            remedy=DOWNLOAD_AGAIN,
        )
    return _OpenElement(words[1], int(words[2]), {})


def _add_property(
    path: Path, elements: list[_OpenElement], words: list[str], order: str, place: str
) -> None:
    if not elements or not order:
        raise SceneFormatError(
            path,
            "a property comes before any element or format line",
            where=place,
            remedy=DOWNLOAD_AGAIN,
        )
    element = elements[-1]
    if len(words) == 5 and words[1] == "list":
        element.has_list = True
        return
    code = _TYPE_CODES.get(words[1]) if len(words) == 3 else None
    if code is None:
        raise SceneFormatError(
            path,
            f"has a property of unknown type {' '.join(words[1:])[:40]!r}",
            where=place,
            remedy=DOWNLOAD_AGAIN,
        )
    if not words[2].isprintable():
        raise SceneFormatError(
            path,
            f"has the property name {words[2][:40]!r}",
            where=place,
            remedy=DOWNLOAD_AGAIN,
        )
    if words[2] in element.fields:
        raise SceneFormatError(
            path,
            f"names the property {words[2][:40]!r} twice",
            where=place,
            remedy=DOWNLOAD_AGAIN,
        )
    element.fields[words[2]] = order + code


def _laid_out(path: Path, elements: list[_OpenElement], data_offset: int) -> dict[str, PlyElement]:
    """Elements with their offsets; those after a list property cannot be located."""
    out: dict[str, PlyElement] = {}
    offset = data_offset
    for element in elements:
        if element.has_list:
            break
        if element.name in out:
            raise SceneFormatError(
                path,
                f"has the element {element.name[:40]!r} twice",
                where="header",
                remedy=DOWNLOAD_AGAIN,
            )
        dtype = np.dtype(list(element.fields.items()))
        out[element.name] = PlyElement(element.name, element.count, dtype, offset)
        offset = out[element.name].end
    return out
