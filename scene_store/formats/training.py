"""A training output folder: ``point_cloud/iteration_N/point_cloud.ply`` of the newest N.

``cameras.json`` beside it gives the training cameras. ``cfg_args`` is Python source and is
never read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from scene_store.formats.ply import PlySource

_ITERATION = re.compile(r"iteration_(\d{1,12})")
_PLY = "point_cloud.ply"


def newest_iteration(folder: Path) -> Path | None:
    """The newest ``point_cloud.ply`` of a training folder, or None if it is not one.

    The folder may also be ``point_cloud`` or ``iteration_N`` itself.
    """
    if (folder / _PLY).is_file():
        return folder / _PLY
    for parent in (folder / "point_cloud", folder):
        found = [
            (int(match[1]), child / _PLY)
            for child in (parent.iterdir() if parent.is_dir() else ())
            if (match := _ITERATION.fullmatch(child.name)) and (child / _PLY).is_file()
        ]
        if found:
            return max(found)[1]
    return None


def open_training_folder(folder: Path, ply: Path, lod: int | None = None) -> PlySource:
    """The scene of a training folder, named by the folder and with its cameras."""
    source = PlySource(ply, lod)
    iteration = ply.parent.name if ply.parent != folder else ""
    notes = (f"read from {ply.relative_to(folder)}",) if iteration else ()
    source.meta = replace(
        source.meta,
        path=folder,
        format_name=f"{source.meta.format_name} training folder",
        notes=(*notes, *source.meta.notes),
    )
    return source
