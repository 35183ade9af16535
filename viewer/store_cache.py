"""Stores that the viewer made of large files, kept for the next time within a budget of bytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scene_store.build.interrupted import begun_scenes
from scene_store.build.sources import Fingerprint
from scene_store.manifest import MANIFEST_FILE, parse_manifest
from scene_store.store import STORE_SUFFIX, is_store
from scene_store.store_folder import PARTIAL_SUFFIX
from scene_store.user_cache import cache_folder
from splat.errors import SceneFormatError

log = logging.getLogger(__name__)

LOCK_SUFFIX = ".lock"

# Counted up when a store is built in another way, so that old ones are not used.
RECIPE = 6
# After so long nobody is expected to go on with a build.
UNFINISHED_DAYS = 30


@dataclass(frozen=True, slots=True)
class CachedStore:
    """A store of the cache, or what an unfinished build left of one.

    Attributes:
        path: Its folder.
        used_ns: When it was last used or written, since the epoch.
        size_bytes: Of all its files.
    """

    path: Path
    used_ns: int
    size_bytes: int

    @property
    def is_finished(self) -> bool:
        """Whether it is a store."""
        return self.path.suffix != PARTIAL_SUFFIX

    def scenes(self) -> tuple[str, ...]:
        """What it is made of, as people call it; empty if it cannot be told."""
        if not self.is_finished:
            return begun_scenes(self.path)
        try:
            manifest = parse_manifest(self.path, (self.path / MANIFEST_FILE).read_bytes())
        except (OSError, SceneFormatError):
            return ()
        return tuple(source.path for source in manifest.info.sources)


class StoreCache:
    """Finished and half-finished stores, by what they were built from.

    A store in use, or being built, is locked by a file beside it and stays. What cannot be
    continued of an unfinished one, or nobody has continued for ``UNFINISHED_DAYS``, is removed as
    soon as another is built, and so are, of all, the least recently used if they take too much.

    Args:
        budget_bytes: What all may take.
        folder: Where they are.
    """

    def __init__(self, budget_bytes: int, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder("stores")
        self.budget_bytes = budget_bytes

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
        """Be the only one to build a store, with room made for it; False if somebody else is.

        Raises:
            OSError: If nothing can be written here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(_partial(path), fcntl.LOCK_EX) as locked:
            if locked:
                self.make_room(path)
            yield locked

    def unfinished(self, path: Path) -> CachedStore | None:
        """What a build of a store left that can be continued; what cannot be is removed, unless
        somebody is at work on it."""
        partial = _partial(path)
        if begun_scenes(partial):
            return next((entry for entry in self.entries() if entry.path == partial), None)
        if partial.is_dir():
            self.remove(partial)
        return None

    def remove(self, path: Path) -> bool:
        """Remove a store, finished or not, unless somebody uses it. Returns whether it is gone."""
        with contextlib.suppress(OSError), self._locked(path, fcntl.LOCK_EX) as free:
            if free:
                shutil.rmtree(path, ignore_errors=True)
            return free
        return False

    def remove_locks(self) -> None:
        """Remove what locked stores that are gone, unless somebody holds it."""
        with contextlib.suppress(OSError):
            for lock in self.folder.glob(f"*{LOCK_SUFFIX}"):
                path = lock.with_name(lock.name[: -len(LOCK_SUFFIX)])
                with contextlib.suppress(OSError), self._locked(path, fcntl.LOCK_EX) as free:
                    if free and not path.exists():
                        lock.unlink()

    def make_room(self, keep: Path) -> None:
        """Remove the least recently used stores until all fit the budget, and all that is left of
        builds that nobody goes on with; ``keep`` stays.

        Others may do the same at the same time."""
        entries = [e for e in self.entries() if e.path not in (keep, _partial(keep))]
        kept = [path for path in (keep, _partial(keep)) if path.is_dir()]
        total = sum(e.size_bytes for e in entries) + sum(_measured(path)[0] for path in kept)
        given_up = [entry for entry in entries if _is_given_up(entry)]
        for entry in (*given_up, *(entry for entry in entries if entry not in given_up)):
            if total <= self.budget_bytes and entry not in given_up:
                return
            if self.remove(entry.path):
                log.info("%s: removed to make room for other stores", entry.path)
                total -= entry.size_bytes

    def entries(self) -> list[CachedStore]:
        """All that is here, the least recently used first."""
        ends = (STORE_SUFFIX, STORE_SUFFIX + PARTIAL_SUFFIX)
        entries = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):  # somebody else removed it
                    status = path.lstat()
                    if stat.S_ISDIR(status.st_mode) and path.name.endswith(ends):
                        size, written_ns = _measured(path)
                        # Using a finished one is noted on its folder; its files stay as they are.
                        finished = path.suffix != PARTIAL_SUFFIX
                        used_ns = status.st_mtime_ns if finished else written_ns
                        entries.append(CachedStore(path, used_ns, size))
        return sorted(entries, key=lambda entry: entry.used_ns)

    @contextlib.contextmanager
    def _locked(self, path: Path, kind: int) -> Iterator[bool]:
        """Holds a lock beside ``path``; False if others hold it, or there are no locks here.

        Raises:
            OSError: If its file cannot be written.
        """
        lock = path.with_name(path.name + LOCK_SUFFIX)
        while True:
            with lock.open("a") as file:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                    held = True
                except BlockingIOError:
                    held = False
                except OSError:  # a file system without locks: nothing is removed there
                    held = kind == fcntl.LOCK_SH
                if held and not _is_there(lock, file):
                    continue  # it was removed just before it was locked: others lock another
                yield held
                return


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL_SUFFIX)


def _is_there(path: Path, file: IO[str]) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


def _is_given_up(entry: CachedStore) -> bool:
    if entry.is_finished:
        return False
    age_ns = time.time_ns() - entry.used_ns
    return age_ns > UNFINISHED_DAYS * 86_400 * 10**9 or not begun_scenes(entry.path)


def _measured(folder: Path) -> tuple[int, int]:
    """Bytes of all files in it, and when the newest of them was written; what somebody removes
    meanwhile, be it a folder, does not count."""
    total = newest_ns = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(inside, name))
                total += status.st_size
                newest_ns = max(newest_ns, status.st_mtime_ns)
    return total, newest_ns
