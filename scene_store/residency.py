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
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene_store.demands import NO_RANK, Demands, Tier
from scene_store.failures import Failures, RetryPolicy
from scene_store.ledger import Budgets, ChunkCosts, ChunkState, Ledger
from scene_store.residency_stats import ResidencyStats, Tally
from scene_store.tree import NO_PARENT, LodTree
from splat.errors import ChunkReadError

logger = logging.getLogger(__name__)

_ANY_TIER = Tier.VISIBLE + 1


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

    Attributes:
        tree, max_loads, max_promotions: As given.

    Raises:
        BudgetError: If the budgets cannot hold the roots, or one chunk being decoded.
    """

    def __init__(
        self,
        tree: LodTree,
        costs: ChunkCosts,
        budgets: Budgets,
        *,
        max_loads: int = 64,
        max_promotions: int = 32,
        retry: RetryPolicy | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.tree = tree
        self._ledger = Ledger(tree, costs, budgets)
        self._demands = Demands(tree)
        self._failures = Failures(retry or RetryPolicy(), random or random_module.Random())
        self.max_loads = max_loads
        self.max_promotions = max_promotions
        self._is_root = tree.parent == NO_PARENT
        self._leases = np.zeros(len(tree), np.int32)
        self._cancelling = np.zeros(len(tree), np.bool_)
        self._tally = Tally()
        self._demands.rank_all(self.resident, -np.inf)

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
    def budgets(self) -> Budgets:
        """The limits in force."""
        return self._ledger.budgets

    @property
    def settled(self) -> bool:
        """Whether all that is wanted in view is on the device, but for what is lost."""
        lost = self.lost
        pending = (self._demands.tier == Tier.VISIBLE) & (self._demands.rank != NO_RANK)
        pending &= ~self.resident & ~lost
        return all(
            lost[self.tree.ancestors(chunk)].any() for chunk in _as_list(pending.nonzero()[0])
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

    def stats(self) -> ResidencyStats:
        """A snapshot."""
        ledger = self._ledger
        drawable, tiers = self.resident, self._demands.tier
        device = ledger.costs.device
        levels = np.bincount(self.tree.level[drawable], minlength=int(self.tree.level.max()) + 1)
        return ResidencyStats(
            budgets=ledger.budgets,
            host_bytes=ledger.host_bytes,
            device_bytes=ledger.device_bytes,
            chunks={state: ledger.count(state) for state in ChunkState},
            device_bytes_by_tier={t: int(device[drawable & (tiers == t)].sum()) for t in Tier},
            chunks_by_level=tuple(levels.tolist()),
            leased=int(np.count_nonzero(self._leases)),
            tally=replace(self._tally),
            failures=self._failures.all(),
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

    def cancelled(self, chunk: int) -> None:
        """The chunk's read was abandoned."""
        self._leave_loading(chunk, ChunkState.ABSENT)
        self._tally.cancelled += 1

    def failed(self, chunk: int, error: BaseException, now: float) -> None:
        """Reading or decoding the chunk failed; everything it took is given back."""
        self._leave_loading(chunk, ChunkState.FAILED)
        failure = self._failures.add(chunk, error, now)
        advice = "lost" if failure.until is None else f"next try in {failure.until - now:.1f} s"
        logger.warning("%s (%s)", failure.text, advice)

    def _leave_loading(self, chunk: int, state: ChunkState) -> None:
        self._ledger.move(chunk, state)
        self._cancelling[chunk] = False

    # --- What to do next ---------------------------------------------------------------------

    def step(self, now: float) -> Actions:
        """What to do, given all that was said so far. Call it again whenever something was."""
        return self._step(now, _Plan())

    def _step(self, now: float, plan: _Plan) -> Actions:
        self._shrink(plan)
        self._enqueue(now)
        self._promote(plan)
        self._start_loads(plan)
        return plan.actions()

    def _demanded(self, now: float) -> Actions:
        """After any change of the demands: what nobody wants any more is no longer fetched."""
        before = self._demands.tier == Tier.VISIBLE
        self._demands.rank_all(self.resident, now)
        self._count_requests((self._demands.tier == Tier.VISIBLE) & ~before)
        unwanted = self._demands.tier == Tier.RECENT
        for chunk in _as_list(((self._ledger.state == ChunkState.QUEUED) & unwanted).nonzero()[0]):
            self._ledger.move(chunk, ChunkState.ABSENT)
        plan = _Plan()
        loading = self._ledger.chunks_in(ChunkState.LOADING)
        self._cancel(loading[unwanted[loading]], plan)
        return self._step(now, plan)

    def _count_requests(self, fresh: NDArray[np.bool_]) -> None:
        states = self._ledger.state[fresh]
        read = (states == ChunkState.HOST) | (states == ChunkState.PROMOTING)
        self._tally.requests += len(states)
        self._tally.device_hits += int((states == ChunkState.DEVICE).sum())
        self._tally.host_hits += int(read.sum())

    def _enqueue(self, now: float) -> None:
        """Everything that is wanted, and not there, waits to be read; failures in their time."""
        wanted = self._demands.rank != NO_RANK
        for chunk in _as_list((wanted & (self._ledger.state == ChunkState.ABSENT)).nonzero()[0]):
            self._ledger.move(chunk, ChunkState.QUEUED)
        for chunk, until in self._waiting_for_another_try():
            if until <= now:
                self._ledger.move(chunk, ChunkState.QUEUED)

    def _waiting_for_another_try(self) -> list[tuple[int, float]]:
        """Failed chunks that are wanted, each with the time of its next try."""
        return [
            (chunk, until)
            for chunk, until in self._failures.waiting()
            if self._ledger.of(chunk) is ChunkState.FAILED
            and int(self._demands.rank[chunk]) != NO_RANK
        ]

    def _by_rank(self, state: ChunkState) -> Iterator[int]:
        """The wanted chunks in a state, most urgent first."""
        order = self._demands.order
        return map(int, order[self._ledger.state[order] == state])

    # --- Reads -------------------------------------------------------------------------------

    def _start_loads(self, plan: _Plan) -> None:
        """In the order of the queue; what does not fit holds up what comes after it, so that a
        stream of small chunks cannot keep a large one waiting for ever."""
        for chunk in self._by_rank(ChunkState.QUEUED):
            if not self._may_be_read(chunk):
                continue
            tier = self.tier(chunk)
            slots = self.max_loads - self._ledger.count(ChunkState.LOADING)
            need = int(self._ledger.costs.encoded[chunk]) - self._ledger.room_to_hold
            if slots <= self._reserved_slots(tier) or not self._free_host(need, tier, plan):
                if tier is Tier.VISIBLE:
                    self._abandon_a_prediction(plan)
                return
            self._ledger.move(chunk, ChunkState.LOADING)
            plan.start_loads.append(chunk)

    def _reserved_slots(self, tier: Tier) -> int:
        """Reads that predictions must leave free for what comes into view."""
        return 1 if tier is not Tier.VISIBLE and self.max_loads > 1 else 0

    def _may_be_read(self, chunk: int) -> bool:
        """Whether the parent is there or will be; one that failed before must be there first,
        so that children are not read in vain again and again."""
        parent = int(self.tree.parent[chunk])
        if parent != NO_PARENT and self._ledger.of(parent) is ChunkState.LOADING:
            return parent not in self._failures and not self._cancelling[parent]
        return bool(self._ledger.has_held_parent(np.array([chunk]))[0])

    def _abandon_a_prediction(self, plan: _Plan) -> None:
        """Something in view waits for a read to end: the least urgent prediction's is given up.

        One at a time: its slot and bytes are free when the reader says so.
        """
        loading = self._ledger.chunks_in(ChunkState.LOADING)
        if not self._cancelling[loading].any():
            predicted = loading[self._demands.tier[loading] < Tier.VISIBLE]
            self._cancel(predicted[np.argsort(self._demands.rank[predicted])][-1:], plan)

    def _cancel(self, chunks: NDArray[np.intp], plan: _Plan) -> None:
        fresh = chunks[~self._cancelling[chunks]]
        self._cancelling[fresh] = True
        plan.cancel_loads.extend(_as_list(fresh))

    # --- Host memory -------------------------------------------------------------------------

    def _free_host(self, need: int, tier: int, plan: _Plan) -> bool:
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
        chunks = self._ledger.chunks_in(ChunkState.HOST)
        # Bytes whose parent is nowhere are of no use yet: they must not keep it out.
        useful = self._ledger.has_held_parent(chunks)
        tiers = np.where(useful, self._demands.tier[chunks], Tier.RECENT)
        return self._least_used_first(chunks[tiers < tier], tiers[tiers < tier])

    def _least_used_first(
        self, chunks: NDArray[np.intp], tiers: NDArray[np.uint8]
    ) -> Iterator[int]:
        """By tier, then by last use, then children (higher indices) before parents."""
        order = np.lexsort((-chunks, self._demands.last_used[chunks], tiers))
        return map(int, chunks[order])

    def _drop(self, victims: list[int], plan: _Plan) -> None:
        for victim in victims:
            self._ledger.move(victim, ChunkState.ABSENT)
        plan.drop.extend(victims)

    # --- The device --------------------------------------------------------------------------

    def _promote(self, plan: _Plan) -> None:
        """In the order of the queue; while something in view waits for room on the device, what
        comes free is not for predictions."""
        waiting_in_view = False
        for chunk in self._by_rank(ChunkState.HOST):
            tier = self.tier(chunk)
            full = self._ledger.count(ChunkState.PROMOTING) >= self.max_promotions
            if full or (waiting_in_view and tier is not Tier.VISIBLE):
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
                waiting_in_view |= tier is Tier.VISIBLE

    def _free_device(self, chunk: int, tier: int, plan: _Plan) -> bool:
        """Evicts chunks below ``tier`` until ``chunk`` fits; none if that cannot be had."""
        need = int(self._ledger.costs.device[chunk]) - self._ledger.room_on_device
        victims, freed = self._device_victims(need, tier)
        if freed < need:
            return False
        self._evict(victims, plan)
        return True

    def _device_victims(self, need: int, tier: int) -> tuple[list[int], int]:
        """Chunks below ``tier`` that may go, until they free ``need`` bytes; and what they free."""
        victims: list[int] = []
        freed = 0
        if need <= 0:
            return victims, freed
        free = (self._ledger.state == ChunkState.DEVICE) & (self._demands.tier < tier)
        chunks = (free & (self._leases == 0) & ~self._is_root).nonzero()[0]
        children = self._ledger.device_children.copy()
        for chunk in self._least_used_first(chunks, self._demands.tier[chunks]):
            if freed >= need:
                break
            if children[chunk] == 0:
                victims.append(chunk)
                freed += int(self._ledger.costs.device[chunk])
                children[self.tree.parent[chunk]] -= 1
        return victims, freed

    def _evict(self, victims: list[int], plan: _Plan) -> None:
        for victim in victims:
            self._ledger.move(victim, ChunkState.ABSENT)
        self._tally.evicted += len(victims)
        plan.evict.extend(victims)

    # --- Budgets that shrank -----------------------------------------------------------------

    def _shrink(self, plan: _Plan) -> None:
        """Back under the budgets, whatever the tier, but for leases and what is in flight."""
        if not self._free_host(-self._ledger.room_to_hold, _ANY_TIER, plan):
            self._drop(_as_list(self._ledger.chunks_in(ChunkState.HOST)), plan)
            self._cancel(self._ledger.chunks_in(ChunkState.LOADING), plan)
        victims, _ = self._device_victims(-self._ledger.room_on_device, _ANY_TIER)
        self._evict(victims, plan)


def _as_list(chunks: Iterable[int]) -> list[int]:
    return [int(chunk) for chunk in chunks]
