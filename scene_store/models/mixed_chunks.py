"""Scenes of several kinds as one: Gaussians, anchors and fields, each where it was placed.

The trees of all become one forest, and what a chunk holds is wrapped into rows of bytes that say
whose it is, so that residency, budgets and prefetch see one scene. Gaussians are placed when they
are decoded, and so are fields, whose bytes name their placement; anchors stay in their own world,
from which directions they are decoded for, and are drawn by a camera that was moved instead
(``rendering.models.mixed``).

A wrapped chunk: a row with its source, kind and size, and then its values, in rows of
``ROW_BYTES``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import (
    ChunkSource,
    EncodedChunk,
    Measured,
    NeuralSource,
    Payload,
    never_cancelled,
)
from scene_store.models.field_bytes import ROW_BYTES, block_rows, rows_block
from scene_store.models.paged_fields import PagedFields, TableFile
from scene_store.placement import Placement, rotation_matrix
from scene_store.scene import SceneMeta
from scene_store.tree import NO_PARENT, LodTree
from splat.anchors import AnchorModel
from splat.errors import ChunkReadError, SceneError
from splat.fields import FieldModel, PagedFieldModel
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians
from splat.rows import Rows

PAGE_ROWS = 256
OVERVIEW_GAUSSIANS = 8192  # at most, and so many does a store keep
# By how much a field's description may grow when it is placed.
PLACED_ROWS = 4
_MAGIC = b"BVMIXED\x01"
_HEADER = struct.Struct("<8sIIQQI")
_GAUSSIANS, _FLOATS, _BYTES = range(3)


@dataclass(frozen=True, slots=True, eq=False)
class MixedPart:
    """One of the scenes that were put together.

    Attributes:
        model: What its rows mean; None for Gaussians.
        placement: Of its world in the scene's.
        page_gaussians: Of its own pages.
        sh_degree: Of its Gaussians.
    """

    model: AnchorModel | FieldModel | MixedModel | None  # by their names: stores read them
    placement: Placement
    page_gaussians: int
    sh_degree: int


@dataclass(frozen=True, slots=True, eq=False)
class MixedModel:
    """What all chunks of a mixed scene need to be drawn.

    Attributes:
        parts: By number of the source.
        background: As of ``FieldModel``: of the fields, if all agree.
    """

    parts: tuple[MixedPart, ...]
    background: tuple[float, float, float] | None = None

    @property
    def page_gaussians(self) -> int:
        """Gaussians of the pages that all of them share."""
        return max((p.page_gaussians for p in self.parts if p.model is None), default=1)

    @property
    def sh_degree(self) -> int:
        """The highest of all Gaussians."""
        return max((p.sh_degree for p in self.parts if p.model is None), default=0)


@dataclass(frozen=True, slots=True, eq=False)
class Wrapped:
    """What is in a wrapped chunk.

    Attributes:
        source: Number of its scene.
        contents: Views of the rows.
    """

    source: int
    contents: Payload


def wrapped(source: int, contents: Payload) -> Rows:
    """The contents of a chunk as rows of bytes."""
    if isinstance(contents, Gaussians):
        kind, width = _GAUSSIANS, contents.sh.shape[1]
        arrays: tuple[NDArray[Any], ...] = contents.arrays
    else:
        kind = _BYTES if contents.data.dtype == np.uint8 else _FLOATS
        width, arrays = contents.width, (contents.data,)
    nbytes = sum(array.nbytes for array in arrays)
    out = np.zeros((1 + -(-nbytes // ROW_BYTES), ROW_BYTES), np.uint8)
    header = _HEADER.pack(_MAGIC, source, kind, len(out), len(contents), width)
    out[0, : len(header)] = np.frombuffer(header, np.uint8)
    flat, at = out[1:].reshape(-1), 0
    for array in arrays:
        flat[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
        at += array.nbytes
    return Rows(out)


def wrapped_rows(first_row: NDArray[np.uint8]) -> int:
    """Rows of the chunk that begins with this one.

    Raises:
        ValueError: If none does.
    """
    magic, _, _, rows, _, _ = _HEADER.unpack_from(first_row.tobytes())
    if magic != _MAGIC or rows < 1:
        raise ValueError("it is no chunk of a mixed scene")
    return int(rows)


def unwrapped(rows: Rows) -> Wrapped:
    """What ``wrapped`` was given.

    Raises:
        ValueError: If the rows are something else.
    """
    if rows.data.dtype != np.uint8 or rows.width != ROW_BYTES or not len(rows):
        raise ValueError(f"a mixed scene's rows are of {ROW_BYTES} bytes")
    if wrapped_rows(rows.data[0]) != len(rows):
        raise ValueError("a chunk of the mixed scene is cut off")
    _, source, kind, _, count, width = _HEADER.unpack_from(rows.data[0].tobytes())
    flat = rows.data[1:].reshape(-1)
    if kind == _GAUSSIANS and width in SH_COUNT_OF_DEGREE:
        shapes: list[tuple[int, ...]] = [(3,), (4,), (3,), (), (width, 3)]
        arrays, at = [], 0
        for shape in shapes:
            end = at + 4 * count * int(np.prod(shape, dtype=np.int64))
            arrays.append(flat[at:end].view(np.float32).reshape(count, *shape))
            at = end
        return Wrapped(source, Gaussians(*arrays))
    if kind == _FLOATS:
        return Wrapped(source, Rows(flat[: 4 * count * width].view(np.float32).reshape(-1, width)))
    if kind == _BYTES:
        return Wrapped(source, Rows(flat[: count * width].reshape(-1, width)))
    raise ValueError("a chunk of the mixed scene is of no known kind")


class MixedChunks:
    """Several sources as one ``NeuralSource``; see the module.

    Args:
        sources: Of any kinds; closed with this.
        placements: Of each.
        path: Of the whole, for people.

    Attributes:
        meta, model, tree: As of ``NeuralSource``.
        sh_degree: 0.
        page_gaussians: Rows of a page.
        row_bytes: Of a row.

    Raises:
        SceneError: If there are none.
    """

    sh_degree = 0
    page_gaussians = PAGE_ROWS
    row_bytes = ROW_BYTES

    def __init__(
        self,
        sources: Sequence[ChunkSource],
        placements: Sequence[Placement],
        path: Path | str = "a mixed scene",
    ) -> None:
        if not sources or len(sources) != len(placements):
            raise SceneError("a mixed scene needs scenes, and a place for each")
        self._sources, self._placements = tuple(sources), tuple(placements)
        self.model = _model_of(sources, placements)
        self.tree, self._of, self._node = _joined_trees(self._sources, self.model)
        self.meta = _joined_meta(path, sources, placements)

    def pageable(self, tables: TableFile) -> MixedChunks:
        """The same scene, whose fields can do with less memory; this one is closed with it.

        Args:
            tables: Of all of them; closed with the result.
        """
        # Copies may share a source.
        paged: dict[int, ChunkSource] = {
            id(source): PagedFields(source, tables)
            for source in self._sources
            if isinstance(source, NeuralSource) and type(source.model) is FieldModel
        }
        sources = [paged.get(id(source), source) for source in self._sources]
        made = MixedChunks(sources, self._placements, self.meta.path)
        made.meta = self.meta
        return made

    def make_room(self, host_bytes: int, device_bytes: int) -> None:
        """As ``PagedFields.make_room``, for all fields: where the coarsest chunks of all scenes do
        not fit together, each field has its share."""
        fields = {id(s): s for s in self._sources if isinstance(s, PagedFields)}
        if any(part.model is None for part in self.model.parts):
            device_bytes -= device_bytes // 4  # pages of engines are larger than their Gaussians
        rows = {
            number: int(_rows_of(source, part, self.model)[source.tree.roots].sum())
            for number, (source, part) in enumerate(
                zip(self._sources, self.model.parts, strict=True)
            )
        }
        everything = sum(-(-its // PAGE_ROWS) for its in rows.values()) * PAGE_ROWS * ROW_BYTES
        for source in fields.values():
            its = max(rows[i] for i, each in enumerate(self._sources) if each is source) * ROW_BYTES
            if everything <= device_bytes:
                room = device_bytes - everything + its
            else:
                room = device_bytes * its // max(1, everything)
            # What wraps a chunk is a page more, at the most.
            source.make_room(host_bytes, room - PAGE_ROWS * ROW_BYTES)
        self.tree, self._of, self._node = _joined_trees(self._sources, self.model)

    def overview(self) -> Gaussians:
        """See ``NeuralSource``: of Gaussians their chunks, whose boxes end at two standard
        deviations."""
        parts = []
        for source, part in zip(self._sources, self.model.parts, strict=True):
            if isinstance(source, NeuralSource):
                seen = source.overview()
                parts.append(part.placement.of(replace(seen, sh=seen.sh[:, :1])))
            else:
                parts.append(_outline(source.tree, part.placement))
        seen = Gaussians.concatenate(parts)
        return seen[:: -(-len(seen) // OVERVIEW_GAUSSIANS) or 1]

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        return self._source_of(chunk).encoded_bytes(int(self._node[chunk]))

    def decoded_bytes(self, chunk: int) -> int:
        """See ``Measured``."""
        source, node = self._source_of(chunk), int(self._node[chunk])
        if isinstance(source, Measured):
            size = source.decoded_bytes(node)
        elif isinstance(source, NeuralSource):
            size = source.row_bytes * int(source.tree.count[node])
        else:  # of Gaussians
            width = 11 + 3 * SH_COUNT_OF_DEGREE[source.sh_degree]
            size = 4 * width * int(source.tree.count[node])
        return ROW_BYTES * (1 + -(-size // ROW_BYTES))

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        return self._source_of(chunk).read(int(self._node[chunk]), cancelled)

    def decode(self, chunk: int, encoded: EncodedChunk) -> Rows:
        """See ``ChunkSource``: the contents, placed and wrapped."""
        number = int(self._of[chunk])
        part = self.model.parts[number]
        contents = self._sources[number].decode(int(self._node[chunk]), encoded)
        if isinstance(contents, Gaussians):
            return wrapped(number, part.placement.of(contents))
        if isinstance(part.model, FieldModel):
            try:
                tables = part.model.tables if isinstance(part.model, PagedFieldModel) else None
                there = 0 if tables is None else tables.nbytes
                block = rows_block(contents, checked=False, tables_bytes=there)
            except ValueError as error:
                raise ChunkReadError(self.meta.path, chunk, str(error)) from None
            placement = part.placement.after(block.placement)
            contents = block_rows(replace(block, group=number, placement=placement))
        return wrapped(number, contents)

    def _source_of(self, chunk: int) -> ChunkSource:
        return self._sources[int(self._of[chunk])]

    def close(self) -> None:
        """Closes all sources."""
        for source in self._sources:
            source.close()


def _model_of(sources: Sequence[ChunkSource], placements: Sequence[Placement]) -> MixedModel:
    parts = tuple(
        MixedPart(
            source.model if isinstance(source, NeuralSource) else None,
            placement,
            source.page_gaussians,
            source.sh_degree,
        )
        for source, placement in zip(sources, placements, strict=True)
    )
    backgrounds = {p.model.background for p in parts if isinstance(p.model, FieldModel)}
    return MixedModel(parts, backgrounds.pop() if len(backgrounds) == 1 else None)


def _joined_trees(
    sources: Sequence[ChunkSource], model: MixedModel
) -> tuple[LodTree, NDArray[np.intp], NDArray[np.intp]]:
    """One forest in breadth-first order; of each node its source, and its node there."""
    firsts = np.cumsum([0, *(len(source.tree) for source in sources)])
    of = np.repeat(np.arange(len(sources)), np.diff(firsts))
    node = np.arange(firsts[-1]) - firsts[of]
    parent = np.concatenate(
        [
            np.where(source.tree.parent == NO_PARENT, NO_PARENT, source.tree.parent + first)
            for source, first in zip(sources, firsts, strict=False)
        ]
    )
    order, place = _breadth_first(parent)

    def column(name: str) -> NDArray[Any]:
        scales = [part.placement.scale for part in model.parts]
        columns = [
            _placed(getattr(source.tree, name), name, scale)
            for source, scale in zip(sources, scales, strict=True)
        ]
        whole: NDArray[Any] = np.concatenate(columns)
        return whole[order]

    boxes = [_placed_boxes(s.tree, p.placement) for s, p in zip(sources, model.parts, strict=True)]
    rows = [_rows_of(s, p, model) for s, p in zip(sources, model.parts, strict=True)]
    child_count = column("child_count")
    inner = np.flatnonzero(child_count)
    roots = int((parent == NO_PARENT).sum())
    first_child = np.zeros(len(order), np.int32)
    sizes = child_count[inner]
    first_child[inner] = roots + np.cumsum(sizes) - sizes
    above = parent[order]
    tree = LodTree(
        lo=np.concatenate([lo for lo, _ in boxes])[order],
        hi=np.concatenate([hi for _, hi in boxes])[order],
        max_scale=column("max_scale"),
        error=column("error"),
        count=np.concatenate(rows)[order].astype(np.int32),
        parent=np.where(above == NO_PARENT, NO_PARENT, place[above]),
        first_child=first_child,
        child_count=child_count,
        level=column("level"),
        loss=column("loss"),
    )
    return tree, of[order], node[order]


def _breadth_first(parent: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Nodes by depth, and in each depth by their parents' order; and the place of each node."""
    place = np.full(len(parent), -1, np.intp)
    front = np.flatnonzero(parent == NO_PARENT)
    order: list[NDArray[np.intp]] = []
    done = 0
    by_parent = np.argsort(parent, kind="stable")
    sorted_parents = parent[by_parent]
    while len(front):
        order.append(front)
        place[front] = done + np.arange(len(front))
        done += len(front)
        first = np.searchsorted(sorted_parents, front, side="left")
        end = np.searchsorted(sorted_parents, front, side="right")
        front = (
            np.concatenate([by_parent[a:b] for a, b in zip(first, end, strict=True)])
            if (end > first).any()
            else np.zeros(0, np.intp)
        )
    return np.concatenate(order), place


