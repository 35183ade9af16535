"""The truth's second half: from the screen to the image (``rendering.reference``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import (
    ALPHA_CUT,
    ALPHA_MAX,
    TRANSMITTANCE_STOP,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
)
from rendering.reference_project import ProjectedReference
from splat.camera import Camera

TILE_SIDE = 16
LAYER_GAUSSIANS = 512  # Gaussians of a tile evaluated at once: 1 MiB a float64 array


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A rectangle of pixels and the Gaussians, front to back, whose box touches it."""

    rows: slice
    columns: slice
    gaussians: ProjectedReference

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def pixel_centres(self) -> Tensor:
        """[P, 2] float64, row by row."""
        v = torch.arange(self.rows.start, self.rows.stop, dtype=torch.float64) + 0.5
        u = torch.arange(self.columns.start, self.columns.stop, dtype=torch.float64) + 0.5
        grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
        return torch.stack([grid_u.flatten(), grid_v.flatten()], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Some consecutive Gaussians of a tile (k) at its pixels (P), all arrays [k, P].

    Attributes:
        gaussians: The k Gaussians.
        alpha: Clamped to ALPHA_MAX, not yet cut.
        before, after: Transmittance in front of and behind each Gaussian.
        blended: Whether the pixel takes the Gaussian.
    """

    gaussians: ProjectedReference
    alpha: Tensor
    before: Tensor
    after: Tensor
    blended: Tensor


def tiles_of(camera: Camera, projected: ProjectedReference) -> Iterator[Tile]:
    """All tiles of the image with their Gaussians in depth order, ties by index."""
    ordered = projected[torch.argsort(projected.depths, stable=True)]
    low, high = ordered.means2d - ordered.extents, ordered.means2d + ordered.extents
    for top in range(0, camera.height, TILE_SIDE):
        bottom = min(top + TILE_SIDE, camera.height)
        in_rows = ((high[:, 1] >= top + 0.5) & (low[:, 1] <= bottom - 0.5)).nonzero()[:, 0]
        for left in range(0, camera.width, TILE_SIDE):
            right = min(left + TILE_SIDE, camera.width)
            touching = (high[in_rows, 0] >= left + 0.5) & (low[in_rows, 0] <= right - 0.5)
            yield Tile(slice(top, bottom), slice(left, right), ordered[in_rows[touching]])


def layers_of(tile: Tile, least: float) -> Iterator[Layer]:
    """The tile's Gaussians, front to back, until no pixel is above the ``least`` transmittance."""
    pixels = tile.pixel_centres
    transmittance = torch.ones(1, len(pixels), dtype=torch.float64)
    for first in range(0, len(tile.gaussians), LAYER_GAUSSIANS):
        gaussians = tile.gaussians[slice(first, first + LAYER_GAUSSIANS)]
        alpha = _alphas(gaussians, pixels)
        passed = torch.where(alpha >= ALPHA_CUT, 1 - alpha, 1.0)
        # Transmittance never rises, so where this product, which ignores the stop, is
        # above the threshold, it equals the true one, and where it is not, so is that.
        through = transmittance * passed.cumprod(dim=0)
        before = torch.cat([transmittance, through[:-1]])
        blended = (alpha >= ALPHA_CUT) & (before > least)
        yield Layer(gaussians, alpha, before, through, blended)
        transmittance = transmittance * torch.where(blended, passed, 1.0).prod(dim=0)
        if not (transmittance > least).any():
            return


def _alphas(gaussians: ProjectedReference, pixels: Tensor) -> Tensor:
    """[k, P] ``min(ALPHA_MAX, opacity · exp(−½ dᵀ Σ'⁻¹ d))``."""
    dx = pixels[None, :, 0] - gaussians.means2d[:, None, 0]
    dy = pixels[None, :, 1] - gaussians.means2d[:, None, 1]
    xx, xy, yy = (gaussians.conics[:, i, None] for i in range(3))
    power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    return (gaussians.opacities[:, None] * power.clamp(max=0).exp()).clamp(max=ALPHA_MAX)


class Canvas:
    """The images under construction, float64."""

    def __init__(self, height: int, width: int) -> None:
        self.transmittance = torch.ones(height, width, dtype=torch.float64)
        self.color = torch.zeros(height, width, 3, dtype=torch.float64)
        self.depth = torch.zeros(height, width, dtype=torch.float64)
        self.median_depth = torch.zeros(height, width, dtype=torch.float64)
        self.count = torch.zeros(height, width, dtype=torch.int32)

    def image(self, outputs: Outputs, stats: RasterStats) -> RasterImage:
        """What was asked for, in the types of ``RasterImage``."""

        def wanted(output: Outputs, image: Tensor) -> NDArray[np.float32] | None:
            return _float32(image) if output in outputs else None

        return RasterImage(
            alpha=_float32(1 - self.transmittance),
            color=wanted(Outputs.COLOR, self.color),
            depth=wanted(Outputs.DEPTH, self.depth),
            median_depth=wanted(Outputs.MEDIAN_DEPTH, self.median_depth),
            count=self.count.numpy() if Outputs.COUNT in outputs else None,
            stats=stats,
        )


def _float32(image: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = image.to(torch.float32).numpy()
    return array


def composite(tile: Tile, settings: RasterSettings, canvas: Canvas) -> None:
    """Blend a tile's Gaussians front to back over the background."""
    pixels = tile.shape[0] * tile.shape[1]
    color = torch.zeros(pixels, 3, dtype=torch.float64)
    depth, median, weight_sum = torch.zeros(3, pixels, dtype=torch.float64)
    transmittance = torch.ones(pixels, dtype=torch.float64)
    count = torch.zeros(pixels, dtype=torch.int32)
    for layer in layers_of(tile, settings.transmittance_stop):
        weights = torch.where(layer.blended, layer.alpha * layer.before, 0.0)
        depths = layer.gaussians.depths.to(torch.float64)[:, None]
        halves = layer.blended & (layer.before > 0.5) & (layer.after <= 0.5)
        for channel in range(3):
            color[:, channel] += (weights * layer.gaussians.colors[:, channel, None]).sum(dim=0)
        depth += (weights * depths).sum(dim=0)
        median += torch.where(halves, depths, 0.0).sum(dim=0)  # at most one is not zero
        weight_sum += weights.sum(dim=0)
        transmittance *= torch.where(layer.blended, 1 - layer.alpha, 1.0).prod(dim=0)
        count += layer.blended.sum(dim=0, dtype=torch.int32)
    if settings.transmittance_stop > TRANSMITTANCE_STOP:
        opaque = transmittance <= settings.transmittance_stop
        color /= torch.where(opaque, 1 - transmittance, 1.0)[:, None]
        transmittance = torch.where(opaque, 0.0, transmittance)
    background = torch.tensor(settings.background, dtype=torch.float64)
    color += transmittance[:, None] * background
    depth = torch.where(weight_sum > 0, depth / weight_sum.clamp(min=ALPHA_CUT / 2), 0.0)
    place = (tile.rows, tile.columns)
    canvas.transmittance[place] = transmittance.reshape(tile.shape)
    canvas.color[place] = color.reshape(*tile.shape, 3)
    canvas.depth[place] = depth.reshape(tile.shape)
    canvas.median_depth[place] = median.reshape(tile.shape)
    canvas.count[place] = count.reshape(tile.shape)
