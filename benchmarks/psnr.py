"""How much two pictures differ."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def psnr_db(picture: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """PSNR of two pictures in [0, 1], clipped to it; 200 of equal ones."""
    difference = np.clip(picture, 0.0, 1.0) - np.clip(truth, 0.0, 1.0)
    return -10.0 * math.log10(max(float(np.square(difference, dtype=np.float64).mean()), 1e-20))
