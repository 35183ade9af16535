"""GPUs are found without torch, and what keeps them from being used is told with its remedy."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from rendering.gpu_discovery import LIBRARY, Absence, DriverReport, Gpu, ask_driver
from rendering.gpu_support import GPU_ENGINES, find_support, named, support_of
from rendering.gpu_trial import prove
from rendering.native.cpu import NativeRasterizer
from rendering.torch_build import TorchBuild, installed_torch, parse_version
from splat.errors import MAX_MESSAGE, BackendUnavailable, BudgetError
from tests.fake_driver import H200, P100, T4, FakeDriver
from tests.fake_rasterizer import FakeRasterizer

CUDA_TORCH = TorchBuild("2.11.0+cu130", (13, 0), triton=True, gsplat=True)


# The driver


def test_what_the_driver_says_of_its_gpus() -> None:
    driver = FakeDriver([H200, T4], version=12080)
    assert ask_driver(driver) == DriverReport((H200, T4), (12, 8))
    assert driver.loaded == [LIBRARY]
    assert [gpu.device for gpu in (H200, T4)] == ["cuda:0", "cuda:1"]


def test_a_machine_without_a_driver() -> None:
    def load(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    report = ask_driver(load)
    assert report.absence is Absence.NO_DRIVER and not report.gpus
    assert report.problem == f"there is no NVIDIA driver ({LIBRARY} is missing)"


def test_the_stub_of_a_toolkit_is_no_driver() -> None:
    report = ask_driver(FakeDriver(fails={"cuInit": 34}))
    assert report.absence is Absence.NO_DRIVER and "stub" in report.problem


def test_a_driver_without_a_gpu_says_what_hides_it() -> None:
    report = ask_driver(FakeDriver(), environment={})
    assert report.absence is Absence.NO_GPU
    assert report.problem == "the NVIDIA driver finds no GPU"
    hidden = ask_driver(FakeDriver(), environment={"CUDA_VISIBLE_DEVICES": ""})
    assert hidden.problem.endswith("of those that CUDA_VISIBLE_DEVICES='' leaves")


ASKED = (
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
)


@pytest.mark.parametrize("function", ASKED)
def test_a_driver_that_does_not_work_is_told_in_its_own_words(function: str) -> None:
    report = ask_driver(FakeDriver([H200], fails={function: 999}))
    assert report.absence is Absence.BROKEN and not report.gpus
    assert f"{function}: CUDA_ERROR_UNKNOWN, unknown error; nvidia-smi" in report.problem
    unknown = ask_driver(FakeDriver([H200], fails={function: 12345}))
    assert f"{function}: error 12345; nvidia-smi" in unknown.problem


OF_ONE = ASKED[3:]


@pytest.mark.parametrize("function", OF_ONE)
def test_a_gpu_that_does_not_answer_hides_no_other(
    function: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the others keep the indices that torch has for them."""
    report = ask_driver(FakeDriver([T4, replace(H200, index=1)], fails_at={0: {function: 999}}))
    assert report.gpus == (replace(H200, index=1),) and report.cuda == (13, 0)
    assert report.absence is None and not report.problem
    (line,) = report.silent
    assert line == f"cuda:0 does not answer: {function}: CUDA_ERROR_UNKNOWN, unknown error"
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, f"{line}; it is left out")


def test_another_library_of_that_name_is_no_driver() -> None:
    report = ask_driver(lambda name: object())
    assert report.absence is Absence.BROKEN and "cuInit" in report.problem


DRIVER_IN_C = r"""
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int *v) { *v = 13010; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int ordinal) { *d = 40 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int d) {
  strncpy(name, d == 40 ? "NVIDIA Test" : "?", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int d) {
  *bytes = d == 40 ? (size_t)150 << 30 : 0; return 0; }
int cuDeviceGetAttribute(int *value, int which, int d) {
  *value = d != 40 ? -1 : which == 75 ? 12 : which == 76 ? 1 : -2; return 0; }
"""


