"""The threads that carry out what residency decides: read, decode, upload, give back.

``Residency`` is the policy and is entered under one lock; reading, decoding and uploading go on
outside it, a batch of chunks at a time. Small chunks take less time than to speak of each: for a
batch one thread is woken, residency thinks once, and listeners hear once. Batches are short, so
that what becomes urgent or unwanted does not wait for long. A frame never waits for a chunk: it
draws what is there (``Loader.frame``), and hears of arrivals by a callback.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import (
    ChunkSource,
    DecodedChunks,
    EncodedChunk,
    ReadOutcome,
    in_batches,
)
from scene_store.demands import Demand
from scene_store.ledger import Budgets
from scene_store.prefetch import LoadLatency
from scene_store.read_pace import ReadPace
from scene_store.residency import Actions, Residency
from scene_store.residency_stats import ResidencyStats
from splat.closing import Closing
from splat.errors import BelvedereError, BudgetError, ChunkReadError

logger = logging.getLogger(__name__)

CLOSING_TIME_S = 0.8

READERS = 8  # enough to hide the latency of a server
DECODERS = 2
# Of a batch, unless it is a single chunk: stays in a core's cache.
DECODED_BYTES = 2 << 20
# What to do next takes residency longer to say than a small chunk takes to read: while all
# threads have work, it is asked only after so many.
MOST_UNTHOUGHT = 16
# What a batch may fail of that its chunks alone would not: too much at once, or one that is bad.
OF_A_CHUNK = (BelvedereError, ValueError, ArithmeticError, MemoryError)


class DevicePool(Protocol):
    """Pages of a device. Residency sees to it that an uploaded chunk finds its pages free."""

    def upload(self, chunks: Sequence[int], contents: Any, rows: NDArray[np.int64], /) -> None:
        """Puts chunks into pages of their own, all of them or none. Called by several threads;
        may take its time. The arrays are the caller's again afterwards. Raises ``BudgetError`` if
        there is less memory than the budget says, ``ValueError`` for contents that cannot be put
        there: chunks are then tried one by one.

        Args:
            chunks: B of them.
            contents: Those of all, a ``Payload`` of the kind that the source decodes.
            rows: [B, 2] first row and number of rows of each.
        """

    def free(self, chunk: int) -> None:
        """Gives a chunk's pages back. Called under the loader's lock: must be quick, and must
        not call the loader."""


Choose = Callable[[NDArray[np.bool_], NDArray[np.bool_]], Demand]
"""From what is resident and what is lost (each [N] bool) to a frame's demand."""

OnWork = Callable[[str, str, float, float], None]
"""Hears of a batch: which thread it was, such as ``reading:0``, ``fetch`` or ``decode``, and when
that began and ended, seconds of the loader's clock."""


