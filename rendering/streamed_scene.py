"""A scene of which only parts are in memory: each frame draws what is there, and says what it
misses.

The worker's thread chooses a cut of the tree and leases it (``Loader.frame``); it never waits
for a chunk. The loader's threads bring what is missing, in the order in which it was missed,
and then what the views to come will miss (``Foresight``).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import PagePool, PagingRasterizer, ScenePart
from rendering.drawable import Drawable, SceneClosed
from rendering.foresight import Foresight
from rendering.frame import FrameRequest, StreamStats
from rendering.scene_parts import SceneParts
from rendering.tint import (
    TINT_SHARE,
    UNTINTED,
    LastFrame,
    Tint,
    chunk_kinds,
    color_of,
    reuse_counts,
)
from scene_store.chunks import ChunkSource, Provisional
from scene_store.cross_fade import CrossFade
from scene_store.ledger import Budgets, ChunkCosts
from scene_store.loader import Demand, Loader, OnWork
from scene_store.lod import ChunkIndices, LodCut, LodLimits, select_lod
from scene_store.remade_chunks import RemadeChunks
from scene_store.residency import Residency
from scene_store.residency_stats import ResidencyStats
from splat.camera import Camera
from splat.gaussians import Gaussians

log = logging.getLogger(__name__)

# A client that asked for nothing as long has its picture: it does not count when room is
# shared, and what only it looked at makes room for others.
ACTIVE_S = 5.0
# After a jump there is nothing to fade from: what comes is shown at once, until the view is
# complete or this time is over.
ARRIVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How a streamed scene is drawn.

    Attributes:
        max_gaussians: No frame draws more.
        fade_s: How long a change of detail takes to show; 0 for at once.
    """

    max_gaussians: int = 8_000_000
    fade_s: float = 0.2


class ChunkPages:
    """The chunks on the device, by number: the ``DevicePool`` of the loader."""

    def __init__(self, pool: PagePool, page_gaussians: int) -> None:
        self._pool = pool
        self._page_gaussians = page_gaussians
        self._pages: dict[int, tuple[Any, ...]] = {}

    def upload(self, chunks: Sequence[int], gaussians: Gaussians, rows: NDArray[np.int64]) -> None:
        """Pack chunks into pages of their own."""
        size = self._page_gaussians
        pages = [
            [
                (start, min(size, first + count - start))
                for start in range(first, first + count, size)
            ]
            for first, count in rows.tolist()
        ]
        flat = np.array([page for each in pages for page in each], np.int64).reshape(-1, 2)
        packed = iter(self._pool.pack_many(gaussians, flat))
        for chunk, each in zip(chunks, pages, strict=True):
            self._pages[chunk] = tuple(islice(packed, len(each)))

    def free(self, chunk: int) -> None:
        """Give a chunk's pages back."""
        del self._pages[chunk]

    def of(self, chunk: int) -> tuple[Any, ...]:
        """The pages of a chunk that is there."""
        return self._pages[chunk]

    def drop(self) -> None:
        """Forget all pages; what is drawn of them keeps them as long."""
        self._pages.clear()


@dataclass(slots=True)
class _Client:
    """What is remembered of one viewer."""

    fade: CrossFade
    foresight: Foresight
    last_asked_s: float
    last: LastFrame = field(default_factory=LastFrame)
    touched: ChunkIndices = field(default_factory=lambda: np.empty(0, np.int32))
    arriving_until_s: float = -math.inf

    def is_arriving(self, jumped: bool, complete: bool, now: float) -> bool:
        """Whether the view is new and still coming; then nothing fades (``ARRIVAL_S``)."""
        if jumped:
            self.arriving_until_s = now + ARRIVAL_S
        arriving = now < self.arriving_until_s
        if complete:
            self.arriving_until_s = -math.inf
        return arriving


