"""Frames of streamed scenes of models, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from rendering.base import PagingRasterizer, RasterImage, RasterSettings
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.chunks import ChunkSource
from scene_store.ledger import Budgets
from splat.camera import Camera

WAIT_S = 20.0
AMPLE = Budgets(256 << 20, 256 << 20)
_numbers = count()


@contextmanager
def streaming(
    source: ChunkSource, rasterizer: PagingRasterizer, budgets: Budgets = AMPLE
) -> Iterator[tuple[RenderEngine, StreamedScene]]:
    """An engine over a scene of which only parts are in memory; nothing fades."""
    scene = StreamedScene(source, rasterizer, budgets, StreamPolicy(fade_s=0.0))
    with RenderEngine(rasterizer, scene) as engine:
        yield engine, scene


def draw(engine: RenderEngine, camera: Camera, settings: RasterSettings) -> Frame:
    """A frame of what is there."""
    request = FrameRequest("test", next(_numbers), (camera,), settings)
    return engine.submit(request).result(WAIT_S)


def settled_frame(
    engine: RenderEngine, scene: StreamedScene, camera: Camera, settings: RasterSettings
) -> tuple[Frame, RasterImage]:
    """A frame of all that fits, and its picture."""
    for _ in range(20):
        frame = draw(engine, camera, settings)
        assert scene.wait_until_settled(WAIT_S)
        if frame.stats.stream is not None and frame.stats.stream.complete:
            break
    return frame, frame.images[0]
