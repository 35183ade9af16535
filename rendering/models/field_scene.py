"""Blocks of fields on a device, ready to be drawn, and the pages that they are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import ScenePart
from rendering.models.components import Components, Domain, Evaluator, Marcher
from rendering.models.field_blend import Overlap, overlaps
from rendering.models.field_empty import EmptySpace
from rendering.models.field_rays import FieldRays
from rendering.models.field_samplers import (
    Listed,
    Marching,
    Sampling,
    Stage,
    boxed,
    hierarchical,
    proposed,
    thinned,
)
from scene_store.models.field_bytes import ROW_BYTES, FieldBlock, rows_block, rows_in_block
from scene_store.models.field_memory import has_empty_grid
from splat.errors import BudgetError
from splat.fields import (
    BoxSampler,
    Contraction,
    FieldSpace,
    HierarchicalSampler,
    Network,
    OccupancySampler,
    ProposalSampler,
    TableReader,
)
from splat.gaussians import Gaussians
from splat.rows import Rows


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A network with its space."""

    evaluator: Evaluator
    space: FieldSpace
    empty: EmptySpace | None

    def stage(self, rays: FieldRays) -> Stage:
        return Stage(self.evaluator, rays.in_space(self.space), self.empty)


class PreparedBlock:
    """A block as components take it.

    Args:
        block: Its arrays are this one's from now on.
        components: What evaluates it.
        skips_empty: Whether samples in empty space are passed over.
        rows: That it came in.
        tables: Of its grids that are not in memory as a whole; None without any.

    Attributes:
        block, rows: As given.
    """

    def __init__(
        self,
        block: FieldBlock,
        components: Components,
        *,
        skips_empty: bool,
        rows: int = 0,
        tables: TableReader | None = None,
    ) -> None:
        self.block, self.rows = block, rows
        self._tables = tables
        self._components = components
        self._skips_empty = skips_empty
        field = block.field
        self._main = self._ready(field.network, field.space)
        self._stages: list[_Ready] = []
        self._marcher: Marcher | None = None
        sampler = field.sampler
        if isinstance(sampler, OccupancySampler):
            self._occupied = sampler.occupied
            self._marcher = components.marcher(sampler if skips_empty else _everywhere(sampler))
        elif isinstance(sampler, ProposalSampler):
            spaces = sampler.proposal_spaces
            self._stages = [
                self._ready(network, space)
                for network, space in zip(sampler.proposals, spaces, strict=True)
            ]
        elif isinstance(sampler, HierarchicalSampler):
            coarse = sampler.coarse
            self._stages = [self._main if coarse is None else self._ready(coarse, field.space)]

    def _ready(self, network: Network, space: FieldSpace) -> _Ready:
        bounded = bool(np.isfinite(space.lo).all() and np.isfinite(space.hi).all())
        domain = Domain(space.contraction, bounded or space.contraction is not Contraction.NONE)
        evaluator = self._components.network(network, domain, self._tables)
        field, empty = self.block.field, None
        marched = isinstance(field.sampler, OccupancySampler)
        if self._skips_empty and not marched and has_empty_grid(network):
            empty = EmptySpace.of(evaluator, field, space)
        return _Ready(evaluator, space, empty)

    @property
    def evaluator(self) -> Evaluator:
        """Of densities and colours."""
        return self._main.evaluator

    @property
    def nbytes(self) -> int:
        """Memory that it takes beside its rows."""
        ready = [self._main, *(stage for stage in self._stages if stage is not self._main)]
        return sum(
            each.evaluator.nbytes + (0 if each.empty is None else each.empty.nbytes)
            for each in ready
        )

    @property
    def most_samples(self) -> int:
        """That a ray may have, about: what memory is reckoned by."""
        sampler = self.block.field.sampler
        if isinstance(sampler, ProposalSampler):
            return max(*sampler.counts, sampler.samples)
        if isinstance(sampler, HierarchicalSampler):
            return sampler.coarse_samples + sampler.fine_samples
        return sampler.samples if isinstance(sampler, BoxSampler) else 0

    def sampling(self, rays: FieldRays, *, quick: bool = False) -> Sampling:
        """The samples of some rays.

        Args:
            quick: Take half as many, where their number does not follow from the field.
        """
        field, components = self.block.field, self._components
        sampler, main = field.sampler, self._main.stage(rays)
        if quick:
            sampler = thinned(sampler)
        if isinstance(sampler, OccupancySampler):
            assert self._marcher is not None
            return Marching(self._marcher, rays, main.rays, field)
        stages = [each.stage(rays) for each in self._stages]
        if isinstance(sampler, BoxSampler):
            t, lengths, kept = boxed(sampler, field, rays)
        elif isinstance(sampler, ProposalSampler):
            t, lengths = proposed(sampler, field, rays, stages, components)
            kept = np.ones(t.shape, np.bool_)
        else:
            t, lengths = hierarchical(sampler, field, rays, stages[0], components)
            kept = np.ones(t.shape, np.bool_)
        kept &= (rays.first[:, None] <= t) & (t < rays.last[:, None])
        if main.empty is not None:
            ray, place = np.nonzero(kept)
            may = main.empty.may_hold(main.rays, ray.astype(np.int32), t[ray, place])
            if isinstance(sampler, HierarchicalSampler) or field.last_sample_background:
                # It has no end, so that nothing is too thin for it; or its colour is seen anyway.
                may |= place == t.shape[1] - 1
            kept[ray, place] = may
        return Listed(t, lengths, kept)

    @property
    def hidden_by_occupancy(self) -> NDArray[np.bool_] | None:
        """The occupancy outside of which densities do not count, where nothing is skipped by it."""
        return None if self._marcher is None or self._skips_empty else self._occupied


