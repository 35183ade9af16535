"""Timelines: Chrome trace events, SVG, and lines of letters."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.chrome_trace import chrome_trace, chrome_trace_text
from rendering.timeline import Span, between, busy_ms, lanes_of
from rendering.timeline_picture import COLORS, LETTERS, Window, some_frames, to_lines, to_svg

SPANS = (
    Span("cpu:1", "composite", 2.0, 6.0, 0, "a"),
    Span("cpu:0", "project", 0.0, 2.0, 0, "a"),
    Span("cpu:0", "composite", 2.0, 5.0, 0, "a"),
    Span("link", "join", 6.0, 6.5, 0, "a"),
    Span("cpu:0", "encode", 6.5, 8.0, 0, "a"),
    Span("cpu:0", "project", 8.0, 10.0, 1, "<b> & 'c'"),
)
SVG = "{http://www.w3.org/2000/svg}"


def test_a_chrome_trace_has_a_thread_for_each_lane_and_microseconds() -> None:
    trace = chrome_trace(SPANS, process="mine", lanes=["cpu:0", "idle"], about={"schedule": "x"})
    events = json.loads(chrome_trace_text(trace))["traceEvents"]
    assert events == trace["traceEvents"] and trace["otherData"] == {"schedule": "x"}
    threads = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert threads == {"cpu:0": 1, "idle": 2, "cpu:1": 3, "link": 4}
    complete = [e for e in events if e["ph"] == "X"]
    assert len(complete) == len(SPANS)
    assert complete[0] == {
        "name": "project",
        "cat": "frame",
        "ph": "X",
        "pid": 1,
        "tid": 1,
        "ts": 0.0,
        "dur": 2000.0,
        "args": {"frame": 0, "client": "a"},
    }
    assert [e["ts"] for e in complete] == sorted(e["ts"] for e in complete)
    named = [e for e in events if e["ph"] == "M"]
    assert {e["name"] for e in named} == {"process_name", "thread_name", "thread_sort_index"}
    assert named[0]["args"] == {"name": "mine"}


def test_an_empty_trace_is_one_too() -> None:
    text = chrome_trace_text(chrome_trace([]))
    assert [event["ph"] for event in json.loads(text)["traceEvents"]] == ["M"]


def test_a_picture_has_a_bar_for_each_span_in_its_place() -> None:
    window = Window(0.0, 10.0)
    root = ET.fromstring(to_svg(SPANS, ["cpu:0", "cpu:1"], window, title="<t> & u", width=586))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(bars) == 5, "the link is not among the lanes"
    by_title = {(bar.find(f"{SVG}title").text or ""): bar for bar in bars}  # type: ignore[union-attr]
    bar = by_title["frame 0, composite, 4.00 ms of a"]
    assert bar.get("fill") == COLORS["composite"]
    assert float(bar.get("x") or 0) == pytest.approx(70 + 0.2 * 500)
    assert float(bar.get("width") or 0) == pytest.approx(0.4 * 500)
    rows = {float(bar.get("y") or 0) for bar in bars}
    assert len(rows) == 2
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"<t> & u", "cpu:0", "cpu:1", "10 ms", "encode"} <= set(texts)
    assert "join" not in texts, "the legend names what is shown"


def test_bars_are_cut_at_the_window() -> None:
    root = ET.fromstring(to_svg(SPANS, ["cpu:0"], Window(1.0, 4.0), width=386))
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
    assert set(COLORS) == set(LETTERS)
    assert len(set(COLORS.values())) == len(COLORS) == len(set(LETTERS.values()))


def test_sums_of_spans() -> None:
    assert busy_ms(SPANS) == {"cpu:0": 8.5, "cpu:1": 4.0, "link": 0.5}
    assert lanes_of(SPANS, ["link"]) == ["link", "cpu:0", "cpu:1"]
    assert len(between(SPANS, 6.0, 6.5)) == 1
