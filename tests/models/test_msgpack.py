"""MessagePack: what was packed is read, and nothing that is claimed is believed."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scene_store.models.msgpack import MAX_DEPTH, parse_msgpack
from splat.errors import SceneFormatError
from tests.models.instant_ngp_torch import packed

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def parse(data: bytes) -> Any:
    return plain(parse_msgpack("file", memoryview(data)))


def plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [plain(part) for part in value]
    return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value


@settings(max_examples=50)
@given(VALUES)
def test_what_was_packed_is_read(value: Any) -> None:
    assert parse(packed(value)) == value


@settings(max_examples=50)
@given(VALUES, st.data())
def test_no_beginning_is_taken_for_the_whole(value: Any, data: st.DataObject) -> None:
    whole = packed(value)
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(SceneFormatError):
        parse(whole[:size])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with contextlib.suppress(SceneFormatError):
        # Compared as text, since what is not a number is not equal to itself.
        assert repr(parse(packed(parse(data)))) == repr(parse(data))


def test_long_forms_and_extensions() -> None:
    assert parse(b"\xdd\x00\x00\x00\x02\x01\xff") == [1, -1]
    assert parse(b"\xdb\x00\x00\x00\x01a") == "a"
    assert parse(b"\xc6\x00\x00\x00\x02ab") == b"ab"
    assert parse(b"\xd5\x07ab") == b"ab"
    assert parse(b"\xc7\x03\x07abc") == b"abc"
    assert parse(b"\xca" + struct.pack(">f", 0.5)) == 0.5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xdd\xff\xff\xff\xff\x01", "claims a list that is longer than the file"),
        (b"\xdf\xff\xff\xff\xff\x01", "claims a map that is longer than the file"),
        (b"\xc6\xff\xff\xff\xff\x01", "4,294,967,295 bytes should follow, 1 do"),
        (b"\x81\x01\x02", "keys are not text"),
        (b"\x01\x02", "goes on for 1 bytes after its end"),
        (b"\xa1\xff", "not UTF-8"),
        (b"\xc1", "begins nothing"),
        (b"\x91" * (MAX_DEPTH + 1) + b"\x01", "nested more than"),
    ],
)
def test_claims_are_not_believed(data: bytes, message: str) -> None:
    with pytest.raises(SceneFormatError, match=message):
        parse(data)


def test_a_file_of_nothing_but_values_is_refused() -> None:
    data = memoryview(packed([None] * 999))
    assert len(parse_msgpack("file", data, 1000)) == 999
    with pytest.raises(SceneFormatError, match="more than 999 values"):
        parse_msgpack("file", data, 999)


@pytest.mark.parametrize(
    "value",
    [
        *(b"\xc4\x00", b"\xd4\x00a", b"\x90", b"\x80", b"\x81\xa1a\x01", b"\xa1a"),
        *(b"\xcf" + b"\xff" * 8, b"\xaf" + "ä".encode() * 6 + b"abc"),
        b"\xa8ab" + "😀".encode() + b"ef",
    ],
    ids=["binary", "extension", "list", "map", "entry", "text", "number", "accents", "signs"],
)
def test_memory_of_what_is_made_is_counted(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what can be repeated takes more than it is counted with."""
    count = 20_000
    data = memoryview(b"\xdd" + count.to_bytes(4, "big") + value * count)
    tracemalloc.start()
    parsed = parse_msgpack("file", data)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(parsed) == count
    monkeypatch.setattr("scene_store.models.msgpack.MAX_OBJECT_BYTES", int(0.9 * taken))
    with pytest.raises(SceneFormatError, match="values that take more than"):
        parse_msgpack("file", data)
