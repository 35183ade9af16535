"""Does every format show the same picture? Each real scene against its siblings.

A scene that is there in several encodings (or in several levels of detail) is exported
from one place by the code of ``belvedere export``, and the written pictures are compared
with that of one of them, the reference. So the PSNR says what the encoding lost, and a
reader that mixes up axes, harmonics or ranges falls far below its floor. A scene without
a sibling only has to load and to show something.

The list below is also the case list of ``tests/formats/test_pictures.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.report import Row, new_table, skipped, verdict
from benchmarks.scenes import data_folder
from configs.settings import RenderSettings
from scene_store.loading import load_scene
from scene_store.scene import Scene, Vector3
from splat.errors import OutputError
from viewer.export import CameraChoice, Targets, export
from viewer.scenes import SceneChoice

Pixels = NDArray[np.uint8]

SIZE = (640, 360)
LOADS = 3  # of which the fastest counts
PSNR_OF_EQUAL_DB = 200.0  # reported where two pictures have the same bytes
# Of the distance to what is looked at. The exporter's own default follows the scene's
# radius, which no two encodings share to the last bit.
NEAR_RATIO = 0.01
MIN_COVERAGE = 0.02  # a picture that shows less shows nothing


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scene is looked at from, in the axes of its file."""

    position: Vector3
    target: Vector3
    fov_x_deg: float
    up: Vector3 = (0.0, -1.0, 0.0)

    def turned(self) -> Place:
        """The same place in axes turned by 180° about x (RDF to RUB and back)."""
        position, target, up = (
            (x, -y, -z) for x, y, z in (self.position, self.target, self.up)
        )
        return Place(position, target, self.fov_x_deg, up)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One file (or level of detail) of a scene.

    Attributes:
        path: Within the folder of real scenes.
        floor_db: PSNR against the scene's reference that it must reach; None for the
            reference itself.
        lod: Level of detail; None for formats that have one.
        turned: Whether its axes are turned against the reference's (``Place.turned``).
    """

    path: str
    floor_db: float | None = None
    lod: int | None = None
    turned: bool = False

    @property
    def title(self) -> str:
        """Short and unique."""
        return self.path if self.lod is None else f"{self.path} LOD {self.lod}"


@dataclass(frozen=True, slots=True)
class Family:
    """One scene in all its encodings, the reference first."""

    name: str
    place: Place
    encodings: tuple[Encoding, ...]

    @property
    def reference(self) -> Encoding:
        """What the others are compared with."""
        return self.encodings[0]


COAST = Place((0.0, -0.7, 0.0), (2.0, -0.7, 1.0), 75.0)

FAMILIES = (
    Family(
        "coast",
        COAST,
        (
            Encoding("encodings/coast.ply"),
            Encoding("encodings/coast.compressed.ply", 0.0),
            Encoding("encodings/coast.sog", 0.0),
            Encoding("encodings/coast.spzjs.spz", 0.0),
            Encoding("encodings/coast.v3.spz", 0.0, turned=True),
            Encoding("encodings/coast.v4.spz", 0.0, turned=True),
            Encoding("encodings/coast.c1.ksplat", 0.0),
            Encoding("encodings/coast.c2.ksplat", 0.0),
        ),
    ),
    Family(
        "biker",
        Place((1.876, -2.659, 1.657), (-0.084, -1.515, 0.023), 55.0),
        (Encoding("biker.compressed.ply"), Encoding("biker.spz", 0.0, turned=True)),
    ),
    Family(
        "minimal",
        Place((1.5, -1.5, -3.5), (-0.5, 0.0, -0.5), 55.0),
        (
            Encoding("fixtures/minimal.splat"),
            Encoding("fixtures/minimal.ksplat", 0.0),
            Encoding("fixtures/minimal-raw.spz", 0.0),
            Encoding("fixtures/minimal-v2.spz", 0.0),
            Encoding("fixtures/minimal-v3.spz", 0.0, turned=True),
            Encoding("fixtures/minimal-v4.spz", 0.0, turned=True),
        ),
    ),
    Family(
        "playbot",
        Place((1.787, -1.419, 1.49), (0.0, -0.375, 0.0), 55.0),
        tuple(Encoding("playbot", 0.0 if lod else None, lod) for lod in range(7)),
    ),
    Family(
        "park",
        Place((24.0, -14.0, 16.0), (0.0, 0.0, -2.0), 70.0),
        tuple(Encoding("park", 0.0 if lod else None, lod) for lod in range(5)),
    ),
    Family(
        "logo",
        Place((2.55, -2.757, 2.137), (-0.011, -1.264, 0.003), 55.0),
        (Encoding("logo_sog1"),),
    ),
    Family("coast_near", COAST, (Encoding("coast_near"),)),
    Family("coast_far", COAST, (Encoding("coast_far"),)),
    Family(
        "truck",
        Place((2.15, -1.039, 1.66), (0.285, 0.048, 0.106), 55.0),
        (Encoding("truck.splat"),),
    ),
    Family(
        "fruit",
        Place((1.065, -0.07, -1.853), (0.751, 0.113, -2.114), 55.0),
        (Encoding("fruit_drops_minimal.ply"),),
    ),
)


@dataclass(frozen=True, slots=True)
class FormatRow:
    """One encoding, loaded and exported.

    Attributes:
        scene, file, format: The family, the file (and level), the format's name.
        bytes_per_gaussian: On disk; None for a level of detail of a whole set.
        load_ms: From the path to Gaussians in memory, sorted; the fastest of a few.
        coverage: Mean opacity of the picture.
        reference: File compared with, None if there is none.
        psnr_db, mean_error: Of the exported 8-bit picture against the reference's; the
            error in units of the colour range [0, 1].
        floor_db: What ``psnr_db`` must reach.
    """

    scene: str
    file: str
    format: str
    gaussians: int
    sh_degree: int
    bytes_per_gaussian: float | None
    load_ms: float
    coverage: float
    reference: str | None
    psnr_db: float | None
    mean_error: float | None
    floor_db: float | None

    @property
    def passed(self) -> bool:
        """Whether it shows something, and what its reference shows."""
        same = self.psnr_db is None or self.psnr_db >= (self.floor_db or 0.0)
        return same and self.coverage >= MIN_COVERAGE


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What ``belvedere export`` wrote: [H, W, 3] RGB, and the mean opacity behind it."""

    pixels: Pixels
    coverage: float


