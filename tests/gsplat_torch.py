"""What gsplat's wrappers call in CUDA, in torch: so that the wrappers run on the CPU.

Projection, harmonics, tiles and offsets are gsplat's own torch functions, and around them what its
CUDA kernels do beyond those (``csrc/ProjectionEWA3DGSFused.cu``). Blending, for which its own torch
function needs CUDA, is written here after ``csrc/RasterizeToPixels3DGSFwd.cu``. What the kernels
leave as it was in memory is NaN here, and what they would not take is refused.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from rendering.gsplat_frame import Stages

CUT, LARGEST, STOP, SIGMAS = 1 / 255, 0.999, 1e-4, 3.33
INT_MAX = 2**31 - 1


def import_gsplat(module: str) -> ModuleType:
    """A module of gsplat; what importing it prints without CUDA is not shown."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(module)


def wrapped_stages(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32) -> Stages:
    """gsplat's wrappers, which find ``TorchBackend`` where they look for their CUDA code."""
    wrapper = import_gsplat("gsplat.cuda._wrapper")
    backend = ModuleType("gsplat.cuda._backend")
    backend._C = TorchBackend(dtype)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    return Stages.of(wrapper)


@dataclass(frozen=True, slots=True, eq=False)
class TileLayers:
    """Gaussians of a tile (k) at its pixels (P).

    Attributes:
        pixels: [P] int64, in the image.
        ids: [k] int64, front to back.
        weights: [k, P] float32, what each adds.
        taken: [k, P] bool.
        left: [P] float32, the transmittance in the end.
    """

    pixels: Tensor
    ids: Tensor
    weights: Tensor
    taken: Tensor
    left: Tensor


