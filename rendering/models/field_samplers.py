"""Where fields are sampled along rays: the samplers of ``splat.fields`` over components.

A sampler gives the samples of a ray front to back, a few at a time, so that nothing behind an
opaque surface is evaluated. What it gives of a ray depends on nothing but that ray.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rendering.models.components import DONE, Components, Evaluator, Marcher, Samples
from rendering.models.field_empty import EmptySpace
from rendering.models.field_rays import FieldRays, SpaceRays
from rendering.models.fragments import runs
from rendering.models.rays import box_span_along
from splat.fields import (
    BoxSampler,
    Field,
    HierarchicalSampler,
    ProposalSampler,
    Sampler,
    Spacing,
)

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

ENDLESS = np.float32(1e10)  # length of plain NeRF's last sample


class Sampling(Protocol):
    """The samples of R rays in one field."""

    @property
    def done(self) -> BoolArray:
        """[R] of rays that have no more."""

    def take(self, wanted: BoolArray, most: int) -> Samples:
        """The next samples, at most so many each, of the rays that are wanted [R]."""


class Marching:
    """Steps through occupied cells."""

    def __init__(self, marcher: Marcher, rays: FieldRays, space: SpaceRays, field: Field) -> None:
        self._marcher, self._space = marcher, space
        self._enter = np.maximum(rays.enter, np.float32(field.near))
        self._first = np.maximum(rays.first, self._enter)
        self._last = np.minimum(rays.last, np.minimum(rays.leave, np.float32(field.far)))
        self._cursors = marcher.start(len(rays))
        self._cursors[~(self._first < self._last)] = DONE

    @property
    def done(self) -> BoolArray:
        """See ``Sampling``."""
        done: BoolArray = self._cursors == DONE
        return done

    def take(self, wanted: BoolArray, most: int) -> Samples:
        """See ``Sampling``."""
        cursors = np.where(wanted, self._cursors, DONE)
        samples = self._marcher.march(
            self._space.origins,
            self._space.directions,
            self._enter,
            self._first,
            self._last,
            cursors,
            most,
        )
        self._cursors = np.where(wanted, cursors, self._cursors)
        return samples


class Listed:
    """Samples that are known beforehand.

    Args:
        t, lengths: [R, S], t ascending.
        kept: [R, S] those that are there.
    """

    def __init__(self, t: Float32Array, lengths: Float32Array, kept: BoolArray) -> None:
        ends = np.cumsum(kept.sum(axis=1))
        self._next = np.concatenate([[0], ends[:-1]])
        self._ends = ends
        self._t, self._lengths = t[kept], lengths[kept]

    @property
    def done(self) -> BoolArray:
        """See ``Sampling``."""
        done: BoolArray = self._next >= self._ends
        return done

    def take(self, wanted: BoolArray, most: int) -> Samples:
        """See ``Sampling``."""
        counts = np.where(wanted, np.minimum(self._ends - self._next, most), 0)
        places = runs(self._next, counts)
        ray = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._next = self._next + counts
        return Samples(ray, self._t[places], self._lengths[places])


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A network that says where samples should be.

    Attributes:
        evaluator: Of its densities.
        rays: As it takes them.
        empty: Where they are surely next to nothing; None if that is not known.
    """

    evaluator: Evaluator
    rays: SpaceRays
    empty: EmptySpace | None = None

    def densities(self, t: Float32Array) -> Float32Array:
        """[R, S] at t [R, S]."""
        rays, count = t.shape
        ray = np.repeat(np.arange(rays, dtype=np.int32), count)
        flat = np.ascontiguousarray(t.reshape(-1))
        along = self.rays.origins, self.rays.directions
        if self.empty is None:
            samples = Samples(ray, flat, np.zeros_like(flat))
            return self.evaluator.densities_along(*along, samples).reshape(t.shape)
        kept = self.empty.may_hold(self.rays, ray, flat)
        samples = Samples(ray[kept], flat[kept], np.zeros(int(kept.sum()), np.float32))
        out = np.zeros(rays * count, np.float32)
        out[kept] = self.evaluator.densities_along(*along, samples)
        return out.reshape(t.shape)


