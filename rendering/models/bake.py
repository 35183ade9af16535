"""A scene of any kind as 3D Gaussians: pictures of it are drawn, and Gaussians fitted to them.

Whatever draws will do (``Draw``): a radiance field, anchors, Gaussians. The parts::

    bake_views    from where it is looked at
    bake_start    Gaussians that a scene stands for, if it does
    bake_surfels  pictures and depths → flat Gaussians on the surfaces
    bake_fit      rounds of fitting, splitting and dropping (``rendering/native/fitting.py``)

``docs/baking.md`` has what it costs and what comes of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rendering.base import RasterImage
from rendering.models.bake_fit import fit_rounds
from rendering.models.bake_progress import Progress, part_of, time_left
from rendering.models.bake_surfels import Picture, surfels
from rendering.models.bake_views import Views, choose_views, named_view, placed
from rendering.native.fitting import Comparison, FittedGaussians
from scene_store.memory import available_bytes
from scene_store.outline import Outline, Shape, outline_of
from splat.camera import Camera
from splat.errors import BudgetError, SceneError
from splat.gaussians import Gaussians

Draw = Callable[[Sequence[Camera]], Iterator[RasterImage]]
"""Draws cameras in their order: colour over black, alpha, depth and median depth."""
Start = Callable[[Sequence[Camera], Progress], Gaussians]
"""Makes Gaussians that nearly look like the scene from some views, without pictures of it."""

FIRST_SHARE = 0.8  # of the Gaussians, that the first surfels may be; the others come by splitting
PIXELS_EACH = 12  # of all pictures, for a Gaussian, where nobody says how many
LEAST_GAUSSIANS, MOST_GAUSSIANS = 20_000, 400_000  # then
PROBES, PROBE_PX = 12, 48  # pictures to see where a scene is, and their longest side
POOR_DB = 25.0
CONVERTED, DRAWN, SURFACED = 0.2, 0.4, 0.45  # shares of the progress at which each is there
POINT_BYTES = 160 << 20  # while surfels are made


@dataclass(frozen=True, slots=True)
class BakeOptions:
    """What is wanted.

    Attributes:
        views: Pictures to fit to; some more are drawn to measure with.
        size: Longest side of a picture, pixels.
        gaussians: How many at most; None for one to some pixels.
        sh_degree: Of the harmonics, 0 to 3.
        rounds: At most.
        seed: The same seed, the same Gaussians.
        threads: To fit with; 0 for one a core.
    """

    views: int = 64
    size: int = 400
    gaussians: int | None = None
    sh_degree: int = 2
    rounds: int = 15
    seed: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class BakeReport:
    """What it came to.

    Attributes:
        gaussians: How many.
        seconds: It took.
        convert_seconds: Of them, to make the Gaussians that it began with.
        draw_seconds: Of them, to draw pictures of the scene.
        start_db: The mean PSNR that it began with; None if it began with nothing.
        psnr_db: Of pictures that nothing was fitted to: the mean,
        worst_db: and the least.
        held: How many these were.
        rounds: That were made.
        trained: Whether the views were the scene's own training cameras.
    """

    gaussians: int
    seconds: float
    convert_seconds: float
    draw_seconds: float
    start_db: float | None
    psnr_db: float
    worst_db: float
    held: int
    rounds: int
    trained: bool

    @property
    def is_poor(self) -> bool:
        """Whether a person would not take the one for the other."""
        return self.psnr_db < POOR_DB


def bake(
    draw: Draw,
    outline: Outline,
    training: Sequence[Camera],
    options: BakeOptions,
    progress: Progress,
    start: Start | None = None,
) -> tuple[Gaussians, BakeReport]:
    """Gaussians that look like a scene.

    Args:
        draw: Draws it.
        outline: Where it is.
        training: Its training cameras, if they are known.
        options: What is wanted.
        progress: Hears how far it is; what it raises ends it.
        start: Makes the Gaussians to begin with; None to make them of the pictures.

    Raises:
        SceneError: If the pictures show nothing.
        BudgetError: If memory does not suffice.
    """
    clock = _Clock()
    views = choose_views(outline, training, options.views, options.size, options.seed)
    pixels = sum(camera.width * camera.height for camera in views.fitted)
    guess = _suitable(pixels) if start is None else 0
    require_room(views, options.gaussians or guess, options)
    if not views.trained and outline.shape is not Shape.SURROUNDINGS:
        outline = seen_outline(draw, outline, training, options.seed, progress)
        views = choose_views(outline, training, options.views, options.size, options.seed)
    look_s, begun = clock.lap(), None
    if start is not None:
        begun = start(views.known, part_of(progress, 0.0, CONVERTED))
        require_room(views, options.gaussians or len(begun), options)
    convert_s = clock.lap()
    drawing = part_of(progress, 0.0 if begun is None else CONVERTED, DRAWN)
    pictures = _Pictures.of(views, list(_drawn(draw, views, drawing)))
    draw_s = look_s + clock.lap()
    first, most = _first(begun, pictures.fitted, options, progress)
    if len(first) == 0:
        raise SceneError("nothing of the scene is seen from the views chosen; use more --views")
    fitted = FittedGaussians(first, options.sh_degree, threads=options.threads)
    start_db = None if begun is None else float(np.mean(psnrs_db(fitted, pictures.held)))
    rounds = _fit(fitted, pictures, most, options, progress, gently=begun is not None)
    ended = psnrs_db(fitted, pictures.held)
    return fitted.gaussians(), BakeReport(
        gaussians=len(fitted),
        seconds=draw_s + convert_s + clock.lap(),
        convert_seconds=convert_s,
        draw_seconds=draw_s,
        start_db=start_db,
        psnr_db=float(np.mean(ended)),
        worst_db=float(np.min(ended)),
        held=len(ended),
        rounds=rounds,
        trained=views.trained,
    )


class _Clock:
    """Seconds since it was last read."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def lap(self) -> float:
        before, self._last_s = self._last_s, time.monotonic()
        return self._last_s - before


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """Of ``Views``, by what they are for."""

    fitted: Sequence[Picture]
    checked: Sequence[Picture]
    held: Sequence[Picture]

    @classmethod
    def of(cls, views: Views, pictures: Sequence[Picture]) -> _Pictures:
        fitted, held = len(views.fitted), len(pictures) - len(views.held)
        return cls(pictures[:fitted], pictures[fitted:held], pictures[held:])


