"""The oracle of Scaffold-GS and Octree-GS, and small models of every architecture for tests.

The torch modules are in ``benchmarks.fitting.anchors_torch``, the writers of their folders in
``benchmarks.fitting.anchor_files``: benchmarks use them too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from benchmarks.fitting.anchor_files import SPLIT, UNITE, write_folder, write_ply
from benchmarks.fitting.anchor_fit import FitSettings, fit_anchors
from benchmarks.fitting.anchors_torch import (
    LEVEL_RULES,
    AnchorConfig,
    AnchorNet,
    DecodedGaussians,
    OctreeConfig,
)
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.models.town_views import TownBlock, block_cameras, town_block

__all__ = [
    "ARCHITECTURES",
    "LEVEL_RULES",
    "SPLIT",
    "UNITE",
    "AnchorConfig",
    "AnchorNet",
    "DecodedGaussians",
    "FittedNet",
    "OctreeConfig",
    "fitted_net",
    "random_net",
    "write_folder",
    "write_ply",
]

SIDE = 10.0  # of the cube in which random anchors lie, world units
_OCTREE = OctreeConfig(levels=4, voxel_size=2.0, standard_dist=16.0)

# By name: one for each thing that a file or a network may have or lack.
ARCHITECTURES: dict[str, AnchorConfig] = {
    "scaffold": AnchorConfig(),
    "scaffold-small": AnchorConfig(feat_dim=8, n_offsets=3),
    "scaffold-appearance": AnchorConfig(appearance_dim=32, cameras=6),
    "scaffold-bank": AnchorConfig(use_feat_bank=True, appearance_dim=16, cameras=3),
    "scaffold-dist": AnchorConfig(add_opacity_dist=True, add_cov_dist=True, add_color_dist=True),
    "scaffold-color-dist": AnchorConfig(add_color_dist=True),
    "octree": AnchorConfig(octree=_OCTREE),
    "octree-floor": AnchorConfig(octree=replace(_OCTREE, dist2level="floor")),
    "octree-ceil": AnchorConfig(octree=replace(_OCTREE, dist2level="ceil")),
    "octree-progressive": AnchorConfig(octree=replace(_OCTREE, dist2level="progressive")),
    "octree-fork": AnchorConfig(octree=replace(_OCTREE, levels=3, fork=3)),
    "octree-all": AnchorConfig(
        use_feat_bank=True,
        appearance_dim=8,
        cameras=4,
        add_opacity_dist=True,
        add_cov_dist=True,
        add_color_dist=True,
        add_level=True,
        octree=replace(_OCTREE, dist2level="progressive"),
    ),
    "octree-bank": AnchorConfig(use_feat_bank=True, octree=_OCTREE),
}


def random_net(config: AnchorConfig, count: int = 200, seed: int = 0) -> AnchorNet:
    """A model of ``count`` anchors in a cube around the origin, all parameters at random.

    About half of the Gaussians are opaque enough to be drawn; an octree's levels are all there,
    and so are extra levels. Weights of distances are small, as a trainer's are.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    octree = config.octree
    levels = None if octree is None else torch.arange(count) % octree.levels
    anchors = (torch.rand(count, 3, generator=random) - 0.5) * SIDE
    net = AnchorNet(config, anchors, levels)
    with torch.no_grad():
        net.offset.copy_(normal(count, config.n_offsets, 3))
        net.anchor_feat.copy_(normal(count, config.feat_dim))
        net.scaling.copy_(0.3 * normal(count, 6) - 1.5)
        if octree is not None:
            net.extra_level.copy_(0.3 * normal(count).abs())
        for name, parameter in net.named_parameters():
            if "mlp" in name:
                fan_in = parameter.shape[-1] if parameter.ndim == 2 else 4
                parameter.copy_(normal(*parameter.shape) / fan_in**0.5)
            elif "embedding" in name:
                parameter.copy_(normal(*parameter.shape))
    return net


@dataclass(frozen=True, slots=True, eq=False)
class FittedNet:
    """A model of a court of the town.

    Attributes:
        gaussians: What it was fitted to.
        held_out: Cameras at whose places no colour was fitted.
    """

    net: AnchorNet
    gaussians: Gaussians
    held_out: tuple[Camera, ...]


@cache
def fitted_net(octree: bool = False, steps: int = 150) -> FittedNet:
    """A Scaffold-GS or Octree-GS model of the middle of the town's block: 2 seconds, once a
    process; others may not change it."""
    block = town_block()
    half = 0.5 * (block.hi - block.lo) * np.array([0.5, 1.0, 0.5])
    court = TownBlock(
        block.gaussians[(np.abs(block.gaussians.means - block.center) < half).all(axis=1)],
        block.center - half,
        block.center + half,
    )
    trained = (*block_cameras(court, 24, 64, 48), *block_cameras(court, 24, 64, 48, distance=4.0))
    centers = np.stack([np.linalg.inv(camera.viewmat)[:3, 3] for camera in trained])
    config = AnchorConfig(feat_dim=16, n_offsets=5)
    if octree:
        levels = OctreeConfig(levels=3, voxel_size=4.0, standard_dist=4.0 * court.radius)
        config = replace(config, add_cov_dist=True, add_level=True, octree=levels)
    settings = FitSettings(steps=steps, batch=1024, feature_rate=0.02, network_rate=0.01)
    net = fit_anchors(court.gaussians, config, centers, voxel_size=2.0, settings=settings)
    return FittedNet(net, court.gaussians, block_cameras(court, 3, 160, 120, seed=1))
