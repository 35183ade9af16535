"""Niantic's ``.spz``, versions 1 to 4: byte streams of quantized Gaussians, compressed.

Versions 1 to 3 are one gzip stream (a 16-byte header, then the attributes); version 4 has
a plain header of 32 bytes, extensions, a table of contents and one Zstandard frame for
each attribute. The order is the same: positions (24-bit fixed point; float16 in version
1), opacities, colours, log scales, rotations, harmonics (coefficient-major).
Axes: right, up, back (RUB), unless an extension names others; but some writers
(splat-transform among them) keep the axes of their input and say nothing.

Source: https://github.com/nianticlabs/spz (``load-spz.cc``, ``splat-utils.h``).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.decoding import SQRT_HALF, exponential, normalized, quats_from_three
from scene_store.formats.source import (
    DOWNLOAD_AGAIN,
    ByteArray,
    FileBytes,
    IndexedSource,
    read_head,
    require_bytes,
    require_only_lod,
    require_plausible_count,
)
from scene_store.formats.spz_extensions import axes_from_extensions, up_of_axes
from scene_store.scene import SceneMeta
from splat.errors import SceneFormatError
from splat.gaussians import MAX_SH_DEGREE, SH_COUNT_OF_DEGREE, Float32Array, Gaussians

MAGIC = b"NGSP"
GZIP_MAGIC = b"\x1f\x8b"
_PROBED_BYTES = 1 << 12


def is_spz(path: Path) -> bool:
    """Whether a file begins as one of any version, in gzip or not."""
    head = read_head(path, _PROBED_BYTES)
    if head.startswith(GZIP_MAGIC):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, len(MAGIC))
        except zlib.error:
            return False
    return head.startswith(MAGIC)


LEGACY_HEADER = np.dtype(
    [("magic", "S4"), ("version", "<u4"), ("count", "<u4"), ("sh_degree", "u1"),
     ("fractional_bits", "u1"), ("flags", "u1"), ("reserved", "u1")]
)  # fmt: skip
HEADER = np.dtype(
    [("magic", "S4"), ("version", "<u4"), ("count", "<u4"), ("sh_degree", "u1"),
     ("fractional_bits", "u1"), ("flags", "u1"), ("streams", "u1"), ("toc", "<u4"),
     ("reserved", "V12")]
)  # fmt: skip

FLAG_ANTIALIASED = 0x1
FLAG_EXTENSIONS = 0x2

# The colour byte spans a little more than the displayable range.
_COLOUR_SCALE = np.float32(0.15)
_STORED_SH_COEFFICIENTS = (0, 3, 8, 15, 24)
_LOG_SCALES = exponential(np.arange(256, dtype=np.float32) / 16 - 10)

# Zstandard needs a window of its own to decode; encoders of .spz stay far below this.
_MAX_WINDOW_BYTES = 1 << 27
_FEED_BYTES = 1 << 20
_MAX_EXTENSION_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Layout:
    """Bytes per Gaussian of the six streams, in file order."""

    version: int
    sh_degree: int

    @property
    def widths(self) -> tuple[int, ...]:
        return (
            6 if self.version == 1 else 9,
            1,
            3,
            3,
            4 if self.version >= 3 else 3,
            3 * _STORED_SH_COEFFICIENTS[self.sh_degree],
        )


class SpzSource(IndexedSource):
    """An ``.spz``: decompressed when opened, dequantized on demand."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        require_only_lod(path, lod)
        data = FileBytes(path)
        start = data[:4].tobytes()
        if start[:2] == GZIP_MAGIC:
            header, streams, tail = _gunzip_streams(path, data)
        elif start == MAGIC:
            header, streams, tail = _plain_streams(path, data)
        else:
            raise SceneFormatError(
                path,
                f"begins with {start!r}, not with {MAGIC!r} or a gzip signature",
                where="byte 0",
                remedy="check that it is an SPZ file",
            )
        version, count = int(header["version"]), int(header["count"])
        self._version = version
        self._fraction = np.float32(2.0 ** -int(header["fractional_bits"]))
        self._streams: tuple[ByteArray, ...] = streams
        stored_degree = int(header["sh_degree"])
        degree = min(stored_degree, MAX_SH_DEGREE)
        self._stored = _STORED_SH_COEFFICIENTS[stored_degree]
        self._bases = SH_COUNT_OF_DEGREE[degree]
        axes = axes_from_extensions(tail) if header["flags"] & FLAG_EXTENSIONS else None
        up, axes_notes = up_of_axes(axes)
        notes = list(axes_notes)
        if header["flags"] & FLAG_ANTIALIASED:
            notes.append("trained with antialiasing (compensated dilation)")
        if stored_degree > degree:
            notes.append(f"harmonics of degree {stored_degree} cut to {degree}")
        self.meta = SceneMeta(
            path=path,
            format_name=f"SPZ v{version}",
            count=count,
            sh_degree=degree,
            up=up,
            notes=tuple(notes),
            up_assumed=axes is None,
        )

    def _decode(self, start: int, stop: int) -> Gaussians:
        positions, alphas, colours, scales, rotations, rest = (
            stream[start:stop] for stream in self._streams
        )
        sh = np.empty((stop - start, self._bases, 3), np.float32)
        sh[:, 0] = (colours / np.float32(255) - np.float32(0.5)) / _COLOUR_SCALE
        if self._bases > 1:
            coefficients = rest.reshape(stop - start, self._stored, 3)[:, : self._bases - 1]
            sh[:, 1:] = (coefficients - np.float32(128)) / np.float32(128)
        return Gaussians(
            self._means(positions),
            self._quats(rotations),
            _LOG_SCALES[scales],
            alphas[:, 0] / np.float32(255),
            sh,
        )

    def _means(self, stored: ByteArray) -> Float32Array:
        if self._version == 1:
            return np.ascontiguousarray(stored).view("<f2").astype(np.float32)
        words = np.zeros((len(stored), 3, 4), np.uint8)
        # The three bytes go to the top of a 32-bit word, so that the shift back extends
        # the sign.
        words[:, :, 1:] = stored.reshape(-1, 3, 3)
        fixed = words.view("<i4")[:, :, 0] >> 8
        means: Float32Array = fixed.astype(np.float32) * self._fraction
        return means

    def _quats(self, stored: ByteArray) -> Float32Array:
        if self._version >= 3:
            return _smallest_three(np.ascontiguousarray(stored).view("<u4")[:, 0])
        xyz = stored / np.float32(127.5) - np.float32(1)
        squares = np.einsum("ij,ij->i", xyz, xyz)
        quats = np.empty((len(stored), 4), np.float32)
        quats[:, 0] = np.sqrt(np.maximum(np.float32(1) - squares, 0))
        quats[:, 1:] = xyz
        return normalized(quats)

    def close(self) -> None:
        """See ``SceneSource.close``."""
        super().close()
        self._streams = ()


