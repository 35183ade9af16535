"""What is held of a streamed scene, and what goes when there is no room: the policy.

A state machine without threads, files or a clock. Frames say what they want (``update``),
readers say what came (``loaded``, ``promoted``, ``failed``, ``cancelled``), and ``step``
answers what to do next. ``scene_store.loader`` carries that out. Nothing here is safe to
call from two threads at once; the loader's lock sees to that.

The rules:

- Bytes never exceed the budgets (``scene_store.ledger`` counts them). A budget that shrinks
  is kept again as soon as nothing that is leased or in flight stands in the way.
- A chunk's tier is VISIBLE (some client's view needs it), PREFETCH (a predicted one will) or
  RECENT (neither). It is evicted only for one of a higher tier, the least recently used
  first, so nothing wanted is thrown out for something wanted as much: nothing thrashes.
- What is leased stays. Roots stay. On the device a chunk stays while a child does, and goes
  there only after its parent: what can be drawn is always a top part of the tree.
- Reads start in the order of the wants, none before its parent's.
- A failed chunk is tried again after a while, or never if it is damaged; the others go on.
"""

from __future__ import annotations

import logging
import random as random_module
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from scene_store.ledger import Budgets, ChunkCosts, ChunkState, Ledger
from scene_store.tree import NO_PARENT, LodTree
from splat.errors import ChunkReadError

logger = logging.getLogger(__name__)

_NO_RANK = np.iinfo(np.int32).max
_ON_ITS_WAY = frozenset(
    {ChunkState.LOADING, ChunkState.HOST, ChunkState.PROMOTING, ChunkState.DEVICE}
)


class Tier(IntEnum):
    """Why a chunk is held; higher ones are evicted later."""

    RECENT = 0
    PREFETCH = 1
    VISIBLE = 2


@dataclass(frozen=True, slots=True)
class Actions:
    """What the owner of the bytes has to do, in this order.

    Attributes:
        drop: Forget these chunks' encoded bytes.
        evict: Give these chunks' device pages back; children come before their parents.
        cancel_loads: Abandon these reads, and report ``cancelled`` (or whatever came of them).
        promote: Decode these into device pages, drop the encoded bytes, report ``promoted``.
        start_loads: Read these, report ``loaded``.
    """

    drop: tuple[int, ...] = ()
    evict: tuple[int, ...] = ()
    cancel_loads: tuple[int, ...] = ()
    promote: tuple[int, ...] = ()
    start_loads: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a chunk that could not be read is tried again.

    Attributes:
        first_s: Wait after the first failure, seconds.
        factor: Growth of the wait from one failure to the next.
        longest_s: Where it stops growing.
        jitter: Share of the wait that is random, so that retries do not come in step.
    """

    first_s: float = 0.25
    factor: float = 2.0
    longest_s: float = 30.0
    jitter: float = 0.5

    def wait_s(self, attempts: int, random: random_module.Random) -> float:
        """Seconds to wait after ``attempts`` failures, at least one."""
        grown = self.first_s * self.factor ** min(attempts - 1, 64)
        return min(grown, self.longest_s) * (1.0 - self.jitter * random.random())


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with a chunk.

    Attributes:
        chunk: Its index.
        text: One line for people.
        attempts: How often it failed in a row.
        until: When it may be tried again, in the clock of ``now``; None for never.
    """

    chunk: int
    text: str
    attempts: int
    until: float | None


@dataclass(frozen=True, slots=True)
class ResidencyStats:
    """A snapshot for people and benchmarks.

    Attributes:
        budgets: The limits in force.
        host_bytes, device_bytes: Held against them, in flight included.
        chunks: Number of chunks in each state.
        device_bytes_by_tier: Those of chunks that can be drawn.
        chunks_by_level: Chunks that can be drawn, by the tree's level, originals (0) first.
        leased: Chunks under a lease.
        bytes_read: Encoded bytes read so far, and ``reads`` how many chunks they were.
        cancelled, evicted: Reads abandoned; chunks thrown off the device.
        requests: Chunks that came into view so far; ``device_hits`` of them could be drawn
            at once, ``host_hits`` had been read.
        failures: Of chunks that are failing now, by chunk.
    """

    budgets: Budgets
    host_bytes: int
    device_bytes: int
    chunks: dict[ChunkState, int]
    device_bytes_by_tier: dict[Tier, int]
    chunks_by_level: tuple[int, ...]
    leased: int
    bytes_read: int
    reads: int
    cancelled: int
    evicted: int
    requests: int
    device_hits: int
    host_hits: int
    failures: tuple[Failure, ...]


