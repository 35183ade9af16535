"""Cancellation for rasterizers written in Python."""

from __future__ import annotations

import threading

from rendering.base import CancelFlag
from splat.errors import RenderCancelled


class EventCancelFlag:
    """A ``CancelFlag`` on a ``threading.Event``; native engines bring their own."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

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
