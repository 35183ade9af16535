"""What do frames reuse of each other?

A head at places along a path moves for a second, ninety poses of it: smooth, within five
centimetres and five degrees. Each pose is drawn without and with the caches in turn, then asked for
once more, as by a second viewer. Beside that stands what a cache of projections could bring at
best, were it to cost nothing: that share of a frame is all it could save; and what its rule would
answer (``render_cache.reuse``).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from rich.table import Table

from benchmarks.psnr import psnr_db
from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.stereo import EQUAL_DB, IPD_M, eye_distance
from benchmarks.streaming import color_of
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from render_cache.reuse import ChunkBoxes, Reuse, reuse
from rendering.base import Rasterizer, RasterSettings
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from splat.bounds import ViewVolume
from splat.camera import Camera
from splat.gaussians import Gaussians

MIN_SPEEDUP = 1.5
MIN_PSNR_DB = 45.0
RATE_HZ = 90
REACH_M = 0.05
REACH_RAD = math.radians(5.0)
CHUNK_GAUSSIANS = 1024  # as of the native engine
PLACES = 3
PICTURE_BYTES = 128 << 20  # as in the viewer's settings


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """One path through one scene.

    Attributes:
        speedup: Milliseconds of new poses without the caches over those with them.
        again: Milliseconds of a pose without the caches over those of asking for it again.
        off_ms_p50, on_ms_p50, again_ms_p50: From the asking to the answer.
        psnr_db: With the caches against without, the worst.
        same_bytes: Whether a pose that is asked for again gets the same bytes.
        projecting: Of a frame's drawing, the share that is projection.
        ceiling: What a cache of projections could bring if it cost nothing.
        exact, reproject, miss: Of the chunks in view, what the rule answers from one pose to the
            next, shares.
    """

    speedup: float
    again: float
    off_ms_p50: float
    on_ms_p50: float
    again_ms_p50: float
    psnr_db: float
    same_bytes: bool
    projecting: float
    ceiling: float
    exact: float
    reproject: float
    miss: float
    bar: float = MIN_SPEEDUP
    psnr_bar_db: float = MIN_PSNR_DB

    @property
    def passed(self) -> bool:
        """Whether new poses are quicker, near enough, and old ones exact."""
        return self.speedup >= self.bar and self.psnr_db >= self.psnr_bar_db and self.same_bytes


def head_trace(middle: Camera, metre: float) -> tuple[Camera, ...]:
    """A second of a head about a place.

    Args:
        middle: The place.
        metre: In world units.
    """
    return tuple(_posed(middle, metre, step / RATE_HZ) for step in range(RATE_HZ))


def _posed(middle: Camera, metre: float, seconds: float) -> Camera:
    phase = 2 * math.pi * seconds
    yaw, pitch = REACH_RAD * math.sin(phase), 0.5 * REACH_RAD * math.sin(2 * phase + 0.7)
    turned = np.eye(4)
    about_y = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    about_x = [
        [1, 0, 0],
        [0, math.cos(pitch), -math.sin(pitch)],
        [0, math.sin(pitch), math.cos(pitch)],
    ]
    turned[:3, :3] = np.array(about_y) @ np.array(about_x)
    way = np.array([math.sin(phase + 0.3), 0.5 * math.sin(2 * phase), math.cos(phase)])
    turned[:3, 3] = REACH_M * metre * way / math.sqrt(1.75)  # the longest way there may be
    return replace(middle, viewmat=turned @ middle.viewmat)


def run(
    subject: Subject[Rasterizer], sampling: Sampling, advance: Advance = ignore_progress
) -> Row:
    """Heads along the path, without and with caches; ``CacheFigures`` with the verdict."""
    scene, rasterizer = subject.scene.gaussians, subject.rasterizer
    settings = RasterSettings(threads=sampling.threads)
    trial, metre = _Trial(chunk_boxes(scene)), eye_distance(subject.asked) / IPD_M
    with (
        RenderEngine(rasterizer, scene) as bare,
        RenderEngine(rasterizer, scene, picture_bytes=PICTURE_BYTES) as caching,
    ):
        asking = _Asking(bare, settings), _Asking(caching, settings)
        for middle in subject.path.spread(PLACES):
            for engine in asking:
                engine.frame(middle)
            trial.follow(head_trace(middle, metre), *asking)
            advance()
    return record("cache", trial.figures(), subject.describe(), asdict(sampling))


class _Asking:
    """Timed requests of one client."""

    def __init__(self, engine: RenderEngine, settings: RasterSettings) -> None:
        self._engine, self._settings = engine, settings
        self._asked = 0

    def frame(self, camera: Camera) -> tuple[float, Frame]:
        self._asked += 1
        start = time.perf_counter()
        # As of a camera at rest: those of a moving one are not kept.
        request = FrameRequest(
            "head", self._asked, (camera,), self._settings, urgency=Urgency.STILL
        )
        frame = self._engine.submit(request).result()
        return 1e3 * (time.perf_counter() - start), frame


class _Trial:
    """What poses take, one after the other."""

    def __init__(self, boxes: ChunkBoxes) -> None:
        self._boxes = boxes
        self._off: list[float] = []
        self._on: list[float] = []
        self._again: list[float] = []
        self._psnr: list[float] = []
        self._same = True
        self._stage_ms: Counter[str] = Counter()
        self._answers: Counter[Reuse] = Counter()

    def follow(self, poses: Sequence[Camera], bare: _Asking, caching: _Asking) -> None:
        """A head's poses, each without, with, and again."""
        for number, pose in enumerate(poses):
            # Nobody always comes second, to memory that is warm.
            in_turn = (bare, caching) if number % 2 else (caching, bare)
            asked = {asking: asking.frame(pose) for asking in in_turn}
            (off_ms, plain), (on_ms, cached) = asked[bare], asked[caching]
            again_ms, again = caching.frame(pose)
            self._off.append(off_ms)
            self._on.append(on_ms)
            self._again.append(again_ms)
            truth, drawn, kept = (color_of(frame.images[0]) for frame in (plain, cached, again))
            self._psnr.append(psnr_db(drawn, truth))
            self._same &= kept.tobytes() == truth.tobytes()
            self._stage_ms.update(plain.images[0].stats.stage_ms)
        for before, now in pairwise(poses):
            boxes = self._boxes
            seen = ViewVolume.of(now).may_see(boxes.lo, boxes.hi, boxes.max_scale)
            self._answers.update(Reuse(answer) for answer in reuse(before, now, boxes)[seen])

    def figures(self) -> CacheFigures:
        """Of all poses."""
        projecting = self._stage_ms["project"] / self._stage_ms.total()
        asked = max(1, self._answers.total())
        exact, reproject, miss = (self._answers[answer] / asked for answer in Reuse)
        return CacheFigures(
            speedup=sum(self._off) / sum(self._on),
            again=sum(self._off) / sum(self._again),
            off_ms_p50=Summary.of(self._off).p50,
            on_ms_p50=Summary.of(self._on).p50,
            again_ms_p50=Summary.of(self._again).p50,
            psnr_db=min(self._psnr),
            same_bytes=self._same,
            projecting=projecting,
            ceiling=1 / (1 - projecting),
            exact=exact,
            reproject=reproject,
            miss=miss,
        )


