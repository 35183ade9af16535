"""Who has waited too long hears so at once, even while all devices are busy."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

LONGEST_SLEEP_S = 3600.0


class DeadlineWatch:
    """A thread that sleeps until the next deadline; there is none before the first is expected.

    Args:
        expire: Called with the time on this thread, without a lock: answers whoever is overdue,
            and returns the next deadline, infinity if there is none.
        clock: Seconds.
    """

    def __init__(self, expire: Callable[[float], float], clock: Callable[[], float]) -> None:
        self._expire, self._clock = expire, clock
        self._changed = threading.Condition()
        self._next_s = math.inf
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="render-deadlines", daemon=True)

    def expect(self, deadline_s: float) -> None:
        """Somebody waits until then, at most; returns at once."""
        with self._changed:
            if self._stopped or deadline_s >= self._next_s:
                return
            self._next_s = deadline_s
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Expire nothing any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while self._wait_for_next():
            try:
                next_s = self._expire(self._clock())
            except BaseException:  # of a callback; others have deadlines, too
                log.exception("who has waited too long was told so, which failed")
                next_s = self._clock()
            with self._changed:
                self._next_s = min(self._next_s, next_s)

    def _wait_for_next(self) -> bool:
        """Until a deadline has come; False if this was stopped."""
        with self._changed:
            while not self._stopped:
                left_s = self._next_s - self._clock()
                if left_s <= 0:
                    self._next_s = math.inf  # who comes while others are answered counts anew
                    return True
                self._changed.wait(min(left_s, LONGEST_SLEEP_S))
        return False
