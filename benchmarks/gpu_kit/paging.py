"""A budget smaller than the scene: how much of the device's memory it saves, and how true it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_kit.bench import Bench, Tell
from benchmarks.psnr import psnr_db
from benchmarks.report import Row
from rendering.streamed_scene import StreamPolicy, least_budgets
from scene_store.ledger import Budgets
from splat.camera import Camera

SHARES = (0.5, 0.25)  # of the memory of the whole scene
HOST_BYTES = 256 << 20


def measure(bench: Bench, tell: Tell) -> None:
    """All resident, then streamed with budgets, on the same views of every path.

    Raises:
        Absent: If the first scene has no levels here.
    """
    name = bench.plan.scenes[0]
    chunks, engine = bench.levels(name), bench.fused()
    size = bench.plan.sizes[0]
    views = [view for path in bench.plan.paths for view in bench.views(name, path, size)[::6]]
    bench.forget_scenes()
    held = bench.board.held_bytes()
    scene = bench.prepared(engine, name)
    truth = [_color(engine.render(scene, view).color) for view in views]
    whole = bench.board.peak_bytes() - held
    tell(_row(name, "all", whole, whole))
    del scene
    pool = engine.new_pool(chunks.page_gaussians, chunks.sh_degree)
    pages = -(-len(bench.scene(name)) // chunks.page_gaussians)
    for share in SHARES:
        bench.forget_scenes()
        budgets = Budgets(HOST_BYTES, int(share * pages) * pool.page_bytes)
        drawn, peak = _streamed(bench, budgets, views)
        worst = min(psnr_db(a, b) for a, b in zip(drawn, truth, strict=True))
        tell({**_row(name, f"{100 * share:.0f} %", peak, whole), "psnr_db": worst})


def _streamed(
    bench: Bench, budgets: Budgets, views: list[Camera]
) -> tuple[list[NDArray[np.float32]], int]:
    """The complete picture of each view, and the most memory that it took."""
    from benchmarks.streaming import StreamedEngine

    chunks, engine = bench.levels(bench.plan.scenes[0]), bench.fused()
    least = least_budgets(chunks, engine)
    budgets = Budgets(
        max(budgets.host_bytes, least.host_bytes), max(budgets.device_bytes, least.device_bytes)
    )
    held = bench.board.held_bytes()
    policy = StreamPolicy(len(chunks.gaussians), 0.0)
    with StreamedEngine(chunks, engine, budgets, policy) as streamed:
        drawn = [streamed.draw_complete(view).color for view in views]
        return drawn, bench.board.peak_bytes() - held


def _row(scene: str, pages: str, peak: int, whole: int) -> Row:
    return {
        "table": "paging",
        "scene": scene,
        "pages": pages,
        "device_mb": peak / 1e6,
        "less": 1 - peak / whole if whole else None,
    }


def _color(color: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert color is not None
    return color
