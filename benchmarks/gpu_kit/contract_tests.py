"""The tests that want a device, in a process of their own: pytest, without what is missing here.

Only files that name the mark are collected: others need packages that a bare machine lacks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
MARK = "pytest.mark.gpu"
NOTHING_COLLECTED = 5  # pytest's exit status
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


def run(bench: Bench, tell: Tell, *, files: str, patience_s: float) -> None:
    """Counts of what passed and failed, and the end of what pytest says.

    Args:
        files: ``ours``, or ``gsplat``: those of the peer, whose kernels take minutes to compile.
        patience_s: After which pytest is ended, and what it said until then is told.

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
    said = bench.work / "pytest.txt"
    pytest = (sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", str(REPOSITORY))
    with open(said, "wb") as output:
        process = subprocess.Popen(
            [*pytest, *bench.plan.tests, *map(str, found)],
            cwd=REPOSITORY,
            env={**os.environ, "TRITON_INTERPRET": "1" if bench.plan.dry else "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status: int | None = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = None
    text = said.read_text("utf-8", errors="replace")
    counts = counts_of(text)
    tell(
        {"table": "tests", "files": files, **counts, "status": status, "said": text[-_MOST_OUTPUT:]}
    )
    if status == NOTHING_COLLECTED:
        raise Absent("no test wants a device")
    if status is None:
        raise RuntimeError(f"not over after {patience_s:.0f} s")
    if status:
        raise RuntimeError(f"{counts['failed']} tests failed, {counts['errors']} could not run")


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
