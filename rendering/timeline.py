"""What ran where and when, simulated or real: spans on lanes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

JOIN = "join"  # bringing parts together, beside the names of ``rendering.schedule.Stage``


@dataclass(frozen=True, slots=True)
class Span:
    """A stage of a frame at work.

    Attributes:
        lane: Who worked: a device, such as ``cpu:0``, or something else that does one thing
            at a time, such as ``link``.
        stage: What was done, such as ``composite``.
        start_ms, end_ms: Milliseconds since a moment that all spans share.
        frame: Counts the frames of all clients in the order they were begun.
        client: Whose frame.
    """

    lane: str
    stage: str
    start_ms: float
    end_ms: float
    frame: int
    client: str = ""

    @property
    def duration_ms(self) -> float:
        """Of the work."""
        return self.end_ms - self.start_ms


def busy_ms(spans: Iterable[Span]) -> dict[str, float]:
    """Work by lane."""
    out: dict[str, float] = {}
    for span in spans:
        out[span.lane] = out.get(span.lane, 0.0) + span.duration_ms
    return out


def lanes_of(spans: Iterable[Span], first: Sequence[str] = ()) -> list[str]:
    """The lanes of ``first`` in its order, and then all others that have spans, sorted."""
    return [*first, *sorted({span.lane for span in spans}.difference(first))]


def between(spans: Iterable[Span], start_ms: float, end_ms: float) -> tuple[Span, ...]:
    """Those that touch a window, whole."""
    return tuple(span for span in spans if span.end_ms > start_ms and span.start_ms < end_ms)
