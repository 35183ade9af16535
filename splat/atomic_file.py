"""Files that are whole or absent: what a reader meets under a name is always complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from splat.errors import OutputError

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some of your quota or choose another folder",
    errno.EFBIG: "choose a file system and limits (ulimit -f) that allow so large a file",
    errno.EACCES: "change the folder's permissions or choose another one",
    errno.EPERM: "change the folder's permissions or choose another one",
    errno.EROFS: "choose a folder that is not read-only",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_ANOTHER_FOLDER = "choose another folder"


@contextlib.contextmanager
def atomic_file(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary file that takes the name ``path`` when the block ends well.

    The temporary is empty, beside its target and has the same suffix, so that encoders which
    look at names serve. It has the permissions of any new file. When the block ends, it is
    flushed to the disk and renamed; after any exception, Ctrl-C among them, it is removed, and
    what had the name before is as it was. A link is followed: the file it points to is replaced.

    Args:
        path: The file to write.

    Yields:
        The temporary's path, to be written by any means and closed again in the block.

    Raises:
        OutputError: If the file cannot be written: a missing folder, no permission, a full
            disk, a target that is a folder or a device. An ``OSError`` of the block that
            names some other file is not about the target and passes.
    """
    with atomic_files([path]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def atomic_files(paths: Sequence[str | PathLike[str]]) -> Iterator[tuple[Path, ...]]:
    """Files that belong together: as ``atomic_file``, and all of them appear, or none.

    No name changes before all are on the disk. Should one of the last steps, the renames, still
    fail, the files that had their names already are removed: no half of a set is left.

    Args:
        paths: The files to write, no two of them the same.

    Yields:
        The temporaries' paths, in the order of ``paths``.

    Raises:
        OutputError: As ``atomic_file``, naming the first file that it can be about.
    """
    targets = [Path(path) for path in paths]
    followed = [_followed(target) for target in targets]
    temporaries = [_temporary_beside(file) for file in followed]
    try:
        for target, temporary in zip(targets, temporaries, strict=True):
            _create(target, temporary)
        yield tuple(temporaries)
        for temporary in temporaries:
            _flush(temporary)
        _rename_all(temporaries, followed)
    except BaseException as error:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink()
        for target, temporary in zip(targets, temporaries, strict=True):
            if isinstance(error, OSError) and _is_about(error, temporary):
                raise cannot_write(target, error) from None
        raise


def check_writable(path: str | PathLike[str]) -> None:
    """Sees, before any work is done, whether ``atomic_file`` could begin to write ``path``.

    Raises:
        OutputError: If it could not.
    """
    target = Path(path)
    temporary = _temporary_beside(_followed(target))
    try:
        _create(target, temporary)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _followed(target: Path) -> Path:
    """The file itself where ``target`` is a link to it."""
    try:
        return Path(os.path.realpath(target))
    except ValueError:  # a null byte, or half of a surrogate pair
        raise OutputError(f"{str(target)!r}: cannot write: not a file's name") from None


def _temporary_beside(file: Path) -> Path:
    """A name that nobody else has; short, so that a long one of the target leaves room."""
    return file.parent / f".{secrets.token_hex(16)}{file.suffix[:64]}"


def _create(target: Path, temporary: Path) -> None:
    """An empty temporary, if the target could be replaced by it.

    Raises:
        OutputError: If it could not.
    """
    try:
        _require_replaceable(target, temporary.parent)
        # Unlike the tempfile module's private files, this one gets its mode from the umask.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise cannot_write(target, error) from None


def _require_replaceable(target: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"{target}: cannot write: the folder {folder} does not exist; create it")
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise OutputError(f"{target}: cannot write: is a folder; name a file in it")
        if not stat.S_ISREG(mode):  # a rename would put a file in the place of a device
            raise OutputError(f"{target}: cannot write: is not a regular file; name another one")


def _flush(path: Path) -> None:
    """Bytes before the name: after a power cut the name must not stand for an empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """The new name itself; not every file system can, and the file is complete without."""
    with contextlib.suppress(OSError):
        _flush(folder)


def _rename_all(temporaries: list[Path], files: list[Path]) -> None:
    renamed: list[Path] = []
    try:
        for temporary, file in zip(temporaries, files, strict=True):
            os.replace(temporary, file)
            renamed.append(file)
    except BaseException:
        for file in renamed:
            with contextlib.suppress(OSError):
                file.unlink()
        raise
    for folder in {file.parent for file in files}:
        _flush_folder(folder)


def _is_about(error: OSError, temporary: Path) -> bool:
    return error.filename is None or os.fsdecode(error.filename) == str(temporary)


def cannot_write(target: Path, error: OSError) -> OutputError:
    """The error to raise when writing ``target`` failed, with the remedy."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = _REMEDIES.get(error.errno or 0, _ANOTHER_FOLDER)
    return OutputError(f"{target}: cannot write: {reason}; {remedy}")
