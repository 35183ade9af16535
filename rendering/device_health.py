"""What becomes of devices that fail: they start anew after a pause, or retire. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FaultPolicy:
    """How failures of devices are met.

    Attributes:
        tries: A part that so many devices failed to draw is given up, and its frame with it: the
            fault is in what was asked for.
        faults, within_s: A device that failed so often in such a time retires.
        first_pause_s, last_pause_s: Before a device starts anew; doubled with every fault.
        patience_s: A device that is longer at one part is taken for lost, if there is another one.
        closing_s: So long a closing engine waits for what is being drawn.
    """

    tries: int = 3
    faults: int = 5
    within_s: float = 60.0
    first_pause_s: float = 0.1
    last_pause_s: float = 5.0
    patience_s: float = 300.0
    closing_s: float = 10.0

    def __post_init__(self) -> None:
        if self.tries < 1 or self.faults < 1:
            raise ValueError("tries and faults must be 1 or more")
        if min(self.within_s, self.patience_s, self.closing_s) <= 0:
            raise ValueError("within_s, patience_s and closing_s must be above 0")
        if not 0 <= self.first_pause_s <= self.last_pause_s:
            raise ValueError("needs 0 <= first_pause_s <= last_pause_s")


DEFAULT_FAULTS = FaultPolicy()


@dataclass(frozen=True, slots=True)
class Sentence:
    """What a fault leads to.

    Attributes:
        pause_s: Until the device starts anew.
        retired: Whether it never does.
        first: Whether it is the first fault for a while: time to tell of it.
    """

    pause_s: float
    retired: bool
    first: bool


class DeviceHealth:
    """The faults of the devices. The last one never retires: somebody has to draw.

    Args:
        devices: Names.
        policy: What happens when.
    """

    def __init__(self, devices: Sequence[str], policy: FaultPolicy = DEFAULT_FAULTS) -> None:
        self.policy = policy
        self._recent: dict[str, deque[float]] = {name: deque() for name in devices}
        self._total = dict.fromkeys(devices, 0)
        self._retired: set[str] = set()

    @property
    def serving(self) -> frozenset[str]:
        """Devices that have not retired."""
        return frozenset(self._recent.keys() - self._retired)

    def faults(self, device: str) -> int:
        """All of its faults."""
        return self._total[device]

    def fault(self, device: str, now_s: float) -> Sentence:
        """A device failed at what it should have done."""
        recent = self._recent[device]
        while recent and now_s - recent[0] > self.policy.within_s:
            recent.popleft()
        recent.append(now_s)
        self._total[device] += 1
        if len(recent) >= self.policy.faults and self.serving != {device}:
            self._retired.add(device)
        pause_s = self.policy.first_pause_s * 2 ** min(len(recent) - 1, 32)
        return Sentence(
            min(pause_s, self.policy.last_pause_s), device in self._retired, len(recent) == 1
        )
