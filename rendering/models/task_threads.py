"""Threads for the parts of a picture, kept from picture to picture."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rendering.base import CancelFlag
from rendering.cancel import raise_if_cancelled
from splat.cores import usable_cores


class TaskThreads:
    """Threads that take tasks by their number, beside whoever asks. Safe to call from several.

    Args:
        name: Of the threads.

    Attributes:
        size: Threads that work at most on what one caller asks for, the caller's included.
    """

    def __init__(self, name: str) -> None:
        self.size = usable_cores()
        self._threads = ThreadPoolExecutor(max(1, self.size - 1), name)

    def threads_for(self, count: int, threads: int) -> int:
        """That so many tasks are divided among.

        Args:
            threads: That are wished for; 0 for one a core.
        """
        return max(1, min(threads or self.size, self.size, count))

    def run(
        self, count: int, threads: int, task: Callable[[int], int], cancel: CancelFlag | None
    ) -> int:
        """The sum of what tasks [0, count) return; the first error ends all of them, and none is
        still at work when this ends.

        Raises:
            RenderCancelled: If ``cancel`` was set meanwhile.
        """
        workers = self.threads_for(count, threads)
        if workers == 1:
            return _alone(count, task, cancel)
        numbers, stop = itertools.count(), threading.Event()

        def work() -> int:
            done = 0
            try:
                while (number := next(numbers)) < count and not stop.is_set():
                    raise_if_cancelled(cancel)
                    done += task(number)
            except BaseException:
                stop.set()
                raise
            return done

        others = [self._threads.submit(work) for _ in range(workers - 1)]
        try:
            done = work()
        finally:
            # Those that nobody has begun find nothing to do.
            begun = [other for other in others if not other.cancel()]
            for other in begun:
                other.exception()  # waits
        return done + sum(other.result() for other in begun)


def _alone(count: int, task: Callable[[int], int], cancel: CancelFlag | None) -> int:
    done = 0
    for number in range(count):
        raise_if_cancelled(cancel)
        done += task(number)
    return done
