"""``belvedere build``: from any scene to a store that can be streamed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scene_store.build import (
    BuildEstimate,
    BuildOptions,
    BuildProgress,
    BuildReport,
    Stage,
    build_store,
    estimate_build,
)
from scene_store.build.interrupted import what_is_left
from scene_store.models import is_model, open_model
from scene_store.neural_store import build_neural_store, neural_store_bytes
from scene_store.remote.address import Address, is_remote
from scene_store.store_folder import partial_folder
from splat.errors import OutputError, SceneError
from viewer.scenes import FILE_SUFFIXES, SceneChoice
from viewer.status_line import status_line
from viewer.text import byte_size, counted

logger = logging.getLogger(__name__)

STORE_SUFFIX = ".bvs"
PLY_SUFFIX = ".ply"

Say = Callable[[str], None]


def build(
    scenes: Sequence[str],
    output: Path | None,
    options: BuildOptions,
    say: Say,
    *,
    dry_run: bool = False,
    trust: bool = False,
) -> None:
    """Builds a store, with a progress bar on a terminal, or says what it would take.

    Args:
        scenes: Files, folders, ``town`` or ``town:N``; in the same coordinates.
        output: The store; None for the first scene's name beside it, ending in ``.bvs``.
        options: How to build.
        say: Hears the last line.
        dry_run: Whether to write nothing.
        trust: As of ``scene_store.models.open_model``.

    Raises:
        BelvedereError: If it cannot be done.
        KeyboardInterrupt: With what the user should know, after Ctrl-C.
    """
    for scene in filter(is_remote, scenes):
        raise SceneError(
            f"{Address.of(scene).shown()}: build reads local scenes; download it first"
        )
    path = output if output is not None else default_output(scenes[0])
    neural = [scene for scene in scenes if is_model(Path(scene))]
    _require_store_name(path, scenes[0], is_neural=bool(neural))
    if neural:
        _build_neural(scenes, path, options, say, neural[0], dry_run=dry_run, trust=trust)
        return
    if dry_run:
        estimate = estimate_build(scenes, path, options)
        say(estimate_line(path, estimate))
        if lack := estimate.lack_of_room():
            logger.warning("warning: %s: %s", path, lack)
        return
    try:
        with _progress_bar() as progress:
            report = build_store(scenes, path, options, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(interrupted_line(path)) from None
    say(report_line(report))


def _build_neural(
    scenes: Sequence[str],
    path: Path,
    options: BuildOptions,
    say: Say,
    neural: str,
    *,
    dry_run: bool,
    trust: bool,
) -> None:
    """A store of a neural scene: its chunks as they are."""
    if len(scenes) > 1:
        raise SceneError(
            f"{neural}: is a neural scene, which becomes a store of its own; name it alone, or "
            "have belvedere bake make Gaussians of it"
        )
    from rendering.models.field_stand_ins import make_stand_in

    opened = open_model(Path(neural), trust=trust, make_stand_in=make_stand_in)
    with contextlib.closing(opened) as source:
        if dry_run:
            size = neural_store_bytes(source)
            say(f"{path}: {source.meta.facts} would take about {byte_size(size)}")
            return
        with _progress_bar() as progress:
            report = build_neural_store(
                source,
                path,
                Path(neural),
                replace=options.replace,
                progress=lambda done, total: progress(Stage.BUILD, done, total),
            )
    say(
        f"{path}: {report.meta.facts}, {counted(report.nodes, 'chunks')}, "
        f"{byte_size(report.store_bytes)}, {report.seconds:.1f} s"
    )


def _require_store_name(path: Path, scene: str, *, is_neural: bool) -> None:
    """Refuse the name of a scene file, which would become a folder that nobody expects.

    Raises:
        OutputError: If it is one.
    """
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        return
    remedy = f"name it {path.with_suffix(STORE_SUFFIX).name}"
    if suffix == PLY_SUFFIX and is_neural:
        remedy += "; belvedere bake writes a .ply file of Gaussians"
    elif suffix == PLY_SUFFIX and SceneChoice.of(scene, 0).is_town:
        remedy += "; belvedere town writes the town as a .ply file"
    raise OutputError(
        f"{path}: build writes a store, which is a folder, no {suffix} file; {remedy}"
    )


def interrupted_line(path: Path) -> str:
    """What becomes of a build that was interrupted, for people."""
    return f"interrupted; {what_is_left(partial_folder(path))}"


def default_output(scene: str) -> Path:
    """Where the store of a scene goes if nobody says: in the current folder."""
    path = Path(scene)
    if path.name in ("lod-meta.json", "meta.json"):
        path = path.resolve().parent
    name = path.name.split(":")[0] if path.name.startswith("town:") else path.name
    stem = name.split(".")[0] if not os.path.isdir(path) else name
    if not stem:
        raise OutputError(f"{scene}: name the store to be written with -o")
    return Path(stem + STORE_SUFFIX)


def estimate_line(path: Path, estimate: BuildEstimate) -> str:
    """A dry run's result, for people."""
    scratch = estimate.scratch_bytes
    meanwhile = f", and {byte_size(scratch)} while it is built" if scratch else ""
    return (
        f"{path}: {counted(estimate.gaussians, 'Gaussians')}, SH degree {estimate.sh_degree}, "
        f"would take about {byte_size(estimate.store_bytes)}{meanwhile}; "
        f"{byte_size(estimate.free_bytes)} are free"
    )


def report_line(report: BuildReport) -> str:
    """A build's result, for people."""
    each = report.store_bytes / report.gaussians
    dropped = f" ({report.dropped:,} unusable left out)" if report.dropped else ""
    continued = ", continued" if report.resumed else ""
    return (
        f"{report.path}: {counted(report.gaussians, 'Gaussians')}{dropped}, "
        f"{counted(report.nodes, 'chunks')} in {counted(report.levels, 'levels')}, "
        f"{byte_size(report.store_bytes)}, {each:.1f} bytes each, "
        f"{report.seconds:.1f} s{continued}"
    )


@contextlib.contextmanager
def _progress_bar() -> Iterator[BuildProgress]:
    """A bar on standard error, one row a stage; off a terminal a line now and then."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskID,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        with status_line() as status:
            yield lambda stage, done, total: status(done / max(total, 1), stage.value)
        return
    bar = Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:>22}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    rows: dict[Stage, TaskID] = {}

    def progress(stage: Stage, done: int, total: int) -> None:
        if stage not in rows:
            rows[stage] = bar.add_task(stage.value, total=total, rate="")
        row = bar.tasks[rows[stage]]
        counted = stage in (Stage.READ, Stage.BUILD)
        rate = f"{row.speed / 1e6:.2f} M Gaussians/s" if counted and row.speed else ""
        bar.update(rows[stage], completed=done, total=total, rate=rate)

    with bar:
        yield progress
