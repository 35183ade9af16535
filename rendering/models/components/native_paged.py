"""Networks in C++ whose hash grids are not in memory as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rendering.models.components.contracts import Domain, Float32Array, Samples
from rendering.models.components.native_parts import (
    CONTRACTIONS,
    packed_encoding,
    packed_network,
)
from rendering.models.components.paged_grids import PagedGrid, in_sweeps, within_cube
from rendering.models.native import _neural
from splat.fields import (
    Contraction,
    HashGridEncoding,
    IdentityEncoding,
    Network,
    PagedGridEncoding,
    TableReader,
)


class PagedNativeEvaluator:
    """See ``contracts.Evaluator``; the same bytes as ``NativeEvaluator`` of the grid in memory.

    Positions are encoded level by level, then features go through the rest of the network.

    Args:
        network: Its position is a ``PagedGridEncoding``.
        domain: Where it is defined.
        tables: Where the grid is.
        instruction_set, threads: Of kernels.
    """

    def __init__(
        self,
        network: Network,
        domain: Domain,
        tables: TableReader,
        instruction_set: str,
        threads: int,
    ) -> None:
        assert isinstance(network.position, PagedGridEncoding)
        self._grid = PagedGrid(network.position, tables)
        self._outputs = network.position.outputs
        rest = replace(network, position=IdentityEncoding(self._outputs))
        nowhere = Domain(Contraction.NONE, bounded=False)
        self._rest = packed_network(rest, nowhere, self._outputs)
        self._domain = domain
        self._has_color = network.color_mlp is not None
        self._isa, self._threads = instruction_set, threads

    @property
    def nbytes(self) -> int:
        """Of the weights, packed, and of the grid what is in memory."""
        return int(self._rest.nbytes) + self._grid.grid.memory_bytes

    def densities(self, positions: Float32Array) -> Float32Array:
        """Densities at positions."""
        out = np.empty(positions.shape[1], np.float32)
        for part in in_sweeps(len(out)):
            out[part] = self._sweep(positions[:, part], None)[0]
        return out

    def evaluate(
        self, positions: Float32Array, directions: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Densities and colours at positions."""
        if not self._has_color:
            raise ValueError("the network gives densities alone")
        count = positions.shape[1]
        densities, colors = np.empty(count, np.float32), np.empty((3, count), np.float32)
        for part in in_sweeps(count):
            densities[part], colors[:, part] = self._sweep(positions[:, part], directions[:, part])
        return densities, colors

    def densities_along(
        self, origins: Float32Array, directions: Float32Array, samples: Samples
    ) -> Float32Array:
        """Densities of samples of rays."""
        return self.densities(_positions(origins, directions, samples))

    def evaluate_along(
        self,
        origins: Float32Array,
        directions: Float32Array,
        views: Float32Array,
        samples: Samples,
    ) -> tuple[Float32Array, Float32Array]:
        """Densities and colours of samples of rays."""
        return self.evaluate(_positions(origins, directions, samples), views[:, samples.ray])

    def _sweep(
        self, positions: Float32Array, directions: Float32Array | None
    ) -> tuple[Float32Array, Float32Array]:
        count, width = positions.shape[1], self._grid.grid.features
        cube = np.empty((3, count), np.float32)
        _neural.contract(
            CONTRACTIONS[self._domain.contraction], _floats(positions), cube, self._isa
        )
        features = np.empty((self._outputs, count), np.float32)
        of_levels = iter(features.reshape(-1, width, count))

        def encode_level(level: HashGridEncoding) -> None:
            into = next(of_levels)
            _neural.encode(packed_encoding(level, 3), cube, into, self._isa, self._threads)

        self._grid.encode(encode_level)
        densities = np.empty(count, np.float32)
        colors = np.empty((3, count), np.float32) if directions is not None else None
        views = None if directions is None else _floats(directions)
        _neural.evaluate(self._rest, features, views, densities, colors, self._isa, self._threads)
        if self._domain.bounded:
            outside = ~within_cube(cube)
            densities[outside] = 0.0
            if colors is not None:
                colors[:, outside] = 0.0
        return densities, np.empty((3, 0), np.float32) if colors is None else colors


def _positions(origins: Float32Array, directions: Float32Array, samples: Samples) -> Float32Array:
    out = np.empty((3, len(samples)), np.float32)
    _neural.positions_along(_floats(origins), _floats(directions), samples.ray, samples.t, out)
    return out


def _floats(values: Float32Array) -> Float32Array:
    return np.ascontiguousarray(values, np.float32)
