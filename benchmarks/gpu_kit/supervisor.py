"""Runs steps in processes of their own, each for as long as it may; tells what became of them.

What only prepares runs in lanes beside; steps that measure wait for them, but not for ever, and
where one waits for a certain step beside, those after it that do not may begin before it. A process
serves many steps, so that what was brought to the device stays there; it is replaced after one that
failed, as an error of a device spoils all that follow in its process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_kit.plan import DEVICE, Lane, Step
from benchmarks.gpu_kit.results import Results, StepRecord
from benchmarks.report import Row
from rendering.process_session import end_session
from splat.closing import Closing

REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = ("-m", "benchmarks.gpu_kit.worker")
_CHUNK = 1 << 16

Heard = Callable[[StepRecord], None]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What all processes are given.

    Attributes:
        first_line: The plan and its folders, as ``worker`` reads them.
        environment: Of the processes.
        log: Where what they print goes.
    """

    first_line: str
    environment: Mapping[str, str]
    log: Path


class Worker(Closing):
    """A process that performs steps, started when there is one."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._rest = b""

    def perform(self, step: Step, limit_s: float, hear: Callable[[Row], None]) -> StepRecord:
        """One step; afterwards the process is there only if all went well."""
        began_s = time.monotonic()
        answer = self._perform(step, limit_s, hear)
        if answer["status"] not in ("done", "absent"):
            self.close()
        if answer["status"] == "late":
            answer["problem"] = f"not over after {limit_s:.0f} s"
        return StepRecord(
            step.name,
            answer["status"],
            round(time.monotonic() - began_s, 2),
            answer.get("problem", ""),
            answer.get("traceback", ""),
        )

    def kill(self) -> None:
        """Ends the process, and all that it started; from any thread."""
        process = self._process
        if process is not None:
            end_session(process.pid)

    def close(self) -> None:
        """As ``kill``, and gives back what it held; from the thread that lets it perform."""
        self.kill()
        process, self._process = self._process, None
        if process is None:
            return
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        os.close(self._answers)

    def _perform(self, step: Step, limit_s: float, hear: Callable[[Row], None]) -> dict[str, Any]:
        deadline_s = time.monotonic() + limit_s
        try:
            self._tell(step.to_json(limit_s))
        except OSError as error:
            return {"status": "died", "problem": f"its process could not be reached ({error})"}
        while (line := self._line(deadline_s)) is not None:
            if not line:
                return {"status": "died", "problem": self._how_it_ended()}
            answer: dict[str, Any] = json.loads(line)
            if "row" not in answer:
                return answer
            hear({"step": step.name, **answer["row"]})
        return {"status": "late"}

    def _tell(self, line: str) -> None:
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _start(self) -> None:
        self._answers, theirs = os.pipe()
        self._rest = b""
        try:
            with open(self._setting.log, "ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, *WORKER, str(theirs)],
                    cwd=REPOSITORY,
                    env=dict(self._setting.environment),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
        finally:
            os.close(theirs)
        self._tell(self._setting.first_line)

    def _line(self, deadline_s: float) -> bytes | None:
        """The next answer; empty at the end of the process, None when time is over."""
        while b"\n" not in self._rest:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._answers], [], [], left_s)[0]:
                return None
            more = os.read(self._answers, _CHUNK)
            if not more:
                return b""
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "its process no longer answers"
        return f"its process ended {'by signal' if status < 0 else 'with status'} {abs(status)}"


def device_problem(setting: Setting) -> str:
    """Why nothing can be measured, found out before anything is begun; empty if it can."""
    with Worker(setting) as worker:
        return worker.perform(DEVICE, DEVICE.limit_s, lambda _: None).problem


class Supervisor(Closing):
    """Sees to it that every step has its turn and its end.

    Args:
        setting: Of processes.
        results: Where rows and steps go.
        minutes: After which no step begins, and none goes on.
        quiet_after_s: How long steps wait for what runs beside, if they do not need it.
        heard: Is told of each step when it is over.
    """

    def __init__(
        self,
        setting: Setting,
        results: Results,
        *,
        minutes: float,
        quiet_after_s: float,
        heard: Heard,
    ) -> None:
        self._setting, self._results, self._heard = setting, results, heard
        self._began_s = time.monotonic()
        self._deadline_s = self._began_s + 60 * minutes
        self._quiet_s = min(self._deadline_s, self._began_s + quiet_after_s)
        self._here = Worker(setting)
        self._beside: list[_Beside] = []
        self._changed = threading.Condition()
        self._ended = False

    def run(self, steps: Sequence[Step], beside: Sequence[Lane] = ()) -> None:
        """All of them, each lane ``beside`` at the same time as the first of ``steps``."""
        self._beside = [_Beside(lane, Worker(self._setting)) for lane in beside]
        for each in self._beside:
            each.thread = threading.Thread(target=self._prepare, args=(each,), daemon=True)
            each.thread.start()
        left = list(steps)
        while left:
            step = left.pop(self._next(left))
            if self._ended:
                self._over(StepRecord(step.name, "left out", 0.0, "an earlier step was needed"))
                continue
            meanwhile = ", ".join(self._pending())
            well = self._one(self._here, step, self._deadline_s, meanwhile if step.quiet else "")
            self._ended = step.needed and not well

    def close(self) -> None:
        """Ends all processes."""
        self._ended = True
        for each in self._beside:
            each.worker.kill()
        self._here.close()
        for each in self._beside:
            if each.thread is not None:
                each.thread.join(10.0)

    def _prepare(self, beside: _Beside) -> None:
        deadline_s = min(self._deadline_s, self._began_s + beside.lane.limit_s)
        try:
            for step in beside.lane.steps:
                if self._ended:
                    break
                self._one(beside.worker, step, deadline_s)
                if step is beside.lane.steps[-1]:
                    beside.worker.close()  # its memory and its threads are for those that measure
                self._is_over(beside, [step.name])
        finally:
            beside.worker.close()
            self._is_over(beside, beside.pending)

    def _is_over(self, beside: _Beside, names: Sequence[str]) -> None:
        with self._changed:
            beside.pending = [name for name in beside.pending if name not in names]
            self._changed.notify_all()

    def _next(self, steps: Sequence[Step]) -> int:
        """The place of the first that may begin; waits until there is one."""
        with self._changed:
            while True:
                for place, step in enumerate(steps):
                    if self._ended or self._may_begin(step):
                        return place
                now_s = time.monotonic()
                until_s = self._quiet_s if now_s < self._quiet_s else self._deadline_s
                self._changed.wait(until_s - now_s)

    def _may_begin(self, step: Step) -> bool:
        now_s, pending = time.monotonic(), self._pending()
        if now_s >= self._deadline_s:
            return True  # only to be left out
        if step.after in pending:
            return False
        return not (step.quiet and pending) or now_s >= self._quiet_s

    def _pending(self) -> list[str]:
        """Steps beside that are not over."""
        return [name for each in self._beside for name in each.pending]

    def _one(self, worker: Worker, step: Step, deadline_s: float, meanwhile: str = "") -> bool:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            record = StepRecord(step.name, "left out", 0.0, "no time was left")
        else:
            record = worker.perform(step, min(step.limit_s, left_s), self._results.add_row)
        if self._ended and record.status == "died":
            record = replace(record, status="left out", problem="the run was ended")
        if meanwhile and record.status == "done":
            record = replace(record, problem=f"{meanwhile}: still at work when it began")
        self._over(record)
        return record.status == "done"

    def _over(self, record: StepRecord) -> None:
        self._results.add_step(record)
        self._heard(record)


@dataclass(slots=True, eq=False)
class _Beside:
    """A lane at work; ``pending`` are the names of its steps that are not over."""

    lane: Lane
    worker: Worker
    thread: threading.Thread | None = None
    pending: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.pending = [step.name for step in self.lane.steps]
