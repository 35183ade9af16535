"""A streamed scene and the engine that draws it, as the viewer has them, without a browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rendering.base import PagingRasterizer, RasterImage, RasterSettings
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.chunks import ChunkSource
from scene_store.ledger import Budgets
from splat.camera import Camera
from splat.closing import Closing
from splat.errors import RenderError

CLIENT = "benchmark"
SETTLE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, eq=False)
class DrawnFrame:
    """A frame, and the wall-clock milliseconds from the asking to the answer."""

    frame: Frame
    wall_ms: float

    @property
    def color(self) -> NDArray[np.float32]:
        """[H, W, 3] of the first camera."""
        return color_of(self.frame.images[0])

    @property
    def complete(self) -> bool:
        """Whether all detail is shown, and nothing fades."""
        stream = self.frame.stats.stream
        return stream is None or (stream.complete and not stream.fading)


class StreamedEngine(Closing):
    """Draws a source as a viewer with one client does; closes the source in the end.

    Args:
        source: The scene.
        rasterizer: Draws it.
        budgets: Of memory.
        policy: How it is drawn.
        clock: Of the scene: fades and predictions go by it.
    """

    def __init__(
        self,
        source: ChunkSource,
        rasterizer: PagingRasterizer,
        budgets: Budgets,
        policy: StreamPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scene = StreamedScene(source, rasterizer, budgets, policy, clock=clock)
        self.engine = RenderEngine(rasterizer, self.scene)
        self._sequence = 0

    def draw(
        self,
        camera: Camera,
        *,
        detail: int = 0,
        max_error_px: float = 0.0,
        settings: RasterSettings = RasterSettings(),
    ) -> DrawnFrame:
        """One frame of what is there now."""
        self._sequence += 1
        request = FrameRequest(
            CLIENT,
            self._sequence,
            (camera,),
            settings,
            detail=detail,
            max_error_px=max_error_px,
        )
        start = time.perf_counter()
        frame = self.engine.submit(request).result()
        return DrawnFrame(frame, 1e3 * (time.perf_counter() - start))

    def draw_complete(
        self,
        camera: Camera,
        *,
        max_error_px: float = 0.0,
        settings: RasterSettings = RasterSettings(),
    ) -> DrawnFrame:
        """A frame of all that the limits allow, waited for.

        Raises:
            RenderError: If it does not come, such as for a damaged chunk.
        """
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        drawn = self.draw(camera, max_error_px=max_error_px, settings=settings)
        while not drawn.complete:
            self.scene.wait_until_settled(deadline_s - time.monotonic())
            if time.monotonic() > deadline_s:
                raise RenderError("a streamed picture did not become complete")
            drawn = self.draw(camera, max_error_px=max_error_px, settings=settings)
        return drawn

    def close(self) -> None:
        """Ends the threads; the engine closes the scene, and that the source."""
        self.engine.close()


def ample_budgets(source: ChunkSource, rasterizer: PagingRasterizer) -> Budgets:
    """Budgets under which every chunk of a source can be there at once."""
    pool = rasterizer.new_pool(source.page_gaussians, source.sh_degree)
    pages = -(-source.tree.count.astype(np.int64) // source.page_gaussians)
    return Budgets(256 << 20, int(pages.sum()) * pool.page_bytes)


def color_of(image: RasterImage) -> NDArray[np.float32]:
    """[H, W, 3] of an image that was asked for its colour."""
    assert image.color is not None
    return image.color
