"""The folder of a store: where it lies while it is written, and how it gets its name.

Nothing is ever removed here that a store writer did not write: a folder is taken, or replaced,
only if it holds nothing else, and files are removed by their names.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from scene_store.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MODEL_FILE,
    NODES_FILE,
    parse_manifest,
)
from splat.errors import OutputError, SceneFormatError

logger = logging.getLogger(__name__)

SCRATCH_FOLDER = "scratch"
LOCK_FILE = "lock"
PARTIAL_SUFFIX = ".partial"
_PAGE_FILE = re.compile(r"(geometry|sh)-[0-9]{2}\.bin")
_TAKE_ATTEMPTS = 100

# renameat2 of Linux: both names exist and change places at once, or the new one must be free.
_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def page_name(stream: str, level: int) -> str:
    """Of the file that holds a level's ``geometry`` or ``sh``."""
    return f"{stream}-{level:02d}.bin"


def store_target(path: str | os.PathLike[str]) -> Path:
    """The folder that the store ``path`` is, or will be: where a link points to.

    Raises:
        OutputError: If it is no name for a new folder.
    """
    try:
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        is_name = False
    if not is_name:
        raise OutputError(f"{os.fspath(path)!r}: cannot write: not a folder's name")
    target = Path(path)
    if os.path.islink(target):
        target = Path(os.path.realpath(target))
    if target.name in ("", ".."):
        raise OutputError(f"{os.fspath(path)!r}: is no name for a store; choose one such as my.bvs")
    return target


def partial_folder(path: str | os.PathLike[str]) -> Path:
    """Where the store ``path`` lies until it is complete.

    Raises:
        OutputError: If that is no name for a store.
    """
    target = store_target(path)
    return target.with_name(target.name + PARTIAL_SUFFIX)


def is_unfinished_store(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is what a build that was interrupted left, or is writing now."""
    path = Path(folder)
    if path.suffix != PARTIAL_SUFFIX or not path.is_dir():
        return False
    try:
        return _is_unfinished(list(os.scandir(path)))
    except OSError:
        return False


def scratch_folder(path: str | os.PathLike[str]) -> Path:
    """Where the build of the store ``path`` keeps files of its own.

    Raises:
        OutputError: If that is no name for a store.
    """
    return partial_folder(path) / SCRATCH_FOLDER


def require_place(path: str | os.PathLike[str]) -> Path:
    """The target of a store that can be written where it is to be.

    Raises:
        OutputError: If its name makes no sense, or there is no such folder.
    """
    target = store_target(path)
    if not os.path.isdir(target.parent):
        raise OutputError(
            f"{path}: cannot write: the folder {target.parent} does not exist; create it"
        )
    return target


def require_free(path: str | os.PathLike[str], replace: bool) -> Path:
    """The target of a store that can be written without any loss.

    What a build that was killed at the very end left in a finished store is removed from it.

    Args:
        path: The store to be.
        replace: Whether a store of that name may be replaced. What is not a store, or holds
            more than one, may not.

    Raises:
        OutputError: If the name is taken, or there is no such folder.
    """
    target = require_place(path)
    if not os.path.lexists(target):
        return target
    try:
        os.lstat(target / MANIFEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise OutputError(f"{path}: exists and is not a store; choose another name") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not replace:
        _tidy_unused(target)
        raise OutputError(
            f"{path}: exists already; remove it, choose another name, or replace it with "
            "--overwrite"
        )
    foreign = _names_in(target, path) - names_of_store(target, path)
    if foreign:
        raise OutputError(
            f"{path}: holds {min(foreign)!r}, which is no part of a store; move it elsewhere "
            f"or choose another name"
        )
    if not os.access(target, os.W_OK | os.X_OK):
        raise OutputError(
            f"{path}: cannot be replaced (permission denied); change its permissions or choose "
            f"another name"
        )
    return target


def names_of_store(folder: Path, path: str | os.PathLike[str]) -> set[str]:
    """What a finished store may hold, by its manifest.

    Raises:
        OutputError: If it is not a store.
    """
    try:
        with open(folder / MANIFEST_FILE, "rb") as file:
            manifest = parse_manifest(file.name, file.read(MAX_MANIFEST_BYTES + 1))
    except SceneFormatError as error:
        raise OutputError(
            f"{path}: exists and is not a store ({error.problem}); choose another name, "
            f"or remove it if nobody needs it"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    return {MANIFEST_FILE, LOCK_FILE, SCRATCH_FOLDER, *(page.name for page in manifest.files)}


def _names_in(folder: Path, path: str | os.PathLike[str]) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | os.PathLike[str], error: OSError) -> OutputError:
    reason = os.strerror(error.errno or 0)
    return OutputError(f"{path}: exists and cannot be read ({reason}); choose another name")


class PartialFolder:
    """The folder of an unfinished store, locked for as long as this process lives.

    Args:
        path: The store to be.

    Raises:
        OutputError: If something else has its name, or another writer is at work on it.
        OSError: If it cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self.folder = partial_folder(path)
        self._lock = self._take()
        self.scratch.mkdir(exist_ok=True)

    @property
    def scratch(self) -> Path:
        """For files of the build itself."""
        return self.folder / SCRATCH_FOLDER

    def remove_all_but(self, names: Iterable[str]) -> None:
        """Removes all files of a store and the scratch folder, except those named.

        Raises:
            OSError: If one cannot be removed.
        """
        kept = {*names, LOCK_FILE}
        # The manifest is what makes a folder a store, so it goes first.
        for name in sorted(os.listdir(self.folder), key=lambda name: name != MANIFEST_FILE):
            if _is_written_name(name) and name not in kept:
                _remove(self.folder / name)

    def discard(self) -> None:
        """Removes the folder; what somebody else put there stays."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            self.remove_all_but(())
            # Under the lock, so that no other build can lose what it writes.
            os.unlink(self.folder / LOCK_FILE)
            os.rmdir(self.folder)
        self.release()

    def become(self, target: Path, manifest: Path, *, replace: bool) -> None:
        """Gives the finished store its name, and removes what belongs to the build.

        Args:
            target: The name, as ``require_free`` returned it.
            manifest: A file in ``scratch`` that is moved to its place at the last moment.
            replace: Whether a store of that name may be replaced.

        Raises:
            OutputError: If the name was taken meanwhile.
            OSError: If it cannot be renamed. The folder stays what it was, no store.
        """
        require_free(self._path, replace)
        os.rename(manifest, self.folder / MANIFEST_FILE)
        flush_folder(self.folder)
        try:
            if os.path.lexists(target):
                self._replace(target)
            else:
                _rename(self.folder, target, _RENAME_NOREPLACE)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rename(self.folder / MANIFEST_FILE, manifest)
            raise
        flush_folder(target.parent)
        _tidy(target)
        self.release()

    def release(self) -> None:
        """Lets others write; the folder stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _replace(self, target: Path) -> None:
        """Changes places with the old store, and removes that."""
        names = names_of_store(target, self._path)
        # With a lock in it, what is left of it by a kill is known as ours.
        lock = os.open(target / LOCK_FILE, _LOCK_FLAGS, 0o666)
        try:
            _lock_quietly(lock)
            old = self._exchange(target)
            try:
                _remove_known(old, (MANIFEST_FILE, *(names - {LOCK_FILE}), LOCK_FILE))
                os.rmdir(old)
            except OSError as error:
                logger.warning(
                    "%s: what is left of the replaced store could not be removed (%s)",
                    old,
                    os.strerror(error.errno or 0),
                )
        finally:
            os.close(lock)

    def _exchange(self, target: Path) -> Path:
        """Where the old store is then."""
        try:
            _renameat2(self.folder, target, _RENAME_EXCHANGE)
            return self.folder
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
        old = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        os.rename(target, old)
        try:
            os.rename(self.folder, target)
        except BaseException:
            os.rename(old, target)
            raise
        return old

    def _take(self) -> int | None:
        """A handle that holds the folder's lock."""
        for _ in range(_TAKE_ATTEMPTS):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder)
            self._require_ours()
            try:
                handle = os.open(self.folder / LOCK_FILE, _LOCK_FLAGS, 0o666)
            except FileNotFoundError:  # it was finished or removed just now
                continue
            if not _lock_quietly(handle):
                os.close(handle)
                break
            if _is_same(handle, self.folder / LOCK_FILE):
                return handle
            os.close(handle)
        raise OutputError(
            f"{self._path}: another build is writing it; wait for it or choose another name"
        )

    def _require_ours(self) -> None:
        """Sees that the folder is new, or what a writer left."""
        try:
            if stat.S_ISDIR(os.lstat(self.folder).st_mode):
                entries = list(os.scandir(self.folder))
                if not entries or _is_unfinished(entries):
                    return
        except FileNotFoundError:
            return
        raise OutputError(
            f"{self.folder}: exists and is not an unfinished store; move it elsewhere or choose "
            f"another name"
        )


