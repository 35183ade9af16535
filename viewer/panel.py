"""The panel beside the picture: what it costs, and how it is drawn."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import viser
from numpy.typing import ArrayLike

from viewer.callbacks import contained
from viewer.cover import CoverState
from viewer.heading import Heading
from viewer.images import Mode
from viewer.ranges import NEAR
from viewer.session import ViewOptions
from viewer.session_stats import SessionStats
from viewer.stereo_layouts import StereoLayout
from viewer.stereo_view import StereoView
from viewer.text import short_count

AXES = {
    "+X": (1.0, 0.0, 0.0),
    "−X": (-1.0, 0.0, 0.0),
    "+Y": (0.0, 1.0, 0.0),
    "−Y": (0.0, -1.0, 0.0),
    "+Z": (0.0, 0.0, 1.0),
    "−Z": (0.0, 0.0, -1.0),
}
MODE_NAMES = {
    "Colour": Mode.COLOR,
    "Depth": Mode.DEPTH,
    "Alpha": Mode.ALPHA,
    "Count": Mode.COUNT,
}
EYES = {
    "One": None,
    "Side by side": StereoLayout.SIDE_BY_SIDE,
    "One above the other": StereoLayout.TOP_BOTTOM,
    "Anaglyph": StereoLayout.ANAGLYPH,
}
NEAR_SETTLES_S = 1.5  # a number being typed passes through 0 and less
HELP = """**Mouse**: drag to orbit, right-drag to pan, wheel to zoom.
**Keys**: W A S D to walk, Q E down and up, arrows to turn, R to reset,
1 2 3 4 for colour, depth, alpha, count."""


class PanelActions(Protocol):
    """What the panel's controls do; every call returns at once."""

    def set_options(self, options: ViewOptions) -> None:
        """Draw differently."""

    def set_fov(self, fov_y_rad: float) -> None:
        """Change the vertical field of view."""

    def set_speed(self, speed: float) -> None:
        """Walk at this multiple of the standard speed."""

    def reset_view(self) -> None:
        """Back to the start view."""

    def set_up(self, up: ArrayLike) -> None:
        """Stand with this direction up."""

    def look_along(self, direction: ArrayLike) -> None:
        """Look at what is in the middle of the picture along this direction."""

    def go_to_camera(self, index: int) -> None:
        """Take the pose of a training camera."""


