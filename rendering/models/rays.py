"""Rays of a camera's pixels: where radiance fields are looked at.

A pixel's ray goes through its centre, (u + ½, v + ½) of ``docs/conventions.md``. All is float64;
a field rounds once, when it has brought the rays into its own coordinates
(``FieldRays``), so that scenes far from the origin lose nothing.

Pixels are visited in blocks of 8×8: neighbours look at the same places, whose parameters are in
a core's cache then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rendering.base import FISHEYE_MAX_THETA_RAD
from scene_store.placement import Placement, rotation_matrix
from splat.camera import Camera, CameraModel, Float64Array

BLOCK_PX = 8
NDC_NEAR = 1.0  # of the plane that normalized device coordinates begin at, world units


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """M rays of the world.

    Attributes:
        origins: [3, M] float64, world units.
        directions: [3, M] float64, unit vectors.
        axial: [M] float64: a point's depth (``rendering.base``) is its distance along the ray times
            this: the cosine to the view axis for a pinhole camera, 1 for others.
        near, far: [M] float64, distances between which the camera sees; near > far where the camera
            has no ray (beyond a fisheye's 145°).
    """

    origins: Float64Array
    directions: Float64Array
    axial: Float64Array
    near: Float64Array
    far: Float64Array

    def __len__(self) -> int:
        return int(self.axial.size)

    def inside(self, placement: Placement) -> Rays:
        """The same rays in the world of a scene that was placed in this one; distances are shorter
        there by the placement's scale."""
        if placement == Placement():
            return self
        turned = rotation_matrix(placement.rotation).T
        shift = np.asarray(placement.translation)[:, None]
        scale = placement.scale
        return Rays(
            _turned(turned, (self.origins - shift) / scale),
            _turned(turned, self.directions),
            self.axial * scale,
            self.near / scale,
            self.far / scale,
        )


def pixels_of(width: int, rows: tuple[int, int]) -> NDArray[np.int64]:
    """[M] indices (row · width + column) of a band's pixels, block by block.

    Args:
        rows: First and end.
    """
    first, end = rows
    v, u = np.divmod(np.arange(first * width, end * width), width)
    order = np.lexsort((u, v, u // BLOCK_PX, v // BLOCK_PX))
    pixels: NDArray[np.int64] = (v * width + u)[order]
    return pixels


def rays_of(camera: Camera, pixels: NDArray[np.int64]) -> Rays:
    """The rays of some pixels [M] of a camera, in their order."""
    v, u = np.divmod(pixels, camera.width)
    x = (u + 0.5 - camera.K[0, 2]) / camera.K[0, 0]
    y = (v + 0.5 - camera.K[1, 2]) / camera.K[1, 1]
    ones = np.ones(len(pixels))
    origin = np.broadcast_to(camera.position[:, None], (3, len(pixels)))
    to_world = camera.viewmat[:3, :3].T
    if camera.model is CameraModel.ORTHO:
        origin = origin + _turned(to_world, np.stack([x, y, 0 * ones]))
        ahead = np.broadcast_to(camera.forward[:, None], (3, len(pixels)))
        return Rays(origin, ahead, ones, camera.near * ones, camera.far * ones)
    if camera.model is CameraModel.FISHEYE:
        theta = np.sqrt(x * x + y * y)
        spread = np.sinc(theta / np.pi)  # sin θ / θ
        inward = np.stack([x * spread, y * spread, np.cos(theta)])
        far = np.where(theta <= FISHEYE_MAX_THETA_RAD, camera.far, -math.inf)
        return Rays(origin, _turned(to_world, inward), ones, camera.near * ones, far)
    axial = 1.0 / np.sqrt(x * x + y * y + 1.0)
    inward = np.stack([x * axial, y * axial, axial])
    return Rays(origin, _turned(to_world, inward), axial, camera.near / axial, camera.far / axial)


def _turned(matrix: Float64Array, vectors: Float64Array) -> Float64Array:
    """``matrix @ vectors`` of [3, M], term by term: no ray's bits depend on how many there are."""
    x, y, z = vectors
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])


@dataclass(frozen=True, slots=True, eq=False)
class NdcRays:
    """Rays in normalized device coordinates (Mildenhall et al. 2020, appendix C).

    Attributes:
        origins: [3, M] float64, on the near plane: their z is −1.
        directions: [3, M] float64, not of unit length: a ray ends at infinity where its parameter
            t' is 1.
        start: [M] distance along the ray of the world to the near plane.
        slope: [M] a sample at t' lies at distance ``start + slope · t' / (1 − t')``.
    """

    origins: Float64Array
    directions: Float64Array
    start: Float64Array
    slope: Float64Array


def ndc_rays(rays: Rays, ndc: tuple[float, float, float]) -> NdcRays:
    """Rays of the world, in which cameras look along −z, in normalized device coordinates.

    A ray that does not go towards −z has no such form; its ``slope`` is not above 0.

    Args:
        ndc: Width, height and focal length, pixels.
    """
    width, height, focal = ndc
    dz = np.where(rays.directions[2] < 0, rays.directions[2], -1.0)
    start = -(NDC_NEAR + rays.origins[2]) / dz
    ox, oy, oz = rays.origins + start * rays.directions
    dx, dy = rays.directions[0] / dz, rays.directions[1] / dz
    sx, sy = -2.0 * focal / width, -2.0 * focal / height
    origins = np.stack([sx * ox / oz, sy * oy / oz, 1.0 + 2.0 * NDC_NEAR / oz])
    directions = np.stack([sx * (dx - ox / oz), sy * (dy - oy / oz), -2.0 * NDC_NEAR / oz])
    slope = np.where(rays.directions[2] < 0, oz / dz, 0.0)
    return NdcRays(origins, directions, start, slope)


def box_span(rays: Rays, lo: Float64Array, hi: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Distances [M] at which rays enter and leave a box of corners [3]; enter > leave if they
    miss it. Infinite corners bound nothing."""
    return box_span_along(rays.origins, rays.directions, lo, hi)


def box_span_along(
    origins: Float64Array, directions: Float64Array, lo: Float64Array, hi: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """As ``box_span``, of rays ``origins + t · directions`` [3, M]: at which t."""
    enter = np.full(origins.shape[1], -math.inf)
    leave = np.full(origins.shape[1], math.inf)
    for o, d, low, high in zip(origins, directions, lo, hi, strict=True):
        parallel = d == 0
        slope = np.where(parallel, 1.0, d)
        first, second = (low - o) / slope, (high - o) / slope
        beside = np.where((low <= o) & (o < high), -math.inf, math.inf)
        enter = np.maximum(enter, np.where(parallel, beside, np.minimum(first, second)))
        leave = np.minimum(leave, np.where(parallel, -beside, np.maximum(first, second)))
    return enter, leave
