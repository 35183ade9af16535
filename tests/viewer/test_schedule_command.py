"""``belvedere schedule``: what it prints, the files it leaves, and its errors."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from rendering.schedule_file import read_schedule, schedule_text
from splat.errors import OutputError, SettingsError
from tests.schedules import shipped
from viewer.cli import main, parse_command

UNEVEN = ["--devices", "cpu:0=1", "cpu:1=0.6", "big=2"]
FEW = ["--fps", "5"]


def say_nothing(line: str) -> None:
    """Printing is for people."""


def run(words: list[str]) -> None:
    parse_command("schedule", words).run(say_nothing)


def test_the_best_is_told_first_with_those_that_are_shipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["schedule", "--eyes", "2", *FEW]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[1].rstrip().startswith("latency of 1 client, a headset on cpu:0 (1), cpu:1 (1)")
    assert lines[3].startswith("best") and "tile-split" in lines[3]
    named = [line.split()[1] for line in lines if line.startswith("shipped")]
    exact = [name for name in shipped() if name != "shard"]
    assert set(named) | {lines[3].split()[1]} >= set(exact)
    assert "times better" not in shown and "\x1b" not in shown, "plain in a pipe"


def test_a_shipped_schedule_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    run(["tile-split", *FEW])
    shown = capsys.readouterr().out.splitlines()
    assert any(
        line.split()[:2] in (["own", "tile-split"], ["best", "tile-split"]) for line in shown
    )


def test_explaining(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--explain", "--clients", "2", *UNEVEN, *FEW])
    shown = capsys.readouterr().out
    assert "schedules were looked at" in shown and "devices idle" in shown
    assert "Critical path of the mean frame" in shown and "composite" in shown
    bars = [line for line in shown.splitlines() if line.strip().startswith(("big ", "cpu:0 "))]
    assert bars and all(len(line.split(maxsplit=1)[1]) == 100 for line in bars)
    assert "c composite" in shown


def test_a_schedule_of_ones_own_is_checked_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: my own\nsplit: band\nshares: equal\n", encoding="utf-8")
    assert main(["schedule", str(mine), *UNEVEN, *FEW]) == 0
    shown = capsys.readouterr().out
    assert f"{mine}: is a valid schedule: my own: each picture in bands" in shown
    assert any(line.startswith("own") and "my own" in line for line in shown.splitlines())


@pytest.mark.parametrize("order", ["depth", "dealt"])
def test_pictures_that_are_only_near_are_admitted_when_asked_for(
    order: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"name: mine\nsplit: {{by: shard, order: {order}}}\n", encoding="utf-8")
    assert main(["schedule", str(mine), *FEW]) == 0
    shown = capsys.readouterr().out
    assert "not compared without --approximate" in shown and "\nown " not in shown
    assert main(["schedule", str(mine), "--approximate", *FEW]) == 0
    shown = capsys.readouterr().out
    assert "not compared" not in shown and "\nown " in shown


def test_a_broken_schedule_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\nsplit: bnad\n", encoding="utf-8")
    assert main(["schedule", str(mine)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"belvedere: error: {mine} (line 2): split: 'bnad' is unknown")
    assert error.count("\n") == 1


def test_what_is_saved_is_the_best_and_its_pictures_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, picture, trace = (tmp_path / name for name in ("best.yaml", "a.svg", "a.json"))
    words = ["--save", str(saved), "--timeline", str(picture), "--trace", str(trace)]
    assert main(["schedule", *words, *UNEVEN, *FEW]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [str(saved), str(picture), str(trace)]
    best = read_schedule(saved)
    assert any(line.startswith(f"best     {best.name}") for line in lines)
    texts = [e.text for e in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert "big" in texts and any(best.name in (text or "") for text in texts)
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    assert {"big", "cpu:0"} <= {event["args"].get("name") for event in events}


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--timeline", "a.png", "it is drawn as SVG; use a name that ends in .svg"),
        ("--trace", "nowhere/a.json", "nowhere"),
        ("--save", "nowhere/best.yaml", "nowhere"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_search(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    name: str,
    said: str,
) -> None:
    def searched(*_: object) -> None:
        raise AssertionError("it searched")

    monkeypatch.setattr("rendering.schedule_search.search", searched)
    assert main(["schedule", option, str(tmp_path / name), *FEW]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_timelines_are_of_ones_own_schedule(tmp_path: Path) -> None:
    mine, saved = tmp_path / "mine.yaml", tmp_path / "again.yaml"
    mine.write_text(schedule_text(shipped()["single"]), encoding="utf-8")
    run([str(mine), "--save", str(saved), *FEW])
    assert read_schedule(saved) == shipped()["single"]


def test_costs_of_a_file_name_their_devices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = tmp_path / "costs.yaml"
    costs.write_text(
        "about: my machine\nstages: {composite: 40}\ndevices: {left: 1, right: 0.5}\n",
        encoding="utf-8",
    )
    run(["--costs", str(costs), *FEW])
    shown = capsys.readouterr().out
    assert shown.startswith("Costs: my machine\n") and "on left (1), right (0.5)" in shown
    run(["--costs", str(costs), "--devices", "3", *FEW])
    assert "on cpu:0 (1), cpu:1 (1), cpu:2 (1)" in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["throughput", "fewest-devices"])
def test_other_objectives(objective: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(["--objective", objective, "--explain", *FEW])
    assert capsys.readouterr().out.splitlines()[1].startswith(objective)


@pytest.mark.parametrize(
    "words",
    [
        ["--devices", "0"],
        ["--devices", "17"],
        ["--devices", "cpu:0=0"],
        ["--devices", "cpu:0=quick"],
        ["--devices", "cpu:0", "cpu:0"],
        ["--devices", "link"],
        ["--devices", "=1"],
        ["--fps", "0"],
        ["--eyes", "3"],
        ["--clients", "0"],
        ["--objective", "beauty"],
    ],
)
def test_nonsense_is_one_line(words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        run(words)
    assert words[0] in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no/best"):
        run(["--save", str(tmp_path / "no" / "best.yaml"), *FEW])
