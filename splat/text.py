"""Numbers as people write them."""

from __future__ import annotations

MIB = 2**20


def short_count(count: int) -> str:
    """4250000 as "4.25 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def byte_size(count: int) -> str:
    """1500000 as "1.5 MB"."""
    return f"{short_count(count)}B" if count >= 1000 else f"{count} bytes"


def mib_held(count: int) -> str:
    """5600000 as "5.3 MiB", never more than it is: what somebody has, and what is not enough."""
    return f"{count * 10 // MIB / 10:.1f} MiB"


def mib_needed(count: int) -> str:
    """5600000 as "5.4 MiB", never less than it is: whoever gives just that gives enough."""
    return f"{-(-count * 10 // MIB) / 10:.1f} MiB"


def counted(count: int, many: str) -> str:
    """1234 and "chunks" as "1,234 chunks", 1 as "1 chunk".

    Args:
        many: What is counted, in a plural that ends in s.
    """
    return f"{count:,} {many.removesuffix('s') if count == 1 else many}"
