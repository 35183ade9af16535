"""The rows for people: a table a kind, and the bars of the GPU last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.gpu_kit.bars import bars_of
from benchmarks.gpu_kit.results import StepRecord
from benchmarks.report import Row, new_table, to_markdown

Cell = Callable[[Row], str]

PIXEL_BYTES = 16  # RGB and alpha, float32


@dataclass(frozen=True, slots=True)
class Kind:
    """How the rows of one table are shown.

    Attributes:
        title: Above it.
        words, figures: Columns by heading, to the left and to the right.
    """

    title: str
    words: dict[str, Cell]
    figures: dict[str, Cell]


def tables_of(rows: Sequence[Row], steps: Sequence[StepRecord], *, dry: bool) -> list[Table]:
    """All tables that there are rows for, the bars last."""
    mark = "DRY " if dry else ""
    rows = with_floors(rows)
    tables = [_shown("machine", mark, partial(_machine_table, rows, mark))]
    for name, kind in KINDS.items():
        these = _latest([row for row in rows if row["table"] == name])
        if these:
            tables.append(_shown(kind.title, mark, partial(_table, kind, these, mark)))
    steps_table = _shown("steps", mark, partial(_steps_table, steps, mark))
    return [*tables, steps_table, _shown("bars", mark, partial(_bars_table, rows, mark))]


def with_floors(rows: Sequence[Row]) -> list[Row]:
    """Rows with the least time that something can take (``floor_ms``), as quickly as the device
    copies. Of frames, what is visible must be read once, in the form that pages have, and a picture
    of RGB and alpha be written; of others it is told (``moved_bytes``)."""
    rates = [row["copy_gb_s"] for row in rows if row["table"] == "rates"]
    if not rates:
        return list(rows)
    return [
        row
        if (least := _floor_bytes(row)) is None
        else {**row, "floor_ms": least / rates[-1] / 1e6}
        for row in rows
    ]


def _floor_bytes(row: Row) -> float | None:
    if "gaussian_bytes" not in row:
        return row.get("moved_bytes")
    pixels: float = row["width"] * row["height"]
    return float(row["visible"] * row["gaussian_bytes"] + PIXEL_BYTES * pixels)


def _shown(title: str, mark: str, make: Callable[[], Table]) -> Table:
    """A table; one that a row spoils says so, and costs neither the run nor the others."""
    try:
        return _narrow(make())
    except Exception as error:
        return new_table(
            f"{mark}{title}: cannot be shown ({type(error).__name__}: {error})", [], []
        )


def _narrow(table: Table) -> Table:
    """As little beside the figures as may be: the widest has 20 columns. Words are broken first."""
    table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 0), False
    for column in table.columns:
        column.no_wrap = column.justify == "right"
        column.overflow = "fold"
    return table


def to_markdown_page(tables: Sequence[Table], command: str, *, dry: bool) -> str:
    """Sections fit for ``docs/benchmarks.md``, below the command that made them."""
    warning = "DRY: made on a CPU to test the kit; no figure here is a speed.\n\n" if dry else ""
    return f"Command: `{command}`\n\n{warning}" + "\n".join(map(to_markdown, tables))


def number(row: Row, name: str, form: str = ",.1f", scale: float = 1.0) -> str:
    """A figure of a row; a dash where it has none."""
    value = row.get(name)
    return "—" if value is None else format(scale * value, form)


def amount(value: float) -> str:
    """Three digits of it, with K, M or G for thousands, millions and so on."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if value >= 0.9995 * factor:
            return f"{_three_digits(value / factor)}{unit}"
    return f"{value:.0f}"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _amount(name: str, scale: float = 1.0) -> Cell:
    """A dash, too, where it is nothing: memory is not measured in a dry run."""
    return lambda row: amount(scale * row[name]) if row.get(name) else "—"


def _figure(name: str, form: str = ",.1f", scale: float = 1.0) -> Cell:
    return lambda row: number(row, name, form, scale)


def _word(name: str) -> Cell:
    return lambda row: str(row.get(name) or "—")


def _status(row: Row) -> str:
    return "not over" if row["status"] is None else str(row["status"])


def _size(row: Row) -> str:
    return f"{row['width']}×{row['height']}" if "width" in row else "—"


def _engine(row: Row) -> str:
    return f"{row['engine']} {row['variant']}".strip()


def _stage(name: str) -> Cell:
    return lambda row: number(row.get("stage_ms", {}), name, ".2f")


def _constants(row: Row) -> str:
    return " ".join(f"{name}={value}" for name, value in row["constants"].items())


def _form(row: Row) -> str:
    return f"{row['block']}×{row['warps']}"


_PLACE: dict[str, Cell] = {"scene": _word("scene"), "path": _word("path"), "size": _size}
_TIMES: dict[str, Cell] = {
    "device ms p50": _figure("device_ms_p50", ".2f"),
    "p95": _figure("device_ms_p95", ".2f"),
    "to the host ms p50": _figure("host_ms_p50", ".2f"),
    "p95 ": _figure("host_ms_p95", ".2f"),
}

