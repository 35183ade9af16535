"""How much one read should ask for."""

from __future__ import annotations

_LEAST_BYTES = 64 << 10  # 5 ms of 100 Mbit/s: eight such reads fill a line of 40 ms
_MOST_BYTES = 512 << 10
_READ_S = 0.005
_MEMORY = 0.875  # of what was known before, at each read


class ReadPace:
    """Reads that take a few milliseconds, as fast as the source turns out to be.

    Longer ones would delay what becomes urgent meanwhile; shorter ones are all overhead.
    """

    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0

    def observe(self, nbytes: int, seconds: float) -> None:
        """A read brought as much, in this time."""
        self._bytes = _MEMORY * self._bytes + nbytes
        self._seconds = _MEMORY * self._seconds + seconds

    @property
    def batch_bytes(self) -> int:
        """What the next ones should ask for."""
        if self._seconds <= 0:
            return _LEAST_BYTES
        return int(min(max(_READ_S * self._bytes / self._seconds, _LEAST_BYTES), _MOST_BYTES))