def _everywhere(sampler: OccupancySampler) -> OccupancySampler:
    """The same steps, all of them."""
    return OccupancySampler(
        np.ones_like(sampler.occupied), sampler.min_step, sampler.max_step, sampler.cone_angle
    )


class FieldPage:
    """A page of a block; the block is there as long as any of its pages is."""

    __slots__ = ("__weakref__", "block", "number")

    def __init__(self, block: PreparedBlock, number: int) -> None:
        self.block, self.number = block, number


class FieldPool:
    """Blocks in memory, counted by pages; see ``rendering.base.PagePool``.

    A block is a run of whole pages, which come together (``pack_many``) and are one piece of
    memory: its header says how many rows follow.

    Args:
        page_rows: Of a page.
        components: What evaluates them.
        skips_empty, tables: As of ``PreparedBlock``.
    """

    def __init__(
        self,
        page_rows: int,
        components: Components,
        *,
        skips_empty: bool,
        tables: TableReader | None = None,
    ) -> None:
        self._page_rows, self._tables = page_rows, tables
        self._components = components
        self._skips_empty = skips_empty

    @property
    def page_bytes(self) -> int:
        """Memory that one page takes."""
        return self._page_rows * ROW_BYTES

    def pack(self, contents: Rows, /) -> FieldPage:
        """A block that fits a page."""
        (page,) = self.pack_many(contents, np.array([[0, len(contents)]], np.int64))
        return page

    def pack_many(
        self, contents: Rows, rows: NDArray[np.int64], /, threads: int = 1
    ) -> Sequence[FieldPage]:
        """Blocks in pages of their own, each a run of ``rows``."""
        if (rows[:, 1] > self._page_rows).any():
            raise ValueError(f"more rows than fit a page of {self._page_rows}")
        pages: list[FieldPage] = []
        at = 0
        try:
            while at < len(rows):
                block, end = self._block(contents, rows, at)
                pages += [FieldPage(block, number) for number in range(end - at)]
                at = end
        except MemoryError as error:
            raise BudgetError("not enough memory for another block of a field") from error
        return pages

    def _block(self, contents: Rows, rows: NDArray[np.int64], at: int) -> tuple[PreparedBlock, int]:
        """The block that begins with a page, and the page after its last one."""
        first = int(rows[at, 0])
        length = rows_in_block(contents.data[first])
        end, there = at, 0
        while end < len(rows) and there < length and int(rows[end, 0]) == first + there:
            there += int(rows[end, 1])
            end += 1
        if there != length:
            raise ValueError("the pages of a block must come together, and in order")
        own = Rows(contents.data[first : first + length].copy())
        tables = self._tables
        block = rows_block(own, checked=False, tables_bytes=0 if tables is None else tables.nbytes)
        ready = PreparedBlock(
            block, self._components, skips_empty=self._skips_empty, rows=length, tables=tables
        )
        return ready, end

    def keep_free(self, pages: int) -> None:
        """None is kept that nobody uses."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnBlock:
    """A block as a frame draws it.

    Attributes:
        ready: On the device.
        weight: Multiplies its density: below 1 while it fades in or out.
        tint, tint_share: As of ``ScenePart``.
        overlap: With other blocks of the frame.
    """

    ready: PreparedBlock
    weight: float
    tint: tuple[float, float, float]
    tint_share: float
    overlap: Overlap | None


class FieldScene:
    """What a frame draws: blocks, each once, in the order of its parts.

    Attributes:
        parts: The first of each block.
        blocks: These blocks.
    """

    def __init__(self, parts: Sequence[ScenePart]) -> None:
        chosen: dict[int, ScenePart] = {}
        for part in parts:
            chosen.setdefault(id(part.scene.block), part)
        self.parts = own = tuple(chosen.values())
        shared = overlaps([part.scene.block.block for part in own])
        self.blocks = tuple(
            DrawnBlock(part.scene.block, part.weight, part.tint, part.tint_share, overlap)
            for part, overlap in zip(own, shared, strict=True)
        )

    @cached_property
    def rows(self) -> int:
        """Of all blocks."""
        return sum(each.ready.rows for each in self.blocks)


def rows_of(contents: Rows | Gaussians) -> Rows:
    """What a renderer of rows is given.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(contents, Rows):
        raise TypeError("Gaussians are drawn by the engine itself")
    return contents


def as_scene(scene: Any) -> FieldScene:
    """What ``render`` is given.

    Raises:
        TypeError: If no ``FieldRasterizer`` made it.
    """
    if not isinstance(scene, FieldScene):
        raise TypeError(f"a {type(scene).__name__} is no scene of fields")
    return scene
