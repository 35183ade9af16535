"""``belvedere bench``: run benchmarks, print a table each and a JSON record each figure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import (
    build,
    cache,
    devices,
    frame,
    lod,
    moving,
    peer,
    raster,
    scale,
    serve,
    soak,
    stereo,
    stream,
    view,
)
from benchmarks.machine import Machine, this_machine
from benchmarks.options import Options, parse_options
from benchmarks.report import Row, skipped, to_json_lines, to_markdown
from splat.atomic_file import atomic_file, check_writable

if TYPE_CHECKING:
    from benchmarks.workbench import Workbench

PEER_SCENES = ("town-1M",)
BUILD_SCENES = ("town-1M",)
DRAWING = ("raster", "frame", "peer")  # at the size and with the threads of the options
PLAIN_WIDTH = 170  # columns of a table that goes into a file


def run_exact(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``exact`` on its own scenes, or on those that were asked for."""
    from benchmarks import exact  # loads torch

    if options.scenes is None:
        return exact.run(progress=progress)
    scenes = [exact.from_benchmark(bench.scene(name)) for name in options.scenes]
    return exact.run(scenes, progress=progress)


def exact_table(rows: Sequence[Row]) -> Table:
    """The rows of ``exact`` for people."""
    from benchmarks import exact

    return exact.table_of(rows)


