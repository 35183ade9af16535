"""The kit that measures a GPU: it must run to its end on a machine that nobody has seen, and what
it measured must be there whatever goes wrong. Nothing is timed, and no device is needed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_kit.plan import (
    DRY,
    FULL,
    PEER_KERNELS,
    Lane,
    Plan,
    Step,
    lanes_beside,
    steps_of,
)
from benchmarks.gpu_kit.results import Results, to_json
from benchmarks.gpu_kit.supervisor import Setting, Supervisor
from benchmarks.gpu_kit.tables import KINDS
from benchmarks.packages import missing
from tests.gpu_kit_faults import is_there

ROOT = Path(__file__).resolve().parents[1]
FAULTS = "tests.gpu_kit_faults"
# What a bare machine with a GPU lacks; it has torch, Triton and numpy.
MISSING = ("tyro", "viser", "zstandard", "gsplat", "OpenEXR", "playwright", "plyfile", "s3fs")
NATIVE = (
    "rendering.native._native",
    "rendering.models.native._neural",
    "scene_store.native._store",
)
NEEDS_NATIVE = ("binocular", "paging")


# The run as a whole


@pytest.mark.slow
def test_a_dry_run_comes_to_its_end(tmp_path: Path) -> None:
    """The same code as on a GPU: every step, the trace, the pictures, the tables."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_kit", "--dry", "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_kit.json").read_text("utf-8"))
    assert found["complete"] and found["dry"]
    of_steps = {step["name"]: step["status"] for step in found["steps"]}
    assert of_steps.keys() == {step.name for step in every_step(DRY)}
    lacking = {name for name, status in of_steps.items() if status != "done"}
    assert all("gsplat" in name and of_steps[name] == "absent" for name in lacking)
    tables = {row["table"] for row in found["rows"] if "skipped" not in row}
    # Interpreted kernels are compiled to nothing.
    assert tables >= {*KINDS, "machine", "rates", "levels", "traces"} - {"kernels"}
    assert "RuntimeWarning" not in (tmp_path / "gpu_kit.log").read_text("utf-8")
    (picture,) = (r for r in found["rows"] if r["table"] == "pictures" and "skipped" not in r)
    assert picture["truth"] == "native" and picture["psnr_db"] > 60
    for line in (tmp_path / "gpu_kit.md").read_text("utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| ---", "| what ", "| step ", "|  |")):
            assert line.startswith("| DRY"), line
    files = list(tmp_path.iterdir())
    assert len(files) <= 8 and all(file.stat().st_size < 16 << 20 for file in files)
    assert {"fused.png", "native.png", "difference.png", "trace.json.gz"} <= {f.name for f in files}


BARE = """
import importlib, pkgutil, sys
missing, needs = set(sys.argv[1].split(",")), set(sys.argv[2].split(","))
for name in missing:
    sys.modules[name] = None
import benchmarks.gpu_kit
failed = []
for info in pkgutil.iter_modules(benchmarks.gpu_kit.__path__, "benchmarks.gpu_kit."):
    if info.name.endswith("__main__") or info.name.rpartition(".")[2] in needs:
        continue
    try:
        importlib.import_module(info.name)
    except ImportError as error:
        failed.append(f"{info.name}: {error}")
for name in sys.argv[3:]:
    importlib.import_module(name)
sys.exit("; ".join(failed) or None)
"""


