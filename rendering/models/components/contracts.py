"""What radiance fields are drawn with: the contracts of the components, whatever computes them.

A field of ``splat.fields`` is put together from an evaluator of its network, a sampler's steps and
a compositor. ``Components`` makes all three for one variant: ``native`` (C++ on the processor),
``torch`` (float32 on a device), ``reference`` (torch in float64: slow, obvious, the truth that the
others are tested against). Arrays cross as numpy, whatever is behind.

Coordinates: *field coordinates* are ``y = world_to_field x`` of a ``FieldSpace``, before any
contraction. A ray is ``y = o + t d`` with d of any length: t is the caller's own parameter, and
everything that is said of lengths along a ray is in its unit. Batches are planar: a row a value,
M samples or R rays. Every sample's and ray's result depends on nothing but its own values: the
same bytes in any batch, at any place of it, with any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from splat.fields import Contraction, Encoding, Network, OccupancySampler, TableReader
from splat.networks import Mlp

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]

OPAQUE = 1e-4  # transmittance at which a ray ends


class Variant(Enum):
    """Who computes."""

    NATIVE = "native"
    TORCH = "torch"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a network is defined, in field coordinates.

    Attributes:
        contraction: How positions are brought into the cube that encodings take: with one it is
            ``(contracted(y) + 2) / 4``, without y itself.
        bounded: Whether there is nothing outside the cube [0, 1]³ (and where a position is not a
            number): density and colour are 0. Plain NeRFs know no such bounds.
    """

    contraction: Contraction = Contraction.NONE
    bounded: bool = True


