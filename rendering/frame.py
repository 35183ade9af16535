"""The messages between those who want pictures and the engine that makes them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from rendering.base import RasterImage, RasterSettings, RasterStats
from rendering.fairness import Urgency
from rendering.tint import Tint
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
        urgency: Who goes first where several wait (``rendering.fairness``).
        preemptible: Whether a newer request may cancel this one once it runs. True for
            slow frames that nobody needs after the camera moved on (a refinement); False
            for the quick frames of a moving camera, which would otherwise cancel each
            other and never arrive.
        replaces: Whether an older request of the client is in vain now: one that waits is not
            drawn, and one that runs on another device must not come after this one. False
            where every frame is wanted, as of an export; they come in order then.
        deadline_s: When it is in vain if it still waits for its turn, on the clock of
            ``submitted_s``; None for never. What has begun is drawn to its end.
        rate_hz: Frames a second that a client in motion wants.
        reduced_to: Of the time for a picture of full quality, the share that this one is expected
            to take, as it was reduced to hold the rate (``rendering.demand``).
        detail: Level of detail to draw, 0 the finest; the coarsest there is if there are
            fewer (``ResidentScene.add_coarser``). A streamed scene draws fewer Gaussians.
        max_error_px: Detail whose absence would not show by more than this may be left out,
            pixels; 0 for all there is. Scenes that are all in memory ignore it.
        frozen: Cameras that choose the detail of a streamed scene in the place of ``cameras``,
            to look at a view's choice from elsewhere.
        tint: What the chunks of a streamed scene are coloured by.
        coming: Views that will be asked for next, the nearest in time first, where that is known:
            of a camera path ``scene_store.prefetch.look_ahead``. A streamed scene fetches for
            them in the place of what it would predict.
        submitted_s: ``time.monotonic()`` at the asking.

    Raises:
        ValueError: If a number is out of its range, or a frame that is wanted by all means
            (``replaces``) has a deadline.
    """

    client: str
    sequence: int
    cameras: tuple[Camera, ...]
    settings: RasterSettings = RasterSettings()
    urgency: Urgency = Urgency.MOVING
    preemptible: bool = False
    replaces: bool = True
    deadline_s: float | None = None
    rate_hz: float = 30.0
    reduced_to: float = 1.0
    detail: int = 0
    max_error_px: float = 0.0
    frozen: tuple[Camera, ...] = ()
    tint: Tint = Tint.NONE
    coming: tuple[Camera, ...] = ()
    submitted_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.detail < 0:
            raise ValueError(f"detail must be 0 or more, got {self.detail}")
        if not (0 < self.rate_hz < math.inf and 0 < self.reduced_to <= 1):
            raise ValueError(
                f"rate_hz is above 0 and finite, reduced_to in (0, 1], got {self.rate_hz} and"
                f" {self.reduced_to}"
            )
        if self.deadline_s is not None and not self.replaces:
            raise ValueError("a frame that is wanted by all means has no deadline")


@dataclass(frozen=True, slots=True)
class StreamStats:
    """How much of what was wanted a frame of a streamed scene shows.

    Attributes:
        complete: Whether it shows all the detail that the request and the limits allow.
        fading: Whether the same request would look different a little later for no other
            reason than that chunks fade in and out.
        missing: Chunks that were wanted and are still to come.
        lost: Chunks that would be wanted, but will never come: they are damaged.
        error_px: Largest projected error of what is drawn, pixels.
        chunks: Chunks drawn.
        gaussians_by_level: Gaussians drawn, by the tree's level, originals (0) first.
        select_ms: Choosing them.
        wanted_gaussians: Drawn with everything there, and nothing fading.
        provisional: Whether a sketch stands in for parts of the scene, which errors do not tell of.
        reuse: Chunks drawn by ``render_cache.reuse.Reuse``, where they are tinted by it.
    """

    complete: bool
    fading: bool
    missing: int
    lost: int
    error_px: float
    chunks: int
    gaussians_by_level: tuple[int, ...]
    select_ms: float
    wanted_gaussians: int = 0
    provisional: bool = False
    reuse: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PartStats:
    """What one device did of a frame, without a pause.

    Attributes:
        device: Its name.
        start_s, end_s: Seconds of ``time.monotonic()``.
        stages: What it was at, in order: names and milliseconds. An eye after the other.
        eyes: Which cameras of the request it drew; none where it chose, or joined parts.
        rows: First and end of the rows of pixels of each of these eyes.
        attempts: Devices that it was given to, one after the other: more than 1 if some failed.
    """

    device: str
    start_s: float
    end_s: float
    stages: tuple[tuple[str, float], ...] = ()
    eyes: tuple[int, ...] = ()
    rows: tuple[tuple[int, int], ...] = ()
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class FrameStats:
    """What a frame cost.

    Attributes:
        queue_ms: From the asking to the start of the work.
        render_ms: From the start of the work to its end.
        raster: One entry a camera; of a picture that was drawn before, what it cost then. Of one
            that was drawn in bands, the stages of the band that took longest; a Gaussian counts
            as visible in each band that it is seen in.
        stream: Of a streamed scene.
        reused: Pictures that had been drawn before.
        parts: Who did what and when, in the order in which it ended.
    """

    queue_ms: float
    render_ms: float
    raster: tuple[RasterStats, ...]
    stream: StreamStats | None = None
    reused: int = 0
    parts: tuple[PartStats, ...] = ()

    @property
    def drawing_ms(self) -> float:
        """What it takes to draw it, whether that was done now or before."""
        if not self.reused:
            return self.render_ms
        return sum(sum(raster.stage_ms.values()) for raster in self.raster)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The answer to a request: one image a camera, all or none."""

    request: FrameRequest
    images: tuple[RasterImage, ...]
    stats: FrameStats
