"""Timelines to look at: as an SVG picture, and as lines of letters. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

from rendering.stages import Stage
from rendering.timeline import GIVEN_UP, JOIN, NO_FRAME, SEND, Span, between

# Told apart without colour vision, too: of what devices do, the lightness falls from stage to
# stage; what is on its way to a screen is bright again (Okabe and Ito).
COLORS: Mapping[str, str] = {
    Stage.SELECT.value: "#999999",
    Stage.FETCH.value: "#cc79a7",
    Stage.DECODE.value: "#e69f00",
    Stage.PROJECT.value: "#56b4e9",
    Stage.SORT.value: "#009e73",
    Stage.COMPOSITE.value: "#0072b2",
    JOIN: "#222222",
    Stage.ENCODE.value: "#d55e00",
    SEND: "#f0e442",
    GIVEN_UP: "#882255",
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
    SEND: "n",
    GIVEN_UP: "x",
}
IDLE = "·"


@dataclass(frozen=True, slots=True)
class Style:
    """How a picture looks; lengths in pixels.

    Attributes:
        width: Of the picture.
        left: Before the lanes, for their names.
        row, gap: Height of a lane, and between two.
        font: Size of letters.
        background, ink, faint, grid: Colours of the ground, names, numbers and lines.
        colors: Of the stages.
        fluid: Whether it takes the width of what it stands in.
    """

    width: int = 960
    left: int = 70
    row: int = 26
    gap: int = 8
    font: int = 12
    background: str = "#ffffff"
    ink: str = "#000000"
    faint: str = "#555555"
    grid: str = "#dddddd"
    colors: Mapping[str, str] = field(default_factory=lambda: COLORS)
    fluid: bool = False

    @property
    def least_label(self) -> float:
        """Narrower bars bear no number."""
        return 1.8 * self.font


PAPER = Style()
# Beside the picture of a dark page.
PANEL = Style(
    width=236,
    left=56,
    row=16,
    gap=4,
    font=10,
    background="none",
    ink="currentColor",
    faint="currentColor",
    grid="#80808050",
    colors={**COLORS, JOIN: "#e8e8e8"},
    fluid=True,
)


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
    numbers = sorted({span.frame for span in spans if span.frame != NO_FRAME})
    first = max(0, min(first, len(numbers) - count))
    chosen = set(numbers[first : first + count])
    ours = [span for span in spans if span.frame in chosen]
    if not ours:
        return Window(0.0, 1.0)
    return Window(min(s.start_ms for s in ours), max(s.end_ms for s in ours))


def last_frames(spans: Sequence[Span], count: int, most_ms: float) -> Window:
    """The time of the newest frames, or its end, if that is longer than so many milliseconds."""
    numbers = {span.frame for span in spans if span.frame != NO_FRAME}
    chosen = set(sorted(numbers)[-count:])
    ours = [span for span in spans if span.frame in chosen]
    if not ours:
        return Window(0.0, 1.0)
    end_ms = max(span.end_ms for span in ours)
    return Window(max(end_ms - most_ms, min(span.start_ms for span in ours)), end_ms)


def folded(spans: Iterable[Span], devices: Collection[str]) -> tuple[Span, ...]:
    """Lanes that differ by a number as one, unless they are devices: ``reading:0`` as ``reading``.

    What such lanes did at the same time is one span there.
    """
    kept: list[Span] = []
    alike: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        kind, colon, _ = span.lane.partition(":")
        if not colon or span.lane in devices:
            kept.append(span)
        else:
            alike.setdefault((kind, span.stage), []).append(replace(span, lane=kind))
    return (*kept, *(span for group in alike.values() for span in _united(group)))


def _united(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans of one lane and stage, those that touch as one."""
    whole: Span | None = None
    for span in sorted(spans, key=lambda span: span.start_ms):
        if whole is not None and span.start_ms <= whole.end_ms:
            whole = replace(whole, end_ms=max(whole.end_ms, span.end_ms))
            continue
        if whole is not None:
            yield whole
        whole = span
    if whole is not None:
        yield whole


