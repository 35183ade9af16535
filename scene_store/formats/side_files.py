"""The files that one scene is spread over: beside each other in a folder, or in a zip.

Names come from inside the scene and are not trusted: they may not leave its folder.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Protocol

from scene_store.formats.source import DOWNLOAD_AGAIN, UNTRUSTED, read_head, require_file
from scene_store.formats.zip_entries import MAX_DIRECTORY_BYTES, directory_bytes
from splat.errors import SceneFormatError, SceneNotFoundError

# What is read at once: a texture of 250 M Gaussians that could not be compressed at all.
MAX_FILE_BYTES = 1 << 30

# Images are compressed already and meta.json is small: what unpacks to far more is a bomb.
_FREE_BYTES = 1 << 20
_MAX_ZIP_RATIO = 64

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,  # an unknown compression method
    RuntimeError,  # encrypted
    ValueError,
    OverflowError,
)


class SideFiles(Protocol):
    """Read access to the files of one scene by their relative names."""

    def where(self, name: str) -> tuple[str | PathLike[str], str | None]:
        """The file to name in an error, and the place in it."""

    def size(self, name: str) -> int:
        """Bytes that the file takes on disk.

        Raises:
            SceneFormatError: If there is no such file.
        """

    def read(self, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The file's content.

        Raises:
            SceneFormatError: If there is no such file, it is larger than ``max_bytes``, or it
                is damaged or a bomb.
        """

    def close(self) -> None:
        """Release what is held open."""


class FolderFiles:
    """Files in the folder of ``owner`` (a ``meta.json``)."""

    def __init__(self, owner: Path) -> None:
        self._owner = owner

    def where(self, name: str) -> tuple[Path, str | None]:
        """See ``SideFiles``."""
        return beside(self._owner, name), None

    def size(self, name: str) -> int:
        """See ``SideFiles``."""
        return require_side_file(self._owner, name)

    def read(self, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """See ``SideFiles``."""
        path = beside(self._owner, name)
        size = require_side_file(self._owner, name)
        if size > max_bytes:
            raise SceneFormatError(
                path, f"is larger than {max_bytes:,} bytes ({size:,})", remedy=UNTRUSTED
            )
        return read_head(path, max_bytes)

    def close(self) -> None:
        """See ``SideFiles``."""


class ZipFiles:
    """Files in a zip archive.

    Raises:
        SceneFormatError: If it is not a zip archive, or lists more files than a scene has.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = require_file(path)
        try:
            # A scene has some ten files.
            if directory_bytes(path) > MAX_DIRECTORY_BYTES:
                raise SceneFormatError(path, "lists more files than a scene has", remedy=UNTRUSTED)
            self._zip = zipfile.ZipFile(path)
        except ZIP_ERRORS:
            raise SceneFormatError(
                path, "is no whole zip archive", remedy="download or export it again"
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def where(self, name: str) -> tuple[Path, str | None]:
        """See ``SideFiles``."""
        return self._path, f"entry {name[:80]!r}"

    def size(self, name: str) -> int:
        """See ``SideFiles``."""
        return self._info(name).compress_size

    def read(self, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """See ``SideFiles``."""
        info = self._info(name)
        # Both sizes are the archive's own words; the packed one cannot exceed the archive.
        packed = min(info.compress_size, self._size)
        limit = min(max_bytes, _FREE_BYTES + _MAX_ZIP_RATIO * packed)
        if info.file_size > limit:
            raise SceneFormatError(
                self._path,
                f"unpacks from {packed:,} to {info.file_size:,} bytes",
                where=f"entry {name[:80]!r}",
                remedy=UNTRUSTED,
            )
        try:
            with self._zip.open(info) as file:
                return file.read(limit)  # never more than the claim, whatever it unpacks to
        except ZIP_ERRORS as error:
            raise SceneFormatError(
                self._path,
                f"cannot be unpacked ({error})",
                where=f"entry {name[:80]!r}",
                remedy=DOWNLOAD_AGAIN,
            ) from None

    def _info(self, name: str) -> zipfile.ZipInfo:
        info = self._zip.NameToInfo.get(name)
        if info is None:
            raise SceneFormatError(
                self._path,
                "is missing in the archive",
                where=f"entry {name[:80]!r}",
                remedy=DOWNLOAD_AGAIN,
            )
        return info

    def close(self) -> None:
        """See ``SideFiles``."""
        self._zip.close()


def beside(owner: Path, name: str) -> Path:
    """The path of a file that ``owner`` names, in its folder or below.

    Raises:
        SceneFormatError: If the name is empty, absolute or points out of the folder.
    """
    return owner.parent / inside(owner, name)


def inside(owner: str | PathLike[str], name: str) -> PurePosixPath:
    """The name, relative to the folder of ``owner``, of a file in it or below.

    Raises:
        SceneFormatError: If the name is empty, absolute or points out of the folder.
    """
    relative = PurePosixPath(name)
    unsafe = (
        not relative.parts
        or relative.is_absolute()
        or ".." in relative.parts
        or any(character in name for character in "\\:\0")
    )
    if unsafe:
        raise SceneFormatError(
            owner,
            f"names the file {name[:80]!r}, which is not inside its folder",
            remedy="get the scene from a source you trust",
        )
    return relative


def require_side_file(owner: Path, name: str) -> int:
    """Size of a file that ``owner`` names.

    Raises:
        SceneFormatError: If it is missing or not usable.
    """
    path = beside(owner, name)
    try:
        return require_file(path)
    except SceneNotFoundError:
        raise SceneFormatError(
            owner,
            f"names the file {name[:80]!r}, which is missing or cannot be read",
            remedy="copy the whole folder, not only this file",
        ) from None
