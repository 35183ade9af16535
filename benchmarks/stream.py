"""What does streaming cost a person who flies through a scene that nothing is known of yet?

A store is opened cold: with empty pools, its files dropped from the system's cache, or behind a
slow line (an HTTP server of this process with a latency and a bandwidth). A walk is played at an
even pace, and jumps to other places (teleports), both with the limits of a moving picture. What
is asked of it:

- No frame waits for a chunk. What a frame costs beside rasterizing (choosing, leasing, putting
  together) is at most half the latency of a single read behind the slow line more than for the
  same frames when everything is resident. Whole frames are also set against those, but that is
  not judged: decoding takes its share of the cores, and what is not there is not drawn.
- No frame has a hole, from the moment on that the scene's coarsest form is there. Alpha is
  compared with that of the same frame when everything is resident: how much of its sum is there,
  pixel by pixel at most as much as there should be. And the chunks drawn are checked to cover
  every leaf that the camera sees.
- Nothing is read in vain: bytes over those of the chunks that were drawn at some time.
- Chunks of a walk are there when they come into view: of those that come after the first
  picture was complete, most were on the device already, because a prediction had fetched them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.slow_server import Line, SlowServer
from benchmarks.stores import open_cold
from benchmarks.streaming import CLIENT, StreamedEngine, ample_budgets
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from rendering.base import PagingRasterizer, RasterSettings
from rendering.streamed_scene import StreamPolicy
from scene_store.ledger import Budgets
from scene_store.remote.options import RemoteOptions
from scene_store.residency_stats import Tally
from scene_store.store import Store, open_store
from scene_store.tree import NO_PARENT, LodTree
from splat.bounds import ViewVolume
from splat.camera import Camera

LINE = Line(latency_s=0.020, bytes_per_s=100e6 / 8)
PLACES = ("disk", "http")
JOURNEYS = ("walk", "teleports")
STEPS = len(PLACES) * len(JOURNEYS)  # that ``run`` reports

BUDGETS = Budgets(host_bytes=256 << 20, device_bytes=1 << 30)
POLICY = StreamPolicy(max_gaussians=500_000)  # what this machine draws in motion
ERROR_PX = 1.0
WALK_FPS = 15.0
FIRST_POLL_S = 0.005
TELEPORTS = 3
TELEPORT_FRAMES = 20  # at each place

MAX_WAIT_MS = 1e3 * LINE.latency_s / 2
MIN_COVERAGE = 0.95  # what is coarse is softer at its edges; a hole is more than that
MAX_READ_RATIO = 1.5
MIN_FORESEEN = 0.80


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """One journey through one store.

    Attributes:
        first_s: From the opening of the scene to the first picture of all of it, coarse.
        frame_ms_p50, frame_ms_p95: From the asking to the answer, while streaming.
        resident_ms_p95: The same frames when everything is resident.
        slowdown_p95: The ratio of the two.
        wait_ms_p95, wait_ms_max: Of a frame, what is not rasterizing.
        resident_wait_ms_p95: The same when everything is resident.
        coverage_min, coverage_p50: Of the alpha that should be there.
        uncovered: Visible leaves without a chunk drawn for them, over all frames.
        complete_share: Frames that showed all that their limits allow.
        read_mb, drawn_mb: Encoded bytes read, and those of the chunks that were drawn.
        read_ratio: The one over the other.
        came_into_view: Chunks, after the first picture was complete.
        foreseen: Their share that was on the device by then; None if none came.
    """

    first_s: float
    frame_ms_p50: float
    frame_ms_p95: float
    resident_ms_p95: float
    slowdown_p95: float
    wait_ms_p95: float
    wait_ms_max: float
    resident_wait_ms_p95: float
    coverage_min: float
    coverage_p50: float
    uncovered: int
    complete_share: float
    read_mb: float
    drawn_mb: float
    read_ratio: float
    came_into_view: int
    foreseen: float | None
    judges_foresight: bool

    @property
    def passed(self) -> bool:
        """Whether all bars are reached; nobody foresees a teleport."""
        foreseen = self.foreseen is None or self.foreseen >= MIN_FORESEEN
        return (
            self.wait_ms_p95 - self.resident_wait_ms_p95 <= MAX_WAIT_MS
            and self.coverage_min >= MIN_COVERAGE
            and self.uncovered == 0
            and self.read_ratio <= MAX_READ_RATIO
            and (foreseen or not self.judges_foresight)
        )


def run(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> list[Row]:
    """All journeys from all places; ``StreamFigures`` with the verdict each."""
    settings = RasterSettings(threads=sampling.threads)
    rows = []
    for journey in JOURNEYS:
        cameras = journey_of(subject, journey)
        reference = _resident(subject, store, cameras, settings)
        for place in PLACES:
            with _opened(store, place) as source:
                figures = _stream(subject, source, journey, cameras, reference, settings)
            about = {"path": journey, "place": place, "threads": sampling.threads}
            rows.append(record("stream", figures, subject.describe(), about))
            advance()
    return rows


def journey_of(subject: Subject[PagingRasterizer], journey: str) -> tuple[Camera, ...]:
    """The frames of a journey: along the walk, or to places of the aerial path and the walk."""
    if journey == "walk":
        return subject.scene.path("walk").cameras
    aerial, walk = subject.scene.path("aerial").cameras, subject.scene.path("walk").cameras
    places = (walk[0], aerial[len(aerial) // 3], walk[-1], aerial[2 * len(aerial) // 3])
    return tuple(camera for camera in places[: TELEPORTS + 1] for _ in range(TELEPORT_FRAMES))


@contextlib.contextmanager
def _opened(store: Path, place: str) -> Iterator[Store]:
    if place == "disk":
        yield open_cold(store)
        return
    with SlowServer(store, LINE) as server:
        yield open_store(server.url, remote=RemoteOptions(cache=None))


@dataclass(frozen=True, slots=True, eq=False)
class _Shot:
    """One frame: what it cost, showed, and was drawn from."""

    wall_ms: float
    wait_ms: float
    alpha: NDArray[np.float32]
    chunks: tuple[int, ...]
    complete: bool


def _shoot(engine: StreamedEngine, camera: Camera, settings: RasterSettings) -> _Shot:
    drawn = engine.draw(camera, max_error_px=ERROR_PX, settings=settings)
    image = drawn.frame.images[0]
    wait_ms = drawn.wall_ms - sum(image.stats.stage_ms.values())
    chunks, stream = engine.scene.drawn_chunks(CLIENT), drawn.frame.stats.stream
    assert stream is not None
    return _Shot(drawn.wall_ms, wait_ms, image.alpha, chunks, stream.complete)


def _resident(
    subject: Subject[PagingRasterizer],
    store: Path,
    cameras: Sequence[Camera],
    settings: RasterSettings,
) -> list[_Shot]:
    """The frames of a journey when everything is there."""
    source = open_store(store)
    budgets = ample_budgets(source, subject.rasterizer)
    policy = StreamPolicy(POLICY.max_gaussians, fade_s=0.0)
    with StreamedEngine(source, subject.rasterizer, budgets, policy) as engine:
        for camera in cameras:
            engine.draw_complete(camera, max_error_px=ERROR_PX, settings=settings)
        return [_shoot(engine, camera, settings) for camera in cameras]


def _stream(
    subject: Subject[PagingRasterizer],
    source: Store,
    journey: str,
    cameras: Sequence[Camera],
    reference: Sequence[_Shot],
    settings: RasterSettings,
) -> StreamFigures:
    tree, sizes = source.tree, [source.encoded_bytes(chunk) for chunk in range(len(source.tree))]
    with StreamedEngine(source, subject.rasterizer, BUDGETS, POLICY) as engine:
        began_s = time.monotonic()
        while not _shoot(engine, cameras[0], settings).chunks:  # the roots are on their way
            time.sleep(FIRST_POLL_S)
        first_s = time.monotonic() - began_s
        if journey == "walk":  # nobody can foresee where it starts
            engine.draw_complete(cameras[0], max_error_px=ERROR_PX, settings=settings)
        shots, before = [], engine.scene.stats().tally
        start_s = time.monotonic()
        for index, camera in enumerate(cameras):
            time.sleep(max(0.0, start_s + index / WALK_FPS - time.monotonic()))
            shots.append(_shoot(engine, camera, settings))
        after = engine.scene.stats().tally
    drawn = sorted({chunk for shot in shots for chunk in shot.chunks})
    drawn_bytes = sum(sizes[chunk] for chunk in drawn)
    frame_ms = Summary.of([shot.wall_ms for shot in shots])
    wait_ms = Summary.of([shot.wait_ms for shot in shots])
    resident_ms = Summary.of([shot.wall_ms for shot in reference])
    coverage = [coverage_of(s.alpha, r.alpha) for s, r in zip(shots, reference, strict=True)]
    came, foreseen = _foreseen(before, after)
    return StreamFigures(
        first_s=first_s,
        frame_ms_p50=frame_ms.p50,
        frame_ms_p95=frame_ms.p95,
        resident_ms_p95=resident_ms.p95,
        slowdown_p95=frame_ms.p95 / resident_ms.p95,
        wait_ms_p95=wait_ms.p95,
        wait_ms_max=wait_ms.high,
        resident_wait_ms_p95=Summary.of([shot.wait_ms for shot in reference]).p95,
        coverage_min=min(coverage),
        coverage_p50=Summary.of(coverage).p50,
        uncovered=sum(
            uncovered_leaves(tree, camera, shot.chunks)
            for camera, shot in zip(cameras, shots, strict=True)
        ),
        complete_share=fmean(shot.complete for shot in shots),
        read_mb=after.bytes_read / 1e6,
        drawn_mb=drawn_bytes / 1e6,
        read_ratio=after.bytes_read / drawn_bytes,
        came_into_view=came,
        foreseen=foreseen,
        judges_foresight=journey == "walk",
    )


def _foreseen(before: Tally, after: Tally) -> tuple[int, float | None]:
    came = after.requests - before.requests
    hits = after.device_hits - before.device_hits
    return came, hits / came if came else None


def coverage_of(alpha: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """How much of the alpha that is wanted is there; 1 for nothing wanted."""
    total = float(wanted.sum(dtype=np.float64))
    if total <= 0:
        return 1.0
    return float(np.minimum(alpha, wanted).sum(dtype=np.float64)) / total


def uncovered_leaves(tree: LodTree, camera: Camera, drawn: Sequence[int]) -> int:
    """Leaves that the camera sees, and that neither they nor an ancestor is drawn for."""
    stands_in = np.zeros(len(tree), np.bool_)
    stands_in[list(drawn)] = True
    for node in np.flatnonzero(tree.parent != NO_PARENT):  # parents come first
        stands_in[node] |= stands_in[tree.parent[node]]
    leaves = np.flatnonzero(tree.is_leaf)
    seen = ViewVolume.of(camera).may_see(tree.lo[leaves], tree.hi[leaves], tree.max_scale[leaves])
    return int((seen & ~stands_in[leaves]).sum())


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"stream: cold; bars: beside rasterizing ≤ {MAX_WAIT_MS:.0f} ms more than resident, "
        f"coverage ≥ {100 * MIN_COVERAGE:.0f} %, read ≤ {MAX_READ_RATIO:.1f} of drawn, "
        f"≥ {100 * MIN_FORESEEN:.0f} % of a walk's chunks foreseen",
        ["scene", "path", "from"],
        [
            "frame ms p50",
            "p95",
            "of resident p95",
            "beside p95",
            "resident",
            "worst coverage",
            "complete",
            "read MB",
            "of drawn",
            "new chunks",
            "foreseen",
            "bar",
        ],
    )
    for row in rows:
        foreseen = "—" if row["foreseen"] is None else f"{100 * row['foreseen']:.0f} %"
        table.add_row(
            row["scene"],
            row["path"],
            row["place"],
            f"{row['frame_ms_p50']:.1f}",
            f"{row['frame_ms_p95']:.1f}",
            f"{row['slowdown_p95']:.2f}",
            f"{row['wait_ms_p95']:.1f}",
            f"{row['resident_wait_ms_p95']:.1f}",
            f"{100 * row['coverage_min']:.1f} %",
            f"{100 * row['complete_share']:.0f} %",
            f"{row['read_mb']:.1f}",
            f"{row['read_ratio']:.2f}",
            str(row["came_into_view"]),
            foreseen,
            verdict(row),
        )
    return table
