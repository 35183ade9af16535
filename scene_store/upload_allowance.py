"""How much may be copied to a device while frames are drawn there. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
FRAME_BYTES = 16 * MIB
IDLE_S = 0.1  # without a frame for so long, nobody is waiting for one


@dataclass(slots=True)
class UploadAllowance:
    """Bytes that may be copied: so many for each frame while frames are drawn, any otherwise.

    A copy that is larger than what a frame allows is let through when nothing was copied for that
    frame, and the next ones pay for it: on the average no more is copied.

    Attributes:
        frame_bytes: For each frame.
        idle_s: Without a frame for so long, all are allowed.
    """

    frame_bytes: int = FRAME_BYTES
    idle_s: float = IDLE_S
    _left: int = 0
    _frame_s: float = float("-inf")

    def frame_begins(self, now_s: float) -> None:
        """Another frame."""
        busy = now_s - self._frame_s < self.idle_s
        self._left = min(self.frame_bytes, (self._left if busy else 0) + self.frame_bytes)
        self._frame_s = now_s

    def wait_s(self, size: int, now_s: float) -> float:
        """Takes ``size`` bytes and returns 0, or takes none and says how long to wait at most;
        the next frame may come sooner."""
        quiet_s = now_s - self._frame_s
        if quiet_s >= self.idle_s:
            return 0.0
        if size <= self._left or self._left == self.frame_bytes:
            self._left -= size
            return 0.0
        return self.idle_s - quiet_s
