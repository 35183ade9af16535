"""How to deal with servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Where ranges of remote files are kept between sessions, and how many.

    Attributes:
        folder: Of the cache's own; None for ``belvedere/ranges`` in the user's cache folder
            (``XDG_CACHE_HOME``, else ``~/.cache``).
        budget_bytes: The most that it may take on disk, whoever writes to it; None for the
            smaller of 10 GiB and a tenth of what the disk has free.

    Raises:
        ValueError: If the budget is negative.
    """

    folder: Path | None = None
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.budget_bytes is not None and self.budget_bytes < 0:
            raise ValueError("the budget of a cache must not be negative")


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """How long to wait for servers, and what to keep of what they send.

    Attributes:
        connect_s: Patience for a connection, seconds.
        stall_s: Patience without a single byte, seconds.
        cache: The cache on disk; None for none.

    Raises:
        ValueError: If a patience is not positive.
    """

    connect_s: float = 10.0
    stall_s: float = 20.0
    cache: CacheOptions | None = CacheOptions()

    def __post_init__(self) -> None:
        if not (self.connect_s > 0 and self.stall_s > 0):
            raise ValueError("waiting for a server needs a positive time")
