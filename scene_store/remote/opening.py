"""From an address to a reader of the folder there."""

from __future__ import annotations

from scene_store.range_reader import RangeReader
from scene_store.remote.address import Address
from scene_store.remote.cached_reader import CachedReader, RemoteReader
from scene_store.remote.options import RemoteOptions
from scene_store.remote.range_cache import RangeCache


def open_folder(
    text: str, main_file: str, options: RemoteOptions | None = None
) -> tuple[RangeReader, str]:
    """A reader of a remote folder, and the folder's address without secrets. Nothing is asked
    of the server yet.

    Args:
        text: The address of the folder, or of ``main_file`` in it.
        main_file: What such a folder is known by.
        options: The defaults if None.

    Raises:
        SceneNotFoundError: If it is no address that can be read.
        BackendUnavailable: If reading it needs a package that is not installed.
    """
    options = options or RemoteOptions()
    address = Address.of(text, main_file)
    reader = open_reader(address, options)
    if options.cache is None:
        return reader, address.shown()
    cache = RangeCache.of(options.cache)
    return CachedReader(reader, address, cache), address.shown()


def open_reader(address: Address, options: RemoteOptions) -> RemoteReader:
    """A reader without a cache.

    Raises:
        BackendUnavailable: If reading it needs a package that is not installed.
    """
    # Each takes its time to import.
    if address.scheme in ("http", "https"):
        from scene_store.remote.http_reader import HttpReader

        return HttpReader(address, options)
    from scene_store.remote.object_reader import ObjectReader

    return ObjectReader(address, options)
