"""Where does the time of a whole frame go, and how many are there in a second?

Frames are drawn one after the other along a path, nothing kept between them, and timed from
the outside (wall clock of ``render``). Projection, depth order and binning only prepare what
compositing draws, so their share of the frame is judged. Stage times are averages over the
threads; what is left of the frame is threads waiting for each other, and the output arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.report import Row, Summary, new_table, verdict
from benchmarks.scenes import BenchmarkScene, CameraPath
from rendering.base import Rasterizer, RasterSettings
from splat.camera import Camera

MAX_SHARE = 0.50
CAMERAS = 12
REPEATS = 6
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
class FrameRow:
    """One path through one scene, over all its frames.

    Attributes:
        share_p50, share_max: Projection, sorting and binning as a share of the frame.
        frames_per_s: Frames drawn over the seconds that they took.
        project_ms, sort_ms, bin_ms, composite_ms: Medians.
        rest_ms: Median of what is in no stage.
    """

    scene: str
    gaussians: int
    path: str
    width: int
    height: int
    cameras: int
    repeats: int
    threads: int
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
    scene: BenchmarkScene,
    path: CameraPath,
    rasterizer: Rasterizer,
    prepared: Any,
    *,
    cameras: int = CAMERAS,
    repeats: int = REPEATS,
    threads: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Row:
    """Pass ``cameras`` views of a path ``repeats`` times; ``FrameRow`` with the verdict.

    Args:
        prepared: The scene as ``rasterizer`` prepared it.
        advance: Called after each camera of the timed passes.
    """
    views = path.spread(cameras)
    settings = RasterSettings(threads=threads)
    for camera in views:  # warms the caches and the engine's buffers
        timed_frame(rasterizer, prepared, camera, settings)
    frames = []
    for _ in range(repeats):
        for camera in views:
            frames.append(timed_frame(rasterizer, prepared, camera, settings))
            advance()
    row = _row(scene, path, frames, len(views), repeats, threads)
    return {"benchmark": "frame", **asdict(row), "passed": row.passed}


def timed_frame(
    rasterizer: Rasterizer, prepared: Any, camera: Camera, settings: RasterSettings
) -> TimedFrame:
    """Draw one frame and time it."""
    start = time.perf_counter()
    image = rasterizer.render(prepared, camera, settings)
    frame_ms = 1e3 * (time.perf_counter() - start)
    return TimedFrame(frame_ms, image.stats.stage_ms)


def _row(
    scene: BenchmarkScene,
    path: CameraPath,
    frames: Sequence[TimedFrame],
    cameras: int,
    repeats: int,
    threads: int,
) -> FrameRow:
    shares = Summary.of([frame.preparing_share for frame in frames])
    frame_ms = Summary.of([frame.frame_ms for frame in frames])

    def stage(name: str) -> float:
        return Summary.of([frame.stage_ms[name] for frame in frames]).p50

    first = path.cameras[0]
    return FrameRow(
        scene=scene.name,
        gaussians=len(scene.gaussians),
        path=path.name,
        width=first.width,
        height=first.height,
        cameras=cameras,
        repeats=repeats,
        threads=threads,
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
