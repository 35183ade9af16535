"""Rays of cameras as trainers of NeRFs take them, in worlds that are moved and scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splat.camera import Camera

# From y down (the town) to z up (nerfstudio, LandMark).
Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """From one world to another: ``scale · rotation (p − center)``.

    Attributes:
        center: [3] float64.
        scale: Of lengths.
        rotation: [3, 3] float64.
    """

    center: NDArray[np.float64]
    scale: float = 1.0
    rotation: NDArray[np.float64] = field(default_factory=Z_UP.copy)

    def camera(self, camera: Camera) -> Camera:
        """A camera in the other world: it sees there what it saw here."""
        turn, shift = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
        viewmat = np.eye(4)
        viewmat[:3, :3] = turn @ self.rotation.T
        viewmat[:3, 3] = self.scale * (turn @ self.center + shift)
        return replace(
            camera, viewmat=viewmat, near=camera.near * self.scale, far=camera.far * self.scale
        )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """[3, 4] without the scale, as nerfstudio writes it down."""
        return np.concatenate([self.rotation, -(self.rotation @ self.center)[:, None]], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class PosedRays:
    """N rays and what they see.

    Attributes:
        origins: [N, 3] float32.
        directions: [N, 3] float32, of depth 1.
        colors: [N, 3] float32; black where nobody knows.
    """

    origins: Tensor
    directions: Tensor
    colors: Tensor

    def __len__(self) -> int:
        return len(self.origins)

    def batch(self, count: int, generator: torch.Generator) -> PosedRays:
        """``count`` of them, drawn at random."""
        picked = torch.randint(len(self), (count,), generator=generator)
        return PosedRays(self.origins[picked], self.directions[picked], self.colors[picked])


def camera_rays(cameras: Sequence[Camera], images: NDArray[np.float32] | None = None) -> PosedRays:
    """A ray through the centre of every pixel of pinhole cameras of one size, row by row.

    Args:
        cameras: C.
        images: [C, H, W, 3], if they are known.
    """
    origins, directions = [], []
    for camera in cameras:
        fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
        v, u = np.mgrid[: camera.height, : camera.width] + 0.5
        local = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1).reshape(-1, 3)
        turn, shift = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
        directions.append(local @ turn)
        origins.append(np.broadcast_to(-(turn.T @ shift), local.shape))
    count = sum(map(len, origins))
    colors = np.zeros((count, 3)) if images is None else images.reshape(count, 3)
    parts = (np.concatenate(origins), np.concatenate(directions), colors)
    return PosedRays(*(torch.tensor(part, dtype=torch.float32) for part in parts))