def run_formats(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``formats`` on all of its scenes, or on those that were asked for."""
    from benchmarks import formats  # loads the engine

    families = formats.families_of(options.scenes)
    known = [family.name for family in families]
    alone = [name for name in options.scenes or () if name not in known]
    rows = formats.run(families, pictures=options.pictures, progress=progress)
    return rows + [skipped("formats", name, "", formats.NO_SIBLINGS) for name in alone]


def formats_table(rows: Sequence[Row]) -> Table:
    """The rows of ``formats`` for people."""
    from benchmarks import formats

    return formats.table_of(rows)


def run_raster(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``raster`` on every scene and path."""
    return bench.on_every_path(
        "raster",
        lambda subject, advance: raster.run(subject, options.sampling, advance),
        options,
        progress,
        steps=options.sampling.cameras,
    )


def run_frame(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``frame`` on every scene and path."""
    return bench.on_every_path(
        "frame",
        lambda subject, advance: frame.run(subject, options.sampling, advance),
        options,
        progress,
        steps=options.sampling.cameras * options.sampling.repeats,
    )


def run_peer(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``peer`` at the first camera of the aerial path, or of those that were asked for."""
    return bench.on_every_path(
        "peer",
        lambda subject, advance: peer.run(subject, advance=advance),
        options,
        progress,
        steps=peer.STEPS,
        scenes=PEER_SCENES,
        paths=("aerial",),
    )


def run_view(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``view`` on the park, on the town where that is missing, or on what was asked for."""
    return view.run(
        options.scenes, size=options.size, threads=options.sampling.threads, progress=progress
    )


def run_lod(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``lod`` on every scene and path."""
    return bench.on_every_path(
        "lod",
        lambda subject, advance: lod.run(
            subject, bench.stores.store(subject.asked), options.sampling, advance
        ),
        options,
        progress,
        steps=lod.STEPS,
    )


def run_moving(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``moving`` on the park's walk, or on the scenes and paths that were asked for."""
    return bench.on_every_path(
        "moving",
        lambda subject, advance: moving.run(
            subject, bench.stores.store(subject.asked), options.sampling, advance
        ),
        options,
        progress,
        steps=moving.STEPS,
        scenes=("park",),
        paths=("walk",),
    )


def run_stream(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``stream`` on the park, or on the scenes that were asked for; journeys of its own."""
    return bench.on_every_path(
        "stream",
        lambda subject, advance: stream.run(
            subject, bench.stores.store(subject.asked), options.sampling, advance
        ),
        options,
        progress,
        steps=stream.STEPS,
        scenes=("park",),
        paths=("walk",),
    )


def run_scale(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``scale`` on the towns that were asked for."""
    task = progress.add_task("scale", total=2 * len(options.sizes))
    return scale.run(options.sizes, bench.stores, partial(progress.advance, task))


def run_build(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``build`` on the town, or on the scenes that were asked for."""
    scenes = options.scenes or BUILD_SCENES
    task = progress.add_task("build", total=build.STEPS * len(scenes))
    return [build.run(scene, partial(progress.advance, task)) for scene in scenes]


def run_cache(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``cache`` on every scene and path."""
    return bench.on_every_path(
        "cache",
        lambda subject, advance: cache.run(subject, options.sampling, advance),
        options,
        progress,
        steps=cache.PLACES,
    )


def run_stereo(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``stereo`` on every scene and path."""
    return bench.on_every_path(
        "stereo",
        lambda subject, advance: stereo.run(
            subject, bench.stores.store(subject.asked), options.sampling, advance
        ),
        options,
        progress,
        steps=options.sampling.cameras,
    )


def run_serve(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``serve`` on the park's walk, or on the scenes and paths that were asked for."""
    return bench.on_every_path(
        "serve",
        lambda subject, advance: serve.run(
            subject, bench.stores.store(subject.asked), options.sampling, advance
        ),
        options,
        progress,
        steps=serve.STEPS,
        scenes=("park",),
        paths=("walk",),
    )


def run_soak(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``soak`` on the store of the park, or on the scenes that were asked for; not by default."""
    if options.only is None:
        return []
    rows = []
    for scene in options.scenes or ("park",):
        store = bench.stores.store(scene)
        task = progress.add_task(f"soak {scene}", total=soak.STEPS)
        advance = partial(progress.advance, task)
        rows.append(soak.run(scene, [str(store)], options.size, advance=advance))
    return rows


def run_devices(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``devices`` on a small town from the air, or on the scenes and paths that were asked for."""
    return bench.on_every_path(
        "devices",
        lambda subject, advance: devices.run(
            subject,
            bench.stores.store(subject.asked),
            options.sampling,
            options.work,
            advance,
        ),
        options,
        progress,
        steps=options.sampling.cameras + len(devices.WORKLOADS),
        scenes=devices.SCENES,
        paths=devices.PATHS,
    )


def run_derived(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``derived`` on a piece of a town, to which anchors are fitted, or on what was asked for."""
    from benchmarks import derived  # loads the engine

    return derived.run(options, bench.stores.folder, progress)


def derived_table(rows: Sequence[Row]) -> Table:
    """The rows of ``derived`` for people."""
    from benchmarks import derived

    return derived.table_of(rows)


def run_nerf(options: Options, bench: Workbench, progress: Progress) -> list[Row]:
    """``nerf`` on a procedural field, or on the files and folders that were asked for."""
    from benchmarks import nerf  # loads the engine

    return nerf.run(options, progress)


def nerf_table(rows: Sequence[Row]) -> Table:
    """The rows of ``nerf`` for people."""
    from benchmarks import nerf

    return nerf.table_of(rows)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How to run one benchmark and to show its rows."""

    run: Callable[[Options, Workbench, Progress], list[Row]]
    table_of: Callable[[Sequence[Row]], Table]


BENCHMARKS = {
    "exact": Benchmark(run_exact, exact_table),
    "formats": Benchmark(run_formats, formats_table),
    "raster": Benchmark(run_raster, raster.table_of),
    "frame": Benchmark(run_frame, frame.table_of),
    "lod": Benchmark(run_lod, lod.table_of),
    "moving": Benchmark(run_moving, moving.table_of),
    "stream": Benchmark(run_stream, stream.table_of),
    "build": Benchmark(run_build, build.table_of),
    "scale": Benchmark(run_scale, scale.table_of),
    "cache": Benchmark(run_cache, cache.table_of),
    "derived": Benchmark(run_derived, derived_table),
    "nerf": Benchmark(run_nerf, nerf_table),
    "stereo": Benchmark(run_stereo, stereo.table_of),
    "serve": Benchmark(run_serve, serve.table_of),
    "soak": Benchmark(run_soak, soak.table_of),
    "devices": Benchmark(run_devices, devices.table_of),
    "view": Benchmark(run_view, view.table_of),
    "peer": Benchmark(run_peer, peer.table_of),
}


def run_all(options: Options, console: Console) -> list[Row]:
    """Run the benchmarks, print their tables as each is done, and return all records."""
    from benchmarks.workbench import Workbench  # loads the engine, which --help can do without

    with Workbench(options.size, options.work) as bench:
        return _run_all(options, bench, console)


def _run_all(options: Options, bench: Workbench, console: Console) -> list[Row]:
    errors = Console(stderr=True)  # where progress is shown, to a person only
    machine = this_machine(bench.rasterizer.instruction_set)
    names = [name for name in BENCHMARKS if options.only is None or name in options.only]
    _print_heading(options, names, machine, console)
    records = [machine.to_json()]
    for name in names:
        benchmark = BENCHMARKS[name]
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
            rows = benchmark.run(options, bench, progress)
        table = benchmark.table_of([row for row in rows if "skipped" not in row])
        if table.row_count:
            _print_table(table, options, console)
        for row in rows:
            if "skipped" in row:
                what = " ".join(filter(None, (name, row["scene"], row["path"])))
                line = f"{what} not measured: {row['skipped']}\n"
                console.print(line, markup=False, soft_wrap=True)
        records += rows
    return records


def _print_heading(
    options: Options, names: Sequence[str], machine: Machine, console: Console
) -> None:
    if not options.markdown:
        console.print(machine.describe(), markup=False, soft_wrap=True)
        return
    lines = [f"Command: `{options.command()}`", f"Machine: {machine.describe()}"]
    drawing = [f"`{name}`" for name in DRAWING if name in names]
    if drawing:
        width, height = options.size
        sampling = options.sampling
        lines.append(
            f"Pictures of {', '.join(drawing)}: {width}×{height}, "
            f"{sampling.threads or machine.cores} threads, {sampling.cameras} cameras a path, "
            f"{sampling.repeats} frames each."
        )
    console.print("\n\n".join(lines) + "\n", markup=False, soft_wrap=True, highlight=False)


def _print_table(table: Table, options: Options, console: Console) -> None:
    if options.markdown:
        console.print(to_markdown(table), markup=False, soft_wrap=True, highlight=False)
    else:
        console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what ``argv`` asks for; 0, or with ``--strict`` 1 if a bar was missed.

    Raises:
        BelvedereError: If a scene cannot be read or the records cannot be written.
    """
    options = parse_options(sys.argv[1:] if argv is None else argv, tuple(BENCHMARKS))
    if options.json is not None:
        check_writable(options.json)
    plain_width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(width=plain_width)
    records = run_all(options, console)
    if options.json is not None:
        with atomic_file(options.json) as file:
            file.write_text(to_json_lines(records), encoding="utf-8")
    elif not options.markdown:
        print(to_json_lines(records), end="")
    missed = any(record.get("passed") is False for record in records)
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    from viewer.cli import main as belvedere

    raise SystemExit(belvedere(["bench", *sys.argv[1:]]))
