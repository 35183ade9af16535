"""How much quicker are pictures of a moving camera, and at what cost?

The viewer's interactive policy (``viewer.pacing``) drives the engine along the walk as a session
does for one browser, without a browser: no encoding, no transport. First every frame is drawn
in full size and detail. Then the policy is asked for as many times that rate as the bar says
and 2 % more, with no bound of its own on the pictures a second; it lowers resolution and detail
until they hold that. Its pictures, stretched to full size as the page does (a WebGL texture,
bilinear), are compared with the full ones (PSNR). The store is all resident in both, so that what
is measured is drawing.
Chunks fade as in a walk at 30 pictures a second, however quickly it is drawn here.

At the end of the walk the camera stops. The policy waits a moment, asks for the full picture,
and that must be there, and be the same to the bit as the full one, within a second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.psnr import psnr_db
from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.streaming import DrawnFrame, StreamedEngine, ample_budgets
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from rendering.base import PagingRasterizer, RasterSettings
from rendering.streamed_scene import StreamPolicy
from scene_store.store import open_store
from splat.camera import Camera
from viewer.pacing import FramePlan, Pacer, PacingPolicy
from viewer.reductions import Reduction

MIN_SPEEDUP = 8.0
ASKED_SPEEDUP = 1.02 * MIN_SPEEDUP  # a rate is held to within some percent
MIN_PSNR_DB = 27.0
MAX_STOP_S = 1.0
STEPS = 3  # that ``run`` reports: full frames, moving frames, the stop
WALK_FPS = 30.0
WARM_UP_ROUNDS = 2  # of the walk's moving frames, in which the policy learns what they cost


class WalkClock:
    """Goes by the walk's own time while somebody walks, and else by that of the world."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._walking_s: float | None = None

    def __call__(self) -> float:
        """Seconds; never goes back."""
        if self._walking_s is not None:
            return self._walking_s
        return time.monotonic() + self._ahead_s

    def step(self) -> None:
        """The next camera of the walk."""
        self._walking_s = self() + 1.0 / WALK_FPS

    def stop(self) -> None:
        """The walk is over."""
        if self._walking_s is not None:
            self._ahead_s = self._walking_s - time.monotonic()
            self._walking_s = None


@dataclass(frozen=True, slots=True)
class MovingFigures:
    """One walk through one scene.

    Attributes:
        speedup: Full frames' seconds over moving frames', for the same cameras.
        full_ms_p50, moving_ms_p50, moving_ms_p95: From the asking to the answer.
        psnr_db, psnr_db_min: Of the moving pictures, stretched, against the full ones: the
            mean and the worst.
        drawn_gaussians: In a moving frame, the mean.
        scale: Resolution of a moving frame, a share per side, the mean.
        stop_s: From the last motion to the full picture.
        same_bytes: Whether that is the full picture, bit for bit.
    """

    speedup: float
    full_ms_p50: float
    moving_ms_p50: float
    moving_ms_p95: float
    psnr_db: float
    psnr_db_min: float
    drawn_gaussians: float
    scale: float
    stop_s: float
    same_bytes: bool
    bar: float = MIN_SPEEDUP

    @property
    def passed(self) -> bool:
        """Whether it is as quick, as good, and ends as it should."""
        return (
            self.speedup >= self.bar
            and self.psnr_db >= MIN_PSNR_DB
            and self.stop_s <= MAX_STOP_S
            and self.same_bytes
        )


