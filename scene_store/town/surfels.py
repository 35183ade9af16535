"""Parts become Gaussians: panels a grid of flat ones, struts a chain, blobs a cloud of leaves.

The spacing follows from the number of Gaussians that a cell is given; the number comes out
exactly. Everything is a few passes of numpy over float32 columns, ordered by material.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.town import parts as columns
from scene_store.town import shading
from scene_store.town.bridge import WATER_Y
from scene_store.town.light import ShadeMap
from scene_store.town.parts import PartTable
from scene_store.town.plan import bend, bend_slopes
from scene_store.town.recipe import Recipe, load_recipe
from splat.gaussians import Float32Array, Gaussians

IntArray = NDArray[np.int64]
_OVERLAP, _SINGLE = 0.63, 0.37
_THIN = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How many Gaussians each part becomes.

    Attributes:
        along, across: [P] of each panel's grid.
        struts: [S].
        blobs: [B].
    """

    along: IntArray
    across: IntArray
    struts: IntArray
    blobs: IntArray

    @property
    def total(self) -> int:
        """All of them."""
        return int((self.along * self.across).sum() + self.struts.sum() + self.blobs.sum())


class Sizes:
    """The lengths that decide how many Gaussians parts need at a given spacing."""

    def __init__(self, table: PartTable, recipe: Recipe, rng: np.random.Generator) -> None:
        panels, struts, blobs = table.panels, table.struts, table.blobs
        spacing = np.array([m.spacing for m in recipe.materials], np.float32)
        pitch = spacing[panels[:, columns.MATERIAL].astype(np.intp)]
        # A mirror image lies behind rippling water: it needs half the density.
        pitch = pitch * np.where(panels[:, 1] > WATER_Y - 0.01, 1.5, 1.0)
        self.along = length(panels[:, columns.ALONG]) / pitch
        self.across = length(panels[:, columns.ACROSS]) / pitch
        # Rounding at a place of its own for every part, so that the sum grows smoothly.
        self.dither = rng.uniform(0.3, 0.7, (2, len(panels))).astype(np.float32)
        gap = np.maximum(recipe.strut_spacing, 2.2 * struts[:, columns.RADIUS])
        self.struts = length(struts[:, columns.END] - struts[:, columns.START]) / gap
        r = blobs[:, columns.RADII]
        surface = 4.19 * (r[:, 0] * r[:, 1] + r[:, 1] * r[:, 2] + r[:, 2] * r[:, 0])
        mirrored = np.where(blobs[:, 1] > WATER_Y, 0.45, 1.0)
        self.blobs = 1.15 * mirrored * surface / recipe.leaf_spacing**2

    def counts(self, detail: float) -> Counts:
        """At a spacing of ``detail`` times the recipe's; every part gets at least one."""
        f = np.float32(1.0 / detail)
        along, across, struts, blobs = (
            np.maximum(1, np.floor(v)).astype(np.int64)
            for v in (
                self.along * f + self.dither[0],
                self.across * f + self.dither[1],
                self.struts * f + 0.5,
                self.blobs * (f * f) + 0.5,
            )
        )
        return Counts(along, across, struts, blobs)

    def counts_for(self, quota: int) -> Counts:
        """Counts that add up to ``quota`` exactly, or to more where it is below one a part."""
        low, high = 0.02, 200.0
        for _ in range(22):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.counts(middle).total > quota else (low, middle)
        counts = self.counts(high)
        spare = quota - counts.total
        if spare <= 0:
            return counts
        # What is left goes into foliage, in proportion; then one each to the first.
        if len(counts.blobs) == 0:
            return counts
        extra = spare * counts.blobs // max(1, int(counts.blobs.sum()))
        blobs = counts.blobs + extra
        rest = quota - counts.total - int(extra.sum())
        blobs += rest // len(blobs)
        blobs[: rest % len(blobs)] += 1
        return Counts(counts.along, counts.across, counts.struts, blobs)


def emit(
    table: PartTable, quota: int, shade: ShadeMap, rng: np.random.Generator, sh_degree: int
) -> Gaussians:
    """Exactly ``quota`` Gaussians that show ``table`` in world coordinates.

    Args:
        table: Parts in plan coordinates.
        quota: At least 1.
        shade: Shadows of the place.
        rng: Decides jitter and speckle.
        sh_degree: 0 to 3.
    """
    recipe = load_recipe()
    order = np.argsort(table.panels[:, columns.MATERIAL], kind="stable")
    table = PartTable(table.panels[order], table.struts, table.blobs)
    counts = Sizes(table, recipe, rng).counts_for(quota)
    out = Gaussians.allocate(counts.total, sh_degree)
    out.sh[:] = 0.0
    grids = int((counts.along * counts.across).sum())
    rods = grids + int(counts.struts.sum())
    _panels(out[:grids], table.panels, counts.along, counts.across, shade, rng)
    _struts(out[grids:rods], table.struts, counts.struts, shade)
    _blobs(out[rods:], table.blobs, counts.blobs, shade, rng)
    return out if counts.total == quota else _thinned(out, quota)


