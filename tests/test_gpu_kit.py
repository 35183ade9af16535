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
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_kit import binocular, board_cuda, contract_tests, paging, uploads
from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bars import bars_of
from benchmarks.gpu_kit.bench import Bench
from benchmarks.gpu_kit.board_cuda import Board
from benchmarks.gpu_kit.kernels import resources_of
from benchmarks.gpu_kit.memory_levels import MemoryChunks, build_levels
from benchmarks.gpu_kit.plan import DRY, FULL, Plan, Step, beside_steps, steps_of
from benchmarks.gpu_kit.results import Results, StepRecord, to_json
from benchmarks.gpu_kit.supervisor import Setting, Supervisor
from benchmarks.gpu_kit.tables import KINDS, tables_of, to_markdown_page, with_floors
from benchmarks.report import Row
from rendering.native.cpu import NativeRasterizer
from scene_store.chunks import ChunkSource
from tests.gpu_kit_faults import is_there
from tests.scenes import random_scene

ROOT = Path(__file__).resolve().parents[1]
FAULTS = "tests.gpu_kit_faults"
# Not on the machines that GPUs are lent on; torch, Triton and numpy are.
MISSING = ("tyro", "viser", "zstandard", "gsplat", "OpenEXR", "playwright", "plyfile", "s3fs")
NATIVE = ("rendering.native._native", "scene_store.native._store")
NEEDS_NATIVE = ("binocular", "memory_levels", "paging")


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
    assert of_steps.keys() == {step.name for step in (*steps_of(DRY), *beside_steps(DRY))}
    lacking = {name for name, status in of_steps.items() if status != "done"}
    assert all("gsplat" in name and of_steps[name] == "absent" for name in lacking)
    tables = {row["table"] for row in found["rows"] if "skipped" not in row}
    # Interpreted kernels are compiled to nothing.
    assert tables >= {*KINDS, "machine", "rates", "levels", "traces"} - {"kernels"}
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


# Processes, limits, faults


def setting_of(folder: Path) -> Setting:
    """Of processes without a device."""
    first_line = to_json({"plan": DRY.to_json(), "work": str(folder), "out": str(folder)})
    return Setting(first_line, dict(os.environ), folder / "log")


def step(name: str, fault: str, limit_s: float = 60.0, **more: Any) -> Step:
    return Step(name, f"{FAULTS}:{fault}", limit_s, **more)


def ran(
    folder: Path, steps: Sequence[Step], beside: Sequence[Step] = (), minutes: float = 2.0
) -> dict[str, Any]:
    """What is on the disk after a run."""
    results = Results(folder / "gpu_kit.json", {"dry": True})
    supervisor = Supervisor(
        setting_of(folder), results, minutes=minutes, prepare_s=60.0, heard=lambda _: None
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
        [step("first", "well", quiet=False), step("quiet", "well")],
        [step("slow", "hang", 2.0), step("beside", "well")],
    )
    names = [each["name"] for each in found["steps"]]
    assert names[0] == "first" and names[-1] == "quiet"
    assert statuses(found)["slow"] == "late" and statuses(found)["beside"] == "done"


def test_nothing_follows_what_was_needed(tmp_path: Path) -> None:
    found = ran(tmp_path, [step("a", "lack", needed=True), step("b", "well")])
    assert statuses(found) == {"a": "absent", "b": "left out"}


def test_no_step_begins_after_the_end(tmp_path: Path) -> None:
    found = ran(tmp_path, [step("a", "hang"), step("b", "well")], minutes=2.0 / 60)
    assert statuses(found) == {"a": "late", "b": "left out"}


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


# Plans, tables, bars


@pytest.mark.parametrize("plan", [FULL, DRY])
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.of(json.loads(to_json(plan.to_json()))) == plan


def test_every_step_of_a_full_run_exists() -> None:
    """None of them is a misspelt function, or has arguments that it does not take."""
    import importlib
    import inspect

    for each in (*steps_of(FULL), *beside_steps(FULL)):
        module, _, name = each.target.partition(":")
        function = getattr(importlib.import_module(module), name)
        inspect.signature(function).bind(None, None, **each.arguments)


def test_every_variant_is_a_tuning() -> None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    from rendering.fused_cuda import Tuning

    assert len({Tuning(**v.tuning): v for v in FULL.variants if not v.moving}) >= 8
    assert len({v.label for v in FULL.variants}) == len(FULL.variants)


