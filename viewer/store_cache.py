"""Stores that the viewer made of large files, kept for the next time within a budget of bytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scene_store.build.sources import Fingerprint
from scene_store.store import STORE_SUFFIX, is_store
from scene_store.user_cache import cache_folder

log = logging.getLogger(__name__)

# Counted up when a store is built in another way, so that old ones are not used.
RECIPE = 6
PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A store, finished or not, and when it was last used."""

    path: Path
    used_ns: int
    size_bytes: int


class StoreCache:
    """Finished and half-finished stores, by what they were built from.

    A store in use, or being built, is locked by a file beside it and stays.

    Args:
        budget_bytes: What all may take; the least recently used go first.
        folder: Where they are.
    """

    def __init__(self, budget_bytes: int, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder("stores")
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
    def using(self, path: Path) -> Iterator[bool]:
        """Keep a store from being removed, and note that it was used.

        False if somebody is removing it. Where nothing can be locked, as in a folder that can
        only be read, nobody removes it either.
        """
        with contextlib.ExitStack() as stack:
            held = True
            with contextlib.suppress(OSError):
                held = stack.enter_context(self._locked(path, fcntl.LOCK_SH))
                os.utime(path)
            yield held

    @contextlib.contextmanager
    def building(self, path: Path) -> Iterator[bool]:
        """Be the only one to build a store; False if somebody else is.

        Raises:
            OSError: If nothing can be written here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(_partial(path), fcntl.LOCK_EX) as locked:
            yield locked

    def remove(self, path: Path) -> bool:
        """Remove a store unless somebody uses it. Returns whether it is gone."""
        with contextlib.suppress(OSError), self._locked(path, fcntl.LOCK_EX) as free:
            if free:
                shutil.rmtree(path, ignore_errors=True)
            return free
        return False

    def make_room(self, keep: Path) -> None:
        """Remove the least recently used stores until all fit the budget; ``keep`` stays.

        Others may do the same at the same time."""
        entries = self._entries()
        total = sum(entry.size_bytes for entry in entries)
        for entry in sorted(entries, key=lambda entry: entry.used_ns):
            if total <= self._budget:
                return
            if entry.path not in (keep, _partial(keep)) and self.remove(entry.path):
                log.info("%s: removed to make room for other stores", entry.path)
                total -= entry.size_bytes

    def _entries(self) -> list[_Entry]:
        ends = (STORE_SUFFIX, STORE_SUFFIX + PARTIAL_SUFFIX)
        entries = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):  # somebody else removed it
                    status = path.lstat()
                    if stat.S_ISDIR(status.st_mode) and path.name.endswith(ends):
                        entries.append(_Entry(path, status.st_mtime_ns, _bytes_of(path)))
        return entries

    @contextlib.contextmanager
    def _locked(self, path: Path, kind: int) -> Iterator[bool]:
        """Holds a lock beside ``path``; False if others hold it, or there are no locks here.

        Raises:
            OSError: If its file cannot be written.
        """
        with path.with_name(path.name + ".lock").open("a") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                held = False
            except OSError:  # a file system without locks: nothing is removed there
                held = kind == fcntl.LOCK_SH
            yield held


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL_SUFFIX)


def _bytes_of(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total
