"""The units of a streamed SOG: read, decoded, and kept for a while.

A unit's textures hold the Gaussians of many leaves, so one that was decoded for a chunk soon
serves its neighbours. What is kept has a bound in bytes, and one unit is decoded at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from scene_store.chunks import never_cancelled
from scene_store.formats.json_fields import JsonObject, parse_json
from scene_store.formats.side_files import MAX_FILE_BYTES, inside
from scene_store.formats.sog import (
    SogTextures,
    decode_textures,
    sh_degree_of,
    texture_names,
)
from scene_store.formats.sog_meta import SogMeta, parse_sog_meta
from scene_store.formats.source import require_plausible_count
from scene_store.range_reader import RangeReader, insist
from scene_store.scene import Vector3
from splat.errors import SceneFormatError

MAX_META_BYTES = 1 << 24

_FETCHES_AT_ONCE = 4
_TABLES_KEPT = 8  # 0.8 MB each
_LOOK_EVERY_S = 0.05
_BYTES_PER_TEXEL = 4
_TEXTURES = 6


class ReaderFiles:
    """The files of one unit, by a reader of the scene's folder (``SideFiles``).

    Args:
        reader: Of the scene's folder.
        owner: The ``meta.json`` whose folder it is, by its name for the reader.
    """

    def __init__(self, reader: RangeReader, owner: str) -> None:
        self._reader = reader
        self._owner = owner
        self._contents: dict[str, bytes] = {}

    def where(self, name: str) -> tuple[str, str | None]:
        """See ``SideFiles``."""
        return self._reader.location(self._path(name)), None

    def size(self, name: str) -> int:
        """See ``SideFiles``."""
        return len(self.read(name))

    def read(self, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """See ``SideFiles``; fetched once.

        Raises:
            RangeReadError: If it cannot be had.
        """
        if name not in self._contents:
            self.fetch((name,), never_cancelled)
        return self._contents[name]

    def fetch(self, names: tuple[str, ...], cancelled: Callable[[], bool]) -> bool:
        """Reads files side by side; whether all are here (or ``cancelled`` said stop).

        Raises:
            RangeReadError: If one cannot be had.
        """

        def one(name: str) -> bytes | None:
            return self._reader.read_file(self._path(name), MAX_FILE_BYTES, cancelled)

        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            contents = list(pool.map(one, names))
        for name, content in zip(names, contents, strict=True):
            if content is None:
                return False
            self._contents[name] = content
        return True

    def close(self) -> None:
        """See ``SideFiles``."""
        self._contents.clear()

    def _path(self, name: str) -> str:
        folder = PurePosixPath(self._owner).parent
        return str(folder / inside(self._reader.location(self._owner), name))


@dataclass(frozen=True, slots=True)
class SogUnit:
    """What is kept of a unit's ``meta.json``.

    Attributes:
        name: Of the file, from the scene's folder.
        text: Its content.
        count: Gaussians.
        degree: Of their harmonics.
        has_palette: Whether there are harmonics above degree 0.
        lo, hi: The box that their means are stored in.
        max_scale: None of their standard deviations is larger.
        notes: For the user.
    """

    name: str
    text: bytes
    count: int
    degree: int
    has_palette: bool
    lo: Vector3
    hi: Vector3
    max_scale: float
    notes: tuple[str, ...]


class SogUnits:
    """The units of one scene. Methods may be called by any threads.

    Args:
        reader: Of the scene's folder; somebody else closes it.
        keep_bytes: The most that decoded textures take while nobody reads them.
    """

    def __init__(self, reader: RangeReader, keep_bytes: int) -> None:
        self.keep_bytes = keep_bytes
        self._reader = reader
        self._kept: OrderedDict[str, SogTextures] = OrderedDict()
        self._kept_bytes = 0
        self._tables: OrderedDict[str, SogMeta] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._decoding = threading.Lock()

    def describe(self, name: str) -> SogUnit:
        """A unit, by its ``meta.json``.

        Raises:
            RangeReadError: If it cannot be read.
            SceneFormatError: If it makes no sense.
        """
        location = self._reader.location(name)
        if not name.endswith(".json"):
            raise SceneFormatError(
                location,
                "is a bundled unit, which cannot be read in parts",
                remedy="export the scene with unbundled units, or build a store from it",
            )
        text = insist(lambda: self._reader.read_file(name, MAX_META_BYTES, never_cancelled))
        assert text is not None  # nobody cancelled
        sog = parse_sog_meta(JsonObject.of(location, parse_json(location, text), ""))
        files = ReaderFiles(self._reader, name)
        scales = sog.scales[np.isfinite(sog.scales)]
        ends = sog.means[:, [0, -1]].astype(np.float64)
        lo, hi = ends.min(axis=1), ends.max(axis=1)
        return SogUnit(
            name=name,
            text=text,
            count=sog.count,
            degree=insist(lambda: sh_degree_of(files, sog.palette)),
            has_palette=sog.palette is not None,
            lo=(float(lo[0]), float(lo[1]), float(lo[2])),
            hi=(float(hi[0]), float(hi[1]), float(hi[2])),
            max_scale=float(scales.max()) if len(scales) else 0.0,
            notes=sog.notes,
        )

    def tables(self, unit: SogUnit) -> SogMeta:
        """What the unit's texels mean."""
        with self._lock:
            tables = self._tables.get(unit.name)
            if tables is not None:
                self._tables.move_to_end(unit.name)
                return tables
        location = self._reader.location(unit.name)
        tables = parse_sog_meta(JsonObject.of(location, parse_json(location, unit.text), ""))
        with self._lock:
            self._tables[unit.name] = tables
            if len(self._tables) > _TABLES_KEPT:
                self._tables.popitem(last=False)
        return tables

    def textures(self, unit: SogUnit, cancelled: Callable[[], bool]) -> SogTextures | None:
        """A unit's textures, from what is kept or from the files; None if ``cancelled``.

        Whoever wants the same unit meanwhile waits for the first one's.

        Raises:
            RangeReadError: If a file cannot be had.
            SceneFormatError: If one is damaged.
        """
        with self._lock:
            turn = self._turns.setdefault(unit.name, threading.Lock())
        if not _acquire(turn, cancelled):
            return None
        try:
            textures = self._kept_textures(unit)
            return self._load(unit, cancelled) if textures is None else textures
        finally:
            turn.release()

    def close(self) -> None:
        """Forgets what is kept."""
        with self._lock:
            self._kept.clear()
            self._kept_bytes = 0

    def _kept_textures(self, unit: SogUnit) -> SogTextures | None:
        with self._lock:
            textures = self._kept.get(unit.name)
            if textures is not None:
                self._kept.move_to_end(unit.name)
            return textures

    def _load(self, unit: SogUnit, cancelled: Callable[[], bool]) -> SogTextures | None:
        tables = self.tables(unit)
        files = ReaderFiles(self._reader, unit.name)
        names = texture_names(tables)
        if not files.fetch(names, cancelled):
            return None
        packed = sum(files.size(name) for name in names)
        require_plausible_count(self._reader.location(unit.name), unit.count, packed, "count")
        if not _acquire(self._decoding, cancelled):
            return None
        try:
            textures = decode_textures(files, tables, unit.degree)
        finally:
            self._decoding.release()
        self._keep(unit, textures)
        return textures

    def _keep(self, unit: SogUnit, textures: SogTextures) -> None:
        if textures.nbytes > self.keep_bytes:
            return
        with self._lock:
            self._kept[unit.name] = textures
            self._kept_bytes += textures.nbytes
            while self._kept_bytes > self.keep_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._kept_bytes -= oldest.nbytes


def decoding_bytes(unit: SogUnit) -> int:
    """Memory that decoding a unit takes: its textures, and each once more on the way."""
    return 2 * _TEXTURES * _BYTES_PER_TEXEL * unit.count


def _acquire(lock: threading.Lock, cancelled: Callable[[], bool]) -> bool:
    """Waits for a lock; False if ``cancelled`` said so meanwhile."""
    while not cancelled():
        if lock.acquire(timeout=_LOOK_EVERY_S):
            return True
    return False