KINDS: dict[str, Kind] = {
    "tests": Kind(
        "contract tests on the device",
        {"of": _word("files"), "status of pytest": _status},
        {name: _figure(name, ".0f") for name in ("passed", "failed", "errors", "skips")},
    ),
    "frames": Kind(
        "frames: single pictures, the whole scene resident",
        {**_PLACE, "engine": _engine},
        {
            "Gaussians": _amount("gaussians"),
            "visible": _amount("visible"),
            "pairs": _amount("tile_pairs"),
            "floor ms": _figure("floor_ms", ".2f"),
            **_TIMES,
            "project": _stage("project"),
            "sort": _stage("sort"),
            "bin": _stage("bin"),
            "composite": _stage("composite"),
            "scene bytes": _amount("held_mb", 1e6),
            "frame bytes": _amount("frame_mb", 1e6),
        },
    ),
    "pictures": Kind(
        "pictures: against the engine of the CPU",
        {**_PLACE, "engine": _word("engine"), "truth": _word("truth")},
        {"PSNR dB": _figure("psnr_db", ".1f"), "largest error": _figure("max_error", ".4f")},
    ),
    "binocular": Kind(
        "binocular: both eyes of a cut through the levels of detail, all of a frame",
        {**_PLACE, "manner": _word("manner")},
        {
            "Gaussians": _amount("gaussians"),
            "drawn": _amount("drawn"),
            "frames/s": _figure("fps", ".1f"),
            "on the device": _figure("device_fps", ".1f"),
            "choosing ms": _figure("choosing_ms", ".2f"),
            **_TIMES,
            "of two": _figure("of_two", ".2f"),
            "PSNR dB": _figure("psnr_db", ".1f"),
        },
    ),
    "uploads": Kind(
        "uploads: frames while another thread brings pages",
        _PLACE,
        {
            "asked MB/s": _figure("asked_mb_s", ".0f"),
            "MB/s": _figure("mb_s", ".0f"),
            **_TIMES,
            "p95 times": _figure("times", ".2f"),
        },
    ),
    "paging": Kind(
        "paging: the device's memory with all of a scene, and with a part of it",
        {"scene": _word("scene"), "pages for": _word("pages")},
        {
            "bytes": _amount("device_mb", 1e6),
            "less %": _figure("less", ".0f", 100),
            "worst PSNR dB": _figure("psnr_db", ".1f"),
        },
    ),
    "anchors": Kind(
        "anchors: all pages of a neural model decoded by one launch",
        {"model": _word("model"), "anchors × warps of a program": _form},
        {
            "anchors": _amount("anchors"),
            "Gaussians": _amount("gaussians"),
            "floor ms": _figure("floor_ms", ".2f"),
            "device ms p50": _figure("device_ms_p50", ".2f"),
            "p95": _figure("device_ms_p95", ".2f"),
            "with the launch ms p50": _figure("host_ms_p50", ".2f"),
            "p95 ": _figure("host_ms_p95", ".2f"),
            "anchors/s": _amount("anchors_s"),
            "largest error": _figure("max_error", ".1e"),
        },
    ),
    "kernels": Kind(
        "kernels: what they were compiled to",
        {"kernel": _word("kernel"), "constants": _constants},
        {
            "warps": _figure("warps", ".0f"),
            "registers": _figure("registers", ".0f"),
            "spills": _figure("spills", ".0f"),
            "shared bytes": _figure("shared_bytes", ",.0f"),
        },
    ),
}


def _table(kind: Kind, rows: Sequence[Row], mark: str) -> Table:
    first = [""] if mark else []
    table = new_table(mark + kind.title, [*first, *kind.words], [*kind.figures])
    reasons = []
    for row in rows:
        words = [cell(row) for cell in kind.words.values()]
        if "skipped" in row:
            figures = ["—"] * len(kind.figures)
            reasons.append(_reason(words, row["skipped"]))
        else:
            figures = [cell(row) for cell in kind.figures.values()]
        table.add_row(*([mark.strip()] if mark else []), *words, *figures)
    table.caption = "; ".join(dict.fromkeys(reasons)) or None
    return table


def _reason(words: Sequence[str], why: str) -> str:
    """What was skipped, and why."""
    what = " ".join(word for word in words if word != "—")
    return why if why.startswith(what) else f"{what}: {why}"


def _machine_table(rows: Sequence[Row], mark: str) -> Table:
    table = new_table(f"{mark}machine", ["what", "is"], [])
    for row in rows:
        if row["table"] in ("machine", "rates"):
            for name, value in row.items():
                if name not in ("table", "step") and value not in ("", None):
                    text = f"{value:,.1f}" if isinstance(value, float) else str(value)
                    table.add_row(mark + name.replace("_", " "), text)
    return table


def _steps_table(steps: Sequence[StepRecord], mark: str) -> Table:
    table = new_table(f"{mark}steps", ["step", "became", "because"], ["s"])
    for step in steps:
        table.add_row(mark + step.name, step.status, step.problem, f"{step.seconds:.1f}")
    return table


def _bars_table(rows: Sequence[Row], mark: str) -> Table:
    table = new_table(f"{mark}bars", ["what", "where"], ["is", "bar", "verdict"])
    for bar in bars_of(rows):
        verdict = "reached" if bar.reached else "MISSED"
        table.add_row(mark + bar.what, bar.where, bar.figure, bar.bar, mark.strip() or verdict)
    return table


def _latest(rows: Sequence[Row]) -> list[Row]:
    """Without what was told twice: kernels of a process are told after each of its variants."""
    return list({_identity(row): row for row in rows}.values())


def _identity(row: Row) -> Any:
    if row["table"] != "kernels":
        return id(row)
    return row["kernel"], row["warps"], tuple(row["constants"].items())
