"""Which ranges proved to be damaged after they had been read."""

from __future__ import annotations

import threading


class Rejections:
    """Remembers what was rejected, so that a range is read again once, not for ever."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int, int]] = set()
        self._lock = threading.Lock()

    def is_first(self, name: str, offset: int, size: int) -> bool:
        """Whether the range is rejected for the first time: a copy on the way may be at fault."""
        with self._lock:
            before = len(self._seen)
            self._seen.add((name, offset, size))
            return len(self._seen) > before
