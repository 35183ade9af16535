"""What Triton makes of the GPU kernels: registers, spills, instructions. No GPU is needed for that.

``python -m benchmarks.kernel_code`` compiles every kernel of ``rendering/fused_kernels``, and that
of anchors, to machine code for a generation of GPUs and prints a table of it; the tests do so to
prove that the kernels compile. ``docs/gpu.md`` tells what follows for their speed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.packages import STATUS, end_without

try:
    import triton
    from rich.console import Console
    from rich.table import Table
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.errors import TritonError

    from rendering.fused_kernels.bin import gather_kernel, pair_kernel
    from rendering.fused_kernels.chunk_box import cull_kernel
    from rendering.fused_kernels.composite import matrix_kernel, stream_kernel
    from rendering.fused_kernels.project import project_kernel
    from rendering.fused_kernels.project_pair import project_pair_kernel
    from rendering.models.anchor_kernel import decode_kernel
    from splat.errors import one_line
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    end_without(error, ("triton", "rich"))

LOWEST, HIGHEST = 70, 130  # compute capabilities, ten times; kernels need 7.0
GENERATIONS = {80: "Ampere (A100)", 89: "Ada", 90: "Hopper", 120: "Blackwell (RTX 50)"}
TYPES = {
    "pages": "*i64",
    "chunks": "*i32",
    "looks": "*fp32",
    "seen": "*i32",
    "camera": "*fp64",
    "other": "*fp64",
    "kept_dilation_px2": "fp32",
    "drift_px": "fp32",
    "nearest": "fp32",
    "first_row": "i32",
    "last_row": "fp32",
    "end_row": "i32",
    "splats": "*fp32",
    "depths": "*i32",
    "counts": "*i32",
    "written": "*i32",
    "list_depths": "*i32",
    "list_places": "*i32",
    "order": "*i32",
    "ends": "*i64",
    "pairs": "i32",
    "visible": "i32",
    "steps": "i32",
    "pair_tiles": "*i16",
    "pair_splats": "*i32",
    "tile_ends": "*i64",
    "color": "*fp32",
    "alpha": "*fp32",
    "depth": "*fp32",
    "median": "*fp32",
    "count": "*i32",
    "back_r": "fp32",
    "back_g": "fp32",
    "back_b": "fp32",
    "width": "i32",
    "columns": "i32",
    "tiles": "i32",
    "least": "fp32",
    "sources": "*i64",
    "targets": "*i64",
    "sizes": "*i32",
    "bounds": "*fp32",
    "centre": "*fp32",
    "octree": "*fp32",
    "weights": "*fp32",
}
PROJECT = {"BLOCK": 128, "TILE": 16, "COMPENSATE": False, "HALF": False}
STREAM = {
    "WITH_COLOR": True,
    "WITH_DEPTH": False,
    "WITH_ALL": False,
    "HALF": False,
    "EYES": 1,
    "STRIDE": 16,
    "TILE": 16,
    "ROWS_A_PASS": 2,
}
ANCHORS = {  # as Scaffold-GS has them
    "OFFSETS": 10,
    "PLACES": 16,
    "FEATURES": 32,
    "INPUTS": 32,
    "OPACITY_WIDTH": 32,
    "COLOR_WIDTH": 32,
    "COVARIANCE_WIDTH": 32,
    "BANK_WIDTH": 0,
    "BANK_LEVEL": False,
    "BANK_MORE": False,
    "HAS_LEVELS": False,
    "RULE": 0,
    "BLOCK": 16,
}
BIN = {"EYES": 1, "BLOCK": 256, "TILE": 16}


@dataclass(frozen=True, slots=True)
class Variant:
    """A kernel as it is launched.

    Attributes:
        kernel: Of Triton.
        constants: Its constexpr arguments.
        warps: Of a program.
        evaluations: Pixels times splats that a thread does in a round of its longest loop; 0 where
            that is not what it does.
    """

    kernel: Any
    constants: Mapping[str, object]
    warps: int = 4
    evaluations: int = 0


def _stream(tile: int = 16, warps: int = 1, **constants: object) -> Variant:
    rows = max(1, min(tile, 32 * warps // tile))
    every = {**STREAM, "TILE": tile, "ROWS_A_PASS": rows, **constants}
    return Variant(stream_kernel, every, warps, 16 * tile * tile // (32 * warps))


VARIANTS: dict[str, Variant] = {
    "cull": Variant(cull_kernel, {"MODEL": 0, "EYES": 1, "BLOCK": 128}),
    "project": Variant(project_kernel, {**PROJECT, "DEGREE": 3, "MODEL": 0}),
    "project, no SH": Variant(project_kernel, {**PROJECT, "DEGREE": 0, "MODEL": 0}),
    "project, ortho": Variant(project_kernel, {**PROJECT, "DEGREE": 3, "MODEL": 1}),
    "project, fisheye, antialiased": Variant(
        project_kernel, {**PROJECT, "DEGREE": 3, "MODEL": 2, "COMPENSATE": True}
    ),
    "project, two eyes": Variant(project_pair_kernel, {**PROJECT, "DEGREE": 3, "HALF": True}),
    "list": Variant(gather_kernel, {"EYES": 1, "BLOCK": 128}),
    "pairs": Variant(pair_kernel, BIN),
    "pairs, two eyes": Variant(pair_kernel, {**BIN, "EYES": 2}),
    "composite": _stream(),
    "composite, halves": _stream(HALF=True),
    "composite, halves, two eyes": _stream(HALF=True, EYES=2),
    "composite, all images": _stream(WITH_DEPTH=True, WITH_ALL=True),
    "composite, tiles of 8": _stream(8),
    "composite, tiles of 32": _stream(32, 4),
    "composite, 4 warps": _stream(warps=4),
    "composite, matrix": Variant(matrix_kernel, STREAM, 4, 16 * 256 // 128),
    "anchors": Variant(decode_kernel, ANCHORS),
    "anchors, octree, bank": Variant(
        decode_kernel, {**ANCHORS, "HAS_LEVELS": True, "RULE": 4, "BANK_WIDTH": 32}
    ),
    "composite, matrix, halves": Variant(matrix_kernel, {**STREAM, "HALF": True}, 4, 32),
}


@dataclass(frozen=True, slots=True)
class KernelCode:
    """Machine code of a kernel.

    Attributes:
        registers: Of a thread.
        spilled_bytes: Of a thread, what did not fit them.
        shared_bytes: Of a program.
        instructions: By name, all that there are.
        loop: Those of its longest loop alone.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    instructions: Counter[str]
    loop: Counter[str]

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def compile_variant(variant: Variant, capability: int) -> KernelCode:
    """Machine code for a generation of GPUs, such as 90 for Hopper.

    Raises:
        triton.CompilationError: If it does not compile.
    """
    names = variant.kernel.arg_names
    types = dict(TYPES)
    if "last_row" in names:  # of pixels, not of tiles
        types["first_row"] = "fp32"
    if variant.kernel is cull_kernel:
        types["count"] = "i32"
    signature = {name: "constexpr" if name in variant.constants else types[name] for name in names}
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(variant.kernel, signature, constants, aligned)
    fuses = variant.kernel is matrix_kernel
    options = {"num_warps": variant.warps, "enable_fp_fusion": fuses}
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options=options)
    return _read(built.asm["cubin"], built.metadata.shared)


