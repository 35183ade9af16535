"""Components in torch: in float32 on any device, or in float64 as the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rendering.models.components.contracts import (
    OPAQUE,
    UNIT_CUBE,
    Accumulators,
    Domain,
    Evaluator,
    Float32Array,
    Marcher,
    Samples,
    Variant,
)
from rendering.models.components.march_reference import ReferenceMarcher
from rendering.models.components.torch_networks import Arrays, TorchField, encode, mlp
from splat.fields import Encoding, Network, OccupancySampler, TableReader
from splat.networks import Mlp


class TorchComponents:
    """See ``contracts.Components``.

    Args:
        device: Torch's name of it.
        double: In float64: the reference.
    """

    def __init__(self, device: str = "cpu", double: bool = False) -> None:
        self._device = torch.device(device)
        self._dtype = torch.float64 if double else torch.float32
        self.variant = Variant.REFERENCE if double else Variant.TORCH

    def network(
        self, network: Network, domain: Domain = UNIT_CUBE, tables: TableReader | None = None
    ) -> Evaluator:
        """A network made ready: its arrays are copied to the device at first use."""
        field = TorchField(network, domain, self._device, self._dtype, tables)
        return TorchEvaluator(field, self)

    def encode(self, encoding: Encoding, positions: Float32Array) -> Float32Array:
        """One encoding alone."""
        return _array(encode(encoding, self.tensor(positions), self._arrays()))

    def mlp(self, mlp_: Mlp, x: Float32Array) -> Float32Array:
        """One multilayer perceptron alone."""
        return _array(mlp(mlp_, self.tensor(x), self._arrays()))

    def marcher(self, sampler: OccupancySampler) -> Marcher:
        """A sampler made ready; step by step, on the processor."""
        return ReferenceMarcher(sampler)

    def borders_from_weights(
        self, borders: Float32Array, weights: Float32Array, count: int, padding: float
    ) -> Float32Array:
        """Borders of new bins where weights are."""
        w = self.tensor(weights) + padding
        total = w.sum(1, keepdim=True)
        w = w + torch.relu(1e-5 - total) / w.shape[1]
        u = (torch.arange(count + 1, device=w.device, dtype=w.dtype) + 0.5) / (count + 1)
        return _array(_inverted(self.tensor(borders), w, u, 0.0))

    def samples_from_weights(
        self, t: Float32Array, weights: Float32Array, count: int
    ) -> Float32Array:
        """Samples where weights are, merged with those given."""
        given = self.tensor(t)
        middles = (given[:, 1:] + given[:, :-1]) / 2
        u = torch.linspace(0, 1, count, device=given.device, dtype=given.dtype)
        fine = _inverted(middles, self.tensor(weights)[:, 1:-1] + 1e-5, u, 1e-5)
        return _array(torch.cat([given, fine], 1).sort(1).values)

    def weights(self, densities: Float32Array, lengths: Float32Array) -> Float32Array:
        """What each sample of a ray contributes."""
        depth = (self.tensor(densities) * self.tensor(lengths)).clamp(min=0)
        before = torch.cumsum(depth, 1) - depth
        return _array(torch.exp(-before) * -torch.expm1(-depth))

    def composite(
        self,
        samples: Samples,
        densities: Float32Array,
        colors: Float32Array,
        length_scale: float,
        into: Accumulators,
    ) -> None:
        """Blend samples front to back, the k-th sample of every ray at once."""
        state = {name: self.tensor(getattr(into, name)) for name in _ACCUMULATED}
        alpha = -torch.expm1(
            -(self.tensor(densities) * self.tensor(samples.length) * length_scale).clamp(min=0)
        )
        color, t = self.tensor(colors), self.tensor(samples.t)
        for chosen in _by_rank(samples.ray):
            index = torch.from_numpy(chosen).to(self._device)
            ray = torch.from_numpy(samples.ray[chosen].astype(np.int64)).to(self._device)
            before = state["transmittance"][ray]
            seen = before > OPAQUE
            ray, index, before = ray[seen], index[seen], before[seen]
            weight = before * alpha[index]
            after = before - weight
            state["color"][:, ray] += weight * color[:, index]
            state["last_color"][:, ray] = color[:, index]
            state["depth"][ray] += weight * t[index]
            halfway = (before > 0.5) & (after <= 0.5)
            state["median"][ray[halfway]] = t[index[halfway]]
            state["transmittance"][ray] = after
        for name, value in state.items():
            getattr(into, name)[...] = _array(value)

    def tensor(self, values: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
        """A copy on the device."""
        return torch.tensor(values, device=self._device, dtype=self._dtype)

    def _arrays(self) -> Arrays:
        return Arrays(self._device, self._dtype)


_ACCUMULATED = ("color", "transmittance", "depth", "median", "last_color")


class TorchEvaluator:
    """See ``contracts.Evaluator``."""

    def __init__(self, field: TorchField, components: TorchComponents) -> None:
        self._field, self._components = field, components

    @property
    def nbytes(self) -> int:
        """Of copies on the device."""
        return self._field.nbytes

    def densities(self, positions: Float32Array) -> Float32Array:
        """Densities alone."""
        return _array(self._field.evaluate(self._components.tensor(positions), None)[0])

    def evaluate(
        self, positions: Float32Array, directions: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Densities and colours."""
        tensor = self._components.tensor
        densities, colors = self._field.evaluate(tensor(positions), tensor(directions))
        return _array(densities), _array(colors)

    def densities_along(
        self, origins: Float32Array, directions: Float32Array, samples: Samples
    ) -> Float32Array:
        """Densities of samples of rays."""
        return _array(self._field.evaluate(self._points(origins, directions, samples), None)[0])

    def evaluate_along(
        self,
        origins: Float32Array,
        directions: Float32Array,
        views: Float32Array,
        samples: Samples,
    ) -> tuple[Float32Array, Float32Array]:
        """Densities and colours of samples of rays."""
        points = self._points(origins, directions, samples)
        ray = torch.from_numpy(samples.ray.astype(np.int64)).to(points.device)
        views_ = self._components.tensor(views)[:, ray]
        densities, colors = self._field.evaluate(points, views_)
        return _array(densities), _array(colors)

    def _points(self, origins: Float32Array, directions: Float32Array, samples: Samples) -> Tensor:
        tensor = self._components.tensor
        t = tensor(samples.t)
        ray = torch.from_numpy(samples.ray.astype(np.int64)).to(t.device)
        return tensor(origins)[:, ray] + t * tensor(directions)[:, ray]


