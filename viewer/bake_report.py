"""What a bake came to, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rendering.models.bake import BakeReport
from splat.text import counted

_HEADINGS = ("level", "Gaussians", "seconds", "as converted", "PSNR held out", "worst", "file")


@dataclass(frozen=True, slots=True)
class LevelReport:
    """What one level of detail came to.

    Attributes:
        level: 0 is the coarsest.
        path: What was written.
        seconds: All of it took.
    """

    level: int
    path: Path
    report: BakeReport
    seconds: float

    @property
    def cells(self) -> tuple[str, ...]:
        """Of ``_HEADINGS``."""
        report = self.report
        start = "" if report.start_db is None else f"{report.start_db:.1f} dB"
        return (
            f"{self.level}",
            f"{report.gaussians:,}",
            f"{self.seconds:.1f}",
            start,
            f"{report.psnr_db:.1f} dB",
            f"{report.worst_db:.1f} dB",
            f"{self.path}",
        )


def level_table(levels: Sequence[LevelReport]) -> str:
    """Several levels, a line each: each PSNR is against the scene drawn with the same levels."""
    rows = [_HEADINGS, *(level.cells for level in levels)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([*map(str.rjust, row[:-1], widths[:-1]), row[-1]]) for row in rows)


def report_line(path: Path, report: BakeReport, seconds: float) -> str:
    """What was written.

    Args:
        seconds: All of it took.
    """
    converting = "" if report.start_db is None else f"converting {report.convert_seconds:.1f} s, "
    fitting_s = report.seconds - report.draw_seconds - report.convert_seconds
    return (
        f"{path}: {counted(report.gaussians, 'Gaussians')}, {seconds:.1f} s, of which {converting}"
        f"pictures took {report.draw_seconds:.1f} s and {counted(report.rounds, 'rounds')} of "
        f"fitting {fitting_s:.1f} s"
    )


def quality_line(report: BakeReport) -> str:
    """What it is worth."""
    where = "training cameras" if report.trained else "views around it"
    start = "" if report.start_db is None else f"; before fitting {report.start_db:.1f} dB"
    return (
        f"PSNR against the scene, of {report.held} {where} held out: mean {report.psnr_db:.1f} "
        f"dB, worst {report.worst_db:.1f} dB{start}"
    )


def poor_line(path: Path, report: BakeReport) -> str:
    """What a user should know who gets less than was hoped for."""
    return (
        f"{path}: {report.psnr_db:.1f} dB is poor, and will be seen; try more --gaussians, --views "
        f"or a larger --size"
    )
