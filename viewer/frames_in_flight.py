"""Many views of a scene, by several devices: as many at a time as keep them all at work."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.device_health import DEFAULT_FAULTS
from rendering.drawable import DrawableScene
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest, StreamStats
from rendering.recorder import TRACED_FRAMES
from splat.camera import Camera
from splat.gaussians import Gaussians
from viewer.complete_picture import CLIENT
from viewer.engines import Drawers

Item = TypeVar("Item")
Result = TypeVar("Result")

# Who waits for chunks of a slow server is not lost.
PATIENCE_S = 3600.0


class FramesInFlight:
    """An engine that draws views for one who wants all of them, in order.

    No more are begun, or are finished and not taken, than there are devices, and one that waits
    for the first device that is free: memory is that of so many views.

    Args:
        drawers: The devices, how frames are divided among them, and what they draw with.
        scene: Gaussians, or a scene made for ``drawers``, which is closed with this.
        settings: How views are drawn.
        on_stream: Hears of each view of a streamed scene what it shows.

    Attributes:
        engine: The one.
    """

    def __init__(
        self,
        drawers: Drawers,
        scene: Gaussians | DrawableScene,
        settings: RasterSettings,
        *,
        on_stream: Callable[[StreamStats], None] = lambda stream: None,
    ) -> None:
        choice = drawers.choice
        self._most = len(choice.devices) + 1
        self._settings = settings
        self._on_stream = on_stream
        self._sequence = 0
        self.engine = RenderEngine(
            drawers.first,
            scene,
            devices=choice.devices,
            schedule=choice.schedule,
            new_rasterizer=drawers.rasterizers,
            faults=replace(DEFAULT_FAULTS, patience_s=PATIENCE_S),
        )
        self.engine.recorder.keep(TRACED_FRAMES)

    def each(
        self, views: Iterable[tuple[Sequence[Camera], Sequence[Camera]]], outputs: Outputs
    ) -> Iterator[tuple[RasterImage, ...]]:
        """The images of views in their order.

        Args:
            views: The cameras of each, and some of those that follow.
            outputs: The images that are wanted.

        Raises:
            BelvedereError: What is wrong with a view; the others are given up.
        """
        settings = replace(self._settings, outputs=outputs)

        def submit(view: tuple[Sequence[Camera], Sequence[Camera]]) -> Future[Frame]:
            cameras, coming = view
            self._sequence += 1
            return self.engine.submit(
                FrameRequest(
                    CLIENT,
                    self._sequence,
                    tuple(cameras),
                    settings,
                    urgency=Urgency.EXPORT,
                    replaces=False,
                    coming=tuple(coming),
                )
            )

        with contextlib.closing(in_order(submit, views, self._most)) as frames:
            for frame in frames:
                if frame.stats.stream is not None:
                    self._on_stream(frame.stats.stream)
                yield frame.images

    def close(self) -> None:
        """Give up what is not drawn."""
        self.engine.close()


def in_order(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], most: int
) -> Generator[Result, None, None]:
    """The results of all items, in their order.

    Whoever stops early takes back what is not begun.

    Args:
        submit: Has something done for an item.
        items: Taken as there is room for them.
        most: That are not taken by whoever goes through the results, done or not; at least 1.
    """
    left = iter(items)
    flying: deque[Future[Result]] = deque()
    try:
        while True:
            flying.extend(map(submit, islice(left, most - len(flying))))
            if not flying:
                return
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()
