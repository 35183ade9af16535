"""What makes two views the same: every number that a picture depends on."""

from __future__ import annotations

from dataclasses import dataclass

from splat.camera import Camera, CameraModel


@dataclass(frozen=True, slots=True)
class ViewKey:
    """A camera as a key: equal if and only if the pictures are the same bytes.

    Attributes:
        matrices: Of ``viewmat`` and ``K``, the bytes.
        size: Width and height, pixels.
        near, far: As of the camera.
        model: The projection.
    """

    matrices: bytes
    size: tuple[int, int]
    near: float
    far: float
    model: CameraModel

    @classmethod
    def of(cls, camera: Camera) -> ViewKey:
        """The key of a camera."""
        # −0 and 0 draw the same.
        matrices = b"".join((matrix + 0.0).tobytes() for matrix in (camera.viewmat, camera.K))
        size = (camera.width, camera.height)
        return cls(matrices, size, camera.near, camera.far, camera.model)
