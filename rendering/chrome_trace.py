"""Spans as Chrome trace events, for chrome://tracing and https://ui.perfetto.dev."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rendering.timeline import Span, lanes_of


def chrome_trace(
    spans: Iterable[Span],
    *,
    process: str = "belvedere",
    lanes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The spans as Chrome trace events, which chrome://tracing and Perfetto open.

    Complete events (``ph: X``) of microseconds, one thread a lane, as in the "Trace Event Format".

    Args:
        process: Its name in the viewer.
        lanes: Those to be shown first, in this order, even without spans.
        about: Facts that belong to the trace, kept under ``otherData``.
    """
    spans = sorted(spans, key=lambda span: (span.start_ms, span.lane, span.end_ms))
    threads = {lane: number for number, lane in enumerate(lanes_of(spans, lanes), 1)}
    events: list[dict[str, Any]] = [_named("process_name", 0, {"name": process})]
    for lane, number in threads.items():
        events.append(_named("thread_name", number, {"name": lane}))
        events.append(_named("thread_sort_index", number, {"sort_index": number}))
    events += [
        {
            "name": span.stage,
            "cat": "frame",
            "ph": "X",
            "pid": 1,
            "tid": threads[span.lane],
            "ts": 1e3 * span.start_ms,
            "dur": 1e3 * span.duration_ms,
            "args": {"frame": span.frame, "client": span.client},
        }
        for span in spans
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(about or {})}


def _named(what: str, thread: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 1, "tid": thread, "args": args}


def chrome_trace_text(trace: Mapping[str, Any]) -> str:
    """A trace as the text of a file, one event a line so that differences can be read."""
    head = {key: value for key, value in trace.items() if key != "traceEvents"}
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in trace["traceEvents"])
    rest = "".join(f",\n{json.dumps(key)}:{json.dumps(value)}" for key, value in head.items())
    return f'{{"traceEvents":[\n{lines}\n]{rest}}}\n'