_LOCK_FLAGS = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


def _is_unfinished(entries: list[os.DirEntry[str]]) -> bool:
    for entry in entries:
        as_folder = entry.name == SCRATCH_FOLDER
        is_right = entry.is_dir if as_folder else entry.is_file
        if not _is_written_name(entry.name) or not is_right(follow_symlinks=False):
            return False
    return any(entry.name == LOCK_FILE for entry in entries)


def _is_written_name(name: str) -> bool:
    known = (MANIFEST_FILE, NODES_FILE, MODEL_FILE, LOCK_FILE, SCRATCH_FOLDER)
    return name in known or _PAGE_FILE.fullmatch(name) is not None


def _lock_quietly(handle: int) -> bool:
    """Whether nobody else holds the lock; some network file systems know none, and a build must
    be possible there."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


def _tidy(store: Path) -> None:
    """Removes from a finished store what belongs to its build."""
    try:
        _remove_known(store, (SCRATCH_FOLDER, LOCK_FILE))
    except OSError as error:
        logger.warning(
            "%s: could not be removed (%s)", store / SCRATCH_FOLDER, os.strerror(error.errno or 0)
        )


def _tidy_unused(store: Path) -> None:
    """The same of a store whose build was killed, if it was."""
    try:
        handle = os.open(store / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if _lock_quietly(handle):
            _tidy(store)
    finally:
        os.close(handle)


def _remove_known(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            _remove(folder / name)


def _remove(path: Path) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _rename(source: Path, target: Path, flags: int) -> None:
    """With the flags where the system has them; without where it has not."""
    try:
        _renameat2(source, target, flags)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        os.rename(source, target)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    """``renameat2(2)``; ``ENOSYS`` where there is none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None or not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = (os.fsencode(source), os.fsencode(target))
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(target))


def flush_folder(folder: Path) -> None:
    """The names in it; not every file system can, and the files are complete without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
