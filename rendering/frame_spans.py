"""What devices did for frames, as spans for timelines and traces (``rendering.timeline``)."""

from __future__ import annotations

from collections.abc import Iterator

from rendering.frame import Frame, PartStats
from rendering.timeline import Span

# Rasterizers tell sorting by depth from sorting into tiles; schedules do not.
STAGE_OF = {"bin": "sort"}


def frame_spans(frame: Frame, number: int, origin_s: float) -> tuple[Span, ...]:
    """The stages of a frame where and when they ran.

    Args:
        number: Of the frame, counted as they were begun.
        origin_s: The moment that all spans are counted from, of the clock of ``PartStats``.
    """
    client = frame.request.client
    return tuple(
        Span(part.device, stage, start_ms, end_ms, number, client)
        for part in frame.stats.parts
        for stage, start_ms, end_ms in _stages(part, origin_s)
    )


def _stages(part: PartStats, origin_s: float) -> Iterator[tuple[str, float, float]]:
    """One after the other from the start of the part, never beyond its end."""
    at, end = 1e3 * (part.start_s - origin_s), 1e3 * (part.end_s - origin_s)
    together = sum(ms for _, ms in part.stages)
    scale = min(1.0, (end - at) / together) if together > 0 else 0.0
    merged: list[tuple[str, float]] = []
    for name, ms in part.stages:
        stage = STAGE_OF.get(name, name)
        if merged and merged[-1][0] == stage:
            merged[-1] = (stage, merged[-1][1] + ms)
        else:
            merged.append((stage, ms))
    for stage, ms in merged:
        yield stage, at, min(end, at + scale * ms)
        at += scale * ms
