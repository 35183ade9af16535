"""Snapshots of Instant-NGP as NVlabs/instant-ngp writes them (``save_snapshot``)."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fitting.instant_ngp_torch import GRID_SIDE, InstantNgp, World
from splat.camera import Camera


def save_snapshot(
    path: Path,
    model: InstantNgp,
    world: World,
    grid: torch.Tensor,
    cameras: Sequence[Camera] = (),
    **changes: Any,
) -> None:
    """Writes a ``.msgpack``, or a compressed ``.ingp``.

    Args:
        grid: Of ``density_grid``.
        cameras: That it was trained with, in the data set's world.
        changes: Of ``snapshot_of``.
    """
    data = packed(snapshot_of(model, world, grid, cameras, **changes))
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".ingp" else data)


def snapshot_of(
    model: InstantNgp,
    world: World,
    grid: torch.Tensor,
    cameras: Sequence[Camera] = (),
    *,
    half: bool = True,
    crop: tuple[Sequence[float], Sequence[float]] | None = None,
    background: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
) -> dict[str, Any]:
    """What a snapshot holds, before it is packed."""
    parameters = model.parameters_in_order().numpy().astype("<f2" if half else "<f4")
    side = model.config.aabb_scale
    box = {"min": [0.5 - side / 2] * 3, "max": [0.5 + side / 2] * 3}
    shown = box if crop is None else {"min": list(crop[0]), "max": list(crop[1])}
    latents = model.latents.detach().tolist()
    snapshot = {
        "version": 1,
        "mode": "nerf",
        "n_params": len(parameters),
        "params_type": "__half" if half else "float",
        "params_binary": parameters.tobytes(),
        "density_grid_size": GRID_SIDE,
        "density_grid_binary": _along_curve(grid.numpy()).astype("<f2").tobytes(),
        "training_step": 1000,
        "loss": 0.001,
        "aabb": box,
        "bounding_radius": 1.0,
        "render_aabb": shown,
        "render_aabb_to_local": np.eye(3).tolist(),
        "up_dir": [0.0, 1.0, 0.0] if world.cycles else [0.0, 0.0, 1.0],
        "sun_dir": [0.577, 0.577, 0.577],
        "exposure": 0.0,
        "background_color": list(background),
        "camera": {
            "matrix": [[1.0, 0.0, 0.0, 0.5], [0.0, -1.0, 0.0, 0.5], [0.0, 0.0, -1.0, 2.0]],
            "fov_axis": 1,
            "relative_focal_length": [1.2, 1.2],
            "screen_center": [0.5, 0.5],
            "zoom": 1.0,
            "scale": 1.5,
        },
        "nerf": {
            "aabb_scale": side,
            "cam_pos_offset": [],
            "cam_rot_offset": [],
            "extra_dims_opt": [{"iter": 0, "variable": row} for row in latents]
            if model.config.latents
            else [],
            "rgb": {"rays_per_batch": 4096, "measured_batch_size": 0},
            "dataset": _dataset(model, world, cameras, box),
        },
    }
    return {**_configuration(model), "snapshot": snapshot}


def _configuration(model: InstantNgp) -> dict[str, Any]:
    """As ``configs/nerf/base.json`` has it."""
    config = model.config
    encoding: dict[str, Any] = {
        "otype": "HashGrid",
        "n_levels": config.levels,
        "n_features_per_level": config.features,
        "log2_hashmap_size": config.log2_entries,
        "base_resolution": config.base,
    }
    if config.ratio is not None:
        encoding["per_level_scale"] = config.ratio
    network = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": config.neurons,
    }
    harmonics = {"n_dims_to_encode": 3, "otype": "SphericalHarmonics", "degree": 4}
    return {
        "loss": {"otype": "Huber"},
        "optimizer": {"otype": "Adam", "learning_rate": 0.01},
        "encoding": encoding,
        "network": {**network, "n_hidden_layers": 1},
        "dir_encoding": {"otype": "Composite", "nested": [harmonics, {"otype": "Identity"}]},
        "rgb_network": {**network, "n_hidden_layers": 2},
    }


def _dataset(
    model: InstantNgp, world: World, cameras: Sequence[Camera], box: Mapping[str, Any]
) -> dict[str, Any]:
    xforms, metadata = [], []
    for camera in cameras:
        pose = torch.tensor(camera.camera_to_world)
        turned = world.direction(pose[:3, :3].T).T
        start = torch.cat([turned, world.point(pose[:3, 3])[:, None]], dim=1).tolist()
        xforms.append({"start": start, "end": start})
        metadata.append(
            {
                "focal_length": [float(camera.K[0, 0]), float(camera.K[1, 1])],
                "lens": None,
                "principal_point": [
                    float(camera.K[0, 2] / camera.width),
                    float(camera.K[1, 2] / camera.height),
                ],
                "rolling_shutter": [0.0, 0.0, 0.0, 0.0],
                "resolution": [camera.width, camera.height],
            }
        )
    return {
        "n_images": len(cameras),
        "paths": [f"images/{number:04d}.png" for number in range(len(cameras))],
        "metadata": metadata or None,
        "xforms": xforms or None,
        "render_aabb": dict(box),
        "render_aabb_to_local": np.eye(3).tolist(),
        "up": [0.0, 1.0, 0.0] if world.cycles else [0.0, 0.0, 1.0],
        "offset": list(world.offset),
        "envmap_resolution": [0, 0],
        "scale": world.scale,
        "aabb_scale": model.config.aabb_scale,
        "from_mitsuba": not world.cycles,
        "is_hdr": False,
        "wants_importance_sampling": True,
        "n_extra_learnable_dims": model.config.latents,
    }


def _along_curve(grid: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[K, 128³] of [K, 128, 128, 128] (z, y, x): bits of x, y and z interleaved, x lowest."""
    where = np.arange(GRID_SIDE**3)
    x, y, z = (np.zeros_like(where) for _ in range(3))
    for bit in range(7):
        x |= (where >> (3 * bit) & 1) << bit
        y |= (where >> (3 * bit + 1) & 1) << bit
        z |= (where >> (3 * bit + 2) & 1) << bit
    return grid[:, z, y, x]


