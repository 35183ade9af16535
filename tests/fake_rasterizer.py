"""A rasterizer for tests of those who use one: it paints at once, or when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from rendering.base import CancelFlag, Outputs, RasterImage, RasterSettings, RasterStats
from rendering.cancel import EventCancelFlag, raise_if_cancelled
from splat.camera import Camera
from splat.gaussians import Gaussians

WAIT_S = 10.0


class FakeRasterizer:
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

    def prepare(self, gaussians: Gaussians) -> int:
        return len(gaussians)

    def new_cancel_flag(self) -> EventCancelFlag:
        return EventCancelFlag()

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
        size = (camera.height, camera.width)
        color = np.broadcast_to(np.array(settings.background, np.float32), (*size, 3)).copy()
        color[..., 0] = np.float32(camera.position[0])
        self.views.append(camera)
        self.settings.append(settings)
        return RasterImage(
            alpha=np.ones(size, np.float32),
            color=color if Outputs.COLOR in settings.outputs else None,
            depth=np.ones(size, np.float32) if Outputs.DEPTH in settings.outputs else None,
            count=np.ones(size, np.int32) if Outputs.COUNT in settings.outputs else None,
            stats=RasterStats(scene, scene, 2 * scene, {"project": 1.0, "composite": 2.0}),
        )

    def wait_started(self) -> None:
        """Block until one more render began."""
        assert self.started.acquire(timeout=WAIT_S), "no render began"
