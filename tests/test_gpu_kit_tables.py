"""What the kit that measures a GPU shows of its rows: tables, floors, bars. No device is needed."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from benchmarks.gpu_kit.bars import bars_of
from benchmarks.gpu_kit.results import StepRecord
from benchmarks.gpu_kit.tables import amount, tables_of, to_markdown_page, with_floors
from benchmarks.report import Row


def frames_row(engine: str, device_ms: float, **more: Any) -> Row:
    return {
        "table": "frames",
        "engine": engine,
        "variant": "",
        "scene": "town-10M",
        "path": "walk",
        "width": 100,
        "height": 50,
        "gaussians": 10_000_000,
        "visible": 1e6,
        "device_ms_p50": device_ms,
        **more,
    }


def test_bars_are_held_against_the_best_exact_variant() -> None:
    rows = [
        frames_row("gsplat", 9.0),
        frames_row("fused", 4.0),
        frames_row("fused", 3.0, variant="tile=8"),
        frames_row("fused", 1.0, variant="half_colors=False moving"),
        frames_row("fused", 0.1, path="aerial"),
        frames_row("fused", 0.1, skipped="no memory"),
    ]
    (bar,) = bars_of(rows)
    assert (bar.figure, bar.reached) == ("3.00 times", True)
    assert not bars_of([*rows[1:], frames_row("gsplat", 5.9)])[0].reached


BARS: dict[str, tuple[Row, Row]] = {
    "tests": (
        {"files": "ours", "passed": 3, "failed": 0, "errors": 0, "over": True},
        {"errors": 1},
    ),
    "uploads": (
        {"asked_mb_s": 200.0, "mb_s": 180.0, "times": 1.05, "scene": "a", "path": "b"},
        {"times": 1.2},
    ),
    "paging": ({"scene": "a", "pages": "50 %", "less": 0.5, "psnr_db": 46.0}, {"psnr_db": 44.0}),
    "binocular": (
        {"scene": "a", "path": "b", "fps": 121.0, "device_fps": 130.0, "of_two": 0.7},
        {"fps": 119.0},
    ),
    "anchors": ({"model": "a", "block": 16, "warps": 4, "max_error": 2e-6}, {"max_error": 2e-4}),
}


@pytest.mark.parametrize("table", BARS)
def test_bars_are_missed_by_what_is_worse(table: str) -> None:
    good, worse = BARS[table]
    row = {"table": table, "width": 1, "height": 1, **good}
    assert bars_of([row]) and all(bar.reached for bar in bars_of([row]))
    assert not all(bar.reached for bar in bars_of([{**row, **worse}]))


def test_tests_that_were_not_over_are_no_bar_reached() -> None:
    row = {"table": "tests", "files": "ours", "passed": 3, "failed": 0, "errors": 0, "over": False}
    (bar,) = bars_of([row])
    assert (bar.figure, bar.reached) == ("3 passed, 0 failed, not over", False)


def test_what_is_not_a_number_is_no_bar_reached() -> None:
    row = {"table": "anchors", "model": "a", "block": 16, "warps": 4, "max_error": None}
    (bar,) = bars_of([row])
    assert (bar.figure, bar.reached) == ("not a number", False)


def test_floors_are_what_must_be_read_and_written() -> None:
    rate = {"table": "rates", "copy_gb_s": 4000.0}
    row = frames_row("fused", 4.0, gaussian_bytes=100.0)
    assert with_floors([row])[0] == row
    floor_ms = (1e6 * 100 + 100 * 50 * 16) / 4000e9 * 1e3
    assert with_floors([rate, row])[1]["floor_ms"] == pytest.approx(floor_ms)
    told: Row = {"table": "anchors", "moved_bytes": 8e9}
    assert with_floors([rate, told])[1]["floor_ms"] == pytest.approx(2.0)


def test_a_row_that_cannot_be_shown_costs_its_own_table() -> None:
    rows = [frames_row("fused", 4.0), {"table": "paging", "scene": "a", "device_mb": "many"}]
    steps = [StepRecord("a", "done", 1.0)]
    page = to_markdown_page(tables_of(rows, steps, dry=False), "", dry=False)
    assert "cannot be shown" in page and "| town-10M | walk |" in page and "DRY" not in page


def test_what_was_skipped_says_why() -> None:
    rows = [frames_row("fused", 4.0, skipped="no memory left")]
    page = to_markdown_page(tables_of(rows, [], dry=True), "", dry=True)
    assert "town-10M walk 100×50 fused: no memory left" in page


def test_what_has_no_place_is_named_once() -> None:
    rows: list[Row] = [{"table": "pictures", "engine": "gsplat", "skipped": "gsplat is not here"}]
    page = to_markdown_page(tables_of(rows, [], dry=True), "the command", dry=True)
    assert "\n\ngsplat is not here\n" in page and page.startswith("Command: `the command`\n")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(50, "50"), (999.6, "1.00 K"), (2040, "2.04 K"), (4.69e6, "4.69 M"), (1e7, "10.0 M")],
)
def test_amounts_have_three_digits(value: float, shown: str) -> None:
    assert amount(value) == shown


def test_the_widest_table_fits_a_terminal() -> None:
    """Words may be broken, figures not."""
    figures = {"visible": 4.69e6, "tile_pairs": 8.82e6, "held_mb": 1534.0, "frame_mb": 812.0}
    times = dict.fromkeys(("host_ms_p50", "host_ms_p95", "device_ms_p95", "floor_ms"), 1234.56)
    stages = {"stage_ms": dict.fromkeys(("project", "sort", "bin", "composite"), 1234.56)}
    size = {"width": 3840, "height": 2160, "variant": "half_colors=False moving"}
    row = frames_row("fused", 1234.56, **figures, **times, **stages, **size)
    for table in tables_of([row], [], dry=True):
        console = Console(width=160, file=StringIO())
        console.print(table)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in text
        if "frames: single" in text:
            assert text.count("1234.56") == 9 and "1.53 G" in text and "8.82 M" in text
