"""What does reusing decoded anchors bring?

Somebody walks through a scene of neural anchors (Scaffold-GS, Octree-GS), thirty frames a second,
all of it resident. Every pose is drawn in turn by engines that decode all that is seen, that may
reuse what was decoded for the very same point alone (cache depth 0), and that reuse as much as a
cache depth of 8 allows. Beside that stands what the equations take in float64, a numpy operation
after the other: the decoder that others are held to.

A town is fitted for it, for a minute or so (``benchmarks.fitting.anchor_fit``); other scenes are
folders as Scaffold-GS and Octree-GS write them.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from benchmarks.options import Options
from benchmarks.psnr import psnr_db
from benchmarks.report import Row, Summary, new_table, record, verdict
from benchmarks.scenes import CameraPath, Size, start_paths, town_count, town_paths
from benchmarks.streaming import StreamedEngine, ample_budgets, color_of
from benchmarks.subject import Advance, Sampling
from render_cache.derived_rule import DerivedLimits
from rendering.base import RasterSettings
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.models.anchor_pages import page_of
from rendering.models.anchors import AnchorRasterizer, anchor_rasterizer
from rendering.models.anchors_native import NativeDecoder
from rendering.models.anchors_reference import decode_anchors
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamPolicy
from scene_store.chunks import ChunkSource
from scene_store.models import is_model, open_model
from scene_store.statistics import likely_up
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.errors import SettingsError
from splat.gaussians import Gaussians
from splat.rows import Rows
from viewer.start_view import choose_start_view

MIN_SPEEDUP = 4.0
MIN_PSNR_DB = 38.0
DEPTH = 8
RATE_HZ = 30.0
PACE_MPS = 1.5  # of somebody who walks
FRAMES = 60
WARM_FRAMES = 2 * (DEPTH + 1)  # until pages take turns
SCENES = ("town-4M",)  # some hundred thousand Gaussians of it
FIT_STEPS = 200
HALF_SIDE = 50.0  # metres, of the piece of the town
EVERYTHING = 100_000_000  # Gaussians of a frame: no limit

OFF = DerivedLimits(depth=0, budget_bytes=0)
EXACT = DerivedLimits(depth=0)
DEEP = DerivedLimits(depth=DEPTH)


@dataclass(frozen=True, slots=True)
class DerivedFigures:
    """One walk through one scene.

    Attributes:
        decode_speedup: Decoding (what is seen, culled, decoded and packed) without the cache over
            that with it.
        frame_speedup: The same of whole frames.
        off_decode_ms, on_decode_ms, off_frame_ms, on_frame_ms: Medians.
        worst_decode_ms: With the cache, the 95th percentile.
        psnr_db: With the cache against without, the worst.
        same_bytes: Whether depth 0 gives the same bytes as no cache.
        hits: Of the pages in view, the share that was not decoded.
        anchors_per_s: That the native decoder decodes, by the thread.
        reference_anchors_per_s: That the equations do in float64, in numpy on a thread.
    """

    decode_speedup: float
    frame_speedup: float
    off_decode_ms: float
    on_decode_ms: float
    off_frame_ms: float
    on_frame_ms: float
    worst_decode_ms: float
    psnr_db: float
    same_bytes: bool
    hits: float
    anchors_per_s: float
    reference_anchors_per_s: float
    bar: float = MIN_SPEEDUP
    psnr_bar_db: float = MIN_PSNR_DB

    @property
    def passed(self) -> bool:
        """Whether decoding is quicker, pictures near enough, and exact ones exact."""
        return (
            self.decode_speedup >= self.bar and self.psnr_db >= self.psnr_bar_db and self.same_bytes
        )


def run(options: Options, folder: Path, progress: Progress) -> list[Row]:
    """A walk through each scene; ``DerivedFigures`` with the verdict.

    Args:
        folder: Where fitted scenes stay.

    Raises:
        SceneError: If a scene cannot be read.
        SettingsError: If it is none of anchors.
    """
    scenes = options.scenes or SCENES
    task = progress.add_task("derived", total=FRAMES * len(scenes))
    advance = partial(progress.advance, task)
    return [run_scene(name, folder, options.size, options.sampling, advance) for name in scenes]


def run_scene(name: str, folder: Path, size: Size, sampling: Sampling, advance: Advance) -> Row:
    """A walk through a scene."""
    is_town = town_count(name) is not None
    path = fitted_town(name, folder) if is_town else Path(name)
    model = _model_of(path)
    walk = at_walking_pace(town_paths(size)[1] if is_town else _path_of(path, size))
    figures = _measured(path, model, walk, RasterSettings(threads=sampling.threads), advance)
    about = {
        "scene": name if is_town else path.name,
        "model": model.name,
        "path": walk.name,
        "width": size[0],
        "height": size[1],
        "depth": DEPTH,
    }
    return record("derived", figures, about, asdict(sampling))


def at_walking_pace(path: CameraPath) -> CameraPath:
    """The first seconds of a path, at the pace of somebody who walks; a unit is a metre."""
    first, last = path.cameras[0], path.cameras[-1]
    way = last.position - first.position
    step = way / np.linalg.norm(way) * (PACE_MPS / RATE_HZ)
    return CameraPath(path.name, tuple(_moved(first, number * step) for number in range(FRAMES)))


def _moved(camera: Camera, way: NDArray[np.float64]) -> Camera:
    viewmat = camera.viewmat.copy()
    viewmat[:3, 3] -= viewmat[:3, :3] @ way
    return replace(camera, viewmat=viewmat)


def fitted_town(name: str, folder: Path) -> Path:
    """The folder of a Scaffold-GS model of a piece of a town, fitted if it is not there."""
    from benchmarks.fit_anchors import (  # loads torch
        TRAINED,
        VOXEL_SIZE,
        centers_of,
        config_of,
        town_piece,
        views_around,
    )
    from benchmarks.fitting.anchor_files import write_folder
    from benchmarks.fitting.anchor_fit import FitSettings, fit_anchors

    count = town_count(name)
    assert count is not None
    path = folder / f"{name}-scaffold"
    if is_model(path):
        return path
    trained = views_around(HALF_SIDE, TRAINED)
    piece = town_piece(count, HALF_SIDE)
    settings = FitSettings(steps=FIT_STEPS)
    net = fit_anchors(piece, config_of("scaffold"), centers_of(trained), VOXEL_SIZE, settings)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        write_folder(net, Path(unfinished) / "model", iteration=FIT_STEPS, cameras=trained)
        (Path(unfinished) / "model").rename(path)
    return path


def _model_of(path: Path) -> AnchorModel:
    source = open_model(path) if is_model(path) else None
    model = None if source is None else source.model
    if source is not None:
        source.close()
    if not isinstance(model, AnchorModel):
        raise SettingsError(
            f"scene '{path}' is none of neural anchors, nor a town-N to fit some to"
        )
    return model


def _path_of(path: Path, size: Size) -> CameraPath:
    """From what the viewer first shows, towards it."""
    source = open_model(path)
    try:
        overview = source.overview()
        up = likely_up(source.meta, overview)
        start = choose_start_view(overview, up=up, cameras=source.meta.cameras)
    finally:
        source.close()
    return start_paths(start, size)[1]


class _Walker:
    """An engine that draws the walk, all of the scene resident."""

    def __init__(
        self, path: Path, model: AnchorModel, limits: DerivedLimits, first: Camera
    ) -> None:
        self.rasterizer: AnchorRasterizer = anchor_rasterizer(
            model, NativeRasterizer(), limits=limits
        )
        source: ChunkSource = open_model(path)
        budgets = ample_budgets(source, self.rasterizer)
        policy = StreamPolicy(max_gaussians=EVERYTHING, fade_s=0.0)
        self.streamed = StreamedEngine(source, self.rasterizer, budgets, policy)
        self.streamed.draw_complete(first)
        self._sequence = 1_000_000

    def draw(self, camera: Camera, settings: RasterSettings) -> tuple[float, Frame]:
        """A frame of a camera in motion, of which every measure is taken to hold its rate."""
        self._sequence += 1
        request = FrameRequest(
            "walker", self._sequence, (camera,), settings, urgency=Urgency.MOVING, rate_hz=1e6
        )
        start = time.perf_counter()
        frame = self.streamed.engine.submit(request).result()
        return 1e3 * (time.perf_counter() - start), frame


@dataclass(slots=True)
class _Times:
    """Of an engine's frames, milliseconds."""

    frame: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


