"""What a browser is told about its pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

from rendering.frame import StreamStats
from viewer.pose import Pose

SHARP_PX = 1.0  # what is missing by less does not show


@dataclass(frozen=True, slots=True)
class SessionStats:
    """The newest numbers of a session.

    Attributes:
        shown: Pictures sent since the start.
        fps: Pictures sent within the last second.
        age_ms: From the pose's arrival to the acknowledgement of its picture.
        width, height: Size of the last picture.
        still: Whether it is the full picture of a resting camera.
        sharpening: Whether it is one on the way to that of a resting camera: larger ones follow.
        full_size: Whether nobody asked for fewer pixels than the canvas has.
        gaussians, visible: Gaussians drawn from, and those in the picture.
        samples: Of rays, where these were marched: ``visible`` are those that met something. None
            of Gaussians.
        queue_ms, render_ms, stage_ms: As in ``FrameStats`` and ``RasterStats``.
        pictures, reused: How many the last frame has, one an eye, and how many of them had been
            drawn before, for whomever.
        encode_ms: Conversion, JPEG and hand-over to the socket.
        legend: What the colours mean.
        error: What went wrong with the newest frame, "" if nothing.
        stream: Of a streamed scene.
        seen: Where the newest picture is seen from that the browser has.
    """

    shown: int = 0
    fps: float = 0.0
    age_ms: float = 0.0
    width: int = 0
    height: int = 0
    still: bool = False
    sharpening: bool = False
    full_size: bool = True
    gaussians: int = 0
    visible: int = 0
    samples: int | None = None
    queue_ms: float = 0.0
    render_ms: float = 0.0
    pictures: int = 1
    reused: int = 0
    encode_ms: float = 0.0
    stage_ms: dict[str, float] = field(default_factory=dict)
    legend: str = ""
    error: str = ""
    stream: StreamStats | None = None
    seen: Pose | None = None

    @property
    def settled(self) -> bool:
        """Whether the last picture is the final one of a resting camera."""
        stream = self.stream
        return self.still and (stream is None or (stream.complete and not stream.fading))

    @property
    def sharp(self) -> bool:
        """Whether it is final, of full size, and lacks nothing that would show."""
        return self._whole and not self.limited

    @property
    def limited(self) -> bool:
        """Whether it is final, but lacks detail for which there is no room."""
        return self._whole and self.stream is not None and self.stream.error_px > SHARP_PX

    @property
    def _whole(self) -> bool:
        return self.settled and self.full_size and (self.stream is None or self.stream.lost == 0)
