"""Rays as a field takes them: in its own coordinates, with its own parameter t."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.models.rays import Rays, box_span, ndc_rays
from scene_store.models.field_bytes import FieldBlock
from splat.camera import Float64Array
from splat.fields import Field, FieldSpace
from splat.fields import Rays as RayParameter

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FieldRays:
    """M rays in the coordinates of a field: ``origins + t · directions``, t as the field has it
    (``splat.fields.Rays``).

    Attributes:
        world_origins, world_directions: [3, M] float64, in the field's world; directions for one
            unit of t.
        views: [3, M] float32, directions that networks take, in the world's axes.
        lengths: [M] float32, lengths of the field's world for one unit of t, as the field
            multiplies densities with them.
        first, last: [M] float32: samples with ``first <= t < last`` are seen: in front of the
            camera, and in the block's box.
        enter, leave: [M] float32: t at which they enter and leave the field's own box.
        distance: [M] float64: distances in the scene for one unit of t.
        axial: [M] float64: depths for one unit of distance.
        start, slope: [M] float64 of device coordinates, where t is none of the world's; None else.
    """

    world_origins: Float64Array
    world_directions: Float64Array
    views: Float32Array
    lengths: Float32Array
    first: Float32Array
    last: Float32Array
    enter: Float32Array
    leave: Float32Array
    distance: Float64Array
    axial: Float64Array
    start: Float64Array | None = None
    slope: Float64Array | None = None

    def __len__(self) -> int:
        return int(self.lengths.size)

    @classmethod
    def of(cls, rays: Rays, block: FieldBlock) -> FieldRays:
        """Rays of the scene, as a block of it takes them."""
        inside, field = rays.inside(block.placement), block.field
        if field.ndc is not None:
            return _in_device_coordinates(inside, block, rays.axial)
        lo, hi = field.space.lo, field.space.hi
        enter, leave = box_span(inside, lo, hi)
        seen = box_span(inside, np.maximum(lo, block.lo), np.minimum(hi, block.hi))
        first, last = np.maximum(inside.near, seen[0]), np.minimum(inside.far, seen[1])
        unit = np.ones(len(rays)) if field.rays is RayParameter.LENGTH else 1.0 / rays.axial
        directions = inside.directions * unit
        is_raw = field.rays is RayParameter.RAW
        return cls(
            inside.origins,
            directions,
            (directions if is_raw else inside.directions).astype(np.float32),
            ((1.0 if is_raw else unit) * np.full(len(rays), field.space.density_scale)).astype(
                np.float32
            ),
            (first / unit).astype(np.float32),
            (last / unit).astype(np.float32),
            (enter / unit).astype(np.float32),
            (leave / unit).astype(np.float32),
            unit * block.placement.scale,
            rays.axial,
        )

    def picked(self, index: NDArray[np.intp]) -> FieldRays:
        """Some of them."""

        def of(values: Any) -> Any:
            return None if values is None else values[..., index]

        return FieldRays(**{each.name: of(getattr(self, each.name)) for each in fields(self)})

    def points(self, ray: NDArray[np.int32], t: Float32Array) -> Float64Array:
        """[3, N] in the field's world, of samples at t [N] of some rays [N]."""
        along: Float64Array = t * self.world_directions[:, ray]
        return self.world_origins[:, ray] + along

    def distances(self, ray: NDArray[np.int32], t: Float32Array) -> Float32Array:
        """In the scene, of samples at t [N] of some rays [N]."""
        along = t.astype(np.float64)
        if self.start is not None and self.slope is not None:
            with np.errstate(divide="ignore"):
                along = self.start[ray] + self.slope[ray] * along / (1.0 - along)
        return (along * self.distance[ray]).astype(np.float32)

    def in_space(self, space: FieldSpace) -> SpaceRays:
        """As networks of a space take them."""
        matrix, shift = space.world_to_field[:, :3], space.world_to_field[:, 3]
        origins = _product(matrix, self.world_origins) + shift[:, None]
        directions = _product(matrix, self.world_directions)
        return SpaceRays(
            origins.astype(np.float32),
            directions.astype(np.float32),
            self._turned_views(matrix),
        )

    def _turned_views(self, matrix: Float64Array) -> Float32Array:
        """By the rotation of a space, which may scale its axes beside it."""
        rotation = matrix / np.sqrt((matrix * matrix).sum(axis=1, keepdims=True))
        if np.array_equal(rotation, np.eye(3)):
            return self.views
        return _product(rotation, self.views.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class SpaceRays:
    """Rays in the coordinates of a ``FieldSpace``, before its contraction.

    Attributes:
        origins, directions: [3, M] float32; directions for one unit of t.
        views: [3, M] float32, what networks of the space take as directions.
    """

    origins: Float32Array
    directions: Float32Array
    views: Float32Array


def _in_device_coordinates(rays: Rays, block: FieldBlock, axial: Float64Array) -> FieldRays:
    field: Field = block.field
    assert field.ndc is not None
    ndc = ndc_rays(rays, field.ndc)
    towards = ndc.slope > 0

    def parameter(distance: Float64Array) -> Float64Array:
        """Of a distance: the inverse of ``NdcRays.slope``; 1 at infinity."""
        ahead = np.maximum(distance - ndc.start, 0.0) / np.where(towards, ndc.slope, 1.0)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(ahead), ahead / (1.0 + ahead), 1.0)

    # Its far end is at infinity: a camera without a far end sees that, too.
    last = np.where(np.isfinite(rays.far), parameter(rays.far), 2.0)
    lengths = np.sqrt((ndc.directions * ndc.directions).sum(axis=0))
    return FieldRays(
        ndc.origins,
        ndc.directions,
        rays.directions.astype(np.float32),
        (lengths * field.space.density_scale).astype(np.float32),
        np.where(towards, parameter(rays.near), np.inf).astype(np.float32),
        last.astype(np.float32),
        np.full(len(rays), -np.inf, np.float32),
        np.full(len(rays), np.inf, np.float32),
        np.full(len(rays), block.placement.scale),
        axial,
        ndc.start,
        ndc.slope,
    )


def _product(matrix: Float64Array, vectors: Float64Array) -> Float64Array:
    """[3, 3] times [3, M], term by term: no ray's bits depend on how many there are."""
    x, y, z = vectors
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])
