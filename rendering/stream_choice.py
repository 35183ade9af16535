"""What a frame of a streamed scene draws, and what is fetched for it: one choice for all memories.

No threads and no clock: the scene's locks see to it that nothing comes or goes meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rendering.catching_up import CatchingUp, Lacks
from rendering.division import Division
from rendering.foresight import Foresight
from rendering.frame import FrameRequest, StreamStats
from rendering.tint import LastFrame
from scene_store.cross_fade import CrossFade
from scene_store.demands import Demand
from scene_store.lod import ChunkIndices, LodCut, LodLimits, Pool, select_in_pools
from scene_store.tree import LodTree
from splat.bounds import BoxesInView, ViewVolume
from splat.camera import Camera

# A client that asked for nothing as long has its picture: it does not count when room is
# shared, and what only it looked at makes room for others.
ACTIVE_S = 5.0
# After a jump there is nothing to fade from: what comes is shown at once, until the view is
# complete or this time is over.
ARRIVAL_S = 1.0

Flags = NDArray[np.bool_]
Shown = list[tuple[int, float]]
Held = Mapping[str, tuple[Flags, Flags]]
"""By memory what is resident, and what is lost, each [N]; in an order that does not change."""


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How a streamed scene is drawn.

    Attributes:
        max_gaussians: No frame draws more.
        fade_s: How long a change of detail takes to show; 0 for at once.
    """

    max_gaussians: int = 8_000_000
    fade_s: float = 0.2


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


@dataclass(frozen=True, slots=True)
class Room:
    """What there is for a frame.

    Attributes:
        pages: Of the device, in each memory.
        latency_s: How long a chunk takes to come.
    """

    pages: int
    latency_s: float


@dataclass(slots=True)
class Choice:
    """One frame's.

    Attributes:
        last: What the client's frame before it was drawn from.
        shown: Chunks, and how much of each.
        demands: By memory; what is to be drawn is some of ``shown``.
        lost: Chunks that would be wanted, and will never come.
        fading: Whether another frame would look different for no other reason.
        enough_px: An error of the cut that does not show.
    """

    last: LastFrame
    cut: LodCut
    shown: Shown
    demands: dict[str, Demand]
    lost: int
    fading: bool
    select_ms: float
    enough_px: float = 0.0

    def stats(self, tree: LodTree) -> StreamStats:
        """What is told of the frame, as far as the choice says.

        Args:
            tree: Of the scene.
        """
        drawn = [chunk for chunk, _ in self.shown]
        by_level = np.bincount(tree.level[drawn], tree.count[drawn], int(tree.level.max()) + 1)
        return StreamStats(
            complete=self.cut.complete,
            fading=self.fading,
            missing=len(self.cut.want),
            lost=self.lost,
            error_px=self.cut.error_px if self.cut.error_px > self.enough_px else 0.0,
            chunks=len(drawn),
            gaussians_by_level=tuple(by_level.astype(np.int64).tolist()),
            select_ms=self.select_ms,
            wanted_gaussians=self.cut.ideal_gaussians,
        )


