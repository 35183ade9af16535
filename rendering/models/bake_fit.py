"""Rounds of a bake: Gaussians are fitted to pictures, dropped where they show nothing, and split
where they show wrong things.

A round shows every picture once, in a random order. After a round of the first part the Gaussians
to whose pixels most of the squared error falls are split along their longest axis, which leaves
the picture nearly as it was (the two have the mass and the variance of the one), until there are
as many as are wanted; what was never seen, or is all but transparent, goes. The rates fall to a
tenth in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rendering.models.bake_surfels import Picture
from rendering.native.fitting import (
    LOG_SCALE,
    LOGIT,
    MEAN,
    QUAT,
    Comparison,
    FittedGaussians,
    Float32Array,
    Rates,
)

RATES = Rates(mean=0.05, quat=0.024, scale=0.12, opacity=0.2, color=0.05, harmonics=0.004)
LAST_RATES = 0.1  # of the first ones
GROWING_SHARE = 0.6  # of the rounds, after which none are split
DEGREES_GROWN = 6.0  # over the rounds: harmonics begin to count one degree after the other
SPLIT_SHARE = 0.3  # of the Gaussians, in one round at most
LEAST_LOGIT = math.log(0.008 / 0.992)
# A split: where the two are and how long, in standard deviations of the one along its axis, and
# how much fainter; they keep its mass and its variance, for SPLIT_AT² + SPLIT_SCALE² = 1.
SPLIT_AT = 0.75
SPLIT_SCALE = math.sqrt(1 - SPLIT_AT**2)
SPLIT_OPACITY = 0.5 / SPLIT_SCALE
PLAIN = Comparison(robust=0.1)
# Of what is nearly right already, and would be led astray by what few pictures do not show.
GENTLE_RATES = RATES.times(0.1)
PATIENCE = 3  # rounds without a gain
LEAST_GAIN_DB = 0.02


@dataclass(frozen=True, slots=True)
class Round:
    """What one came to.

    Attributes:
        number: From 1.
        count: Gaussians after it.
        psnr_db: Of the pictures that are checked.
    """

    number: int
    count: int
    psnr_db: float


def fit_rounds(
    fitted: FittedGaussians,
    pictures: Sequence[Picture],
    *,
    most: int,
    rounds: int,
    seed: int,
    gently: bool = False,
    check: Callable[[FittedGaussians], float],
    on_picture: Callable[[int], None],
    comparison: Comparison = PLAIN,
) -> Iterator[Round]:
    """Fit, a round at a time; it may be left after any.

    Ends by itself when ``PATIENCE`` rounds brought next to nothing.

    Args:
        fitted: The Gaussians, changed in place.
        pictures: To fit to.
        most: Gaussians there may be.
        rounds: How many.
        seed: Of the order of pictures.
        gently: Whether they are nearly right already: then they are moved but a little, and all
            their harmonics count at once.
        check: PSNR of pictures that are not fitted to.
        on_picture: Hears how many pictures were shown in all.
    """
    rng = np.random.default_rng(seed)
    growing = max(1, round(GROWING_SHARE * rounds))
    best, best_at = -math.inf, 0
    first = GENTLE_RATES if gently else RATES
    for number in range(1, rounds + 1):
        fitted.forget()
        degree = None if gently else int(number * DEGREES_GROWN / rounds)
        for place, index in enumerate(rng.permutation(len(pictures))):
            done = (number - 1) * len(pictures) + place
            rates = first.times(LAST_RATES ** (done / (rounds * len(pictures))))
            picture = pictures[int(index)]
            fitted.step(picture.camera, picture.pixels, comparison, rates, degree)
            on_picture(done + 1)
        if number < rounds:
            room = most - len(fitted) if number <= growing else 0
            redistribute(fitted, room, growing - number + 1)
        psnr_db = check(fitted)
        yield Round(number, len(fitted), psnr_db)
        if psnr_db > best + LEAST_GAIN_DB:
            best, best_at = psnr_db, number
        elif number - best_at >= PATIENCE:
            return


def redistribute(fitted: FittedGaussians, room: int, rounds_left: int) -> None:
    """Drop what shows nothing, and split what shows most of the error.

    Args:
        fitted: After a round.
        room: More Gaussians that there may be.
        rounds_left: To fill it in.
    """
    keep = (fitted.weight > 0) & (fitted.rows[:, LOGIT] > LEAST_LOGIT)
    wanted = (room + int((~keep).sum())) // max(rounds_left, 1) if room > 0 else 0
    count = min(wanted, int(SPLIT_SHARE * len(fitted)))
    score = np.where(keep, fitted.error, -1.0)
    chosen = np.sort(np.argsort(-score, kind="stable")[:count])
    chosen = chosen[score[chosen] > 0]
    halves = split(fitted.rows[chosen])
    keep[chosen] = False
    fitted.replace(keep, halves)


def split(rows: Float32Array) -> Float32Array:
    """[2 N, …] rows: each as two along its longest axis, of the same mass and variance."""
    axis = np.argmax(rows[:, LOG_SCALE], axis=1)
    places = np.arange(len(rows))
    direction = _axes(rows[:, QUAT])[places, :, axis]
    reach = SPLIT_AT * np.exp(rows[places, 7 + axis])[:, None] * direction
    out = np.repeat(rows[None], 2, axis=0)
    out[0, :, MEAN] += reach
    out[1, :, MEAN] -= reach
    out[:, places, 7 + axis] += np.float32(math.log(SPLIT_SCALE))
    opacity = np.clip(SPLIT_OPACITY / (1 + np.exp(-rows[:, LOGIT])), 0.01, 0.98)
    out[:, :, LOGIT] = np.log(opacity / (1 - opacity))
    return out.reshape(-1, rows.shape[1])


def _axes(quats: Float32Array) -> NDArray[np.float32]:
    """[N, 3, 3] rotations; the Gaussian's axes are the columns."""
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=1)
