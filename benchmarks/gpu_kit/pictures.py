"""Are they the same pictures? Fused and gsplat against the CPU engine, at full size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell
from benchmarks.gpu_kit.plan import Size
from benchmarks.psnr import psnr_db
from benchmarks.scenes import town_paths
from rendering.base import Rasterizer
from scene_store.town import generate_town
from splat.camera import Camera
from splat.errors import BudgetError
from splat.gaussians import Gaussians

SMALL_TOWN, SMALL_SIZE = 2_000, (96, 64)  # what the float64 reference draws in seconds
DIFFERENCE_GAIN = 16.0

Picture = NDArray[np.float32]


def compare(bench: Bench, tell: Tell) -> None:
    """A view of each path of every scene, by all engines; the first of them as PNG files.

    Without a CPU engine, the truth is the float64 reference on a small town.
    """
    try:
        truth: Rasterizer = bench.native()
        subjects = _scenes(bench)
    except Absent:
        from rendering.reference import ReferenceRasterizer

        truth = ReferenceRasterizer()
        subjects = _small(bench)
    keep = True
    for name, path, gaussians, camera in subjects:
        about = {"table": "pictures", "scene": name, "path": path, "truth": truth.name}
        expected = _color(truth, _prepared(bench, truth, name, gaussians), camera)
        kept = {truth.name: expected}
        for engine in _engines(bench, tell):
            try:
                scene = _prepared(bench, engine, name, gaussians)
                picture = _color(engine, scene, camera)
            except BudgetError as problem:
                tell({**about, "engine": engine.name, "skipped": str(problem)})
                continue
            tell({**about, "engine": engine.name, **_figures(picture, expected)})
            kept[engine.name] = picture
        if keep:
            _save(bench, kept, expected)
            keep = False


def _scenes(bench: Bench) -> Iterator[tuple[str, str, Gaussians, Camera]]:
    for name in bench.plan.scenes:
        try:
            gaussians = bench.scene(name)
        except Absent:
            continue
        for path in bench.plan.paths:
            yield name, path, gaussians, bench.views(name, path, bench.plan.sizes[0])[0]


def _small(bench: Bench) -> Iterator[tuple[str, str, Gaussians, Camera]]:
    size: Size = SMALL_SIZE
    gaussians = generate_town(SMALL_TOWN)
    for path in town_paths(size):
        yield f"town-{SMALL_TOWN}", path.name, gaussians, path.cameras[0]


def _engines(bench: Bench, tell: Tell) -> Iterator[Rasterizer]:
    yield bench.fused()
    try:
        yield bench.peer()
    except Absent as reason:
        tell({"table": "pictures", "engine": "gsplat", "skipped": str(reason)})


def _prepared(bench: Bench, engine: Rasterizer, name: str, gaussians: Gaussians) -> Any:
    """Of a scene of the plan, what the engine may have already."""
    return bench.prepared(engine, name) if name in bench.plan.scenes else engine.prepare(gaussians)


def _color(engine: Rasterizer, scene: Any, camera: Camera) -> Picture:
    color = engine.render(scene, camera).color
    assert color is not None
    return color


def _figures(picture: Picture, expected: Picture) -> dict[str, Any]:
    height, width = expected.shape[:2]
    return {
        "width": width,
        "height": height,
        "psnr_db": psnr_db(picture, expected),
        "max_error": float(np.abs(picture - expected).max()),
    }


def _save(bench: Bench, pictures: dict[str, Picture], expected: Picture) -> None:
    for name, picture in pictures.items():
        _write(bench, name, picture)
    difference = np.abs(pictures[bench.fused().name] - expected)
    _write(bench, "difference", DIFFERENCE_GAIN * difference)


def _write(bench: Bench, name: str, picture: Picture) -> None:
    levels = (255 * picture.clip(0, 1) + 0.5).astype(np.uint8)
    cv2.imwrite(str(bench.out / f"{name}.png"), levels[..., ::-1])
