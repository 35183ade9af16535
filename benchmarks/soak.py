"""Does a viewer that is looked at for long stay as it is?

Four browsers and one that shows two eyes look at one streamed scene for ten minutes, moving in
turn and resting in between. The server's memory is looked at all the time. Bars: it does not grow
after the first minutes, nothing is said in the log that is not meant to be, and everybody gets
pictures to the end. Not part of a usual run: ask for it with ``--only soak``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.chromium import ChromiumPage, running_chromium
from benchmarks.report import Row, new_table, record, verdict
from benchmarks.scenes import Size
from benchmarks.subject import Advance, ignore_progress
from benchmarks.view_process import ViewProcess
from splat.errors import BelvedereError

VIEWERS = 4
SECONDS = 600.0
SETTLING_SHARE = 0.3  # of the time, in which memory may still grow
TURN_S = 2.0
OPENING_S = 60.0
MAX_GROWTH_MB = 32.0
STEREO_LAYOUT = "Anaglyph"
STEPS = 20


@dataclass(frozen=True, slots=True)
class SoakFigures:
    """One scene.

    Attributes:
        seconds: For how long it was looked at.
        rss_mb_settled, rss_mb_end: The server's memory, medians after the settling time: of
            the first and of the last third of what remains.
        rss_mb_peak: The most there ever was.
        pictures: That each browser got, the stereo one last.
        late_pictures: In the last fifth of the time.
        complaints: Warnings and errors in the log.
    """

    seconds: float
    rss_mb_settled: float
    rss_mb_end: float
    rss_mb_peak: float
    pictures: tuple[int, ...]
    late_pictures: tuple[int, ...]
    complaints: tuple[str, ...]
    bar: float = MAX_GROWTH_MB

    @property
    def passed(self) -> bool:
        """Whether it is as it was."""
        grown = self.rss_mb_end - self.rss_mb_settled
        return grown <= self.bar and not self.complaints and min(self.late_pictures) > 0


def run(
    scene: str,
    words: Sequence[str],
    size: Size,
    seconds: float = SECONDS,
    advance: Advance = ignore_progress,
) -> Row:
    """Look at a scene for long; ``SoakFigures`` with the verdict.

    Args:
        scene: Its name, for the record.
        words: What follows ``belvedere view``.
        size: Of a browser's canvas.
        advance: Called ``STEPS`` times.

    Raises:
        BackendUnavailable: If there is no browser.
        BelvedereError: If the viewer ends, or does not begin.
    """
    with (
        contextlib.closing(ViewProcess(words)) as process,
        running_chromium() as browser,
        contextlib.ExitStack() as kept,
    ):
        url = process.url(OPENING_S)
        pages = []
        for _ in range(VIEWERS + 1):
            page = ChromiumPage(browser, url, size)
            kept.callback(page.close)
            pages.append(page)
        process.wait_whole(OPENING_S * 5)
        pages[-1].choose("Stereo", "Eyes", STEREO_LAYOUT)
        began_s = time.time()
        memory: list[tuple[float, float]] = []
        turn = reported = 0
        while (now_s := time.time() - began_s) < seconds:
            pages[turn % len(pages)].drag(TURN_S)
            turn += 1
            process.require_running()
            memory.append((now_s, rss_mb(process.pid)))
            for _ in range(int(STEPS * now_s / seconds) - reported):
                reported += 1
                advance()
        shown = [np.array([p.at_s for p in page.visit().pictures]) for page in pages]
        complaints = process.complaints
    figures = SoakFigures(
        seconds=seconds,
        **_memory(memory, seconds),
        pictures=tuple(len(at) for at in shown),
        late_pictures=tuple(int((at > began_s + 0.8 * seconds).sum()) for at in shown),
        complaints=complaints,
    )
    about = {"scene": scene, "path": "", "width": size[0], "height": size[1]}
    return record("soak", figures, about)


def rss_mb(pid: int) -> float:
    """Resident memory of a process.

    Raises:
        BelvedereError: If this system does not tell.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError as error:
        raise BelvedereError(f"the memory of process {pid} cannot be read: {error}") from None
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def _memory(samples: Sequence[tuple[float, float]], seconds: float) -> dict[str, float]:
    at, mb = np.array(samples).T
    share = at / seconds
    third = (1 - SETTLING_SHARE) / 3
    first = mb[(share >= SETTLING_SHARE) & (share < SETTLING_SHARE + third)]
    last = mb[share >= 1 - third]
    return {
        "rss_mb_settled": float(np.median(first)) if len(first) else float("nan"),
        "rss_mb_end": float(np.median(last)) if len(last) else float("nan"),
        "rss_mb_peak": float(mb.max()),
    }


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"soak: 4 browsers and one with two eyes; bars: memory grows ≤ {MAX_GROWTH_MB:.0f} MB once "
        "settled, no complaint in the log, pictures for all to the end",
        ("scene",),
        ("minutes", "MB settled", "MB at the end", "peak", "pictures", "late", "complaints", "bar"),
    )
    for row in rows:
        table.add_row(
            row["scene"],
            f"{row['seconds'] / 60:.1f}",
            f"{row['rss_mb_settled']:.0f}",
            f"{row['rss_mb_end']:.0f}",
            f"{row['rss_mb_peak']:.0f}",
            " ".join(map(str, row["pictures"])),
            " ".join(map(str, row["late_pictures"])),
            f"{len(row['complaints'])}",
            verdict(row),
        )
    return table
