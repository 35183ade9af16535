"""How many devices hold a frame rate: a rule with hysteresis. Pure.

Asked again and again with the frame times since the last change, it wants more devices when
too many frames are late, and fewer when even all of the work on one fewer would be early.

A frame's time on n devices is taken to be ``fixed + work / n`` of which neither is known.

- Growing, ``n · time / target`` devices are asked for at once: as if all of it were divided.
  Since something is not, that is never more than are needed, and the rule is asked again.
- Shrinking, n − 1 devices are believed to take ``n / (n − 1)`` times as long: as if nothing were
  fixed. That is never less than the truth, and it must be under ``shrink_below`` of the target. So
  a release can never be what makes frames late, while noise is smaller than what is between
  ``shrink_below`` and ``grow_above``, and the count does not swing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from splat.text import counted


@dataclass(frozen=True, slots=True)
class Decision:
    """How many devices are wanted, and why.

    Attributes:
        wanted: Devices.
        reason: For people, with the figures.
        overloaded: Whether the target cannot be held with all there are: time to lower the
            quality.
    """

    wanted: int
    reason: str
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class ElasticPolicy:
    """The rule; asked by whoever has frame times.

    Attributes:
        target_fps: Frames a second to hold.
        least, most: Devices.
        grow_above: Frames are late if they take longer than this share of a frame's time.
        shrink_below: One fewer device is enough if its frames would be under this share.
        late_share: Of the newest ``grow_after`` frames, so many may be late.
        grow_after: Frames that are looked at before growing.
        shrink_after: Frames that are looked at before shrinking, all of which must agree:
            patience against releasing what is needed again at once.
    """

    target_fps: float = 30.0
    least: int = 1
    most: int = 1
    grow_above: float = 1.0
    shrink_below: float = 0.8
    late_share: float = 0.25
    grow_after: int = 8
    shrink_after: int = 60

    def __post_init__(self) -> None:
        if not (math.isfinite(self.target_fps) and self.target_fps > 0):
            raise ValueError(f"target_fps must be above 0, got {self.target_fps}")
        if not 1 <= self.least <= self.most:
            raise ValueError(f"needs 1 <= least <= most, got {self.least} and {self.most}")
        if not 0 < self.shrink_below < self.grow_above:
            raise ValueError("shrink_below must be above 0 and below grow_above")
        if not 0 <= self.late_share < 1:
            raise ValueError(f"late_share must be in [0, 1), got {self.late_share}")
        if not 1 <= self.grow_after <= self.shrink_after:
            raise ValueError("needs 1 <= grow_after <= shrink_after")

    @property
    def target_ms(self) -> float:
        """A frame's time."""
        return 1e3 / self.target_fps

    def decide(self, frame_ms: Sequence[float], present: int, available: int) -> Decision:
        """What is wanted now.

        Args:
            frame_ms: Times of frames since the number of devices last changed, the newest
                last. Older ones say nothing of the present devices and are not to be given.
            present: Devices now.
            available: Devices that could be had, the present ones included.
        """
        most = max(1, min(self.most, available))
        least = min(self.least, most)
        if present > most:
            are = "is" if most == 1 else "are"
            return Decision(most, f"only {counted(most, 'devices')} {are} to be had")
        if present < least:
            return Decision(least, f"at least {least} devices are kept")
        recent = frame_ms[-self.grow_after :]
        if len(recent) < self.grow_after:
            return Decision(present, f"too few frames to tell: {len(recent)} of {self.grow_after}")
        late = sum(time > self.grow_above * self.target_ms for time in recent)
        if late > self.late_share * len(recent):
            return self._grown(sorted(recent), late, present, most)
        return self._shrunk(frame_ms[-self.shrink_after :], present, least)

    def _grown(self, recent: Sequence[float], late: int, present: int, most: int) -> Decision:
        typical = recent[math.ceil((1 - self.late_share) * len(recent)) - 1]
        said = (
            f"{late} of {len(recent)} frames took over {self.grow_above * self.target_ms:.1f} ms "
            f"({typical:.1f} ms)"
        )
        if present == most:
            return Decision(
                most,
                f"{said} with {'its only device' if most == 1 else f'all {most} devices'}",
                overloaded=True,
            )
        needed = math.ceil(present * typical / (self.grow_above * self.target_ms))
        wanted = min(most, max(present + 1, needed))
        return Decision(wanted, f"{said}: {wanted - present} more")

    def _shrunk(self, recent: Sequence[float], present: int, least: int) -> Decision:
        held = f"{self.target_fps:g} fps are held"
        if present == least:
            return Decision(present, held)
        if len(recent) < self.shrink_after:
            return Decision(present, f"{held} for {len(recent)} of {self.shrink_after} frames")
        slowest = max(recent)
        with_fewer = slowest * present / (present - 1)
        limit = self.shrink_below * self.target_ms
        if with_fewer > limit:
            return Decision(
                present, f"{held}; {counted(present - 1, 'devices')} might take {with_fewer:.1f} ms"
            )
        return Decision(
            present - 1,
            f"{held}; {counted(present - 1, 'devices')} would take {with_fewer:.1f} ms at most, "
            f"under {limit:.1f}",
        )