class Lease:
    """Chunks that stay until it is released, at the latest at the end of its ``with`` block."""

    def __init__(self, loader: Loader, chunks: NDArray[np.intp]) -> None:
        self._loader = loader
        self._chunks = chunks
        self._held = True

    @property
    def chunks(self) -> tuple[int, ...]:
        """Which."""
        return tuple(self._chunks.tolist())

    def release(self) -> None:
        """Nothing happens the second time."""
        if self._held:
            self._held = False
            self._loader._release(self._chunks)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Loader(Closing):
    """Streams the chunks of one source to one device, for any number of clients.

    Args:
        source: Where chunks come from; the caller closes it, after this.
        pool: Where they go.
        residency: Decides which; nobody else may touch it from now on.
        on_arrival: Called, on a thread of the loader's, when more can be drawn than before.
        on_short: Called, on such a thread, when there was no memory for a chunk within the budget;
            with the bytes of the device that chunks have. It should lower the budget, and say
            whether it did: the chunk is tried again later.
        on_work: Called after each batch, on the thread that did it; must be quick.
        clock: Seconds; does not go back.
        readers: Threads that wait for the source. Residency may allow more reads in flight:
            they queue here, so that a thread need not wait for its next one.
        decoders: Threads that decode and upload.

    Attributes:
        threads: The loader's own.
    """

    def __init__(
        self,
        source: ChunkSource,
        pool: DevicePool,
        residency: Residency,
        *,
        on_arrival: Callable[[], None] | None = None,
        on_short: Callable[[int], bool] | None = None,
        on_work: OnWork = lambda lane, stage, start_s, end_s: None,
        clock: Callable[[], float] = time.monotonic,
        readers: int = READERS,
        decoders: int = DECODERS,
    ) -> None:
        self._source = in_batches(source)
        self._pool = pool
        self._residency = residency
        self._on_arrival = on_arrival
        self._on_short = on_short
        self._on_work = on_work
        self._clock = clock
        self._decoders = decoders
        lock = threading.RLock()  # guards all that follows
        # Each wakes those who can go on, and nobody else.
        self._work_to_read, self._work_to_decode = (threading.Condition(lock) for _ in range(2))
        self._settled = threading.Condition(lock)
        self._lock = lock
        self._awaiting_settled = 0
        self._closed = False
        self._encoded: dict[int, EncodedChunk] = {}
        self._to_read: deque[list[int]] = deque()
        self._to_decode: deque[int] = deque()
        self._cancelled: set[int] = set()
        self._unthought = 0  # chunks reported since residency was last asked
        self._pace = ReadPace()
        self._read_latency, self._decode_latency = LoadLatency(), LoadLatency()
        self.threads = [
            *_start_threads("reading", readers, self._serve_reads),
            *_start_threads("decoding", decoders, self._serve_decodings),
        ]
        with self._lock:
            self._carry_out(self._residency.step(self._clock()))

    # --- For frames --------------------------------------------------------------------------

    def frame(self, choose: Choose, *, client: Hashable = None) -> Lease:
        """Chooses what to draw, and holds it until the lease is released.

        Args:
            choose: Called at once; nothing comes or goes meanwhile, so it should be quick and
                must not call the loader.
            client: Whose view it is; it replaces the client's last one.
        """
        with self.still() as (resident, lost):
            return self.hold(choose(resident, lost), client=client)

    @contextmanager
    def still(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Nothing comes or goes in the block, which should be short: what is resident, and what
        is lost, each [N]. Whoever holds several loaders still takes them in the same order."""
        with self._lock:
            self._require_open()
            yield self._residency.resident, self._residency.lost

    def hold(self, demand: Demand, *, client: Hashable = None) -> Lease:
        """What ``frame`` does with a demand; for one that was chosen while this was ``still``."""
        with self._lock:
            self._require_open()
            chunks = np.array(demand.draw, np.intp)
            self._residency.lease(chunks)
            self._carry_out(
                self._residency.update(
                    demand.want, demand.touched, demand.prefetch, self._clock(), client=client
                )
            )
            return Lease(self, chunks)

    def forget(self, client: Hashable) -> None:
        """The client is gone."""
        with self._lock:
            if not self._closed:
                self._carry_out(self._residency.forget(client, self._clock()))

    def set_budgets(self, budgets: Budgets) -> None:
        """New limits, in force at once.

        Raises:
            BudgetError: If they are too small for this scene; the old ones stay.
        """
        with self._lock:
            self._require_open()
            self._carry_out(self._residency.set_budgets(budgets, self._clock()))

    def stats(self) -> ResidencyStats:
        """A snapshot."""
        with self._lock:
            return self._residency.stats()

    @property
    def latency_s(self) -> float:
        """Seconds in which nearly all chunks come from the source to the device; 0 before the
        first."""
        with self._lock:
            return self._read_latency.bound_s + self._decode_latency.bound_s

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Waits until all that the last frames wanted in view is there, or lost.

        Returns:
            Whether that came about in time; False also when the loader was closed meanwhile.
        """
        with self._settled:
            self._awaiting_settled += 1
            try:
                self._settled.wait_for(lambda: self._closed or self._residency.settled, timeout_s)
            finally:
                self._awaiting_settled -= 1
            return not self._closed and self._residency.settled

    def _release(self, chunks: NDArray[np.intp]) -> None:
        with self._lock:
            self._residency.release(chunks)
            if not self._closed:
                self._carry_out(self._residency.step(self._clock()))

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("the loader is closed")

    # --- The end -----------------------------------------------------------------------------

    def close(self, *, wait: bool = True) -> None:
        """Stops within a second. A read that does not heed its flag is left to itself: what it
        brings is forgotten. Pages stay as they are; the pool is the caller's.

        Args:
            wait: For the threads; otherwise they end when they are done.
        """
        with self._lock:
            self._closed = True
            self._residency.failure_log.tell(math.inf)
            self._to_read.clear()
            self._to_decode.clear()
            self._encoded.clear()
            for condition in (self._work_to_read, self._work_to_decode, self._settled):
                condition.notify_all()
        if not wait:
            return
        deadline = time.monotonic() + CLOSING_TIME_S
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # --- Under the lock ----------------------------------------------------------------------

    def _carry_out(self, actions: Actions) -> None:
        for chunk in actions.drop:
            del self._encoded[chunk]
        for chunk in actions.evict:
            self._pool.free(chunk)
        self._cancelled.update(actions.cancel_loads)
        if actions.promote:
            self._to_decode.extend(actions.promote)
            self._work_to_decode.notify(self._decoders)
        if actions.start_loads:
            # What waits already may lie beside what is new.
            waiting = [*chain.from_iterable(self._to_read), *actions.start_loads]
            batches = self._source.read_batches(waiting, self._pace.batch_bytes)
            self._to_read = deque(batches)
            self._work_to_read.notify()
        if self._awaiting_settled and self._residency.settled:
            self._settled.notify_all()

    def _next_to_read(self) -> list[int] | None:
        """Waits for work; None at the end."""
        while not self._to_read and not self._closed:
            due = self._residency.next_step()
            wait_s = None if due is None else due - self._clock()
            if wait_s is not None and wait_s <= 0:
                self._carry_out(self._residency.step(self._clock()))
                continue
            self._work_to_read.wait(wait_s)
        if self._closed:
            return None
        batch = self._to_read.popleft()
        if self._to_read or self._residency.next_step() is not None:
            self._work_to_read.notify()  # one after the other, so that none wakes in vain
        return batch

    def _next_to_decode(self) -> list[int] | None:
        """Waits for work; None at the end. What there is is shared among the threads."""
        while not self._to_decode and not self._closed:
            self._work_to_decode.wait()
        if self._closed:
            return None
        share = -(-len(self._to_decode) // self._decoders)
        decoded = self._residency.costs.decoded
        batch = [self._to_decode.popleft()]
        size = int(decoded[batch[0]])
        while self._to_decode and len(batch) < share:
            size += int(decoded[self._to_decode[0]])
            if size > DECODED_BYTES:
                break
            batch.append(self._to_decode.popleft())
        return batch

    def _reported(self, chunks: int) -> None:
        """Has residency think about what to do next: at the latest when threads would be idle."""
        self._unthought += chunks
        busy = self._to_read and self._to_decode
        if not busy or self._unthought >= MOST_UNTHOUGHT:
            self._unthought = 0
            self._carry_out(self._residency.step(self._clock()))

    def _failed(self, chunk: int, error: BaseException) -> None:
        self._residency.failed(chunk, error, self._clock())
        self._work_to_read.notify()  # somebody has to wait for the next try

    # --- The threads -------------------------------------------------------------------------

    def _serve_reads(self, lane: str) -> None:
        while True:
            with self._lock:
                batch = self._next_to_read()
            if batch is None:
                return
            self._read(batch, lane)

    def _is_cancelled(self, chunk: int) -> bool:
        return self._closed or chunk in self._cancelled

    def _read(self, batch: list[int], lane: str) -> None:
        start_s = self._clock()
        outcomes: Sequence[ReadOutcome]
        try:
            outcomes = self._source.read_many(batch, self._is_cancelled)
        except BaseException as error:  # native code raises more than Exception
            outcomes = [error] * len(batch)
        end_s = self._clock()
        took_s = end_s - start_s
        self._on_work(lane, "fetch", start_s, end_s)
        with self._lock:
            if self._closed:
                return
            for chunk, outcome in zip(batch, outcomes, strict=True):
                self._report_read(chunk, outcome)
            found = [outcome for outcome in outcomes if isinstance(outcome, EncodedChunk)]
            if found:
                self._read_latency.observe(took_s)
                self._pace.observe(sum(each.nbytes for each in found), took_s)
            self._reported(len(batch))

    def _report_read(self, chunk: int, outcome: ReadOutcome) -> None:
        cancelled = chunk in self._cancelled
        self._cancelled.discard(chunk)
        if isinstance(outcome, EncodedChunk):
            if self._residency.loaded(chunk, outcome.nbytes, self._clock()):
                self._encoded[chunk] = outcome
        elif cancelled:
            self._residency.cancelled(chunk)
        else:
            self._failed(chunk, outcome or _gave_nothing(chunk))

    def _serve_decodings(self, lane: str) -> None:
        while True:
            with self._lock:
                batch = self._next_to_decode()
                encoded = [self._encoded[chunk] for chunk in batch or ()]
            if batch is None:
                return
            self._decode(batch, encoded, lane)

    def _decode(self, batch: list[int], encoded: list[EncodedChunk], lane: str) -> None:
        start_s = self._clock()
        errors = self._to_device(batch, encoded)
        end_s = self._clock()
        took_s = end_s - start_s
        self._on_work(lane, "decode", start_s, end_s)
        with self._lock:
            if self._closed:
                return
            for chunk in batch:
                del self._encoded[chunk]
                if chunk in errors:
                    self._failed(chunk, errors[chunk])
                else:
                    self._residency.promoted(chunk)
            arrived = len(errors) < len(batch)
            if arrived:
                self._decode_latency.observe(took_s)
            self._reported(len(batch))
        if any(isinstance(error, BudgetError) for error in errors.values()):
            arrived |= self.tell_of_shortage()  # frames are to want less
        if arrived:
            self._tell_of_arrival()

    def _to_device(self, batch: list[int], encoded: list[EncodedChunk]) -> dict[int, BaseException]:
        """What went wrong, by chunk; the others are in their pages."""
        try:
            decoded = self._source.decode_many(batch, encoded)
        except BaseException as error:  # native code raises more than Exception
            return dict.fromkeys(batch, error)
        errors = {batch[place]: error for place, error in decoded.errors.items()}
        good = [place for place in range(len(batch)) if place not in decoded.errors]
        if good:
            errors.update(self._upload([batch[place] for place in good], decoded, good))
        return errors

    def _upload(
        self, chunks: list[int], decoded: DecodedChunks, places: list[int]
    ) -> dict[int, BaseException]:
        try:
            self._pool.upload(chunks, decoded.contents, decoded.rows[places])
        except BaseException as error:  # native code raises more than Exception
            # Others of the batch may fit, or be whole; a device that is lost takes none.
            if len(chunks) == 1 or not isinstance(error, OF_A_CHUNK):
                return dict.fromkeys(chunks, error)
            errors: dict[int, BaseException] = {}
            for chunk, place in zip(chunks, places, strict=True):
                errors.update(self._upload([chunk], decoded, [place]))
            return errors
        return {}

    def _tell_of_arrival(self) -> None:
        try:
            if self._on_arrival is not None:
                self._on_arrival()
        except Exception:
            logger.exception("a listener to arriving chunks failed")

    def tell_of_shortage(self) -> bool:
        """There is less memory on the device than the budget says, or too little beside it for a
        frame.

        Returns:
            Whether the budget was lowered (``on_short``).
        """
        with self._lock:
            if self._closed or self._on_short is None:
                return False
            held = int(self._residency.costs.device[self._residency.resident].sum())
        return self._on_short(held)


def _start_threads(name: str, count: int, work: Callable[[str], None]) -> list[threading.Thread]:
    lanes = [f"{name}:{index}" for index in range(count)]
    threads = [
        threading.Thread(target=work, args=(lane,), name=f"chunk-{lane}", daemon=True)
        for lane in lanes
    ]
    for thread in threads:
        thread.start()
    return threads


def _gave_nothing(chunk: int) -> ChunkReadError:
    return ChunkReadError("the scene", chunk, "the read was abandoned", transient=True)
