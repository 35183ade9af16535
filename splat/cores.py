"""How many processors this process may keep busy: not all of a machine are its own."""

from __future__ import annotations

import math
import os
from pathlib import Path

from splat.cgroups import group_folders, read_text


def usable_cores(root: Path = Path("/")) -> int:
    """Processors that this process may run on, or that its time amounts to if that is less.

    The first is its affinity (``taskset``), the second the quotas of the control groups
    around it (``docker run --cpus 1.5`` comes to 2).

    Args:
        root: The folder that holds ``proc`` and ``sys``.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas = (
        cpu_quota(read_text(folder / "cpu.max"))
        if version == 2
        else cpu_quota(
            f"{read_text(folder / 'cpu.cfs_quota_us')} {read_text(folder / 'cpu.cfs_period_us')}"
        )
        for version, folder in group_folders(root, "cpu")
    )
    return min([cores, *(max(1, math.ceil(quota)) for quota in quotas if quota is not None)])


def cpu_quota(text: str) -> float | None:
    """Processors by a quota and its period, as in ``cpu.max``; None where there is no limit."""
    words = text.split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None  # "max 100000", or -1 in version 1
    return int(words[0]) / int(words[1])
