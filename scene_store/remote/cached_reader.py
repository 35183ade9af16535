"""A remote folder behind the cache on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from scene_store.chunks import Buffer, never_cancelled
from scene_store.range_reader import ByteRange, RangeReader, runs
from scene_store.remote.address import Address
from scene_store.remote.identity import FileIdentity
from scene_store.remote.range_cache import RangeCache, RangeKey

_DESCRIPTION = ".json"


class RemoteReader(RangeReader, Protocol):
    """A reader that can tell versions of its files apart."""

    def identity(self, name: str, cancelled: Callable[[], bool]) -> FileIdentity | None:
        """Which version of a file is read; None if ``cancelled`` said so meanwhile.

        Raises:
            RangeReadError: If the server does not tell.
        """


class CachedReader:
    """Answers from the cache what it has, and keeps there what it has not.

    Each file is asked for its version once, so that nothing old is ever answered. Descriptions
    in JSON are not kept: they are small, and asking for their version would take as long.
    """

    is_far = True

    def __init__(self, reader: RemoteReader, address: Address, cache: RangeCache) -> None:
        self._reader = reader
        self._address = address
        self._cache = cache

    def location(self, name: str) -> str:
        """See ``RangeReader``."""
        return self._reader.location(name)

    def read(
        self, name: str, offset: int, size: int, cancelled: Callable[[], bool]
    ) -> bytes | None:
        """See ``RangeReader``."""
        identity = self._reader.identity(name, cancelled)
        if identity is None:
            return None
        key = self._key(identity, name, offset, size)
        data = None if key is None else self._cache.get(key)
        if data is None:
            data = self._reader.read(name, offset, size, cancelled)
            if data is not None and key is not None:
                self._cache.put(key, data)
        return data

    def read_ranges(
        self, name: str, ranges: Sequence[ByteRange], cancelled: Callable[[], bool]
    ) -> list[Buffer] | None:
        """See ``RangeReader``. Each range is kept by itself: the next session may want others."""
        identity = self._reader.identity(name, cancelled)
        if identity is None:
            return None
        keys = {each: self._key(identity, name, *each) for each in ranges}
        found: dict[ByteRange, Buffer | None] = {
            each: None if key is None else self._cache.get(key) for each, key in keys.items()
        }
        missing = [each for each in ranges if found[each] is None]
        for run in runs(missing):
            parts = self._reader.read_ranges(name, run, cancelled)
            if parts is None:
                return None
            found.update(zip(run, parts, strict=True))
            fresh = {keys[each]: part for each, part in zip(run, parts, strict=True)}
            self._cache.put_many({key: part for key, part in fresh.items() if key is not None})
        return [part for part in map(found.__getitem__, ranges) if part is not None]

    def read_file(self, name: str, most_bytes: int, cancelled: Callable[[], bool]) -> bytes | None:
        """See ``RangeReader``."""
        if name.endswith(_DESCRIPTION):
            return self._reader.read_file(name, most_bytes, cancelled)
        identity = self._reader.identity(name, cancelled)
        if identity is None:
            return None
        size = most_bytes + 1 if identity.size is None else identity.size
        key = self._key(identity, name, 0, size) if size <= most_bytes else None
        data = None if key is None else self._cache.get(key)
        if data is None:
            data = self._reader.read_file(name, most_bytes, cancelled)
            if data is not None and key is not None and len(data) == size:
                self._cache.put(key, data)
        return data

    def reject(self, name: str, offset: int, size: int) -> bool:
        """See ``RangeReader``."""
        identity = self._reader.identity(name, never_cancelled)
        assert identity is not None  # it is known, as the range was read
        key = self._key(identity, name, offset, size)
        if key is not None:
            self._cache.discard(key)
        return self._reader.reject(name, offset, size)

    def close(self) -> None:
        """See ``RangeReader``."""
        self._reader.close()

    def _key(self, identity: FileIdentity, name: str, offset: int, size: int) -> RangeKey | None:
        """None where versions cannot be told apart: then nothing may be kept."""
        if identity.version is None:
            return None
        # A token in the query changes from day to day; the server's own mark tells files apart.
        file = self._address.shown(name) if identity.etag else self._address.file(name)
        return RangeKey(file, identity.version, offset, size)
