"""Frozen dataclasses of numbers, texts and arrays as bytes, and back, with nothing executed.

A value is described by JSON: the tree of its dataclasses, in which arrays are named by dtype, shape
and place; the arrays follow, each at a multiple of ``ALIGN`` bytes. What is read is held against
the annotations of the class that is expected: whatever is not what they say is refused, no name is
looked up beyond them, and no array is larger than the bytes that are there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

ALIGN = 64
MAX_HEADER_BYTES = 1 << 20
MAX_DEPTH = 24
_DTYPES = ("float16", "float32", "float64", "bool", "uint8", "int32")
_MAGIC = b"BVDATA\x00\x01"
_PROLOGUE = struct.Struct("<8sQ")

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """A value as it is to be written.

    Attributes:
        header: JSON.
        arrays: With the place of each, bytes from the first.
        nbytes: Of the arrays, with the gaps between them.
    """

    header: bytes
    arrays: tuple[tuple[int, NDArray[Any]], ...]
    nbytes: int

    @classmethod
    def of(cls, value: object) -> Description:
        """Of a dataclass.

        Raises:
            ValueError: If it has more parts than ``MAX_HEADER_BYTES`` can describe, or a number
                (not in an array) is NaN, which no reader takes.
            TypeError: If it holds what has no form in bytes.
        """
        arrays: list[tuple[int, NDArray[Any]]] = []
        end = 0

        def place(array: NDArray[Any]) -> int:
            nonlocal end
            start = aligned(end)
            arrays.append((start, array))
            end = start + array.nbytes
            return start

        header = json.dumps(_encoded(value, place), separators=(",", ":")).encode()
        if len(header) > MAX_HEADER_BYTES:
            raise ValueError("it has more parts than can be described")
        return cls(header, tuple(arrays), end)

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Puts the arrays into [``nbytes``] bytes; what is between them is left as it is."""
        for start, array in self.arrays:
            if array.nbytes:
                raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                out[start : start + array.nbytes] = raw


