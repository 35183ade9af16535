"""One device at work: a thread, a rasterizer, and a queue of jobs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from rendering.base import CancelFlag, Rasterizer
from rendering.device import Device
from rendering.job import Job


class Worker:
    """A thread that draws on one device, until it ends or is lost.

    One that is lost is never found again: its thread may be amid a call that does not return,
    so another worker takes the device, and this one's results count for nothing. All fields
    but ``device`` are guarded by the crew's lock.

    Args:
        device: Which.
        rasterizer: What it draws with, until ``serve`` has made a new one.
        serve: What the thread runs.

    Attributes:
        queue: Jobs for this device, the next one first.
        job: The one that is run now.
        cancel: The flag that this watches.
        since_s: When it was begun.
        ready: Whether it takes jobs.
        lost: Whether it was given up.
    """

    def __init__(
        self, device: Device, rasterizer: Rasterizer, serve: Callable[[Worker], None]
    ) -> None:
        self.device = device
        self.rasterizer = rasterizer
        self.queue: deque[Job] = deque()
        self.job: Job | None = None
        self.cancel: CancelFlag | None = None
        self.since_s = 0.0
        self.ready = False
        self.lost = False
        self._thread = threading.Thread(
            target=serve, args=(self,), name=f"render-{device.name}", daemon=True
        )

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.ready and self.job is None and not self.queue

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the thread that asks is this one's."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, but no longer than that."""
        self._thread.join(timeout_s)
