"""Pages of a scene of several kinds: each chunk is kept in the pages of what draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import PagePool, PagingRasterizer, ScenePart
from scene_store.models.field_bytes import ROW_BYTES
from scene_store.models.mixed_chunks import MixedModel, unwrapped, wrapped_rows
from splat.fields import FieldModel
from splat.gaussians import SH_COUNT_OF_DEGREE
from splat.rows import Rows

FIELD_PAGE_ROWS = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class HeldChunk:
    """A chunk in the pages of what draws it.

    Attributes:
        source: Number of its scene.
        pages: There.
        rows: That it came in.
    """

    source: int
    pages: tuple[Any, ...]
    rows: int


class MixedPage:
    """A page that counts; the chunk is there as long as any of its pages is."""

    __slots__ = ("__weakref__", "held")

    def __init__(self, held: HeldChunk) -> None:
        self.held = held


class MixedPool:
    """See ``rendering.base.PagePool``; a chunk is a run of pages, which come together.

    Args:
        model: What the chunks need to be drawn.
        drawing: What draws each of its parts.
        page_rows: Of a page.
    """

    def __init__(
        self, model: MixedModel, drawing: Sequence[PagingRasterizer], page_rows: int
    ) -> None:
        self._page_rows = page_rows
        self._sizes: list[int] = []
        self._pools: list[PagePool] = []
        shared: PagePool | None = None
        for part, rasterizer in zip(model.parts, drawing, strict=True):
            size, degree = part.page_gaussians, part.sh_degree
            if isinstance(part.model, FieldModel):
                size = FIELD_PAGE_ROWS
            elif part.model is None:  # one for all Gaussians: their pages are drawn together
                size, degree = model.page_gaussians, model.sh_degree
                shared = shared or rasterizer.new_pool(size, degree)
            self._sizes.append(size)
            is_shared = part.model is None and shared is not None
            self._pools.append(shared if is_shared else rasterizer.new_pool(size, degree))  # type: ignore[arg-type]
        self._scale = self._most_bytes(model)

    def _most_bytes(self, model: MixedModel) -> float:
        """Bytes of the device for one of rows, at most."""
        most = 1.0
        for part, pool in zip(model.parts, self._pools, strict=True):
            if part.model is None:
                width = 4 * (11 + 3 * SH_COUNT_OF_DEGREE[model.sh_degree])
                rows = 1 + -(-model.page_gaussians * width // ROW_BYTES)
                most = max(most, pool.page_bytes / (rows * ROW_BYTES))
        return most

    @property
    def page_bytes(self) -> int:
        """Memory that a page stands for."""
        return int(np.ceil(self._page_rows * ROW_BYTES * self._scale))

    def pack(self, contents: Rows, /) -> MixedPage:
        """A chunk that fits a page."""
        (page,) = self.pack_many(contents, np.array([[0, len(contents)]], np.int64))
        return page

    def pack_many(
        self, contents: Rows, rows: NDArray[np.int64], /, threads: int = 1
    ) -> Sequence[MixedPage]:
        """Chunks in pages of their own, each a run of ``rows``."""
        if (rows[:, 1] > self._page_rows).any():
            raise ValueError(f"more rows than fit a page of {self._page_rows}")
        pages: list[MixedPage] = []
        at = 0
        while at < len(rows):
            first = int(rows[at, 0])
            length = wrapped_rows(contents.data[first])
            count = -(-length // self._page_rows)
            run = rows[at : at + count]
            ends = run[:, 0] + run[:, 1]
            if ends[-1] != first + length or (ends[:-1] != run[1:, 0]).any():
                raise ValueError("the pages of a chunk must come together, and in order")
            held = self._held(contents[first : first + length])
            pages += [MixedPage(held) for _ in range(count)]
            at += count
        return pages

    def _held(self, rows: Rows) -> HeldChunk:
        chunk = unwrapped(rows)
        if chunk.source >= len(self._pools):
            raise ValueError(f"the mixed scene has no part {chunk.source}")
        size = self._sizes[chunk.source]
        first = np.arange(0, len(chunk.contents), size, dtype=np.int64)
        places = np.stack([first, np.minimum(size, len(chunk.contents) - first)], axis=1)
        pages = self._pools[chunk.source].pack_many(chunk.contents, places)
        return HeldChunk(chunk.source, tuple(pages), len(rows))

    def keep_free(self, pages: int) -> None:
        """Hold at most so many unused pages."""
        for pool in self._pools:
            pool.keep_free(pages)


def by_source(parts: Sequence[ScenePart], sources: int) -> list[list[ScenePart]]:
    """Pages of a frame as the parts of what draws each source, each chunk once and in order."""
    chunks: dict[int, ScenePart] = {}
    for part in parts:
        chunks.setdefault(id(part.scene.held), part)
    out: list[list[ScenePart]] = [[] for _ in range(sources)]
    for part in chunks.values():
        held: HeldChunk = part.scene.held
        out[held.source] += [
            ScenePart(page, part.weight, part.tint, part.tint_share) for page in held.pages
        ]
    return out
