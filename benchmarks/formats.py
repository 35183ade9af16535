"""Does every format show the same picture? Each real scene against its siblings.

A scene that is there in several encodings (or in several levels of detail) is exported
from one place by the code of ``belvedere export``, and the written pictures are compared
with that of one of them, the reference. So the PSNR says what the encoding lost, and a
reader that mixes up axes, harmonics or ranges falls far below its floor. Floors are for
the degree of harmonics that the encoding has: what it leaves out by design is no error
of reading. A scene without a sibling only has to load and to show something.

The list below is also the case list of ``tests/formats/test_pictures.py``.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from benchmarks.report import Row, new_table, record, skipped, verdict
from benchmarks.scenes import data_folder
from configs.settings import RenderSettings
from scene_store.loading import load_scene
from scene_store.scene import Scene, Vector3
from splat.errors import OutputError
from viewer.camera_choice import CameraChoice
from viewer.export import export
from viewer.export_targets import Targets
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
        position, target, up = ((x, -y, -z) for x, y, z in (self.position, self.target, self.up))
        return Place(position, target, self.fov_x_deg, up)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One file (or level of detail) of a scene.

    Attributes:
        path: Within the folder of real scenes.
        floor_db: PSNR that it must reach against the scene's reference at the same degree
            of harmonics; None for the reference itself.
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


def _levels(path: str, *floors_db: float) -> tuple[Encoding, ...]:
    """The levels of detail of one scene, the finest first; a floor for each but that one."""
    coarser = (Encoding(path, floor, lod) for lod, floor in enumerate(floors_db, start=1))
    return (Encoding(path, lod=0), *coarser)


# Floors are two decibels below what was measured, for the coast's .spz one: Gaussians of
# equal depth are drawn in the order of the sorted scene, which a last bit may change (the
# coast in two orders agrees with itself to 51 dB). The comments say what limits each: the
# PSNR of the reference with only that attribute taken from the encoding.
COAST = Place((0.0, -0.7, 0.0), (2.0, -0.7, 1.0), 75.0)

FAMILIES = (
    Family(
        "coast",
        COAST,
        (
            Encoding("encodings/coast.ply"),
            # Harmonics in steps of 1/32 (49 dB), means in 11, 10 and 11 bits a chunk (50 dB).
            Encoding("encodings/coast.compressed.ply", 44.4),
            # Quaternions of three bytes (49 dB), means in 16 bits (56 dB).
            Encoding("encodings/coast.sog", 45.1),
            # Harmonics in steps of 1/16 and 1/8 (37 to 38 dB); all else is above 48 dB.
            Encoding("encodings/coast.spzjs.spz", 37.0),
            Encoding("encodings/coast.v3.spz", 36.0, turned=True),
            Encoding("encodings/coast.v4.spz", 36.0, turned=True),
            # Colours cut to [0, 1], in bytes (48 dB). Without degree 3, which these files do
            # not hold, the reference itself has 34 dB.
            Encoding("encodings/coast.c1.ksplat", 46.0),
            Encoding("encodings/coast.c2.ksplat", 46.0),
        ),
    ),
    Family(
        "biker",
        Place((1.876, -2.659, 1.657), (-0.084, -1.515, 0.023), 55.0),
        # Scales in steps of 6 % and means of 24 bits against ranges of 11 bits.
        (Encoding("biker.compressed.ply"), Encoding("biker.spz", 54.3, turned=True)),
    ),
    Family(
        "minimal",
        Place((1.5, -1.5, -3.5), (-0.5, 0.0, -0.5), 55.0),
        (
            Encoding("fixtures/minimal.splat"),
            # The same numbers: nothing but roundings of the machine.
            Encoding("fixtures/minimal.ksplat", 80.0),
            # Their writer scaled colours by 0.28 (as in PLY) where the format says 0.15, so they
            # have 1.9 times the contrast.
            Encoding("fixtures/minimal-raw.spz", 35.9),
            Encoding("fixtures/minimal-v2.spz", 35.9),
            # Scales in steps of 6 %.
            Encoding("fixtures/minimal-v3.spz", 58.1, turned=True),
            Encoding("fixtures/minimal-v4.spz", 58.1, turned=True),
        ),
    ),
    # Levels of detail are fewer Gaussians by their writer's choice.
    Family(
        "playbot",
        Place((1.787, -1.419, 1.49), (0.0, -0.375, 0.0), 55.0),
        _levels("playbot", 30.6, 28.9, 26.0, 25.0, 23.4, 23.0),
    ),
    Family(
        "park",
        Place((24.0, -14.0, 16.0), (0.0, 0.0, -2.0), 70.0),
        _levels("park", 33.7, 28.8, 24.6, 20.8),
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


NO_SIBLINGS = f"compared are only: {', '.join(family.name for family in FAMILIES)}"


def families_of(names: Sequence[str] | None) -> tuple[Family, ...]:
    """The families of these names; all for None."""
    return tuple(family for family in FAMILIES if names is None or family.name in names)


@dataclass(frozen=True, slots=True)
class FormatFigures:
    """One encoding, loaded and exported.

    Attributes:
        scene, file, format: The family, the file (and level), the format's name.
        bytes_per_gaussian: On disk; None for a level of detail of a whole set.
        load_ms: From the path to Gaussians in memory, sorted; the fastest of a few.
        coverage: Mean opacity of the picture.
        reference: File compared with, None if there is none.
        psnr_db, mean_error: Of the exported 8-bit picture against the reference's; the
            error in units of the colour range [0, 1].
        same_degree_psnr_db: The same with the reference drawn at this encoding's degree of
            harmonics.
        floor_db: What ``same_degree_psnr_db`` must reach.
    """

    scene: str
    file: str
    format: str
    gaussians: int
    sh_degree: int
    bytes_per_gaussian: float | None
    load_ms: float
    coverage: float
    reference: str | None = None
    psnr_db: float | None = None
    mean_error: float | None = None
    same_degree_psnr_db: float | None = None
    floor_db: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it shows something, and what its reference shows."""
        psnr, floor = self.same_degree_psnr_db, self.floor_db
        same = psnr is None or floor is None or psnr >= floor
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
        ``FormatFigures`` with the verdict; for a family that is not there, one record
        with ``skipped``.

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
        for figures in _compare_family(family, size, loads, pictures):
            rows.append(record("formats", figures))
            if progress is not None and task is not None:
                progress.update(task, advance=1, description=f"formats {figures.file}")
    return rows


