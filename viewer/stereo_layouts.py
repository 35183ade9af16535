"""Two eyes' pictures as one."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
Value = TypeVar("Value", np.uint8, np.float32)

# Of linear RGB, for red-cyan glasses: the least visible error through their filters (Dubois,
# "A projection method to generate anaglyph stereo images", 2001).
_LEFT_THROUGH_RED = np.array(
    [[0.437, 0.449, 0.164], [-0.062, -0.062, -0.024], [-0.048, -0.050, -0.017]], np.float32
)
_RIGHT_THROUGH_CYAN = np.array(
    [[-0.011, -0.032, -0.007], [0.377, 0.761, 0.009], [-0.026, -0.093, 1.234]], np.float32
)


class StereoLayout(str, Enum):
    """How the two pictures of a binocular frame are put into files.

    SIDE_BY_SIDE: Left and right beside each other, both at full size.
    TOP_BOTTOM: The left one above the right one.
    ANAGLYPH: One picture for red-cyan glasses, red for the left eye.
    SEPARATE: Two files.
    """

    SIDE_BY_SIDE = "side-by-side"
    TOP_BOTTOM = "top-bottom"
    ANAGLYPH = "anaglyph"
    SEPARATE = "separate"

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a file, given those of one eye's picture."""
        wide, high = self is StereoLayout.SIDE_BY_SIDE, self is StereoLayout.TOP_BOTTOM
        return (1 + wide) * width, (1 + high) * height


def join(
    left: NDArray[Value], right: NDArray[Value], layout: StereoLayout
) -> tuple[NDArray[Value], ...]:
    """What is written for two pictures [H, W, ...] of one size: one picture, or both.

    An anaglyph is made of sRGB colours, [H, W, 3] uint8.

    Raises:
        ValueError: If their shapes differ.
    """
    if left.shape != right.shape:
        raise ValueError(f"the eyes' pictures differ in size: {left.shape} and {right.shape}")
    if layout is StereoLayout.SIDE_BY_SIDE:
        return (np.concatenate([left, right], axis=1),)
    if layout is StereoLayout.TOP_BOTTOM:
        return (np.concatenate([left, right], axis=0),)
    if layout is StereoLayout.ANAGLYPH:
        mixed = _anaglyph(np.asarray(left, np.uint8), np.asarray(right, np.uint8))
        return (mixed.astype(left.dtype, copy=False),)
    return (left, right)


def _anaglyph(left: UInt8Array, right: UInt8Array) -> UInt8Array:
    mixed = np.asarray(cv2.transform(cv2.LUT(left, _LINEAR), _LEFT_THROUGH_RED), np.float32)
    mixed += cv2.transform(cv2.LUT(right, _LINEAR), _RIGHT_THROUGH_CYAN)
    np.clip(mixed, 0.0, 1.0, out=mixed)
    mixed *= len(_ENCODED) - 1
    mixed += 0.5  # the nearest entry
    return _ENCODED[mixed.astype(np.uint16)]


def _linear() -> Float32Array:
    """[256] linear light of each sRGB value (IEC 61966-2-1)."""
    values = np.arange(256) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


def _encoded() -> UInt8Array:
    """[65536] sRGB value of linear light in [0, 1], in steps that tell the darkest ones apart."""
    light = np.arange(1 << 16) / ((1 << 16) - 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    encoded: UInt8Array = np.rint(255 * srgb).astype(np.uint8)
    return encoded


_LINEAR, _ENCODED = _linear(), _encoded()