@dataclass(slots=True)
class _Demand:
    """What one client asked for last."""

    wants: list[int] = field(default_factory=list)
    touched: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    prefetch: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    """Actions being put together."""

    drop: list[int] = field(default_factory=list)
    evict: list[int] = field(default_factory=list)
    cancel_loads: list[int] = field(default_factory=list)
    promote: list[int] = field(default_factory=list)
    start_loads: list[int] = field(default_factory=list)

    def actions(self) -> Actions:
        """The finished plan."""
        return Actions(
            tuple(self.drop),
            tuple(self.evict),
            tuple(self.cancel_loads),
            tuple(self.promote),
            tuple(self.start_loads),
        )


class Residency:
    """The chunks of one tree in one host's memory and on one device, for all its clients.

    Args:
        tree: The chunks.
        costs: What each takes.
        budgets: Hard limits.
        max_loads: Reads in flight at once.
        max_promotions: Decodings in flight at once.
        retry: When failed chunks are tried again.
        random: Source of the jitter.

    Raises:
        BudgetError: If the budgets cannot hold the roots, or one chunk being decoded.
    """

    def __init__(
        self,
        tree: LodTree,
        costs: ChunkCosts,
        budgets: Budgets,
        *,
        max_loads: int = 4,
        max_promotions: int = 2,
        retry: RetryPolicy = RetryPolicy(),
        random: random_module.Random | None = None,
    ) -> None:
        self.tree = tree
        self._ledger = Ledger(tree, costs, budgets)
        self._max_loads = max_loads
        self._max_promotions = max_promotions
        self._retry = retry
        self._random = random or random_module.Random()
        self._demands: dict[Hashable, _Demand] = {}
        self._failures: dict[int, Failure] = {}
        self._is_root = tree.parent == NO_PARENT
        self._tier = np.zeros(len(tree), np.uint8)
        self._rank = np.full(len(tree), _NO_RANK, np.int32)  # place in the queue; low is urgent
        self._last_used = np.full(len(tree), -np.inf)
        self._leases = np.zeros(len(tree), np.int32)
        self._cancelling = np.zeros(len(tree), np.bool_)
        self._bytes_read = self._reads = self._cancelled = self._evicted = 0
        self._requests = self._device_hits = self._host_hits = 0
        self._rank_demands()

    # --- What others see ---------------------------------------------------------------------

    @property
    def resident(self) -> NDArray[np.bool_]:
        """[N] what can be drawn; closed under ancestors. A fresh array."""
        return np.asarray(self._ledger.state == ChunkState.DEVICE)

    @property
    def lost(self) -> NDArray[np.bool_]:
        """[N] what will never come. A fresh array."""
        lost = np.zeros(len(self.tree), np.bool_)
        lost[[f.chunk for f in self._failures.values() if f.until is None]] = True
        return lost

    @property
    def budgets(self) -> Budgets:
        """The limits in force."""
        return self._ledger.budgets

    @property
    def settled(self) -> bool:
        """Whether everything in view is on the device, but for what is lost."""
        lost = self.lost
        pending = (self._tier == Tier.VISIBLE) & (self._rank != _NO_RANK)
        pending &= (self._ledger.state != ChunkState.DEVICE) & ~lost
        if not lost.any():
            return not pending.any()
        return not any(not lost[self.tree.ancestors(int(c))].any() for c in np.flatnonzero(pending))

    def state(self, chunk: int) -> ChunkState:
        """The chunk's state."""
        return self._ledger.of(chunk)

    def tier(self, chunk: int) -> Tier:
        """The chunk's tier."""
        return Tier(int(self._tier[chunk]))

    def next_retry(self) -> float | None:
        """When ``step`` will first have a failed chunk to try again; None if none is wanted."""
        waits = [
            f.until
            for f in self._failures.values()
            if f.until is not None and self._tier[f.chunk] > Tier.RECENT
        ]
        return min(waits, default=None)

    def stats(self) -> ResidencyStats:
        """A snapshot."""
        ledger = self._ledger
        drawable = self.resident
        device = ledger.costs.device
        levels = np.bincount(self.tree.level[drawable], minlength=int(self.tree.level.max()) + 1)
        return ResidencyStats(
            budgets=ledger.budgets,
            host_bytes=ledger.host_bytes,
            device_bytes=ledger.device_bytes,
            chunks={state: ledger.count(state) for state in ChunkState},
            device_bytes_by_tier={
                tier: int(device[drawable & (self._tier == tier)].sum()) for tier in Tier
            },
            chunks_by_level=tuple(levels.tolist()),
            leased=int(np.count_nonzero(self._leases)),
            bytes_read=self._bytes_read,
            reads=self._reads,
            cancelled=self._cancelled,
            evicted=self._evicted,
            requests=self._requests,
            device_hits=self._device_hits,
            host_hits=self._host_hits,
            failures=tuple(self._failures[chunk] for chunk in sorted(self._failures)),
        )

    # --- What frames say ---------------------------------------------------------------------

    def update(
        self,
        wants: Sequence[int] | NDArray[np.int32],
        touched: Sequence[int] | NDArray[np.int32],
        prefetch: Sequence[int] | NDArray[np.int32] | None,
        now: float,
        *,
        client: Hashable = None,
    ) -> Actions:
        """A client's newest view replaces its last one.

        Args:
            wants: Chunks to fetch for the view, most urgent first (``LodCut.want``).
            touched: Chunks that the view needs to stay (``LodCut.touched``, and whatever else
                is still drawn, such as what fades out).
            prefetch: Chunks that predicted views need, most urgent first, the resident ones
                among them; None leaves the last prediction in force.
            now: Seconds of a clock that does not go back.
            client: Who asks; the demands of all clients count together.
        """
        demand = self._demands.setdefault(client, _Demand())
        demand.wants = _as_list(wants)
        demand.touched = np.asarray(touched, np.intp)
        if prefetch is not None:
            demand.prefetch = _as_list(prefetch)
        return self._demanded(now)

    def forget(self, client: Hashable, now: float) -> Actions:
        """The client is gone; what only it needed becomes RECENT."""
        self._demands.pop(client, None)
        return self._demanded(now)

    def set_budgets(self, budgets: Budgets, now: float) -> Actions:
        """New limits, in force at once: what is over them goes, whatever its tier.

        Raises:
            BudgetError: If they are too small for this scene; the old ones stay.
        """
        self._ledger.budgets = budgets
        return self.step(now)

    def lease(self, chunks: Iterable[int]) -> None:
        """Nothing evicts these until ``release``; leases of the same chunk add up.

        Raises:
            ValueError: If one cannot be drawn; then none is leased.
        """
        held = _as_list(chunks)
        if missing := [c for c in held if self._ledger.of(c) is not ChunkState.DEVICE]:
            raise ValueError(f"chunk {missing[0]} is not on the device")
        np.add.at(self._leases, held, 1)

    def release(self, chunks: Iterable[int]) -> None:
        """Ends leases; ``step`` may evict the chunks from then on.

        Raises:
            ValueError: If one is not leased.
        """
        held = _as_list(chunks)
        np.subtract.at(self._leases, held, 1)
        if (self._leases[held] < 0).any():
            np.add.at(self._leases, held, 1)
            raise ValueError("a chunk was released more often than leased")

    # --- What readers say --------------------------------------------------------------------

    def loaded(self, chunk: int, nbytes: int, now: float) -> None:
        """The chunk's encoded bytes are in host memory."""
        if nbytes > self._ledger.costs.encoded[chunk]:
            promised = int(self._ledger.costs.encoded[chunk])
            problem = f"chunk {chunk} has {nbytes} bytes, more than the {promised} promised"
            self._fail(chunk, problem, now, transient=False)
            return
        self._leave_loading(chunk)
        self._ledger.move(chunk, ChunkState.HOST)
        self._bytes_read += nbytes
        self._reads += 1

    def promoted(self, chunk: int) -> None:
        """The chunk is decoded, in its device pages, and its encoded bytes are dropped."""
        self._ledger.move(chunk, ChunkState.DEVICE)
        self._failures.pop(chunk, None)

    def cancelled(self, chunk: int) -> None:
        """The chunk's read was abandoned."""
        self._leave_loading(chunk)
        self._ledger.move(chunk, ChunkState.ABSENT)
        self._cancelled += 1
        self._enqueue(chunk)  # somebody may want it again by now

    def failed(self, chunk: int, error: BaseException, now: float) -> None:
        """Reading or decoding the chunk failed; everything it took is given back.

        A ``ChunkReadError`` says whether to try again; of any other error that is hoped.
        """
        transient = not isinstance(error, ChunkReadError) or error.transient
        self._fail(chunk, str(error) or type(error).__name__, now, transient=transient)

    def _fail(self, chunk: int, text: str, now: float, *, transient: bool) -> None:
        self._leave_loading(chunk)
        self._ledger.move(chunk, ChunkState.FAILED)
        attempts = self._failures[chunk].attempts + 1 if chunk in self._failures else 1
        until = now + self._retry.wait_s(attempts, self._random) if transient else None
        self._failures[chunk] = Failure(chunk, text, attempts, until)
        advice = "will not be tried again" if until is None else f"next try in {until - now:.1f} s"
        logger.warning("%s (%s)", text, advice)

    def _leave_loading(self, chunk: int) -> None:
        self._cancelling[chunk] = False

    # --- What to do next ---------------------------------------------------------------------

    def step(self, now: float) -> Actions:
        """What to do, given all that was said so far. Call it again whenever something was."""
        plan = _Plan()
        self._requeue_failed(now)
        self._shrink(plan)
        self._promote(plan)
        self._start_loads(plan)
        return plan.actions()

    def _demanded(self, now: float) -> Actions:
        before = self._tier == Tier.VISIBLE
        self._rank_demands()
        self._last_used[self._tier > Tier.RECENT] = now
        self._count_requests((self._tier == Tier.VISIBLE) & ~before)
        unwanted = self._tier == Tier.RECENT
        for chunk in np.flatnonzero((self._ledger.state == ChunkState.QUEUED) & unwanted):
            self._ledger.move(int(chunk), ChunkState.ABSENT)
        for chunk in np.flatnonzero(self._rank != _NO_RANK):
            self._enqueue(int(chunk))
        plan = _Plan()
        loading = (self._ledger.state == ChunkState.LOADING) & unwanted
        self._cancel(np.flatnonzero(loading), plan)
        more = self.step(now)
        return Actions(
            more.drop,
            more.evict,
            tuple(plan.cancel_loads) + more.cancel_loads,
            more.promote,
            more.start_loads,
        )

    def _count_requests(self, fresh: NDArray[np.bool_]) -> None:
        states = self._ledger.state[fresh]
        read = (states == ChunkState.HOST) | (states == ChunkState.PROMOTING)
        self._requests += len(states)
        self._device_hits += int((states == ChunkState.DEVICE).sum())
        self._host_hits += int(read.sum())

    def _rank_demands(self) -> None:
        """Tiers and places in the queue from all clients' demands."""
        self._tier[:] = Tier.RECENT
        self._rank[:] = _NO_RANK
        demands = list(self._demands.values())
        order: list[int] = []
        self._raise_tier(self.tree.roots.astype(np.intp), Tier.VISIBLE)
        self._append(self.tree.roots.tolist(), order)
        for demand in demands:
            self._raise_tier(demand.touched, Tier.VISIBLE)
            self._raise_tier(np.array(demand.wants, np.intp), Tier.VISIBLE)
        self._append(_in_turn([demand.wants for demand in demands]), order)
        for demand in demands:
            self._raise_tier(np.array(demand.prefetch, np.intp), Tier.PREFETCH)
        self._append(_in_turn([demand.prefetch for demand in demands]), order)
        self._rank[order] = np.arange(len(order), dtype=np.int32)

    def _raise_tier(self, chunks: NDArray[np.intp], tier: Tier) -> None:
        """Gives chunks and their ancestors at least this tier."""
        while len(chunks):
            chunks = chunks[self._tier[chunks] < tier]
            self._tier[chunks] = tier
            parents = self.tree.parent[chunks]
            chunks = np.unique(parents[parents != NO_PARENT]).astype(np.intp)

    def _append(self, chunks: Iterable[int], order: list[int]) -> None:
        """Queues what is not on the device, parents before children, each once."""
        parent, rank, state = self.tree.parent, self._rank, self._ledger.state
        for chunk in chunks:
            way = []
            while (
                chunk != NO_PARENT and rank[chunk] == _NO_RANK and state[chunk] != ChunkState.DEVICE
            ):
                rank[chunk] = 0
                way.append(chunk)
                chunk = int(parent[chunk])
            order.extend(reversed(way))

    def _enqueue(self, chunk: int) -> None:
        wanted = self._rank[chunk] != _NO_RANK
        if wanted and self._ledger.of(chunk) is ChunkState.ABSENT:
            self._ledger.move(chunk, ChunkState.QUEUED)

    def _requeue_failed(self, now: float) -> None:
        for failure in self._failures.values():
            due = failure.until is not None and failure.until <= now
            wanted = self._tier[failure.chunk] > Tier.RECENT
            if due and wanted and self._ledger.of(failure.chunk) is ChunkState.FAILED:
                self._ledger.move(failure.chunk, ChunkState.QUEUED)

    def _by_rank(self, state: ChunkState) -> list[int]:
        """The wanted chunks in a state, most urgent first."""
        chunks = self._ledger.chunks_in(state)
        chunks = chunks[self._rank[chunks] != _NO_RANK]
        ordered: list[int] = chunks[np.argsort(self._rank[chunks])].tolist()
        return ordered

    # --- Reads -------------------------------------------------------------------------------

    def _start_loads(self, plan: _Plan) -> None:
        """In the order of the queue; what does not fit holds up what comes after it, so that a
        stream of small chunks cannot keep a large one waiting for ever."""
        for chunk in self._by_rank(ChunkState.QUEUED):
            if self._ledger.count(ChunkState.LOADING) >= self._max_loads:
                self._make_way_for_loading(chunk, plan)
                return
            if not self._parent_is_on_its_way(chunk):
                continue
            tier = self.tier(chunk)
            if tier is not Tier.VISIBLE and self._load_slots_left() <= self._reserved_loads:
                return
            if not self._make_host_room(int(self._ledger.costs.encoded[chunk]), tier, plan):
                self._make_way_for_loading(chunk, plan)
                return
            self._ledger.move(chunk, ChunkState.LOADING)
            plan.start_loads.append(chunk)

    def _load_slots_left(self) -> int:
        return self._max_loads - self._ledger.count(ChunkState.LOADING)

    @property
    def _reserved_loads(self) -> int:
        """Slots that predictions must leave free for what comes into view."""
        return 0 if self._max_loads == 1 else 1

    def _parent_is_on_its_way(self, chunk: int) -> bool:
        parent = int(self.tree.parent[chunk])
        if parent == NO_PARENT:
            return True
        # A parent that failed before must be there first: nothing is read in vain twice.
        state = self._ledger.of(parent)
        if state is ChunkState.LOADING:
            return parent not in self._failures and not self._cancelling[parent]
        return state in _ON_ITS_WAY

    def _make_way_for_loading(self, chunk: int, plan: _Plan) -> None:
        """Something in view waits for a read to end: those for predictions are abandoned."""
        if self._tier[chunk] == Tier.VISIBLE:
            loading = self._ledger.chunks_in(ChunkState.LOADING)
            self._cancel(loading[self._tier[loading] < Tier.VISIBLE], plan)

    def _cancel(self, chunks: NDArray[np.intp], plan: _Plan) -> None:
        fresh = chunks[~self._cancelling[chunks]]
        self._cancelling[fresh] = True
        plan.cancel_loads.extend(fresh.tolist())

    # --- Host memory -------------------------------------------------------------------------

    def _make_host_room(self, need: int, tier: Tier, plan: _Plan) -> bool:
        return self._free_host(need - self._ledger.room_to_hold, tier, plan)

    def _free_host(self, need: int, tier: int, plan: _Plan) -> bool:
        """Drops encoded chunks below ``tier`` until ``need`` bytes are free; or none."""
        if need <= 0:
            return True
        victims = []
        for chunk in self._host_victims(tier):
            victims.append(chunk)
            need -= int(self._ledger.costs.encoded[chunk])
            if need <= 0:
                for victim in victims:
                    self._ledger.move(victim, ChunkState.ABSENT)
                plan.drop.extend(victims)
                return True
        return False

    def _host_victims(self, tier: int) -> Iterator[int]:
        chunks = self._ledger.chunks_in(ChunkState.HOST)
        effective = self._tier[chunks].copy()
        # Bytes whose parent is nowhere are of no use yet: they must not keep it out.
        orphans = [not self._parent_is_held(int(chunk)) for chunk in chunks]
        effective[np.array(orphans, np.bool_)] = Tier.RECENT
        return self._least_used_first(chunks[effective < tier], effective[effective < tier])

    def _parent_is_held(self, chunk: int) -> bool:
        parent = int(self.tree.parent[chunk])
        return parent == NO_PARENT or self._ledger.of(parent) in _ON_ITS_WAY

    def _least_used_first(
        self, chunks: NDArray[np.intp], tiers: NDArray[np.uint8]
    ) -> Iterator[int]:
        """By tier, then by last use, then children (higher indices) before parents."""
        order = np.lexsort((-chunks, self._last_used[chunks], tiers))
        return iter(chunks[order].tolist())

    # --- The device --------------------------------------------------------------------------

    def _promote(self, plan: _Plan) -> None:
        waiting_in_view = False
        for chunk in self._by_rank(ChunkState.HOST):
            if self._ledger.count(ChunkState.PROMOTING) >= self._max_promotions:
                return
            if not self._parent_is_on_device(chunk):
                continue
            tier = self.tier(chunk)
            if tier is not Tier.VISIBLE and waiting_in_view:
                return  # the room that comes free is not for predictions
            if not self._make_room_to_decode(chunk, tier, plan):
                return
            if not self._make_device_room(chunk, tier, plan):
                waiting_in_view |= tier is Tier.VISIBLE
                continue
            self._ledger.move(chunk, ChunkState.PROMOTING)
            plan.promote.append(chunk)

    def _parent_is_on_device(self, chunk: int) -> bool:
        parent = int(self.tree.parent[chunk])
        return parent == NO_PARENT or self._ledger.of(parent) is ChunkState.DEVICE

    def _make_room_to_decode(self, chunk: int, tier: Tier, plan: _Plan) -> bool:
        need = int(self._ledger.costs.decoded[chunk]) - self._ledger.room_to_decode
        return self._free_host(need, tier, plan)

    def _make_device_room(self, chunk: int, tier: Tier, plan: _Plan) -> bool:
        need = int(self._ledger.costs.device[chunk]) - self._ledger.room_on_device
        if need <= 0:
            return True
        ancestors = set(self.tree.ancestors(chunk))
        victims, freed = self._device_victims(need, tier, ancestors)
        if freed < need:
            return False
        self._evict(victims, plan)
        return True

    def _device_victims(self, need: int, tier: int, spared: set[int]) -> tuple[list[int], int]:
        """Chunks below ``tier`` that free ``need`` bytes if that can be had, and what they free."""
        free = (self._ledger.state == ChunkState.DEVICE) & (self._tier < tier)
        free &= (self._leases == 0) & ~self._is_root
        chunks = np.flatnonzero(free)
        victims: list[int] = []
        freed = 0
        children_gone: dict[int, int] = {}
        for chunk in self._least_used_first(chunks, self._tier[chunks]):
            if freed >= need:
                break
            children = int(self._ledger.device_children[chunk]) - children_gone.get(chunk, 0)
            if children or chunk in spared:
                continue
            victims.append(chunk)
            freed += int(self._ledger.costs.device[chunk])
            parent = int(self.tree.parent[chunk])
            children_gone[parent] = children_gone.get(parent, 0) + 1
        return victims, freed

    def _evict(self, victims: list[int], plan: _Plan) -> None:
        for victim in victims:
            self._ledger.move(victim, ChunkState.ABSENT)
        self._evicted += len(victims)
        plan.evict.extend(victims)

    # --- Budgets that shrank -----------------------------------------------------------------

    def _shrink(self, plan: _Plan) -> None:
        """Back under the budgets, whatever the tier, but for leases and what is in flight."""
        any_tier = Tier.VISIBLE + 1
        if self._ledger.room_to_hold < 0:
            self._drop_what_is_over(any_tier, plan)
        if self._ledger.room_on_device < 0:
            victims, _ = self._device_victims(-self._ledger.room_on_device, any_tier, set())
            self._evict(victims, plan)

    def _drop_what_is_over(self, any_tier: int, plan: _Plan) -> None:
        if self._free_host(-self._ledger.room_to_hold, any_tier, plan):
            return
        held = self._ledger.chunks_in(ChunkState.HOST).tolist()
        for chunk in held:
            self._ledger.move(chunk, ChunkState.ABSENT)
        plan.drop.extend(held)
        self._cancel(self._ledger.chunks_in(ChunkState.LOADING), plan)


def _as_list(chunks: Iterable[int]) -> list[int]:
    return [int(chunk) for chunk in chunks]


def _in_turn(lists: Sequence[Sequence[int]]) -> Iterator[int]:
    """One of each list in turn, so that no client's wants wait for all of another's."""
    for row in zip_longest(*lists):
        yield from (chunk for chunk in row if chunk is not None)
