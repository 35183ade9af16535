"""How far a fit is: shown while it lasts, where somebody is there to see it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Hear = Callable[[int, int], None]
"""Takes how many steps are done, and of how many."""

_HEARS: ContextVar[Hear] = ContextVar("_HEARS", default=lambda done, total: None)


def each_step(steps: int) -> Iterator[int]:
    """``range(steps)``, of which whoever called ``fit_progress`` hears."""
    hear = _HEARS.get()
    for step in range(steps):
        hear(step, steps)
        yield step
    hear(steps, steps)


@contextlib.contextmanager
def heard(hear: Hear) -> Iterator[None]:
    """Has ``hear`` be told of the steps that are done in the block."""
    token = _HEARS.set(hear)
    try:
        yield
    finally:
        _HEARS.reset(token)


@contextlib.contextmanager
def fit_progress(name: str) -> Iterator[None]:
    """Shows on standard error how far the fits in the block are, what they took, and what is left;
    off a terminal one line when they begin, and one when they end.

    Args:
        name: Of what is fitted.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{name}: fitting …", markup=False)
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        with heard(lambda done, total: bar.update(task, completed=done, total=total)):
            yield
        elapsed_s = bar.tasks[task].elapsed or 0.0
    if not console.is_terminal:
        console.print(f"{name}: fitted in {elapsed_s:.0f} s", markup=False, highlight=False)


def step_count(text: str) -> int:
    """A number of steps that a user gives.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)
