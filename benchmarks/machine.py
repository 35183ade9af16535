"""The machine that a measurement was made on, as far as its figures depend on it."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from splat.cores import usable_cores

NAMED_PACKAGES = ("belvedere", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """Who measured, and how busy it was.

    Attributes:
        cpu: The processor's name for itself.
        cores: Processors that this process may use.
        instruction_set: The native kernels in use.
        memory_gb: Physical memory.
        system: Operating system.
        python: Version of the interpreter.
        versions: Of the packages that matter, by name.
        load_average: Runnable processes during the last minute before the run, None where
            the system does not tell. Above ~0.5 another program takes part in the figures.
        date: Day of the measurement, UTC.
    """

    cpu: str
    cores: int
    instruction_set: str
    memory_gb: float
    system: str
    python: str
    versions: dict[str, str]
    load_average: float | None
    date: str

    def describe(self) -> str:
        """One line for people."""
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        load = "" if self.load_average is None else f"; load average {self.load_average:.1f}"
        return (
            f"{self.cpu}, {self.cores} cores, {self.instruction_set} kernels, "
            f"{self.memory_gb:.0f} GB RAM; {self.system}; Python {self.python}, {packages}; "
            f"{self.date}{load}"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, as a record beside those of the benchmarks."""
        return {"benchmark": "machine", **asdict(self)}


def this_machine(instruction_set: str) -> Machine:
    """The machine as it is now."""
    return Machine(
        cpu=_cpu_name(),
        cores=usable_cores(),
        instruction_set=instruction_set,
        memory_gb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        system=_system_name(),
        python=platform.python_version(),
        versions={name: _version(name) for name in NAMED_PACKAGES},
        load_average=_load_average(),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
