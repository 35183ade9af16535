"""The truth's first half: from the world to the screen (``rendering.reference``).

Letters as in the 3DGS literature: W is the camera's rotation, R and S are a Gaussian's
rotation and scale, J is the Jacobian of the projection at its mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rendering.base import (
    ALPHA_CUT,
    DILATION_PX2,
    FISHEYE_MAX_THETA_RAD,
    RasterSettings,
)
from rendering.camera_models import to_screen
from splat.camera import Camera, CameraModel
from splat.harmonics import sh_basis


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceScene:
    """A copy of ``Gaussians`` in float64; same names and shapes."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def __len__(self) -> int:
        return len(self.means)


@dataclass(frozen=True, slots=True, eq=False)
class ProjectedReference:
    """The M Gaussians of a scene that may touch the image, in the scene's order.

    Attributes:
        index: [M] int64, their places in the scene, ascending.
        means2d: [M, 2] float64, pixels.
        conics: [M, 3] float64, upper triangle (xx, xy, yy) of the inverse of the dilated
            screen covariance, 1 / px².
        depths: [M] float32, view depth z, or distance for a fisheye camera (the sort key).
        colors: [M, 3] float64, ≥ 0.
        opacities: [M] float64, compensated where the settings ask for it, ≥ ALPHA_CUT.
        extents: [M, 2] float64, half width and height of the box outside of which alpha is
            under ALPHA_CUT, pixels.
    """

    index: Tensor
    means2d: Tensor
    conics: Tensor
    depths: Tensor
    colors: Tensor
    opacities: Tensor
    extents: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> ProjectedReference:
        """The Gaussians picked by a boolean mask, an index tensor or a slice."""
        return ProjectedReference(
            self.index[rows],
            self.means2d[rows],
            self.conics[rows],
            self.depths[rows],
            self.colors[rows],
            self.opacities[rows],
            self.extents[rows],
        )


def project(
    scene: ReferenceScene,
    camera: Camera,
    settings: RasterSettings = RasterSettings(),
    *,
    anywhere: bool = False,
) -> ProjectedReference:
    """Screen-space parameters of the Gaussians that may touch the image.

    With ``anywhere``, of all in range, also of those whose compensated opacity is under the cut.

    EWA splatting (Zwicker et al. 2001) as in 3DGS (Kerbl et al. 2023), with the extents of
    the exact ellipse at which alpha reaches ALPHA_CUT.
    """
    viewmat = torch.from_numpy(camera.viewmat.copy())
    W, t = viewmat[:3, :3], viewmat[:3, 3]
    in_camera = scene.means @ W.T + t
    depths = view_depths(scene.means, camera)
    drawn = _in_range(in_camera, depths, camera) & (scene.opacities >= ALPHA_CUT)
    index = drawn.nonzero()[:, 0]

    means2d, J = to_screen(in_camera[index], camera)
    # Σ' = M Mᵀ with M = J W R S: [n, 2, 3].
    M = J @ W @ _rotations(scene.quats[index]) * scene.scales[index, None, :]
    covariance = M @ M.transpose(1, 2)
    # det(M Mᵀ) = |m₀ × m₁|² (Lagrange): no cancellation where a Gaussian is a needle.
    raw_det = torch.linalg.cross(M[:, 0], M[:, 1]).square().sum(dim=1)
    raw_trace = covariance[:, 0, 0] + covariance[:, 1, 1]
    det = raw_det + DILATION_PX2 * raw_trace + DILATION_PX2**2
    xx, yy = covariance[:, 0, 0] + DILATION_PX2, covariance[:, 1, 1] + DILATION_PX2
    conics = torch.stack([yy, -covariance[:, 0, 1], xx], dim=1) / det[:, None]

    opacities = scene.opacities[index]
    kept_px2 = settings.kept_dilation_px2
    if kept_px2 < DILATION_PX2:
        kept_det = raw_det + kept_px2 * raw_trace + kept_px2**2
        opacities = opacities * (kept_det / det).sqrt()
    # alpha ≥ cut inside the ellipse dᵀ Σ'⁻¹ d ≤ 2 ln(opacity / cut).
    reach = 2 * (opacities / ALPHA_CUT).log()
    extents = (reach.clamp(min=0)[:, None] * torch.stack([xx, yy], dim=1)).sqrt()
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    # Pixel centres are 0.5 … size − 0.5.
    touches = (means2d + extents >= 0.5) & (means2d - extents <= size - 0.5)
    kept = ((touches.all(dim=1) & (reach >= 0)) | anywhere).nonzero()[:, 0]
    return ProjectedReference(
        index=index[kept],
        means2d=means2d[kept],
        conics=conics[kept],
        depths=depths[index[kept]],
        colors=_colors(scene, index[kept], camera, settings.sh_degree),
        opacities=opacities[kept],
        extents=extents[kept],
    )


def view_depths(means: Tensor, camera: Camera) -> Tensor:
    """[N] float32 sort keys: view depth z, or the distance for a fisheye camera.

    z = r₂₀ x + r₂₁ y + r₂₂ z + t₂ is summed from left to right in float64, so that every
    engine which does the same gets the same order.
    """
    if camera.model is CameraModel.FISHEYE:
        to_means = means - torch.from_numpy(camera.position.copy())
        depth = to_means.square().sum(dim=1).sqrt()
    else:
        r20, r21, r22, t2 = camera.viewmat[2].tolist()
        x, y, z = means.unbind(dim=1)
        depth = x * r20 + y * r21 + z * r22 + t2
    return depth.to(torch.float32)


def _in_range(in_camera: Tensor, depths: Tensor, camera: Camera) -> Tensor:
    """[N] bool: means between near and far, and inside the widest fisheye cone."""
    # In float32 on both sides: a Gaussian placed on the near plane is drawn.
    near, far = (torch.tensor(limit, dtype=torch.float32) for limit in (camera.near, camera.far))
    inside = (depths >= near) & (depths <= far)
    if camera.model is CameraModel.FISHEYE:
        x, y, z = in_camera.unbind(dim=1)
        inside &= torch.atan2(torch.hypot(x, y), z) <= FISHEYE_MAX_THETA_RAD
    return inside


def _rotations(quats: Tensor) -> Tensor:
    """[n, 3, 3] rotation matrices of [n, 4] quaternions wxyz, normalized here."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(dim=1)
    entries = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, dim=1).reshape(-1, 3, 3)


def _colors(scene: ReferenceScene, index: Tensor, camera: Camera, max_degree: int | None) -> Tensor:
    """[n, 3] ``max(0, 0.5 + Σ Y_k(direction) sh[k])``, direction from camera to mean."""
    held = int(scene.sh.shape[1] ** 0.5) - 1
    degree = held if max_degree is None else min(held, max_degree)
    directions = scene.means[index] - torch.from_numpy(camera.position.copy())
    length = directions.norm(dim=1, keepdim=True)
    directions = directions / torch.where(length > 0, length, 1.0)
    basis = torch.from_numpy(sh_basis(directions.numpy(), degree))
    used = scene.sh[index][:, : basis.shape[1]]
    return (0.5 + (basis[:, :, None] * used).sum(dim=1)).clamp(min=0)
