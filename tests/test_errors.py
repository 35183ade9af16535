"""Messages are one line that a terminal can show, whatever gets into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene_store.formats import open_scene
from splat.errors import MAX_MESSAGE, BelvedereError, SceneError, SceneFormatError, one_line


def test_ordinary_text_is_kept() -> None:
    text = "scène.ply (header line 3): × 12 of 62 bytes; download it again"
    assert one_line(text) == text
    assert str(SceneFormatError("a.ply", "is empty", where="byte 0", remedy="try")) == (
        "a.ply (byte 0): is empty; try"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\n", r"a\nb\r\n"),
        ("\x1b[2Jcleared", r"\x1b[2Jcleared"),
        ("next\x85line\u2028para\u2029", r"next\x85line\u2028para\u2029"),
        ("right\u202eleft", r"right\u202eleft"),
        ("bytes\udcff", r"bytes\udcff"),
    ],
)
def test_what_breaks_lines_or_terminals_is_escaped(text: str, shown: str) -> None:
    assert str(BelvedereError(text)) == shown


@pytest.mark.parametrize("length", [MAX_MESSAGE, MAX_MESSAGE + 1, 100_000])
def test_long_messages_lose_their_middle(length: int) -> None:
    text = ("start" + "x" * length)[: length - 3] + "end"
    shown = one_line(text)
    assert len(shown) <= MAX_MESSAGE < 500
    assert (shown == text) == (length <= MAX_MESSAGE)
    assert shown.startswith("start") and shown.endswith("end")


def test_a_file_with_an_unusual_name(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[31m.ply"
    path.write_bytes(b"ply\n")
    with pytest.raises(SceneError) as info:
        open_scene(path)
    assert str(info.value).isprintable()
    assert r"two\nlines\x1b[31m.ply" in str(info.value)
