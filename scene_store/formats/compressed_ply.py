"""SuperSplat's ``.compressed.ply``: 16 bytes per Gaussian, in chunks of 256 with ranges.

Element ``chunk`` holds the ranges of position, log scale and (newer files) colour;
``vertex`` four packed words: position 11·10·11 bits, rotation 2·10·10·10 (the largest
component's index, wxyz, and the others), log scale 11·10·11, colour and opacity 8·8·8·8;
``sh`` one byte per higher harmonic, channel-major, −4 to 4.
Axes: x right, y down, z forward.

Source: https://github.com/playcanvas/splat-transform (``decompress-ply.ts``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.decoding import (
    SQRT_HALF,
    exponential,
    quats_from_three,
    sh_degree_of_rest,
)
from scene_store.formats.ply_header import PlyElement, PlyHeader, read_ply_header
from scene_store.formats.source import (
    DOWNLOAD_AGAIN,
    FileBytes,
    FileRecords,
    IndexedSource,
    require_bytes,
    require_only_lod,
)
from scene_store.scene import SceneMeta
from splat.errors import SceneFormatError
from splat.gaussians import Float32Array, Gaussians
from splat.harmonics import rgb_to_sh0

CHUNK_SIZE = 256

_AXES = ("x", "y", "z")
_RANGES = tuple(f"{end}_{axis}" for end in ("min", "max") for axis in _AXES)
_SCALE_RANGES = tuple(f"{end}_scale_{axis}" for end in ("min", "max") for axis in _AXES)
_COLOUR_RANGES = tuple(f"{end}_{channel}" for end in ("min", "max") for channel in "rgb")
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")

# Values of the sh bytes: bin centres of [−4, 4] in 256 bins, but exact at both ends.
_SH_VALUES = ((np.arange(256) + 0.5) / 256 * 8 - 4).astype(np.float32)
_SH_VALUES[[0, 255]] = (-4.0, 4.0)


def is_compressed_ply(header: PlyHeader) -> bool:
    """Whether this PLY header belongs to SuperSplat's compressed kind."""
    vertex = header.elements.get("vertex")
    return (
        "chunk" in header.elements and vertex is not None and "packed_position" in vertex.properties
    )


