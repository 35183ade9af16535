"""What a terminal shows while a command works, and what a pipe gets of it."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scene_store.formats.ply import PlySource
from splat.gaussians import Gaussians
from viewer.cli import main
from viewer.status_line import plain_lines, status_line

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


def test_elsewhere_nothing_is_said_of_what_takes_a_moment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with status_line() as progress:
        progress(0.25, "Reading")
    assert capsys.readouterr() == ("", "")


class Pipe(io.StringIO):
    def wait_for_lines(self, count: int) -> list[str]:
        deadline = time.monotonic() + WAIT_S
        while len(lines := self.getvalue().splitlines()) < count:
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)
        return lines


def test_elsewhere_long_work_is_told_in_lines() -> None:
    pipe = Pipe()
    with plain_lines(pipe, first_s=0.01, every_s=0.01) as progress:
        progress(0.25, "Reading")
        assert pipe.wait_for_lines(1) == ["belvedere: Reading · 25%"]
        time.sleep(0.1)
        assert len(pipe.getvalue().splitlines()) == 1, "nothing new, nothing said"
        progress(1.0, "Drawing")
        assert pipe.wait_for_lines(2)[1] == "belvedere: Drawing"
    progress(0.5, "Nothing")
    time.sleep(0.05)
    assert len(pipe.getvalue().splitlines()) == 2


def test_lines_are_not_too_many() -> None:
    pipe = Pipe()
    with plain_lines(pipe, first_s=0.01, every_s=WAIT_S) as progress:
        for done in range(100):
            progress(done / 100, "Reading")
            time.sleep(0.001)
        assert len(pipe.wait_for_lines(1)) == 1


def test_nobody_who_listens_is_no_reason_to_stop() -> None:
    class Broken(io.StringIO):
        tried = 0

        def write(self, text: str) -> int:
            self.tried += 1
            raise BrokenPipeError

    pipe = Broken()
    with plain_lines(pipe, first_s=0.01, every_s=0.01) as progress:
        deadline = time.monotonic() + WAIT_S
        while pipe.tried < 2:
            progress(0.0, str(pipe.tried))
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("words", [["info", "{scene}"], ["export", "{scene}", "-o", "{picture}"]])
def test_reading_for_long_is_told_in_a_pipe(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    wall_ply: Path,
    tmp_path: Path,
) -> None:
    decode = PlySource._decode

    def slow(source: PlySource, start: int, stop: int) -> Gaussians:
        time.sleep(0.1)
        return decode(source, start, stop)

    monkeypatch.setattr(PlySource, "_decode", slow)
    monkeypatch.setattr("scene_store.loading.BATCH_COUNT", 400)
    monkeypatch.setattr("viewer.status_line.FIRST_S", 0.15)
    picture = tmp_path / "w.png"
    assert main([word.format(scene=wall_ply, picture=picture) for word in words]) == 0
    said = capfd.readouterr().err.splitlines()
    assert said[0] in [f"belvedere: Reading 1,600 Gaussians · {share}%" for share in (25, 50, 75)]
