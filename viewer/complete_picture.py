"""Pictures of a streamed scene with all its detail, however long that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
        images: One a camera, all of the same chunks.
        stream: How much of what was wanted they show.
        failures: Why chunks are missing, one line each.
    """

    images: tuple[RasterImage, ...]
    stream: StreamStats
    failures: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """What keeps them from being whole pictures, a line each."""
        lines = [f"coarser than it should be: {text}" for text in self.failures]
        if not self.stream.complete and not lines:
            lines = [f"coarser than it should be: {self.stream.missing} chunks did not come"]
        return lines


def draw_complete(
    scene: StreamedScene,
    rasterizer: Rasterizer,
    cameras: Sequence[Camera],
    settings: RasterSettings,
    *,
    coming: Sequence[Camera] = (),
    give_up_s: float = GIVE_UP_S,
) -> CompletePicture:
    """Wait until all that the cameras see is there, or lost, and draw each of them once.

    Args:
        scene: Without fades.
        rasterizer: The one that the scene was made for.
        cameras: Those of one frame, two eyes at most: one cut is chosen for all of them.
        settings: How.
        coming: Views that follow: as far as memory has room, their chunks are read meanwhile.
        give_up_s: Chunks that still do not come after so long a silence count as lost.
    """
    request = FrameRequest(CLIENT, 0, tuple(cameras), settings, coming=tuple(coming))
    heard_s, present = time.monotonic(), -1
    while True:
        with scene.acquire(request) as drawable:
            assert drawable.stream is not None
            silent = time.monotonic() - heard_s > give_up_s
            if drawable.stream.complete or silent:
                images = tuple(
                    rasterizer.render(drawable.scene, camera, settings) for camera in cameras
                )
                failures = tuple(failure.text for failure in scene.stats().failures)
                return CompletePicture(images, drawable.stream, failures)
        time.sleep(SHORTEST_WAIT_S)
        scene.wait_until_settled(POLL_S)
        now_present = scene.stats().chunks[ChunkState.DEVICE]
        if now_present != present:
            heard_s, present = time.monotonic(), now_present
