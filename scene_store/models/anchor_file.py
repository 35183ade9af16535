"""The ``point_cloud.ply`` of Scaffold-GS and Octree-GS: anchors, measured once, read by the row.

One ``vertex`` record per anchor, all float32: ``x y z``, ``f_offset_*`` (3 k, the x of all k
offsets first, then y, then z), ``f_anchor_feat_*``, ``scale_0…5`` (natural logarithms: three of the
offsets, three of the Gaussians), of an octree ``level``, ``extra_level`` and ``info`` (in the first
record the side of the coarsest voxels, in the second the standard distance). Normals, ``opacity``
and ``rot_*`` are written by the trainers and used by nobody.

Source: ``scene/gaussian_model.py`` (``save_ply``) of https://github.com/city-super/Scaffold-GS and
https://github.com/city-super/Octree-GS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.ply_header import PlyElement, read_ply_header
from scene_store.formats.source import FileBytes, require_bytes
from scene_store.loading import LARGEST_LENGTH
from scene_store.memory import available_bytes
from splat.anchors import AnchorLayout
from splat.errors import BudgetError, SceneError, SceneFormatError

Float32Array = NDArray[np.float32]

MAX_OFFSETS = 64
MAX_FEATURES = 512
MAX_LEVELS = 32
OPENING_BYTES = 200  # of memory for an anchor, at most, until the tree is made; measured 190

# One that stands for up to 10¹⁰ others is larger by the root of that, at most.
_LARGEST_LOG_SCALE = math.log(1e5 * float(LARGEST_LENGTH))
_MEASURES = 16
_BLOCK = 4096  # records that are measured at a time: they stay in the cache
_MEANS = ("x", "y", "z")
_SCALES = tuple(f"scale_{i}" for i in range(6))
_LEVELS = ("level", "extra_level")
_RETRAIN = "train or export it again"


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """What is known of each of N anchors without its features.

    Attributes:
        table: [N, 16] float32, a cache line of each: what the properties show, as views.
        usable: [N] whether all of it is finite and can be drawn.
    """

    table: Float32Array
    usable: NDArray[np.bool_]

    @classmethod
    def allocate(cls, count: int) -> Measures:
        """Of so many anchors, zeros."""
        return cls(np.zeros((count, _MEASURES), np.float32), np.zeros(count, np.bool_))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: NDArray[Any] | slice) -> Measures:
        """Those of some anchors, in this order."""
        if isinstance(index, slice):
            return Measures(self.table[index], self.usable[index])
        return Measures(self.table.take(index, axis=0), self.usable.take(index))

    @property
    def means(self) -> Float32Array:
        """[N, 3] of the anchors."""
        return self.table[:, 0:3]

    @property
    def lo(self) -> Float32Array:
        """[N, 3] lower corner of the box of the means of its Gaussians."""
        return self.table[:, 3:6]

    @property
    def hi(self) -> Float32Array:
        """[N, 3] upper corner of that box."""
        return self.table[:, 6:9]

    @property
    def largest(self) -> Float32Array:
        """[N] bound of their standard deviations: networks multiply it by less than 1."""
        return self.table[:, 9]

    @property
    def area(self) -> Float32Array:
        """[N] sum of the products of the pairs of such deviations, world units²."""
        return self.table[:, 10]

    @property
    def spread(self) -> Float32Array:
        """[N] root of the mean squared distance of its Gaussians from the anchor, their own
        extent at half its bound included."""
        return self.table[:, 11]

    @property
    def level(self) -> Float32Array:
        """[N] whole numbers; zeros without an octree."""
        return self.table[:, 12]

    @property
    def extra_level(self) -> Float32Array:
        """[N] of an octree, else zeros."""
        return self.table[:, 13]


def is_anchor_ply(path: Path, *, octree: bool) -> bool:
    """Whether a file begins like a PLY of anchors, of an octree or not."""
    try:
        if not path.is_file():  # what is none may never end
            return False
        with path.open("rb") as file:
            if file.read(4) not in (b"ply\n", b"ply\r"):
                return False
        vertex = read_ply_header(path).elements.get("vertex")
    except (SceneError, OSError, ValueError):
        return False
    names = vertex.properties if vertex is not None else ()
    return {"f_anchor_feat_0", "f_offset_0"} <= set(names) and ("info" in names) == octree


def require_drawable(layout: AnchorLayout, rows: Float32Array) -> None:
    """What whoever decodes anchors takes for granted of those that come from anywhere.

    Args:
        layout: Of the rows.
        rows: [R, W].

    Raises:
        ValueError: If a value is not finite, or too large to be one of a scene.
    """
    if not np.isfinite(rows).all():
        raise ValueError("holds values that are not finite")
    if not len(rows):
        return
    if np.abs(rows[:, layout.means]).max() > LARGEST_LENGTH:
        raise ValueError(f"holds anchors beyond {LARGEST_LENGTH:g}")
    if rows[:, layout.scales].max() > _LARGEST_LOG_SCALE:
        raise ValueError(f"holds anchors of scales beyond e^{_LARGEST_LOG_SCALE:.0f}")


class AnchorFile:
    """An open PLY of anchors; nothing stays open between reads.

    Attributes:
        path: The file.
        count: Anchors in it, usable or not.
        layout: Of the rows that are read.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is broken, or holds no anchors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        vertex = read_ply_header(path).elements.get("vertex")
        if vertex is None or vertex.count == 0:
            raise SceneFormatError(path, "holds no anchors", where="header, element vertex")
        self.count = vertex.count
        self.layout = _layout(path, vertex)
        data = FileBytes(path)
        require_bytes(path, data.size, vertex.end, f"{vertex.count:,} anchors and the header")
        self._records = data.records(vertex.offset, vertex.end, vertex.dtype)
        self._columns = _columns_of(self.layout, vertex)
        kinds = {field[0].str for field in (vertex.dtype.fields or {}).values()}
        self._uniform = kinds.pop() if kinds in ({"<f4"}, {">f4"}) else None

    @property
    def row_bytes(self) -> int:
        """Of a row of ``layout``."""
        return 4 * self.layout.width

    def rows(self, places: NDArray[np.int64]) -> Float32Array:
        """[R, W] the anchors at ascending places, as rows of ``layout``.

        Raises:
            SceneError: If they cannot be read, or the file has changed since it was opened.
        """
        return self._rows_of(self._records.at(places))

    def info(self) -> tuple[float, float]:
        """Side of the coarsest voxels, and standard distance, of an octree.

        Raises:
            SceneFormatError: If they make no sense.
        """
        if self.count < 2:
            raise SceneFormatError(self.path, "holds one anchor: an octree has two at least")
        first = self._records[0:2]["info"].astype(np.float64)
        voxel, distance = float(first[0]), float(first[1])
        if not (0 < voxel <= LARGEST_LENGTH and 0 < distance <= LARGEST_LENGTH):
            raise SceneFormatError(
                self.path,
                f"says that voxels are {voxel:g} and the standard distance is {distance:g}",
                where="property info of the first two anchors",
                remedy=_RETRAIN,
            )
        return voxel, distance

    def measure(self) -> Measures:
        """Reads all of the file once, a block at a time.

        Raises:
            SceneError: If it cannot be read.
            BudgetError: If there is no memory to sort so many anchors.
        """
        free = available_bytes()
        if free is not None and self.count * OPENING_BYTES > free:
            raise BudgetError(
                f"{self.path}: opening {self.count:,} anchors takes "
                f"{self.count * OPENING_BYTES / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are "
                f"free; build a store of it on a machine with more"
            )
        out = Measures.allocate(self.count)
        with np.errstate(all="ignore"):
            for start, rows in self._blocks():
                self._measure(rows, out[start : start + rows.shape[1]])
        return out

    def _blocks(self) -> Iterator[tuple[int, Float32Array]]:
        """Places of first anchors, and [P, R] their properties."""
        blocks = self._records.blocks(0, self.count, _BLOCK)
        for start, records in zip(range(0, self.count, _BLOCK), blocks, strict=True):
            yield start, np.ascontiguousarray(self._table(records).T, np.float32)

    def _table(self, records: NDArray[np.void]) -> NDArray[np.floating[Any]]:
        """[R, P] all properties."""
        if self._uniform is not None:
            table: NDArray[np.floating[Any]] = records.view(self._uniform)
            return table.reshape(len(records), -1)
        names = records.dtype.names or ()
        return np.stack([records[name].astype(np.float32) for name in names], axis=1)

    def _rows_of(self, records: NDArray[np.void]) -> Float32Array:
        rows = np.take(self._table(records), self._columns, axis=1).astype(np.float32, copy=False)
        if self.layout.has_levels:
            level = rows[:, self.layout.level_values][:, 0]
            np.trunc(level, out=level)  # the trainer's own reader makes whole numbers of them
        return rows

    def _measure(self, columns: Float32Array, out: Measures) -> None:
        """Fills ``out``, views of some anchors, from [P, R]."""
        k, count = self.layout.offsets, columns.shape[1]
        own = columns[self._columns]  # [W, R]
        means, scales = own[self.layout.means], np.exp(own[self.layout.scales])
        offsets = own[self.layout.offset_values].reshape(k, 3, count)
        low, high = offsets.min(axis=0), offsets.max(axis=0)
        squares = np.einsum("kcr,kcr->cr", offsets, offsets) / np.float32(k)
        reach, size = scales[:3], scales[3:]
        out.means[...] = means.T
        out.lo[...] = (means + low * reach).T
        out.hi[...] = (means + high * reach).T
        out.largest[...] = size.max(axis=0)
        out.area[...] = size[0] * size[1] + size[1] * size[2] + size[2] * size[0]
        squared = (squares * reach * reach).sum(axis=0) + 0.25 * (size * size).sum(axis=0)
        out.spread[...] = np.sqrt(squared)
        usable = np.isfinite(own).all(axis=0)
        for each in (out.means, out.lo, out.hi):
            usable &= (np.abs(each) <= LARGEST_LENGTH).all(axis=1)
        usable &= (out.largest <= LARGEST_LENGTH) & (out.area > 0) & (out.spread <= LARGEST_LENGTH)
        if self.layout.has_levels:
            level, extra = own[self.layout.level_values]
            usable &= (level >= 0) & (level < MAX_LEVELS) & (np.abs(extra) < MAX_LEVELS)
            out.level[...] = np.where(usable, np.trunc(level), 0)
            out.extra_level[...] = extra
        out.usable[...] = usable