def _read(cubin: bytes, shared_bytes: int) -> KernelCode:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def dumped(*what: str) -> str:
            done = subprocess.run(
                [tool, *what, file.name], capture_output=True, text=True, check=True
            )
            return done.stdout

        usage, listing = dumped("--dump-resource-usage"), dumped("-sass")
    return parse(usage, listing, shared_bytes)


def parse(usage: str, listing: str, shared_bytes: int) -> KernelCode:
    """The code that ``cuobjdump`` describes."""
    taken = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", usage)
    assert taken is not None, usage
    line = re.compile(
        r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]*)[^;]*?(0x[0-9a-f]+)? ?;", re.M
    )
    code = [(int(at, 16), name, target) for at, name, target in line.findall(listing)]
    code = [instruction for instruction in code if instruction[1] != "NOP"]
    backwards = [
        (int(target, 16), at)
        for at, name, target in code
        if name == "BRA" and target and int(target, 16) < at
    ]
    begin, end = max(backwards, key=lambda loop: loop[1] - loop[0], default=(0, -1))
    return KernelCode(
        registers=int(taken[1]),
        spilled_bytes=int(taken[2]) + int(taken[3]),
        shared_bytes=shared_bytes,
        instructions=Counter(name for _, name, _ in code),
        loop=Counter(name for at, name, _ in code if begin <= at <= end),
    )


