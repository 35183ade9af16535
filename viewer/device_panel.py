"""The panel's folder on devices: who draws, by which schedule, and a timeline of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import viser

from rendering.engine import RenderEngine
from splat.errors import SettingsError
from viewer.callbacks import contained
from viewer.device_view import devices_html, drawable_schedules, timeline_svg

TIMELINE_INTERVAL_S = 0.5
NOTE_S = 10.0
PAGE = "this page"


class DeviceActions(Protocol):
    """What the folder cannot do itself."""

    def download_trace(self) -> None:
        """Have the browser save what is remembered of the last frames."""


class DevicePanel:
    """The folder of one browser; folded where there is one device.

    Args:
        gui: Where to build.
        engine: Whose devices.
        client: The name under which the browser asks the engine.
        actions: What the button does.
        order: Place among the folders.
        clock: Seconds.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        engine: RenderEngine,
        client: str,
        actions: DeviceActions,
        *,
        order: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._client, self._clock = engine, client, clock
        devices = [status.device for status in engine.devices]
        self._names = [device.name for device in devices]
        self._schedules = drawable_schedules(devices, engine.schedule)
        self._note, self._note_until_s = "", -math.inf
        self._numbers_html = self._picture_html = ""
        self._drawn_at = -1
        self._next_s = -math.inf
        several = len(devices) > 1
        self._folder = gui.add_folder("Devices", order=order, expand_by_default=several)
        with self._folder:
            self._schedule = gui.add_dropdown(
                "Schedule",
                tuple(self._schedules),
                initial_value=engine.schedule.name,
                visible=several,
                hint="How pictures are divided among the devices, for all browsers, from the next "
                "picture on",
            )
            self._numbers = gui.add_html("")
            self._wanted = gui.add_checkbox(
                "Timeline", several, hint="What was done for the last pictures, where and when"
            )
            self._picture = gui.add_html("")
            self._download = gui.add_button(
                "Download trace",
                icon=viser.Icon.DOWNLOAD,
                hint="What was done for the last pictures, as a file for ui.perfetto.dev",
            )
        self._schedule.on_update(contained(self._choose))
        self._wanted.on_update(contained(lambda _: self._forget_picture()))
        self._download.on_click(contained(lambda _: actions.download_trace()))

    def show(self) -> None:
        """Bring all of it up to date; sends nothing when nothing changed."""
        engine, now_s = self._engine, self._clock()
        self._follow(engine.schedule.name)
        note = self._note if now_s < self._note_until_s else ""
        text = devices_html(
            engine.schedule,
            engine.devices,
            engine.decision,
            engine.pictures,
            engine.load,
            note,
            engine.memories,
        )
        if text != self._numbers_html:
            self._numbers_html = self._numbers.content = text
        if self._wanted.value and now_s >= self._next_s:
            self._draw(now_s)

    def _draw(self, now_s: float) -> None:
        """The timeline, if something was done since the last one."""
        recorder = self._engine.recorder
        told = recorder.told
        if told == self._drawn_at:
            return
        self._drawn_at, self._next_s = told, now_s + TIMELINE_INTERVAL_S
        names = {self._client: PAGE}
        svg = timeline_svg(recorder.recording(), self._names, self._client, names)
        self._put(f'<div style="padding:0 10px 4px 6px">{svg}</div>' if svg else "")

    def _forget_picture(self) -> None:
        self._drawn_at, self._next_s = -1, -math.inf
        if not self._wanted.value:
            self._put("")

    def _put(self, content: str) -> None:
        if content != self._picture_html:
            self._picture_html = self._picture.content = content

    def _choose(self, event: Any) -> None:
        if event.client_id is None:  # it followed
            return
        try:
            self._engine.set_schedule(self._schedules[event.target.value])
            self._note = ""
        except SettingsError as error:
            self._note, self._note_until_s = str(error), self._clock() + NOTE_S

    def _follow(self, name: str) -> None:
        """Show the schedule in force, whoever chose it."""
        if name not in self._schedules:
            self._schedules[name] = self._engine.schedule
            self._schedule.options = tuple(self._schedules)
        if self._schedule.value != name:
            self._schedule.value = name  # type: ignore[misc]
