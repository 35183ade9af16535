"""Steps that go wrong, for the tests of the kit's supervisor; they need no device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell


def well(bench: Bench, tell: Tell, *, value: float = 1.0) -> None:
    """Measures something, and what cannot be a number in JSON, too."""
    tell({"table": "faults", "value": value, "process": os.getpid()})


def lack(bench: Bench, tell: Tell) -> None:
    """Is not to be had here."""
    raise Absent("there is none")


def fail(bench: Bench, tell: Tell) -> None:
    """Raises after a measurement."""
    tell({"table": "faults", "value": 2.0})
    raise ValueError("the first line\nand another")


def hang(bench: Bench, tell: Tell) -> None:
    """Never ends, nor does what it started, in a group of its own as ninja starts compilers; says
    after a measurement who that is."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import os, time; os.setpgrp(); time.sleep(600)"]
    )
    tell({"table": "faults", "value": 3.0, "process": os.getpid(), "child": child.pid})
    while True:
        time.sleep(60)


def die(bench: Bench, tell: Tell) -> None:
    """Ends its process, as a fault of a driver would."""
    tell({"table": "faults", "value": 4.0})
    os.kill(os.getpid(), signal.SIGSEGV)


def is_there(process: int) -> bool:
    """Whether a process runs, and is no mere entry of one that ended."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
