"""What does passing over empty space bring to radiance fields, and does streaming change a pixel?

Pictures from around a field, with empty space passed over and with every sample that its sampler
looks at evaluated. Then four of it stand in a row, and a camera goes from one to the next, with
memory for all of them and with memory for two and the stand-ins: the pictures must be the same
bytes.

Fields are files or folders that ``--scene`` names; ``benchmarks.fit_fields`` makes some. Without,
``procedural``: towers in a box that is mostly empty, as an Instant-NGP of the usual size (16 levels
of 2 features, 2^17 entries each, networks 64 wide). Its parameters are random, nobody would want to
look at it: it costs what a fitted one costs, with the occupancy and the densities of towers.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.progress import Progress
from rich.table import Table

from benchmarks.options import Options
from benchmarks.psnr import psnr_db
from benchmarks.report import Row, new_table, record, skipped, verdict
from benchmarks.scenes import SIZE, Size
from benchmarks.streaming import ample_budgets
from rendering.base import RasterImage, RasterSettings
from rendering.engine import RenderEngine
from rendering.frame import FrameRequest
from rendering.memory_shares import least_budgets
from rendering.models.field_stand_ins import make_stand_in
from rendering.models.fields import FieldRasterizer
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.ledger import Budgets
from scene_store.models import find_reader
from scene_store.models.field_bytes import block_rows
from scene_store.models.field_chunks import FieldChunks, block_of
from splat.camera import Camera
from splat.fields import (
    Contraction,
    Field,
    FieldModel,
    FieldSpace,
    GridLevel,
    HashGridEncoding,
    Network,
    OccupancySampler,
    SphericalHarmonicsEncoding,
)
from splat.networks import Activation, Mlp

PROCEDURAL = "procedural"
MIN_SPEEDUP = 5.0
MIN_PSNR_DB = 50.0
SPARSE = 0.05  # share of a field's cells up to which it counts as sparse
FIELD_SIZE = (160, 120)  # without skipping a picture of the usual size takes minutes
VIEWS = 3
COPIES = 4
WAIT_S = 60.0
STEPS = VIEWS + COPIES


@dataclass(frozen=True, slots=True)
class NerfFigures:
    """Of one field.

    Attributes:
        on_pixels_s, off_pixels_s: Drawn a second, with empty space passed over and without.
        on_samples, off_samples: Whose colours were evaluated, a pixel.
        speedup: Of the first over the others.
        psnr_db: Of the pictures against each other, the worst.
        prepare_ms: Making the field ready to be drawn, the grid of empty space included.
        occupied: Share of the field's cells that is; 1 where it says nothing.
        same_bytes: Whether streamed pictures are the resident ones; None where it has no bounds,
            so that no others can stand beside it.
        share_held: Of what all blocks take, what they were streamed in.
    """

    on_pixels_s: float
    off_pixels_s: float
    on_samples: float
    off_samples: float
    speedup: float
    psnr_db: float
    prepare_ms: float
    occupied: float
    same_bytes: bool | None
    share_held: float
    bar: float = MIN_SPEEDUP
    psnr_bar_db: float = MIN_PSNR_DB

    @property
    def passed(self) -> bool:
        """Whether pictures are right, and of sparse fields quick."""
        is_quick = self.speedup >= self.bar or self.occupied > SPARSE
        return is_quick and self.psnr_db >= self.psnr_bar_db and self.same_bytes is not False


def run(options: Options, progress: Progress) -> list[Row]:
    """``nerf`` on the procedural field, or on the files and folders that were asked for."""
    rows = []
    size = FIELD_SIZE if options.size == SIZE else options.size
    for name in options.scenes or (PROCEDURAL,):
        task = progress.add_task(f"nerf {name}", total=STEPS)
        read = reader_of(name)
        if read is None:
            rows.append(skipped("nerf", name, "", "it is no field"))
            continue
        rows.append(
            run_field(
                name,
                read,
                size,
                options.sampling.threads,
                functools.partial(progress.advance, task),
            )
        )
    return rows


def reader_of(name: str) -> Callable[[], Field] | None:
    """What reads a field by its name; None if it is none."""
    if name == PROCEDURAL:
        return procedural
    reader = find_reader(Path(name))
    if reader is None or not hasattr(reader, "read_field"):
        return None
    return functools.partial(reader.read_field, Path(name))


def run_field(
    name: str, read: Callable[[], Field], size: Size, threads: int, advance: Callable[[], None]
) -> Row:
    """All figures of one field."""
    field = read()
    cameras = views_of(field, size)
    settings = RasterSettings(background=field.background or (0.0, 0.0, 0.0), threads=threads)
    engine = NativeRasterizer()
    on, off = (
        FieldRasterizer(FieldModel((field.kind,)), engine, skips_empty=skips)
        for skips in (True, False)
    )
    rows = block_rows(block_of(field))
    start = time.perf_counter()
    scene = on.prepare(rows)
    prepare_ms = 1e3 * (time.perf_counter() - start)
    trials = [_Trial(on, scene), _Trial(off, off.prepare(rows))]
    worst = np.inf
    for camera in cameras:
        first, second = (trial.draw(camera, settings) for trial in trials)
        assert first.color is not None and second.color is not None
        worst = min(worst, psnr_db(first.color, second.color))
        advance()
    same, held = streamed(field, on, size, settings, advance)
    quick, slow = trials
    figures = NerfFigures(
        on_pixels_s=quick.pixels / quick.seconds,
        off_pixels_s=slow.pixels / slow.seconds,
        on_samples=quick.samples / quick.pixels,
        off_samples=slow.samples / slow.pixels,
        speedup=slow.seconds / quick.seconds,
        psnr_db=float(worst),
        prepare_ms=prepare_ms,
        occupied=occupied_share(field),
        same_bytes=same,
        share_held=held,
    )
    about = {"scene": name, "path": "", "kind": field.kind, "size": list(size)}
    return record("nerf", figures, about, asdict(_Made(name == PROCEDURAL)))


@dataclass(frozen=True, slots=True)
class _Made:
    """Where a field is from.

    Attributes:
        random_parameters: Whether nothing was trained.
    """

    random_parameters: bool


class _Trial:
    """Pictures by one renderer."""

    def __init__(self, rasterizer: FieldRasterizer, scene: object) -> None:
        self._rasterizer, self._scene = rasterizer, scene
        self.seconds = 0.0
        self.pixels = self.samples = 0

    def draw(self, camera: Camera, settings: RasterSettings) -> RasterImage:
        start = time.perf_counter()
        image = self._rasterizer.render(self._scene, camera, settings)
        self.seconds += time.perf_counter() - start
        self.pixels += camera.width * camera.height
        self.samples += image.stats.tile_pairs
        return image


def views_of(field: Field, size: Size) -> list[Camera]:
    """Cameras around a field, its own if it has some."""
    if field.cameras:
        step = max(1, len(field.cameras) // VIEWS)
        return [camera.resized(*size) for camera in field.cameras[::step]][:VIEWS]
    lo, hi = _bounds(field)
    middle, reach = 0.5 * (lo + hi), float(np.linalg.norm(hi - lo))
    up = field.up or (0.0, 0.0, 1.0)
    return [
        _around(middle, 0.8 * reach, 2 * np.pi * turn / VIEWS + 0.3, up, size)
        for turn in range(VIEWS)
    ]


def _around(
    middle: np.ndarray, distance: float, angle: float, up: Sequence[float], size: Size
) -> Camera:
    axis = np.asarray(up, np.float64)
    side = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.9 else [0, 1.0, 0])
    other = np.cross(axis, side)
    way = np.cos(angle) * side + np.sin(angle) * other + 0.5 * axis
    eye = middle + distance * way / np.linalg.norm(way)
    return Camera.look_at(eye, middle, up, fov_y_rad=0.8, width=size[0], height=size[1])


def _bounds(field: Field) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = field.space.lo, field.space.hi
    half = 0.25 * min(field.far - field.near, 1e3)
    return np.maximum(lo, -half), np.minimum(hi, half)


def occupied_share(field: Field) -> float:
    """Of the cells of the finest cascade."""
    if isinstance(field.sampler, OccupancySampler):
        return float(field.sampler.occupied[0].mean())
    return 1.0


# --- Streaming -----------------------------------------------------------------------------------


def streamed(
    field: Field,
    rasterizer: FieldRasterizer,
    size: Size,
    settings: RasterSettings,
    advance: Callable[[], None],
) -> tuple[bool | None, float]:
    """Whether copies that come and go are drawn as those that stay, and in what share of their
    memory."""
    side = field.space.hi - field.space.lo
    if not np.isfinite(side).all() or field.ndc is not None:
        return None, 1.0
    copies = [_moved(field, number * side[0] * np.eye(3)[0]) for number in range(COPIES)]
    reads = [functools.partial(lambda copy: copy, copy) for copy in copies]
    source = FieldChunks.of_fields("a row of fields", reads, make_stand_in=make_stand_in)
    small = (max(16, size[0] // 4), max(16, size[1] // 4))
    cameras = [_beside(copy, small) for copy in copies]
    needed = least_budgets(source, rasterizer)
    page = source.page_gaussians
    leaves = -(-source.tree.count[COPIES:].astype(np.int64) // page) * page * source.row_bytes
    tight = Budgets(needed.host_bytes, needed.device_bytes + 2 * int(leaves.max()))
    pictures = []
    for budgets in (ample_budgets(source, rasterizer), tight):
        scene = StreamedScene(source, rasterizer, budgets, StreamPolicy(fade_s=0.0))
        with RenderEngine(rasterizer, scene) as engine:
            pictures.append([_settled(engine, scene, c, settings, advance) for c in cameras])
    same = all(one == other for one, other in zip(*pictures, strict=True))
    return same, tight.device_bytes / (needed.device_bytes + int(leaves.sum()))


def _moved(field: Field, by: np.ndarray) -> Field:
    space = field.space
    matrix = space.world_to_field.copy()
    matrix[:, 3] -= matrix[:, :3] @ by
    moved = replace(space, world_to_field=matrix, lo=space.lo + by, hi=space.hi + by)
    return replace(field, space=moved, cameras=())


def _beside(field: Field, size: Size) -> Camera:
    """Sees one copy alone."""
    lo, hi = field.space.lo, field.space.hi
    middle = 0.5 * (lo + hi)
    eye = middle + np.array([0.0, -1.2 * (hi - lo)[1], 0.3 * (hi - lo)[2]])
    return Camera.look_at(eye, middle, (0, 0, 1), fov_y_rad=0.4, width=size[0], height=size[1])


def _settled(
    engine: RenderEngine,
    scene: StreamedScene,
    camera: Camera,
    settings: RasterSettings,
    advance: Callable[[], None],
) -> bytes:
    for sequence in range(20):
        request = FrameRequest("nerf", sequence, (camera,), settings)
        frame = engine.submit(request).result(WAIT_S)
        scene.wait_until_settled(WAIT_S)
        if frame.stats.stream is not None and frame.stats.stream.complete:
            break
    advance()
    color = frame.images[0].color
    assert color is not None
    return color.tobytes()


# --- The procedural field ------------------------------------------------------------------------


def procedural(seed: int = 0) -> Field:
    """Towers in a box, as an Instant-NGP with random parameters."""
    rng = np.random.default_rng(seed)
    occupied = _towers(rng, 128)
    space = FieldSpace(np.eye(3, 4), Contraction.NONE, np.zeros(3), np.ones(3))
    step = np.sqrt(3.0) / 1024  # Instant-NGP's own
    sampler = OccupancySampler(occupied[None], step, step)
    return Field("Instant-NGP", _network(rng), space, sampler, 0.0, 1e6, up=(0.0, 0.0, 1.0))


def _towers(rng: np.random.Generator, side: int) -> np.ndarray:
    """A thin ground, and 24 towers on it; their insides count, as they do where one cannot look."""
    occupied = np.zeros((side,) * 3, np.bool_)
    occupied[: side // 64] = True
    for x, y in rng.integers(8, side - 16, (24, 2)):
        wide, deep, high = rng.integers((4, 4, 12), (9, 9, side // 2))
        occupied[:high, y : y + deep, x : x + wide] = True
    return occupied


def _network(rng: np.random.Generator) -> Network:
    levels, first = [], 0
    for number in range(16):
        resolution = int(16 * 1.38**number)
        entries = min(resolution**3, 1 << 17)
        hashed = entries < resolution**3
        levels.append(GridLevel(float(resolution - 1), resolution, hashed, entries, first))
        first += entries
    table = rng.normal(0, 0.3, (first, 2)).astype(np.float16)

    def layers(*widths: int) -> list[np.ndarray]:
        pairs = pairwise(widths)
        return [rng.normal(0, np.sqrt(2 / a), (b, a)).astype(np.float32) for a, b in pairs]

    return Network(
        position=HashGridEncoding(tuple(levels), table),
        trunk=Mlp.of(layers(32, 64, 16)),
        density_head=Mlp(16),
        density_activation=Activation.EXP,
        density_bias=4.0,
        direction=SphericalHarmonicsEncoding(4),
        color_mlp=Mlp.of(layers(32, 64, 64, 3), last=Activation.SIGMOID),
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"nerf: empty space passed over against every sample evaluated, bar ≥ {MIN_SPEEDUP:.0f} "
        f"times on sparse fields at ≥ {MIN_PSNR_DB:.0f} dB; streamed the same bytes",
        ("field", "kind"),
        (
            "occupied",
            "pixels/s",
            "all evaluated",
            "speedup",
            "samples a pixel",
            "all",
            "PSNR dB",
            "prepare ms",
            "streamed",
            "in memory",
            "bar",
        ),
    )
    for row in rows:
        made = " (random parameters)" if row["random_parameters"] else ""
        same = {True: "same bytes", False: "OTHERS", None: "—"}[row["same_bytes"]]
        table.add_row(
            Path(row["scene"]).name,
            row["kind"] + made,
            f"{row['occupied']:.1%}",
            f"{row['on_pixels_s']:,.0f}",
            f"{row['off_pixels_s']:,.0f}",
            f"{row['speedup']:.1f}",
            f"{row['on_samples']:.1f}",
            f"{row['off_samples']:.1f}",
            f"{row['psnr_db']:.0f}",
            f"{row['prepare_ms']:.0f}",
            same,
            f"{row['share_held']:.0%}",
            verdict(row),
        )
    return table
