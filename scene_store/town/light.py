"""Light that is baked into the town: sun and sky, reflections, shadows.

Colours of surfaces are computed in linear light with a square-root transfer (close to sRGB)
and stored as displayed. What changes with the view (the sky in a window or in the river) is
fitted with spherical harmonics of the view direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scene_store.town.plan import Cell
from scene_store.town.recipe import load_recipe
from scene_store.town.site import House, Roof, Site
from splat.gaussians import SH_COUNT_OF_DEGREE, Float32Array
from splat.harmonics import sh_basis

# Heights (degrees above the horizon) up to which buildings hide the sky from a reflection.
SKYLINES_DEG = (2.0, 16.0, 34.0)
_NORMALS = 384
_VIEWS = 480
_MAP_STEP = 0.5
_MAP_MARGIN = 6.0


def sky_color(directions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Displayed colour [..., 3] of the sky towards unit directions [..., 3] (y down).

    Below the horizon it is the sky's mirror image, which is what still water shows.
    """
    light = load_recipe().light
    d = np.asarray(directions, np.float64)
    elevation = np.abs(d[..., 1])
    upright = np.stack([d[..., 0], -elevation, d[..., 2]], axis=-1)
    cosine = np.clip(upright @ light.to_sun.astype(np.float64), 0.0, 1.0)
    haze = np.exp(-4.2 * elevation)[..., None]
    color = light.zenith * (1.0 - haze) + light.horizon * haze
    warmth = (0.85 * cosine**3 * np.exp(-2.6 * elevation))[..., None]
    color = color * (1.0 - warmth) + light.glow * warmth
    out: NDArray[np.float64] = (
        color + (0.22 * cosine**24 + 0.9 * cosine**700)[..., None] * light.glow
    )
    return out


@dataclass(frozen=True, slots=True, eq=False)
class MirrorTable:
    """Reflections as harmonics, for a fixed fan of surface normals.

    Attributes:
        normals: [M, 3] unit vectors all over the sphere, and straight up last.
        sh: [len(SKYLINES_DEG), M, K, 3] reflected light without the constant 0.5, for a
            mirror that reflects by Fresnel's law (Schlick) with ``F0`` = 0.12.
    """

    normals: Float32Array
    sh: Float32Array

    def nearest(self, normals: Float32Array) -> NDArray[np.intp]:
        """[n] index of the fan's normal that is closest to each of [n, 3]."""
        index: NDArray[np.intp] = np.argmax(normals @ self.normals.T, axis=1)
        return index


@lru_cache(maxsize=4)
def mirror_table(sh_degree: int) -> MirrorTable:
    """The table for one SH degree: least squares over the views that see the surface."""
    normals = np.concatenate([_fan(_NORMALS), [[0.0, -1.0, 0.0]]])
    views = _fan(_VIEWS)  # from the camera into the surface
    basis = sh_basis(views, sh_degree)  # [V, K]
    bases = SH_COUNT_OF_DEGREE[sh_degree]
    facing = -normals @ views.T
    weights = np.where(facing > 0.04, facing, 0.0)
    squares = (basis[:, :, None] * basis[:, None, :]).reshape(len(views), -1)
    gram = (weights @ squares).reshape(-1, bases, bases)
    gram += 0.4 * np.diag([0.0] + [1.0] * (bases - 1))
    reflected = views + 2.0 * facing[..., None] * normals[:, None]
    fresnel = 0.12 + 0.88 * (1.0 - np.maximum(facing, 0.0)) ** 4
    sky = sky_color(reflected)
    sh = np.empty((len(SKYLINES_DEG), len(normals), bases, 3), np.float32)
    for k, skyline in enumerate(SKYLINES_DEG):
        radiance = _surroundings(sky, -reflected[..., 1:2], np.sin(np.radians(skyline)))
        radiance *= (fresnel * weights)[..., None]
        sh[k] = np.linalg.solve(gram, basis.T @ radiance)
    return MirrorTable(normals.astype(np.float32), sh)


def _surroundings(
    sky: NDArray[np.float64], height: NDArray[np.float64], skyline: float
) -> NDArray[np.float64]:
    """What a reflection that rises by ``height`` meets: ground, houses opposite, the sky."""
    house = np.array([0.50, 0.43, 0.36])
    ground = np.array([0.30, 0.28, 0.26])
    below = np.clip(0.5 - height * 6.0, 0.0, 1.0)
    behind = np.clip(0.5 + (skyline - height) * 8.0, 0.0, 1.0)
    return (sky * (1.0 - behind) + house * behind) * (1.0 - below) + ground * below


