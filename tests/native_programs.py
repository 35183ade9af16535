"""Programs of the native kernels without Python, for this processor or another.

Compiled as ``CMakeLists.txt`` says, from which flags are read: kernels once for each instruction
set, the rest once. Results do not depend on how much is optimized; only kernels that nothing else
runs are optimized as those that are installed, which takes several times as long.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT / "rendering" / "native" / "src"
MAINS = ROOT / "tests" / "native"
DEFINES = {"neon": "BELVEDERE_WITH_NEON", "avx2": "BELVEDERE_WITH_X86"}
# What is "scalar" takes what the compiler takes for granted, which for 64-bit Arm is NEON: kernels
# that do without are the ones to compare with.
WITHOUT_NEON = "-U__ARM_NEON"


@dataclass(frozen=True, slots=True)
class Program:
    """What a program is made of.

    Attributes:
        name: Of the file.
        kernels: Folder of ``kernels.cpp``.
        sources: Everything else.
        mark: Part of the name of a function that every set of kernels has.
    """

    name: str
    kernels: Path
    sources: tuple[Path, ...]
    mark: str


RASTERIZER = Program(
    "kernels_agree",
    SHARED,
    (
        MAINS / "kernels_agree.cpp",
        *(p for p in sorted(SHARED.glob("*.cpp")) if p.stem not in ("kernels", "module")),
    ),
    "composite_any",
)
_NEURAL = ROOT / "rendering" / "models" / "native" / "src"
NEURAL = Program(
    "neural_agree",
    _NEURAL,
    (
        *sorted(MAINS.glob("neural_*.cpp")),
        *(
            p
            for p in sorted(_NEURAL.glob("*.cpp"))
            if p.stem not in ("kernels", "module") and not p.stem.startswith("bind_")
        ),
    ),
    "evaluate_block",
)


def arithmetic_flags() -> list[str]:
    """How products and sums are compiled, in all files."""
    (flags,) = re.findall(r"^set\(arithmetic (.+)\)$", _cmake_lists(), re.MULTILINE)
    return ["-std=c++20", *flags.split()]


def flags_of(instruction_set: str) -> list[str]:
    """What the kernels of an instruction set are compiled with besides."""
    pattern = rf"^ *add_kernels\({instruction_set}\b *(.*)\)$"
    (flags,) = re.findall(pattern, _cmake_lists(), re.MULTILINE)
    without = [WITHOUT_NEON] if instruction_set == "scalar" else []
    return ["-O3" if instruction_set == "neon" else "-O2", *flags.split(), *without]


def build(compiler: str, folder: Path, program: Program, instruction_sets: list[str]) -> Path:
    """The program with the given kernels, which are left as objects in ``folder``."""
    arguments = [compiler, *arithmetic_flags(), f"-I{program.kernels}", f"-I{SHARED}", "-Wno-psabi"]
    objects = []
    for name in instruction_sets:
        target = str(folder / f"kernels_{name}.o")
        source = str(program.kernels / "kernels.cpp")
        what = [f"-DBELVEDERE_ISA={name}", "-c", source, "-o", target]
        subprocess.run([*arguments, *flags_of(name), *what], check=True)
        objects.append(target)
    out = folder / program.name
    defines = [f"-D{DEFINES[name]}" for name in instruction_sets if name in DEFINES]
    sources = [str(path) for path in program.sources]
    rest = ["-O1", *defines, "-static", *sources, *objects, "-pthread", "-o", str(out)]
    subprocess.run([*arguments, *rest], check=True)
    return out


def shared_symbols(folder: Path, program: Program, nm: str) -> list[str]:
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
    assert any(program.mark in name for name in names)
    own = tuple(f"belvedere::{path.stem.removeprefix('kernels_')}::" for path in folder.glob("*.o"))
    return [name for name in names if not any(space in name for space in own)]


def _cmake_lists() -> str:
    return (ROOT / "CMakeLists.txt").read_text()