def _measured(
    path: Path,
    model: AnchorModel,
    walk: CameraPath,
    settings: RasterSettings,
    advance: Advance,
) -> DerivedFigures:
    times = {"off": _Times(), "exact": _Times(), "deep": _Times()}
    psnr, same, hits, asked = math.inf, True, 0, 0
    with ExitStack() as engines:
        walkers = {}
        for name, limits in (("off", OFF), ("exact", EXACT), ("deep", DEEP)):
            walkers[name] = _Walker(path, model, limits, walk.cameras[0])
            engines.enter_context(walkers[name].streamed)
        for number, camera in enumerate(walk.cameras):
            colors = {}
            before = walkers["deep"].rasterizer.cache_stats()
            # Nobody always comes second, to memory that is warm.
            for name in tuple(walkers)[:: 1 if number % 2 else -1]:
                took_ms, frame = walkers[name].draw(camera, settings)
                colors[name] = color_of(frame.images[0])
                if number >= WARM_FRAMES:
                    times[name].frame.append(took_ms)
                    times[name].decode.append(frame.images[0].stats.stage_ms["decode"])
            same &= colors["exact"].tobytes() == colors["off"].tobytes()
            psnr = min(psnr, psnr_db(colors["deep"], colors["off"]))
            if number >= WARM_FRAMES:
                after = walkers["deep"].rasterizer.cache_stats()
                hits += after.hits - before.hits
                asked += after.hits + after.misses - before.hits - before.misses
            advance()
    off, deep = times["off"], times["deep"]
    native, reference = _decoders(path, model, walk.cameras[0])
    return DerivedFigures(
        decode_speedup=sum(off.decode) / sum(deep.decode),
        frame_speedup=sum(off.frame) / sum(deep.frame),
        off_decode_ms=Summary.of(off.decode).p50,
        on_decode_ms=Summary.of(deep.decode).p50,
        off_frame_ms=Summary.of(off.frame).p50,
        on_frame_ms=Summary.of(deep.frame).p50,
        worst_decode_ms=Summary.of(deep.decode).p95,
        psnr_db=psnr,
        same_bytes=same,
        hits=hits / max(1, asked),
        anchors_per_s=native,
        reference_anchors_per_s=reference,
    )


