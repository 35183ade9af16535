"""``python3 -m benchmarks.gpu_kit``: see the package's text."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from benchmarks.packages import STATUS, end_without, line_of, missing

# OpenCV, PyYAML, fsspec and aiohttp load with scenes and pictures.
NEEDED = ("numpy", "rich", "torch", "triton", "cv2", "yaml", "fsspec", "aiohttp")

try:
    from rich.console import Console

    from benchmarks.gpu_kit.plan import DRY, FULL, Plan, lanes_beside, steps_of
    from benchmarks.gpu_kit.results import Results, StepRecord, to_json
    from benchmarks.gpu_kit.supervisor import Setting, Supervisor, device_problem
    from benchmarks.gpu_kit.tables import tables_of, to_markdown_page
    from splat.atomic_file import atomic_file
    from splat.errors import BelvedereError
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    end_without(error, NEEDED)

WIDTH = 200  # columns of a table that goes into a file
WELL = ("done", "absent")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the kit; 1 if a step failed or was not reached, or without a device, 2 if it lacks what
    it needs."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    words = _parser().parse_args(arguments)
    plan = _plan_of(words)
    out: Path = words.out
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="belvedere-gpu-kit-") as temporary:
            work = Path(temporary)
            search = _unpacked(words.wheels, work / "wheels")
            if lacking := missing(NEEDED, search):
                console.print(line_of(lacking), markup=False, soft_wrap=True)
                return STATUS
            setting = _setting(plan, out, work, search)
            if not plan.dry and (problem := device_problem(replace(setting, log=work / "log"))):
                console.print(f"error: {problem}", markup=False, soft_wrap=True)
                return 1
            out.mkdir(parents=True, exist_ok=True)
            command = shlex.join(["python3", "-m", "benchmarks.gpu_kit", *arguments])
            results = Results(
                out / "gpu_kit.json",
                {"command": command, "dry": plan.dry, "plan": plan.to_json()},
            )
            finished = _run(plan, results, partial(_write_page, out, command), setting, console)
    except BelvedereError as error:
        console.print(f"error: {error}", markup=False)
        return STATUS
    tables = tables_of(results.rows, results.steps, dry=plan.dry)
    for table in tables:
        console.print(table)
    well = all(step.status in WELL for step in results.steps)
    return 0 if finished and well else 1


def _run(
    plan: Plan,
    results: Results,
    write: Callable[[Plan, Results], None],
    setting: Setting,
    console: Console,
) -> bool:
    """All steps; whether all had their turn: an interrupt ends them and leaves what there is."""

    def heard(step: StepRecord) -> None:
        because = f": {step.problem}" if step.problem else ""
        line = (
            f"{'DRY ' if plan.dry else ''}{step.name}: {step.status}, {step.seconds:.1f} s{because}"
        )
        console.print(line, markup=False, soft_wrap=True)
        write(plan, results)

    setting.log.write_bytes(b"")
    supervisor = Supervisor(
        setting, results, minutes=plan.minutes, quiet_after_s=plan.prepare_s, heard=heard
    )
    with supervisor:
        try:
            supervisor.run(steps_of(plan), lanes_beside(plan))
        except KeyboardInterrupt:
            console.print("interrupted; what was measured is kept")
            return False
    results.finish()
    return True


def _setting(plan: Plan, out: Path, work: Path, search: Sequence[str]) -> Setting:
    first_line = to_json({"plan": plan.to_json(), "work": str(work), "out": str(out.resolve())})
    return Setting(first_line, _environment(plan, search), out / "gpu_kit.log")


def _write_page(out: Path, command: str, plan: Plan, results: Results) -> None:
    tables = tables_of(results.rows, results.steps, dry=plan.dry)
    with atomic_file(out / "gpu_kit.md") as temporary:
        temporary.write_text(to_markdown_page(tables, command, dry=plan.dry), "utf-8")


def _environment(plan: Plan, search: Sequence[str]) -> Mapping[str, str]:
    """Kernels are made for the interpreter, or for a device, when Triton is imported."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*search, *([before] if before else [])])
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**kept, "PYTHONPATH": path, **({"TRITON_INTERPRET": "1"} if plan.dry else {})}


def _unpacked(wheels: Path | None, folder: Path) -> list[str]:
    """Where the contents of wheels are found."""
    if wheels is None:
        return []
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return [str(folder)]


def _plan_of(words: argparse.Namespace) -> Plan:
    plan = DRY if words.dry else FULL
    if words.scene:
        plan = replace(plan, scenes=tuple(words.scene))
    return plan if words.minutes is None else replace(plan, minutes=words.minutes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.gpu_kit",
        description="Measure a GPU: tests, frames, pictures, traces; see docs/benchmarks.md.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_kit_results"), help="folder of the results"
    )
    parser.add_argument(
        "--dry", action="store_true", help="on the CPU, tiny: a test of the kit itself"
    )
    parser.add_argument(
        "--scene", nargs="+", metavar="SCENE", help="town-N, park, or a path; the first is the main"
    )
    parser.add_argument("--minutes", type=float, help=f"stop after so many ({FULL.minutes:g})")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels to take along")
    return parser


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