def _smallest_three(packed: NDArray[np.uint32]) -> Float32Array:
    """wxyz quaternions of 2 bits of index (xyzw) and three of 9 bits and a sign each."""
    three = np.empty((len(packed), 3), np.float32)
    for i, shift in enumerate((20, 10, 0)):
        magnitude = (packed >> shift & 511).astype(np.float32) * (SQRT_HALF / np.float32(511))
        three[:, i] = np.where(packed >> shift & 512, -magnitude, magnitude)
    xyzw = quats_from_three(packed >> 30, three)
    return np.ascontiguousarray(xyzw[:, [3, 0, 1, 2]])


def _checked_layout(path: Path, header: np.void, compressed_bytes: int) -> _Layout:
    """The streams' sizes for a header whose claims hold."""
    version, degree = int(header["version"]), int(header["sh_degree"])
    if not 1 <= version <= 4:
        raise SceneFormatError(
            path,
            f"is of version {version}; versions 1 to 4 are read",
            where="header",
            remedy="convert it to PLY, or check for a newer release of Belvedere",
        )
    if degree >= len(_STORED_SH_COEFFICIENTS) or header["fractional_bits"] > 23:
        raise SceneFormatError(
            path,
            f"states harmonics of degree {degree} and {header['fractional_bits']} fractional bits",
            where="header",
            remedy=DOWNLOAD_AGAIN,
        )
    count = int(header["count"])
    if count == 0:
        raise SceneFormatError(path, "holds no Gaussians", where="header")
    require_plausible_count(path, count, compressed_bytes, "header")
    return _Layout(version, degree)


_Opened = tuple[np.void, tuple[ByteArray, ...], bytes]


def _gunzip_streams(path: Path, data: FileBytes) -> _Opened:
    """Header, streams and extensions of a gzip-compressed file of version 1 to 3."""
    head = _gunzip(path, data, LEGACY_HEADER.itemsize)
    header = _legacy_header(path, head.tobytes(), "gzip content")
    layout = _checked_layout(path, header, data.size)
    size = LEGACY_HEADER.itemsize + int(header["count"]) * sum(layout.widths)
    extensions = _MAX_EXTENSION_BYTES if header["flags"] & FLAG_EXTENSIONS else 0
    content = _gunzip(path, data, size + extensions, to_end=True)
    require_bytes(path, content.size, size, f"{int(header['count']):,} unpacked Gaussians")
    return header, *_split(content, LEGACY_HEADER.itemsize, int(header["count"]), layout)


def _plain_streams(path: Path, data: FileBytes) -> _Opened:
    """The same of a file that begins with the magic: version 4, or an unpacked older one."""
    require_bytes(path, data.size, LEGACY_HEADER.itemsize, "the header")
    header = _legacy_header(path, data[: LEGACY_HEADER.itemsize].tobytes(), "header")
    layout = _checked_layout(path, header, data.size)
    if layout.version >= 4:
        return _zstd_streams(path, data, layout)
    size = LEGACY_HEADER.itemsize + int(header["count"]) * sum(layout.widths)
    require_bytes(path, data.size, size, f"{int(header['count']):,} Gaussians")
    return header, *_split(data, LEGACY_HEADER.itemsize, int(header["count"]), layout)


