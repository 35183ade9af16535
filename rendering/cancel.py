"""Cancellation for rasterizers written in Python, and how far they are."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rendering.base import CancelFlag
from splat.errors import RenderCancelled


class EventCancelFlag:
    """A ``CancelFlag`` on a ``threading.Event``; native engines bring their own.

    Attributes:
        on_share: Hears the share of the render that is done, in [0, 1], from renders that know it:
            from any of their threads, one at a time. What it raises ends the render.
    """

    __slots__ = ("_event", "on_share")

    def __init__(self) -> None:
        self._event = threading.Event()
        self.on_share: Callable[[float], None] | None = None

    def set(self) -> None:
        """Ask the render that holds this flag to stop."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()


def raise_if_cancelled(cancel: CancelFlag | None) -> None:
    """The check between two stages of a render.

    Raises:
        RenderCancelled: If ``cancel`` is given and set.
    """
    if cancel is not None and cancel.is_set():
        raise RenderCancelled("a newer request replaced this frame")


class ShareDone:
    """Counts the parts of a render that are done, for whoever holds its flag.

    Args:
        cancel: Of the render.
        parts: How many there are.
    """

    def __init__(self, cancel: CancelFlag | None, parts: int) -> None:
        self._on_share = cancel.on_share if isinstance(cancel, EventCancelFlag) else None
        self._parts, self._done = parts, 0
        self._counting = threading.Lock()

    def one_more(self) -> None:
        """A part is done."""
        if self._on_share is not None:
            with self._counting:
                self._done += 1
                self._on_share(self._done / self._parts)
