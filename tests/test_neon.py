"""The NEON kernels, compiled for 64-bit Arm and run under an emulator."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "rendering" / "native" / "src"
COMPILER = "aarch64-linux-gnu-g++"
NM = "aarch64-linux-gnu-nm"
EMULATOR = "qemu-aarch64-static"
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
PROCESSORS = {"aarch64": "neon", "arm64": "neon"}


def build(compiler: str, folder: Path, instruction_sets: dict[str, list[str]]) -> Path:
    """The program ``kernels_agree`` with the given kernels."""
    objects = []
    for name, flags in instruction_sets.items():
        target = folder / f"kernels_{name}.o"
        source = str(SOURCES / "kernels.cpp")
        definition = f"-DBELVEDERE_ISA={name}"
        subprocess.run(
            [compiler, *FLAGS, *flags, definition, "-c", source, "-o", str(target)], check=True
        )
        objects.append(str(target))
    others = [str(p) for p in SOURCES.glob("*.cpp") if p.stem not in ("kernels", "module")]
    program = folder / "kernels_agree"
    main = str(ROOT / "tests" / "native" / "kernels_agree.cpp")
    defines = ["-DBELVEDERE_WITH_NEON"] if "neon" in instruction_sets else []
    subprocess.run(
        [
            compiler,
            *FLAGS,
            *defines,
            "-static",
            f"-I{SOURCES}",
            main,
            *others,
            *objects,
            "-pthread",
            "-o",
            str(program),
        ],
        check=True,
    )
    return program


def shared_symbols(folder: Path, nm: str) -> list[str]:
    """Functions of the kernels that are in no namespace of an instruction set.

    A linker may keep one set's copy of them for all, which then does not run everywhere.
    """
    objects = [str(path) for path in folder.glob("kernels_*.o")]
    listing = subprocess.run(
        [nm, "--demangle", "--defined-only", "--extern-only", "--format=posix", *objects],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    names = [line for line in listing if " " in line]
    assert any("composite_any" in name for name in names)
    own = tuple(f"belvedere::{path.stem.removeprefix('kernels_')}::" for path in folder.glob("*.o"))
    return [name for name in names if not any(space in name for space in own)]


@pytest.mark.skipif(
    platform.machine() in PROCESSORS, reason="on Arm the native tests run the NEON kernels"
)
@pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR} (Debian: g++-aarch64-linux-gnu qemu-user-static)",
)
def test_neon_kernels_draw_what_the_scalar_ones_draw(tmp_path: Path) -> None:
    program = build(COMPILER, tmp_path, {"neon": [], "scalar": []})
    result = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("neon model") == 3
    assert shared_symbols(tmp_path, NM) == []
