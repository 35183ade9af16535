"""``belvedere bench``: run benchmarks, print a table each and a JSON record each figure."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import frame, peer, raster
from benchmarks.machine import Machine, this_machine
from benchmarks.report import Row, skipped, to_json_lines, to_markdown
from benchmarks.scenes import PATH_NAMES, SIZE, BenchmarkScene, Size, open_scene
from splat.errors import OutputError, SceneNotFoundError, SettingsError
from viewer.image_files import check_target

DEFAULT_SCENES = ("town-1M", "park")
PEER_SCENES = ("town-1M",)
DATA_HINT = "the folder of real scenes is named by the variable BELVEDERE_DATA"
PLAIN_WIDTH = 170  # columns of a table that goes into a file


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said.

    Attributes:
        only: Names of benchmarks, in the order of ``BENCHMARKS``.
        scenes: None for those of each benchmark.
        paths: Of ``PATH_NAMES``; None for those of each benchmark.
        cameras, repeats: How many views of a path, and how often each is drawn.
        threads: CPU threads a frame; 0 for one a core.
        json: Where records go instead of standard output.
        markdown: Print Markdown, and no records, on standard output.
        strict: Exit with 1 if a bar was missed.
    """

    only: tuple[str, ...]
    scenes: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    size: Size = SIZE
    cameras: int = raster.CAMERAS
    repeats: int = raster.REPEATS
    threads: int = 0
    json: Path | None = None
    markdown: bool = False
    strict: bool = False

    def command(self) -> str:
        """The command line that measures the same again and prints it as Markdown."""
        words = ["belvedere", "bench", "--markdown"]
        if self.only != tuple(BENCHMARKS):
            words += ["--only", *self.only]
        if self.scenes is not None:
            words += ["--scene", *self.scenes]
        if self.paths is not None:
            words += ["--path", *self.paths]
        usual = Options(self.only)
        if self.size != usual.size:
            words += ["--size", "{}x{}".format(*self.size)]
        for name in ("cameras", "repeats", "threads"):
            if getattr(self, name) != getattr(usual, name):
                words += [f"--{name}", str(getattr(self, name))]
        return shlex.join(words)


class Workbench:
    """The rasterizer under test, and scenes opened and prepared once for all benchmarks.

    Raises:
        BackendUnavailable: If the native engine is not built.
    """

    def __init__(self, size: Size) -> None:
        from rendering.native.cpu import NativeRasterizer

        self.rasterizer = NativeRasterizer()
        self._size = size
        self._scenes: dict[str, tuple[BenchmarkScene, Any]] = {}

    def scene(self, name: str) -> tuple[BenchmarkScene, Any]:
        """A scene, and the same as the rasterizer prepared it.

        Raises:
            SceneError: If it cannot be read.
            SettingsError: If the name makes no sense.
        """
        if name not in self._scenes:
            scene = open_scene(name, self._size)
            self._scenes[name] = scene, self.rasterizer.prepare(scene.gaussians)
        return self._scenes[name]


Advance = Callable[[], None]