def thinned(sampler: Sampler) -> Sampler:
    """A sampler of half as many samples; one whose samples follow from the field as it is."""
    if isinstance(sampler, HierarchicalSampler):
        coarse, fine = sampler.coarse_samples, sampler.fine_samples
        return replace(sampler, coarse_samples=-(-coarse // 2), fine_samples=-(-fine // 2))
    if isinstance(sampler, ProposalSampler):
        counts = tuple(-(-count // 2) for count in sampler.counts)
        return replace(sampler, counts=counts, samples=-(-sampler.samples // 2))
    return sampler


def hierarchical(
    sampler: HierarchicalSampler,
    field: Field,
    rays: FieldRays,
    stage: Stage,
    components: Components,
) -> tuple[Float32Array, Float32Array]:
    """Samples and their lengths [R, S] of plain NeRF (Mildenhall et al. 2020, section 5.2)."""
    even = _spaced(np.linspace(0.0, 1.0, sampler.coarse_samples), sampler.spacing, field)
    t = np.repeat(even[None], len(rays), axis=0)
    if sampler.fine_samples:
        lengths = _until_next(t) * rays.lengths[:, None]
        weights = components.weights(stage.densities(t), lengths)
        t = components.samples_from_weights(t, weights, sampler.fine_samples)
    return t, _until_next(t)


def proposed(
    sampler: ProposalSampler,
    field: Field,
    rays: FieldRays,
    stages: list[Stage],
    components: Components,
) -> tuple[Float32Array, Float32Array]:
    """Samples and their lengths [R, S] where proposals expect something (nerfacto).

    Borders of bins are kept in the spacing's own coordinate, in which they are sampled.
    """
    counts = [*sampler.counts, sampler.samples]
    even = np.linspace(0.0, 1.0, counts[0] + 1).astype(np.float32)
    borders = np.repeat(even[None], len(rays), axis=0)
    for stage, following in zip(stages, counts[1:], strict=True):
        middles, lengths = _bins(_spaced(borders, sampler.spacing, field))
        densities = stage.densities(middles)
        weights = components.weights(densities, lengths * rays.lengths[:, None])
        borders = components.borders_from_weights(borders, weights, following, sampler.padding)
    return _bins(_spaced(borders, sampler.spacing, field))


def boxed(
    sampler: BoxSampler, field: Field, rays: FieldRays
) -> tuple[Float32Array, Float32Array, BoolArray]:
    """Samples, their lengths and which of them may hold something [R, S], of even steps in a box
    (TensoRF, GridNeRF)."""
    enter, leave = box_span_along(rays.world_origins, rays.world_directions, sampler.lo, sampler.hi)
    start = np.clip(enter, field.near, field.far)[:, None]
    t = (start + np.arange(sampler.samples) * sampler.step).astype(np.float32)
    lengths = np.full_like(t, sampler.step)
    lengths[:, -1] = 0.0
    kept = (enter < leave)[:, None] & (t <= leave.astype(np.float32)[:, None])
    if sampler.mask is not None:
        kept[kept] = _masked(sampler, rays, t, kept)
    return t, lengths, kept


def _masked(sampler: BoxSampler, rays: FieldRays, t: Float32Array, kept: BoolArray) -> BoolArray:
    """Of the samples that are kept, whether a vertex around them is set."""
    assert sampler.mask is not None and sampler.mask_lo is not None and sampler.mask_hi is not None
    ray = np.nonzero(kept)[0]
    along = t[kept].astype(np.float64)
    cells = []
    inside = np.ones(len(ray), np.bool_)
    for axis, side in zip(range(3), reversed(sampler.mask.shape), strict=True):
        x = rays.world_origins[axis, ray] + along * rays.world_directions[axis, ray]
        low, high = sampler.mask_lo[axis], sampler.mask_hi[axis]
        at = (x - low) / (high - low) * (side - 1)
        # Interpolation reaches a cell beyond the outermost vertices, and fades out there: no
        # rounding decides about samples where a ray enters.
        inside &= (at > -1) & (at < side)
        cells.append(np.clip(np.floor(at).astype(np.int64), -1, side - 1) + 1)
    found: BoolArray = inside & _around(np.pad(sampler.mask, 1))[cells[2], cells[1], cells[0]]
    return found


def _around(mask: BoolArray) -> BoolArray:
    """Cells between the vertices of a mask, whether any of their corners is set."""
    for axis in range(3):
        if mask.shape[axis] > 1:
            first, second = [slice(None)] * 3, [slice(None)] * 3
            first[axis], second[axis] = slice(0, -1), slice(1, None)
            mask = mask[tuple(first)] | mask[tuple(second)]
    return mask


def _spaced(s: NDArray[np.floating], spacing: Spacing, field: Field) -> Float32Array:
    """t from near to far at parameters of a spacing in [0, 1]."""
    at = s.astype(np.float64)
    near, far = field.near, field.far
    if spacing is Spacing.UNIFORM:
        return (near * (1.0 - at) + far * at).astype(np.float32)
    if spacing is Spacing.INVERSE:
        return (1.0 / ((1.0 - at) / near + at / far)).astype(np.float32)
    low, high = (x / 2 if x < 1 else 1 - 1 / (2 * x) for x in (near, far))
    mixed = low * (1.0 - at) + high * at
    with np.errstate(divide="ignore"):
        beyond = 1.0 / (2.0 - 2.0 * mixed)
    return np.where(mixed < 0.5, 2.0 * mixed, beyond).astype(np.float32)


def _bins(borders: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Middles and lengths of bins between borders [R, S + 1]."""
    low, high = borders[:, :-1], borders[:, 1:]
    return (low + high) * np.float32(0.5), high - low


def _until_next(t: Float32Array) -> Float32Array:
    lengths = np.empty_like(t)
    np.subtract(t[:, 1:], t[:, :-1], out=lengths[:, :-1])
    lengths[:, -1] = ENDLESS
    return lengths
