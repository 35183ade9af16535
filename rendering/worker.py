"""One device at work: a rasterizer, the scene it prepared, and the frames drawn from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from rendering.base import CancelFlag, Rasterizer
from rendering.frame import Frame, FrameRequest, FrameStats
from splat.errors import RenderCancelled, RenderError
from splat.gaussians import Gaussians

log = logging.getLogger(__name__)


class Worker:
    """Draws the frames of one device, one at a time.

    Args:
        rasterizer: What draws.
        gaussians: The scene; no reference to it is kept.
        clock: Seconds, the clock of ``FrameRequest.submitted_s``.
    """

    def __init__(
        self,
        rasterizer: Rasterizer,
        gaussians: Gaussians,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rasterizer = rasterizer
        self._clock = clock
        self._scene: Any = rasterizer.prepare(gaussians)

    def replace_scene(self, gaussians: Gaussians) -> None:
        """Draw another scene from the next frame on; the present frame keeps the old one."""
        self._scene = self.rasterizer.prepare(gaussians)

    def draw(self, request: FrameRequest, cancel: CancelFlag) -> Frame:
        """All images of ``request``, or none.

        Raises:
            RenderCancelled: If ``cancel`` was set before the last image was complete.
            RenderError: If anything else went wrong; the worker can go on.
        """
        scene = self._scene  # one scene for all eyes, even if it is replaced meanwhile
        started_s = self._clock()
        try:
            images = tuple(
                self.rasterizer.render(scene, camera, request.settings, cancel)
                for camera in request.cameras
            )
        except RenderCancelled:
            raise
        except Exception as error:
            log.debug("frame %d of %s failed", request.sequence, request.client, exc_info=True)
            raise RenderError(
                f"frame {request.sequence} of {request.client}: {type(error).__name__}: {error}"
            ) from error
        stats = FrameStats(
            queue_ms=1e3 * (started_s - request.submitted_s),
            render_ms=1e3 * (self._clock() - started_s),
            raster=tuple(image.stats for image in images),
        )
        return Frame(request, images, stats)
