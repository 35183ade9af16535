"""What ``belvedere schedule`` found, as tables, a timeline and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rendering.chrome_trace import chrome_trace, chrome_trace_text
from rendering.schedule import Schedule
from rendering.schedule_explanation import describe, reasons
from rendering.schedule_file import schedule_text
from rendering.schedule_search import Finding, Problem, SearchResult
from rendering.simulation import PATH_ORDER
from rendering.timeline import lanes_of
from rendering.timeline_picture import LETTERS, some_frames, to_lines, to_svg
from splat.atomic_file import atomic_file
from viewer.text import counted

PLAIN_WIDTH = 150  # columns of a table that goes into a pipe
FIRST_FRAME, FRAMES = 20, 6  # of a timeline
BAR_COLUMNS = 100


@dataclass(frozen=True, slots=True)
class ScheduleReport:
    """A search for people.

    Attributes:
        own: The schedule of the user's file, which is among the fixed ones.
    """

    problem: Problem
    result: SearchResult
    own: Schedule | None = None

    @property
    def shown(self) -> Finding:
        """The finding that timelines and files are of: the user's own, or the best."""
        own = [finding for finding in self.result.fixed if finding.schedule == self.own]
        return own[0] if own else self.result.best

    def checked(self) -> str:
        """A line about the user's schedule, which is a valid one."""
        assert self.own is not None
        compared = any(finding.schedule == self.own for finding in self.result.fixed)
        hint = "" if compared else "; not compared without --approximate"
        return f"is a valid schedule: {describe(self.own)}{hint}"

    def print_table(self) -> None:
        """The best, the runners-up and the fixed ones, on the standard output."""
        console = _console()
        console.print(Text(f"Costs: {self.problem.costs.about or 'of a file'}"), soft_wrap=True)
        table = Table(title=self._title(), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for heading in ("", "schedule", "split", "overlap"):
            table.add_column(heading, no_wrap=True)
        for heading in ("devices", "p50 ms", "p95 ms", "frames/s", "shown", "idle"):
            table.add_column(heading, justify="right")
        for mark, finding in self._rows():
            simulation = finding.simulation
            table.add_row(
                mark,
                finding.schedule.name,
                finding.schedule.describe_split(),
                finding.schedule.describe_overlap(),
                str(len(simulation.devices)),
                f"{simulation.latency(0.50):.1f}",
                f"{simulation.latency(0.95):.1f}",
                f"{simulation.frames_per_s:.1f}",
                f"{simulation.answered_share:.0%}",
                f"{simulation.idle_share:.0%}",
            )
        console.print(table)

    def print_explanation(self) -> None:
        """Why, where the time goes, and a timeline."""
        console = _console()
        console.print()
        for line in reasons(self.result, self.problem.objective):
            console.print(Text(f"- {line}"), soft_wrap=True)
        console.print(
            Text(
                f"- {self.result.considered:,} schedules were looked at, "
                f"{self.result.simulated:,} simulated"
            )
        )
        console.print()
        console.print(self._paths())
        console.print()
        for line in self._timeline():
            console.print(Text(line), soft_wrap=True)

    def _title(self) -> str:
        count = len({request.client for request in self.problem.requests})
        who = f"{counted(count, 'clients')}"
        eyes = ", one with a headset" if self.problem.eyes == 2 and count > 1 else ""
        alone = ", a headset" if self.problem.eyes == 2 and count == 1 else ""
        machine = self.problem.machine
        devices = ", ".join(f"{d.name} ({d.weight:g})" for d in machine.devices)
        return f"{self.problem.objective.value} of {who}{eyes}{alone} on {devices}"

    def _rows(self) -> Iterator[tuple[str, Finding]]:
        best = self.result.best
        yield "best", best
        for finding in self.result.runners_up:
            yield "", finding
        for finding in self.result.fixed:
            if finding is not best:
                yield "own" if finding.schedule == self.own else "shipped", finding

    def _paths(self) -> Table:
        """Of each schedule, what the mean frame's time goes to."""
        rows = [(finding, finding.simulation.mean_path_ms()) for _, finding in self._rows()]
        columns = [what for what in PATH_ORDER if any(what in path for _, path in rows)]
        title = "Critical path of the mean frame, from the request to the picture, ms"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("schedule", no_wrap=True)
        for what in (*columns, "together"):
            table.add_column(what, justify="right")
        for finding, path in rows:
            cells = [f"{path[what]:.1f}" if what in path else "" for what in columns]
            table.add_row(finding.schedule.name, *cells, f"{sum(path.values()):.1f}")
        return table

    def _timeline(self) -> Iterator[str]:
        simulation = self.shown.simulation
        window = some_frames(simulation.spans, FIRST_FRAME, FRAMES)
        lanes = lanes_of(simulation.spans, simulation.devices)
        width = max(len(lane) for lane in lanes)
        used = {span.stage for span in simulation.spans}
        legend = ", ".join(f"{LETTERS[what]} {what}" for what in LETTERS if what in used)
        yield (
            f"{self.shown.schedule.name}, {window.length_ms:.0f} ms: {legend}; "
            "capitals and small letters are frames in turn"
        )
        lines = to_lines(simulation.spans, lanes, window, BAR_COLUMNS)
        for lane, line in zip(lanes, lines, strict=True):
            yield f"{lane:>{width}} {line}"


def write_outputs(
    finding: Finding, save: Path | None, timeline: Path | None, trace: Path | None
) -> Iterator[Path]:
    """The files that were asked for; yields each when it is there.

    Raises:
        OutputError: If one cannot be written.
    """
    simulation = finding.simulation
    lanes = lanes_of(simulation.spans, simulation.devices)
    texts = []
    if save is not None:
        texts.append((save, schedule_text(finding.schedule)))
    if timeline is not None:
        window = some_frames(simulation.spans, FIRST_FRAME, FRAMES)
        title = f"{finding.schedule.name}: {describe(finding.schedule).split(': ', 1)[1]}"
        texts.append((timeline, to_svg(simulation.spans, lanes, window, title=title)))
    if trace is not None:
        events = chrome_trace(simulation.timeline, about={"schedule": finding.schedule.name})
        texts.append((trace, chrome_trace_text(events)))
    for path, text in texts:
        with atomic_file(path) as file:
            file.write_text(text, encoding="utf-8")
        yield path


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