def frames_row(engine: str, device_ms: float, **more: Any) -> Row:
    return {
        "table": "frames",
        "engine": engine,
        "variant": "",
        "scene": "town-10M",
        "path": "walk",
        "width": 100,
        "height": 50,
        "gaussians": 10_000_000,
        "visible": 1e6,
        "device_ms_p50": device_ms,
        **more,
    }


def test_bars_are_held_against_the_best_exact_variant() -> None:
    rows = [
        frames_row("gsplat", 9.0),
        frames_row("fused", 4.0),
        frames_row("fused", 3.0, variant="tile=8"),
        frames_row("fused", 1.0, variant="half_colors=False moving"),
        frames_row("fused", 0.1, path="aerial"),
        frames_row("fused", 0.1, skipped="no memory"),
    ]
    (bar,) = bars_of(rows)
    assert (bar.figure, bar.reached) == ("3.00 times", True)
    assert not bars_of([*rows[1:], frames_row("gsplat", 5.9)])[0].reached


BARS: dict[str, tuple[Row, Row]] = {
    "tests": ({"files": "ours", "passed": 3, "failed": 0, "errors": 0}, {"errors": 1}),
    "uploads": (
        {"asked_mb_s": 200.0, "mb_s": 180.0, "times": 1.05, "scene": "a", "path": "b"},
        {"times": 1.2},
    ),
    "paging": ({"scene": "a", "pages": "50 %", "less": 0.5, "psnr_db": 46.0}, {"psnr_db": 44.0}),
    "binocular": (
        {"scene": "a", "path": "b", "fps": 121.0, "device_fps": 130.0, "of_two": 0.7},
        {"fps": 119.0},
    ),
}


@pytest.mark.parametrize("table", BARS)
def test_bars_are_missed_by_what_is_worse(table: str) -> None:
    good, worse = BARS[table]
    row = {"table": table, "width": 1, "height": 1, **good}
    assert bars_of([row]) and all(bar.reached for bar in bars_of([row]))
    assert not all(bar.reached for bar in bars_of([{**row, **worse}]))


def test_floors_are_what_must_be_read_and_written() -> None:
    rate = {"table": "rates", "copy_gb_s": 4000.0}
    row = frames_row("fused", 4.0, gaussian_bytes=100.0)
    assert with_floors([row])[0] == row
    floor_ms = (1e6 * 100 + 100 * 50 * 16) / 4000e9 * 1e3
    assert with_floors([rate, row])[1]["floor_ms"] == pytest.approx(floor_ms)


def test_a_row_that_cannot_be_shown_costs_its_own_table() -> None:
    rows = [frames_row("fused", 4.0), {"table": "paging", "scene": "a", "device_mb": "many"}]
    steps = [StepRecord("a", "done", 1.0)]
    page = to_markdown_page(tables_of(rows, steps, dry=False), dry=False)
    assert "cannot be shown" in page and "| town-10M | walk |" in page and "DRY" not in page


def test_what_was_skipped_says_why() -> None:
    rows = [frames_row("fused", 4.0, skipped="no memory left")]
    page = to_markdown_page(tables_of(rows, [], dry=True), dry=True)
    assert "town-10M walk 100×50 fused: no memory left" in page


# Steps, with the CPU engine in the place of ours


class NativeBench(Bench):
    """Draws at once what the interpreter draws in seconds."""

    def fused(self, variant: int = 0) -> Any:
        return NATIVE_ENGINE

    def scene(self, name: str) -> Any:
        return SCENE

    def levels(self, name: str) -> MemoryChunks:
        return LEVELS


NATIVE_ENGINE = NativeRasterizer()
SCENE = random_scene(5, 900, 1)
LEVELS = build_levels(SCENE, "ball", 64)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    paths = ("aerial", "walk")
    sampling = replace(DRY.sampling, views=3, least=4, most=4)
    plan = replace(DRY, paths=paths, sampling=sampling, sizes=((64, 48),), eye=(48, 40))
    return NativeBench(plan, tmp_path, tmp_path)


def test_levels_in_memory_are_a_source() -> None:
    source: ChunkSource = LEVELS
    assert len(source.tree) > 20 and source.tree.level.max() >= 2
    assert LEVELS.rows[:, 1].sum() == len(LEVELS.gaussians)
    leaves = [chunk for chunk in range(len(source.tree)) if source.tree.is_leaf[chunk]]
    read = []
    for chunk in leaves:
        encoded = source.read(chunk)
        assert encoded is not None and encoded.nbytes == source.encoded_bytes(chunk)
        read.append(source.decode(chunk, encoded).means)
    found, wanted = (np.unique(m, axis=0) for m in (np.concatenate(read), SCENE.means))
    assert np.array_equal(found, wanted)


