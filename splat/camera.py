"""Cameras: where a picture is taken from, and how points become pixels.

Frames and units (``docs/conventions.md``): world units are the scene's own. The
camera frame is OpenCV's: +x right, +y down, +z forward. Pixel centres lie at
half-integers, so the top-left pixel covers [0, 1) × [0, 1) and its centre is
(0.5, 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splat.errors import CameraError

Float64Array = NDArray[np.float64]

MAX_IMAGE_SIDE = 16_384


class CameraModel(str, Enum):
    """How a point (x, y, z) of the camera frame maps to a pixel.

    PINHOLE: ``u = fx x / z + cx``.
    ORTHO:   ``u = fx x + cx``; focal lengths are pixels per world unit.
    FISHEYE: equidistant (Fisheye-GS), ``θ = atan2(‖xy‖, z)``, ``u = fx θ x / ‖xy‖ + cx``.
    """

    PINHOLE = "pinhole"
    ORTHO = "ortho"
    FISHEYE = "fisheye"


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """One view of a scene.

    Attributes:
        viewmat: [4, 4] float64, world → camera, rigid (OpenCV axes).
        K: [3, 3] float64 intrinsics in pixels.
        width, height: Image size in pixels.
        near, far: Gaussians whose centre has view depth z outside [near, far] are
            not drawn (for FISHEYE, distance to the centre instead of z). World units.
        model: The projection.

    Raises:
        CameraError: If a value is not finite, the size is not positive or absurd, the
            rotation is not a rotation, or near/far are not ``0 < near < far``.
    """

    viewmat: Float64Array
    K: Float64Array
    width: int
    height: int
    near: float = 0.01
    far: float = math.inf
    model: CameraModel = CameraModel.PINHOLE

    def __post_init__(self) -> None:
        viewmat = np.array(self.viewmat, dtype=np.float64)
        intrinsics = np.array(self.K, dtype=np.float64)
        if viewmat.shape != (4, 4) or intrinsics.shape != (3, 3):
            raise CameraError(
                f"camera matrices must be 4×4 and 3×3, got {viewmat.shape} and {intrinsics.shape}"
            )
        if not (np.isfinite(viewmat).all() and np.isfinite(intrinsics).all()):
            raise CameraError("camera matrices hold values that are not finite numbers")
        rotation = viewmat[:3, :3]
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-4 or np.linalg.det(rotation) < 0:
            raise CameraError("the camera's 3×3 rotation is not a rotation (orthonormal, det +1)")
        if not (1 <= self.width <= MAX_IMAGE_SIDE and 1 <= self.height <= MAX_IMAGE_SIDE):
            raise CameraError(
                f"image size {self.width}×{self.height} is outside 1…{MAX_IMAGE_SIDE} pixels a side"
            )
        if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
            raise CameraError("focal lengths must be positive")
        if not 0 < self.near < self.far:
            raise CameraError(f"need 0 < near < far, got near {self.near}, far {self.far}")
        viewmat.flags.writeable = False
        intrinsics.flags.writeable = False
        object.__setattr__(self, "viewmat", viewmat)
        object.__setattr__(self, "K", intrinsics)
        object.__setattr__(self, "model", CameraModel(self.model))

    @classmethod
    def look_at(
        cls,
        position: ArrayLike,
        target: ArrayLike,
        up: ArrayLike,
        *,
        fov_y_rad: float,
        width: int,
        height: int,
        near: float = 0.01,
        far: float = math.inf,
    ) -> Camera:
        """A pinhole camera at ``position`` looking towards ``target``, square pixels.

        ``up`` is the direction that appears upwards in the picture, of any length. When
        it is parallel to the view direction, the nearest usable axis is taken.

        Raises:
            CameraError: If position equals target, up is zero, or the field of view is not
                in (0, π).
        """
        return cls(
            viewmat=look_at_viewmat(position, target, up),
            K=intrinsics_from_fov_y(fov_y_rad, width, height),
            width=width,
            height=height,
            near=near,
            far=far,
        )

    @property
    def camera_to_world(self) -> Float64Array:
        """[4, 4] float64, camera → world."""
        rotation = self.viewmat[:3, :3]
        out = np.eye(4)
        out[:3, :3] = rotation.T
        out[:3, 3] = -rotation.T @ self.viewmat[:3, 3]
        return out

    @property
    def position(self) -> Float64Array:
        """[3] float64, the optical centre in world coordinates."""
        return self.camera_to_world[:3, 3]

    @property
    def forward(self) -> Float64Array:
        """[3] float64 unit vector, the view direction in world coordinates."""
        return np.array(self.viewmat[2, :3])

    @property
    def fov_y_rad(self) -> float:
        """Vertical field of view of a pinhole camera, radians."""
        return 2.0 * math.atan2(0.5 * self.height, float(self.K[1, 1]))

    def resized(self, width: int, height: int) -> Camera:
        """The same view at another size: the intrinsics are scaled with the image."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return replace(self, K=scale @ self.K, width=width, height=height)


def look_at_viewmat(position: ArrayLike, target: ArrayLike, up: ArrayLike) -> Float64Array:
    """World → camera matrix [4, 4] float64 of a camera at ``position`` facing ``target``."""
    eye = np.asarray(position, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - eye
    upward = np.asarray(up, dtype=np.float64)
    for name, vector in (("position", eye), ("look-at", forward), ("up", upward)):
        if vector.shape != (3,) or not np.isfinite(vector).all():
            raise CameraError(f"camera {name} needs three finite numbers")
    if np.linalg.norm(forward) == 0:
        raise CameraError("camera position and look-at point are the same")
    if np.linalg.norm(upward) == 0:
        raise CameraError("camera up direction is zero")
    forward = forward / np.linalg.norm(forward)
    upward = upward / np.linalg.norm(upward)
    if np.linalg.norm(np.cross(forward, upward)) < 1e-6:
        upward = np.eye(3)[np.argmin(np.abs(forward))]
    right = np.cross(forward, upward)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, down, forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    return viewmat


def intrinsics_from_fov_y(fov_y_rad: float, width: int, height: int) -> Float64Array:
    """K [3, 3] float64 with square pixels and a centred principal point."""
    if not 0.0 < fov_y_rad < math.pi:
        raise CameraError(f"field of view must be in (0, 180)°, got {math.degrees(fov_y_rad):g}°")
    focal = 0.5 * height / math.tan(0.5 * fov_y_rad)
    return np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])


def fov_y_from_fov_x(fov_x_rad: float, width: int, height: int) -> float:
    """Vertical field of view (radians) that gives ``fov_x_rad`` across, square pixels."""
    if not 0.0 < fov_x_rad < math.pi:
        raise CameraError(f"field of view must be in (0, 180)°, got {math.degrees(fov_x_rad):g}°")
    return 2.0 * math.atan(math.tan(0.5 * fov_x_rad) * height / width)
