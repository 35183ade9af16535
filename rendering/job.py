"""A piece of work that devices can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from rendering.base import CancelFlag, Rasterizer
from rendering.device import Device
from splat.errors import BelvedereError


class Job(ABC):
    """Work of a frame, for ``rendering.crew``.

    ``run`` is called by a device's thread, without a lock, and again by another one's if the first
    was lost; so it changes nothing but what it returns. What follows from it is said by ``done``
    or ``failed`` (or ``displaced``), exactly one of them, exactly once, under the crew's lock.

    Attributes:
        is_drawing: Whether the device draws. Then it watches a flag, and an error that nobody
            foresaw may be its fault, so that another device has to try before anybody is blamed.
        must_end: Whether it is tried until it is done, however many devices are lost over it.
        tried: Devices that failed to do it.
        losses: How often the only device there is was lost over it, and started anew for it.
    """

    is_drawing = False
    must_end = False

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.losses = 0

    def fits(self, device: Device) -> bool:
        """Whether a device has what it takes. Called under the lock."""
        return True

    def displaced(self) -> None:
        """No device that is left has; it is given up. Called under the lock."""
        raise NotImplementedError("every device can do this")

    def begin(self, cancel: CancelFlag) -> None:
        """A device is about to draw, and watches a flag. Called under the lock."""
        return

    @abstractmethod
    def run(self, rasterizer: Rasterizer, device: Device, cancel: CancelFlag | None) -> Any:
        """Do it.

        Raises:
            BelvedereError: What is wrong with the request; it would be so on any device.
        """

    @abstractmethod
    def done(self, outcome: Any, device: Device, seconds: float) -> None:
        """What ``run`` gave counts. Called under the lock."""

    @abstractmethod
    def failed(self, error: BelvedereError, seconds: float) -> None:
        """It is given up. Called under the lock."""

    def discard(self, outcome: Any) -> None:
        """Somebody else was given the job meanwhile: what ``run`` gave counts for nothing."""
        return

    def interrupted(self) -> None:
        """The device that runs it is lost. Called under the lock."""
        return
