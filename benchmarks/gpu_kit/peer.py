"""gsplat, where it is installed: its kernels take minutes to compile, so that is begun early."""

from __future__ import annotations

import importlib.util
import math

import numpy as np

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell
from rendering.base import Rasterizer
from rendering.cuda_faults import CPU_INSTEAD
from splat.camera import Camera
from splat.errors import BackendUnavailable
from splat.gaussians import Gaussians

COMPILED = "gsplat-compiled"  # a file that says so
MODULES = ("gsplat", "rendering.gsplat_cuda")


def compile_kernels(bench: Bench, tell: Tell) -> None:
    """Draws a picture of a single Gaussian, for which everything must be there.

    Raises:
        Absent: If it is not installed, or does not work here.
    """
    engine = _engine(bench.board.device)
    one = Gaussians(
        np.zeros((1, 3), np.float32),
        np.array([[1, 0, 0, 0]], np.float32),
        np.full((1, 3), 0.1, np.float32),
        np.ones(1, np.float32),
        np.ones((1, 1, 3), np.float32),
    )
    camera = Camera.look_at(
        (0, 0, -2), (0, 0, 0), (0, -1, 0), fov_y_rad=math.radians(60), width=32, height=32
    )
    try:
        image = engine.render(engine.prepare(one), camera)
    except BackendUnavailable as error:
        raise Absent(_reason(error)) from None
    (bench.work / COMPILED).touch()
    tell({"table": "peer", "alpha": float(image.alpha.max())})


def open_peer(bench: Bench) -> Rasterizer:
    """The rasterizer, if its kernels are compiled: no step that measures waits for them.

    Raises:
        Absent: If it is not installed, does not work here, or is not compiled.
    """
    engine = _engine(bench.board.device)
    if not (bench.work / COMPILED).exists():
        raise Absent("gsplat's kernels are not compiled")
    return engine


def _reason(error: Exception) -> str:
    """Without what a viewer would do about it: here nothing takes its place."""
    said = str(error).removesuffix(f"; {CPU_INSTEAD}")
    return said if said.startswith("gsplat") else f"gsplat: {said}"


def _engine(device: str) -> Rasterizer:
    for module in MODULES:
        try:
            missing = importlib.util.find_spec(module) is None
        except ValueError:  # kept out of the way
            missing = True
        if missing:
            raise Absent(f"gsplat is not installed: there is no module {module}")
    try:
        from rendering.gsplat_cuda import GsplatRasterizer
    except (ImportError, BackendUnavailable) as error:
        raise Absent(_reason(error)) from None
    try:
        rasterizer: Rasterizer = GsplatRasterizer(device)
    except BackendUnavailable as error:
        raise Absent(_reason(error)) from None
    return rasterizer
