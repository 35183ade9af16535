"""Gaussians as the bytes of a chunk, and back; ``docs/format.md`` specifies them.

A chunk has two streams: geometry with colour, and harmonics above degree 0. A stream is a
small header, then byte planes under Zstandard. What the planes hold depends on the profile:
the bits of every float32 (lossless), or quantized columns (compact).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.chunks import Buffer, EncodedChunk
from scene_store.manifest import Profile
from scene_store.native import _store
from splat.gaussians import Gaussians

if TYPE_CHECKING:
    import zstandard

# kind, profile, degree, columns, count
_HEADER = struct.Struct("<BBBBI")
_GEOMETRY, _SH = 0, 1
_PROFILE_CODES = {Profile.LOSSLESS: 0, Profile.COMPACT: 1}
_KIND_NAMES = {_GEOMETRY: "geometry", _SH: "harmonics"}

# Beyond it, the step of the compact profile is more than a decoder takes: its product with any
# 32-bit integer must be a number (``native/src/compact.cpp``).
MAX_COEFFICIENT = 1e28

_MOST_SCRATCH_BYTES = 2 << 20  # kept for each thread


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
    """A thread's own contexts: they cannot be shared, and making them takes time.

    The planes are noise with a skewed distribution: entropy coding is all there is to gain, and
    a match costs more than the literals it replaces. A tiny hash table finds only the real runs;
    that is both the fastest and the smallest of what was measured (docs/format.md).
    """

    @cached_property
    def compressor(self) -> zstandard.ZstdCompressor:
        library = _library()
        parameters = library.ZstdCompressionParameters.from_level(
            1, min_match=7, hash_log=6, write_checksum=False, write_content_size=True
        )
        compressor: zstandard.ZstdCompressor = library.ZstdCompressor(compression_params=parameters)
        return compressor

    @cached_property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        decompressor: zstandard.ZstdDecompressor = _library().ZstdDecompressor()
        return decompressor


def _library() -> ModuleType:
    """Loaded at its first use: a scene whose chunks are in memory does without."""
    import zstandard

    return zstandard


_zstandard = _Zstandard()


def encode_chunk(
    gaussians: Gaussians, profile: Profile, steps: Steps = DEFAULT_STEPS
) -> EncodedChunk:
    """The two streams of a chunk: geometry with colour, and harmonics above degree 0.

    Deterministic, on any thread; the interpreter's lock is released for most of it.

    The compact profile may name a Gaussian's axes in another order: scales are sorted,
    largest first, and the rotation follows.

    Raises:
        ValueError: If there are none, or a value is not finite, a scale not positive, or a
            harmonic beyond ``MAX_COEFFICIENT``.
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
        count: Gaussians that it should hold; others are refused before anything is allocated
            for what it says it holds.
        sh_degree: Of the chunk. With an empty second stream, the harmonics above degree 0
            are zero.

    Raises:
        CorruptChunkError: If the bytes are no such chunk.
    """
    out = Gaussians.allocate(count, sh_degree)
    decode_chunk_into(encoded, out)
    return out


def decode_chunk_into(encoded: EncodedChunk, out: Gaussians) -> None:
    """As ``decode_chunk``, into arrays that the caller owns.

    Args:
        encoded: Its two streams.
        out: Of the chunk's count and degree. Its arrays are filled, and hold anything after
            an error.
    """
    (problem,) = decode_chunks_into([encoded], [len(out)], out)
    if problem is not None:
        raise CorruptChunkError(problem)


def decode_chunks_into(
    encoded: Sequence[EncodedChunk], counts: ArrayLike, out: Gaussians
) -> list[str | None]:
    """Decodes chunks into arrays that the caller owns, one after the other.

    The interpreter's lock is let go for nearly all of it, however small the chunks are.

    Args:
        encoded: The two streams of each of B chunks.
        counts: [B] Gaussians that each should hold.
        out: Of the chunks' degree, and at least as many Gaussians as they hold together.

    Returns:
        What is wrong with each chunk, as a phrase; None for those that are well. ``out``
        holds anything where a bad one should be.
    """
    sizes = np.asarray(counts, np.int64)
    rows = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1)
    problems = _decode_streams(_GEOMETRY, [each.parts[_GEOMETRY] for each in encoded], rows, out)
    if out.sh_degree == 0:
        return problems
    with_sh = [i for i, each in enumerate(encoded) if problems[i] is None and each.parts[_SH]]
    for i in set(range(len(encoded))).difference(with_sh):
        out.sh[rows[i, 0] : rows[i, 0] + rows[i, 1], 1:] = 0.0
    streams = [encoded[i].parts[_SH] for i in with_sh]
    for i, problem in zip(with_sh, _decode_streams(_SH, streams, rows[with_sh], out), strict=True):
        problems[i] = problem
    return problems


class DecodingScratch(threading.local):
    """A thread's own arrays to decode into, kept from one batch to the next: memory that is
    new to the process takes longer to come than chunks to be decoded."""

    def __init__(self) -> None:
        self._kept = Gaussians.empty()

    def room_for(self, count: int, sh_degree: int) -> Gaussians:
        """``count`` Gaussians of whatever values, until the next call on this thread."""
        if len(self._kept) < count or self._kept.sh_degree != sh_degree:
            fresh = Gaussians.allocate(count, sh_degree)
            if fresh.nbytes > _MOST_SCRATCH_BYTES:
                return fresh
            self._kept = fresh
        return self._kept[:count]


def checksums(streams: Sequence[Buffer], out: NDArray[np.uint32]) -> None:
    """CRC-32 of each stream, without the interpreter's lock."""
    _store.checksums(streams, out)