class Panel:
    """The controls of one browser.

    Args:
        gui: Where to build.
        title: The scene's name.
        facts: A line about the scene: format, Gaussians.
        options: The state of the controls at the start.
        fov_y_rad: Vertical field of view at the start.
        sh_degree: Highest degree of the scene.
        cameras: Number of training cameras.
        actions: What the controls do.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        *,
        title: str,
        facts: str,
        options: ViewOptions,
        fov_y_rad: float,
        sh_degree: int,
        cameras: int,
        actions: PanelActions,
    ) -> None:
        self._gui = gui
        self._actions = actions
        self._options = options
        self._sh_degree = sh_degree
        self._near_refused_s: float | None = None
        self._stats_text = ""
        self._heading = Heading(gui, title, facts, CoverState.DRAWING)
        self._work: Any = None
        self._work_text: Any = None
        self._stats = gui.add_html("", order=1)
        with gui.add_folder("Picture", order=2):
            self._add_picture_controls()
        with gui.add_folder("View", order=3):
            self._add_view_controls(fov_y_rad)
        with gui.add_folder("Stereo", order=3.5, expand_by_default=False):
            self._add_stereo_controls()
        if cameras:
            with gui.add_folder("Training cameras", order=4):
                self._add_training_cameras(cameras)
        with gui.add_folder("Help", order=5, expand_by_default=False):
            gui.add_markdown(HELP)
        self._add_hotkeys()

    def show_stats(self, stats: SessionStats) -> None:
        """Bring the numbers up to date; sends nothing when none changed."""
        self._settle_near()
        self._heading.beat()
        text = stats_html(stats, provisional=self._work is not None)
        if text != self._stats_text:
            self._stats_text = text
            self._stats.content = text

    def show_facts(self, facts: str) -> None:
        """The scene is in another form now."""
        self._heading.say(facts=facts)

    def uncover(self) -> None:
        """There is a picture to be seen (``viewer.cover``)."""
        self._heading.say(cover=CoverState.SHOWN)

    def show_work(self, share: float, what: str) -> None:
        """Tell how far the work behind the page is; ``what`` is "" when there is none."""
        if not what:
            self._end_work()
            return
        if self._work is None or self._work_text is None:
            self._work_text = self._gui.add_html("", order=0.5)
            self._work = self._gui.add_progress_bar(0.0, animated=True, order=0.6)
        text = _note(what)
        if self._work_text.content != text:
            self._work_text.content = text
        self._work.value = float(np.clip(round(100.0 * share), 0.0, 100.0))

    def _end_work(self) -> None:
        if self._work is not None and self._work_text is not None:
            self._work.remove()
            self._work_text.remove()
        self._work = self._work_text = None

    def _add_picture_controls(self) -> None:
        gui, options = self._gui, self._options
        name_of = {mode: name for name, mode in MODE_NAMES.items()}
        self._mode = gui.add_dropdown(
            "Show", tuple(MODE_NAMES), initial_value=name_of[options.mode]
        )
        red, green, blue = (round(255 * channel) for channel in options.background)
        self._background = gui.add_rgb("Background", (red, green, blue))
        self._antialiased = gui.add_checkbox(
            "Antialiased",
            options.antialiased,
            hint="Opacity compensated for the screen-space dilation, as scenes trained with "
            "Mip-Splatting expect it",
        )
        self._degree = gui.add_slider(
            "SH degree",
            0,
            max(1, self._sh_degree),
            1,
            min(self._sh_degree, 3 if options.sh_degree is None else options.sh_degree),
            visible=self._sh_degree > 0,
            hint="View-dependent colour; 0 is the mean colour",
        )
        self._max_scale = gui.add_slider(
            "Resolution",
            0.25,
            1.0,
            0.05,
            options.max_scale,
            hint="Share of the window's pixels; a moving picture may be smaller",
        )
        self._near = gui.add_number(
            "Near plane",
            options.near,
            min=1e-9,
            step=10 ** math.floor(math.log10(options.near)),
            hint="Nothing nearer than this is drawn; more than 0, in the scene's units",
        )
        for control in (
            self._mode,
            self._background,
            self._antialiased,
            self._degree,
            self._max_scale,
            self._near,
        ):
            control.on_update(contained(lambda _: self._apply()))

    def _apply(self) -> None:
        """Read all controls at once: callbacks may come in any order."""
        red, green, blue = (channel / 255.0 for channel in self._background.value)
        degree = int(self._degree.value)
        near = float(self._near.value)
        if near in NEAR:
            self._near_refused_s = None
        else:
            near, self._near_refused_s = self._options.near, time.monotonic()
        self._options = replace(self._options, near=near)
        self._actions.set_options(
            replace(
                self._options,
                mode=MODE_NAMES[self._mode.value],
                background=(red, green, blue),
                antialiased=self._antialiased.value,
                sh_degree=None if degree >= self._sh_degree else degree,
                near=near,
                max_scale=float(self._max_scale.value),
                stereo=self._stereo_view(),
            )
        )

    def _add_stereo_controls(self) -> None:
        gui = self._gui
        self._eyes = gui.add_dropdown(
            "Eyes", tuple(EYES), hint="For 3D screens, free viewing, or red-cyan glasses"
        )
        self._depth = gui.add_slider(
            "Depth",
            0.1,
            3.0,
            0.1,
            1.0,
            disabled=True,
            hint="How far the eyes are apart; what the camera turns about lies in the screen",
        )
        for control in (self._eyes, self._depth):
            control.on_update(contained(lambda _: self._apply()))

    def _stereo_view(self) -> StereoView | None:
        layout = EYES[self._eyes.value]
        if self._depth.disabled != (layout is None):
            self._depth.disabled = layout is None
        return None if layout is None else StereoView(layout, float(self._depth.value))

    def _settle_near(self) -> None:
        """Show the near plane that is in force, once nobody is typing another one."""
        refused_s = self._near_refused_s
        if refused_s is not None and time.monotonic() - refused_s >= NEAR_SETTLES_S:
            self._near.value = self._options.near  # type: ignore[misc]

    def _add_view_controls(self, fov_y_rad: float) -> None:
        gui, actions = self._gui, self._actions
        fov = gui.add_slider(
            "Field of view", 5.0, 150.0, 1.0, round(math.degrees(fov_y_rad)), hint="Vertical"
        )
        fov.on_update(contained(lambda _: actions.set_fov(math.radians(fov.value))))
        speed = gui.add_slider(
            "Speed",
            -3.0,
            3.0,
            0.5,
            0.0,
            hint="Of walking with the keys; each step of 1 doubles it",
        )
        speed.on_update(contained(lambda _: actions.set_speed(2.0**speed.value)))
        self._add_axis_buttons("Up", "Which way is up", actions.set_up)
        self._add_axis_buttons(
            "Look along", "Takes the camera round what it looks at", actions.look_along
        )
        reset = gui.add_button("Reset view", icon=viser.Icon.HOME)
        reset.on_click(contained(lambda _: actions.reset_view()))

    def _add_axis_buttons(self, label: str, hint: str, act: Callable[[ArrayLike], None]) -> None:
        """Two rows of three: six in a row would wrap unevenly."""
        for row, names in enumerate((("+X", "+Y", "+Z"), ("−X", "−Y", "−Z"))):
            group = self._gui.add_button_group("" if row else label, names, hint=hint)
            group.on_click(contained(lambda event: act(AXES[event.target.value])))

    def _add_training_cameras(self, count: int) -> None:
        gui, actions = self._gui, self._actions
        index = gui.add_slider("Camera", 1, max(2, count), 1, 1, disabled=count == 1)
        index.on_update(
            contained(lambda _: actions.go_to_camera(min(max(int(index.value), 1), count) - 1))
        )
        step = gui.add_button_group("Step", ("Previous", "Next"))

        def go(_: object) -> None:
            change = 1 if step.value == "Next" else -1
            index.value = (int(index.value) - 1 + change) % count + 1  # type: ignore[misc]
            actions.go_to_camera(int(index.value) - 1)

        step.on_click(contained(go))

    def _add_hotkeys(self) -> None:
        def command(label: str, key: Any, action: Callable[[], None]) -> None:
            handle = self._gui.add_command(label, hotkey=key)
            handle.on_trigger(contained(lambda _: action()))

        def show(name: str) -> None:
            self._mode.value = name  # type: ignore[misc]
            self._apply()

        command("Reset view", "R", self._actions.reset_view)
        for key, name in enumerate(MODE_NAMES, start=1):
            command(f"Show {name.lower()}", str(key), partial(show, name))


class LoadingPanel:
    """What a browser sees until the scene is there.

    Args:
        gui: Where to build; the server's, so that all browsers see it.
        title: The scene's name.
    """

    def __init__(self, gui: viser.GuiApi, title: str) -> None:
        self._heading = Heading(gui, title, "Opening …", CoverState.OPENING, 0.0)
        self._bar = gui.add_progress_bar(0.0, animated=True)

    def progress(self, share: float, what: str) -> None:
        """``share`` of the work in [0, 1] is done; ``what`` goes on."""
        share = float(np.clip(share, 0.0, 1.0))
        self._heading.say(facts=what, share=share)
        self._bar.value = 100.0 * share  # type: ignore[misc]

    def beat(self) -> None:
        """Tell the page that the viewer lives."""
        self._heading.beat()

    def remove(self) -> None:
        """Make room for the panel proper."""
        self._heading.remove()
        self._bar.remove()


def _note(text: str) -> str:
    return f'<div style="padding:2px 14px;opacity:0.8;font-size:0.8em">{html.escape(text)}</div>'


def _gaussians(stats: SessionStats) -> str:
    """Those in the picture, and those drawn from; a fade draws some twice, coarse and fine."""
    drawn, stream = stats.gaussians, stats.stream
    fading = stream is not None and stream.fading
    if stream is not None and fading:
        drawn = min(drawn, stream.wanted_gaussians)
    text = f"{short_count(min(stats.visible, drawn))} of {short_count(drawn)}"
    return f"{text} · fading" if fading else text


def _rays(stats: SessionStats) -> str:
    """Those that met something, and what was evaluated along them."""
    return f"{short_count(stats.visible)} · {short_count(stats.samples or 0)} samples"


def _rendering(stats: SessionStats) -> str:
    """How long it took, and which eyes' pictures had been drawn before."""
    if stats.reused >= stats.pictures:
        return "kept from before"
    kept = f" · {stats.reused} of {stats.pictures} eyes kept" if stats.reused else ""
    return f"{stats.render_ms:.0f} ms{kept}"


