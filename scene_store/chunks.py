"""A scene that can be streamed: a tree of chunks, and a way to get each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.anchors import AnchorModel
from splat.fields import FieldModel
from splat.gaussians import Gaussians
from splat.rows import Rows

if TYPE_CHECKING:
    from scene_store.models.mixed_chunks import MixedModel

Buffer = bytes | bytearray | memoryview
Payload = Gaussians | Rows
"""What a chunk holds: Gaussians, or rows to which a model gives a meaning (``NeuralSource``)."""
Model: TypeAlias = "AnchorModel | FieldModel | MixedModel"
"""What the chunks of a neural scene share; what ``rendering.models`` makes a renderer of."""


class _Referable:
    """What weak references may point to, though it has slots."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class EncodedChunk(_Referable):
    """A chunk as it was read, in the streams that its source keeps apart.

    Attributes:
        parts: The bytes of each stream, in an order of the source's own. A store's are
            geometry and spherical harmonics above degree 0 (empty for degree 0).
    """

    parts: tuple[Buffer, ...]

    @property
    def nbytes(self) -> int:
        """Memory that the streams take."""
        return sum(len(part) for part in self.parts)


def never_cancelled() -> bool:
    """For a read that nobody will want to abandon."""
    return False


class ChunkSource(Protocol):
    """Where residency gets chunks from. ``read`` and ``decode`` may be called by any threads.

    Attributes:
        meta: What is known of the scene as a whole.
        tree: The chunks.
        sh_degree: Degree of every chunk, 0 to 3.
        page_gaussians: Gaussians of a device page; a chunk takes whole pages.
    """

    @property
    def meta(self) -> SceneMeta: ...

    @property
    def tree(self) -> LodTree: ...

    @property
    def sh_degree(self) -> int: ...

    @property
    def page_gaussians(self) -> int: ...

    def encoded_bytes(self, chunk: int) -> int:
        """Memory that ``read(chunk)`` will take, known beforehand."""

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """The chunk's bytes, unverified. Blocks; None if ``cancelled`` said so meanwhile.

        Raises:
            ChunkReadError: If they cannot be had.
        """

    def decode(self, chunk: int, encoded: EncodedChunk) -> Payload:
        """The contents of what ``read`` returned, verified. Computes only.

        Raises:
            ChunkReadError: If the bytes are damaged.
        """

    def close(self) -> None:
        """Releases files and connections; reads still running may fail."""


@runtime_checkable
class NeuralSource(ChunkSource, Protocol):
    """A source of chunks that hold ``Rows``: ``tree.count`` and ``page_gaussians`` count these, and
    ``sh_degree`` is 0 (``docs/adr/0016-models.md``)."""

    @property
    def model(self) -> Model:
        """What the rows mean, and what is needed to draw them."""

    @property
    def row_bytes(self) -> int:
        """Of a row, decoded."""

    def overview(self) -> Gaussians:
        """Some Gaussians that show where the scene is, to choose a first view by."""


@runtime_checkable
class Measured(Protocol):
    """A source that knows how large its chunks are, where ``LodTree.count`` also has room for what
    engines need beside them."""

    def decoded_bytes(self, chunk: int) -> int:
        """Of a chunk's rows."""


def model_of(source: ChunkSource) -> Model | None:
    """What the rows of a neural scene mean; None of a source of Gaussians."""
    return source.model if isinstance(source, NeuralSource) else None


def row_bytes_of(source: ChunkSource) -> int:
    """Bytes of a row of what a source decodes; 0 of one of Gaussians."""
    return int(getattr(source, "row_bytes", 0))


def decoded_rows_of(source: ChunkSource) -> NDArray[np.int64]:
    """[N] rows that decoding gives of each chunk; a device may keep more of it, by its count."""
    rows = getattr(source, "decoded_rows", source.tree.count)
    return np.asarray(rows, np.int64)


def joined(parts: Sequence[Payload | None], sh_degree: int = 0) -> Payload:
    """The contents of several chunks of one source as one, a copy; None counts for nothing.

    Args:
        sh_degree: Of the Gaussians, if there are none.
    """
    present = [part for part in parts if part is not None]
    if present and isinstance(present[0], Rows):
        return Rows.concatenate([part for part in present if isinstance(part, Rows)])
    gaussians = [part for part in present if isinstance(part, Gaussians)]
    return Gaussians.concatenate(gaussians) if gaussians else Gaussians.empty(sh_degree)