def run(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> Row:
    """The path at full detail and as while moving; ``MovingFigures`` with the verdict."""
    views = subject.path.cameras
    settings = RasterSettings(threads=sampling.threads)
    source = open_store(store)
    budgets = ample_budgets(source, subject.rasterizer)
    limit = int(source.tree.count[source.tree.is_leaf].sum())
    policy, clock = StreamPolicy(limit, 0.0), WalkClock()
    with StreamedEngine(source, subject.rasterizer, budgets, policy, clock) as engine:
        for camera in views:  # brings all that the walk needs
            engine.draw_complete(camera, settings=settings)
        full = [engine.draw(camera, settings=settings) for camera in views]
        advance()
        full_ms = [frame.wall_ms for frame in full]
        # The usual fade, for what follows.
        engine.scene.policy = replace(policy, fade_s=StreamPolicy().fade_s)
        walker = _Walker(engine, clock, 1e3 * ASKED_SPEEDUP / fmean(full_ms), settings)
        for _ in range(WARM_UP_ROUNDS):
            walker.walk(views)
        walker.walk(views)
        moving = walker.frames
        advance()
        stop_s, still = walker.stop(views[-1])
        advance()
    pairs = [(moved.color, whole.color) for moved, whole in zip(moving, full, strict=True)]
    values = [psnr_db(_stretched(picture, truth), truth) for picture, truth in pairs]
    moving_ms = [frame.wall_ms for frame in moving]
    figures = MovingFigures(
        speedup=sum(full_ms) / sum(moving_ms),
        full_ms_p50=Summary.of(full_ms).p50,
        moving_ms_p50=Summary.of(moving_ms).p50,
        moving_ms_p95=Summary.of(moving_ms).p95,
        psnr_db=fmean(values),
        psnr_db_min=min(values),
        drawn_gaussians=fmean(_drawn_gaussians(frame) for frame in moving),
        scale=fmean(reduction.scale for reduction in walker.reductions),
        stop_s=stop_s,
        same_bytes=np.array_equal(still.color, full[-1].color),
    )
    return record("moving", figures, subject.describe(), {"threads": sampling.threads})


class _Walker:
    """One browser's pacer, with an engine at hand and nothing in transit.

    Attributes:
        frames, reductions: Of the last walk.
    """

    def __init__(
        self,
        engine: StreamedEngine,
        clock: WalkClock,
        target_fps: float,
        settings: RasterSettings,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._pacer = Pacer(PacingPolicy(target_fps=target_fps))
        self._pacer.set_details(engine.engine.detail_counts)
        self.frames: list[DrawnFrame] = []
        self.reductions: list[Reduction] = []

    def walk(self, views: Sequence[Camera]) -> None:
        """A moving frame of each view."""
        self.frames, self.reductions = [], []
        for camera in views:
            self._clock.step()
            self._pacer.change(time.monotonic(), (camera.width, camera.height))
            following = self._next(camera)
            assert following is not None, "a picture is due after every change"
            self.frames.append(following[0])
            self.reductions.append(following[1].reduction)
        self._clock.stop()

    def stop(self, camera: Camera) -> tuple[float, DrawnFrame]:
        """Seconds until the last picture of a camera that just stopped, and that picture."""
        began_s = time.monotonic()
        self._pacer.change(began_s, (camera.width, camera.height))
        drawn = self._next(camera)  # the last motion's own picture
        ended_s = began_s
        while (following := self._next(camera)) is not None:
            drawn, ended_s = following, time.monotonic()
        assert drawn is not None
        return ended_s - began_s, drawn[0]

    def _next(self, camera: Camera) -> tuple[DrawnFrame, FramePlan] | None:
        """The next picture that the pacer wants, when it wants it; None if it wants no more."""
        plan = self._pacer.plan(time.monotonic())
        while not isinstance(plan, FramePlan):
            if plan is None:
                return None
            time.sleep(plan)
            plan = self._pacer.plan(time.monotonic())
        self._pacer.start(plan, time.monotonic())
        drawn = self._engine.draw(
            camera.resized(plan.width, plan.height),
            max_error_px=plan.reduction.error_px,
            settings=self._pacer.policy.raster_settings(self._settings, plan),
        )
        stream = drawn.frame.stats.stream
        assert stream is not None
        self._pacer.drawn(plan, drawn.wall_ms, stream=stream)
        return drawn, plan


def _drawn_gaussians(drawn: DrawnFrame) -> int:
    stream = drawn.frame.stats.stream
    assert stream is not None
    return sum(stream.gaussians_by_level)


def _stretched(picture: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture at the size of another, as a browser stretches it."""
    import cv2

    height, width = like.shape[:2]
    stretched = cv2.resize(np.clip(picture, 0, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(stretched, np.float32)


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"moving: pictures of a walk by the interactive policy, bars ≥ {MIN_SPEEDUP:.0f} times as "
        f"many a second as full ones, PSNR ≥ {MIN_PSNR_DB:.0f} dB, the full picture "
        f"≤ {MAX_STOP_S:.0f} s after stopping",
        ["scene", "path"],
        [
            "times as many",
            "full ms p50",
            "moving ms p50",
            "p95",
            "PSNR dB",
            "worst",
            "drawn K",
            "scale",
            "stop s",
            "same bytes",
            "bar",
        ],
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["path"],
            f"{row['speedup']:.1f}",
            f"{row['full_ms_p50']:.1f}",
            f"{row['moving_ms_p50']:.1f}",
            f"{row['moving_ms_p95']:.1f}",
            f"{row['psnr_db']:.1f}",
            f"{row['psnr_db_min']:.1f}",
            f"{row['drawn_gaussians'] / 1e3:.0f}",
            f"{row['scale']:.2f}",
            f"{row['stop_s']:.2f}",
            "yes" if row["same_bytes"] else "NO",
            verdict(row),
        )
    return table
