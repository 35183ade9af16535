"""Numbers as people write them."""

from __future__ import annotations

from collections.abc import Iterable

from splat.text import byte_size, counted, short_count

__all__ = ["byte_size", "counted", "memory_size", "short_count", "vector_text"]


def vector_text(vector: Iterable[float]) -> str:
    """(0.0, −1.0, 0.25) as "(0, -1, 0.25)"."""
    return f"({', '.join(f'{value:.4g}' for value in vector)})"


def memory_size(count: int) -> str:
    """1610612736 as "1.5 GiB": memory comes in powers of two, as its options do."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"
