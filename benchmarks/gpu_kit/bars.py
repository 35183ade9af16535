"""The bars that a GPU has to reach, and what was measured of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.report import Row

TIMES_AS_QUICK = 2.0
EYES_FPS = 120.0
OF_TWO = 0.75
LESS_MEMORY, PAGED_DB = 0.42, 45.0
UPLOAD_TIMES = 1.10
ANCHORS_OFF = 1e-4


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the table.

    Attributes:
        what: Is measured.
        where: Scene, path, size.
        figure, bar: What it is, and should be.
        reached: Whether it is.
    """

    what: str
    where: str
    figure: str
    bar: str
    reached: bool


def bars_of(rows: Sequence[Row]) -> list[Bar]:
    """Of what was measured; a bar without a measurement is left out."""
    kinds = (_tests, _peers, _eyes, _paging, _uploads, _anchors)
    return [bar for kind in kinds for bar in kind(rows)]


def _tests(rows: Sequence[Row]) -> Iterator[Bar]:
    for row in _of("tests", rows):
        wrong = row["failed"] + row["errors"]
        well = row["over"] and not wrong and row["passed"] > 0
        figure = f"{row['passed']} passed, {wrong} failed"
        figure += "" if row["over"] or wrong else ", not over"
        yield Bar("contract tests", row["files"], figure, "0 failed", well)


def _peers(rows: Sequence[Row]) -> Iterator[Bar]:
    """The best exact variant against gsplat, wherever both were measured."""
    frames = [row for row in _of("frames", rows) if "moving" not in row["variant"].split()]
    for peer in (row for row in frames if row["engine"] == "gsplat"):
        ours = [
            row["device_ms_p50"]
            for row in frames
            if row["engine"] != "gsplat" and _place(row) == _place(peer)
        ]
        if ours and min(ours) > 0:
            times = peer["device_ms_p50"] / min(ours)
            figure, bar = f"{times:.2f} times", f"≥ {TIMES_AS_QUICK:.0f} times"
            yield Bar("against gsplat", _place(peer), figure, bar, times >= TIMES_AS_QUICK)


def _eyes(rows: Sequence[Row]) -> Iterator[Bar]:
    for row in _of("binocular", rows):
        if "of_two" not in row:
            continue
        bar = f"≥ {EYES_FPS:.0f} frames/s"
        for what, name in (("on the device", "device_fps"), ("in host memory", "fps")):
            figure, well = f"{row[name]:.1f} frames/s", row[name] >= EYES_FPS
            yield Bar(f"binocular, {what}", _place(row), figure, bar, well)
        if row["of_two"] is not None:
            figure, bar = f"{row['of_two']:.2f}", f"≤ {OF_TWO}"
            yield Bar("of two pictures", _place(row), figure, bar, row["of_two"] <= OF_TWO)


def _paging(rows: Sequence[Row]) -> Iterator[Bar]:
    """The least memory at which pictures are as good."""
    for row in _of("paging", rows):
        if "psnr_db" in row and row["less"] is not None:
            figure = f"−{100 * row['less']:.0f} % at {row['psnr_db']:.1f} dB"
            bar = f"−{100 * LESS_MEMORY:.0f} % at {PAGED_DB:.0f} dB"
            well = row["less"] >= LESS_MEMORY and row["psnr_db"] >= PAGED_DB
            yield Bar("memory with paging", f"{row['scene']} {row['pages']}", figure, bar, well)


def _uploads(rows: Sequence[Row]) -> Iterator[Bar]:
    for row in _of("uploads", rows):
        if row["asked_mb_s"]:
            where = f"{_place(row)} {row['mb_s']:.0f} MB/s"
            figure, bar = f"{row['times']:.2f} times", f"≤ {UPLOAD_TIMES:.2f} times"
            yield Bar("p95 while uploading", where, figure, bar, row["times"] <= UPLOAD_TIMES)


def _anchors(rows: Sequence[Row]) -> Iterator[Bar]:
    """What is not a number is far off."""
    for row in _of("anchors", rows):
        off = row["max_error"]
        figure = "not a number" if off is None else f"{off:.1e} off"
        where = f"{row['model']} {row['block']}×{row['warps']}"
        well = off is not None and off <= ANCHORS_OFF
        yield Bar("anchors against float64", where, figure, f"≤ {ANCHORS_OFF:.0e} off", well)


def _of(table: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["table"] == table and "skipped" not in row]


def _place(row: Row) -> str:
    return f"{row['scene']} {row['path']} {row['width']}×{row['height']}"
