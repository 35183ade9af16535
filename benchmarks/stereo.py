"""What does the second eye cost?

Along a path, a head looks with two eyes. Each pose is asked for three ways in turn: one binocular
request, two requests of one eye each, one request of one eye. The store is all resident, and
nothing is reused between the three. Both eyes of a binocular frame see the same chunks, which are
chosen for both; each picture must be the one that its eye alone would get of these, to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.streaming import StreamedEngine, ample_budgets
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from rendering.base import PagingRasterizer, RasterSettings
from rendering.frame import Frame, FrameRequest
from rendering.streamed_scene import StreamPolicy
from scene_store.store import open_store
from splat.camera import Camera
from splat.stereo import StereoRig

MAX_SHARE = 0.75
IPD_M = 0.063
PARK_UNIT_M = 6.0


@dataclass(frozen=True, slots=True)
class StereoFigures:
    """One path through one scene.

    Attributes:
        of_two: A binocular request's milliseconds over those of two requests, the median.
        of_one: Over those of one.
        binocular_ms_p50, two_ms_p50, one_ms_p50: From the asking to the answer.
        same_bytes: Whether both pictures are those of the eyes alone, of the same chunks.
    """

    of_two: float
    of_one: float
    binocular_ms_p50: float
    two_ms_p50: float
    one_ms_p50: float
    same_bytes: bool
    bar: float = MAX_SHARE

    @property
    def passed(self) -> bool:
        """Whether the second eye is cheap, and right."""
        return self.of_two <= self.bar and self.same_bytes


def eye_distance(scene: str) -> float:
    """Of a person's eyes, in a scene's units."""
    return IPD_M / PARK_UNIT_M if scene == "park" else IPD_M


def run(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> Row:
    """Views of the path, with one eye and with two; ``StereoFigures`` with the verdict."""
    rig = StereoRig(eye_distance(subject.asked))
    settings = RasterSettings(threads=sampling.threads)
    source = open_store(store)
    limit = int(source.tree.count[source.tree.is_leaf].sum())
    budgets = ample_budgets(source, subject.rasterizer)
    both_ms: list[float] = []
    two_ms: list[float] = []
    one_ms: list[float] = []
    same = True
    with StreamedEngine(source, subject.rasterizer, budgets, StreamPolicy(limit, 0.0)) as streamed:
        asking = _Asking(streamed, settings)
        for middle in subject.path.spread(sampling.cameras):
            left, right = rig.eyes(middle)
            for eye in (left, right):
                streamed.draw_complete(eye, settings=settings)
            asking.frame(left, right)
            best: tuple[list[float], ...] = ([], [], [])
            for _ in range(sampling.repeats):
                took_both, both = asking.frame(left, right)
                took_left, _ = asking.frame(left)
                took_right, _ = asking.frame(right)
                best[0].append(took_both)
                best[1].append(took_left + took_right)
                best[2].append(took_left)
            for ms, times in zip((both_ms, two_ms, one_ms), best, strict=True):
                ms.append(float(np.median(times)))
            pair = (left, right)
            same &= _same(both, [asking.frame(eye, chosen_for=pair)[1] for eye in pair])
            advance()
    figures = StereoFigures(
        of_two=float(np.median(np.divide(both_ms, two_ms))),
        of_one=float(np.median(np.divide(both_ms, one_ms))),
        binocular_ms_p50=Summary.of(both_ms).p50,
        two_ms_p50=Summary.of(two_ms).p50,
        one_ms_p50=Summary.of(one_ms).p50,
        same_bytes=same,
    )
    return record("stereo", figures, subject.describe(), asdict(sampling))


class _Asking:
    """Timed requests of one client."""

    def __init__(self, streamed: StreamedEngine, settings: RasterSettings) -> None:
        self._streamed, self._settings = streamed, settings
        self._asked = 1_000_000_000  # after those of ``StreamedEngine.draw``

    def frame(self, *cameras: Camera, chosen_for: tuple[Camera, ...] = ()) -> tuple[float, Frame]:
        self._asked += 1
        request = FrameRequest("head", self._asked, cameras, self._settings, frozen=chosen_for)
        start = time.perf_counter()
        frame = self._streamed.engine.submit(request).result()
        return 1e3 * (time.perf_counter() - start), frame


def _same(both: Frame, alone: Sequence[Frame]) -> bool:
    """Whether a binocular frame's pictures are those of its eyes alone."""
    return all(
        eye.color is not None
        and one.images[0].color is not None
        and eye.color.tobytes() == one.images[0].color.tobytes()
        for eye, one in zip(both.images, alone, strict=True)
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        "stereo: a binocular request against two of one eye, bar ≤ 0.75 times, same bytes",
        ("scene", "path"),
        ("of two", "of one", "binocular ms p50", "two ms", "one ms", "same bytes", "bar"),
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["path"],
            f"{row['of_two']:.2f}",
            f"{row['of_one']:.2f}",
            f"{row['binocular_ms_p50']:.1f}",
            f"{row['two_ms_p50']:.1f}",
            f"{row['one_ms_p50']:.1f}",
            "yes" if row["same_bytes"] else "NO",
            verdict(row),
        )
    return table
