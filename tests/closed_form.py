"""Images computed by hand: a few Gaussians whose screen ellipses are known.

This is the image model of ``rendering/base.py`` once more, written from its text with
numpy on whole images, so that the reference rasterizer too is held to something that it
shares no code with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CUT, LARGEST, STOP, DILATION = 1 / 255, 0.999, 1e-4, 0.3

Image = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Splat:
    """One Gaussian on the screen.

    Attributes:
        mean: (u, v) in pixels.
        covariance: [2, 2] in px², before the dilation.
        opacity, depth, rgb: As they enter the blending.
    """

    mean: tuple[float, float]
    covariance: ArrayLike
    opacity: float = 0.8
    depth: float = 1.0
    rgb: tuple[float, float, float] = (0.7, 0.4, 0.1)

    def alpha(self, width: int, height: int) -> Image:
        """[H, W] alpha at the pixel centres, clamped and cut.

        Raises:
            AssertionError: If a pixel lies so near the cut that rounding would decide.
        """
        inverse = np.linalg.inv(np.asarray(self.covariance) + DILATION * np.eye(2))
        v, u = np.mgrid[:height, :width] + 0.5
        d = np.stack([u - self.mean[0], v - self.mean[1]], axis=-1)
        alpha = self.opacity * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, inverse, d))
        assert not (np.abs(alpha / CUT - 1) < 5e-4).any(), "ambiguous test: alpha near the cut"
        return np.where(alpha < CUT, 0.0, np.minimum(alpha, LARGEST))


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """All images of a view; as ``RasterImage``, in float64."""

    alpha: Image
    color: Image
    depth: Image
    median_depth: Image
    count: NDArray[np.int64]


def paint(
    splats: Sequence[Splat],
    width: int,
    height: int,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Picture:
    """Blend ``splats``, given front to back."""
    shape = (height, width)
    transmittance, depth, median, total = np.ones(shape), *np.zeros((3, *shape))
    color, count = np.zeros((*shape, 3)), np.zeros(shape, int)
    for splat in splats:
        alpha = splat.alpha(width, height)
        takes = (alpha > 0) & (transmittance > STOP)
        weight = np.where(takes, alpha * transmittance, 0.0)
        behind = transmittance - weight
        median[takes & (transmittance > 0.5) & (behind <= 0.5)] = splat.depth
        color += weight[..., None] * np.asarray(splat.rgb)
        depth += weight * splat.depth
        total += weight
        count += takes
        transmittance = behind
    color += transmittance[..., None] * np.asarray(background)
    return Picture(
        alpha=1 - transmittance,
        color=color,
        depth=np.divide(depth, total, out=np.zeros(shape), where=total > 0),
        median_depth=median,
        count=count,
    )
