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
        return Gaussians(
            self.means[index],
            self.quats[index],
            self.scales[index],
            self.opacities[index],
            self.sh[index],
        )

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return SH_COUNT_OF_DEGREE.index(self.sh.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(a.nbytes for a in (self.means, self.quats, self.scales, self.opacities, self.sh))

    @classmethod
    def empty(cls, sh_degree: int = 0) -> Gaussians:
        """A set of none."""
        bases = SH_COUNT_OF_DEGREE[sh_degree]
        return cls(
            *(np.zeros(s, np.float32) for s in ((0, 3), (0, 4), (0, 3), (0,), (0, bases, 3)))
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Gaussians]) -> Gaussians:
        """All parts in order; lower SH degrees are padded with zeros to the highest."""
        if not parts:
            return cls.empty()
        bases = max(p.sh.shape[1] for p in parts)
        total = sum(len(p) for p in parts)
        sh = np.zeros((total, bases, 3), np.float32)
        start = 0
        for part in parts:
            sh[start : start + len(part), : part.sh.shape[1]] = part.sh
            start += len(part)
        return cls(
            np.concatenate([p.means for p in parts]),
            np.concatenate([p.quats for p in parts]),
            np.concatenate([p.scales for p in parts]),
            np.concatenate([p.opacities for p in parts]),
            sh,
        )
