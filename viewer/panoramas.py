"""Equirectangular pictures for both eyes, for headsets that play files.

*VR180*: the half-sphere ahead, from two fixed eyes. *ODS* (omni-directional stereo; Peleg,
Ben-Ezra and Pritch, 2001): all around, where each column is seen by eyes that face it, so that
there is parallax wherever one turns. An ODS picture is made of narrow slices.

A column stands for an azimuth, −half the width to the left, a row for an elevation, straight up
at the top; both are linear in the angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from splat.camera import Camera, CameraModel
from splat.stereo import StereoRig

Float32Array = NDArray[np.float32]
Draw = Callable[[Camera], Float32Array]

SLICE_PX = 16  # columns of an ODS picture that share an eye's place
MARGIN_PX = 4  # for the interpolation
OVERSAMPLING = 1.25  # of the pictures that a panorama is made of


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


def panorama_pair(
    panorama: Panorama, height: int, middle: Camera, rig: StereoRig, draw: Draw
) -> tuple[Float32Array, Float32Array]:
    """The left and the right eye's picture, [height, width, 3] float32.

    Args:
        panorama: What it covers.
        height: Pixels.
        middle: Where the head is, and where it looks; its lens does not matter.
        rig: The eyes; they do not converge.
        draw: Colours [H, W, 3] float32 as a FISHEYE camera sees them.
    """
    rig = replace(rig, convergence=math.inf)
    size = PanoramaSize.of(panorama, height)
    columns = size.width if panorama is Panorama.VR180 else SLICE_PX
    span_rad = math.pi if panorama is Panorama.VR180 else 2 * math.pi
    pictures = tuple(np.empty((size.height, size.width, 3), np.float32) for _ in range(2))
    for first in range(0, size.width, columns):
        count = min(columns, size.width - first)
        centre = ((first + 0.5 * count) / size.width - 0.5) * span_rad
        lens = _lens(_turned(middle, centre), count * span_rad / size.width, size.height)
        sampling = _sampling(lens, count, span_rad / size.width, size.height)
        for picture, eye in zip(pictures, rig.eyes(lens), strict=True):
            picture[:, first : first + count] = cv2.remap(
                draw(eye), *sampling, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
    return pictures[0], pictures[1]


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


def _sampling(
    lens: Camera, columns: int, rad_per_column: float, rows: int
) -> tuple[Float32Array, Float32Array]:
    """Where each pixel of a part of the panorama lies in the fisheye picture, for cv2.remap."""
    azimuth = ((np.arange(columns) + 0.5) - 0.5 * columns)[None, :] * rad_per_column
    elevation = ((np.arange(rows) + 0.5) / rows - 0.5)[:, None] * math.pi
    x = np.sin(azimuth) * np.cos(elevation)
    y = np.broadcast_to(np.sin(elevation), x.shape)
    across = np.hypot(x, y)
    theta = np.arctan2(across, np.cos(azimuth) * np.cos(elevation))
    stretch = theta / np.maximum(across, 1e-12)
    u = lens.K[0, 0] * x * stretch + lens.K[0, 2] - 0.5
    v = lens.K[1, 1] * y * stretch + lens.K[1, 2] - 0.5
    return u.astype(np.float32), v.astype(np.float32)
