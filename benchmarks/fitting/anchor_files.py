"""Folders of ``AnchorNet`` models, as the trainers of Scaffold-GS and Octree-GS leave them.

::

    cfg_args  cameras.json
    point_cloud/iteration_N/point_cloud.ply
    point_cloud/iteration_N/{opacity,cov,color[,feature_bank]}_mlp.pt [embedding_appearance.pt]
    point_cloud/iteration_N/checkpoints.pth        instead of these, where mode is 'unite'

The PLY is written value by value here; networks by ``torch.jit.trace(...).save`` or ``torch.save``,
as by the trainers, whose tensors were on a GPU: files name the device ``cuda:0``.
"""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.fitting.anchors_torch import AnchorConfig, AnchorNet
from splat.camera import Camera

INITIAL_OPACITY = 0.1  # the trainers write it for every anchor, and never use it
SPLIT, UNITE = "split", "unite"


def write_folder(
    net: AnchorNet,
    folder: Path,
    *,
    iteration: int = 30_000,
    mode: str = SPLIT,
    cameras: Sequence[Camera] = (),
    device: str = "cuda:0",
) -> Path:
    """A training output folder.

    Args:
        mode: ``SPLIT``, a file for each network, or ``UNITE``, one for all.
        cameras: For ``cameras.json``.
        device: Where files say that tensors were: "cuda:0" or "cpu".

    Returns:
        ``folder``.
    """
    place = folder / "point_cloud" / f"iteration_{iteration}"
    place.mkdir(parents=True)
    write_cfg_args(net.config, folder)
    write_cameras(cameras, folder / "cameras.json")
    write_ply(net, place / "point_cloud.ply")
    if mode == UNITE:
        write_united(net, place / "checkpoints.pth", device)
    else:
        write_split(net, place, device)
    return folder


def property_names(config: AnchorConfig) -> list[str]:
    """Of the PLY's vertices, in order; all are floats."""
    second = ["nx", "ny", "nz"] if config.octree is None else ["level", "extra_level", "info"]
    return [
        *("x", "y", "z"),
        *second,
        *(f"f_offset_{i}" for i in range(3 * config.n_offsets)),
        *(f"f_anchor_feat_{i}" for i in range(config.feat_dim)),
        "opacity",
        *(f"scale_{i}" for i in range(6)),
        *(f"rot_{i}" for i in range(4)),
    ]


