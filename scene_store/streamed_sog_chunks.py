"""PlayCanvas's streamed SOG as chunks: its own levels of detail, without building a store.

A leaf of ``lod-meta.json`` has a few levels, each a range of Gaussians in some unit. They become
a chain: the coarsest is a root, and each finer level is the only child of the coarser one, so
any cut covers each leaf once. The environment (a far backdrop) is a root by itself. The tree
above the leaves has no Gaussians of its own and is not needed.

The format has no errors. A level that keeps n of a leaf's m Gaussians is taken to lie half the
mean distance of its Gaussians from the originals, for the share of them that it lacks:

    error = √(area / n) / 2 · √(1 − n / m),    area = xy + yz + zx of the leaf's box.

On two captures the median distance from an original to the nearest Gaussian of a level was
0.5 to 1.5 times this for all levels that keep less than half.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene_store.chunks import (
    Buffer,
    DecodedChunks,
    EncodedChunk,
    ReadOutcome,
    decode_one_by_one,
    never_cancelled,
)
from scene_store.formats.json_fields import MAX_JSON_BYTES, JsonObject, parse_json
from scene_store.formats.side_files import inside
from scene_store.formats.sog import SogTextures, gaussians_of
from scene_store.formats.sog_meta import SogMeta
from scene_store.formats.source import DOWNLOAD_AGAIN, ByteArray
from scene_store.formats.streamed_sog import (
    ENVIRONMENT_KEY,
    LOD_META_FILE,
    MAX_LEVELS,
    GaussianRange,
    walk_leaves,
)
from scene_store.loading import SMALLEST_SCALE, usable_gaussians
from scene_store.manifest import DEFAULT_PAGE_GAUSSIANS
from scene_store.range_reader import RangeReader, RangeReadError, insist
from scene_store.remote.options import RemoteOptions
from scene_store.scene import SceneMeta
from scene_store.scene_folder import read_folder
from scene_store.sog_units import SogUnit, SogUnits, decoding_bytes
from scene_store.tree import NO_PARENT, LodTree
from splat.errors import (
    ChunkReadError,
    SceneError,
    SceneFormatError,
    SceneNotFoundError,
    SceneUnreachableError,
)
from splat.gaussians import SH_COUNT_OF_DEGREE, Float32Array, Gaussians

DEFAULT_KEEP_BYTES = 96 << 20

_UNITS_AT_ONCE = 8
_TEXTURES = 5
_TEXEL_BYTES = 4
_LEAST_ERROR = 1e-6  # of a leaf's diagonal: a coarse level is never as good as the finest


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf's box (None if its units' must do), and its ranges by level, finest first."""

    lo: tuple[float, ...] | None
    hi: tuple[float, ...] | None
    ranges: tuple[tuple[int, GaussianRange], ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """One level of one leaf."""

    leaf: int
    level: int
    depth: int
    range: GaussianRange
    error: float


class StreamedSogChunks:
    """A streamed SOG, local or remote; a ``ChunkSource``. Made by ``open_streamed_sog``.

    A chunk is what is drawn of one leaf at one level, and may take many pages. Reading one
    decodes the textures of its unit, which hold other chunks, too; what is kept of them is
    bounded, and part of ``overhead_bytes``. Encoded chunks are texels.

    Attributes:
        meta: What is known of the scene as a whole.
        tree: Chains of levels, one for each leaf.
        sh_degree: The largest of all units.
        page_gaussians: Gaussians of a device page.
        overhead_bytes: Host memory that reading takes, at most, beside the encoded chunks:
            whoever has a budget should set it aside.
    """

    def __init__(
        self,
        reader: RangeReader,
        path: Path | str,
        *,
        page_gaussians: int = DEFAULT_PAGE_GAUSSIANS,
        keep_bytes: int = DEFAULT_KEEP_BYTES,
    ) -> None:
        self._reader = reader
        self._units = SogUnits(reader, keep_bytes)
        self.page_gaussians = page_gaussians
        lod_meta = _read_lod_meta(reader)
        levels, names, leaves = _parse_lod_meta(lod_meta)
        environment = _environment(lod_meta)
        used = sorted({r.file for leaf in leaves for _, r in leaf.ranges})
        wanted = [names[file] for file in used] + ([environment] if environment else [])
        described = self._describe(lod_meta, wanted)
        by_file = dict(zip(used, described, strict=False))
        if environment:
            unit = by_file[len(names)] = described[-1]
            backdrop = GaussianRange(len(names), 0, unit.count)
            leaves.append(_Leaf(None, None, ((0, backdrop),)))
        if not leaves:
            raise lod_meta.error("has no Gaussians", "tree")
        _require_ranges(lod_meta, leaves, by_file)
        nodes = _nodes(leaves, by_file)
        self.tree = _tree(lod_meta, nodes, leaves, by_file)
        self._ranges = [node.range for node in nodes]
        self._unit_of = [by_file[node.range.file] for node in nodes]
        self.sh_degree = max(unit.degree for unit in described)
        self._decoding_bytes = max(decoding_bytes(unit) for unit in described)
        self.overhead_bytes = keep_bytes + self._decoding_bytes
        self.meta = SceneMeta(
            path=path,
            format_name="streamed SOG",
            count=sum(leaf.ranges[0][1].count for leaf in leaves),
            sh_degree=self.sh_degree,
            up=(0.0, -1.0, 0.0),
            lod_counts=tuple(sum(_count_at(leaf, at) for leaf in leaves) for at in range(levels)),
            notes=tuple(dict.fromkeys(note for unit in described for note in unit.notes)),
        )

    def leave_room(self, host_bytes: int) -> None:
        """Keep fewer textures where host memory is short: at most in half of what decoding
        leaves of it. To be called before anything is read."""
        room = max(0, (host_bytes - self._decoding_bytes) // 2)
        self._units.keep_bytes = min(self._units.keep_bytes, room)
        self.overhead_bytes = self._units.keep_bytes + self._decoding_bytes

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        unit = self._unit_of[chunk]
        harmonics = 3 * (SH_COUNT_OF_DEGREE[unit.degree] - 1) + 1 if unit.has_palette else 0
        return self._ranges[chunk].count * (_TEXTURES * _TEXEL_BYTES + harmonics)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        (outcome,) = self.read_many([chunk], lambda _: cancelled())
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def read_batches(self, chunks: Sequence[int], most_bytes: int) -> list[list[int]]:
        """See ``BatchSource``. A batch has the chunks of one unit, however many: its textures
        are what takes time."""
        by_unit: dict[str, list[int]] = {}
        for chunk in chunks:
            by_unit.setdefault(self._unit_of[chunk].name, []).append(chunk)
        return list(by_unit.values())

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        """See ``BatchSource``."""
        unit = self._unit_of[chunks[0]]
        try:
            textures = self._units.textures(unit, lambda: all(map(cancelled, chunks)))
        except RangeReadError as error:
            return [
                ChunkReadError(error.location, chunk, error.advice, transient=error.transient)
                for chunk in chunks
            ]
        except SceneFormatError as error:
            return [ChunkReadError(error.path, chunk, error.problem) for chunk in chunks]
        if textures is None:
            return [None] * len(chunks)
        return [None if cancelled(chunk) else self._texels(chunk, textures) for chunk in chunks]

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """See ``BatchSource``."""
        return decode_one_by_one(self, chunks, encoded)

    def _texels(self, chunk: int, textures: SogTextures) -> EncodedChunk:
        place = self._ranges[chunk]
        part = slice(place.offset, place.offset + place.count)
        return EncodedChunk(
            (*(texture[part].tobytes() for texture in textures.texels), *_harmonics(textures, part))
        )

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        """See ``ChunkSource``. Gaussians that cannot be drawn become invisible ones."""
        unit = self._unit_of[chunk]
        if encoded.nbytes != self.encoded_bytes(chunk):
            raise ChunkReadError(
                self._reader.location(unit.name),
                chunk,
                f"{encoded.nbytes:,} bytes where {self.encoded_bytes(chunk):,} are needed",
            )
        tables = self._units.tables(unit)
        low, high, quats, scales, sh0 = (
            np.frombuffer(part, np.uint8).reshape(-1, _TEXEL_BYTES)
            for part in encoded.parts[:_TEXTURES]
        )
        with np.errstate(all="ignore"):
            rest = _rest(tables, encoded.parts[_TEXTURES:], unit.degree)
            gaussians = gaussians_of(tables, (low, high, quats, scales, sh0), rest, self.sh_degree)
        centre = (self.tree.lo[chunk] + self.tree.hi[chunk]) / 2
        return _drawable(gaussians, centre)

    def close(self) -> None:
        """See ``ChunkSource``."""
        self._reader.close()
        self._units.close()

    def __enter__(self) -> StreamedSogChunks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _describe(self, lod_meta: JsonObject, names: list[str]) -> list[SogUnit]:
        for name in names:
            inside(lod_meta.path, name)

        def one(name: str) -> SogUnit:
            with np.errstate(all="ignore"):
                return self._units.describe(name)

        try:
            with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
                return list(pool.map(one, names))
        except RangeReadError as error:
            raise _opening_error(error) from None


def open_streamed_sog(
    path: str | os.PathLike[str],
    *,
    page_gaussians: int = DEFAULT_PAGE_GAUSSIANS,
    keep_bytes: int = DEFAULT_KEEP_BYTES,
    remote: RemoteOptions | None = None,
) -> StreamedSogChunks:
    """Opens a streamed SOG; reads ``lod-meta.json`` and the ``meta.json`` of its units.

    Args:
        path: The folder of ``lod-meta.json``, the file, or the address of either.
        page_gaussians: Gaussians of a device page.
        keep_bytes: The most that decoded textures take in memory while nobody reads them.
        remote: How to deal with servers; the defaults if None.

    Raises:
        SceneNotFoundError: If it is not there.
        SceneUnreachableError: If it cannot be reached just now.
        SceneFormatError: If it is broken.
    """
    reader, place = read_folder(path, LOD_META_FILE, remote)
    try:
        return StreamedSogChunks(
            reader, place, page_gaussians=page_gaussians, keep_bytes=keep_bytes
        )
    except BaseException:
        reader.close()
        raise


# ---- From lod-meta.json to a tree -----------------------------------------------------------


def _read_lod_meta(reader: RangeReader) -> JsonObject:
    location = reader.location(LOD_META_FILE)
    try:
        text = insist(lambda: reader.read_file(LOD_META_FILE, MAX_JSON_BYTES, never_cancelled))
    except RangeReadError as error:
        raise _opening_error(error) from None
    assert text is not None  # nobody cancelled
    return JsonObject.of(location, parse_json(location, text), "")


def _opening_error(error: RangeReadError) -> SceneError:
    if error.transient:
        return SceneUnreachableError(f"{error.location}: {error.advice}")
    if error.missing:
        return SceneNotFoundError(f"{error.location}: {error.advice}")
    return SceneFormatError(error.location, error.problem, remedy=error.remedy or DOWNLOAD_AGAIN)


def _parse_lod_meta(meta: JsonObject) -> tuple[int, tuple[str, ...], list[_Leaf]]:
    """Levels, names of the units, and the leaves that have Gaussians."""
    levels, names = meta.integer("lodLevels", 1), meta.strings("filenames")
    if levels > MAX_LEVELS:
        raise meta.error(f"more than {MAX_LEVELS} levels", "lodLevels")
    leaves = []
    for node, by_level in walk_leaves(meta.child("tree"), levels, len(names)):
        ranges = tuple((level, r) for level, r in sorted(by_level.items()) if r.count > 0)
        if not ranges:
            continue
        lo = hi = None
        if "bound" in node:
            bound = node.child("bound")
            lo, hi = bound.numbers("min", 3), bound.numbers("max", 3)
        leaves.append(_Leaf(lo, hi, ranges))
    return levels, names, leaves


def _environment(meta: JsonObject) -> str | None:
    name = meta.fields.get(ENVIRONMENT_KEY)
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise meta.error("needs a file name", ENVIRONMENT_KEY)
    return name


def _require_ranges(meta: JsonObject, leaves: list[_Leaf], units: dict[int, SogUnit]) -> None:
    for leaf in leaves:
        for _, r in leaf.ranges:
            if r.offset + r.count > units[r.file].count:
                raise meta.error(
                    f"points to Gaussians {r.offset:,} to {r.offset + r.count:,} of "
                    f"{units[r.file].name[:80]!r}, beyond its {units[r.file].count:,}",
                    "tree",
                )


def _nodes(leaves: list[_Leaf], units: dict[int, SogUnit]) -> list[_Node]:
    """All levels of all leaves, breadth first: the coarsest of each leaf, then the next."""
    nodes = [node for index, leaf in enumerate(leaves) for node in _chain(index, leaf, units)]
    return sorted(nodes, key=lambda node: (node.depth, node.leaf))


def _chain(index: int, leaf: _Leaf, units: dict[int, SogUnit]) -> Iterator[_Node]:
    lo, hi = _box(leaf, units)
    error = 0.0
    for position, (level, r) in enumerate(leaf.ranges):
        if position > 0:
            error = max(error, estimated_error(lo, hi, r.count, leaf.ranges[0][1].count))
        yield _Node(index, level, len(leaf.ranges) - 1 - position, r, error)


def estimated_error(lo: Float32Array, hi: Float32Array, count: int, finest: int) -> float:
    """World-space error of a level that keeps ``count`` of ``finest`` Gaussians of a box."""
    x, y, z = np.asarray(hi - lo, np.float64)
    area = x * y + y * z + z * x
    missing = max(0.0, 1.0 - count / finest)
    diagonal = float(np.sqrt(x * x + y * y + z * z))
    return float(max(0.5 * np.sqrt(area / count * missing), _LEAST_ERROR * diagonal))


def _box(leaf: _Leaf, units: dict[int, SogUnit]) -> tuple[Float32Array, Float32Array]:
    if leaf.lo is not None and leaf.hi is not None:
        return np.array(leaf.lo, np.float32), np.array(leaf.hi, np.float32)
    own = [units[r.file] for _, r in leaf.ranges]
    lo = np.array([unit.lo for unit in own], np.float32).min(axis=0)
    return lo, np.array([unit.hi for unit in own], np.float32).max(axis=0)


def _count_at(leaf: _Leaf, level: int) -> int:
    """Gaussians of the level, or of the one nearest to it (the finer of two)."""
    return min(leaf.ranges, key=lambda item: (abs(item[0] - level), item[0]))[1].count


def _tree(
    meta: JsonObject, nodes: list[_Node], leaves: list[_Leaf], units: dict[int, SogUnit]
) -> LodTree:
    boxes = [_box(leaf, units) for leaf in leaves]
    scales = [max(units[r.file].max_scale for _, r in leaf.ranges) for leaf in leaves]
    at = {(node.leaf, node.depth): index for index, node in enumerate(nodes)}
    child = [at.get((node.leaf, node.depth + 1), 0) for node in nodes]
    try:
        return LodTree(
            lo=np.array([boxes[node.leaf][0] for node in nodes]),
            hi=np.array([boxes[node.leaf][1] for node in nodes]),
            max_scale=np.array([scales[node.leaf] for node in nodes], np.float32),
            error=np.array([node.error for node in nodes], np.float32),
            count=np.array([node.range.count for node in nodes], np.int32),
            parent=np.array(
                [at.get((node.leaf, node.depth - 1), NO_PARENT) for node in nodes], np.int32
            ),
            first_child=np.array(child, np.int32),
            child_count=np.array([int(index > 0) for index in child], np.int32),
            level=np.array([node.level for node in nodes], np.int32),
        )
    except (SceneError, OverflowError) as error:
        raise meta.error(str(error), "tree") from None


# ---- Texels of a chunk ----------------------------------------------------------------------


def _harmonics(textures: SogTextures, part: slice) -> tuple[bytes, ...]:
    """Indices of the harmonics of each Gaussian, and whether it has any."""
    if textures.palette is None:
        return ()
    rows = textures.palette_rows(part)
    known = rows < len(textures.palette)
    indices = textures.palette[np.where(known, rows, 0)]
    return indices.tobytes(), known.tobytes()


def _rest(tables: SogMeta, parts: tuple[Buffer, ...], degree: int) -> Float32Array | None:
    if tables.palette is None or not parts:
        return None
    coefficients = SH_COUNT_OF_DEGREE[degree] - 1
    indices: ByteArray = np.frombuffer(parts[0], np.uint8).reshape(-1, coefficients, 3)
    rest: Float32Array = tables.palette.values[indices]
    rest[~np.frombuffer(parts[1], np.bool_)] = 0.0
    return rest


def _drawable(gaussians: Gaussians, centre: Float32Array) -> Gaussians:
    """As ``load_scene`` cleans a scene, but of the same number: a chunk's is fixed."""
    usable = usable_gaussians(gaussians)
    if usable is not None:
        gone = ~usable
        gaussians.means[gone] = centre
        gaussians.quats[gone] = (1.0, 0.0, 0.0, 0.0)
        gaussians.scales[gone] = SMALLEST_SCALE
        gaussians.opacities[gone] = 0.0
        gaussians.sh[gone] = 0.0
    np.maximum(gaussians.scales, SMALLEST_SCALE, out=gaussians.scales)
    np.clip(gaussians.opacities, 0.0, 1.0, out=gaussians.opacities)
    return gaussians
