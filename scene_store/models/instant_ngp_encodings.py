"""Encodings of Instant-NGP snapshots, as tiny-cuda-nn lays them out, in terms of ours.

What an encoding is padded with goes through the first matrix like anything else: zeros behind a
grid, ones behind (for harmonics: before) others. Paddings, orders and signs are matrices here
(``Encoded``), to be folded into that first one.

Sources, read for layouts and equations: NVlabs/tiny-cuda-nn ``encodings/*.h``,
``common_device.h``; NVlabs/instant-ngp ``testbed.cu`` (``reset_network``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.json_fields import JsonObject
from splat.fields import (
    MAX_GRID_LEVELS,
    ConcatenatedEncoding,
    Encoding,
    FrequencyEncoding,
    FrequencyOrder,
    GridLevel,
    IdentityEncoding,
    SphericalHarmonicsEncoding,
)

Float32Array = NDArray[np.float32]

FINEST_RESOLUTION = 2048.0  # that instant-ngp aims at, over its unit cube
MAX_PLAIN_RESOLUTION = 0x659  # a side beyond which tiny-cuda-nn numbers no vertices without a hash
MAX_HARMONICS = 4
MAX_FREQUENCIES = 32

_GRID_TYPES = {"grid": "hash", "hashgrid": "hash", "densegrid": "dense", "tiledgrid": "tiled"}


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """How an encoding of tiny-cuda-nn comes of ours: ``theirs = mixing @ ours + constant``.

    Attributes:
        encoding: Ours; None for one that has no direction in it.
        mixing: [T, O] float32.
        constant: [T] float32.
    """

    encoding: Encoding | None
    mixing: Float32Array
    constant: Float32Array

    @property
    def width(self) -> int:
        """Values that theirs gives."""
        return len(self.constant)

    def padded(self, width: int, value: float, *, first: bool = False) -> Encoded:
        """The same up to ``width`` values, the others being ``value``, behind or before it."""
        more = width - self.width
        sides = (more, 0) if first else (0, more)
        return Encoded(
            self.encoding,
            np.pad(self.mixing, (sides, (0, 0))),
            np.pad(self.constant, sides, constant_values=value),
        )


@dataclass(frozen=True, slots=True)
class Grid:
    """A position's grid without its table."""

    levels: tuple[GridLevel, ...]
    features: int

    @property
    def width(self) -> int:
        """Values that it gives."""
        return len(self.levels) * self.features

    @property
    def entries(self) -> int:
        """Of the tables of all levels."""
        return self.levels[-1].first + self.levels[-1].entries


def position_encodings(encoding: JsonObject, aabb_scale: int) -> Iterator[Encoded | Grid]:
    """Of a position; several where single precision leaves it open how large levels are.

    Args:
        aabb_scale: Side of the box of the scene, in unit cubes.

    Raises:
        SceneFormatError: If it is an encoding that is not supported.
    """
    kind = otype(encoding, "OneBlob")
    if kind in _GRID_TYPES:
        yield from _grids(encoding, _GRID_TYPES[kind], aabb_scale)
    elif kind == "frequency":
        yield _frequencies(count_of(encoding, "n_frequencies", 12, 1, MAX_FREQUENCIES))
    elif kind == "identity":
        yield _scaled_identity(encoding, IdentityEncoding(), np.eye(3, dtype=np.float32))
    else:
        raise encoding.error(f"positions are encoded by '{kind}', which is not supported", "otype")


