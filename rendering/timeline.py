"""What ran where and when, simulated or real: spans on lanes, frames on their way, counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rendering.stages import STAGES, Stage

# What is no stage of a schedule.
JOIN = "join"  # bringing parts together
SEND = "send"  # until the screen says that it has the picture
GIVEN_UP = "given up"  # drawing that was in vain: a newer view was asked for, or it failed
STAGE_NAMES = (
    *(stage.value for stage in STAGES if stage is not Stage.ENCODE),
    JOIN,
    Stage.ENCODE.value,
    SEND,
    GIVEN_UP,
)
NO_FRAME = -1  # of what is done for no frame alone, such as reading a chunk
WAITING = "waiting frames"


@dataclass(frozen=True, slots=True)
class Span:
    """A stage of a frame at work.

    Attributes:
        lane: Who worked: a device, such as ``cpu:0``, or something else that does one thing
            at a time, such as ``link``; of several alike, with a number, such as ``reading:0``.
        stage: What was done: one of ``STAGE_NAMES``.
        start_ms, end_ms: Milliseconds since a moment that all spans share.
        frame: Counts the frames of all clients in the order they were begun; or ``NO_FRAME``.
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


@dataclass(frozen=True, slots=True)
class Passage:
    """A frame on its way.

    Attributes:
        frame: Its number, as of its spans.
        client: Whose.
        asked_ms, begun_ms, ended_ms: When it was asked for, taken by devices, and complete.
        reused: Of its pictures, those that had been drawn before.
        complete: Whether it was drawn to its end; else it was given up, or failed.
    """

    frame: int
    client: str
    asked_ms: float
    begun_ms: float
    ended_ms: float
    reused: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """What a counter says from a moment on.

    Attributes:
        counter: Its name.
        at_ms: The moment.
        values: Names and numbers.
    """

    counter: str
    at_ms: float
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """All there is to be seen of some time.

    Attributes:
        devices: Lanes that are devices, in order, even without spans.
        spans, passages: In any order.
        samples: Of counters other than ``WAITING``, which follows from the passages.
    """

    devices: tuple[str, ...]
    spans: tuple[Span, ...] = ()
    passages: tuple[Passage, ...] = ()
    samples: tuple[Sample, ...] = ()


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


def waiting(passages: Iterable[Passage]) -> Iterator[Sample]:
    """How many frames were asked for and not begun, at every change; requests that a newer one
    replaced are not among them."""
    changes: dict[float, int] = {}
    for passage in passages:
        changes[passage.asked_ms] = changes.get(passage.asked_ms, 0) + 1
        changes[passage.begun_ms] = changes.get(passage.begun_ms, 0) - 1
    count = 0
    for at_ms, change in sorted(changes.items()):
        count += change
        if change:
            yield Sample(WAITING, at_ms, (("frames", count),))
