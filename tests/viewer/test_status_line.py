"""What a terminal shows while a command works, and that nothing else gets it."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from viewer.cli import main
from viewer.status_line import status_line

WAIT_S = 10.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def wait_for(self, text: str) -> None:
        """It is drawn anew several times a second."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.getvalue():
            assert time.monotonic() < deadline, self.getvalue()
            time.sleep(0.01)


def test_a_terminal_is_told_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    with status_line() as progress:
        for share, what, said in ((0.25, "Reading", "Reading · 25%"), (1.0, "Drawing", "Drawing")):
            progress(share, what)
            terminal.wait_for(said)
    text = terminal.getvalue()
    assert text.endswith("\x1b[2K"), "the line is gone at the end"


def test_an_export_names_its_steps(
    monkeypatch: pytest.MonkeyPatch, wall_ply: Path, tmp_path: Path
) -> None:
    steps: list[str] = []

    @contextlib.contextmanager
    def recorded() -> Iterator[Callable[[float, str], None]]:
        yield lambda share, what: steps.append(what)

    monkeypatch.setattr("viewer.status_line.status_line", recorded)
    assert main(["export", str(wall_ply), "-o", str(tmp_path / "w.png"), "--width", "160"]) == 0
    assert list(dict.fromkeys(steps)) == [
        "Reading 1,600 Gaussians",
        "Drawing 160×90 pixels",
    ]


def test_nothing_is_shown_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with status_line() as progress:
        progress(0.25, "Reading")
    assert capsys.readouterr() == ("", "")
