"""A scene that can be streamed: a tree of chunks, and a way to get each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.gaussians import Gaussians

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class EncodedChunk:
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