class CompressedPlySource(IndexedSource):
    """A ``.compressed.ply``, read and decoded on demand."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        require_only_lod(path, lod)
        header = read_ply_header(path)
        data = FileBytes(path)
        chunk = _element(path, header, "chunk", (*_RANGES, *_SCALE_RANGES), "f4", data)
        vertex = _element(path, header, "vertex", _PACKED, "u4", data)
        if vertex.count == 0:
            raise SceneFormatError(path, "holds no Gaussians", where="header, element vertex")
        if chunk.count < -(-vertex.count // CHUNK_SIZE):
            raise SceneFormatError(
                path,
                f"has {chunk.count:,} chunks of {CHUNK_SIZE} for {vertex.count:,} Gaussians",
                where="header",
                remedy=DOWNLOAD_AGAIN,
            )
        coefficients = _sh_coefficients(path, header, vertex)
        self._rest: FileRecords | None = None
        if coefficients:
            names = tuple(f"f_rest_{i}" for i in range(3 * coefficients))
            sh = _element(path, header, "sh", names, "u1", data)
            self._rest = _records(data, sh)
            self._rest_columns = [sh.properties.index(name) for name in names]
        self._vertex = _records(data, vertex)
        self._position, self._scale, self._colour = _chunk_ranges(_records(data, chunk)[:])
        self.meta = SceneMeta(
            path=path,
            format_name="SuperSplat compressed PLY",
            count=vertex.count,
            sh_degree=sh_degree_of_rest(coefficients) or 0,
            up=(0.0, -1.0, 0.0),
        )

    def _decode(self, start: int, stop: int) -> Gaussians:
        records = self._vertex[start:stop]
        chunk = np.arange(start, stop) // CHUNK_SIZE
        colour = np.ascontiguousarray(records["packed_color"])
        channels = np.stack([colour >> 24, colour >> 16 & 255, colour >> 8 & 255], axis=1)
        rgb = channels.astype(np.float32) / np.float32(255)
        if self._colour is not None:
            rgb = _within(rgb, self._colour, chunk)
        coefficients = 0 if self._rest is None else len(self._rest_columns) // 3
        sh = np.empty((stop - start, coefficients + 1, 3), np.float32)
        sh[:, 0] = rgb_to_sh0(rgb)
        if self._rest is not None:
            stored = self._rest[start:stop].view(np.uint8).reshape(stop - start, -1)
            rest = _SH_VALUES[stored[:, self._rest_columns]]
            sh[:, 1:] = rest.reshape(stop - start, 3, -1).transpose(0, 2, 1)
        return Gaussians(
            _within(_unpack_11_10_11(records["packed_position"]), self._position, chunk),
            _unpack_quats(np.ascontiguousarray(records["packed_rotation"])),
            exponential(_within(_unpack_11_10_11(records["packed_scale"]), self._scale, chunk)),
            (colour & 255).astype(np.float32) / np.float32(255),
            sh,
        )


def _element(
    path: Path,
    header: PlyHeader,
    name: str,
    properties: tuple[str, ...],
    kind: str,
    data: FileBytes,
) -> PlyElement:
    """An element that has these properties of this type, and all of its bytes."""
    element = header.elements.get(name)
    place = f"header, element {name}"
    if element is None:
        raise SceneFormatError(path, "is missing", where=place, remedy=DOWNLOAD_AGAIN)
    for wanted in properties:
        if wanted not in element.properties or element.dtype[wanted].str[1:] != kind:
            raise SceneFormatError(
                path,
                f"needs the property {wanted} of {8 * int(kind[1])} bits",
                where=place,
                remedy=DOWNLOAD_AGAIN,
            )
    require_bytes(path, data.size, element.end, f"element {name} ({element.count:,} records)")
    return element


def _records(data: FileBytes, element: PlyElement) -> FileRecords:
    return data.records(element.offset, element.end, element.dtype)


def _sh_coefficients(path: Path, header: PlyHeader, vertex: PlyElement) -> int:
    """Coefficients above degree 0, per channel."""
    sh = header.elements.get("sh")
    if sh is None:
        return 0
    count = sum(name.startswith("f_rest_") for name in sh.properties)
    if (
        sh.count != vertex.count
        or count != len(sh.properties)
        or count % 3
        or sh_degree_of_rest(count // 3) is None
        or any(sh.dtype[name].str[1:] != "u1" for name in sh.properties)
    ):
        raise SceneFormatError(
            path,
            f"needs 9, 24 or 45 bytes for each of the {vertex.count:,} Gaussians",
            where="header, element sh",
            remedy=DOWNLOAD_AGAIN,
        )
    return count // 3


def _chunk_ranges(
    records: NDArray[np.void],
) -> tuple[Float32Array, Float32Array, Float32Array | None]:
    """[chunks, 2, 3] ranges (minimum, extent) of position, log scale and colour."""

    def ranges(names: tuple[str, ...]) -> Float32Array:
        table = np.stack([records[name] for name in names], axis=1).reshape(-1, 2, 3)
        table = table.astype(np.float32)
        table[:, 1] -= table[:, 0]
        return table

    has_colour = set(_COLOUR_RANGES) <= set(records.dtype.names or ())
    return (
        ranges(_RANGES),
        ranges(_SCALE_RANGES),
        ranges(_COLOUR_RANGES) if has_colour else None,
    )


def _within(fraction: Float32Array, ranges: Float32Array, chunk: NDArray[np.intp]) -> Float32Array:
    return np.asarray(ranges[chunk, 0] + fraction * ranges[chunk, 1], np.float32)


def _unpack_11_10_11(packed: NDArray[np.unsignedinteger]) -> Float32Array:
    out = np.empty((len(packed), 3), np.float32)
    out[:, 0] = (packed >> 21) / np.float32(2047)
    out[:, 1] = (packed >> 11 & 1023) / np.float32(1023)
    out[:, 2] = (packed & 2047) / np.float32(2047)
    return out


def _unpack_quats(packed: NDArray[np.unsignedinteger]) -> Float32Array:
    three = np.empty((len(packed), 3), np.float32)
    for i, shift in enumerate((20, 10, 0)):
        three[:, i] = packed >> shift & 1023
    three = (three / np.float32(1023) - np.float32(0.5)) * (2 * SQRT_HALF)
    return quats_from_three(packed >> 30, three)
