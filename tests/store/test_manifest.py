"""Manifests: whatever is in one, it is believed or refused in a line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scene_store.manifest import parse_manifest
from splat.errors import SceneFormatError
from tests.store.small_stores import edit_manifest, write_store

OTHERS: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e300, 10**400, "", "text", "\ud800", 5000 * "x", [], [1], [0, 0, 0],
    ["compact"], [[]], [None], {}, {"a": 1},
)  # fmt: skip


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Those of a small store, without the checksum."""
    store = write_store(tmp_path_factory.mktemp("manifest") / "scene.bvs")
    edit_manifest(store, sources=[{"path": "a.ply", "bytes": 1, "modified_ns": 2}])
    found: dict[str, Any] = json.loads((store / "manifest.json").read_text("utf-8"))
    return found


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All values below this one, by the keys on the way."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*place, key)
        if isinstance(item, dict | list):
            yield from places(item, (*place, key))


def refusal(fields: dict[str, Any]) -> str:
    """What is said of these fields; "" if they are fine."""
    try:
        parse_manifest("m", json.dumps(fields).encode())
    except SceneFormatError as error:
        return str(error)
    return ""


def test_every_field_with_every_kind_of_value(fields: dict[str, Any]) -> None:
    assert parse_manifest("m", json.dumps(fields).encode()).nodes == 4
    refusals = set()
    for *way, last in places(fields):
        for other in OTHERS:
            changed = copy.deepcopy(fields)
            target = changed
            for key in way:
                target = target[key]
            target[last] = other
            refusals.add(refusal(changed))
    assert len(refusals) > 50
    for said in refusals - {""}:
        assert said.endswith(("copy or build the store again", "with this one"))


def test_up_is_a_direction(fields: dict[str, Any]) -> None:
    def up(*values: float) -> tuple[float, ...] | None:
        return parse_manifest("m", json.dumps({**fields, "up": values}).encode()).info.up

    assert up(0, -5, 0) == (0, -1, 0)
    assert up(1e300, 0, 0) == (1, 0, 0)
    assert up(0, 0.6, -0.8) == (0, 0.6, -0.8)
    with pytest.raises(SceneFormatError, match=r"m \(up\): needs a direction, not 0 0 0; .*build"):
        up(0, 0, 0)


def test_what_is_no_json(tmp_path: Path) -> None:
    for text in (b"{", b"[" * 100_000, b" " * ((1 << 24) + 1), b"\xff"):
        with pytest.raises(SceneFormatError, match="copy or build the store again"):
            parse_manifest(tmp_path, text)


HINT = {
    "shape": "object",
    "axes": {"right": [1, 0, 0], "front": [0, 0, -1], "up": [0, -1, 0]},
    "lo": [-0.1, -0.1, -0.1],
    "hi": [0.1, 0.1, 0.1],
    "camera": None,
}


@pytest.mark.parametrize(
    "hint",
    [
        [],
        {},
        {**HINT, "shape": "city"},
        {**HINT, "lo": [-1e308] * 3, "hi": [1e308] * 3},
        {**HINT, "hi": [5e-324] * 3, "lo": [0, 0, 0]},
        {**HINT, "axes": {**HINT["axes"], "right": [-1, 0, 0]}},  # type: ignore[dict-item]
        {**HINT, "camera": {"position": [1e300, 0, 0], "direction": [0, 0, 1]}},
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_outline_that_is_unknown_or_impossible_is_ignored(
    fields: dict[str, Any], hint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = {"lo": [-1, -1, -1], "hi": [1, 1, 1]}
    fields = {**fields, "bounds": bounds}
    good = parse_manifest("m", json.dumps({**fields, "outline": HINT}).encode())
    assert good.info.outline is not None
    caplog.set_level("INFO")
    manifest = parse_manifest("m", json.dumps({**fields, "outline": hint}).encode())
    assert manifest.info.outline is None and "ignored: m (outline" in caplog.text
    wild = {"lo": [-1e308] * 3, "hi": [1e308] * 3}
    huge = {**fields, "bounds": wild, "outline": {**HINT, **wild}}
    assert parse_manifest("m", json.dumps(huge).encode()).info.outline is None
