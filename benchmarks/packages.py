"""A command of the benchmarks, begun with a Python that lacks their packages, says so in a line.

Nothing but the standard library is needed here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import NoReturn

STATUS = 2  # as of every error that a user can meet
OF = {"cv2": "opencv-python-headless", "yaml": "PyYAML"}  # modules that are called otherwise


def missing(modules: Sequence[str], search: Sequence[str] = ()) -> list[str]:
    """Packages of the modules that are found neither in ``search`` nor where Python looks."""
    path = [*search, *sys.path]
    return [OF.get(name, name) for name in modules if PathFinder.find_spec(name, path) is None]


def line_of(packages: Sequence[str]) -> str:
    """What is missing, and who has it."""
    return (
        f"error: {sys.executable} has no {', '.join(packages)}; "
        "`make setup` installs what is needed: run it with .venv/bin/python"
    )


def end_without(error: ModuleNotFoundError, modules: Sequence[str]) -> NoReturn:
    """Ends this process for want of what it needs.

    Args:
        error: Of the first that was missed.
        modules: All that it needs.
    """
    print(line_of(missing(modules) or [error.name or str(error)]), file=sys.stderr)
    raise SystemExit(STATUS) from None