@dataclass(slots=True)
class _Choice:
    """One frame's, filled in while the loader holds still.

    Attributes:
        last: What the client's frame before it was drawn from.
        shown: Chunks, and how much of each.
    """

    last: LastFrame
    cut: LodCut
    shown: list[tuple[int, float]]
    touched: ChunkIndices
    prefetch: ChunkIndices | None
    lost: int
    fading: bool
    select_ms: float


@dataclass(slots=True)
class _Clients:
    """Those who look at the scene."""

    by_name: dict[str, _Client] = field(default_factory=dict)

    def drop_idle(self, now: float) -> list[str]:
        """Those who have asked for nothing for long; what was remembered of them is gone."""
        idle = [n for n, client in self.by_name.items() if now - client.last_asked_s >= ACTIVE_S]
        for name in idle:
            del self.by_name[name]
        return idle


def least_budgets(source: ChunkSource, rasterizer: PagingRasterizer) -> Budgets:
    """What a ``StreamedScene`` of this source cannot do without: as soon as there is one, it
    loads."""
    pool = rasterizer.new_pool(source.page_gaussians, source.sh_degree)
    return _least(source, ChunkCosts.of(source, pool.page_bytes))


def _least(source: ChunkSource, costs: ChunkCosts) -> Budgets:
    return Budgets(
        int(costs.encoded.max()) + int(costs.decoded.max()),
        int(costs.device[source.tree.roots].sum()),
    )


