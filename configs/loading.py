"""YAML and command-line values become settings, or one clear error.

Generic over the dataclasses of ``configs.settings``: the annotations say what is
allowed, so nothing here names a setting.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from configs.settings import Range, Settings, Size
from configs.sizes import parse_size
from splat.errors import SettingsError

T = TypeVar("T")

MAX_CONFIG_BYTES = 1 << 20


def load_settings(
    path: str | PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The defaults, changed by a YAML file and then by single values.

    Args:
        path: The user's file; it holds only what differs from ``default.yaml``.
        overrides: Values by dotted key, such as ``{"viewer.port": 8081}``.

    Raises:
        SettingsError: Naming the file, the key and what would be valid.
    """
    default = resources.files("configs").joinpath("default.yaml").read_text("utf-8")
    merged = _parse_yaml(default, "default.yaml")
    build(Settings, merged, "default.yaml")
    layers: list[tuple[str, dict[str, Any]]] = []
    if path is not None:
        layers.append((str(path), _parse_yaml(_read_config(Path(path)), str(path))))
    layers.extend(("option", nested({key: value})) for key, value in (overrides or {}).items())
    for source, layer in layers:
        build(Settings, layer, source)
        merged = merge(merged, layer)
    return build(Settings, merged, "settings")


def build(cls: type[T], values: object, source: str, prefix: str = "") -> T:
    """An instance of a settings dataclass from plain values, checked field by field.

    Args:
        cls: A dataclass whose annotations are the rules.
        values: What YAML gave: a mapping, or None for an empty section.
        source: The file at fault, for the message.
        prefix: Dotted key of this section, ending in a dot; empty at the top.

    Raises:
        SettingsError: For a key or value that the annotations do not allow.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        place = prefix.rstrip(".") or "top level"
        raise SettingsError(f"{source}: {place}: expected a section of keys, got {_show(values)}")
    # A slotted dataclass is not generic to type checkers, hence fields(cls) through Any.
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    hints = get_type_hints(cls, include_extras=True)
    known: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise SettingsError(f"{source}: {prefix}{key}: {_unknown_key(key, names)}")
        known[key] = _Check(source, f"{prefix}{key}").value(value, hints[key])
    return cls(**known)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``change`` laid over it, section by section."""
    out = dict(base)
    for key, value in change.items():
        below = out.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            out[key] = merge(below, value)
        elif not (isinstance(below, Mapping) and value is None):  # an empty section changes nothing
            out[key] = value
    return out


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    out: dict[str, Any] = {}
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


@dataclass(frozen=True, slots=True)
class _Check:
    """Checks one value and converts it to its annotated type."""

    source: str
    key: str

    def value(self, value: object, hint: Any) -> Any:
        """``value`` as the type ``hint`` demands; ints also where floats or texts are meant."""
        origin = get_origin(hint)
        if origin is Annotated:
            inner, *rules = get_args(hint)
            if isinstance(value, str) and any(isinstance(rule, Size) for rule in rules):
                value = self._bytes(value)
            return self._in_range(self.value(value, inner), rules)
        if origin in (Union, UnionType):
            return self._optional(value, get_args(hint))
        if origin is Literal:
            return self._choice(value, get_args(hint))
        if origin is tuple:
            return self._tuple(value, get_args(hint))
        if is_dataclass(hint):
            assert isinstance(hint, type)
            return build(hint, value, self.source, f"{self.key}.")
        return self._scalar(value, hint)

    def _fail(self, expected: str, value: object) -> SettingsError:
        return SettingsError(f"{self.source}: {self.key}: expected {expected}, got {_show(value)}")

    def _scalar(self, value: object, kind: type) -> Any:
        if kind is float:
            number = _as_float(value)
            if number is None or not math.isfinite(number):
                raise self._fail("a number", value)
            return number
        if kind is str and isinstance(value, int) and not isinstance(value, bool):
            return str(value)  # such as "devices: 2", or a token of digits
        # bool is a subclass of int, but "threads: true" is a mistake.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._fail(_KIND_NAMES.get(kind, kind.__name__), value)
        return value

    def _bytes(self, text: str) -> int:
        try:
            return parse_size(text)
        except ValueError:
            raise self._fail("a size such as 2GiB or 500MB", text) from None

    def _optional(self, value: object, members: tuple[Any, ...]) -> Any:
        inner = [member for member in members if member is not NoneType]
        if value is None and len(inner) < len(members):
            return None
        if len(inner) != 1:
            raise TypeError(f"{self.key}: only 'X | None' unions are supported")
        return self.value(value, inner[0])

    def _choice(self, value: object, choices: tuple[Any, ...]) -> Any:
        if value in choices:
            return value
        listed = ", ".join(map(str, choices))
        raise self._fail(f"one of {listed}{_suggestion(value, map(str, choices))}", value)

    def _tuple(self, value: object, kinds: tuple[Any, ...]) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            raise self._fail(f"a list of {len(kinds)} values", value)
        return tuple(self.value(item, kind) for item, kind in zip(value, kinds, strict=True))

    def _in_range(self, value: Any, rules: Iterable[object]) -> Any:
        for rule in rules:
            numbers = value if isinstance(value, tuple) else (value,)
            if isinstance(rule, Range) and not all(number in rule for number in numbers):
                raise self._fail(f"{rule}", value)
        return value


_KIND_NAMES = {int: "a whole number", bool: "true or false", str: "text"}


def _as_float(value: object) -> float | None:
    """A number, or text that spells one: YAML 1.1 reads ``1e-4`` as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _unknown_key(key: object, names: list[str]) -> str:
    return f"unknown key{_suggestion(key, names)}; valid keys: {', '.join(names)}"


def _suggestion(word: object, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _read_config(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise SettingsError(f"{path}: over {MAX_CONFIG_BYTES} bytes: not a settings file")
        return path.read_text("utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"{path}: cannot read the settings file: {reason}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: byte {error.start}: not UTF-8 text") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, except that a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise SettingsError(f"{source}{place}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise SettingsError(f"{source}: not valid YAML: {first}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{source}: top level: expected sections of keys, got {_show(values)}")
    return values
