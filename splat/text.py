"""Numbers as people write them."""

from __future__ import annotations


def short_count(count: int) -> str:
    """4250000 as "4.25 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def byte_size(count: int) -> str:
    """1500000 as "1.5 MB"."""
    return f"{short_count(count)}B" if count >= 1000 else f"{count} bytes"
