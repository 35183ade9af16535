"""How near does compositing come to the machine's own limit?

A pair of a pixel and a Gaussian is *useful* if it changes the picture: its alpha is at least
1/255 and the pixel's transmittance is still above 1e-4 (``Outputs.COUNT`` counts them). The
figure is useful pairs per second of compositing, divided by the pairs per second that the
same blending arithmetic reaches on splats that stay in L1 and cover every pixel of their
block, on as many threads. Whatever compositing does besides, such as fetching splats from
memory, finding the blocks that they touch, and blending lanes that turn out transparent or
saturated, lowers it.

Machines are noisy, so windows of the limit as long as a frame's compositing are measured
between the frames, and the best frame is set against the best window: both are what the
machine does when it is least disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from rich.table import Table

from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from rendering.base import Outputs, RasterImage, Rasterizer, RasterSettings
from splat.camera import Camera

MIN_RATIO = 0.30
TRIAL_REPEATS = 1_000  # of the limit's loop: a millisecond or two, to learn its pace
MAX_REPEATS = 1_000_000


class CalibratedRasterizer(Rasterizer, Protocol):
    """A rasterizer that knows the limit of its own arithmetic."""

    instruction_set: str

    def pairs_per_second_limit(self, *, threads: int = 0, repeats: int = ...) -> float:
        """(pixel, Gaussian) pairs a second that the blending arithmetic alone allows."""


@dataclass(frozen=True, slots=True)
class CameraResult:
    """Compositing of one view.

    Attributes:
        useful_pairs: (pixel, Gaussian) pairs that change the picture.
        tile_pairs: (Gaussian, tile) pairs that compositing was given.
        composite_ms: Of each repeat, averaged over the threads.
        limit_pairs_per_s: Best of the windows around the repeats.
    """

    useful_pairs: int
    tile_pairs: int
    composite_ms: tuple[float, ...]
    limit_pairs_per_s: float

    @property
    def pairs_per_s(self) -> float:
        """Useful pairs a second in the best repeat."""
        return self.useful_pairs / (1e-3 * min(self.composite_ms))

    @property
    def ratio(self) -> float:
        """Share of the limit that was reached."""
        return self.pairs_per_s / self.limit_pairs_per_s


@dataclass(frozen=True, slots=True)
class RasterFigures:
    """One path through one scene; medians are over its cameras.

    Attributes:
        ratio_p50, ratio_min, ratio_max: Useful pairs a second over the limit.
        pairs_per_frame: Useful pairs.
        pairs_per_tile_pair: Useful pairs for each (Gaussian, tile) pair: how many pixels the
            cost of bringing a splat to a tile is spread over. Where Gaussians are smaller
            than a pixel it is near 1, and no way of blending helps.
        composite_ms_p50, composite_ms_p95: Of all frames, noise included.
    """

    instruction_set: str
    ratio_p50: float
    ratio_min: float
    ratio_max: float
    limit_gpairs_per_s: float
    gpairs_per_s: float
    pairs_per_frame: float
    pairs_per_tile_pair: float
    composite_ms_p50: float
    composite_ms_p95: float
    bar: float = MIN_RATIO

    @property
    def passed(self) -> bool:
        """Whether the median camera reaches the bar."""
        return self.ratio_p50 >= self.bar


def run(
    subject: Subject[CalibratedRasterizer],
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> Row:
    """Measure views of a path; ``RasterFigures`` with the verdict.

    Args:
        advance: Called after each camera.
    """
    results = []
    for camera in subject.path.spread(sampling.cameras):
        results.append(_measure(subject, camera, sampling))
        advance()
    figures = figures_of(results, subject.rasterizer.instruction_set)
    return record("raster", figures, subject.describe(), asdict(sampling))


def _measure(
    subject: Subject[CalibratedRasterizer], camera: Camera, sampling: Sampling
) -> CameraResult:
    rasterizer, threads = subject.rasterizer, sampling.threads

    def draw(outputs: Outputs) -> RasterImage:
        settings = RasterSettings(outputs=outputs, threads=threads)
        return rasterizer.render(subject.prepared, camera, settings)

    counted = draw(Outputs.COUNT)
    assert counted.count is not None
    warm = draw(Outputs.COLOR)
    window = _window_repeats(rasterizer, threads, warm.stats.stage_ms["composite"])

    def limit() -> float:
        return rasterizer.pairs_per_second_limit(threads=threads, repeats=window)

    limits, composite_ms = [limit()], []
    for _ in range(sampling.repeats):
        composite_ms.append(draw(Outputs.COLOR).stats.stage_ms["composite"])
        limits.append(limit())
    return CameraResult(
        useful_pairs=int(counted.count.sum(dtype="int64")),
        tile_pairs=counted.stats.tile_pairs,
        composite_ms=tuple(composite_ms),
        limit_pairs_per_s=max(limits),
    )


def _window_repeats(rasterizer: CalibratedRasterizer, threads: int, window_ms: float) -> int:
    """How often the limit's loop must run to take about ``window_ms``."""
    rasterizer.pairs_per_second_limit(threads=threads, repeats=TRIAL_REPEATS)  # wakes the threads
    start = time.perf_counter()
    rasterizer.pairs_per_second_limit(threads=threads, repeats=TRIAL_REPEATS)
    trial_ms = 1e3 * (time.perf_counter() - start)
    return max(TRIAL_REPEATS, min(round(TRIAL_REPEATS * window_ms / trial_ms), MAX_REPEATS))


def figures_of(results: Sequence[CameraResult], instruction_set: str) -> RasterFigures:
    """At least one camera in figures."""
    ratios = Summary.of([result.ratio for result in results])
    composite_ms = Summary.of([ms for result in results for ms in result.composite_ms])
    per_tile_pair = [result.useful_pairs / max(1, result.tile_pairs) for result in results]
    return RasterFigures(
        instruction_set=instruction_set,
        ratio_p50=ratios.p50,
        ratio_min=ratios.low,
        ratio_max=ratios.high,
        limit_gpairs_per_s=1e-9 * Summary.of([r.limit_pairs_per_s for r in results]).p50,
        gpairs_per_s=1e-9 * Summary.of([r.pairs_per_s for r in results]).p50,
        pairs_per_frame=Summary.of([r.useful_pairs for r in results]).p50,
        pairs_per_tile_pair=Summary.of(per_tile_pair).p50,
        composite_ms_p50=composite_ms.p50,
        composite_ms_p95=composite_ms.p95,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"raster: useful pairs a second over the machine's limit, bar ≥ {MIN_RATIO:.2f}",
        ["scene", "path"],
        [
            "of the limit",
            "worst … best camera",
            "G pairs/s",
            "limit G pairs/s",
            "M pairs a frame",
            "a tile pair",
            "composite ms p50",
            "p95",
            "bar",
        ],
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["path"],
            f"{row['ratio_p50']:.3f}",
            f"{row['ratio_min']:.3f} … {row['ratio_max']:.3f}",
            f"{row['gpairs_per_s']:.2f}",
            f"{row['limit_gpairs_per_s']:.2f}",
            f"{1e-6 * row['pairs_per_frame']:.1f}",
            f"{row['pairs_per_tile_pair']:.1f}",
            f"{row['composite_ms_p50']:.1f}",
            f"{row['composite_ms_p95']:.1f}",
            verdict(row),
        )
    return table