def run(
    families: Sequence[Family] = FAMILIES,
    *,
    size: tuple[int, int] = SIZE,
    loads: int = LOADS,
    pictures: Path | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Load and export every encoding; one row each.

    Args:
        families: What to compare.
        size: Of the pictures (width, height).
        loads: How often each is loaded; the fastest counts.
        pictures: Folder in which to leave the pictures; None for nowhere.
        progress: Shows how far it is.

    Returns:
        The fields of ``FormatRow``, with ``benchmark`` and ``passed``; for a family that
        is not there, one row with ``skipped``.

    Raises:
        SceneError: If a file that is there cannot be read.
        OutputError: If the pictures cannot be written.
    """
    total = sum(len(family.encodings) for family in families)
    task = progress.add_task("formats", total=total) if progress else None
    rows: list[Row] = []
    for family in families:
        if not (data_folder() / family.reference.path).exists():
            reason = "set BELVEDERE_DATA to the folder of real scenes"
            rows.append(skipped("formats", family.name, family.reference.path, reason))
            continue
        for row in _compare_family(family, size, loads, pictures):
            rows.append({"benchmark": "formats", **asdict(row), "passed": row.passed})
            if progress is not None and task is not None:
                progress.update(task, advance=1, description=f"formats {row.file}")
    return rows


def _compare_family(
    family: Family, size: tuple[int, int], loads: int, pictures: Path | None
) -> Iterator[FormatRow]:
    truth: Picture | None = None
    for encoding in family.encodings:
        path = data_folder() / encoding.path
        load_ms, scene = timed_load(path, encoding.lod, loads)
        meta, count = scene.meta, len(scene.gaussians)
        del scene  # the exporter reads it again: never two of them in memory
        picture = export_picture(path, encoding, family.place, size, pictures)
        compared = truth is not None
        yield FormatRow(
            scene=family.name,
            file=encoding.title,
            format=meta.format_name,
            gaussians=count,
            sh_degree=meta.sh_degree,
            bytes_per_gaussian=None if encoding.lod is not None else size_on_disk(path) / count,
            load_ms=load_ms,
            coverage=picture.coverage,
            reference=family.reference.title if compared else None,
            psnr_db=psnr_db(picture.pixels, truth.pixels) if truth else None,
            mean_error=mean_error(picture.pixels, truth.pixels) if truth else None,
            floor_db=encoding.floor_db,
        )
        truth = truth or picture


def timed_load(path: Path, lod: int | None, loads: int) -> tuple[float, Scene]:
    """(milliseconds of the fastest load, the scene)."""
    best_ms = math.inf
    for _ in range(loads):
        start = time.perf_counter()
        scene = load_scene(path, lod=lod)
        best_ms = min(best_ms, 1e3 * (time.perf_counter() - start))
    return best_ms, scene


def export_picture(
    path: Path,
    encoding: Encoding,
    place: Place,
    size: tuple[int, int] = SIZE,
    pictures: Path | None = None,
) -> Picture:
    """The picture that ``belvedere export`` writes, read back from its file.

    Args:
        path: The scene.
        encoding: Which level of detail, and whether its axes are turned.
        place: In the axes of the family's reference.
        size: (width, height).
        pictures: Folder to leave it in; None for nowhere.
    """
    import cv2

    here = place.turned() if encoding.turned else place
    with tempfile.TemporaryDirectory() as folder:
        target = (pictures or Path(folder)) / f"{encoding.title.replace('/', '-')}.png"
        image = export(
            SceneChoice(path, gaussians=0, lod=encoding.lod, up=here.up),
            CameraChoice(
                here.position,
                here.target,
                fov_x_deg=here.fov_x_deg,
                width=size[0],
                height=size[1],
            ),
            Targets(image=target),
            RenderSettings(near=NEAR_RATIO * math.dist(here.position, here.target)),
        )
        bgr = cv2.imread(str(target), cv2.IMREAD_COLOR)
    if bgr is None:
        raise OutputError(f"{target}: was written, but cannot be read back")
    return Picture(np.asarray(bgr[..., ::-1], np.uint8), float(image.alpha.mean()))


def psnr_db(pixels: Pixels, truth: Pixels) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures."""
    square = float(np.square(pixels.astype(np.float64) - truth).mean())
    return 10 * math.log10(255**2 / square) if square else PSNR_OF_EQUAL_DB


def mean_error(pixels: Pixels, truth: Pixels) -> float:
    """Mean absolute difference, in units of the colour range [0, 1]."""
    return float(np.abs(pixels.astype(np.float64) - truth).mean()) / 255


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    table = new_table(
        "formats: exported pictures against the first of their scene",
        ("file", "format"),
        ("Gaussians", "SH", "bytes each", "load ms", "coverage", "PSNR dB", "mean ×255", "floor",
         "bar"),
    )  # fmt: skip
    for row in rows:
        compared = row["psnr_db"] is not None
        table.add_row(
            row["file"],
            row["format"],
            f"{row['gaussians']:,}",
            str(row["sh_degree"]),
            "" if row["bytes_per_gaussian"] is None else f"{row['bytes_per_gaussian']:.1f}",
            f"{row['load_ms']:.0f}",
            f"{100 * row['coverage']:.0f} %",
            _decibels(row["psnr_db"]) if compared else "reference",
            f"{255 * row['mean_error']:.2f}" if compared else "",
            f"{row['floor_db']:g}" if compared else "",
            verdict(row),
        )
    return table


def _decibels(psnr: float) -> str:
    return "equal" if psnr == PSNR_OF_EQUAL_DB else f"{psnr:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and one JSON line a row; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="belvedere bench --only formats", description=__doc__)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="leave the pictures here")
    options = parser.parse_args(argv)
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        rows = run(pictures=options.pictures, progress=progress)
    console.print(table_of([row for row in rows if "skipped" not in row]))
    for row in rows:
        print(json.dumps(row))
    return 1 if any(row["passed"] is False for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
