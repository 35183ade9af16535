"""mkkellogg's ``.ksplat``: sections of Gaussians at one of three compression levels.

A header of 4096 bytes, one of 1024 for each section, then the sections: sizes of the
partly filled buckets, bucket centres, records. Level 0 stores float32; level 1 stores
positions as 16 bits within a bucket's cube and the rest as float16; level 2 also stores
the harmonics as bytes. Harmonics reach degree 2 and are channel-major within each degree.
Axes: x right, y down, z forward.

Source: ``SplatBuffer.js`` of https://github.com/mkkellogg/GaussianSplats3D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.decoding import normalized
from scene_store.formats.source import (
    DOWNLOAD_AGAIN,
    FileBytes,
    FileRecords,
    IndexedSource,
    read_head,
    require_bytes,
    require_file,
    require_only_lod,
)
from scene_store.scene import SceneMeta
from splat.errors import SceneFormatError
from splat.gaussians import SH_COUNT_OF_DEGREE, Float32Array, Gaussians
from splat.harmonics import rgb_to_sh0

HEADER_BYTES = 4096
SECTION_HEADER_BYTES = 1024

HEADER = np.dtype(
    {
        "names": ["major", "minor", "max_sections", "sections", "max_count", "count", "level",
                  "sh_min", "sh_max"],
        "formats": ["u1", "u1", "<u4", "<u4", "<u4", "<u4", "<u2", "<f4", "<f4"],
        "offsets": [0, 1, 4, 8, 12, 16, 20, 36, 40],
        "itemsize": HEADER_BYTES,
    }
)  # fmt: skip

SECTION_HEADER = np.dtype(
    {
        "names": ["count", "max_count", "bucket_size", "buckets", "bucket_side", "bucket_bytes",
                  "quantization", "full_buckets", "partial_buckets", "sh_degree"],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<f4", "<u2", "<u4", "<u4", "<u4", "<u2"],
        "offsets": [0, 4, 8, 12, 16, 20, 24, 32, 36, 40],
        "itemsize": SECTION_HEADER_BYTES,
    }
)  # fmt: skip

_DEFAULT_SH_RANGE = (-1.5, 1.5)
_DEFAULT_QUANTIZATION = 32767
_BUCKET_CENTRE_BYTES = 12
_MAX_DEGREE = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Section:
    """One section, located and checked.

    Attributes:
        first: Index of its first Gaussian in the scene.
        records: count of them, ``record_dtype`` of the level and degree.
        sh_degree: 0 to 2.
        centres: [buckets, 3] float32, empty at level 0.
        bucket_ends: [buckets] index within the section after each bucket's last Gaussian.
        step: World units per quantization step; ``origin`` steps are subtracted first.
    """

    first: int
    records: FileRecords
    sh_degree: int
    centres: Float32Array
    bucket_ends: NDArray[np.int64]
    step: float
    origin: int


def looks_like_ksplat(path: Path) -> bool:
    """Whether a file begins with the header of a ``.ksplat`` of version 0.x."""
    if require_file(path) < HEADER_BYTES + SECTION_HEADER_BYTES:
        return False
    header = np.frombuffer(read_head(path, HEADER_BYTES), HEADER)[0]
    reserved = read_head(path, 4)[2:]
    return bool(
        header["major"] == 0
        and header["minor"] >= 1
        and reserved == b"\0\0"
        and header["level"] <= 2
        and 1 <= header["max_sections"] <= 1 << 20
    )


class KsplatSource(IndexedSource):
    """A ``.ksplat``, read and decoded on demand."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        require_only_lod(path, lod)
        data = FileBytes(path)
        require_bytes(path, data.size, HEADER_BYTES, "the header")
        header = data[:HEADER_BYTES].view(HEADER)[0]
        self._level = int(header["level"])
        if header["major"] != 0 or header["minor"] < 1 or self._level > 2:
            raise SceneFormatError(
                path,
                f"is of version {header['major']}.{header['minor']}, compression level "
                f"{self._level}; versions 0.1 and later 0.x, levels 0 to 2 are read",
                where="header",
                remedy="convert it to PLY",
            )
        self._sh_range = _sh_range(float(header["sh_min"]), float(header["sh_max"]))
        self._sections = _sections(path, data, int(header["max_sections"]), self._level)
        count = sum(len(section.records) for section in self._sections)
        if count == 0:
            raise SceneFormatError(path, "holds no Gaussians", where="header")
        degree = max(section.sh_degree for section in self._sections)
        self._bases = SH_COUNT_OF_DEGREE[degree]
        self.meta = SceneMeta(
            path=path,
            format_name=f"ksplat level {self._level}",
            count=count,
            sh_degree=degree,
            up=(0.0, -1.0, 0.0),
        )

    def _decode(self, start: int, stop: int) -> Gaussians:
        parts = []
        for section in self._sections:
            low = max(start - section.first, 0)
            high = min(stop - section.first, len(section.records))
            if low < high:
                parts.append(self._decode_section(section, low, high))
        return parts[0] if len(parts) == 1 else Gaussians.concatenate(parts)

    def _decode_section(self, section: _Section, low: int, high: int) -> Gaussians:
        records = section.records[low:high]
        means = records["mean"].astype(np.float32)
        if self._level > 0:
            bucket = np.searchsorted(section.bucket_ends, np.arange(low, high), side="right")
            means = (means - np.float32(section.origin)) * np.float32(section.step)
            means += section.centres[bucket]
        rgba = records["rgba"].astype(np.float32) / np.float32(255)
        sh = np.zeros((high - low, self._bases, 3), np.float32)
        sh[:, 0] = rgb_to_sh0(rgba[:, :3])
        for degree in range(1, section.sh_degree + 1):
            first, end = SH_COUNT_OF_DEGREE[degree - 1], SH_COUNT_OF_DEGREE[degree]
            sh[:, first:end] = self._harmonics(records[f"sh{degree}"]).transpose(0, 2, 1)
        return Gaussians(
            means,
            normalized(records["quat"].astype(np.float32)),
            records["scale"].astype(np.float32),
            rgba[:, 3].copy(),
            sh,
        )

    def _harmonics(self, stored: NDArray[np.generic]) -> Float32Array:
        values = stored.astype(np.float32)
        if self._level == 2:
            low, high = self._sh_range
            values = values * np.float32((high - low) / 255) + np.float32(low)
        return values

    def close(self) -> None:
        """See ``SceneSource.close``."""
        super().close()
        self._sections = ()