def aligned(nbytes: int) -> int:
    """The next multiple of ``ALIGN``."""
    return -(-nbytes // ALIGN) * ALIGN


def rebuild(kind: type[Kind], header: bytes, arrays: NDArray[np.uint8]) -> Kind:
    """A value from its description; its arrays are views of the bytes.

    Raises:
        ValueError: If it describes none of that kind.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError("the description is longer than it can be")
    try:
        found = _Reader(arrays).value(kind, json.loads(header), kind.__name__, MAX_DEPTH)
    except (TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(f"the description is not one ({error})") from None
    assert isinstance(found, kind)
    return found


def to_bytes(value: object) -> bytes:
    """A dataclass as bytes.

    Raises:
        ValueError, TypeError: As ``Description.of``.
    """
    described = Description.of(value)
    first = aligned(_PROLOGUE.size + len(described.header))
    out = np.zeros(first + described.nbytes, np.uint8)
    start = _PROLOGUE.pack(_MAGIC, len(described.header)) + described.header
    out[: len(start)] = np.frombuffer(start, np.uint8)
    described.fill(out[first:])
    return out.tobytes()


def from_bytes(kind: type[Kind], data: bytes) -> Kind:
    """What ``to_bytes`` wrote.

    Raises:
        ValueError: If it is no such value.
    """
    if len(data) < _PROLOGUE.size:
        raise ValueError("it is cut off")
    magic, length = _PROLOGUE.unpack_from(data)
    if magic != _MAGIC or length > len(data) - _PROLOGUE.size:
        raise ValueError("it is no such file, or of another version")
    flat = np.frombuffer(data, np.uint8)
    header = data[_PROLOGUE.size : _PROLOGUE.size + length]
    return rebuild(kind, header, flat[aligned(_PROLOGUE.size + length) :])


def _encoded(value: Any, place: Callable[[NDArray[Any]], int]) -> Any:
    """What JSON can hold of a value."""
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "shape": list(value.shape), "at": place(value)}
    if dataclasses.is_dataclass(value):
        of = {f.name: _encoded(getattr(value, f.name), place) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **of}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_encoded(each, place) for each in value]
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("it holds a number that is none")
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, np.generic):
        return _encoded(value.item(), place)
    raise TypeError(f"it holds a {type(value).__name__}, which has no form in bytes")


@lru_cache(maxsize=64)
def _annotations(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


class _Reader:
    """From JSON to what annotations say it is.

    Args:
        arrays: The bytes in which arrays are.
    """

    def __init__(self, arrays: NDArray[np.uint8]) -> None:
        self._arrays = arrays

    def value(self, expected: Any, given: Any, where: str, depth: int) -> Any:
        if not depth:
            raise ValueError("the description is nested too deeply")
        if typing.get_origin(expected) in (types.UnionType, typing.Union):
            return self._one_of(typing.get_args(expected), given, where, depth)
        if typing.get_origin(expected) is np.ndarray:
            return self._array((expected,), given, where)
        if typing.get_origin(expected) is tuple:
            return self._tuple(typing.get_args(expected), given, where, depth)
        if dataclasses.is_dataclass(expected):
            return self._dataclass((expected,), given, where, depth)
        if isinstance(expected, type) and issubclass(expected, Enum):
            return expected(given)
        return _plain(expected, given, where)

    def _one_of(self, choices: tuple[Any, ...], given: Any, where: str, depth: int) -> Any:
        if given is None and type(None) in choices:
            return None
        if isinstance(given, Mapping) and "class" in given:
            kinds = tuple(each for each in choices if dataclasses.is_dataclass(each))
            return self._dataclass(kinds, given, where, depth)
        arrays = tuple(each for each in choices if typing.get_origin(each) is np.ndarray)
        if isinstance(given, Mapping) and arrays:
            return self._array(arrays, given, where)
        rest = [c for c in choices if c is not type(None) and c not in arrays]
        if len(rest) != 1:
            raise ValueError(f"{where} is not what it should be")
        return self.value(rest[0], given, where, depth)

    def _tuple(self, items: tuple[Any, ...], given: Any, where: str, depth: int) -> Any:
        if not isinstance(given, list):
            raise ValueError(f"{where} is no list")
        expected = [items[0]] * len(given) if items[-1] is Ellipsis else list(items)
        if len(expected) != len(given):
            raise ValueError(f"{where} has {len(given)} values instead of {len(expected)}")
        return tuple(
            self.value(kind, each, f"{where}[{i}]", depth - 1)
            for i, (kind, each) in enumerate(zip(expected, given, strict=True))
        )

    def _dataclass(self, kinds: tuple[Any, ...], given: Any, where: str, depth: int) -> Any:
        names = {kind.__name__: kind for kind in kinds}
        if not isinstance(given, Mapping) or given.get("class") not in names:
            raise ValueError(f"{where} is none of {', '.join(names)}")
        kind = names[given["class"]]
        expected = _annotations(kind)
        if given.keys() - {"class"} != expected.keys():
            raise ValueError(f"{where} has other values than a {kind.__name__}")
        return kind(
            **{
                name: self.value(expected[name], given[name], f"{where}.{name}", depth - 1)
                for name in expected
            }
        )

    def _array(self, kinds: tuple[Any, ...], given: Any, where: str) -> NDArray[Any]:
        if not isinstance(given, Mapping) or given.keys() != {"dtype", "shape", "at"}:
            raise ValueError(f"{where} is no array")
        wanted = [np.dtype(typing.get_args(typing.get_args(kind)[1])[0]).name for kind in kinds]
        name, shape, at = given["dtype"], given["shape"], given["at"]
        if name not in _DTYPES or name not in wanted:
            raise ValueError(f"{where} is an array of {name!r:.20}, not {' or '.join(wanted)}")
        sizes = [at, *shape] if isinstance(shape, list) and len(shape) <= 8 else [None]
        if any(type(size) is not int or size < 0 for size in sizes) or at % ALIGN:
            raise ValueError(f"{where} has no shape or place")
        end = at + math.prod(shape) * np.dtype(name).itemsize
        if end > self._arrays.size:
            raise ValueError(f"{where} is larger than the bytes that are there")
        raw = self._arrays[at:end]
        if name == "bool" and raw.size and raw.max() > 1:
            raise ValueError(f"{where} holds what is neither true nor false")
        found: NDArray[Any] = raw.view(name).reshape(shape)
        return found


def _plain(expected: Any, given: Any, where: str) -> Any:
    if expected is float:
        if isinstance(given, str) and given in ("inf", "-inf"):
            return float(given)
        if isinstance(given, int | float) and not isinstance(given, bool):
            number = float(given)  # NaN, which JSON of Python has, would be refused nowhere else
            if not math.isnan(number):
                return number
    elif expected in (int, bool, str) and type(given) is expected:
        return given
    raise ValueError(f"{where} is {given!r:.40}, which is no {getattr(expected, '__name__', '')}")
