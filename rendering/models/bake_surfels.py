"""From pictures with depths to Gaussians: what a bake begins with.

Pixels are carried back to the surface that they show. Points that fall into one cell of a grid
become one flat Gaussian. Cells are as large as a pixel of the nearest camera sees there, times one
factor for all, so that their number comes to what is wanted; where a surface is seen from near by,
what is seen of it from afar is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.harmonics import rgb_to_sh0

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

MOST_POINTS = 3_000_000  # that are kept in memory: about 120 MB
LEAST_ALPHA = 0.02  # a pixel that shows less shows nothing
# Of a Gaussian's standard deviations, in sides of its cell.
ALONG, ACROSS = 0.4, 0.12
EDGE = 3.0  # a step in depth of so many pixels' sizes is no slope
MOST_CELLS = 1 << 20  # a side of the grid, at its finest
LEAST_CHILDREN = 2  # of its eight parts that are seen from nearer: then a cell is
MOST_OPACITY = 0.9
COUNT_TOLERANCE = 0.03
MOST_ATTEMPTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One view of what is baked.

    Attributes:
        camera: Pinhole.
        pixels: [H, W, 4] uint8, colour over black and alpha.
        depth: [H, W] float32, view depth z of what is seen; 0 where nothing is.
    """

    camera: Camera
    pixels: NDArray[np.uint8]
    depth: Float32Array

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.pixels.nbytes + self.depth.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """P points of surfaces.

    Attributes:
        means, normals, colors: [P, 3] float32; normals are unit vectors towards the camera,
            colours are those of the surface, not dimmed by its alpha.
        alphas: [P] float32, of the pixels.
        sizes: [P] float32, of a pixel at its point, world units.
    """

    means: Float32Array
    normals: Float32Array
    colors: Float32Array
    alphas: Float32Array
    sizes: Float32Array

    def __len__(self) -> int:
        return len(self.means)

    @property
    def arrays(self) -> tuple[Float32Array, ...]:
        """All of it."""
        return self.means, self.normals, self.colors, self.alphas, self.sizes

    def __getitem__(self, index: NDArray[np.generic]) -> Points:
        return Points(*(array[index] for array in self.arrays))


def surfels(pictures: Sequence[Picture], count: int, seed: int = 0) -> Gaussians:
    """About ``count`` Gaussians of degree 0 where pictures show something, or fewer if they show
    fewer points.

    Args:
        pictures: Of one scene.
        count: How many at most.
        seed: Of which pixels are looked at, where there are too many.
    """
    points = points_of(pictures, seed)
    if len(points) == 0:
        return Gaussians.empty()
    return _merged_to(points, count)


def points_of(pictures: Sequence[Picture], seed: int = 0) -> Points:
    """The surfaces that pixels show; of very many pixels, a random choice."""
    shown = sum(int(np.count_nonzero(picture.depth)) for picture in pictures)
    share = min(1.0, MOST_POINTS / max(shown, 1))
    parts = [_points_of(p, share, np.random.default_rng([seed, i])) for i, p in enumerate(pictures)]
    arrays = zip(*(part.arrays for part in parts), strict=True)
    return Points(*(np.concatenate(each) for each in arrays))


def _points_of(picture: Picture, share: float, rng: np.random.Generator) -> Points:
    camera, depth = picture.camera, picture.depth
    seen = (depth > 0) & (picture.pixels[..., 3] >= 255 * LEAST_ALPHA)
    if share < 1.0:
        seen &= rng.random(depth.shape) < share
    rays = _rays(camera)
    means = camera.position + depth[..., None] * rays
    normals = _normals(means, rays, depth / camera.K[0, 0])
    pixels = picture.pixels[seen].astype(np.float32) / 255.0
    alphas = pixels[:, 3]
    return Points(
        means[seen].astype(np.float32),
        normals[seen].astype(np.float32),
        np.clip(pixels[:, :3] / alphas[:, None], 0.0, 1.0),
        alphas,
        (depth[seen] / math.sqrt(camera.K[0, 0] * camera.K[1, 1])).astype(np.float32),
    )


def _rays(camera: Camera) -> NDArray[np.float64]:
    """[H, W, 3] directions of depth 1 through the pixels' centres, world axes."""
    x = (np.arange(camera.width) + 0.5 - camera.K[0, 2]) / camera.K[0, 0]
    y = (np.arange(camera.height) + 0.5 - camera.K[1, 2]) / camera.K[1, 1]
    rotation = camera.viewmat[:3, :3]
    rays: NDArray[np.float64] = (
        x[None, :, None] * rotation[0] + y[:, None, None] * rotation[1] + rotation[2]
    )
    return rays


