"""Two eyes: cameras side by side that look at the same scene."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from splat.camera import Camera, CameraModel
from splat.errors import CameraError

HUMAN_IPD = 0.063
"""Distance of a person's eyes, mean, metres."""


@dataclass(frozen=True, slots=True)
class StereoRig:
    """Two parallel eyes, half a distance to the left and to the right of a camera.

    The eyes never turn towards each other, which would tilt their image planes and shift
    points vertically; instead the frusta are asymmetric, so that both see the same picture
    of the plane at ``convergence``. Nearer points appear in front of the screen, further ones
    behind it. Both eyes give every point the same depth z, bit for bit.

    Attributes:
        ipd: Distance of the eyes, world units (of a person: ``HUMAN_IPD``).
        convergence: Distance of the plane without parallax, world units; infinite for
            symmetric frusta, as headsets expect.

    Raises:
        CameraError: If a distance is not positive, or the eyes' is not finite.
    """

    ipd: float
    convergence: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ipd) and self.ipd > 0):
            raise CameraError(f"the distance of the eyes must be positive, got {self.ipd:g}")
        if not self.convergence > 0:
            raise CameraError(f"the convergence must be positive, got {self.convergence:g}")

    def eyes(self, middle: Camera) -> tuple[Camera, Camera]:
        """The left and the right eye of a head that looks as ``middle`` does.

        Raises:
            CameraError: If ``middle`` is ORTHO, which has no parallax, or FISHEYE with a finite
                convergence, which has no frustum to shift.
        """
        if middle.model is CameraModel.ORTHO:
            raise CameraError("an orthographic camera has no parallax; use a pinhole camera")
        if middle.model is CameraModel.FISHEYE and math.isfinite(self.convergence):
            raise CameraError("a fisheye camera cannot converge; leave the convergence out")
        return self._eye(middle, -0.5 * self.ipd), self._eye(middle, 0.5 * self.ipd)

    def disparity_px(self, middle: Camera, depth: float) -> float:
        """How far to the right of the right eye's the left eye's picture of a point is, pixels.

        Of a pinhole camera; positive in front of the plane of convergence.
        """
        return float(middle.K[0, 0]) * self.ipd * (1 / depth - 1 / self.convergence)

    def _eye(self, middle: Camera, offset: float) -> Camera:
        viewmat, intrinsics = middle.viewmat.copy(), middle.K.copy()
        viewmat[0, 3] -= offset  # along the camera's own x axis: depths stay as they are
        intrinsics[0, 2] += intrinsics[0, 0] * offset / self.convergence
        return replace(middle, viewmat=viewmat, K=intrinsics)


def is_pair(left: Camera, right: Camera) -> bool:
    """Whether two pinhole cameras look the same way from points on their common x axis.

    They give every point the same depth and the same row then. Those of ``StereoRig.eyes`` do.
    """
    turned = left.viewmat[:, :3] != right.viewmat[:, :3]
    moved = left.viewmat[1:, 3] != right.viewmat[1:, 3]
    lens = left.K != right.K
    lens[0, 2] = False  # the principal point may be elsewhere along x
    return (
        left.model is right.model is CameraModel.PINHOLE
        and (left.width, left.height) == (right.width, right.height)
        and (left.near, left.far) == (right.near, right.far)
        and not (turned.any() or moved.any() or lens.any())
    )
