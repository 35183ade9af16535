"""Where to cut a picture so that its parts take equally long. Pure.

Parts of equal size do not take equally long: a band of sky is drawn sooner than one of a street,
near Gaussians cover more pixels than far ones, and every part repeats something. So the cost along
the direction of cutting is learnt from the frames before, as load balancers of parallel renderers
do (Eilemann et al. 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splat.camera import Float64Array

BINS = 64  # of the costs, equally wide
DAMPING = 0.5  # of what is learnt from one frame: times of frames are noisy
MOST_CHANGE = 4.0  # of a cost by one frame

Span = tuple[float, float]
"""What a part is of the whole, from and to, in [0, 1]: of its rows, or its Gaussians by depth."""


@dataclass(frozen=True, slots=True, eq=False)
class PartCosts:
    """What drawing takes, along the direction of cutting.

    Attributes:
        bins: [BINS] float64, costs of equal shares of the whole, adding up to 1.
    """

    bins: Float64Array

    @classmethod
    def even(cls) -> PartCosts:
        """All of it costs the same, for all that is known."""
        return cls(np.full(BINS, 1.0 / BINS))

    def cuts(self, shares: Sequence[float]) -> list[float]:
        """Where to cut so that parts have such shares of the cost: shares of the whole.

        Args:
            shares: Ends of the parts but the last, ascending, in [0, 1].
        """
        ends = np.concatenate([[0.0], np.cumsum(self.bins)])
        cuts: list[float] = np.interp(shares, ends, np.linspace(0.0, 1.0, BINS + 1)).tolist()
        return cuts

    def after(self, spans: Sequence[Span], times: Sequence[float]) -> PartCosts:
        """What is known after a frame.

        Args:
            spans: All of the picture's, none empty.
            times: What each took, or would have taken on one and the same device.
        """
        total = sum(times)
        if not total > 0:
            return self
        edges = np.linspace(0.0, 1.0, BINS + 1)
        factors = np.zeros(BINS)
        for (low, high), time in zip(spans, times, strict=True):
            inside = np.clip((np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)), 0, None)
            expected = float(inside @ self.bins) * BINS
            ratio = time / total / expected if expected > 0 else 1.0
            ratio = min(MOST_CHANGE, max(1.0 / MOST_CHANGE, ratio))
            factors += inside * BINS * ratio**DAMPING
        bins = self.bins * factors
        return PartCosts(bins / bins.sum())
