"""A frame by gsplat's stages: Gaussians to the screen (``project``), the screen to images
(``composite``). What is between the two, ``Projected``, may be kept and composited again.

What gsplat does otherwise than the image model asks is told in ``rendering.gsplat_cuda``; where it
costs little, it is mended here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import (
    ALPHA_CUT,
    ALPHA_MAX,
    DILATION_PX2,
    FISHEYE_MAX_THETA_RAD,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
)
from rendering.gsplat_pages import Columns, DrawList
from splat.camera import Camera, CameraModel
from splat.errors import BudgetError
from splat.gaussians import MAX_SH_DEGREE

TILE = 16  # pixels; as gsplat's own rasterization()
GSPLAT_SIGMAS = 3.33  # where it ends a Gaussian, however opaque
BEYOND = 3e38  # further than anything; its comparisons are compiled with fast maths
MOST_PAIRS = 2**31 - 1  # (Gaussian, tile): it counts them in 32 bits
COUNTED_TOGETHER = 2**22  # Gaussians whose tiles are counted at a time; 100 MB
CHECKED = "check"  # the stage in which this is asked; gsplat has no such thing
MOST_BLENDED = 2**24  # (Gaussian, pixel) pairs that are looked at together; 1 GiB
EVERY_BATCH = 2**31 - 1

Pause = Callable[[str], None]
"""Called with the name of a stage that ends; raises if the frame was cancelled."""


@dataclass(frozen=True, slots=True)
class Stages:
    """gsplat's functions, named as there; anything with the same arguments will do.

    ``rasterize_to_indices_in_range`` is called only for counts and median depths.
    """

    fully_fused_projection: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]]
    spherical_harmonics: Callable[..., Tensor]
    isect_tiles: Callable[..., tuple[Tensor, Tensor, Tensor]]
    isect_offset_encode: Callable[..., Tensor]
    rasterize_to_pixels: Callable[..., tuple[Tensor, Tensor]]
    rasterize_to_indices_in_range: Callable[..., tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, module: Any) -> Stages:
        """Those of a module that has them all."""
        return cls(*(getattr(module, name) for name in cls.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """N Gaussians as a camera sees them, for one image of its full size.

    Where a radius is 0, the rest of the row is whatever was in memory.

    Attributes:
        radii: [1, N, 2] int32, half the sides of the box on the screen, pixels; 0 if not drawn.
        means2d: [1, N, 2] float32, pixels.
        depths: [1, N] float32, the sort key: z, or the distance for a fisheye camera.
        conics: [1, N, 3] float32, upper triangle of the inverse of the dilated covariance, 1 / px².
        opacities: [1, N] float32, compensated where the settings ask for it.
        colors: [1, N, 3] float32, ≥ 0; None if no colours were asked for.
    """

    radii: Tensor
    means2d: Tensor
    depths: Tensor
    conics: Tensor
    opacities: Tensor
    colors: Tensor | None

    @property
    def drawn(self) -> Tensor:
        """[1, N] bool."""
        return (self.radii > 0).all(dim=-1)


def project(
    stages: Stages, draws: DrawList, columns: Columns, camera: Camera, settings: RasterSettings
) -> Projected:
    """Gaussians to the screen.

    Args:
        stages: gsplat.
        draws: How parts look.
        columns: The Gaussians of ``draws``.
        camera: All of its image, whatever rows the settings name.
        settings: How to draw.
    """
    device, fisheye = columns.means.device, camera.model is CameraModel.FISHEYE
    weights = draws.weight_column(device)
    opacities = columns.opacities if weights is None else columns.opacities * weights
    viewmats, Ks, position = _send_camera(camera, device)
    kept_px2 = settings.kept_dilation_px2
    radii, means2d, depths, conics, compensations = stages.fully_fused_projection(
        columns.means,
        None,
        columns.quats,
        columns.scales,
        viewmats,
        Ks,
        camera.width,
        camera.height,
        eps2d=DILATION_PX2,
        near_plane=-BEYOND if fisheye else camera.near,
        far_plane=BEYOND if fisheye else min(camera.far, BEYOND),
        calc_compensations=kept_px2 == 0,
        camera_model=camera.model.value,
        opacities=opacities,
    )
    if fisheye:
        inside, depths = _around(columns.means, camera)
        radii = torch.where(inside[None, :, None], radii, 0)
    opacities = opacities[None]
    if compensations is not None:
        opacities = opacities * compensations
    elif kept_px2 < DILATION_PX2:
        opacities = opacities * _compensation(conics, DILATION_PX2 - kept_px2)
    if draws.most_opacity > 1:
        radii = _widened(radii, opacities)
    colors = None
    if Outputs.COLOR in settings.outputs:
        colors = _colors(stages, draws, columns, radii, position, settings.sh_degree)
    return Projected(radii, means2d, depths, conics, opacities, colors)


def _send_camera(camera: Camera, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Viewmats [1, 4, 4], Ks [1, 3, 3] and the position [3], float32, in one transfer."""
    numbers = np.concatenate([camera.viewmat.ravel(), camera.K.ravel(), camera.position])
    sent = torch.from_numpy(numbers.astype(np.float32)).to(device)
    return sent[:16].view(1, 4, 4), sent[16:25].view(1, 3, 3), sent[25:]


