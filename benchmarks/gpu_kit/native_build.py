"""The CPU engine, where it is not installed: built into the kit's folder, found from there."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell
from splat.cores import usable_cores
from splat.errors import one_line

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {"rendering.native": "_native", "scene_store.native": "_store"}


def build(bench: Bench, tell: Tell) -> None:
    """Builds it, unless it is there.

    Raises:
        Absent: If it cannot be built.
    """
    if is_found(bench.work):
        tell({"table": "native", "how": "found"})
        return
    for command in _commands(bench.work / "build"):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise Absent(f"the native engine cannot be built: {_complaint(done)}")
    # Under its final name only when it is whole.
    (bench.work / "build").rename(_folder(bench.work))
    if not is_found(bench.work):
        raise Absent("the native engine was built, but cannot be loaded")
    tell({"table": "native", "how": "built"})


def is_found(work: Path) -> bool:
    """Whether it can be loaded: installed, or built into the kit's folder."""
    look_in(work)
    try:
        for package, module in MODULES.items():
            importlib.import_module(f"{package}.{module}")
    except ImportError:
        return False
    return True


def look_in(work: Path) -> None:
    """From now on what is installed is looked for first, and then what was built."""
    folder = str(_folder(work))
    for package in MODULES:
        where = importlib.import_module(package).__path__
        if folder not in where:
            where.append(folder)
    importlib.invalidate_caches()


def _folder(work: Path) -> Path:
    return work / "native"


def _commands(folder: Path) -> list[Sequence[str]]:
    cmake, ninja = _tool("cmake"), _tool("ninja")
    if cmake is None or ninja is None:
        raise Absent("the native engine is not installed, and cmake or ninja to build it neither")
    configure = [
        *(cmake, "-S", str(REPOSITORY), "-B", str(folder), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    return [configure, [cmake, "--build", str(folder), "--parallel", str(usable_cores())]]


def _tool(name: str) -> str | None:
    """A program, on the path or beside the interpreter, where pip puts it."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    first = next((line for line in lines if "rror" in line), lines[-1] if lines else "no word")
    return one_line(first)