def run_raster(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``raster`` on every scene and path."""

    def measure(name: str, path: str, advance: Advance) -> Row:
        scene, prepared = bench.scene(name)
        return raster.run(
            scene,
            scene.path(path),
            bench.rasterizer,
            prepared,
            cameras=options.cameras,
            repeats=options.repeats,
            threads=options.threads,
            advance=advance,
        )

    return _on_every_path("raster", options, progress, options.cameras, measure)


def run_frame(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``frame`` on every scene and path."""

    def measure(name: str, path: str, advance: Advance) -> Row:
        scene, prepared = bench.scene(name)
        return frame.run(
            scene,
            scene.path(path),
            bench.rasterizer,
            prepared,
            cameras=options.cameras,
            repeats=options.repeats,
            threads=options.threads,
            advance=advance,
        )

    return _on_every_path("frame", options, progress, options.cameras * options.repeats, measure)


def run_peer(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``peer`` at the first camera of the aerial path, or of those that were asked for."""

    def measure(name: str, path: str, advance: Advance) -> Row:
        scene, prepared = bench.scene(name)
        return peer.run(scene, scene.path(path), bench.rasterizer, prepared, advance=advance)

    scenes, paths = options.scenes or PEER_SCENES, options.paths or ("aerial",)
    return _on_every_path("peer", options, progress, peer.STEPS, measure, scenes, paths)


def run_exact(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``exact`` on its own scenes, or on those that were asked for."""
    from benchmarks import exact  # loads torch

    if options.scenes is None:
        return exact.run(progress=progress)
    scenes = (bench.scene(name)[0] for name in options.scenes)
    return exact.run([exact.from_benchmark(scene) for scene in scenes], progress=progress)


def exact_table(rows: Sequence[Row]) -> Table:
    """The rows of ``exact`` for people, those of a camera model in one."""
    from benchmarks import exact

    return exact.summary_of(rows)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How to run one benchmark and to show its rows."""

    run: Callable[[Options, Workbench, Progress], list[Row]]
    table_of: Callable[[Sequence[Row]], Table]


BENCHMARKS = {
    "exact": Benchmark(run_exact, exact_table),
    "raster": Benchmark(run_raster, raster.table_of),
    "frame": Benchmark(run_frame, frame.table_of),
    "peer": Benchmark(run_peer, peer.table_of),
}


def _on_every_path(
    name: str,
    options: Options,
    progress: Progress,
    steps: int,
    measure: Callable[[str, str, Advance], Row],
    scenes: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
) -> list[Row]:
    """``measure`` for each scene and path; a scene that nobody asked for may be missing."""
    scenes = scenes or options.scenes or DEFAULT_SCENES
    paths = paths or options.paths or PATH_NAMES
    task = progress.add_task(name, total=len(scenes) * len(paths) * steps)
    rows = []
    for scene in scenes:
        for path in paths:
            progress.update(task, description=f"{name} {scene} {path}")
            try:
                rows.append(measure(scene, path, partial(progress.advance, task)))
            except SceneNotFoundError as error:
                if options.scenes is not None:
                    raise
                rows.append(
                    skipped(
                        name,
                        scene,
                        path,
                        f"{error}; set BELVEDERE_DATA to the folder of real scenes",
                    )
                )
    return rows


def run_all(options: Options, console: Console) -> list[Row]:
    """Run the benchmarks, print their tables as each is done, and return all records."""
    bench = Workbench(options.size)
    errors = Console(stderr=True)  # where progress is shown, to a person only
    machine = this_machine(bench.rasterizer.instruction_set)
    _print_heading(options, machine, console)
    records = [machine.to_json()]
    for name in options.only:
        benchmark = BENCHMARKS[name]
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
            rows = benchmark.run(options, bench, progress)
        table = benchmark.table_of([row for row in rows if "skipped" not in row])
        if table.row_count:
            _print_table(table, options, console)
        for row in rows:
            if "skipped" in row:
                line = f"{name} {row['scene']} {row['path']} not measured: {row['skipped']}"
                console.print(line + "\n", markup=False, soft_wrap=True)
        records += rows
    return records


def _print_heading(options: Options, machine: Machine, console: Console) -> None:
    if not options.markdown:
        console.print(machine.describe(), markup=False, soft_wrap=True)
        return
    width, height = options.size
    threads = options.threads or machine.cores
    lines = [
        f"Command: `{options.command()}`",
        f"Machine: {machine.describe()}",
        f"Pictures of `raster`, `frame` and `peer`: {width}×{height}, {threads} threads, "
        f"{options.cameras} cameras a path, {options.repeats} frames each.",
    ]
    console.print("\n\n".join(lines) + "\n", markup=False, soft_wrap=True, highlight=False)


def _print_table(table: Table, options: Options, console: Console) -> None:
    if options.markdown:
        console.print(to_markdown(table), markup=False, soft_wrap=True, highlight=False)
    else:
        console.print(table)


class _Parser(argparse.ArgumentParser):
    """Complains as the other commands do: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see {self.prog} --help")


def parse_options(argv: Sequence[str]) -> Options:
    """The command line as options.

    Raises:
        SettingsError: If it makes no sense.
    """
    parser = _Parser(
        prog="belvedere bench",
        description="Measure this machine; docs/benchmarks.md says what the figures mean.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        choices=tuple(BENCHMARKS),
        metavar="NAME",
        help=f"some of: {', '.join(BENCHMARKS)} (all; 'peer' takes minutes)",
    )
    parser.add_argument(
        "--scene",
        nargs="+",
        action="extend",
        metavar="SCENE",
        help="town-N such as town-150K, park, or a path, instead of the usual ones",
    )
    parser.add_argument(
        "--path", nargs="+", action="extend", choices=PATH_NAMES, help="some of the camera paths"
    )
    parser.add_argument(
        "--device", choices=("cpu",), default="cpu", help="what is measured: the native engine"
    )
    parser.add_argument(
        "--size", type=_size, default=SIZE, metavar="WxH", help="of the pictures (1280x720)"
    )
    parser.add_argument(
        "--cameras", type=_positive, default=raster.CAMERAS, metavar="N", help="views of a path"
    )
    parser.add_argument(
        "--repeats", type=_positive, default=raster.REPEATS, metavar="N", help="frames a view"
    )
    parser.add_argument(
        "--threads", type=_count, default=0, metavar="N", help="a frame's threads; 0: one a core"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON records here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown and no JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--debug", action="store_true", help="log more, show tracebacks")
    words = parser.parse_args(argv)
    return Options(
        only=tuple(name for name in BENCHMARKS if name in (words.only or BENCHMARKS)),
        scenes=tuple(words.scene) if words.scene else None,
        paths=tuple(words.path) if words.path else None,
        size=words.size,
        cameras=words.cameras,
        repeats=words.repeats,
        threads=words.threads,
        json=words.json,
        markdown=words.markdown,
        strict=words.strict,
    )


def _size(text: str) -> Size:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as {SIZE[0]}x{SIZE[1]}")
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what ``argv`` asks for; 0, or with ``--strict`` 1 if a bar was missed.

    Raises:
        BelvedereError: If a scene cannot be read or the records cannot be written.
    """
    options = parse_options(sys.argv[1:] if argv is None else argv)
    if options.json is not None:
        check_target(options.json, (".json", ".jsonl"))
    plain_width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(width=plain_width)
    records = run_all(options, console)
    if options.json is not None:
        _write(options.json, to_json_lines(records))
    elif not options.markdown:
        print(to_json_lines(records), end="")
    missed = any(record.get("passed") is False for record in records)
    return 1 if options.strict and missed else 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    from viewer.cli import main as belvedere

    raise SystemExit(belvedere(["bench", *sys.argv[1:]]))
