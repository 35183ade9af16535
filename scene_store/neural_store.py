"""Stores of neural scenes: their chunks as they are, and the model that gives them a meaning.

What opens at once from its trainer's files needs no store; one is worth its space where opening
must not sort or convert anything first, and where the scene is on a server.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import (
    DecodedChunks,
    EncodedChunk,
    Measured,
    NeuralSource,
    decode_one_by_one,
    never_cancelled,
)
from scene_store.formats.source import DOWNLOAD_AGAIN
from scene_store.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    Manifest,
    Profile,
    SourceFile,
    StoreInfo,
    parse_manifest,
)
from scene_store.models.anchor_file import require_drawable
from scene_store.models.field_bytes import ROW_BYTES
from scene_store.models.mixed_chunks import OVERVIEW_GAUSSIANS, MixedModel, unwrapped
from scene_store.node_table import ChunkRef
from scene_store.outline import Outline, outline_of
from scene_store.range_reader import RangeReader, RangeReadError, insist
from scene_store.scene import SceneMeta
from scene_store.statistics import likely_up
from scene_store.store import Store, is_store
from scene_store.typed_bytes import Description, from_bytes, to_bytes
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.errors import ChunkReadError, SceneFormatError, SceneUnreachableError
from splat.fields import FieldModel
from splat.gaussians import Gaussians
from splat.rows import Rows

if TYPE_CHECKING:
    from scene_store.store_writer import StoreWriter

_BUILD_AGAIN = "the store is incomplete or damaged: copy or build it again"


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """The file of a model.

    Attributes:
        model: What rows mean.
        means, scales, opacities, colors: [G, 3], [G, 3], [G], [G, 3], of ``overview``; colours
            are harmonics of degree 0.
        cameras: That it was trained with.

    Raises:
        ValueError: If the overview's shapes disagree, or a value is not finite.
    """

    model: AnchorModel | FieldModel | MixedModel
    means: NDArray[np.float32]
    scales: NDArray[np.float32]
    opacities: NDArray[np.float32]
    colors: NDArray[np.float32]
    cameras: tuple[Camera, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.means) if self.means.ndim else 0
        for name, array, shape in (
            ("means", self.means, (count, 3)),
            ("scales", self.scales, (count, 3)),
            ("opacities", self.opacities, (count,)),
            ("colours", self.colors, (count, 3)),
        ):
            if array.shape != shape:
                raise ValueError(f"the overview's {name} have the shape {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"the overview's {name} are not all finite")

    @classmethod
    def of(cls, source: NeuralSource) -> StoredModel:
        """That of a source."""
        seen = source.overview()
        seen = seen[:: -(-len(seen) // OVERVIEW_GAUSSIANS) or 1]
        colors = np.ascontiguousarray(seen.sh[:, 0])
        return cls(
            source.model, seen.means, seen.scales, seen.opacities, colors, source.meta.cameras
        )

    @property
    def overview(self) -> Gaussians:
        """As of ``NeuralSource``."""
        quats = np.zeros((len(self.means), 4), np.float32)
        quats[:, 0] = 1.0
        return Gaussians(self.means, quats, self.scales, self.opacities, self.colors[:, None, :])


class NeuralStore(Store):
    """An open store of a neural scene; a ``NeuralSource``. Made by ``open_store``.

    Attributes:
        model: What its rows mean.
        row_bytes: Of a row.
    """

    def __init__(self, reader: RangeReader, manifest: Manifest, path: Path | str) -> None:
        super().__init__(reader, path, manifest=manifest)
        part = manifest.model
        assert part is not None, "open_store makes a Store of other stores"
        self.row_bytes = part.row_bytes
        self._stored = _read_model(reader, manifest)
        self.model = self._stored.model
        self.meta = replace(
            self.meta, cameras=self._stored.cameras, cameras_assumed=_assumes_cameras(self.model)
        )
        self._dtype = np.dtype(np.float32 if isinstance(self.model, AnchorModel) else np.uint8)
        expected = _row_bytes(self.model)
        if self.row_bytes != expected:
            problem = f"has rows of {expected} bytes; its manifest says {self.row_bytes}"
            raise _damaged(reader, manifest, problem)

    # As of any source; whoever knows that a store holds Gaussians never meets this one.
    def decode(  # type: ignore[override]
        self, chunk: int, encoded: EncodedChunk
    ) -> Rows:
        """See ``ChunkSource``."""
        for error in self._differing([chunk], [encoded]).values():
            raise error
        data = np.frombuffer(encoded.parts[0], np.uint8)
        if data.size % self.row_bytes or data.size > self.tree.count[chunk] * self.row_bytes:
            raise ChunkReadError(self._file_of(chunk), chunk, "has another number of rows")
        rows = Rows(data.reshape(-1, self.row_bytes).view(self._dtype))
        try:
            _require_drawable(self.model, rows)
        except ValueError as error:
            raise ChunkReadError(self._file_of(chunk), chunk, str(error)) from None
        return rows

    def decoded_bytes(self, chunk: int) -> int:
        """See ``Measured``."""
        return self.encoded_bytes(chunk)

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """See ``BatchSource``."""
        return decode_one_by_one(self, chunks, encoded)

    def overview(self) -> Gaussians:
        """See ``NeuralSource``."""
        return self._stored.overview


def write_neural_store(
    source: NeuralSource,
    writer: StoreWriter,
    info: StoreInfo,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ChunkRef]:
    """Write a neural scene into a new store.

    Args:
        source: The scene.
        writer: A new one, lossless, with the source's page size.
        info: What to remember; what the source says of up, notes and outline comes to it.
        progress: Hears how many chunks are written, and of how many.

    Raises:
        ChunkReadError: If a chunk cannot be read.
        OutputError: If a file cannot be written.
    """
    from scene_store.store_writer import ModelBytes

    refs = []
    for chunk in range(len(source.tree)):
        progress(chunk, len(source.tree))
        encoded = source.read(chunk, never_cancelled)
        assert encoded is not None, "nobody cancelled"
        rows = source.decode(chunk, encoded)
        raw = EncodedChunk((rows_bytes(rows), b""))
        # A chunk may be given more of a device than its rows take.
        level, count = int(source.tree.level[chunk]), int(source.tree.count[chunk])
        refs.append(writer.append(level, count, raw))
    progress(len(source.tree), len(source.tree))
    meta, stored = source.meta, StoredModel.of(source)
    model = ModelBytes(to_bytes(stored), source.row_bytes, meta.format_name, meta.unit, meta.count)
    described = StoreInfo(
        meta.up if meta.up is not None else info.up,
        info.sources,
        info.settings,
        (*info.notes, *meta.notes),
        meta.outline or _outline(source, stored),
    )
    writer.finish(source.tree, refs, described, model)
    return refs


def neural_store_bytes(source: NeuralSource) -> int:
    """About what a store of a neural scene takes: its chunks and its model; nothing is read."""
    if isinstance(source, Measured):
        chunks = sum(map(source.decoded_bytes, range(len(source.tree))))
    else:
        chunks = int(source.tree.count.sum(dtype=np.int64)) * source.row_bytes
    model = Description.of(StoredModel.of(source))
    return chunks + len(model.header) + model.nbytes


@dataclass(frozen=True, slots=True)
class NeuralBuild:
    """What ``build_neural_store`` built.

    Attributes:
        meta: Of the scene.
        nodes: Chunks.
        store_bytes: Of all files.
        seconds: That it took.
    """

    meta: SceneMeta
    nodes: int
    store_bytes: int
    seconds: float


def build_neural_store(
    source: NeuralSource,
    path: Path,
    origin: Path,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NeuralBuild:
    """Make a store of a neural scene: all of it, or none.

    Args:
        source: The scene, which stays open.
        path: The store to be.
        origin: Where the scene is.
        replace: Whether a store of that name may be replaced, once the new one is complete.
        progress: As of ``write_neural_store``.

    Raises:
        SceneError: If it cannot be read.
        OutputError: If it cannot be written.
    """
    from scene_store.store_writer import StoreWriter

    began_s = time.monotonic()
    stat = origin.stat()
    info = StoreInfo(sources=(SourceFile(str(origin), stat.st_size, stat.st_mtime_ns),))
    writer = StoreWriter(
        path,
        sh_degree=0,
        profile=Profile.LOSSLESS,
        page_gaussians=source.page_gaussians,
        replace=replace,
        many_pages=True,
    )
    with writer:
        try:
            writer.clear()
            refs = write_neural_store(source, writer, info, progress)
        except ValueError as error:  # numbers that no store may have
            writer.discard()
            raise SceneFormatError(
                origin, f"cannot become a store: {error}", remedy=DOWNLOAD_AGAIN
            ) from None
        except BaseException:
            writer.discard()
            raise
    size = sum(each.stat().st_size for each in path.iterdir())
    return NeuralBuild(source.meta, len(refs), size, time.monotonic() - began_s)


def is_neural_store(path: Path) -> bool:
    """Whether a local folder is a store of a neural scene: a look at its manifest."""
    if not is_store(path):
        return False
    manifest = path / MANIFEST_FILE
    try:
        with manifest.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
        return parse_manifest(manifest, text).model is not None
    except (OSError, SceneFormatError):
        return False  # whoever opens it will say what is wrong


def rows_bytes(rows: object) -> bytes:
    """The rows of a chunk as they lie in a store.

    Raises:
        TypeError: If it holds no rows.
    """
    if not isinstance(rows, Rows):
        raise TypeError("only neural scenes hold rows")
    return rows.data.tobytes()


def _row_bytes(model: AnchorModel | FieldModel | MixedModel) -> int:
    """Of a row that the model gives a meaning."""
    return 4 * model.layout.width if isinstance(model, AnchorModel) else ROW_BYTES


def _require_drawable(model: AnchorModel | FieldModel | MixedModel, rows: Rows) -> None:
    """Raises ``ValueError`` for anchors that cannot be drawn; fields are held against what can be
    where they are described."""
    if isinstance(model, MixedModel):
        whole = unwrapped(rows)
        if not 0 <= whole.source < len(model.parts):
            raise ValueError("holds a chunk of no scene that its model names")
        part = model.parts[whole.source].model
        if isinstance(part, AnchorModel):
            if not isinstance(whole.contents, Rows) or whole.contents.width != part.layout.width:
                raise ValueError("holds a chunk of another kind than its model says")
            require_drawable(part.layout, whole.contents.data)
    elif isinstance(model, AnchorModel):
        require_drawable(model.layout, rows.data)


def _outline(source: NeuralSource, stored: StoredModel) -> Outline | None:
    seen, meta = stored.overview, source.meta
    if not len(seen):
        return None
    return outline_of(seen, up=likely_up(meta, seen), cameras=meta.cameras)


def _assumes_cameras(model: AnchorModel | FieldModel | MixedModel | None) -> bool:
    """Whether cameras of a scene are none that it was trained with."""
    if isinstance(model, MixedModel):
        return any(_assumes_cameras(part.model) for part in model.parts)
    return isinstance(model, FieldModel) and model.assumes_cameras


def _read_model(reader: RangeReader, manifest: Manifest) -> StoredModel:
    part = manifest.model
    assert part is not None
    name, size = part.file.name, part.file.size_bytes
    try:
        data = insist(lambda: reader.read(name, 0, size, never_cancelled))
    except RangeReadError as error:
        location = reader.location(name)
        if error.transient:
            raise SceneUnreachableError(f"{location}: {error.advice}") from None
        raise SceneFormatError(
            location, error.problem, remedy=error.remedy or _BUILD_AGAIN
        ) from None
    assert data is not None, "nobody cancelled"
    if zlib.crc32(data) != part.crc:
        raise _damaged(reader, manifest, "the checksum differs")
    try:
        return from_bytes(StoredModel, data)
    except ValueError as error:
        raise _damaged(reader, manifest, str(error)) from None


def _damaged(reader: RangeReader, manifest: Manifest, problem: str) -> SceneFormatError:
    assert manifest.model is not None
    location = reader.location(manifest.model.file.name)
    return SceneFormatError(location, problem, remedy=_BUILD_AGAIN)
