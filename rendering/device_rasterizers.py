"""What devices draw with: at first, and when they start anew.

A GPU that was lost is tried again as long as its context works, which a small picture tells
(``rendering.gpu_trial``). One that is gone for good retires where others are left to draw;
where there are none, the processor draws in its place: slower, but everybody goes on looking.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from rendering.base import PagingRasterizer
from rendering.device import Device, DeviceLost
from rendering.device_health import DEFAULT_FAULTS
from splat.errors import one_line

log = logging.getLogger(__name__)

MOST_LOSSES, WITHIN_S = 2, 60.0
# A device that is asked to start anew so often, and never did, did not retire: it is the last one.
MOST_REFUSALS = DEFAULT_FAULTS.faults

Make = Callable[[Device], PagingRasterizer]
Tell = Callable[[Device], None]


class DeviceRasterizers:
    """Makes what each device draws with; given to ``RenderEngine`` as ``new_rasterizer``.

    Args:
        devices: All of them.
        make: Makes what a device draws with, and raises if it cannot draw.
        make_stand_in: Makes what draws in the place of a GPU that is gone.

    Attributes:
        by_memory: What scenes are made for at first.
        first: What the first device begins with.

    Raises:
        Exception: Whatever ``make`` raises.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        make: Make,
        make_stand_in: Make,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = tuple(devices)
        self._make, self._make_stand_in, self._clock = make, make_stand_in, clock
        self._lock = threading.Lock()
        self._unclaimed: dict[str, PagingRasterizer] = {}
        self.by_memory: dict[str, PagingRasterizer] = {}
        for device in devices:
            if device.memory not in self.by_memory:
                self._unclaimed[device.name] = self.by_memory[device.memory] = make(device)
        self.first = self._unclaimed.pop(self._devices[0].name)
        self._lost_s: dict[str, list[float]] = {}
        self._refusals: dict[str, int] = {}  # of GPUs that are gone
        self._replaced: set[str] = set()
        self._listeners: list[Tell] = []

    def on_replaced(self, tell: Tell) -> None:
        """Have somebody told, before the processor draws in the place of a GPU for the first time:
        what is in its memory will be in the host's."""
        self._listeners.append(tell)

    def __call__(self, device: Device) -> PagingRasterizer:
        """What a device begins with, or draws with from now on.

        Raises:
            DeviceLost: If it is gone for good, and others are there.
        """
        with self._lock:
            made = self._unclaimed.pop(device.name, None)
        if made is not None:
            return made
        return self._again(device) if device.is_gpu else self._make(device)

    def _again(self, device: Device) -> PagingRasterizer:
        """For a GPU that was lost."""
        reason = self._why_hopeless(device)
        if not reason:
            try:
                return self._make(device)
            except Exception as error:
                reason = str(error) or type(error).__name__
                log.debug("%s does not start anew", device.name, exc_info=error)
        self._require_stand_in(device, reason)
        stand_in = self._make_stand_in(device)
        if device.name not in self._replaced:
            self._replaced.add(device.name)
            log.warning(
                "%s is gone: %s; the processor draws in its place, slower",
                device.name,
                one_line(reason),
            )
            for tell in self._listeners:
                tell(device)
        return stand_in

    def _why_hopeless(self, device: Device) -> str:
        """Why not to try again; "" if it is worth it."""
        if device.name in self._replaced or device.name in self._refusals:
            return "it was lost before"
        now_s = self._clock()
        recent = [t for t in self._lost_s.get(device.name, []) if now_s - t < WITHIN_S]
        self._lost_s[device.name] = [*recent, now_s]
        return f"it was lost {len(recent) + 1} times" if len(recent) >= MOST_LOSSES else ""

    def _require_stand_in(self, device: Device, reason: str) -> None:
        """Let it retire if others are left that draw."""
        with self._lock:
            refusals = self._refusals[device.name] = self._refusals.get(device.name, 0) + 1
            gone = self._refusals.keys() - self._replaced
            others = {other.name for other in self._devices} - gone - {device.name}
        if others and refusals < MOST_REFUSALS:
            raise DeviceLost(reason)
