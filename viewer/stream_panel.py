"""The panel's folder on streaming: what is held, what is missing, and how much may be."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import viser

from render_cache.reuse import Reuse
from rendering.frame import StreamStats
from rendering.tint import LEVEL_TINTS, REUSE_TINTS, Rgb, Tint
from scene_store.failures import Failure
from scene_store.ledger import Budgets, ChunkState
from scene_store.residency_stats import ResidencyStats
from splat.errors import BudgetError
from viewer.callbacks import contained
from viewer.text import byte_size, counted, memory_size, short_count

MIB = 1 << 20
SHOWN_FAILURES = 3
SETTLES_S = 1.0  # a slider that is being dragged is left alone
NOTE_S = 10.0
STATE_NAMES = {
    ChunkState.DEVICE: "drawable",
    ChunkState.PROMOTING: "decoding",
    ChunkState.HOST: "read",
    ChunkState.LOADING: "being read",
    ChunkState.QUEUED: "waiting",
}


TINTS = {"As they are": Tint.NONE, "By level": Tint.LEVELS, "By reuse": Tint.REUSE}
REUSE_NAMES = {
    Reuse.EXACT: ("Same", "The same view as before: all of it holds"),
    Reuse.REPROJECT: ("Moved", "Shapes and colours hold, places are computed anew"),
    Reuse.MISS: ("Anew", "Too near, or not in the last picture: all is computed anew"),
}


class StreamActions(Protocol):
    """What the folder's controls do; every call returns at once."""

    def set_budgets(self, budgets: Budgets) -> None:
        """Take no more memory than this.

        Raises:
            BudgetError: If it is too little, or more than there is.
        """

    def set_max_gaussians(self, count: int) -> None:
        """Draw no picture from more."""

    def tint(self, tint: Tint) -> None:
        """Colour chunks by something."""

    def freeze(self, on: bool) -> None:
        """Keep choosing chunks for the present view, wherever the camera goes."""

    def show_boxes(self, on: bool) -> None:
        """Outline the chunks that are drawn."""


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """What the sliders can be set to.

    Attributes:
        least: Budgets that the scene cannot do without.
        most_bytes: What either budget may be raised to.
        gaussians: Of the scene.
    """

    least: Budgets
    most_bytes: int
    gaussians: int

    @property
    def host_mib(self) -> tuple[int, int]:
        """Of the host budget, MiB."""
        return self._mib(self.least.host_bytes)

    @property
    def device_mib(self) -> tuple[int, int]:
        """Of the device budget, MiB."""
        return self._mib(self.least.device_bytes)

    @property
    def kilo_gaussians(self) -> tuple[int, int]:
        """Of a picture's Gaussians, in thousands."""
        return 1, max(2, math.ceil(self.gaussians / 1000))

    def _mib(self, least: int) -> tuple[int, int]:
        low = math.ceil(least / MIB)
        return low, max(low + 1, math.ceil(self.most_bytes / MIB))