class _Reference:
    """The picture that a family's encodings are compared with, at any degree of harmonics."""

    def __init__(self, family: Family, size: tuple[int, int], picture: Picture, degree: int):
        self.picture = picture
        self._family = family
        self._size = size
        self._by_degree = {degree: picture}
        self._degree = degree

    def at_degree(self, degree: int) -> Picture:
        """The reference drawn with harmonics of at most this degree."""
        degree = min(degree, self._degree)
        if degree not in self._by_degree:
            encoding = self._family.reference
            self._by_degree[degree] = export_picture(
                data_folder() / encoding.path,
                encoding,
                self._family.place,
                self._size,
                sh_degree=degree,
            )
        return self._by_degree[degree]


def _compare_family(
    family: Family, size: tuple[int, int], loads: int, pictures: Path | None
) -> Iterator[FormatFigures]:
    reference: _Reference | None = None
    for encoding in family.encodings:
        path = data_folder() / encoding.path
        load_ms, scene = timed_load(path, encoding.lod, loads)
        meta, count = scene.meta, len(scene.gaussians)
        del scene  # the exporter reads it again: never two of them in memory
        picture = export_picture(path, encoding, family.place, size, pictures=pictures)
        row = FormatFigures(
            scene=family.name,
            file=encoding.title,
            format=meta.format_name,
            gaussians=count,
            sh_degree=meta.sh_degree,
            bytes_per_gaussian=None if encoding.lod is not None else size_on_disk(path) / count,
            load_ms=load_ms,
            coverage=picture.coverage,
        )
        if reference is None:
            reference = _Reference(family, size, picture, meta.sh_degree)
            yield row
            continue
        yield replace(
            row,
            reference=family.reference.title,
            psnr_db=psnr_db(picture.pixels, reference.picture.pixels),
            mean_error=mean_error(picture.pixels, reference.picture.pixels),
            same_degree_psnr_db=psnr_db(picture.pixels, reference.at_degree(meta.sh_degree).pixels),
            floor_db=encoding.floor_db,
        )


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
    *,
    sh_degree: int | None = None,
    pictures: Path | None = None,
) -> Picture:
    """The picture that ``belvedere export`` writes, read back from its file.

    Args:
        path: The scene.
        encoding: Which level of detail, and whether its axes are turned.
        place: In the axes of the family's reference.
        size: (width, height).
        sh_degree: Highest degree of harmonics that is drawn; None for all.
        pictures: Folder to leave it in; None for nowhere.
    """
    import cv2

    here = place.turned() if encoding.turned else place
    with tempfile.TemporaryDirectory() as folder:
        target = (pictures or Path(folder)) / f"{re.sub('[/ ]', '-', encoding.title)}.png"
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
            RenderSettings(
                near=NEAR_RATIO * math.dist(here.position, here.target), sh_degree=sh_degree
            ),
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


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        "formats: exported pictures against the first of their scene",
        ("file", "format"),
        (
            "Gaussians",
            "SH",
            "bytes each",
            "load ms",
            "coverage",
            "mean ×255",
            "PSNR dB",
            "same SH dB",
            "floor dB",
            "bar",
        ),
    )
    for row in rows:
        compared = row["reference"] is not None
        table.add_row(
            row["file"],
            row["format"],
            f"{row['gaussians']:,}",
            str(row["sh_degree"]),
            "" if row["bytes_per_gaussian"] is None else f"{row['bytes_per_gaussian']:.1f}",
            f"{row['load_ms']:.0f}",
            f"{100 * row['coverage']:.0f} %",
            f"{255 * row['mean_error']:.2f}" if compared else "",
            _decibels(row["psnr_db"]) if compared else "",
            _decibels(row["same_degree_psnr_db"]) if compared else "",
            _decibels(row["floor_db"]) if compared else "",
            verdict(row),
        )
    return table


def _decibels(psnr: float) -> str:
    return "equal" if psnr == PSNR_OF_EQUAL_DB else f"{psnr:.1f}"


if __name__ == "__main__":
    from viewer.cli import main as belvedere

    raise SystemExit(belvedere(["bench", "--only", "formats", *sys.argv[1:]]))
