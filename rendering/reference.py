"""The truth that every rasterizer is held to: float64, slow, written to be read.

It follows the image model of ``rendering.base`` step by step and shares no code with the
engines that are tested against it. What it does for speed is only what a reader can see:
pixels are taken in square tiles, and a tile looks only at Gaussians whose bounding box
touches it, a few hundred at a time, so that memory stays bounded.

Letters as in the 3DGS literature: W is the camera's rotation, R and S are a Gaussian's
rotation and scale, J is the Jacobian of the projection at its mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import (
    ALPHA_CUT,
    ALPHA_MAX,
    DILATION_PX2,
    FISHEYE_MAX_THETA_RAD,
    TRANSMITTANCE_STOP,
    CancelFlag,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from rendering.camera_models import to_screen
from rendering.cancel import EventCancelFlag, raise_if_cancelled
from splat.camera import Camera, CameraModel
from splat.gaussians import Gaussians
from splat.harmonics import sh_basis

TILE_SIDE = 16
LAYER_GAUSSIANS = 512  # Gaussians of a tile evaluated at once: 1 MiB a float64 array


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceScene:
    """A copy of ``Gaussians`` in float64; same names and shapes."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def __len__(self) -> int:
        return len(self.means)


@dataclass(frozen=True, slots=True, eq=False)
class ProjectedReference:
    """The M Gaussians of a scene that may touch the image, in the scene's order.

    Attributes:
        index: [M] int64, their places in the scene, ascending.
        means2d: [M, 2] float64, pixels.
        conics: [M, 3] float64, upper triangle (xx, xy, yy) of the inverse of the dilated
            screen covariance, 1 / px².
        depths: [M] float32, view depth z, or distance for a fisheye camera (the sort key).
        colors: [M, 3] float64, ≥ 0.
        opacities: [M] float64, compensated where the settings ask for it, ≥ ALPHA_CUT.
        extents: [M, 2] float64, half width and height of the box outside of which alpha is
            under ALPHA_CUT, pixels.
    """

    index: Tensor
    means2d: Tensor
    conics: Tensor
    depths: Tensor
    colors: Tensor
    opacities: Tensor
    extents: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> ProjectedReference:
        """The Gaussians picked by a boolean mask, an index tensor or a slice."""
        return ProjectedReference(
            self.index[rows],
            self.means2d[rows],
            self.conics[rows],
            self.depths[rows],
            self.colors[rows],
            self.opacities[rows],
            self.extents[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class EdgeMasks:
    """Pixels where a rounding error may flip a decision of the image model; [H, W] bool.

    Attributes:
        cut: Some Gaussian's alpha is very near ALPHA_CUT.
        stop: The transmittance before some Gaussian is very near the stop.
        half: The transmittance behind some Gaussian is very near 0.5, where the median
            depth jumps.
    """

    cut: NDArray[np.bool_]
    stop: NDArray[np.bool_]
    half: NDArray[np.bool_]


class ReferencePagePool:
    """Pages in host memory; see ``rendering.base.PagePool``."""

    def __init__(self, rasterizer: ReferenceRasterizer, page_gaussians: int, sh_degree: int):
        self._rasterizer = rasterizer
        self._page_gaussians = page_gaussians
        self.page_bytes = page_gaussians * 8 * (11 + 3 * (sh_degree + 1) ** 2)

    def pack(self, gaussians: Gaussians) -> ReferenceScene:
        """Gaussians in a page of their own."""
        if len(gaussians) > self._page_gaussians:
            raise ValueError("more Gaussians than fit a page")
        return self._rasterizer.prepare(gaussians)

    def pack_many(self, gaussians: Gaussians, rows: NDArray[np.int64]) -> list[ReferenceScene]:
        """Rows of Gaussians in pages of their own."""
        return [self.pack(gaussians[first : first + count]) for first, count in rows.tolist()]

    def keep_free(self, pages: int) -> None:
        """Nothing is held."""


class ReferenceRasterizer:
    """A ``Rasterizer`` in float64 torch on the CPU. It ignores ``RasterSettings.threads``."""

    name = "reference"

    def prepare(self, gaussians: Gaussians) -> ReferenceScene:
        """Copy the scene to float64."""
        return ReferenceScene(
            *(
                torch.from_numpy(array.astype(np.float64))
                for array in (
                    gaussians.means,
                    gaussians.quats,
                    gaussians.scales,
                    gaussians.opacities,
                    gaussians.sh,
                )
            )
        )

    def new_pool(self, page_gaussians: int, sh_degree: int) -> ReferencePagePool:
        """Memory for the parts of a scene; see ``PagingRasterizer``."""
        return ReferencePagePool(self, page_gaussians, sh_degree)

    def compose(self, parts: Sequence[ScenePart]) -> ReferenceScene:
        """Parts to draw together; see ``PagingRasterizer``. Tints are not drawn."""
        if not parts:
            return self.prepare(Gaussians.empty())
        bases = max(part.scene.sh.shape[1] for part in parts)
        scenes = [_weighted(part.scene, part.weight, bases) for part in parts]
        return ReferenceScene(
            *(torch.cat([getattr(s, f.name) for s in scenes]) for f in fields(ReferenceScene))
        )

    def new_cancel_flag(self) -> EventCancelFlag:
        """A flag for one call of ``render``."""
        return EventCancelFlag()

    def render(
        self,
        scene: ReferenceScene,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``Rasterizer.render``."""
        start_s = time.perf_counter()
        raise_if_cancelled(cancel)
        rows = settings.rows_of(camera)
        projected = project(scene, camera, settings)
        projected_s = time.perf_counter()
        canvas = _Canvas(camera.height, camera.width)
        pairs = 0
        for tile in _tiles(camera, projected):
            raise_if_cancelled(cancel)
            pairs += len(tile.gaussians)
            _composite(tile, settings, canvas)
        raise_if_cancelled(cancel)
        end_s = time.perf_counter()
        stats = RasterStats(
            gaussians=len(scene),
            visible=len(projected),
            tile_pairs=pairs,
            stage_ms={
                "project": 1e3 * (projected_s - start_s),
                "composite": 1e3 * (end_s - projected_s),
            },
        )
        return canvas.image(settings.outputs, stats).rows(*rows)


def edge_masks(
    scene: ReferenceScene,
    camera: Camera,
    settings: RasterSettings = RasterSettings(),
    *,
    alpha_band: float = 1e-3,
    transmittance_band: float = 1e-2,
) -> EdgeMasks:
    """Where a float32 rasterizer may rightly differ from this one.

    Alpha jumps from 1/255 to 0 at the rim of a Gaussian; there the last bit of a float32
    decides. The bands are relative: 1e-3 of alpha is 1e-4 px at the steepest rim, which is
    what float32 holds of a coordinate of a thousand pixels; the transmittance is a product
    of many factors, hence its wider band.
    """
    cut, stop, half = (torch.zeros(camera.height, camera.width, dtype=torch.bool) for _ in range(3))
    least = settings.transmittance_stop
    for tile in _tiles(camera, project(scene, camera, settings)):
        for layer in _layers(tile, least):
            # A pixel that is past the stop by more than the band takes nothing any more.
            live = layer.before > least * (1 - transmittance_band)
            live &= layer.alpha >= ALPHA_CUT * (1 - alpha_band)
            near_cut = live & _near(layer.alpha, ALPHA_CUT, alpha_band)
            near_stop = live & _near(layer.before, least, transmittance_band)
            near_half = live & _near(layer.after, 0.5, transmittance_band)
            for mask, near in ((cut, near_cut), (stop, near_stop), (half, near_half)):
                mask[tile.rows, tile.columns] |= near.any(dim=0).reshape(tile.shape)
    return EdgeMasks(cut.numpy(), stop.numpy(), half.numpy())


def edge_mask(
    scene: ReferenceScene, camera: Camera, settings: RasterSettings = RasterSettings()
) -> NDArray[np.bool_]:
    """[H, W] bool: the pixels of ``edge_masks`` that matter to colour, alpha and count."""
    masks = edge_masks(scene, camera, settings)
    return masks.cut | masks.stop


def _near(values: Tensor, target: float, band: float) -> Tensor:
    return (values / target - 1).abs() < band


# --- Steps 1 and 2: from the world to the screen -------------------------------------------


def project(
    scene: ReferenceScene, camera: Camera, settings: RasterSettings = RasterSettings()
) -> ProjectedReference:
    """Screen-space parameters of the Gaussians that may touch the image.

    EWA splatting (Zwicker et al. 2001) as in 3DGS (Kerbl et al. 2023), with the extents of
    the exact ellipse at which alpha reaches ALPHA_CUT.
    """
    viewmat = torch.from_numpy(camera.viewmat.copy())
    W, t = viewmat[:3, :3], viewmat[:3, 3]
    in_camera = scene.means @ W.T + t
    depths = view_depths(scene.means, camera)
    drawn = _in_range(in_camera, depths, camera) & (scene.opacities >= ALPHA_CUT)
    index = drawn.nonzero()[:, 0]

    means2d, J = to_screen(in_camera[index], camera)
    # Σ' = M Mᵀ with M = J W R S: [n, 2, 3].
    M = J @ W @ _rotations(scene.quats[index]) * scene.scales[index, None, :]
    covariance = M @ M.transpose(1, 2)
    # det(M Mᵀ) = |m₀ × m₁|² (Lagrange): no cancellation where a Gaussian is a needle.
    raw_det = torch.linalg.cross(M[:, 0], M[:, 1]).square().sum(dim=1)
    raw_trace = covariance[:, 0, 0] + covariance[:, 1, 1]
    det = raw_det + DILATION_PX2 * raw_trace + DILATION_PX2**2
    xx, yy = covariance[:, 0, 0] + DILATION_PX2, covariance[:, 1, 1] + DILATION_PX2
    conics = torch.stack([yy, -covariance[:, 0, 1], xx], dim=1) / det[:, None]

    opacities = scene.opacities[index]
    kept_px2 = settings.kept_dilation_px2
    if kept_px2 < DILATION_PX2:
        kept_det = raw_det + kept_px2 * raw_trace + kept_px2**2
        opacities = opacities * (kept_det / det).sqrt()
    # alpha ≥ cut inside the ellipse dᵀ Σ'⁻¹ d ≤ 2 ln(opacity / cut).
    reach = 2 * (opacities / ALPHA_CUT).log()
    extents = (reach.clamp(min=0)[:, None] * torch.stack([xx, yy], dim=1)).sqrt()
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    # Pixel centres are 0.5 … size − 0.5.
    touches = (means2d + extents >= 0.5) & (means2d - extents <= size - 0.5)
    kept = (touches.all(dim=1) & (reach >= 0)).nonzero()[:, 0]
    return ProjectedReference(
        index=index[kept],
        means2d=means2d[kept],
        conics=conics[kept],
        depths=depths[index[kept]],
        colors=_colors(scene, index[kept], camera, settings.sh_degree),
        opacities=opacities[kept],
        extents=extents[kept],
    )


def view_depths(means: Tensor, camera: Camera) -> Tensor:
    """[N] float32 sort keys: view depth z, or the distance for a fisheye camera.

    z = r₂₀ x + r₂₁ y + r₂₂ z + t₂ is summed from left to right in float64, so that every
    engine which does the same gets the same order.
    """
    if camera.model is CameraModel.FISHEYE:
        to_means = means - torch.from_numpy(camera.position.copy())
        depth = to_means.square().sum(dim=1).sqrt()
    else:
        r20, r21, r22, t2 = camera.viewmat[2].tolist()
        x, y, z = means.unbind(dim=1)
        depth = x * r20 + y * r21 + z * r22 + t2
    return depth.to(torch.float32)


def _in_range(in_camera: Tensor, depths: Tensor, camera: Camera) -> Tensor:
    """[N] bool: means between near and far, and inside the widest fisheye cone."""
    # In float32 on both sides: a Gaussian placed on the near plane is drawn.
    near, far = (torch.tensor(limit, dtype=torch.float32) for limit in (camera.near, camera.far))
    inside = (depths >= near) & (depths <= far)
    if camera.model is CameraModel.FISHEYE:
        x, y, z = in_camera.unbind(dim=1)
        inside &= torch.atan2(torch.hypot(x, y), z) <= FISHEYE_MAX_THETA_RAD
    return inside


def _rotations(quats: Tensor) -> Tensor:
    """[n, 3, 3] rotation matrices of [n, 4] quaternions wxyz, normalized here."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(dim=1)
    entries = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, dim=1).reshape(-1, 3, 3)


def _colors(scene: ReferenceScene, index: Tensor, camera: Camera, max_degree: int | None) -> Tensor:
    """[n, 3] ``max(0, 0.5 + Σ Y_k(direction) sh[k])``, direction from camera to mean."""
    held = int(scene.sh.shape[1] ** 0.5) - 1
    degree = held if max_degree is None else min(held, max_degree)
    directions = scene.means[index] - torch.from_numpy(camera.position.copy())
    length = directions.norm(dim=1, keepdim=True)
    directions = directions / torch.where(length > 0, length, 1.0)
    basis = torch.from_numpy(sh_basis(directions.numpy(), degree))
    used = scene.sh[index][:, : basis.shape[1]]
    return (0.5 + (basis[:, :, None] * used).sum(dim=1)).clamp(min=0)


# --- Steps 3 and 4: from the screen to the image -------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
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
class _Layer:
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


def _tiles(camera: Camera, projected: ProjectedReference) -> Iterator[_Tile]:
    """All tiles of the image with their Gaussians in depth order, ties by index."""
    ordered = projected[torch.argsort(projected.depths, stable=True)]
    low, high = ordered.means2d - ordered.extents, ordered.means2d + ordered.extents
    for top in range(0, camera.height, TILE_SIDE):
        bottom = min(top + TILE_SIDE, camera.height)
        in_rows = ((high[:, 1] >= top + 0.5) & (low[:, 1] <= bottom - 0.5)).nonzero()[:, 0]
        for left in range(0, camera.width, TILE_SIDE):
            right = min(left + TILE_SIDE, camera.width)
            touching = (high[in_rows, 0] >= left + 0.5) & (low[in_rows, 0] <= right - 0.5)
            yield _Tile(slice(top, bottom), slice(left, right), ordered[in_rows[touching]])


def _layers(tile: _Tile, least: float) -> Iterator[_Layer]:
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
        yield _Layer(gaussians, alpha, before, through, blended)
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


class _Canvas:
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


def _weighted(scene: ReferenceScene, weight: float, bases: int) -> ReferenceScene:
    """The scene with all opacities multiplied, and zeros for the harmonics it lacks."""
    sh = torch.zeros(len(scene), bases, 3, dtype=torch.float64)
    sh[:, : scene.sh.shape[1]] = scene.sh
    return ReferenceScene(scene.means, scene.quats, scene.scales, scene.opacities * weight, sh)


def _composite(tile: _Tile, settings: RasterSettings, canvas: _Canvas) -> None:
    """Blend a tile's Gaussians front to back over the background."""
    pixels = tile.shape[0] * tile.shape[1]
    color = torch.zeros(pixels, 3, dtype=torch.float64)
    depth, median, weight_sum = torch.zeros(3, pixels, dtype=torch.float64)
    transmittance = torch.ones(pixels, dtype=torch.float64)
    count = torch.zeros(pixels, dtype=torch.int32)
    for layer in _layers(tile, settings.transmittance_stop):
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