def flops(instructions: Mapping[str, int]) -> int:
    """Floating-point operations of instructions, in single precision."""
    worth = {"FFMA": 2, "FADD": 1, "FMUL": 1, "MUFU": 1, "FMNMX": 1}
    return sum(worth.get(name, 0) * count for name, count in instructions.items())


def table_of(codes: Mapping[str, KernelCode], capability: int) -> Table:
    """Variants by name, for a generation of GPUs."""
    table = Table(title=f"Kernels for sm_{capability}, {GENERATIONS.get(capability, 'a GPU')}")
    heads = ("registers", "spilled B", "shared B", "instructions", "a pixel and splat", "FLOPs")
    table.add_column("kernel")
    for head in heads:
        table.add_column(head, justify="right")
    for name, code in codes.items():
        variant = VARIANTS[name]
        each, work = "", f"{flops(code.instructions)}"
        if variant.evaluations:
            each = f"{code.loop.total() / variant.evaluations:.1f}"
            work = f"{flops(code.loop) / variant.evaluations:.1f}"
        table.add_row(
            name,
            f"{code.registers}",
            f"{code.spilled_bytes}",
            f"{code.shared_bytes}",
            f"{code.instructions.total()}",
            each,
            work,
        )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or what it is made of."""
    options = _parser().parse_args(argv)
    capability = options.capability
    codes = {}
    for name in options.only:
        try:
            with redirect_stdout(StringIO()):  # Triton prints all of a program that it cannot make
                codes[name] = compile_variant(VARIANTS[name], capability)
        except (TritonError, subprocess.CalledProcessError) as problem:
            said = _complaint(f"{problem}")
            line = f"error: '{name}' cannot be compiled for sm_{capability}: {said}"
            print(line, file=sys.stderr)
            return STATUS
    if options.json:
        print(json.dumps({name: code.to_json() for name, code in codes.items()}))
    else:
        Console(width=140).print(table_of(codes, capability))
    return 0


def _complaint(text: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "fatal" in line] or [line for line in lines if "rror" in line]
    return one_line((told or lines or ["no word"])[0])


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f'  "{name}"' for name in VARIANTS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_code",
        description=__doc__.splitlines()[0],
        epilog=f"kernels, by NAME:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(f"{number} {name}" for number, name in GENERATIONS.items())
    parser.add_argument(
        "--capability",
        type=_capability,
        default=90,
        metavar="N",
        help=f"compute capability times ten, {LOWEST} to {HIGHEST}: {known} (90)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=_variant,
        metavar="NAME",
        default=list(VARIANTS),
        help="kernels to compile, all if not given",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _capability(word: str) -> int:
    if not (word.isdecimal() and LOWEST <= int(word) <= HIGHEST):
        raise argparse.ArgumentTypeError(
            f"'{word}': write {LOWEST} to {HIGHEST}, as 90 for 9.0; kernels need 7.0 at least"
        )
    return int(word)


def _variant(name: str) -> str:
    if name not in VARIANTS:
        raise argparse.ArgumentTypeError(f"there is no kernel '{name}'; --help lists them")
    return name


if __name__ == "__main__":
    sys.exit(main())
