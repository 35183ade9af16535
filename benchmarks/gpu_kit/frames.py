"""Single pictures: each variant of the fused kernels, and gsplat, on the same views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell
from benchmarks.gpu_kit.kernels import compiled_kernels
from benchmarks.gpu_kit.plan import Size
from benchmarks.gpu_kit.timing import time_frames
from rendering.base import Rasterizer, RasterSettings
from splat.errors import BudgetError

PAGE_GAUSSIANS = 1024


def measure(bench: Bench, tell: Tell, *, variant: int, scenes: Sequence[str]) -> None:
    """One variant on every path and size of some scenes; then what its kernels were compiled to."""
    engine, label = bench.fused(variant), bench.plan.variants[variant].label
    _measure(bench, tell, engine, bench.settings(variant), label, scenes)
    for row in compiled_kernels():
        tell({"table": "kernels", **row})


def measure_peer(bench: Bench, tell: Tell) -> None:
    """gsplat on all scenes.

    Raises:
        Absent: If it is not there.
    """
    _measure(bench, tell, bench.peer(), RasterSettings(), "", bench.plan.scenes)


def _measure(
    bench: Bench,
    tell: Tell,
    engine: Rasterizer,
    settings: RasterSettings,
    label: str,
    scenes: Sequence[str],
) -> None:
    measured = 0
    for name in scenes:
        for path in bench.plan.paths:
            for size in bench.plan.sizes:
                about = {
                    "table": "frames",
                    "engine": engine.name,
                    "variant": label,
                    "scene": name,
                    "path": path,
                    "width": size[0],
                    "height": size[1],
                }
                try:
                    tell({**about, **_cell(bench, engine, settings, name, path, size)})
                    measured += 1
                except (Absent, BudgetError) as problem:
                    tell({**about, "skipped": str(problem)})
    if not measured:
        raise Absent("none of the scenes is here")


def _cell(
    bench: Bench, engine: Rasterizer, settings: RasterSettings, name: str, path: str, size: Size
) -> dict[str, Any]:
    scene = bench.prepared(engine, name)
    times = time_frames(
        lambda camera: (engine.render(scene, camera, settings),),
        bench.views(name, path, size),
        bench.plan.sampling,
        bench.board,
    )
    gaussians = bench.scene(name)
    pool = bench.fused().new_pool(PAGE_GAUSSIANS, gaussians.sh_degree)
    return {
        "gaussians": len(gaussians),
        "gaussian_bytes": pool.page_bytes / PAGE_GAUSSIANS,
        **times.to_row(),
    }
