"""When to draw, how large, and when to stop: the interactive policy, free of threads.

Every method takes the time it happens at, so tests need no clock. One ``Pacer`` serves one
browser:

- While the camera moves, pictures are as large and as detailed as the time between two of
  them allows.
- A rest after the last motion, one picture is drawn in full resolution and quality; a new
  motion interrupts it.
- Of a streamed scene that picture may be incomplete: it is drawn again when something came,
  and while chunks fade in, but not often.
- Then nothing is drawn until something changes.

Drawing the next picture overlaps with the transport of the last one, but starts no earlier
than needed to be ready when that one is acknowledged: on a slow link pictures get rarer,
not older.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SIZE_STEP_PX = 16
FIRST_SCALE = 0.5
SMOOTHING = 0.3  # weight of the newest measurement of the transport
NOISE = 0.15  # of a measured cost, relative
DRIFT = 0.1  # of the true costs from one picture to the next, relative
RAISE_MARGIN = 0.8  # a better picture must fit this share of the time allowed …
RAISE_PATIENCE = 3  # … in this many frames in a row …
RAISE_GAIN = 1.05  # … and be so much sharper
LOWER_MARGIN = 1.25
NOTHING_GAINED = 1.25
# A resting picture of a streamed scene is drawn again after this time if something came, and
# after that one if nothing did: room may have been made for what it lacks.
REPEAT_S = 0.1
STALLED_S = 2.0
# A picture with fewer than this share of the Gaussians it may have needs no more.
SATURATED = 0.9
# Pixels that a Gaussian gives detail to, about; many are behind others. Found by rendering
# (docs/benchmarks.md, `moving`): half the resolution costs as much PSNR as a limit of Gaussians
# that is about the number of pixels left.
DETAILS_PER_GAUSSIAN = 1.0


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
class Reduction:
    """How a moving picture is cheaper than the full one.

    Attributes:
        scale: Resolution, a share of the full one, per side.
        detail: Level of detail, 0 the full one.
    """

    scale: float
    detail: int


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
    """

    width: int
    height: int
    jpeg_quality: int
    still: bool
    version: int
    reduction: Reduction
    repeated: bool = False


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


class CostModel:
    """Predicts ``cost = per_gaussian · share + per_pixel · area`` from what pictures cost.

    ``share`` is that of the scene's Gaussians and ``area`` that of the full picture's pixels.
    A Kalman filter: what one kind of picture cannot tell (all of the same share and area)
    stays as other pictures told it. The first picture is taken to be half of each.
    """

    def __init__(self) -> None:
        self._state = np.zeros(2)  # per_gaussian, per_pixel
        self._covariance = np.zeros((2, 2))

    def observe(self, share: float, area: float, cost_ms: float) -> None:
        """Learn from one picture."""
        features = np.array([share, area])
        if not self._state.any():
            self._state = 0.5 * cost_ms / features
            self._covariance = np.diag((2.0 * self._state) ** 2)
        self._covariance = self._covariance + np.diag((DRIFT * self._state) ** 2)
        noise = (NOISE * max(cost_ms, 1e-3)) ** 2
        gain = self._covariance @ features
        gain /= features @ gain + noise
        self._state = self._state + gain * (cost_ms - features @ self._state)
        self._state = np.maximum(self._state, 0.01 * cost_ms)
        self._covariance = self._covariance - np.outer(gain, features @ self._covariance)

    def predict_ms(self, share: float, area: float) -> float:
        """Expected cost; 0 before the first observation."""
        return float(self._state @ (share, area))


