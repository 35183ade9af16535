"""What ``torch.save`` writes, read by numpy alone: nothing that a file names is executed.

Two containers: a zip (``NAME/data.pkl`` and ``NAME/data/KEY``, stored without compression), and
the older stream (five pickles, then the storages one after another). Both hold a pickle that
``archive_pickle`` reads as data, and storages of which its tensors are views.

Sizes are checked against what is there before anything is allocated, and a storage is read once:
what is read takes at most the memory of the file (twice that for bfloat16).

Source: ``torch/serialization.py`` of https://github.com/pytorch/pytorch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.source import DOWNLOAD_AGAIN, read_head, reason_of, require_file
from scene_store.models.archive_numpy import PickledArray, PickledType
from scene_store.models.archive_pickle import (
    ForeignNameError,
    Inert,
    PickleError,
    Record,
    Vocabulary,
    read_pickle,
)
from scene_store.models.archive_values import StorageRef, TensorRef, ValueType, decoded, vocabulary
from scene_store.models.archive_zip import TorchZip
from splat.errors import SceneFormatError, SceneNotFoundError

# What trainers keep to go on with, and nobody needs to draw.
TRAINING_STATE = frozenset(
    (
        *("optimizer", "optimizers", "optimizer_state", "optimizer_states"),
        *("optimizer_state_dict", "scheduler", "schedulers", "lr_scheduler", "lr_schedulers"),
        *("scheduler_state_dict", "scaler", "scalers", "scaler_state_dict", "grad_scaler"),
        *("callbacks", "loops", "ema"),
    )
)
TRUST = "nothing of it was executed; add --trust if you trust whoever made it"

_ZIP_MAGIC = b"PK\x03\x04"
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_COUNT_BYTES = 8
_MAX_LINE = 4096

Array = NDArray[Any]


def read_checkpoint(
    path: Path, *, trust: bool = False, tolerate: Collection[str] = TRAINING_STATE
) -> dict[str, Any]:
    """A checkpoint's dictionary: nested dictionaries, lists, tuples, texts, numbers and arrays.

    Args:
        path: A file of ``torch.save``, of either kind.
        trust: Whether torch may load it, and so execute what it names.
        tolerate: Entries that are left out, whatever they hold; nothing of them is read.

    Returns:
        Arrays are read-only views of the file's storages; bfloat16 became float32.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is broken, or refers to anything else than tensors and plain values.
    """
    if trust:
        return _trusted(path, tolerate)
    with _open_container(path) as container:
        try:
            root = container.root(tolerate=bool(tolerate))
            if isinstance(root, Inert):
                raise ForeignNameError(root.name)
            if not isinstance(root, dict):
                raise PickleError(f"holds a {type(root).__name__} and no dictionary")
            kept = {key: value for key, value in root.items() if key not in tolerate}
            return cast(dict[str, Any], _Materializer(container).of(kept))
        except PickleError as error:
            raise _format_error(path, error) from None
        except OSError as error:
            raise SceneNotFoundError(f"{path}: cannot be read ({reason_of(error)})") from None


def weights_of(path: Path, checkpoint: Mapping[str, Any], *keys: str) -> dict[str, Array]:
    """The arrays of a state dictionary in a checkpoint, by their names.

    Args:
        path: To name in errors.
        checkpoint: Of ``read_checkpoint``.
        keys: The way to the state dictionary; none for the checkpoint itself.

    Raises:
        SceneFormatError: If it is missing, or holds anything else than arrays.
    """
    place: Any = checkpoint
    for key in keys:
        if not isinstance(place, Mapping) or key not in place:
            raise SceneFormatError(path, f"lacks the weights {'/'.join(keys)!r}")
        place = place[key]
    if not isinstance(place, Mapping):
        raise SceneFormatError(path, f"holds no weights under {'/'.join(keys)!r}")
    for name, value in place.items():
        if not isinstance(value, np.ndarray):
            raise SceneFormatError(
                path, f"holds a {type(value).__name__} where weights should be", where=str(name)
            )
    return {str(name): value for name, value in place.items()}


def _format_error(path: Path, error: PickleError) -> SceneFormatError:
    if isinstance(error, ForeignNameError):
        return SceneFormatError(path, f"{error}, which is not loaded", remedy=TRUST)
    return SceneFormatError(path, str(error), remedy=DOWNLOAD_AGAIN)


# ---- Values ---------------------------------------------------------------------------------


class Container(Protocol):
    """A file of pickles and storages."""

    def root(self, *, tolerate: bool) -> Any:
        """What its pickle holds, tensors as ``TensorRef``."""

    def storage(self, storage: StorageRef) -> Array:
        """All values of a storage.

        Raises:
            PickleError: If there are fewer than the pickle claims.
        """

    def __enter__(self) -> Container: ...

    def __exit__(self, *_: object) -> None: ...


class _Materializer:
    """Puts arrays in the places of tensors; what is shared stays shared."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._storages: dict[str, tuple[StorageRef, Array]] = {}
        self._made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """``value`` with arrays.

        Raises:
            ForeignNameError: If there is a placeholder in it.
            PickleError: If a storage is damaged.
        """
        if isinstance(value, Inert | Record):
            raise ForeignNameError(value.name)
        if isinstance(value, ValueType):
            return value.name
        if isinstance(value, PickledArray):
            return value.values
        if isinstance(value, PickledType):
            return str(value.dtype)
        if not isinstance(value, dict | list | tuple | TensorRef):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = self._made_of(value)
        return self._made[id(value)]

    def _made_of(self, value: dict[Any, Any] | list[Any] | tuple[Any, ...] | TensorRef) -> Any:
        if isinstance(value, TensorRef):
            return value.of(self._values(value.storage))
        if isinstance(value, dict):
            for key in value:
                if isinstance(key, Inert):
                    raise ForeignNameError(key.name)
            return {key: self.of(part) for key, part in value.items()}
        return type(value)(self.of(part) for part in value)

    def _values(self, storage: StorageRef) -> Array:
        known = self._storages.get(storage.key)
        if known is None:
            known = self._storages[storage.key] = (storage, self._container.storage(storage))
        first, values = known
        if (first.kind, first.count) != (storage.kind, storage.count):
            raise PickleError(f"describes its storage {storage.key[:40]!r} in two ways")
        return values


