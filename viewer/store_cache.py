"""Stores that the viewer made of large files, kept for the next time within a budget of bytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from scene_store.build.sources import Fingerprint
from scene_store.store import STORE_SUFFIX, is_store

log = logging.getLogger(__name__)

# Counted up when a store is built in another way, so that old ones are not used.
RECIPE = 5
PARTIAL_SUFFIX = ".partial"


def cache_folder() -> Path:
    """Where stores are kept: the user's folder for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "belvedere" / "stores"


class StoreCache:
    """Finished and half-finished stores, by what they were built from.

    A store in use, or being built, is locked by a file beside it and stays.

    Args:
        budget_bytes: What all may take; the least recently used go first.
        folder: Where they are.
    """

    def __init__(self, budget_bytes: int, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder()
        self._budget = budget_bytes

    def path_of(self, scene: str) -> Path:
        """Where the store of a scene is, or would be; another one for changed files.

        Args:
            scene: As ``SceneChoice.source_name`` has it.

        Raises:
            SceneError: If the scene has too many files.
        """
        digest = hashlib.sha256(f"{RECIPE}\n{scene}\n".encode())
        for file in Fingerprint.of([scene]).all_files:
            digest.update(f"{file.path}\0{file.size_bytes}\0{file.modified_ns}\n".encode())
        return self.folder / f"{digest.hexdigest()[:24]}{STORE_SUFFIX}"

    def has(self, path: Path) -> bool:
        """Whether the store is there."""
        return is_store(path)

    @contextlib.contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """Keep a store from being removed, and note that it was used."""
        with self._locked(path, fcntl.LOCK_SH):
            with contextlib.suppress(OSError):
                os.utime(path)
            yield

    @contextlib.contextmanager
    def building(self, path: Path) -> Iterator[bool]:
        """Be the only one to build a store; False if somebody else is.

        Raises:
            OSError: If nothing can be written here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(_partial(path), fcntl.LOCK_EX) as locked:
            yield locked

    def remove(self, path: Path) -> None:
        """A store that is of no use."""
        shutil.rmtree(path, ignore_errors=True)

    def make_room(self, keep: Path) -> None:
        """Remove the least recently used stores until all fit the budget; ``keep`` stays."""
        entries = sorted(self._entries(), key=lambda entry: entry.stat().st_mtime)
        sizes = {entry: _bytes_of(entry) for entry in entries}
        total = sum(sizes.values())
        for entry in entries:
            if total <= self._budget:
                return
            if entry in (keep, _partial(keep)):
                continue
            with self._locked(entry, fcntl.LOCK_EX) as free:
                if free:
                    log.info("%s: removed to make room for other stores", entry)
                    self.remove(entry)
                    total -= sizes[entry]

    def _entries(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        ends = (STORE_SUFFIX, STORE_SUFFIX + PARTIAL_SUFFIX)
        return [
            path for path in self.folder.iterdir() if path.is_dir() and path.name.endswith(ends)
        ]

    @contextlib.contextmanager
    def _locked(self, path: Path, kind: int) -> Iterator[bool]:
        """Holds a lock beside ``path``; False if others hold it."""
        with path.with_name(path.name + ".lock").open("a") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL_SUFFIX)


def _bytes_of(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total