class ReductionController:
    """Chooses how to draw moving pictures so that they hold the time allowed.

    Of all combinations of resolution and detail that fit, the one that looks best; where
    none fits, lowering either further would cost quality for nothing, so the best of those
    that are nearly as quick as the quickest. Changes wait for evidence, so that sizes do not
    flicker.
    """

    def __init__(self, min_scale: float, counts: tuple[int, ...] = (1,)) -> None:
        self._ladder = scale_ladder(min_scale)
        self._counts = counts
        self._model = CostModel()
        self._patience = 0
        self._needed = math.inf
        first = min(self._ladder, key=lambda scale: abs(scale - FIRST_SCALE))
        self.current = Reduction(first, 0)

    def set_counts(self, counts: tuple[int, ...]) -> None:
        """Gaussians by level of detail, finest first."""
        self._counts = counts
        if self.current.detail >= len(counts):
            self.current = Reduction(self.current.scale, len(counts) - 1)

    def predict_ms(self, reduction: Reduction) -> float:
        """Expected cost of a picture so reduced; 0 before the first observation."""
        return self._model.predict_ms(self._share(reduction), reduction.scale**2)

    def observe(
        self,
        reduction: Reduction,
        cost_ms: float,
        gaussians: int | None = None,
        still: bool = False,
    ) -> None:
        """Learn from a picture, moving or still.

        Args:
            reduction: How it was reduced.
            cost_ms: What it cost.
            gaussians: Drawn, where that is up to the view: of a streamed scene. Such a moving
                picture may need fewer than it may have.
            still: Whether it was drawn with all detail, needed or not.
        """
        if gaussians is None:
            self._needed = math.inf
            share = self._share(reduction)
        else:
            share = max(gaussians, 1) / max(self._counts[0], 1)
            if not still:
                enough = gaussians < SATURATED * self._allowed(reduction)
                self._needed = max(1.0, gaussians) if enough else math.inf
        self._model.observe(share, reduction.scale**2, cost_ms)

    def choose(self, budget_ms: float, full_pixels: int) -> Reduction:
        """How to draw the next moving picture, ``budget_ms`` after the last one."""
        cost_ms = self.predict_ms(self.current)
        if cost_ms > LOWER_MARGIN * budget_ms:
            self._patience = 0
            self.current = self._best(budget_ms, full_pixels)
            return self.current
        # What costs no more than now may be better balanced, even if there is no time to gain.
        better = self._best(max(RAISE_MARGIN * budget_ms, cost_ms), full_pixels)
        gain = self.sharpness(better, full_pixels) / self.sharpness(self.current, full_pixels)
        self._patience = self._patience + 1 if gain > RAISE_GAIN else 0
        if self._patience >= RAISE_PATIENCE:
            self._patience = 0
            self.current = better
        return self.current

    def sharpness(self, reduction: Reduction, full_pixels: int) -> float:
        """Details that a picture can show: bounded by its pixels and by what they show."""
        pixels = full_pixels * reduction.scale**2
        gaussians = self._allowed(reduction)
        if gaussians >= self._needed:  # its pixels are all that limits it
            return pixels
        return 1.0 / (1.0 / pixels + 1.0 / (DETAILS_PER_GAUSSIAN * gaussians))

    def _best(self, budget_ms: float, full_pixels: int) -> Reduction:
        options = [
            Reduction(scale, detail)
            for detail in range(len(self._counts))
            for scale in self._ladder
        ]
        cost_ms = {option: self.predict_ms(option) for option in options}
        allowed_ms = max(budget_ms, NOTHING_GAINED * min(cost_ms.values()))
        fitting = [option for option in options if cost_ms[option] <= allowed_ms]
        return max(fitting, key=lambda option: self.sharpness(option, full_pixels))

    def _share(self, reduction: Reduction) -> float:
        return min(self._needed, self._allowed(reduction)) / max(self._counts[0], 1)

    def _allowed(self, reduction: Reduction) -> int:
        """Gaussians that a picture may have."""
        return max(1, self._counts[min(reduction.detail, len(self._counts) - 1)])


class Pacer:
    """Decides for one browser what to draw next. See the module's docstring."""

    def __init__(self, policy: PacingPolicy) -> None:
        self.policy = policy
        self.max_scale = 1.0
        self.version = 0
        self._controller = ReductionController(policy.min_scale)
        self._canvas = (0, 0)
        self._changed_s = -math.inf
        self._started: FramePlan | None = None
        self._started_s = -math.inf
        self._sent_s: float | None = None
        self._transit_s = 0.0
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
        if self._fading or self._replaced or (self._incomplete and self._arrived):
            return self._after(now_s, self._started_s + REPEAT_S, still=True)
        if self._incomplete:
            return self._after(now_s, self._started_s + STALLED_S, still=True)
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

    def streamed(self, *, complete: bool, fading: bool) -> None:
        """What was started shows a streamed scene: all that is wanted, or not; for good, or not."""
        self._incomplete, self._fading = not complete, fading

    def arrived(self) -> None:
        """More of a streamed scene can be drawn than a moment ago."""
        self._arrived = True

    def replaced(self) -> None:
        """The scene has another form: a picture at rest is drawn again, and stays sharp."""
        self._replaced = True

    def drawn(
        self, plan: FramePlan, cost_ms: float, sharers: int = 1, gaussians: int | None = None
    ) -> None:
        """``plan`` was drawn.

        Args:
            plan: The picture.
            cost_ms: What it cost.
            sharers: Browsers in motion that share the engine's time.
            gaussians: Drawn, of a streamed scene.
        """
        self._controller.observe(plan.reduction, cost_ms, gaussians, plan.still)
        if not plan.still:
            budget_ms = 1e3 * self.policy.interval_s / max(1, sharers)
            width, height = self._full()
            self._controller.choose(budget_ms, width * height)

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
            cost_s = 1e-3 * self._controller.predict_ms(self._controller.current)
            earliest_s = max(earliest_s, self._sent_s + self._transit_s - cost_s)
        return earliest_s

    def _after(self, now_s: float, start_s: float, *, still: bool) -> FramePlan | float:
        if now_s < start_s:
            return start_s - now_s
        full = self._full()
        if still:
            whole = Reduction(1.0, 0)
            before = self._started
            repeated = before is not None and before.still and before.version == self.version
            quality = self.policy.still_quality
            return FramePlan(*full, quality, True, self.version, whole, repeated)
        reduction = self._controller.current
        size = moving_size(full, reduction.scale)
        return FramePlan(*size, self.policy.moving_quality, False, self.version, reduction)
