"""Marching as it is written down: step after step, every one of them tested."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rendering.models.components.contracts import DONE, Float32Array, Int32Array, Samples
from splat.camera import Float64Array
from splat.fields import OccupancySampler


class ReferenceMarcher:
    """See ``contracts.Marcher``; all rays step together, in float64.

    Raises:
        ValueError: If the sampler's sizes are absurd.
    """

    def __init__(self, sampler: OccupancySampler) -> None:
        cascades, *sides = sampler.occupied.shape
        if not 1 <= cascades <= 16 or len(set(sides)) != 1 or not 1 <= sides[0] <= 1024:
            raise ValueError(f"grids of {sampler.occupied.shape} are no cubes of 1 to 1024 cells")
        if not 1e-6 <= sampler.min_step <= sampler.max_step <= 1e6:
            raise ValueError(f"steps from {sampler.min_step:g} to {sampler.max_step:g}")
        if not 0 <= sampler.cone_angle <= 1:
            raise ValueError(f"a cone's angle of {sampler.cone_angle:g}")
        self._sampler = sampler

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
        origin, direction = origins.astype(np.float64), directions.astype(np.float64)
        scale = np.sqrt((direction * direction).sum(axis=0))
        with np.errstate(all="ignore"):
            u = enter * scale
            u = u + self._step(u) / 2
            is_ray = np.isfinite(u) & np.isfinite(origin).all(0) & (scale > 0) & (first < last)
            leave = self._leaves(origin, direction / scale)
            wanted = cursors.copy()
            running = is_ray & (wanted != DONE)
            cursors[~running] = DONE
            found: list[tuple[Int32Array, Float32Array, Float32Array]] = []
            counts = np.zeros(len(u), np.int64)
            step = 0
            while running.any():
                t = (u / scale).astype(np.float32)
                ends = running & ~((t < last) & (u <= leave))
                cursors[ends] = DONE
                running &= ~ends
                full = running & (counts == most)
                cursors[full] = step
                running &= ~full
                point = origin + u * direction / scale
                here = running & (step >= wanted) & (t >= first) & self._occupied(point)
                rays = np.flatnonzero(here).astype(np.int32)
                found.append((rays, t[rays], (self._step(u) / scale).astype(np.float32)[rays]))
                counts += here
                u = u + self._step(u)
                step += 1
        return _packed(found)

    def _step(self, u: Float64Array) -> Float64Array:
        sampler = self._sampler
        return np.clip(u * sampler.cone_angle, sampler.min_step, sampler.max_step)

    @staticmethod
    def _leaves(
        origin: Float64Array,
        unit: Float64Array,
    ) -> Float64Array:
        """u at which rays leave the unit cube; below every u if they never are in it."""
        ends = np.where(unit > 0, 1.0 - origin, 0.0 - origin) / unit
        outside = (unit == 0) & ((origin < 0) | (origin > 1))
        leave = np.where(unit == 0, np.inf, ends).min(axis=0)
        result: Float64Array = np.where(outside.any(axis=0), -np.inf, leave)
        return result

    def _occupied(self, point: Float64Array) -> NDArray[np.bool_]:
        occupied = self._sampler.occupied
        cascades, side = occupied.shape[:2]
        offset = point - 0.5
        farthest = np.abs(offset).max(axis=0)
        inside = farthest <= 0.5
        found = np.zeros(len(farthest), np.bool_)
        for cascade in range(cascades - 1, -1, -1):  # finer ones overrule
            half = 2.0 ** (cascade - cascades)
            cell = ((offset / (2 * half) + 0.5) * side).astype(np.int64).clip(0, side - 1)
            covers = farthest <= half
            found = np.where(covers, occupied[cascade, cell[2], cell[1], cell[0]], found)
        result: NDArray[np.bool_] = found & inside
        return result


def _packed(found: list[tuple[Int32Array, Float32Array, Float32Array]]) -> Samples:
    none = np.zeros(0, np.float32)
    ray = np.concatenate([np.zeros(0, np.int32), *(part[0] for part in found)])
    t = np.concatenate([none, *(part[1] for part in found)])
    length = np.concatenate([none, *(part[2] for part in found)])
    order = np.argsort(ray, kind="stable")
    return Samples(ray[order], t[order], length[order])
