"""How far a bake is, as those who wait for it hear it."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Hears the share that is done, in [0, 1], and what is being done."""


def part_of(progress: Progress, first: float, last: float) -> Progress:
    """What hears of a part of the work, which takes the shares from ``first`` to ``last``."""
    return lambda share, what: progress(first + (last - first) * share, what)


def time_left(began: float, done: int, total: int) -> str:
    """How long the rest of something takes, as people say it.

    Args:
        began: By ``time.monotonic``.
        done: Of ``total``, at least 1.
    """
    seconds = (time.monotonic() - began) * (total - done) / done
    return f"{seconds:.0f} s left" if seconds < 100 else f"{seconds / 60:.0f} min left"
