"""The zip that torch writes, a checkpoint or TorchScript: its pickles and its storages.

All entries lie in one folder, the archive's name when it was written: ``data.pkl``, the storages
``data/KEY``, and for TorchScript ``constants.pkl`` and ``code/``. Nothing is ever unpacked to
disk. Storages are stored as they are; what is compressed or encrypted was not written by torch.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scene_store.formats.side_files import ZIP_ERRORS
from scene_store.formats.source import DOWNLOAD_AGAIN, UNTRUSTED, require_file
from scene_store.formats.zip_entries import directory_bytes
from scene_store.models.archive_pickle import PickleError, Vocabulary, read_pickle
from scene_store.models.archive_values import StorageRef, decoded
from splat.errors import SceneFormatError

MAX_PICKLE_BYTES = 1 << 26
MAX_ENTRIES = 1 << 18
MAX_DIRECTORY_BYTES = 128 * MAX_ENTRIES
_KEY = re.compile(r"[A-Za-z0-9_]{1,64}")
_ENCRYPTED = 0x1
_NOT_TORCHS = "it was not written by torch: get it from a source you trust"


class TorchZip:
    """An open archive.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is no whole archive of torch's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = require_file(path)
        self._read_bytes = 0
        try:
            if directory_bytes(path) > MAX_DIRECTORY_BYTES:
                raise SceneFormatError(
                    path, f"lists more than {MAX_ENTRIES:,} files", remedy=_NOT_TORCHS
                )
            self._zip = zipfile.ZipFile(path)
        except ZIP_ERRORS:
            raise SceneFormatError(path, "is no whole zip archive", remedy=DOWNLOAD_AGAIN) from None
        names = self._zip.NameToInfo
        roots = [name[: -len("data.pkl")] for name in names if name.count("/") == 1]
        roots = [root for root in roots if f"{root}data.pkl" in names]
        if len(roots) != 1 or len(names) > MAX_ENTRIES:
            self._zip.close()
            raise SceneFormatError(
                path, "is a zip archive, but none that torch wrote", remedy=DOWNLOAD_AGAIN
            )
        self._root = roots[0]
        self._big_endian = self._is_big_endian()

    @property
    def is_script(self) -> bool:
        """Whether it is TorchScript."""
        return f"{self._root}constants.pkl" in self._zip.NameToInfo

    def pickle(self, name: str, words: Vocabulary, *, tolerate: bool = False) -> Any:
        """The value of a pickle.

        Raises:
            PickleError: What is wrong with it.
            SceneFormatError: If there is none, or it cannot be read.
        """
        data = self._entry(f"{self._root}{name}", MAX_PICKLE_BYTES)
        return read_pickle(io.BytesIO(data), words, tolerate=tolerate)

    def storage(self, storage: StorageRef, folder: str = "data") -> NDArray[Any]:
        """All values of a storage.

        Raises:
            PickleError: If there are fewer than the pickle claims.
            SceneFormatError: If there is none, or it cannot be read.
        """
        if not _KEY.fullmatch(storage.key):
            raise PickleError(f"refers to a storage by the name {storage.key[:40]!r}")
        data = self._entry(f"{self._root}{folder}/{storage.key}", self._size)
        if len(data) < storage.nbytes:
            raise PickleError(
                f"claims {storage.nbytes:,} bytes for its storage {storage.key!r}, "
                f"but {len(data):,} are there"
            )
        return decoded(data[: storage.nbytes], storage.kind, big_endian=self._big_endian)

    def close(self) -> None:
        """Releases the file."""
        self._zip.close()

    def __enter__(self) -> TorchZip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_big_endian(self) -> bool:
        name = f"{self._root}byteorder"
        return name in self._zip.NameToInfo and self._entry(name, 64) == b"big"

    def _entry(self, name: str, most_bytes: int) -> bytes:
        info = self._zip.NameToInfo.get(name)
        if info is None:
            raise self._error(name, "is missing in the archive", DOWNLOAD_AGAIN)
        if info.flag_bits & _ENCRYPTED:
            raise self._error(name, "is encrypted", _NOT_TORCHS)
        if info.compress_type != zipfile.ZIP_STORED:
            raise self._error(name, "is compressed", _NOT_TORCHS)
        # Entries may overlap, so that each fits into the file and all together do not.
        self._read_bytes += info.file_size
        if info.file_size > most_bytes or self._read_bytes > self._size:
            raise self._error(name, f"claims {info.file_size:,} bytes", UNTRUSTED)
        try:
            data = self._zip.read(info)
        except ZIP_ERRORS as error:
            raise self._error(name, f"cannot be read ({error})", DOWNLOAD_AGAIN) from None
        if len(data) != info.file_size:
            raise self._error(name, "is shorter than it claims", DOWNLOAD_AGAIN)
        return data

    def _error(self, name: str, problem: str, remedy: str) -> SceneFormatError:
        return SceneFormatError(self._path, problem, where=f"entry {name[:80]!r}", remedy=remedy)
