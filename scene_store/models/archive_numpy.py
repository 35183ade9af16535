"""Arrays and numbers of numpy in pickles, read as data.

numpy pickles an array as an empty one that is given its state afterwards: version, shape, type,
order and bytes. Types with fields or objects are refused; nothing of numpy's is called.

Source: ``numpy/_core/src/multiarray/methods.c`` (``array_setstate``) of numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.models.archive_pickle import PickleError

MAX_DIMENSIONS = 16
_MOST = 1 << 48  # products of any numbers may take for ever
_KINDS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"b1", "f2", "f4", "f8"}


@dataclass(slots=True, eq=False)
class PickledType:
    """``numpy.dtype``, whose byte order comes after it was made.

    Attributes:
        code: ``f4``.
        order: ``<``, ``>`` or ``|``.
    """

    code: str
    order: str = "|"

    @classmethod
    def of(cls, code: Any, *_: Any) -> PickledType:
        """Of the code that a pickle holds."""
        if not isinstance(code, str) or code not in _KINDS:
            shown = repr(code[:20]) if isinstance(code, str) else f"of a {type(code).__name__}"
            raise PickleError(f"holds an array of numpy's type {shown}")
        return cls(code)

    def set_state(self, state: Any) -> None:
        """What pickles give it: version, order, and nothing of parts."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|"):
            raise PickleError("holds a type of numpy in a way that is not known here")
        if state[2:5] != (None, None, None):
            raise PickleError("holds an array of records")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's own."""
        return np.dtype(self.order + self.code)


@dataclass(slots=True, eq=False)
class PickledArray:
    """An array, once it has its state.

    Attributes:
        values: None before.
    """

    values: NDArray[Any] | None = None

    @classmethod
    def of(cls, *_: Any) -> PickledArray:
        """``numpy.core.multiarray._reconstruct``: an empty one."""
        return cls()

    def set_state(self, state: Any) -> None:
        """Version, shape, type, whether it is in Fortran's order, bytes."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise PickleError("holds an array in a way that is not known here")
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, PickledType) or not isinstance(data, bytes):
            raise PickleError("holds an array of objects")
        self.values = _array(shape, kind.dtype, data, is_fortran is True)


def scalar(kind: Any, data: Any = None) -> Any:
    """``numpy.core.multiarray.scalar``: a number as Python has it."""
    if not isinstance(kind, PickledType) or not isinstance(data, bytes):
        raise PickleError("holds a number of numpy in a way that is not known here")
    return _array((), kind.dtype, data, False).item()


def _array(shape: Any, dtype: np.dtype[Any], data: bytes, is_fortran: bool) -> NDArray[Any]:
    is_shape = isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS
    if not is_shape or not all(type(side) is int and 0 <= side < _MOST for side in shape):
        raise PickleError("holds an array without a shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise PickleError(f"holds an array of shape {shape} in {len(data):,} bytes")
    flat: NDArray[Any] = np.frombuffer(data, dtype)
    values: NDArray[Any] = flat.reshape(shape, order="F" if is_fortran else "C")
    return values


CALLS = {
    "numpy.dtype": PickledType.of,
    **{
        f"numpy.{core}.multiarray.{name}": call
        for core in ("core", "_core")  # numpy 1 and 2
        for name, call in (("_reconstruct", PickledArray.of), ("scalar", scalar))
    },
}
