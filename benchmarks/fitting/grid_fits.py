"""Nerfacto and GridNeRF fitted to views, as ``benchmarks.fit_fields`` does it with other fields."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.fitting.gridnerf_files import write_landmark
from benchmarks.fitting.gridnerf_torch import GridNerf, GridNerfSettings, fit_gridnerf
from benchmarks.fitting.nerfacto_files import write_run
from benchmarks.fitting.nerfacto_torch import Nerfacto, NerfactoSettings, Proposal, fit_nerfacto
from benchmarks.fitting.posed_rays import PosedRays, Similarity, camera_rays
from benchmarks.fitting.town_views import Views
from splat.camera import Camera

Draw = Callable[[Camera], Tensor]

RAYS = 512  # of a step
DRAWN_AT_ONCE = 2048
NERFACTO = NerfactoSettings(
    implementation="tcnn",
    num_levels=8,
    max_res=512,
    log2_hashmap_size=15,
    proposals=(
        Proposal(max_res=64, log2_hashmap_size=13),
        Proposal(max_res=128, log2_hashmap_size=14),
    ),
    num_proposal_samples_per_ray=(64, 32),
    num_nerf_samples_per_ray=24,
    far_plane=6.0,
    background_color="white",
    appearance_embed_dim=8,
)
GRIDNERF = GridNerfSettings(
    lb=(-0.7, -0.7, -0.4),
    ub=(0.7, 0.7, 0.4),
    grid_size=(96, 96, 48),
    res_mode=(1, 2),
    n_lamb_sigma=8,
    n_lamb_sh=16,
    feature_channels=64,
    step_ratio=1.0,
    near_far=(0.5, 3.5),
)


def nerfacto_of_views(folder: Path, views: Views, steps: int) -> Draw:
    """Fits a nerfacto and writes nerfstudio's folder; what it draws, [H, W, 3].

    Args:
        views: In a world with z up in which what is seen lies in the ball of radius 1.
    """
    torch.manual_seed(0)
    model = Nerfacto(NERFACTO)
    fit_nerfacto(model, camera_rays(views.cameras, views.images), steps=steps, batch=RAYS)
    write_run(model, folder, Similarity(np.zeros(3), 1.0, np.eye(3)), step=steps - 1)

    def draw(rays: PosedRays) -> Tensor:
        towards = functional.normalize(rays.directions, dim=-1)
        return _first(model(rays.origins, towards))

    return lambda camera: _drawn(draw, camera)


def gridnerf_of_views(path: Path, views: Views, steps: int) -> Draw:
    """Fits a GridNeRF and writes LandMark's checkpoint; arguments as of ``nerfacto_of_views``."""
    torch.manual_seed(0)
    model = GridNerf(GRIDNERF)
    fit_gridnerf(model, camera_rays(views.cameras, views.images), steps=steps, batch=RAYS)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_landmark(model, path)
    return lambda camera: _drawn(lambda r: _first(model(r.origins, r.directions)), camera)


def _first(pair: tuple[Tensor, object]) -> Tensor:
    return pair[0]


@torch.no_grad()
def _drawn(draw: Callable[[PosedRays], Tensor], camera: Camera) -> Tensor:
    rays = camera_rays([camera])
    parts = [
        draw(
            PosedRays(
                *(
                    part[at : at + DRAWN_AT_ONCE]
                    for part in (rays.origins, rays.directions, rays.colors)
                )
            )
        )
        for at in range(0, len(rays), DRAWN_AT_ONCE)
    ]
    return torch.cat(parts).reshape(camera.height, camera.width, 3)