def _thinned(gaussians: Gaussians, quota: int) -> Gaussians:
    """Evenly chosen Gaussians, grown so that they still cover what all covered."""
    kept = gaussians[np.arange(quota) * len(gaussians) // quota]
    kept.scales[:] *= np.float32(min(4.0, (len(gaussians) / quota) ** 0.5))
    return kept


def _panels(
    out: Gaussians,
    rows: Float32Array,
    nu: IntArray,
    nv: IntArray,
    shade: ShadeMap,
    rng: np.random.Generator,
) -> None:
    """Fill ``out`` with the grids of panels, which are sorted by material."""
    which, u, v = _grid(nu, nv)
    width, height = length(rows[:, columns.ALONG]), length(rows[:, columns.ACROSS])
    narrowing = 1.0 - rows[:, columns.TAPER][which] * v
    s = np.asarray((u - 0.5) * narrowing + 0.5, np.float32)
    points = _points(rows, which, s, v)
    quats, normals, bent_normals = _orientations(rows)
    write_means(out, *points)
    np.take(quats, which, axis=0, out=out.quats)
    size_u = (width / nu * rows[:, columns.FILL] * overlap(nu)).astype(np.float32)
    size_v = (height / nv * overlap(nv)).astype(np.float32)
    thin = (0.004 + _THIN * np.minimum(size_u, size_v)).astype(np.float32)
    out.scales[:] = np.take(np.stack([size_u, size_v, thin], axis=1), which, axis=0)
    out.scales[:, 0] *= np.maximum(narrowing, 0.12)
    meters = (u * width[which], v * height[which])
    shading.paint_panels(out, rows, which, points, meters, normals, shade, rng)
    material = rows[:, columns.MATERIAL].astype(np.intp)
    first_sample = np.concatenate([[0], np.cumsum(nu * nv)])
    for index in np.unique(material):
        kind = load_recipe().materials[index]
        if kind.gloss > 0.0:
            a, b = np.searchsorted(material, [index, index + 1])
            part = slice(int(first_sample[a]), int(first_sample[b]))
            shading.add_reflection(
                out[part], rows[a:b], which[part] - a, bent_normals[a:b], kind, rng
            )


def _grid(nu: IntArray, nv: IntArray) -> tuple[IntArray, Float32Array, Float32Array]:
    """(panel, u, v) of each sample; u, v at the centres of nu × nv cells."""
    size = nu * nv
    which = np.repeat(np.arange(len(nu)), size)
    first = np.cumsum(size) - size
    local = (np.arange(len(which)) - first[which]).astype(np.int32)
    per_row = nu.astype(np.int32)[which]
    row = local // per_row
    column = local - row * per_row
    u = (column.astype(np.float32) + np.float32(0.5)) / per_row.astype(np.float32)
    v = (row.astype(np.float32) + np.float32(0.5)) * (1.0 / nv).astype(np.float32)[which]
    return which, u, v


def _points(
    rows: Float32Array, which: IntArray, s: Float32Array, t: Float32Array
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Plan x, y, z of ``origin + s along + t across``."""
    x, y, z = (
        rows[:, k][which] + s * rows[:, 3 + k][which] + t * rows[:, 6 + k][which] for k in range(3)
    )
    return x, y, z


def _orientations(rows: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array]:
    """(quaternions, plan normals, world normals) of panels; the streets' bend turns them."""
    along, across = rows[:, columns.ALONG], rows[:, columns.ACROSS]
    middle = rows[:, columns.ORIGIN] + 0.5 * (along + across)
    east, forward = bend_slopes(middle[:, 0], middle[:, 2])
    a, c = (
        np.stack([w[:, 0] + east * w[:, 2], w[:, 1], w[:, 2] + forward * w[:, 0]], axis=1)
        for w in (along, across)
    )
    a = normalized(a)
    bent = normalized(np.cross(a, c))
    return frame_quats(a, np.cross(bent, a), bent), normalized(np.cross(along, across)), bent


def _struts(out: Gaussians, rows: Float32Array, counts: IntArray, shade: ShadeMap) -> None:
    """Fill ``out`` with chains of ellipsoids."""
    which = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    t = (np.arange(len(which)) - first[which] + 0.5) / counts[which]
    reach = rows[:, columns.END] - rows[:, columns.START]
    points = rows[:, columns.START][which] + t[:, None].astype(np.float32) * reach[which]
    middle = rows[:, columns.START] + 0.5 * reach
    east, forward = bend_slopes(middle[:, 0], middle[:, 2])
    axis = reach.copy()
    axis[:, 0] += east * reach[:, 2]
    axis[:, 2] += forward * reach[:, 0]
    axis = normalized(axis)
    helper = np.where(np.abs(axis[:, 1:2]) > 0.9, np.eye(3)[0], np.eye(3)[1]).astype(np.float32)
    side = normalized(np.cross(helper, axis))
    quats = frame_quats(axis, side, np.cross(axis, side))
    x, y, z = points.T
    write_means(out, x, y, z)
    out.quats[:] = quats[which]
    out.scales[:, 0] = (0.56 * length(reach) / counts)[which]
    out.scales[:, 1:] = (0.62 * rows[:, columns.RADIUS])[which, None]
    shading.paint_round(out, rows[:, columns.STRUT_COLOR][which], (x, y, z), shade)
    out.opacities[:] = 0.98


def _blobs(
    out: Gaussians, rows: Float32Array, counts: IntArray, shade: ShadeMap, rng: np.random.Generator
) -> None:
    """Fill ``out`` with leaves, densest at the skin of each ellipsoid."""
    which = np.repeat(np.arange(len(counts)), counts)
    total = len(which)
    direction = normalized(rng.standard_normal((total, 3), dtype=np.float32))
    fuzz = rows[:, columns.FUZZ][which]
    depth = np.sqrt(rng.random(total, dtype=np.float32))
    loose = rng.random(total, dtype=np.float32) - np.float32(0.4)
    reach = np.float32(1.0) + fuzz * (np.float32(0.10) * loose - np.float32(0.42) * (1.0 - depth))
    points = (
        rows[:, columns.CENTER][which] + rows[:, columns.RADII][which] * direction * reach[:, None]
    )
    x, y, z = points.T
    write_means(out, x, y, z)
    # A ball's skin faces along the gradient; leaves face anywhere, mostly outwards.
    outward = normalized(direction / rows[:, columns.RADII][which])
    facing = outward + fuzz[:, None] * rng.uniform(-0.75, 0.75, (total, 3)).astype(np.float32)
    out.quats[:] = upright_quats(normalized(facing))
    r = rows[:, columns.RADII]
    surface = 4.19 * (r[:, 0] * r[:, 1] + r[:, 1] * r[:, 2] + r[:, 2] * r[:, 0])
    leaf = np.sqrt(1.15 * surface / np.maximum(counts, 1)).astype(np.float32)
    leaf = np.minimum(leaf, 0.8 * r.min(axis=1) + 0.02)
    size = leaf[which] * rng.uniform(0.42, 0.74, total).astype(np.float32)
    out.scales[:, 0] = size
    out.scales[:, 1] = size * rng.uniform(0.6, 1.0, total).astype(np.float32)
    out.scales[:, 2] = size * 0.22
    color = rows[:, columns.BLOB_COLOR][which]
    shading.paint_leaves(out, color, (x, y, z), direction, reach, fuzz, shade, rng)
    out.opacities[:] = 0.97 - 0.07 * fuzz


def write_means(out: Gaussians, x: Float32Array, y: Float32Array, z: Float32Array) -> None:
    """Carry plan points into the world."""
    out.means[:, 0], out.means[:, 2] = bend(x, z)
    out.means[:, 1] = y


def overlap(counts: IntArray) -> Float32Array:
    """Standard deviation as a share of the spacing: a lone Gaussian must not spill over."""
    return np.where(counts == 1, _SINGLE, _OVERLAP).astype(np.float32)


def length(vectors: Float32Array) -> Float32Array:
    """[n] Euclidean lengths of [n, 3]."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), np.float32)


def normalized(vectors: Float32Array) -> Float32Array:
    """[n, 3] unit vectors."""
    return np.asarray(vectors / np.maximum(length(vectors), 1e-12)[:, None], np.float32)


def upright_quats(normals: Float32Array) -> Float32Array:
    """[n, 4] shortest rotations (wxyz) that carry +z onto unit ``normals`` [n, 3]."""
    w = 1.0 + normals[:, 2]
    flipped = w < 1e-4
    quats = np.stack([w, -normals[:, 1], normals[:, 0], np.zeros_like(w)], axis=1)
    quats[flipped] = (0.0, 1.0, 0.0, 0.0)
    quats /= np.sqrt(np.einsum("ij,ij->i", quats, quats))[:, None]
    return quats


def frame_quats(a: Float32Array, b: Float32Array, c: Float32Array) -> Float32Array:
    """[n, 4] unit quaternions wxyz of right-handed frames with axes a, b, c, [n, 3] each
    (Shepperd's method: divide by the largest component)."""
    m00, m11, m22 = a[:, 0], b[:, 1], c[:, 2]
    squares = np.stack(
        [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], 1
    )
    w_x, w_y, w_z = b[:, 2] - c[:, 1], c[:, 0] - a[:, 2], a[:, 1] - b[:, 0]
    x_y, x_z, y_z = b[:, 0] + a[:, 1], c[:, 0] + a[:, 2], c[:, 1] + b[:, 2]
    s = squares
    candidates = np.stack(
        [
            np.stack([s[:, 0], w_x, w_y, w_z], 1),
            np.stack([w_x, s[:, 1], x_y, x_z], 1),
            np.stack([w_y, x_y, s[:, 2], y_z], 1),
            np.stack([w_z, x_z, y_z, s[:, 3]], 1),
        ],
        axis=1,
    )
    best = candidates[np.arange(len(s)), np.argmax(s, axis=1)]
    best /= np.sqrt(np.einsum("ij,ij->i", best, best))[:, None]
    return np.asarray(best, np.float32)
