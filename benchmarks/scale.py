"""What does a scene cost that is ten, or a hundred times as large?

Towns of several sizes, each with its store, are looked at from the same places with the same
budgets of memory and the same limits of a frame, each in a process of its own. Bars, against the
smallest town: frames take at most 1.25 times as long. For each: the process's peak memory is at
most that of the budgets and 400 MB, and opening reads at most 4 MB. Frames that are timed are
complete, so nothing is gained by drawing what is there.

A town grows outwards and in density, so the same view holds more Gaussians in a larger one, and
is drawn coarser.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.report import Row, new_table, record, skipped, verdict
from benchmarks.scenes import REPOSITORY
from benchmarks.stores import StoreShelf, store_bytes
from benchmarks.subject import Advance, ignore_progress
from splat.errors import RenderError

MAX_GROWTH = 1.25
MAX_OVERHEAD_BYTES = 400e6
MAX_OPEN_BYTES = 4e6
TIMEOUT_S = 1800.0
NO_FIGURES = "the memory of a process is known on Linux only"


@dataclass(frozen=True, slots=True)
class ScaleFigures:
    """One size.

    Attributes:
        growth: Median frame over that of the smallest town.
        overhead_mb: Peak memory above the budgets; negative below them.
        store_gb: On disk.
    """

    growth: float
    overhead_mb: float
    open_mb: float
    store_gb: float
    bar: float = MAX_GROWTH

    @property
    def passed(self) -> bool:
        """Whether all bars are reached."""
        return (
            self.growth <= self.bar
            and 1e6 * self.overhead_mb <= MAX_OVERHEAD_BYTES
            and 1e6 * self.open_mb <= MAX_OPEN_BYTES
        )


def run(sizes: Sequence[int], shelf: StoreShelf, advance: Advance = ignore_progress) -> list[Row]:
    """Towns of these sizes; ``ScaleFigures`` with the verdict each.

    Args:
        advance: Called after each build and each look.
    """
    if not Path("/proc/self/status").is_file():
        return [skipped("scale", "town", "", NO_FIGURES)]
    rows: list[Row] = []
    for size in sorted(sizes):
        store = shelf.store(f"town-{size}")
        advance()
        seen = look(store)
        advance()
        smallest_ms = rows[0]["frame_ms_p50"] if rows else seen["frame_ms_p50"]
        figures = ScaleFigures(
            growth=seen["frame_ms_p50"] / smallest_ms,
            overhead_mb=1e-6 * (seen["peak_bytes"] - seen["budget_bytes"]),
            open_mb=1e-6 * seen["open_bytes"],
            store_gb=1e-9 * store_bytes(store),
        )
        rows.append(record("scale", figures, {"scene": f"town-{size}", "path": ""}, seen))
    return rows


def look(store: Path) -> dict[str, Any]:
    """``scale_probe.Probe`` of a store, from a process of its own.

    Raises:
        RenderError: If that fails.
    """
    command = [sys.executable, "-m", "benchmarks.scale_probe", str(store.resolve())]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise RenderError(f"{store}: looking at it failed and said: {said[-1]}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"scale: the same views and budgets; bars: frames ≤ {MAX_GROWTH} times the smallest "
        f"town's, memory ≤ budgets + {1e-6 * MAX_OVERHEAD_BYTES:.0f} MB, "
        f"opening ≤ {1e-6 * MAX_OPEN_BYTES:.0f} MB",
        ["scene"],
        [
            "chunks",
            "store GB",
            "frame ms p50",
            "p95",
            "times",
            "choosing ms",
            "drawn K",
            "opened MB",
            "opened s",
            "complete s",
            "peak MB",
            "over budgets",
            "bar",
        ],
    )
    for row in rows:
        table.add_row(
            row["scene"],
            str(row["chunks"]),
            f"{row['store_gb']:.2f}",
            f"{row['frame_ms_p50']:.1f}",
            f"{row['frame_ms_p95']:.1f}",
            f"{row['growth']:.2f}",
            f"{row['select_ms_p50']:.1f}",
            f"{row['drawn'] / 1e3:.0f}",
            f"{row['open_mb']:.2f}",
            f"{row['open_s']:.2f}",
            f"{row['settle_s']:.1f}",
            f"{1e-6 * row['peak_bytes']:.0f}",
            f"{row['overhead_mb']:+.0f}",
            verdict(row),
        )
    return table