def stats_html(stats: SessionStats, *, provisional: bool = False) -> str:
    """The numbers as a small table; of a provisional form of the scene nothing is sharp."""
    size = f"{stats.width} × {stats.height}"
    if stats.sharpening:
        size += " · sharpening"
    elif not provisional:
        size += " · sharp" if stats.sharp else " · as the limits allow" if stats.limited else ""
    stages = " · ".join(f"{name} {ms:.0f}" for name, ms in stats.stage_ms.items())
    rows = [
        ("Pictures", f"{stats.fps:.0f} /s · {stats.age_ms:.0f} ms old"),
        ("Size", size),
        ("Gaussians", _gaussians(stats)) if stats.samples is None else ("Rays", _rays(stats)),
        ("Render", _rendering(stats)),
        ("", stages),
        ("Encode", f"{stats.encode_ms:.0f} ms"),
    ]
    if stats.legend:
        rows.append(("Colours", stats.legend))
    if stats.error:
        rows.append(("Error", stats.error))
    cells = "".join(
        f'<tr><td style="opacity:0.7;padding:0 1em 0 0;vertical-align:top">{name}</td>'
        f'<td style="padding:0">{html.escape(value)}</td></tr>'
        for name, value in rows
        if value
    )
    return (
        '<table style="margin:0 14px 6px;font-size:0.8em;line-height:1.5;'
        f'font-variant-numeric:tabular-nums;border-spacing:0;border-collapse:collapse">{cells}</table>'
    )