def _first(
    begun: Gaussians | None,
    pictures: Sequence[Picture],
    options: BakeOptions,
    progress: Progress,
) -> tuple[Gaussians, int]:
    """The Gaussians that are fitted, and how many there may be."""
    if begun is not None:
        most = options.gaussians or len(begun)
        return _largest(begun, most), most
    shown = sum(int(np.count_nonzero(each.depth)) for each in pictures)
    most = options.gaussians or _suitable(shown)
    progress(DRAWN, "Finding surfaces")
    return surfels(pictures, max(1, int(FIRST_SHARE * most)), options.seed), most


def seen_outline(
    draw: Draw, outline: Outline, training: Sequence[Camera], seed: int, progress: Progress
) -> Outline:
    """Where a scene is, by a few small pictures of it: what is known of a field without a look is
    often but the box that it was trained in."""
    progress(0.0, "Looking around")
    cameras = placed(outline, PROBES, PROBE_PX, seed, named_view(outline, training))
    pictures = [picture_of(image, c) for image, c in zip(draw(cameras), cameras, strict=True)]
    seen = surfels(pictures, PROBES * PROBE_PX**2, seed)
    if len(seen) < PROBE_PX:
        return outline
    return outline_of(seen, up=outline.up)


def _drawn(draw: Draw, views: Views, progress: Progress) -> Iterator[Picture]:
    count, began = len(views.all), time.monotonic()
    progress(0.0, f"Drawing {count} pictures")
    for done, (image, camera) in enumerate(zip(draw(views.all), views.all, strict=True), 1):
        yield picture_of(image, camera)
        left = time_left(began, done, count)
        progress(done / count, f"Drawing {count} pictures, {left}")