def _grids(config: JsonObject, kind: str, aabb_scale: int) -> Iterator[Grid]:
    """A grid as it was meant, and with a ratio of resolutions a few bits off."""
    for name, expected in (("interpolation", "linear"), ("hash", "coherentprime")):
        value = text(config, name, expected)
        if value != expected:
            raise config.error(f"grids with '{value}' are not supported", name)
    kind = text(config, "type", kind)
    features = count_of(config, "n_features_per_level", 2, 1, 8)
    if features & (features - 1):
        raise config.error("needs to be 1, 2, 4 or 8", "n_features_per_level")
    if "n_features" in config:
        count = count_of(config, "n_features", 32, features, MAX_GRID_LEVELS * features) // features
    else:
        count = count_of(config, "n_levels", 16, 1, MAX_GRID_LEVELS)
    base = count_of(config, "base_resolution", 0, 0, 1 << 16)
    if base == 0:
        base = 1 << (count_of(config, "log2_hashmap_size", 15, 1, 31) // 3)
    if "per_level_scale" in config and config.number("per_level_scale") > 0:
        ratio = np.float32(config.number("per_level_scale"))
    else:
        finest = np.float32(FINEST_RESOLUTION * aabb_scale / base)
        ratio = np.exp(np.log(finest) / np.float32(max(count - 1, 1)))
    if not 1e-3 < ratio < 1e4:
        raise config.error(f"its levels grow by {ratio:g}", "per_level_scale")
    most = {
        "hash": 1 << count_of(config, "log2_hashmap_size", 19, 1, 31),
        "dense": 1 << 31,
        "tiled": base**3,
    }
    if kind not in most:
        raise config.error(f"is a grid of the unknown type '{kind}'", "type")
    for bits in (0, 1, -1, 2, -2, 3, -3):
        near = (ratio.view(np.int32) + np.int32(bits)).view(np.float32)
        yield Grid(_levels(config, kind, count, base, near, most[kind]), features)


def _levels(
    config: JsonObject, kind: str, count: int, base: int, ratio: np.float32, most: int
) -> tuple[GridLevel, ...]:
    """In single precision, as it was trained: a resolution hangs on whether a scale is whole."""
    levels, first = [], 0
    for number in range(count):
        scale = np.exp2(np.float32(number) * np.log2(ratio)) * np.float32(base) - np.float32(1)
        if not 0 < scale < 1 << 24:
            raise config.error(f"level {number} has {scale:g} cells a side")
        resolution = math.ceil(scale) + 1
        vertices = min(resolution**3, (1 << 31) - 1)
        entries = min(multiple_of(vertices, 8), most)
        is_plain = resolution <= MAX_PLAIN_RESOLUTION and entries >= resolution**3
        if kind != "hash" and resolution > MAX_PLAIN_RESOLUTION:
            raise config.error(f"level {number} has {resolution:,} vertices a side, and no hash")
        hashed = kind == "hash" and not is_plain
        levels.append(GridLevel(float(scale), resolution, hashed, entries, first))
        first += entries
    return tuple(levels)


def direction_encoding(config: JsonObject, latents: int, alignment: int) -> Encoded:
    """The encoding of [direction, appearance], whose own values are in this order, too."""
    parts = [
        _direction_part(part, begin, count, latents)
        for part, begin, count in _direction_parts(config, 3 + latents)
    ]
    width = multiple_of(sum(part.width for part in parts), alignment)
    last = parts[-1]
    is_harmonic = isinstance(last.encoding, SphericalHarmonicsEncoding)  # they are padded before
    own_width = width - sum(part.width for part in parts[:-1])
    parts[-1] = last.padded(own_width, 1.0, first=is_harmonic)
    return _joined(parts, latents)


def _direction_parts(config: JsonObject, dims: int) -> list[tuple[JsonObject, int, int]]:
    """The encodings of a composite, each with the first and the number of its values."""
    if otype(config, "OneBlob") != "composite":
        return [(config, 0, dims)]
    if text(config, "reduction", "concatenation") != "concatenation":
        raise config.error("encodings that are added or multiplied are not supported", "reduction")
    place = f"{config.place}.nested"
    nested = [JsonObject.of(config.path, part, place) for part in config.items("nested")[:16]]
    stated = [count_of(part, "n_dims_to_encode", 0, 0, dims) for part in nested]
    parts, begin = [], 0
    for part, own in zip(nested, stated, strict=True):
        begin = count_of(part, "dims_to_encode_begin", begin, 0, dims)
        count = own if "n_dims_to_encode" in part else dims - sum(stated)
        if not 0 <= count <= dims - begin:
            raise config.error(f"encodes {begin + count} values, but there are {dims}", "nested")
        if count:
            parts.append((part, begin, count))
        begin += count
    if not parts:
        raise config.error("encodes nothing", "nested")
    return parts


def _direction_part(config: JsonObject, begin: int, count: int, latents: int) -> Encoded:
    """One encoding; its mixing takes what of the direction it encodes, then all latents."""
    kind = otype(config, "OneBlob")
    is_direction = (begin, count) == (0, 3)
    if kind == "sphericalharmonics" and is_direction:
        degree = count_of(config, "degree", 4, 1, MAX_HARMONICS)
        return _with_latents(plain(SphericalHarmonicsEncoding(degree)), latents)
    if kind == "frequency" and is_direction:
        count = count_of(config, "n_frequencies", 12, 1, MAX_FREQUENCIES)
        return _with_latents(_frequencies(count, halved=True), latents)
    if kind == "identity" and (is_direction or begin >= 3 or (begin, count) == (0, 3 + latents)):
        chosen = np.eye(3 + latents, dtype=np.float32)[begin : begin + count]
        if begin:
            return _scaled_identity(config, None, chosen[:, 3:])
        return _scaled_identity(config, IdentityEncoding(), chosen, halved=True)
    raise config.error(f"directions are encoded by '{kind}', which is not supported", "otype")


def _joined(parts: Sequence[Encoded], latents: int) -> Encoded:
    """Encodings one after the other: their rows below each other, what they take side by side."""
    encodings = [part.encoding for part in parts if part.encoding is not None]
    owns = [part.mixing.shape[1] - latents for part in parts]
    mixing = np.zeros((sum(part.width for part in parts), sum(owns) + latents), np.float32)
    row = column = 0
    for part, own in zip(parts, owns, strict=True):
        rows = slice(row, row + part.width)
        mixing[rows, column : column + own] = part.mixing[:, :own]
        mixing[rows, sum(owns) :] = part.mixing[:, own:]
        row, column = rows.stop, column + own
    encoding: Encoding | None = encodings[0] if encodings else None
    if len(encodings) > 1:
        encoding = ConcatenatedEncoding(tuple(encodings))
    return Encoded(encoding, mixing, np.concatenate([part.constant for part in parts]))


def plain(encoding: Encoding) -> Encoded:
    """One that is as ours."""
    eye = np.eye(encoding.outputs, dtype=np.float32)
    return Encoded(encoding, eye, np.zeros(encoding.outputs, np.float32))


def _with_latents(encoded: Encoded, latents: int) -> Encoded:
    mixing = np.pad(encoded.mixing, ((0, 0), (0, latents)))
    return Encoded(encoded.encoding, mixing, encoded.constant)


def _scaled_identity(
    config: JsonObject, encoding: Encoding | None, chosen: Float32Array, *, halved: bool = False
) -> Encoded:
    """``scale x + offset``.

    Args:
        chosen: [T, O], which of ours are x.
        halved: Whether the first three come as (d + 1) / 2.
    """
    scale = np.float32(config.number("scale") if "scale" in config else 1.0)
    offset = np.float32(config.number("offset") if "offset" in config else 0.0)
    mixing, constant = chosen * scale, np.full(len(chosen), offset, np.float32)
    if halved:
        mixing[:, :3] *= np.float32(0.5)
        constant[:3] += np.float32(0.5) * scale
    return Encoded(encoding, mixing, constant)


def _frequencies(count: int, *, halved: bool = False) -> Encoded:
    """tiny-cuda-nn's: of each dimension for each octave k, ``sin(2^k π x)`` and ``cos(2^k π x)``.

    Args:
        halved: For directions, which come as x = (d + 1) / 2: with ``a = 2^k π d / 2`` the first
            octave is (cos a, −sin a), the second (−sin a, −cos a), the others (sin a, cos a).
    """
    octaves = tuple(math.pi * (0.5 if halved else 1.0) * 2.0**k for k in range(count))
    encoding = FrequencyEncoding(octaves, includes_input=False, order=FrequencyOrder.OCTAVES)
    mixing = np.zeros((6 * count, 6 * count), np.float32)
    for dim in range(3):
        for k in range(count):
            turn = [[1, 0], [0, 1]]
            if halved and k < 2:
                turn = [[0, 1], [-1, 0]] if k == 0 else [[-1, 0], [0, -1]]
            rows = [2 * (dim * count + k), 2 * (dim * count + k) + 1]
            mixing[np.ix_(rows, [6 * k + dim, 6 * k + 3 + dim])] = turn
    return Encoded(encoding, mixing, np.zeros(6 * count, np.float32))


# --- What a configuration says -------------------------------------------------------------------


def multiple_of(value: int, of: int) -> int:
    """The least multiple that is not below ``value``."""
    return -(-value // of) * of


def text(config: JsonObject, name: str, default: str) -> str:
    """A name in lower case."""
    value = config.fields.get(name, default)
    if not isinstance(value, str):
        raise config.error("needs a name", name)
    return value.lower()


def otype(config: JsonObject, default: str) -> str:
    """What kind of thing a part of the configuration is of."""
    return text(config, "otype", default)


def count_of(config: JsonObject, name: str, default: int, minimum: int, most: int) -> int:
    """A whole number in its bounds; the default where there is none."""
    if name not in config:
        return default
    value = config.integer(name, minimum)
    if value > most:
        raise config.error(f"needs a whole number of {minimum} to {most:,}, not {value:,}", name)
    return value
