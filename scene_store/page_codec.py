"""Gaussians as the bytes of a chunk, and back; ``docs/format.md`` specifies them.

A chunk has two streams: geometry with colour, and harmonics above degree 0. A stream is a
small header, then byte planes under Zstandard. What the planes hold depends on the profile:
the bits of every float32 (lossless), or quantized columns (compact).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import zstandard

from scene_store.chunks import EncodedChunk
from scene_store.manifest import Profile
from scene_store.native import _store
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians

# kind, profile, degree, columns, count
_HEADER = struct.Struct("<BBBBI")
_GEOMETRY, _SH = 0, 1
_PROFILE_CODES = {Profile.LOSSLESS: 0, Profile.COMPACT: 1}
_PARAMETER_BYTES = {(_GEOMETRY, 0): 0, (_GEOMETRY, 1): 104, (_SH, 0): 0, (_SH, 1): 4}
_COLUMNS = {(_GEOMETRY, 0): 14, (_GEOMETRY, 1): 13}
_KIND_NAMES = {_GEOMETRY: "geometry", _SH: "harmonics"}

# The planes are noise with a skewed distribution: entropy coding is all there is to gain, and
# a match costs more than the literals it replaces. A tiny hash table finds only the real runs;
# that is both the fastest and the smallest of what was measured (docs/format.md).
_ZSTD_PARAMETERS = zstandard.ZstdCompressionParameters.from_level(
    1, min_match=7, hash_log=6, write_checksum=False, write_content_size=True
)


@dataclass(frozen=True, slots=True)
class Steps:
    """Quantization of the compact profile: what is lost is at most half of these.

    The values were chosen by measurement (``docs/format.md``). A decoder does not need them.

    Attributes:
        mean: Of the standard deviation that nine Gaussians in ten of a chunk exceed.
        log_scale, log_opacity: Nats.
        quat: Of the three smaller components of a unit quaternion.
        color: Of the degree-0 coefficient; displayed colour is 0.28 of it.
        sh: Of the coefficients above.
    """

    mean: float = 0.02
    log_scale: float = 1 / 32
    quat: float = 1 / 360
    log_opacity: float = 1 / 32
    color: float = 1 / 64
    sh: float = 1 / 48


DEFAULT_STEPS = Steps()


class CorruptChunkError(ValueError):
    """The bytes are not a chunk; the text says what is wrong, as a phrase."""


class _Zstandard(threading.local):
    """A thread's own contexts: they cannot be shared, and making them takes time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(compression_params=_ZSTD_PARAMETERS)
        self.decompressor = zstandard.ZstdDecompressor()


_zstandard = _Zstandard()


def encode_chunk(
    gaussians: Gaussians, profile: Profile, steps: Steps = DEFAULT_STEPS
) -> EncodedChunk:
    """The two streams of a chunk: geometry with colour, and harmonics above degree 0.

    Deterministic, on any thread; the interpreter's lock is released for most of it.

    The compact profile may name a Gaussian's axes in another order: scales are sorted,
    largest first, and the rotation follows.

    Raises:
        ValueError: If there are none, or a value is not finite or a scale not positive.
    """
    _require_encodable(gaussians)
    geometry = _encode_stream(_GEOMETRY, gaussians, profile, steps)
    if gaussians.sh_degree == 0:
        return EncodedChunk((geometry, b""))
    return EncodedChunk((geometry, _encode_stream(_SH, gaussians, profile, steps)))


def decode_chunk(encoded: EncodedChunk, count: int, sh_degree: int) -> Gaussians:
    """The Gaussians of a chunk.

    Args:
        encoded: Its two streams.
        count: Gaussians that it should hold; others are refused before anything is allocated.
        sh_degree: Of the chunk. With an empty second stream, the harmonics above degree 0
            are zero.

    Raises:
        CorruptChunkError: If the bytes are no such chunk.
    """
    bases = SH_COUNT_OF_DEGREE[sh_degree]
    has_sh = bool(encoded.parts[_SH])
    out = Gaussians(
        np.empty((count, 3), np.float32),
        np.empty((count, 4), np.float32),
        np.empty((count, 3), np.float32),
        np.empty(count, np.float32),
        (np.empty if has_sh or bases == 1 else np.zeros)((count, bases, 3), np.float32),
    )
    decode_chunk_into(encoded, out)
    return out


