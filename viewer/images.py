"""What a render looks like to people: colours, turbo depth, grey alpha, count heat map."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from rendering.base import Outputs, RasterImage

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

Scalar = TypeVar("Scalar", np.float32, np.int32, np.bool_)

OPAQUE_ENOUGH = 0.5  # depths of fainter pixels say little; they are left out of the range
RANGE_PERCENTILES = (1.0, 99.0)
SAMPLES = 65_536


class Mode(str, Enum):
    """What the picture shows."""

    COLOR = "color"
    DEPTH = "depth"
    ALPHA = "alpha"
    COUNT = "count"

    @property
    def outputs(self) -> Outputs:
        """The images that a render must produce for this mode."""
        return {
            Mode.COLOR: Outputs.COLOR,
            Mode.DEPTH: Outputs.DEPTH,
            Mode.ALPHA: Outputs(0),
            Mode.COUNT: Outputs.COUNT,
        }[self]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Something to look at.

    Attributes:
        rgb: [H, W, 3] uint8.
        legend: What the colours mean: "" for real colours, "2.1 … 48 units" for depth.
    """

    rgb: UInt8Array
    legend: str = ""


def picture(
    image: RasterImage, mode: Mode, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Picture:
    """The picture of a render that holds ``mode.outputs``."""
    if mode is Mode.COLOR:
        assert image.color is not None
        return Picture(color_to_uint8(image.color))
    if mode is Mode.DEPTH:
        assert image.depth is not None
        return depth_picture(image.depth, image.alpha, background)
    if mode is Mode.ALPHA:
        return Picture(alpha_to_uint8(image.alpha), "black clear … white opaque")
    assert image.count is not None
    return count_picture(image.count)


def color_to_uint8(color: Float32Array) -> UInt8Array:
    """[H, W, 3] colours in [0, 1] as 8-bit ones, clipped and rounded to nearest."""
    scaled = np.multiply(color, np.float32(255.0))
    scaled += np.float32(0.5)
    np.clip(scaled, 0.0, 255.0, out=scaled)
    rounded: UInt8Array = scaled.astype(np.uint8)
    return rounded


def alpha_to_uint8(alpha: Float32Array) -> UInt8Array:
    """[H, W] opacity as [H, W, 3] grey: white is opaque."""
    grey = np.clip(alpha * np.float32(255.0) + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def depth_picture(
    depth: Float32Array, alpha: Float32Array, background: tuple[float, float, float]
) -> Picture:
    """Logarithmic depth in turbo colours, near red and far blue, faded to the background.

    The range spans the middle 98 % of the depths that are opaque enough.
    """
    low, high = _robust_range(depth, alpha >= OPAQUE_ENOUGH)
    span = max(np.log(high / low), 1e-6)
    with np.errstate(divide="ignore", invalid="ignore"):
        nearness = np.log(np.float32(high) / depth) / np.float32(span)
    nearness = np.nan_to_num(nearness, nan=0.0, posinf=0.0, neginf=0.0)
    colors = _colorize(nearness, cv2.COLORMAP_TURBO).astype(np.float32)
    behind = 255.0 * np.asarray(background, np.float32)
    rgb = behind + (colors - behind) * alpha[..., None]
    legend = f"red {_plain(low)} … blue {_plain(high)} units"
    return Picture(np.clip(rgb + 0.5, 0.0, 255.0).astype(np.uint8), legend)


def _plain(value: float) -> str:
    """Three digits that count, and no exponent where people write none: 4,860 for 4.86e+03."""
    return f"{value:,.0f}" if 100.0 <= value < 1e9 else f"{value:.3g}"


def count_picture(count: NDArray[np.int32]) -> Picture:
    """Gaussians blended into each pixel, from black over red to white (inferno)."""
    sample = _sample(count)
    high = max(1.0, float(np.percentile(sample, 99.5))) if sample.size else 1.0
    shares = count.astype(np.float32) / np.float32(high)
    return Picture(
        _colorize(shares, cv2.COLORMAP_INFERNO),
        f"black 0 … yellow {high:.0f} Gaussians, mean {sample.mean() if sample.size else 0:.0f}",
    )


def _sample(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Enough of the pixels for a percentile, spread over the image."""
    flat = values.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLES)]


def _robust_range(depth: Float32Array, mask: NDArray[np.bool_]) -> tuple[float, float]:
    seen = _sample(depth)[_sample(mask) & (_sample(depth) > 0)]
    if seen.size == 0:
        return 1.0, 2.0
    low, high = (float(value) for value in np.percentile(seen, RANGE_PERCENTILES))
    return low, max(high, low * 1.001)


def _colorize(shares: Float32Array, colormap: int) -> UInt8Array:
    """[H, W] shares in [0, 1] as [H, W, 3] colours."""
    index = np.clip(shares * np.float32(255.0) + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
    return np.asarray(_palette(colormap)[index], np.uint8)


@cache
def _palette(colormap: int) -> UInt8Array:
    """[256, 3] RGB of an OpenCV colour map."""
    ramp = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    return np.ascontiguousarray(cv2.applyColorMap(ramp, colormap)[:, 0, ::-1])
