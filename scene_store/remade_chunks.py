"""Coarse chunks that are damaged, made again from what lies below them.

A chunk above the leaves holds nothing of its own: it was merged from its children, and can be
merged from them once more. Without that a damaged root would cost the whole scene, and a damaged
coarse chunk all detail below its parent, though every original is there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from scene_store.chunks import (
    ChunkSource,
    DecodedChunks,
    EncodedChunk,
    ReadOutcome,
    decode_one_by_one,
    gaussians_of,
    in_batches,
    never_cancelled,
)
from splat.closing import Closing
from splat.errors import ChunkReadError
from splat.gaussians import Gaussians

if TYPE_CHECKING:
    from scene_store.build.merging import Content

logger = logging.getLogger(__name__)

# What was made is kept for a while: whoever wants a chunk will want those below it, which it may
# have been made from.
KEPT_BYTES = 16 << 20
_READ_BYTES = 1 << 20  # of one read, unless it is a single chunk


class RemadeChunks(Closing):
    """Another source, of which inner chunks are lost only with all that is below them.

    A chunk that cannot be had for good is merged from its children as the build did it
    (``scene_store.build.merging``), from those that are there; a damaged child is made in the
    same way first. A leaf is an original: one that is lost stays so. A child that may yet come
    is waited for, by an error that says so. What is not damaged goes through as it is.

    Making takes a decoder's thread, also while it reads; one chunk is made at a time. For that
    time it takes the memory of the chunk's children, decoded twice, and ``KEPT_BYTES`` later;
    no budget counts these.

    Args:
        source: The scene; closed with this.

    Attributes:
        source: As given.
        meta, tree, sh_degree, page_gaussians: The source's.
        overhead_bytes: The source's; 0 if it has none.
    """

    def __init__(self, source: ChunkSource) -> None:
        self.source = source
        self.meta, self.tree = source.meta, source.tree
        self.sh_degree, self.page_gaussians = source.sh_degree, source.page_gaussians
        self.overhead_bytes = int(getattr(source, "overhead_bytes", 0))
        self._batches = in_batches(source)
        self._making = threading.Lock()  # guards what follows
        self._kept: dict[int, _Made] = {}
        self._lost: set[int] = set()
        self._remade: dict[int, str] = {}
        self._told: set[str] = set()
        self._closed = False

    @property
    def remade(self) -> tuple[str, ...]:
        """The chunks that were made so far, and why; a line each, the first one first."""
        return tuple(self._remade.copy().values())

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        return self.source.encoded_bytes(chunk)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        try:
            return self.source.read(chunk, cancelled)
        except ChunkReadError as error:
            if not self._is_worth_making(chunk, error):
                raise
            return _Unreadable((), error)

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        """See ``ChunkSource``. At most as many Gaussians as the tree says."""
        if isinstance(encoded, _Unreadable):
            return self._instead_of(chunk, encoded.error)
        try:
            return gaussians_of(self.source.decode(chunk, encoded))
        except ChunkReadError as error:
            if not self._is_worth_making(chunk, error):
                raise
            return self._instead_of(chunk, error)

    def read_batches(self, chunks: Sequence[int], most_bytes: int) -> list[list[int]]:
        """See ``BatchSource``."""
        return self._batches.read_batches(chunks, most_bytes)

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        """See ``BatchSource``."""
        outcomes = self._batches.read_many(chunks, cancelled)
        return [
            _Unreadable((), outcome)
            if isinstance(outcome, ChunkReadError) and self._is_worth_making(chunk, outcome)
            else outcome
            for chunk, outcome in zip(chunks, outcomes, strict=True)
        ]

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """See ``BatchSource``."""
        if not any(isinstance(each, _Unreadable) for each in encoded):
            decoded = self._batches.decode_many(chunks, encoded)
            if not any(
                self._is_worth_making(chunks[place], error)
                for place, error in decoded.errors.items()
            ):
                return decoded
        return decode_one_by_one(self, chunks, encoded)

    def close(self) -> None:
        """See ``ChunkSource``."""
        self._closed = True
        self.source.close()

    def _is_worth_making(self, chunk: int, error: BaseException) -> bool:
        lasting = isinstance(error, ChunkReadError) and not error.transient
        return lasting and bool(self.tree.child_count[chunk])

    def _instead_of(self, chunk: int, error: ChunkReadError) -> Gaussians:
        """The chunk, made from what is below it.

        Raises:
            ChunkReadError: ``error``, if nothing is there; another, if that may change.
        """
        with self._making:
            made = self._made(chunk)
            if made is None:
                raise error
            self._tell(chunk, error, made.parts)
        return made.content.gaussians

    def _tell(self, chunk: int, error: ChunkReadError, parts: int) -> None:
        """Files are damaged as a whole more often than not: one line each will do in a log."""
        if chunk in self._remade:
            return
        line = f"{error}; until then it is remade from the {parts} below it"
        self._remade[chunk] = line
        logger.log(logging.DEBUG if error.path in self._told else logging.WARNING, "%s", line)
        self._told.add(error.path)

    def _made(self, chunk: int) -> _Made | None:
        """None if nothing is left to make it from."""
        if chunk in self._kept or chunk in self._lost:
            return self._kept.get(chunk)
        from scene_store.build.merging import merge  # rarely needed

        parts = self._children(chunk)
        if not parts:
            self._lost.add(chunk)
            return None
        made = _Made(merge(parts, int(self.tree.count[chunk])), len(parts))
        self._keep(chunk, made)
        return made

    def _children(self, chunk: int) -> list[Content]:
        """Those that are there, or can be made, in the tree's order."""
        children = self.tree.children(chunk)
        parts = {child: self._kept[child].content for child in children if child in self._kept}
        outcomes: dict[int, ReadOutcome] = {}
        unread = [child for child in children if child not in parts]
        for batch in self._batches.read_batches(unread, _READ_BYTES):
            found = self._batches.read_many(batch, lambda _: self._closed)
            outcomes.update(zip(batch, found, strict=True))
        for child in unread:
            part = self._part(chunk, child, outcomes.pop(child))
            if part is not None:
                parts[child] = part
        return [parts[child] for child in sorted(parts)]

    def _part(self, chunk: int, child: int, outcome: ReadOutcome) -> Content | None:
        """A child of ``chunk`` as what is to be merged."""
        from scene_store.build.merging import foreign, original

        try:
            gaussians = self._decoded(child, outcome)
        except ChunkReadError as error:
            if error.transient:
                raise ChunkReadError(error.path, chunk, error.problem, transient=True) from None
            made = self._made(child)
            return None if made is None else made.content
        if not self.tree.child_count[child]:
            return original(gaussians)
        return foreign(gaussians, float(self.tree.error[child]), float(self.tree.loss[child]))

    def _decoded(self, chunk: int, outcome: ReadOutcome) -> Gaussians:
        if outcome is None:
            raise ChunkReadError("the scene", chunk, "was closed", transient=True)
        if isinstance(outcome, BaseException):
            raise outcome
        return gaussians_of(self.source.decode(chunk, outcome))

    def _keep(self, chunk: int, made: _Made) -> None:
        """Of what was made, the coarsest took most to make."""
        self._kept[chunk] = made
        while sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
            del self._kept[min(self._kept, key=lambda chunk: int(self.tree.level[chunk]))]


@dataclass(frozen=True, slots=True)
class _Unreadable(EncodedChunk):
    """In the place of the bytes of a chunk that is to be made."""

    error: ChunkReadError


class _Made(NamedTuple):
    content: Content
    parts: int

    @property
    def nbytes(self) -> int:
        content = self.content
        return content.gaussians.nbytes + content.sizes.nbytes + content.variances.nbytes
