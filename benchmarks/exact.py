"""Is the native picture the true one? Native engine against the float64 reference.

Every camera model, image sizes that divide by nothing, both ways of dilating, and three
scenes. A row gives, for one picture: the PSNR over all pixels; the largest error of colour
and alpha off the cut-off edges (where alpha is within rounding of 1/255 or transmittance
of its stop, a float32 engine may rightly decide otherwise: ``rendering.reference``); how
many pixels those edges are; and whether a second run and any number of threads gave the
same bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from benchmarks.report import Row, new_table, record, verdict
from benchmarks.scenes import BenchmarkScene, data_folder
from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.native.cpu import NativeRasterizer
from rendering.reference import ReferenceRasterizer, edge_mask
from scene_store.loading import load_scene
from scene_store.town import generate_town
from scene_store.town.views import TOWN_VIEWS
from splat.camera import Camera, CameraModel, fov_y_from_fov_x
from splat.errors import SceneNotFoundError
from splat.gaussians import Gaussians

logger = logging.getLogger(__name__)

MIN_PSNR_DB = 60.0
MAX_ERROR_OFF_EDGES = 2 / 255
PSNR_OF_EQUAL_DB = 200.0  # reported where two pictures agree to the last bit

SIZES = ((321, 181), (97, 255), (33, 129), (1, 1))  # width, height
THREADS = (1, 2, 3)
TOWN_GAUSSIANS = 150_000
NEAR_RATIO = 0.01  # of the distance to what the camera looks at

Vector3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ExactScene:
    """A scene and the place that it is looked at from (world coordinates)."""

    name: str
    gaussians: Gaussians
    position: Vector3
    target: Vector3
    up: Vector3
    fov_y_rad: float


@dataclass(frozen=True, slots=True)
class ExactFigures:
    """One picture compared; errors are in units of the colour range [0, 1].

    Attributes:
        max_error_off_edges: Of colour and alpha; the bar is 2 / 255.
        max_error: Over all pixels.
        edge_fraction: Share of pixels that lie on cut-off edges.
        count_mismatches: Pixels off the edges that blend another number of Gaussians.
        same_bytes: All outputs, on a second run and with each of ``THREADS``.
    """

    scene: str
    gaussians: int
    model: str
    width: int
    height: int
    antialiased: bool
    instruction_set: str
    psnr_db: float
    max_error_off_edges: float
    max_error: float
    edge_fraction: float
    count_mismatches: int
    same_bytes: bool

    @property
    def passed(self) -> bool:
        """Whether the row reaches the bars."""
        return (
            self.psnr_db >= MIN_PSNR_DB
            and self.max_error_off_edges <= MAX_ERROR_OFF_EDGES
            and self.same_bytes
        )


def run(
    scenes: Sequence[ExactScene] | None = None,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    progress: Progress | None = None,
) -> list[Row]:
    """Compare every scene, camera model, size and dilation; one record a picture.

    Args:
        scenes: None for ``default_scenes()``.
        sizes: Image sizes (width, height).
        progress: Shows how far it is.

    Returns:
        ``ExactFigures`` with the verdict.
    """
    chosen = list(default_scenes()) if scenes is None else list(scenes)
    pictures = 2 * len(CameraModel) * len(sizes)
    task = progress.add_task("exact", total=pictures * len(chosen)) if progress else None
    results = []
    for scene in chosen:
        for figures in _compare_scene(scene, sizes):
            results.append(record("exact", figures))
            if progress is not None and task is not None:
                progress.advance(task)
    return results


def default_scenes() -> Iterator[ExactScene]:
    """The town, and two captures where the folder of real scenes is at hand."""
    view = TOWN_VIEWS.picture
    yield ExactScene(
        "town-150K",
        generate_town(TOWN_GAUSSIANS),
        view.position,
        view.target,
        view.up,
        math.radians(view.fov_y_deg),
    )
    data = data_folder()
    coast = [data / half / "lod-meta.json" for half in ("coast_near", "coast_far")]
    fov_y = {degrees: fov_y_from_fov_x(math.radians(degrees), 16, 9) for degrees in (55, 75)}
    try:
        yield ExactScene(
            "coast",
            Gaussians.concatenate([load_scene(path).gaussians for path in coast]),
            (0.0, -0.7, 0.0),
            (2.0, -0.7, 1.0),
            (0.0, -1.0, 0.0),
            fov_y[75],
        )
        yield ExactScene(
            "truck",
            load_scene(data / "truck.splat").gaussians,
            (2.15, -1.039, 1.66),
            (0.285, 0.048, 0.106),
            (0.0, -1.0, 0.0),
            fov_y[55],
        )
    except SceneNotFoundError as error:
        logger.warning("real scenes left out, set BELVEDERE_DATA to their folder: %s", error)


def from_benchmark(scene: BenchmarkScene) -> ExactScene:
    """A scene of the other benchmarks, from the place that its pictures are taken from."""
    view = scene.view
    return ExactScene(
        scene.name, scene.gaussians, view.position, view.target, view.up, view.lens.fov_y_rad
    )


def camera_of(scene: ExactScene, model: CameraModel, width: int, height: int) -> Camera:
    """The scene's view through another lens.

    The orthographic camera shows what lies at the target at the pinhole's scale; the
    fisheye's picture is inscribed into a half-sphere, whatever its shape.
    """
    distance = math.dist(scene.position, scene.target)
    pinhole = Camera.look_at(
        scene.position,
        scene.target,
        scene.up,
        fov_y_rad=scene.fov_y_rad,
        width=width,
        height=height,
        near=NEAR_RATIO * distance,
    )
    focal = {
        CameraModel.PINHOLE: float(pinhole.K[1, 1]),
        CameraModel.ORTHO: float(pinhole.K[1, 1]) / distance,
        CameraModel.FISHEYE: math.hypot(width, height) / math.pi,
    }[model]
    K = pinhole.K.copy()
    K[0, 0] = K[1, 1] = focal
    return replace(pinhole, K=K, model=model)


def _compare_scene(scene: ExactScene, sizes: Sequence[tuple[int, int]]) -> Iterator[ExactFigures]:
    native, reference = NativeRasterizer(), ReferenceRasterizer()
    packed, exact = native.prepare(scene.gaussians), reference.prepare(scene.gaussians)
    for model in CameraModel:
        for width, height in sizes:
            camera = camera_of(scene, model, width, height)
            for antialiased in (False, True):
                settings = RasterSettings(antialiased=antialiased, outputs=Outputs.ALL)
                image = native.render(packed, camera, settings)
                truth = reference.render(exact, camera, settings)
                edges = edge_mask(exact, camera, settings)
                errors = _errors(image, truth)
                yield ExactFigures(
                    scene=scene.name,
                    gaussians=len(scene.gaussians),
                    model=model.value,
                    width=width,
                    height=height,
                    antialiased=antialiased,
                    instruction_set=native.instruction_set,
                    psnr_db=_psnr_db(image, truth),
                    max_error_off_edges=float(errors[~edges].max(initial=0.0)),
                    max_error=float(errors.max()),
                    edge_fraction=float(edges.mean()),
                    count_mismatches=int(
                        (_of(image, "count") != _of(truth, "count"))[~edges].sum()
                    ),
                    same_bytes=_same_bytes(native, packed, camera, settings, image),
                )


def _errors(image: RasterImage, truth: RasterImage) -> NDArray[np.float64]:
    """[H, W] the largest error of a pixel's colour channels and alpha."""
    color = np.abs(_of(image, "color").astype(np.float64) - _of(truth, "color"))
    alpha = np.abs(image.alpha.astype(np.float64) - truth.alpha)
    errors: NDArray[np.float64] = np.maximum(color.max(axis=2), alpha)
    return errors


