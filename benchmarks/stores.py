"""Stores of the benchmarks' scenes: built once, kept while they are needed, opened cold.

Benchmarks of streaming measure a store, not a scene in memory. It is built with all levels
merged by ``belvedere build`` (``--rebuild-lod``), also where the source brings its own, and lies
in the folder that ``--work`` names, or in one that is removed at the end. A store that is found
in that folder is used as it is: after a change to the build, remove it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.scenes import data_folder, town_count
from scene_store.build import BuildOptions, build_store
from scene_store.store import STORE_SUFFIX, Store, is_store, open_store
from splat.closing import Closing
from splat.errors import SceneNotFoundError

CACHED_FILES = "*.bin"


class StoreShelf(Closing):
    """The folder of stores; a context manager.

    Args:
        work: Where stores stay; None for a folder that goes with this.
    """

    def __init__(self, work: Path | None) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if work is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="belvedere-bench-")
            work = Path(self._temporary.name)
        work.mkdir(parents=True, exist_ok=True)
        self.folder = work

    def path(self, scene: str) -> Path:
        """Where the store of a scene is, or will be; a scene that is a store is its own.

        Raises:
            SettingsError: If the name makes no sense.
        """
        if is_store(scene):
            return Path(scene)
        return self.folder / (_file_name(scene) + STORE_SUFFIX)

    def store(self, scene: str) -> Path:
        """The store of a scene of ``benchmarks.scenes``; built if it is not there yet.

        Raises:
            SceneError: If the scene cannot be read.
            OutputError: If the store cannot be written.
        """
        path = self.path(scene)
        if not is_store(path):
            build_store([source_of(scene)], path, BuildOptions(rebuild_lod=True))
        return path

    def close(self) -> None:
        """Removes what nobody asked to keep."""
        if self._temporary is not None:
            self._temporary.cleanup()


def source_of(scene: str) -> str:
    """What ``belvedere build`` reads for a scene of ``benchmarks.scenes``.

    Raises:
        SceneNotFoundError: If there is no such file.
        SettingsError: If it begins like a town's name and goes on like none.
    """
    count = town_count(scene)
    if count is not None:
        return f"town:{count}"
    path = data_folder() / "park" / "lod-meta.json" if scene == "park" else Path(scene)
    if not path.exists():
        raise SceneNotFoundError(f"{path}: no such file or folder")
    return str(path)


def store_bytes(path: Path) -> int:
    """Of all files of a store."""
    return sum(file.stat().st_size for file in path.iterdir())


def open_cold(path: Path) -> Store:
    """A store whose files the system no longer holds in memory, as far as it can be told."""
    for file in path.glob(CACHED_FILES):
        drop_from_cache(file)
    return open_store(path)


def drop_from_cache(file: Path) -> None:
    """Asks the system to forget a file's pages; what is not yet on the disk goes there first."""
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _file_name(scene: str) -> str:
    count = town_count(scene)
    if count is not None:
        return f"town-{count}"
    path = Path(scene)
    title = path.parent.name if path.name.endswith("meta.json") else path.name
    return title.split(".")[0] or "scene"
