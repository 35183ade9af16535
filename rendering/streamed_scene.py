"""A scene of which only parts are in memory: each frame draws what is there, and says what it
misses.

The worker's thread chooses a cut of the tree and leases it (``Loader.still``, ``Loader.hold``); it
never waits for a chunk. The loaders' threads bring what is missing, in the order in which it was
missed, and then what the views to come will miss (``Foresight``).

Devices with memories of their own each have pages, a residency and a loader, and the same cut: a
chunk is drawn if every memory has it from which it is to be drawn, and its parent otherwise
(``rendering.stream_choice``). They share the source: what one has decoded, others need not
(``scene_store.shared_chunks``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rendering.base import PagingRasterizer, Rasterizer, ScenePart
from rendering.chunk_memory import ChunkMemory
from rendering.device import HOST_MEMORY
from rendering.division import Division
from rendering.drawable import DividedScene, Drawable, MemoryGone, Outlook, SceneClosed
from rendering.frame import FrameRequest
from rendering.frame_scenes import composed
from rendering.memory_shares import (
    MemoryShares,
    Rasterizers,
    by_memory,
    least_budgets,
    memory_count,
    page_bytes_of,
)
from rendering.scene_parts import SceneParts
from rendering.shortage import Shortage
from rendering.stream_choice import ACTIVE_S, Choice, Chooser, Room, StreamPolicy
from rendering.tint import TINT_SHARE, UNTINTED, Tint, chunk_kinds, color_of, reuse_counts
from scene_store.chunks import ChunkSource, Provisional, model_of
from scene_store.ledger import Budgets
from scene_store.loader import OnWork
from scene_store.lod import select_lod
from scene_store.model_rules import enough_px, may_fade
from scene_store.remade_chunks import RemadeChunks
from scene_store.residency_stats import ResidencyStats, joint
from scene_store.shared_chunks import SharedChunks
from splat.errors import BudgetError

__all__ = [
    "ACTIVE_S",
    "Rasterizers",
    "StreamPolicy",
    "StreamedScene",
    "least_budgets",
    "memory_count",
]

DEFAULT_POLICY = StreamPolicy()


class StreamedScene(DividedScene):
    """Draws from a ``ChunkSource`` within budgets.

    Args:
        source: The scene; closed with this.
        rasterizer: What will draw; by memory, if there are several.
        budgets: Hard limits of memory: the host's for all, the device's for each.
        policy: How to draw.
        on_arrival: Called on a thread of its own when more can be drawn than before.
        clock: Seconds.
        reach_bytes: What chunks and frames may take together of a GPU: once frames were measured,
            the device's budget is no more than they leave. None without GPUs.

    Raises:
        BudgetError: If the budgets cannot hold the coarsest form of the scene.
    """

    def __init__(
        self,
        source: ChunkSource,
        rasterizer: Rasterizers,
        budgets: Budgets,
        policy: StreamPolicy = DEFAULT_POLICY,
        *,
        on_arrival: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        reach_bytes: int | None = None,
    ) -> None:
        self.source = source
        self._clock = clock
        rasterizers = by_memory(rasterizer)
        self._order = tuple(rasterizers)
        self._identity = object()  # no other scene has this one
        self._changing = threading.Lock()
        self._arrived = on_arrival
        self._worked: OnWork | None = None
        self._shares = MemoryShares.drawn_by(source, rasterizers)
        self._shares.require(budgets)
        model = model_of(source)
        self._may_fade = may_fade(model)
        self._chooser = Chooser(
            source.tree,
            source.page_gaussians,
            self._allowed(policy),
            self._order,
            partial(enough_px, model),
        )
        self._closed = False
        self._budgets = budgets
        self._shortage = Shortage(reach_bytes)
        self._between: SharedChunks | None = None
        if len(rasterizers) > 1:
            kept = self._shares.between(budgets)
            self._between = SharedChunks(source, len(rasterizers), kept)
        self._memories: dict[str, ChunkMemory] = {}
        for memory, its in rasterizers.items():
            self._memories[memory] = self._new_memory(memory, its)

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians that a frame may draw: one level, for errors say how much is drawn."""
        return (self._chooser.max_gaussians,)

    @property
    def policy(self) -> StreamPolicy:
        """How it is drawn; may be replaced at any time."""
        return self._chooser.policy

    @policy.setter
    def policy(self, policy: StreamPolicy) -> None:
        with self._changing:
            self._chooser.policy = self._allowed(policy)

    def _allowed(self, policy: StreamPolicy) -> StreamPolicy:
        return policy if self._may_fade else replace(policy, fade_s=0.0)

    # --- Memory ------------------------------------------------------------------------------

    @property
    def memories(self) -> tuple[str, ...]:
        """Those that it was made for."""
        return self._order

    @property
    def present(self) -> frozenset[str]:
        """Memories that are there."""
        return frozenset(self._memories)

    @property
    def behind(self) -> frozenset[str]:
        """Memories that would make pictures coarser: they lack what others draw."""
        return self._chooser.catching_up.behind

    @property
    def budgets(self) -> Budgets:
        """The limits of memory in force."""
        return self._budgets

    @property
    def least_budgets(self) -> Budgets:
        """Smaller ones are refused."""
        return self._shares.least

    def set_budgets(self, budgets: Budgets) -> None:
        """New limits of memory, in force at once.

        Raises:
            BudgetError: If they are too small for this scene; the old ones stay.
        """
        self._shares.require(budgets)
        for memory in self._memories.values():
            memory.set_budgets(self._shares.of_each(budgets))
        if self._between is not None:
            self._between.set_held_bytes(self._shares.between(budgets))
        self._budgets = budgets
        self._shortage.forget()

    def _lower_budgets(self, memory: str, held: int) -> bool:
        """A memory has no more than what it held: for now, no memory is to hold more."""
        before, least = self._budgets, self._shares.least
        self._adapt(self._shortage.lowered(memory, held, before, least, self._clock()))
        return self._budgets != before

    def _adapt(self, budgets: Budgets) -> None:
        """To what memory there is."""
        self._budgets = budgets
        for each in list(self._memories.values()):
            with suppress(RuntimeError, BudgetError):  # lost a moment ago; as small as can be
                each.set_budgets(self._shares.of_each(budgets))

    def _keep_within(self) -> None:
        """What there is, now that another frame is to be drawn."""
        memories = list(self._memories.values())
        measured = max((memory.scratch_bytes for memory in memories), default=0)
        before, least = self._budgets, self._shares.least
        revised = self._shortage.revised(before, measured, least, self._clock())
        if revised != before:
            self._adapt(revised)
        for memory in memories:
            memory.tidy()

    def held_bytes(self, memory: str) -> tuple[int, int]:
        """What it takes of a device's memory, and the most that it may."""
        there = self._memories.get(memory)
        held = 0 if there is None else there.loader.stats().device_bytes
        return held, self._budgets.device_bytes

    def engine_of(self, memory: str) -> str:
        """The engine that its form in a memory is for."""
        there = self._memories.get(memory)
        return "" if there is None else there.rasterizer.name

    def stats(self) -> ResidencyStats:
        """What is held, in all memories together."""
        stats = joint([memory.loader.stats() for memory in self._memories.values()])
        stats = replace(stats, budgets=self._shares.together(self._budgets))
        if self._between is not None:
            stats = replace(stats, host_bytes=stats.host_bytes + self._between.held_bytes)
        if isinstance(self.source, RemadeChunks):
            stats = replace(stats, remade=self.source.remade)
        return stats

    def lose(self, memory: str) -> None:
        """A memory is gone with its device."""
        with self._changing:
            gone = self._without(memory)
            self._chooser.catching_up.lost(memory)
        if gone is not None:
            gone.lose()

    def renew(self, memory: str, rasterizer: Rasterizer, timeout_s: float) -> None:
        """A memory is there again: it loads the coarsest chunks, and then what others draw."""
        self.lose(memory)
        paging = cast(PagingRasterizer, rasterizer)
        page_bytes = page_bytes_of(self.source, paging)
        if page_bytes > self._shares.page_bytes:  # of another engine than before
            self._shares = MemoryShares.of(self.source, page_bytes, len(self._order))
        fresh = self._new_memory(memory, paging)
        with self._changing:
            refused = self._closed or memory in self._memories
            if not refused:
                there = {**self._memories, memory: fresh}
                self._memories = {name: there[name] for name in self._order if name in there}
        if refused:
            fresh.lose()
            return
        # They may have changed a moment ago.
        fresh.set_budgets(self._shares.of_each(self._budgets))
        fresh.loader.wait_until_settled(timeout_s)

    def _without(self, memory: str) -> ChunkMemory | None:
        gone = self._memories.get(memory)
        self._memories = {name: one for name, one in self._memories.items() if name != memory}
        return gone

    def _new_memory(self, memory: str, rasterizer: PagingRasterizer) -> ChunkMemory:
        return ChunkMemory(
            self._order.index(memory),
            len(self._order),
            rasterizer,
            self.source if self._between is None else self._between,
            self._shares.costs,
            self._shares.of_each(self._budgets),
            on_arrival=self._on_arrival,
            on_short=partial(self._lower_budgets, memory),
            on_work=self._on_work,
            clock=self._clock,
        )

    # --- Frames ------------------------------------------------------------------------------

    def set_on_arrival(self, callback: Callable[[], None] | None) -> None:
        """Whom to tell when more can be drawn."""
        self._arrived = callback

    def set_on_work(self, callback: OnWork | None) -> None:
        """Whom to tell what was read and decoded, and when."""
        self._worked = callback

    @contextmanager
    def acquire(
        self, request: FrameRequest, division: Division | None = None
    ) -> Iterator[Drawable]:
        """What the request's cameras see of what is there; held until the block ends.

        Args:
            division: Which memory needs what; None for all of it in the first one.
        """
        if division is None:
            division = Division({self._order[0]: None})
        self._drop_idle(request.client)
        self._keep_within()
        with ExitStack() as leases:
            choice, memories = self._chosen(request, division, leases)
            yield self._drawable(request, division, choice, memories)

    def _chosen(
        self, request: FrameRequest, division: Division, leases: ExitStack
    ) -> tuple[Choice, dict[str, ChunkMemory]]:
        """A choice, and the memories in which what they are to draw is leased."""
        while True:
            memories = {
                name: memory
                for name, memory in self._memories.items()
                if name in division.draws or name in division.beside
            }
            self._require_open()
            if not memories.keys() & division.draws.keys():
                raise MemoryGone
            latency_s = max(memory.loader.latency_s for memory in memories.values())
            try:
                with ExitStack() as still:
                    held = {
                        name: still.enter_context(memory.loader.still())
                        for name, memory in memories.items()
                    }
                    choice = self._choose(request, division, held, latency_s)
                    for name, demand in choice.demands.items():
                        lease = memories[name].loader.hold(demand, client=request.client)
                        leases.enter_context(lease)
                return choice, memories
            except RuntimeError:
                # It was replaced a moment ago, or a memory lost.
                self._require_open()
                if all(self._memories.get(name) is memory for name, memory in memories.items()):
                    raise

    @property
    def _pool_pages(self) -> int:
        """Of each memory."""
        return self._budgets.device_bytes // self._shares.page_bytes

    def _require_open(self) -> None:
        if self._closed:
            raise SceneClosed("the scene is closed")

    def _choose(
        self,
        request: FrameRequest,
        division: Division,
        held: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]],
        latency_s: float,
    ) -> Choice:
        room = Room(self._pool_pages, latency_s)
        with self._changing:
            return self._chooser.choose(request, division, held, room, self._clock())

    def _drawable(
        self,
        request: FrameRequest,
        division: Division,
        choice: Choice,
        memories: dict[str, ChunkMemory],
    ) -> Drawable:
        tint, drawn = request.tint, [chunk for chunk, _ in choice.shown]
        kinds = chunk_kinds(tint, self.source.tree, drawn, request.cameras, choice.last)
        key = (self._identity, tuple(choice.shown), tint, kinds)
        stats = replace(
            choice.stats(self.source.tree),
            provisional=isinstance(self.source, Provisional),
            reuse=reuse_counts(kinds) if tint is Tint.REUSE else (),
        )
        tints = [(color_of(tint, kind), TINT_SHARE) for kind in kinds] or [
            (UNTINTED, 0.0) for _ in drawn
        ]
        shown = {
            chunk: (weight, *of) for (chunk, weight), of in zip(choice.shown, tints, strict=True)
        }
        forms: dict[str, Drawable] = {}
        with self._changing:
            self._require_open()
            pages = {
                name: [memories[name].parts(chunk, *shown[chunk]) for chunk in chunks]
                for name, chunks in self._leased(division, choice).items()
                if self._memories.get(name) is memories[name]
            }
        for name, parts in pages.items():
            chunks = self._leased(division, choice)[name]
            rasterizer = memories[name].rasterizer
            drawing = partial(composed, rasterizer, request=request)
            scene = drawing([part for each in parts for part in each])
            where = self._scene_parts(chunks, parts, drawing)
            relieve = memories[name].loader.tell_of_shortage
            slabs = division.draws[name]
            forms[name] = Drawable(scene, stats, key, where, slabs=slabs, relieve=relieve)
        if not forms:
            raise MemoryGone
        first = next(iter(forms.values()))
        if self._order == (HOST_MEMORY,):
            return first
        return replace(first, parts=self._scene_parts(drawn), forms=forms, slabs=None)

    def _leased(self, division: Division, choice: Choice) -> dict[str, list[int]]:
        """What each memory draws, in the order of the whole."""
        return {
            name: np.asarray(demand.draw).tolist()
            for name, demand in choice.demands.items()
            if name in division.draws
        }

    def outlook(self, request: FrameRequest) -> Outlook:
        """What there will be to draw when everything is there."""
        tree = self.source.tree
        page = self.source.page_gaussians
        with self._changing:
            pages = self._chooser.pages_of_each(self._pool_pages)
            limits = self._chooser.limits(request, len(self._order) * pages)
        everything = np.ones(len(tree), np.bool_)
        cut = select_lod(tree, request.frozen or request.cameras, everything, limits)
        needed = SceneParts.of_chunks(tree, cut.touched.tolist(), None)
        needed = replace(needed, counts=-(-needed.counts // page))
        share = pages / max(1, int(needed.counts.sum()))
        return Outlook(self._scene_parts(cut.draw.tolist()), needed, share)

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Wait until all that the last frames wanted is there, or lost; whether it is."""
        deadline_s = time.monotonic() + timeout_s
        return all(
            memory.loader.wait_until_settled(max(0.0, deadline_s - time.monotonic()))
            for memory in self._memories.values()
        )

    def drawn_chunks(self, client: str) -> tuple[int, ...]:
        """What the client's last frame drew, ascending; nothing of one that is not known."""
        with self._changing:
            return self._chooser.drawn_chunks(client)

    def forget(self, client: str) -> None:
        """The client is gone; what only it needed may go."""
        with self._changing:
            self._chooser.forget(client, self._clock())
        self._release(client)

    def close(self) -> None:
        """End the loading; pages go with the last frame that draws them. Twice is once."""
        with self._changing:
            closed, self._closed = self._closed, True
            memories = tuple(self._memories.values())
        if closed:
            return
        for memory in memories[1:]:
            memory.loader.close(wait=False)  # all at once
        for memory in memories:
            memory.close()
        self.source.close()
        with self._changing:
            for memory in memories:
                memory.drop()
            if self._between is not None:
                self._between.close()

    def _drop_idle(self, asking: str) -> None:
        """Those who rest keep their picture on the screen, but no claim to the memory."""
        with self._changing:
            idle = self._chooser.drop_idle(asking, self._clock())
        for name in idle:
            self._release(name)

    def _release(self, client: str) -> None:
        for memory in self._memories.values():
            memory.loader.forget(client)

    def _scene_parts(
        self,
        chunks: Sequence[int],
        pages: Sequence[Sequence[ScenePart]] = (),
        drawing: Callable[[Sequence[ScenePart]], Any] | None = None,
    ) -> SceneParts:
        """Chunks for devices that draw some of them, and how these are put together."""

        def compose(which: NDArray[np.intp]) -> Any:
            assert drawing is not None
            return drawing([part for place in which for part in pages[place]])

        return SceneParts.of_chunks(self.source.tree, chunks, None if drawing is None else compose)

    def _on_work(self, lane: str, stage: str, start_s: float, end_s: float) -> None:
        if self._worked is not None:
            self._worked(lane, stage, start_s, end_s)

    def _on_arrival(self) -> None:
        if self._arrived is not None:
            self._arrived()