def _inverted(places: Tensor, weights: Tensor, u: Tensor, least: float) -> Tensor:
    """Where the cumulative sum of weights [R, n] over bins between places [R, n + 1] reaches
    u [C], linear within a bin; bins of a share below ``least`` count as 1 wide, as in NeRF."""
    share = weights / weights.sum(1, keepdim=True)
    cumulative = torch.cat([torch.zeros_like(share[:, :1]), torch.cumsum(share, 1)], 1)
    cumulative = cumulative.clamp(max=1.0)
    wanted = u.expand(len(places), -1).contiguous()
    above = torch.searchsorted(cumulative, wanted, right=True)
    lower, upper = (above - 1).clamp(min=0), above.clamp(max=places.shape[1] - 1)
    start, end = cumulative.gather(1, lower), cumulative.gather(1, upper)
    width = end - start
    width = torch.where(width <= least, torch.ones_like(width), width)
    inside = ((wanted - start) / width).clamp(0, 1)
    near, far = places.gather(1, lower), places.gather(1, upper)
    return near + inside * (far - near)


def _by_rank(ray: np.ndarray[Any, np.dtype[np.int32]]) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Indices of the first samples of all rays, then of the second ones, and so on."""
    starts = np.flatnonzero(np.diff(ray, prepend=-1))
    counts = np.diff(np.append(starts, len(ray)))
    rank = np.arange(len(ray)) - np.repeat(starts, counts)
    return [np.flatnonzero(rank == k) for k in range(int(counts.max(initial=0)))]


def _array(values: Tensor) -> Float32Array:
    array: Float32Array = values.detach().to("cpu", torch.float32).numpy()
    return array
