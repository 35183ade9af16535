"""Test models of neural anchors: Scaffold-GS and Octree-GS folders fitted to a piece of the town.

``python -m benchmarks.fit_anchors -o FOLDER`` writes ``FOLDER/scaffold`` and ``FOLDER/octree`` as
the original trainers would (``benchmarks.fitting.anchor_files``) and says how near their pictures
are to the town's own, seen from midway between the places that colours were fitted from. It takes
minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.fitting.anchor_files import write_folder
from benchmarks.fitting.anchor_fit import FitSettings, fit_anchors
from benchmarks.fitting.anchors_torch import AnchorConfig, AnchorNet, OctreeConfig
from benchmarks.fitting.steps import fit_progress, step_count
from benchmarks.psnr import psnr_db
from benchmarks.report import Summary, new_table
from rendering.base import RasterSettings
from rendering.native.cpu import NativeRasterizer
from scene_store.town import TOWN_UP, generate_town
from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.harmonics import SH_C0

TOWN_COUNT = 1_000_000
HALF_SIDE = 50.0  # metres, of the piece around the market square
LARGEST = 5.0  # metres: larger scales are of hills and sky
VOXEL_SIZE = 2.0  # metres, of Scaffold-GS's coarsest voxels
FOV_Y_RAD = math.radians(50.0)
SIZE = (640, 360)
RINGS = ((0.4, 0.12), (1.6, 0.9), (4.0, 1.6))  # of cameras: reach and height, in half sides
TRAINED, HELD_OUT = 90, 9  # views of each model
SKY = RasterSettings(background=(0.6, 0.7, 0.85))

KINDS = ("scaffold", "octree")


def config_of(kind: str, half_side: float = HALF_SIDE) -> AnchorConfig:
    """The architecture of a kind: the trainers' defaults, without appearances; the octree is told
    distances and levels, and its coarsest level suffices from the farthest views."""
    if kind == "scaffold":
        return AnchorConfig()
    return AnchorConfig(
        add_cov_dist=True,
        add_level=True,
        octree=OctreeConfig(levels=4, voxel_size=4.0, standard_dist=4.0 * half_side),
    )


def town_piece(count: int = TOWN_COUNT, half_side: float = HALF_SIDE) -> Gaussians:
    """What stands within ``half_side`` of the middle of a town of ``count`` Gaussians."""
    town = generate_town(count)
    near = (np.abs(town.means[:, [0, 2]]) < half_side).all(axis=1)
    return town[near & (town.scales.max(axis=1) < LARGEST)]


def views_around(
    half_side: float, count: int, *, turn: float = 0.0, size: tuple[int, int] = SIZE
) -> tuple[Camera, ...]:
    """Views of a piece of the town in ``RINGS``: from the streets, over the roofs, far off.

    Args:
        turn: Of the rings, radians: other turns, other places.
    """
    cameras = []
    for number in range(count):
        reach, height = RINGS[number % len(RINGS)]
        angle = turn + math.tau * number / count
        position = (
            reach * half_side * math.cos(angle),
            -height * half_side,
            reach * half_side * math.sin(angle),
        )
        cameras.append(
            Camera.look_at(
                position,
                (0.0, -4.0, 0.0),
                TOWN_UP,
                fov_y_rad=FOV_Y_RAD,
                width=size[0],
                height=size[1],
                near=0.1,
            )
        )
    return tuple(cameras)


def centers_of(cameras: Sequence[Camera]) -> NDArray[np.float64]:
    """[C, 3] where cameras stand."""
    return np.stack([np.linalg.inv(camera.viewmat)[:3, 3] for camera in cameras])


def decoded(net: AnchorNet, camera: Camera, appearance: int | None = None) -> Gaussians:
    """The Gaussians of a model for a view, with their colours of that view."""
    center = torch.from_numpy(centers_of([camera])[0].astype(np.float32))
    with torch.no_grad():
        drawn = net.decode(center, appearance)
    return Gaussians(
        means=drawn.means.numpy(),
        quats=drawn.quats.numpy(),
        scales=drawn.scales.numpy(),
        opacities=drawn.opacities.numpy(),
        sh=((drawn.colors - 0.5) / SH_C0)[:, None].numpy(),
    )


def picture(gaussians: Gaussians, camera: Camera) -> NDArray[np.float32]:
    """[H, W, 3] drawn by the native engine."""
    native = NativeRasterizer()
    color = native.render(native.prepare(gaussians), camera, SKY).color
    assert color is not None
    return color


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A model, and how well it is one of the piece of the town.

    Attributes:
        psnr_db: Of each held-out view.
        gaussians: Drawn in each held-out view.
    """

    kind: str
    net: AnchorNet
    seconds: float
    psnr_db: tuple[float, ...]
    gaussians: tuple[int, ...]


def fit(kind: str, piece: Gaussians, half_side: float, settings: FitSettings) -> Fitted:
    """A model of ``piece``, held against the piece's own pictures between the trained views."""
    started = time.perf_counter()
    trained = views_around(half_side, TRAINED)
    config = config_of(kind, half_side)
    net = fit_anchors(piece, config, centers_of(trained), VOXEL_SIZE, settings)
    seconds = time.perf_counter() - started
    psnr, counts = [], []
    between = 0.5 * len(RINGS) * math.tau / TRAINED  # of two views of a ring
    for camera in views_around(half_side, HELD_OUT, turn=between):
        drawn = decoded(net, camera)
        psnr.append(psnr_db(picture(drawn, camera), picture(piece, camera)))
        counts.append(len(drawn))
    return Fitted(kind, net, seconds, tuple(psnr), tuple(counts))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_anchors", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--town", type=int, default=TOWN_COUNT, help="Gaussians of the town")
    parser.add_argument("--half-side", type=float, default=HALF_SIDE, help="of the piece, metres")
    parser.add_argument("--steps", type=step_count, default=FitSettings().steps, help="of the fit")
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=KINDS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, write, and tell."""
    asked = parse_arguments(arguments)
    piece = town_piece(asked.town, asked.half_side)
    table = new_table(
        f"Anchors fitted to {len(piece):,} Gaussians of the town, {asked.steps:,} steps",
        ("model",),
        ("anchors", "Gaussians a view", "fitted in", "held-out PSNR p50", "lowest"),
    )
    for kind in asked.kind:
        with fit_progress(kind):
            fitted = fit(kind, piece, asked.half_side, FitSettings(steps=asked.steps))
        cameras = views_around(asked.half_side, TRAINED)
        write_folder(fitted.net, asked.output / kind, iteration=asked.steps, cameras=cameras)
        psnr, counts = Summary.of(fitted.psnr_db), Summary.of(fitted.gaussians)
        table.add_row(
            kind,
            f"{len(fitted.net.anchor):,}",
            f"{counts.low:,.0f}–{counts.high:,.0f}",
            f"{fitted.seconds:.0f} s",
            f"{psnr.p50:.1f} dB",
            f"{psnr.low:.1f} dB",
        )
    Console().print(table)


if __name__ == "__main__":
    from viewer.cli import guarded

    raise SystemExit(guarded(main))
