"""A set of 3D Gaussians in the one form that the rest of the project knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

SH_COUNT_OF_DEGREE = (1, 4, 9, 16)
MAX_SH_DEGREE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """Activated parameters of N Gaussians, as C-contiguous float32 arrays.

    Attributes:
        means: [N, 3] centres, world units.
        quats: [N, 4] rotations, wxyz, unit length.
        scales: [N, 3] standard deviations along the rotated axes, world units, > 0
            (linear, not logarithms).
        opacities: [N] peak opacity in [0, 1] (not logits).
        sh: [N, K, 3] real spherical-harmonics coefficients, K = (degree + 1)², of the
            displayed (sRGB-encoded) colour: ``rgb = max(0, 0.5 + Σ_k Y_k(dir) sh[k])`` with
            ``dir`` from the camera to the Gaussian (``splat.harmonics``).

    Raises:
        ValueError: If the shapes disagree. Values are checked where scenes are read
            (``scene_store``), not here.
    """

    means: Float32Array
    quats: Float32Array
    scales: Float32Array
    opacities: Float32Array
    sh: Float32Array

    def __post_init__(self) -> None:
        count = len(self.means)
        bases = self.sh.shape[1] if self.sh.ndim == 3 else 0
        expected = {
            "means": (count, 3),
            "quats": (count, 4),
            "scales": (count, 3),
            "opacities": (count,),
            "sh": (count, bases, 3),
        }
        for name, shape in expected.items():
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            object.__setattr__(self, name, array)
        if bases not in SH_COUNT_OF_DEGREE:
            raise ValueError(f"sh holds {bases} bases, expected one of {SH_COUNT_OF_DEGREE}")

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: slice | NDArray[np.generic]) -> Gaussians:
        """The Gaussians picked by a slice, a boolean mask or an index array."""
        return Gaussians(*(array[index] for array in self.arrays))

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return SH_COUNT_OF_DEGREE.index(self.sh.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def arrays(self) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array, Float32Array]:
        """Means, quaternions, scales, opacities and harmonics."""
        return self.means, self.quats, self.scales, self.opacities, self.sh

    @classmethod
    def empty(cls, sh_degree: int = 0) -> Gaussians:
        """A set of none."""
        return cls.allocate(0, sh_degree)

    @classmethod
    def allocate(cls, count: int, sh_degree: int) -> Gaussians:
        """Memory for ``count`` Gaussians, of whatever values it holds: to be filled."""
        bases = SH_COUNT_OF_DEGREE[sh_degree]
        shapes = ((count, 3), (count, 4), (count, 3), (count,), (count, bases, 3))
        return cls(*(np.empty(shape, np.float32) for shape in shapes))

    @classmethod
    def concatenate(cls, parts: Sequence[Gaussians]) -> Gaussians:
        """All parts in order; lower SH degrees are padded with zeros to the highest."""
        if not parts:
            return cls.empty()
        out = cls.allocate(sum(len(p) for p in parts), max(p.sh_degree for p in parts))
        start = 0
        for part in parts:
            rows = slice(start, start + len(part))
            for array, values in zip(out.arrays[:-1], part.arrays[:-1], strict=True):
                array[rows] = values
            known = part.sh.shape[1]
            out.sh[rows, :known] = part.sh
            out.sh[rows, known:] = 0.0
            start = rows.stop
        return out