def to_svg(
    spans: Sequence[Span],
    lanes: Sequence[str],
    window: Window,
    *,
    title: str = "",
    names: Mapping[str, str] | None = None,
    style: Style = PAPER,
) -> str:
    """A line for each lane, a bar for each span in the colour of its stage, and the frame's number.

    Args:
        lanes: From top to bottom; spans of others are left out.
        names: What lanes are called, if not as they are.
    """
    names = names or {}
    top = style.font * (3.7 if title else 0.6)
    inner = style.width - style.left - 1.3 * style.font
    bottom = top + len(lanes) * (style.row + style.gap)
    seen = [s for s in between(spans, window.start_ms, window.end_ms) if s.lane in lanes]
    stages = [stage for stage in style.colors if any(span.stage == stage for span in seen)]
    legend = list(_legend(stages, style, bottom + 2.9 * style.font))
    height = bottom + (2.9 + 1.6 * _legend_rows(stages, style)) * style.font
    size = "" if style.fluid else f'width="{style.width}" height="{height:g}" '
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
        f'viewBox="0 0 {style.width} {height:g}" '
        f'font-family="system-ui, sans-serif" font-size="{style.font}">',
        f'<rect width="{style.width}" height="{height:g}" fill="{style.background}"/>',
        *_heading(title, style),
        *_axis(window, style, top, inner, bottom),
    ]
    for number, lane in enumerate(lanes):
        y = top + number * (style.row + style.gap)
        lines.append(
            f'<text x="{style.left - 0.8 * style.font:g}" y="{y + style.row / 2 + 4:g}" '
            f'text-anchor="end" fill="{style.ink}">{escape(names.get(lane, lane))}</text>'
        )
        lines += [
            line
            for span in seen
            if span.lane == lane
            for line in _bar(span, window, style, y, inner)
        ]
    return "\n".join([*lines, *legend, "</svg>", ""])


def _heading(title: str, style: Style) -> Iterator[str]:
    if title:
        yield f"<title>{escape(title)}</title>"
        yield (
            f'<text x="{style.left}" y="{2 * style.font}" font-size="{style.font + 2}" '
            f'font-weight="600" fill="{style.ink}">{escape(title)}</text>'
        )


def _bar(span: Span, window: Window, style: Style, y: float, width: float) -> Iterator[str]:
    start, end = (window.place(ms, width) for ms in (span.start_ms, span.end_ms))
    color = style.colors.get(span.stage, OTHER_COLOR)
    edge = ' stroke="#ffffff" stroke-width="0.5"' if end - start >= 4.0 else ""
    yield (
        f'<rect x="{style.left + start:.2f}" y="{y:g}" width="{max(end - start, 0.5):.2f}" '
        f'height="{style.row}" fill="{color}"{edge}>'
        f"<title>{escape(_about(span))}</title></rect>"
    )
    if end - start >= style.least_label and span.frame != NO_FRAME:
        yield (
            f'<text x="{style.left + (start + end) / 2:.2f}" y="{y + style.row / 2 + 4:g}" '
            f'text-anchor="middle" fill="{_ink_on(color)}">{span.frame}</text>'
        )


def _about(span: Span) -> str:
    what = f"{span.stage}, {span.duration_ms:.2f} ms"
    if span.frame == NO_FRAME:
        return what
    return f"frame {span.frame}, {what}" + (f" of {span.client}" if span.client else "")


def _ink_on(color: str) -> str:
    """What can be read on it."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 170 else "#222222"


def _axis(window: Window, style: Style, top: float, width: float, bottom: float) -> Iterator[str]:
    step = _round_step(window.length_ms * max(1 / 8, 4 * style.font / width))
    count = math.floor(window.length_ms / step)
    for number in range(count + 1):
        x = style.left + window.place(window.start_ms + number * step, width)
        yield (
            f'<line x1="{x:.2f}" y1="{top - 0.5 * style.font:g}" x2="{x:.2f}" y2="{bottom:g}" '
            f'stroke="{style.grid}"/>'
        )
        unit = " ms" if number == count else ""
        label = f"{number * step:g}{unit}"
        x, anchor = (
            (style.width - 2.0, "end")
            if x + 0.3 * style.font * len(label) > style.width
            else (x, "middle")
        )
        yield (
            f'<text x="{x:.2f}" y="{bottom + 1.2 * style.font:g}" text-anchor="{anchor}" '
            f'fill="{style.faint}" font-size="{style.font - 1}">{label}</text>'
        )


def _legend(stages: Sequence[str], style: Style, y: float) -> Iterator[str]:
    for stage, (row, x) in zip(stages, _legend_places(stages, style), strict=True):
        line = y + 1.6 * row * style.font
        yield (
            f'<rect x="{x:g}" y="{line - 0.83 * style.font:g}" width="{style.font}" '
            f'height="{style.font}" fill="{style.colors[stage]}"/>'
        )
        yield (
            f'<text x="{x + 1.5 * style.font:g}" y="{line:g}" fill="{style.ink}">'
            f"{escape(stage)}</text>"
        )


def _legend_rows(stages: Sequence[str], style: Style) -> int:
    return 1 + max((row for row, _ in _legend_places(stages, style)), default=-1)


def _legend_places(stages: Sequence[str], style: Style) -> Iterator[tuple[int, float]]:
    """Row, and where it begins, of each entry; as many in a row as there is room for."""
    first = style.left if style.width > 500 else 0.5 * style.font
    row, x = 0, first
    for stage in stages:
        needed = (2.6 + 0.58 * len(stage)) * style.font
        if x + needed > style.width and x > first:
            row, x = row + 1, first
        yield row, x
        x += needed


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
