"""One device at work: a rasterizer, the scene it prepared, and the frames drawn from it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rendering.base import CancelFlag, Rasterizer
from rendering.frame import Frame, FrameRequest, FrameStats
from splat.errors import RenderCancelled, RenderError
from splat.gaussians import Gaussians

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One level of detail, prepared."""

    count: int
    scene: Any


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
        # Finest first. Replaced as a whole, so that a frame sees one state of it; by one
        # thread at a time, so that no change is lost.
        self._levels: tuple[Level, ...] = (self._prepare(gaussians),)
        self._changing = threading.Lock()

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return tuple(level.count for level in self._levels)

    def replace_scene(self, gaussians: Gaussians) -> None:
        """Draw another scene from the next frame on; the present frame keeps the old one."""
        levels = (self._prepare(gaussians),)
        with self._changing:
            self._levels = levels

    def add_coarser(self, gaussians: Gaussians) -> bool:
        """Have one more level of detail, coarser than those there are.

        Returns:
            Whether it was added: not if the scene was replaced while this level, which is
            of the old one, was being prepared.
        """
        finest = self._levels[0]
        level = self._prepare(gaussians)
        with self._changing:
            if self._levels[0] is not finest:
                return False
            self._levels = (*self._levels, level)
            return True

    def _prepare(self, gaussians: Gaussians) -> Level:
        return Level(len(gaussians), self.rasterizer.prepare(gaussians))

    def draw(self, request: FrameRequest, cancel: CancelFlag) -> Frame:
        """All images of ``request``, or none.

        Raises:
            RenderCancelled: If ``cancel`` was set before the last image was complete.
            RenderError: If anything else went wrong; the worker can go on.
        """
        levels = self._levels  # one scene for all eyes, even if it is replaced meanwhile
        scene = levels[min(request.detail, len(levels) - 1)].scene
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