def _require_encodable(gaussians: Gaussians) -> None:
    if not 0 < len(gaussians) < 1 << 32:
        raise ValueError(f"a chunk cannot hold {len(gaussians)} Gaussians")
    arrays = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("a Gaussian has a value that is not finite")
    if max(gaussians.sh.max(), -gaussians.sh.min()) > MAX_COEFFICIENT:
        raise ValueError(f"a Gaussian has a harmonic of more than {MAX_COEFFICIENT:g}")
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
        yield frame.flush(_library().COMPRESSOBJ_FLUSH_BLOCK)
    yield frame.flush()


def _decode_streams(
    kind: int, streams: Sequence[Buffer], rows: NDArray[np.int64], out: Gaussians
) -> list[str | None]:
    frames = np.empty((len(streams), 2), np.uint64)
    problems = _store.inspect_streams(kind == _SH, out.sh_degree, streams, rows, frames)
    good = [i for i, problem in enumerate(problems) if problem is None]
    starts = frames[:, 0].tolist()
    planes = _decompressed([memoryview(streams[i])[starts[i] :] for i in good], frames[good, 1])
    for i, each in zip(good, planes, strict=True):
        if each is None:
            problems[i] = f"the planes of its {_KIND_NAMES[kind]} cannot be decompressed"
    good = [i for i in good if problems[i] is None]
    if good:
        found = [each for each in planes if each is not None]
        these = [streams[i] for i in good]
        unpacked = _store.unpack_streams(kind == _SH, these, found, rows[good], *out.arrays)
        for i, problem in zip(good, unpacked, strict=True):
            problems[i] = problem
    return problems


def _decompressed(frames: list[memoryview], sizes: NDArray[np.uint64]) -> list[Any]:
    """What the frames hold, as buffers; None for those that are damaged.

    Args:
        frames: Whole frames.
        sizes: [B] bytes that each says it holds, checked before they are believed.
    """
    if len(frames) > 1 and sizes.all():
        try:
            planes = _zstandard.decompressor.multi_decompress_to_buffer(
                list[Any](frames), decompressed_sizes=sizes.tobytes(), threads=1
            )
            return [planes[i] for i in range(len(planes))]
        except _library().ZstdError:
            pass  # one of them is damaged: each by itself
    return [
        _decompressed_alone(frame, size) for frame, size in zip(frames, sizes.tolist(), strict=True)
    ]


def _decompressed_alone(frame: memoryview, size: int) -> bytes | None:
    try:
        planes = _zstandard.decompressor.decompress(frame, read_across_frames=False)
    except _library().ZstdError:
        return None
    return planes if len(planes) == size else None
