"""Work on a thread of its own, that says how far it is and can be abandoned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from viewer.scenes import Progress

T = TypeVar("T")

# Reading stops between two batches; what has none, such as sorting, is left to itself.
CLOSE_TIMEOUT_S = 0.4


class _Abandoned(Exception):
    """Nobody wants the result any more."""


class Background(Generic[T]):
    """A result being made, so that nobody need wait for it.

    Args:
        work: Makes it; is given a progress function, which ends it if it was abandoned.
        dispose: Closes a result that nobody took.

    Attributes:
        share, what: How far it is.
        done: Set at the end.
    """

    def __init__(
        self, work: Callable[[Progress], T], dispose: Callable[[T], None] = lambda result: None
    ) -> None:
        self.share, self.what = 0.0, "Opening …"
        self.done = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._abandoned = False
        self._work, self._dispose = work, dispose
        threading.Thread(target=self._run, name="scene-opening", daemon=True).start()

    def close(self) -> bool:
        """Abandon it, and dispose of the result unless ``take`` handed it over.

        Returns whether the work has ended; if not, it goes on until its next report.
        """
        self._abandoned = True
        ended = self.done.wait(CLOSE_TIMEOUT_S)
        if ended and self._result:
            self._dispose(self._result.pop())
        return ended

    def take(self) -> T:
        """The result, once ``done``; it belongs to the caller.

        Raises:
            BelvedereError: If the work failed.
        """
        if self._error is not None:
            raise self._error
        assert self._result, "take() before done, or twice"
        return self._result.pop()

    def wait(self, tell: Progress) -> T:
        """Wait for the result, and tell how far it is meanwhile."""
        while not self.done.wait(0.1):
            tell(self.share, self.what)
        return self.take()

    def _progress(self, share: float, what: str) -> None:
        if self._abandoned:
            raise _Abandoned
        self.share, self.what = share, what

    def _run(self) -> None:
        try:
            self._result.append(self._work(self._progress))
        except BaseException as error:
            self._error = error
        finally:
            self.done.set()
