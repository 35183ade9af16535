"""The messages between those who want pictures and the engine that makes them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rendering.base import RasterImage, RasterSettings, RasterStats
from splat.camera import Camera


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """A wish for one frame.

    Attributes:
        client: Who asks. A newer request of the same client replaces an unstarted one,
            and cancels a running one if that one is preemptible.
        sequence: Grows with every request of a client.
        cameras: One camera, or two for a binocular frame.
        settings: How to draw.
        preemptible: Whether a newer request may cancel this one once it runs. True for
            slow frames that nobody needs after the camera moved on (a refinement); False
            for the quick frames of a moving camera, which would otherwise cancel each
            other and never arrive.
        detail: Level of detail to draw, 0 the finest; the coarsest there is if there are
            fewer (``RenderEngine.add_coarser``).
        submitted_s: ``time.monotonic()`` at the asking.
    """

    client: str
    sequence: int
    cameras: tuple[Camera, ...]
    settings: RasterSettings = RasterSettings()
    preemptible: bool = False
    detail: int = 0
    submitted_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class FrameStats:
    """What a frame cost.

    Attributes:
        queue_ms: From the asking to the start of the work.
        render_ms: From the start of the work to its end.
        raster: One entry a camera.
    """

    queue_ms: float
    render_ms: float
    raster: tuple[RasterStats, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The answer to a request: one image a camera, all or none."""

    request: FrameRequest
    images: tuple[RasterImage, ...]
    stats: FrameStats
