"""Is it the picture that gsplat's CUDA rasterizer draws, and how do the two compare in speed?

The third opinion on whole pictures, where a CUDA device is at hand (gsplat's torch functions
cover projection only; ``tests/test_gsplat_oracle.py``). Two differences are known and small:
gsplat stops a pixel one Gaussian earlier (docs/conventions.md), and its pinhole projection
rounds everything to float32.

Usage: python -m benchmarks.against_gsplat [town-1M ...] [scene files ...]
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.exact import ExactScene, scene_from_path
from rendering.base import RasterSettings
from rendering.native.cpu import NativeRasterizer
from scene_store.loading import in_morton_order
from scene_store.town import generate_town
from scene_store.town.views import TOWN_VIEWS
from splat.camera import Camera

WIDTH, HEIGHT = 1280, 720
REPEATS = 12
NEAR = 0.1
SIZES = {"150K": 150_000, "1M": 1_000_000, "10M": 10_000_000}


def scene_named(name: str) -> ExactScene:
    """``town-1M`` and the like, or any scene file."""
    if not name.startswith("town-"):
        return scene_from_path(name)
    view = TOWN_VIEWS.picture
    gaussians = in_morton_order(generate_town(SIZES[name.removeprefix("town-")]))
    fov_y_rad = math.radians(view.fov_y_deg)
    return ExactScene(name, gaussians, view.position, view.target, view.up, fov_y_rad)


def median_ms(draw: Callable[[], object]) -> float:
    """Median wall-clock milliseconds of a call, after two to warm up."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        draw()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[2:]))


def gsplat_picture(scene: ExactScene, camera: Camera) -> tuple[NDArray[np.float32], float]:
    """gsplat's picture [H, W, 3] and its milliseconds, transfers excluded."""
    import gsplat
    import torch

    def on_device(array: NDArray[Any]) -> Any:
        return torch.tensor(array, dtype=torch.float32, device="cuda")

    g = scene.gaussians
    arguments = {
        "means": on_device(g.means),
        "quats": on_device(g.quats),
        "scales": on_device(g.scales),
        "opacities": on_device(g.opacities),
        "colors": on_device(g.sh),
        "viewmats": on_device(camera.viewmat)[None],
        "Ks": on_device(camera.K)[None],
        "width": camera.width,
        "height": camera.height,
        "near_plane": camera.near,
        "sh_degree": g.sh_degree,
    }

    def draw() -> Any:
        with torch.no_grad():
            image = gsplat.rasterization(**arguments)[0]
        torch.cuda.synchronize()
        return image

    took_ms = median_ms(draw)
    return draw()[0].cpu().numpy(), took_ms


def compare(name: str) -> dict[str, Any]:
    """One scene: agreement of the pictures, times of both."""
    scene = scene_named(name)
    camera = Camera.look_at(
        scene.position,
        scene.target,
        scene.up,
        fov_y_rad=scene.fov_y_rad,
        width=WIDTH,
        height=HEIGHT,
        near=NEAR,
    )
    native = NativeRasterizer()
    prepared = native.prepare(scene.gaussians)
    cores = len(os.sched_getaffinity(0))
    threads = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores]
    native_ms = {
        n: median_ms(lambda n=n: native.render(prepared, camera, RasterSettings(threads=n)))  # type: ignore[misc]
        for n in threads
    }
    ours = native.render(prepared, camera).color
    theirs, gsplat_ms = gsplat_picture(scene, camera)
    assert ours is not None
    error = np.abs(ours - theirs)
    return {
        "benchmark": "against_gsplat",
        "scene": name,
        "gaussians": len(scene.gaussians),
        "psnr_db": float(-10 * np.log10(np.mean(error.astype(np.float64) ** 2))),
        "max_error": float(error.max()),
        "pixels_above_2_of_255": int((error.max(axis=-1) > 2 / 255).sum()),
        "gsplat_ms": gsplat_ms,
        "native_ms_by_threads": native_ms,
        "instruction_set": native.instruction_set,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print one JSON line a scene; status 1 where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        print("needs a CUDA device: gsplat's rasterizer runs nowhere else", file=sys.stderr)
        return 1
    for name in list(sys.argv[1:] if argv is None else argv) or ["town-1M"]:
        print(json.dumps(compare(name)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
