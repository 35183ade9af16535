"""Radiance fields as a streamed scene: each block a chunk, with a coarse one that stands in for it.

A block cannot be drawn in part, so it is one chunk, in as many pages as its bytes take. Where a
scene has several, each has a *stand-in*, a small grid of densities and colours that is the block's
parent in the tree: it is there before the block is, stays while the block is away, and so no part
of a scene is ever missing. What comes, goes and is fetched ahead is residency's business, as for
chunks of Gaussians.

Files are parsed when a block is read, by the function that came with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import EncodedChunk, never_cancelled
from scene_store.models.field_bytes import ROW_BYTES, FieldBlock, block_rows, rows_block
from scene_store.models.field_memory import reserved_rows
from scene_store.scene import FIELD_UNIT, SceneMeta
from scene_store.tree import NO_PARENT, LodTree
from scene_store.typed_bytes import Description
from splat.errors import ChunkReadError, SceneError, SceneFormatError
from splat.fields import Contraction, Field, FieldModel, OccupancySampler
from splat.gaussians import Gaussians
from splat.rows import Rows

PAGE_ROWS = 256  # 64 KiB
OVERVIEW_POINTS = 2048
BEYOND = 10.0  # times far: a camera further than that from an unbounded field does not see it

Vector3 = tuple[float, float, float]
MakeStandIn = Callable[[FieldBlock], "StandIn"]


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """A coarse form of a block.

    Attributes:
        field: Of a few hundred KiB.
        error: How far its detail is from the block's, world units: the side of a cell.
    """

    field: Field
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class BlockReader:
    """A block that can be read.

    Attributes:
        read: Parses its file; the same block each time.
        rows: That it takes on a device.
        nbytes: That it takes in host memory.
        lo, hi: Corners of its box in the scene.
        stand_in: Rows of its coarse form; None without.
        error: Of that.
    """

    read: Callable[[], FieldBlock]
    rows: int
    nbytes: int
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    stand_in: Rows | None = None
    error: float = 0.0

    @classmethod
    def of(
        cls, read: Callable[[], FieldBlock], make_stand_in: MakeStandIn | None = None
    ) -> BlockReader:
        """Reads it once, to know how large it is. A block without bounds has no coarse form, and
        stays in memory."""
        block = read()
        rows = len(block_rows(block))
        lo, hi = scene_box(block)
        reader = cls(read, rows + reserved_rows(block.field), rows * ROW_BYTES, lo, hi)
        if make_stand_in is None or not has_bounds(block):
            return reader
        made = make_stand_in(block)
        coarse = replace(block, field=made.field)
        error = made.error * block.placement.scale
        return cls(read, reader.rows, reader.nbytes, lo, hi, block_rows(coarse), error)


class FieldChunks:
    """A ``NeuralSource`` of blocks; see the module.

    Args:
        meta: Of the scene.
        model: What its fields share.
        readers: Of its blocks.
        overview: Of ``NeuralSource.overview``.

    Attributes:
        meta, model, tree: As of ``NeuralSource``.
        sh_degree: 0.
        page_gaussians: Rows of a page.
        row_bytes: Of a row.
    """

    sh_degree = 0
    page_gaussians = PAGE_ROWS
    row_bytes = ROW_BYTES

    def __init__(
        self,
        meta: SceneMeta,
        model: FieldModel,
        readers: Sequence[BlockReader],
        overview: Gaussians,
    ) -> None:
        if not readers:
            raise SceneFormatError(meta.path, "has no field")
        self.meta, self.model = meta, model
        self._overview = overview
        # Roots first; those with a stand-in have their block as their only child.
        self._chunks: list[Rows | BlockReader] = [
            reader if reader.stand_in is None else reader.stand_in for reader in readers
        ]
        self._chunks += [reader for reader in readers if reader.stand_in is not None]
        self.tree = _tree(readers)

    @classmethod
    def of_fields(
        cls,
        path: Path | str,
        read_fields: Sequence[Callable[[], Field]],
        *,
        border: float = 0.0,
        make_stand_in: MakeStandIn | None = None,
        always: bool = False,
    ) -> FieldChunks:
        """Of functions that read a field each, which are called once now.

        Args:
            path: Of the scene, for people.
            border: As of ``FieldModel``: of fields whose boxes overlap.
            make_stand_in: Of several fields; without, all of them stay in memory.
            always: Whether one field alone has a stand-in, too, as it is beside others.
        """
        fields: list[Field] = []
        readers = []
        several = len(read_fields) > 1 or always
        for site, read_field in enumerate(read_fields):

            def read(read_field: Callable[[], Field] = read_field, site: int = site) -> FieldBlock:
                return block_of(read_field(), site, border)

            def read_first(read: Callable[[], FieldBlock] = read) -> FieldBlock:
                block = read()
                fields.append(block.field)
                return block

            reader = BlockReader.of(read_first, make_stand_in if several else None)
            readers.append(
                BlockReader(
                    read,
                    reader.rows,
                    reader.nbytes,
                    reader.lo,
                    reader.hi,
                    reader.stand_in,
                    reader.error,
                )
            )
            if site:
                fields[-1] = _without_parameters(fields[-1], fields[0])
        return cls(
            meta_of(path, fields, readers),
            model_of(fields, border),
            readers,
            overview_of(fields[0], readers),
        )

    def overview(self) -> Gaussians:
        """See ``NeuralSource``."""
        return self._overview

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        there = self._chunks[chunk]
        # What was parsed is there until its rows are.
        return there.nbytes if isinstance(there, Rows) else 2 * there.nbytes

    def decoded_bytes(self, chunk: int) -> int:
        """See ``Measured``."""
        return self._chunks[chunk].nbytes

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``; parses the block's file."""
        there = self._chunks[chunk]
        if isinstance(there, Rows):
            return EncodedChunk((there.data.reshape(-1).data,))
        try:
            rows = block_rows(there.read())
        except (OSError, SceneError, ValueError) as error:
            raise ChunkReadError(self.meta.path, chunk, f"cannot be read ({error})") from error
        if rows.nbytes != there.nbytes:
            raise ChunkReadError(self.meta.path, chunk, "is another field than at first")
        return None if cancelled() else EncodedChunk((rows.data.reshape(-1).data,))

    def decode(self, chunk: int, encoded: EncodedChunk) -> Rows:
        """See ``ChunkSource``."""
        flat = np.frombuffer(encoded.parts[0], np.uint8)
        rows = Rows(flat[: flat.size // ROW_BYTES * ROW_BYTES].reshape(-1, ROW_BYTES))
        try:
            rows_block(rows)
        except ValueError as error:
            raise ChunkReadError(self.meta.path, chunk, str(error)) from None
        return rows

    def close(self) -> None:
        """Nothing is held open."""


def block_of(field: Field, site: int = 0, border: float = 0.0) -> FieldBlock:
    """A field in the box that it has."""
    lo, hi = (_three(corner) for corner in (field.space.lo, field.space.hi))
    return FieldBlock(field, lo, hi, site, border=border)


def has_bounds(block: FieldBlock) -> bool:
    """Whether a block ends somewhere."""
    space = block.field.space
    corners = (np.maximum(block.lo, space.lo), np.minimum(block.hi, space.hi))
    return bool(np.isfinite(corners).all())


def scene_box(block: FieldBlock) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners [3] of a finite box in the scene that holds all that can be seen of a block."""
    reach = BEYOND * min(max(block.field.far, 1.0), 1e6)
    lo = np.maximum(np.maximum(block.lo, block.field.space.lo), -reach)
    hi = np.minimum(np.minimum(block.hi, block.field.space.hi), reach)
    corners = np.array(np.meshgrid(*zip(lo, hi, strict=True))).reshape(3, -1).T
    placed = block.placement.points(corners)
    return placed.min(axis=0), placed.max(axis=0)


def _tree(readers: Sequence[BlockReader]) -> LodTree:
    """A forest: of each reader its stand-in over the block, or the block alone."""
    has_child = np.array([reader.stand_in is not None for reader in readers])
    inner: list[int] = np.flatnonzero(has_child).tolist()
    nodes = [*range(len(readers)), *inner]
    roots = len(readers)
    lo = np.stack([readers[i].lo for i in nodes]).astype(np.float32)
    hi = np.stack([readers[i].hi for i in nodes]).astype(np.float32)
    coarse = [(0 if r.stand_in is None else len(r.stand_in) + _coarse_reserve(r)) for r in readers]
    count = [coarse[i] if has_child[i] else readers[i].rows for i in range(roots)]
    count += [readers[i].rows for i in inner]
    first_child = np.zeros(len(nodes), np.int32)
    first_child[inner] = roots + np.arange(len(inner))
    is_inner = np.concatenate([has_child, np.zeros(len(inner), np.bool_)])
    error = [readers[i].error if has_child[i] else 0.0 for i in range(roots)]
    return LodTree(
        lo=np.nextafter(lo, np.float32(-np.inf)),
        hi=np.nextafter(hi, np.float32(np.inf)),
        max_scale=np.zeros(len(nodes), np.float32),
        error=np.array([*error, *[0.0] * len(inner)], np.float32),
        count=np.array(count, np.int32),
        parent=np.array([*[NO_PARENT] * roots, *inner], np.int32),
        first_child=first_child,
        child_count=is_inner.astype(np.int32),
        level=is_inner.astype(np.int32),
    )


def _coarse_reserve(reader: BlockReader) -> int:
    assert reader.stand_in is not None
    return reserved_rows(rows_block(reader.stand_in).field)


def meta_of(path: Path | str, fields: Sequence[Field], readers: Sequence[BlockReader]) -> SceneMeta:
    """What is known of a scene of fields."""
    kinds = list(dict.fromkeys(field.kind for field in fields))
    ups = {field.up for field in fields if field.up is not None}
    notes = dict.fromkeys(note for field in fields for note in field.notes)
    name = ", ".join(kinds) + (f" in {len(fields)} blocks" if len(fields) > 1 else "")
    return SceneMeta(
        path=path,
        format_name=name,
        count=sum(map(parameters_of, fields)),
        sh_degree=0,
        unit=FIELD_UNIT,
        up=ups.pop() if len(ups) == 1 else None,
        cameras=tuple(camera for field in fields for camera in field.cameras),
        cameras_assumed=FieldModel(tuple(kinds)).assumes_cameras,
        notes=tuple(notes),
    )


def parameters_of(field: Field) -> int:
    """Numbers that were trained."""
    arrays = (array for _, array in Description.of(field).arrays)
    return sum(array.size for array in arrays if array.dtype in (np.float16, np.float32))


def model_of(fields: Sequence[Field], border: float) -> FieldModel:
    """What some fields share."""
    backgrounds = {field.background for field in fields}
    kinds = tuple(dict.fromkeys(field.kind for field in fields))
    return FieldModel(kinds, backgrounds.pop() if len(backgrounds) == 1 else None, border)


def overview_of(field: Field, readers: Sequence[BlockReader]) -> Gaussians:
    """Points where the scene is: in cells that are occupied, or all over the blocks' boxes.

    Args:
        field: Of the first block.
    """
    if len(readers) == 1:
        means = _points_of(field)
    else:
        each = -(-OVERVIEW_POINTS // len(readers))
        means = np.concatenate([_scattered(r.lo, r.hi, each) for r in readers])
    count = len(means)
    extent = float(np.ptp(means, axis=0).max()) or 1.0
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))
    return Gaussians(
        means.astype(np.float32),
        quats,
        np.full((count, 3), 0.01 * extent, np.float32),
        np.full(count, 0.5, np.float32),
        np.zeros((count, 1, 3), np.float32),
    )


def _points_of(field: Field) -> NDArray[np.float64]:
    space = field.space
    sampler = field.sampler
    inverse = np.linalg.inv(space.world_to_field[:, :3])
    if isinstance(sampler, OccupancySampler) and sampler.occupied.any():
        cascades, side = sampler.occupied.shape[:2]
        cascade, z, y, x = np.nonzero(sampler.occupied)
        step = -(-len(x) // OVERVIEW_POINTS)
        reach = np.exp2(cascade[::step] + 1.0 - cascades)[:, None]
        cells = np.stack([x, y, z], axis=1)[::step]
        unit = ((cells + 0.5) / side - 0.5) * reach + 0.5
        points: NDArray[np.float64] = (unit - space.world_to_field[:, 3]) @ inverse.T
        return points
    if np.isfinite(space.lo).all() and np.isfinite(space.hi).all():
        return _scattered(space.lo, space.hi, OVERVIEW_POINTS)
    if space.contraction is not Contraction.NONE:
        # What is trained well is in the part that is not contracted.
        unit = _scattered(np.full(3, -1.0), np.ones(3), OVERVIEW_POINTS)
        uncontracted: NDArray[np.float64] = (unit - space.world_to_field[:, 3]) @ inverse.T
        return uncontracted
    half = np.full(3, 0.25 * (field.far - field.near))
    return _scattered(-half, half, OVERVIEW_POINTS)


def _scattered(lo: NDArray[np.float64], hi: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Points [count, 3] spread evenly over a box (Roberts' R3 sequence)."""
    ratio = 1.2207440846057596
    at = (0.5 + np.arange(count)[:, None] / ratio ** np.arange(1, 4)) % 1.0
    points: NDArray[np.float64] = lo + at * (hi - lo)
    return points


def _three(values: NDArray[np.float64]) -> Vector3:
    x, y, z = values.tolist()
    return x, y, z


def _without_parameters(field: Field, other: Field) -> Field:
    """What a scene's description needs of a field; the network is another one's, so that of many
    blocks one at a time is in memory."""
    return replace(field, network=other.network, sampler=other.sampler)
