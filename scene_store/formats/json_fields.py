"""JSON side files, read with every field checked and every error placed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from scene_store.formats.source import DOWNLOAD_AGAIN, read_head
from splat.errors import SceneFormatError

MAX_JSON_BYTES = 1 << 28


def load_json(path: Path) -> object:
    """The parsed content of a JSON file of at most 256 MiB.

    Raises:
        SceneNotFoundError: If it is not there.
        SceneFormatError: If it is not JSON.
    """
    return parse_json(path, read_head(path, MAX_JSON_BYTES + 1))


def parse_json(
    path: str | PathLike[str],
    text: bytes,
    place: str | None = None,
    remedy: str = DOWNLOAD_AGAIN,
) -> object:
    """As ``load_json``, of bytes that were read from ``path`` already."""
    if len(text) > MAX_JSON_BYTES:
        raise SceneFormatError(
            path, f"is larger than {MAX_JSON_BYTES:,} bytes", where=place, remedy=remedy
        )
    try:
        return json.loads(text)
    except RecursionError:
        raise SceneFormatError(path, "is nested too deeply", where=place, remedy=remedy) from None
    except ValueError as error:
        line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else None
        where = ", ".join(part for part in (place, line) if part) or None
        raise SceneFormatError(path, "is not valid JSON", where=where, remedy=remedy) from None


@dataclass(frozen=True, slots=True)
class JsonObject:
    """One JSON object, with where it was found and what then helps, for the errors."""

    path: str | PathLike[str]
    fields: dict[str, Any]
    place: str
    remedy: str = DOWNLOAD_AGAIN

    @classmethod
    def of(
        cls,
        path: str | PathLike[str],
        value: object,
        place: str,
        remedy: str = DOWNLOAD_AGAIN,
    ) -> JsonObject:
        """``value`` as an object.

        Raises:
            SceneFormatError: If it is something else.
        """
        if not isinstance(value, dict):
            raise SceneFormatError(path, "needs an object { … }", where=place, remedy=remedy)
        return cls(path, value, place, remedy)

    def __contains__(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def error(self, problem: str, name: str = "") -> SceneFormatError:
        """An error placed at a field of this object (or at the object)."""
        return SceneFormatError(
            self.path, problem, where=self._at(name) or None, remedy=self.remedy
        )

    def child(self, name: str) -> JsonObject:
        """The object in a field."""
        return JsonObject.of(self.path, self.fields.get(name), self._at(name), self.remedy)

    def items(self, name: str) -> list[Any]:
        """The list in a field."""
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise self.error("needs a list", name)
        return value

    def number(self, name: str) -> float:
        """The finite number in a field."""
        return self._finite(self.fields.get(name), name)

    def integer(self, name: str, minimum: int = 0) -> int:
        """The whole number in a field, at least ``minimum``."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < 2**53:
            raise self.error(f"needs a whole number of at least {minimum}", name)
        return value

    def numbers(self, name: str, count: int, row: int | None = None) -> tuple[float, ...]:
        """The ``count`` finite numbers in a field, or in one row of it."""
        values: object = self.items(name)
        if row is not None and isinstance(values, list):
            values = values[row] if row < len(values) else None
        if not isinstance(values, list) or len(values) != count:
            raise self.error(f"needs {count} numbers", name)
        return tuple(self._finite(value, name) for value in values)

    def strings(self, name: str, minimum: int = 0) -> tuple[str, ...]:
        """At least ``minimum`` strings in a field."""
        values = self.items(name)
        if len(values) < minimum or not all(isinstance(value, str) for value in values):
            raise self.error(f"needs at least {minimum} names", name)
        return tuple(values)

    def _finite(self, value: object, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error("needs a number", name)
        # Integers of any length are valid JSON, but not all of them are floats.
        if (isinstance(value, int) and abs(value) >= 2**1000) or not math.isfinite(value):
            raise self.error("needs a finite number", name)
        return float(value)

    def _at(self, name: str) -> str:
        return ".".join(part for part in (self.place, name) if part)