@pytest.mark.parametrize("native", [True, False])
def test_a_bare_machine_loads_it(native: bool) -> None:
    """Every module, and what steps load later; without a native engine all but those that are
    about one."""
    later = ["rendering.fused_cuda", "benchmarks.scenes", "viewer.pacing", "tests.conftest"]
    later += ["rendering.models.anchors_device", "rendering.models.anchors_reference"]
    if native:
        later += ["benchmarks.streaming", "scene_store.build.pyramid"]
    missing = MISSING if native else (*MISSING, *NATIVE)
    done = subprocess.run(
        [
            *(sys.executable, "-c", BARE, ",".join(missing)),
            *(",".join(() if native else NEEDS_NATIVE), *later),
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["gpu_kit", "kernel_code", "kernel_work"])
def test_a_python_without_packages_names_them(command: str) -> None:
    """``-S``: as without all that is installed."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", f"benchmarks.{command}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "rich" in done.stderr and ".venv/bin/python" in done.stderr


def test_packages_may_be_carried_along(tmp_path: Path) -> None:
    assert missing(["json", "yaml", "no_such"]) == ["no_such"]
    (tmp_path / "no_such.py").write_text("", "utf-8")
    assert missing(["no_such"], [str(tmp_path)]) == []


def test_without_a_device_nothing_is_begun(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_kit", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = "error: there is no CUDA device, or no driver for it; --dry does without\n"
    assert (done.returncode, done.stdout) == (1, said)
    assert not out.exists()


def every_step(plan: Plan) -> list[Step]:
    """Of a run."""
    return [*steps_of(plan), *(step for lane in lanes_beside(plan) for step in lane.steps)]


# Processes, limits, faults


def setting_of(folder: Path) -> Setting:
    """Of processes without a device."""
    first_line = to_json({"plan": DRY.to_json(), "work": str(folder), "out": str(folder)})
    return Setting(first_line, dict(os.environ), folder / "log")


def step(name: str, fault: str, limit_s: float = 60.0, **more: Any) -> Step:
    return Step(name, f"{FAULTS}:{fault}", limit_s, **more)


def ran(
    folder: Path,
    steps: Sequence[Step],
    *beside: Lane,
    minutes: float = 2.0,
    quiet_after_s: float = 60.0,
) -> dict[str, Any]:
    """What is on the disk after a run."""
    results = Results(folder / "gpu_kit.json", {"dry": True})
    supervisor = Supervisor(
        setting_of(folder),
        results,
        minutes=minutes,
        quiet_after_s=quiet_after_s,
        heard=lambda _: None,
    )
    with supervisor:
        supervisor.run(steps, beside)
        results.finish()
    found: dict[str, Any] = json.loads((folder / "gpu_kit.json").read_text("utf-8"))
    return found


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["status"] for each in found["steps"]}


def test_a_fault_costs_its_own_step(tmp_path: Path) -> None:
    """Raising, hanging, dying: what was measured before stays, and what follows runs."""
    found = ran(
        tmp_path,
        [
            step("a", "well", arguments={"value": math.inf}),
            step("b", "lack"),
            step("c", "well"),
            step("d", "fail"),
            step("e", "hang", 2.0),
            step("f", "die"),
            step("g", "well"),
        ],
    )
    assert statuses(found) == {
        "a": "done",
        "b": "absent",
        "c": "done",
        "d": "failed",
        "e": "late",
        "f": "died",
        "g": "done",
    }
    rows = {row["step"]: row for row in found["rows"]}
    assert [row["value"] for row in rows.values()] == [None, 1, 2, 3, 4, 1]
    assert rows["a"]["process"] == rows["c"]["process"] != rows["g"]["process"]
    assert not is_there(rows["e"]["process"]) and not is_there(rows["e"]["child"])
    problems = {each["name"]: each["problem"] for each in found["steps"]}
    assert problems["d"] == "ValueError: the first line"
    assert problems["f"] == "its process ended by signal 11"
    assert "tests/gpu_kit_faults.py" in found["steps"][3]["traceback"]


def test_what_is_prepared_beside_comes_before_what_is_quiet(tmp_path: Path) -> None:
    found = ran(
        tmp_path,
        [step("quiet", "well"), step("first", "well", quiet=False)],
        Lane((step("slow", "hang", 2.0), step("beside", "well")), 60.0),
    )
    names = [each["name"] for each in found["steps"]]
    assert names[0] == "first" and names[-1] == "quiet"
    assert statuses(found)["slow"] == "late" and statuses(found)["beside"] == "done"
    assert not found["steps"][-1]["problem"]


def test_what_is_late_is_waited_for_by_those_that_need_it(tmp_path: Path) -> None:
    """And by no others: these begin when they have waited enough, and say what is still at work."""
    found = ran(
        tmp_path,
        [
            step("a", "well"),
            step("of the late one", "well", after="late"),
            step("b", "well"),
        ],
        Lane((step("late", "hang"),), 4.0),
        Lane((step("in time", "well"),), 60.0),
        quiet_after_s=2.0,
    )
    names = [each["name"] for each in found["steps"]]
    assert names == ["in time", "a", "b", "late", "of the late one"]
    problems = {each["name"]: each["problem"] for each in found["steps"]}
    assert problems["a"] == problems["b"] == "late: still at work when it began"
    assert not problems["of the late one"]
    assert statuses(found)["late"] == "late" and statuses(found)["of the late one"] == "done"


def test_what_is_late_in_the_end_costs_no_other_step(tmp_path: Path) -> None:
    found = ran(
        tmp_path,
        [step("needs it", "well", after="late"), step("a", "well")],
        Lane((step("late", "hang"),), 600.0),
        minutes=8.0 / 60,
        quiet_after_s=0.0,
    )
    ended = statuses(found)
    # Its time and that of all end at once.
    assert ended.pop("late") in ("late", "left out")
    assert ended == {"a": "done", "needs it": "left out"}


def test_lanes_run_side_by_side_and_leave_nothing(tmp_path: Path) -> None:
    found = ran(
        tmp_path,
        [step("quiet", "well")],
        Lane((step("a", "hang", 3.0),), 60.0),
        Lane((step("b", "hang", 3.0),), 60.0),
    )
    assert statuses(found) == {"a": "late", "b": "late", "quiet": "done"}
    first, second = (each["seconds"] for each in found["steps"][:2])
    assert first > 2.5 and second > 2.5 and found["seconds"] < first + second + 5
    for row in found["rows"]:
        assert not ("child" in row and is_there(row["child"]))


def test_what_a_device_is_lent_for_comes_first() -> None:
    names = [each.name for each in steps_of(FULL)]
    wanted = ("machine", "frames default", "pictures", "frames gsplat", "binocular")
    assert names[:6] == [*wanted, "contract tests"]
    beside = {each.name for lane in lanes_beside(FULL) for each in lane.steps}
    needing = {each.name for each in steps_of(FULL) if each.after == PEER_KERNELS}
    assert PEER_KERNELS in beside and {n for n in names if "gsplat" in n} <= needing
    assert all(each.after in ("", *beside) for each in steps_of(FULL))
    # What is left when gsplat's kernels were as late as they may be.
    rest_s = 60 * FULL.minutes - FULL.build_s
    (peer,) = (each for each in steps_of(FULL) if each.name == "frames gsplat")
    assert FULL.prepare_s < FULL.build_s and peer.limit_s < rest_s


def test_nothing_follows_what_was_needed(tmp_path: Path) -> None:
    found = ran(tmp_path, [step("a", "lack", needed=True), step("b", "well")])
    assert statuses(found) == {"a": "absent", "b": "left out"}


def test_no_step_begins_after_the_end(tmp_path: Path) -> None:
    found = ran(tmp_path, [step("a", "hang"), step("b", "well")], minutes=4.0 / 60)
    assert statuses(found) == {"a": "late", "b": "left out"}


def test_what_the_end_cuts_short_did_not_die(tmp_path: Path) -> None:
    found = ran(
        tmp_path,
        [step("a", "hang", 3.0, needed=True, quiet=False)],
        Lane((step("beside", "hang"),), 60.0),
    )
    assert statuses(found) == {"a": "late", "beside": "left out"}
    assert found["steps"][1]["problem"] == "the run was ended"


KILLED = """
import sys
from pathlib import Path
from tests.test_gpu_kit import ran, step
if __name__ == "__main__":
    ran(Path(sys.argv[1]), [step("a", "well"), step("b", "hang")])
"""


def test_a_kill_leaves_what_was_measured(tmp_path: Path) -> None:
    """And no process behind, though one of them hangs."""
    path = tmp_path / "gpu_kit.json"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    try:
        wait_for(lambda: path.exists() and len(json.loads(path.read_text("utf-8"))["rows"]) == 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = json.loads(path.read_text("utf-8"))
    assert statuses(found) == {"a": "done"} and not found["complete"]
    hung = found["rows"][1]
    wait_for(lambda: not is_there(hung["process"]) and not is_there(hung["child"]))


def wait_for(condition: Any, patience_s: float = 60.0) -> None:
    """Until it holds."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to be"
        time.sleep(0.02)


def test_an_interrupt_leaves_what_was_measured(tmp_path: Path) -> None:
    """With the tables of it, and a status that says so."""
    command = [sys.executable, "-m", "benchmarks.gpu_kit", "--dry", "--out", str(tmp_path)]
    path = tmp_path / "gpu_kit.json"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: path.exists() and "rates" in path.read_text("utf-8"))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1 and "interrupted" in output and "DRY bars" in output
    found = json.loads(path.read_text("utf-8"))
    assert not found["complete"] and found["rows"]


# Plans


@pytest.mark.parametrize("plan", [FULL, DRY])
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.of(json.loads(to_json(plan.to_json()))) == plan


def test_every_step_of_a_full_run_exists() -> None:
    """None of them is a misspelt function, or has arguments that it does not take."""
    import importlib
    import inspect

    for each in every_step(FULL):
        module, _, name = each.target.partition(":")
        function = getattr(importlib.import_module(module), name)
        inspect.signature(function).bind(None, None, **each.arguments)


def test_every_variant_is_a_tuning() -> None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    from rendering.fused_cuda import Tuning

    assert len({Tuning(**v.tuning): v for v in FULL.variants if not v.moving}) >= 8
    assert len({v.label for v in FULL.variants}) == len(FULL.variants)
