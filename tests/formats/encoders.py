"""Writers of every format, for tests: plain, slow, and independent of the readers.

Each follows the public description of its format and returns bytes or writes files; none
shares code with ``scene_store.formats``, so that a misunderstanding shows.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zstandard

from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians

C0 = 0.28209479177387814
SQRT2 = 2**0.5


def rgb_bytes(g: Gaussians) -> np.ndarray:
    """[N, 4] uint8 colour and opacity."""
    rgb = g.sh[:, 0] * C0 + 0.5
    rgba = np.concatenate([rgb, g.opacities[:, None]], axis=1)
    out: np.ndarray = np.clip(np.round(rgba * 255), 0, 255).astype(np.uint8)
    return out


def logit(p: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.log(p / (1 - p))
    return out


def ply_properties(sh_degree: int) -> list[str]:
    rest = 3 * (SH_COUNT_OF_DEGREE[sh_degree] - 1)
    return [
        *["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"],
        *[f"f_rest_{i}" for i in range(rest)],
        *["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"],
    ]


def ply_columns(g: Gaussians) -> dict[str, np.ndarray]:
    """Raw values of a 3DGS PLY by property."""
    columns: dict[str, np.ndarray] = {"nx": np.zeros(len(g))}
    columns["ny"] = columns["nz"] = columns["nx"]
    for i in range(3):
        columns["xyz"[i]] = g.means[:, i]
        columns[f"f_dc_{i}"] = g.sh[:, 0, i]
        columns[f"scale_{i}"] = np.log(g.scales[:, i])
    for i in range(4):
        columns[f"rot_{i}"] = g.quats[:, i]
    columns["opacity"] = logit(g.opacities.astype(np.float64))
    coefficients = g.sh.shape[1] - 1
    for channel in range(3):
        for k in range(coefficients):
            columns[f"f_rest_{channel * coefficients + k}"] = g.sh[:, k + 1, channel]
    return columns


def ply(
    g: Gaussians,
    *,
    order: list[str] | None = None,
    types: dict[str, str] | None = None,
    big_endian: bool = False,
    extra: dict[str, np.ndarray] | None = None,
    newline: str = "\n",
) -> bytes:
    """INRIA's PLY, with properties in any order and of any type."""
    columns = {**ply_columns(g), **(extra or {})}
    names = order or [*ply_properties(g.sh_degree), *(extra or {})]
    codes = {"float": "f4", "double": "f8", "uchar": "u1", "int": "i4"}
    kinds = {name: (types or {}).get(name, "float") for name in names}
    end = ">" if big_endian else "<"
    table = np.zeros(len(g), [(name, end + codes[kinds[name]]) for name in names])
    for name in names:
        table[name] = columns[name]
    kind = "binary_big_endian" if big_endian else "binary_little_endian"
    lines = ["ply", f"format {kind} 1.0", "comment made for a test", f"element vertex {len(g)}"]
    lines += [f"property {kinds[name]} {name}" for name in names]
    return (newline.join([*lines, "end_header"]) + newline).encode() + table.tobytes()


