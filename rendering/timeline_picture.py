"""Timelines to look at: as an SVG picture, and as lines of letters. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from rendering.stages import Stage
from rendering.timeline import JOIN, Span, between

# Told apart without colour vision, too: the lightness falls from stage to stage (Okabe and Ito).
COLORS: Mapping[str, str] = {
    Stage.SELECT.value: "#999999",
    Stage.FETCH.value: "#cc79a7",
    Stage.DECODE.value: "#e69f00",
    Stage.PROJECT.value: "#56b4e9",
    Stage.SORT.value: "#009e73",
    Stage.COMPOSITE.value: "#0072b2",
    JOIN: "#222222",
    Stage.ENCODE.value: "#d55e00",
}
OTHER_COLOR = "#bbbbbb"
LETTERS: Mapping[str, str] = {
    Stage.SELECT.value: "s",
    Stage.FETCH.value: "f",
    Stage.DECODE.value: "d",
    Stage.PROJECT.value: "p",
    Stage.SORT.value: "o",
    Stage.COMPOSITE.value: "c",
    JOIN: "j",
    Stage.ENCODE.value: "e",
}
IDLE = "·"
FONT = 'font-family="system-ui, sans-serif" font-size="12"'
MIN_LABEL_PX = 22.0


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of time, milliseconds."""

    start_ms: float
    end_ms: float

    @property
    def length_ms(self) -> float:
        """Above 0."""
        return max(self.end_ms - self.start_ms, 1e-9)

    def place(self, ms: float, width: float) -> float:
        """Where a moment is on a line of that width."""
        return width * (min(max(ms, self.start_ms), self.end_ms) - self.start_ms) / self.length_ms


def some_frames(spans: Sequence[Span], first: int, count: int) -> Window:
    """The time of so many frames, counted as they were begun; as far as there are any."""
    numbers = sorted({span.frame for span in spans})
    first = max(0, min(first, len(numbers) - count))
    chosen = set(numbers[first : first + count])
    ours = [span for span in spans if span.frame in chosen]
    if not ours:
        return Window(0.0, 1.0)
    return Window(min(s.start_ms for s in ours), max(s.end_ms for s in ours))


def to_svg(
    spans: Sequence[Span],
    lanes: Sequence[str],
    window: Window,
    *,
    title: str = "",
    width: int = 960,
) -> str:
    """A line for each lane, a bar for each span in the colour of its stage, and the frame's number.

    Args:
        lanes: From top to bottom; spans of others are left out.
    """
    left, top, row, gap = 70, 44, 26, 8
    inner = width - left - 16
    bottom = top + len(lanes) * (row + gap)
    height = bottom + 60
    seen = [s for s in between(spans, window.start_ms, window.end_ms) if s.lane in lanes]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="24" font-size="14" font-weight="600">{escape(title)}</text>',
        *_axis(window, left, top, inner, bottom),
    ]
    for number, lane in enumerate(lanes):
        y = top + number * (row + gap)
        lines.append(
            f'<text x="{left - 10}" y="{y + row / 2 + 4:.1f}" text-anchor="end">'
            f"{escape(lane)}</text>"
        )
        lines += [
            line
            for span in seen
            if span.lane == lane
            for line in _bar(span, window, left, y, inner, row)
        ]
    stages = [stage for stage in COLORS if any(span.stage == stage for span in seen)]
    lines += _legend(stages, left, height - 18)
    return "\n".join([*lines, "</svg>", ""])


def _bar(
    span: Span, window: Window, left: float, y: float, width: float, height: float
) -> Iterator[str]:
    start, end = (window.place(ms, width) for ms in (span.start_ms, span.end_ms))
    about = f"frame {span.frame}, {span.stage}, {span.duration_ms:.2f} ms"
    whose = f" of {span.client}" if span.client else ""
    yield (
        f'<rect x="{left + start:.2f}" y="{y}" width="{max(end - start, 0.5):.2f}" '
        f'height="{height}" fill="{COLORS.get(span.stage, OTHER_COLOR)}" stroke="#ffffff" '
        f'stroke-width="0.6"><title>{escape(about + whose)}</title></rect>'
    )
    if end - start >= MIN_LABEL_PX:
        yield (
            f'<text x="{left + (start + end) / 2:.2f}" y="{y + height / 2 + 4:.1f}" '
            f'text-anchor="middle" fill="#ffffff">{span.frame}</text>'
        )


def _axis(window: Window, left: float, top: float, width: float, bottom: float) -> Iterator[str]:
    step = _round_step(window.length_ms / 8)
    count = math.floor(window.length_ms / step)
    for number in range(count + 1):
        x = left + window.place(window.start_ms + number * step, width)
        yield (f'<line x1="{x:.2f}" y1="{top - 6}" x2="{x:.2f}" y2="{bottom}" stroke="#dddddd"/>')
        unit = " ms" if number == count else ""
        yield (
            f'<text x="{x:.2f}" y="{bottom + 14}" text-anchor="middle" fill="#555555" '
            f'font-size="11">{number * step:g}{unit}</text>'
        )


def _legend(stages: Sequence[str], left: float, y: float) -> Iterator[str]:
    x = left
    for stage in stages:
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{COLORS[stage]}"/>'
        yield f'<text x="{x + 18}" y="{y}">{escape(stage)}</text>'
        x += 34 + 7 * len(stage)


def _round_step(at_least: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= at_least * (1 - 1e-12))


def to_lines(
    spans: Sequence[Span], lanes: Sequence[str], window: Window, columns: int
) -> list[str]:
    """A line of ``columns`` letters for each lane: the stage that had most of the column's time.

    Frames alternate between small and capital letters.
    """
    return ["".join(_letters(spans, lane, window, columns)) for lane in lanes]


def _letters(spans: Sequence[Span], lane: str, window: Window, columns: int) -> Iterator[str]:
    own = [s for s in between(spans, window.start_ms, window.end_ms) if s.lane == lane]
    step = window.length_ms / columns
    for column in range(columns):
        start = window.start_ms + column * step
        shares = [
            (min(span.end_ms, start + step) - max(span.start_ms, start), -i, span)
            for i, span in enumerate(own)
        ]
        most = max(shares, default=None)
        idle = step - sum(max(0.0, share) for share, _, _ in shares)
        if most is None or most[0] <= 0 or idle > most[0]:
            yield IDLE
        else:
            letter = LETTERS.get(most[2].stage, "?")
            yield letter.upper() if most[2].frame % 2 else letter