def _placed(values: NDArray[Any], name: str, scale: float) -> NDArray[Any]:
    """A column of a tree that was scaled."""
    power = {"max_scale": 1, "error": 1, "loss": 2}.get(name, 0)
    if not power or scale == 1.0:
        return values
    return (values.astype(np.float64) * scale**power).astype(np.float32)


def _placed_boxes(
    tree: LodTree, placement: Placement
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if placement == Placement():
        return tree.lo, tree.hi
    low, high = tree.lo.astype(np.float64), tree.hi.astype(np.float64)
    middle = placement.points(0.5 * (low + high))
    reach = np.abs(rotation_matrix(placement.rotation)) * placement.scale
    half = 0.5 * (high - low) @ reach.T
    down, up = np.float32(-np.inf), np.float32(np.inf)
    lo = np.nextafter((middle - half).astype(np.float32), down)
    return lo, np.nextafter((middle + half).astype(np.float32), up)


def _rows_of(source: ChunkSource, part: MixedPart, model: MixedModel) -> NDArray[np.int64]:
    """[N] rows that stand for the memory of each chunk: of Gaussians and anchors that of whole
    pages."""
    count = source.tree.count.astype(np.int64)
    if isinstance(part.model, FieldModel):
        return count + PLACED_ROWS + 1
    if part.model is None:
        page, width = model.page_gaussians, 4 * (11 + 3 * SH_COUNT_OF_DEGREE[model.sh_degree])
    else:
        assert isinstance(source, NeuralSource)
        page, width = part.page_gaussians, source.row_bytes
    return -(-count // page) * (1 + -(-page * width // ROW_BYTES))


def _joined_meta(
    path: Path | str, sources: Sequence[ChunkSource], placements: Sequence[Placement]
) -> SceneMeta:
    metas = [source.meta for source in sources]
    names = list(dict.fromkeys(meta.format_name for meta in metas))
    notes = dict.fromkeys(f"{Path(meta.path).name}: {n}" for meta in metas for n in meta.notes)
    units = {meta.unit for meta in metas}
    plain = [m for m, p in zip(metas, placements, strict=True) if p == Placement()]
    return SceneMeta(
        path=path,
        format_name="composition of " + ", ".join(names),
        count=sum(meta.count for meta in metas) if len(units) == 1 else len(metas),
        unit=units.pop() if len(units) == 1 else "scenes",
        sh_degree=max(meta.sh_degree for meta in metas),
        up=None if metas[0].up is None else placements[0].turned(metas[0].up),
        cameras=tuple(camera for meta in plain for camera in meta.cameras),
        cameras_assumed=any(meta.cameras_assumed for meta in plain),
        notes=tuple(notes),
    )


def _outline(tree: LodTree, placement: Placement) -> Gaussians:
    """Where the chunks of a scene are, once it is placed; not turned, as stores keep no turns."""
    leaves = np.flatnonzero(tree.is_leaf)
    leaves = leaves[:: -(-len(leaves) // 2048)]
    lo, hi = (corner[leaves] for corner in _placed_boxes(tree, placement))
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (len(leaves), 1))
    scales = np.maximum(0.25 * (hi - lo), 1e-6)
    opacities = np.full(len(leaves), 0.5, np.float32)
    sh = np.zeros((len(leaves), 1, 3), np.float32)
    return Gaussians(0.5 * (lo + hi), quats, scales, opacities, sh)
