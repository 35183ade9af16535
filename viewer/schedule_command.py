"""``belvedere schedule``: what several devices could do together, by simulation on measured costs.

The docstrings of the options are help texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from configs.settings import Range
from splat.atomic_file import check_writable
from splat.errors import SettingsError
from viewer.option_types import NO_HINT, File, Flag, Number, Whole, hint
from viewer.ranges import require_in_range

if TYPE_CHECKING:
    from rendering.assignment import RatedDevice
    from rendering.frame_tasks import Machine
    from rendering.schedule import Schedule
    from rendering.schedule_search import Problem

Say = Callable[[str], None]
ObjectiveName = Literal["latency", "throughput", "fewest-devices"]
DEFAULT_FPS, DEFAULT_DEVICES = 30.0, 2
FPS, EYES, CLIENTS, DEVICES = Range(0.1, 1000), Range(1, 2), Range(1, 64), Range(1, 16)
WEIGHT = Range(1e-6, 1e6)
REQUESTS = 300  # of all clients that are simulated: seconds of work for the search


@dataclass(frozen=True, slots=True)
class ScheduleCommand:
    """Find the best schedule for several devices, or check one of your own.

    Schedules are compared by a simulator, on costs of stages that were measured. With a FILE it is
    checked, and simulated beside those that Belvedere comes with.

    Example: belvedere schedule --explain --devices cpu:0=1 cpu:1=0.6 --eyes 2
    """

    file: Annotated[Positional[Path | None], arg(metavar="[FILE]", help_behavior_hint="")] = None
    """A schedule (YAML) to check; docs/schedules.md has the language."""
    explain: Flag = False
    """Say why the best is best: critical paths, idle time, a timeline."""
    devices: Annotated[
        tuple[str, ...], arg(metavar="N|NAME=WEIGHT..."), hint("those of the costs, or 2")
    ] = ()
    """How many equal devices, or names with weights, such as cpu:0=1 cpu:1=0.6."""
    objective: Annotated[ObjectiveName, hint("latency")] = "latency"
    """Answer soonest, show most frames, or hold --fps with the fewest devices."""
    fps: Annotated[Number, hint(f"{DEFAULT_FPS:g}")] = None
    """Frames a second that each client asks for."""
    eyes: Annotated[Whole, hint(1)] = None
    """2 for a headset, 1 for a picture in a browser."""
    clients: Annotated[Whole, hint(1)] = None
    """How many ask; with --eyes 2, the first of them wears the headset."""
    costs: Annotated[File, hint("measured with the built-in town")] = None
    """Measured costs (YAML), as belvedere bench --only devices --work leaves them."""
    approximate: Flag = False
    """Admit schedules whose pictures are only nearly those of one device."""
    save: Annotated[File, NO_HINT] = None
    """Write the best schedule as YAML."""
    timeline: Annotated[File, NO_HINT] = None
    """Draw some of its frames as an .svg picture."""
    trace: Annotated[File, NO_HINT] = None
    """Write all of them as Chrome trace events, which Perfetto opens."""
    debug: Flag = False
    """Log more, and show where an error came from."""

    def run(self, say: Say) -> None:
        """Print it."""
        from rendering.schedule_search import search
        from viewer.schedule_report import ScheduleReport, write_outputs

        own = [_schedule_of(str(self.file))] if self.file is not None else []
        problem = self.problem()
        self._require_outputs()
        result = search(problem, (*own, *shipped_schedules()))
        report = ScheduleReport(problem, result, own[0] if own else None)
        if self.file is not None:
            say(f"{self.file}: {report.checked()}")
        report.print_table()
        if self.explain:
            report.print_explanation()
        for path in write_outputs(report.shown, self.save, self.timeline, self.trace):
            say(str(path))

    def _require_outputs(self) -> None:
        """Before the search, what would fail after it.

        Raises:
            SettingsError: If the timeline is to be a picture of another kind.
            OutputError: If a file cannot be written.
        """
        if self.timeline is not None and self.timeline.suffix.lower() != ".svg":
            raise SettingsError(
                f"--timeline {self.timeline}: it is drawn as SVG; use a name that ends in .svg"
            )
        for path in (self.save, self.timeline, self.trace):
            if path is not None:
                check_writable(path)

    def problem(self) -> Problem:
        """What a schedule is wanted for.

        Raises:
            SettingsError: If an option is out of range, or the file of costs is wrong.
        """
        from configs.schedules import measured_costs_text
        from rendering.arrivals import Viewer, saturated, steady
        from rendering.cost_file import parse_costs, read_costs
        from rendering.fairness import Urgency
        from rendering.frame_tasks import Machine
        from rendering.schedule import Fidelity
        from rendering.schedule_search import Objective, Problem

        require_in_range("--fps", self.fps, FPS)
        require_in_range("--eyes", self.eyes, EYES)
        require_in_range("--clients", self.clients, CLIENTS)
        fps, eyes, count = self.fps or DEFAULT_FPS, self.eyes or 1, self.clients or 1
        measured = (
            parse_costs(measured_costs_text(), "the built-in costs")
            if self.costs is None
            else read_costs(self.costs)
        )
        machine = measured.machine or Machine(_numbered(DEFAULT_DEVICES))
        if self.devices:
            machine = _machine(self.devices, machine.host_lanes)
        viewers = [
            Viewer(
                f"client {i + 1}",
                eyes if i == 0 else 1,
                Urgency.VR if eyes == 2 and i == 0 else Urgency.MOVING,
                fps,
            )
            for i in range(count)
        ]
        objective = Objective(self.objective)
        requests = (
            saturated(viewers, REQUESTS // count)
            if objective is Objective.THROUGHPUT
            else steady(viewers, REQUESTS / count / fps)
        )
        worst = Fidelity.APPROXIMATE if self.approximate else Fidelity.IDENTICAL
        return Problem(machine, measured.costs, requests, objective, worst)


def _schedule_of(name: str) -> Schedule:
    """A shipped one, or that of a file."""
    from configs.schedules import SHIPPED
    from rendering.schedule_file import read_schedule

    if name in SHIPPED:
        return next(schedule for schedule in shipped_schedules() if schedule.name == name)
    return read_schedule(name)


def shipped_schedules() -> tuple[Schedule, ...]:
    """Those that Belvedere comes with."""
    from configs.schedules import shipped_texts
    from rendering.schedule_file import parse_schedule

    return tuple(parse_schedule(text, f"{name}.yaml") for name, text in shipped_texts().items())


def _machine(words: Sequence[str], host_lanes: int) -> Machine:
    from rendering.frame_tasks import Machine

    devices = tuple(_devices(words))
    try:
        return Machine(devices, host_lanes)
    except ValueError as error:
        raise SettingsError(f"--devices: {error}; choose others, such as cpu:0") from None


def _numbered(count: int) -> tuple[RatedDevice, ...]:
    from rendering.assignment import RatedDevice

    return tuple(RatedDevice(f"cpu:{i}") for i in range(count))


def _devices(words: Sequence[str]) -> Iterator[RatedDevice]:
    """``4``, or ``cpu:0=1 cpu:1=0.6``, where a name alone has weight 1."""
    from rendering.assignment import RatedDevice

    if len(words) == 1 and words[0].isdecimal():
        require_in_range("--devices", int(words[0][:9]), DEVICES)
        yield from _numbered(int(words[0]))
        return
    require_in_range("--devices", len(words), DEVICES)
    seen = set()
    for word in words:
        name, assigned, weight = word.partition("=")
        if name in seen or not name:
            raise SettingsError(f"--devices: {word!r}: needs a name of its own, such as cpu:1=0.6")
        seen.add(name)
        yield RatedDevice(name, _weight(word, weight) if assigned else 1.0)


def _weight(word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value not in WEIGHT:
        raise SettingsError(f"--devices: {word!r}: a weight is above 0, such as cpu:1=0.6")
    return value
