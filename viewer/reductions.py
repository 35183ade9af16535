"""How a moving picture is cheaper than the full one: fewer pixels, and less detail.

Both are given up together. What a picture of fewer pixels loses grows with the side of its
pixels, and what one of less detail loses grows with the error that is left out; measured in
mean squared error, on streets, from the air and on captures (docs/benchmarks.md, ``moving``),

    loss = (1 / scale − 1) + error / BALANCE_PX        error in pixels of the full picture

so a picture is balanced where the two are equal, and better off nowhere else for its cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BALANCE_PX = 10.0
FIRST_SCALE = 0.5
# A coarser level of a scene in memory, the same everywhere, loses so many times the full picture's
# pixels over its Gaussians: 1.3 from the air, 12 to 20 on streets, so it is the last resort.
LOSS_OF_DETAIL = 3.0
# Where the pixels cannot be fewer, the error alone grows, by √2 a step, to four times.
STEPS_OF_ERROR = 4
NOISE = 0.2  # of a measured cost, relative
DRIFT = 0.05  # of the true costs from one picture to the next, relative
OUTLIER = 2.0  # times the expected cost; more is a hiccup of the machine's
# A picture that loses so much less must fit the time in so many frames in a row; one that takes
# so many times what it may makes room at once. Steps of the ladder differ by about 8 %.
RAISE_GAIN = 1.05
RAISE_PATIENCE = 3
LOWER_MARGIN = 1.1
NOTHING_GAINED = 1.25
MOST_EXPONENT = 2.5


@dataclass(frozen=True, slots=True)
class Reduction:
    """How a moving picture is cheaper than the full one.

    Attributes:
        scale: Resolution, a share of the full one, per side.
        detail: Level of detail of a scene that is all in memory, 0 the full one.
        error_px: Error that a streamed scene may be drawn with, pixels of this picture.
    """

    scale: float
    detail: int = 0
    error_px: float = 0.0


WHOLE = Reduction(1.0)


def scale_ladder(min_scale: float) -> tuple[float, ...]:
    """Scales from 1 down to ``min_scale``; a step is about 0.94 per side."""
    steps = max(1, math.ceil(-12.0 * math.log2(min_scale)))
    return tuple(min_scale ** (step / steps) for step in range(steps + 1))


def balanced(min_scale: float, least_error_px: float) -> tuple[Reduction, ...]:
    """Pictures of a streamed scene that lose as much by pixels as by detail, finest first.

    Args:
        min_scale: The lowest.
        least_error_px: An error that does not show.
    """
    ladder = [
        Reduction(scale, 0, max(least_error_px, BALANCE_PX * (1.0 - scale)))
        for scale in scale_ladder(min_scale)
    ]
    last = ladder[-1]
    coarser = (last.error_px * 2 ** (step / 2) for step in range(1, STEPS_OF_ERROR + 1))
    return (*ladder, *(Reduction(last.scale, 0, error_px) for error_px in coarser))


class CostModel:
    """Predicts ``cost = a · gaussians + b · pixels + c · √(gaussians · pixels)``.

    The last part is that of the tiles that a Gaussian crosses: their number is
    ``(1 + width / tile)²``, and widths go with the square root of the pixels that a Gaussian
    has for itself. ``gaussians`` is a share of the scene's, ``pixels`` of the full picture's.
    A Kalman filter: what pictures of one kind cannot tell stays as others told it. The first
    picture is taken to be a third of each.
    """

    def __init__(self) -> None:
        self._state = np.zeros(3)
        self._covariance = np.zeros((3, 3))

    def observe(self, gaussians: float, pixels: float, cost_ms: float) -> None:
        """Learn from one picture."""
        features = _features(gaussians, pixels)
        expected_ms = float(features @ self._state)
        if expected_ms == 0:
            expected_ms = cost_ms
            self._state = cost_ms / len(features) / features
            self._covariance = np.diag((2.0 * self._state) ** 2)
        cost_ms = min(cost_ms, OUTLIER * expected_ms)
        self._covariance = self._covariance + np.diag((DRIFT * self._state) ** 2)
        gain = self._covariance @ features
        gain /= features @ gain + (NOISE * max(cost_ms, 1e-3)) ** 2
        self._covariance = self._covariance - np.outer(gain, features @ self._covariance)
        self._state = self._state + gain * (cost_ms - expected_ms)
        self._state = np.maximum(self._state, 0.01 * cost_ms)

    def grow(self, times: float) -> None:
        """The scene has so many times as many Gaussians; each costs what it did."""
        factors = _features(times, 1.0)
        self._state = self._state * factors
        self._covariance = self._covariance * np.outer(factors, factors)

    def predict_ms(self, gaussians: float, pixels: float) -> float:
        """Expected cost; 0 before the first observation."""
        return float(self._state @ _features(gaussians, pixels))


def _features(gaussians: float, pixels: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([gaussians, pixels, math.sqrt(gaussians * pixels)])


class DetailLaw:
    """Gaussians that a view of a streamed scene takes, by the error allowed.

    ``wanted ∝ error^−exponent``: how steep that is depends on the scene and the view (0.4 to
    1.7 were measured), and is learned whenever another error is asked for.
    """

    def __init__(self) -> None:
        self._exponent = 1.0
        self._error_px = 1.0
        self._wanted = 1.0

    def observe(self, error_px: float, wanted: int) -> None:
        """A picture with this error, in pixels of the full picture, wanted so many."""
        now, apart = max(wanted, 1.0), math.log(self._error_px / error_px)
        if self._wanted > 1.0 and abs(apart) > 0.05:
            exponent = min(max(math.log(now / self._wanted) / apart, 0.0), MOST_EXPONENT)
            self._exponent += 0.5 * (exponent - self._exponent)
        self._error_px, self._wanted = error_px, now

    def wanted(self, error_px: float) -> float:
        """How many it will take with this error."""
        return self._wanted * float((self._error_px / error_px) ** self._exponent)


class ReductionController:
    """Chooses how to draw moving pictures so that they hold the time allowed.

    Of all that fit, the one that loses least; where none fits, lowering them further would cost
    quality for nothing, so the best of those that are nearly as quick as the quickest. Changes
    wait for evidence, so that sizes do not flicker.

    Args:
        min_scale: Lowest resolution, a share of the full one, per side.
        counts: Gaussians by level of detail, finest first.
        least_error_px: Error of a streamed scene that does not show.
        first_scale: To begin with, before anything was measured.
    """

    def __init__(
        self,
        min_scale: float,
        counts: tuple[int, ...] = (1,),
        least_error_px: float = 1.0,
        first_scale: float = FIRST_SCALE,
    ) -> None:
        self._balanced = balanced(min_scale, least_error_px)
        self._scales = scale_ladder(min_scale)
        self._counts = counts
        self._all = max(1, counts[0])
        self._model = CostModel()
        self._law: DetailLaw | None = None  # of a streamed scene
        self._fading = 1.0  # Gaussians drawn over those wanted: some fade out
        self._patience = 0
        self.current = min(self._balanced, key=lambda way: abs(way.scale - first_scale))

    def set_counts(self, counts: tuple[int, ...]) -> None:
        """Gaussians by level of detail, finest first."""
        before, self._counts, self._all = self._all, counts, max(1, counts[0])
        if self._all != before:  # another form of the scene
            self._model.grow(self._all / before)
        if self.current.detail >= len(counts):
            self.current = Reduction(self.current.scale, len(counts) - 1, self.current.error_px)

    @property
    def reduced_to(self) -> float:
        """Of the time for a moving picture of full quality, the share that the current way takes;
        1 before the first observation."""
        whole_ms = self.predict_ms(self._options()[0])
        return min(1.0, self.predict_ms(self.current) / whole_ms) if whole_ms > 0 else 1.0

    def predict_ms(self, reduction: Reduction) -> float:
        """Expected cost of a picture so reduced; 0 before the first observation."""
        return self._model.predict_ms(self._share(reduction), reduction.scale**2)

    def observe(
        self,
        reduction: Reduction,
        cost_ms: float,
        drawn: int | None = None,
        wanted: int | None = None,
    ) -> None:
        """Learn from a picture, moving or still.

        Args:
            reduction: How it was reduced.
            cost_ms: What it cost.
            drawn: Gaussians in it, of a streamed scene.
            wanted: Gaussians that it would have with everything there and nothing fading.
        """
        if drawn is None or wanted is None:
            self._law = None
            share = self._share(reduction)
        else:
            share = max(drawn, 1) / self._all
            error_px = reduction.error_px / reduction.scale
            if self._law is None:  # a scene in memory until now: its pictures had all detail
                self._law, error_px = DetailLaw(), max(error_px, self._balanced[0].error_px)
            if error_px > 0:
                self._law.observe(error_px, wanted)
                fading = min(max(drawn / max(wanted, 1), 1.0), 2.0)
                self._fading += 0.1 * (fading - self._fading)
        self._model.observe(share, reduction.scale**2, cost_ms)

    def choose(self, budget_ms: float, full_pixels: int) -> Reduction:
        """How to draw the next moving picture, ``budget_ms`` after the last one."""
        cost_ms = self.predict_ms(self.current)
        if cost_ms > LOWER_MARGIN * budget_ms:
            self._patience = 0
            self.current = self._best(budget_ms, full_pixels)
            return self.current
        # What costs no more than now may be better balanced, even if there is no time to gain.
        better = self._best(max(budget_ms, cost_ms), full_pixels)
        gains = RAISE_GAIN * self.loss(better, full_pixels) < self.loss(self.current, full_pixels)
        self._patience = self._patience + 1 if gains else 0
        if self._patience >= RAISE_PATIENCE:
            self._patience = 0
            self.current = better
        return self.current

    def loss(self, reduction: Reduction, full_pixels: int) -> float:
        """What a picture lacks, by its pixels and by what they show; 0 for the full one."""
        by_pixels = 1.0 / reduction.scale - 1.0
        if self._law is not None:
            return by_pixels + reduction.error_px / (reduction.scale * BALANCE_PX)
        if reduction.detail == 0:
            return by_pixels
        return by_pixels + LOSS_OF_DETAIL * full_pixels / self._count(reduction)

    def _best(self, budget_ms: float, full_pixels: int) -> Reduction:
        cost_ms = {option: self.predict_ms(option) for option in self._options()}
        allowed_ms = max(budget_ms, NOTHING_GAINED * min(cost_ms.values()))
        fitting = [option for option, cost in cost_ms.items() if cost <= allowed_ms]
        return min(fitting, key=lambda option: self.loss(option, full_pixels))

    def _options(self) -> tuple[Reduction, ...]:
        if self._law is not None:
            return self._balanced
        details = range(len(self._counts))
        return tuple(Reduction(scale, detail) for detail in details for scale in self._scales)

    def _share(self, reduction: Reduction) -> float:
        """Of the scene's Gaussians, those that a picture has."""
        if self._law is None or reduction.error_px == 0:
            return self._count(reduction) / self._all
        wanted = self._fading * self._law.wanted(reduction.error_px / reduction.scale)
        return min(wanted / self._all, 1.0)

    def _count(self, reduction: Reduction) -> int:
        return max(1, self._counts[min(reduction.detail, len(self._counts) - 1)])
