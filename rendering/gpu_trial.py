"""A picture of one Gaussian, before an engine is trusted with more.

There is more that can be wrong with a GPU than can be asked for beforehand: a torch whose kernels
were not built for it, no C compiler for what Triton builds at its first use, memory that another
process has taken, a context that an earlier error has spoilt.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rendering.base import DILATION_PX2, Rasterizer
from rendering.cuda_faults import CPU_INSTEAD
from rendering.device import DeviceLost
from splat.camera import Camera
from splat.errors import BackendUnavailable, BelvedereError, one_line
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians
from splat.harmonics import rgb_to_sh0

SIDE_PX = 48  # three tiles of sixteen, the middle one not at the edge
OPACITY, COLOR = 0.5, (0.2, 0.4, 0.8)
TOLERANCE = 0.01


def prove(rasterizer: Rasterizer) -> None:
    """Draw one Gaussian and look at it.

    Raises:
        BackendUnavailable: If that fails, in one line, or the picture is wrong.
    """
    try:
        image = rasterizer.render(rasterizer.prepare(sample_gaussian()), sample_eyes()[0])
    except Exception as error:  # torch's and Triton's own, of any kind
        raise BackendUnavailable(_said(error)) from error
    middle, alpha = SIDE_PX // 2, _alpha()
    assert image.color is not None
    drawn = [*image.color[middle, middle], image.alpha[middle, middle], image.alpha[0, 0]]
    expected = [*(alpha * c for c in COLOR), alpha, 0.0]
    if not np.allclose(drawn, expected, rtol=0, atol=TOLERANCE):
        raise BackendUnavailable("it draws a single Gaussian wrongly")


def _said(error: Exception) -> str:
    """The error in one line, without what became of it: that is for who asked to say."""
    text = f"{error}".strip().removesuffix(f"; {CPU_INSTEAD}") or "no reason given"
    is_ours = isinstance(error, BelvedereError | DeviceLost)
    return one_line(text if is_ours else f"{type(error).__name__}: {text}")


def sample_gaussian(sh_degree: int = 0) -> Gaussians:
    """A ball of two pixels at a depth of 1."""
    sh = np.zeros((1, SH_COUNT_OF_DEGREE[sh_degree], 3), np.float32)
    sh[0, 0] = rgb_to_sh0(np.array(COLOR, np.float32))
    return Gaussians(
        means=np.array([[0, 0, 1]], np.float32),
        quats=np.array([[1, 0, 0, 0]], np.float32),
        scales=np.full((1, 3), 2 / SIDE_PX, np.float32),
        opacities=np.array([OPACITY], np.float32),
        sh=sh,
    )


def sample_eyes() -> tuple[Camera, Camera]:
    """Two cameras that look along z, so that the ball is in the middle of the first one's picture,
    and nearly so in the other's."""
    half = SIDE_PX / 2
    K = np.array([[SIDE_PX, 0, half], [0, SIDE_PX, half], [0, 0, 1]], np.float64)
    first = Camera(viewmat=np.eye(4), K=K, width=SIDE_PX, height=SIDE_PX)
    aside = np.eye(4)
    aside[0, 3] = -1e-3
    return first, replace(first, viewmat=aside)


def _alpha() -> float:
    """Of the pixel beside the middle, whose centre is half a pixel from it on both axes."""
    variance_px2 = 4 + DILATION_PX2
    return float(OPACITY * np.exp(-0.5 * 0.5 / variance_px2))
