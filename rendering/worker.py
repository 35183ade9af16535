"""One device at work: a rasterizer, the scene it draws from, and the frames."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rendering.base import CancelFlag, RasterImage, Rasterizer
from rendering.drawable import Drawable, DrawableScene, ResidentScene, SceneClosed
from rendering.frame import Frame, FrameRequest, FrameStats
from rendering.picture_cache import PictureCache
from splat.camera import Camera
from splat.errors import BelvedereError, RenderError
from splat.gaussians import Gaussians

log = logging.getLogger(__name__)


class Worker:
    """Draws the frames of one device, one at a time.

    Args:
        rasterizer: What draws.
        scene: Gaussians, of which no reference is kept, or a scene made for ``rasterizer``,
            which the worker closes.
        clock: Seconds, the clock of ``FrameRequest.submitted_s``.
        picture_bytes: Memory for finished pictures, which are not drawn again.
    """

    def __init__(
        self,
        rasterizer: Rasterizer,
        scene: Gaussians | DrawableScene,
        clock: Callable[[], float] = time.monotonic,
        *,
        picture_bytes: int = 0,
    ) -> None:
        self.rasterizer = rasterizer
        self._clock = clock
        self._scene = self._drawable(scene)
        self._replacing = threading.Lock()
        self.pictures = PictureCache(picture_bytes)

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return self._scene.detail_counts

    def replace_scene(self, scene: Gaussians | DrawableScene) -> None:
        """Draw another scene from the next frame on; the present frame keeps the old one."""
        drawable = self._drawable(scene)
        with self._replacing:
            before, self._scene = self._scene, drawable
        before.close()
        self.pictures.clear()

    def add_coarser(self, gaussians: Gaussians) -> bool:
        """Have one more level of detail, coarser than those there are.

        Returns:
            Whether it counts: not if the scene streams, or was replaced while this level,
            which is of the old one, was being prepared.
        """
        scene = self._scene
        if not isinstance(scene, ResidentScene):
            return False
        scene.add_coarser(gaussians)
        return self._scene is scene

    def forget(self, client: str) -> None:
        """The client is gone."""
        self._scene.forget(client)

    def close(self) -> None:
        """Close the scene."""
        self._scene.close()

    def draw(self, request: FrameRequest, cancel: CancelFlag) -> Frame:
        """All images of ``request``, or none.

        Raises:
            RenderCancelled: If ``cancel`` was set before the last image was complete.
            BelvedereError: As the rasterizer or the scene said it, such as ``BudgetError``.
            RenderError: If anything else went wrong. The worker can always go on. A fault
                that lasts is said in the same words for every frame.
        """
        started_s = self._clock()
        reused = 0
        scene = self._scene  # one for all eyes, even if it is replaced meanwhile
        try:
            with scene.acquire(request) as drawable:
                images = []
                for camera in request.cameras:
                    image = self.pictures.get(drawable, camera, request.settings)
                    reused += image is not None
                    images.append(image or self._drawn(drawable, camera, request, cancel))
        except SceneClosed:
            if scene is self._scene:
                raise
            return self.draw(request, cancel)  # it was replaced just before it was acquired
        except BelvedereError:
            raise
        except Exception as error:
            log.debug("frame %d of %s failed", request.sequence, request.client, exc_info=True)
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise RenderError(f"drawing failed: {said}") from error
        stats = FrameStats(
            queue_ms=1e3 * (started_s - request.submitted_s),
            render_ms=1e3 * (self._clock() - started_s),
            raster=tuple(image.stats for image in images),
            stream=drawable.stream,
            reused=reused,
        )
        return Frame(request, tuple(images), stats)

    def _drawn(
        self, drawable: Drawable, camera: Camera, request: FrameRequest, cancel: CancelFlag
    ) -> RasterImage:
        image = self.rasterizer.render(drawable.scene, camera, request.settings, cancel)
        self.pictures.put(drawable, camera, request.settings, image)
        return image

    def _drawable(self, scene: Gaussians | DrawableScene) -> DrawableScene:
        if isinstance(scene, Gaussians):
            return ResidentScene(self.rasterizer, scene)
        return scene