@runtime_checkable
class Provisional(Protocol):
    """A source in which a sketch stands in for parts of the scene.

    Attributes:
        finished: Original Gaussians that are not sketched.
    """

    finished: int


ReadOutcome = EncodedChunk | BaseException | None
"""A chunk's bytes; or what went wrong; or None for a read that was abandoned."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedChunks:
    """Chunks that were decoded together.

    Attributes:
        contents: Those of all chunks. Valid until the thread decodes again.
        rows: [B, 2] int64, first row and number of rows of each.
        errors: By place in the batch, what is wrong with those that are damaged; their rows
            hold anything.
    """

    contents: Payload
    rows: NDArray[np.int64]
    errors: dict[int, BaseException]


class BatchSource(ChunkSource, Protocol):
    """A source that deals with many chunks at once; for each alone it costs more than it
    brings where chunks are small. What happens to a chunk does not depend on its batch."""

    def read_batches(self, chunks: Sequence[int], most_bytes: int) -> list[list[int]]:
        """Chunks, most urgent first, as batches to be read one at a time by ``read_many``; the
        most urgent batch first.

        Args:
            chunks: Different ones.
            most_bytes: What a batch should not exceed, unless it is a single chunk.
        """

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        """As ``read``, for a batch; what goes wrong is returned, not raised.

        Args:
            chunks: A batch of ``read_batches``.
            cancelled: Whether a chunk is not wanted any more.
        """

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """As ``decode``, for a batch; what goes wrong is returned, not raised."""


def in_batches(source: ChunkSource) -> BatchSource:
    """A source that deals with many chunks at once: one by one if it cannot do better.

    What it can is told by its class, so that a wrapper that passes single attributes on is not
    taken for what it wraps.
    """
    kind = type(source)
    methods = ("read_batches", "read_many", "decode_many")
    if all(hasattr(kind, name) for name in methods):
        return cast(BatchSource, source)
    return _OneByOne(source)


class _OneByOne:
    """Any source as one of batches of a single chunk."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source
        self.meta, self.tree = source.meta, source.tree
        self.sh_degree, self.page_gaussians = source.sh_degree, source.page_gaussians
        self.row_bytes = row_bytes_of(source)
        self.encoded_bytes, self.read = source.encoded_bytes, source.read
        self.decode, self.close = source.decode, source.close

    def read_batches(self, chunks: Sequence[int], most_bytes: int) -> list[list[int]]:
        """See ``BatchSource``."""
        return [[chunk] for chunk in chunks]

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        """See ``BatchSource``."""

        def one(chunk: int) -> ReadOutcome:
            try:
                return self._source.read(chunk, lambda: cancelled(chunk))
            except BaseException as error:  # native code raises more than Exception
                return error

        return [None if cancelled(chunk) else one(chunk) for chunk in chunks]

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """See ``BatchSource``."""
        return decode_one_by_one(self._source, chunks, encoded)


def decode_one_by_one(
    source: ChunkSource, chunks: Sequence[int], encoded: Sequence[EncodedChunk]
) -> DecodedChunks:
    """A batch, by a source's ``decode`` of single chunks."""
    parts: list[Payload | None] = []
    errors: dict[int, BaseException] = {}
    for place, (chunk, each) in enumerate(zip(chunks, encoded, strict=True)):
        try:
            parts.append(source.decode(chunk, each))
        except BaseException as error:  # native code raises more than Exception
            errors[place] = error
            parts.append(None)
    alone = parts[0] if len(parts) == 1 else None
    together = joined(parts, source.sh_degree) if alone is None else alone
    return DecodedChunks(together, rows_of(parts), errors)


def gaussians_of(contents: Payload) -> Gaussians:
    """The contents of a source that is known to hold Gaussians.

    Raises:
        TypeError: If it holds anything else.
    """
    if not isinstance(contents, Gaussians):
        raise TypeError("rows are nothing without their model")
    return contents


def rows_of(parts: Sequence[Payload | None]) -> NDArray[np.int64]:
    """[P, 2] first row and number of rows of each part in what ``joined`` makes of them."""
    counts = np.array([0 if part is None else len(part) for part in parts], np.int64)
    return np.stack([np.cumsum(counts) - counts, counts], axis=1)