def test_eyes_are_drawn_at_once_and_alone(bench: Bench) -> None:
    rows: list[Row] = []
    binocular.measure(bench, rows.append)
    manners = {(row["path"], row["manner"]) for row in rows}
    assert len(rows) == len(manners) == 6
    both = [row for row in rows if "at once" in row["manner"]]
    assert all(row["psnr_db"] > 45 and row["of_two"] > 0 for row in both)
    assert all(row["fps"] > 0 and row["frames"] == 4 for row in rows)


def test_pages_within_a_budget(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for all, pictures are those of the whole scene; with less, they are not."""
    monkeypatch.setattr(paging, "SHARES", (2.0, 0.2))
    rows: list[Row] = []
    paging.measure(bench, rows.append)
    _, ample, scant = rows
    assert ample["psnr_db"] > 100 > 45 > scant["psnr_db"]


def test_pages_are_uploaded_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "RATES_MB_S", (0.0, 50.0))
    rows: list[Row] = []
    uploads.measure(bench, rows.append)
    assert [row["mb_s"] > 0 for row in rows] == [False, True, False, True]
    assert [row["times"] == 1 for row in rows][::2] == [True, True]


# What is asked of a device, of Triton and of pytest


class Event:
    """In the place of one of CUDA's."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at_s = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at_s - self.at_s)


def test_a_device_is_asked_for_its_facts_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, empty = torch.cuda, torch.empty
    facts = SimpleNamespace(
        name="H200", total_memory=141 << 30, multi_processor_count=132, major=9, minor=0
    )
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(cuda, "Event", Event)
    monkeypatch.setattr(board_cuda, "LARGE", board_cuda.SMALL)
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **more: empty(*a, **more))
    board = Board(dry=False)
    assert board.device == "cuda:0"
    board.device = "cpu"
    found = board.facts()
    assert (found["device"], found["memory_gib"], found["capability"]) == ("H200", 141, "9.0")
    assert all(rate > 0 for rate in board.rates().values())


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Absent, match="--dry"):
        Board(dry=False)


def test_resources_of_compiled_kernels() -> None:
    """As Triton 3.6 keeps them; what is interpreted has none."""
    source = SimpleNamespace(
        fn=SimpleNamespace(arg_names=["splats", "pairs", "TILE", "BLOCK"]),
        constants={(1,): 1, (2,): 16, (3,): 256},
    )
    metadata = SimpleNamespace(name="pair_kernel", num_warps=4, shared=512)
    compiled = SimpleNamespace(metadata=metadata, src=source, n_regs=40, n_spills=0)
    function = SimpleNamespace(device_caches={0: ({"a key": compiled}, {}, None, None, None)})
    assert list(resources_of(function)) == [
        {
            "kernel": "pair_kernel",
            "warps": 4,
            "registers": 40,
            "spills": 0,
            "shared_bytes": 512,
            "constants": {"TILE": 16, "BLOCK": 256},
        }
    ]
    assert list(resources_of(object())) == []


COUNTS = {
    "..s.\n3 passed, 1 skipped in 0.1s": (3, 0, 0, 1),
    "=== 1 failed, 12 passed, 2 errors in 9s ===": (12, 1, 2, 0),
    "1 error in 0.2s": (0, 0, 1, 0),
    "": (0, 0, 0, 0),
}


@pytest.mark.parametrize(("output", "counts"), COUNTS.items())
def test_counts_of_what_pytest_says(output: str, counts: tuple[int, ...]) -> None:
    assert tuple(contract_tests.counts_of(output).values()) == counts


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    mark = "pytest." + "mark.gpu"  # not in one word: the kit looks for it in this file, too
    (tmp_path / "test_a.py").write_text(f"import pytest\n@{mark}\ndef test_b(): ...\n", "utf-8")
    (tmp_path / "test_c.py").write_text("def test_d(): ...\n", "utf-8")
    return tmp_path


def test_tests_for_a_device_are_found(marked: Path) -> None:
    assert [file.name for file in contract_tests.files_for_a_device(marked)] == ["test_a.py"]
    ours = contract_tests.files_for_a_device(contract_tests.TESTS)
    assert Path(__file__) not in ours and ours
