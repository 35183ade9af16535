"""Tensors of torch's files: how their pickles describe them, as numpy arrays.

A tensor is a view, with an offset and strides in values, of a storage: a flat block of one type.
``torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)`` is what a pickle says; the
storage is a persistent id ``('storage', torch.FloatStorage, key, device, values)``.

Source: ``torch/serialization.py`` and ``torch/_utils.py`` of https://github.com/pytorch/pytorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.models import archive_numpy
from scene_store.models.archive_pickle import (
    MAX_NUMBER_KEYS,
    Call,
    Name,
    PickleError,
    Vocabulary,
    plain_key,
)

MAX_DIMENSIONS = 16
MAX_DEVICE_TEXT = 32


@dataclass(frozen=True, slots=True)
class ValueType:
    """How values of a storage are written, and what they become.

    Attributes:
        name: torch's.
        stored: As written.
        is_bfloat16: Whether ``stored`` holds the upper halves of float32.
    """

    name: str
    stored: np.dtype[Any]
    is_bfloat16: bool = False


_TYPES = {
    "Float": ValueType("float32", np.dtype(np.float32)),
    "Double": ValueType("float64", np.dtype(np.float64)),
    "Half": ValueType("float16", np.dtype(np.float16)),
    "BFloat16": ValueType("bfloat16", np.dtype(np.uint16), is_bfloat16=True),
    "Long": ValueType("int64", np.dtype(np.int64)),
    "Int": ValueType("int32", np.dtype(np.int32)),
    "Short": ValueType("int16", np.dtype(np.int16)),
    "Char": ValueType("int8", np.dtype(np.int8)),
    "Byte": ValueType("uint8", np.dtype(np.uint8)),
    "Bool": ValueType("bool", np.dtype(np.bool_)),
}
_UNTYPED = ValueType("bytes", np.dtype(np.uint8))
_BY_NAME = {kind.name: kind for kind in _TYPES.values()}


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage of a file.

    Attributes:
        key: Its name in the file.
        kind: Of its values.
        count: How many there are, as the pickle claims.
        start: Where it begins in the storage that it is a part of (files before 2018).
    """

    key: str
    kind: ValueType
    count: int
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.count * self.kind.stored.itemsize


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor of a file, its values not read yet; offset and strides in values."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """The tensor as a read-only view of its storage's values."""
        view: NDArray[Any] = np.lib.stride_tricks.as_strided(
            values[self.offset :],
            self.shape,
            tuple(stride * values.itemsize for stride in self.strides),
            writeable=False,
        )
        return view


def vocabulary(is_record: Callable[[Name], bool] = lambda name: False) -> Vocabulary:
    """What torch's pickles of weights refer to."""
    return Vocabulary(CALLS, CONSTANTS, _storage, is_record)


def _storage(identity: Any) -> StorageRef:
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise PickleError("refers to something outside that is no storage")
    _, kind, key, _device, count = identity[:5]
    if not isinstance(kind, ValueType) or not isinstance(key, str) or not _is_size(count):
        raise PickleError("describes a storage in a way that is not known here")
    part = identity[5] if len(identity) == 6 else None
    if part is None:
        return StorageRef(key, kind, count)
    if not isinstance(part, tuple) or len(part) != 3 or not all(map(_is_size, part[1:])):
        raise PickleError("describes a part of a storage in a way that is not known here")
    _, start, size = part
    if start + size > count:
        raise PickleError("holds a part that is larger than its storage")
    return StorageRef(key, kind, count, start)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    sizes = (offset, *size, *stride) if _are_tuples(size, stride) else ()
    if not isinstance(storage, StorageRef) or not sizes or not all(map(_is_size, sizes)):
        raise PickleError("describes a tensor in a way that is not known here")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise PickleError(f"holds a tensor of {len(size)} sizes and {len(stride)} strides")
    values = 1
    for length in size:
        values *= length
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    room = storage.count - storage.start
    if values and (last >= room or values > room):
        raise PickleError(f"holds a tensor of {values:,} values in a storage of {room:,}")
    if not values:
        offset = 0
    return TensorRef(storage, offset + storage.start, size, stride)


def _tensor_of_bytes(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, kind: Any, *_: Any
) -> TensorRef:
    """Newer types are described by the tensor, in a storage of bytes."""
    if not isinstance(storage, StorageRef) or not isinstance(kind, ValueType) or storage.start:
        raise PickleError("describes a tensor in a way that is not known here")
    count = storage.count // kind.stored.itemsize
    return _tensor(StorageRef(storage.key, kind, count), offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _are_tuples(*values: Any) -> bool:
    return all(isinstance(value, tuple) for value in values)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _dictionary(items: Any = ()) -> dict[Any, Any]:
    if isinstance(items, dict):
        return dict(items)
    pairs: list[Any] = list(items) if isinstance(items, list | tuple) else [None]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise PickleError("holds a dictionary of what are no pairs")
    if sum(isinstance(key, int) for key, _ in pairs) > MAX_NUMBER_KEYS:
        raise PickleError(f"holds more than {MAX_NUMBER_KEYS:,} numbers as keys")
    return {plain_key(key): value for key, value in pairs}


def _size(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleError("holds bytes in a way that is not known here")
    return text.encode("latin1")


def _device(kind: Any, index: Any = None) -> str:
    """``cuda:0``; what is nested in itself could become a text without end."""
    if not isinstance(kind, str) or len(kind) > MAX_DEVICE_TEXT:
        raise PickleError("names a device in a way that is not known here")
    if index is None:
        return kind
    if not _is_size(index):
        raise PickleError("numbers a device in a way that is not known here")
    return f"{kind}:{index}"


CALLS: dict[str, Call] = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": lambda: b"",
    **archive_numpy.CALLS,
}
CONSTANTS: dict[str, Any] = {
    **{f"torch.{name}Storage": kind for name, kind in _TYPES.items()},
    **{f"torch.cuda.{name}Storage": kind for name, kind in _TYPES.items()},
    **{f"torch.{name}": kind for name, kind in _BY_NAME.items()},
    "torch.storage.UntypedStorage": _UNTYPED,
    "numpy.ndarray": None,  # what _reconstruct makes one of
}


def decoded(data: bytes, kind: ValueType, *, big_endian: bool = False) -> NDArray[Any]:
    """Values of a storage, read-only; bfloat16 as float32.

    Args:
        data: A whole number of values.
        kind: Of the values.
        big_endian: Whether the machine that wrote them was.
    """
    values: NDArray[Any] = np.frombuffer(data, kind.stored.newbyteorder(">" if big_endian else "<"))
    values = values.astype(kind.stored, copy=False)
    if kind.is_bfloat16:
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values.flags.writeable = False
    return values
