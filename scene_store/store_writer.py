"""Writing a store: chunks appended level by level, and a manifest at the very end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from scene_store.chunks import EncodedChunk
from scene_store.manifest import DEFAULT_PAGE_GAUSSIANS, Profile, StoreInfo
from scene_store.tree import LodTree


class ChunkRef(NamedTuple):
    """Where a chunk lies in the page files of its level; plain integers, fit for a journal.

    Attributes:
        level: 0 for original Gaussians.
        count: Gaussians.
        geometry_offset, geometry_bytes, geometry_crc: Range in ``geometry-LL.bin``, and the
            CRC-32 of its bytes.
        sh_offset, sh_bytes, sh_crc: The same in ``sh-LL.bin``; zeros for degree 0.
    """

    level: int
    count: int
    geometry_offset: int
    geometry_bytes: int
    geometry_crc: int
    sh_offset: int
    sh_bytes: int
    sh_crc: int


@dataclass(frozen=True, slots=True)
class WriterState:
    """How far a store was written: lengths of the page files by level, flushed to the disk."""

    geometry_bytes: tuple[int, ...] = ()
    sh_bytes: tuple[int, ...] = ()


class StoreWriter:
    """Writes a store in ``PATH.partial``, which becomes ``PATH`` when it is complete.

    Chunks are encoded by ``page_codec.encode_chunk``, on any thread or process, and appended
    here by one thread. The bytes of a store depend only on what is appended and in which order
    within each level.

    A killed or failed build leaves the partial folder, which is not a store (it has no
    manifest). To continue it, give the ``state`` that ``checkpoint`` returned last: what was
    appended after that is cut off.

    Args:
        path: The store to be, conventionally ``*.bvs``. Its folder must exist.
        sh_degree: 0 to 3, of every chunk.
        profile: How the chunks will have been encoded.
        page_gaussians: Most Gaussians of a chunk.
        state: Where to continue; None to begin, which empties the partial folder.
        replace: Whether a store of that name may be replaced (only once the new one is
            complete). Anything that is not a store is never replaced.

    Raises:
        OutputError: If it cannot be written, or ``path`` is taken, or another writer is at
            work on it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sh_degree: int,
        profile: Profile = Profile.COMPACT,
        page_gaussians: int = DEFAULT_PAGE_GAUSSIANS,
        state: WriterState | None = None,
        replace: bool = False,
    ) -> None:
        raise NotImplementedError

    @property
    def scratch(self) -> Path:
        """An existing folder in the partial one for the build's own files (journal, sorted
        runs); survives a kill, and is removed by ``finish``."""
        raise NotImplementedError

    def append(self, level: int, count: int, encoded: EncodedChunk) -> ChunkRef:
        """Adds a chunk to the page files of its level.

        Raises:
            OutputError: If it cannot be written (disk full). The partial folder stays.
        """
        raise NotImplementedError

    def checkpoint(self) -> WriterState:
        """Flushes all that was appended to the disk; the state from which to continue.

        Raises:
            OutputError: If it cannot be written.
        """
        raise NotImplementedError

    def finish(self, tree: LodTree, refs: Sequence[ChunkRef], info: StoreInfo) -> None:
        """Writes the node table and the manifest and gives the store its name.

        Args:
            tree: The finished tree.
            refs: The chunk of each node, in the tree's order.
            info: What else to remember.

        Raises:
            OutputError: If it cannot be written.
            ValueError: If tree and refs do not belong together.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Closes the files; the partial folder stays unless ``finish`` was called."""
        raise NotImplementedError

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
