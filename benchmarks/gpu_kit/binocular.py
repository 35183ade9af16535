"""Two eyes: pictures of a cut through the levels of detail, as a headset asks for them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell, moving_settings
from benchmarks.gpu_kit.timing import FrameTimes, time_frames
from benchmarks.psnr import psnr_db
from benchmarks.report import Summary
from render_cache.reuse import NO_REUSE
from rendering.base import PairRasterizer, RasterImage, RasterSettings, ScenePart
from scene_store.build.memory_levels import MemoryChunks
from scene_store.lod import LodLimits, select_lod
from splat.camera import Camera
from splat.stereo import HUMAN_IPD, StereoRig

ERROR_PX = 1.0

Eyes = tuple[Camera, Camera]


def measure(bench: Bench, tell: Tell) -> None:
    """Both eyes at once, and one after the other, on every path of the first scene.

    A frame is all of it: choosing the cut, listing its pages, drawing, and the pictures in host
    memory (``fps``), or left on the device (``device_fps``), as whoever encodes there needs them.

    Raises:
        Absent: If the scene has no levels here.
    """
    name = bench.plan.scenes[0]
    chunks = bench.levels(name)
    headset = _Headset(bench, chunks)
    rig = StereoRig(HUMAN_IPD)
    for path in bench.plan.paths:
        heads = [rig.eyes(view) for view in bench.views(name, path, bench.plan.eye)]
        about = {
            "table": "binocular",
            "scene": name,
            "path": path,
            "width": bench.plan.eye[0],
            "height": bench.plan.eye[1],
            "gaussians": chunks.meta.count,
        }
        for manner, settings in (("exact", RasterSettings()), ("moving", moving_settings())):
            two = headset.timed(heads, replace(settings, reuse=NO_REUSE), at_once=False)
            tell({**about, "manner": f"{manner}, two single", **headset.row(two)})
            if settings.reuse == NO_REUSE or not isinstance(headset.engine, PairRasterizer):
                continue
            both = headset.timed(heads, settings, at_once=True)
            share = both.device_ms.p50 / two.device_ms.p50 if two.device_ms.p50 else math.nan
            tell(
                {
                    **about,
                    "manner": f"{manner}, both at once",
                    **headset.row(both),
                    "of_two": share,
                    "psnr_db": headset.second_eye_db(heads[0], settings),
                }
            )
    if not isinstance(headset.engine, PairRasterizer):
        raise Absent("the engine draws no pairs")


class _Headset:
    """Draws for two eyes from pages that are all resident."""

    def __init__(self, bench: Bench, chunks: MemoryChunks) -> None:
        self.engine = bench.fused()
        self._bench, self._tree = bench, chunks.tree
        pool = self.engine.new_pool(chunks.page_gaussians, chunks.sh_degree)
        self._pages = pool.pack_many(chunks.gaussians, chunks.rows)
        self._resident = np.ones(len(chunks.tree), np.bool_)
        self._limits = LodLimits(ERROR_PX, page_gaussians=chunks.page_gaussians)
        self._choosing_ms: list[float] = []
        self._drawn: list[int] = []

    def timed(
        self, heads: Sequence[Eyes], settings: RasterSettings, *, at_once: bool
    ) -> FrameTimes:
        """Frames of all heads."""
        self._choosing_ms, self._drawn = [], []
        return time_frames(
            lambda eyes: self._frame(eyes, settings, at_once),
            heads,
            self._bench.plan.sampling,
            self._bench.board,
        )

    def row(self, times: FrameTimes) -> dict[str, Any]:
        """Of what was timed last."""
        choosing_ms = Summary.of(self._choosing_ms).p50
        return {
            **times.to_row(),
            "fps": 1e3 / times.host_ms.p50,
            "device_fps": 1e3 / (choosing_ms + times.device_ms.p50),
            "drawn": float(np.median(self._drawn)),
            "choosing_ms": choosing_ms,
        }

    def second_eye_db(self, eyes: Eyes, settings: RasterSettings) -> float:
        """How true the second eye's picture is, drawn at once with the first."""
        scene = self._cut(eyes)
        _, both = self.engine.render_pair(scene, *eyes, settings)
        alone = self.engine.render(scene, eyes[1], replace(settings, reuse=NO_REUSE))
        assert both.color is not None and alone.color is not None
        return psnr_db(both.color, alone.color)

    def _frame(self, eyes: Eyes, settings: RasterSettings, at_once: bool) -> Sequence[RasterImage]:
        start_s = time.perf_counter()
        scene = self._cut(eyes)
        self._choosing_ms.append(1e3 * (time.perf_counter() - start_s))
        if at_once:
            return self.engine.render_pair(scene, *eyes, settings)
        return [self.engine.render(scene, eye, settings) for eye in eyes]

    def _cut(self, eyes: Eyes) -> Any:
        cut = select_lod(self._tree, eyes, self._resident, self._limits)
        self._drawn.append(cut.drawn_gaussians)
        return self.engine.compose([ScenePart(self._pages[chunk]) for chunk in cut.draw.tolist()])
