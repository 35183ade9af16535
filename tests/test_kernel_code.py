"""The GPU kernels compile to machine code, for GPUs that need not be here.

The interpreter accepts what the compiler refuses, and knows nothing of registers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kernel_work import COMPOSITE_FLOPS, PAIR_FLOPS, PROJECT_FLOPS

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
EVERYWHERE = ["list", "pairs", "composite, halves"]
DRAWN_WITH = [
    "project",
    "project, fisheye, antialiased",
    "project, two eyes",
    "pairs",
    "pairs, two eyes",
    "composite",
    "composite, halves",
    "composite, halves, two eyes",
    "composite, all images",
    "composite, matrix",
    "anchors",
    "anchors, octree, bank",
]


def compiled(tmp_path: Path, *options: str) -> dict[str, Any]:
    """In a process of its own: in this one kernels may be made for the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernel_code", "--json", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    codes: dict[str, Any] = json.loads(done.stdout)
    return codes


def test_kernels_compile_and_keeps_to_its_registers(tmp_path: Path) -> None:
    codes = compiled(tmp_path, "--only", *DRAWN_WITH)
    assert list(codes) == DRAWN_WITH
    for name, code in codes.items():
        assert code["instructions"], name
        if "matrix" not in name:
            assert code["spilled_bytes"] == 0, name
            assert code["registers"] <= (208 if "anchors" in name else 168), name
        assert code["shared_bytes"] <= 48 << 10, name
    # What makes compositing quick: this much a thread does for a pixel and a splat, no more.
    loop = codes["composite, halves"]["loop"]
    assert loop["MUFU"] == 128
    assert 12 * 128 < sum(loop.values()) < 18 * 128
    assert codes["composite"]["loop"]["LDG"] > loop["LDG"]
    from benchmarks.kernel_code import flops

    # What frames ask of a GPU is reckoned with these.
    assert flops(codes["project"]["instructions"]) == pytest.approx(PROJECT_FLOPS, rel=0.02)
    assert flops(codes["pairs"]["instructions"]) == pytest.approx(PAIR_FLOPS, rel=0.02)
    each = flops(codes["composite"]["loop"]) / 128
    assert each == pytest.approx(COMPOSITE_FLOPS, rel=0.05)


@pytest.mark.parametrize("capability", [80, 120])
def test_kernels_compile_for_other_generations(tmp_path: Path, capability: int) -> None:
    codes = compiled(tmp_path, "--capability", str(capability), "--only", *EVERYWHERE)
    assert list(codes) == EVERYWHERE
    assert all(code["spilled_bytes"] == 0 for code in codes.values())


def test_a_listing_is_read() -> None:
    from benchmarks.kernel_code import flops, parse

    usage = " Function k:\n  REG:40 STACK:8 SHARED:1024 LOCAL:4 CONSTANT[0]:640 TEXTURE:0\n"
    listing = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   FFMA R2, R3, R4, R5 ;
                                                          /* 0x00005e0000000a00 */
        /*0020*/              @!P0 MUFU.EX2 R2, R2 ;
        /*0030*/               @P1 BRA 0x10 ;
        /*0040*/                   FADD R2, R2, -R3 ;
        /*0050*/                   NOP ;
    """
    code = parse(usage, listing, 16)
    assert (code.registers, code.spilled_bytes, code.shared_bytes) == (40, 12, 16)
    assert code.instructions == {"LDC": 1, "FFMA": 1, "MUFU": 1, "BRA": 1, "FADD": 1}
    assert code.loop == {"FFMA": 1, "MUFU": 1, "BRA": 1}
    assert flops(code.loop) == 3


@pytest.mark.parametrize("capability", ["12", "60", "131", "9.0"])
def test_generations_without_these_kernels_are_refused(
    capability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.kernel_code import main

    with pytest.raises(SystemExit) as end:
        main(["--capability", capability])
    assert end.value.code == 2
    assert f"'{capability}': write 70 to 130" in capsys.readouterr().err


def test_what_the_compiler_refuses_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from triton.errors import TritonError

    from benchmarks import kernel_code

    def refuse(variant: object, capability: int) -> None:
        sys.stdout.write("all of the program")
        raise TritonError("`ptxas` stderr:\nptxas fatal   : no sm_88\n\nRepro: ptxas")

    monkeypatch.setattr(kernel_code, "compile_variant", refuse)
    assert kernel_code.main(["--capability", "88", "--only", "list"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: 'list' cannot be compiled for sm_88: ptxas fatal : no sm_88\n"


def test_help_names_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.kernel_code import VARIANTS, main

    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "--only NAME" in said and all(f'  "{name}"\n' in said for name in VARIANTS)