def _layout(path: Path, vertex: PlyElement) -> AnchorLayout:
    names = set(vertex.properties)
    offsets = sum(name.startswith("f_offset_") for name in names)
    features = sum(name.startswith("f_anchor_feat_") for name in names)
    has_levels = "info" in names
    needed = [
        *_MEANS,
        *_SCALES,
        *(f"f_offset_{i}" for i in range(max(offsets, 1))),
        *(f"f_anchor_feat_{i}" for i in range(max(features, 1))),
        *(_LEVELS if has_levels else ()),
    ]
    missing = [name for name in needed if name not in names]
    if missing:
        shown = ", ".join(missing[:6]) + (", …" if len(missing) > 6 else "")
        raise SceneFormatError(
            path, f"lacks the properties {shown}", where="header, element vertex", remedy=_RETRAIN
        )
    if offsets % 3 or offsets > 3 * MAX_OFFSETS or features > MAX_FEATURES:
        raise SceneFormatError(
            path,
            f"has {offsets:,} f_offset and {features:,} f_anchor_feat properties, but anchors have "
            f"3 for each of up to {MAX_OFFSETS} Gaussians, and up to {MAX_FEATURES}",
            where="header, element vertex",
        )
    return AnchorLayout(offsets // 3, features, has_levels)


def _columns_of(layout: AnchorLayout, vertex: PlyElement) -> NDArray[np.intp]:
    """[W] which property each value of a row is."""
    k = layout.offsets
    names = [
        *_MEANS,
        *_SCALES,
        *(f"f_offset_{axis * k + i}" for i in range(k) for axis in range(3)),
        *(f"f_anchor_feat_{i}" for i in range(layout.features)),
        *(_LEVELS if layout.has_levels else ()),
    ]
    places = {name: place for place, name in enumerate(vertex.properties)}
    return np.array([places[name] for name in names], np.intp)
