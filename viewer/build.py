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
from scene_store.remote.address import Address, is_remote
from scene_store.store_folder import partial_folder
from splat.errors import OutputError, SceneError
from viewer.status_line import status_line
from viewer.text import byte_size

logger = logging.getLogger(__name__)

STORE_SUFFIX = ".bvs"

Say = Callable[[str], None]


def build(
    scenes: Sequence[str],
    output: Path | None,
    options: BuildOptions,
    say: Say,
    *,
    dry_run: bool = False,
) -> None:
    """Builds a store, with a progress bar on a terminal, or says what it would take.

    Args:
        scenes: Files, folders, ``town`` or ``town:N``; in the same coordinates.
        output: The store; None for the first scene's name beside it, ending in ``.bvs``.
        options: How to build.
        say: Hears the last line.
        dry_run: Whether to write nothing.

    Raises:
        BelvedereError: If it cannot be done.
        KeyboardInterrupt: With what the user should know, after Ctrl-C.
    """
    for scene in filter(is_remote, scenes):
        raise SceneError(
            f"{Address.of(scene).shown()}: build reads local scenes; download it first"
        )
    path = output if output is not None else default_output(scenes[0])
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
        f"{path}: {estimate.gaussians:,} Gaussians, SH degree {estimate.sh_degree}, would take "
        f"about {byte_size(estimate.store_bytes)}{meanwhile}; {byte_size(estimate.free_bytes)} "
        f"are free"
    )


def report_line(report: BuildReport) -> str:
    """A build's result, for people."""
    each = report.store_bytes / report.gaussians
    dropped = f" ({report.dropped:,} unusable left out)" if report.dropped else ""
    continued = ", continued" if report.resumed else ""
    return (
        f"{report.path}: {report.gaussians:,} Gaussians{dropped}, {report.nodes:,} chunks in "
        f"{report.levels} levels, {byte_size(report.store_bytes)}, {each:.1f} bytes each, "
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
