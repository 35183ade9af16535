"""Settings: what is accepted, and what the user reads when something is not."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs import Settings, load_settings
from configs.loading import build, merge, nested
from configs.settings import Range
from splat.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Lamp:
    power_w: Annotated[float, Range(0, 100)] = 40.0
    count: Annotated[int, Range(1, 8)] = 1
    name: str = "lamp"
    on: bool = False
    shape: Literal["round", "square"] = "round"
    tint: Annotated[tuple[float, float], Range(0, 1)] = (1.0, 1.0)
    limit_w: Annotated[float, Range(1, 10)] | None = None


@dataclass(frozen=True, slots=True)
class House:
    lamp: Lamp = field(default_factory=Lamp)
    rooms: int = 3


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, "utf-8")
    return path


def test_default_yaml_lists_every_setting_with_its_default() -> None:
    text = resources.files("configs").joinpath("default.yaml").read_text("utf-8")
    listed = yaml.safe_load(text)
    assert {key: set(section) for key, section in listed.items()} == {
        f.name: {inner.name for inner in fields(getattr(Settings(), f.name))}
        for f in fields(Settings)
    }
    assert build(Settings, listed, "default.yaml") == Settings()
    assert load_settings() == Settings()


def test_every_setting_is_read_by_something() -> None:
    root = Path(__file__).resolve().parents[1]
    read = {
        node.attr
        for path in (root / "viewer").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    settings = Settings()
    for section in (settings.render, settings.viewer, settings.stream):
        assert {f.name for f in fields(section)} <= read


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    path = write(tmp_path, "viewer:\n  port: 9000\nrender:\n  near: 1e-3\n")
    expected = Settings(
        render=replace(Settings().render, near=0.001),
        viewer=replace(Settings().viewer, port=9000),
    )
    assert load_settings(path) == expected


def test_options_go_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "viewer: {port: 9000, host: 0.0.0.0}")
    settings = load_settings(path, {"viewer.port": 9001})
    assert (settings.viewer.port, settings.viewer.host) == (9001, "0.0.0.0")


@pytest.mark.parametrize("text", ["", "# nothing\n", "viewer:\n", "{}"])
def test_an_empty_file_or_section_changes_nothing(tmp_path: Path, text: str) -> None:
    assert load_settings(write(tmp_path, text)) == Settings()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"power_w": 7}, Lamp(power_w=7.0)),
        ({"power_w": "2.5e1"}, Lamp(power_w=25.0)),
        ({"power_w": 100}, Lamp(power_w=100.0)),
        ({"tint": [0, 0.5]}, Lamp(tint=(0.0, 0.5))),
        ({"limit_w": None}, Lamp()),
        ({"limit_w": 10}, Lamp(limit_w=10.0)),
        ({"name": 3}, Lamp(name="3")),
        ({"shape": "square", "on": True}, Lamp(shape="square", on=True)),
    ],
)
def test_values_become_their_types(values: dict[str, Any], expected: Lamp) -> None:
    lamp = build(Lamp, values, "test")
    assert lamp == expected
    assert [type(v) for v in asdict(lamp).values()] == [type(v) for v in asdict(expected).values()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"powr_w": 1}, "a.yaml: lamp.powr_w: unknown key (did you mean 'power_w'?); valid keys: "),
        ({1: 2}, "a.yaml: lamp.1: unknown key; valid keys: power_w, count, name, on, shape, tint"),
        ({"power_w": 101}, "lamp.power_w: expected 0 to 100, got 101"),
        ({"power_w": -0.1}, "lamp.power_w: expected 0 to 100, got -0.1"),
        ({"power_w": float("nan")}, "lamp.power_w: expected a number, got nan"),
        ({"power_w": 10**400}, "lamp.power_w: expected a number"),
        ({"power_w": "bright"}, "lamp.power_w: expected a number, got 'bright'"),
        ({"power_w": None}, "lamp.power_w: expected a number, got None"),
        ({"power_w": True}, "lamp.power_w: expected a number, got True"),
        ({"count": 1.5}, "lamp.count: expected a whole number, got 1.5"),
        ({"count": True}, "lamp.count: expected a whole number, got True"),
        ({"count": 9}, "lamp.count: expected 1 to 8, got 9"),
        ({"name": 3.5}, "lamp.name: expected text, got 3.5"),
        ({"name": True}, "lamp.name: expected text, got True"),
        ({"on": "yes"}, "lamp.on: expected true or false, got 'yes'"),
        ({"shape": "rond"}, "expected one of round, square (did you mean 'round'?), got 'rond'"),
        ({"tint": [1]}, "lamp.tint: expected a list of 2 values, got [1]"),
        ({"tint": [0, 2]}, "lamp.tint: expected 0 to 1, got (0.0, 2.0)"),
        ({"tint": "10"}, "lamp.tint: expected a list of 2 values, got '10'"),
        ({"limit_w": 0}, "lamp.limit_w: expected 1 to 10, got 0"),
        (5, "a.yaml: lamp: expected a section of keys, got 5"),
    ],
)
def test_a_wrong_value_names_file_key_and_remedy(values: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(House, {"lamp": values}, "a.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("viewer: [", "(line 1, column"),
        ("viewer:\n  port: 1\n  port: 2\n", "(line 3, column 3): key 'port' is given twice"),
        ("- 1\n", "top level: expected sections of keys, got [1]"),
        ("[1]: 2\n", "unhashable key"),
        ("viewer: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("[" * 3000, "not valid YAML"),
        ("viewer:\n  port: 99999\n", "viewer.port: expected 0 to 65535, got 99999"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot read .*No such file"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="Is a directory"):
        load_settings(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"ok: \xff\xfe")
    with pytest.raises(SettingsError, match="byte 4: not UTF-8"):
        load_settings(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(SettingsError, match="not a settings file"):
        load_settings(tmp_path / "large.yaml")


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(SettingsError, match=r"option: viewer\.prot: unknown key"):
        load_settings(None, {"viewer.prot": 1})


def test_merge_and_nested() -> None:
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    base = {"a": {"b": 1, "c": 2}}
    assert merge(base, {"a": {"c": 3}}) == {"a": {"b": 1, "c": 3}}
    assert base == {"a": {"b": 1, "c": 2}}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text("1e-.x", max_size=6)
json_like = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text("ab"), scalars)
lamp_keys = st.sampled_from([f.name for f in fields(Lamp)])


@given(st.dictionaries(lamp_keys, json_like))
def test_any_value_is_accepted_within_range_or_refused(values: dict[str, Any]) -> None:
    try:
        lamp = build(Lamp, values, "any")
    except SettingsError:
        return
    assert 0 <= lamp.power_w <= 100
    assert lamp.count in range(1, 9)
    assert type(lamp.on) is bool
    assert all(0 <= value <= 1 for value in lamp.tint)
