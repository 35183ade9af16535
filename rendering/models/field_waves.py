"""Rays through fields: sampled, evaluated and composited, a few samples of each at a time.

A *wave* is as many rays as fit a bound of memory. In every round each ray that still sees something
gets its next samples from each field that it passes; those up to the distance to which all fields
have given theirs are evaluated, merged by distance, and composited. So nothing is evaluated behind
what is opaque, and several fields are one picture to the sample.

What a ray comes to depends on nothing but that ray: not on its wave, nor on who draws it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import TRANSMITTANCE_STOP, CancelFlag, Outputs, RasterSettings
from rendering.cancel import raise_if_cancelled
from rendering.models.components import Accumulators, Components, Samples
from rendering.models.field_empty import contracted
from rendering.models.field_rays import FieldRays
from rendering.models.field_scene import DrawnBlock
from rendering.models.fragments import Fragments
from rendering.models.rays import Rays
from splat.fields import BoxSampler

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

FIRST_SAMPLES = 16  # of a ray in its first rounds; more in later ones
MOST_SAMPLES = 64
HALF = np.float32(0.5)


@dataclass(slots=True)
class WaveStats:
    """What some waves did.

    Attributes:
        hit: Rays that pass a field.
        samples: Evaluated with their colours.
        seconds: By stage, of the threads together.
    """

    hit: int = 0
    samples: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: WaveStats) -> None:
        """Those of another wave."""
        self.hit += other.hit
        self.samples += other.samples
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True, slots=True, eq=False)
class WaveImage:
    """What the rays of a wave see.

    Attributes:
        alpha, depth, median_depth: [R] float32; depths as of ``RasterImage``.
        color: [3, R] float32, over the background.
        count: [R] int32; 0 unless it is asked for.
    """

    alpha: Float32Array
    color: Float32Array
    depth: Float32Array
    median_depth: Float32Array
    count: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Samples of a wave, by ray and then by distance.

    Attributes:
        ray: [N] int32.
        distance: [N] float32, in the scene.
        depth: [N] float32.
        optical: [N] float32, density times length.
        color: [3, N] float32.
        least: [N] float32, weights up to which a sample has no colour.
    """

    ray: NDArray[np.int32]
    distance: Float32Array
    depth: Float32Array
    optical: Float32Array
    color: Float32Array
    least: Float32Array

    @classmethod
    def merged(cls, parts: Sequence[_Batch]) -> _Batch:
        """Of several sources; those at the same distance in the order of these."""
        if len(parts) == 1:
            return parts[0]
        names = ("ray", "distance", "depth", "optical", "color", "least")
        whole: list[NDArray[Any]] = [
            np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names
        ]
        order = np.lexsort((whole[1], whole[0]))  # stable
        return cls(*(np.ascontiguousarray(values[..., order]) for values in whole))


class _Source:
    """The samples of one block, of the rays that pass it."""

    def __init__(self, block: DrawnBlock, rays: Rays, quick: bool) -> None:
        self._block = block
        whole = FieldRays.of(rays, block.ready.block)
        self.hit = np.flatnonzero(whole.first < whole.last)
        self._rays = whole.picked(self.hit)
        self._space = self._rays.in_space(block.ready.block.field.space)
        self._sampling = block.ready.sampling(self._rays, quick=quick) if len(self.hit) else None
        self._pending = _no_samples()
        self._waiting = np.zeros(len(self.hit), np.bool_)

    def advance(self, alive: BoolArray, most: int) -> Float32Array:
        """Has at hand the next samples of rays that have none; the distance [R] up to which it has
        them all."""
        reached = np.full(len(alive), np.inf, np.float32)
        if self._sampling is None:
            return reached
        here = alive[self.hit]
        fresh = self._sampling.take(here & ~self._waiting, most)
        if len(fresh):
            self._pending = _together(self._pending, fresh)
        self._waiting[:] = False
        self._waiting[self._pending.ray] = True
        more = here & ~self._sampling.done
        last = _last_of_each(self._pending.ray)
        furthest = self._rays.distances(self._pending.ray[last], self._pending.t[last])
        of_rays = np.full(len(self.hit), np.inf, np.float32)
        of_rays[self._pending.ray[last]] = furthest
        reached[self.hit[more]] = of_rays[more]
        return reached

    @property
    def is_done(self) -> BoolArray:
        """[hit] rays of which nothing is left."""
        if self._sampling is None:
            return np.ones(0, np.bool_)
        done: BoolArray = self._sampling.done & ~self._waiting
        return done

    def release(
        self, alive: BoolArray, reached: Float32Array, axial: NDArray[np.float64]
    ) -> _Batch:
        """Evaluates what lies up to a distance [R]; drops what nobody sees any more."""
        pending = self._pending
        ray = self.hit[pending.ray]
        distance = self._rays.distances(pending.ray, pending.t)
        seen = alive[ray]
        now = seen & (distance <= reached[ray])
        later = seen & ~now
        self._pending = _some(pending, later)
        self._waiting[:] = False
        self._waiting[self._pending.ray] = True
        samples = _some(pending, now)
        density, color = self._evaluated(samples)
        distance = distance[now]
        at: NDArray[np.int32] = ray[now].astype(np.int32)
        with np.errstate(over="ignore"):
            optical = density * (samples.length * self._rays.lengths[samples.ray])
        sampler = self._block.ready.block.field.sampler
        least = sampler.color_weight if isinstance(sampler, BoxSampler) else -1.0
        return _Batch(
            at,
            distance,
            (distance * axial[at]).astype(np.float32),
            optical,
            color,
            np.full(len(at), least, np.float32),
        )

    def _evaluated(self, samples: Samples) -> tuple[Float32Array, Float32Array]:
        block, space = self._block, self._space
        if not len(samples):
            return np.zeros(0, np.float32), np.zeros((3, 0), np.float32)
        density, color = block.ready.evaluator.evaluate_along(
            space.origins, space.directions, space.views, samples
        )
        if block.overlap is not None:
            points = self._rays.points(samples.ray, samples.t)
            density = density * block.overlap.weights(points)
        occupied = block.ready.hidden_by_occupancy
        if occupied is not None:
            y = space.origins[:, samples.ray] + samples.t * space.directions[:, samples.ray]
            y = contracted(y, block.ready.block.field.space.contraction)
            density = density * occupied_at(occupied, y)
        if block.weight != 1.0:
            density = density * np.float32(block.weight)
        if block.tint_share:
            tint = np.array(block.tint, np.float32)[:, None]
            color = color + np.float32(block.tint_share) * (tint - color)
        return density, color