class Chooser:
    """Chooses for all clients of one scene.

    Args:
        tree: Of the scene.
        page_gaussians: Gaussians of a page of a device.
        policy: How to draw.
        memories: That frames are drawn from.
        enough_px: For cameras, an error below which all detail is there.
    """

    def __init__(
        self,
        tree: LodTree,
        page_gaussians: int,
        policy: StreamPolicy,
        memories: Sequence[str],
        enough_px: Callable[[Sequence[Camera]], float] = lambda cameras: 0.0,
    ) -> None:
        self._tree = tree
        self._page_gaussians = page_gaussians
        self._pages = int((-(-tree.count.astype(np.int64) // page_gaussians)).sum())  # of all
        self._policy = policy
        self._enough_px = enough_px
        self._originals = int(tree.count[tree.is_leaf].sum())
        self._clients: dict[str, _Client] = {}
        self.catching_up = CatchingUp(memories)

    @property
    def policy(self) -> StreamPolicy:
        """How it is drawn."""
        return self._policy

    @policy.setter
    def policy(self, policy: StreamPolicy) -> None:
        self._policy = policy
        for client in self._clients.values():
            client.fade = self._new_fade()

    @property
    def max_gaussians(self) -> int:
        """That a frame may draw."""
        return max(1, min(self._policy.max_gaussians, self._originals))

    def drawn_chunks(self, client: str) -> tuple[int, ...]:
        """What the client's last frame drew, ascending; nothing of one that is not known."""
        known = self._clients.get(client)
        return () if known is None else known.last.chunks

    def forget(self, client: str, now: float) -> None:
        """The client is gone."""
        self._clients.pop(client, None)
        self.catching_up.forget(client, now)

    def drop_idle(self, asking: str, now: float) -> list[str]:
        """Those but one who have asked for nothing for long; they are forgotten."""
        idle = [name for name, one in self._clients.items() if now - one.last_asked_s >= ACTIVE_S]
        for name in idle:
            del self._clients[name]
            if name != asking:
                self.catching_up.forget(name, now)
        return [name for name in idle if name != asking]

    def pages_of_each(self, pages: int) -> int:
        """Of a memory's pages, those that one client's frames may take: an equal share, or all if
        the whole scene fits, since what several look at is held once."""
        if self._pages <= pages:
            return pages
        return pages // max(1, len(self._clients))

    def limits(self, request: FrameRequest, max_pages: int) -> LodLimits:
        """Where the walk stops."""
        return LodLimits(
            error_px=max(request.max_error_px, self._enough_px(request.frozen or request.cameras)),
            max_gaussians=self.max_gaussians,
            max_pages=max_pages,
            page_gaussians=self._page_gaussians,
        )

    def choose(
        self, request: FrameRequest, division: Division, held: Held, room: Room, now: float
    ) -> Choice:
        """What a request's frame draws, and what every memory is to fetch.

        Args:
            division: Which memory needs what.
            held: Of all these memories that are there.
            now: Seconds of a clock that does not go back.
        """
        started = time.perf_counter()
        client = self._client(request.client, now)
        agreeing = self.catching_up.agreeing(request.client, division)
        pools = {
            memory: Pool(resident, division.cameras(memory, request.cameras))
            for memory, (resident, _) in held.items()
            if memory in division.draws or memory in agreeing
        }
        lost = _any_of([lost for _, lost in held.values()])
        limits = self.limits(request, self.pages_of_each(room.pages))
        views = request.frozen or request.cameras
        jumped = client.foresight.observe(views[0], now)
        cut = select_in_pools(self._tree, views, tuple(pools.values()), limits, lost=lost)
        at_once = client.is_arriving(jumped, cut.complete, now)
        slabs = sum(pool.cameras is not None for pool in pools.values())
        there = self._drawable(tuple(pools.values()), client.last.chunks)
        shown = client.fade.step(cut, there, limits.max_pages * max(1, slabs), now, at_once=at_once)
        drawn = np.array([chunk for chunk, _ in shown], np.int32)
        last, client.last = client.last, LastFrame(request.cameras, tuple(drawn.tolist()))
        client.touched = np.union1d(cut.touched, drawn)
        prefetch = client.foresight.look(
            views[0],
            now,
            room.latency_s,
            replace(limits, max_pages=room.pages * max(1, slabs)),
            _any_of([pool.resident for pool in pools.values()]) if slabs else there,
            lost,
            np.unique(np.concatenate([one.touched for one in self._clients.values()])),
            coming=request.coming,
            final=cut.complete and request.max_error_px == 0,
        )
        demands = self._demands(request, division, pools, cut, client.touched, drawn, prefetch)
        self._catch_up(request, division, held, cut, drawn, demands, now)
        select_ms = 1e3 * (time.perf_counter() - started)
        missed = self._lost_in_view(views, tuple(pools.values()), lost, limits)
        fading, enough_px = client.fade.fading, self._enough_px(views)
        return Choice(last, cut, shown, demands, missed, fading, select_ms, enough_px)

    def _demands(
        self,
        request: FrameRequest,
        division: Division,
        pools: Mapping[str, Pool],
        cut: LodCut,
        touched: ChunkIndices,
        drawn: ChunkIndices,
        prefetch: ChunkIndices | None,
    ) -> dict[str, Demand]:
        """What each memory draws, and fetches for what is drawn."""
        demands: dict[str, Demand] = {}
        nothing = np.empty(0, np.int32)
        for number, (memory, pool) in enumerate(pools.items()):
            if pool.cameras is None:
                shown = drawn if memory in division.draws else nothing
                demands[memory] = Demand(shown, cut.want, touched, prefetch)
                continue
            needed = np.zeros(len(self._tree), np.bool_)
            needed[cut.needed_in(number)] = True
            leaving = np.setdiff1d(drawn, cut.touched)
            needed[leaving] = self._seen(pool.cameras, leaving)
            demands[memory] = Demand(
                drawn[needed[drawn]],
                cut.want[needed[cut.want]],
                touched[needed[touched]],
                None if prefetch is None else self._near(pool.cameras, request, prefetch),
            )
        return demands

    def _catch_up(
        self,
        request: FrameRequest,
        division: Division,
        held: Held,
        cut: LodCut,
        drawn: ChunkIndices,
        demands: dict[str, Demand],
        now: float,
    ) -> None:
        """Those that are to draw soon load what is drawn; whether they have it."""
        lacks: dict[str, Lacks] = {}
        for memory in division.beside & held.keys():
            resident, lost = held[memory]
            if not (resident | lost)[self._tree.roots].all():
                lacks[memory] = Lacks.ROOTS
            else:
                lacks[memory] = Lacks.NOTHING if resident[drawn].all() else Lacks.DETAIL
            if memory not in demands and not self.catching_up.is_level(request.client, memory):
                # In the tree's order: the coarsest first.
                demands[memory] = Demand((), cut.touched[~resident[cut.touched]], cut.touched)
        self.catching_up.drew(request.client, division, lacks, now)

    def _drawable(self, pools: Sequence[Pool], chunks: Sequence[int]) -> Flags:
        """[N] what every pool holds that needs it; of pools that need a part, for ``chunks``
        alone."""
        whole = [pool.resident for pool in pools if pool.cameras is None]
        drawable: Flags = np.ones(len(self._tree), np.bool_)
        if whole:
            drawable = whole[0] if len(pools) == 1 else np.logical_and.reduce(whole)
        index = np.array(chunks, np.int32)
        for pool in pools:
            if pool.cameras is not None:
                drawable[index] &= pool.resident[index] | ~self._seen(pool.cameras, index)
        return drawable

    def _seen(self, cameras: Sequence[Camera], chunks: ChunkIndices) -> Flags:
        """Which of some chunks a camera may see."""
        tree = self._tree
        lo, hi, max_scale = tree.lo[chunks], tree.hi[chunks], tree.max_scale[chunks]
        return _any_of([ViewVolume.of(camera).may_see(lo, hi, max_scale) for camera in cameras])

    def _near(
        self, slabs: Sequence[Camera], request: FrameRequest, chunks: ChunkIndices
    ) -> ChunkIndices:
        """Of chunks that predicted views see, those that will be in some slabs if these stay: by
        distance, as nobody knows where one will look."""
        eye = request.cameras[0]
        boxes = BoxesInView.of(eye.position, self._tree.lo[chunks], self._tree.hi[chunks])
        nearest, farthest = boxes.distance(), boxes.farthest()
        mine = np.zeros(len(chunks), np.bool_)
        for slab in slabs:
            from_the_eye = slab.near <= min(camera.near for camera in request.cameras)
            mine |= (nearest <= slab.far) & (from_the_eye | (farthest >= slab.near))
        return chunks[mine]

    def _lost_in_view(
        self, views: Sequence[Camera], pools: Sequence[Pool], lost: Flags, limits: LodLimits
    ) -> int:
        """Chunks that these views would want if they could be had."""
        if not lost.any():
            return 0
        return int(lost[select_in_pools(self._tree, views, pools, limits).want].sum())

    def _client(self, name: str, now: float) -> _Client:
        client = self._clients.get(name)
        if client is None:
            foresight = Foresight(self._tree)
            client = self._clients[name] = _Client(self._new_fade(), foresight, now)
        client.last_asked_s = now
        return client

    def _new_fade(self) -> CrossFade:
        return CrossFade(self._tree, self._page_gaussians, self._policy.fade_s)


def _any_of(flags: Sequence[Flags]) -> Flags:
    return flags[0] if len(flags) == 1 else np.logical_or.reduce(flags)
