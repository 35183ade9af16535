"""Test models of radiance fields: Instant-NGP snapshots and a plain NeRF fitted to a town's block.

``python -m benchmarks.fit_fields -o FOLDER`` writes files as the original trainers would, and says
how near their pictures are to the town's own, seen from where they were not trained. It takes
minutes on two cores.

``instant-ngp.ingp``
    The block in the unit cube.
``instant-ngp-sparse.ingp``
    The same in a box four times as wide, in which nearly everything is empty.
``nerf/``
    A coarse and a fine network of krrish94's nerf-pytorch, 4 layers of 128.
``nerfacto/``
    nerfstudio's folder: two proposals, 8 levels of a hash grid in tiny-cuda-nn's layout.
``gridnerf/town.th``
    LandMark's checkpoint: planes of 96² and 192² over the ground.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from benchmarks.fitting import instant_ngp_torch, nerf_torch
from benchmarks.fitting.grid_fits import gridnerf_of_views, nerfacto_of_views
from benchmarks.fitting.instant_ngp_file import save_snapshot
from benchmarks.fitting.instant_ngp_torch import InstantNgp, NgpConfig, World, density_grid
from benchmarks.fitting.nerf_torch import FlexibleNeRF, Sampling, save_flexible
from benchmarks.fitting.steps import fit_progress, step_count
from benchmarks.fitting.town_views import Views, town_block, town_views
from benchmarks.psnr import psnr_db
from benchmarks.report import Summary, new_table
from splat.camera import Camera

TRAINED, HELD_OUT = 48, 4  # views
TRAINED_SIZE, HELD_OUT_SIZE = (160, 120), (80, 60)
TOWN_COUNT = 600_000
STEPS = 1500
SAMPLING = Sampling(near=0.5, far=3.5, coarse=48, fine=64)
NERF_RAYS = 256
GRID_SIDE = 64  # cells in which densities are looked at, for the snapshots' finer grids

KINDS = ("instant-ngp", "instant-ngp-sparse", "nerf", "nerfacto", "gridnerf")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that was written.

    Attributes:
        path: Where.
        draw: Its picture [H, W, 3] over the views' background.
    """

    path: Path
    draw: Callable[[Camera], Tensor]


def block_views(count: int, size: tuple[int, int], seed: int) -> Views:
    """Views of the block, in a world with z up in which it fits a ball of radius 1."""
    block = town_block(TOWN_COUNT)
    views = town_views(count, *size, seed=seed, town_count=TOWN_COUNT)
    return views.moved(block.center, block.radius)


def fit_ngp(path: Path, views: Views, steps: int, *, sparse: bool) -> Fitted:
    """A snapshot."""
    config = NgpConfig(
        levels=8, features=4, log2_entries=17 if sparse else 16, aabb_scale=4 if sparse else 1
    )
    world = World(scale=0.5)
    model = InstantNgp(config)
    instant_ngp_torch.fit(model, views, world, steps=steps)
    model.round_to_half()
    grid = density_grid(model, side=GRID_SIDE)
    save_snapshot(path, model, world, grid, views.cameras, background=(1.0, 1.0, 1.0, 1.0))

    def draw(camera: Camera) -> Tensor:
        return instant_ngp_torch.render(model, camera, world, grid, views.background)[0]

    return Fitted(path, draw)


def fit_nerf(folder: Path, views: Views, steps: int) -> Fitted:
    """A checkpoint and its configuration."""
    torch.manual_seed(0)
    coarse, fine = FlexibleNeRF(), FlexibleNeRF()
    nerf_torch.fit(coarse, fine, views, SAMPLING, steps=steps, rays=NERF_RAYS)
    folder.mkdir(parents=True, exist_ok=True)
    save_flexible(folder / f"checkpoint{steps - 1}.ckpt", coarse, fine, legacy=True)
    (folder / "config.yml").write_text(
        f"dataset: {{type: blender, near: {SAMPLING.near}, far: {SAMPLING.far}, no_ndc: true}}\n"
        f"nerf: {{validation: {{num_coarse: {SAMPLING.coarse}, num_fine: {SAMPLING.fine}, "
        f"white_background: true}}}}\n"
    )

    def draw(camera: Camera) -> Tensor:
        return nerf_torch.render(coarse, fine, camera, SAMPLING)[0]

    return Fitted(folder, draw)


def fit(kind: str, folder: Path, steps: int) -> Fitted:
    """A model of one of ``KINDS``, written into a folder.

    Raises:
        ValueError: If it is of another kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    views = block_views(TRAINED, TRAINED_SIZE, seed=0)
    if kind == "nerf":
        return fit_nerf(folder / kind, views, steps)
    if kind == "nerfacto":
        return Fitted(folder / kind, nerfacto_of_views(folder / kind, views, steps))
    if kind == "gridnerf":
        path = folder / kind / "town.th"
        return Fitted(path, gridnerf_of_views(path, views, steps))
    if kind not in KINDS:
        raise ValueError(f"{kind} is none of {', '.join(KINDS)}")
    return fit_ngp(folder / f"{kind}.ingp", views, steps, sparse=kind.endswith("sparse"))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_fields", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=step_count, default=STEPS, help="of each fit")
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=KINDS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, write, and tell."""
    asked = parse_arguments(arguments)
    table = new_table(
        f"Fields fitted to {TRAINED} views of a block of the town, {asked.steps:,} steps",
        ("model",),
        ("bytes", "fitted in", "held-out PSNR p50", "lowest"),
    )
    held_out = block_views(HELD_OUT, HELD_OUT_SIZE, seed=1)
    for kind in asked.kind:
        started = time.perf_counter()
        with fit_progress(kind):
            fitted = fit(kind, asked.output, asked.steps)
        seconds = time.perf_counter() - started
        psnr = Summary.of(
            [
                psnr_db(fitted.draw(camera).numpy().astype(np.float32), image)
                for camera, image in zip(held_out.cameras, held_out.images, strict=True)
            ]
        )
        files = (
            [fitted.path]
            if fitted.path.is_file()
            else [path for path in fitted.path.rglob("*") if path.is_file()]
        )
        table.add_row(
            kind,
            f"{sum(file.stat().st_size for file in files):,}",
            f"{seconds:.0f} s",
            f"{psnr.p50:.1f} dB",
            f"{psnr.low:.1f} dB",
        )
    Console().print(table)


if __name__ == "__main__":
    from viewer.cli import guarded

    raise SystemExit(guarded(main))