def occupied_at(occupied: BoolArray, points: Float32Array) -> BoolArray:
    """[N] whether points [3, N] of the unit cube lie in an occupied cell of the finest cascade that
    covers them (``splat.fields.OccupancySampler``)."""
    cascades, side = occupied.shape[:2]
    middle = points - HALF
    reach = np.abs(middle).max(axis=0)
    cascade = np.zeros(points.shape[1], np.int64)
    for finer in range(cascades - 1):
        cascade += reach * np.float32(2.0 ** (cascades - 1 - finer)) >= HALF
    scaled = middle * np.exp2(cascades - 1 - cascade).astype(np.float32) + HALF
    cells = np.clip(np.floor(scaled * side), 0, side - 1).astype(np.int64)
    found: BoolArray = occupied[cascade, cells[2], cells[1], cells[0]] & (reach <= HALF)
    return found


def draw_wave(
    blocks: Sequence[DrawnBlock],
    rays: Rays,
    fragments: Fragments | None,
    settings: RasterSettings,
    components: Components,
    cancel: CancelFlag | None,
) -> tuple[WaveImage, WaveStats]:
    """What some rays see of some blocks.

    Args:
        fragments: Surfaces drawn by others, in front of and between samples; None without.

    Raises:
        RenderCancelled: If ``cancel`` is set.
    """
    stats, clock = WaveStats(), _Clock()
    quick = settings.transmittance_stop > TRANSMITTANCE_STOP
    sources = [_Source(block, rays, quick) for block in blocks]
    sources = [source for source in sources if len(source.hit)]
    passed = np.zeros(len(rays), np.bool_)
    for source in sources:
        passed[source.hit] = True
    stats.hit = int(passed.sum())
    clock.lap(stats, "sample")
    seen = Accumulators.empty(len(rays))
    count = np.zeros(len(rays), np.int32)
    stop = np.float32(settings.transmittance_stop)
    unseen = None if fragments is None else _batch_of(fragments, rays.axial)
    alive = np.ones(len(rays), np.bool_)
    number = 0
    while True:
        raise_if_cancelled(cancel)
        most = min(MOST_SAMPLES, FIRST_SAMPLES << (number // 2))
        reached = np.full(len(rays), np.inf, np.float32)
        for source in sources:
            np.minimum(reached, source.advance(alive, most), out=reached)
        clock.lap(stats, "sample")
        parts = [source.release(alive, reached, rays.axial) for source in sources]
        stats.samples += sum(len(part.ray) for part in parts)
        clock.lap(stats, "network")
        if unseen is not None:
            now = (unseen.distance <= reached[unseen.ray]) & alive[unseen.ray]
            parts.append(_picked(unseen, now))
            unseen = _picked(unseen, ~now & alive[unseen.ray])
        if parts:
            _composite(_Batch.merged(parts), seen, count, settings, components)
        alive &= seen.transmittance > stop
        clock.lap(stats, "composite")
        left = any((alive[source.hit] & ~source.is_done).any() for source in sources)
        if not left and (unseen is None or not alive[unseen.ray].any()):
            break
        number += 1
    image = _finished(seen, count, settings, _keeps_last_color(blocks), passed)
    clock.lap(stats, "composite")
    return image, stats


def _keeps_last_color(blocks: Sequence[DrawnBlock]) -> bool:
    """Whether what shines through has the colour of the last sample."""
    return bool(blocks) and all(each.ready.block.field.last_sample_background for each in blocks)


def _composite(
    batch: _Batch,
    seen: Accumulators,
    count: NDArray[np.int32],
    settings: RasterSettings,
    components: Components,
) -> None:
    color = batch.color
    counts = bool(settings.outputs & Outputs.COUNT)
    if not len(batch.ray):
        return
    if counts or (batch.least >= 0).any():
        before = transmittances(batch.ray, batch.optical, seen.transmittance)
        taken = before > TRANSMITTANCE_STOP
        if counts:
            np.add.at(count, batch.ray, taken & (batch.optical > 0))
        weights = -before * np.expm1(-batch.optical)
        color = np.where(weights > batch.least, color, np.float32(0))
    ones = np.ones_like(batch.optical)
    samples = Samples(batch.ray, batch.depth, ones)
    components.composite(samples, batch.optical, color, 1.0, seen)


def transmittances(
    ray: NDArray[np.int32], optical: Float32Array, at_first: Float32Array
) -> Float32Array:
    """[N] in front of each sample, of rays that have so much left at first [R]; samples are in the
    order of their rays."""
    starts = np.flatnonzero(np.diff(ray, prepend=-1))
    lengths = np.diff(starts, append=len(ray))
    left = at_first[ray[starts]]
    out = np.empty_like(optical)
    for number in range(int(lengths.max(initial=0))):
        there = lengths > number
        places = starts[there] + number
        out[places] = left[there]
        left[there] *= np.exp(-optical[places])
    return out


def _finished(
    seen: Accumulators,
    count: NDArray[np.int32],
    settings: RasterSettings,
    keeps_last: bool,
    passed: BoolArray,
) -> WaveImage:
    """Sums as images; ``rendering.base`` says of what."""
    left = seen.transmittance
    alpha = np.float32(1) - left
    color = seen.color
    there = alpha > 0
    depth = np.divide(seen.depth, alpha, out=np.zeros_like(alpha), where=there)
    if settings.transmittance_stop > TRANSMITTANCE_STOP:
        opaque = left <= np.float32(settings.transmittance_stop)
        np.divide(color, alpha, out=color, where=opaque)
        alpha = np.where(opaque, np.float32(1), alpha)
    rest = np.float32(1) - alpha
    if keeps_last:
        color = color + np.where(passed, rest, np.float32(0)) * seen.last_color
        alpha = np.where(passed, np.float32(1), alpha)
        rest = np.float32(1) - alpha
    background = np.array(settings.background, np.float32)[:, None]
    return WaveImage(alpha, color + rest * background, depth, seen.median, count)


def _batch_of(fragments: Fragments, axial: NDArray[np.float64]) -> _Batch:
    """Fragments as samples that need no evaluation."""
    ray, depth = fragments.ray, fragments.depth
    with np.errstate(divide="ignore"):
        optical = np.minimum(-np.log1p(-fragments.alpha), np.float32(80.0))
    return _Batch(
        ray,
        (depth / axial[ray]).astype(np.float32),
        depth,
        optical.astype(np.float32),
        fragments.color,
        np.full(len(ray), -1.0, np.float32),
    )


def _picked(batch: _Batch, which: BoolArray) -> _Batch:
    return _Batch(
        batch.ray[which],
        batch.distance[which],
        batch.depth[which],
        batch.optical[which],
        np.ascontiguousarray(batch.color[:, which]),
        batch.least[which],
    )


def _no_samples() -> Samples:
    return Samples(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))


def _some(samples: Samples, which: BoolArray) -> Samples:
    return Samples(samples.ray[which], samples.t[which], samples.length[which])


def _together(first: Samples, second: Samples) -> Samples:
    """By ray; no ray is in both."""
    if not len(first):
        return second
    ray = np.concatenate([first.ray, second.ray])
    order = np.argsort(ray, kind="stable")
    t = np.concatenate([first.t, second.t])[order]
    return Samples(ray[order], t, np.concatenate([first.length, second.length])[order])


def _last_of_each(ray: NDArray[np.int32]) -> NDArray[np.intp]:
    return np.flatnonzero(np.diff(ray, append=np.int32(-1)))


class _Clock:
    """Where a wave's time goes."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self, stats: WaveStats, stage: str) -> None:
        now = time.perf_counter()
        stats.seconds[stage] = stats.seconds.get(stage, 0.0) + now - self._last
        self._last = now
