"""``belvedere town``: the built-in town as a file that every 3DGS tool reads."""

from __future__ import annotations

from pathlib import Path

from scene_store.formats.ply import write_ply
from splat.errors import SettingsError
from viewer.image_files import check_target

TOWN_SH_DEGREE = 2


def write_town(path: Path, count: int) -> None:
    """Write a town of ``count`` Gaussians as a 3DGS PLY, in bounded memory.

    Raises:
        OutputError: If the file cannot be written.
        SettingsError: If the count is too small for a town.
    """
    from scene_store.town import town_batches

    check_target(path, (".ply",))
    try:
        batches = town_batches(count, sh_degree=TOWN_SH_DEGREE)
    except ValueError as error:
        raise SettingsError(f"--gaussians: {error}") from None
    write_ply(path, batches, count, TOWN_SH_DEGREE)