UNIT_CUBE = Domain()


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples of many rays, packed: ray by ray, front to back.

    Attributes:
        ray: [M] int32, index of the ray; ascending.
        t: [M] float32, where on it.
        length: [M] float32, how much of the ray a sample stands for, in the unit of t.
    """

    ray: Int32Array
    t: Float32Array
    length: Float32Array

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True, slots=True, eq=False)
class Accumulators:
    """What R rays have seen so far; compositors change it in place.

    Attributes:
        color: [3, R] float32, ``Σ T α c``.
        transmittance: [R] float32, T behind the last sample; 1 at first.
        depth: [R] float32, ``Σ T α t``.
        median: [R] float32, t of the sample at which the transmittance fell to ½ or below; 0 where
            it did not.
        last_color: [3, R] float32, colour of the last sample that was taken; 0 without.
    """

    color: Float32Array
    transmittance: Float32Array
    depth: Float32Array
    median: Float32Array
    last_color: Float32Array

    @classmethod
    def empty(cls, rays: int) -> Accumulators:
        """Of rays that have seen nothing yet."""
        return cls(
            np.zeros((3, rays), np.float32),
            np.ones(rays, np.float32),
            np.zeros(rays, np.float32),
            np.zeros(rays, np.float32),
            np.zeros((3, rays), np.float32),
        )


class Evaluator(Protocol):
    """A network of ``splat.fields``, made ready once; safe to call from several threads."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds beyond the network's own arrays."""

    def densities(self, positions: Float32Array) -> Float32Array:
        """Densities [M] at positions [3, M], field coordinates."""

    def evaluate(
        self, positions: Float32Array, directions: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Densities [M] and colours [3, M]; colours are 0 where the density is.

        Args:
            positions: [3, M], field coordinates.
            directions: [3, M], as the network's encoding of directions takes them.
        """

    def densities_along(
        self, origins: Float32Array, directions: Float32Array, samples: Samples
    ) -> Float32Array:
        """Densities [M] of samples of rays.

        Args:
            origins, directions: [3, R], field coordinates.
        """

    def evaluate_along(
        self,
        origins: Float32Array,
        directions: Float32Array,
        views: Float32Array,
        samples: Samples,
    ) -> tuple[Float32Array, Float32Array]:
        """Densities [M] and colours [3, M] of samples of rays: ``evaluate`` at ``o + t d``.

        Args:
            origins, directions: [3, R], field coordinates.
            views: [3, R], the rays' directions as the network's encoding takes them.
        """


class Marcher(Protocol):
    """The steps of an ``OccupancySampler``; safe to call from several threads."""

    def start(self, rays: int) -> Int32Array:
        """Cursors [R] of rays of which nothing was marched."""

    def march(
        self,
        origins: Float32Array,
        directions: Float32Array,
        enter: Float32Array,
        first: Float32Array,
        last: Float32Array,
        cursors: Int32Array,
        most: int,
    ) -> Samples:
        """The next samples of every ray in occupied cells, at most ``most`` each.

        In u = t · |d|, the field's unit, with ``du(u) = clamp(u · cone_angle, min_step,
        max_step)``: steps are at ``u_0 = u' + du(u') / 2``, ``u_(n+1) = u_n + du(u_n)``, u' being
        where the ray enters. Of these, samples are those within the unit cube, with
        ``first ≤ t < last``, in an occupied cell of the finest cascade that covers them. How empty
        space is skipped has no influence on where samples are.

        Args:
            origins, directions: [3, R], field coordinates.
            enter: [R], t at which a ray enters the field; what steps are counted from.
            first, last: [R], of what is wanted: nothing unless first < last.
            cursors: [R], changed in place: steps done. ``DONE`` of a ray that has no more samples;
                a caller may set it to end a ray.
            most: Samples a ray and call.
        """


DONE = np.int32(2**31 - 1)


class Components(Protocol):
    """The components of one variant."""

    @property
    def variant(self) -> Variant:
        """Which one."""

    def network(
        self, network: Network, domain: Domain = UNIT_CUBE, tables: TableReader | None = None
    ) -> Evaluator:
        """A network made ready.

        Args:
            tables: Of a ``PagedGridEncoding``.

        Raises:
            ValueError: If it has something that no variant knows, or a table is nowhere.
            RenderError: If a table cannot be read.
        """

    def encode(self, encoding: Encoding, positions: Float32Array) -> Float32Array:
        """One encoding alone: [D, M] → [outputs, M]."""

    def mlp(self, mlp: Mlp, x: Float32Array) -> Float32Array:
        """One multilayer perceptron alone: [inputs, M] → [outputs, M]."""

    def marcher(self, sampler: OccupancySampler) -> Marcher:
        """A sampler made ready.

        Raises:
            ValueError: If its sizes are absurd.
        """

    def borders_from_weights(
        self, borders: Float32Array, weights: Float32Array, count: int, padding: float
    ) -> Float32Array:
        """Borders [R, count + 1] of new bins where weights are, nerfstudio's ``PDFSampler`` as it
        is in evaluation: with ``w_i + padding`` as piecewise constant density over the old bins,
        border i lies where its cumulative sum reaches ``(i + ½) / (count + 1)`` of the whole.

        Args:
            borders: [R, n + 1], ascending.
            weights: [R, n], not negative.
        """

    def samples_from_weights(
        self, t: Float32Array, weights: Float32Array, count: int
    ) -> Float32Array:
        """Samples [R, n + count], ascending: those given, and ``count`` where weights are.

        Plain NeRF's hierarchical sampling without jitter: bins between the middles of
        neighbouring samples with ``weights[1:-1] + 1e-5``, the inverse of their cumulative sum
        at ``i / (count − 1)``, merged with t (Mildenhall et al. 2020, section 5.2).

        Args:
            t: [R, n], ascending, n ≥ 3.
            weights: [R, n].
        """

    def weights(self, densities: Float32Array, lengths: Float32Array) -> Float32Array:
        """``T_i α_i`` [R, n] of n samples a ray.

        Args:
            densities: [R, n].
            lengths: [R, n], times the space's density scale.
        """

    def composite(
        self,
        samples: Samples,
        densities: Float32Array,
        colors: Float32Array,
        length_scale: float,
        into: Accumulators,
    ) -> None:
        """Blend samples front to back into what their rays have seen.

        A ray takes a sample only while its transmittance is above ``OPAQUE``.

        Args:
            densities: [M].
            colors: [3, M].
            length_scale: Of the samples' lengths, before they are multiplied by densities.
        """
