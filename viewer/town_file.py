"""``belvedere town``: the built-in town as a file that every 3DGS tool reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scene_store.formats.ply import ply_bytes, ply_record_bytes, write_ply
from splat.errors import OutputError, SettingsError
from splat.gaussians import Gaussians
from viewer.image_files import check_target
from viewer.status_line import status_line
from viewer.text import byte_size

if TYPE_CHECKING:
    from rich.console import Console

TOWN_SH_DEGREE = 2


def write_town(path: Path, count: int) -> None:
    """Write a town of ``count`` Gaussians as a 3DGS PLY, in bounded memory.

    On standard error a progress bar shows how far it is; off a terminal a line now and then.

    Raises:
        OutputError: If the file cannot be written, or the disk has no room for it.
        SettingsError: If the count is too small or too large for a town.
    """
    from scene_store.town import town_batches

    check_target(path, (".ply",))
    try:
        batches = town_batches(count, sh_degree=TOWN_SH_DEGREE)
    except ValueError as error:
        raise SettingsError(f"--gaussians: {error}") from None
    _require_disk(path, count)
    write_ply(path, _with_progress(batches, count), count, TOWN_SH_DEGREE)


def _require_disk(path: Path, count: int) -> None:
    """Refuses what the disk has no room for. A file that is replaced stays until the end."""
    needed = ply_bytes(count, TOWN_SH_DEGREE)
    free = shutil.disk_usage(path.resolve().parent).free
    if needed > free:
        fits = max(0, count + (free - needed) // ply_record_bytes(TOWN_SH_DEGREE))
        raise OutputError(
            f"{path}: {count:,} Gaussians take {byte_size(needed)}, and the disk has "
            f"{byte_size(free)} free, enough for {fits:,}; ask for fewer or choose another folder"
        )


def _with_progress(batches: Iterable[Gaussians], count: int) -> Iterator[Gaussians]:
    """The same batches, while standard error tells how many there were."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        yield from _with_bar(batches, count, console)
        return
    done = 0
    with status_line() as status:
        for batch in batches:
            yield batch
            done += len(batch)
            status(done / count, f"Building {count:,} Gaussians")


def _with_bar(batches: Iterable[Gaussians], count: int, console: Console) -> Iterator[Gaussians]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "Building the town",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("town", total=count)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))