def compressed_ply(g: Gaussians, *, colour_ranges: bool = True) -> bytes:
    """SuperSplat's compressed PLY."""
    chunks = -(-len(g) // 256)
    rgb = g.sh[:, 0].astype(np.float64) * C0 + 0.5
    columns = [g.means.astype(np.float64), np.log(g.scales.astype(np.float64)), rgb]
    ranges = np.zeros((chunks, 18), np.float32)
    packed = np.zeros((len(g), 4), np.uint32)
    for c in range(chunks):
        rows = slice(256 * c, min(256 * (c + 1), len(g)))
        for part, values in enumerate(columns):
            low = values[rows].min(axis=0).astype(np.float32)
            high = values[rows].max(axis=0).astype(np.float32)
            if part == 2 and not colour_ranges:
                low, high = np.zeros(3, np.float32), np.ones(3, np.float32)
            ranges[c, 6 * part : 6 * part + 3] = low
            ranges[c, 6 * part + 3 : 6 * part + 6] = high
            span = np.maximum(high - low, 1e-9)
            fraction = np.clip((values[rows] - low) / span, 0, 1)
            if part < 2:
                x, y, z = np.round(fraction * (2047, 1023, 2047)).astype(np.uint32).T
                packed[rows, 2 * part] = x << 21 | y << 11 | z
            else:
                r, gr, b = np.round(fraction * 255).astype(np.uint32).T
                a = np.round(g.opacities[rows] * 255).astype(np.uint32)
                packed[rows, 3] = r << 24 | gr << 16 | b << 8 | a
    for i, quat in enumerate(g.quats.astype(np.float64)):
        largest = int(np.argmax(np.abs(quat)))
        quat = quat * np.sign(quat[largest])
        word = largest
        for k in range(4):
            if k != largest:
                word = word << 10 | round((quat[k] / SQRT2 + 0.5) * 1023)
        packed[i, 1] = word
    names = [f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"]
    names += [f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"]
    if colour_ranges:
        names += [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
    lines = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}"]
    lines += [f"property float {name}" for name in names]
    lines += [f"element vertex {len(g)}"]
    lines += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    coefficients = g.sh.shape[1] - 1
    rest = b""
    if coefficients:
        lines += [f"element sh {len(g)}"]
        lines += [f"property uchar f_rest_{i}" for i in range(3 * coefficients)]
        by_channel = g.sh[:, 1:].transpose(0, 2, 1).reshape(len(g), -1)
        rest = np.clip((by_channel / 8 + 0.5) * 256, 0, 255).astype(np.uint8).tobytes()
    body = ranges[:, : len(names)].tobytes() + packed.tobytes() + rest
    return ("\n".join([*lines, "end_header"]) + "\n").encode() + body


def splat(g: Gaussians) -> bytes:
    """antimatter15's records."""
    rgba = rgb_bytes(g)
    quats = np.clip(np.round(g.quats * 128 + 128), 0, 255).astype(np.uint8)
    return b"".join(
        struct.pack("<6f", *g.means[i], *g.scales[i]) + rgba[i].tobytes() + quats[i].tobytes()
        for i in range(len(g))
    )


KSPLAT_BUCKET = 64
KSPLAT_SIDE = 20.0


def ksplat(g: Gaussians, level: int, degrees: tuple[int, ...] | None = None) -> bytes:
    """mkkellogg's file: one section per degree, each with full and partly filled buckets.

    Buckets need not be spatial for a reader, but their cubes must hold their Gaussians:
    consecutive Gaussians share a bucket here, and the side is large enough.
    """
    degrees = degrees or (g.sh_degree, g.sh_degree)
    sections = len(degrees)
    parts = np.array_split(np.arange(len(g)), sections)
    header = bytearray(4096)
    header[0:2] = b"\0\1"
    struct.pack_into("<4I", header, 4, sections, sections, len(g), len(g))
    struct.pack_into("<H", header, 20, level)
    struct.pack_into("<2f", header, 36, -0.5, 0.5)
    headers, bodies = b"", b""
    for rows, degree in zip(parts, degrees, strict=True):
        section_header, body = _ksplat_section(g[rows], level, degree)
        headers += section_header
        bodies += body
    return bytes(header) + headers + bodies


def _ksplat_section(g: Gaussians, level: int, sh_degree: int) -> tuple[bytes, bytes]:
    side = KSPLAT_SIDE
    full = len(g) // KSPLAT_BUCKET
    left = len(g) - full * KSPLAT_BUCKET
    partial = [n for n in (left // 2, left - left // 2) if n]
    sizes = [KSPLAT_BUCKET] * full + partial
    bucket = np.repeat(np.arange(len(sizes)), sizes)
    centres = np.array(
        [g.means[bucket == b].mean(axis=0) for b in range(len(sizes))], np.float32
    ).reshape(-1, 3)
    rgba = rgb_bytes(g)
    real = "<f4" if level == 0 else "<f2"
    body = b""
    for i in range(len(g)):
        if level == 0:
            body += g.means[i].tobytes()
        else:
            steps = (g.means[i] - centres[bucket[i]]) * (32767 / (side / 2))
            body += np.clip(np.round(steps) + 32767, 0, 65535).astype("<u2").tobytes()
        body += g.scales[i].astype(real).tobytes() + g.quats[i].astype(real).tobytes()
        body += rgba[i].tobytes()
        for degree in range(1, sh_degree + 1):
            first, end = SH_COUNT_OF_DEGREE[degree - 1], SH_COUNT_OF_DEGREE[degree]
            values = g.sh[i, first:end].T  # channel by channel
            if level == 2:
                body += np.clip(np.round((values + 0.5) * 255), 0, 255).astype("u1").tobytes()
            else:
                body += values.astype(real).tobytes()
    header = bytearray(1024)
    storage = np.array(partial, "<u4").tobytes() + centres.tobytes()
    struct.pack_into(
        "<4IfHxxIIIIH", header, 0,
        len(g), len(g), KSPLAT_BUCKET, len(sizes), side, 12, 32767,
        len(storage) + len(body), full, len(partial), sh_degree,
    )  # fmt: skip
    return bytes(header), storage + body


def spz(
    g: Gaussians,
    version: int,
    *,
    compress: bool = True,
    fractional_bits: int = 12,
    flags: int = 0,
    extensions: bytes = b"",
) -> bytes:
    """Niantic's file of version 1 to 4, with all eight bits of the harmonics."""
    if version == 1:
        positions = g.means.astype("<f2").tobytes()
    else:
        fixed = np.round(g.means.astype(np.float64) * 2**fractional_bits).astype("<i4")
        positions = fixed.reshape(-1, 1).view("u1")[:, :3].tobytes()
    colours = np.clip(np.round(g.sh[:, 0] * 0.15 * 255 + 127.5), 0, 255).astype("u1")
    scales = np.clip(np.round((np.log(g.scales) + 10) * 16), 0, 255).astype("u1")
    rest = np.clip(np.round(g.sh[:, 1:] * 128 + 128), 0, 255).astype("u1")
    streams = [
        positions,
        np.round(g.opacities * 255).astype("u1").tobytes(),
        colours.tobytes(),
        scales.tobytes(),
        _spz_rotations(g.quats.astype(np.float64), version),
        rest.tobytes(),
    ]
    flags |= 2 if extensions else 0
    head = struct.pack("<4sIIBBB", b"NGSP", version, len(g), g.sh_degree, fractional_bits, flags)
    if version < 4:
        content = head + b"\0" + b"".join(streams) + extensions
        return gzip.compress(content, mtime=0) if compress else content
    streams = [stream for stream in streams if stream]
    frames = [zstandard.compress(stream) for stream in streams]
    table = b"".join(
        struct.pack("<QQ", len(frame), len(stream))
        for frame, stream in zip(frames, streams, strict=True)
    )
    head += struct.pack("<BI12x", len(streams), 32 + len(extensions))
    return head + extensions + table + b"".join(frames)


def _spz_rotations(quats: np.ndarray, version: int) -> bytes:
    out = b""
    for w, x, y, z in quats:
        if version < 3:
            xyz = np.array([x, y, z]) * (1 if w >= 0 else -1)
            out += np.clip(np.round(xyz * 127.5 + 127.5), 0, 255).astype("u1").tobytes()
            continue
        xyzw = np.array([x, y, z, w])
        largest = int(np.argmax(np.abs(xyzw)))
        xyzw = xyzw * np.sign(xyzw[largest])
        word = largest
        for k in range(4):
            if k != largest:
                magnitude = min(511, int(511 * abs(xyzw[k]) * SQRT2 + 0.5))
                word = word << 10 | (512 if xyzw[k] < 0 else 0) | magnitude
        out += struct.pack("<I", word)
    return out


def webp(pixels: np.ndarray) -> bytes:
    """A lossless WebP of RGBA pixels [height, width, 4]."""
    bgra = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGBA2BGRA)
    done, content = cv2.imencode(".webp", bgra, [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done
    return bytes(content)


def _texture(values: np.ndarray, opaque: bool = True) -> bytes:
    """[N, 3 or 4] bytes as an image 12 pixels wide, padded with zeros."""
    width = 12
    height = -(-len(values) // width)
    pixels = np.zeros((height * width, 4), np.uint8)
    pixels[:, 3] = 255 if opaque else 0
    pixels[: len(values), : values.shape[1]] = values
    return webp(pixels.reshape(height, width, 4))


def sog(g: Gaussians, version: int) -> dict[str, bytes]:
    """The files of a SOG scene by name; codebooks and ranges are evenly spaced."""
    n = len(g)
    logs = np.sign(g.means) * np.log1p(np.abs(g.means.astype(np.float64)))
    low, high = logs.min(axis=0), logs.max(axis=0)
    words = np.round((logs - low) / (high - low) * 65535).astype(np.uint16)
    tags = np.argmax(np.abs(g.quats), axis=1)
    quats = np.zeros((n, 4), np.uint8)
    for i, (quat, tag) in enumerate(zip(g.quats.astype(np.float64), tags, strict=True)):
        others = np.delete(quat * np.sign(quat[tag]), tag)
        quats[i, :3] = np.round((others * SQRT2 * 0.5 + 0.5) * 255)
        quats[i, 3] = 252 + tag
    files = {
        "means_l.webp": _texture((words & 255).astype(np.uint8)),
        "means_u.webp": _texture((words >> 8).astype(np.uint8)),
        "quats.webp": _texture(quats, opaque=False),
    }
    meta: dict[str, Any] = {
        "means": {
            "mins": low.tolist(),
            "maxs": high.tolist(),
            "files": ["means_l.webp", "means_u.webp"],
        },
        "quats": {"files": ["quats.webp"]},
        "scales": {"files": ["scales.webp"]},
        "sh0": {"files": ["sh0.webp"]},
    }
    log_scales = np.log(g.scales.astype(np.float64))
    if version == 2:
        meta |= {"version": 2, "count": n}
        scale_bytes, meta["scales"]["codebook"] = _evenly(log_scales)
        colour_bytes, meta["sh0"]["codebook"] = _evenly(g.sh[:, 0].astype(np.float64))
        alpha = np.round(g.opacities * 255)
    else:
        meta["means"]["shape"] = [n, 3]
        scale_bytes = _between(log_scales, meta["scales"])
        logits = logit(g.opacities.astype(np.float64))
        four = np.concatenate([g.sh[:, 0], logits[:, None]], axis=1)
        encoded = _between(four, meta["sh0"])
        colour_bytes, alpha = encoded[:, :3], encoded[:, 3]
    files["scales.webp"] = _texture(scale_bytes)
    rgba = np.concatenate([colour_bytes, alpha[:, None].astype(np.uint8)], axis=1)
    files["sh0.webp"] = _texture(rgba, opaque=False)
    if g.sh_degree:
        _sog_harmonics(g, version, files, meta)
    files["meta.json"] = json.dumps(meta).encode()
    return files


def _evenly(values: np.ndarray) -> tuple[np.ndarray, list[float]]:
    codebook = np.linspace(values.min(), values.max(), 256)
    step = max(codebook[1] - codebook[0], 1e-12)
    return np.round((values - codebook[0]) / step).astype(np.uint8), codebook.tolist()


def _between(values: np.ndarray, field: dict[str, Any]) -> np.ndarray:
    """Bytes 1 to 255: this WebP encoder does not keep the colour of pixels of alpha 0."""
    low, high = values.min(axis=0), values.max(axis=0)
    low = low - (high - low) / 254
    field |= {"mins": low.tolist(), "maxs": high.tolist()}
    out: np.ndarray = np.round((values - low) / (high - low) * 255).astype(np.uint8)
    return out


def _sog_harmonics(
    g: Gaussians, version: int, files: dict[str, bytes], meta: dict[str, Any]
) -> None:
    """Every Gaussian gets a palette row of its own, in reverse order."""
    n, coefficients = len(g), g.sh.shape[1] - 1
    rest = g.sh[:, 1:].astype(np.float64)
    encoded, codebook = _evenly(rest)
    names = ["shN_centroids.webp", "shN_labels.webp"]
    if version == 2:
        meta["shN"] = {"count": n, "bands": g.sh_degree, "codebook": codebook, "files": names}
    else:
        meta["shN"] = {"mins": codebook[0], "maxs": codebook[-1], "files": names}
    lines = -(-n // 64)
    palette = np.zeros((lines * 64, coefficients, 4), np.uint8)
    palette[:, :, 3] = 255
    palette[:n, :, :3] = encoded[::-1]
    files[names[0]] = webp(palette.reshape(lines, 64 * coefficients, 4))
    labels = np.arange(n)[::-1]
    files[names[1]] = _texture(np.stack([labels & 255, labels >> 8, labels * 0], 1).astype("u1"))


def sog_zip(g: Gaussians, version: int) -> bytes:
    """A bundled ``.sog``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sog(g, version).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a folder; the path of its meta.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / "meta.json"


def streamed_sog(
    folder: Path, levels: list[list[Gaussians]], environment: Gaussians | None
) -> Path:
    """A ``lod-meta.json`` whose k-th leaf has ``levels[l][k]`` at level l; one file a level."""
    names = []
    leaves: list[dict[str, Any]] = [{"lods": {}} for _ in levels[0]]
    for level, parts in enumerate(levels):
        names.append(f"{level}_0/meta.json")
        whole = Gaussians.concatenate(parts)
        write_files(folder / f"{level}_0", sog(whole, 2))
        offset = 0
        for leaf, part in zip(leaves, parts, strict=True):
            if len(part):
                leaf["lods"][str(level)] = {"file": level, "offset": offset, "count": len(part)}
            offset += len(part)
    if environment is not None:
        write_files(folder / "environment", sog(environment, 2))
    meta = {
        "lodLevels": len(levels),
        "environment": "environment/meta.json" if environment is not None else None,
        "filenames": names,
        "tree": {"children": [leaves[0], {"children": leaves[1:]}]},
    }
    path = folder / "lod-meta.json"
    path.write_text(json.dumps(meta))
    return path


def gzip_bomb(size: int) -> bytes:
    """A few bytes that unpack to ``size`` zeros."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    return b"".join([packer.compress(block) for _ in range(size >> 20)]) + packer.flush()
