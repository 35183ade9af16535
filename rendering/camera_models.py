"""The camera models as equations: where a point lands, and how its surroundings stretch.

Float64 torch, for the reference rasterizer. The pixel conventions are ``splat.camera``'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splat.camera import Camera, CameraModel


def to_screen(in_camera: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Project points and linearize the projection around each of them.

    Args:
        in_camera: [n, 3] float64, points in the camera frame; in front of the camera
            (z > 0) for a pinhole, not on the axis behind it for a fisheye.
        camera: Its model, intrinsics and image size are used.

    Returns:
        Pixels [n, 2] and Jacobians J = ∂(u, v) / ∂(x, y, z) [n, 2, 3], both float64.
    """
    if camera.model is CameraModel.PINHOLE:
        return _to_screen_pinhole(in_camera, camera)
    if camera.model is CameraModel.ORTHO:
        return _to_screen_ortho(in_camera, camera)
    return _to_screen_fisheye(in_camera, camera)


def _to_screen_pinhole(in_camera: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """``u = fx x/z + cx``; J is linearized within limits, exactly as gsplat 1.5.3 does:
    x/z inside J is clamped to 0.3 · tan(fov / 2) beyond either edge of the image."""
    fx, fy, cx, cy = _intrinsics(camera)
    x, y, z = in_camera.unbind(dim=1)
    tx, ty = x / z, y / z
    means2d = torch.stack([fx * tx + cx, fy * ty + cy], dim=1)
    margin_x = 0.3 * (0.5 * camera.width / fx)
    margin_y = 0.3 * (0.5 * camera.height / fy)
    tx = tx.clamp(-(cx / fx + margin_x), (camera.width - cx) / fx + margin_x)
    ty = ty.clamp(-(cy / fy + margin_y), (camera.height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    return means2d, _jacobian([fx / z, zero, -fx * tx / z], [zero, fy / z, -fy * ty / z])


def _to_screen_ortho(in_camera: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """``u = fx x + cx``."""
    fx, fy, cx, cy = _intrinsics(camera)
    x, y, _ = in_camera.unbind(dim=1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    J = _jacobian([fx * one, zero, zero], [zero, fy * one, zero])
    return torch.stack([fx * x + cx, fy * y + cy], dim=1), J


def _to_screen_fisheye(in_camera: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Equidistant: ``u = fx θ x/r + cx`` with r = ‖xy‖, θ = atan2(r, z) (Fisheye-GS).

    With c = x/r, s = y/r, the image plane stretches by θ/r across the radius and by
    ∂θ/∂r = z/ρ² along it (ρ² = r² + z²), and ∂θ/∂z = −r/ρ². On the axis both stretches
    tend to 1/z, so any direction (c, s) will do.
    """
    fx, fy, cx, cy = _intrinsics(camera)
    x, y, z = in_camera.unbind(dim=1)
    r, rho2 = torch.hypot(x, y), (in_camera**2).sum(dim=1)
    off_axis = r > 0
    safe_r = torch.where(off_axis, r, 1.0)
    c, s = torch.where(off_axis, x / safe_r, 1.0), y / safe_r
    across = torch.where(off_axis, torch.atan2(r, z) / safe_r, 1 / z)
    along = z / rho2
    means2d = torch.stack([fx * across * x + cx, fy * across * y + cy], dim=1)
    J = _jacobian(
        [fx * (c * c * along + s * s * across), fx * c * s * (along - across), -fx * x / rho2],
        [fy * c * s * (along - across), fy * (s * s * along + c * c * across), -fy * y / rho2],
    )
    return means2d, J


def _intrinsics(camera: Camera) -> tuple[float, float, float, float]:
    K = camera.K
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


def _jacobian(row_u: list[Tensor], row_v: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack(row_u, dim=1), torch.stack(row_v, dim=1)], dim=1)
