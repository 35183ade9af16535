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
    mixed = np.asarray(cv2.transform(_linear(left), _LEFT_THROUGH_RED), np.float32)
    mixed = mixed + cv2.transform(_linear(right), _RIGHT_THROUGH_CYAN)
    return _encoded(np.clip(mixed, 0.0, 1.0))


def _linear(srgb: UInt8Array) -> Float32Array:
    """IEC 61966-2-1, by a table."""
    values = np.arange(256, dtype=np.float32) / 255
    table = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear: Float32Array = table.astype(np.float32)[srgb]
    return linear


def _encoded(linear: Float32Array) -> UInt8Array:
    high = 1.055 * linear ** (1 / 2.4) - 0.055
    srgb: UInt8Array = np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, high)).astype(
        np.uint8
    )
    return srgb