def packed(value: Any) -> bytes:
    """A value as MessagePack, in the smallest form, as nlohmann's library writes it."""
    out = bytearray()
    _pack(value, out)
    return bytes(out)


def _pack(value: Any, out: bytearray) -> None:
    if value is None:
        out.append(0xC0)
    elif isinstance(value, bool):
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _pack_integer(value, out)
    elif isinstance(value, float):
        with np.errstate(over="ignore"):
            is_single = float(np.float32(value)) == value
        out += struct.pack(">Bf", 0xCA, value) if is_single else struct.pack(">Bd", 0xCB, value)
    elif isinstance(value, str):
        data = value.encode()
        _pack_size(len(data), out, (0xA0, 31), {1: 0xD9, 2: 0xDA, 4: 0xDB})
        out += data
    elif isinstance(value, bytes):
        _pack_size(len(value), out, None, {1: 0xC4, 2: 0xC5, 4: 0xC6})
        out += value
    elif isinstance(value, Mapping):
        _pack_size(len(value), out, (0x80, 15), {2: 0xDE, 4: 0xDF})
        for name, part in value.items():
            _pack(name, out)
            _pack(part, out)
    else:
        _pack_size(len(value), out, (0x90, 15), {2: 0xDC, 4: 0xDD})
        for part in value:
            _pack(part, out)


def _pack_integer(value: int, out: bytearray) -> None:
    if 0 <= value < 0x80:
        out.append(value)
    elif value >= 0:
        size = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size))
        out.append({1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}[size])
        out += value.to_bytes(size, "big")
    elif value >= -32:
        out.append(value & 0xFF)
    else:
        size = next(size for size in (1, 2, 4, 8) if value >= -(1 << (8 * size - 1)))
        out.append({1: 0xD0, 2: 0xD1, 4: 0xD2, 8: 0xD3}[size])
        out += value.to_bytes(size, "big", signed=True)


def _pack_size(
    count: int, out: bytearray, short: tuple[int, int] | None, marks: Mapping[int, int]
) -> None:
    if short is not None and count <= short[1]:
        out.append(short[0] | count)
        return
    size = next(size for size in marks if count < 1 << (8 * size))
    out.append(marks[size])
    out += count.to_bytes(size, "big")
