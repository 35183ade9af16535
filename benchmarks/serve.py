"""How do many viewers share one engine?

1, 4 and 16 viewers hurry along the same path through one streamed scene, round and round, each
from a place of its own, each asking for its next picture as soon as it has the last one, for a few
seconds. A round is so few steps that everybody comes to every part of the path: turns are fair by
time, so whoever stayed where pictures are dear would get fewer. Nothing is drawn in advance, and
pictures of moving cameras are not kept. What is counted is pixels drawn a second, all viewers
together, and how much of it the worst viewer got of its fair share. The scene is in memory once,
however many look at it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.report import Row, new_table, record, verdict
from benchmarks.streaming import StreamedEngine, ample_budgets
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from rendering.base import PagingRasterizer, RasterSettings
from rendering.frame import FrameRequest
from rendering.streamed_scene import StreamPolicy
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import RenderCancelled

VIEWERS = (1, 4, 16)
STEPS = len(VIEWERS)
SECONDS = 6.0
STEPS_A_ROUND = 12
SIDE_SHARE = 0.5  # pictures are half as wide and high as the path's: a viewer in motion
MAX_LOSS = 0.10
MIN_FAIRNESS = 0.7
MAX_RESIDENCY = 1.5  # what is prefetched for many is more than for one; copies would be 16


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many viewers at once.

    Attributes:
        viewers: How many.
        pixels_per_s: Drawn for all of them.
        worst_share: Pixels of the worst viewer, of an equal share.
        worst_wait_ms: The longest wait of anybody for a picture.
        device_bytes: Of the scene on the device.
    """

    viewers: int
    pixels_per_s: float
    worst_share: float
    worst_wait_ms: float
    device_bytes: int


@dataclass(frozen=True, slots=True)
class ServeFigures:
    """One path through one scene.

    Attributes:
        crowds: By viewers, the fewest first.
        kept: Pixels a second of the largest crowd, of those of a single viewer.
        fairness: The least of ``worst_share``.
        residency: Bytes on the device for the largest crowd, of those that one viewer who has
            seen all of the path has there.
    """

    crowds: tuple[Crowd, ...]
    kept: float
    fairness: float
    residency: float

    @property
    def passed(self) -> bool:
        """Whether nothing is lost by sharing, nobody is left out, and the scene is there once."""
        return (
            self.kept >= 1 - MAX_LOSS
            and self.fairness >= MIN_FAIRNESS
            and self.residency <= MAX_RESIDENCY
        )


def run(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> Row:
    """Crowds on the path; ``ServeFigures`` with the verdict."""
    first = subject.path.cameras[0]
    size = round(first.width * SIDE_SHARE), round(first.height * SIDE_SHARE)
    views = [camera.resized(*size) for camera in subject.path.cameras]
    settings = RasterSettings(threads=sampling.threads)
    source = open_store(store)
    limit = int(source.tree.count[source.tree.is_leaf].sum())
    budgets = ample_budgets(source, subject.rasterizer)
    with StreamedEngine(source, subject.rasterizer, budgets, StreamPolicy(limit, 0.0)) as streamed:
        for camera in views:  # brings all that the path needs
            streamed.draw_complete(camera, settings=settings)
        once_bytes = streamed.scene.stats().device_bytes
        streamed.engine.forget("benchmark")
        crowds = []
        for viewers in VIEWERS:
            crowds.append(_crowd(streamed, views, viewers, settings))
            advance()
    figures = ServeFigures(
        crowds=tuple(crowds),
        kept=crowds[-1].pixels_per_s / crowds[0].pixels_per_s,
        fairness=min(crowd.worst_share for crowd in crowds),
        residency=crowds[-1].device_bytes / once_bytes,
    )
    return record("serve", figures, subject.describe(), asdict(sampling))


@dataclass(slots=True)
class _Viewer:
    """One who walks and looks."""

    name: str
    views: Sequence[Camera]
    place: int
    pixels: int = 0
    longest_wait_s: float = 0.0

    def walk(self, streamed: StreamedEngine, settings: RasterSettings, until_s: float) -> None:
        stride = max(1, len(self.views) // STEPS_A_ROUND)
        for step in range(1, 1_000_000):
            camera = self.views[(self.place + step * stride) % len(self.views)]
            request = FrameRequest(self.name, step, (camera,), settings)
            try:
                streamed.engine.submit(request).result()
            except RenderCancelled:
                return
            now_s = time.monotonic()
            if now_s > until_s:
                return
            self.pixels += camera.width * camera.height
            self.longest_wait_s = max(self.longest_wait_s, now_s - request.submitted_s)


def _crowd(
    streamed: StreamedEngine, views: Sequence[Camera], count: int, settings: RasterSettings
) -> Crowd:
    places = [i * len(views) // count for i in range(count)]
    viewers = [_Viewer(f"viewer {i} of {count}", views, place) for i, place in enumerate(places)]
    until_s = time.monotonic() + SECONDS
    threads = [
        threading.Thread(target=viewer.walk, args=(streamed, settings, until_s))
        for viewer in viewers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = streamed.scene.stats().device_bytes
    for viewer in viewers:
        streamed.engine.forget(viewer.name)
    total = sum(viewer.pixels for viewer in viewers)
    return Crowd(
        viewers=count,
        pixels_per_s=total / SECONDS,
        worst_share=min(viewer.pixels for viewer in viewers) * count / max(total, 1),
        worst_wait_ms=1e3 * max(viewer.longest_wait_s for viewer in viewers),
        device_bytes=held,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        "serve: viewers in motion; bars: 16 get ≥ 90 % of the pixels of 1, nobody less than "
        "0.7 of a fair share, the scene in memory once",
        ("scene", "path"),
        ("viewers", "M pixels/s", "of one's", "worst share", "longest wait ms", "scene MB", "bar"),
    )
    for row in rows:
        alone = row["crowds"][0]["pixels_per_s"]
        for crowd in row["crowds"]:
            table.add_row(
                row["scene"],
                row["path"],
                f"{crowd['viewers']}",
                f"{crowd['pixels_per_s'] / 1e6:.1f}",
                f"{crowd['pixels_per_s'] / alone:.2f}",
                f"{crowd['worst_share']:.2f}",
                f"{crowd['worst_wait_ms']:.0f}",
                f"{crowd['device_bytes'] / 1e6:.0f}",
                verdict(row) if crowd is row["crowds"][-1] else "",
            )
    return table
