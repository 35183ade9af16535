"""``belvedere cache``: what is kept on disk between sessions, and how to be rid of it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.settings import Settings
from scene_store.remote.download import downloads
from scene_store.remote.options import CacheOptions
from scene_store.remote.range_cache import RangeCache
from scene_store.town_source import TOWN_NAME
from viewer.downloads import remote_options
from viewer.opening import store_cache
from viewer.store_cache import CachedStore, StoreCache
from viewer.text import byte_size


@dataclass(frozen=True, slots=True)
class Kept:
    """Something in a cache.

    Attributes:
        what: For people.
        size_bytes: On disk.
        used_ns: When it was last used, since the epoch; None if that is not known.
        remove: Removes it unless somebody uses it.
    """

    what: str
    size_bytes: int
    used_ns: int | None
    remove: Callable[[], object]

    @property
    def line(self) -> str:
        """One line: how much, what, since when."""
        return f"{byte_size(self.size_bytes):>10}  {self.what}{_last_used(self.used_ns)}"


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder, and what is kept in it.

    Attributes:
        what: It holds, for people.
        folder: Where it is.
        kept: All of it, the least recently used first.
    """

    what: str
    folder: Path
    kept: tuple[Kept, ...]

    @property
    def size_bytes(self) -> int:
        """Of all of it."""
        return sum(kept.size_bytes for kept in self.kept)

    @property
    def lines(self) -> list[str]:
        """What people read of it."""
        heading = f"{self.what}, {self.folder}: {byte_size(self.size_bytes)}"
        return [heading, *(kept.line for kept in self.kept)]


def caches(settings: Settings) -> list[Cache]:
    """All that commands keep on disk: stores of large scenes, and what came from servers."""
    return [_stores(store_cache(settings)), _remote(settings)]


def clear(settings: Settings) -> list[Cache]:
    """Remove all that nobody uses; what is left."""
    for cache in caches(settings):
        for kept in cache.kept:
            kept.remove()
    store_cache(settings).remove_locks()
    return caches(settings)


def _stores(cache: StoreCache) -> Cache:
    def kept(entry: CachedStore) -> Kept:
        scenes = ", ".join(map(_scene, entry.scenes())) or entry.path.name
        what = scenes if entry.is_finished else f"{scenes} (unfinished)"
        return Kept(what, entry.size_bytes, entry.used_ns, lambda: cache.remove(entry.path))

    return Cache("Stores of large scenes", cache.folder, tuple(map(kept, cache.entries())))


def _remote(settings: Settings) -> Cache:
    options = remote_options(settings.remote).cache or CacheOptions()
    ranges = RangeCache.of(options)
    kept = [
        Kept(file.name, file.size_bytes, file.used_ns, file.remove) for file in downloads(options)
    ]
    if size := ranges.size_bytes():
        kept.append(Kept("parts of scenes", size, None, ranges.clear))
    return Cache("Scenes on servers", ranges.folder, tuple(kept))


def _scene(name: str) -> str:
    """A path; of a town what it is called, wherever it was built."""
    last = os.path.basename(name)
    return last if last.startswith(f"{TOWN_NAME}:") else name


def _last_used(time_ns: int | None) -> str:
    if time_ns is None:
        return ""
    return f"  {datetime.datetime.fromtimestamp(time_ns / 1e9):%Y-%m-%d %H:%M}"
