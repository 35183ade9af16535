"""A line on the terminal that says what a command is at."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[float, str], None]]:
    """Show progress on standard error while the block lasts; nothing off a terminal.

    Yields:
        Takes the share that is done, in [0, 1], and what is being done.
    """
    if not sys.stderr.isatty():
        yield lambda share, what: None
        return
    from rich.console import Console
    from rich.text import Text

    def text(share: float, what: str) -> Text:
        return Text(what if share >= 1.0 else f"{what} · {share:.0%}")

    with Console(stderr=True).status(text(1.0, "Opening …")) as status:
        yield lambda share, what: status.update(text(share, what))
