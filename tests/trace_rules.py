"""What the "Trace Event Format" asks of a trace, and what viewers of it need besides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

KNOWN = {"M", "X", "b", "e", "C"}
NAMES = {
    "process_name": "name",
    "process_sort_index": "sort_index",
    "thread_name": "name",
    "thread_sort_index": "sort_index",
}
ROUNDING_US = 1e-3


def broken_rules(trace: Mapping[str, Any]) -> list[str]:
    """A line for each broken rule; none for a good trace."""
    events = trace["traceEvents"]
    timed = [event for event in events if event["ph"] != "M"]
    found = [line for event in events for line in _of_each(event)]
    if [event["ts"] for event in timed] != sorted(event["ts"] for event in timed):
        found.append("events are not sorted by time")
    return [*found, *_unnamed(events), *_unbalanced(timed), *_overlapping(timed)]


def _of_each(event: Mapping[str, Any]) -> Iterator[str]:
    what = f"{event.get('ph')} {event.get('name')!r}"
    if event.get("ph") not in KNOWN:
        yield f"{what}: unknown ph"
        return
    if not (isinstance(event["name"], str) and event["name"]):
        yield f"{what}: no name"
    for key in ("pid", "tid"):
        if type(event.get(key)) is not int:
            yield f"{what}: {key} is no integer"
    if event["ph"] == "M":
        if event["name"] not in NAMES or set(event["args"]) != {NAMES[event["name"]]}:
            yield f"{what}: not a name that viewers know"
        return
    if not _is_time(event.get("ts")):
        yield f"{what}: ts is no time"
    if event["ph"] == "X" and not _is_time(event.get("dur")):
        yield f"{what}: dur is no time"
    if event["ph"] in "be" and "id" not in event:
        yield f"{what}: no id"
    if event["ph"] == "C" and not all(
        type(value) in (int, float) and math.isfinite(value) for value in event["args"].values()
    ):
        yield f"{what}: a counter counts numbers"


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def _unnamed(events: list[Mapping[str, Any]]) -> Iterator[str]:
    processes = [e["pid"] for e in events if e["name"] == "process_name"]
    threads = [(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"]
    if len(set(processes)) < len(processes) or len(set(threads)) < len(threads):
        yield "something is named twice"
    for event in events:
        if event["pid"] not in processes:
            yield f"process {event['pid']} has no name"
        if event["ph"] == "X" and (event["pid"], event["tid"]) not in threads:
            yield f"thread {event['tid']} has no name"


def _unbalanced(timed: list[Mapping[str, Any]]) -> Iterator[str]:
    open_ids: dict[tuple[str, int], float] = {}
    for event in timed:
        key = event.get("cat", ""), event.get("id", 0)
        if event["ph"] == "b":
            if key in open_ids:
                yield f"{key} begins twice"
            open_ids[key] = event["ts"]
        elif event["ph"] == "e" and open_ids.pop(key, None) is None:
            yield f"{key} ends, but did not begin"
    for key in open_ids:
        yield f"{key} does not end"


def _overlapping(timed: list[Mapping[str, Any]]) -> Iterator[str]:
    """A thread does one thing at a time."""
    busy_until: dict[tuple[int, int], float] = {}
    for event in timed:
        if event["ph"] == "X":
            thread = event["pid"], event["tid"]
            if event["ts"] < busy_until.get(thread, 0.0) - ROUNDING_US:
                yield f"thread {thread} does two things at {event['ts']:.3f}"
            busy_until[thread] = max(busy_until.get(thread, 0.0), event["ts"] + event["dur"])