# ---- Containers -----------------------------------------------------------------------------


def _open_container(path: Path) -> Container:
    head = read_head(path, 16)
    if head.startswith(_ZIP_MAGIC):
        return _ZipContainer(path)
    if head[:1] == b"\x80":
        return _StreamContainer(path)
    raise SceneFormatError(
        path,
        f"is no torch checkpoint (it begins with {head[:8]!r})",
        where="byte 0",
        remedy=DOWNLOAD_AGAIN,
    )


class _ZipContainer:
    """``torch.save`` since 1.6."""

    def __init__(self, path: Path) -> None:
        self._zip = TorchZip(path)
        if self._zip.is_script:
            self._zip.close()
            raise SceneFormatError(
                path, "is TorchScript, but a checkpoint of torch.save is needed here"
            )

    def root(self, *, tolerate: bool) -> Any:
        """See ``Container``."""
        return self._zip.pickle("data.pkl", vocabulary(), tolerate=tolerate)

    def storage(self, storage: StorageRef) -> Array:
        """See ``Container``."""
        return self._zip.storage(storage)

    def __enter__(self) -> _ZipContainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()


class _BoundedFile:
    """A file that never allocates more for a read than there is left of it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes."""
        part = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(part)
        return part

    def readline(self) -> bytes:
        """To the end of the line, or the most that a pickle may need."""
        part = self._file.readline(min(_MAX_LINE, self._left))
        self._left -= len(part)
        return part

    def tell(self) -> int:
        """The place of the next byte."""
        return self._file.tell()


