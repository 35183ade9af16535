"""Encodings: what is made of a position or a direction before a network sees it.

Arrays are float32 unless said otherwise. The limits are those of every engine: what a decoder lets
pass within them can be drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

HASH_PRIMES = (1, 2_654_435_761, 805_459_861)  # Müller et al. 2022, equation 4
MAX_GRID_BYTES = 1 << 31
MAX_GRID_LEVELS = 32
MAX_GRID_FEATURES = 64  # of a level
MAX_GRID_SCALE = 1 << 24  # and resolution: whole numbers that float32 has
MAX_HARMONICS_DEGREE = 5
MAX_FREQUENCIES = 64
MAX_PARTS = 64  # of one encoding: planes, or what is concatenated
MAX_PLANE_SIDE = 1 << 20
MAX_PLANE_VALUES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class IdentityEncoding:
    """The D values themselves."""

    dims: int = 3

    @property
    def outputs(self) -> int:
        return self.dims


class FrequencyOrder(Enum):
    """In which order sines and cosines follow.

    OCTAVES: by frequency, of each the sines of all dimensions and then the cosines (nerf-pytorch).
    DIMENSIONS: all sines, by dimension and then frequency, then all cosines (nerfstudio's).
    """

    OCTAVES = "octaves"
    DIMENSIONS = "dimensions"


@dataclass(frozen=True, slots=True)
class FrequencyEncoding:
    """``sin(f x), cos(f x)`` for each frequency f (Mildenhall et al. 2020, equation 4).

    Attributes:
        frequencies: Radians a unit.
        dims: Of x.
        includes_input: Whether x itself comes first (or last, ``input_last``).
        order: Of the rest.
    """

    frequencies: tuple[float, ...]
    dims: int = 3
    includes_input: bool = True
    order: FrequencyOrder = FrequencyOrder.OCTAVES
    input_last: bool = False

    @property
    def outputs(self) -> int:
        return self.dims * (2 * len(self.frequencies) + self.includes_input)


@dataclass(frozen=True, slots=True)
class SphericalHarmonicsEncoding:
    """The real harmonics of a unit direction, ``degree²`` of them (degree 4: 16), in the order and
    with the signs of tiny-cuda-nn. (nerfstudio's torch harmonics have the same order, but not the
    sign (−1)^m: a reader turns the signs of the weights that take them.)

    Attributes:
        degree: Bands.
        remapped: Whether the polynomials are taken at (d + 1) / 2 instead of d: nerfstudio hands
            that to its own (torch) harmonics, which do not undo it as tiny-cuda-nn's do. There
            x² + y² + z² is not 1, so that their form matters: it is tiny-cuda-nn's, with z alone
            in the factors (``0.946 z² − 0.315``, ``5 z² − 1``, ``5 z² − 3``), which nerfstudio has.
    """

    degree: int = 4
    remapped: bool = False

    @property
    def outputs(self) -> int:
        return self.degree**2


@dataclass(frozen=True, slots=True)
class GridLevel:
    """One resolution of a hash grid.

    Attributes:
        scale: From [0, 1] to the grid: vertex ``floor(x · scale + shift)`` and its neighbours.
        resolution: Vertices a side of a level that is not hashed: vertex (x, y, z) is entry
            ``(x + y · resolution + z · resolution²) mod entries``.
        hashed: Else its entry is the exclusive or of coordinates times ``HASH_PRIMES`` (32 bits,
            wrapping), mod entries.
        entries: Of the table.
        first: Where its table begins, in entries from the table of all levels.
    """

    scale: float
    resolution: int
    hashed: bool
    entries: int
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class HashGridEncoding:
    """Multiresolution hash grid, trilinear (Müller et al. 2022, section 3); of one level that is
    not hashed, a dense grid of voxels.

    Attributes:
        levels: Coarsest first; outputs follow in this order, the features of a level together.
        table: [E, F] float32 or float16, of all levels; float16 is widened where it is read.
        shift: From 0 to 1: 0.5 of tiny-cuda-nn, 0 of nerfstudio's own.
    """

    levels: tuple[GridLevel, ...]
    table: NDArray[np.float32] | NDArray[np.float16]
    shift: float = 0.5

    @property
    def outputs(self) -> int:
        return len(self.levels) * int(self.table.shape[1])


@dataclass(frozen=True, slots=True)
class PagedGridEncoding:
    """A ``HashGridEncoding`` with its table elsewhere (``splat.fields.TableReader``), of which a
    part is in memory at a time; the values are the same.

    Attributes:
        levels, shift: Of the grid; ``first`` counts in the table.
        features, half: Values of an entry; whether they are float16 or float32.
        entries: Of the table.
        at: Where it begins, in bytes.
        kept: The coarsest levels, so many, stay in memory.
        buffers: Of the others so many are in memory at a time; at least 1, if there are any.
    """

    levels: tuple[GridLevel, ...]
    features: int
    half: bool
    entries: int
    at: int
    shift: float = 0.5
    kept: int = 0
    buffers: int = 1

    @property
    def outputs(self) -> int:
        return len(self.levels) * self.features

    @property
    def entry_bytes(self) -> int:
        return self.features * (2 if self.half else 4)

    @property
    def memory_bytes(self) -> int:
        """Taken by what is in memory at a time."""
        sizes = [level.entries * self.entry_bytes for level in self.levels]
        return sum(sizes[: self.kept]) + self.buffers * max(sizes[self.kept :], default=0)


@dataclass(frozen=True, slots=True, eq=False)
class PlaneEncoding:
    """Planes times lines, bilinear and linear (TensoRF's VM, Chen et al. 2022; GridNeRF's ground
    planes, Xu et al. 2023).

    For each group g the features are ``plane_g(x[axes], x[axes]) · line_g(x[axis])``, value by
    value; a group without a line is its plane alone. Coordinates in [0, 1] run over the *centres*
    of the first and last texels (``align_corners``); beyond, they are clamped.

    Attributes:
        planes: For each group [C, H, W]: W along the first, H along the second of ``axes``.
        lines: For each group [C, D], or None.
        axes: For each group (first, second, axis of the line).
        summed: Whether a group's values are added up to one, as densities are.
        windows: None if the planes are whole. Else for each group (width, height, column, row):
            ``planes`` holds the texels from (column, row) on of a plane of width × height, so that
            a block of a field has the values of the whole to the bit: texel ``floor(u · (width −
            1))`` is column ``floor(u · (width − 1)) − column`` of what is here.
    """

    planes: tuple[Float32Array, ...]
    lines: tuple[Float32Array | None, ...]
    axes: tuple[tuple[int, int, int], ...]
    summed: bool = False
    windows: tuple[tuple[int, int, int, int], ...] | None = None

    @property
    def outputs(self) -> int:
        return sum(1 if self.summed else len(plane) for plane in self.planes)


@dataclass(frozen=True, slots=True, eq=False)
class ConcatenatedEncoding:
    """Several encodings of the same position, one after the other."""

    parts: tuple[Encoding, ...]

    @property
    def outputs(self) -> int:
        return sum(part.outputs for part in self.parts)


Encoding = (
    IdentityEncoding
    | FrequencyEncoding
    | SphericalHarmonicsEncoding
    | HashGridEncoding
    | PagedGridEncoding
    | PlaneEncoding
    | ConcatenatedEncoding
)
