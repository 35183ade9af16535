"""YAML whose values know their line, so that every error can name it.

Values are taken from the text as it stands, by whoever knows what they should be: ``cpu:1`` stays
what was written, and ``1e-3`` is a number. Anchors are allowed, tags are not; no key twice.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import TypeVar

import yaml

from splat.errors import SettingsError

MAX_BYTES = 1 << 20
E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, slots=True)
class Marked:
    """A value of a YAML file.

    Attributes:
        source: The file, for errors.
        key: Where in it, such as ``split[0].by``; empty at the top.
        node: As YAML parsed it.
    """

    source: str
    key: str
    node: yaml.Node

    def error(self, problem: str, remedy: str = "") -> SettingsError:
        """To be raised about this value."""
        line = self.node.start_mark.line + 1
        place = f"{self.key}: " if self.key else ""
        advice = f"; {remedy}" if remedy else ""
        return SettingsError(f"{self.source} (line {line}): {place}{problem}{advice}")

    def at(self, key: str) -> Marked:
        """The value that a dotted key below this one names, or the nearest above that is there."""
        found = self
        for entry in self._below():
            reached = f"{self.key}." if self.key else ""
            name = entry.key.removeprefix(reached)
            if key == name or key.startswith((f"{name}.", f"{name}[")):
                rest = key.removeprefix(name)
                found = entry._at_item(rest) if rest else entry
        return found

    def section(self, known: Iterable[str] | None = None) -> dict[str, Marked]:
        """By key; all must be known, if that is given."""
        if not isinstance(self.node, yaml.MappingNode):
            wanted = f", such as {', '.join(known)}" if known is not None else ""
            raise self.error(f"expected keys{wanted}, got {self.shown()}")
        names = None if known is None else list(known)
        out: dict[str, Marked] = {}
        for key_node, value in self.node.value:
            name = str(key_node.value)
            place = f"{self.key}.{name}" if self.key else name
            entry = Marked(self.source, place, value)
            at_key = Marked(self.source, place, key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise at_key.error("a key is a word")
            if name in out:
                raise at_key.error("is there twice", "remove one of them")
            if names is not None and name not in names:
                raise at_key.error(f"unknown key{meant(name, names)}", f"use {', '.join(names)}")
            out[name] = entry
        return out

    def items(self) -> list[Marked]:
        """Of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"expected a list, got {self.shown()}")
        return [
            Marked(self.source, f"{self.key}[{i}]", item) for i, item in enumerate(self.node.value)
        ]

    @property
    def is_list(self) -> bool:
        """Whether ``items`` would work."""
        return isinstance(self.node, yaml.SequenceNode)

    @property
    def is_section(self) -> bool:
        """Whether ``section`` would work."""
        return isinstance(self.node, yaml.MappingNode)

    def text(self) -> str:
        """A word or a sentence."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"expected text, got {self.shown()}")
        return str(self.node.value)

    def choice(self, kind: type[E]) -> E:
        """A member of an enumeration, by its value."""
        names = [str(member.value) for member in kind]
        given = self.text()
        if given not in names:
            raise self.error(f"{given!r:.40} is unknown{meant(given, names)}", f"use {_or(names)}")
        return kind(given)

    def whole(self, least: int, most: int) -> int:
        """A whole number in a range."""
        text = self.text()
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise self.error(f"expected a whole number of {least} to {most}, got {self.shown()}")
        return int(text)

    def number(self, least: float = 0.0, most: float = 1e12) -> float:
        """A number in a range."""
        try:
            value = float(self.text())
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise self.error(f"expected a number of {least:g} to {most:g}, got {self.shown()}")
        return value

    def shown(self) -> str:
        """What is there, for errors."""
        if isinstance(self.node, yaml.ScalarNode):
            return f"{self.node.value!r:.40}" if self.node.value else "nothing"
        return "a list" if self.is_list else "a section of keys"

    def _below(self) -> list[Marked]:
        return list(self.section().values()) if self.is_section else []

    def _at_item(self, rest: str) -> Marked:
        """Further down by ``.name…`` or ``[number]…``; what is no list is its own first item."""
        if rest.startswith("."):
            return self.at(rest[1:])
        number, _, further = rest[1:].partition("]")
        items = self.items() if self.is_list else [self]
        if not number.isdecimal() or int(number) >= len(items):
            return self
        return items[int(number)]._at_item(further) if further else items[int(number)]


def parse(text: str, source: str) -> Marked:
    """The top of a YAML text.

    Raises:
        SettingsError: If it is no YAML, or is empty.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1})" if mark else ""
        raise SettingsError(f"{source}{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise SettingsError(f"{source}: not valid YAML: {first}") from None
    if node is None:
        raise SettingsError(f"{source}: is empty; write at least a name")
    return Marked(source, "", node)


def read(path: str | PathLike[str]) -> Marked:
    """The top of a YAML file.

    Raises:
        SettingsError: If it cannot be read.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise SettingsError(f"{file}: over {MAX_BYTES} bytes: not a file of this kind")
        return parse(file.read_text("utf-8"), str(file))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: byte {error.start}: not UTF-8 text") from None


def meant(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'band'?)``, or nothing."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def dump(values: Mapping[str, object]) -> str:
    """Plain values as YAML, keys in their order, inner lists and sections on one line."""
    text = yaml.safe_dump(
        dict(values), sort_keys=False, default_flow_style=None, allow_unicode=True, width=96
    )
    return str(text)


def _or(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
