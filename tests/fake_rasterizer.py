"""Rasterizers for tests of those who use one: they paint at once, or when they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from rendering.base import CancelFlag, Outputs, RasterImage, RasterSettings, RasterStats
from rendering.cancel import EventCancelFlag, raise_if_cancelled
from splat.camera import Camera
from splat.gaussians import Gaussians

WAIT_S = 10.0


class PaintingRasterizer:
    """Its scene is a number of Gaussians, its picture of one colour."""

    def prepare(self, gaussians: Gaussians) -> int:
        return len(gaussians)

    def new_cancel_flag(self) -> EventCancelFlag:
        return EventCancelFlag()

    def painted(
        self,
        camera: Camera,
        outputs: Outputs,
        color: tuple[float, float, float],
        *,
        count: int,
        stats: RasterStats,
    ) -> RasterImage:
        """The images of ``outputs``: opaque, at a depth of 1, of ``count`` Gaussians a pixel."""
        size = (camera.height, camera.width)
        filled = np.tile(np.array(color, np.float32), (*size, 1))
        return RasterImage(
            alpha=np.ones(size, np.float32),
            color=filled if Outputs.COLOR in outputs else None,
            depth=np.ones(size, np.float32) if Outputs.DEPTH in outputs else None,
            count=np.full(size, count, np.int32) if Outputs.COUNT in outputs else None,
            stats=stats,
        )


class FakeRasterizer(PaintingRasterizer):
    """Paints the background with the camera's x position in the red channel.

    Attributes:
        gate: Cleared by a test to hold every render until it is set or cancelled.
        started: Released once for every render that began.
        failure: Called at each render; raises what the test wants to see handled.
        views: Every camera drawn to the end, in order.
    """

    name = "fake"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.failure: Callable[[], None] = lambda: None
        self.views: list[Camera] = []
        self.settings: list[RasterSettings] = []

    def render(
        self,
        scene: int,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        self.started.release()
        deadline = threading.Event()
        for _ in range(int(WAIT_S / 0.005)):
            raise_if_cancelled(cancel)
            if self.gate.is_set():
                break
            deadline.wait(0.005)
        self.failure()
        self.views.append(camera)
        self.settings.append(settings)
        _, green, blue = settings.background
        color = (float(camera.position[0]), green, blue)
        stats = RasterStats(scene, scene, 2 * scene, {"project": 1.0, "composite": 2.0})
        return self.painted(camera, settings.outputs, color, count=1, stats=stats)

    def wait_started(self) -> None:
        """Block until one more render began."""
        assert self.started.acquire(timeout=WAIT_S), "no render began"