def _around(means: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """What a fisheye camera sees of means [N, 3], [N] bool; and distances [1, N] float32.

    gsplat knows only z, which is no depth for a camera that sees sideways.
    """
    numbers = np.concatenate([camera.position, camera.forward])
    position, forward = torch.from_numpy(numbers).to(means.device).split(3)
    offsets = means.double() - position
    exact = offsets.square().sum(dim=1).sqrt()
    distances = exact.float()
    ends = np.array([camera.near, camera.far], np.float32)
    inside = (distances >= float(ends[0])) & (distances <= float(ends[1]))
    inside &= (offsets * forward).sum(dim=1) >= math.cos(FISHEYE_MAX_THETA_RAD) * exact
    return inside, distances[None]


def _compensation(conics: Tensor, removed_px2: float) -> Tensor:
    """[1, N] ``sqrt(det(Σ' − r I) / det Σ')`` of dilated covariances Σ' that are given inverted.

    That is ``(1 − r λ₁)(1 − r λ₂)`` with the conic's eigenvalues λ: its trace and determinant do.
    """
    xx, xy, yy = conics.unbind(dim=-1)
    ratio = 1 - removed_px2 * (xx + yy) + removed_px2**2 * (xx * yy - xy * xy)
    return ratio.clamp(min=0).sqrt()


def _widened(radii: Tensor, opacities: Tensor) -> Tensor:
    """Boxes out to where alpha falls under the cut, also of opacities above 1."""
    sigmas = (2 * (opacities / ALPHA_CUT).clamp(min=1).log()).sqrt()
    wider = (radii * (sigmas / GSPLAT_SIGMAS)[..., None]).ceil()
    above = (opacities[..., None] > 1) & (radii > 0)
    return torch.where(above, wider.clamp(max=2**30).to(radii.dtype), radii)


def _colors(
    stages: Stages,
    draws: DrawList,
    columns: Columns,
    radii: Tensor,
    position: Tensor,
    most: int | None,
) -> Tensor:
    """[1, N, 3] as seen from a position, tinted."""
    degree = min(columns.sh_degree, MAX_SH_DEGREE if most is None else most)
    drawn = (radii[0] > 0).all(dim=-1)
    above = stages.spherical_harmonics(degree, columns.means - position, columns.sh, masks=drawn)
    colors = (above + 0.5).clamp(min=0)
    tints = draws.tint_column(colors.device)
    if tints is not None:
        colors = colors + tints[:, 3:] * (tints[:, :3] - colors)
    return colors[None]


@dataclass(frozen=True, slots=True, eq=False)
class _Tiles:
    """The part of an image that is drawn, and which Gaussians touch its tiles.

    Attributes:
        width, first, end: Of the image, and the first and end of its rows; pixels.
        offsets: [1, rows, columns] int32 of the tiles above ``end``, into ``flatten_ids``. Those
            above ``first`` have none.
        flatten_ids: [pairs] int32, by tile, then by depth, then by index.
    """

    width: int
    first: int
    end: int
    offsets: Tensor
    flatten_ids: Tensor


def composite(
    stages: Stages,
    projected: Projected,
    camera: Camera,
    settings: RasterSettings,
    pause: Pause = lambda stage: None,
) -> RasterImage:
    """The screen to images, in host memory, of the settings' rows.

    Raises:
        BudgetError: If more tiles are touched than gsplat can count.
    """
    rows = settings.rows_of(camera)
    _require_countable(projected, camera.width, rows)
    pause(CHECKED)
    tiles = _intersect(stages, projected, camera.width, rows)
    pause("sort")
    color, alpha, depth = _blend(stages, projected, tiles, settings)
    count = median = None
    if settings.outputs & (Outputs.COUNT | Outputs.MEDIAN_DEPTH):
        count, median = _count_and_median(stages, projected, tiles, pause)
    pause("composite")
    outputs = settings.outputs
    return RasterImage(
        alpha=_fetch(alpha),
        color=None if color is None else _fetch(color),
        depth=None if depth is None else _fetch(depth),
        median_depth=_fetch(median)
        if median is not None and Outputs.MEDIAN_DEPTH in outputs
        else None,
        count=_fetch(count) if count is not None and Outputs.COUNT in outputs else None,
        stats=RasterStats(
            gaussians=projected.depths.shape[1],
            visible=int(projected.drawn.sum()),
            tile_pairs=len(tiles.flatten_ids),
        ),
    )


def _fetch(image: Tensor) -> NDArray[Any]:
    fetched: NDArray[Any] = image.contiguous().cpu().numpy()
    return fetched


def _tile_counts(width: int, rows: tuple[int, int]) -> tuple[int, int, int]:
    """Columns of tiles; rows of tiles above an image's rows, and with them."""
    above = rows[0] // TILE
    return math.ceil(width / TILE), above, math.ceil(rows[1] / TILE) - above


def _require_countable(projected: Projected, width: int, rows: tuple[int, int]) -> None:
    """
    Raises:
        BudgetError: If gsplat would count pairs of a Gaussian and a tile beyond 32 bits. It has no
            check of its own: it sorts them, and writes where tiles begin as they overflow.
    """
    columns, _, below = _tile_counts(width, rows)
    if projected.depths.shape[1] * columns * below <= MOST_PAIRS:
        return
    pairs = _count_pairs(projected, (columns, below), rows[0])
    if pairs > MOST_PAIRS:
        raise BudgetError(
            f"{pairs:,} pairs of a Gaussian and a tile are more than gsplat can count; "
            "draw fewer Gaussians, or a smaller picture"
        )


def _count_pairs(projected: Projected, tiles: tuple[int, int], first_row: int) -> int:
    """Tiles that boxes touch, as ``csrc/IntersectTile.cu`` has it, in 64 bits.

    Args:
        tiles: Columns and rows of them.
        first_row: Of the image, that the first row of tiles begins with.
    """
    device = projected.depths.device
    most = torch.tensor(tiles, dtype=torch.float32, device=device)
    origin = torch.tensor([0.0, float(first_row)], device=device)
    pairs = torch.zeros((), dtype=torch.int64, device=device)
    for begin in range(0, projected.depths.shape[1], COUNTED_TOGETHER):
        some = slice(begin, begin + COUNTED_TOGETHER)
        radii = projected.radii[0, some] / TILE
        means = (projected.means2d[0, some] - origin) / TILE
        ends = (means + radii).ceil().clamp(min=0).minimum(most)
        begins = (means - radii).floor().clamp(min=0).minimum(most)
        drawn = (radii > 0).all(dim=-1)
        pairs += torch.where(drawn, (ends - begins).prod(dim=-1), 0.0).long().sum()
    return int(pairs)


def _intersect(stages: Stages, projected: Projected, width: int, rows: tuple[int, int]) -> _Tiles:
    """What touches the tiles of some rows.

    Tiles are found as if the rows were an image of their own; the projection is that of the whole
    image and pixels keep their places, so that a band has the bytes of the whole.
    """
    first, end = rows
    columns, above, below = _tile_counts(width, rows)
    means2d = projected.means2d
    if first:
        means2d = means2d - torch.tensor([0.0, float(first)], device=means2d.device)
    _, isect_ids, flatten_ids = stages.isect_tiles(
        means2d, projected.radii, projected.depths, TILE, columns, below
    )
    offsets = stages.isect_offset_encode(isect_ids, 1, columns, below)
    if above:
        offsets = torch.cat([offsets.new_zeros(1, above, columns), offsets], dim=1)
    return _Tiles(width, first, end, offsets, flatten_ids)


def _blend(
    stages: Stages, projected: Projected, tiles: _Tiles, settings: RasterSettings
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Colour [h, W, 3], alpha [h, W] and expected depth [h, W]; None where not asked for."""
    channels, backgrounds = [], None
    with_depth = Outputs.DEPTH in settings.outputs
    if projected.colors is not None:
        channels.append(projected.colors)
        behind = [*settings.background, 0.0] if with_depth else settings.background
        backgrounds = torch.tensor([behind], dtype=torch.float32, device=projected.colors.device)
    if with_depth or not channels:  # it wants at least one channel
        channels.append(projected.depths[..., None])
    images, alphas = stages.rasterize_to_pixels(
        projected.means2d,
        projected.conics,
        channels[0] if len(channels) == 1 else torch.cat(channels, dim=-1),
        projected.opacities,
        tiles.width,
        tiles.end,
        TILE,
        tiles.offsets,
        tiles.flatten_ids,
        backgrounds=backgrounds,
    )
    image, alpha = images[0, tiles.first :], alphas[0, tiles.first :, :, 0]
    color = None if projected.colors is None else image[..., :3]
    if not with_depth:
        return color, alpha, None
    depth = torch.where(alpha > 0, image[..., -1] / alpha.clamp(min=ALPHA_CUT / 2), 0.0)
    return color, alpha, depth


def _count_and_median(
    stages: Stages, projected: Projected, tiles: _Tiles, pause: Pause
) -> tuple[Tensor, Tensor]:
    """Gaussians blended into each pixel [h, W] int32, and the median depth [h, W] float32.

    gsplat's images hold neither; it can list what is blended into each pixel, front to back. The
    list is made for some rows of tiles at a time.
    """
    size = (tiles.end, tiles.width)
    depths = projected.depths
    count = torch.zeros(size, dtype=torch.int32, device=depths.device).view(-1)
    median = depths.new_zeros(size).view(-1)
    full = depths.new_ones((1, *size))
    for first, end in _groups([*tiles.offsets[0, :, 0].tolist(), len(tiles.flatten_ids)]):
        ids, pixels, _ = stages.rasterize_to_indices_in_range(
            0,
            EVERY_BATCH,
            full,
            projected.means2d,
            projected.conics,
            projected.opacities,
            tiles.width,
            tiles.end,
            TILE,
            tiles.offsets.clamp(first, end),  # other rows have nothing
            tiles.flatten_ids[:end],
        )
        count += torch.bincount(pixels, minlength=len(count)).int()
        if len(ids):
            at_half = _halves(_alphas(projected, ids, pixels, tiles.width), pixels)
            median[pixels[at_half]] = depths[0, ids[at_half]]
        pause("composite")
    rows = slice(tiles.first, tiles.end)
    return count.view(size)[rows], median.view(size)[rows]


def _groups(row_starts: list[int]) -> Iterator[tuple[int, int]]:
    """Rows of tiles as ranges of pairs: as many rows as may blend ``MOST_BLENDED``, one at least.

    Args:
        row_starts: The first pair of each row, and the number of all.
    """
    most = MOST_BLENDED // TILE**2
    first = row_starts[0]
    for end, after in zip(row_starts[1:], [*row_starts[2:], math.inf], strict=True):
        if after - first > most and end > first:
            yield first, end
            first = end


def _alphas(projected: Projected, ids: Tensor, pixels: Tensor, width: int) -> Tensor:
    """[M] of Gaussians at pixels."""
    dx = pixels % width + 0.5 - projected.means2d[0, ids, 0]
    dy = torch.div(pixels, width, rounding_mode="floor") + 0.5 - projected.means2d[0, ids, 1]
    xx, xy, yy = projected.conics[0, ids].unbind(dim=-1)
    power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    return (projected.opacities[0, ids] * power.exp()).clamp(max=ALPHA_MAX)


def _halves(alphas: Tensor, pixels: Tensor) -> Tensor:
    """[M] bool: where the transmittance of a pixel falls to 0.5 or below.

    Args:
        alphas: [M], front to back within a pixel.
        pixels: [M], ascending.
    """
    each = torch.log1p(-alphas.double())
    through = each.cumsum(dim=0)
    is_first = torch.ones_like(pixels, dtype=torch.bool)
    is_first[1:] = pixels[1:] != pixels[:-1]
    run = is_first.long().cumsum(dim=0) - 1
    base = (through - each)[is_first][run]
    half = math.log(0.5) + 1e-7  # alphas are not known any better
    return (through - base <= half) & (through - each - base > half)
