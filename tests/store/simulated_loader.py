"""Carries out ``Actions`` in no time and without threads, and holds residency to its word."""

from __future__ import annotations

import random as random_module
from dataclasses import dataclass, field

import numpy as np

from scene_store.demands import Tier
from scene_store.ledger import Budgets, ChunkCosts, ChunkState
from scene_store.lod import LodCut, LodLimits, select_lod
from scene_store.residency import Actions, Residency
from scene_store.tree import LodTree
from splat.camera import Camera
from splat.errors import ChunkReadError

PAGE_GAUSSIANS = 25
PAGE_BYTES = 1000


def random_costs(tree: LodTree, seed: int) -> ChunkCosts:
    """Chunks of several pages, of uneven compression."""
    random = np.random.default_rng(seed)
    count = tree.count.astype(np.int64)
    return ChunkCosts(
        encoded=1 + (count * random.uniform(2, 10, len(count))).astype(np.int64),
        decoded=12 * count,
        device=-(-count // PAGE_GAUSSIANS) * PAGE_BYTES,
    )


@dataclass(eq=False)
class SimulatedLoader:
    """The owner of the bytes: it counts them itself, from the actions alone.

    Attributes:
        reading: Reads in flight; ``cancelled`` those of them to be abandoned.
        held, decoding, device: Chunks whose bytes are there.
        leased: Chunks under a lease, with repetition.
    """

    residency: Residency
    costs: ChunkCosts
    now: float = 0.0
    reading: list[int] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    decoding: list[int] = field(default_factory=list)
    device: set[int] = field(default_factory=set)
    leased: list[int] = field(default_factory=list)
    reads_started: int = 0

    @classmethod
    def open(
        cls,
        tree: LodTree,
        costs: ChunkCosts,
        budgets: Budgets,
        *,
        seed: int = 0,
        max_loads: int = 4,
    ) -> SimulatedLoader:
        random = random_module.Random(seed)
        residency = Residency(tree, costs, budgets, random=random, max_loads=max_loads)
        return cls(residency, costs)

    @property
    def host_bytes(self) -> int:
        """By the loader's own books."""
        encoded = [*self.reading, *self.held, *self.decoding]
        return int(self.costs.encoded[encoded].sum() + self.costs.decoded[self.decoding].sum())

    @property
    def device_bytes(self) -> int:
        """By the loader's own books."""
        return int(self.costs.device[[*self.decoding, *self.device]].sum())

    # --- Frames

    def cut(self, cameras: list[Camera], limits: LodLimits) -> LodCut:
        """Select from what is there now."""
        residency = self.residency
        return select_lod(residency.tree, cameras, residency.resident, limits, lost=residency.lost)

    def look(
        self, cameras: list[Camera], limits: LodLimits, prefetch: LodCut | None = None
    ) -> LodCut:
        """One frame: select, and say what is wanted."""
        cut = self.cut(cameras, limits)
        predicted = [] if prefetch is None else [*prefetch.want, *prefetch.touched]
        self.carry_out(self.residency.update(cut.want, cut.touched, predicted, self.now))
        return cut

    def lease(self, chunks: list[int]) -> None:
        """What a frame draws."""
        self.residency.lease(chunks)
        self.leased += chunks

    def release(self) -> None:
        """All frames are finished."""
        self.residency.release(self.leased)
        self.leased.clear()
        self.step()

    # --- Readers

    def step(self) -> None:
        """Whatever there is to do."""
        self.carry_out(self.residency.step(self.now))

    def carry_out(self, actions: Actions) -> None:
        """Does what it is told, and checks that it could be told so."""
        over_budget = self.is_over_budget
        for chunk in actions.drop:
            self.held.remove(chunk)
        for chunk in actions.evict:
            assert chunk not in self.leased
            assert over_budget or self.residency.tier(chunk) < Tier.VISIBLE
            self.device.remove(chunk)
            assert not self.device & set(self.residency.tree.children(chunk))
        for chunk in actions.cancel_loads:
            assert chunk in self.reading
            self.cancelled.add(chunk)
        for chunk in actions.promote:
            assert set(self.residency.tree.ancestors(chunk)) <= self.device
            self.held.remove(chunk)
            self.decoding.append(chunk)
        for chunk in actions.start_loads:
            assert chunk not in self.held | self.device
            self.reading.append(chunk)
        self.reads_started += len(actions.start_loads)

    @property
    def is_over_budget(self) -> bool:
        budgets = self.residency.budgets
        return self.host_bytes > budgets.host_bytes or self.device_bytes > budgets.device_bytes

    def finish_read(self, index: int = 0) -> None:
        """One read comes back; one that was cancelled in time comes back without bytes."""
        chunk = self.reading.pop(index)
        if chunk in self.cancelled:
            self.cancelled.remove(chunk)
            self.residency.cancelled(chunk)
        else:
            self.residency.loaded(chunk, int(self.costs.encoded[chunk]), self.now)
            self.held.add(chunk)
        self.step()

    def fail_read(self, index: int, transient: bool) -> None:
        """One read goes wrong."""
        chunk = self.reading.pop(index)
        self.cancelled.discard(chunk)
        self._fail(chunk, transient)

    def finish_decoding(self, index: int = 0) -> None:
        """One chunk reaches the device."""
        chunk = self.decoding.pop(index)
        self.device.add(chunk)
        self.residency.promoted(chunk)
        self.step()

    def fail_decoding(self, index: int, transient: bool) -> None:
        """One chunk turns out to be damaged."""
        self._fail(self.decoding.pop(index), transient)

    def _fail(self, chunk: int, transient: bool) -> None:
        error = ChunkReadError("fake", chunk, "no luck", transient=transient)
        self.residency.failed(chunk, error, self.now)
        self.step()

    def finish_all(self) -> None:
        """Until nothing is in flight."""
        while self.reading or self.decoding:
            if self.decoding:
                self.finish_decoding()
            else:
                self.finish_read()

    def stand_still(self, cameras: list[Camera], limits: LodLimits) -> LodCut:
        """Looks until nothing is on its way or waits for another try."""
        for _ in range(10_000):
            cut = self.look(cameras, limits)
            self.finish_all()
            retry = self.residency.next_retry()
            if retry is not None:
                self.now = max(self.now, retry)
                self.step()
                continue
            after = self.cut(cameras, limits)
            if not self.reading and after.draw.tolist() == cut.draw.tolist():
                return after
        raise AssertionError("a still camera does not come to rest")

    # --- Checks

    def check(self) -> None:
        """What must hold at any time."""
        residency, tree = self.residency, self.residency.tree
        stats = residency.stats()
        assert stats.host_bytes == self.host_bytes
        assert stats.device_bytes == self.device_bytes
        assert set(np.flatnonzero(residency.resident).tolist()) == self.device
        assert set(self.leased) <= self.device
        assert all(set(tree.ancestors(chunk)) <= self.device for chunk in self.device)
        states = {chunk: residency.state(chunk) for chunk in range(len(tree))}
        assert {c for c, s in states.items() if s is ChunkState.LOADING} == set(self.reading)
        assert {c for c, s in states.items() if s is ChunkState.HOST} == self.held
        assert {c for c, s in states.items() if s is ChunkState.PROMOTING} == set(self.decoding)
