"""Plain NeRF checkpoints (Mildenhall et al. 2020), of two trainers in PyTorch.

``krrish94/nerf-pytorch`` writes ``checkpointN.ckpt`` beside ``config.yml``: no activation after the
first layer, one after the features. ``yenchenlin/nerf-pytorch`` writes ``N.tar`` beside
``args.txt``: 8 layers of 256, the position once more after the fifth. Sizes, skips and encodings
are told by the tensors' shapes: configurations are known to be wrong about them. What only a
configuration tells (near, far, samples, background, device coordinates) has the defaults of the
synthetic scenes.

The world is that of the cameras it was trained with: +z up for synthetic scenes; of forward-facing
photographs the mean camera's own, y up and −z ahead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.source import DOWNLOAD_AGAIN
from scene_store.models.archive import read_checkpoint, weights_of
from scene_store.models.checkpoint_names import names_in
from scene_store.models.field_checks import require_valid
from scene_store.models.nerf_config import NerfConfig, read_nerf_config
from scene_store.models.nerf_network import flexible_network, original_network
from splat.camera import Camera
from splat.errors import SceneFormatError, SceneNotFoundError
from splat.fields import (
    Contraction,
    Field,
    FieldSpace,
    HierarchicalSampler,
    Network,
    Rays,
    Spacing,
)

KIND = "NeRF"
CHECKPOINT = re.compile(r"(?:checkpoint)?(\d+)\.(?:ckpt|tar)")

# Of which a checkpoint has one.
_COARSE, _FINE = "model_coarse_state_dict", "model_fine_state_dict"
_ORIGINAL_COARSE, _ORIGINAL_FINE = "network_fn_state_dict", "network_fine_state_dict"

START_SIDE = 800  # pixels: a picture of the synthetic scenes
START_FOV_RAD = math.radians(39.6)
START_RADIUS = 4.031
START_TURN_RAD, START_LIFT_RAD = math.radians(30.0), math.radians(30.0)


def recognizes(path: Path) -> bool:
    """Whether it is a checkpoint of one of the trainers, or a folder with some."""
    if path.is_dir():
        return _newest(path) is not None
    return _names_networks(path)


def read_field(path: Path, *, trust: bool = False) -> Field:
    """The radiance field of a checkpoint.

    Args:
        path: A checkpoint, or a folder of which the newest is taken; its configuration is looked
            for beside it.
        trust: Whether torch may load it, and so execute what it names.

    Raises:
        SceneNotFoundError: If there is none.
        SceneFormatError: If it is damaged, or of another architecture.
    """
    checkpoint = _newest(path) if path.is_dir() else path
    if checkpoint is None:
        raise SceneNotFoundError(f"{path}: holds no checkpoint of a NeRF (checkpointN.ckpt, N.tar)")
    values = read_checkpoint(checkpoint, trust=trust)
    config = read_nerf_config(checkpoint.parent, values)
    try:
        field = _field(checkpoint, values, config)
        require_valid(field)
    except ValueError as error:  # of what the classes of splat verify
        raise SceneFormatError(checkpoint, str(error), remedy=DOWNLOAD_AGAIN) from None
    return field


def _field(path: Path, values: Mapping[str, Any], config: NerfConfig) -> Field:
    coarse, fine = _networks(path, values, config)
    return Field(
        kind=KIND,
        network=coarse if fine is None else fine,
        space=_everywhere(),
        sampler=HierarchicalSampler(
            coarse=coarse if fine is not None else None,
            coarse_samples=config.coarse_samples,
            fine_samples=config.fine_samples,
            spacing=Spacing.INVERSE if config.is_inverse else Spacing.UNIFORM,
        ),
        near=config.near,
        far=config.far,
        background=(1.0, 1.0, 1.0) if config.is_white else (0.0, 0.0, 0.0),
        rays=Rays.DEPTH,
        ndc=config.ndc,
        up=(0.0, 0.0, 1.0) if config.ndc is None else (0.0, 1.0, 0.0),
        cameras=(_start_camera(config),),
        notes=_notes(config),
    )


def _networks(
    path: Path, values: Mapping[str, Any], config: NerfConfig
) -> tuple[Network, Network | None]:
    """The coarse and, if it is in use, the fine network."""
    if _COARSE in values:
        make, keys = flexible_network, (_COARSE, _FINE)
    elif _ORIGINAL_COARSE in values:
        make, keys = original_network, (_ORIGINAL_COARSE, _ORIGINAL_FINE)
    else:
        raise SceneFormatError(
            path,
            f"is no checkpoint of a NeRF: it holds neither {_COARSE} nor {_ORIGINAL_COARSE}",
            remedy="only checkpoints of krrish94's and yenchenlin's nerf-pytorch are read",
        )
    networks = [
        make(path, weights_of(path, values, key), config) if values.get(key) else None
        for key in keys
    ]
    if networks[0] is None:
        raise SceneFormatError(path, f"{keys[0]} is empty", remedy=DOWNLOAD_AGAIN)
    return networks[0], networks[1] if config.fine_samples else None


def _notes(config: NerfConfig) -> tuple[str, ...]:
    """Of device coordinates nothing is said: they reach from the near plane to infinity."""
    if config.ndc is not None:
        return config.notes
    return (
        *config.notes,
        f"shows what lies {config.near:g} to {config.far:g} units ahead of the camera, as it was "
        f"trained, and nothing nearer or further",
    )


def _everywhere() -> FieldSpace:
    """All of space, in its own coordinates."""
    infinite: NDArray[np.float64] = np.full(3, np.inf)
    return FieldSpace(np.eye(3, 4), Contraction.NONE, -infinite, infinite)


def _start_camera(config: NerfConfig) -> Camera:
    """The first of the synthetic scenes' own tour; the mean camera of forward-facing ones."""
    if config.ndc is not None:
        width, height, focal = config.ndc
        return Camera.look_at(
            (0.0, 0.0, 0.0),
            (0.0, 0.0, -1.0),
            (0.0, 1.0, 0.0),
            fov_y_rad=2.0 * math.atan2(0.5 * height, focal),
            width=round(width),
            height=round(height),
        )
    level = START_RADIUS * math.cos(START_LIFT_RAD)
    return Camera.look_at(
        (
            level * math.sin(START_TURN_RAD),
            level * math.cos(START_TURN_RAD),
            START_RADIUS * math.sin(START_LIFT_RAD),
        ),
        (0.0, 0.0, 0.0),
        (0.0, 0.0, 1.0),
        fov_y_rad=START_FOV_RAD,
        width=START_SIDE,
        height=START_SIDE,
    )


def _newest(folder: Path) -> Path | None:
    """The checkpoint of most iterations in a folder."""
    found = []
    for path in folder.iterdir():
        match = CHECKPOINT.fullmatch(path.name)
        if match is not None and path.is_file() and _names_networks(path):
            found.append((int(match[1]), path))
    return max(found)[1] if found else None


def _names_networks(path: Path) -> bool:
    return not names_in(path).isdisjoint((_COARSE, _ORIGINAL_COARSE))
