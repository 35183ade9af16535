"""Equirectangular pictures for both eyes, for headsets that play files.

*VR180*: the half-sphere ahead, from two fixed eyes. *ODS* (omni-directional stereo; Peleg,
Ben-Ezra and Pritch, 2001): all around, where each column is seen by eyes that face it, so that
there is parallax wherever one turns. An ODS picture is made of narrow slices.

A column stands for an azimuth, −half the width to the left, a row for an elevation, straight up
at the top; both are linear in the angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rendering.base import RasterImage
from splat.camera import MAX_IMAGE_SIDE, Camera, CameraModel
from splat.stereo import StereoRig

Float32Array = NDArray[np.float32]
DrawEach = Callable[[Sequence[tuple[Camera, Camera]]], Iterable[tuple[RasterImage, ...]]]

SLICE_PX = 16  # columns of an ODS picture that share an eye's place
MARGIN_PX = 4  # for the interpolation
OVERSAMPLING = 1.25  # of the pictures that a panorama is made of
MAX_HEIGHT = int((MAX_IMAGE_SIDE - 2 * MARGIN_PX) / OVERSAMPLING)

_IMAGES = ("alpha", "color", "depth", "median_depth", "count")  # of a ``RasterImage``
# Colours and opacities have values between those of two pixels; depths at an edge do not.
_INTERPOLATION = {"color": cv2.INTER_CUBIC, "alpha": cv2.INTER_LINEAR}


class Panorama(str, Enum):
    """What a panorama covers."""

    VR180 = "vr180"
    ODS = "ods"


@dataclass(frozen=True, slots=True)
class PanoramaSize:
    """Of one eye's picture, pixels; square for VR180, twice as wide as high for ODS."""

    width: int
    height: int

    @classmethod
    def of(cls, panorama: Panorama, height: int) -> PanoramaSize:
        """The size for a height."""
        return cls(height if panorama is Panorama.VR180 else 2 * height, height)


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Columns of a panorama that two cameras see.

    Attributes:
        first, count: The columns.
        eyes: FISHEYE cameras, the left one first.
        rad_per_column: Width of a column.
    """

    first: int
    count: int
    eyes: tuple[Camera, Camera]
    rad_per_column: float


def slices_of(panorama: Panorama, height: int, middle: Camera, rig: StereoRig) -> list[Slice]:
    """What a panorama is made of, from left to right.

    Args:
        panorama: What it covers.
        height: Of one eye's picture, pixels.
        middle: Where the head is, and where it looks; its lens does not matter.
        rig: The eyes; they do not converge.
    """
    rig = replace(rig, convergence=math.inf)
    width = PanoramaSize.of(panorama, height).width
    columns = width if panorama is Panorama.VR180 else SLICE_PX
    rad_per_column = (math.pi if panorama is Panorama.VR180 else 2 * math.pi) / width
    parts = []
    for first in range(0, width, columns):
        count = min(columns, width - first)
        azimuth = (first + 0.5 * (count - width)) * rad_per_column
        lens = _lens(_turned(middle, azimuth), count * rad_per_column, height)
        parts.append(Slice(first, count, rig.eyes(lens), rad_per_column))
    return parts


def panorama_pair(
    panorama: Panorama,
    height: int,
    middle: Camera,
    rig: StereoRig,
    draw_each: DrawEach,
    on_slice: Callable[[int, int], None] = lambda done, of: None,
) -> RasterImage:
    """The pictures of both eyes, the left one's above the right one's: [2 · height, width].

    Depths are distances from the eye, as in any fisheye picture.

    Args:
        panorama, height, middle, rig: As of ``slices_of``.
        draw_each: From pairs of cameras to the images of each pair, in order.
        on_slice: Hears before each slice how many are here, of how many.
    """
    size = PanoramaSize.of(panorama, height)
    slices = slices_of(panorama, height, middle, rig)
    drawn = iter(draw_each([part.eyes for part in slices]))
    whole: dict[str, Any] = {}
    for index, part in enumerate(slices):
        on_slice(index, len(slices))
        seen = next(drawn)
        sampling = _sampling(part, size.height)
        columns = slice(part.first, part.first + part.count)
        for eye, image in enumerate(seen):
            rows = slice(eye * size.height, (eye + 1) * size.height)
            for name in _IMAGES:
                pixels = getattr(image, name)
                if pixels is None:
                    continue
                if name not in whole:
                    shape = (2 * size.height, size.width, *pixels.shape[2:])
                    whole[name] = np.empty(shape, pixels.dtype)
                whole[name][rows, columns] = _sampled(name, pixels, sampling)
    return RasterImage(**whole)


def _sampled(
    name: str, pixels: NDArray[Any], sampling: tuple[Float32Array, Float32Array]
) -> NDArray[Any]:
    values = pixels.astype(np.float32, copy=False)  # counts, which OpenCV samples as floats only
    how = _INTERPOLATION.get(name, cv2.INTER_NEAREST)
    return cv2.remap(values, *sampling, how, borderMode=cv2.BORDER_REPLICATE)


def _turned(camera: Camera, azimuth_rad: float) -> Camera:
    """The camera turned to the right about its own vertical axis."""
    cosine, sine = math.cos(azimuth_rad), math.sin(azimuth_rad)
    turn = np.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = cosine, -sine, sine, cosine
    return replace(camera, viewmat=turn @ camera.viewmat)


def _lens(camera: Camera, width_rad: float, rows: int) -> Camera:
    """A fisheye camera that sees ``width_rad`` across and half a turn from top to bottom."""
    per_rad = OVERSAMPLING * rows / math.pi
    width = math.ceil(per_rad * width_rad) + 2 * MARGIN_PX
    height = math.ceil(per_rad * math.pi) + 2 * MARGIN_PX
    intrinsics = np.array([[per_rad, 0, width / 2], [0, per_rad, height / 2], [0, 0, 1]])
    return replace(camera, K=intrinsics, width=width, height=height, model=CameraModel.FISHEYE)


def _sampling(part: Slice, rows: int) -> tuple[Float32Array, Float32Array]:
    """Where each pixel of a slice lies in its fisheye pictures, for cv2.remap."""
    intrinsics = part.eyes[0].K
    azimuth = ((np.arange(part.count) + 0.5) - 0.5 * part.count)[None, :] * part.rad_per_column
    elevation = ((np.arange(rows) + 0.5) / rows - 0.5)[:, None] * math.pi
    x = np.sin(azimuth) * np.cos(elevation)
    y = np.broadcast_to(np.sin(elevation), x.shape)
    across = np.hypot(x, y)
    theta = np.arctan2(across, np.cos(azimuth) * np.cos(elevation))
    stretch = theta / np.maximum(across, 1e-12)
    u = intrinsics[0, 0] * x * stretch + intrinsics[0, 2] - 0.5
    v = intrinsics[1, 1] * y * stretch + intrinsics[1, 2] - 0.5
    return u.astype(np.float32), v.astype(np.float32)
