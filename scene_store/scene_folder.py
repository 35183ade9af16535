"""From a path or an address to a reader of the folder there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scene_store.range_reader import FolderReader, RangeReader
from scene_store.remote.address import is_remote

if TYPE_CHECKING:
    from scene_store.remote.options import RemoteOptions


def read_folder(
    path: str | os.PathLike[str], main_file: str, remote: RemoteOptions | None = None
) -> tuple[RangeReader, Path | str]:
    """A reader of a folder, and where that is, without secrets. Nothing is read yet.

    Args:
        path: The folder, or ``main_file`` in it, or the address of either.
        main_file: What such a folder is known by.
        remote: How to deal with servers; the defaults if None.

    Raises:
        SceneNotFoundError: If it is no address that can be read.
        BackendUnavailable: If reading it needs a package that is not installed.
    """
    text = os.fspath(path)
    if is_remote(text):
        from scene_store.remote.opening import open_folder  # loads network libraries

        return open_folder(text, main_file, remote)
    place = Path(path)
    if place.name == main_file:
        place = place.parent
    return FolderReader(place), place