def write_ply(net: AnchorNet, path: Path) -> None:
    """``point_cloud.ply``; offsets are x of all k, then y, then z.

    An octree's ``info`` is the side of the coarsest voxels in the first anchor, the standard
    distance in the second, 0 in all others.
    """
    count, octree = len(net.anchor), net.config.octree
    second = torch.zeros(count, 3)
    if octree is not None:
        second[:, 0], second[:, 1] = net.level, net.extra_level
        second[0, 2], second[1, 2] = octree.voxel_size, octree.standard_dist
    opacity = torch.full((count, 1), float(np.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY))))
    rotation = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4)
    columns = (
        net.anchor,
        second,
        net.offset.transpose(1, 2).flatten(1),
        net.anchor_feat,
        opacity,
        net.scaling,
        rotation,
    )
    values = torch.cat([column.detach().float() for column in columns], 1)
    names = property_names(net.config)
    assert values.shape[1] == len(names)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in names]
    table: NDArray[np.float32] = values.numpy().astype("<f4")
    path.write_bytes("\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes())


def write_split(net: AnchorNet, place: Path, device: str = "cuda:0") -> None:
    """A TorchScript file for each network, and one for the embeddings."""
    config = net.config
    traced: dict[str, tuple[nn.Module | None, Tensor]] = {
        "opacity_mlp": (net.mlp_opacity, torch.rand(1, config.inputs(config.add_opacity_dist))),
        "cov_mlp": (net.mlp_cov, torch.rand(1, config.inputs(config.add_cov_dist))),
        "color_mlp": (
            net.mlp_color,
            torch.rand(1, config.inputs(config.add_color_dist) + config.appearance_dim),
        ),
        "feature_bank_mlp": (net.mlp_feature_bank, torch.rand(1, config.bank_inputs)),
        "embedding_appearance": (net.embedding_appearance, torch.zeros(1, dtype=torch.long)),
    }
    net.eval()
    for name, (module, example) in traced.items():
        if module is not None:
            path = place / f"{name}.pt"
            _save_traced(module, example, path)
            _move_to(path, device)
    net.train()


def _save_traced(module: nn.Module, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of all TorchScript; files are of it
        torch.jit.trace(module, example).save(str(path))


def write_united(net: AnchorNet, path: Path, device: str = "cuda:0") -> None:
    """``checkpoints.pth``: the state of each network by its name."""
    modules = {
        "opacity_mlp": net.mlp_opacity,
        "cov_mlp": net.mlp_cov,
        "color_mlp": net.mlp_color,
        "feature_bank_mlp": net.mlp_feature_bank,
        "appearance": net.embedding_appearance,
    }
    states = {name: module.state_dict() for name, module in modules.items() if module is not None}
    torch.save(states, path)
    _move_to(path, device)


def write_cfg_args(config: AnchorConfig, folder: Path) -> None:
    """``cfg_args``: the text of the trainer's ``argparse`` namespace."""
    shared: dict[str, Any] = {
        "feat_dim": config.feat_dim,
        "n_offsets": config.n_offsets,
        "use_feat_bank": config.use_feat_bank,
        "source_path": "data/town",
        "model_path": str(folder.name),
        "images": "images",
        "white_background": False,
        "data_device": "cuda",
        "eval": True,
        "ds": 1,
        "ratio": 1,
        "undistorted": False,
        "appearance_dim": config.appearance_dim,
        "add_opacity_dist": config.add_opacity_dist,
        "add_cov_dist": config.add_cov_dist,
        "add_color_dist": config.add_color_dist,
    }
    octree = config.octree
    if octree is None:
        own: dict[str, Any] = {
            "sh_degree": 3,
            "voxel_size": 0.001,
            "update_depth": 3,
            "update_init_factor": 16,
            "update_hierachy_factor": 4,
            "resolution": -1,
            "lod": 0,
            "lowpoly": False,
        }
    else:
        own = {
            "fork": octree.fork,
            "resolution": 1,
            "random_background": False,
            "resolution_scales": [1.0],
            "add_level": config.add_level,
            "extend": 1.1,
            "dist2level": octree.dist2level,
            "base_layer": -1,
            "visible_threshold": 0.0,
            "update_ratio": 0.2,
            "progressive": False,
            "dist_ratio": 0.999,
            "levels": octree.levels,
            "init_level": -1,
            "extra_ratio": 0.25,
            "extra_up": 0.01,
        }
    (folder / "cfg_args").write_text(str(Namespace(**own, **shared)), encoding="utf-8")


def write_cameras(cameras: Sequence[Camera], path: Path) -> None:
    """``cameras.json``: positions, and camera-to-world rotations of OpenCV's axes."""
    entries = []
    for number, camera in enumerate(cameras):
        to_world = np.linalg.inv(camera.viewmat)
        entries.append(
            {
                "id": number,
                "img_name": f"{number:05d}",
                "width": camera.width,
                "height": camera.height,
                "position": to_world[:3, 3].tolist(),
                "rotation": to_world[:3, :3].tolist(),
                "fy": float(camera.K[1, 1]),
                "fx": float(camera.K[0, 0]),
            }
        )
    path.write_text(json.dumps(entries), encoding="utf-8")


def _move_to(path: Path, device: str) -> None:
    """Has an archive's pickles say that its tensors were on ``device``, not on the CPU.

    The archive is written anew by torch's own writer: the same records, aligned as ever.
    """
    if device == "cpu":
        return
    before, after = (
        b"X" + len(name).to_bytes(4, "little") + name for name in (b"cpu", device.encode("ascii"))
    )
    reader = torch._C.PyTorchFileReader(str(path))
    records = {
        name: bytes(reader.get_record(name))
        for name in reader.get_all_records()
        if not name.startswith(".data/") and name != "version"
    }
    del reader
    path.unlink()
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, record in records.items():
        if name.endswith(".pkl"):
            record = record.replace(before, after)
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