def record_dtype(level: int, sh_degree: int) -> np.dtype[np.void]:
    """One Gaussian as stored; ``shL`` is [3, 2L + 1], channel-major."""
    real = "<f4" if level == 0 else "<f2"
    fields: list[tuple[str, str, int | tuple[int, int]]] = [
        ("mean", "<f4" if level == 0 else "<u2", 3),
        ("scale", real, 3),
        ("quat", real, 4),
        ("rgba", "u1", 4),
    ]
    fields += [
        (f"sh{degree}", "u1" if level == 2 else real, (3, 2 * degree + 1))
        for degree in range(1, sh_degree + 1)
    ]
    return np.dtype(fields)


def _sh_range(low: float, high: float) -> tuple[float, float]:
    """Old files leave the range at zero, which means the default."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return _DEFAULT_SH_RANGE
    return low or _DEFAULT_SH_RANGE[0], high or _DEFAULT_SH_RANGE[1]


def _sections(path: Path, data: FileBytes, sections: int, level: int) -> tuple[_Section, ...]:
    base = HEADER_BYTES + sections * SECTION_HEADER_BYTES
    require_bytes(path, data.size, base, f"the headers of {sections:,} sections")
    headers = data[HEADER_BYTES:base].view(SECTION_HEADER)
    out: list[_Section] = []
    first = 0
    for index, header in enumerate(headers):
        section, base = _section(path, data, header, base, level, first, index)
        if section is not None:
            out.append(section)
            first += len(section.records)
    return tuple(out)


def _section(
    path: Path,
    data: FileBytes,
    header: np.void,
    base: int,
    level: int,
    first: int,
    index: int,
) -> tuple[_Section | None, int]:
    """One section (None if it is empty) and the byte after it."""
    place = f"section {index}"
    degree = int(header["sh_degree"])
    count, capacity = int(header["count"]), int(header["max_count"])
    buckets, partial = int(header["buckets"]), int(header["partial_buckets"])
    if degree > _MAX_DEGREE or count > capacity:
        raise SceneFormatError(
            path,
            f"states harmonics of degree {degree} and {count:,} of {capacity:,} Gaussians",
            where=place,
            remedy=DOWNLOAD_AGAIN,
        )
    dtype = record_dtype(level, degree)
    centres_at = base + 4 * partial
    records_at = centres_at + int(header["bucket_bytes"]) * buckets
    end = records_at + dtype.itemsize * capacity
    require_bytes(path, data.size, end, f"section {index} ({capacity:,} Gaussians)")
    if count == 0:
        return None, end
    records = data.records(records_at, records_at + dtype.itemsize * count, dtype)
    if level == 0:
        centres = np.zeros((0, 3), np.float32)
        ends = np.zeros(0, np.int64)
    else:
        if header["bucket_bytes"] != _BUCKET_CENTRE_BYTES:
            raise SceneFormatError(
                path, "has bucket centres of unknown size", where=place, remedy=DOWNLOAD_AGAIN
            )
        centres = data[centres_at:records_at].view("<f4").reshape(-1, 3)
        partial_sizes = data[base:centres_at].view("<u4")
        ends = _bucket_ends(header, partial_sizes)
        if len(ends) > buckets or ends.size == 0 or ends[-1] < count:
            raise SceneFormatError(
                path,
                f"has {buckets:,} buckets that do not hold its {count:,} Gaussians",
                where=place,
                remedy=DOWNLOAD_AGAIN,
            )
    origin = int(header["quantization"]) or _DEFAULT_QUANTIZATION
    step = float(header["bucket_side"]) / 2 / origin
    return _Section(first, records, degree, centres, ends, step, origin), end


def _bucket_ends(header: np.void, partial_sizes: NDArray[np.uint32]) -> NDArray[np.int64]:
    full, size = int(header["full_buckets"]), int(header["bucket_size"])
    # The capacity bounds what is needed, whatever the header claims.
    full = min(full, int(header["buckets"]))
    sizes = np.concatenate([np.full(full, size, np.int64), partial_sizes.astype(np.int64)])
    return np.cumsum(sizes)
