"""Components in C++ on the processor; ``rendering/models/native/src`` says how they work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rendering.models.components.contracts import (
    OPAQUE,
    UNIT_CUBE,
    Accumulators,
    Domain,
    Evaluator,
    Float32Array,
    Int32Array,
    Marcher,
    Samples,
    Variant,
)
from rendering.models.components.native_paged import PagedNativeEvaluator
from rendering.models.components.native_parts import packed_encoding, packed_mlp, packed_network
from rendering.models.components.paged_grids import reader_of
from splat.errors import BackendUnavailable
from splat.fields import Encoding, Network, OccupancySampler, PagedGridEncoding, TableReader
from splat.networks import Mlp

try:
    from rendering.models.native import _neural
except ImportError as error:  # not built, or built for another Python
    raise BackendUnavailable(
        f"the kernels of neural models are not built for this Python ({error}); run: make setup"
    ) from error


def instruction_sets() -> tuple[str, ...]:
    """Those that this processor has, best first."""
    return tuple(_neural.instruction_sets())


class NativeComponents:
    """See ``contracts.Components``.

    Args:
        threads: 0 for one a core.
        instruction_set: One of ``instruction_sets()``; None for the best.
        skips_empty_space: Whether marching passes over empty space in blocks; the samples are the
            same.

    Raises:
        ValueError: If the instruction set is none, or the threads are none.
    """

    variant = Variant.NATIVE

    def __init__(
        self,
        threads: int = 0,
        instruction_set: str | None = None,
        skips_empty_space: bool = True,
    ) -> None:
        if instruction_set is not None and instruction_set not in instruction_sets():
            raise ValueError(f"this processor has no {instruction_set!r}")
        if not 0 <= threads <= _neural.MAX_THREADS:
            raise ValueError(f"threads must be 0 to {_neural.MAX_THREADS}, got {threads}")
        self.instruction_set = instruction_set or instruction_sets()[0]
        self._threads = threads
        self._skips = skips_empty_space

    def network(
        self, network: Network, domain: Domain = UNIT_CUBE, tables: TableReader | None = None
    ) -> Evaluator:
        """A network made ready; hash tables and planes are not copied."""
        if isinstance(network.position, PagedGridEncoding):
            return PagedNativeEvaluator(
                network, domain, reader_of(tables), self.instruction_set, self._threads
            )
        packed = packed_network(network, domain)
        return NativeEvaluator(
            packed, network.color_mlp is not None, self.instruction_set, self._threads
        )

    def encode(self, encoding: Encoding, positions: Float32Array) -> Float32Array:
        """One encoding alone."""
        packed = packed_encoding(encoding, len(positions))
        out = np.empty((packed.outputs, positions.shape[1]), np.float32)
        _neural.encode(packed, _floats(positions), out, self.instruction_set, self._threads)
        return out

    def mlp(self, mlp: Mlp, x: Float32Array) -> Float32Array:
        """One multilayer perceptron alone."""
        packed = packed_mlp(mlp)
        out = np.empty((packed.outputs, x.shape[1]), np.float32)
        _neural.mlp(packed, _floats(x), out, self.instruction_set, self._threads)
        return out

    def marcher(self, sampler: OccupancySampler) -> Marcher:
        """A sampler made ready."""
        return NativeMarcher(sampler, self._skips, self._threads)

    def borders_from_weights(
        self, borders: Float32Array, weights: Float32Array, count: int, padding: float
    ) -> Float32Array:
        """Borders of new bins where weights are."""
        out = np.empty((len(weights), count + 1), np.float32)
        _neural.borders_from_weights(
            _floats(borders), _floats(weights), out, padding, self._threads
        )
        return out

    def samples_from_weights(
        self, t: Float32Array, weights: Float32Array, count: int
    ) -> Float32Array:
        """Samples where weights are, merged with those given."""
        out = np.empty((len(t), t.shape[1] + count), np.float32)
        _neural.samples_from_weights(_floats(t), _floats(weights), out, self._threads)
        return out

    def weights(self, densities: Float32Array, lengths: Float32Array) -> Float32Array:
        """What each sample of a ray contributes."""
        out = np.empty(densities.shape, np.float32)
        _neural.weights(
            _floats(densities), _floats(lengths), out, self.instruction_set, self._threads
        )
        return out

    def composite(
        self,
        samples: Samples,
        densities: Float32Array,
        colors: Float32Array,
        length_scale: float,
        into: Accumulators,
    ) -> None:
        """Blend samples front to back."""
        _neural.composite(
            samples.ray,
            samples.t,
            samples.length,
            _floats(densities),
            _floats(colors),
            length_scale,
            OPAQUE,
            (into.color, into.transmittance, into.depth, into.median, into.last_color),
            self.instruction_set,
            self._threads,
        )


class NativeEvaluator:
    """See ``contracts.Evaluator``; blocks of 48 samples go through the whole network at once."""

    def __init__(
        self, network: _neural.Network, has_color: bool, instruction_set: str, threads: int
    ) -> None:
        self._network = network
        self._has_color = has_color
        self._how = (instruction_set, threads)

    @property
    def nbytes(self) -> int:
        """Of packed weights."""
        return self._network.nbytes

    def densities(self, positions: Float32Array) -> Float32Array:
        """Densities alone."""
        out = np.empty(positions.shape[1], np.float32)
        _neural.evaluate(self._network, _floats(positions), None, out, None, *self._how)
        return out

    def evaluate(
        self, positions: Float32Array, directions: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Densities and colours."""
        densities, colors = self._outputs(positions.shape[1])
        _neural.evaluate(
            self._network,
            _floats(positions),
            _floats(directions),
            densities,
            colors,
            *self._how,
        )
        return densities, colors

    def densities_along(
        self, origins: Float32Array, directions: Float32Array, samples: Samples
    ) -> Float32Array:
        """Densities of samples of rays."""
        out = np.empty(len(samples), np.float32)
        rays = _floats(origins), _floats(directions)
        _neural.evaluate_along(
            self._network, *rays, None, samples.ray, samples.t, out, None, *self._how
        )
        return out

    def evaluate_along(
        self,
        origins: Float32Array,
        directions: Float32Array,
        views: Float32Array,
        samples: Samples,
    ) -> tuple[Float32Array, Float32Array]:
        """Densities and colours of samples of rays."""
        densities, colors = self._outputs(len(samples))
        rays = _floats(origins), _floats(directions), _floats(views)
        _neural.evaluate_along(
            self._network, *rays, samples.ray, samples.t, densities, colors, *self._how
        )
        return densities, colors

    def _outputs(self, samples: int) -> tuple[Float32Array, Float32Array]:
        if not self._has_color:
            raise ValueError("the network gives densities alone")
        return np.empty(samples, np.float32), np.empty((3, samples), np.float32)


class NativeMarcher:
    """See ``contracts.Marcher``."""

    def __init__(self, sampler: OccupancySampler, skips: bool, threads: int) -> None:
        occupied: NDArray[np.bool_] = np.ascontiguousarray(sampler.occupied, np.bool_)
        self._marcher = _neural.Marcher(
            occupied, sampler.min_step, sampler.max_step, sampler.cone_angle
        )
        self._skips, self._threads = skips, threads

    def start(self, rays: int) -> Int32Array:
        """Cursors of rays of which nothing was marched."""
        return np.zeros(rays, np.int32)

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
        """The next samples of every ray."""
        ray, t, length = _neural.march(
            self._marcher,
            _floats(origins),
            _floats(directions),
            _floats(enter),
            _floats(first),
            _floats(last),
            cursors,
            most,
            self._skips,
            self._threads,
        )
        return Samples(ray, t, length)


def _floats(values: Float32Array) -> Float32Array:
    return np.ascontiguousarray(values, np.float32)
