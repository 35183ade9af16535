"""When to draw, how large, and when to stop: the interactive policy, free of threads.

Every method takes the time it happens at, so tests need no clock. One ``Pacer`` serves one
browser:

- While the camera moves, pictures are as large and as detailed as the time between two of
  them allows, or the share of it that others leave.
- A rest after the last motion, one picture is drawn in full resolution and quality; a new
  motion interrupts it. One that would take long comes in steps, each of twice the pixels a side.
- Of a streamed scene that picture may be incomplete: it is drawn again when something came,
  and while chunks fade in, but not often.
- Then nothing is drawn until something changes.

Drawing the next picture overlaps with the transport of the last one, but starts no earlier
than needed to be ready when that one is acknowledged: on a slow link pictures get rarer,
not older.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from render_cache.reuse import ReuseLimits
from rendering.base import RasterSettings
from rendering.frame import StreamStats
from viewer.reductions import FIRST_SCALE, WHOLE, Reduction, ReductionController

SIZE_STEP_PX = 16
MOVING_ANGLE_RAD = math.radians(1.0)  # between the directions of colours that eyes share
SMOOTHING = 0.3  # weight of the newest measurement of the transport
# A full picture that takes longer comes in steps, of which the first takes about as long.
STILL_STEP_MS = 1000.0
STILL_STEP = 2.0  # pixels a side, of one step over those of the one before
# A resting picture of a streamed scene is drawn again after this time if something came, and
# after that one if nothing did: room may have been made for what it lacks. Neither is so soon that
# others who share the devices get less than their part of the time.
REPEAT_S = 0.1
STALLED_S = 2.0


@dataclass(frozen=True, slots=True)
class PacingPolicy:
    """The bounds of what the pacer chooses.

    Attributes:
        target_fps: Pictures a second to hold while moving, and never to exceed.
        min_scale: Lowest resolution while moving, a share of the full one, per side.
        first_scale: That of the first picture, of which nobody knows what it takes.
        max_side: Longest side of any picture, pixels.
        moving_quality, still_quality: JPEG quality, 1 to 100.
        refine_delay_s: Rest before the full picture.
        moving_stop: ``RasterSettings.transmittance_stop`` while moving.
        moving_drift_px: How far off what one eye takes over from the other may be while moving.
    """

    target_fps: float = 30.0
    min_scale: float = 0.25
    first_scale: float = FIRST_SCALE
    max_side: int = 1920
    moving_quality: int = 40
    still_quality: int = 90
    refine_delay_s: float = 0.15
    moving_stop: float = 0.02
    moving_drift_px: float = 0.5

    @property
    def interval_s(self) -> float:
        """Time between two pictures of a moving camera."""
        return 1.0 / self.target_fps

    def raster_settings(self, wanted: RasterSettings, plan: FramePlan) -> RasterSettings:
        """How to draw a planned picture; moving ones may be a little off."""
        settings = replace(wanted, resolution=plan.reduction.scale)
        return settings if plan.still else self.moving_settings(settings)

    def moving_settings(self, wanted: RasterSettings) -> RasterSettings:
        """The same with less care."""
        reuse = ReuseLimits(self.moving_drift_px, MOVING_ANGLE_RAD)
        return replace(wanted, transmittance_stop=self.moving_stop, reuse=reuse)


@dataclass(frozen=True, slots=True)
class FramePlan:
    """One picture to draw.

    Attributes:
        width, height: Pixels.
        jpeg_quality: 1 to 100.
        still: The full picture of a resting camera; motion interrupts it.
        version: The view that it shows, as counted by ``Pacer.change``.
        reduction: How it is cheaper than the full picture.
        repeated: The view was drawn in full before, but incompletely.
        rate_hz: Moving pictures a second that are wanted.
        reduced_to: Of the time for a moving picture of full quality, what this one is to take.
    """

    width: int
    height: int
    jpeg_quality: int
    still: bool
    version: int
    reduction: Reduction
    repeated: bool = False
    rate_hz: float = 30.0
    reduced_to: float = 1.0


def time_for_picture_ms(
    share: float, rate_hz: float, interval_ms: float, encode_ms: float = 0.0
) -> float:
    """What a moving picture may take for its browser to hold its rate.

    Args:
        share: Of the devices' time, in (0, 1].
        rate_hz: Pictures a second.
        interval_ms: The longest that one may take.
        encode_ms: Of that, what is not done by devices, so that no other browser waits for it.
    """
    return min(interval_ms, 1e3 * share / rate_hz + encode_ms)


def full_size(canvas: tuple[int, int], max_side: int, scale: float = 1.0) -> tuple[int, int]:
    """(width, height) of a full picture for a canvas, both at least one pixel."""
    shrink = min(1.0, scale, max_side / max(*canvas, 1))
    return max(1, round(canvas[0] * shrink)), max(1, round(canvas[1] * shrink))


def moving_size(full: tuple[int, int], scale: float) -> tuple[int, int]:
    """``full`` scaled and rounded to multiples of 16 pixels, never above ``full``."""

    def side(pixels: int) -> int:
        return min(pixels, max(SIZE_STEP_PX, SIZE_STEP_PX * round(pixels * scale / SIZE_STEP_PX)))

    return full if scale >= 1.0 else (side(full[0]), side(full[1]))


class Pacer:
    """Decides for one browser what to draw next. See the module's docstring.

    Args:
        policy: Bounds.
        least_error_px: Error of a streamed scene that does not show while moving.
    """

    def __init__(self, policy: PacingPolicy, least_error_px: float = 1.0) -> None:
        self.policy = policy
        self.max_scale = 1.0
        self.version = 0
        self._controller = ReductionController(
            policy.min_scale, least_error_px=least_error_px, first_scale=policy.first_scale
        )
        self._canvas = (0, 0)
        self._changed_s = -math.inf
        self._started: FramePlan | None = None
        self._started_s = -math.inf
        self._sent_s: float | None = None
        self._transit_s = 0.0
        self._still_s = 0.0  # between two pictures at rest, for others to get their share
        self._incomplete = self._fading = self._arrived = self._replaced = False

    @property
    def in_transit(self) -> bool:
        """Whether a picture was sent and not acknowledged."""
        return self._sent_s is not None

    def change(self, now_s: float, canvas: tuple[int, int]) -> None:
        """The view changed: another pose, size or way of drawing."""
        self.version += 1
        self._changed_s = now_s
        self._canvas = canvas

    def moving(self, now_s: float) -> bool:
        """Whether the last change is so fresh that more are expected."""
        return now_s - self._changed_s < self.policy.refine_delay_s

    def plan(self, now_s: float) -> FramePlan | float | None:
        """A picture to start now, or the seconds to wait, or None: nothing to do."""
        if self.version == 0 or min(self._canvas) < 1:
            return None
        started = self._started
        if started is None or started.version != self.version:
            return self._after(now_s, self._earliest_start_s(), still=False)
        if not started.still:
            return self._after(now_s, self._changed_s + self.policy.refine_delay_s, still=True)
        if started.reduction != WHOLE:
            return self._after(now_s, now_s, still=True)
        if self._fading or self._replaced or (self._incomplete and self._arrived):
            return self._after(now_s, self._started_s + max(REPEAT_S, self._still_s), still=True)
        if self._incomplete:
            return self._after(now_s, self._started_s + max(STALLED_S, self._still_s), still=True)
        return None

    def start(self, plan: FramePlan, now_s: float) -> None:
        """``plan`` was handed to the engine."""
        self._started = plan
        self._started_s = now_s
        self._incomplete = self._fading = self._arrived = self._replaced = False

    def abandon(self) -> None:
        """The picture that was started will not come; draw its view again."""
        self._started = None

    def start_over(self) -> None:
        """Expect nothing of what was started or sent; draw the view again."""
        self._started = None
        self._sent_s = None

    def set_details(self, counts: tuple[int, ...]) -> None:
        """Gaussians by level of detail that may be drawn while moving, finest first."""
        self._controller.set_counts(counts)

    def arrived(self) -> None:
        """More of a streamed scene can be drawn than a moment ago."""
        self._arrived = True

    def replaced(self) -> None:
        """The scene looks different, from where it is looked at: a picture at rest is drawn again,
        and stays sharp."""
        self._replaced = True

    def drawn(
        self,
        plan: FramePlan,
        drawing_ms: float,
        encode_ms: float = 0.0,
        *,
        share: float = 1.0,
        stream: StreamStats | None = None,
    ) -> None:
        """``plan`` was drawn.

        Args:
            plan: The picture.
            drawing_ms: What it cost the devices, without waiting for them.
            encode_ms: What it cost after that.
            share: Of the devices' time, what this browser gets (``RenderEngine.share_of``).
            stream: Of a streamed scene, what was there of it.
        """
        controller, drawn, wanted = self._controller, None, None
        if stream is not None:
            self._incomplete, self._fading = not stream.complete, stream.fading
            drawn, wanted = sum(stream.gaussians_by_level), stream.wanted_gaussians
        controller.observe(plan.reduction, drawing_ms + encode_ms, drawn, wanted)
        if plan.still:
            self._still_s = 1e-3 * drawing_ms / share
        else:
            interval_ms = 1e3 * self.policy.interval_s
            budget_ms = time_for_picture_ms(share, self._rate_hz, interval_ms, encode_ms)
            width, height = self._full()
            controller.choose(budget_ms, width * height)

    def sent(self, now_s: float) -> None:
        """A picture went out."""
        self._sent_s = now_s

    def acknowledged(self, now_s: float) -> None:
        """The browser has the picture, or will never say."""
        if self._sent_s is not None:
            self._transit_s += SMOOTHING * (now_s - self._sent_s - self._transit_s)
            self._sent_s = None

    @property
    def _rate_hz(self) -> float:
        """Pictures a second that are wanted, and that the link can bring."""
        return 1.0 / max(self.policy.interval_s, self._transit_s)

    def _full(self) -> tuple[int, int]:
        return full_size(self._canvas, self.policy.max_side, self.max_scale)

    def _earliest_start_s(self) -> float:
        """Not faster than the target, and not so early that the picture would have to wait."""
        earliest_s = self._started_s + self.policy.interval_s
        if self._sent_s is not None:
            cost_s = 1e-3 * self._controller.predict_ms(self._controller.current)
            earliest_s = max(earliest_s, self._sent_s + self._transit_s - cost_s)
        return earliest_s

    def _next_step(self) -> Reduction:
        """On the way to the full picture at rest: the sharpest that comes soon, but no less than a
        step, so that there are few of them."""
        whole_ms = self._controller.predict_ms(WHOLE)
        if whole_ms <= STILL_STEP_MS or self._started is None:
            return WHOLE
        step = STILL_STEP * self._started.reduction.scale
        soon = math.sqrt(STILL_STEP_MS / whole_ms)
        scale = max(step, soon)
        # What is left after it would cost as much as it brings.
        return WHOLE if scale * math.sqrt(STILL_STEP) > 1.0 else Reduction(scale)

    def _after(self, now_s: float, start_s: float, *, still: bool) -> FramePlan | float:
        if now_s < start_s:
            return start_s - now_s
        full = self._full()
        if still:
            before = self._started
            repeated = (
                before is not None
                and before.still
                and before.version == self.version
                and before.reduction == WHOLE
            )
            reduction = WHOLE if repeated else self._next_step()
            size, quality = moving_size(full, reduction.scale), self.policy.still_quality
            return FramePlan(*size, quality, True, self.version, reduction, repeated)
        reduction = self._controller.current
        size = moving_size(full, reduction.scale)
        return FramePlan(
            *size,
            self.policy.moving_quality,
            False,
            self.version,
            reduction,
            rate_hz=self._rate_hz,
            reduced_to=self._controller.reduced_to,
        )
