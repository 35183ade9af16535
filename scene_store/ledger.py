"""Where every chunk is, and what that costs: the one place where bytes are counted.

A chunk is in exactly one state. Its bytes follow from the state alone, so that a budget
cannot be missed by forgetting to add or subtract: nothing else moves a chunk or touches a sum.
Bytes in flight count from the moment a read or a decoding is allowed to start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import ChunkSource, decoded_rows_of, row_bytes_of
from scene_store.tree import NO_PARENT, LodTree
from splat.errors import BudgetError
from splat.gaussians import SH_COUNT_OF_DEGREE
from splat.text import mib_held, mib_needed

Int64Array = NDArray[np.int64]


class ChunkState(IntEnum):
    """What is held of a chunk. The ways between (anything else is a programming error)::

        ABSENT → QUEUED → LOADING → HOST → PROMOTING → DEVICE
           ↑        │         │       │        │          │
           ├────────┴─────────┴───────┴────────│──────────┘   no longer wanted, or no room
           │                  └─→ FAILED ←─────┘
           │                         └─→ QUEUED               when its time has come

    ABSENT: nothing. QUEUED: nothing yet, wanted. LOADING: being read into host memory.
    HOST: encoded bytes in host memory. PROMOTING: being decoded into pages of the device
    that are already its own. DEVICE: decoded in its pages, can be drawn. FAILED: nothing;
    reading or decoding failed.
    """

    ABSENT = 0
    QUEUED = 1
    LOADING = 2
    HOST = 3
    PROMOTING = 4
    DEVICE = 5
    FAILED = 6


_S = ChunkState
ALLOWED_MOVES = frozenset(
    {
        (_S.ABSENT, _S.QUEUED),
        (_S.QUEUED, _S.ABSENT),
        (_S.QUEUED, _S.LOADING),
        (_S.LOADING, _S.HOST),
        (_S.LOADING, _S.ABSENT),
        (_S.LOADING, _S.FAILED),
        (_S.HOST, _S.ABSENT),
        (_S.HOST, _S.PROMOTING),
        (_S.PROMOTING, _S.DEVICE),
        (_S.PROMOTING, _S.FAILED),
        (_S.DEVICE, _S.ABSENT),
        (_S.FAILED, _S.QUEUED),
    }
)
_HOLDS_ENCODED = frozenset({_S.LOADING, _S.HOST, _S.PROMOTING})
_HOLDS_PAGES = frozenset({_S.PROMOTING, _S.DEVICE})
_HOLDS_NOTHING = frozenset({_S.ABSENT, _S.QUEUED})


@dataclass(frozen=True, slots=True)
class _Move:
    """What a move adds (1) or takes away (-1)."""

    encoded: int
    decoded: int
    device: int


def _move(before: ChunkState, after: ChunkState) -> _Move:
    def change(holds: frozenset[ChunkState]) -> int:
        return (after in holds) - (before in holds)

    return _Move(change(_HOLDS_ENCODED), change(frozenset({_S.PROMOTING})), change(_HOLDS_PAGES))


# By numbers: chunks move five times each, and a scene has hundreds of thousands.
_MOVES = {(int(a), int(b)): _move(a, b) for a, b in ALLOWED_MOVES}


@dataclass(frozen=True, slots=True)
class Budgets:
    """Hard limits.

    Attributes:
        host_bytes: Encoded chunks in host memory, with those being read and the buffers of
            those being decoded.
        device_bytes: Pages of the device pool that hold chunks or are about to.
    """

    host_bytes: int
    device_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class ChunkCosts:
    """What each of N chunks takes, in bytes, known before it is read.

    Attributes:
        encoded: [N] int64 host memory from the start of the read to the end of the decoding.
        decoded: [N] int64 host memory while it is being decoded, on top of that: its contents; of
            Gaussians also what the larger of a chunk's streams holds when it is decompressed.
        device: [N] int64 whole pages of the device.
    """

    encoded: Int64Array
    decoded: Int64Array
    device: Int64Array

    @classmethod
    def of(cls, source: ChunkSource, page_bytes: int) -> ChunkCosts:
        """Those of a source's chunks, on a device with pages of ``page_bytes``."""
        count = source.tree.count.astype(np.int64)
        encoded = [source.encoded_bytes(chunk) for chunk in range(len(count))]
        return cls(
            encoded=np.array(encoded, np.int64),
            decoded=(row_bytes_of(source) or _decoding_bytes(source.sh_degree))
            * decoded_rows_of(source),
            device=-(-count // source.page_gaussians) * page_bytes,
        )


def _decoding_bytes(sh_degree: int) -> int:
    """What decoding takes at most of a Gaussian, which is part of that."""
    shape, colors = 3 + 4 + 3 + 1, 3 * SH_COUNT_OF_DEGREE[sh_degree]
    planes = max(shape + 3, colors - 3)  # of one stream after the other
    return 4 * (shape + colors + planes)


class Ledger:
    """States and sums of the chunks of one tree.

    Attributes:
        state: [N] uint8 of ``ChunkState``. Read it; ``move`` and ``move_all`` alone write it.
        held_bytes: Host memory of encoded chunks, in flight or not.
        decoding_bytes: Host memory of decodings in progress.
        device_bytes: Device memory of chunks, decoded or being decoded.
        device_children: [N] int32, children that are on the device or on their way there.
    """

    def __init__(self, tree: LodTree, costs: ChunkCosts, budgets: Budgets) -> None:
        self.costs = costs
        self.state = np.zeros(len(tree), np.uint8)
        self.device_children = np.zeros(len(tree), np.int32)
        self.held_bytes = self.decoding_bytes = self.device_bytes = 0
        # Single numbers are read and written much faster through a view than through the array.
        self._state = self.state.data
        self._parent = tree.parent.data
        self._children = self.device_children.data
        self._encoded = costs.encoded.data
        self._decoded = costs.decoded.data
        self._device = costs.device.data
        self._count = [len(tree)] + [0] * (len(ChunkState) - 1)
        self._in_flight: dict[ChunkState, set[int]] = {_S.LOADING: set(), _S.HOST: set()}
        self._most_decoded = int(costs.decoded.max())
        self._least_host = int(costs.encoded.max()) + self._most_decoded
        self._least_device = int(costs.device[tree.roots].sum())
        self._least_name = "it" if len(tree.roots) == len(tree) else "the coarsest level"
        self.budgets = budgets

    @property
    def budgets(self) -> Budgets:
        """The limits in force. What is held already may exceed new, smaller ones for a while."""
        return self._budgets

    @budgets.setter
    def budgets(self, budgets: Budgets) -> None:
        _require(budgets.host_bytes, self._least_host, "host", "reading and decoding one chunk")
        _require(budgets.device_bytes, self._least_device, "device", self._least_name)
        self._budgets = budgets

    @property
    def host_bytes(self) -> int:
        """All host memory that counts against the budget."""
        return self.held_bytes + self.decoding_bytes

    @property
    def room_to_hold(self) -> int:
        """Host bytes left for reads. The largest decoding's buffer is never given to them:
        however full the host is, a chunk can go on to the device."""
        buffers = max(self._most_decoded, self.decoding_bytes)
        return self._budgets.host_bytes - buffers - self.held_bytes

    @property
    def room_to_decode(self) -> int:
        """Host bytes left for decodings."""
        return self._budgets.host_bytes - self.host_bytes

    @property
    def room_on_device(self) -> int:
        """Device bytes left."""
        return self._budgets.device_bytes - self.device_bytes

    def count(self, state: ChunkState) -> int:
        """Chunks in a state."""
        return self._count[state]

    def of(self, chunk: int) -> ChunkState:
        """The chunk's state."""
        return ChunkState(self._state[chunk])

    def is_in(self, chunk: int, state: ChunkState) -> bool:
        """Whether the chunk is in this state."""
        return self._state[chunk] == state

    def is_held(self, chunk: int) -> bool:
        """Whether the chunk is held, or being read."""
        return _S.LOADING <= self._state[chunk] <= _S.DEVICE

    def loading(self) -> NDArray[np.intp]:
        """Indices of the chunks that are being read, ascending."""
        return _ascending(self._in_flight[_S.LOADING])

    def in_host(self) -> NDArray[np.intp]:
        """Indices of the chunks that are read and not yet decoded, ascending."""
        return _ascending(self._in_flight[_S.HOST])

    def has_held_parent(self, chunks: NDArray[np.intp]) -> NDArray[np.bool_]:
        """[M] whether each of [M] chunks is a root, or its parent is held or being read."""
        parents = np.asarray(self._parent)[chunks]
        states = self.state[parents]
        held = (states >= _S.LOADING) & (states <= _S.DEVICE)
        return np.asarray((parents == NO_PARENT) | held)

    def has_device_parent(self, chunk: int) -> bool:
        """Whether the chunk is a root, or its parent can be drawn."""
        parent = self._parent[chunk]
        return parent == NO_PARENT or self._state[parent] == _S.DEVICE

    def move(self, chunk: int, state: ChunkState) -> None:
        """Puts the chunk into another state and moves its bytes with it.

        Raises:
            ValueError: If no chunk may go that way.
        """
        before = self._state[chunk]
        move = _MOVES.get((before, int(state)))
        if move is None:
            was = ChunkState(before).name
            raise ValueError(f"chunk {chunk} cannot go from {was} to {state.name}")
        self._state[chunk] = state
        self._count[before] -= 1
        self._count[state] += 1
        if before in self._in_flight:
            self._in_flight[ChunkState(before)].discard(chunk)
        if state in self._in_flight:
            self._in_flight[state].add(chunk)
        if move.encoded:
            self.held_bytes += move.encoded * self._encoded[chunk]
        if move.decoded:
            self.decoding_bytes += move.decoded * self._decoded[chunk]
        if move.device:
            self.device_bytes += move.device * self._device[chunk]
            parent = self._parent[chunk]
            if parent != NO_PARENT:
                self._children[parent] += move.device

    def move_all(self, chunks: NDArray[np.intp], before: ChunkState, state: ChunkState) -> None:
        """Puts many different chunks from one state that holds nothing into another.

        Raises:
            ValueError: If one of the states holds something.
        """
        if not {before, state} <= _HOLDS_NOTHING:
            raise ValueError(f"many chunks at once cannot go from {before.name} to {state.name}")
        self.state[chunks] = state
        self._count[before] -= len(chunks)
        self._count[state] += len(chunks)


def _ascending(chunks: set[int]) -> NDArray[np.intp]:
    return np.sort(np.fromiter(chunks, np.intp, len(chunks)))


def _require(budget: int, least: int, memory: str, purpose: str) -> None:
    if budget < least:
        raise BudgetError(
            f"the {memory} budget of {mib_held(budget)} is too small for this scene: {purpose}"
            f" needs {mib_needed(least)}; raise --{memory}-budget"
        )
