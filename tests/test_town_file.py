"""The town's file: refused early where it cannot be, and watched while it grows."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import rich.console

from scene_store.formats import open_scene
from scene_store.formats.ply import ply_bytes
from splat.errors import OutputError, SettingsError
from viewer import town_file
from viewer.town_file import TOWN_SH_DEGREE, write_town

COUNT = 2_500


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_the_size_is_known_beforehand(tmp_path: Path) -> None:
    path = tmp_path / "town.ply"
    write_town(path, COUNT)
    assert path.stat().st_size == ply_bytes(COUNT, TOWN_SH_DEGREE)
    with open_scene(path) as source:
        assert (source.meta.count, source.meta.sh_degree) == (COUNT, TOWN_SH_DEGREE)


@pytest.mark.parametrize("count", [10, 10**12])
def test_impossible_counts_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(SettingsError, match=rf"--gaussians: .* {count:,} were asked for"):
        write_town(tmp_path / "town.ply", count)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = ply_bytes(400_000, TOWN_SH_DEGREE)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(2 * free, free, free))
    monkeypatch.setattr(town_file, "write_ply", lambda *args: pytest.fail("work was begun"))
    with pytest.raises(OutputError) as info:
        write_town(tmp_path / "town.ply", 1_000_000)
    problem = "1,000,000 Gaussians take 164 MB, and the disk has 65.6 MB free"
    assert problem in str(info.value)
    fits = int(str(info.value).partition("enough for ")[2].partition(";")[0].replace(",", ""))
    assert ply_bytes(fits, TOWN_SH_DEGREE) <= free
    assert 399_000 < fits <= 400_000


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    screen = io.StringIO()

    class Screen(rich.console.Console):
        def __init__(self, **options: Any) -> None:
            super().__init__(file=screen, force_terminal=terminal, width=80)

    monkeypatch.setattr(rich.console, "Console", Screen)
    write_town(tmp_path / "town.ply", COUNT)
    assert ("2500/2500" in screen.getvalue()) == terminal
    assert terminal or not screen.getvalue()