class TorchBackend:
    """``gsplat.csrc``.

    Args:
        dtype: In which it projects: float32 as in CUDA.
    """

    # The wrappers look for these in the module, not in the enumeration.
    CameraModelType = None
    PINHOLE, ORTHO, FISHEYE = "pinhole", "ortho", "fisheye"

    def __init__(self, dtype: torch.dtype) -> None:
        self._torch = import_gsplat("gsplat.cuda._torch_impl")
        self._dtype = dtype

    def projection_ewa_3dgs_fused_fwd(
        self,
        means: Tensor,
        covars: Tensor | None,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        eps2d: float,
        near: float,
        far: float,
        radius_clip: float,
        with_compensations: bool,
        model: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """The numbers in ``dtype``, and which are drawn, and how far, in double precision."""
        inputs = (means, quats, scales, opacities, viewmats, Ks)
        require(*inputs)
        assert covars is None
        assert radius_clip == 0
        how = {"width": width, "height": height, "eps2d": eps2d, "camera_model": model}
        _, means2d, depths, conics, compensations = self._projected(inputs, self._dtype, how)
        _, exact, _, inverse, factors = self._projected(inputs, torch.float64, how)
        opaque = opacities.double() * (factors if with_compensations else 1.0)
        xx, xy, yy = inverse.unbind(dim=-1)
        variances = torch.stack([yy, xx], dim=-1) / (xx * yy - xy * xy)[..., None]
        extend = (2 * (opaque / CUT).log()).sqrt().clamp(max=SIGMAS)
        radii = (extend[..., None] * variances.sqrt()).ceil()
        ends = torch.tensor([near, far], dtype=torch.float32)
        drawn = (depths >= ends[0]) & (depths <= ends[1]) & (opaque >= CUT)
        size = torch.tensor([width, height])
        drawn &= ((exact + radii > 0) & (exact - radii < size)).all(dim=-1)
        radii = radii.nan_to_num().clamp(max=INT_MAX).long() * drawn[..., None]
        written = [unwritten(each, ~drawn) for each in (means2d, depths, conics)]
        given = torch.where(drawn, compensations, 0.0) if with_compensations else None
        return radii.int(), written[0], written[1], written[2], given

    def _projected(
        self, inputs: tuple[Tensor, ...], dtype: torch.dtype, how: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """By gsplat's torch function; float32, unless it is asked for double precision."""
        means, quats, scales, _, viewmats, Ks = (each.to(dtype) for each in inputs)
        covariances, _ = self._torch._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
        ends = {"near_plane": -math.inf, "far_plane": math.inf, "calc_compensations": True}
        found = self._torch._fully_fused_projection(means, covariances, viewmats, Ks, **how, **ends)
        return found if dtype is torch.float64 else tuple(each.float() for each in found)

    def spherical_harmonics_fwd(
        self, degree: int, directions: Tensor, coefficients: Tensor, masks: Tensor
    ) -> Tensor:
        require(directions, coefficients)
        require(masks, dtype=torch.bool)
        colors = self._torch._spherical_harmonics(degree, directions, coefficients)
        return unwritten(colors, ~masks)

    def intersect_tile(
        self,
        means2d: Tensor,
        radii: Tensor,
        depths: Tensor,
        image_ids: Tensor | None,
        gaussian_ids: Tensor | None,
        images: int,
        tile_size: int,
        tile_width: int,
        tile_height: int,
        sort: bool,
        segmented: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sorted as a radix sort does: what is equal keeps its order."""
        require(means2d, depths)
        require(radii, dtype=torch.int32)
        assert (image_ids, gaussian_ids, images, segmented) == (None, None, 1, False)
        counts, isect_ids, flatten_ids = self._torch._isect_tiles(
            means2d, radii, depths, tile_size, tile_width, tile_height, sort=False
        )
        if sort:
            isect_ids, order = torch.sort(isect_ids, stable=True)
            flatten_ids = flatten_ids[order]
        return counts, isect_ids, flatten_ids

    def intersect_offset(
        self, isect_ids: Tensor, images: int, tile_width: int, tile_height: int
    ) -> Tensor:
        require(isect_ids, dtype=torch.int64)
        offsets: Tensor = self._torch._isect_offset_encode(
            isect_ids, images, tile_width, tile_height
        )
        return offsets

    def rasterize_to_pixels_3dgs_fwd(
        self,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        backgrounds: Tensor | None,
        masks: Tensor | None,
        width: int,
        height: int,
        tile_size: int,
        offsets: Tensor,
        flatten_ids: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        require(means2d, conics, colors, opacities)
        assert masks is None
        image = torch.zeros(height * width, colors.shape[-1])
        left = torch.ones(height * width)
        splats = (means2d, conics, opacities)
        for tile in tiles_of(splats, width, height, tile_size, offsets, flatten_ids):
            added = tile.weights[..., None] * colors[0, tile.ids, None]
            image[tile.pixels] = torch.where(tile.taken[..., None], added, 0.0).sum(dim=0)
            left[tile.pixels] = tile.left
        if backgrounds is not None:
            require(backgrounds)
            image += left[:, None] * backgrounds
        alphas = (1 - left).reshape(1, height, width, 1)
        return image.reshape(1, height, width, -1), alphas, torch.zeros(1, height, width)

    def rasterize_to_indices_3dgs(
        self,
        range_start: int,
        range_end: int,
        transmittances: Tensor,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        width: int,
        height: int,
        tile_size: int,
        offsets: Tensor,
        flatten_ids: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All at once, as the tests need it."""
        require(means2d, conics, opacities, transmittances)
        assert range_start == 0
        assert range_end == INT_MAX
        assert (transmittances == 1).all()
        found = [(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))]
        splats = (means2d, conics, opacities)
        for tile in tiles_of(splats, width, height, tile_size, offsets, flatten_ids):
            pixel, layer = tile.taken.T.nonzero(as_tuple=True)
            found.append((tile.ids[layer], tile.pixels[pixel]))
        ids, pixels = (torch.cat(each) for each in zip(*found, strict=True))
        order = torch.argsort(pixels, stable=True)
        return ids[order], pixels[order]


def tiles_of(
    splats: tuple[Tensor, Tensor, Tensor],
    width: int,
    height: int,
    tile_size: int,
    offsets: Tensor,
    flatten_ids: Tensor,
) -> Iterator[TileLayers]:
    """What is blended into each tile that anything touches."""
    require(offsets, flatten_ids, dtype=torch.int32)
    columns = offsets.shape[2]
    ends = [*offsets.flatten().tolist()[1:], len(flatten_ids)]
    for place, (start, end) in enumerate(zip(offsets.flatten().tolist(), ends, strict=True)):
        if end <= start:
            continue
        top, left = (tile_size * i for i in divmod(place, columns))
        v = torch.arange(top, min(top + tile_size, height))
        u = torch.arange(left, min(left + tile_size, width))
        pixels = (v[:, None] * width + u).flatten()
        if len(pixels):
            centres = torch.stack([pixels % width, pixels // width], dim=1) + 0.5
            yield layers_of(splats, pixels, centres, flatten_ids[start:end].long())


def layers_of(
    splats: tuple[Tensor, Tensor, Tensor], pixels: Tensor, centres: Tensor, ids: Tensor
) -> TileLayers:
    """A Gaussian that would leave 1e-4 or less is not drawn, nor is anything behind it."""
    means2d, conics, opacities = (each[0, ids] for each in splats)
    dx, dy = (means2d[:, None] - centres).unbind(dim=-1)
    xx, xy, yy = (conics[:, i, None] for i in range(3))
    sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = (opacities[:, None] * torch.exp(-sigma)).clamp(max=LARGEST)
    shown = (sigma >= 0) & (alpha >= CUT)
    behind = torch.where(shown, 1 - alpha, 1.0).cumprod(dim=0)
    taken = shown & (behind > STOP)
    before = torch.cat([torch.ones(1, len(pixels)), behind[:-1]])
    left = torch.where(taken, 1 - alpha, 1.0).prod(dim=0)
    return TileLayers(pixels, ids, alpha * before, taken, left)


def unwritten(values: Tensor, where: Tensor) -> Tensor:
    """With NaN in the rows that a kernel does not write."""
    spread = where.reshape(where.shape + (1,) * (values.ndim - where.ndim))
    return torch.where(spread, math.nan, values)


def require(*tensors: Any, dtype: torch.dtype = torch.float32) -> None:
    """As the macros of ``Common.h``, and the types that data pointers are taken for."""
    for tensor in tensors:
        assert isinstance(tensor, Tensor)
        assert tensor.is_contiguous()
        assert tensor.dtype == dtype
