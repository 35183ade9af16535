"""The ``.ply`` of INRIA's 3D Gaussian Splatting: read in pieces, written in a stream.

One ``vertex`` record per Gaussian: ``x y z``, ``f_dc_0…2`` (degree-0 harmonics),
``f_rest_*`` (the higher ones, channel-major: all of red, then green, then blue),
``opacity`` (logit), ``scale_0…2`` (natural logarithms), ``rot_0…3`` (wxyz, any length).
Properties come in any order; others are ignored. A 2DGS file has no ``scale_2``.
Axes: x right, y down, z forward.

Source: ``scene/gaussian_model.py`` of https://github.com/graphdeco-inria/gaussian-splatting.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.cameras_json import cameras_near
from scene_store.formats.decoding import exponential, normalized, sh_degree_of_rest, sigmoid
from scene_store.formats.ply_header import PlyElement, PlyHeader, read_ply_header
from scene_store.formats.source import (
    FileBytes,
    IndexedSource,
    require_bytes,
    require_only_lod,
)
from scene_store.scene import SceneMeta
from splat.atomic_file import atomic_file
from splat.errors import SceneFormatError
from splat.gaussians import MAX_SH_DEGREE, SH_COUNT_OF_DEGREE, Float32Array, Gaussians

MEANS = ("x", "y", "z")
DC = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALES = ("scale_0", "scale_1", "scale_2")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
OPACITY = ("opacity",)
UNUSED_NORMALS = ("nx", "ny", "nz")

# Records decoded at a time, so that one strided pass per property stays in the cache.
_BLOCK = 8192

# The third, missing axis of a flat (2DGS) Gaussian, relative to its smaller one.
_FLAT_AXIS = np.float32(1e-3)

# A logit of an opacity of exactly 0 or 1 is infinite; this is 1 − 2⁻²⁴ for float32.
_MAX_LOGIT = np.float32(16.635532)


class PlySource(IndexedSource):
    """An INRIA ``.ply``, read and decoded on demand."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        require_only_lod(path, lod)
        header = read_ply_header(path)
        vertex = _vertex_element(path, header)
        data = FileBytes(path)
        require_bytes(path, data.size, vertex.end, f"{vertex.count:,} Gaussians and the header")
        self._records = data.records(vertex.offset, vertex.end, vertex.dtype)
        self._rest = _rest_names(path, vertex)
        self._flat = "scale_2" not in vertex.properties
        self._uniform = _uniform_dtype(vertex.dtype)
        self._column = {name: i for i, name in enumerate(vertex.properties)}
        cameras, camera_notes = cameras_near(path)
        self.meta = SceneMeta(
            path=path,
            format_name="2DGS PLY" if self._flat else "3DGS PLY",
            count=vertex.count,
            sh_degree=SH_COUNT_OF_DEGREE.index(len(self._rest) // 3 + 1),
            up=(0.0, -1.0, 0.0),
            cameras=cameras,
            notes=(*_ignored_properties(vertex, self._rest), *camera_notes),
        )

    def _decode(self, start: int, stop: int) -> Gaussians:
        out = Gaussians.allocate(stop - start, self.meta.sh_degree)
        for index, records in enumerate(self._records.blocks(start, stop, _BLOCK)):
            at = index * _BLOCK
            self._decode_block(records, out, slice(at, at + len(records)))
        return out

    def decode_at(self, places: NDArray[np.int64]) -> Gaussians:
        """See ``sampling.Scattered``."""
        out = Gaussians.allocate(len(places), self.meta.sh_degree)
        with np.errstate(all="ignore"):
            self._decode_block(self._records.at(places), out, slice(0, len(places)))
        return out

    def _decode_block(self, records: NDArray[np.void], out: Gaussians, part: slice) -> None:
        columns = self._columns(records)
        columns(MEANS, out.means[part])
        columns(QUATS, out.quats[part])
        normalized(out.quats[part])
        out.sh[part, 0] = columns(DC)
        if self._rest:
            rest = columns(self._rest).reshape(len(records), 3, -1)
            out.sh[part, 1:] = rest.transpose(0, 2, 1)
        out.opacities[part] = sigmoid(columns(OPACITY)[:, 0])
        scales = out.scales[part]
        scales[:, :2] = exponential(columns(SCALES[:2]))
        if self._flat:
            scales[:, 2] = scales[:, :2].min(axis=1) * _FLAT_AXIS
        else:
            scales[:, 2:] = exponential(columns(SCALES[2:]))

    def _columns(self, records: NDArray[np.void]) -> _Columns:
        if self._uniform is None:
            return _Columns(records, None, self._column)
        table = records.view(self._uniform).reshape(len(records), -1)
        return _Columns(records, table, self._column)


class _Columns:
    """Picks properties out of records as float32 columns."""

    def __init__(
        self,
        records: NDArray[np.void],
        table: NDArray[np.floating] | None,
        column: dict[str, int],
    ) -> None:
        self._records = records
        self._table = table
        self._column = column

    def __call__(self, names: tuple[str, ...], out: Float32Array | None = None) -> Float32Array:
        """[n, len(names)] float32 (into ``out`` if given)."""
        if out is None:
            out = np.empty((len(self._records), len(names)), np.float32)
        first = self._column[names[0]]
        if self._table is not None and all(
            self._column[name] == first + i for i, name in enumerate(names)
        ):
            out[...] = self._table[:, first : first + len(names)]
            return out
        for i, name in enumerate(names):
            out[:, i] = self._records[name]
        return out


def _uniform_dtype(dtype: np.dtype[np.void]) -> np.dtype[np.float32] | None:
    """The float32 type of all properties, when it is the same for all."""
    kinds = {field[0].str for field in (dtype.fields or {}).values()}
    return np.dtype(kinds.pop()) if kinds in ({"<f4"}, {">f4"}) else None


def _vertex_element(path: Path, header: PlyHeader) -> PlyElement:
    vertex = header.elements.get("vertex")
    if vertex is None:
        raise SceneFormatError(
            path, "has no vertex element of fixed size", where="header", remedy=_NOT_A_SPLAT
        )
    present = set(vertex.properties)
    if any(name.startswith("f_anchor_feat") for name in present):
        raise SceneFormatError(
            path,
            "holds neural anchors (Scaffold-GS or Octree-GS), not Gaussians",
            where="header",
            remedy="convert it to a plain 3DGS PLY first",
        )
    needed = (*MEANS, *DC, *OPACITY, *SCALES[:2], *QUATS)
    missing = [name for name in needed if name not in present]
    if missing:
        raise SceneFormatError(
            path,
            f"lacks the properties {', '.join(missing)}",
            where="header, element vertex",
            remedy=_NOT_A_SPLAT,
        )
    if vertex.count == 0:
        raise SceneFormatError(path, "holds no Gaussians", where="header, element vertex")
    return vertex


_NOT_A_SPLAT = "it is a mesh or point cloud, not a Gaussian Splatting scene"


def _rest_names(path: Path, vertex: PlyElement) -> tuple[str, ...]:
    """The f_rest names in order; their number tells the degree."""
    count = sum(name.startswith("f_rest_") for name in vertex.properties)
    names = tuple(f"f_rest_{i}" for i in range(count))
    missing = [name for name in names if name not in vertex.properties]
    if missing or count % 3 or sh_degree_of_rest(count // 3) is None:
        raise SceneFormatError(
            path,
            f"has {count} f_rest properties, but harmonics of degree 0 to {MAX_SH_DEGREE} "
            f"have 0, 9, 24 or 45, numbered from 0",
            where="header, element vertex",
            remedy="export it again with a degree of at most 3",
        )
    return names


def _ignored_properties(vertex: PlyElement, rest: tuple[str, ...]) -> tuple[str, ...]:
    used = {*MEANS, *DC, *OPACITY, *SCALES, *QUATS, *UNUSED_NORMALS, *rest}
    ignored = [name for name in vertex.properties if name not in used]
    if not ignored:
        return ()
    shown = ", ".join(ignored[:6]) + (", …" if len(ignored) > 6 else "")
    return (f"ignored properties: {shown}",)


def write_ply(
    path: str | os.PathLike[str], batches: Iterable[Gaussians], count: int, sh_degree: int
) -> None:
    """Writes Gaussians as an INRIA ``.ply``, batch by batch, in bounded memory.

    The file appears under its name only when it is complete; on any failure nothing is left
    and a file that was there before stays as it was.

    Args:
        path: The file to write.
        batches: ``count`` Gaussians in all. Lower degrees are padded with zeros, higher
            harmonics are left out.
        count: What the header states.
        sh_degree: 0 to 3.

    Raises:
        OutputError: If the file cannot be written (no such folder, no space, no permission).
        ValueError: If the batches do not hold ``count`` Gaussians.
    """
    with atomic_file(path) as temporary, temporary.open("wb", buffering=0) as file:
        _write_fully(file, memoryview(_header_bytes(count, sh_degree)))
        _write_batches(file, batches, count, sh_degree)


def _write_batches(
    file: BinaryIO, batches: Iterable[Gaussians], count: int, sh_degree: int
) -> None:
    written = 0
    for batch in batches:
        for start in range(0, len(batch), _BLOCK):
            part = batch[start : start + _BLOCK]
            _write_fully(file, ply_records(part, sh_degree).data.cast("B"))
        written += len(batch)
    if written != count:
        raise ValueError(f"announced {count} Gaussians, but the batches held {written}")


def _write_fully(file: BinaryIO, data: memoryview) -> None:
    """An unbuffered write may take only a part when the disk fills up."""
    while data:
        data = data[file.write(data) :]


def ply_bytes(count: int, sh_degree: int) -> int:
    """Size of the file that ``write_ply`` writes."""
    return len(_header_bytes(count, sh_degree)) + count * ply_record_bytes(sh_degree)


def ply_record_bytes(sh_degree: int) -> int:
    """Size of one Gaussian in that file."""
    return 4 * (17 + 3 * (SH_COUNT_OF_DEGREE[sh_degree] - 1))


def ply_records(gaussians: Gaussians, sh_degree: int) -> Float32Array:
    """[N, 17 + 3K] float32 rows of an INRIA ``.ply``, K the bases above degree 0."""
    count = len(gaussians)
    rest = SH_COUNT_OF_DEGREE[sh_degree] - 1
    rows = np.zeros((count, 17 + 3 * rest), np.float32)
    rows[:, 0:3] = gaussians.means
    rows[:, 6:9] = gaussians.sh[:, 0]
    known = min(rest, gaussians.sh.shape[1] - 1)
    by_channel = rows[:, 9 : 9 + 3 * rest].reshape(count, 3, rest)
    by_channel[:, :, :known] = gaussians.sh[:, 1 : known + 1].transpose(0, 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        opacities = gaussians.opacities
        logits = np.log(opacities) - np.log1p(-opacities)
        rows[:, 9 + 3 * rest] = np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT)
        rows[:, 10 + 3 * rest : 13 + 3 * rest] = np.log(gaussians.scales)
    rows[:, 13 + 3 * rest :] = gaussians.quats
    return rows


def _header_bytes(count: int, sh_degree: int) -> bytes:
    rest = tuple(f"f_rest_{i}" for i in range(3 * (SH_COUNT_OF_DEGREE[sh_degree] - 1)))
    names = (*MEANS, *UNUSED_NORMALS, *DC, *rest, *OPACITY, *SCALES, *QUATS)
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {name}" for name in names]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")
