"""What the stages of a frame cost on one thread, and what parts of a frame repeat of them.

Of every view the whole picture is drawn, its upper and its lower half, and its near and its far
Gaussians alone, in turn. A half picture is a camera of half the height with its principal point
moved: the engine projects, sorts and composites for it what it would for a band of tile rows. What
a half takes beyond half of the time is what every part repeats. Two eyes are drawn at once, as
while a head moves; what they take beyond one is what the second eye adds.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.stereo import eye_distance
from benchmarks.streaming import StreamedEngine, ample_budgets
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from configs.settings import ViewerSettings
from rendering.base import (
    TILE_PX,
    PagingRasterizer,
    PairRasterizer,
    RasterImage,
    RasterSettings,
    RasterStats,
)
from rendering.cost_model import Costs, JoinCost, StageCost, StageTimes, repeated_share
from rendering.frame import FrameRequest, FrameStats
from rendering.layers import composited
from rendering.stages import DRAWING, DRAWN_ONCE, STAGES, Stage
from rendering.streamed_scene import StreamPolicy
from scene_store.store import open_store
from splat.camera import Camera
from splat.stereo import StereoRig
from viewer.images import color_to_uint8
from viewer.pacing import PacingPolicy

HOPS = 200
EYE_DISTANCE = 1e-3  # of the view's depth; the cost of choosing for two eyes hardly depends on it


def stage_costs(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> Costs:
    """The costs of one eye's picture of a path, medians over its views, on one thread.

    Fetching and decoding are not in it: everything is in memory, as after a moment of rest.

    Args:
        advance: Called after each view.
    """
    views = subject.path.spread(sampling.cameras)
    rig = StereoRig(eye_distance(subject.asked))
    meter = _Meter(subject.rasterizer, subject.prepared, rig, RasterSettings(threads=1))
    halves = _halves(subject)
    for view in views[:1]:  # warms the caches and the engine's buffers
        meter.measure(view, halves(view))
    meter.forget()
    for view in views:
        near_and_far = halves(view)
        for _ in range(sampling.repeats):
            meter.measure(view, near_and_far)
        advance()
    select_ms, both_eyes_ms = _select_ms(subject, store, views)
    stages = {
        Stage.SELECT: StageCost(
            select_ms, second_eye=min(1.0, max(0.0, both_eyes_ms / select_ms - 1.0))
        ),
        **meter.drawing(),
        Stage.ENCODE: StageCost(median(meter.encode_ms)),
    }
    first = views[0]
    return Costs(
        {stage: stages[stage] for stage in STAGES if stage in stages},
        JoinCost(_hop_ms(), 0.0, median(meter.blend_ms)),
        first.width,
        first.height,
        len(subject.scene.gaussians),
        f"{subject.scene.name} {subject.path.name}, one thread",
    )


class _Meter:
    """Draws wholes and halves in turn, and keeps their times."""

    def __init__(
        self,
        rasterizer: PagingRasterizer,
        prepared: Any,
        rig: StereoRig,
        settings: RasterSettings,
    ) -> None:
        self._rasterizer, self._prepared, self._settings = rasterizer, prepared, settings
        self._rig = rig
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        self._whole: list[FrameStats] = []
        self._bands: list[FrameStats] = []
        self._shards: list[FrameStats] = []
        self._eyes: list[FrameStats] = []
        self.encode_ms: list[float] = []
        self.blend_ms: list[float] = []

    def measure(self, view: Camera, halves: Sequence[Any]) -> None:
        """One view, whole and in parts."""
        whole = self._draw(self._prepared, view, self._whole)
        for band in two_bands(view):
            self._draw(self._prepared, band, self._bands)
        near, far = (self._draw(half, view, self._shards) for half in halves)
        if isinstance(self._rasterizer, PairRasterizer):
            reuse = PacingPolicy().moving_settings(self._settings).reuse
            settings = replace(self._settings, reuse=reuse)
            eyes = self._rasterizer.render_pair(self._prepared, *self._rig.eyes(view), settings)
            self._eyes.append(FrameStats(0.0, 0.0, tuple(eye.stats for eye in eyes)))
        assert whole.color is not None
        color = whole.color
        self.encode_ms.append(_timed_ms(lambda: _encode(color)))
        blended = (near, far), self._settings, RasterStats()
        self.blend_ms.append(_timed_ms(lambda: composited(*blended)))

    def drawing(self) -> dict[Stage, StageCost]:
        """Of project, sort and composite."""
        whole, bands, shards, eyes = (
            StageTimes.of(frames).ms
            for frames in (self._whole, self._bands, self._shards, self._eyes or self._whole)
        )
        return {
            stage: StageCost(
                whole[stage],
                band=repeated_share(whole[stage], bands[stage], 0.5),
                shard=repeated_share(whole[stage], shards[stage], 0.5),
                second_eye=(
                    min(1.0, max(0.0, 2.0 * eyes[stage] / whole[stage] - 1.0))
                    if stage in DRAWN_ONCE
                    else 1.0
                ),
            )
            for stage in DRAWING
        }

    def _draw(self, scene: Any, view: Camera, frames: list[FrameStats]) -> RasterImage:
        image = self._rasterizer.render(scene, view, self._settings)
        frames.append(FrameStats(0.0, 0.0, (image.stats,)))
        return image


def two_bands(view: Camera) -> tuple[Camera, Camera]:
    """The upper and the lower half of a view, cut between tile rows, as views of their own."""
    rows = -(-view.height // TILE_PX)
    cut = min(rows // 2 * TILE_PX, view.height - 1) or view.height // 2
    return _band(view, 0, cut), _band(view, cut, view.height)


def _band(view: Camera, top: int, bottom: int) -> Camera:
    K = view.K.copy()
    K[1, 2] -= top
    return replace(view, K=K, height=bottom - top)


def _halves(subject: Subject[PagingRasterizer]) -> Callable[[Camera], tuple[Any, Any]]:
    """Of a view, the nearer half of the Gaussians and the further one, prepared."""
    gaussians = subject.scene.gaussians

    def cut(view: Camera) -> tuple[Any, Any]:
        depth = gaussians.means @ view.viewmat[2, :3].astype(np.float32)
        near = depth <= np.median(depth)
        prepare = subject.rasterizer.prepare
        return prepare(gaussians[near]), prepare(gaussians[~near])

    return cut


def _select_ms(
    subject: Subject[PagingRasterizer], store: Path, views: Sequence[Camera]
) -> tuple[float, float]:
    """Choosing for one eye and for both, everything in memory."""
    source = open_store(store)
    budgets = ample_budgets(source, subject.rasterizer)
    limit = int(source.tree.count[source.tree.is_leaf].sum())
    one: list[float] = []
    both: list[float] = []
    with StreamedEngine(source, subject.rasterizer, budgets, StreamPolicy(limit, 0.0)) as engine:
        settings = RasterSettings(threads=1)
        for view in views:
            engine.draw_complete(view, settings=settings)
            for cameras, times in (((view,), one), ((view, _other_eye(view)), both)):
                request = FrameRequest("costs", len(one) + len(both), cameras, settings)
                stream = engine.engine.submit(request).result().stats.stream
                assert stream is not None
                times.append(stream.select_ms)
    return max(median(one), 1e-3), median(both)


def _other_eye(view: Camera) -> Camera:
    viewmat = view.viewmat.copy()
    viewmat[0, 3] -= EYE_DISTANCE * float(np.linalg.norm(view.position))
    return replace(view, viewmat=viewmat)


def _encode(color: NDArray[np.float32]) -> None:
    """As the page's pictures of a moving camera are."""
    rgb = color_to_uint8(color)
    options = [cv2.IMWRITE_JPEG_QUALITY, ViewerSettings().moving_quality]
    cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)


def _timed_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def _hop_ms() -> float:
    """From one thread to another and back, half of it: what handing over a part takes."""
    there: queue.SimpleQueue[bool] = queue.SimpleQueue()
    back: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def echo() -> None:
        while there.get():
            back.put(True)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    times = []
    for _ in range(HOPS):
        start = time.perf_counter()
        there.put(True)
        back.get()
        times.append(1e3 * (time.perf_counter() - start) / 2)
    there.put(False)
    thread.join()
    return median(times)
