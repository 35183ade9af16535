"""Where does the time of a whole frame go, and how many are there in a second?

Frames are drawn one after the other along a path, nothing kept between them, and timed from
the outside (wall clock of ``render``). Projection, depth order and binning only prepare what
compositing draws, so their share of the frame is judged. Stage times are averages over the
threads; what is left of the frame is threads waiting for each other, and the output arrays.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from rendering.base import Rasterizer, RasterSettings
from splat.camera import Camera

MAX_SHARE = 0.50
PREPARING = ("project", "sort", "bin")


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """One frame: wall-clock milliseconds of the whole, and of the stages by name."""

    frame_ms: float
    stage_ms: dict[str, float]

    @property
    def preparing_share(self) -> float:
        """Projection, sorting and binning as a share of the frame."""
        return sum(self.stage_ms[stage] for stage in PREPARING) / self.frame_ms


@dataclass(frozen=True, slots=True)
class FrameFigures:
    """One path through one scene, over all its frames.

    Attributes:
        share_p50, share_max: Projection, sorting and binning as a share of the frame.
        frames_per_s: Frames drawn over the seconds that they took.
        project_ms, sort_ms, bin_ms, composite_ms: Medians.
        rest_ms: Median of what is in no stage.
    """

    share_p50: float
    share_max: float
    frame_ms_p50: float
    frame_ms_p95: float
    frames_per_s: float
    project_ms: float
    sort_ms: float
    bin_ms: float
    composite_ms: float
    rest_ms: float
    bar: float = MAX_SHARE

    @property
    def passed(self) -> bool:
        """Whether the median frame keeps under the bar."""
        return self.share_p50 <= self.bar


def run(
    subject: Subject[Rasterizer],
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> Row:
    """Pass the views of a path again and again; ``FrameFigures`` with the verdict.

    Args:
        advance: Called after each frame that is timed.
    """
    rasterizer, prepared = subject.rasterizer, subject.prepared
    views = subject.path.spread(sampling.cameras)
    settings = RasterSettings(threads=sampling.threads)
    for camera in views:  # warms the caches and the engine's buffers
        timed_frame(rasterizer, prepared, camera, settings)
    frames = []
    for _ in range(sampling.repeats):
        for camera in views:
            frames.append(timed_frame(rasterizer, prepared, camera, settings))
            advance()
    return record("frame", figures_of(frames), subject.describe(), asdict(sampling))


def timed_frame(
    rasterizer: Rasterizer, prepared: Any, camera: Camera, settings: RasterSettings
) -> TimedFrame:
    """Draw one frame and time it."""
    start = time.perf_counter()
    image = rasterizer.render(prepared, camera, settings)
    frame_ms = 1e3 * (time.perf_counter() - start)
    return TimedFrame(frame_ms, image.stats.stage_ms)


def figures_of(frames: Sequence[TimedFrame]) -> FrameFigures:
    """At least one frame in figures."""
    shares = Summary.of([frame.preparing_share for frame in frames])
    frame_ms = Summary.of([frame.frame_ms for frame in frames])

    def stage(name: str) -> float:
        return Summary.of([frame.stage_ms[name] for frame in frames]).p50

    return FrameFigures(
        share_p50=shares.p50,
        share_max=shares.high,
        frame_ms_p50=frame_ms.p50,
        frame_ms_p95=frame_ms.p95,
        frames_per_s=1e3 * len(frames) / sum(frame.frame_ms for frame in frames),
        project_ms=stage("project"),
        sort_ms=stage("sort"),
        bin_ms=stage("bin"),
        composite_ms=stage("composite"),
        rest_ms=Summary.of([f.frame_ms - sum(f.stage_ms.values()) for f in frames]).p50,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        "frame: projection, sorting and binning as a share of an uncached frame, "
        f"bar ≤ {100 * MAX_SHARE:.0f} %",
        ["scene", "path"],
        [
            "share",
            "worst frame",
            "frame ms p50",
            "p95",
            "frames/s",
            "project ms",
            "sort ms",
            "bin ms",
            "composite ms",
            "rest ms",
            "bar",
        ],
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["path"],
            f"{100 * row['share_p50']:.0f} %",
            f"{100 * row['share_max']:.0f} %",
            f"{row['frame_ms_p50']:.1f}",
            f"{row['frame_ms_p95']:.1f}",
            f"{row['frames_per_s']:.1f}",
            *(f"{row[f'{stage}_ms']:.1f}" for stage in (*PREPARING, "composite", "rest")),
            verdict(row),
        )
    return table
