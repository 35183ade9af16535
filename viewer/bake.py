"""``belvedere bake``: a neural scene as plain Gaussians, in a file or a store."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from configs.settings import Settings
from rendering.base import Outputs, RasterImage
from rendering.models.bake import BakeOptions, BakeReport, Draw, bake
from rendering.models.bake_start import start_of
from rendering.models.bake_views import LEAST_TRAINING
from scene_store.build import BuildOptions, build_store
from scene_store.chunks import NeuralSource
from scene_store.formats import write_ply
from scene_store.formats.ply import ply_bytes
from scene_store.formats.source import reason_of
from scene_store.manifest import SourceFile
from scene_store.outline import Outline, outline_of
from scene_store.remote.address import is_remote
from scene_store.statistics import likely_up
from scene_store.store import STORE_SUFFIX, open_store
from scene_store.store_folder import partial_folder, require_free
from splat.atomic_file import check_writable
from splat.camera import Camera
from splat.errors import OutputError, SceneError, SceneNotFoundError
from splat.gaussians import Gaussians
from viewer.bake_levels import LevelChoice, Target, all_targets, first_target
from viewer.bake_report import LevelReport, level_table, poor_line, quality_line, report_line
from viewer.drawing import Draw as DrawScene
from viewer.drawing import prepared
from viewer.scenes import Progress, SceneChoice, check_exists
from viewer.status_line import status_line
from viewer.streams import OpenedStream
from viewer.text import byte_size

log = logging.getLogger(__name__)

Say = Callable[[str], None]

PLY_SUFFIX = ".ply"
OUTPUTS = Outputs.COLOR | Outputs.DEPTH | Outputs.MEDIAN_DEPTH
PLY_UP = (0.0, -1.0, 0.0)  # what viewers take for up


def bake_scene(
    choice: SceneChoice,
    output: Path | None,
    options: BakeOptions,
    settings: Settings,
    say: Say,
    *,
    level: LevelChoice = None,
    overwrite: bool = False,
) -> None:
    """Bake a neural scene and write what becomes of it, each file whole or not at all.

    Args:
        choice: The scene.
        output: A ``.ply`` file or a ``.bvs`` store; None for a file of the scene's name in the
            current folder.
        options: What is wanted.
        settings: How its pictures are drawn.
        say: Hears what was written, and what it is worth.
        level: Of detail, of anchors that have several.
        overwrite: Whether a store of that name may be replaced; a ``.ply`` file is in any case.

    Raises:
        BelvedereError: If it cannot be done; what can be known before the scene is read is
            refused before.
    """
    require_neural(choice)
    path = output if output is not None else Path(f"{choice.title.split('.')[0]}{PLY_SUFFIX}")
    require_suffix(path)
    first = first_target(path, level, named=output is not None)
    require_output(first.path, choice, overwrite)
    require_room(path, options)
    targets = all_targets(choice, path, level, first)
    for target in targets[1:]:
        require_output(target.path, choice, overwrite)
    require_room(path, options, len(targets))
    made: list[LevelReport] = []
    for target in targets:
        report, seconds = bake_target(target, choice, options, settings, say, overwrite=overwrite)
        if target.level is not None:
            made.append(LevelReport(target.level, target.path, report, seconds))
    if len(made) > 1:
        say(level_table(made))


def bake_target(
    target: Target,
    choice: SceneChoice,
    options: BakeOptions,
    settings: Settings,
    say: Say,
    *,
    overwrite: bool,
) -> tuple[BakeReport, float]:
    """Make one file; what it came to, and how many seconds it took.

    Raises:
        BelvedereError: If it cannot be done.
    """
    path, began_s = target.path, time.monotonic()
    origin = origin_of(choice)
    with status_line() as progress:
        opened = target.open(choice)
        gaussians, report, outline = bake_opened(opened, choice, options, settings, progress)
        progress(1.0, f"Writing {len(gaussians):,} Gaussians")
        write(path, gaussians, origin, overwrite)
    seconds = time.monotonic() - began_s
    say(report_line(path, report, seconds))
    say(quality_line(report))
    if report.is_poor:
        log.warning("warning: %s", poor_line(path, report))
    if path.suffix.lower() == PLY_SUFFIX and not outline.stands_up(PLY_UP):
        up = " ".join(f"{value:.3g}" for value in outline.up)
        log.warning("note: up is not y of the file, as viewers expect; view it with --up %s", up)
    return report, seconds


def require_neural(choice: SceneChoice) -> None:
    """Refuse what there is nothing to bake of.

    Raises:
        SceneError: If the scene is no neural one, is not here, or cannot be found.
    """
    if choice.address is not None and is_remote(choice.address):
        raise SceneError(f"{choice.shown}: bake reads local scenes; download it first")
    if choice.path is None:
        raise SceneError(
            "the town is made of Gaussians already; belvedere town writes it as a .ply file"
        )
    check_exists(choice)
    if not (choice.is_model or (choice.is_store and _is_neural_store(choice))):
        raise SceneError(
            f"{choice.shown}: is no neural scene, so there is nothing to bake; belvedere build "
            f"makes a store of Gaussians"
        )


def _is_neural_store(choice: SceneChoice) -> bool:
    with open_store(choice.store_folder) as store:
        return isinstance(store, NeuralSource)


def require_suffix(path: Path) -> None:
    """See before any work whether the result has a form that can be written.

    Args:
        path: As the user named it, also where a file of each level is named after it.

    Raises:
        OutputError: If it has not.
    """
    if path.suffix.lower() not in (PLY_SUFFIX, STORE_SUFFIX):
        named = f"'{path.suffix}'" if path.suffix else "no ending"
        raise OutputError(
            f"{path}: cannot write {named}; use {PLY_SUFFIX} for a file or {STORE_SUFFIX} for a "
            f"store"
        )


def require_output(path: Path, choice: SceneChoice, overwrite: bool) -> None:
    """See before any work whether a file or a store can be written.

    Raises:
        OutputError: If it cannot.
    """
    if path.suffix.lower() == STORE_SUFFIX:
        require_free(path, overwrite)
    else:
        check_writable(path)
    if choice.path is not None and path.resolve() == choice.path.resolve():
        raise OutputError(f"{path}: is the scene itself; choose another name")


def require_room(path: Path, options: BakeOptions, files: int = 1) -> None:
    """See before any work whether the disk has the room that the results are sure to take.

    Args:
        path: As the user named it.
        options: What is wanted of each.
        files: How many there will be.

    Raises:
        OutputError: If it has not.
    """
    needed = files * ply_bytes(options.gaussians or 0, options.sh_degree)
    free = free_bytes(path)
    if needed > free:
        each = f" in each of {files} files" if files > 1 else ""
        raise OutputError(
            f"{path}: {options.gaussians or 0:,} Gaussians{each} may take {byte_size(needed)}, and "
            f"the disk has {byte_size(free)} free; ask for fewer or choose another folder"
        )


def free_bytes(path: Path) -> int:
    """Room on the disk where a file is to be."""
    return shutil.disk_usage(path.resolve().parent).free


def bake_opened(
    opened: OpenedStream,
    choice: SceneChoice,
    options: BakeOptions,
    settings: Settings,
    progress: Progress,
) -> tuple[Gaussians, BakeReport, Outline]:
    """The scene's Gaussians, what they are worth, and where they are; its source is closed."""
    source = opened.source
    assert isinstance(source, NeuralSource)
    try:
        outline = outline_for(opened, choice)
    except BaseException:
        source.close()
        raise
    render = replace(settings.render, background=(0.0, 0.0, 0.0))
    near = render.near if render.near is not None else render.near_ratio * outline.radius
    start = start_of(source, options.sh_degree)
    problems: list[str] = []
    with prepared(opened, render, settings.stream, problems.append) as draw:
        result = bake(
            drawn_by(draw, near), outline, opened.meta.cameras, options, progress, start=start
        )
    if problems:
        more = f" (and {len(problems) - 1:,} more such)" if len(problems) > 1 else ""
        log.warning("warning: %s: %s%s", choice.shown, problems[0], more)
    return *result, outline


