"""Schedules as data: which make sense, how they are read, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schedules import SHIPPED, shipped_texts
from rendering.schedule import (
    DeviceChoice,
    Fidelity,
    Pick,
    Schedule,
    ScheduleProblem,
    Shares,
    Split,
    SplitBy,
)
from rendering.schedule_file import parse_schedule, read_schedule, schedule_text
from rendering.stages import AHEAD, STAGES, Stage
from splat.errors import SettingsError
from tests.conftest import REPOSITORY
from tests.schedules import BAND, DEALT, EYE, FRAME, SHARD, schedules, shipped


@given(schedules())
def test_what_is_written_is_read_again(schedule: Schedule) -> None:
    assert parse_schedule(schedule_text(schedule), "again.yaml") == schedule


def test_every_file_is_shipped_under_its_name() -> None:
    files = {file.stem for file in (REPOSITORY / "configs" / "schedules").glob("*.yaml")}
    assert files == set(SHIPPED) == set(shipped_texts())
    for name, schedule in shipped().items():
        assert schedule.name == name and schedule.about


def test_all_ways_to_split_are_shipped() -> None:
    splits = {name: [level.by.value for level in s.split] for name, s in shipped().items()}
    assert splits == {
        "single": [],
        "eye-parallel": ["eye"],
        "alternate-frame": ["frame"],
        "tile-split": ["band"],
        "shard": ["shard"],
        "pipelined": ["band"],
    }
    assert shipped()["pipelined"].overlap == (*AHEAD, Stage.ENCODE)


WRITTEN = """
name: mine
about: Two frames at a time
split:
  - {by: frame, parts: 2}
  - eye
  - by: band
