"""What was recorded of real frames, as timelines (``rendering.timeline``). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rendering.frame import Frame, PartStats
from rendering.recorder import FrameRecord, Recording
from rendering.timeline import NO_FRAME, Passage, Sample, Span, Timeline

# Rasterizers tell sorting by depth from sorting into tiles; schedules do not.
STAGE_OF = {"bin": "sort"}
PICTURES, QUESTIONS = "kept pictures", "questions for kept pictures"


def frame_spans(frame: Frame, number: int, origin_s: float) -> tuple[Span, ...]:
    """The stages of a frame where and when they ran.

    Args:
        number: Of the frame, counted as they were begun.
        origin_s: The moment that all spans are counted from, of the clock of ``PartStats``.
    """
    return tuple(_part_spans(frame.stats.parts, number, frame.request.client, origin_s))


def timeline_of(recording: Recording, devices: Sequence[str]) -> Timeline:
    """All that was recorded, counted from the first moment of it.

    Args:
        devices: Names of those there are.
    """
    origin_s = _first_moment_s(recording)
    numbers = {(frame.client, frame.sequence): frame.number for frame in recording.frames}
    spans = [
        span
        for frame in recording.frames
        for span in _part_spans(frame.parts, frame.number, frame.client, origin_s)
    ]
    for errand in recording.errands:
        number = numbers.get((errand.client, errand.sequence), NO_FRAME)
        start_ms, end_ms = 1e3 * (errand.start_s - origin_s), 1e3 * (errand.end_s - origin_s)
        spans.append(Span(errand.lane, errand.stage, start_ms, end_ms, number, errand.client))
    return Timeline(
        tuple(devices),
        tuple(spans),
        tuple(_passage(frame, origin_s) for frame in recording.frames),
        tuple(sample for frame in recording.frames for sample in _samples(frame, origin_s)),
    )


def _first_moment_s(recording: Recording) -> float:
    frames, errands = recording.frames, recording.errands
    return min((*(f.asked_s for f in frames), *(e.start_s for e in errands)), default=0.0)


def _passage(frame: FrameRecord, origin_s: float) -> Passage:
    asked_ms, begun_ms, ended_ms = (
        1e3 * (at_s - origin_s) for at_s in (frame.asked_s, frame.begun_s, frame.ended_s)
    )
    return Passage(
        frame.number, frame.client, asked_ms, begun_ms, ended_ms, frame.reused, frame.complete
    )


def _samples(frame: FrameRecord, origin_s: float) -> Iterator[Sample]:
    at_ms, cache = 1e3 * (frame.ended_s - origin_s), frame.pictures
    yield Sample(PICTURES, at_ms, (("bytes", cache.held_bytes),))
    yield Sample(QUESTIONS, at_ms, (("hits", cache.hits), ("misses", cache.misses)))


def _part_spans(
    parts: Iterable[PartStats], number: int, client: str, origin_s: float
) -> Iterator[Span]:
    for part in parts:
        for stage, start_ms, end_ms in _stages(part, origin_s):
            yield Span(part.device, stage, start_ms, end_ms, number, client)


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
