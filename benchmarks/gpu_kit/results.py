"""What a run found, on the disk after every row: a kill at any moment leaves what was measured."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.report import Row
from splat.atomic_file import atomic_file

FORMAT = 1


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What became of a step.

    Attributes:
        status: ``done``, ``absent`` (not to be had here), ``failed``, ``late`` (beyond its
            limit), ``died`` (its process ended), or ``left out``.
        problem: Why, in a line; empty if done.
        traceback: Where.
    """

    name: str
    status: str
    seconds: float
    problem: str = ""
    traceback: str = ""


class Results:
    """Rows and steps, in the order in which they came. Safe to use from several threads.

    Args:
        path: Of the JSON file, whole at any time.
        about: What the run was.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self._about = dict(about)
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._began_s = time.monotonic()
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._steps: list[StepRecord] = []
        self._complete = False
        self._write()

    @property
    def rows(self) -> list[Row]:
        """All so far."""
        with self._lock:
            return list(self._rows)

    @property
    def steps(self) -> list[StepRecord]:
        """All so far."""
        with self._lock:
            return list(self._steps)

    def add_row(self, row: Row) -> None:
        """A measurement."""
        with self._lock:
            self._rows.append(row)
            self._write()

    def add_step(self, step: StepRecord) -> None:
        """A step is over."""
        with self._lock:
            self._steps.append(step)
            self._write()

    def finish(self) -> None:
        """Nothing more will come."""
        with self._lock:
            self._complete = True
            self._write()

    def _write(self) -> None:
        record = {
            "format": FORMAT,
            **self._about,
            "started": self._started,
            "seconds": round(time.monotonic() - self._began_s, 1),
            "complete": self._complete,
            "steps": [asdict(step) for step in self._steps],
            "rows": self._rows,
        }
        with atomic_file(self._path) as temporary:
            temporary.write_text(to_json(record, indent=1) + "\n", "utf-8")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: numbers that are none become null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    return _plain(value.item()) if hasattr(value, "item") else str(value)
