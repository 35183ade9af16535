"""What all benchmarks share in telling their results: records, statistics, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from rich.table import Table

Row = dict[str, Any]


class Figures(Protocol):
    """A dataclass of figures that knows whether they reach the bar; None where there is none."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Many values in few: the median, the 95th percentile, and the ends."""

    p50: float
    p95: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Of at least one value; percentiles between two values are interpolated."""
        p50, p95 = np.percentile(np.asarray(values, np.float64), (50, 95))
        return cls(float(p50), float(p95), float(min(values)), float(max(values)))


def record(benchmark: str, figures: Figures, *about: Mapping[str, Any]) -> Row:
    """One record: what was measured (``about``), the figures, and what became of the bar."""
    row: Row = {"benchmark": benchmark}
    for fields in (*about, asdict(figures)):
        row.update(fields)
    return {**row, "passed": figures.passed}


def verdict(row: Row) -> str:
    """What became of the bar."""
    return {True: "reached", False: "MISSED", None: "—"}[row["passed"]]


def skipped(benchmark: str, scene: str, path: str, reason: str) -> Row:
    """The record of a measurement that this machine could not make."""
    return {
        "benchmark": benchmark,
        "scene": scene,
        "path": path,
        "passed": None,
        "skipped": reason,
    }


def new_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table: columns of words to the left, of figures to the right."""
    table = Table(title=title)
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def to_json_lines(rows: Sequence[Row]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def to_markdown(table: Table) -> str:
    """The table as a GitHub-flavoured Markdown section."""
    headings = [str(column.header) for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    cells = zip(*(column.cells for column in table.columns), strict=True)
    lines = [headings, rules, *([str(cell) for cell in row] for row in cells)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = f"\n\n{table.caption}" if table.caption else ""
    return f"### {table.title}\n\n{body}{notes}\n"
