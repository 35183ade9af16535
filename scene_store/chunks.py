"""A scene that can be streamed: a tree of chunks, and a way to get each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.gaussians import Gaussians

Buffer = bytes | bytearray | memoryview


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

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        """The Gaussians of what ``read`` returned, verified. Computes only.

        Raises:
            ChunkReadError: If the bytes are damaged.
        """

    def close(self) -> None:
        """Releases files and connections; reads still running may fail."""


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
        gaussians: Those of all chunks. Valid until the thread decodes again.
        rows: [B, 2] int64, first row and number of rows of each.
        errors: By place in the batch, what is wrong with those that are damaged; their rows
            hold anything.
    """

    gaussians: Gaussians
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
    parts: list[Gaussians] = []
    errors: dict[int, BaseException] = {}
    for place, (chunk, each) in enumerate(zip(chunks, encoded, strict=True)):
        try:
            parts.append(source.decode(chunk, each))
        except BaseException as error:  # native code raises more than Exception
            errors[place] = error
            parts.append(Gaussians.empty(source.sh_degree))
    counts = np.array([len(part) for part in parts], np.int64)
    rows = np.stack([np.cumsum(counts) - counts, counts], axis=1)
    together = parts[0] if len(parts) == 1 else Gaussians.concatenate(parts)
    return DecodedChunks(together, rows, errors)