def chunk_boxes(scene: Gaussians) -> ChunkBoxes:
    """Boxes of the runs of ``CHUNK_GAUSSIANS`` that a scene in Morton order is drawn in."""
    first = np.arange(0, len(scene), CHUNK_GAUSSIANS)
    largest = scene.scales.max(axis=1)
    return ChunkBoxes(
        np.minimum.reduceat(scene.means, first),
        np.maximum.reduceat(scene.means, first),
        np.maximum.reduceat(largest, first),
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"cache: a head's poses with caches and without, bars ≥ {MIN_SPEEDUP} times as quick, "
        f"≥ {MIN_PSNR_DB:.0f} dB, a pose that is asked for again the same bytes",
        ("scene", "path"),
        (
            "speedup",
            "again",
            "ms p50",
            "with caches",
            "PSNR dB",
            "bytes",
            "projecting",
            "at best",
            "rule: reproject",
            "bar",
        ),
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["path"],
            f"{row['speedup']:.2f}",
            f"{row['again']:.0f}",
            f"{row['off_ms_p50']:.1f}",
            f"{row['on_ms_p50']:.1f}",
            "equal" if row["psnr_db"] >= EQUAL_DB else f"{row['psnr_db']:.0f}",
            "same" if row["same_bytes"] else "OTHERS",
            f"{row['projecting']:.0%}",
            f"{row['ceiling']:.2f}",
            f"{row['reproject']:.0%}",
            verdict(row),
        )
    return table