def _decoders(path: Path, model: AnchorModel, camera: Camera) -> tuple[float, float]:
    """Anchors a second of the native decoder and of the reference, on the scene's first chunk of
    the finest level."""
    source = open_model(path)
    try:
        finest = int(np.flatnonzero(source.tree.level == source.tree.level.min())[0])
        encoded = source.read(finest)
        assert encoded is not None
        rows = source.decode(finest, encoded)
    finally:
        source.close()
    assert isinstance(rows, Rows)
    rows = rows[: source.page_gaussians]
    page, decoder = page_of(rows.data, model.layout), NativeDecoder(model)
    out = Gaussians.allocate(len(rows) * model.layout.offsets, 0)
    center = camera.position
    native = _best_s(lambda: decoder.decode(page, None, center, 0.0, out), 20)
    reference = _best_s(lambda: decode_anchors(model, rows, center), 3)
    return len(rows) / native, len(rows) / reference


def _best_s(work: Callable[[], object], repeats: int) -> float:
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"derived: a walk with decoded anchors reused (depth {DEPTH}) and without, bars ≥ "
        f"{MIN_SPEEDUP:.0f} times as quick to decode, ≥ {MIN_PSNR_DB:.0f} dB, depth 0 the same "
        "bytes",
        ("scene", "model"),
        (
            "decode ms p50",
            "reused",
            "p95",
            "speedup",
            "frame ms p50",
            "reused",
            "speedup",
            "hits",
            "PSNR dB",
            "depth 0",
            "native anchors/s",
            "reference",
            "bar",
        ),
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["model"],
            f"{row['off_decode_ms']:.1f}",
            f"{row['on_decode_ms']:.1f}",
            f"{row['worst_decode_ms']:.1f}",
            f"{row['decode_speedup']:.1f}",
            f"{row['off_frame_ms']:.0f}",
            f"{row['on_frame_ms']:.0f}",
            f"{row['frame_speedup']:.2f}",
            f"{row['hits']:.0%}",
            f"{row['psnr_db']:.1f}",
            "same" if row["same_bytes"] else "OTHERS",
            f"{row['anchors_per_s'] / 1e6:.1f} M",
            f"{row['reference_anchors_per_s'] / 1e6:.3f} M",
            verdict(row),
        )
    return table
