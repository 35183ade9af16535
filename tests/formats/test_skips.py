"""Skips for want of a tool are failures where the tools must be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, require_or_skip


def test_what_is_there_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    require_or_skip(True, "never")


def test_what_is_missing_is_skipped_at_home_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        require_or_skip(False, "no browser")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match=r"skipped in CI: no browser"):
        require_or_skip(False, "no browser")


SKIPPING = """
import pytest

@pytest.mark.node
def test_marked():
    pytest.skip("no node")

def test_unmarked():
    pytest.skip("no matter")
"""


@pytest.mark.parametrize(("ci", "summary"), [("", "2 skipped"), ("1", "1 failed, 1 skipped")])
def test_skips_of_marked_tests_fail_in_ci(tmp_path: Path, ci: str, summary: str) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = node: x\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert summary in run.stdout
