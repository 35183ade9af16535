"""The threads that carry out what residency decides: read, decode, upload, give back.

``Residency`` is the policy and is entered under one lock; reading, decoding and uploading go on
outside it. A frame never waits for a chunk: it draws what is there (``Loader.frame``), and
hears of arrivals by a callback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import ChunkSource, EncodedChunk
from scene_store.ledger import Budgets
from scene_store.prefetch import LoadLatency
from scene_store.residency import Actions, Residency
from scene_store.residency_stats import ResidencyStats
from splat.closing import Closing
from splat.errors import ChunkReadError
from splat.gaussians import Gaussians

logger = logging.getLogger(__name__)

CLOSING_TIME_S = 0.8

READERS = 8  # enough to hide the latency of a server
DECODERS = 2
# What to do next takes residency longer to say than a small chunk takes to read: while all
# threads have work, it is asked only after so many.
MOST_UNTHOUGHT = 16


class DevicePool(Protocol):
    """Pages of a device. Residency sees to it that an uploaded chunk finds its pages free."""

    def upload(self, chunk: int, gaussians: Gaussians) -> None:
        """Puts a chunk into pages of its own. Called by several threads; may take its time.
        After an exception nothing of the chunk is left."""

    def free(self, chunk: int) -> None:
        """Gives a chunk's pages back. Called under the loader's lock: must be quick, and must
        not call the loader."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What one frame draws and wants.

    Attributes:
        draw: Chunks to be drawn, all resident: they are leased.
        want: Missing chunks, most urgent first.
        touched: Chunks that must stay or come for this view, those of ``draw`` among them.
        prefetch: Chunks for predicted views; None leaves the last prediction in force.
    """

    draw: Sequence[int] | NDArray[np.int32]
    want: Sequence[int] | NDArray[np.int32]
    touched: Sequence[int] | NDArray[np.int32]
    prefetch: Sequence[int] | NDArray[np.int32] | None = None


Choose = Callable[[NDArray[np.bool_], NDArray[np.bool_]], Demand]
"""From what is resident and what is lost (each [N] bool) to a frame's demand."""


Report = Callable[[], bool]
"""Tells residency what came of one job, under the lock; whether more can be drawn now."""


