"""How true is the picture with only a share of the Gaussians?

A store is streamed with ever smaller limits of Gaussians a frame, everything resident, and its
complete pictures are compared (PSNR) with those of the whole source in memory, which is neither
reduced nor quantized. Bar, where the source brings levels of detail of its own: at least 1 dB
better than each of them with no more Gaussians. In a view from within, most of a level lies
behind the camera, and what selects by the view could spend those on what is seen; so ours get
as many as the *visible* ones of that level, those that survive its projection, of which the
chunks that ours are drawn from still waste some outside of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.psnr import psnr_db
from benchmarks.report import Row, new_table, record
from benchmarks.scenes import town_count
from benchmarks.stores import source_of
from benchmarks.streaming import StreamedEngine, ample_budgets
from benchmarks.subject import Advance, Sampling, Subject, ignore_progress
from rendering.base import PagingRasterizer, RasterSettings
from rendering.streamed_scene import StreamPolicy
from scene_store.formats import open_scene
from scene_store.loading import load_scene
from scene_store.store import is_store, open_store
from splat.camera import Camera

SHARES = (1.0, 0.10, 0.03, 0.01)
MIN_GAIN_DB = 1.0
STEPS = len(SHARES)  # that ``run`` reports; levels of the source's own come with the first

Pictures = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ShareFigures:
    """Pictures with at most a share of the scene's Gaussians, over the views of a path.

    Attributes:
        share: Of the scene's Gaussians, the most that a frame may draw.
        gaussians: Drawn, the mean; less where the view does not see them all.
        psnr_db, psnr_db_min: Against the source, the mean and the worst view.
        error_px: Largest projected error that the store declares, the mean.
    """

    share: float
    gaussians: float
    psnr_db: float
    psnr_db_min: float
    error_px: float


@dataclass(frozen=True, slots=True)
class OwnLevelFigures:
    """A level of detail that the source brings, and ours with no more Gaussians.

    Attributes:
        lod: The source's number of it.
        share: Its Gaussians, of those of the finest level.
        visible: Its Gaussians that survive projection, the mean over the views: our limits.
        gaussians: Ours, drawn, the mean.
        own_psnr_db, psnr_db: Its, and ours, the means.
        gain_db, gain_db_min: Ours less its, the mean and the worst view.
    """

    lod: int
    share: float
    visible: float
    gaussians: float
    own_psnr_db: float
    psnr_db: float
    gain_db: float
    gain_db_min: float


@dataclass(frozen=True, slots=True)
class LodFigures:
    """One path through one scene.

    Attributes:
        shares: By limit, the largest first; the first is the loss of the store's encoding.
        own_levels: Empty where the source has none.
    """

    shares: tuple[ShareFigures, ...]
    own_levels: tuple[OwnLevelFigures, ...]
    bar: float = MIN_GAIN_DB

    @property
    def passed(self) -> bool | None:
        """Whether ours are better than all of the source's levels; None if it has none."""
        if not self.own_levels:
            return None
        return all(level.gain_db >= self.bar for level in self.own_levels)


def run(
    subject: Subject[PagingRasterizer],
    store: Path,
    sampling: Sampling,
    advance: Advance = ignore_progress,
) -> Row:
    """The views of a path with every limit; ``LodFigures`` with the verdict.

    Args:
        store: Of the same scene.
        advance: Called ``STEPS`` times.
    """
    rasterizer = subject.rasterizer
    views = subject.path.spread(sampling.cameras)
    settings = RasterSettings(threads=sampling.threads)
    truth = _pictures(rasterizer, subject.prepared, views, settings)
    count = len(subject.scene.gaussians)
    source = open_store(store)
    budgets = ample_budgets(source, rasterizer)
    with StreamedEngine(source, rasterizer, budgets, StreamPolicy(count, 0.0)) as streamed:
        own_levels = _own_levels(subject, streamed, views, truth, settings)
        shares = []
        for share in SHARES:
            limits = [max(1, int(share * count))] * len(views)
            drawn = _limited(streamed, views, limits, settings)
            values = [psnr_db(d.color, t) for d, t in zip(drawn, truth, strict=True)]
            shares.append(
                ShareFigures(
                    share=share,
                    gaussians=fmean(d.gaussians for d in drawn),
                    psnr_db=fmean(values),
                    psnr_db_min=min(values),
                    error_px=fmean(d.error_px for d in drawn),
                )
            )
            advance()
    figures = LodFigures(tuple(shares), tuple(own_levels))
    return record("lod", figures, subject.describe(), asdict(sampling))


