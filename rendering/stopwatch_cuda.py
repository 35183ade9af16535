"""The times of a frame's stages, on the clock of whatever device draws it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch


@dataclass(slots=True, eq=False)
class Stopwatch:
    """Milliseconds of stages: by events that a GPU passes, else by the host's clock.

    Attributes:
        device: What draws; on a GPU its current stream is watched.
    """

    device: torch.device
    _marks: list[tuple[str, float | torch.cuda.Event]] = field(default_factory=list)

    def mark(self, stage: str) -> None:
        """A stage ends here; the first one only begins."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((stage, event))
        else:
            self._marks.append((stage, time.perf_counter()))

    def wait(self) -> None:
        """Wait until the device has done all that its current stream was given.

        Raises:
            RuntimeError: If the device failed at any of it.
        """
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            event.synchronize()

    def stage_ms(self) -> dict[str, float]:
        """By stage, of all but the first mark; the device must have passed the last one."""
        times: dict[str, float] = {}
        for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False):
            if isinstance(before, float) and isinstance(after, float):
                took = 1e3 * (after - before)
            else:
                assert not isinstance(before, float) and not isinstance(after, float)
                took = before.elapsed_time(after)
            times[stage] = times.get(stage, 0.0) + took
        return times
