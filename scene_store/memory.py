"""How much memory may still be taken: what the machine has left, and what its limits allow.

A container's limit is a control group's, of version 1 or 2, and free memory is not what a
process may use there; nor does the machine's size tell what others have taken already.
"""

from __future__ import annotations

import os
from pathlib import Path

from splat.cgroups import group_folders, read_text
from splat.errors import BudgetError
from splat.gaussians import SH_COUNT_OF_DEGREE

# The most that reading and sorting takes, over the Gaussians themselves. The peak is the sort:
# measured 1.41 to 1.69 times them over PLY, compressed PLY, splat, SPZ and streamed SOG of
# 0.6 to 4.2 million, the more the fewer harmonics there are.
PEAK_FACTOR = 1.8
# The same if the scene is then handed to a rasterizer, which makes a form of its own of it:
# as large as the Gaussians themselves without harmonics, two thirds with all of them.
DRAW_FACTOR = 2.1
# Palettes, textures and batches on the way, whatever the size of the scene; measured to 82 MB.
WORKING_BYTES = 128_000_000

# Where a group's limit, usage and statistics are, by version.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
    2: ("memory.max", "memory.current", "memory.stat"),
}


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take before something is swapped or killed.

    The least of Linux's ``MemAvailable`` and the room in each control group around the
    process; the physical memory where a system has neither; None where it tells nothing.

    Args:
        root: The folder that holds ``proc`` and ``sys``.
    """
    limits = [parse_mem_available(read_text(root / "proc/meminfo"))]
    for version, folder in group_folders(root, "memory"):
        limit, usage, statistics = (read_text(folder / name) for name in _FILES[version])
        limits.append(group_headroom(limit, usage, statistics))
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else _physical_bytes()


def parse_mem_available(meminfo: str) -> int | None:
    """Bytes of ``MemAvailable`` in the text of ``/proc/meminfo``."""
    kib = _fields(meminfo).get("MemAvailable:")
    return None if kib is None else kib * 1024


def group_headroom(limit: str, usage: str, statistics: str) -> int | None:
    """Bytes left in a group, by the texts of its files; None where it has no limit.

    Files that the system has cached are charged to the group, too, and are given up first.
    """
    if not (limit.strip().isdigit() and usage.strip().isdigit()):
        return None
    fields = _fields(statistics)
    cached = fields.get("total_inactive_file", fields.get("inactive_file", 0))
    return max(0, int(limit) - max(0, int(usage) - cached))


def gaussian_bytes(sh_degree: int) -> int:
    """Bytes of one Gaussian in memory."""
    return 4 * (3 + 4 + 3 + 1 + 3 * SH_COUNT_OF_DEGREE[sh_degree])


def require_memory(
    what: str,
    count: int,
    sh_degree: int,
    *,
    factor: float = PEAK_FACTOR,
    working_bytes: int = WORKING_BYTES,
    remedy: str,
) -> None:
    """Refuses a scene that cannot fit, before anything is allocated.

    Args:
        what: What needs the memory, to begin the message with.
        count: Gaussians that are to be in memory.
        sh_degree: Of their harmonics.
        factor: The most that is taken at once, over the Gaussians themselves.
        working_bytes: What is needed while they are read or made.
        remedy: What the user can do about it.

    Raises:
        BudgetError: If it needs more than is available.
    """
    each = gaussian_bytes(sh_degree) * factor
    needed = count * each + working_bytes
    available = available_bytes()
    if available is None or needed <= available:
        return
    fits = max(0, int((available - working_bytes) / each))
    raise BudgetError(
        f"{what}: {count:,} Gaussians need {needed / 1e9:.1f} GB of memory, and "
        f"{available / 1e9:.1f} GB are available, enough for {fits:,}; {remedy}"
    )


def _fields(text: str) -> dict[str, int]:
    """Lines of a name and a number, as in ``/proc/meminfo`` and ``memory.stat``."""
    words = (line.split() for line in text.splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) >= 2 and w[1].isdigit()}


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
