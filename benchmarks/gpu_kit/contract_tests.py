"""The tests that want a device, in a process of their own: pytest, without what is missing here.

Only files that name the mark are collected: others need packages that a bare machine lacks.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
MARK = "pytest.mark.gpu"
NOTHING_COLLECTED = 5  # pytest's exit status
OWN_STATUSES = (1, 2, 3, 4)  # pytest's, of failures, interrupts, faults of its own and misuse
TELLING_S, CLOSING_S = 5.0, 5.0  # for pytest to tell what it has, and for what follows
DRY_FILE = "test_fused.py"
PEER = "gsplat"
# Of the project's own settings those that tests depend on; not the least version of pytest, and
# not that warnings of other versions of libraries are errors.
SETTINGS = """[pytest]
pythonpath = {repository}
addopts = --import-mode=importlib -p no:cacheprovider --tb=short -q -ra
xfail_strict = true
markers =
    browser: drives a headless Chromium
    gpu: needs a CUDA device
    node: needs Node.js
    slow: takes more than ten seconds
"""
_MOST_OUTPUT = 6000  # characters
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected|xfailed)")


def run(bench: Bench, tell: Tell, *, files: str) -> None:
    """Counts of what passed and failed, and the end of what pytest says.

    Args:
        files: ``ours``, or ``gsplat``: those of the peer, whose kernels take minutes to compile.

    Raises:
        Absent: If there are none.
        RuntimeError: If one failed, or pytest did not run to its end.
    """
    if files == PEER:
        bench.peer()
    found = [TESTS / DRY_FILE] if bench.plan.dry else files_for_a_device(TESTS)
    found = [file for file in found if (PEER in file.name) == (files == PEER)]
    if not found:
        raise Absent("no test wants a device")
    settings = bench.work / "pytest.ini"
    settings.write_text(SETTINGS.format(repository=REPOSITORY), "utf-8")
    pytest = (sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", str(REPOSITORY))
    patience_s = max(1.0, bench.limit_s - TELLING_S - CLOSING_S)
    environment = {**os.environ, "TRITON_INTERPRET": "1" if bench.plan.dry else "0"}
    status, text = _outcome(
        [*pytest, *bench.plan.tests, *map(str, found)],
        environment,
        bench.work / "pytest.txt",
        patience_s,
    )
    counts = counts_of(text)
    problem = problem_of(status, counts, patience_s)
    row = {"table": "tests", "files": files, **counts, "status": status, "over": not problem}
    tell({**row, "said": text[-_MOST_OUTPUT:]})
    if status == NOTHING_COLLECTED:
        raise Absent("no test wants a device")
    if problem:
        raise RuntimeError(problem)


def _outcome(
    command: Sequence[str], environment: dict[str, str], said: Path, patience_s: float | None
) -> tuple[int | None, str]:
    """The status of a process, None if it was not over in time, and what it said."""
    with open(said, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        status: int | None = None
        try:
            status = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it counts what it has done
            try:
                process.wait(TELLING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return status, said.read_text("utf-8", errors="replace")


def problem_of(status: int | None, counts: dict[str, Any], patience_s: float) -> str:
    """Why the tests cannot be called passed; "" if they can.

    A process may die when it is over, as a driver's library unloads: that is told, and no fault of
    a test.

    Args:
        status: Of pytest's process; below 0 for a signal, None if it was ended.
        counts: Of ``counts_of``.
        patience_s: That pytest was given.
    """
    wrong = f"{counts['failed']} tests failed, {counts['errors']} could not run"
    is_wrong = bool(counts["failed"] or counts["errors"])
    if status is None:
        return f"not over after {patience_s:.0f} s" + (f"; {wrong}" if is_wrong else "")
    if is_wrong:
        return wrong
    if status in OWN_STATUSES or (status not in (0, NOTHING_COLLECTED) and not counts["passed"]):
        return f"pytest did not run to its end: status {status}"
    return ""


def files_for_a_device(folder: Path) -> list[Path]:
    """Test files that name the mark."""
    return [file for file in sorted(folder.rglob("test_*.py")) if MARK in file.read_text("utf-8")]


def counts_of(output: str) -> dict[str, Any]:
    """From the last line of pytest's output that tells any."""
    counts = dict.fromkeys(("passed", "failed", "errors", "skips"), 0)
    for line in reversed(output.splitlines()):
        found = {word: int(number) for number, word in _COUNT.findall(line)}
        if found:
            found["errors"] = found.pop("error", found.get("errors", 0))
            found["skips"] = found.pop("skipped", 0)
            counts.update({name: found.get(name, 0) for name in counts})
            break
    return counts