class Lease:
    """Chunks that stay until it is released, at the latest at the end of its ``with`` block."""

    def __init__(self, loader: Loader, chunks: tuple[int, ...]) -> None:
        self.chunks = chunks
        self._loader = loader
        self._held = True

    def release(self) -> None:
        """Nothing happens the second time."""
        if self._held:
            self._held = False
            self._loader._release(self.chunks)

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
        clock: Callable[[], float] = time.monotonic,
        readers: int = READERS,
        decoders: int = DECODERS,
    ) -> None:
        self._source = source
        self._pool = pool
        self._residency = residency
        self._on_arrival = on_arrival
        self._clock = clock
        self._changed = threading.Condition()  # its lock guards all that follows
        self._closed = False
        self._encoded: dict[int, EncodedChunk] = {}
        self._to_read: deque[int] = deque()
        self._to_decode: deque[int] = deque()
        self._cancel_flags: dict[int, threading.Event] = {}
        self._unthought = 0  # reports since residency was last asked
        self._read_latency, self._decode_latency = LoadLatency(), LoadLatency()
        self.threads = [
            *self._start_threads("reader", readers, self._to_read, self._read),
            *self._start_threads("decoder", decoders, self._to_decode, self._decode),
        ]
        with self._changed:
            self._carry_out(self._residency.step(self._clock()))

    def _start_threads(
        self, name: str, count: int, jobs: deque[int], work: Callable[[int], Report]
    ) -> list[threading.Thread]:
        threads = [
            threading.Thread(
                target=self._serve, args=(jobs, work), name=f"chunk-{name}-{index}", daemon=True
            )
            for index in range(count)
        ]
        for thread in threads:
            thread.start()
        return threads

    # --- For frames --------------------------------------------------------------------------

    def frame(self, choose: Choose, *, client: Hashable = None) -> Lease:
        """Chooses what to draw, and holds it until the lease is released.

        Args:
            choose: Called at once; nothing comes or goes meanwhile, so it should be quick and
                must not call the loader.
            client: Whose view it is; it replaces the client's last one.
        """
        with self._changed:
            self._require_open()
            demand = choose(self._residency.resident, self._residency.lost)
            chunks = tuple(int(chunk) for chunk in demand.draw)
            self._residency.lease(chunks)
            self._carry_out(
                self._residency.update(
                    demand.want, demand.touched, demand.prefetch, self._clock(), client=client
                )
            )
            return Lease(self, chunks)

    def forget(self, client: Hashable) -> None:
        """The client is gone."""
        with self._changed:
            if not self._closed:
                self._carry_out(self._residency.forget(client, self._clock()))

    def set_budgets(self, budgets: Budgets) -> None:
        """New limits, in force at once.

        Raises:
            BudgetError: If they are too small for this scene; the old ones stay.
        """
        with self._changed:
            self._require_open()
            self._carry_out(self._residency.set_budgets(budgets, self._clock()))

    def stats(self) -> ResidencyStats:
        """A snapshot."""
        with self._changed:
            return self._residency.stats()

    @property
    def latency_s(self) -> float:
        """Seconds in which nearly all chunks come from the source to the device; 0 before the
        first."""
        with self._changed:
            return self._read_latency.bound_s + self._decode_latency.bound_s

    def wait_until_settled(self, timeout_s: float) -> bool:
        """Waits until all that the last frames wanted in view is there, or lost.

        Returns:
            Whether that came about in time; False also when the loader was closed meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._residency.settled, timeout_s)
            return not self._closed and self._residency.settled

    def _release(self, chunks: tuple[int, ...]) -> None:
        with self._changed:
            self._residency.release(chunks)
            if not self._closed:
                self._carry_out(self._residency.step(self._clock()))

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("the loader is closed")

    # --- The end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Stops within a second. A read that does not heed its flag is left to itself: what it
        brings is forgotten. Pages stay as they are; the pool is the caller's."""
        with self._changed:
            self._closed = True
            for flag in self._cancel_flags.values():
                flag.set()
            self._to_read.clear()
            self._to_decode.clear()
            self._encoded.clear()
            self._changed.notify_all()
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
        for chunk in actions.cancel_loads:
            self._cancel_flags[chunk].set()
        for chunk in actions.start_loads:
            self._cancel_flags[chunk] = threading.Event()
        self._to_decode.extend(actions.promote)
        self._to_read.extend(actions.start_loads)
        self._changed.notify_all()

    def _next_job(self, jobs: deque[int]) -> int | None:
        """Waits for work; None at the end."""
        while not jobs and not self._closed:
            retry = self._residency.next_retry()
            wait_s = None if retry is None else retry - self._clock()
            if wait_s is not None and wait_s <= 0:
                self._carry_out(self._residency.step(self._clock()))
                continue
            self._changed.wait(wait_s)
        return None if self._closed else jobs.popleft()

    # --- The threads -------------------------------------------------------------------------

    def _serve(self, jobs: deque[int], work: Callable[[int], Report]) -> None:
        while True:
            with self._changed:
                chunk = self._next_job(jobs)
            if chunk is None:
                return
            report = work(chunk)
            with self._changed:
                if self._closed:
                    return
                arrived = report()
                self._step_soon()
            if arrived:
                self._tell_of_arrival()

    def _step_soon(self) -> None:
        """Has residency think about what to do next: at the latest when threads would be idle."""
        self._unthought += 1
        busy = self._to_read and self._to_decode
        if not busy or self._unthought == MOST_UNTHOUGHT:
            self._unthought = 0
            self._carry_out(self._residency.step(self._clock()))

    def _read(self, chunk: int) -> Report:
        flag = self._cancel_flags[chunk]
        start_s, encoded, error = self._clock(), None, None
        try:
            encoded = None if flag.is_set() else self._source.read(chunk, flag.is_set)
        except BaseException as caught:  # native code raises more than Exception
            error = caught
        return partial(self._report_read, chunk, encoded, error, self._clock() - start_s)

    def _report_read(
        self,
        chunk: int,
        encoded: EncodedChunk | None,
        error: BaseException | None,
        took_s: float,
    ) -> bool:
        flag = self._cancel_flags.pop(chunk)
        if encoded is not None:
            self._read_latency.observe(took_s)
            if self._residency.loaded(chunk, encoded.nbytes, self._clock()):
                self._encoded[chunk] = encoded
        elif flag.is_set():
            self._residency.cancelled(chunk)
        else:
            self._residency.failed(chunk, error or _gave_nothing(chunk), self._clock())
        return False

    def _decode(self, chunk: int) -> Report:
        start_s, error = self._clock(), None
        try:
            encoded = self._encoded.get(chunk)
            if encoded is not None:  # the loader was not closed meanwhile
                self._pool.upload(chunk, self._source.decode(chunk, encoded))
        except BaseException as caught:  # native code raises more than Exception
            error = caught
        return partial(self._report_decoded, chunk, error, self._clock() - start_s)

    def _report_decoded(self, chunk: int, error: BaseException | None, took_s: float) -> bool:
        del self._encoded[chunk]
        if error is not None:
            self._residency.failed(chunk, error, self._clock())
            return False
        self._residency.promoted(chunk)
        self._decode_latency.observe(took_s)
        return True

    def _tell_of_arrival(self) -> None:
        try:
            if self._on_arrival is not None:
                self._on_arrival()
        except Exception:
            logger.exception("a listener to arriving chunks failed")


def _gave_nothing(chunk: int) -> ChunkReadError:
    return ChunkReadError("the scene", chunk, "the read was abandoned", transient=True)