@dataclass(frozen=True, slots=True, eq=False)
class _Limited:
    color: NDArray[np.float32]
    gaussians: int
    error_px: float


def _limited(
    streamed: StreamedEngine,
    views: Sequence[Camera],
    limits: Sequence[int],
    settings: RasterSettings,
) -> list[_Limited]:
    """The complete picture of each view under its limit."""
    drawn = []
    for camera, limit in zip(views, limits, strict=True):
        streamed.scene.policy = StreamPolicy(limit, 0.0)
        frame = streamed.draw_complete(camera, settings=settings)
        stream = frame.frame.stats.stream
        assert stream is not None
        drawn.append(_Limited(frame.color, sum(stream.gaussians_by_level), stream.error_px))
    return drawn


def _own_levels(
    subject: Subject[PagingRasterizer],
    streamed: StreamedEngine,
    views: Sequence[Camera],
    truth: Pictures,
    settings: RasterSettings,
) -> list[OwnLevelFigures]:
    out = []
    counts = own_level_counts(subject.asked)
    for lod in range(1, len(counts)):
        gaussians = load_scene(source_of(subject.asked), lod=lod).gaussians
        prepared = subject.rasterizer.prepare(gaussians)
        theirs = [subject.rasterizer.render(prepared, view, settings) for view in views]
        visible = [image.stats.visible for image in theirs]
        ours = _limited(streamed, views, visible, settings)
        own_psnr = [psnr_db(_color(i), t) for i, t in zip(theirs, truth, strict=True)]
        psnr = [psnr_db(d.color, t) for d, t in zip(ours, truth, strict=True)]
        gains = [a - b for a, b in zip(psnr, own_psnr, strict=True)]
        out.append(
            OwnLevelFigures(
                lod=lod,
                share=len(gaussians) / counts[0],
                visible=fmean(visible),
                gaussians=fmean(d.gaussians for d in ours),
                own_psnr_db=fmean(own_psnr),
                psnr_db=fmean(psnr),
                gain_db=fmean(gains),
                gain_db_min=min(gains),
            )
        )
    return out


def own_level_counts(scene: str) -> tuple[int, ...]:
    """Gaussians by level of detail that a scene's source brings; empty if it brings none."""
    if town_count(scene) is not None or is_store(scene):
        return ()
    with open_scene(source_of(scene)) as source:
        return source.meta.lod_counts


def _pictures(
    rasterizer: PagingRasterizer, prepared: Any, views: Sequence[Camera], settings: RasterSettings
) -> Pictures:
    return [_color(rasterizer.render(prepared, view, settings)) for view in views]


def _color(image: Any) -> NDArray[np.float32]:
    color: NDArray[np.float32] = image.color
    return color


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        "lod: PSNR with a share of the Gaussians against all of them; bar: "
        f"≥ {MIN_GAIN_DB:.0f} dB better than the source's own level with as many in view",
        ["scene", "path", "limit"],
        ["drawn K", "PSNR dB", "worst", "the level's own", "gain dB", "worst", "bar"],
    )
    for row in rows:
        for share in row["shares"]:
            table.add_row(
                row["scene"],
                row["path"],
                f"{100 * share['share']:.0f} % of the scene",
                f"{share['gaussians'] / 1e3:.0f}",
                f"{share['psnr_db']:.1f}",
                f"{share['psnr_db_min']:.1f}",
                *("—", "—", "—", "—"),
            )
        for level in row["own_levels"]:
            table.add_row(
                row["scene"],
                row["path"],
                f"as LOD {level['lod']}, {100 * level['share']:.0f} %",
                f"{level['gaussians'] / 1e3:.0f}",
                f"{level['psnr_db']:.1f}",
                "—",
                f"{level['own_psnr_db']:.1f}",
                f"{level['gain_db']:+.1f}",
                f"{level['gain_db_min']:+.1f}",
                "reached" if level["gain_db"] >= row["bar"] else "MISSED",
            )
    return table
