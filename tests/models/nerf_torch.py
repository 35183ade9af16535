"""The oracle of plain NeRFs, and small models for tests that look like something untrained.

The torch modules, their trainer and the writers of checkpoints are in
``benchmarks.fitting.nerf_torch``: benchmarks use them too.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

from benchmarks.fitting.nerf_torch import (
    FlexibleNeRF,
    OriginalNeRF,
    Sampling,
    fit,
    render,
    save_flexible,
    save_original,
)

__all__ = [
    "FlexibleNeRF",
    "OriginalNeRF",
    "Sampling",
    "fit",
    "load_real",
    "networks",
    "render",
    "save_flexible",
    "save_original",
]


@cache
def networks(kind: str) -> tuple[nn.Module, nn.Module]:
    """A coarse and a fine network that are alike, as trained ones are: clouds of many colours.

    Args:
        kind: ``flexible`` or ``original``.
    """
    torch.manual_seed(7)
    coarse = _network(kind)
    fine = _network(kind)
    with torch.no_grad():
        fine.load_state_dict(coarse.state_dict())
        for parameter in fine.parameters():
            parameter.add_(0.02 * parameter.abs().mean() * torch.randn(parameter.shape))
    return coarse, fine


def _network(kind: str) -> nn.Module:
    network: FlexibleNeRF | OriginalNeRF
    if kind == "flexible":
        network = FlexibleNeRF(width=32, hidden=3, octaves=4, seen=2)
        density, color = network.fc_alpha, network.fc_rgb
    else:
        network = OriginalNeRF(width=32, depth=5, octaves=4, seen=2, skip=2)
        density, color = network.alpha_linear, network.rgb_linear
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(2.0)
        points = torch.rand(4096, 3) * 4 - 2
        density.bias.fill_(1000.0)  # so that the rectifier lets everything pass
        raw = network(points, torch.nn.functional.normalize(points, dim=1))[1] - 1000.0
        density.weight *= 8.0 / raw.std()
        density.bias.fill_(-float(raw.quantile(0.6)) * 8.0 / float(raw.std()))
        color.weight *= 2.0
    return network


def load_real(checkpoint: Path) -> tuple[FlexibleNeRF, FlexibleNeRF]:
    """The coarse and fine network of a checkpoint of krrish94's trainer, loaded by torch."""
    values = torch.load(checkpoint, map_location="cpu", weights_only=True)
    nets = []
    for name in ("model_coarse_state_dict", "model_fine_state_dict"):
        state = values[name]
        octaves = (state["layer1.weight"].shape[1] - 3) // 6
        net = FlexibleNeRF(width=128, hidden=3, octaves=octaves, seen=4)
        net.load_state_dict(state)
        nets.append(net)
    return nets[0], nets[1]
