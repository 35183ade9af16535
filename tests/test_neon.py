"""The NEON kernels, compiled for 64-bit Arm and run under an emulator."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rendering.models.components.native import instruction_sets
from tests.native_programs import NEURAL, RASTERIZER, Program, build, shared_symbols

COMPILER = "aarch64-linux-gnu-g++"
NM = "aarch64-linux-gnu-nm"
EMULATOR = "qemu-aarch64-static"
OWN_COMPILER = "c++"
PROCESSORS = {"aarch64": "neon", "arm64": "neon"}
# Kernels that multiply and add alike: products and sums are fused in the same places.
TWINS = {"neon": "avx2", "scalar": "scalar", "any": "any"}
LINE = re.compile(r"^(\w+) (.+): (\d+) values, .* digest ([0-9a-f]{16})$")

pytestmark = [
    pytest.mark.skipif(
        platform.machine() in PROCESSORS, reason="on Arm the native tests run the NEON kernels"
    ),
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"needs {COMPILER} and {EMULATOR} (Debian: g++-aarch64-linux-gnu qemu-user-static)",
    ),
]


def run_for_arm(folder: Path, program: Program) -> str:
    """What the program says, of NEON's kernels and of those without."""
    built = build(COMPILER, folder, program, ["neon", "scalar"])
    result = subprocess.run([EMULATOR, str(built)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert shared_symbols(folder, program, NM) == []
    return result.stdout


@pytest.mark.slow
def test_neon_kernels_draw_what_the_scalar_ones_draw(tmp_path: Path) -> None:
    output = run_for_arm(tmp_path, RASTERIZER)
    assert output.count("neon model") == 3 and output.count("neon fit") == 1


def digests(output: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Of every set of kernels and case: how many values, and the digest of their bytes."""
    lines = [LINE.match(line) for line in output.splitlines()]
    return {(m[1], m[2]): (m[3], m[4]) for m in lines if m}


@pytest.mark.slow
def test_neural_kernels_compute_the_same_bytes_on_arm(tmp_path: Path) -> None:
    (tmp_path / "arm").mkdir()
    found = digests(run_for_arm(tmp_path / "arm", NEURAL))
    assert {kernels for kernels, _ in found} == {"neon", "scalar", "any"}
    if "avx2" not in instruction_sets() or not shutil.which(OWN_COMPILER):
        pytest.skip(f"NEON agrees with scalar; AVX2 and {OWN_COMPILER} are needed for the bytes")
    (tmp_path / "here").mkdir()
    sets = [name for name in ("avx512", "avx2", "scalar") if name in instruction_sets()]
    built = build(OWN_COMPILER, tmp_path / "here", NEURAL, ["avx512", "avx2", "scalar"])
    result = subprocess.run([str(built)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    here = digests(result.stdout)
    assert {kernels for kernels, _ in here} == {*sets, "any"}
    assert found == {(k, case): here[TWINS[k], case] for k, case in found}
