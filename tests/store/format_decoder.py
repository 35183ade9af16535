"""A second reader of stores, slow and plain, written from ``docs/format.md`` alone.

The oracle of the native decoder: both must give the same bits.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

Columns = list[NDArray[np.uint64]]
Fields = dict[str, NDArray[np.float32]]

NODE = struct.Struct("<3f3f2fIIHHfQIIQII")


def read_node(folder: Path, node: int) -> tuple[Any, ...]:
    """The fields of one record of the node table."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    table = (folder / manifest["nodes"]["file"]).read_bytes()
    assert zlib.crc32(table) == int(manifest["nodes"]["crc32"], 16)
    magic, count, size = struct.unpack_from("<8sII", table)
    assert (magic, count, size) == (b"BVSNODES", manifest["nodes"]["count"], NODE.size)
    return NODE.unpack_from(table, 16 + node * size)


def read_chunk(folder: Path, node: int) -> Fields:
    """The Gaussians of one node, by the fields of ``splat.gaussians``."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    *_, level, _, g_at, g_bytes, g_crc, sh_at, sh_bytes, sh_crc = read_node(folder, node)
    files = manifest["levels"][level]
    geometry = (folder / files["geometry"]["file"]).read_bytes()[g_at : g_at + g_bytes]
    assert zlib.crc32(geometry) == g_crc
    fields = decode_geometry(geometry)
    if manifest["sh_degree"]:
        harmonics = (folder / files["sh"]["file"]).read_bytes()[sh_at : sh_at + sh_bytes]
        assert zlib.crc32(harmonics) == sh_crc
        fields["sh"] = np.concatenate([fields["sh"], decode_harmonics(harmonics)], axis=1)
    return fields


def decode_geometry(stream: bytes) -> Fields:
    """means, quats, scales, opacities and the first of sh."""
    kind, profile, degree, _, count = struct.unpack_from("<BBBBI", stream)
    assert kind == 0
    assert degree == 0
    parameters, columns = split_stream(stream, 104 if profile else 0)
    if profile == 0:
        values = [column.astype("<u4").view("<f4") for column in columns]
        return {
            "means": np.stack(values[:3], axis=1),
            "quats": np.stack(values[3:7], axis=1),
            "scales": np.stack(values[7:10], axis=1),
            "opacities": values[10],
            "sh": np.stack(values[11:], axis=1)[:, None],
        }
    unpack = struct.unpack_from
    (quat_step,), (color_step,) = unpack("<f", parameters, 72), unpack("<f", parameters, 88)
    ranges = [unpack("<ffI", parameters, at) for at in (0, 12, 24, 36, 48, 60, 76)]
    lowest = unpack("<iii", parameters, 92)
    means = [_mean(column, *r) for column, r in zip(columns[:3], ranges[:3], strict=True)]
    scales = [_from_log(column, *r) for column, r in zip(columns[3:6], ranges[3:6], strict=True)]
    x, y, z = (_unzigzag(c).astype(np.float32) * np.float32(quat_step) for c in columns[6:9])
    squares = (x * x + y * y) + z * z
    assert squares.max() <= 1
    w = np.sqrt(np.float32(1) - squares)
    colors = [column.astype(np.int64) + lo for column, lo in zip(columns[10:], lowest, strict=True)]
    assert len(w) == count
    return {
        "means": np.stack(means, axis=1),
        "quats": np.stack([w, x, y, z], axis=1),
        "scales": np.stack(scales, axis=1),
        "opacities": _from_log(columns[9], *ranges[6]),
        "sh": _rgb(colors, color_step)[:, None],
    }


def decode_harmonics(stream: bytes) -> NDArray[np.float32]:
    """[N, K - 1, 3]"""
    kind, profile, degree, columns_count, count = struct.unpack_from("<BBBBI", stream)
    bases = (degree + 1) ** 2 - 1
    assert (kind, columns_count) == (1, 3 * bases)
    parameters, columns = split_stream(stream, 4 if profile else 0)
    if profile == 0:
        values = [column.astype("<u4").view("<f4") for column in columns]
        return np.stack(values, axis=1).reshape(count, bases, 3)
    (step,) = struct.unpack("<f", parameters)
    signed = [_unzigzag(column) for column in columns]
    return np.stack([_rgb(signed[at : at + 3], step) for at in range(0, 3 * bases, 3)], axis=1)


def split_stream(stream: bytes, parameter_bytes: int) -> tuple[bytes, Columns]:
    """The parameters and the integer columns of a stream."""
    columns, count = struct.unpack_from("<3xBI", stream)
    widths_at = 8 + parameter_bytes
    widths = stream[widths_at : widths_at + columns]
    planes = zstandard.ZstdDecompressor().decompress(stream[widths_at + columns :])
    assert len(planes) == count * sum(widths)
    out: Columns = []
    at = 0
    for width in widths:
        value = np.zeros(count, np.uint64)
        for plane in range(width):
            part = np.frombuffer(planes, np.uint8, count, at)
            value |= part.astype(np.uint64) << np.uint64(8 * plane)
            at += count
        out.append(value)
    return stream[8:widths_at], out


def _unzigzag(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    signed = values.astype(np.int64)
    return np.where(signed % 2 == 0, signed // 2, -(signed + 1) // 2)


def _mean(column: NDArray[np.uint64], lo: float, hi: float, steps: int) -> NDArray[np.float32]:
    q = np.cumsum(_unzigzag(column)) % 2**32
    assert q.min() >= 0
    assert q.max() <= steps
    value = lo + q * ((hi - lo) / steps if steps else 0.0)
    means: NDArray[np.float32] = np.minimum(value.astype(np.float32), np.float32(hi))
    return means


def _from_log(column: NDArray[np.uint64], lo: float, hi: float, steps: int) -> NDArray[np.float32]:
    assert column.max() <= steps
    step = (np.log(hi) - np.log(lo)) / steps if steps else 0.0
    exact = np.exp(np.log(lo) + column * step).astype(np.float32)
    value: NDArray[np.float32] = np.clip(exact, np.float32(lo), np.float32(hi))
    value[column == steps] = hi
    value[column == 0] = lo
    return value


def _rgb(g_rg_bg: list[NDArray[np.int64]], step: float) -> NDArray[np.float32]:
    g, r_g, b_g = g_rg_bg
    sums = np.stack([g + r_g, g, g + b_g], axis=1)
    integers = (sums % 2**32).astype(np.uint32).view(np.int32)
    coefficients: NDArray[np.float32] = integers.astype(np.float32) * np.float32(step)
    return coefficients