devices: [cpu:0, cpu:1, cuda:0]
shares: balanced
overlap: [encode, select]   # in any order
helpers: 1
shared: [sort, project]
"""


def test_a_schedule_in_full() -> None:
    assert parse_schedule(WRITTEN, "mine.yaml") == Schedule(
        "mine",
        "Two frames at a time",
        (Split(SplitBy.FRAME, 2), EYE, BAND),
        DeviceChoice(Pick.NAMED, names=("cpu:0", "cpu:1", "cuda:0")),
        Shares.BALANCED,
        (Stage.SELECT, Stage.ENCODE),
        1,
        (Stage.PROJECT, Stage.SORT),
    )


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("all", DeviceChoice()),
        ("2", DeviceChoice(Pick.FIRST, 2)),
        ("{first: 2}", DeviceChoice(Pick.FIRST, 2)),
        ("{fastest: 3}", DeviceChoice(Pick.FASTEST, 3)),
        ("[cpu:1]", DeviceChoice(Pick.NAMED, names=("cpu:1",))),
    ],
)
def test_devices_are_all_or_some(text: str, choice: DeviceChoice) -> None:
    assert parse_schedule(f"name: a\ndevices: {text}", "a.yaml").devices == choice


@pytest.mark.parametrize(
    ("text", "stages"), [("all", STAGES), ("none", ()), ("[encode]", (Stage.ENCODE,))]
)
def test_overlap_is_all_none_or_some(text: str, stages: tuple[Stage, ...]) -> None:
    assert parse_schedule(f"name: a\noverlap: {text}", "a.yaml").overlap == stages


# Text, line at fault, key, and what is to be read beside them.
BROKEN = {
    "unknown key": ("name: a\nsplitt: band", 2, "splitt", "did you mean 'split'"),
    "unknown split": ("name: a\nsplit: bands", 2, "split", "did you mean 'band'"),
    "no name": ("split: band", 1, "", "add a line such as name: mine"),
    "key twice": ("name: a\nsplit: band\nsplit: eye", 3, "split", "remove one"),
    "no by": ("name: a\nsplit:\n  - parts: 2", 3, "split[0]", "by: band"),
    "order": ("name: a\nsplit:\n  - band\n  - eye", 4, "split[1]", "order them frame, eye"),
    "split twice": ("name: a\nsplit: [band, band]", 2, "split[1]", "remove one"),
    "bands and shards": (
        "name: a\nsplit:\n- {by: band, parts: 2}\n- shard",
        3,
        "split",
        "keep one",
    ),
    "nothing left": ("name: a\nsplit: [frame, band]", 2, "split[0]", "parts: 2"),
    "one part": ("name: a\nsplit:\n  by: band\n  parts: 1", 4, "split[0].parts", "2 or more"),
    "three eyes": ("name: a\nsplit:\n- by: eye\n  parts: 3", 4, "split[0].parts", "leave out"),
    "no parts": ("name: a\nsplit: {by: band, parts: 0}", 2, "split.parts", "1 to"),
    "order of bands": ("name: a\nsplit: {by: band, order: dealt}", 2, "split[0].order", "remove"),
    "devices": ("name: a\ndevices: some", 2, "devices", "write all, a number"),
    "no devices": ("name: a\ndevices: 0", 2, "devices", "1 or more"),
    "none named": ("name: a\ndevices: []", 2, "devices", "write: all"),
    "device twice": ("name: a\ndevices: [cpu:0, cpu:0]", 2, "devices", "name each once"),
    "two kinds": ("name: a\ndevices: {first: 1, fastest: 1}", 2, "devices", "{fastest: 2}"),
    "shares": ("name: a\nshares: half", 2, "shares", "use equal, measured or balanced"),
    "overlap inside": ("name: a\noverlap: [project]", 2, "overlap", "add decode and what"),
    "overlap word": ("name: a\noverlap: encode", 2, "overlap", "write [encode]"),
    "no stage": ("name: a\noverlap:\n  - encode\n  - send", 4, "overlap[1]", "use select"),
    "idle helpers": ("name: a\n\nhelpers: 1", 3, "helpers", "add overlap: [encode]"),
    "only helpers": ("name: a\ndevices: 1\noverlap: all\nhelpers: 1", 4, "helpers", "at most 0"),
    "helpers": ("name: a\noverlap: all\nhelpers: many", 3, "helpers", "whole number"),
    "not shared": ("name: a\nshared: [encode]", 2, "shared", "use select"),
    "a list": ("- a", 1, "", "expected keys, such as name"),
    "a bad name": ("name: 'a/b'", 1, "name", "letters, digits"),
}


@pytest.mark.parametrize(("text", "line", "key", "advice"), BROKEN.values(), ids=BROKEN.keys())
def test_an_error_names_file_line_key_and_remedy(
    text: str, line: int, key: str, advice: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        read_schedule(file)
    start = f"{file} (line {line}): {key + ': ' if key else ''}"
    assert str(error.value).startswith(start)
    assert advice in str(error.value).removeprefix(start) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a: [", "name: \x00", "? [a]\n: b", "name: [a]", "&a [*a]"])
def test_what_is_no_schedule_is_one_line(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^mine\.yaml") as error:
        parse_schedule(text, "mine.yaml")
    assert "\n" not in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_a_schedule_or_an_error(text: str) -> None:
    try:
        schedule = parse_schedule(text, "mine.yaml")
    except SettingsError:
        return
    assert isinstance(schedule, Schedule)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read: No such file"):
        read_schedule(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SettingsError, match="byte 6: not UTF-8"):
        read_schedule(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(SettingsError, match="not a file of this kind"):
        read_schedule(tmp_path / "large.yaml")


def test_rules_hold_for_values_as_for_files() -> None:
    with pytest.raises(ScheduleProblem, match="overlap: sort cannot overlap"):
        Schedule("a", overlap=(Stage.SORT,))
    assert Schedule("a", overlap=(Stage.ENCODE, Stage.SELECT)).runs_ahead


@pytest.mark.parametrize(
    ("split", "fidelity"),
    [
        ((), Fidelity.IDENTICAL),
        ((FRAME,), Fidelity.IDENTICAL),
        ((EYE, BAND), Fidelity.IDENTICAL),
        ((EYE, SHARD), Fidelity.ORDERED),
        ((DEALT,), Fidelity.APPROXIMATE),
    ],
)
def test_only_shards_may_change_the_picture(split: tuple[Split, ...], fidelity: Fidelity) -> None:
    assert Schedule("a", split=split).fidelity is fidelity


def test_schedules_in_few_words() -> None:
    schedule = parse_schedule(WRITTEN, "mine.yaml")
    assert schedule.describe_split() == "frame×2 > eye > band"
    assert schedule.describe_overlap() == "select, encode +1 helper"
    assert Schedule("a").describe_split() == Schedule("a").describe_overlap() == "none"
    assert Schedule("a", overlap=AHEAD).describe_overlap() == "select…decode"
    assert Schedule("a", overlap=STAGES).describe_overlap() == "all"