def _legacy_header(path: Path, head: bytes, place: str) -> np.void:
    require_bytes(path, len(head), LEGACY_HEADER.itemsize, f"the header ({place})")
    header: np.void = np.frombuffer(head, LEGACY_HEADER)[0]
    if header["magic"] != MAGIC:
        raise SceneFormatError(
            path,
            f"unpacks to something that begins with {head[:4]!r}, not to an SPZ scene",
            where=place,
            remedy="unpack it first if it is another file compressed with gzip",
        )
    return header


def _split(
    content: ByteArray | FileBytes, offset: int, count: int, layout: _Layout
) -> tuple[tuple[ByteArray, ...], bytes]:
    """The six streams [count, width] that follow each other, and what follows them."""
    streams = []
    for width in layout.widths:
        streams.append(content[offset : offset + count * width].reshape(count, width))
        offset += count * width
    return tuple(streams), content[offset : offset + _MAX_EXTENSION_BYTES].tobytes()


def _gunzip(path: Path, data: FileBytes, limit: int, *, to_end: bool = False) -> ByteArray:
    """At most ``limit`` unpacked bytes; fewer where the stream ends before.

    With ``to_end`` the stream must end (and its checksum hold) not far behind that limit.
    """
    out = np.empty(limit, np.uint8)
    filled = 0
    unpacker = zlib.decompressobj(wbits=31)
    surplus = _MAX_EXTENSION_BYTES if to_end else 0
    try:
        for start in range(0, data.size, _FEED_BYTES):
            pending = data[start : start + _FEED_BYTES].tobytes()
            while pending and surplus >= 0 and not unpacker.eof:
                wanted = limit - filled or surplus + 1
                piece = unpacker.decompress(pending, min(wanted, 4 * _FEED_BYTES))
                if filled < limit:
                    out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
                    filled += len(piece)
                else:
                    surplus -= len(piece)
                pending = unpacker.unconsumed_tail
                if filled == limit and not to_end:
                    return out
            if unpacker.eof or surplus < 0:
                break
    except zlib.error:
        raise SceneFormatError(
            path,
            "has a damaged gzip stream",
            where=f"unpacked byte {filled:,}",
            remedy=DOWNLOAD_AGAIN,
        ) from None
    if to_end and not unpacker.eof and surplus >= 0:
        raise SceneFormatError(
            path, "ends inside its gzip stream", where="end", remedy=DOWNLOAD_AGAIN
        )
    return out[:filled]


def _zstd_streams(path: Path, data: FileBytes, layout: _Layout) -> _Opened:
    require_bytes(path, data.size, HEADER.itemsize, "the header")
    header: np.void = data[: HEADER.itemsize].view(HEADER)[0]
    count, toc, streams = int(header["count"]), int(header["toc"]), int(header["streams"])
    sizes = [count * width for width in layout.widths if width]
    if streams != len(sizes) or toc < HEADER.itemsize:
        raise SceneFormatError(
            path,
            f"lists {streams} streams at byte {toc:,} where {len(sizes)} are needed",
            where="header",
            remedy=DOWNLOAD_AGAIN,
        )
    position = toc + 16 * streams
    require_bytes(path, data.size, position, "the table of contents")
    table = data[toc:position].view("<u8").reshape(streams, 2)
    unpacked = []
    for index, (packed_size, size) in enumerate(table.tolist()):
        place = f"stream {index}"
        if size != sizes[index]:
            raise SceneFormatError(
                path,
                f"unpacks to {size:,} bytes where {count:,} Gaussians need {sizes[index]:,}",
                where=place,
                remedy=DOWNLOAD_AGAIN,
            )
        require_bytes(path, data.size, position + packed_size, place)
        frame = data.stream(position, position + packed_size)
        unpacked.append(_unzstd(path, frame, size, place).reshape(count, -1))
        position += packed_size
    if len(unpacked) < len(layout.widths):
        unpacked.append(np.zeros((count, 0), np.uint8))
    extensions = data[HEADER.itemsize : min(toc, HEADER.itemsize + _MAX_EXTENSION_BYTES)]
    return header, tuple(unpacked), extensions.tobytes()


def _unzstd(path: Path, frame: BinaryIO, size: int, place: str) -> ByteArray:
    """Exactly ``size`` unpacked bytes; what the frame itself claims is not trusted."""
    import zstandard  # only this format needs it

    out = np.empty(size, np.uint8)
    view = out.data
    filled = 0
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with unpacker.stream_reader(frame) as reader:
            while filled < size and (got := reader.readinto(view[filled:])):
                filled += got
            surplus = reader.read(1)
    except zstandard.ZstdError:
        raise SceneFormatError(
            path, "has a damaged Zstandard stream", where=place, remedy=DOWNLOAD_AGAIN
        ) from None
    if filled < size or surplus:
        problem = "unpacks to more than" if surplus else f"ends after {filled:,} of"
        raise SceneFormatError(
            path, f"{problem} {size:,} bytes", where=place, remedy=DOWNLOAD_AGAIN
        )
    return out