def _largest(gaussians: Gaussians, most: int) -> Gaussians:
    """Those that would be missed most, if they are too many."""
    if len(gaussians) <= most:
        return gaussians
    scales = np.sort(gaussians.scales, axis=1)
    mass = gaussians.opacities * scales[:, 1] * scales[:, 2]
    return gaussians[np.sort(np.argsort(-mass, kind="stable")[:most])]


def _fit(
    fitted: FittedGaussians,
    pictures: _Pictures,
    most: int,
    options: BakeOptions,
    progress: Progress,
    *,
    gently: bool,
) -> int:
    """Rounds of fitting, and back to the best of them; how many there were."""

    def check(gaussians: FittedGaussians) -> float:
        return float(np.mean(psnrs_db(gaussians, pictures.checked)))

    steps, began = options.rounds * len(pictures.fitted), time.monotonic()
    hear = part_of(progress, SURFACED, 1.0)
    best_db, best_rows, rounds = check(fitted), fitted.rows.copy(), 0

    def on_picture(done: int) -> None:
        left = time_left(began, done, steps)
        told = f"Fitting {len(fitted):,} Gaussians, {best_db:.1f} dB so far, at most {left}"
        hear(done / steps, told)

    for each in fit_rounds(
        fitted,
        pictures.fitted,
        most=most,
        rounds=options.rounds,
        seed=options.seed,
        gently=gently,
        check=check,
        on_picture=on_picture,
    ):
        rounds = each.number
        if each.psnr_db > best_db:
            best_db, best_rows = each.psnr_db, fitted.rows.copy()
    fitted.replace(np.zeros(len(fitted), np.bool_), best_rows)
    return rounds


def require_room(views: Views, most: int, options: BakeOptions) -> None:
    """See before anything is drawn whether all of it fits into memory.

    Raises:
        BudgetError: If it does not.
    """
    pixels = sum(camera.width * camera.height for camera in views.all)
    needed = 8 * pixels + POINT_BYTES + 2 * most * FittedGaussians.bytes_each(options.sh_degree)
    available = available_bytes()
    if available is not None and needed > available:
        raise BudgetError(
            f"{len(views.all)} pictures and {most:,} Gaussians need {needed / 1e9:.1f} GB of "
            f"memory, and {available / 1e9:.1f} GB are available; use fewer --views or "
            f"--gaussians, or a smaller --size"
        )


def _suitable(pixels: int) -> int:
    """How many Gaussians pictures can tell apart that show something in so many pixels."""
    return min(max(pixels // PIXELS_EACH, LEAST_GAUSSIANS), MOST_GAUSSIANS)


def picture_of(image: RasterImage, camera: Camera) -> Picture:
    """What is kept of a drawn view, in 8 bits as it would be shown."""
    assert image.color is not None and image.depth is not None and image.median_depth is not None
    values = np.concatenate([image.color, image.alpha[..., None]], axis=-1)
    depth = np.where(image.median_depth > 0, image.median_depth, image.depth)
    return Picture(
        camera,
        np.round(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8),
        np.where(np.isfinite(depth), depth, 0).astype(np.float32),
    )


def psnrs_db(fitted: FittedGaussians, pictures: Sequence[Picture]) -> list[float]:
    """PSNR of each picture over black, as 8 bits show it."""
    return [
        _psnr_db(fitted.draw(picture.camera, Comparison())[..., :3], picture.pixels[..., :3])
        for picture in pictures
    ]


def _psnr_db(drawn: NDArray[np.float32], wanted: NDArray[np.uint8]) -> float:
    difference = np.clip(drawn, 0, 1) - wanted.astype(np.float32) / 255.0
    square = float(np.square(difference, dtype=np.float64).mean())
    return -10.0 * math.log10(max(square, 1e-10))