def _psnr_db(image: RasterImage, truth: RasterImage) -> float:
    square = np.square(_of(image, "color").astype(np.float64) - _of(truth, "color")).mean()
    return float(min(PSNR_OF_EQUAL_DB, -10 * math.log10(square))) if square else PSNR_OF_EQUAL_DB


def _same_bytes(
    native: NativeRasterizer,
    packed: Any,
    camera: Camera,
    settings: RasterSettings,
    first: RasterImage,
) -> bool:
    names = ("alpha", "color", "depth", "median_depth", "count")
    again = (native.render(packed, camera, replace(settings, threads=n)) for n in (0, *THREADS))
    return all(
        _of(image, name).tobytes() == _of(first, name).tobytes()
        for image in again
        for name in names
    )


def _of(image: RasterImage, name: str) -> NDArray[Any]:
    """An image that was asked for, hence there."""
    array = getattr(image, name)
    assert isinstance(array, np.ndarray)
    return array


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people: the worst of every scene and camera model."""
    table = new_table(
        f"exact: native against float64, bars PSNR ≥ {MIN_PSNR_DB:g} dB, "
        "error off edges ≤ 2/255, same bytes",
        ["scene", "model"],
        ["pictures", "PSNR dB", "off edges ×255", "anywhere ×255", "same bytes", "bar"],
    )
    for scene, model in dict.fromkeys((row["scene"], row["model"]) for row in rows):
        group = [row for row in rows if (row["scene"], row["model"]) == (scene, model)]
        table.add_row(
            scene,
            model,
            str(len(group)),
            f"{min(row['psnr_db'] for row in group):.1f}",
            f"{255 * max(row['max_error_off_edges'] for row in group):.3f}",
            f"{255 * max(row['max_error'] for row in group):.3f}",
            "yes" if all(row["same_bytes"] for row in group) else "NO",
            verdict({"passed": all(row["passed"] for row in group)}),
        )
    return table