def _normals(
    means: NDArray[np.float64], rays: NDArray[np.float64], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[H, W, 3] of the surface through a pixel's neighbours, of each side the nearer one; towards
    the camera where these are steps rather than slopes."""
    across, broken_x = _nearer_slope(means, sizes, 1)
    down, broken_y = _nearer_slope(means, sizes, 0)
    normals = np.cross(across, down)
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    towards = -rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    flat = broken_x | broken_y | (lengths[..., 0] < 1e-30)
    normals = np.where(flat[..., None], towards, normals / np.maximum(lengths, 1e-30))
    facing = np.sign((normals * towards).sum(-1, keepdims=True))
    facing_camera: NDArray[np.float64] = np.where(facing < 0, -normals, normals)
    return facing_camera


def _nearer_slope(
    means: NDArray[np.float64], sizes: NDArray[np.float64], axis: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The step to the neighbour before or after, whichever is shorter, and whether even that is
    an edge."""
    steps = np.diff(means, axis=axis)
    lengths = np.linalg.norm(steps, axis=-1)
    pad = [(0, 0), (0, 0)]
    pad[axis] = (1, 0)
    before = np.pad(lengths, pad, constant_values=np.inf)
    step_before = np.pad(steps, [*pad, (0, 0)])
    pad[axis] = (0, 1)
    after = np.pad(lengths, pad, constant_values=np.inf)
    step_after = np.pad(steps, [*pad, (0, 0)])
    slope = np.where((before < after)[..., None], step_before, step_after)
    return slope, ~(np.minimum(before, after) < EDGE * (1 + EDGE) * sizes)


def _merged_to(points: Points, count: int) -> Gaussians:
    """Merged by cells of such a size that they come to ``count`` or a little fewer."""
    factor, best = 1.0, _cells(points, 1.0)
    low, high = 0.0, math.inf
    for _ in range(MOST_ATTEMPTS):
        found = best[1]
        if count * (1 - COUNT_TOLERANCE) <= found <= count or (factor == 1.0 and found <= count):
            break
        low, high = (factor, high) if found > count else (low, factor)
        guess = factor * math.sqrt(found / (count * (1 - 0.5 * COUNT_TOLERANCE)))
        inside = low < guess < high
        factor = guess if inside else (0.5 * (low + high) if high < math.inf else 2 * low)
        best = _cells(points, factor)
    cells, found = best
    gaussians = _merge(points, cells, found, factor)
    return gaussians if len(gaussians) <= count else gaussians[_spread(len(gaussians), count)]


def _spread(total: int, count: int) -> Int64Array:
    """``count`` of ``total`` places, evenly."""
    return np.linspace(0, total - 1, count).astype(np.int64)


def _cells(points: Points, factor: float) -> tuple[Int64Array, int]:
    """The cell of each point, counted from 0, −1 where it is left out; and how many there are."""
    low = points.means.min(axis=0)
    extent = float((points.means.max(axis=0) - low).max())
    sizes = factor * points.sizes
    finest = max(float(np.percentile(sizes, 0.5)), extent / MOST_CELLS, 1e-12)
    levels = np.maximum(np.round(np.log2(np.maximum(sizes, finest) / finest)), 0).astype(np.int64)
    places = ((points.means - low) / finest).astype(np.int64)
    out = np.full(len(points), -1, np.int64)
    covered, found = np.empty(0, np.int64), 0
    for level in range(int(levels.max()) + 1):
        here = np.flatnonzero(levels == level)
        keys = _packed(places[here] >> level)
        keep = ~np.isin(keys, covered)
        cells, cell = np.unique(keys[keep], return_inverse=True)
        out[here[keep]] = found + cell
        found += len(cells)
        parents, children = np.unique(_parents(np.union1d(cells, covered)), return_counts=True)
        covered = parents[children >= LEAST_CHILDREN]
    return out, found


_BITS = 21


def _packed(places: Int64Array) -> Int64Array:
    return (places[:, 0] << (2 * _BITS)) | (places[:, 1] << _BITS) | places[:, 2]


def _parents(keys: Int64Array) -> Int64Array:
    """Of packed places, those twice as large that hold them."""
    mask = (1 << _BITS) - 1
    return (
        ((keys >> (2 * _BITS)) >> 1 << (2 * _BITS))
        | ((keys >> _BITS & mask) >> 1 << _BITS)
        | ((keys & mask) >> 1)
    )


def _merge(points: Points, cells: Int64Array, count: int, factor: float) -> Gaussians:
    """One Gaussian for each cell."""
    used = cells >= 0
    points, cells = points[used], cells[used]
    number = np.bincount(cells, minlength=count).astype(np.float64)

    def mean(values: Float32Array) -> Float32Array:
        columns = values.reshape(len(values), -1).T
        sums = np.stack([np.bincount(cells, column, minlength=count) for column in columns], 1)
        return (sums / number[:, None]).astype(np.float32)

    normals, sides = mean(points.normals), factor * mean(points.sizes)
    # Normals that disagree are those of no surface: such a Gaussian is rather round.
    agreement = np.linalg.norm(normals, axis=1, keepdims=True)
    across = ACROSS + (ALONG - ACROSS) * np.clip(1.0 - agreement, 0.0, 1.0)
    scales = np.concatenate([sides * ALONG, sides * ALONG, sides * across], axis=1)
    return Gaussians(
        means=mean(points.means),
        quats=_turning_z_to(normals),
        scales=np.maximum(scales, 1e-12),
        opacities=np.minimum(mean(points.alphas)[:, 0], MOST_OPACITY),
        sh=rgb_to_sh0(mean(points.colors))[:, None, :].astype(np.float32),
    )


def _turning_z_to(normals: Float32Array) -> Float32Array:
    """[N, 4] rotations, wxyz, that carry the third axis to directions [N, 3] of any length."""
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    z = np.where(lengths > 1e-6, normals / np.maximum(lengths, 1e-6), np.array([0.0, 0.0, 1.0]))
    z = np.where(z[:, 2:] < -1 + 1e-6, np.array([0.0, 0.0, 1.0]), z)  # a flat one has two sides
    quats = np.stack([1 + z[:, 2], -z[:, 1], z[:, 0], np.zeros(len(z))], axis=1)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return quats.astype(np.float32)


def batches(total: int, size: int) -> Iterator[slice]:
    """Slices that cover ``total`` things."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
