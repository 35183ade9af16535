"""What a command is at, on standard error: a line that changes on a terminal, else a few plain
lines, and none at all for what takes a moment."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

Status = Callable[[float, str], None]
"""Takes the share that is done, in [0, 1], and what is being done."""

# Off a terminal: when the first line is due, and after how long another one.
FIRST_S, EVERY_S = 2.0, 10.0
_PREFIX = "belvedere: "


@contextlib.contextmanager
def status_line() -> Iterator[Status]:
    """Show progress on standard error while the block lasts."""
    if not sys.stderr.isatty():
        with plain_lines(sys.stderr) as status:
            yield status
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text("Opening …")) as line, _logged_above():
        yield lambda share, what: line.update(Text(status_text(share, what)))


@contextlib.contextmanager
def _logged_above() -> Iterator[None]:
    """Let what is logged stand above the line, not in it: by the stream that the line put in
    the place of standard error."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__
    ]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(sys.__stderr__)


@contextlib.contextmanager
def plain_lines(
    stream: TextIO, *, first_s: float | None = None, every_s: float | None = None
) -> Iterator[Status]:
    """Write what is being done, now and then, while the block lasts.

    Work that says nothing for long is written about all the same, but nothing twice in a row.

    Args:
        stream: A pipe or a file; that it cannot be written is no reason to stop.
        first_s: How long nothing is written; None for ``FIRST_S``.
        every_s: Between two lines; None for ``EVERY_S``.
    """
    first_s = FIRST_S if first_s is None else first_s
    every_s = EVERY_S if every_s is None else every_s
    newest = ""
    ended = threading.Event()

    def hear(share: float, what: str) -> None:
        nonlocal newest
        newest = status_text(share, what)

    def write() -> None:
        written, wait_s = "", first_s
        while not ended.wait(wait_s):
            wait_s = every_s
            if newest != written:
                written = newest
                with contextlib.suppress(OSError, ValueError):
                    stream.write(f"{_PREFIX}{written}\n")
                    stream.flush()

    writer = threading.Thread(target=write, name="status", daemon=True)
    writer.start()
    try:
        yield hear
    finally:
        ended.set()
        writer.join()


def status_text(share: float, what: str) -> str:
    """As people read it; all of something is its last moment, not worth a figure."""
    return what if share >= 1.0 else f"{what} · {share:.0%}"