def decode_chunk_into(encoded: EncodedChunk, out: Gaussians) -> None:
    """As ``decode_chunk``, into arrays that the caller owns.

    Args:
        encoded: Its two streams; where the second is empty, ``out.sh[:, 1:]`` is left alone.
        out: Of the chunk's count and degree. Its arrays are filled, and hold anything after
            an error.
    """
    geometry, harmonics = encoded.parts
    _decode_stream(_GEOMETRY, geometry, out)
    if harmonics:
        _decode_stream(_SH, harmonics, out)


def _require_encodable(gaussians: Gaussians) -> None:
    if not 0 < len(gaussians) < 1 << 32:
        raise ValueError(f"a chunk cannot hold {len(gaussians)} Gaussians")
    arrays = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("a Gaussian has a value that is not finite")
    if gaussians.scales.min() <= 0:
        raise ValueError("a Gaussian has a scale that is not positive")
    if not gaussians.quats.any(axis=1).all():
        raise ValueError("a Gaussian has a zero quaternion")


def _encode_stream(kind: int, gaussians: Gaussians, profile: Profile, steps: Steps) -> bytes:
    parameters, widths, planes = _store.pack_stream(
        kind == _SH,
        profile is Profile.LOSSLESS,
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh,
        (steps.mean, steps.log_scale, steps.quat, steps.log_opacity, steps.color, steps.sh),
    )
    count = len(gaussians)
    code = _PROFILE_CODES[profile]
    degree = gaussians.sh_degree if kind == _SH else 0
    header = _HEADER.pack(kind, code, degree, len(widths), count)
    return b"".join((header, parameters, widths, *_compressed(planes, count)))


def _compressed(planes: bytes, plane_bytes: int) -> Iterator[bytes]:
    """One frame with a block for each plane, so that each has statistics of its own."""
    frame = _zstandard.compressor.compressobj(size=len(planes))
    view = memoryview(planes)
    for start in range(0, len(planes), plane_bytes):
        yield frame.compress(view[start : start + plane_bytes])
        yield frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    yield frame.flush()


def _decode_stream(kind: int, stream: bytes, out: Gaussians) -> None:
    name = _KIND_NAMES[kind]
    if len(stream) < _HEADER.size:
        raise CorruptChunkError(f"its {name} is cut short")
    found_kind, code, degree, columns, count = _HEADER.unpack_from(stream)
    if found_kind != kind or (kind, code) not in _PARAMETER_BYTES:
        raise CorruptChunkError(f"its {name} is of an unknown kind")
    expected_degree = out.sh_degree if kind == _SH else 0
    if (count, degree) != (len(out), expected_degree):
        raise CorruptChunkError(
            f"its {name} holds {count} Gaussians of degree {degree} instead of "
            f"{len(out)} of degree {expected_degree}"
        )
    expected_columns = _COLUMNS.get((kind, code), 3 * (SH_COUNT_OF_DEGREE[degree] - 1))
    widths_at = _HEADER.size + _PARAMETER_BYTES[kind, code]
    frame_at = widths_at + columns
    widths = stream[widths_at:frame_at]
    if columns != expected_columns or len(widths) < columns or max(widths) > 4:
        raise CorruptChunkError(f"the columns of its {name} make no sense")
    planes = _decompressed(memoryview(stream)[frame_at:], count * sum(widths), name)
    try:
        _store.unpack_stream(
            kind == _SH,
            code == _PROFILE_CODES[Profile.LOSSLESS],
            stream[_HEADER.size : widths_at],
            widths,
            planes,
            out.means,
            out.quats,
            out.scales,
            out.opacities,
            out.sh,
        )
    except ValueError as error:
        raise CorruptChunkError(f"its {name} is damaged: {error}") from None


def _decompressed(frame: memoryview, size: int, name: str) -> bytes:
    try:
        # Checked before it is believed: it is what the decompressor allocates.
        if zstandard.get_frame_parameters(frame).content_size != size:
            raise CorruptChunkError(f"the planes of its {name} have the wrong size")
        planes = _zstandard.decompressor.decompress(
            frame, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError:
        raise CorruptChunkError(f"the planes of its {name} cannot be decompressed") from None
    if len(planes) != size:
        raise CorruptChunkError(f"the planes of its {name} have the wrong size")
    return planes