def outline_for(opened: OpenedStream, choice: SceneChoice) -> Outline:
    """Where the scene is, as its first view is chosen from."""
    source = opened.source
    assert isinstance(source, NeuralSource)
    meta, overview = opened.meta, source.overview()
    if meta.outline is not None and choice.up is None:
        return meta.outline
    if meta.up is not None and len(meta.cameras) < LEAST_TRAINING:
        meta = replace(meta, cameras=())  # one is rarely upright
    up = choice.up if choice.up is not None else likely_up(meta, overview)
    return outline_of(overview, up=up, cameras=meta.cameras)


def drawn_by(draw: DrawScene, near: float) -> Draw:
    """What draws cameras for a bake; nothing of them is nearer than it should be."""

    def each(cameras: Sequence[Camera]) -> Iterator[RasterImage]:
        views = [(replace(camera, near=min(near, 0.5 * camera.far)),) for camera in cameras]
        for images in draw.each(views, OUTPUTS):
            yield images[0]

    return each


def origin_of(choice: SceneChoice) -> SourceFile:
    """What a store tells of the scene that was baked.

    Raises:
        SceneNotFoundError: If it is gone.
    """
    assert choice.path is not None
    try:
        stat = choice.path.stat()
    except OSError as error:
        raise SceneNotFoundError(f"{choice.path}: cannot be read ({reason_of(error)})") from None
    return SourceFile(str(choice.path), stat.st_size, stat.st_mtime_ns)


def write(path: Path, gaussians: Gaussians, origin: SourceFile, overwrite: bool) -> None:
    """A file or a store, by its suffix; a store by way of a file beside it.

    Args:
        path: Its name.
        gaussians: All of them.
        origin: What a store is to tell that it was made of.
        overwrite: Whether a store of that name may be replaced.

    Raises:
        OutputError: If it cannot be written.
    """
    count, degree = len(gaussians), gaussians.sh_degree
    if path.suffix.lower() == PLY_SUFFIX:
        write_ply(path, [gaussians], count, degree)
        return
    with tempfile.TemporaryDirectory(prefix=".bake-", dir=path.resolve().parent) as folder:
        file = Path(folder) / f"{path.stem}{PLY_SUFFIX}"
        write_ply(file, [gaussians], count, degree)
        try:
            build_store([file], path, BuildOptions(replace=overwrite, origin=origin))
        except BaseException:  # what is left could be continued only from this very file
            shutil.rmtree(partial_folder(path), ignore_errors=True)
            raise
