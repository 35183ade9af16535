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

import random as random_module
from collections.abc import Hashable, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.actions import Actions, Plan
from scene_store.demands import NO_RANK, Demands, Tier
from scene_store.eviction import ANY_TIER, Leaving, least_used_first
from scene_store.failures import FailureLog, Failures, RetryPolicy
from scene_store.ledger import Budgets, ChunkCosts, ChunkState, Ledger
from scene_store.residency_stats import ResidencyStats, Tally
from scene_store.tree import NO_PARENT, LodTree
from splat.errors import BudgetError, ChunkReadError

__all__ = ["Actions", "Residency"]

_LOOK_AHEAD = 256  # of the queue, at a time


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

    Attributes:
        tree, max_loads, max_promotions: As given.
        failure_log: Tells of failures when ``step`` is called.

    Raises:
        BudgetError: If the budgets cannot hold the roots, or one chunk being decoded.
    """

    def __init__(
        self,
        tree: LodTree,
        costs: ChunkCosts,
        budgets: Budgets,
        *,
        max_loads: int = 96,
        max_promotions: int = 64,
        retry: RetryPolicy | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.tree = tree
        self._ledger = Ledger(tree, costs, budgets)
        self._demands = Demands(tree)
        self._failures = Failures(retry or RetryPolicy(), random or random_module.Random())
        self.failure_log = FailureLog()
        self.max_loads = max_loads
        self.max_promotions = max_promotions
        self._parent = tree.parent.data
        self._leases = np.zeros(len(tree), np.int32)
        self._leaving = Leaving(tree, self._ledger, self._demands, self._leases)
        self._cancelling: set[int] = set()
        self._let_go: list[int] = []  # back to ABSENT since the queue was last completed
        self._decoders_are_behind = False
        self._first_queued = 0  # before this place in the queue nothing waits to be read
        self._tally = Tally()
        self._rank_all(-np.inf)

    # --- What others see ---------------------------------------------------------------------

    @property
    def resident(self) -> NDArray[np.bool_]:
        """[N] what can be drawn; closed under ancestors. A fresh array."""
        return np.asarray(self._ledger.state == ChunkState.DEVICE)

    @property
    def lost(self) -> NDArray[np.bool_]:
        """[N] what will never come. A fresh array."""
        lost = np.zeros(len(self.tree), np.bool_)
        lost[self._failures.lost()] = True
        return lost

    @property
    def costs(self) -> ChunkCosts:
        """What each chunk takes."""
        return self._ledger.costs

    @property
    def budgets(self) -> Budgets:
        """The limits in force."""
        return self._ledger.budgets

    @property
    def settled(self) -> bool:
        """Whether all that is wanted in view is on the device, but for what is lost."""
        order = self._demands.order
        pending = order[
            (self._demands.tier[order] == Tier.VISIBLE)
            & (self._ledger.state[order] != ChunkState.DEVICE)
        ]
        lost = set(self._failures.lost())
        return len(pending) == 0 or (
            len(lost) > 0
            and all(
                chunk in lost or not lost.isdisjoint(self.tree.ancestors(chunk))
                for chunk in pending.tolist()
            )
        )

    def state(self, chunk: int) -> ChunkState:
        """The chunk's state."""
        return self._ledger.of(chunk)

    def tier(self, chunk: int) -> Tier:
        """The chunk's tier."""
        return Tier(int(self._demands.tier[chunk]))

    def next_retry(self) -> float | None:
        """When ``step`` will next have a failed chunk to try again; None if none is wanted."""
        return min((until for _, until in self._waiting_for_another_try()), default=None)

    def next_step(self) -> float | None:
        """When ``step`` is to be called though nothing happened: for a failed chunk, or to tell
        of some; None for never."""
        times = [self.failure_log.due, *(until for _, until in self._waiting_for_another_try())]
        return min((time for time in times if time < np.inf), default=None)

    def stats(self) -> ResidencyStats:
        """A snapshot."""
        return ResidencyStats.of(
            self.tree, self._ledger, self._demands, self._failures, self._leases, self._tally
        )

    # --- What frames say ---------------------------------------------------------------------

    def update(
        self,
        wants: ArrayLike,
        touched: ArrayLike,
        prefetch: ArrayLike | None,
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
        self._demands.put(client, wants, touched, prefetch)
        return self._demanded(now)

    def forget(self, client: Hashable, now: float) -> Actions:
        """The client is gone; what only it needed becomes RECENT."""
        self._demands.drop(client)
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
        held = _as_indices(chunks)
        missing = held[self._ledger.state[held] != ChunkState.DEVICE]
        if len(missing):
            raise ValueError(f"chunk {missing[0]} is not on the device")
        np.add.at(self._leases, held, 1)

    def release(self, chunks: Iterable[int]) -> None:
        """Ends leases; ``step`` may evict the chunks from then on.

        Raises:
            ValueError: If one is not leased.
        """
        held = _as_indices(chunks)
        np.subtract.at(self._leases, held, 1)
        if (self._leases[held] < 0).any():
            np.add.at(self._leases, held, 1)
            raise ValueError("a chunk was released more often than leased")
        self._leaving.order_changed()

    # --- What readers say --------------------------------------------------------------------

    def loaded(self, chunk: int, nbytes: int, now: float) -> bool:
        """The chunk's encoded bytes are in host memory.

        Returns:
            Whether to keep them: more than promised are a failure.
        """
        promised = int(self._ledger.costs.encoded[chunk])
        if nbytes > promised:
            problem = f"{nbytes} bytes where at most {promised} were expected"
            self.failed(chunk, ChunkReadError("the scene", chunk, problem), now)
            return False
        self._leave_loading(chunk, ChunkState.HOST)
        self._tally.bytes_read += nbytes
        self._tally.reads += 1
        return True

    def promoted(self, chunk: int) -> None:
        """The chunk is decoded, in its device pages, and its encoded bytes are dropped."""
        self._ledger.move(chunk, ChunkState.DEVICE)
        self._failures.clear(chunk)
        self._leaving.one_more()

    def cancelled(self, chunk: int) -> None:
        """The chunk's read was abandoned."""
        self._leave_loading(chunk, ChunkState.ABSENT)
        self._let_go.append(chunk)
        self._tally.cancelled += 1

    def failed(self, chunk: int, error: BaseException, now: float) -> None:
        """Reading or decoding the chunk failed; everything it took is given back."""
        self._leave_loading(chunk, ChunkState.FAILED)
        failure = self._failures.add(chunk, error, now)
        if not isinstance(error, BudgetError):  # of which whoever lowers the budget tells
            self.failure_log.add(failure, error, now)

    def _leave_loading(self, chunk: int, state: ChunkState) -> None:
        self._ledger.move(chunk, state)
        self._cancelling.discard(chunk)

    # --- What to do next ---------------------------------------------------------------------

    def step(self, now: float) -> Actions:
        """What to do, given all that was said so far. Call it again whenever something was."""
        return self._step(now, Plan())

    def _step(self, now: float, plan: Plan) -> Actions:
        self.failure_log.tell(now)
        self._shrink(plan)
        self._enqueue(now)
        self._promote(plan)
        self._start_loads(plan)
        return plan.actions()

    def _demanded(self, now: float) -> Actions:
        """After any change of the demands: what nobody wants any more is no longer fetched."""
        before, queued = self._demands.visible, self._demands.order
        self._rank_all(now)
        self._count_requests(before)
        unwanted = queued[
            (self._ledger.state[queued] == ChunkState.QUEUED)
            & (self._demands.rank[queued] == NO_RANK)
        ]
        self._ledger.move_all(unwanted, ChunkState.QUEUED, ChunkState.ABSENT)
        plan = Plan()
        loading = self._ledger.loading()
        self._cancel(loading[self._demands.tier[loading] == Tier.RECENT], plan)
        return self._step(now, plan)

    def _rank_all(self, now: float) -> None:
        self._demands.rank_all(self.resident, now)
        self._leaving.order_changed()
        self._let_go.clear()
        self._first_queued = 0
        self._queue(self._demands.order)

    def _count_requests(self, before: NDArray[np.intp]) -> None:
        """Of what is in view now, and was not ``before``."""
        was_visible = np.zeros(len(self.tree), np.bool_)
        was_visible[before] = True
        fresh = self._demands.visible
        states = self._ledger.state[fresh[~was_visible[fresh]]]
        read = (states == ChunkState.HOST) | (states == ChunkState.PROMOTING)
        self._tally.requests += len(states)
        self._tally.device_hits += int((states == ChunkState.DEVICE).sum())
        self._tally.host_hits += int(read.sum())

    def _enqueue(self, now: float) -> None:
        """Everything that is wanted, and not there, waits to be read; failures in their time."""
        if self._let_go:
            self._queue(np.unique(np.array(self._let_go, np.intp)))
            self._let_go.clear()
        for chunk, until in self._waiting_for_another_try():
            if until <= now:
                self._ledger.move(chunk, ChunkState.QUEUED)
                self._first_queued = min(self._first_queued, int(self._demands.rank[chunk]))

    def _queue(self, chunks: NDArray[np.intp]) -> None:
        ranks = self._demands.rank[chunks]
        wanted = (ranks != NO_RANK) & (self._ledger.state[chunks] == ChunkState.ABSENT)
        self._ledger.move_all(chunks[wanted], ChunkState.ABSENT, ChunkState.QUEUED)
        if wanted.any():
            self._first_queued = min(self._first_queued, int(ranks[wanted].min()))

    def _waiting_for_another_try(self) -> list[tuple[int, float]]:
        """Failed chunks that are wanted, each with the time of its next try."""
        return [
            (chunk, until)
            for chunk, until in self._failures.waiting()
            if self._ledger.is_in(chunk, ChunkState.FAILED)
            and int(self._demands.rank[chunk]) != NO_RANK
        ]

    def _queued(self) -> Iterator[int]:
        """What waits to be read, most urgent first."""
        order, at, first = self._demands.order, self._first_queued, None
        while at < len(order):
            part = order[at : at + _LOOK_AHEAD]
            places = np.flatnonzero(self._ledger.state[part] == ChunkState.QUEUED)
            if first is None:
                self._first_queued = at + (int(places[0]) if len(places) else len(part))
                first = self._first_queued if len(places) else None
            yield from part[places].tolist()
            at += _LOOK_AHEAD

    def _read_by_rank(self) -> list[int]:
        """What was read, and is wanted, most urgent first."""
        chunks = self._ledger.in_host()
        ranks = self._demands.rank[chunks]
        wanted = ranks != NO_RANK
        by_rank: list[int] = chunks[wanted][np.argsort(ranks[wanted])].tolist()
        return by_rank

    # --- Reads -------------------------------------------------------------------------------

    def _start_loads(self, plan: Plan) -> None:
        """In the order of the queue; what does not fit holds up what comes after it, so that a
        stream of small chunks cannot keep a large one waiting for ever. While decoders have
        more than they can do, little is read ahead of them: what is urgent may change."""
        if self._decoders_are_behind and self._ledger.count(ChunkState.HOST) >= self.max_loads:
            return
        for chunk in self._queued():
            if not self._may_be_read(chunk):
                continue
            tier = self._demands.tier.item(chunk)
            slots = self.max_loads - self._ledger.count(ChunkState.LOADING)
            need = int(self._ledger.costs.encoded[chunk]) - self._ledger.room_to_hold
            if slots <= self._reserved_slots(tier) or not self._free_host(need, tier, plan):
                if tier == Tier.VISIBLE:
                    self._abandon_a_prediction(plan)
                return
            self._ledger.move(chunk, ChunkState.LOADING)
            plan.start_loads.append(chunk)

    def _reserved_slots(self, tier: int) -> int:
        """Reads that predictions must leave free for what comes into view."""
        return 1 if tier != Tier.VISIBLE and self.max_loads > 1 else 0

    def _may_be_read(self, chunk: int) -> bool:
        """Whether the parent is there or will be; one that failed before must be there first,
        so that children are not read in vain again and again."""
        parent = self._parent[chunk]
        if parent == NO_PARENT:
            return True
        if self._ledger.is_in(parent, ChunkState.LOADING):
            return parent not in self._failures and parent not in self._cancelling
        return self._ledger.is_held(parent)

    def _abandon_a_prediction(self, plan: Plan) -> None:
        """Something in view waits for a read to end: the least urgent prediction's is given up.

        One at a time: its slot and bytes are free when the reader says so.
        """
        if not self._cancelling:
            loading = self._ledger.loading()
            predicted = loading[self._demands.tier[loading] < Tier.VISIBLE]
            self._cancel(predicted[np.argsort(self._demands.rank[predicted])][-1:], plan)

    def _cancel(self, chunks: NDArray[np.intp], plan: Plan) -> None:
        fresh = [chunk for chunk in chunks.tolist() if chunk not in self._cancelling]
        self._cancelling.update(fresh)
        plan.cancel_loads.extend(fresh)

    # --- Host memory -------------------------------------------------------------------------

    def _free_host(self, need: int, tier: int, plan: Plan) -> bool:
        """Drops encoded chunks below ``tier`` until ``need`` bytes are free; none if that
        cannot be had."""
        victims: list[int] = []
        candidates = self._host_victims(tier) if need > 0 else iter(())
        for chunk in candidates:
            if need <= 0:
                break
            victims.append(chunk)
            need -= int(self._ledger.costs.encoded[chunk])
        if need > 0:
            return False
        self._drop(victims, plan)
        return True

    def _host_victims(self, tier: int) -> Iterator[int]:
        chunks = self._ledger.in_host()
        # Bytes whose parent is nowhere are of no use yet: they must not keep it out.
        useful = self._ledger.has_held_parent(chunks)
        tiers = np.where(useful, self._demands.tier[chunks], Tier.RECENT).astype(np.uint8)
        chunks, tiers = chunks[tiers < tier], tiers[tiers < tier]
        return least_used_first(chunks, tiers, self._demands.last_used[chunks])

    def _drop(self, victims: list[int], plan: Plan) -> None:
        for victim in victims:
            self._ledger.move(victim, ChunkState.ABSENT)
        self._let_go.extend(victims)
        plan.drop.extend(victims)

    # --- The device --------------------------------------------------------------------------

    def _promote(self, plan: Plan) -> None:
        """In the order of the queue; while something in view waits for room on the device, what
        comes free is not for predictions."""
        waiting_in_view = self._decoders_are_behind = False
        for chunk in self._read_by_rank():
            tier = self._demands.tier.item(chunk)
            full = self._ledger.count(ChunkState.PROMOTING) >= self.max_promotions
            self._decoders_are_behind = full
            if full or (waiting_in_view and tier != Tier.VISIBLE):
                return
            if not self._ledger.has_device_parent(chunk):
                continue
            need = int(self._ledger.costs.decoded[chunk]) - self._ledger.room_to_decode
            if not self._free_host(need, tier, plan):
                return
            if self._free_device(chunk, tier, plan):
                self._ledger.move(chunk, ChunkState.PROMOTING)
                plan.promote.append(chunk)
            else:
                waiting_in_view |= tier == Tier.VISIBLE

    def _free_device(self, chunk: int, tier: int, plan: Plan) -> bool:
        """Evicts chunks below ``tier`` until ``chunk`` fits; none if that cannot be had."""
        need = int(self._ledger.costs.device[chunk]) - self._ledger.room_on_device
        if need <= 0:
            return True
        victims = self._leaving.to_free(need, tier)
        if victims is None:
            return False
        self._evict(victims, plan)
        return True

    def _evict(self, victims: list[int], plan: Plan) -> None:
        for victim in victims:
            self._ledger.move(victim, ChunkState.ABSENT)
        self._tally.evicted += len(victims)
        plan.evict.extend(victims)

    # --- Budgets that shrank -----------------------------------------------------------------

    def _shrink(self, plan: Plan) -> None:
        """Back under the budgets, whatever the tier, but for leases and what is in flight."""
        if not self._free_host(-self._ledger.room_to_hold, ANY_TIER, plan):
            self._drop(self._ledger.in_host().tolist(), plan)
            self._cancel(self._ledger.loading(), plan)
        excess = -self._ledger.room_on_device
        if excess > 0:
            self._evict(self._leaving.as_many_as_may_go(excess), plan)


def _as_indices(chunks: Iterable[int]) -> NDArray[np.intp]:
    return np.asarray(chunks if isinstance(chunks, np.ndarray) else list(chunks), np.intp)
