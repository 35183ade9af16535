"""Frames against the clock: the host's, and the device's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from benchmarks.gpu_kit.board_cuda import Board
from benchmarks.gpu_kit.plan import Sampling
from benchmarks.report import Summary
from rendering.base import RasterImage, RasterStats
from rendering.gsplat_frame import CHECKED

NOT_ITS_OWN = (CHECKED,)  # what our adapter of gsplat adds to it

ViewT = TypeVar("ViewT")


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Of some frames.

    Attributes:
        frames: How many.
        host_ms: From the asking until the pictures are in host memory.
        device_ms: Of all stages, by the engine's own account (CUDA events); of gsplat, of its own.
        stage_ms: Of each stage, the median.
        visible, tile_pairs: The medians.
        held_mb: Of the device's memory before, by tensors: the scene, and what else is there.
        frame_mb: The most that frames took beyond that.
    """

    frames: int
    host_ms: Summary
    device_ms: Summary
    stage_ms: dict[str, float]
    visible: float
    tile_pairs: float
    held_mb: float
    frame_mb: float

    def to_row(self) -> dict[str, Any]:
        """Flat, as tables want it."""
        return {
            "frames": self.frames,
            **{f"host_ms_{name}": value for name, value in _quantiles(self.host_ms).items()},
            **{f"device_ms_{name}": value for name, value in _quantiles(self.device_ms).items()},
            "stage_ms": self.stage_ms,
            "visible": self.visible,
            "tile_pairs": self.tile_pairs,
            "held_mb": self.held_mb,
            "frame_mb": self.frame_mb,
        }


def time_frames(
    draw: Callable[[ViewT], Sequence[RasterImage]],
    views: Sequence[ViewT],
    sampling: Sampling,
    board: Board,
) -> FrameTimes:
    """Draws every view once, so that nothing is compiled or made for the first time, and then as
    many frames as the sampling says, view after view.

    Args:
        draw: Gives the images of one frame, whose statistics add up.
    """
    for view in views:
        draw(view)
    board.wait()
    board.forget_peak()
    held = board.held_bytes()
    host_ms: list[float] = []
    stats: list[RasterStats] = []
    for turn in turns(sampling):
        view = views[turn % len(views)]
        start_s = time.perf_counter()
        images = draw(view)
        host_ms.append(1e3 * (time.perf_counter() - start_s))
        stats.append(joined([image.stats for image in images]))
    stages = {name: median(s.stage_ms[name] for s in stats) for name in stats[0].stage_ms}
    return FrameTimes(
        frames=len(host_ms),
        host_ms=Summary.of(host_ms),
        device_ms=Summary.of([_own_ms(s) for s in stats]),
        stage_ms=stages,
        visible=median(s.visible for s in stats),
        tile_pairs=median(s.tile_pairs for s in stats),
        held_mb=held / 1e6,
        frame_mb=(board.peak_bytes() - held) / 1e6,
    )


def turns(sampling: Sampling) -> Iterator[int]:
    """0, 1, 2 and so on, as often and as long as the sampling says."""
    began_s = time.perf_counter()
    for turn in range(max(sampling.least, sampling.most)):
        if turn >= sampling.least and time.perf_counter() - began_s >= sampling.most_s:
            return
        yield turn


def _own_ms(stats: RasterStats) -> float:
    return sum(ms for stage, ms in stats.stage_ms.items() if stage not in NOT_ITS_OWN)


def joined(parts: Sequence[RasterStats]) -> RasterStats:
    """Statistics of the images of one frame, together."""
    stages = {name: sum(p.stage_ms.get(name, 0.0) for p in parts) for name in parts[0].stage_ms}
    pairs = sum(p.tile_pairs for p in parts)
    return RasterStats(parts[0].gaussians, max(p.visible for p in parts), pairs, stages)


def _quantiles(summary: Summary) -> dict[str, float]:
    return {"p50": summary.p50, "p95": summary.p95}