def test_a_real_library_is_called_as_its_functions_want_it(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make a library with")
    source, library = tmp_path / "driver.c", tmp_path / "libdriver.so"
    source.write_text(DRIVER_IN_C, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    report = ask_driver(lambda _: ctypes.CDLL(str(library)))
    assert report == DriverReport((Gpu(0, "NVIDIA Test", 150 << 30, (12, 1)),), (13, 1))


# The installation


def found_in(folder: Path, *others: str) -> Any:
    """Finds torch in a folder, and some other modules anywhere."""

    def find(module: str) -> ModuleSpec | None:
        if module == "torch":
            return ModuleSpec("torch", None, origin=str(folder / "__init__.py"))
        return ModuleSpec(module, None) if module in others else None

    return find


def test_what_torch_was_built_for_is_read_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(
        "from typing import Optional\nraise SystemExit('it was run')\n"
        "__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n",
        encoding="utf-8",
    )
    build = installed_torch(found_in(tmp_path, "triton"))
    assert build == TorchBuild("2.11.0+cu130", (13, 0), triton=True)
    assert build.release == "2.11.0"


def test_an_installation_that_says_nothing_is_taken_for_a_cpu_build(tmp_path: Path) -> None:
    assert installed_torch(found_in(tmp_path)) == TorchBuild("of unknown version")
    assert installed_torch(lambda _: None) is None

    def broken(module: str) -> ModuleSpec | None:
        raise ValueError(f"{module}.__spec__ is None")

    assert installed_torch(broken) is None


@pytest.mark.parametrize(
    ("text", "version"),
    [("12.8", (12, 8)), ("13.0.1", (13, 0)), ("13", None), ("x.y", None), (None, None)],
)
def test_versions_are_read(text: object, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version


def test_looking_for_gpus_loads_neither_torch_nor_triton() -> None:
    code = (
        "import sys; from rendering.gpu_support import find_support; find_support('fused');"
        "from rendering.torch_build import installed_torch; installed_torch();"
        "print(*sorted({'torch', 'triton', 'gsplat'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# What follows


def test_a_gpu_with_all_that_it_needs_is_used() -> None:
    for engine in GPU_ENGINES:
        support = support_of(DriverReport((H200, T4), (13, 0)), CUDA_TORCH, engine)
        assert support.gpus == (H200, T4) and not support.problem and not support.is_surprising
        assert support.require() == (H200, T4)
        assert support.require(1) == (T4,)


def test_a_driver_of_the_same_major_version_will_do() -> None:
    newer = TorchBuild("2.13.0+cu132", (13, 2), triton=True)
    assert support_of(DriverReport((H200,), (13, 0)), newer, "fused").gpus
    assert support_of(DriverReport((H200,), (14, 0)), newer, "fused").gpus


@pytest.mark.parametrize(
    ("torch", "cuda", "engine", "said"),
    [
        (None, (13, 0), "fused", "torch is not installed; pip install torch"),
        (
            TorchBuild("2.13.0+cpu", triton=True),
            (13, 0),
            "fused",
            "-m pip install --force-reinstall torch==2.13.0",
        ),
        (TorchBuild("2.9.0+rocm6.3", rocm=True), (13, 0), "gsplat", "a build for ROCm; PIP_FIND"),
        (
            CUDA_TORCH,
            (12, 4),
            "fused",
            "runs CUDA up to 12.4, and torch 2.11.0+cu130 is for CUDA 13.0; update the driver",
        ),
        (TorchBuild("2.11.0", (13, 0)), (13, 0), "fused", "Triton is not installed; pip install"),
        (TorchBuild("2.11.0", (13, 0)), (13, 0), "gsplat", "gsplat is not installed; pip install"),
    ],
)
def test_what_is_missing_beside_a_gpu_is_told_with_a_remedy(
    torch: TorchBuild | None, cuda: tuple[int, int], engine: str, said: str
) -> None:
    support = support_of(DriverReport((H200,), cuda), torch, engine)
    assert not support.gpus and support.is_surprising
    assert support.problem.startswith("NVIDIA H200 found, but ") and said in support.problem
    with pytest.raises(BackendUnavailable) as raised:
        support.require()
    assert f"engine {engine}: no GPU can be used: {support.problem}; without --engine" in str(
        raised.value
    )
    assert len(str(raised.value)) < MAX_MESSAGE


def test_a_machine_without_a_gpu_is_no_surprise() -> None:
    for absence, surprising in (
        (Absence.NO_DRIVER, False),
        (Absence.NO_GPU, False),
        (Absence.BROKEN, True),
    ):
        support = support_of(DriverReport(absence=absence, problem="said"), None, "fused")
        assert (support.problem, support.is_surprising) == ("said", surprising)
        with pytest.raises(BackendUnavailable, match="engine fused: no GPU can be used: said"):
            support.require(0)


def test_gpus_that_are_too_old_are_left_out() -> None:
    both = support_of(DriverReport((H200, P100), (13, 0)), CUDA_TORCH, "fused")
    assert both.gpus == (H200,)
    with pytest.raises(BackendUnavailable, match=r"cuda:2: Tesla P100 has compute .* 6\.0, and 7"):
        both.require(2)
    with pytest.raises(BackendUnavailable, match=r"there is no cuda:5; use cuda:0"):
        both.require(5)
    none = support_of(DriverReport((P100,), (13, 0)), CUDA_TORCH, "fused")
    assert not none.gpus and none.is_surprising and "Tesla P100 has compute" in none.problem


def test_the_interpreter_of_triton_draws_for_nobody() -> None:
    driver = DriverReport((H200,), (13, 0))
    refused = support_of(driver, CUDA_TORCH, "fused", interpreted=True)
    assert "TRITON_INTERPRET=1 has its kernels interpreted; unset it" in refused.problem
    assert support_of(driver, CUDA_TORCH, "gsplat", interpreted=True).gpus == (H200,)


def test_without_a_gpu_the_interpreter_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rendering.gpu_support._driver", lambda: DriverReport(problem="none"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert find_support("fused").problem == "none"


def test_names_that_repeat_are_counted() -> None:
    assert named([H200, T4, H200]) == "2 × NVIDIA H200, Tesla T4"


# The trial


def test_a_rasterizer_that_draws_is_trusted() -> None:
    prove(NativeRasterizer())


def test_a_rasterizer_that_draws_something_else_is_not() -> None:
    with pytest.raises(BackendUnavailable, match="draws a single Gaussian wrongly"):
        prove(FakeRasterizer())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Failed to find C compiler\nset CC"), r"^RuntimeError: Failed .*\\nset CC$"),
        (BudgetError("cuda:0 has no memory"), "^cuda:0 has no memory$"),
        (BackendUnavailable("no kernel image"), "^no kernel image$"),
        (ZeroDivisionError(), "^ZeroDivisionError: no reason given$"),
    ],
)
def test_whatever_goes_wrong_in_the_trial_is_one_line(error: Exception, said: str) -> None:
    rasterizer = FakeRasterizer()

    def fail() -> None:
        raise error

    rasterizer.failure = fail
    with pytest.raises(BackendUnavailable, match=said):
        prove(rasterizer)
