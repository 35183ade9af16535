"""Timelines as Chrome trace events, for chrome://tracing and https://ui.perfetto.dev.

The "Trace Event Format": ``X`` a piece of work, ``b`` and ``e`` a frame on its way, ``C`` a
counter, ``M`` a name. Times are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rendering.timeline import Passage, Sample, Span, Timeline, lanes_of, waiting

Event = dict[str, Any]
FRAMES, VIEWERS, COUNTERS = "frames", "viewers", "counters"
NO_THREAD = 0


def chrome_trace(timeline: Timeline, *, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A timeline as trace events, sorted by time.

    Every device is a process, and so are viewers, kinds of other lanes, frames and counters;
    every lane is a thread. Frames go from their being asked for to their end.

    Args:
        about: Facts that belong to the trace, kept under ``otherData``.
    """
    lanes = lanes_of(timeline.spans, timeline.devices)
    clients = {span.client for span in timeline.spans}
    process = {lane: _process(lane, timeline.devices, clients) for lane in lanes}
    numbers = _numbered([FRAMES, *(process[lane] for lane in lanes), COUNTERS])
    threads = {lane: number for number, lane in enumerate(lanes, 1)}
    places = {lane: {"pid": numbers[process[lane]], "tid": threads[lane]} for lane in lanes}
    samples = (*timeline.samples, *waiting(timeline.passages))
    events = [
        *(_work(span, places[span.lane]) for span in timeline.spans),
        *(event for passage in timeline.passages for event in _way(passage, numbers[FRAMES])),
        *(_count(sample, numbers[COUNTERS]) for sample in samples),
    ]
    events.sort(key=lambda event: event["ts"])  # stable: a frame begins before it ends
    return {
        "traceEvents": [*_names(numbers, places), *events],
        "displayTimeUnit": "ms",
        "otherData": dict(about or {}),
    }


def chrome_trace_text(trace: Mapping[str, Any]) -> str:
    """A trace as the text of a file, one event a line so that differences can be read."""
    head = {key: value for key, value in trace.items() if key != "traceEvents"}
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in trace["traceEvents"])
    rest = "".join(f",\n{json.dumps(key)}:{json.dumps(value)}" for key, value in head.items())
    return f'{{"traceEvents":[\n{lines}\n]{rest}}}\n'


def _process(lane: str, devices: Sequence[str], clients: set[str]) -> str:
    """Whose thread a lane is."""
    if lane in devices:
        return lane
    return VIEWERS if lane in clients else lane.partition(":")[0]


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names), 1)}


def _names(numbers: Mapping[str, int], places: Mapping[str, Mapping[str, int]]) -> Iterator[Event]:
    for name, number in numbers.items():
        place = {"pid": number, "tid": NO_THREAD}
        yield _meta("process_name", place, {"name": name})
        yield _meta("process_sort_index", place, {"sort_index": number})
    for lane, thread in places.items():
        yield _meta("thread_name", thread, {"name": lane})
        yield _meta("thread_sort_index", thread, {"sort_index": thread["tid"]})


def _meta(what: str, place: Mapping[str, int], args: Mapping[str, Any]) -> Event:
    return {"name": what, "ph": "M", **place, "args": args}


def _work(span: Span, place: Mapping[str, int]) -> Event:
    return {
        "name": span.stage,
        "cat": "stage",
        "ph": "X",
        **place,
        "ts": 1e3 * span.start_ms,
        "dur": 1e3 * max(0.0, span.duration_ms),
        "args": {"frame": span.frame, "client": span.client},
    }


def _way(passage: Passage, process: int) -> Iterator[Event]:
    args = {
        "frame": passage.frame,
        "waited_ms": passage.begun_ms - passage.asked_ms,
        "reused": passage.reused,
        "complete": passage.complete,
    }
    for ph, at_ms in (("b", passage.asked_ms), ("e", max(passage.asked_ms, passage.ended_ms))):
        yield {
            "name": passage.client or FRAMES,
            "cat": "frame",
            "ph": ph,
            "id": passage.frame,
            "pid": process,
            "tid": NO_THREAD,
            "ts": 1e3 * at_ms,
            "args": args,
        }


def _count(sample: Sample, process: int) -> Event:
    return {
        "name": sample.counter,
        "cat": "counter",
        "ph": "C",
        "pid": process,
        "tid": NO_THREAD,
        "ts": 1e3 * sample.at_ms,
        "args": dict(sample.values),
    }
