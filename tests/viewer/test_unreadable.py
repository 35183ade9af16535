"""Scenes that are there and may not be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from viewer.cli import main


@pytest.mark.parametrize("inside", ["", "manifest.json", "a.ply", "lod-meta.json"])
@pytest.mark.parametrize("command", ["view", "info", "export"])
def test_a_folder_that_may_not_be_entered_is_said_in_one_line(
    command: str,
    inside: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hidden = tmp_path / "hidden.bvs"
    hidden.mkdir()
    look, opened = os.stat, os.open

    def refuse(path: object) -> None:
        if str(path).startswith(f"{hidden}/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def denied_stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        refuse(path)
        return look(path, *args, **options)

    def denied_open(path: Any, *args: Any, **options: Any) -> int:
        refuse(path)
        return opened(path, *args, **options)

    monkeypatch.setattr("os.stat", denied_stat)
    monkeypatch.setattr("os.open", denied_open)
    extra = ["-o", str(tmp_path / "x.png")] if command == "export" else []
    assert main([command, str(hidden / inside), *extra]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "hidden.bvs" in line and "ermission denied" in line
    assert "unexpected" not in line
