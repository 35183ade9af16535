"""Which machine it was, and what it does at best."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell
from benchmarks.machine import this_machine

PACKAGES = ("torch", "triton", "numpy", "gsplat")
_PATIENCE_S = 20.0


def find_device(bench: Bench, tell: Tell) -> None:
    """Nothing, if there is a device.

    Raises:
        Absent: If there is none, or PyTorch cannot be loaded.
    """
    try:
        _ = bench.board
    except (ImportError, OSError) as error:
        raise Absent(f"PyTorch cannot be loaded: {error}") from None


def tell_facts(bench: Bench, tell: Tell) -> None:
    """A row of facts, then one of rates, so that the first is there whatever the second does."""
    about = this_machine("native")
    tell(
        {
            "table": "machine",
            **bench.board.facts(),
            "driver": _first_line(
                ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
            ),
            "nvcc": _nvcc(),
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            "cpu": about.cpu,
            "cores": about.cores,
            "memory_gb": about.memory_gb,
            "system": about.system,
            "date": about.date,
            "load_average": about.load_average,
        }
    )
    tell({"table": "rates", **bench.board.rates()})


def _nvcc() -> str:
    """Its release, such as ``release 13.0, V13.0.48``."""
    lines = _output(("nvcc", "--version")).splitlines()
    releases = [line for line in lines if "release" in line]
    return releases[0].partition(", ")[2] if releases else ""


def _first_line(command: Sequence[str]) -> str:
    return next(iter(_output(command).splitlines()), "")


def _output(command: Sequence[str]) -> str:
    """What a program prints; nothing if it is not there, or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