class StreamedScene:
    """Draws from a ``ChunkSource`` within budgets; a ``DrawableScene``.

    Args:
        source: The scene; closed with this.
        rasterizer: What will draw.
        budgets: Hard limits of memory.
        policy: How to draw.
        on_arrival: Called on a thread of its own when more can be drawn than before.
        clock: Seconds.

    Raises:
        BudgetError: If the budgets cannot hold the coarsest form of the scene.
    """

    def __init__(
        self,
        source: ChunkSource,
        rasterizer: PagingRasterizer,
        budgets: Budgets,
        policy: StreamPolicy = StreamPolicy(),
        *,
        on_arrival: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self._rasterizer = rasterizer
        self._policy = policy
        self._clock = clock
        pool = rasterizer.new_pool(source.page_gaussians, source.sh_degree)
        self._page_bytes = pool.page_bytes
        self._pages = ChunkPages(pool, source.page_gaussians)
        self._clients = _Clients()
        self._identity = object()  # no other scene has this one
        self._changing = threading.Lock()
        self._arrived = on_arrival
        self._worked: OnWork | None = None
        self._levels = int(source.tree.level.max()) + 1
        costs = ChunkCosts.of(source, pool.page_bytes)
        self._least = _least(source, costs)
        residency = Residency(source.tree, costs, budgets)
        self._budgets = budgets
        self._closed = False
        self._loader = Loader(
            source,
            self._pages,
            residency,
            on_arrival=self._on_arrival,
            on_work=self._on_work,
            clock=clock,
        )

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians that a frame may draw: one level, for errors say how much is drawn."""
        tree = self.source.tree
        originals = int(tree.count[tree.is_leaf].sum())
        return (max(1, min(self._policy.max_gaussians, originals)),)

    @property
    def policy(self) -> StreamPolicy:
        """How it is drawn; may be replaced at any time."""
        return self._policy

    @policy.setter
    def policy(self, policy: StreamPolicy) -> None:
        with self._changing:
            self._policy = policy
            for client in self._clients.by_name.values():
                client.fade = self._new_fade()

    @property
    def budgets(self) -> Budgets:
        """The limits of memory in force."""
        return self._budgets

    @property
    def least_budgets(self) -> Budgets:
        """Smaller ones are refused."""
        return self._least

    def set_on_arrival(self, callback: Callable[[], None] | None) -> None:
        """Whom to tell when more can be drawn."""
        self._arrived = callback

    def set_on_work(self, callback: OnWork | None) -> None:
        """Whom to tell what was read and decoded, and when."""
        self._worked = callback

    def set_budgets(self, budgets: Budgets) -> None:
        """New limits of memory, in force at once.

        Raises:
            BudgetError: If they are too small for this scene; the old ones stay.
        """
        self._loader.set_budgets(budgets)
        self._budgets = budgets

    def stats(self) -> ResidencyStats:
        """What is held."""
        stats = self._loader.stats()
        if isinstance(self.source, RemadeChunks):
            stats = replace(stats, remade=self.source.remade)
        return stats

    @contextmanager
    def acquire(self, request: FrameRequest) -> Iterator[Drawable]:
        """What the request's cameras see of what is there; held until the block ends."""
        choices: list[_Choice] = []

        def choose(resident: NDArray[np.bool_], lost: NDArray[np.bool_]) -> Demand:
            choices.append(self._choose(request, resident, lost, latency_s))
            choice = choices[0]
            shown = np.array([chunk for chunk, _ in choice.shown], np.int32)
            return Demand(shown, choice.cut.want, choice.touched, choice.prefetch)

        self._drop_idle(request.client)
        latency_s = self._loader.latency_s
        try:
            lease = self._loader.frame(choose, client=request.client)
        except RuntimeError as error:
            if not self._closed:
                raise
            # It was replaced a moment ago.
            raise SceneClosed("the scene is closed") from error
        with lease:
            choice, tint = choices[0], request.tint
            drawn = [chunk for chunk, _ in choice.shown]
            kinds = chunk_kinds(tint, self.source.tree, drawn, request.cameras, choice.last)
            with self._changing:
                if self._closed:
                    raise SceneClosed("the scene is closed")
                pages = self._pages_of(choice.shown, tint, kinds)
            scene = self._rasterizer.compose([part for chunk in pages for part in chunk])
            key = (self._identity, tuple(choice.shown), tint, kinds)
            yield Drawable(
                scene, self._stats(choice, tint, kinds), key, self._scene_parts(drawn, pages)
            )

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Wait until all that the last frames wanted is there, or lost; whether it is."""
        return self._loader.wait_until_settled(timeout_s)

    def drawn_chunks(self, client: str) -> tuple[int, ...]:
        """What the client's last frame drew, ascending; nothing of one that is not known."""
        with self._changing:
            known = self._clients.by_name.get(client)
            return () if known is None else known.last.chunks

    def forget(self, client: str) -> None:
        """The client is gone; what only it needed may go."""
        with self._changing:
            self._clients.by_name.pop(client, None)
        self._loader.forget(client)

    def close(self) -> None:
        """End the loading; pages go with the last frame that draws them. Twice is once."""
        with self._changing:
            closed, self._closed = self._closed, True
        if not closed:
            self._loader.close()
            self.source.close()
            with self._changing:
                self._pages.drop()

    def _drop_idle(self, asking: str) -> None:
        """Those who rest keep their picture on the screen, but no claim to the memory."""
        now = self._clock()
        with self._changing:
            idle = [name for name in self._clients.drop_idle(now) if name != asking]
        for name in idle:
            self._loader.forget(name)

    def _choose(
        self,
        request: FrameRequest,
        resident: NDArray[np.bool_],
        lost: NDArray[np.bool_],
        latency_s: float,
    ) -> _Choice:
        now, started = self._clock(), time.perf_counter()
        with self._changing:
            client = self._client(request.client, now)
            pool_pages = self._budgets.device_bytes // self._page_bytes
            limits = self._limits(request, pool_pages // len(self._clients.by_name))
            views = request.frozen or request.cameras
            jumped = client.foresight.observe(views[0], now)
            cut = select_lod(self.source.tree, views, resident, limits, lost=lost)
            at_once = client.is_arriving(jumped, cut.complete, now)
            shown = client.fade.step(cut, resident, limits.max_pages, now, at_once=at_once)
            drawn = tuple(chunk for chunk, _ in shown)
            last, client.last = client.last, LastFrame(request.cameras, drawn)
            client.touched = np.union1d(cut.touched, np.array(drawn, np.int32))
            prefetch = client.foresight.look(
                views[0],
                now,
                latency_s,
                replace(limits, max_pages=pool_pages),
                resident,
                lost,
                np.unique(np.concatenate([c.touched for c in self._clients.by_name.values()])),
                coming=request.coming,
                final=cut.complete and request.max_error_px == 0,
            )
            fading = client.fade.fading
        select_ms = 1e3 * (time.perf_counter() - started)
        lost_count = self._lost_in_view(views, resident, lost, limits) if lost.any() else 0
        return _Choice(last, cut, shown, client.touched, prefetch, lost_count, fading, select_ms)

    def _lost_in_view(
        self,
        views: Sequence[Camera],
        resident: NDArray[np.bool_],
        lost: NDArray[np.bool_],
        limits: LodLimits,
    ) -> int:
        """Chunks that these views would want if they could be had."""
        return int(lost[select_lod(self.source.tree, views, resident, limits).want].sum())

    def _limits(self, request: FrameRequest, max_pages: int) -> LodLimits:
        return LodLimits(
            error_px=request.max_error_px,
            max_gaussians=self.detail_counts[0],
            max_pages=max_pages,
            page_gaussians=self.source.page_gaussians,
        )

    def _client(self, name: str, now: float) -> _Client:
        client = self._clients.by_name.get(name)
        if client is None:
            foresight = Foresight(self.source.tree)
            client = self._clients.by_name[name] = _Client(self._new_fade(), foresight, now)
        client.last_asked_s = now
        return client

    def _new_fade(self) -> CrossFade:
        return CrossFade(self.source.tree, self.source.page_gaussians, self._policy.fade_s)

    def _pages_of(
        self, shown: Sequence[tuple[int, float]], tint: Tint, kinds: Sequence[int]
    ) -> list[list[ScenePart]]:
        """The pages of each chunk; ``kinds`` decide their colours, if they are tinted."""
        pages: list[list[ScenePart]] = []
        for place, (chunk, weight) in enumerate(shown):
            rgb, share = (color_of(tint, kinds[place]), TINT_SHARE) if kinds else (UNTINTED, 0.0)
            pages.append([ScenePart(page, weight, rgb, share) for page in self._pages.of(chunk)])
        return pages

    def _scene_parts(
        self, chunks: Sequence[int], pages: Sequence[Sequence[ScenePart]]
    ) -> SceneParts:
        """The same chunks for devices that draw some of them."""
        tree, rasterizer = self.source.tree, self._rasterizer
        counts = tree.count[chunks].astype(np.int64)

        def compose(which: NDArray[np.intp]) -> Any:
            return rasterizer.compose([part for place in which for part in pages[place]])

        return SceneParts(
            int(counts.sum()),
            tree.lo[chunks],
            tree.hi[chunks],
            tree.max_scale[chunks],
            counts,
            compose,
        )

    def _stats(self, choice: _Choice, tint: Tint, kinds: Sequence[int]) -> StreamStats:
        tree = self.source.tree
        drawn = [chunk for chunk, _ in choice.shown]
        by_level = np.bincount(tree.level[drawn], tree.count[drawn], self._levels)
        return StreamStats(
            complete=choice.cut.complete,
            fading=choice.fading,
            missing=len(choice.cut.want),
            lost=choice.lost,
            error_px=choice.cut.error_px,
            chunks=len(drawn),
            gaussians_by_level=tuple(by_level.astype(np.int64).tolist()),
            select_ms=choice.select_ms,
            wanted_gaussians=choice.cut.ideal_gaussians,
            provisional=isinstance(self.source, Provisional),
            reuse=reuse_counts(kinds) if tint is Tint.REUSE else (),
        )

    def _on_work(self, lane: str, stage: str, start_s: float, end_s: float) -> None:
        if self._worked is not None:
            self._worked(lane, stage, start_s, end_s)

    def _on_arrival(self) -> None:
        if self._arrived is not None:
            self._arrived()
