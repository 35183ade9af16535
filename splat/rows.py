"""What a chunk of a neural scene is made of: rows of numbers that its model gives a meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """R rows of W values each, C-contiguous; to neural scenes what ``Gaussians`` are to others.

    Attributes:
        data: [R, W] of one dtype; float32 for anchors (``splat.anchors``), bytes for blocks of
            fields (``splat.fields``).

    Raises:
        ValueError: If it has not two dimensions.
    """

    data: NDArray[Any]

    def __post_init__(self) -> None:
        if self.data.ndim != 2:
            raise ValueError(f"rows have shape {self.data.shape}, expected two dimensions")
        object.__setattr__(self, "data", np.ascontiguousarray(self.data))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: slice | NDArray[np.generic]) -> Rows:
        """The rows picked by a slice, a boolean mask or an index array."""
        return Rows(self.data[index])

    @property
    def width(self) -> int:
        """Values of a row."""
        return int(self.data.shape[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.data.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows together."""
        return self.data.nbytes

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """All parts in order, a copy; all of one width and dtype."""
        return cls(np.concatenate([part.data for part in parts]))
