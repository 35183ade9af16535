"""One picture of a streamed scene with all its detail, however long that takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rendering.base import RasterImage, Rasterizer, RasterSettings
from rendering.frame import FrameRequest, StreamStats
from rendering.streamed_scene import StreamedScene
from scene_store.ledger import ChunkState
from splat.camera import Camera

POLL_S = 0.2  # between two looks at whether anything comes at all
SHORTEST_WAIT_S = 0.005
GIVE_UP_S = 60.0  # without a single chunk; a chunk is tried several times meanwhile
CLIENT = "export"


@dataclass(frozen=True, slots=True, eq=False)
class CompletePicture:
    """What was drawn.

    Attributes:
        image: The render.
        stream: How much of what was wanted it shows.
        failures: Why chunks are missing, one line each.
    """

    image: RasterImage
    stream: StreamStats
    failures: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """What keeps it from being the whole picture, a line each."""
        lines = [f"coarser than it should be: {text}" for text in self.failures]
        if not self.stream.complete and not lines:
            lines = [f"coarser than it should be: {self.stream.missing} chunks did not come"]
        return lines


def draw_complete(
    scene: StreamedScene,
    rasterizer: Rasterizer,
    camera: Camera,
    settings: RasterSettings,
    *,
    give_up_s: float = GIVE_UP_S,
) -> CompletePicture:
    """Wait until all that the camera sees is there, or lost, and draw it once.

    Args:
        scene: Without fades.
        rasterizer: The one that the scene was made for.
        camera, settings: The picture.
        give_up_s: Chunks that still do not come after so long a silence count as lost.
    """
    request = FrameRequest(CLIENT, 0, (camera,), settings)
    heard_s, present = time.monotonic(), -1
    while True:
        with scene.acquire(request) as drawable:
            assert drawable.stream is not None
            silent = time.monotonic() - heard_s > give_up_s
            if drawable.stream.complete or silent:
                image = rasterizer.render(drawable.scene, camera, settings)
                failures = tuple(failure.text for failure in scene.stats().failures)
                return CompletePicture(image, drawable.stream, failures)
        time.sleep(SHORTEST_WAIT_S)
        scene.wait_until_settled(POLL_S)
        now_present = scene.stats().chunks[ChunkState.DEVICE]
        if now_present != present:
            heard_s, present = time.monotonic(), now_present
