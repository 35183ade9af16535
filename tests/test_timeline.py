"""Timelines as pictures: SVG, and lines of letters."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.timeline import NO_FRAME, STAGE_NAMES, Span, between, busy_ms, lanes_of
from rendering.timeline_picture import (
    COLORS,
    LETTERS,
    PANEL,
    PAPER,
    Window,
    folded,
    last_frames,
    some_frames,
    to_lines,
    to_svg,
)

SPANS = (
    Span("cpu:1", "composite", 2.0, 6.0, 0, "a"),
    Span("cpu:0", "project", 0.0, 2.0, 0, "a"),
    Span("cpu:0", "composite", 2.0, 5.0, 0, "a"),
    Span("link", "join", 6.0, 6.5, 0, "a"),
    Span("cpu:0", "encode", 6.5, 8.0, 0, "a"),
    Span("cpu:0", "project", 8.0, 10.0, 1, "<b> & 'c'"),
)
WIDE = replace(PAPER, left=70, width=586)
INNER = 586 - 70 - 1.3 * PAPER.font
SVG = "{http://www.w3.org/2000/svg}"


def test_a_picture_has_a_bar_for_each_span_in_its_place() -> None:
    window = Window(0.0, 10.0)
    root = ET.fromstring(to_svg(SPANS, ["cpu:0", "cpu:1"], window, title="<t> & u", style=WIDE))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(bars) == 5, "the link is not among the lanes"
    by_title = {(bar.find(f"{SVG}title").text or ""): bar for bar in bars}  # type: ignore[union-attr]
    bar = by_title["frame 0, composite, 4.00 ms of a"]
    assert bar.get("fill") == COLORS["composite"]
    assert float(bar.get("x") or 0) == pytest.approx(70 + 0.2 * INNER, abs=0.01)
    assert float(bar.get("width") or 0) == pytest.approx(0.4 * INNER, abs=0.01)
    rows = {float(bar.get("y") or 0) for bar in bars}
    assert len(rows) == 2
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"<t> & u", "cpu:0", "cpu:1", "10 ms", "encode"} <= set(texts)
    assert "join" not in texts, "the legend names what is shown"


def test_bars_are_cut_at_the_window() -> None:
    root = ET.fromstring(
        to_svg(SPANS, ["cpu:0"], Window(1.0, 4.0), style=replace(PAPER, width=386))
    )
    for rect in root.iter(f"{SVG}rect"):
        start = float(rect.get("x") or 0)
        assert start >= 0
        assert start + float(rect.get("width") or 0) <= 386


@given(st.floats(1e-3, 1e5), st.floats(0.0, 1e5))
def test_any_window_has_an_axis(length: float, start: float) -> None:
    root = ET.fromstring(to_svg([], ["cpu:0"], Window(start, start + length)))
    assert 4 <= len(list(root.iter(f"{SVG}line"))) <= 11


def test_letters_are_the_stages_that_take_most_of_a_column() -> None:
    lines = to_lines(SPANS, ["cpu:0", "cpu:1", "idle"], Window(0.0, 10.0), 10)
    assert lines == ["ppccc·eePP", "··cccc····", "·" * 10]


def test_a_window_of_some_frames() -> None:
    assert some_frames(SPANS, 0, 1) == Window(0.0, 8.0)
    assert some_frames(SPANS, 1, 1) == Window(8.0, 10.0)
    assert some_frames(SPANS, 50, 2) == Window(0.0, 10.0)
    assert some_frames([], 0, 5).length_ms == 1.0


def test_every_stage_has_a_colour_and_a_letter() -> None:
    assert set(COLORS) == set(LETTERS) == set(STAGE_NAMES) == set(PANEL.colors)
    assert len(set(PANEL.colors.values())) == len(COLORS)
    assert len(set(COLORS.values())) == len(COLORS) == len(set(LETTERS.values()))


def test_sums_of_spans() -> None:
    assert busy_ms(SPANS) == {"cpu:0": 8.5, "cpu:1": 4.0, "link": 0.5}
    assert lanes_of(SPANS, ["link"]) == ["link", "cpu:0", "cpu:1"]
    assert len(between(SPANS, 6.0, 6.5)) == 1


def test_the_newest_frames_have_a_window_no_longer_than_asked_for() -> None:
    spans = [Span("cpu:0", "sort", 10.0 * n, 10.0 * n + 4, n) for n in range(20)]
    spans.append(Span("reading", "fetch", 150.0, 900.0, NO_FRAME))
    assert last_frames(spans, 8, 1e9) == Window(120.0, 194.0)
    assert last_frames(spans, 8, 50.0) == Window(144.0, 194.0)
    assert last_frames(spans, 99, 1e9) == Window(0.0, 194.0)
    assert last_frames(spans[-1:], 8, 1e9).length_ms == 1.0


def test_lanes_that_differ_by_a_number_are_folded_unless_they_are_devices() -> None:
    spans = (
        Span("cpu:0", "sort", 0.0, 1.0, 0),
        Span("cpu:1", "sort", 0.0, 1.0, 0),
        Span("reading:1", "fetch", 4.0, 6.0, NO_FRAME),
        Span("reading:0", "fetch", 0.0, 2.0, NO_FRAME),
        Span("reading:2", "fetch", 1.0, 3.0, NO_FRAME),
        Span("reading:0", "decode", 1.0, 3.0, NO_FRAME),
        Span("browser-1", "send", 1.0, 3.0, 0),
    )
    assert set(folded(spans, ["cpu:0", "cpu:1"])) == {
        *spans[:2],
        spans[-1],
        Span("reading", "fetch", 0.0, 3.0, NO_FRAME),
        Span("reading", "fetch", 4.0, 6.0, NO_FRAME),
        Span("reading", "decode", 1.0, 3.0, NO_FRAME),
    }


def test_on_a_panel_all_of_the_picture_is_inside() -> None:
    """With every stage in the legend, which takes several rows there."""
    spans = [Span("cpu:0", stage, 10.0 * n, 10.0 * n + 9, n) for n, stage in enumerate(STAGE_NAMES)]
    lanes = ["cpu:0", "browser-12"]
    root = ET.fromstring(
        to_svg(spans, lanes, Window(0.0, 100.0), names={"browser-12": "page"}, style=PANEL)
    )
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    assert width == PANEL.width and root.get("width") is None
    texts = {text.text: text for text in root.iter(f"{SVG}text")}
    assert set(STAGE_NAMES) <= set(texts) and "page" in texts and "browser-12" not in texts
    assert len({texts[stage].get("y") for stage in STAGE_NAMES}) > 1
    for text in texts.values():
        letters = 0.62 * PANEL.font * len(text.text or "")
        left = float(text.get("x") or 0)
        if text.get("text-anchor") is None:
            assert left + letters <= width, text.text
        assert 0 < float(text.get("y") or 0) < height
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.get("y") or 0) + float(rect.get("height") or 0) <= height


def test_numbers_can_be_read_on_every_colour() -> None:
    spans = [Span("a", stage, 0.0, 9.0, 77) for stage in STAGE_NAMES]
    for style in (PAPER, PANEL):
        for span in spans:
            root = ET.fromstring(to_svg([span], ["a"], Window(0.0, 9.0), style=style))
            (number,) = [text for text in root.iter(f"{SVG}text") if text.text == "77"]
            ground, ink = style.colors[span.stage], number.get("fill") or ""
            assert abs(lightness(ground) - lightness(ink)) > 60, span.stage
    work = Span("a", "fetch", 0.0, 9.0, NO_FRAME)
    assert "-1" not in to_svg([work], ["a"], Window(0.0, 9.0)), "it has no number"


def lightness(color: str) -> float:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return 0.3 * red + 0.59 * green + 0.11 * blue