def _fan(count: int) -> NDArray[np.float64]:
    """Points spread evenly over the unit sphere (spherical Fibonacci)."""
    k = np.arange(count) + 0.5
    height = 1.0 - 2.0 * k / count
    angle = k * np.pi * (3.0 - np.sqrt(5.0))
    ring = np.sqrt(1.0 - height * height)
    return np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], axis=1)


def surface_light(normals: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Linear (ambient, direct sun) irradiance, both [n, 3], of surfaces facing [n, 3]."""
    light = load_recipe().light
    up = (0.5 - 0.5 * normals[:, 1:2]).astype(np.float32)
    ambient = light.sky * up + light.bounce * (1.0 - up)
    toward = np.einsum("ij,j->i", normals, light.to_sun)
    # Walls on the sun's side also see the bright half of the sky.
    ambient = ambient * (1.0 + 0.22 * toward)[:, None]
    sun = light.sun * np.maximum(toward, 0.0)[:, None]
    return ambient.astype(np.float32), sun.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ShadeMap:
    """Shadows and openness of one cell, by height, on a square raster of the plan.

    Attributes:
        x0, z0: Plan coordinates of the raster's first node; its step is half a metre.
        built: [rows z, columns x] height under which houses hide the sun.
        leaves: The same for tree crowns, which let some light through.
        crowd: Mean height of what stands around, metres.
    """

    x0: float
    z0: float
    built: Float32Array
    leaves: Float32Array
    crowd: Float32Array

    def shade(
        self, x: Float32Array, z: Float32Array, height: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """(sun 0…1, openness to the sky 0…1) at plan points, float32 [n] each."""
        rows, columns = self.built.shape
        fx = np.clip((x - self.x0) * (1.0 / _MAP_STEP), 0.0, columns - 1.001)
        fz = np.clip((z - self.z0) * (1.0 / _MAP_STEP), 0.0, rows - 1.001)
        ix, iz = fx.astype(np.int32), fz.astype(np.int32)
        fx -= ix
        fz -= iz
        node = iz * np.int32(columns) + ix
        built = _bilinear(self.built, node, fx, fz)
        leaves = _bilinear(self.leaves, node, fx, fz)
        # A penumbra of about a metre in height; leaves shade softer and never fully.
        sun = np.clip((height - built) * 0.9 + 0.65, 0.0, 1.0)
        sun *= 1.0 - 0.72 * np.clip((leaves - height) * 0.35, 0.0, 1.0)
        depth = np.maximum(np.take(self.crowd, node) - height, 0.0)
        return sun, 1.0 / (1.0 + 0.085 * depth)


def _bilinear(
    grid: Float32Array, node: NDArray[np.int32], fx: Float32Array, fz: Float32Array
) -> Float32Array:
    flat, columns = grid.ravel(), grid.shape[1]
    near = np.take(flat, node)
    near += (np.take(flat, node + 1) - near) * fx
    far = np.take(flat, node + columns)
    far += (np.take(flat, node + columns + 1) - far) * fx
    near += (far - near) * fz
    return near


def shade_map(cell: Cell, around: tuple[Site, ...]) -> ShadeMap:
    """Rasterize what stands ``around`` and sweep its shadows across ``cell``."""
    light = load_recipe().light
    horizontal = float(np.hypot(light.to_sun[0], light.to_sun[2]))
    toward = np.array([light.to_sun[0], light.to_sun[2]]) / horizontal
    drop = -float(light.to_sun[1]) / horizontal  # height lost per metre of shadow
    reach = 46.0
    x0, z0 = cell.x0 - _MAP_MARGIN, cell.z0 - _MAP_MARGIN
    columns = int((cell.x1 - cell.x0 + 2 * _MAP_MARGIN) / _MAP_STEP) + 2
    rows = int((cell.z1 - cell.z0 + 2 * _MAP_MARGIN) / _MAP_STEP) + 2
    pad = int(reach / _MAP_STEP)
    built = np.zeros((rows + 2 * pad, columns + 2 * pad), np.float32)
    leaves = np.zeros_like(built)
    corner = (x0 - reach, z0 - reach)
    # Only what stands in the cell or between it and the sun can matter.
    low_x, low_z = (v + reach * min(t, 0.0) for v, t in zip((x0, z0), toward, strict=True))
    high_x = cell.x1 + _MAP_MARGIN + reach * max(toward[0], 0.0)
    high_z = cell.z1 + _MAP_MARGIN + reach * max(toward[1], 0.0)
    for site in around:
        for house in site.houses:
            a, b, c, d = house.box
            if a < high_x and b > low_x and c < high_z and d > low_z:
                _raise_house(built, house, corner)
        for tree in site.trees:
            if low_x < tree.x < high_x and low_z < tree.z < high_z:
                _raise_dome(leaves, tree.x, tree.z, tree.crown, tree.height, corner)
    return ShadeMap(
        x0,
        z0,
        _sweep(built, toward, drop, pad, rows, columns, 0.9),
        _sweep(leaves, toward, drop, pad, rows, columns, 0.0),
        _spread(np.maximum(built, 0.7 * leaves))[pad : pad + rows, pad : pad + columns].copy(),
    )


def _window(
    grid: Float32Array, box: tuple[float, float, float, float], corner: tuple[float, float]
) -> tuple[slice, slice, Float32Array, Float32Array]:
    """The nodes inside a box: (row slice, column slice, their z, their x)."""
    x0, x1, z0, z1 = box
    c0 = max(0, int(np.ceil((x0 - corner[0]) / _MAP_STEP)))
    c1 = min(grid.shape[1], int(np.floor((x1 - corner[0]) / _MAP_STEP)) + 1)
    r0 = max(0, int(np.ceil((z0 - corner[1]) / _MAP_STEP)))
    r1 = min(grid.shape[0], int(np.floor((z1 - corner[1]) / _MAP_STEP)) + 1)
    z = (corner[1] + _MAP_STEP * np.arange(r0, max(r0, r1))).astype(np.float32)
    x = (corner[0] + _MAP_STEP * np.arange(c0, max(c0, c1))).astype(np.float32)
    return slice(r0, max(r0, r1)), slice(c0, max(c0, c1)), z[:, None], x[None, :]


def _raise_house(grid: Float32Array, house: House, corner: tuple[float, float]) -> None:
    rows, columns, z, x = _window(grid, house.box, corner)
    x0, x1, z0, z1 = house.box
    across, low, high = (z, z0, z1) if house.ridge_along == "x" else (x, x0, x1)
    inward = 1.0 - np.abs(2.0 * (across - low) / (high - low) - 1.0)
    if house.roof is Roof.SPIRE:
        inward = np.minimum(inward, 1.0 - np.abs(2.0 * (z - z0) / (z1 - z0) - 1.0))
    top = house.eaves + (house.ridge - house.eaves) * inward
    grid[rows, columns] = np.maximum(grid[rows, columns], top.astype(np.float32))


def _raise_dome(
    grid: Float32Array, x: float, z: float, radius: float, top: float, corner: tuple[float, float]
) -> None:
    box = (x - radius, x + radius, z - radius, z + radius)
    rows, columns, nz, nx = _window(grid, box, corner)
    away = ((nx - x) ** 2 + (nz - z) ** 2) / (radius * radius)
    dome = np.where(away < 1.0, top - 0.35 * top * away, 0.0).astype(np.float32)
    grid[rows, columns] = np.maximum(grid[rows, columns], dome)


def _sweep(
    grid: Float32Array,
    toward: NDArray[np.floating],
    drop: float,
    pad: int,
    rows: int,
    columns: int,
    start: float,
) -> Float32Array:
    """Maximum over steps towards the sun of what stands there, less the shadow's fall."""
    shadow = np.full((rows, columns), -1.0, np.float32)
    for step in np.arange(start, pad * _MAP_STEP - 1.0, 0.7):
        r = pad + round(toward[1] * step / _MAP_STEP)
        c = pad + round(toward[0] * step / _MAP_STEP)
        lowered = grid[r : r + rows, c : c + columns] - np.float32(drop * step)
        np.maximum(shadow, lowered, out=shadow)
    return shadow


def _spread(grid: Float32Array, radius: int = 9) -> Float32Array:
    """Box mean over (2 radius + 1)² nodes."""
    out = grid
    for axis in (0, 1):
        total = np.cumsum(
            np.pad(
                out, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge"
            ),
            axis=axis,
            dtype=np.float64,
        )
        high = np.take(total, np.arange(2 * radius + 1, total.shape[axis]), axis=axis)
        low = np.take(total, np.arange(0, total.shape[axis] - 2 * radius - 1), axis=axis)
        out = ((high - low) / (2 * radius + 1)).astype(np.float32)
    return out
