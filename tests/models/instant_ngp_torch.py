"""The oracle of Instant-NGP, and small models for tests that look like something untrained.

The torch module is in ``benchmarks.fitting.instant_ngp_torch``, the writer of snapshots in
``benchmarks.fitting.instant_ngp_file``: benchmarks use them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from benchmarks.fitting.instant_ngp_file import packed, save_snapshot, snapshot_of
from benchmarks.fitting.instant_ngp_torch import (
    InstantNgp,
    NgpConfig,
    World,
    density_grid,
    grid_levels,
    occupied,
    render,
)

__all__ = [
    "CONFIGS",
    "InstantNgp",
    "NgpConfig",
    "NgpScene",
    "World",
    "density_grid",
    "grid_levels",
    "ngp_scene",
    "occupied",
    "packed",
    "render",
    "save_snapshot",
    "snapshot_of",
]

_SMALL = {"levels": 4, "features": 2, "log2_entries": 12, "base": 8, "ratio": 1.7, "neurons": 16}

LOG_THICK = 2.0  # logarithm of a density that is hardly transparent, a unit cube being full of it

# By name: one for each thing that a snapshot may have or lack.
CONFIGS: dict[str, NgpConfig] = {
    "small": NgpConfig(**_SMALL),  # type: ignore[arg-type]
    "large-box": NgpConfig(**_SMALL, aabb_scale=4),  # type: ignore[arg-type]
    "latents": NgpConfig(**_SMALL, latents=3, images=4),  # type: ignore[arg-type]
    "growth-to-2048": NgpConfig(levels=8, features=4, log2_entries=12, neurons=16),
    "growth-of-large-box": NgpConfig(levels=5, features=4, log2_entries=14, aabb_scale=2),
    "one-level": NgpConfig(levels=1, features=8, log2_entries=10, ratio=2.0, neurons=32),
}


@dataclass(frozen=True, slots=True, eq=False)
class NgpScene:
    """A model whose parameters a snapshot can hold, and its grid of densities."""

    model: InstantNgp
    world: World
    grid: torch.Tensor


@cache
def ngp_scene(name: str = "small", cycles: bool = True) -> NgpScene:
    """Clouds of many colours in mostly empty space: features at random, the finer the weaker."""
    config = CONFIGS[name]
    model = InstantNgp(config, seed=1)
    random = torch.Generator().manual_seed(2)
    points = (torch.rand(4096, 3, generator=random) - 0.5) * config.aabb_scale + 0.5
    with torch.no_grad():
        for number, level in enumerate(model.levels):
            rows = slice(level.first, level.first + level.entries)
            noise = torch.rand(model.table[rows].shape, generator=random) * 2 - 1
            model.table[rows] = noise * 0.6**number
        # Hidden values are not negative, so that subtracting from their weights lowers densities.
        model.density[1][0] *= 2.0 / model.features(points)[:, 0].std()
        excess = model.features(points)[:, 0].quantile(0.85) - LOG_THICK
        hidden = torch.relu(_padded_encoding(model, points) @ model.density[0].T)
        model.density[1][0] -= excess / hidden.mean(0).sum()
    model.round_to_half()
    scale = 0.45 if config.aabb_scale == 1 else 1.0
    return NgpScene(model, World(scale=scale, cycles=cycles), density_grid(model, side=32))


def _padded_encoding(model: InstantNgp, points: torch.Tensor) -> torch.Tensor:
    side = model.config.aabb_scale
    encoded = model.encode((points - (0.5 - side / 2)) / side)
    missing = model.density[0].shape[1] - encoded.shape[1]
    return torch.nn.functional.pad(encoded, (0, missing))
