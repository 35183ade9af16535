"""How gsplat's CUDA code is built: what is missing, how far it is, and why it failed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rendering.gsplat_cuda as gsplat_cuda
from rendering.gsplat_build import EXTENSION, Toolchain, build, build_environment, cause_of
from rendering.gsplat_cuda import GsplatRasterizer
from splat.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parents[1]
ALL_THERE = Toolchain(Path("gsplat"), False, "nvcc", "c++", "ninja")
WRITES = f"import os, pathlib; pathlib.Path(os.environ['FOLDER'], '{EXTENSION}.so').touch()"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a build puts things; told to it as ``FOLDER``."""
    inside = tmp_path / EXTENSION
    inside.mkdir()
    monkeypatch.setenv("FOLDER", str(inside))
    return inside


@pytest.mark.parametrize(
    ("tools", "lacks"),
    [
        (ALL_THERE, None),
        (Toolchain(None), "pip install gsplat==1.5.3"),
        (Toolchain(Path("gsplat"), is_built=True), None),
        (replace(ALL_THERE, nvcc=None), "to build gsplat there is no nvcc, of the CUDA toolkit"),
        (replace(ALL_THERE, compiler=None, ninja=None), "no a C++ compiler, no ninja: pip install"),
    ],
)
def test_what_is_missing_is_named(tools: Toolchain, lacks: str | None) -> None:
    if lacks is None:
        tools.require()
        return
    with pytest.raises(BackendUnavailable, match="CPU engine is used instead") as caught:
        tools.require()
    assert lacks in str(caught.value)


def test_the_tools_of_this_machine_are_found() -> None:
    tools = Toolchain.here()
    assert tools.package is not None
    assert (tools.package / "cuda" / "ext.cpp").is_file()
    assert tools.ninja is not None, "it is a development dependency"
    assert tools.sources > 20


OUTPUTS = {
    "/x/Intersect.cu(12): error: identifier 'foo' is undefined": (
        "[1/31] /usr/local/cuda/bin/nvcc -c /x/Intersect.cu\n"
        "FAILED: [code=1] Intersect.cuda.o\n"
        "/x/glm.hpp(73): warning #20012-D: __host__ annotation is ignored\n"
        "/x/Intersect.cu(12): error: identifier 'foo' is undefined\n"
        '1 error detected in the compilation of "/x/Intersect.cu".\n'
        "ninja: build stopped: subcommand failed.\n"
        "Traceback (most recent call last):\n"
        "RuntimeError: Error building extension 'gsplat_cuda'\n"
    ),
    "nvcc fatal   : Unsupported gpu architecture 'compute_120'": (
        "FAILED: a.o\nnvcc fatal   : Unsupported gpu architecture 'compute_120'\n"
        "RuntimeError: Error building extension 'gsplat_cuda'\n"
    ),
    "nvcc error   : 'cicc' died due to signal 9 (Kill signal)": (
        "FAILED: a.o\nnvcc error   : 'cicc' died due to signal 9 (Kill signal)\n"
        "ninja: build stopped: subcommand failed.\n"
    ),
    "OSError: CUDA_HOME environment variable is not set.": (
        "Traceback (most recent call last):\n  File 'x', line 1\n"
        "OSError: CUDA_HOME environment variable is not set.\n\n"
    ),
    "it said nothing": "\n\n",
}


@pytest.mark.parametrize("cause", OUTPUTS)
def test_the_cause_of_a_failure_is_one_line(cause: str) -> None:
    assert cause_of(OUTPUTS[cause]) == cause


def test_a_build_tells_how_far_it_is(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.o").touch()
    build(folder, 31, command=python(f"import time; time.sleep(0.5); {WRITES}"), tell_every_s=0.1)
    said = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}, "users see no less"
    assert "compiling its CUDA code" in said[0]
    assert said[1].startswith("gsplat: 1 of 31 files compiled in")
    assert said[-1].startswith("gsplat: compiled in")


def test_what_a_build_prints_is_kept_from_users(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build(folder, 31, command=python(f"print('gsplat: Setting up CUDA'); {WRITES}"))
    assert capfd.readouterr().out == ""


def test_a_build_that_fails_says_why(folder: Path) -> None:
    fails = python("import sys; print('a.cu(1): error: no such thing'); sys.exit(1)")
    with pytest.raises(BackendUnavailable, match=r"failed: a.cu\(1\): error: .* CPU engine"):
        build(folder, 31, command=fails)


def test_what_was_built_meanwhile_is_not_built_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slow = python(f"import time; time.sleep(0.5); {WRITES}")
    both = [
        threading.Thread(target=build, args=(folder, 31), kwargs={"command": slow})
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert sum("compiling" in record.getMessage() for record in caplog.records) == 1


def test_a_build_that_is_given_up_leaves_no_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that a process of its own started."""
    child = (
        "import os, pathlib, time;"
        "pathlib.Path(os.environ['FOLDER'], 'pid').write_text(str(os.getpid()));"
        "time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    def given_up() -> float:
        if (folder / "pid").exists() and (folder / "pid").read_text():
            raise KeyboardInterrupt
        return time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        build(folder, 31, command=python(parent), tell_every_s=0.05, clock=given_up)
    pid = int((folder / "pid").read_text())
    _until(lambda: not _is_alive(pid))


ORPHAN = """
import sys
from pathlib import Path
from rendering.gsplat_build import build
build(Path(sys.argv[1]), 3, command=(sys.executable, "-c", sys.argv[2]))
"""


def test_a_build_dies_with_who_waits_for_it(folder: Path) -> None:
    """However that comes about; and until it is dead, no other begins."""
    child = (
        "import os, pathlib, subprocess, time;"
        "made = subprocess.Popen(['sleep', '60'], preexec_fn=os.setpgrp);"  # as ninja does
        "pathlib.Path(os.environ['FOLDER'], 'pid').write_text(f'{os.getpid()} {made.pid} ');"
        "made.wait()"
    )
    command = [sys.executable, "-c", ORPHAN, str(folder), child]
    waiting = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    told = folder / "pid"
    _until(lambda: told.exists() and told.read_text().endswith(" "))
    waiting.kill()
    waiting.wait()
    build(folder, 3, command=python(WRITES))  # has waited for the lock
    assert not any(_is_alive(int(pid)) for pid in told.read_text().split())


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_build_finds_what_this_process_does() -> None:
    environment = build_environment({"HOME": "/home/x"}, 64)
    assert environment["HOME"] == "/home/x"
    assert environment["MAX_JOBS"] == "10"
    assert set(environment["PYTHONPATH"].split(os.pathsep)) == {path for path in sys.path if path}
    assert os.path.dirname(sys.executable) in environment["PATH"].split(os.pathsep)
    assert build_environment({"MAX_JOBS": "3"}, 64)["MAX_JOBS"] == "3"
    assert build_environment({}, 2)["MAX_JOBS"] == "2"


def test_a_failure_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first picture waits for the compiler; the others do not do so again."""
    tries: list[Toolchain] = []

    def fails(tools: Toolchain) -> gsplat_cuda.Stages:
        tries.append(tools)
        raise BackendUnavailable("gsplat's build failed: so it is")

    monkeypatch.setattr(gsplat_cuda, "_LOADED", gsplat_cuda._Loaded())
    monkeypatch.setattr(gsplat_cuda, "_load", fails)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(Toolchain, "require", lambda tools: None)
    for _ in range(2):
        rasterizer = GsplatRasterizer()
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match="so it is"):
                rasterizer.compile()
    assert len(tries) == 1
