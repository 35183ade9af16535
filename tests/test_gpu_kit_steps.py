"""What the steps of the GPU's kit do, with the CPU engine in the place of ours; what they ask of a
device, of Triton and of pytest."""

from __future__ import annotations

import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_kit import __main__ as kit
from benchmarks.gpu_kit import (
    binocular,
    board_cuda,
    contract_tests,
    paging,
    peer,
    pictures,
    uploads,
)
from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench
from benchmarks.gpu_kit.board_cuda import Board
from benchmarks.gpu_kit.kernels import resources_of
from benchmarks.gpu_kit.plan import DRY
from benchmarks.gpu_kit.tables import tables_of, to_markdown_page
from benchmarks.report import Row
from rendering.base import Rasterizer
from rendering.native.cpu import NativeRasterizer
from scene_store.build.memory_levels import MemoryChunks, build_levels
from scene_store.chunks import ChunkSource, gaussians_of
from splat.camera import Camera, CameraModel
from tests.scenes import orbit_camera, random_scene


class NativeBench(Bench):
    """Draws at once what the interpreter draws in seconds."""

    def fused(self, variant: int = 0) -> Any:
        return NATIVE_ENGINE

    def scene(self, name: str) -> Any:
        return SCENE

    def levels(self, name: str) -> MemoryChunks:
        return LEVELS

    def views(self, name: str, path: str, size: tuple[int, int]) -> tuple[Camera, ...]:
        turn = {"aerial": 0.6, "walk": 2.0}[path]
        return tuple(orbit_camera(CameraModel.PINHOLE, *size, turn + 0.02 * i) for i in range(3))


NATIVE_ENGINE = NativeRasterizer()
SCENE = random_scene(5, 900, 1)
LEVELS = build_levels(SCENE, "ball", 64)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    paths = ("aerial", "walk")
    sampling = replace(DRY.sampling, views=3, least=4, most=4)
    plan = replace(DRY, paths=paths, sampling=sampling, sizes=((64, 48),), eye=(48, 40))
    return NativeBench(plan, tmp_path, tmp_path)


class NoNativeBench(NativeBench):
    """As on a machine that cannot build the CPU engine."""

    def native(self) -> Rasterizer:
        raise Absent("the native engine is not there")


@pytest.mark.parametrize(("kind", "truth"), [(NativeBench, "native"), (NoNativeBench, "reference")])
def test_pictures_are_compared_with_what_there_is(
    bench: Bench, kind: type[Bench], truth: str
) -> None:
    rows: list[Row] = []
    pictures.compare(kind(bench.plan, bench.work, bench.out), rows.append)
    found = [row for row in rows if "skipped" not in row]
    assert {row["truth"] for row in found} == {truth} and len(found) == 2
    assert all(row["psnr_db"] > 60 and row["max_error"] < 0.01 for row in found)
    assert {"native.png", f"{truth}.png", "difference.png"} == {f.name for f in bench.out.iterdir()}


def test_levels_in_memory_are_a_source() -> None:
    source: ChunkSource = LEVELS
    assert len(source.tree) > 20 and source.tree.level.max() >= 2
    assert LEVELS.rows[:, 1].sum() == len(LEVELS.gaussians)
    leaves = [chunk for chunk in range(len(source.tree)) if source.tree.is_leaf[chunk]]
    read = []
    for chunk in leaves:
        encoded = source.read(chunk)
        assert encoded is not None and encoded.nbytes == source.encoded_bytes(chunk)
        read.append(gaussians_of(source.decode(chunk, encoded)).means)
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


@pytest.mark.parametrize(
    ("status", "said", "problem"),
    [
        (0, "9 passed in 1s", ""),
        (134, "9 passed in 1s", ""),  # died when it was over
        (-6, "9 passed, 1 skipped in 1s", ""),
        (5, "1 skipped in 1s", ""),
        (1, "1 failed, 8 passed in 1s", "1 tests failed, 0 could not run"),
        (134, "1 failed, 8 passed in 1s", "1 tests failed, 0 could not run"),
        (2, "1 error in 1s", "0 tests failed, 1 could not run"),
        (139, "..", "pytest did not run to its end: status 139"),
        (-11, "", "pytest did not run to its end: status -11"),
        (3, "2 passed in 1s", "pytest did not run to its end: status 3"),
        (None, "3 passed in 9s", "not over after 9 s"),
        (None, "1 failed in 9s", "not over after 9 s; 1 tests failed, 0 could not run"),
    ],
)
def test_tests_fail_only_if_their_counts_say_so(
    status: int | None, said: str, problem: str
) -> None:
    counts = contract_tests.counts_of(said)
    assert contract_tests.problem_of(status, counts, 9.0) == problem


TESTS_THEN = """
import atexit, os, pathlib, time
def test_a(): ...
def test_b():
    {then}
"""


@pytest.mark.parametrize(
    ("then", "status", "over", "passed"),
    [("atexit.register(os.abort)", -6, True, 2), ("time.sleep(60)", None, False, 1)],
)
def test_counts_are_there_whatever_ends_pytest(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    then: str,
    status: int | None,
    over: bool,
    passed: int,
) -> None:
    (tmp_path / contract_tests.DRY_FILE).write_text(TESTS_THEN.format(then=then), "utf-8")
    monkeypatch.setattr(contract_tests, "TESTS", tmp_path)
    bench.plan = replace(bench.plan, tests=())
    rows: list[Row] = []
    bench.limit_s = contract_tests.TELLING_S + contract_tests.CLOSING_S + (60 if over else 4)
    if over:
        contract_tests.run(bench, rows.append, files="ours")
    else:
        with pytest.raises(RuntimeError, match="not over after 4 s"):
            contract_tests.run(bench, rows.append, files="ours")
    (row,) = rows
    assert (row["status"], row["over"], row["passed"]) == (status, over, passed)
    page = to_markdown_page(tables_of(rows, [], dry=True), "", dry=True)
    assert f"| ours | {'not over' if status is None else status} |" in page


def test_gsplat_is_absent_until_its_kernels_are_compiled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no step that measures waits for a compiler."""
    monkeypatch.setattr(peer, "_engine", lambda device: NATIVE_ENGINE)
    with pytest.raises(Absent, match="not compiled"):
        bench.peer()
    rows: list[Row] = []
    peer.compile_kernels(bench, rows.append)
    assert bench.peer() is NATIVE_ENGINE and rows[0]["alpha"] > 0.8


def test_kernels_are_compiled_for_what_is_measured_alone() -> None:
    """Whatever the kit draws with, it has from here: an engine that compiles ahead would do so
    beside what is measured."""
    folder = Path(contract_tests.__file__).parent
    made = [
        (file.name, line.strip())
        for file in sorted(folder.glob("*.py"))
        for line in file.read_text("utf-8").splitlines()
        if "FusedRasterizer(" in line
    ]
    assert [name for name, _ in made] == ["bench.py"] and "ahead=False" in made[0][1]


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


def test_wheels_are_taken_along(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some/__init__.py", "found = True")
    (search,) = kit._unpacked(tmp_path, tmp_path / "unpacked")
    assert (Path(search) / "some" / "__init__.py").read_text("utf-8") == "found = True"
    assert kit._unpacked(None, tmp_path) == []
