"""What does the second eye cost?

Along a path, a head looks with two eyes. Each pose is asked for three ways in turn: one binocular
request, two requests of one eye each, one request of one eye. The store is all resident, and
nothing is reused between the three. Both eyes of a binocular frame see the same chunks, which are
chosen for both. All of it is done twice: with exact pictures, each the one that its eye alone would
get of these chunks, to the bit; and as the viewer draws while a head moves, when the second eye
takes over from the first what looks the same to both.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.psnr import psnr_db
from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.streaming import StreamedEngine, ample_budgets, color_of
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from render_cache.reuse import NO_REUSE
from rendering.base import PagingRasterizer, RasterSettings
from rendering.frame import Frame, FrameRequest
from rendering.streamed_scene import StreamPolicy
from scene_store.store import open_store
from splat.camera import Camera
from splat.stereo import StereoRig
from viewer.pacing import PacingPolicy

MAX_SHARE = 0.75
MIN_PSNR_DB = 45.0
EQUAL_DB = 199.0
IPD_M = 0.063
PARK_UNIT_M = 6.0
MANNERS = ("exact", "moving")


@dataclass(frozen=True, slots=True)
class StereoFigures:
    """One path through one scene, drawn in one manner.

    Attributes:
        manner: Of ``MANNERS``.
        of_two: A binocular request's milliseconds over those of two requests, the median.
        of_one: Over those of one.
        binocular_ms_p50, two_ms_p50, one_ms_p50: From the asking to the answer.
        same_bytes: Whether the first eye's picture is that of the eye alone, of the same chunks,
            and in the exact manner the second one's, too.
        psnr_db: Of the second eye's picture against the eye alone, the worst; 100 and more are
            equal.
    """

    manner: str
    of_two: float
    of_one: float
    binocular_ms_p50: float
    two_ms_p50: float
    one_ms_p50: float
    same_bytes: bool
    psnr_db: float
    bar: float = MAX_SHARE
    psnr_bar_db: float = MIN_PSNR_DB

    @property
    def passed(self) -> bool:
        """Whether the second eye is cheap, and right."""
        return self.of_two <= self.bar and self.same_bytes and self.psnr_db >= self.psnr_bar_db


def eye_distance(scene: str) -> float:
    """Of a person's eyes, in a scene's units."""
    return IPD_M / PARK_UNIT_M if scene == "park" else IPD_M


def run(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> list[Row]:
    """Views of the path, with one eye and with two; a row of ``StereoFigures`` a manner."""
    rig = StereoRig(eye_distance(subject.asked))
    source = open_store(store)
    limit = int(source.tree.count[source.tree.is_leaf].sum())
    budgets = ample_budgets(source, subject.rasterizer)
    exact = RasterSettings(threads=sampling.threads)
    settings = {"exact": exact, "moving": PacingPolicy().moving_settings(exact)}
    trials = {manner: _Trial() for manner in MANNERS}
    with StreamedEngine(source, subject.rasterizer, budgets, StreamPolicy(limit, 0.0)) as streamed:
        for middle in subject.path.spread(sampling.cameras):
            eyes = rig.eyes(middle)
            for eye in eyes:
                streamed.draw_complete(eye, settings=exact)
            for manner, trial in trials.items():
                trial.add(_Asking(streamed, settings[manner]), eyes, sampling.repeats)
            advance()
    return [
        record("stereo", trials[manner].figures(manner), subject.describe(), asdict(sampling))
        for manner in MANNERS
    ]


class _Trial:
    """What a manner of drawing takes, pose by pose."""

    def __init__(self) -> None:
        self._both: list[float] = []
        self._two: list[float] = []
        self._one: list[float] = []
        self._same = True
        self._psnr: list[float] = []

    def add(self, asking: _Asking, eyes: tuple[Camera, Camera], repeats: int) -> None:
        """One pose, asked for in turn."""
        asking.frame(*eyes)
        times: list[tuple[float, float, float]] = []
        for _ in range(repeats):
            took_both, both = asking.frame(*eyes)
            took_left, _ = asking.frame(eyes[0])
            took_right, _ = asking.frame(eyes[1])
            times.append((took_both, took_left + took_right, took_left))
        both_ms, two_ms, one_ms = np.median(times, axis=0)
        self._both.append(float(both_ms))
        self._two.append(float(two_ms))
        self._one.append(float(one_ms))
        alone = [color_of(asking.frame(eye, chosen_for=eyes)[1].images[0]) for eye in eyes]
        drawn = [color_of(image) for image in both.images]
        self._same &= drawn[0].tobytes() == alone[0].tobytes()
        if asking.is_exact:
            self._same &= drawn[1].tobytes() == alone[1].tobytes()
        self._psnr.append(psnr_db(drawn[1], alone[1]))

    def figures(self, manner: str) -> StereoFigures:
        """Of all poses."""
        return StereoFigures(
            manner=manner,
            of_two=float(np.median(np.divide(self._both, self._two))),
            of_one=float(np.median(np.divide(self._both, self._one))),
            binocular_ms_p50=Summary.of(self._both).p50,
            two_ms_p50=Summary.of(self._two).p50,
            one_ms_p50=Summary.of(self._one).p50,
            same_bytes=self._same,
            psnr_db=min(self._psnr),
        )


class _Asking:
    """Timed requests of one client."""

    _numbers = itertools.count(1_000_000_000)  # after those of ``StreamedEngine.draw``

    def __init__(self, streamed: StreamedEngine, settings: RasterSettings) -> None:
        self._streamed, self._settings = streamed, settings
        self.is_exact = settings.reuse == NO_REUSE

    def frame(self, *cameras: Camera, chosen_for: tuple[Camera, ...] = ()) -> tuple[float, Frame]:
        number = next(self._numbers)
        request = FrameRequest("head", number, cameras, self._settings, frozen=chosen_for)
        start = time.perf_counter()
        frame = self._streamed.engine.submit(request).result()
        return 1e3 * (time.perf_counter() - start), frame


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"stereo: a binocular request against two of one eye, bars ≤ {MAX_SHARE} times, the first "
        f"eye (and the second of exact pictures) the same bytes, the second ≥ {MIN_PSNR_DB:.0f} dB",
        ("scene", "path", "manner"),
        ("of two", "of one", "binocular ms p50", "two ms", "one ms", "bytes", "PSNR dB", "bar"),
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["path"],
            row["manner"],
            f"{row['of_two']:.2f}",
            f"{row['of_one']:.2f}",
            f"{row['binocular_ms_p50']:.1f}",
            f"{row['two_ms_p50']:.1f}",
            f"{row['one_ms_p50']:.1f}",
            "same" if row["same_bytes"] else "OTHERS",
            "equal" if row["psnr_db"] >= EQUAL_DB else f"{row['psnr_db']:.0f}",
            verdict(row),
        )
    return table