class _StreamContainer:
    """``torch.save`` before 1.6: pickles of a magic number, the version, the machine, the value
    and the keys of storages; then each storage, after its number of values (8 bytes)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = require_file(path)
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SceneNotFoundError(f"{path}: cannot be read ({reason_of(error)})") from None
        self._source = _BoundedFile(self._file, self._size)
        self._at: dict[str, tuple[int, int]] | None = None
        self._kinds: dict[str, StorageRef] = {}
        self._big_endian = False

    def root(self, *, tolerate: bool) -> Any:
        """See ``Container``."""
        if self._plain() != _MAGIC_NUMBER:
            raise PickleError("is a pickle, but no torch checkpoint")
        if self._plain() != _PROTOCOL_VERSION:
            raise PickleError("is a torch checkpoint of an unknown version")
        machine = self._plain()
        self._big_endian = isinstance(machine, dict) and machine.get("little_endian") is False
        words = vocabulary()

        def remembered(identity: Any) -> StorageRef:
            storage: StorageRef = words.persistent(identity)
            if self._kinds.setdefault(storage.key, storage).nbytes != storage.nbytes:
                raise PickleError(f"describes its storage {storage.key[:40]!r} in two ways")
            return storage

        own = Vocabulary(words.calls, words.constants, remembered)
        root = read_pickle(cast(BinaryIO, self._source), own, tolerate=tolerate)
        keys = self._plain()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise PickleError("lacks the list of its storages")
        self._at = self._places(keys)
        return root

    def _plain(self) -> Any:
        return read_pickle(cast(BinaryIO, self._source), Vocabulary({}, {}, _no_storage))

    def _places(self, keys: list[str]) -> dict[str, tuple[int, int]]:
        """By key, the first byte of the storage's values and their number."""
        places: dict[str, tuple[int, int]] = {}
        at = self._file.tell()
        for key in keys:
            if key not in self._kinds:
                raise PickleError(f"lists the storage {key[:40]!r}, which nothing refers to")
            self._file.seek(at)
            count = int.from_bytes(self._file.read(_COUNT_BYTES), "little")
            at += _COUNT_BYTES
            places[key] = (at, count)
            at += count * self._kinds[key].kind.stored.itemsize
            if at > self._size:
                raise PickleError(
                    f"ends after {self._size:,} bytes, inside its storage {key[:40]!r}"
                )
        return places

    def storage(self, storage: StorageRef) -> Array:
        """See ``Container``."""
        start, count = (self._at or {}).get(storage.key, (0, 0))
        if count < storage.count:
            raise PickleError(
                f"claims {storage.count:,} values for its storage {storage.key[:40]!r}, "
                f"but {count:,} are there"
            )
        self._file.seek(start)
        data = self._file.read(storage.nbytes)
        if len(data) < storage.nbytes:
            raise PickleError("became shorter while it was read")
        return decoded(data, storage.kind, big_endian=self._big_endian)

    def __enter__(self) -> _StreamContainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _no_storage(_: Any) -> Any:
    raise PickleError("refers to a storage where there is none")


# ---- By torch, on request -------------------------------------------------------------------


def _trusted(path: Path, tolerate: Collection[str]) -> dict[str, Any]:
    require_file(path)
    import torch  # only here: whoever draws without a GPU may not have it

    try:
        root = torch.load(os.fspath(path), map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the file made it do
        raise SceneFormatError(path, f"cannot be loaded by torch ({str(error)[:120]})") from None
    if isinstance(root, torch.nn.Module):
        root = root.state_dict()
    if not isinstance(root, Mapping):
        raise SceneFormatError(path, f"holds a {type(root).__name__} and no dictionary")
    return {str(key): _plain_value(value) for key, value in root.items() if key not in tolerate}


def _plain_value(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        held = value.detach().cpu()
        return (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    if isinstance(value, torch.nn.Module):
        return _plain_value(value.state_dict())
    if isinstance(value, Mapping):
        return {key: _plain_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain_value, value)) if type(value) in (list, tuple) else value
    return value