class StreamPanel:
    """The folder of one browser.

    Args:
        gui: Where to build.
        bounds: Of the sliders.
        budgets: Those in force, of all forms of the scene together.
        max_gaussians: Of a picture, at present.
        actions: What the controls do.
        order: Place among the folders.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        *,
        bounds: StreamBounds,
        budgets: Budgets,
        max_gaussians: int,
        actions: StreamActions,
        order: float,
    ) -> None:
        self._actions = actions
        self._budgets = budgets
        self._text = self._note = ""
        self._note_until_s = self._touched_s = -math.inf
        self._folder = gui.add_folder("Streaming", order=order)
        with self._folder:
            self._numbers = gui.add_html("")
            self._host = _slider(
                gui, "Host MiB", bounds.host_mib, budgets.host_bytes // MIB,
                "Memory for chunks as they are in the files",
            )  # fmt: skip
            self._device = _slider(
                gui, "Device MiB", bounds.device_mib, budgets.device_bytes // MIB,
                "Memory for the chunks that can be drawn",
            )  # fmt: skip
            self._most_gaussians = _slider(
                gui, "Max kGaussians", bounds.kilo_gaussians, max_gaussians // 1000,
                "No picture is drawn from more, in thousands",
            )  # fmt: skip
            self._tint = gui.add_dropdown(
                "Colour chunks",
                tuple(TINTS),
                hint="By level: from blue, the originals, to red, the coarsest. By reuse: what of "
                "the last picture's work would still do for this one",
            )
            freeze = gui.add_checkbox(
                "Freeze selection", False, hint="Look from elsewhere at what this view needs"
            )
            boxes = gui.add_checkbox("Chunk boxes", False, hint="Outline what is drawn")
        for slider, name in ((self._host, "host_bytes"), (self._device, "device_bytes")):
            slider.on_update(contained(partial(self._set_budget, name)))
        self._most_gaussians.on_update(contained(self._set_most_gaussians))
        self._tint.on_update(contained(self._set_tint))
        for box, act in ((freeze, actions.freeze), (boxes, actions.show_boxes)):
            box.on_update(contained(partial(self._tick, act)))

    def rebase(self, bounds: StreamBounds) -> None:
        """The scene has another form, with other bounds."""
        _bound(self._host, bounds.host_mib)
        _bound(self._device, bounds.device_mib)
        _bound(self._most_gaussians, bounds.kilo_gaussians)

    def show(self, held: ResidencyStats, drawn: StreamStats | None, max_gaussians: int) -> None:
        """Bring numbers and sliders up to date; sends nothing when none changed."""
        now_s = time.monotonic()
        self._budgets = held.budgets
        if now_s >= self._touched_s + SETTLES_S:  # whoever changed them
            _follow(self._host, held.budgets.host_bytes // MIB)
            _follow(self._device, held.budgets.device_bytes // MIB)
            _follow(self._most_gaussians, max_gaussians // 1000)
        text = stream_html(held, drawn, self._note if now_s < self._note_until_s else "")
        if text != self._text:
            self._text = text
            self._numbers.content = text

    def remove(self) -> None:
        """Take the folder away."""
        self._folder.remove()

    def _set_budget(self, name: str, event: Any) -> None:
        if not self._is_touched(event):
            return
        # The other one stays what it is, not what its slider can show of it.
        budgets = replace(self._budgets, **{name: MIB * int(event.target.value)})
        try:
            self._actions.set_budgets(budgets)
            self._budgets = budgets
            self._note = ""
        except BudgetError as error:
            self._note, self._note_until_s = str(error), time.monotonic() + NOTE_S

    def _set_most_gaussians(self, event: Any) -> None:
        if self._is_touched(event):
            self._actions.set_max_gaussians(1000 * max(1, int(self._most_gaussians.value)))
            self._note = ""

    def _set_tint(self, event: Any) -> None:
        self._actions.tint(TINTS[event.target.value])
        self._note = ""

    def _tick(self, act: Callable[[bool], None], event: Any) -> None:
        act(bool(event.target.value))
        self._note = ""

    def _is_touched(self, event: Any) -> bool:
        """Whether a person moved a slider; else it followed."""
        if event.client_id is None:
            return False
        self._touched_s = time.monotonic()
        return True


def _slider(
    gui: viser.GuiApi, label: str, bounds: tuple[int, int], value: int, hint: str
) -> viser.GuiSliderHandle[int]:
    low, high = bounds
    return gui.add_slider(label, low, high, 1, min(max(low, value), high), hint=hint)


def _bound(slider: viser.GuiSliderHandle[int], bounds: tuple[int, int]) -> None:
    slider.min, slider.max = bounds


def _follow(slider: viser.GuiSliderHandle[int], value: int) -> None:
    value = min(max(int(slider.min), value), int(slider.max))
    if int(slider.value) != value:
        slider.value = value  # type: ignore[misc]


def stream_html(held: ResidencyStats, drawn: StreamStats | None, note: str = "") -> str:
    """The numbers as small tables.

    Args:
        held: What is in memory.
        drawn: The last picture.
        note: What a control was answered.
    """
    budgets, tally = held.budgets, held.tally
    lost = [failure for failure in held.failures if failure.permanent]
    states = [
        f"{held.chunks[state]:,} {name}"
        for state, name in STATE_NAMES.items()
        if held.chunks.get(state)
    ]
    if failing := len(held.failures) - len(lost):
        states.append(f"{failing:,} failing")
    rows = [
        ("Device", f"{memory_size(held.device_bytes)} of {memory_size(budgets.device_bytes)}"),
        ("Host", f"{memory_size(held.host_bytes)} of {memory_size(budgets.host_bytes)}"),
        ("Chunks", " · ".join([f"{sum(held.chunks.values()):,}", *states])),
        ("Read", f"{byte_size(tally.bytes_read)} in {counted(tally.reads, 'chunks')}"),
    ]
    if drawn is not None:
        rows += [("Picture", _picture(drawn))]
    if lost:
        rows.append(("Lost", f"{counted(len(lost), 'chunks')}; coarser ones stand in"))
    kinds = _failure_lines(held.failures)
    rows += [("", line) for line in kinds[:SHOWN_FAILURES]]
    if len(kinds) > SHOWN_FAILURES:
        rows.append(("", f"and {len(kinds) - SHOWN_FAILURES:,} more such lines, in the log"))
    if held.remade:  # the log names the first of each file, `info --check` all
        rows.append(("Damaged", f"{counted(len(held.remade), 'chunks')}; made again of finer ones"))
    if note:
        rows.append(("Note", note))
    table = "".join(
        f'<tr><td style="opacity:0.7;padding:0 1em 0 0;vertical-align:top">{name}</td>'
        f'<td style="padding:0;overflow-wrap:anywhere">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    style = "margin:0 14px 6px;font-size:0.8em;line-height:1.5;font-variant-numeric:tabular-nums"
    return (
        f'<table style="{style};border-spacing:0;border-collapse:collapse">{table}</table>'
        f'<div style="{style}">{_histogram(drawn)}</div>'
    )


def _failure_lines(failures: Sequence[Failure]) -> list[str]:
    """A line for each file and problem, as in the log."""
    kinds: dict[tuple[tuple[str, str], bool], list[Failure]] = {}
    for failure in failures:
        kinds.setdefault((failure.kind, failure.permanent), []).append(failure)
    return [
        _in_short(alike[0].text) + (f"; {len(alike) - 1:,} more such" if len(alike) > 1 else "")
        for alike in kinds.values()
    ]


def _in_short(failure: str) -> str:
    """Without the folder, which is that of the scene."""
    place, colon, problem = failure.partition(": ")
    return place.rpartition("/")[2] + colon + problem


def _picture(drawn: StreamStats) -> str:
    if drawn.missing:
        state = f"{counted(drawn.missing, 'chunks')} missing"
    else:
        whole = "all that can be had" if drawn.lost else "complete"
        state = whole if drawn.complete and not drawn.fading else "fading"
    if drawn.provisional:
        state = "a sketch of the rest" if state == "complete" else state
        return f"{counted(drawn.chunks, 'chunks')} · what is built, {state}"
    return f"{counted(drawn.chunks, 'chunks')} · within {drawn.error_px:.2g} px · {state}"


def _histogram(drawn: StreamStats | None) -> str:
    """A bar for each level: Gaussians of the last picture; or for each ``Reuse``: its chunks."""
    if drawn is None:
        return ""
    if drawn.reuse:
        bars = [
            (name, hint, count, rgb_bytes(REUSE_TINTS[answer]), counted(count, "chunks"))
            for answer, count in zip(Reuse, drawn.reuse, strict=True)
            for name, hint in [REUSE_NAMES[answer]]
        ]
    else:
        bars = [
            (f"Level {level}", "", count, level_color(level), short_count(count))
            for level, count in enumerate(drawn.gaussians_by_level)
        ]
    most = max(1, *(count for _, _, count, _, _ in bars))
    return "".join(
        f'<div title="{html.escape(hint)}" style="display:flex;align-items:center;gap:6px">'
        f'<span style="width:4.5em;opacity:0.7">{name}</span>'
        f'<span style="background:rgb{color};height:0.7em;width:{5.0 * count / most:.2f}em"></span>'
        f"<span>{text}</span></div>"
        for name, hint, count, color, text in bars
    )


def level_color(level: int) -> tuple[int, int, int]:
    """RGB, 0 to 255, in which a level is tinted."""
    return rgb_bytes(LEVEL_TINTS[min(level, len(LEVEL_TINTS) - 1)])


def rgb_bytes(rgb: Rgb) -> tuple[int, int, int]:
    """From 0 to 1, as 0 to 255."""
    red, green, blue = rgb
    return round(255 * red), round(255 * green), round(255 * blue)
