"""GridNeRF's checkpoints, written as LandMark and LandMarkSystem do it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.fitting.gridnerf_torch import GridNerf

# LandMark's names → LandMarkSystem's.
SYSTEM_NAMES = {
    "density_plane.": "density_encoding.plane_coef.",
    "density_line.": "density_encoding.line_coef.",
    "app_plane.": "rgb_encoding.plane_coef.",
    "app_line.": "rgb_encoding.line_coef.",
    "basis_den.": "feature2density.feature2density.0.",
    "basis_mat.": "rgb_decoder.basis_mat.",
    "renderModule.mlp.": "rgb_decoder.decoder.mlp.",
    "embedding_app.": "embedding_app.embedding.",
}

OPTION_NAMES = {
    "res_mode": "resMode",
    "feature_channels": "featureC",
    "fea2dense_act": "fea2denseAct",
    "color_weight": "rayMarch_weight_thres",
}


class AlphaGridMask(torch.nn.Module):
    """LandMarkSystem keeps its mask as an object of its own class: only that class can load it."""

    def __init__(self, alpha: Tensor):
        super().__init__()
        self.alpha_volume = alpha[None, None].float()


def write_landmark(model: GridNerf, path: Path) -> Path:
    """``NAME.th``; of a model in blocks what LandMark calls ``NAME-merged-stack.th``."""
    torch.save(landmark_checkpoint(model), path)
    return path


def landmark_checkpoint(model: GridNerf) -> dict[str, Any]:
    """What LandMark gives ``torch.save``."""
    s = model.settings
    kwargs: dict[str, Any] = {
        "aabb": torch.stack([model.lo, model.hi]),
        "gridSize": list(s.grid_size),
        "density_n_comp": [s.n_lamb_sigma] * s.ndims,
        "appearance_n_comp": [s.n_lamb_sh] * s.ndims,
        "app_dim": s.data_dim_color,
        "density_shift": s.density_shift,
        "alphaMask_thres": 1e-4,
        "distance_scale": s.distance_scale,
        "rayMarch_weight_thres": s.color_weight,
        "fea2denseAct": s.fea2dense_act,
        "near_far": list(s.near_far),
        "step_ratio": s.step_ratio,
        "pos_pe": 6,
        "view_pe": s.view_pe,
        "fea_pe": s.fea_pe,
        "featureC": s.feature_channels,
    }
    if math.prod(s.plane_division) > 1:
        plane = model.density_plane[0]
        kwargs["gridSize"] = [plane.shape[-1], plane.shape[-2], s.grid_size[2]]
        kwargs["device"] = "cuda:0"
        kwargs["args"] = {**_options(model), "ckpt": None, "device": torch.device("cuda", 0)}
    saved: dict[str, Any] = {"kwargs": kwargs, "state_dict": model.state_dict()}
    if model.mask is not None:
        mask = model.mask.numpy()
        saved["alphaMask.shape"] = mask.shape
        saved["alphaMask.mask"] = np.packbits(mask.reshape(-1))
        saved["alphaMask.aabb"] = torch.stack([model.lo, model.hi])
    return saved


def write_system(model: GridNerf, folder: Path) -> Path:
    """LandMarkSystem's folder: ``state_dict.th``, ``kwargs.th`` and the trainer's settings."""
    folder.mkdir(parents=True, exist_ok=True)
    s = model.settings
    torch.save(
        {_system_name(n): _system_value(n, v) for n, v in model.state_dict().items()},
        folder / "state_dict.th",
    )
    kwargs = {
        "aabb": torch.stack([model.lo, model.hi]),
        "gridSize": torch.tensor(s.grid_size),
        "device": torch.device("cuda", 0),
        "alphaMask": None if model.mask is None else AlphaGridMask(model.mask),
        "grid_shape": None,
        "near_far": list(s.near_far),
    }
    torch.save(kwargs, folder / "kwargs.th")
    options = "".join(f"{name} = {value}\n" for name, value in sorted(_options(model).items()))
    (folder / "args--20240830-163419.txt").write_text(options, "utf-8")
    return folder


def _options(model: GridNerf) -> dict[str, Any]:
    """All options of the trainer, as it has them."""
    options = asdict(model.settings)
    options.pop("grid_size")
    options = {OPTION_NAMES.get(name, name): value for name, value in options.items()}
    lists = ("resMode", "plane_division", "lb", "ub")
    options |= {name: list(options[name]) for name in lists}
    options |= {name: [options[name]] * 3 for name in ("n_lamb_sigma", "n_lamb_sh")}
    options |= {"train_near_far": list(options.pop("near_far")), "expname": "town", "wandb": False}
    return options


def _system_name(name: str) -> str:
    for ours, theirs in SYSTEM_NAMES.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _system_value(name: str, value: Tensor) -> Tensor:
    """Its planes always say which block they are of."""
    return value[:, :, None] if "_plane." in name and value.ndim == 4 else value
