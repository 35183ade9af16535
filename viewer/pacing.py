"""When to draw, how large, and when to stop: the interactive policy, free of threads.

Every method takes the time it happens at, so tests need no clock. One ``Pacer`` serves one
browser:

- While the camera moves, pictures are as large as the time between two of them allows.
- A rest after the last motion, one picture is drawn in full resolution and quality; a new
  motion interrupts it.
- Then nothing is drawn until something changes.

Drawing the next picture overlaps with the transport of the last one, but starts no earlier
than needed to be ready when that one is acknowledged: on a slow link pictures get rarer,
not older.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SIZE_STEP_PX = 16
FIRST_SCALE = 0.5
SMOOTHING = 0.3  # weight of the newest measurement
RAISE_MARGIN = 0.8  # a larger size must fit this share of the time allowed …
RAISE_PATIENCE = 3  # … in this many frames in a row, so that sizes do not flicker
LOWER_MARGIN = 1.15
PIXEL_SHARE_FLOOR = 0.6


@dataclass(frozen=True, slots=True)
class PacingPolicy:
    """The bounds of what the pacer chooses.

    Attributes:
        target_fps: Pictures a second to hold while moving, and never to exceed.
        min_scale: Lowest resolution while moving, a share of the full one, per side.
        max_side: Longest side of any picture, pixels.
        moving_quality, still_quality: JPEG quality, 1 to 100.
        refine_delay_s: Rest before the full picture.
    """

    target_fps: float = 30.0
    min_scale: float = 0.25
    max_side: int = 1920
    moving_quality: int = 40
    still_quality: int = 90
    refine_delay_s: float = 0.15

    @property
    def interval_s(self) -> float:
        """Time between two pictures of a moving camera."""
        return 1.0 / self.target_fps


@dataclass(frozen=True, slots=True)
class FramePlan:
    """One picture to draw.

    Attributes:
        width, height: Pixels.
        jpeg_quality: 1 to 100.
        still: The full picture of a resting camera; motion interrupts it.
        version: The view that it shows, as counted by ``Pacer.change``.
    """

    width: int
    height: int
    jpeg_quality: int
    still: bool
    version: int


@dataclass(frozen=True, slots=True)
class FrameCost:
    """What a picture cost.

    Attributes:
        fixed_ms: Work that does not shrink with the resolution (projection, sorting).
        pixel_ms: Work that does (binning, compositing, encoding).
    """

    fixed_ms: float
    pixel_ms: float


def full_size(canvas: tuple[int, int], max_side: int, scale: float = 1.0) -> tuple[int, int]:
    """(width, height) of a full picture for a canvas, both at least one pixel."""
    shrink = min(1.0, scale, max_side / max(*canvas, 1))
    return max(1, round(canvas[0] * shrink)), max(1, round(canvas[1] * shrink))


def moving_size(full: tuple[int, int], scale: float) -> tuple[int, int]:
    """``full`` scaled and rounded to multiples of 16 pixels, never above ``full``."""

    def side(pixels: int) -> int:
        return min(pixels, max(SIZE_STEP_PX, SIZE_STEP_PX * round(pixels * scale / SIZE_STEP_PX)))

    return full if scale >= 1.0 else (side(full[0]), side(full[1]))


def scale_ladder(min_scale: float) -> tuple[float, ...]:
    """Scales from 1 down to ``min_scale``; a step is about 0.84 per side."""
    steps = max(1, math.ceil(-4.0 * math.log2(min_scale)))
    return tuple(min_scale ** (step / steps) for step in range(steps + 1))


class ScaleController:
    """Chooses the scale of moving pictures from what earlier ones cost.

    Costs are split into a part that pixels cause and one that they do not; a scale is
    judged by its predicted cost. Where the fixed part alone takes more than the time
    allowed, lowering the resolution would blur the picture for nothing, so pixels are
    always granted ``PIXEL_SHARE_FLOOR`` of the fixed part.
    """

    def __init__(self, min_scale: float, first_scale: float = FIRST_SCALE) -> None:
        self._ladder = scale_ladder(min_scale)
        self._rung = min(
            range(len(self._ladder)), key=lambda rung: abs(self._ladder[rung] - first_scale)
        )
        self._fixed_ms = 0.0
        self._ms_per_pixel = 0.0
        self._measured = False
        self._could_raise = 0

    @property
    def scale(self) -> float:
        """The scale to draw the next moving picture at, per side."""
        return self._ladder[self._rung]

    def predict_ms(self, pixels: float) -> float:
        """Expected cost of a picture of ``pixels``; 0 before the first measurement."""
        return self._fixed_ms + self._ms_per_pixel * pixels

    def observe(self, pixels: int, cost: FrameCost, full_pixels: int, budget_ms: float) -> None:
        """Learn from a moving picture and choose the scale of the next one."""
        weight = SMOOTHING if self._measured else 1.0
        self._fixed_ms += weight * (cost.fixed_ms - self._fixed_ms)
        self._ms_per_pixel += weight * (cost.pixel_ms / max(pixels, 1) - self._ms_per_pixel)
        self._measured = True
        allowed_ms = max(budget_ms - self._fixed_ms, PIXEL_SHARE_FLOOR * self._fixed_ms)
        self._choose(full_pixels, allowed_ms)

    def _pixel_ms(self, rung: int, full_pixels: int) -> float:
        return self._ms_per_pixel * full_pixels * self._ladder[rung] ** 2

    def _choose(self, full_pixels: int, allowed_ms: float) -> None:
        lowest = len(self._ladder) - 1
        if self._pixel_ms(self._rung, full_pixels) > LOWER_MARGIN * allowed_ms:
            while self._rung < lowest and self._pixel_ms(self._rung, full_pixels) > allowed_ms:
                self._rung += 1
            self._could_raise = 0
        elif (
            self._rung > 0
            and self._pixel_ms(self._rung - 1, full_pixels) < RAISE_MARGIN * allowed_ms
        ):
            self._could_raise += 1
            if self._could_raise >= RAISE_PATIENCE:
                self._rung -= 1
                self._could_raise = 0
        else:
            self._could_raise = 0


class Pacer:
    """Decides for one browser what to draw next. See the module's docstring."""

    def __init__(self, policy: PacingPolicy) -> None:
        self.policy = policy
        self.max_scale = 1.0
        self.version = 0
        self._controller = ScaleController(policy.min_scale)
        self._canvas = (0, 0)
        self._changed_s = -math.inf
        self._started: FramePlan | None = None
        self._started_s = -math.inf
        self._sent_s: float | None = None
        self._transit_s = 0.0

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
        return None

    def start(self, plan: FramePlan, now_s: float) -> None:
        """``plan`` was handed to the engine."""
        self._started = plan
        self._started_s = now_s

    def abandon(self) -> None:
        """The picture that was started will not come; draw its view again."""
        self._started = None

    def drawn(self, plan: FramePlan, cost: FrameCost, sharers: int = 1) -> None:
        """``plan`` was drawn; ``sharers`` browsers in motion share the engine's time."""
        if plan.still:
            return
        full = self._full()
        budget_ms = 1e3 * self.policy.interval_s / max(1, sharers)
        self._controller.observe(plan.width * plan.height, cost, full[0] * full[1], budget_ms)

    def sent(self, now_s: float) -> None:
        """A picture went out."""
        self._sent_s = now_s

    def acknowledged(self, now_s: float) -> None:
        """The browser has the picture, or will never say."""
        if self._sent_s is not None:
            self._transit_s += SMOOTHING * (now_s - self._sent_s - self._transit_s)
            self._sent_s = None

    def _full(self) -> tuple[int, int]:
        return full_size(self._canvas, self.policy.max_side, self.max_scale)

    def _earliest_start_s(self) -> float:
        """Not faster than the target, and not so early that the picture would have to wait."""
        earliest_s = self._started_s + self.policy.interval_s
        if self._sent_s is not None:
            width, height = moving_size(self._full(), self._controller.scale)
            cost_s = 1e-3 * self._controller.predict_ms(width * height)
            earliest_s = max(earliest_s, self._sent_s + self._transit_s - cost_s)
        return earliest_s

    def _after(self, now_s: float, start_s: float, *, still: bool) -> FramePlan | float:
        if now_s < start_s:
            return start_s - now_s
        full = self._full()
        size = full if still else moving_size(full, self._controller.scale)
        quality = self.policy.still_quality if still else self.policy.moving_quality
        return FramePlan(*size, quality, still, self.version)
