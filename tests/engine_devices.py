"""Engines over several devices for tests: schedules, binocular requests, and trouble."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rendering.base import CancelFlag, RasterImage, RasterSettings
from rendering.device import DeviceLost
from rendering.native.cpu import NativeRasterizer
from rendering.schedule import Schedule, Shares, Split, SplitBy
from splat.camera import Camera

WAIT_S = 20.0
BANDS = Schedule("bands", split=(Split(SplitBy.BAND),))
EYES = Schedule("eyes", split=(Split(SplitBy.EYE),))
EYES_IN_BANDS = Schedule("eyes in bands", split=(Split(SplitBy.EYE), Split(SplitBy.BAND)))
FRAMES = Schedule("frames", split=(Split(SplitBy.FRAME),))
FRAMES_IN_BANDS = Schedule(
    "frames in bands",
    split=(Split(SplitBy.FRAME, 2), Split(SplitBy.BAND)),
    shares=Shares.BALANCED,
)
SHARDS = Schedule("shards", split=(Split(SplitBy.SHARD),))
SINGLE = Schedule("single")
# Those whose pictures are the bytes of one device.
SCHEDULES = (SINGLE, BANDS, EYES, EYES_IN_BANDS, FRAMES, FRAMES_IN_BANDS)


class Killed(BaseException):
    """Ends the thread in which it is raised, like an interrupt."""


class Troubled(NativeRasterizer):
    """The native engine, which does what it is told before, amid or after drawing.

    Attributes:
        trouble: Called before a picture is drawn, and again after it.
        drawn: Pictures that were drawn to the end.
    """

    def __init__(self, trouble: Callable[[CancelFlag | None], None] = lambda _: None) -> None:
        super().__init__()
        self.trouble = trouble
        self.drawn = 0

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        self.trouble(cancel)
        image = super().render(scene, camera, settings, cancel)
        self.trouble(cancel)
        self.drawn += 1
        return image


class Chaos:
    """Trouble at random, until it is over.

    Args:
        seed: Of the dice.
        share: Of all moments, those at which something happens.
        hang_s: How long a call that hangs does.
    """

    def __init__(self, seed: int, share: float, hang_s: float) -> None:
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._share, self._hang_s = share, hang_s
        self.over = False
        self.happened: list[str] = []

    def __call__(self, cancel: CancelFlag | None) -> None:
        with self._lock:
            if self.over or self._dice.random() > self._share:
                return
            what = self._dice.choice(("error", "lost", "killed", "hangs", "stalls"))
            self.happened.append(what)
        if what == "error":
            raise ZeroDivisionError("bad tile")
        if what == "lost":
            raise DeviceLost("fell off the bus")
        if what == "killed":
            raise Killed
        hang_until(cancel if what == "stalls" else None, self._hang_s)


def hang_until(cancel: CancelFlag | None, most_s: float) -> None:
    """Do nothing until a flag is set, or for such a time."""
    until_s = time.monotonic() + most_s
    while time.monotonic() < until_s and not (cancel is not None and cancel.is_set()):
        time.sleep(0.002)


def bytes_of(images: Sequence[RasterImage]) -> list[bytes]:
    """Of all arrays of all images."""
    return [array.tobytes() for image in images for array in image.arrays]
